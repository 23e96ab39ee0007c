"""What the instructor's pages say can be done: commands start, options and files exist."""

import contextlib
import io
import re
import runpy
import sys

import pytest

from engine.common import ROOT
from instructor.handout.pages import OPENING, dead_references
from instructor.handout.student_copy import MOVED

PAGES = sorted((ROOT / "instructor").rglob("*.md"))
IN_THE_COPY = set(MOVED.values())  # of students
OTHERS = re.compile(
    r"NAME|USER|LOGIN|TIME|submission_metadata|\.py\.txt"
)  # files of students and of platforms


def test_every_file_that_a_page_names_exists():
    # The links of the opening are those of the copy, where test_handout.py follows them.
    pages = [page for page in PAGES if page != OPENING]
    dead = {name for _, name in dead_references(ROOT, pages)} - IN_THE_COPY
    assert [name for name in dead if not OTHERS.search(name)] == []


def options_of(program):
    """The options in the `--help` of a program, which runs in this process."""
    name = program.removeprefix("-m ")
    run = runpy.run_path if name == program else runpy.run_module
    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as end:
            run(name, run_name="__main__")
    assert not end.value.code
    return set(re.findall(r"--\w+", shown.getvalue()))


def commands():
    """{program: the options that the pages give to it}, of every `python …` on them."""
    found = {"-m pytest": set()}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for program, rest in re.findall(r"python ((?:-m )?[\w./]+)([^\n`#]*)", text):
            found.setdefault(program, set()).update(re.findall(r"--\w+", rest))
    return found


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_of_a_page_exists():
    assert commands().pop("-m pytest") <= {"--student"}
    for program, options in commands().items():
        if program != "-m pytest":
            assert options <= options_of(program), program


def test_the_options_of_the_grader_are_those_of_the_table():
    text = (ROOT / "instructor" / "README.md").read_text(encoding="utf-8")
    table = text.split("| option |")[1].split("\n\n")[0]
    in_the_command_above = {"--out"}
    listed = set(re.findall(r"--\w+", table)) | in_the_command_above
    assert listed == options_of("instructor/grade.py") - {"--help"}
