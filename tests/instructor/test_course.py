"""A run of the grader: interrupted, continued, one student again, without a sandbox."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from grading_help import grader, put
from rich.console import Console

from engine.common import lines_of
from instructor.grading.class_view import show
from instructor.grading.collect import collect
from instructor.grading.command import RUBRIC, parse_arguments
from instructor.grading.course import grade, require_sandbox
from instructor.grading.course_files import write_all
from instructor.grading.gradebook import csv_text
from instructor.grading.journal import (
    blank_result,
    bounded,
    finished,
    journal_line,
    results_of,
    run_settings,
    unfinished,
)
from instructor.grading.points import every_case, read_rubric
from instructor.grading.submission import GraderError, Member, Submission
from instructor.grading.text import clean
from instructor.proof import attacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


ODD_NAME = "Ann\u2028Lee \u0085"  # line ends to `splitlines()`, not to JSON


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, gradescopes_grader):
    """(course, what nothing interfered with): some submissions, and the folder of their grades."""
    folder = tmp_path_factory.mktemp("whole")
    course = folder / "in"
    put(course, ODD_NAME, f"{attacks.SOLUTION}\nprint('one\u2028two')\n")
    put(course, "Ben", attacks.TEMPLATE)
    put(course, "Cid", attacks.in_penalty("raise ValueError(chr(0xd800))"))
    put(course, "Dan", f"{attacks.TEMPLATE}\nNUMBER = 0x{'f' * 5000}\n")
    os.mkdir(os.fsencode(course) + b"/Eve\xff\x1b[31m")
    for name, source in [*attacks.valid_files().items()][:5]:
        put(course, name, source)
    done = run(gradescopes_grader, course, folder / "out")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    return course, folder / "out"


def run(root, course, out, *more):
    return grader(course, "--seeds", "5", "--jobs", "2", "--out", out, *more, root=root)


@pytest.mark.slow
def test_students_with_odd_names_and_errors_are_graded(whole_run):
    _, out = whole_run
    scores = {r["student"]: r["score"] for r in results_of(out / "results.jsonl")}
    odd = {"Ann Lee": 100.0, "Ben": 0.0, "Cid": 80.0, "Dan": 0.0, "Eve?": None}  # a question
    assert scores == odd | {f"valid {i}": 100.0 for i in range(5)}


def assert_same_files(folder, other):
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert [n for n in names if (folder / n).read_bytes() != (other / n).read_bytes()] == []


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_killed_and_resumed_gives_the_same_files(
    tmp_path, whole_run, gradescopes_grader
):
    course, whole = whole_run
    out = tmp_path / "out"
    status, error = stopped(gradescopes_grader, [course, "--out", out], signal.SIGINT)
    assert status == 1 and b"--resume goes on" in error
    with open(out / "results.jsonl", "ab") as file:
        file.write(b'{"student": "half a li')
    arguments = [course, "--out", out, "--resume"]
    assert stopped(gradescopes_grader, arguments, signal.SIGKILL) == (-9, b"")
    assert run(gradescopes_grader, course, out, "--resume").returncode == 0
    assert_same_files(whole, out)


def stopped(root, arguments, how):
    """(exit status, errors) of a grader that gets a signal after some more results."""
    out = arguments[2]
    temporary = out.parent / f"tmp {how}"
    temporary.mkdir()
    command = [sys.executable, root / "instructor" / "grade.py", *arguments, "--seeds", "5"]
    # torch leaves a folder for compiled code in TMPDIR, which is not the grader's to remove.
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(out.parent / "compiled")}
    process = subprocess.Popen(
        [*command, "--jobs", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), **compiled},
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = out / "results.jsonl"
    before = lines_in(journal)
    wait_until(lambda: lines_in(journal) >= before + 2)
    process.send_signal(how)
    _, error = process.communicate(timeout=120)
    assert lines_in(journal) < 10
    # The worker notices that the grader is gone, and cleans up.
    wait_until(lambda: not list(temporary.iterdir()))
    return process.returncode, error


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_one_student_graded_again_changes_nothing_else(tmp_path, whole_run, gradescopes_grader):
    course, whole = whole_run
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    lines = lines_of(out / "results.jsonl")
    changed = json.loads(lines[1])
    lines[1] = json.dumps({**changed, "score": 1.0})
    (out / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = run(gradescopes_grader, course, out, "--only", changed["student"])
    assert done.returncode == 0, done.stderr
    assert_same_files(whole, out)


def test_a_student_who_did_not_hand_in_is_not_graded_again(tmp_path):
    put(tmp_path / "in", "ann", "a = 1")
    args = parse_arguments([str(tmp_path / "in"), f"--out={tmp_path / 'out'}", "--only", "nobody"])
    with pytest.raises(
        GraderError, match="nobody handed in as nobody: --only takes names of grades.csv"
    ):
        grade(args, None)


@pytest.mark.parametrize(
    "held, unsafe, tier",
    [
        ({"files": True, "network": True}, False, "landlock+seccomp"),
        ({"files": False, "network": True}, True, "unsafe (no files)"),
    ],
)
def test_tiers(held, unsafe, tier):
    assert require_sandbox(held, unsafe) == tier


def test_without_a_sandbox_nothing_is_graded():
    with pytest.raises(GraderError, match="no sandbox for files, network here.*--unsafe"):
        require_sandbox({"files": False, "network": False, "memory": True}, False)


def test_results_do_not_lie_among_the_submissions(tmp_path):
    put(tmp_path / "in", "ann", "a = 1")
    args = parse_arguments([str(tmp_path / "in"), f"--out={tmp_path / 'in' / '.'}"])
    with pytest.raises(GraderError, match="holds the submissions: name another --out"):
        grade(args, None)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["ann"]


def test_a_run_that_goes_on_loses_no_points_of_answers_in_silence(tmp_path, capsys):
    rubric = read_rubric(RUBRIC)
    words = ["in", f"--out={tmp_path / 'out'}"]
    run_settings(parse_arguments([*words, "--written=answers.csv"]), rubric)
    (tmp_path / "out" / "results.jsonl").write_text("")
    resumed = parse_arguments([*words, "--resume"])
    with pytest.raises(GraderError, match="counted the answers in answers.csv: name them again"):
        run_settings(resumed, rubric)
    resumed.written = "answers.csv"
    run_settings(resumed, rubric)
    assert capsys.readouterr().out == ""
    of_core = {**rubric, "exercises": {"e": {"points": 40}}, "written": {}}
    run_settings(resumed, of_core)
    said = "Another rubric: all points are counted anew, of 40 (before: of "
    assert capsys.readouterr().out.startswith(said)


def test_a_journal_of_other_code_is_not_continued(tmp_path, monkeypatch):
    put(tmp_path / "in", "ann", "a = 1")
    rubric = read_rubric(RUBRIC)
    args = parse_arguments([str(tmp_path / "in"), f"--out={tmp_path / 'out'}"])
    first = run_settings(args, rubric)
    assert first["seeds"][0] == 0 and len(set(first["seeds"])) == 2
    (tmp_path / "out" / "results.jsonl").write_text("")
    with pytest.raises(GraderError, match="--resume goes on"):
        run_settings(args, rubric)
    args.resume = True
    assert run_settings(args, rubric) == first
    other = {**rubric, "without_core": 0}
    assert run_settings(args, other) == {**first, "rubric": other}
    args.timeout = 3.0
    with pytest.raises(GraderError, match="name a new --out"):
        run_settings(args, rubric)


def test_another_rubric_is_applied_to_the_journal_without_grading(tmp_path, monkeypatch):
    """It was refused, and a class of two hundred graded for five minutes again."""
    put(tmp_path / "in", "ann", "a = 1")
    out = tmp_path / "out"
    rubric = yaml.safe_load(Path(RUBRIC).read_text(encoding="utf-8"))
    args = parse_arguments([str(tmp_path / "in"), f"--out={out}"])
    settings = run_settings(args, read_rubric(RUBRIC))
    (submission,) = collect(tmp_path / "in")
    tests = [
        {"function": name, "case": case.__name__, "passed": name == "shaped_reward", "message": ""}
        for name, case in every_case()
    ]
    result = {**blank_result(submission, settings, "x"), "tests": tests, "score": 20.0}
    (out / "results.jsonl").write_text(journal_line(result))
    rubric["exercises"]["shaped_reward"]["points"] = 70
    (tmp_path / "rubric.yaml").write_text(yaml.safe_dump(rubric))
    args.rubric, args.resume = str(tmp_path / "rubric.yaml"), True
    monkeypatch.setattr("instructor.grading.course.Workshop", None)  # nobody is graded
    ((again,), _) = grade(args, Console(file=io.StringIO()))
    most = sum(entry["points"] for entry in rubric["exercises"].values())
    assert (again["score"], again["max"]) == (70.0, most)
    assert f"**70 of {most} points**" in (out / "feedback" / "ann.md").read_text()


def test_text_of_strangers_is_made_harmless():
    assert clean("\x1b[31mred\x1b]0;t\x07\u202e \x00x\n") == "red x\n"
    assert clean("\ud800 \u2028\u2029\x85\r\ufeffx") == "? x"
    odd = Submission(
        "Ann\x1b[2J\u2028 Lee\n", "a\x1b\udcff.py", rejected="\x07", question="1\u202e2"
    )
    assert (odd.student, odd.rejected, odd.question) == ("Ann Lee", "", "12")
    assert odd.path == "a\\x1b\\udcff.py" != Submission("x", "a.py").path  # two stay two


def test_a_journal_line_may_hold_other_line_ends(tmp_path):
    """Read with `splitlines()`, such a student would be graded again, and lost with --only."""
    odd = Submission(ODD_NAME, "odd/rewards.py", b"a = 1")
    again = Submission("Ben", "ben/rewards.py", b"b = 1")
    settings = {"rubric": read_rubric(RUBRIC), "seeds": [0]}
    results = [
        {**blank_result(submission, settings, "x"), "output": "one\u2028two\x85three"}
        for submission in (odd, again)
    ]
    journal = tmp_path / "results.jsonl"
    journal.write_text("".join(map(journal_line, results)), encoding="utf-8")
    assert finished(journal, [odd, again], {"Ben"}) == {"odd/rewards.py": results[0]}
    assert len(finished(journal, [odd, again], ())) == 2


def journal_of(tmp_path, *results):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(map(journal_line, results)), encoding="utf-8")
    return path


def blank(student, source=b"a = 1", **more):
    settings = {"rubric": read_rubric(RUBRIC), "seeds": [0]}
    submission = Submission(student, f"{student}/rewards.py", source)
    return submission, {**blank_result(submission, settings, "x"), **more}


def test_where_the_grader_failed_it_tries_again(tmp_path):
    (ann, graded), (ben, failed) = blank("Ann"), blank("Ben")
    failed = unfinished(ben, {"rubric": read_rubric(RUBRIC), "seeds": [0]}, "x", OSError("full"))
    assert failed["status"] == "grader error" and failed["score"] is None
    journal = journal_of(tmp_path, graded, failed)
    assert list(finished(journal, [ann, ben], set())) == [ann.path]


def test_only_one_student_again_keeps_the_row_of_a_file_that_has_changed(tmp_path):
    (ann, of_ann), (ben, of_ben), (_, of_cid) = blank("Ann"), blank("Ben"), blank("Cid")
    ben.source = b"b = 2"
    journal = journal_of(tmp_path, of_ann, of_ben, of_cid)
    kept = finished(journal, [ann, ben], {"Ann"})  # Cid has taken his file away
    assert {result["student"]: result["flags"] for result in kept.values()} == {
        "Ben": ["the file has changed since it was graded"],
        "Cid": ["the file has changed since it was graded"],
    }
    assert list(finished(journal, [ann, ben], set())) == [ann.path]  # --resume grades Ben again
    again = finished(journal_of(tmp_path, *kept.values()), [ann, ben], {"Ann"})
    assert again == kept  # said once


def test_a_journal_that_is_none_is_read_as_far_as_it_is_one(tmp_path):
    ann, graded = blank("Ann")
    journal = tmp_path / "results.jsonl"
    junk = ["5", "[]", '{"student": 1}', '"\\ud800"', "{", ""]
    journal.write_text("\n".join([*junk, journal_line(graded)]), encoding="utf-8")
    assert list(finished(journal, [ann], set())) == [ann.path]


def test_a_result_has_a_bounded_size():
    _, result = blank("Ann", flags=["x" * 10**4 + "\n"] * 50, reason="y" * 10**6)
    small = bounded(result)
    assert len(journal_line(small)) < 8000 and small["flags"][-1] == "and 30 more flags"


PEOPLE = [["Student", "ID", "SIS Login ID"], ["Lee, Ann", "1", "ann"], ["Lee, Ben", "2", "ben"]]


@pytest.mark.parametrize(
    "handed_in, absent",
    [
        (["ann", "ben"], []),
        (["ann"], ["Lee, Ben"]),
        (["ann", "stranger"], ["Lee, Ben"]),
        (["stranger"], ["Lee, Ann", "Lee, Ben"]),  # everybody is absent
    ],
)
def test_the_table_shows_who_is_absent(tmp_path, handed_in, absent):
    """One enrolled person who handed in nothing ended the run in KeyError: 'reason'."""
    said = shown_for(tmp_path, PEOPLE, handed_in)
    if absent:
        assert f"{len(absent)} handed nothing in: {', '.join(absent)}" in said
    else:
        assert "handed nothing in" not in said


def test_namesakes_have_rows_of_their_own(tmp_path):
    people = [PEOPLE[0], ["Lee, Ann", "1", "ann1"], ["Lee, Ann", "2", "ann2"]]
    said = shown_for(tmp_path, people, ["ann2"])
    assert said.count("Lee, Ann") == 1 and "import error" in said
    with open(tmp_path / "out" / "roster.csv", newline="", encoding="utf-8") as file:
        points = {row["ID"]: row["GRPO"] for row in csv.DictReader(file)}
    assert points == {"1": "", "2": "0"}


def shown_for(tmp_path, people, handed_in):
    """What the terminal shows for hand-ins, none of which can be imported, of these people."""
    (tmp_path / "roster.csv").write_text(csv_text(people), encoding="utf-8")
    results = []
    submissions = []
    for login in handed_in:
        submission, result = blank(login, status="import error", reason="a name", score=0.0)
        submission.members = (Member(login),)
        results.append(result)
        submissions.append(submission)
    out = tmp_path / "out"
    out.mkdir()
    args = parse_arguments(["in", f"--out={out}", f"--roster={tmp_path / 'roster.csv'}"])
    rubric = read_rubric(RUBRIC)
    results, _ = write_all(args, results, submissions, rubric)
    console = Console(file=io.StringIO(), width=120)
    show(results, rubric, console)
    return console.file.getvalue()


def test_pages_of_one_student_that_fail_are_one_flag(tmp_path, monkeypatch):
    import instructor.grading.course_files as course_files

    whole = course_files.feedback

    def breaks(result, rubric):
        if result["student"] == "ann":
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed")
        return whole(result, rubric)

    monkeypatch.setattr(course_files, "feedback", breaks)
    assert "feedback cannot be written" in shown_for(tmp_path, PEOPLE, ["ann", "ben"])
    assert [path.stem for path in (tmp_path / "out" / "feedback").iterdir()] == ["ben"]


@pytest.mark.parametrize("words", [["--timeout", "-1"], ["--timeout", "nan"], ["--jobs", "0"]])
def test_no_time_and_nobody_at_work_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["in", "--out=out", *words])
    said = capsys.readouterr().err
    assert words[0] in said and said.count("\n") == 1
