"""A run of the grader: interrupted, continued, one student again, without a sandbox."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from grading_help import FRONT, grader, put

from engine.common import lines_of
from instructor.grading.command import RUBRIC, parse_arguments
from instructor.grading.course import require_sandbox
from instructor.grading.journal import blank_result, finished, journal_line, run_settings
from instructor.grading.points import read_rubric
from instructor.grading.process import clean
from instructor.grading.submission import GraderError, Submission
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
    environment = {**os.environ, "TMPDIR": str(temporary)}
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


def test_terminal_controls_are_removed():
    assert clean("\x1b[31mred\x1b]0;t\x07\u202e \x00x\n") == "red x\n"


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
    arguments = [tmp_path / "in", "--seeds", "5", "--out", tmp_path / "out"]
    for more in ([], ["--only", "Ben"], ["--resume"]):
        done = grader(*arguments, *more)
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, lines_of(tmp_path / "out" / "results.jsonl"))
        scores = {result["student"]: result["score"] for result in lines}
        assert scores == {ODD_NAME: 100.0, "Ben": 0.0}
