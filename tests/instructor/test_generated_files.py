"""rewards.py and exercise.ipynb are made from the solution, and the notebook runs."""

import re
import shutil

import nbformat
import pytest

from engine.common import ROOT
from instructor.handout import notebook_file
from instructor.handout.rewards_file import student_text


def test_student_file_is_generated_from_the_solution():
    solution = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    student = (ROOT / "rewards.py").read_text(encoding="utf-8")
    assert student == student_text(solution)
    assert student.count("raise NotImplementedError") == 6
    assert "SOLUTION" not in student


def test_the_notebook_is_generated_and_has_no_outputs():
    book = nbformat.read(ROOT / "exercise.ipynb", as_version=4)
    assert book == notebook_file.notebook()
    assert all(not cell.outputs for cell in book.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("solved", [True, False])
def test_the_notebook_runs_from_top_to_bottom(tmp_path, solved):
    folder = tmp_path / "copy"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "outputs*", "__pycache__"))
    book = notebook_file.notebook(solution=solved)
    for cell in book.cells:
        cell.source = cell.source.replace("STEPS = 40", "STEPS = 2")
    notebook_file.execute(book, folder)
    text = "".join(o.text for c in book.cells for o in c.get("outputs", ()) if "text" in o)
    assert ("Not yet: Exercise 3b: implement kl_penalty_forward" in text) is not solved
    assert (re.search(r"kl_penalty_forward +\+0\.\d{4} +\+0\.0000", text) is not None) is solved
    pictures = [
        o for c in book.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", ())
    ]
    assert len(pictures) == 7
