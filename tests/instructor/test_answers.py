"""What an answer may be is the same for `pytest --student`, for training and for the grader."""

import random
import sys

import pytest
import torch

from cases import CASES, Ask, report
from engine.course.student import check_rewards, load_rewards
from instructor.grading import examining
from instructor.proof.attacks import SOLUTION
from instructor.proof.mutants import load, with_body

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
FUNCTION = "kl_penalty_forward"
FORMS = {  # how the numbers come back -> whether that is an answer
    "pandas.Series(values)": True,
    "array.array('d', values)": True,
    "[fractions.Fraction(v) for v in values]": True,
    "Mine(values)": True,
    "numpy.array(values, dtype=numpy.longdouble)": True,
    "[numpy.longdouble(v) for v in values]": True,
    "tuple(torch.tensor(v) for v in values)": True,
    "set(values)": False,
    "[decimal.Decimal(v) for v in values]": True,
    "iter(values)": True,
    "map(float, values)": True,
    "dict(enumerate(values)).values()": True,
    "[torch.tensor([v]) for v in values]": True,
    "[Equal(v) for v in values]": False,
}
BODY = """
    import array, decimal, fractions

    import numpy
    import pandas

    class Mine(list):
        pass

    class Equal(float):
        __eq__ = lambda self, other: True
        __hash__ = float.__hash__

    q, p = torch.as_tensor(policy_log_probs), torch.as_tensor(ref_log_probs)
    cost = ((q - p) * mask).sum(-1)
    values = (kl_coef * cost).tolist()
    return {}
"""


def source_with(form):
    return with_body(SOLUTION, FUNCTION, BODY.format(form))


def examined(control, source, models):
    """What the grader finds in a source; it asks one function only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examining, "CASES", {FUNCTION: CASES[FUNCTION]})
        source = source if isinstance(source, bytes) else source.encode()
        return examining.examine(control, source, [0, 7], models)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_grader_takes_what_the_students_tests_and_training_take(
    control, policy, classifier, form
):
    function = load(source_with(form), "rewards.py").kl_penalty_forward
    own_tests = not any(
        report(case, Ask(function, policy), random.Random(0)) for case in CASES[FUNCTION][1]
    )
    try:
        q, p = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-3.0], [-2.5]])
        check_rewards(function(q, p, torch.ones(2, 1).bool()), ["a", "b"], "f")
        training = True
    except Exception:
        training = False
    found = examined(control, source_with(form), policy)
    grader = all(outcome.passed for outcome in found.outcomes)
    assert (own_tests, training, grader) == (FORMS[form],) * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("Exercise 3b: implement padding", "Not implemented: Exercise 3b: implement padding"),
        ("padding", "happened     it raised NotImplementedError: padding (rewards.py, line "),
    ],
)
def test_a_branch_that_is_still_to_do_costs_its_own_cases(control, policy, classifier, error, said):
    body = f"""
        if not mask.all():
            raise NotImplementedError("{error}")
        return kl_coef * ((policy_log_probs - ref_log_probs) * mask).sum(-1)
    """
    found = examined(control, with_body(SOLUTION, FUNCTION, body), policy)
    failed = {outcome.case: outcome.message for outcome in found.outcomes if not outcome.passed}
    assert failed.keys() == {"sums_over_tokens", "ignores_padding"}
    assert all(said in message for message in failed.values())


AS_EDITORS_AND_STUDENTS_MAKE_THEM = """
from __future__ import annotations
from dataclasses import KW_ONLY, dataclass
import torch
torch.set_default_dtype(torch.float64)
@dataclass
class Settings:
    _: KW_ONLY
    unit: str = "\xfc"
def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
    torch.set_grad_enabled(False)
    q, p = torch.as_tensor(policy_log_probs), torch.as_tensor(ref_log_probs)
    assert q.dtype == torch.float32 and ord(Settings().unit) == 252
    return kl_coef * ((q - p) * mask).sum(-1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("start, encoding", [("", "utf-8-sig"), ("# coding: latin-1", "latin-1")])
def test_the_grader_loads_a_file_as_training_does(control, tmp_path, policy, start, encoding):
    source = (start + AS_EDITORS_AND_STUDENTS_MAKE_THEM).encode(encoding)
    found = examined(control, source, policy)
    assert found.import_error == "" and all(outcome.passed for outcome in found.outcomes)
    (tmp_path / "mine.py").write_bytes(source)
    function = load_rewards(tmp_path / "mine.py").kl_penalty_forward
    for case in CASES[FUNCTION][1]:
        assert report(case, Ask(function, policy, seconds=10), random.Random(0)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import multiprocessing\nlock = multiprocessing.Lock()",
        "from torch.utils.data import DataLoader\nlist(DataLoader([1, 2, 3], num_workers=2))",
    ],
)
def test_what_the_sandbox_forbids_is_said(control, policy, code):
    found = examined(control, f"{SOLUTION}\n\n{code}\n", policy)
    assert "The grader lets a submission start no process" in found.import_error
    assert "(rewards.py, line" in found.import_error


@pytest.mark.slow
def test_a_submission_may_import_the_provided_files(control, policy):
    modules = ["engine.course.student", "reward_utils", "sentiment", "data", "evaluate", "train"]
    found = examined(control, "\n".join(f"import {name}" for name in modules), policy)
    assert found.import_error == ""
