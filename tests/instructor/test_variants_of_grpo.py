"""The figures of grpo_lab.py that are GRPO's own, against lists of all batches in order, and its
inner steps written out: what students are to write themselves."""

import itertools
import math

import numpy as np
import pytest
import torch

import grpo_lab
from engine.common import ROOT
from engine.course import variants
from engine.course.variants import Inner, Toy

REWARDS = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0], dtype=torch.float64)
WORDS = Toy(torch.full((6,), 1 / 6, dtype=torch.float64), REWARDS)
THREE = Toy(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64),
)


def by_all_batches(toy, batch, advantages):
    """A Signal by the list of all batches in order. advantages: (rewards, (batch,)) -> (batch,)."""
    q, rewards = toy.policy.numpy(), toy.rewards.numpy()
    chances, gradients = [], []
    for texts in itertools.product(range(len(q)), repeat=batch):
        given = advantages(rewards[list(texts)])
        chances.append(np.prod(q[list(texts)]))
        gradients.append(sum(a * (np.eye(len(q))[w] - q) for a, w in zip(given, texts)) / batch)
    chances, gradients = np.array(chances), np.array(gradients)
    mean = chances @ gradients
    variance = chances @ ((gradients - mean) ** 2).sum(1)
    exact = q * (rewards - q @ rewards)
    length = np.linalg.norm(mean)
    cosine = mean @ exact / length / np.linalg.norm(exact)
    return [cosine, mean @ exact / (exact @ exact), math.sqrt(variance) / length]


@pytest.mark.parametrize("size", [2, 4])
def test_the_signal_of_grpo_by_all_groups_in_order(solution, size):
    def divided(rewards):
        return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)

    cosine, scale, noise = by_all_batches(WORDS, size, divided)
    own = variants.own_grpo(solution)
    found = variants.gradient_signal(WORDS, size, own.advantages)
    assert found == pytest.approx((cosine, scale, noise * (size / 64) ** 0.5), abs=1e-9)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_division_by_the_batchs_deviation_by_all_batches_in_order(size):
    def divided(rewards):
        means = rewards.reshape(-1, size).mean(1).repeat(size)
        return (rewards - means) / (rewards.std(ddof=1) + 1e-4)

    found = variants.signal_by_batch(THREE, size, batch=6)
    assert found == pytest.approx(by_all_batches(THREE, 6, divided), abs=1e-9)


def steps_by_hand(policy, texts, epsilon, steps):
    """The inner steps of one run, its clip written as what it switches off."""
    rewards = REWARDS.numpy()[texts]
    advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    old, logits = policy[texts], np.log(policy)
    for _ in range(steps):
        q = np.exp(logits) / np.exp(logits).sum()
        ratio = q[texts] / old
        over = (advantages > 0) & (ratio > 1 + epsilon)
        under = (advantages < 0) & (ratio < 1 - epsilon)
        push = np.where(over | under, 0, advantages * ratio)
        logits = logits + (push[:, None] * (np.eye(6)[texts] - q)).mean(0)
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("epsilon", [0.2, variants.NO_CLIP])
def test_inner_steps_by_hand(solution, epsilon):
    own = variants.own_grpo(solution)
    found = variants.follow_rollouts(*own, WORDS, Inner(epsilon, steps=8, rollouts=2, runs=3))
    assert found.shape == (2, 9, 3, 6)
    generator = torch.Generator().manual_seed(0)
    for rollout in found:
        drawn = rollout[0].multinomial(8, replacement=True, generator=generator)
        for run, texts in enumerate(drawn.numpy()):
            want = steps_by_hand(rollout[0, run].numpy(), texts, epsilon, 8)
            assert rollout[-1, run].tolist() == pytest.approx(want, abs=1e-9)


def rows_of_the_page():
    """The cells of all rows of the tables of docs/grpo.md, by the first one."""
    text = (ROOT / "docs" / "grpo.md").read_text(encoding="utf-8").replace("−", "-")
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in text.splitlines() if x[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def test_the_page_has_the_figures_of_the_lab(solution):
    page, own = rows_of_the_page(), variants.own_grpo(solution)
    signals = variants.compare_signals(grpo_lab.SIX_WORDS, own.advantages)
    names = ["nothing", "mean of the others (RLOO)", "group's mean", "… over the batch's deviation"]
    names += ["… over the group's deviation (GRPO)", "the true mean, if it were known"]
    for name, row in zip(names, signals.values()):
        assert page[name][:4] == [f"{signal.noise:.3f}" for signal in row]
    toy = variants.length_toy(grpo_lab.RIGHT)
    names = ["`grpo`", "`dapo`, one group of eight", "`dapo`, 64 texts", "`dr_grpo`"]
    for name, loss in zip(names, variants.LOSSES.values()):
        found = variants.length_signal(toy, variants.text_weights(toy, *loss))
        assert page[name][:4] == [f"{push:.3f}" for push in found.scaled]
        assert float(page[name][4]) == pytest.approx(found.tokens, abs=0.05)
    shares = {"2 % or 98 %": 0.02, "10 % or 90 %": 0.1, "30 % or 70 %": 0.3, "50 %": 0.5}
    for name, share in shares.items():
        prompt = variants.prompt(share)
        equal, divided, undivided = page[name]
        assert float(equal[:-2]) / 100 == pytest.approx(variants.equal_share(prompt, 8), rel=0.03)
        for cell, rule in ((divided, own.advantages), (undivided, variants.undivided)):
            scale = variants.gradient_signal(prompt, 8, rule).scale
            assert float(cell) == pytest.approx(scale, abs=0.005)


def test_the_page_has_the_figures_of_the_clip(solution):
    page, own = rows_of_the_page(), variants.own_grpo(solution)
    kinds = {
        "8, ε = 0.2": Inner(),
        "8, no clip": Inner(epsilon=variants.NO_CLIP),
        "1, with or without": Inner(steps=1),
    }
    for name, inner in kinds.items():
        policies = variants.follow_rollouts(*own, grpo_lab.SIX_WORDS, inner)
        found = variants.clip_figures(grpo_lab.SIX_WORDS, policies)
        # Another processor may draw another word where two sums round differently.
        want = [found.nats, *(found.rewards[n] for n in (1, 5, 30))]
        assert [float(cell) for cell in page[name][1:5]] == pytest.approx(want, abs=2e-3)
        stuck = 100 * found.stuck.double().mean().item()
        assert float(page[name][5][:-2]) == pytest.approx(stuck, abs=0.3)
