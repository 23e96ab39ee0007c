"""The tests of the tests: wrong solutions are caught and told why, right ones pass."""

import pytest

from instructor.exercises import example_report
from instructor.proof.mutants import module_with, reports
from instructor.proof.right import VALID
from instructor.proof.wrong import WRONG


def bodies(table):
    return [
        pytest.param(function, body, id=f"{function}-{name}")
        for function, named in table.items()
        for name, body in named.items()
    ]


@pytest.mark.parametrize("function, body", bodies(WRONG))
def test_a_wrong_solution_is_caught_and_told_why(classifier, policy, function, body):
    texts = reports(function, body, policy)
    assert texts
    for text in texts.values():
        assert text.startswith(function) and "usual cause" in text
        assert "the formula" not in text  # the cause is named


@pytest.mark.parametrize("function, body", bodies(VALID))
def test_every_valid_solution_passes(classifier, policy, function, body):
    assert reports(function, body, policy) == {}
    assert example_report(module_with(function, body), function) is None


ALONE = {  # a wrong penalty -> the case that nothing can replace
    "probability times difference": "depends_on_the_difference_alone",
    "difference cut at zero": "refunds_what_it_charges",
    "1 - r cut at zero": "refunds_what_it_charges",
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("function", ["kl_penalty_forward", "kl_penalty_backward"])
def test_a_penalty_that_only_one_case_catches(classifier, policy, function, name):
    assert list(reports(function, WRONG[function][name], policy)) == [ALONE[name]]
