"""Gradescope: one submission at a time, and the zip that does it there."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from grading_help import grader, put

from instructor.grading import gradescope
from instructor.handout.student_copy import find_leaks
from instructor.proof import attacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.mark.slow
def test_gradescope_grades_one_submission(tmp_path):
    put(tmp_path, "submission", attacks.SOLUTION)
    (tmp_path / "submission" / "notes.txt").write_text("hello")
    done = grader(tmp_path / "submission", "--out", tmp_path / "results", "--gradescope")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results" / "results.json").read_text())["score"] == 100


@pytest.mark.slow
@pytest.mark.parametrize("source, points", [(attacks.SOLUTION, 100), (None, 0)])
def test_the_zip_for_gradescope_grades(tmp_path, source, points):
    """Unpacked and run as Gradescope does it, but with the packages of this environment."""
    gradescope.main([str(tmp_path / "a.zip")])
    shutil.unpack_archive(tmp_path / "a.zip", tmp_path / "source")
    assert find_leaks(tmp_path / "source") == []
    assert not list((tmp_path / "source").rglob("*solution*"))
    for folder in ("submission", "results"):
        (tmp_path / folder).mkdir()
    if source:
        (tmp_path / "submission" / "rewards.py").write_text(source)
    run = tmp_path / "source" / "run_autograder"
    environment = {**os.environ, "AUTOGRADER_ROOT": str(tmp_path), "PYTHON": sys.executable}
    subprocess.run(["bash", str(run)], env=environment, timeout=300, capture_output=True)
    page = json.loads((tmp_path / "results" / "results.json").read_text())
    assert page["score"] == points
    if not source:
        assert "there is no submission" in page["output"]


def test_gradescope_gets_results_even_if_the_grader_cannot_start(tmp_path):
    (tmp_path / "run").write_text(gradescope.RUN)
    environment = {**os.environ, "AUTOGRADER_ROOT": str(tmp_path), "PYTHON": "/no/such/python"}
    subprocess.run(["bash", str(tmp_path / "run")], env=environment, capture_output=True)
    page = json.loads((tmp_path / "results" / "results.json").read_text())
    assert page["score"] == 0 and "The grader failed" in page["output"]
