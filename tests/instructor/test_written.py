"""Written answers: a place to hand them in, one page to grade them, points in every gradebook."""

import csv
import html
import io
import json
import re
import zipfile
from types import SimpleNamespace

import pytest
from grading_help import put

from cases import CASES
from engine.common import ROOT
from instructor.grading.collect import collect
from instructor.grading.command import RUBRIC
from instructor.grading.course_files import write_all
from instructor.grading.gradebook import csv_text
from instructor.grading.journal import blank_result
from instructor.grading.points import read_rubric
from instructor.grading.submission import GraderError
from instructor.grading.written import answers_by_heading, read_points
from instructor.handout.answer_sheet import answer_key, questions, sheet

HEADINGS = ["1", "2a", "2b", "3a", "3b", "3c", "4a", "4b", *(f"Analysis {i}" for i in range(1, 6))]


def test_every_question_has_a_heading_a_key_and_points():
    assert [*questions()] == HEADINGS == [*read_rubric(RUBRIC)["written"]]
    assert all(text.endswith("?") for text in questions().values())
    assert set(HEADINGS) <= set(answer_key()) and all(len(answer_key()[h]) > 60 for h in HEADINGS)
    assert questions()["3b"].startswith("One completion can have a negative penalty")
    assert questions()["Analysis 5"].startswith("**Prompting.** What can a prefix not do")


def test_the_key_says_what_was_measured():
    """It once said that a run at 0.01 ends close to the unregularised one: 5.9 against 31 nats."""
    table = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    measured = {}  # run -> (sentiment, KL)
    for line in table.partition("| run | sentiment | judge | KL (nats) |")[2].splitlines()[2:]:
        if not line.startswith("|"):
            break
        run, *cells = [cell.partition(" ± ")[0].strip() for cell in line.strip("|").split("|")]
        measured[run.partition("`, ")[0].strip("`")] = float(cells[0]), float(cells[2])
    (plain, far), (held, near), (_, nothing) = (
        measured[run]
        for run in (
            "no flags",
            "--kl_type forward --kl_coef 0.01",
            "--kl_type forward --kl_coef 0.3",
        )
    )
    text = answer_key()["Analysis 2"]
    told = re.findall(r"(\d+(?:\.\d+)?) nats", text)
    assert [float(nats) for nats in told] == pytest.approx([nothing, near, far], abs=0.06)
    assert f"with {held:.2f} of sentiment against {plain:.3f}" in text
    assert f"at 0.01 the run ends at {told[1]} nats, far from the {told[2]} nats" in text


def test_the_empty_sheet_holds_no_answer_and_a_filled_one_all():
    assert answers_by_heading(sheet(), HEADINGS) == {}
    filled = sheet()
    for heading in HEADINGS:
        filled = filled.replace(f"## {heading}\n", f"## {heading}\n\n", 1)
        quoted = f"> {questions()[heading]}\n"
        filled = filled.replace(quoted, f"{quoted}\nMine to {heading}.\n")
    assert answers_by_heading(filled, HEADINGS) == {h: f"Mine to {h}." for h in HEADINGS}


@pytest.mark.parametrize(
    "text, found",
    [
        ("## 3b\nx\n# Exercise 3c: the other\ny\n", {"3b": "x", "3c": "y"}),
        ("### analysis 2. Price\r\nx\r\n", {"Analysis 2": "x"}),
        ("## 3b\n```\n# 1 comment\n```\n", {"3b": "```\n# 1 comment\n```"}),
        ("## 3b\n> asked?\n> more\n\n> my quotation\nx", {"3b": "> my quotation\nx"}),
        ("## 11\nx\n## 3\ny\n", {}),
        ("before\n## 1) not a heading of ours\nx", {}),
        ("## 2a\nx\n## 2a\ny", {"2a": "x\ny"}),
        ("", {}),
        ("## 1\n```\nx\n## 2a\ny\n## 3b\nz", {"1": "```\nx", "2a": "y", "3b": "z"}),
        ("## 1\n```\nx\n## 2a\n```\n# 1 c\n```", {"1": "```\nx", "2a": "```\n# 1 c\n```"}),
        ("# 1: a\n```\nx\n# 2a: b\ny", {"1": "```\nx", "2a": "y"}),
    ],
)
def test_answers_are_found_by_heading(text, found):
    assert answers_by_heading(text, HEADINGS) == found


def test_answers_are_collected_wherever_they_lie(tmp_path):
    put(tmp_path, "ann", "a = 1")
    (tmp_path / "ann" / "answers.md").write_text("## 1\nann")
    with zipfile.ZipFile(tmp_path / "bob.zip", "w") as file:
        file.writestr("work/rewards.py", "b = 1")
        file.writestr("work/Answers.md", "## 1\nbob")
    put(tmp_path, "eve", "a = 1")
    (tmp_path / "eve" / "answers.md").write_bytes(b"\xff")
    (tmp_path / "zoe").mkdir()
    (tmp_path / "zoe" / "answers.md").write_text("## 1\nzoe")
    got = {row.student: row for row in collect(tmp_path)}
    assert got["ann"].answers == b"## 1\nann" and got["bob"].answers == b"## 1\nbob"
    assert got["eve"].answers == b"" and got["eve"].flags == ["answers.md: not UTF-8 text (byte 0)"]
    assert got["zoe"].answers == b"## 1\nzoe" and "No rewards.py" in got["zoe"].question


def test_answers_of_a_canvas_export_are_the_newest(tmp_path):
    for name in ("5_rewards.py", "6_answers.md", "8_rewards-1.py", "9_answers-1.md"):
        (tmp_path / f"doejane_1234_{name}").write_text(f"## 1\n{name}")
    got = {row.student: row for row in collect(tmp_path) if not row.duplicate}
    assert got["doejane"].answers == b"## 1\n9_answers-1.md"
    assert not any("further" in flag for flag in got["doejane"].flags)


@pytest.fixture
def course(tmp_path):
    """(arguments, results, submissions, rubric) of two students, as after the grading."""
    put(tmp_path / "in", "Ann <b>", "a = 1")
    (tmp_path / "in" / "Ann <b>" / "answers.md").write_text("## 3b\n<script>alert(1)</script>\n")
    put(tmp_path / "in", "=Bob", "b = 1")
    roster = [["name", "GRPO"], ["Ann <b>", ""], ["=Bob", ""]]
    (tmp_path / "roster.csv").write_text(csv_text(roster))
    submissions = collect(tmp_path / "in")
    rubric = read_rubric(RUBRIC)
    results = []
    for submission in submissions:
        tests = [
            {"function": name, "case": case.__name__, "passed": True, "message": ""}
            for name, (_, cases) in CASES.items()
            for case in cases
        ]
        points = {n: float(e["points"]) for n, e in rubric["exercises"].items()}
        result = blank_result(submission, {"rubric": rubric, "seeds": [0]}, "x")
        results.append({**result, "tests": tests, "points": points, "score": 100.0})
    args = SimpleNamespace(out=tmp_path / "out", roster=tmp_path / "roster.csv", column="GRPO")
    args.visibility = "visible"
    args.gradescope = False
    args.written = None
    args.out.mkdir()
    return args, results, submissions, rubric


def test_one_page_shows_question_key_and_answer(course):
    args, results, *rest = course
    write_all(args, results, *rest)
    page = (args.out / "answers.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and page.count("<script>") == 1
    assert "Ann <b>" not in page.partition("<script>")[0]
    for heading, entry in read_rubric(RUBRIC)["written"].items():
        assert f"<h2>{heading}</h2>" in page
        assert f"<p>2 points for: {html.escape(entry['for'])}</p>" in page
    assert "d/dθ E_q[log q − log p]" in page  # of the key
    assert page.count('type="number"') == 1 and "No answer: =Bob" in page
    assert json.loads(page.partition("STUDENTS = ")[2].partition(";")[0]) == [
        ["Ann <b>", "Ann <b>"],
        ["=Bob", "'=Bob"],  # saved as answers.csv, it was a formula
    ]
    with open(args.out / "grades.csv", newline="", encoding="utf-8") as file:
        assert {row["score"] for row in csv.DictReader(file)} == {"100"}  # nothing counts yet


def test_points_of_answers_enter_every_book(course):
    args, results, *rest = course
    write_all(args, results, *rest)
    empty = (args.out / "answers.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(empty, newline="")))
    assert [*rows[0]] == ["student", *HEADINGS, "comment"]
    rows[0] |= {"3b": "1.5", "comment": "3b: *why* so?"}
    args.written = args.out / "answers.csv"
    args.written.write_text(csv_text([[*rows[0]], *(row.values() for row in rows)]))
    write_all(args, results, *rest)
    with open(args.out / "grades.csv", newline="", encoding="utf-8") as file:
        grades = {row["student"]: row for row in csv.DictReader(file)}
    assert grades["Ann <b>"]["score"] == "101.5" and grades["Ann <b>"]["max"] == "126"
    assert grades["Ann <b>"]["answer 3b"] == "1.5" and grades["'=Bob"]["answer 3b"] == "0"
    roster = (args.out / "roster.csv").read_text()
    assert '"Ann <b>","101.5"' in roster and '"\'=Bob","100"' in roster
    (page,) = (args.out / "feedback").glob("Ann*.md")
    text = page.read_text(encoding="utf-8")
    assert "**101.5 of 126 points**" in text and "| 3b | 1.5 of 2 |" in text
    assert r"3b: \*why\* so?" in text
    (page,) = (args.out / "results").glob("Ann*.json")
    tests = json.loads(page.read_text(encoding="utf-8"))
    assert sum(test["score"] for test in tests["tests"]) == pytest.approx(101.5, abs=0.01)
    assert tests["score"] == 101.5
    assert (args.out / "answers.csv").read_text() == args.written.read_text()  # a person's work


def test_written_points_stay_where_a_correction_gives_the_others(course):
    """50 by a correction and 20 for written answers were 50."""
    args, results, submissions, rubric = course
    results[0] |= {"status": "unclear", "reason": "Nothing is in it.", "score": None, "tests": []}
    row = dict.fromkeys(["student", *HEADINGS, "comment"], "")
    row |= {"student": results[0]["student"]} | {h: "2" for h in HEADINGS[:10]}
    args.written = args.out / "answers.csv"
    args.written.write_text(csv_text([[*row], [*row.values()]]))
    (args.out / "corrections.csv").write_text(
        csv_text([["student", "points", "reason"], [row["student"], "50", "by mail"]])
    )
    results, _ = write_all(args, results, submissions, rubric)
    assert results[0]["score"] == 70.0
    pages = [page.read_text(encoding="utf-8") for page in (args.out / "feedback").iterdir()]
    assert sum("That makes 70 of 126 points." in page for page in pages) == 1


def test_an_answer_without_points_is_flagged(course):
    args, results, *rest = course
    write_all(args, results, *rest)
    args.written = args.out / "answers.csv"
    write_all(args, results, *rest)
    text = (args.out / "grades.csv").read_text(encoding="utf-8")
    assert text.count("written answers without points: 3b") == 1


def test_points_are_read_as_excel_writes_them(tmp_path):
    """With semicolons, a comma in a number, a mark before the first title, quotes where needed."""
    table = '\ufeffstudent;1;3b;comment\r\nAnn;1,5;2;"so; so"\r\n'
    (tmp_path / "a.csv").write_text(table, encoding="utf-8", newline="")
    rubric = {"written": {"1": {"points": 2}, "3b": {"points": 2}}}
    assert read_points(tmp_path / "a.csv", rubric, ["Ann"]) == {
        "Ann": {"points": {"1": 1.5, "3b": 2.0}, "comment": "so; so"}
    }


@pytest.mark.parametrize(
    "change, message",
    [
        ({"3b": "3"}, "row 2: 3 is no number from 0 to 2"),
        ({"3b": "-1"}, "row 2: -1 is no number"),
        ({"3b": "nan"}, "row 2: nan is no number"),
        ({"3b": "good"}, "row 2: good is no number"),
        ({"student": "Eve"}, "row 2: nobody handed in as Eve"),
    ],
)
def test_points_that_cannot_be_are_one_line(tmp_path, change, message):
    row = dict.fromkeys(["student", *HEADINGS, "comment"], "") | {"student": "Ann"} | change
    (tmp_path / "a.csv").write_text(csv_text([[*row], [*row.values()]]))
    with pytest.raises(GraderError, match=message) as error:
        read_points(tmp_path / "a.csv", read_rubric(RUBRIC), ["Ann"])
    assert "\n" not in str(error.value)


def test_a_table_of_other_columns_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(GraderError, match="fill in the answers.csv of the grader"):
        read_points(tmp_path / "a.csv", read_rubric(RUBRIC), [])
    with pytest.raises(GraderError, match="cannot be read"):
        read_points(tmp_path / "b.csv", read_rubric(RUBRIC), [])
