"""The figures of grpo_lab.py against closed forms, and against lists of all batches in order."""

import itertools
import math

import numpy as np
import pytest
import torch

from engine.common import UserError
from engine.course import toys, variants
from engine.course.variants import Inner, Toy

REWARDS = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0], dtype=torch.float64)
WORDS = Toy(torch.full((6,), 1 / 6, dtype=torch.float64), REWARDS)
THREE = Toy(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64),
)


class Rewards:
    """A rewards file whose two functions are not those of GRPO."""

    group_advantages = staticmethod(lambda rewards, size: variants.undivided(rewards, size))

    def policy_loss(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
        return -(log_probs * mask * advantages[:, None]).mean()


def test_the_groups_are_all_that_can_be_drawn():
    groups = variants.all_groups(THREE.policy, 3)
    listed = {}
    for texts in itertools.product(range(3), repeat=3):
        key = tuple(sorted(texts))
        listed[key] = listed.get(key, 0) + math.prod(THREE.policy[list(texts)].tolist())
    found = {tuple(t): c for t, c in zip(groups.texts.tolist(), groups.chances.tolist())}
    assert found == pytest.approx(listed, abs=1e-12)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_noise_of_undivided_advantages_is_that_of_a_sample_covariance(size):
    """A group's gradient is (1 − 1/G) times the sample covariance S of reward and ∇ log q, and
    Var S = (E[x²y²] − C² · (G − 2)/(G − 1) + E[x²] · E[y²]/(G − 1)) / G, C being its mean."""
    x = REWARDS - REWARDS.mean()
    y = torch.eye(6).double() - 1 / 6  # ∇ log q of each word
    mean = (x[:, None] * y).mean(0)
    fourth = (x[:, None] ** 2 * y**2).mean(0).sum()
    spreads = x.square().mean() * y.square().mean(0).sum()
    variance = fourth - mean @ mean * (size - 2) / (size - 1) + spreads / (size - 1)
    noise = ((variance / 64).sqrt() / mean.norm()).item()
    found = variants.gradient_signal(WORDS, size, variants.undivided)
    assert found == pytest.approx((1, 1 - 1 / size, noise), abs=1e-9)
    alone_left_out = variants.gradient_signal(WORDS, size, variants.leave_one_out)
    assert alone_left_out == pytest.approx((1, 1, noise), abs=1e-9)


def test_without_a_baseline_the_size_of_a_group_counts_nothing():
    y = torch.eye(6).double() - 1 / 6
    for rule, values in (
        (variants.no_baseline, REWARDS),
        (lambda rewards, size: rewards - REWARDS.mean(), REWARDS - REWARDS.mean()),
    ):
        gradients = values[:, None] * y
        mean = gradients.mean(0)
        variance = (gradients - mean).square().mean(0).sum()
        noise = ((variance / 64).sqrt() / mean.norm()).item()
        for size in (2, 8):
            found = variants.gradient_signal(WORDS, size, rule)
            assert found == pytest.approx((1, 1, noise), abs=1e-9)


def test_larger_groups_tell_the_gradient_better(solution):
    """From 64 words each time. Division by the group's deviation turns it a little."""
    own = variants.own_grpo(solution).advantages
    grpo = [variants.gradient_signal(WORDS, size, own) for size in (2, 4, 8, 16)]
    assert [row.noise for row in grpo] == pytest.approx([0.458, 0.336, 0.279, 0.254], abs=1e-3)
    assert [row.cosine for row in grpo] == pytest.approx([0.991, 0.998, 0.999, 1], abs=1e-3)
    by_batch = variants.signal_by_batch(WORDS, 8)  # whose divisor is nearly a constant
    assert by_batch.scale == pytest.approx(7 / 8 / REWARDS.std(correction=0).item(), rel=5e-3)
    assert by_batch.cosine == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_what_a_prompt_counts_is_a_sum_over_the_right_answers(solution, share):
    prompt = variants.prompt(share)
    undivided = variants.gradient_signal(prompt, 8, variants.undivided)
    assert undivided.scale == pytest.approx(7 / 8, abs=1e-9)
    assert variants.equal_share(prompt, 8) == pytest.approx(share**8 + (1 - share) ** 8, abs=1e-12)
    scale = 0.0
    for right in range(9):
        chance = math.comb(8, right) * share**right * (1 - share) ** (8 - right)
        deviation = math.sqrt(right * (8 - right) / 8 / 7)
        scale += chance * (right / 8) * (1 - right / 8) / (deviation + 1e-4)
    own = variants.own_grpo(solution).advantages
    found = variants.gradient_signal(prompt, 8, own).scale
    assert found == pytest.approx(scale / share / (1 - share), abs=1e-9)


def weights_of_dapo(toy, batch):
    """1/S is the integral of t^(S − 1) from 0 to 1, and t^S of independent lengths a product: with
    g = E[t^L] and h = E[R t^L], the weight of text k is batch · (1 − 1/G) times the integral of
    t^(L_k − 1) · (R_k · g^(batch − 1) − h · g^(batch − 2)), a polynomial."""
    nodes, shares = np.polynomial.legendre.leggauss(300)
    t = ((nodes + 1) / 2)[:, None]
    q, rewards, lengths = (x.numpy() for x in toy)
    g, h = (t**lengths) @ q, (t**lengths) @ (q * rewards)
    inner = rewards * g[:, None] ** (batch - 1) - (h * g ** (batch - 2))[:, None]
    return batch * 7 / 8 * (shares / 2) @ (t ** (lengths - 1) * inner)


def test_what_each_loss_counts_a_text():
    toy = variants.length_toy(0.25)
    above = toy.rewards - 0.25
    grpo = variants.text_weights(toy, "grpo")
    torch.testing.assert_close(grpo, 7 / 8 * above / toy.lengths, atol=1e-12, rtol=0)
    dr_grpo = variants.text_weights(toy, "dr_grpo")
    torch.testing.assert_close(dr_grpo, 7 / 8 * above / 32, atol=1e-12, rtol=0)
    for batch in (8, 64):
        found = variants.text_weights(toy, "dapo", batch)
        assert found.tolist() == pytest.approx(weights_of_dapo(toy, batch), abs=1e-10)


def test_only_a_constant_number_of_tokens_follows_the_mean_reward():
    toy = variants.length_toy(0.25)
    rows = {
        name: variants.length_signal(toy, variants.text_weights(toy, *loss))
        for name, loss in variants.LOSSES.items()
    }
    assert rows["dr_grpo"][:2] == pytest.approx((1, 0), abs=1e-9)
    assert rows["dr_grpo"].scaled.tolist() == pytest.approx([0.75, 0.75, -0.25, -0.25], abs=1e-9)
    assert rows["grpo"].cosine < 0.8
    upside_down = variants.length_signal(toy, -variants.text_weights(toy, "dr_grpo"))
    assert upside_down.cosine == pytest.approx(-1, abs=1e-9)
    assert upside_down.scaled.tolist() == pytest.approx([-0.75, -0.75, 0.25, 0.25], abs=1e-9)
    # by hand: weights 6, 0.75, −2, −0.25 of 8/7/32; their mean under 1/8, 1/8, 3/8, 3/8 is 0
    moved = [6 / 8, 0.75 / 8, -6 / 8, -0.75 / 8]
    lengths = [(4 - 18) / 8, (32 - 18) / 8, (4 - 18) * 3 / 8, (32 - 18) * 3 / 8]
    rewards = [0.75 / 8, 0.75 / 8, -0.75 / 8, -0.75 / 8]
    tokens = np.dot(moved, lengths) / np.dot(moved, rewards)
    assert rows["grpo"].tokens == pytest.approx(tokens, abs=1e-9)
    one_group, texts_64 = rows["dapo, one group"], rows["dapo, 64 texts"]
    assert 0.99 < one_group.cosine < 0.999 < texts_64.cosine < 1


def test_the_students_loss_counts_as_dapo(solution):
    toy = variants.length_toy(0.25)
    found = variants.own_text_weights(toy, variants.own_grpo(solution).loss)
    torch.testing.assert_close(found, variants.text_weights(toy, "dapo"), atol=1e-9, rtol=0)


def test_where_the_mean_length_goes():
    constant = variants.follow_lengths("dr_grpo")
    assert constant.length == pytest.approx([18] * len(constant.length), abs=1e-9)
    path = variants.follow_lengths("grpo")
    assert path.right[0] == pytest.approx(0.1) and path.right[-1] > 0.95
    assert path.length[0] == pytest.approx(18)
    # Longer while most texts are wrong, shorter when most are right.
    assert path.length[5] > 19 and path.length[-1] < 6


def test_the_clip_acts_from_the_second_step_on(solution):
    own = variants.own_grpo(solution)
    both = [
        variants.follow_rollouts(*own, WORDS, Inner(epsilon, steps=1, rollouts=5, runs=20))
        for epsilon in (0.2, variants.NO_CLIP)
    ]
    assert both[0].equal(both[1])
    assert variants.clip_figures(WORDS, both[0]).ratio == 1
    clipped, free = (
        variants.clip_figures(
            WORDS, variants.follow_rollouts(*own, WORDS, Inner(epsilon, runs=200))
        )
        for epsilon in (0.2, variants.NO_CLIP)
    )
    assert clipped.nats < 0.05 < 0.5 < free.nats
    assert clipped.ratio < 4 < 100 < free.ratio
    assert clipped.rewards[3] < free.rewards[3] and clipped.rewards[-1] > free.rewards[-1]
    assert clipped.stuck.double().mean() < 0.02 < 0.04 < free.stuck.double().mean()


def test_the_figures_of_runs_by_hand():
    start = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    wrong = torch.tensor([0.96, 0.02, 0.02], dtype=torch.float64)
    right = torch.tensor([0.01, 0.01, 0.98], dtype=torch.float64)
    # (rollouts, steps + 1, runs, K): one rollout of two steps, two runs
    policies = torch.stack(
        [torch.stack([start, start]), torch.stack([wrong, start]), torch.stack([wrong, right])]
    )[None]
    found = variants.clip_figures(THREE, policies)
    assert found.ratio == pytest.approx(0.96 / 0.5)  # 0.98 / 0.2 comes after the last loss
    nats = sum(
        x * math.log(x / y) for q in (wrong, right) for x, y in zip(q.tolist(), start.tolist())
    )
    assert found.nats == pytest.approx(nats / 2, abs=1e-12)
    assert found.rewards == pytest.approx([0.45, (0.222 + 0.987) / 2], abs=1e-12)
    assert found.stuck.tolist() == [True, False]


def test_the_log_odds_of_dpo_are_the_rewards_that_make_the_policy_best():
    """The reward of a text is β · log(q*/p) of it, up to one number for all texts of a prompt.
    q* is worked out token by token, from the last one to the first."""
    beta, toy = 0.1, toys.PARTS
    best = toys.resting_policy(toys.OF_TEXTS, beta, toy)  # (T, S, 3)

    def log_odds(moves):
        balance, total = 0, 0.0
        for step, move in zip(best, moves):
            total += (step[balance + toy.length, move] / toy.p[move]).log().item()
            balance += toys.MOVES[move]
        return beta * total, toy.scores[balance + toy.length].item()

    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(3, (20, toy.length), generator=generator).tolist()
    pairs = [log_odds(text) for text in texts]
    assert len({round(score, 6) for _, score in pairs}) > 4
    for (odds, score), (other_odds, other_score) in itertools.pairwise(pairs):
        assert odds - other_odds == pytest.approx(score - other_score, abs=1e-12)


def test_functions_that_are_to_do_are_left_out_and_those_that_fail_are_named():
    class ToDo(Rewards):
        def group_advantages(*args):
            raise NotImplementedError("Exercise 4a: implement group_advantages")

    class Broken(Rewards):
        def policy_loss(*args):
            return 1 / 0

    class Short(Rewards):
        def group_advantages(rewards, size):
            return rewards[1:]

    own = variants.own_grpo(ToDo)
    assert own.advantages is None and own.loss is not None
    with pytest.raises(UserError, match="policy_loss failed: ZeroDivisionError"):
        variants.own_grpo(Broken)
    with pytest.raises(UserError, match="group_advantages returned 1 values"):
        variants.own_grpo(Short)
