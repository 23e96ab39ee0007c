"""The zip for Gradescope, which grades one submission at a time."""

import json
import os
import subprocess
import sys

import pytest

from instructor.grading import gradescope
from instructor.handout.student_copy import find_leaks
from instructor.proof import attacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.mark.slow
@pytest.mark.parametrize("source, points", [(attacks.SOLUTION, 100), (None, 0)])
def test_the_zip_for_gradescope_grades(tmp_path, gradescopes_grader, source, points):
    """Run as Gradescope does it, but with the packages of this environment."""
    assert find_leaks(gradescopes_grader) == []
    assert not list(gradescopes_grader.rglob("*solution*"))
    (tmp_path / "source").symlink_to(gradescopes_grader)
    (tmp_path / "submission").mkdir()
    if source:
        (tmp_path / "submission" / "rewards.py").write_text(source)
        (tmp_path / "submission" / "notes.txt").write_text("hello")
    page = run_autograder(tmp_path, gradescopes_grader / "run_autograder", sys.executable)
    assert page["score"] == points
    if not source:
        assert "there is no submission" in page["output"]


def test_the_file_as_it_was_handed_out_is_known_on_gradescope_too(tmp_path, gradescopes_grader):
    """Beside it, the student's own `rewards (1).py` was not asked about."""
    (tmp_path / "rewards.py").write_text(attacks.TEMPLATE)
    (tmp_path / "rewards (1).py").write_text(attacks.SOLUTION)
    code = "import sys; from instructor.grading.collect import collect as c; "
    code += "(row,) = c(sys.argv[1], one=True); print(row.question)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=gradescopes_grader, capture_output=True, text=True)
    assert "Which of these" in done.stdout and "as it was handed out" in done.stdout


def run_autograder(root, script, python, cgroup="/no/limit"):
    """The results.json that the script leaves in a folder like Gradescope's."""
    environment = {**os.environ, "AUTOGRADER_ROOT": str(root), "PYTHON": python, "CGROUP": cgroup}
    subprocess.run(["bash", str(script)], env=environment, timeout=300, capture_output=True)
    return json.loads((root / "results" / "results.json").read_text())


def test_gradescope_gets_results_even_if_the_grader_cannot_start(tmp_path):
    (tmp_path / "run").write_text(gradescope.RUN)
    page = run_autograder(tmp_path, tmp_path / "run", "/no/such/python")
    assert page["score"] == 0 and "The grader failed" in page["output"]


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(
    ("limit", "enough"), [(768 << 20, False), (2 << 30, True), ("max", True), (2**63 - 4096, True)]
)
def test_too_little_memory_is_told_to_the_staff(tmp_path, file, limit, enough):
    """Gradescope's own 768 MB would kill right submissions, and give them 0 points."""
    (tmp_path / "memory").mkdir()
    (tmp_path / file).write_text(f"{limit}\n")
    (tmp_path / "run").write_text(gradescope.RUN)
    page = run_autograder(tmp_path, tmp_path / "run", "/no/such/python", str(tmp_path))
    assert page["score"] == 0 and page["output"].startswith("The grader failed, not your subm")
    assert ("Give it 2 GB" not in page["output"]) == enough


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["Landlock", "seccomp"])
def test_where_no_sandbox_can_be_had_the_staff_is_told_and_nothing_graded(
    tmp_path, gradescopes_grader, gone
):
    """As in a container that forbids one of the two."""
    (tmp_path / "source").symlink_to(gradescopes_grader)
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "rewards.py").write_text(attacks.SOLUTION)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/without.py "$@"\n')
    python.chmod(0o755)
    (tmp_path / "without.py").write_text(WITHOUT.format(gone=gone))
    page = run_autograder(tmp_path, gradescopes_grader / "run_autograder", python)
    said = "The grader failed, not your submission. Tell the staff: no sandbox for files, "
    assert page["score"] == 0 and page["output"].startswith(said) and page["tests"] == []
    assert "Landlock and seccomp" in page["output"] and "\n" not in page["output"]


WITHOUT = """
import errno, os, sys
import pyseccomp as s
rules = s.SyscallFilter(s.ALLOW)
if "{gone}" == "Landlock":  # landlock_create_ruleset, _add_rule, _restrict_self
    for call in (444, 445, 446):
        rules.add_rule(s.ERRNO(errno.ENOSYS), call)
else:  # seccomp(2), and prctl(PR_SET_SECCOMP)
    rules.add_rule(s.ERRNO(errno.EPERM), "seccomp")
    rules.add_rule(s.ERRNO(errno.EPERM), "prctl", s.Arg(0, s.EQ, 22))
rules.load()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
