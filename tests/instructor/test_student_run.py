"""What a student sees of `pytest --student`: in a copy of the repository with their own file."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from engine.common import ROOT
from instructor.proof.attacks import SOLUTION, with_bodies
from instructor.proof.mutants import with_body

pytestmark = pytest.mark.slow
TODO = 'raise NotImplementedError("{}: implement {}")'


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "copy"
    ignored = shutil.ignore_patterns(".*", "outputs*", "__pycache__", "instructor", "*.ipynb")
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


def student_tests(folder, source):
    """(exit status, output) of `pytest --student` with this rewards.py."""
    (folder / "rewards.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--student", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_all_exercises_without_the_bonus_are_green(copy):
    todo = TODO.format("Bonus", "my_custom_reward")
    status, shown = student_tests(copy, with_body(SOLUTION, "my_custom_reward", todo))
    assert status == 0, shown
    assert "the bonus is optional" in shown and "failed" not in shown


def test_a_syntax_error_is_one_line(copy):
    source = SOLUTION.replace("import math", "import math\ndef broken(:\n", 1)
    status, shown = student_tests(copy, source)
    lines = [line for line in shown.splitlines() if line.strip()]
    assert status == 1 and len(lines) == 1, shown
    assert "rewards.py cannot be imported: SyntaxError: invalid syntax (rewards.py, line" in shown


def test_what_is_left_or_wrong_is_red_once(copy):
    """An exercise that is still to do, one wrong form, an endless loop, a false example, and what
    torch cannot do, which is an error of the same kind as a TODO."""
    source = with_bodies(
        kl_penalty_forward=TODO.format("Exercise 3b", "kl_penalty_forward"),
        kl_penalty_backward="""
            q, p = torch.as_tensor(policy_log_probs), torch.as_tensor(ref_log_probs)
            return kl_coef * (q - p).sum()
        """,
        shaped_reward="""
            while True:
                try:
                    scores = scores + []
                except Exception:
                    pass
        """,
        group_advantages="return torch.arange(len(rewards)).log_softmax(0)",
    )
    source = source.replace("    -16.6355\n", "    -16.6356\n")
    status, shown = student_tests(copy, source)
    reports, _, summary = shown.partition("short test summary")
    assert status == 1 and "5 failed" in summary, shown
    assert "to do: Exercise 3b: implement kl_penalty_forward" in reports
    assert reports.count("returned one number for") == 1
    endless = r"longer than 10 seconds \(rewards.py, line \d+\): an endless loop\?"
    assert len(re.findall(rf"happened     it took {endless}", reports)) == 1
    assert "compute_ref_log_probs: the example in its docstring" in reports
    assert re.search(r"NotImplementedError: .* for 'Long' \(rewards.py, line \d+\)", reports)
    assert reports.count("to do:") == 1
    assert len(reports.splitlines()) < 60


def with_a_students_packages(*words):
    """(exit status, output) of pytest in this repository, without what only developers install."""
    developers = ["hypothesis", "nbclient", "nbformat", "pyseccomp", "wandb"]
    code = f"import sys; sys.modules.update(dict.fromkeys({developers})); import pytest;"
    code += f"sys.exit(pytest.main({['-p', 'no:cacheprovider', *words]}))"
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # Hypothesis has one
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_a_student_needs_nothing_that_developers_install():
    status, shown = with_a_students_packages("--student", "-m", "exercise3a")
    assert status == 1 and "to do: Exercise 3a" in shown and "rror" not in shown, shown


def test_the_whole_suite_says_what_it_needs():
    status, shown = with_a_students_packages()
    assert status == 4 and "pip install -r requirements-dev.txt" in shown
    assert "python -m pytest --student" in shown and shown.count("\n") <= 2
