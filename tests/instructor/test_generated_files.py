"""What students get is made from its sources, and nothing was forgotten."""

import nbformat

from engine.common import ROOT
from instructor.handout.notebook_file import notebook
from instructor.handout.rewards_file import student_text


def test_student_file_is_generated_from_the_solution():
    solution = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    student = (ROOT / "rewards.py").read_text(encoding="utf-8")
    assert student == student_text(solution)
    assert student.count("raise NotImplementedError") == 8
    assert "SOLUTION" not in student


def test_the_notebook_is_generated_and_has_no_outputs():
    assert nbformat.read(ROOT / "exercise.ipynb", as_version=4) == notebook()


def test_the_solved_notebook_ran_the_cells_of_today():
    solved = nbformat.read(ROOT / "exercise_solved.ipynb", as_version=4)
    cells = notebook(solution=True).cells
    assert [cell.source for cell in solved.cells] == [cell.source for cell in cells]
    assert all(cell.execution_count for cell in solved.cells if cell.cell_type == "code")
