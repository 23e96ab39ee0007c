"""The exports of six platforms, by their documented layouts, up to a gradebook that each takes."""

import csv
import io
import zipfile
from typing import NamedTuple

import pytest
from grading_help import graded, grader

from cases import CASES
from instructor.grading import course
from instructor.grading.collect import collect
from instructor.grading.corrections import read_corrections
from instructor.grading.submission import GraderError
from instructor.proof.attacks import TEMPLATE

SOURCE = TEMPLATE.encode()
# Another file, which has exercise 2a: 10 points.
BOS = f"""{TEMPLATE}

def shaped_reward_exponential(completions, temperature=1.0, **kwargs):
    scores = get_sentiment_scores(completions)
    return [math.exp(score / temperature) - 1 for score in scores]
""".encode()


class Platform(NamedTuple):
    """An export of two students, and the third of the roster, who has handed nothing in."""

    files: tuple  # of the export; of those named rewards.py the first is Ann's, the second Bo's
    roster: str
    points: tuple  # the cells of the column for the points, once the roster is filled in
    returned: dict = {}  # {name in feedback.zip: its title, and the points in it}


PLATFORMS = {
    "gradescope": Platform(
        (
            "assignment_7_export/submission_101/rewards.py",
            "assignment_7_export/submission_102/rewards.py",
        ),
        "First Name,Last Name,SID,Email,GRPO\n"
        "Ann,Lee,901,ann@x.edu,\nBo,Kim,902,bo@x.edu,\nEve,Fox,903,eve@x.edu,-\n",
        ("7", "9", "-"),
    ),
    "canvas": Platform(
        (
            "leeann_4242_98761_rewards.py",
            "leeann_4242_text.html",
            "kimbo_LATE_4243_98765_rewards-1.py",
        ),
        "Student,ID,SIS User ID,SIS Login ID,Section,GRPO (4711)\n"
        "    Points Possible,,,,,100\n"
        '"Lee, Ann",4242,s1,alee,S1,\n"Kim, Bo",4243,s2,bkim,S1,\n"Fox, Eve",4244,s3,efox,S1,3\n',
        ("100", "7", "9", "3"),
        {
            "kimbo_LATE_4243_98765_rewards-1.py": ("kimbo", "9"),
            "leeann_4242_98761_rewards.py": ("leeann", "7"),
        },
    ),
    "moodle": Platform(
        (
            "Ann Lee_1001_assignsubmission_file/rewards.py",
            "Ann Lee_1001_assignsubmission_onlinetext/onlinetext.html",
            "Bo Kim_1002_assignsubmission_file_/rewards.py",
            "Bo Kim_1002_assignsubmission_onlinetext_/onlinetext.html",
        ),
        "Identifier,Full name,Email address,Status,Grade,Maximum grade,Feedback comments\n"
        "Participant 1001,Ann Lee,a@x.edu,Submitted,-,100,\n"
        "Participant 1002,Bo Kim,b@x.edu,Submitted,-,100,\n"
        "Participant 1003,Eve Fox,e@x.edu,No submission,-,100,\n",
        ("7", "9", "-"),
        {
            "Ann Lee_1001_assignsubmission_file/feedback.md": ("Ann Lee", "7"),
            "Bo Kim_1002_assignsubmission_file_/feedback.md": ("Bo Kim", "9"),
        },
    ),
    "moodle, blind, in German, from Excel": Platform(
        (
            "Teilnehmerin_1001_assignsubmission_file_/rewards.py",
            "Teilnehmerin_1002_assignsubmission_file_rewards.py",
        ),
        "ID;Status;Bewertung;Bestwertung;Feedback als Kommentar\n"
        "Teilnehmer/in1001;Abgegeben;-;100,00;\nTeilnehmer/in1002;Abgegeben;-;100,00;\n"
        "Teilnehmer/in1003;Keine Abgabe;-;100,00;\n",
        ("7", "9", "-"),
        {
            "Teilnehmerin_1001_assignsubmission_file_/feedback.md": ("Teilnehmerin 1001", "7"),
            "Teilnehmerin_1002_assignsubmission_file_feedback.md": ("Teilnehmerin 1002", "9"),
        },
    ),
    "blackboard": Platform(
        (
            "GRPO_a_lee_attempt_2026-11-01-10-00-00.txt",
            "GRPO_a_lee_attempt_2026-11-01-10-00-00_rewards.py",
            "GRPO_a_lee_attempt_2026-11-01-10-00-00_answers.md",
            "GRPO_bkim_attempt_2026-11-01-11-00-00.txt",
            "GRPO_bkim_attempt_2026-11-01-11-00-00_notes.py",
            "GRPO_bkim_attempt_2026-11-02-09-00-00.txt",
            "GRPO_bkim_attempt_2026-11-02-09-00-00_rewards.py",
        ),
        "Last Name\tFirst Name\tUsername\tStudent ID\tGRPO [Total Pts: 100 Score] |47110\n"
        "Lee\tAnn\ta_lee\t901\t\nKim\tBo\tbkim\t902\t\nFox\tEve\tlee\t903\t\n",
        ("7", "9", ""),
    ),
    "brightspace": Platform(
        (
            "index.html",
            "397063-2557369 - Ann Lee - Nov 1, 2026 1000 AM/rewards.py",
            "397063-2557369 - Bo-Yi Kim - Nov 1, 2026 1159 AM/notes.py",
            "397063-2557369 - Bo-Yi Kim - Nov 1, 2026 104 PM/rewards.py",
        ),
        "OrgDefinedId,Username,Last Name,First Name,"
        "GRPO Points Grade <Numeric MaxPoints:100>,End-of-Line Indicator\n"
        "#901,#alee,Lee,Ann,,#\n#902,#bkim,Kim,Bo-Yi,,#\n#903,#efox,Fox,Eve,,#\n",
        ("7", "9", ""),
        {
            "397063-2557369 - Ann Lee - Nov 1, 2026 1000 AM/feedback.md": ("Ann Lee", "7"),
            "397063-2557369 - Bo-Yi Kim - Nov 1, 2026 104 PM/feedback.md": ("Bo-Yi Kim", "9"),
        },
    ),
    "github classroom": Platform(
        ("grpo-octo-ann/rewards.py", "grpo-bkim/rewards.py"),
        "identifier,github_username,github_id,name\n"
        "Ann Lee,octo-ann,123,\nBo Kim,bkim,124,\nEve Fox,ann,125,\n",
        ("7", "9", ""),
    ),
}
METADATA = """
submission_101:
  :submitters:
  - :name: Ann Lee
    :sid: '901'
    :email: ann@x.edu
  :created_at: 2026-11-01 10:00:00.0 Z
submission_102:
  :submitters:
  - :name: Bo Kim
    :sid: '902'
    :email: bo@x.edu
  :created_at: 2026-11-01 11:00:00.0 Z
"""


def encoding_of(platform):
    return "utf-16" if platform is PLATFORMS["blackboard"] else "utf-8"


def make(tmp_path, name):
    """(zip of the export, its roster) of a platform."""
    platform = PLATFORMS[name]
    anns, bos = (entry for entry in platform.files if "rewards" in entry)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for entry in platform.files:
            file.writestr(entry, {anns: SOURCE, bos: BOS}.get(entry, b"a = 1"))
        if name == "gradescope":
            file.writestr("assignment_7_export/submission_metadata.yml", METADATA)
    (tmp_path / "book.csv").write_bytes(platform.roster.encode(encoding_of(platform)))
    return tmp_path / "export.zip", tmp_path / "book.csv"


def assert_gradebook(platform, out, points):
    """Each row of the roster has the points of its student and is otherwise as it was; feedback.zip
    has the names that it needs, with the pages of their students.

    Args:
        platform: of `PLATFORMS`.
        out: what the grader wrote.
        points: {"7": the points of Ann, "9": those of Bo}.
    """
    mark = max(",;\t", key=platform.roster.partition("\n")[0].count)
    before = list(csv.reader(io.StringIO(platform.roster), delimiter=mark))
    with open(out / "roster.csv", newline="", encoding=encoding_of(platform)) as file:
        after = list(csv.reader(file, delimiter=mark))
    title = next((t for t in before[0] if t.startswith(("GRPO", "Grade", "Bewertung"))), "GRPO")
    filled = after[0].index(title)
    said = {i for i, title in enumerate(after[0]) if title.startswith("Feedback")}
    for old, new in zip(before, after):
        kept = [i for i in range(len(old)) if i != filled and i not in said]
        assert [old[i] for i in kept] == [new[i] for i in kept]
    wanted = [points.get(cell, cell) for cell in platform.points]
    assert [row[filled] for row in after[1:]] == wanted
    for row in after[1:3]:
        assert all(row[i].startswith(f"{row[filled]} of 100 points;") for i in said)
    assert (out / "feedback.zip").exists() == bool(platform.returned)
    if platform.returned:
        with zipfile.ZipFile(out / "feedback.zip") as file:
            pages = {name: file.read(name).decode() for name in file.namelist()}
        assert [*pages] == [*platform.returned]
        for name, (student, cell) in platform.returned.items():
            assert pages[name].startswith(f"# {student}\n\n**{points[cell]} of 100 points**\n")


@pytest.fixture
def sevens_and_a_nine(sevens, monkeypatch):
    """As `sevens`, but Bo gets 9 points, and each page has a test to tell of."""
    everybody = course.grade_with_progress

    def grade_all(workshop, submissions, *more):
        results = everybody(workshop, submissions, *more)
        for submission, result in zip(submissions, results):
            if result["status"] == "graded":
                case = {"function": "shaped_reward", "case": "x", "passed": True, "message": ""}
                result |= {"tests": [case], "points": dict.fromkeys(CASES, 0.0)}
                result["score"] = 9.0 if submission.source == BOS else 7.0
        return results

    monkeypatch.setattr(course, "grade_with_progress", grade_all)


@pytest.mark.parametrize("name", PLATFORMS)
def test_an_export_becomes_a_gradebook(tmp_path, sevens_and_a_nine, name):
    make(tmp_path, name)
    results, entered = graded(tmp_path)
    found = [result for result in results if result["status"] not in ("duplicate", "no submission")]
    assert sorted(result["score"] for result in found) == [7.0, 9.0], found  # no second row
    assert entered.startswith("2 of 3 of the roster entered, column ")
    assert_gradebook(PLATFORMS[name], tmp_path / "out", {"7": "7", "9": "9"})


@pytest.mark.slow
@pytest.mark.parametrize("name", PLATFORMS)
def test_an_export_is_graded_for_real(tmp_path, gradescopes_grader, name):
    make(tmp_path, name)
    arguments = [
        tmp_path / "export.zip",
        "--out",
        tmp_path / "out",
        "--roster",
        tmp_path / "book.csv",
    ]
    done = grader(*arguments, "--jobs", "2", root=gradescopes_grader)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 of the roster entered, column " in done.stdout
    assert_gradebook(PLATFORMS[name], tmp_path / "out", {"7": "0", "9": "10"})


def test_blind_marking_names_the_participants(tmp_path):
    make(tmp_path, "moodle, blind, in German, from Excel")
    rows = collect(tmp_path / "export.zip")
    assert [row.student for row in rows] == ["Teilnehmerin 1001", "Teilnehmerin 1002"]


def test_the_name_of_one_file_makes_no_platform(tmp_path, sevens):
    """`eve_4711_999_rewards.py` in a plain folder took the row of who has the number 4711."""
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for name in ("eve_4711_999_rewards.py", "ann.py", "bo_1_assignsubmission_file_rewards.py"):
            file.writestr(name, SOURCE)
    (tmp_path / "book.csv").write_text("Student,ID,GRPO\nBob,4711,\nAnn,1,\n")
    rows = collect(tmp_path / "export.zip")
    assert all(member.id == "" for row in rows for member in row.members)
    graded(tmp_path)
    assert '"Bob","4711",""' in (tmp_path / "out" / "roster.csv").read_text()


@pytest.mark.parametrize(
    "names, unsure",
    [
        (["eve_4711_999_rewards.py"], True),
        (["eve_LATE_4711_999_rewards.py"], True),  # as Canvas exports one late student
        (["eve_4711_999_rewards.py", "bo_4712_998_rewards.py", "ann.py"], True),
        (["eve_4711_999_rewards.py", "bo_4712_998_rewards.py", "cid_4713_997_rewards.py"], False),
        (["eve_4711_999_rewards.py", "eve_4711_text.html", "bo_4712_998_rewards.py"], False),
        (["Eve_4711_assignsubmission_file_rewards.py"], False),  # nobody names a file so by chance
    ],
)
def test_one_or_two_names_of_canvas_are_flagged(tmp_path, sevens, names, unsure):
    """They took the row of who has the number 4711, and nothing said so."""
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for name in names:
            file.writestr(name, SOURCE)
    (tmp_path / "book.csv").write_text("Student,ID,GRPO\nBob,4711,\nDan,5,\n")
    results, _ = graded(tmp_path)
    assert '"Bob","4711","7"' in (tmp_path / "out" / "roster.csv").read_text()
    (flags,) = (result["flags"] for result in results if result["student"].lower() == "eve")
    assert ("known by a number in its file name alone: 4711" in flags) == unsure


def test_rosters_as_people_make_them(tmp_path, sevens):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for name in ("alee.py", "Lukasz Sorensen.py", "s123.py"):
            file.writestr(name, SOURCE)
    (tmp_path / "book.csv").write_text(
        "login;name;student id;GRPO\nalee;;-;\n;Łukasz Sørensen;-;\n;;s123;\n", encoding="utf-8"
    )
    results, entered = graded(tmp_path)
    assert entered.startswith("3 of 3 of the roster entered, column ")
    assert not any(result["flags"] for result in results)


def test_a_gradebook_of_a_language_that_is_not_known_is_one_line(tmp_path, sevens):
    make(tmp_path, "moodle")
    text = PLATFORMS["moodle"].roster.replace("Grade,", "Hinne,").replace("Identifier", "Kood")
    (tmp_path / "book.csv").write_text(text)
    with pytest.raises(GraderError, match="which column of the roster is for the points"):
        graded(tmp_path)
    graded(tmp_path, "--column", "Hinne")
    assert '"Submitted","7","100"' in (tmp_path / "out" / "roster.csv").read_text()


MISHAPS = {
    "ann/work.ipynb": "No rewards.py, only work.ipynb: a notebook: ask for rewards.py.",
    "bo/rewards.py.txt": "No rewards.py, only rewards.py.txt: take .txt off its name.",
    "cid/work.rar": "No rewards.py, only work.rar: unpack it, only zips are read.",
    "dan/Essay.DOCX": "No rewards.py, only Essay.DOCX: a document: ask for rewards.py.",
}


def test_a_mishap_is_a_question_and_leaves_the_gradebook(tmp_path, sevens):
    """It was 0 points, in the gradebook too, and in the mean of the class."""
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for name in MISHAPS:
            file.writestr(name, SOURCE)
        file.writestr("eve/rewards.py", SOURCE.replace(b"\n", b"\r\n"))  # as it was handed out
        file.writestr("eve/rewards (1).py", SOURCE + b"x = 1\n")
        file.writestr("fay/rewards.py", SOURCE + b"x = 1\n")
        for i in range(2500):
            file.writestr(f"fay/venv/lib/{i}.py", "")
    people = ("ann", "bo", "cid", "dan", "eve", "fay")
    (tmp_path / "book.csv").write_text("name,GRPO\n" + "".join(f"{one},5\n" for one in people))
    results, entered = graded(tmp_path)
    reasons = {result["student"]: result["reason"] for result in results}
    for name, words in MISHAPS.items():
        assert reasons[name.partition("/")[0]] == words
    assert "eve/rewards.py, which is as it was handed out, rewards (1).py" in reasons["eve"]
    assert entered.startswith("1 of 6 of the roster entered, column ")
    book = (tmp_path / "out" / "roster.csv").read_text()
    assert book.count('"5"') == 5 and '"fay","7"' in book


ATTEMPTS = {  # of one student, at two times
    "blackboard": [f"GRPO_ann_attempt_2026-11-0{day}-10-00-00_rewards.py" for day in (1, 2)],
    "brightspace": [f"1-2 - Ann Lee - Nov {day}, 2026 1000 AM/rewards.py" for day in (1, 2)],
}


@pytest.mark.parametrize("platform", ATTEMPTS)
def test_a_continued_run_grades_the_hand_in_that_is_the_newest_now(tmp_path, sevens, platform):
    """Both were "graded", and the feedback showed the older one; or neither was."""
    (tmp_path / "book.csv").write_text("name,login,GRPO\nAnn Lee,ann,\n")
    older, newer = ATTEMPTS[platform]
    for there, wanted in (
        ([older], ["graded"]),
        ([older, newer], ["duplicate", "graded"]),
        ([older], ["graded"]),
    ):
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
            for name in there:
                file.writestr(name, SOURCE + name.encode())
        results, _ = graded(tmp_path, "--resume")
        found = {result["path"]: result["status"] for result in results}
        assert [found[name] for name in there] == wanted


def correct(tmp_path, *rows):
    text = "student;person;points;reason\n" + "\n".join(rows)
    (tmp_path / "out" / "corrections.csv").write_text(text, encoding="utf-8")


def test_a_correction_is_kept_by_every_later_run(tmp_path, sevens):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for name in ("ann/rewards.py", "bo/rewards.py", "unknown7/rewards.py", "dan/work.ipynb"):
            file.writestr(name, SOURCE)
    (tmp_path / "book.csv").write_text("name,login,GRPO\nann,a,\nbo,b,\nCid Ray,cray,\ndan,d,\n")
    graded(tmp_path)
    written = (tmp_path / "out" / "corrections.csv").read_text()
    assert written == '"student","person","points","reason"\n'
    correct(
        tmp_path,
        "ann;;-2,5;late",
        "ann;;1;*neat*",
        "unknown7;cray;;",
        "dan;;50;=by mail",
        "bo;;-90;x",
    )
    for _ in range(2):
        results, entered = graded(tmp_path, "--resume")
    assert entered.startswith("4 of 4 of the roster entered, column ")
    book = (tmp_path / "out" / "roster.csv").read_text()
    for row in ('"ann","a","5.5"', '"bo","b","0"', '"Cid Ray","cray","7"', '"dan","d","50"'):
        assert row in book
    grades = (tmp_path / "out" / "grades.csv").read_text()
    assert '"late (-2.5); *neat* (+1)"' in grades and '"\'=by mail (+50)"' in grades
    page = (tmp_path / "out" / "feedback" / "ann.md").read_text()
    assert "- late (-2.5)\n- \\*neat\\* (+1)" in page and "That makes 5.5 of 100 points." in page
    assert "- =by mail (+50)" in (tmp_path / "out" / "feedback" / "dan.md").read_text()


def test_a_namesake_takes_no_correction_and_hides_none(tmp_path, sevens):
    """The result kept the name it was graded under, so that a correction under the new one was
    lost; and one under the old name went to whoever had it now."""
    first, second = "doejane_7777_98800_rewards.py", "doejane_1234_98900_rewards.py"
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        file.writestr(first, SOURCE)
    (tmp_path / "book.csv").write_text("ID,Student,GRPO\n7777,x,\n1234,y,\n")
    graded(tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip", "a") as file:
        file.writestr(second, SOURCE)
    correct(tmp_path, "doejane;;1;x")
    with pytest.raises(GraderError, match="row 2: nobody handed in as doejane"):
        graded(tmp_path, "--resume")
    correct(tmp_path, "doejane (7777);;1;x")
    results, _ = graded(tmp_path, "--resume")
    assert {result["student"]: result["score"] for result in results} == {
        "doejane (1234)": 7.0,
        "doejane (7777)": 8.0,
    }


@pytest.mark.parametrize(
    "row, message",
    [
        ("eve;;1;x", "row 2: nobody handed in as eve"),
        ("ann;;many;x", "row 2: could not convert"),
        ("ann;;inf;x", "row 2: inf is no number of points"),
    ],
)
def test_a_correction_that_cannot_be_is_one_line(tmp_path, row, message):
    (tmp_path / "out").mkdir()
    correct(tmp_path, row)
    with pytest.raises(GraderError, match=message):
        read_corrections(tmp_path / "out", ["ann"])


def test_folders_32000_deep_are_one_row(tmp_path):
    """Each kept all the folders above it: 1.4 GB, and nobody was graded."""
    deep = [f"{i}/" + "a/" * 32_000 + "x" for i in range(6)]
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        file.writestr("ann/rewards.py", SOURCE)
        for name in deep:
            file.writestr(f"eve/{name}", "")
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as zipped:
            zipped.writestr("rewards.py", SOURCE)
            for name in deep:
                zipped.writestr(name, "")
        file.writestr("dan.zip", inner.getvalue())
    rows = {row.student: row for row in collect(tmp_path / "export.zip")}
    assert rows["ann"].source == SOURCE
    for student in ("eve", "dan"):
        assert rows[student].rejected == "folders in folders, more than 23 deep"
