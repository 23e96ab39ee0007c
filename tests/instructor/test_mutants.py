"""The tests of the tests: wrong solutions are caught and told why, right ones pass."""

import pytest

from instructor.proof.mutants import reports
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
