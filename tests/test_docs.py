"""What the pages say is true of the program: options, files, links, commands, tests, headings.

In a student's copy CONTRIBUTING.md and everything of the instructor's are missing; the README is a
shorter one there, and AGENTS.md another one.
"""

import contextlib
import functools
import html
import io
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

from engine.common import ROOT
from engine.measuring.tables import validation_header
from engine.options import FIELDS, PRESETS

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
RESULTS = ("docs/results.md", "docs/samples.md", "docs/appendix.md")
FOR_STUDENTS = [page for page in PAGES if page not in RESULTS]
if (ROOT / "CONTRIBUTING.md").exists():
    PAGES += ["AGENTS.md", "CONTRIBUTING.md"]
WITHHELD = (
    "rewards_solution.py",
    "CONTRIBUTING.md",
    "exercise_solved.ipynb",
    "instructor/",
    "results.md",
    "samples.md",
    "appendix.md",
)
FOLDERS = ("benchmarks", "cases", "docs", "engine", "launch", "tests", "tiny")
LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")
FILE = re.compile(r"(?<![\w./-])(?:[\w.-]+/)*[\w-]+\.(?:py|md|ipynb|yaml|toml|txt)(?![\w/])")
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
COMMAND = re.compile(r"python (-m )?([\w./]+)((?: [^\n`#&|]*)?)")


def read(name):
    """The text of a page of this copy."""
    if not (ROOT / name).exists():
        pytest.skip(f"{name} is not part of a student's copy")
    return (ROOT / name).read_text(encoding="utf-8")


def code_of(text):
    """What stands in the blocks of code and in the backticks of a page, one part a line."""
    block = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
    return "\n".join([*block.findall(text), *re.findall(r"`([^`\n]+)`", block.sub("", text))])


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def option_row(name, field):
    """The row of an option in docs/options.md."""
    text, choices = field.metadata["help"], field.metadata["choices"]
    text += f". One of: {', '.join(choices)}" if choices else ""
    off = field.default is None or field.default is False
    return f"| `--{name}` | {text}{'' if off else f'. Default: `{field.default}`'} |"


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 170


def test_the_option_table_is_that_of_the_program():
    rows = re.findall(r"^\| `--.*", read("docs/options.md"), re.MULTILINE)
    hidden = set() if (ROOT / "rewards_solution.py").exists() else {"use_solution"}
    told = {name: field for name, field in FIELDS.items() if name not in hidden}
    assert rows == [option_row(name, field) for name, field in told.items()]


def test_every_preset_is_described():
    text = read("docs/options.md")
    assert all(f"- **`{name}`**" in text for name in PRESETS)
    assert f"| option | {' | '.join(PRESETS)} |" in text
    for name in {*PRESETS["tiny"]} - {"model_name", "sentiment_model"}:
        values = [str(preset.get(name, FIELDS[name].default)) for preset in PRESETS.values()]
        assert f"| {name} | {' | '.join(values)} |" in text


def test_the_validation_table_has_the_columns_of_the_program():
    assert validation_header() in read("README.md").splitlines()


def test_the_picture_of_the_terminal_shows_the_rows_of_the_readme():
    """All of them, and nothing of the progress bars, which a terminal has wiped away by the end."""
    picture = html.unescape(read("docs/run.svg")).replace("\xa0", " ")
    rows = re.findall(r"^ +\d+ +\d\.\d+ ±.*$", read("README.md"), re.MULTILINE)
    assert len(rows) == 5
    assert all(row in picture for row in rows)
    assert "━" not in picture
    assert "The model is in" in picture and " s. The model" not in picture  # README has the time


def test_every_test_that_a_fault_names_is_one_that_students_get():
    files = [p for p in (ROOT / "tests").rglob("*.py") if "instructor" not in p.parts]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    named = re.findall(r"`(test_\w+)(…|\.py)?`", read("docs/faults.md") + read("docs/processes.md"))
    assert len(named) > 15
    for name, rest in named:
        if rest == ".py":
            assert f"{name}.py" in {path.name for path in files}
        else:
            assert f"def {name}{'' if rest else '('}" in source, name


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target, anchor in LINK.findall(read(page)):
        if "://" in target:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), anchor


@functools.cache
def file_names():
    """The names of all files, wherever they lie."""
    return {path.name for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_folder_that_a_page_names_exists(page):
    """A name with a folder is a path from the root; a name alone may lie in any folder."""
    text = read(page)
    for name in FILE.findall(code_of(text)):
        assert (ROOT / name).is_file() if "/" in name else name in file_names(), name
    for name in FOLDER.findall(text):
        assert (ROOT / name).is_dir() or name.startswith("outputs/"), name


def test_every_program_of_the_root_folder_and_every_folder_is_in_the_list_of_the_readme():
    block = read("README.md").partition("## Where things are")[2].split("```")[1]
    listed = [re.split(r" {2,}", line)[0].split(", ") for line in block.strip().splitlines()]
    names = {path.name for path in ROOT.glob("*.py")} - {"rewards_solution.py"}
    names |= {f"{name}/" for name in FOLDERS if (ROOT / name).is_dir()}
    assert names <= {name for line in listed for name in line}


@pytest.mark.parametrize("page", FOR_STUDENTS)
def test_what_students_do_not_get_is_named_only_where_they_do_not_read(page):
    text = read(page)
    if page == "README.md":
        text = text[text.index("## The exercises") :]
        text = re.sub(r"(?ms)^## For instructors\n.*?(?=^## )", "", text)
    named = code_of(text) + "".join(target for target, _ in LINK.findall(text))
    assert not [name for name in WITHHELD if name in named]


@functools.cache
def help_of(path, *subcommand):
    """What a program of this repository prints when asked for help."""
    out, before = io.StringIO(), (sys.argv, list(sys.path))
    sys.argv = [path.name, *subcommand, "--help"]
    sys.path.insert(0, str(path.parent))  # as Python does for a program
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
    return out.getvalue()


def commands(text):
    """(file, its words) of every `python …` and `accelerate launch …` in the code of a page."""
    code = code_of(text).replace("\\\n", " ")
    for module, program, rest in COMMAND.findall(code):
        if program == "venv":  # of Python itself
            continue
        path = ROOT / program
        if module:
            path = ROOT / program.replace(".", "/")
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        yield (None if module and program == "pytest" else path), rest.split()
    for config, program, rest in re.findall(
        r"accelerate launch --config_file (\S+) (\S+\.py)([^\n`#]*)", code
    ):
        assert (ROOT / config).exists()
        yield ROOT / program, rest.split()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_given(page):
    for path, words in commands(read(page)):
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        if path is None:  # pytest
            assert flags <= {"--student"}
            continue
        assert path.is_file(), path
        if flags:
            asked = words[:1] if path.name == "evaluate.py" else []
            known = set(re.findall(r"--\w+", help_of(path, *asked)))
            assert flags <= known, (path.name, flags - known)


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_and_every_marker_exists(page):
    text = read(page)
    programs = [ROOT / "engine" / "options.py", ROOT / "evaluate.py"]
    programs += (ROOT / "benchmarks").glob("*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in programs)
    known = {*FIELDS, *re.findall(r'"--(\w+)"', source)}
    others = {"help", "student", "config_file", "check", "hint", "logdir"}  # of other programs
    others |= {"extra-index-url", "find-links", "no-index", "only-binary", "torch-backend"}
    others |= {"group", "no-sync"}  # of uv
    others |= {"machine_rank", "main_process_ip", "num_processes"}  # of accelerate launch
    code = "\n".join(line for line in code_of(text).splitlines() if "instructor" not in line)
    assert set(re.findall(r"(?<![\w-])--([\w-]+)", code)) <= known | others
    markers = tomllib.loads(read("pyproject.toml"))["tool"]["pytest"]["ini_options"]["markers"]
    named = set(re.findall(r"-m (exercise\w+|slow|bonus)", code))
    assert named <= {marker.partition(":")[0] for marker in markers}


def test_pictures_are_shown():
    shown = {
        target
        for page in PAGES
        if (ROOT / page).exists()
        for target in re.findall(r"!\[[^\]]+\]\((.+)\)", read(page))
    }
    assert {Path(name).name for name in shown} == {
        p.name for p in (ROOT / "docs").glob("*.[ps][nv]g")
    }
