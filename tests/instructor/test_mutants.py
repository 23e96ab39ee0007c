"""The tests of the tests: wrong solutions are caught and told why, right ones pass."""

import re

import pytest

from cases import example_report
from engine.common import ROOT
from instructor.proof.bodies import penalty
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


PAGE = (ROOT / "instructor" / "proof" / "trained_penalties.md").read_text(encoding="utf-8")
ROW = r"^\| .+? \| `(.+?)` \| (\S+) \| \S+ \| (\S+) \| (\S+) \| (holds|does not hold).* \|$"
TRAINED = {cost: row for cost, *row in re.findall(ROW, PAGE, re.MULTILINE)}
SOLUTIONS = {"q - p", "1 - r"}  # of 3b, and of 3c, which 3b refuses


@pytest.mark.parametrize("cost", sorted(TRAINED.keys() - SOLUTIONS))
def test_the_cases_agree_with_what_a_penalty_trains_to(cost):
    """Each stands in the list of its verdict, whose penalties the cases catch or pass above."""
    table = VALID if TRAINED[cost][-1] == "holds" else WRONG
    assert penalty(cost) in table["kl_penalty_forward"].values()


def test_the_verdicts_of_the_page_follow_its_rule():
    assert len(TRAINED) == 18
    exact_kl, exact_length, exact_perplexity = map(float, TRAINED["q - p"][:3])
    for kl, length, perplexity, verdict in TRAINED.values():
        holds = (
            float(kl) <= 2 * exact_kl
            and float(length) >= 0.9 * exact_length
            and float(perplexity) <= 1.25 * exact_perplexity
        )
        assert verdict == ("holds" if holds else "does not hold")
