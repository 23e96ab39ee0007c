"""The copy that students get: nothing leaks, and it works."""

import json
import shutil
import sys

import pytest

from engine.common import ROOT
from instructor.grading.gradescope import torch_version
from instructor.handout import student_copy
from instructor.handout.pages import dead_references, student_page
from instructor.handout.student_copy import (
    find_leaks,
    main,
    released_files,
    run_tests,
    run_with_bar,
)


def test_a_leak_is_found(tmp_path):
    (tmp_path / "notes.txt").write_text("I think it is\n    per_token = q - p  # simple\n")
    (tmp_path / "book.ipynb").write_text(
        json.dumps({"cells": [{"source": ["per_token = 1 ", "- ratio"], "outputs": []}]})
    )
    (tmp_path / "fine.py").write_text("scores = get_sentiment_scores(completions)\n")
    assert sorted(find_leaks(tmp_path)) == [
        ("book.ipynb", "per_token = 1 - ratio"),
        ("notes.txt", "per_token = q - p"),
    ]


def test_release_refuses_to_overwrite(tmp_path):
    (tmp_path / "out.zip").write_text("")
    with pytest.raises(SystemExit, match="out.zip exists. Give another name"):
        main([str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == [tmp_path / "out.zip"]


def test_a_leak_stops_the_release(tmp_path, monkeypatch):
    monkeypatch.setattr(student_copy, "WITHHELD", set())
    with pytest.raises(SystemExit, match="Lines of the solution stand in the copy"):
        main([str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The copy, before its tests have run."""
    folder = tmp_path_factory.mktemp("copied")
    student_copy.copy_files(folder)
    return folder


def test_student_readme_has_its_own_opening_and_nothing_for_instructors(copied):
    text = (copied / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Teach GPT-2 to like movies: your copy")
    assert text.count("\n# ") == 0 and "## The exercises" in text
    for name in ("For instructors", "instructor/", "rewards_solution", "exercise_solved"):
        assert name not in text


def test_pages_of_the_copy_name_only_what_is_there(copied):
    assert dead_references(copied) == []


def test_a_dead_reference_is_found(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_inputs.py").write_text("")
    (tmp_path / "README.md").write_text(
        "[a](https://example.org/x.md) [b](docs/gone.md#part) [c](tests/test_inputs.py) and "
        "`test_inputs.py`, `answers.md`, `run.json`\n\n```bash\npython away.py --out x\n```\n"
    )
    cells = [{"cell_type": "markdown", "source": ["see `docs/", "away.md`"]}]
    cells.append({"cell_type": "code", "source": ["`not_looked_at.py`"]})
    (tmp_path / "work.ipynb").write_text(json.dumps({"cells": cells}))
    assert dead_references(tmp_path) == [
        ("README.md", "docs/gone.md"),
        ("README.md", "answers.md"),
        ("README.md", "away.py"),
        ("work.ipynb", "docs/away.md"),
    ]


def test_what_is_for_instructors_is_cut_wherever_it_stands():
    text = "# Old\n\n## The exercises\n\na\n\n## For instructors\n\nb\n"
    page = student_page(text, opening=True)
    assert page.endswith("## The exercises\n\na\n\n") and "your copy" in page
    assert student_page(f"{text}\n## Next\n\nc\n").endswith("a\n\n## Next\n\nc\n")


def test_what_is_withheld_is_not_in_the_copy(copied):
    names = {path.relative_to(copied).as_posix() for path in copied.rglob("*")}
    assert {"rewards.py", "engine/common.py", "cases/__init__.py", "tiny/gpt2"} <= names
    assert {f"engine/pages/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {path for path in names if "solution" in path or "instructor" in path} == set()
    assert not {"CONTRIBUTING.md", "exercise_solved.ipynb"} & names
    assert not {"docs/results.md", "docs/samples.md", "docs/optimum.png"} & names
    assert "--use_solution" not in (copied / "README.md").read_text(encoding="utf-8")
    assert released_files() == sorted(set(released_files()))


def test_coding_assistants_are_asked_to_tutor(copied):
    text = (copied / "AGENTS.md").read_text(encoding="utf-8")
    assert "do not solve" in text and "python rewards.py --hint 3b" in text
    assert not (ROOT / "AGENTS.md").exists()  # it would speak to those who develop this


def test_the_address_of_the_copy_is_written_into_it(tmp_path, copied):
    student_copy.copy_files(tmp_path, repo="https://github.com/o/n")
    link = "https://colab.research.google.com/github/o/n/blob/main/exercise.ipynb"
    book = json.loads((tmp_path / "exercise.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in book["cells"]]
    assert link in sources[0] and 'REPO = "https://github.com/o/n"' in sources[1]
    first_page, _, rest = (tmp_path / "README.md").read_text(encoding="utf-8").partition("\n## ")
    assert f"({link})" in first_page and link not in rest
    for name in ("README.md", "exercise.ipynb"):
        text = (copied / name).read_text(encoding="utf-8")
        assert "colab.research" not in text
    assert (copied / "exercise.ipynb").read_bytes() == (ROOT / "exercise.ipynb").read_bytes()


def test_an_address_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out"), "--repo", "github.com/o/n"])
    assert (
        "--repo takes an address such as https://github.com/OWNER/NAME" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_the_workflow_installs_the_torch_of_the_requirements(copied):
    workflow = (copied / ".github" / "workflows" / "classroom.yml").read_text(encoding="utf-8")
    assert f"torch=={torch_version()} " in workflow


@pytest.mark.slow
def test_a_released_copy_is_red_at_the_exercises_and_green_when_they_are_solved(tmp_path):
    main([str(tmp_path / "copy")])
    assert (tmp_path / "copy.zip").stat().st_size < 25e6
    names = {p.relative_to(tmp_path / "copy").as_posix() for p in (tmp_path / "copy").rglob("*")}
    assert not any("solution" in name or "instructor" in name for name in names)
    solution = ROOT / "rewards_solution.py"
    shutil.copyfile(solution, tmp_path / "copy" / "rewards.py")
    assert run_tests(tmp_path / "copy") == (set(), [])


def test_what_the_tests_of_the_copy_leave_behind_goes_away(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n\n\ndef test_it():\n"
        "    for name in ('.hypothesis', '.pytest_cache', '__pycache__'):\n"
        "        Path(name).mkdir(exist_ok=True)\n"
    )
    assert run_tests(tmp_path) == (set(), [])
    assert [path.name for path in tmp_path.iterdir()] == ["test_it.py"]


def test_what_pytest_said_is_kept_under_the_bar(tmp_path):
    code = "import sys; print('... [ 50%]'); print('bad', file=sys.stderr)"
    said = run_with_bar([sys.executable, "-c", code], tmp_path)
    assert sorted(said.splitlines()) == ["... [ 50%]", "bad"]
