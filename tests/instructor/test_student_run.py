"""What a student sees of `pytest --student`: in a copy of the repository with their own file."""

import re
import shutil
import subprocess
import sys

import pytest

from engine.common import ROOT
from instructor.proof.mutants import with_body

SOLUTION = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
TODO = 'raise NotImplementedError("{}: implement {}")'


def student_tests(folder, source):
    """(exit status, output) of `pytest --student` with this rewards.py."""
    ignored = shutil.ignore_patterns(".*", "outputs*", "__pycache__", "instructor", "*.ipynb")
    shutil.copytree(ROOT, folder, ignore=ignored)
    (folder / "rewards.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--student", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_all_exercises_without_the_bonus_are_green(tmp_path):
    source = with_body(SOLUTION, "my_custom_reward", TODO.format("Bonus", "my_custom_reward"))
    status, shown = student_tests(tmp_path / "copy", source)
    assert status == 0, shown
    assert "the bonus is optional" in shown and "failed" not in shown


@pytest.mark.slow
def test_an_exercise_that_is_left_is_red(tmp_path):
    todo = TODO.format("Exercise 3b", "kl_penalty_forward")
    source = with_body(SOLUTION, "kl_penalty_forward", todo)
    status, shown = student_tests(tmp_path / "copy", source)
    assert status == 1 and "to do: Exercise 3b: implement kl_penalty_forward" in shown
    assert shown.count("to do: Exercise") >= 1 and "1 failed" in shown


@pytest.mark.slow
def test_a_syntax_error_is_one_line(tmp_path):
    source = SOLUTION.replace("import math", "import math\ndef broken(:\n", 1)
    status, shown = student_tests(tmp_path / "copy", source)
    lines = [line for line in shown.splitlines() if line.strip()]
    assert status == 1 and len(lines) == 1, shown
    assert "rewards.py cannot be imported: SyntaxError: invalid syntax (rewards.py, line" in shown


@pytest.mark.slow
def test_one_wrong_form_is_told_once(tmp_path):
    body = """
        q, p = torch.as_tensor(policy_log_probs), torch.as_tensor(ref_log_probs)
        return kl_coef * (q - p).sum()
    """
    source = with_body(SOLUTION, "kl_penalty_forward", body)
    status, shown = student_tests(tmp_path / "copy", source)
    told, _, summary = shown.partition("short test summary")
    assert status == 1 and "1 failed" in summary
    assert told.count("returned one number for") == 1 and len(told.splitlines()) < 20


@pytest.mark.slow
def test_an_endless_loop_is_interrupted_once(tmp_path):
    body = """
        while True:
            try:
                policy_log_probs = policy_log_probs + 0
            except Exception:
                pass
    """
    source = with_body(SOLUTION, "kl_penalty_forward", body)
    status, shown = student_tests(tmp_path / "copy", source)
    told, _, summary = shown.partition("short test summary")
    assert status == 1 and "1 failed" in summary
    message = (
        r"happened     it took longer than 10 seconds \(rewards.py, line \d+\): an endless loop\?"
    )
    assert len(re.findall(message, told)) == 1


@pytest.mark.slow
def test_the_examples_of_the_docstrings_run(tmp_path):
    source = SOLUTION.replace("    -16.6355\n", "    -16.6356\n")
    status, shown = student_tests(tmp_path / "copy", source)
    assert status == 1 and "1 failed" in shown
    assert "compute_ref_log_probs: the example in its docstring" in shown
