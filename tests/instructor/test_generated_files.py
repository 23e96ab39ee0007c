"""rewards.py is made from the solution."""

from engine.common import ROOT
from instructor.handout.rewards_file import student_text


def test_student_file_is_generated_from_the_solution():
    solution = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    student = (ROOT / "rewards.py").read_text(encoding="utf-8")
    assert student == student_text(solution)
    assert student.count("raise NotImplementedError") == 6
    assert "SOLUTION" not in student
