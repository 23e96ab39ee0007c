"""What the instructor's pages say can be done: commands start, options and files exist."""

import re
import subprocess
import sys

import pytest

from engine.common import ROOT
from instructor.handout.pages import LINK, named_files
from instructor.handout.student_copy import MOVED

PAGES = sorted((ROOT / "instructor").rglob("*.md"))
IN_THE_COPY = set(MOVED.values())  # of students
OTHERS = re.compile("NAME|USER|submission_metadata")  # files of students and of platforms


def ids(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    paths = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.rglob("*")]
    paths = [path for path in paths if not path.startswith("/.venv/")]
    for name in named_files(text):
        if name not in IN_THE_COPY and not OTHERS.search(name):
            assert any(path.endswith(f"/{name}") for path in paths), name
    for target, _ in LINK.findall(text):
        assert "://" in target or (page.parent / target).exists(), target


def commands():
    """(page, program, its options) of every `python …` on the pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for program, rest in re.findall(
            r"python ((?:-m )?[\w./]+)([^\n`#]*)", text.replace("\\\n", " ")
        ):
            found.append((ids(page), program, tuple(re.findall(r"--\w+", rest))))
    return sorted(set(found))


@pytest.mark.parametrize("page, program, options", commands())
def test_every_command_of_a_page_exists(page, program, options):
    command = [sys.executable, *program.split(), "--help"]
    if program == "-m pytest":
        assert set(options) <= {"--student"}
        return
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in options)


def test_the_options_of_the_grader_are_those_of_the_table():
    text = (ROOT / "instructor" / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "instructor" / "grade.py"), "--help"],
        capture_output=True,
        text=True,
    )
    known = set(re.findall(r"--\w+", done.stdout)) - {"--help"}
    table = text.split("| option |")[1].split("\n\n")[0]
    rest = {"--out"}  # stands in the command above the table
    assert set(re.findall(r"--\w+", table)) | rest == known
