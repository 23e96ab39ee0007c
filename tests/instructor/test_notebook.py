"""The notebook runs from top to bottom, alone in a folder; its first cell fetches the rest."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest

import kl_lab
from engine.common import ROOT
from engine.course.hints import HINTS
from instructor.handout import notebook_file
from instructor.handout.student_copy import solution_lines

MARKED = re.compile(r"Exercise (\w+): .*\((core|optional)\)")


def whole_text():
    """The sources of all cells."""
    return "\n".join(cell.source for cell in notebook_file.notebook().cells)


def first_cell(repo=""):
    """The source of the first two cells, which fetch the exercise."""
    book = notebook_file.notebook(repo=repo)
    address, fetch, *_ = [cell for cell in book.cells if cell.cell_type == "code"]
    assert fetch.metadata.jupyter.source_hidden and "source_hidden" not in str(address.metadata)
    return f"{address.source}\n{fetch.source}"


@pytest.fixture
def run_first_cell(tmp_path, monkeypatch):
    """Run the first cell in an empty folder; returns what pip was asked for."""
    installed = []
    real = subprocess.run

    def run(command, **options):
        if "pip" not in command:
            return real(command, **options)
        installed.extend(command[command.index("--quiet") + 1 :])
        return subprocess.CompletedProcess(command, 0, "", "")

    def run_cell(repo=""):
        here = tmp_path / "alone"
        here.mkdir(exist_ok=True)
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(subprocess, "run", run)
        exec(compile(first_cell(repo), "cell", "exec"), {"__name__": "__main__"})
        return installed

    return run_cell


def small_exercise(folder):
    folder.mkdir()
    (folder / "train.py").write_text("")
    packages = ["numpy==0.1", "no_such_package==1.0", "trl==0.1"]
    (folder / "pyproject.toml").write_text(f"[project]\ndependencies = {packages}\n")
    return folder


def make_repository(folder):
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    return f"file://{folder}"


def test_without_an_address_the_first_cell_says_in_one_line_what_to_do(run_first_cell):
    with pytest.raises(
        Exception, match="Put this notebook into the folder of the exercise"
    ) as stop:
        run_first_cell()
    (line,) = stop.value._render_traceback_()  # what Jupyter shows
    assert line == str(stop.value) and "\n" not in line


@pytest.mark.parametrize("kind", ["git", "zip"])
def test_the_first_cell_fetches_and_installs_what_is_missing(
    kind, run_first_cell, tmp_path, capsys
):
    folder = small_exercise(tmp_path / "course")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "course.zip", "w") as archive:
            for path in folder.iterdir():
                archive.write(path, f"course/{path.name}")
        repo = f"file://{tmp_path}/course.zip"
    else:
        repo = make_repository(folder)
    # numpy stays as it is, whatever its version; trl must be the one that the code is written for
    assert run_first_cell(repo) == ["no_such_package==1.0", "trl==0.1"]
    where = os.getcwd()
    assert os.path.exists("train.py") and sys.path[0] == where
    assert where.startswith(str(tmp_path / "alone" / "course"))
    assert capsys.readouterr().out.endswith(f"The exercise is in {where}\n")
    run_first_cell(repo)  # again, in the folder where the notebook lies: nothing to fetch
    assert os.getcwd() == where


@pytest.mark.parametrize("name", ["gone", "gone.zip"])
def test_an_address_that_leads_nowhere(name, run_first_cell, tmp_path):
    with pytest.raises(Exception, match=f"Cannot fetch file://.*{name}") as stop:
        run_first_cell(f"file://{tmp_path}/{name}")
    assert stop.value._render_traceback_() == [str(stop.value)]


def test_beside_its_files_the_notebook_installs_nothing(run_first_cell, tmp_path, capsys):
    small_exercise(tmp_path / "alone")
    assert run_first_cell() == []
    said = capsys.readouterr().out
    assert "Not here: no_such_package==1.0, trl==0.1. Run: pip install -r requirements.txt" in said


def test_of_a_github_address_there_is_a_badge():
    link = "https://colab.research.google.com/github/o/n/blob/main/exercise.ipynb"
    for repo in ("https://github.com/o/n", "https://github.com/o/n.git", "https://github.com/o/n/"):
        source = notebook_file.notebook(repo=repo).cells[0].source
        assert source.startswith("[![Open in Colab](https://") and f"({link})" in source
        assert f'REPO = "{repo}"' in first_cell(repo)
    for repo in ("", "https://gitlab.com/o/n", "https://example.org/course.zip"):
        assert "colab.research" not in notebook_file.notebook(repo=repo).cells[0].source


def test_hints_are_folded_one_into_the_other():
    text = whole_text()
    assert text.count("<details><summary>Hint 1 of 3: a question</summary>") == len(HINTS)
    assert text.count("<details>") == text.count("</details>") == 3 * len(HINTS)
    assert "{hints" not in text


def test_times_stand_in_headings_that_are_there(monkeypatch):
    monkeypatch.setattr(notebook_file, "TIMES", {"Training": 100, "Bonus (optional)": 2})
    text = whole_text()
    assert "\n## Training · 2 minutes\n" in text and "\n## Bonus (optional) · 2 s\n" in text
    assert "take 2 minutes of" in text and "{" not in text.split("## The sentiment")[0][:2500]
    monkeypatch.undo()
    titles = re.findall(r"^# ## (.*)$", notebook_file.source_text(), re.MULTILINE)
    assert set(notebook_file.TIMES) <= set(titles)


def test_times_are_read_from_an_executed_notebook():
    def cell(began, ended):
        when = {"iopub.status.busy": f"{began}Z", "iopub.status.idle": f"{ended}Z"}
        return nbformat.v4.new_code_cell("", metadata={"execution": when})

    day = "2026-01-01T10:00"
    cells = [
        cell(f"{day}:00.000000", f"{day}:01.500000"),
        nbformat.v4.new_markdown_cell("## Training · 9 s\n\ntext"),
        cell(f"{day}:02.000000", f"{day}:04.250000"),
        nbformat.v4.new_markdown_cell("### part of it"),
        cell(f"{day}:58.000000", "2026-01-01T10:01:00.000000"),
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    assert notebook_file.measured_times(book) == {"Start": 1.5, "Training": 4.25}


def test_headings_say_what_is_core_and_what_is_optional():
    """As the opening does: core are 1, 3b and 4, which is 4a and 4b."""
    opening, _, text = whole_text().partition("## The sentiment model")
    assert "**Core, about three hours of yours:** exercises 1, 3b and 4," in opening
    headings = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    marks = {name: mark for h in headings for name, mark in MARKED.findall(h)}
    core = {name for name, mark in marks.items() if mark == "core"}
    assert core == {"1", "3b", "4", "4a", "4b"}
    assert set(marks) - core == {"2", "3a", "3c"}
    for title in ("Collapse (core)", "Comparing (core)", "Bonus (optional)"):
        assert any(heading.startswith(title) for heading in headings)
    for run in ("none", "forward", "weak", "strong", "hacked"):
        mark = re.findall(r"^##.*\((core|optional)\)", text.partition(f'run("{run}"')[0], re.M)[-1]
        assert f"`{run}`" in opening and mark == "core"


def test_what_exercise_3b_asks_for_is_not_shown_before_it(capsys):
    """The lab's table gives it away: of all numbers, k1 alone has a pull of +1.00."""
    before, exercise, _ = whole_text().partition("### Exercise 3b")
    assert exercise and "kl_lab.costs(own)" in before
    assert not re.search(r"kl_lab\.(penalties|places)|k1|-\\log r", before)
    nothing = kl_lab.costs({})
    shown = {line.get_label() for line in nothing.axes[0].lines}
    assert {"k2 = ½ log² r", "r·log r"} <= shown and not capsys.readouterr().out
    right = [line for line in nothing.axes[0].lines if rises_through_0(line)]
    assert not right
    own = {"kl_penalty_forward": kl_lab.Candidate("forward", lambda q, p: q - p)}
    (mine,) = [line for line in kl_lab.costs(own).axes[0].lines if rises_through_0(line)]
    assert mine.get_label() == "kl_penalty_forward"


def rises_through_0(line):
    """Whether a line of log q − log p is below 0 on the left of 0 and above it on the right."""
    found = list(zip(*line.get_data()))
    return len(found) > 2 and all((y > 0) == (x > 0) for x, y in found if abs(x) > 1e-9)


def test_no_hint_holds_a_piece_of_the_solution():
    hints = "".join(re.sub(r"\s", "", text) for texts in HINTS.values() for text in texts)
    pieces = {re.sub(r"\s", "", line) for line in solution_lines()}
    pieces |= {piece.split("=", 1)[-1] for piece in pieces}  # what is assigned
    pieces |= {"q-p", "q−p", "1-ratio", "1−r", "1-r"}
    assert not [piece for piece in pieces if len(piece) > 2 and piece in hints]


SMALL = {  # what the notebook says -> what is enough to try each cell
    "STEPS = 24": "STEPS = 1",
    "TRAIN_PROMPTS * 4": "TRAIN_PROMPTS",
    "reward=True, steps=60": "reward=True, steps=1",
    "num_samples=4": "num_samples=2",
    "VALIDATION_PROMPTS, base_model, 4,": "VALIDATION_PROMPTS, base_model, 2,",
}


@pytest.mark.slow
@pytest.mark.parametrize("solved", [True, False])
def test_the_notebook_runs_from_top_to_bottom_alone_in_a_folder(tmp_path, student_copy, solved):
    folder = shutil.copytree(student_copy, tmp_path / "course")
    if solved:
        shutil.copy(ROOT / "rewards_solution.py", folder)
    (tmp_path / "alone").mkdir()
    book = notebook_file.notebook(solution=solved, repo=make_repository(folder))
    for said, small in SMALL.items():
        (cell,) = [cell for cell in book.cells if said in cell.source]
        cell.source = cell.source.replace(said, small)
    notebook_file.execute(book, tmp_path / "alone")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["course"]
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert ("Not yet: Exercise 3b: implement kl_penalty_forward" in text) is not solved
    assert ("Not yet" in text) is not solved and "Cannot fetch" not in text
    (titles,) = [line.split() for line in text.splitlines() if line.startswith("metric  ")]
    others = ["forward", "exponential", "backward"] if solved else []
    assert titles == ["metric", "base", "none", *others, "hacked"]
    for row in ("repeated 3-grams", "distinct 2-grams", "self-BLEU-4", "judge"):
        assert re.search(rf"^{row} +\d", text, re.MULTILINE)
    assert (re.search(r"kl_penalty_forward +\+0\.\d{4} +[+-]0\.0000", text) is not None) is solved
    pictures = [output for output in outputs if "image/png" in output.get("data", ())]
    assert len(pictures) == (11 if solved else 9)  # two are drawn by exercise 4
