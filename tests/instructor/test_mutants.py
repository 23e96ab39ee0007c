"""The tests of the tests: wrong solutions are caught and told why, right ones pass."""

import doctest
import re

import pytest

from cases import example_report
from instructor.proof import trained_penalties
from instructor.proof.bodies import penalty
from instructor.proof.mutants import module_with, reports
from instructor.proof.right import VALID
from instructor.proof.trained_penalties import EXACT, PAGE, PENALTIES
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
        assert text.startswith(function) and re.search("\n  (usual cause|happened   )  ", text)
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


OTHER = {EXACT, "1 - r"}  # the solutions themselves: of 3b, and of 3c, which 3b refuses
TABLE = dict(re.findall(r"^\| (.+?) \| `.*?` \|.*\| (\S+).*? \|$", PAGE.read_text("utf-8"), re.M))


@pytest.mark.parametrize("name", sorted({*TABLE} - OTHER - {"penalty"}))
def test_the_cases_agree_with_what_a_penalty_trains_to(classifier, policy, name):
    found = reports("kl_penalty_forward", penalty(PENALTIES[name]), policy)
    assert bool(found) == (TABLE[name] != "holds")
    bodies_of = (WRONG if found else VALID)["kl_penalty_forward"].values()
    assert penalty(PENALTIES[name]) in bodies_of


def test_the_table_has_been_read():
    assert TABLE[EXACT] == TABLE["1 - r"] == "holds"
    assert TABLE["difference cut at zero"] == TABLE["probability times difference"] == "does"


def test_the_verdict_of_the_table_by_hand():
    result = doctest.testmod(trained_penalties)
    assert result.attempted > 0 and result.failed == 0
