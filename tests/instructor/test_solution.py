"""The solution, by hand (its gradients: test_kl_statements.py), and examples in docstrings."""

import doctest
import math
import sys

import pytest
import torch

import rewards_solution
import sentiment
from engine.common import ROOT
from engine.course.checklist import print_checklist

Q = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, -9.0]])
P = torch.tensor([[-1.5, -1.0, -0.5], [-1.0, -4.0, -1.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_forward_penalty_by_hand():
    # q − p: (0.5 − 1.0 + 0.0) and (−2.0 + 3.0), the last token of the second row is padding
    got = rewards_solution.kl_penalty_forward(Q, P, MASK, kl_coef=0.1)
    assert got.tolist() == pytest.approx([-0.05, 0.1], abs=1e-6)


def test_backward_penalty_by_hand():
    # 1 − r, r = exp(p − q) cut at 1000: (1 − e^−0.5) + (1 − e) + 0 and (1 − e²) + (1 − e^−3)
    got = rewards_solution.kl_penalty_backward(Q, P, MASK, kl_coef=0.1)
    want = [0.1 * (0.3934693403 - 1.7182818285), 0.1 * (-6.3890560989 + 0.9502129316)]
    assert got.tolist() == pytest.approx(want, abs=1e-5)
    q, p = torch.tensor([[-20.0]]), torch.tensor([[-1.0]])
    got = rewards_solution.kl_penalty_backward(q, p, torch.tensor([[True]]), kl_coef=1.0)
    assert got.tolist() == pytest.approx([-999.0], abs=1e-2)  # r is cut at 1000


def test_exponential_shaping_by_hand(monkeypatch):
    monkeypatch.setattr(rewards_solution, "get_sentiment_scores", lambda texts: [0.0, 0.5, 1.0])
    shaped = rewards_solution.shaped_reward_exponential(["", "", ""])
    assert shaped == pytest.approx([math.exp(s) - 1 for s in (0.0, 0.5, 1.0)], abs=1e-9)
    shaped = rewards_solution.shaped_reward_exponential(["", "", ""], temperature=0.5)
    assert shaped == pytest.approx([0.0, 1.7182818285, 6.3890560989], abs=1e-9)  # exp(2 s) − 1


def test_advantages_by_hand():
    got = rewards_solution.group_advantages(torch.tensor([1.0, 2.0, 3.0, 7.0, 7.0, 7.0]), 3)
    # mean 2, deviation 1 with n − 1, plus 1e-4; a group of equals teaches nothing
    assert got.tolist() == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001, 0, 0, 0], abs=1e-6)


def test_loss_by_hand():
    old = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    new = torch.tensor([[0.75, 0.5], [0.3, 0.6]]).log()
    mask = torch.tensor([[True, True], [True, False]])
    # gains: min(1.5 · 1, 1.2 · 1), min(1, 1), min(0.6 · −1, 0.8 · −1); over three real tokens
    got = rewards_solution.policy_loss(new, old, torch.tensor([1.0, -1.0]), mask)
    assert got.item() == pytest.approx(-(1.2 + 1.0 - 0.8) / 3, abs=1e-6)


def test_docstring_examples(classifier):
    # As they are now: a run in this process imports the solution anew.
    for module in (rewards_solution, sentiment):
        result = doctest.testmod(sys.modules[module.__name__])
        assert result.attempted > 0 and result.failed == 0


def test_the_checklist_of_the_solution_is_all_done(capsys):
    print_checklist(ROOT / "rewards_solution.py")
    lines = capsys.readouterr().out.splitlines()[:9]
    assert all(line.startswith("done ") for line in lines)
