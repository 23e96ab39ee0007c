import itertools
import math
from array import array
from collections import deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas
import pytest
import torch

from engine.common import UserError
from engine.course import student
from engine.course.checklist import print_checklist
from engine.course.student import call_student, check_rewards, load_rewards

TEXTS = [" good", " bad"]


class ListOfMine(list):
    """As a student may write it."""


class EqualToAll(float):
    """What would pass any comparison in this process."""

    def __eq__(self, other):
        return True


@pytest.mark.parametrize(
    "values",
    [
        [1, 0.5],
        (1.0, 0.5),
        np.array([1.0, 0.5], dtype=np.float32),
        torch.tensor([1.0, 0.5], requires_grad=True),
        [torch.tensor(1.0), np.float64(0.5)],
        [True, 0.5],
        [Fraction(1), np.longdouble(0.5)],
        np.array([1.0, 0.5], dtype=np.longdouble),
        array("d", [1.0, 0.5]),
        pandas.Series([1.0, 0.5]),
        ListOfMine([1, 0.5]),
        np.array([[1.0], [0.5]])[:, 0],
        [np.array(1.0), np.float16(0.5)],
        [Decimal(1), Decimal("0.5")],
        deque([1.0, 0.5]),
        {"a": 1.0, "b": 0.5}.values(),
        map(float, ["1.0", "0.5"]),
        (value / 2 for value in (2, 1)),
        [torch.tensor([1.0]), np.array([0.5])],
        torch.tensor([[1.0], [0.5]]),
        [[1.0], [0.5]],
        torch.tensor([1.0, 0.5]).to_sparse(),
    ],
)
def test_every_list_of_numbers_is_welcome(values):
    assert check_rewards(values, TEXTS, "f").tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "values, message",
    [
        (None, "f returned None"),
        ([1.0], "f returned 1 values for 2 completions"),
        ([1.0, 2.0, 3.0], "f returned 3 values for 2 completions"),
        ([0.5, None], "f returned None at index 1.* ' bad'"),
        ([0.5, math.nan], "f returned nan at index 1.* ' bad'"),
        ([math.inf, 0.5], "f returned inf at index 0.* ' good'"),
        ([0.5, "0.5"], "f returned '0.5' at index 1"),
        (torch.ones(1, 2), "f returned 1 values for 2 completions"),
        ({"a": 1.0, "b": 0.5}, "f returned dict; expected a list of 2 numbers"),
        (itertools.count(), "f returned 100000 values for 2 completions"),
        ([0.5, -1e65], r"f returned -1e\+65 at index 1; expected at most 3.4e\+38, as float32"),
        (np.array([1e39, 0.0]), r"f returned 1e\+39 at index 0; expected at most 3.4e\+38"),
        (
            [[0.5, 0.1]] * 2,
            "f returned a list of numbers for each completion; return one number for",
        ),
        (torch.ones(2, 2), "f returned a list of numbers for each completion; return one number"),
        (torch.tensor(0.5), "f returned one number for 2 completions; return one for each"),
        ("ab", "f returned str; expected a list of 2 numbers"),
        ([1j, 0.5], "f returned 1j at index 0"),
        ([0.5, EqualToAll(0)], "f returned a EqualToAll at index 1"),
        ([10**400, 0.5], "f returned inf at index 0"),
        ({1.0, 0.5}, "f returned set; expected a list of 2 numbers"),
        ([Decimal("sNaN"), 0.5], "f returned nan at index 0"),
        (torch.ones(2, device="meta"), "a tensor on meta; expected cpu"),
    ],
)
def test_bad_values_name_function_index_and_completion(values, message):
    with pytest.raises(UserError, match=message) as error:
        check_rewards(values, TEXTS, "f")
    assert "\n" not in str(error.value)


def test_what_is_finite_stays_finite_in_float32():
    largest = torch.finfo(torch.float32).max
    checked = check_rewards([largest, -largest], TEXTS, "f")
    assert checked.dtype == torch.float32 and checked.isfinite().all()


def test_what_a_generator_raises_is_the_functions_error(tmp_path):
    (tmp_path / "rewards.py").write_text("def lazy(texts):\n    return (1 / 0 for _ in texts)\n")
    lazy = load_rewards(tmp_path / "rewards.py").lazy
    with pytest.raises(UserError, match=r"lazy failed: ZeroDivisionError.*\(rewards.py, line 2\)"):
        student.call_student(lazy, TEXTS)


@pytest.mark.parametrize(
    "name, given, result",
    [
        ("kl_penalty_forward", {"kl_coef": 4, "mask": 3, "policy_log_probs": 1}, ((1, 3), 4)),
        ("shaped_reward", {"completions": 2, "scores": 1}, ((1, 2), None)),
        ("my_custom_reward", {"kl_coef": 4, "completions": 1}, ((1,), 4)),
    ],
)
def test_a_function_gets_its_arguments_as_training_hands_them_over(name, given, result):
    def function(*places, kl_coef=None):
        return places, kl_coef

    asked = student.as_in_training(function, name)
    assert asked(**given) == result and student.name_of(asked) == "function"


def test_a_penalty_of_each_token_is_told_what_to_do():
    with pytest.raises(UserError) as error:
        check_rewards(torch.ones(2, 3), TEXTS, "kl_penalty_forward")
    assert str(error.value) == (
        "kl_penalty_forward returned a list of numbers for each completion; return one number for "
        "each; .sum(-1) adds up each row."
    )


def test_what_is_no_completion_is_called_by_its_name():
    for values, said in (
        ([0.5, math.nan], "f returned nan at index 1; expected a finite number. It belongs to "),
        ([0.5], "f returned 1 values for 2 rewards; return exactly one for each."),
    ):
        with pytest.raises(UserError) as error:
            check_rewards(values, range(1, 3), "f", what="reward")
        assert str(error.value) == said + ("reward 2 of 2." if "nan" in said else "")


def test_an_error_in_student_code_names_file_and_line(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("def sentiment_reward(completions, **kwargs):\n    return 1 / 0\n")
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    with pytest.raises(UserError, match=r"ZeroDivisionError.*rewards.py, line 2"):
        student.call_student(namespace["sentiment_reward"], TEXTS)


def test_checklist_says_what_is_done(capsys, unsolved):
    print_checklist(unsolved)
    *lines, _, tests, hints = capsys.readouterr().out.splitlines()
    assert tests.endswith("python -m pytest --student")
    assert hints.endswith("python rewards.py --hint 3b")
    assert [line[:5].strip() for line in lines] == ["done"] + ["to do"] * 8
    assert "Exercise 3b" in lines[4] and "kl_penalty_forward" in lines[4]


def test_a_rewards_file_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    file = tmp_path / "rewards.py"
    file.write_text("def f(:\n")
    with pytest.raises(UserError, match=r"rewards.py cannot be imported: SyntaxError.*line 1"):
        load_rewards(file)
    file.unlink()
    with pytest.raises(UserError, match="There is no file '.*rewards.py' with reward functions"):
        load_rewards(file)
    file.write_text("ready = False\nwhile not ready:\n    pass\n")
    monkeypatch.setattr(student, "TIME_LIMIT", 0.2)
    with pytest.raises(UserError, match=r"rewards.py took longer than 0.2 seconds .*line [23]\)"):
        load_rewards(file)
    (tmp_path / "rewards.txt").write_text("")
    with pytest.raises(UserError, match="its name must end in .py"):
        load_rewards(tmp_path / "rewards.txt")


DECORATED = """
import functools
import torch

@torch.no_grad()
def decorated(completions, **kwargs):
    return 1 / 0

def with_scale(scale, completions, **kwargs):
    return [scale / 0 for _ in completions]

partial = functools.partial(with_scale, 2.0)

class Callable:
    def __call__(self, completions, **kwargs):
        return completions[99]

called = Callable()

@torch.no_grad()
def todo(completions, **kwargs):
    raise NotImplementedError("Exercise 1: implement todo")
"""


@pytest.mark.parametrize(
    "name, message",
    [
        ("decorated", r"decorated failed: ZeroDivisionError.*\(rewards.py, line 7\)"),
        ("partial", r"with_scale failed: ZeroDivisionError.*\(rewards.py, line 10\)"),
        ("called", r"Callable failed: IndexError.*\(rewards.py, line 16\)"),
        ("todo", r"Exercise 1: implement todo in rewards.py, line 22"),
    ],
)
def test_a_wrapped_function_is_named_with_its_own_file_and_line(tmp_path, name, message):
    (tmp_path / "rewards.py").write_text(DECORATED)
    function = getattr(load_rewards(tmp_path / "rewards.py"), name)
    with pytest.raises(UserError, match=message):
        student.call_student(function, TEXTS)
    assert student.source_of(function) == tmp_path / "rewards.py"


def test_a_function_without_source_is_called_all_the_same():
    assert student.call_student(len, TEXTS) == 2 and student.name_of(len) == "len"


def test_shapes_that_do_not_fit_are_explained():
    with pytest.raises(UserError, match=r"match the size .* Print the shapes: keepdim=True keeps"):
        call_student(lambda: torch.ones(2) + torch.ones(3))
