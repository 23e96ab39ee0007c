"""What an answer may be is the same for `pytest --student`, for training and for the grader."""

import random
import sys

import pytest
from grading_help import examined

from cases import CASES, Ask, report
from engine.course.student import check_rewards
from instructor.proof.attacks import SOLUTION
from instructor.proof.mutants import load, with_body

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
FORMS = {  # how the numbers come back -> whether that is an answer
    "pandas.Series(values)": True,
    "array.array('d', values)": True,
    "[fractions.Fraction(v) for v in values]": True,
    "Mine(values)": True,
    "numpy.array(values, dtype=numpy.longdouble)": True,
    "[numpy.longdouble(v) for v in values]": True,
    "tuple(torch.tensor(v) for v in values)": True,
    "set(values)": False,
    "[decimal.Decimal(v) for v in values]": False,
    "[Equal(v) for v in values]": False,
    "iter(values)": False,
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
    cost = q - p if mask is None else ((q - p) * mask).sum(-1)
    values = (kl_coef * cost).tolist()
    return {}
"""


def source_with(form):
    return with_body(SOLUTION, "kl_penalty_forward", BODY.format(form))


ONE_BRANCH = """
    if mask is None:
        raise NotImplementedError("lists on paper")
    return kl_coef * ((policy_log_probs - ref_log_probs) * mask).sum(-1)
"""
FORBIDDEN = {
    "lock": "import multiprocessing\nlock = multiprocessing.Lock()",
    "workers": (
        "from torch.utils.data import DataLoader\nlist(DataLoader([1, 2, 3], num_workers=2))"
    ),
}


@pytest.fixture(scope="module")
def graded(policy, classifier):
    """{name: what the grader finds}, of all files of these tests."""
    sources = {form: source_with(form) for form in FORMS}
    sources["one branch"] = with_body(SOLUTION, "kl_penalty_forward", ONE_BRANCH)
    sources |= {name: f"{SOLUTION}\n\n{code}\n" for name, code in FORBIDDEN.items()}
    return examined(sources, policy)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_grader_takes_what_the_students_tests_and_training_take(graded, policy, form):
    function = load(source_with(form), "rewards.py").kl_penalty_forward
    own_tests = not any(
        report(case, Ask(function, policy), random.Random(0))
        for case in CASES["kl_penalty_forward"].cases
    )
    try:
        check_rewards(function([-1.0, -2.0], [-3.0, -2.5], None), ["a", "b"], "f")
        training = True
    except Exception:
        training = False
    outcomes = [o for o in graded[form].outcomes if o.function == "kl_penalty_forward"]
    grader = all(outcome.passed for outcome in outcomes)
    assert (own_tests, training, grader) == (FORMS[form],) * 3


@pytest.mark.slow
def test_a_branch_that_is_still_to_do_costs_its_own_case(graded):
    failed = {
        (o.function, o.case): o.message for o in graded["one branch"].outcomes if not o.passed
    }
    message = "Not implemented: lists on paper"
    assert failed == {("kl_penalty_forward", "works_on_paper"): message}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_the_sandbox_forbids_is_said(graded, name):
    error = graded[name].import_error
    assert "The grader lets a submission start no process" in error
    assert "(rewards.py, line" in error
