"""Every program of the instructor says what it does and, asked for help, writes nothing."""

import hashlib
import os
import subprocess
import sys

import pytest

from engine.common import ROOT

FRONTS = {
    "grade": ["instructor/grade.py"],
    "release": ["instructor/release.py"],
    "autograder": ["instructor/autograder.py"],
    "tiny.build": ["-m", "tiny.build"],
    "rewards_file": ["-m", "instructor.handout.rewards_file"],
    "notebook_file": ["-m", "instructor.handout.notebook_file"],
    "trained_models": ["-m", "instructor.grading.trained_models"],
    "mutants": ["-m", "instructor.proof.mutants"],
}


def start(name, *arguments):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *FRONTS[name], *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def state():
    """What a program could have changed: the files of the root folder, and when."""
    files = [*ROOT.iterdir(), *(ROOT / "instructor").rglob("*"), *(ROOT / "tiny").rglob("*")]
    files = [path for path in files if path.is_file() and path.suffix != ".pyc"]
    return {
        path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


@pytest.mark.parametrize("name", FRONTS)
def test_help_is_printed_and_nothing_is_written(name):
    before = state()
    done = start(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ") and name in done.stdout
    assert done.stderr == ""
    assert state() == before


@pytest.mark.parametrize("name", sorted({*FRONTS} - {"tiny.build"}))  # which asks for its corpus
def test_an_unknown_option_is_one_line(name):
    before = state()
    done = start(name, "--no-such-option")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--help" in done.stderr
    assert state() == before


@pytest.mark.parametrize("name", FRONTS)
def test_help_needs_no_torch(name):
    command = [sys.executable, "-X", "importtime", *FRONTS[name], "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not {"torch", "transformers"} & imported
