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

import pytest
from grading_help import FRONT, grader, put
from rich.console import Console

from engine.common import lines_of
from instructor.grading.class_view import show
from instructor.grading.command import RUBRIC, parse_arguments
from instructor.grading.course import require_sandbox
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
from instructor.grading.points import read_rubric
from instructor.grading.submission import GraderError, Member, Submission
from instructor.grading.text import clean
from instructor.proof import attacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A course, the arguments that grade it, and its grades when nothing interferes."""
    folder = tmp_path_factory.mktemp("whole")
    for i, (name, source) in enumerate(attacks.valid_files().items()):
        put(folder / "in", f"{i:02} {name}", source)
    arguments = [folder / "in", "--seeds", "5", "--jobs", "2", "--out"]
    assert grader(*arguments, folder / "out").returncode == 0
    return arguments, folder / "out"


def assert_same_files(folder, other):
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert [n for n in names if (folder / n).read_bytes() != (other / n).read_bytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumed_gives_the_same_files(tmp_path, whole_run, how):
    arguments, whole = whole_run
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, str(FRONT), *map(str, arguments)]
    # torch leaves a folder for compiled code in TMPDIR, which is not the grader's to remove.
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    environment = {**os.environ, "TMPDIR": str(temporary), **compiled}
    process = subprocess.Popen(
        [*command, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal, deadline = out / "results.jsonl", time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (1 if how == signal.SIGINT else -9)
    assert (b"--resume goes on" in said) == (how == signal.SIGINT)
    assert 5 <= journal.read_bytes().count(b"\n") < len(attacks.valid_files())
    deadline = time.monotonic() + 60
    while list(temporary.iterdir()):  # the worker notices that the grader is gone, and cleans up
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with open(journal, "ab") as file:
        file.write(b'{"student": "half a li')
    refused = grader(*arguments, out)
    assert refused.returncode == 1 and "--resume goes on" in refused.stderr
    assert grader(*arguments, out, "--resume").returncode == 0
    assert_same_files(whole, out)


@pytest.mark.slow
def test_one_student_graded_again_changes_nothing_else(tmp_path, whole_run):
    arguments, whole = whole_run
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    lines = lines_of(out / "results.jsonl")
    first = json.loads(lines[0])
    lines[0] = json.dumps({**first, "score": 1.0})
    (out / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = grader(*arguments, out, "--only", first["student"])
    assert done.returncode == 0, done.stderr
    assert_same_files(whole, out)
    unknown = grader(*arguments, out, "--only", "nobody")
    assert unknown.returncode == 1 and "nobody handed in as nobody" in unknown.stderr


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


def test_a_journal_of_another_rubric_is_not_continued(tmp_path):
    put(tmp_path / "in", "ann", "a = 1")
    rubric = read_rubric(RUBRIC)
    args = parse_arguments([str(tmp_path / "in"), f"--out={tmp_path / 'out'}"])
    first = run_settings(args, rubric)
    assert first["seeds"][0] == 0 and len(set(first["seeds"])) == 3
    (tmp_path / "out" / "results.jsonl").write_text("")
    with pytest.raises(GraderError, match="--resume goes on"):
        run_settings(args, rubric)
    args.resume = True
    assert run_settings(args, rubric) == first
    with pytest.raises(GraderError, match="name a new --out"):
        run_settings(args, {**rubric, "without_core": 0})


def test_text_of_strangers_is_made_harmless():
    assert clean("\x1b[31mred\x1b]0;t\x07\u202e \x00x\n") == "red x\n"
    assert clean("\ud800 \u2028\u2029\x85\r\ufeffx") == "? x"
    odd = Submission(
        "Ann\x1b[2J\u2028 Lee\n", "a\x1b\udcff.py", rejected="\x07", question="1\u202e2"
    )
    assert (odd.student, odd.rejected, odd.question) == ("Ann Lee", "", "12")
    assert odd.path == "a\\x1b\\udcff.py" != Submission("x", "a.py").path  # two stay two


ODD_NAME = "Ann\u2028Lee \u0085"  # line ends to `splitlines()`, not to JSON


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


@pytest.mark.slow
def test_a_student_with_an_odd_name_survives_another_grading(tmp_path):
    put(tmp_path / "in", ODD_NAME, f"{attacks.SOLUTION}\nprint('one\u2028two')\n")
    put(tmp_path / "in", "Ben", attacks.TEMPLATE)
    put(tmp_path / "in", "Cid", attacks.in_penalty("raise ValueError(chr(0xd800))"))
    put(tmp_path / "in", "Dan", f"{attacks.TEMPLATE}\nNUMBER = 0x{'f' * 5000}\n")
    os.mkdir(os.fsencode(tmp_path / "in") + b"/Eve\xff\x1b[31m")
    arguments = [tmp_path / "in", "--seeds", "5", "--out", tmp_path / "out"]
    for more in ([], ["--only", "Ben"], ["--resume"]):
        done = grader(*arguments, *more)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        results = list(results_of(tmp_path / "out" / "results.jsonl"))
        scores = {result["student"]: result["score"] for result in results}
        want = {"Ann Lee": 100.0, "Ben": 0.0, "Cid": 80.0, "Dan": 0.0, "Eve?": 0.0}
        assert scores == want


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
    _, result = blank("Ann", flags=["x" * 10**6 + "\n"] * 50, reason="y" * 10**6)
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
    assert said.count("Lee, Ann") == 1 and "rejected" in said
    with open(tmp_path / "out" / "roster.csv", newline="", encoding="utf-8") as file:
        points = {row["ID"]: row["GRPO"] for row in csv.DictReader(file)}
    assert points == {"1": "", "2": "0"}


def shown_for(tmp_path, people, handed_in):
    """What the terminal shows for hand-ins, none of which could be graded, of these people."""
    (tmp_path / "roster.csv").write_text(csv_text(people), encoding="utf-8")
    results, submissions = [], []
    for login in handed_in:
        submission, result = blank(login, status="rejected", reason="a link", score=0.0)
        submission.members = (Member(login),)
        results.append(result)
        submissions.append(submission)
    out = tmp_path / "out"
    out.mkdir()
    args = parse_arguments(["in", f"--out={out}", f"--roster={tmp_path / 'roster.csv'}"])
    rubric = read_rubric(RUBRIC)
    results = write_all(args, results, submissions, {"rubric": rubric})
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
