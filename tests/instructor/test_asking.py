"""The cases ask a function, however a student has wrapped it."""

import functools
import random

import pytest
import torch

import rewards_solution
from cases import CASES, Ask, report
from cases.log_probs import log_probs_of, logits_token_by_token, odd_pairs, token_ids
from instructor.proof.mutants import load


def failing(policy_log_probs, ref_log_probs, mask=None, kl_coef=0.1):
    raise ValueError("on purpose")


@pytest.mark.parametrize(
    "wrap",
    [
        torch.no_grad(),
        functools.partial,
        functools.lru_cache(maxsize=None),
    ],
    ids=["no_grad", "partial", "lru_cache"],
)
def test_the_line_of_an_error_is_found_below_decorators(wrap):
    source = "def my_penalty(policy_log_probs, **kwargs):\n    raise ValueError('on purpose')\n"
    function = wrap(load(source, "rewards.py").my_penalty)
    case = CASES["kl_penalty_forward"][1][0]
    text = report(case, Ask(function, None, "kl_penalty_forward"), random.Random(0))
    assert text.startswith("kl_penalty_forward: policy and reference agree")
    assert "it raised ValueError: on purpose (rewards.py, line 2)" in text


@pytest.mark.parametrize("name", ["kl_penalty_forward", "kl_penalty_backward"])
@pytest.mark.parametrize("wrap", [torch.no_grad(), functools.partial])
def test_a_right_function_passes_below_decorators(classifier, policy, name, wrap):
    function = wrap(getattr(rewards_solution, name))
    for case in CASES[name][1]:
        assert report(case, Ask(function, policy), random.Random(0)) is None


def test_the_text_of_a_grader_does_not_give_the_answer():
    case = CASES["kl_penalty_forward"][1][0]

    def kl_penalty_forward(policy_log_probs, **arguments):
        return [1.0] * len(policy_log_probs)

    told = report(case, Ask(kl_penalty_forward, None), random.Random(0))
    kept = report(case, Ask(kl_penalty_forward, None), random.Random(0), with_expected=False)
    assert [line for line in told.splitlines() if "  expected " not in line] == kept.splitlines()
    assert "  expected     [0, 0]" in told.splitlines()


def test_texts_scored_at_once_are_scored_as_token_by_token(policy):
    """The cases of 3a compare with the one, and explain mistakes by the other."""
    model, tokenizer = policy
    pairs = [pair[:2] for pair in odd_pairs(random.Random(3), tokenizer)]
    for (prompt, completion), found in zip(pairs, log_probs_of(policy, *pairs), strict=True):
        start, rest = token_ids(tokenizer, prompt), token_ids(tokenizer, completion)
        table = logits_token_by_token(model, start, rest).log_softmax(-1)
        want = sum(row[token] for row, token in zip(table, rest))
        assert found.item() == pytest.approx(want.item(), abs=1e-4)
