"""Every program of the instructor says what it does and, asked for help, writes nothing."""

import importlib
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
    "space": ["-m", "instructor.handout.space"],
    "mutants": ["-m", "instructor.proof.mutants"],
}
MAINS = [
    "instructor.grading.command",
    "instructor.grading.gradescope",
    "instructor.handout.student_copy",
    "instructor.handout.rewards_file",
    "instructor.handout.notebook_file",
    "instructor.handout.space",
    "instructor.proof.mutants",
]


def state():
    """What a program could have changed: the files of the root folder, and when."""
    files = [*ROOT.iterdir(), *(ROOT / "instructor").rglob("*"), *(ROOT / "tiny").rglob("*")]
    files = [path for path in files if path.is_file() and path.suffix != ".pyc"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.mark.parametrize("name", FRONTS)
def test_help_is_printed_without_torch_and_nothing_is_written(name):
    before = state()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *FRONTS[name], "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    lines = done.stderr.splitlines()
    assert all(line.startswith("import time:") for line in lines)
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "argparse" in imported and not {"torch", "transformers"} & imported
    assert state() == before


@pytest.mark.parametrize("name", MAINS)
def test_an_unknown_option_is_one_line(name, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--no-such-option"])
    shown = capsys.readouterr()
    assert end.value.code == 2 and shown.out == ""
    assert shown.err.count("\n") == 1 and "--help" in shown.err
