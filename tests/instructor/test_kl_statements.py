"""What README, docs and notebook say about KL terms and groups, each statement on an exact toy.

One token: what the number pulls at, in the reward (detached), in the loss (differentiated), and in
the loss times the ratio q/q_old. Two tokens: whole texts against single tokens. Three texts: what
the optimum keeps of a bad one. Groups: all that can be drawn from a few texts.
"""

import itertools
import math

import pytest
import torch

import rewards_solution
from engine.common import ROOT
from engine.course import toys
from engine.measuring.optimum import read_optimum
from rewards_solution import group_advantages

K1, K2, K3 = (
    lambda q, p: q - p,
    lambda q, p: (p - q) ** 2 / 2,
    lambda q, p: (p - q).expm1() - (p - q),
)


def one_minus_r(q, p):
    return -(p - q).expm1()


def value_of_backward(q, p):
    return (p - q).exp() * (p - q) - (p - q).expm1()


def summed(number):
    return lambda q, p: number(q, p).sum(1)


def of_the_text(number):
    return lambda q, p: number(q.sum(1), p.sum(1))


def solved(kind):
    """The penalty of the solution, for the (N, T) tokens of texts."""

    def cost(q, p):
        function = getattr(rewards_solution, f"kl_penalty_{kind}")
        return function(q, p, torch.ones(q.shape, dtype=torch.bool), kl_coef=1.0)

    return cost


def equal(got, want):
    return bool((got - want).abs().max() < 1e-6 * max(want.abs().max().item(), 1e-3))


@pytest.fixture(params=range(3))
def one_token(request):
    """(logits, the exact gradients of both divergences, pull(number, place) as a gradient)."""
    logits, log_p = toys.toy_policy(spread=0.7, seed=request.param)

    def pull(number, place):
        logits_ = logits.clone().requires_grad_()
        log_q = logits_.log_softmax(0)
        terms = toys.PLACES[place](number, log_q, log_p)
        return torch.autograd.grad((log_q.detach().exp() * terms).sum(), logits_)[0]

    exact = {kind: toys.exact_gradient(kind, logits, log_p) for kind in toys.FORMULAS}
    assert not equal(exact["forward"], exact["backward"])
    return exact["forward"], exact["backward"], pull


def test_in_the_reward(one_token):
    forward, backward, pull = one_token
    assert equal(pull(K1, "in the reward"), forward)
    assert equal(pull(one_minus_r, "in the reward"), backward)
    for number in (K2, K3, value_of_backward):
        assert not equal(pull(number, "in the reward"), forward)
        assert not equal(pull(number, "in the reward"), backward)


def test_in_the_loss(one_token):
    forward, backward, pull = one_token
    assert pull(K1, "in the loss").abs().max() < 1e-12
    assert equal(pull(K2, "in the loss"), forward)
    assert equal(pull(K3, "in the loss"), backward)
    assert equal(pull(one_minus_r, "in the loss"), -backward)  # it drives the policy away


def test_in_the_loss_times_the_ratio(one_token):
    """The gradient of the number's mean: right where the number is unbiased."""
    forward, backward, pull = one_token
    place = "in the loss × ratio"
    assert equal(pull(K1, place), forward)
    assert equal(pull(K3, place), forward)
    assert not equal(pull(K2, place), forward)
    assert equal(pull(value_of_backward, place), backward)
    assert pull(one_minus_r, place).abs().max() < 1e-12  # its mean is 0 for every policy


def test_the_reward_and_the_loss_add_up_to_the_ratio(one_token):
    *_, pull = one_token
    for number in (K1, K2, K3, one_minus_r, value_of_backward):
        added = pull(number, "in the reward") + pull(number, "in the loss")
        assert equal(pull(number, "in the loss × ratio"), added)


@pytest.fixture(params=range(3))
def two_tokens(request):
    return toys.toy_texts(spread=0.5, seed=request.param)


def exact(measure, kind, pair):
    return toys.gradient_of_texts(measure, kind, pair)


@pytest.mark.parametrize("penalty", [summed(K1), of_the_text(K1), solved("forward")])
def test_the_sum_of_k1_pulls_with_the_divergence_of_texts(two_tokens, penalty):
    got = toys.expected_gradient(toys.Penalty("in the reward", penalty), two_tokens)
    assert equal(got, exact("texts", "forward", two_tokens))
    assert not equal(got, exact("tokens", "forward", two_tokens))


@pytest.mark.parametrize("penalty", [summed(one_minus_r), solved("backward")])
def test_the_sum_of_1_minus_r_pulls_with_the_divergence_of_tokens(two_tokens, penalty):
    got = toys.expected_gradient(toys.Penalty("in the reward", penalty), two_tokens)
    assert equal(got, exact("tokens", "backward", two_tokens))
    assert not equal(got, exact("texts", "backward", two_tokens))


def test_1_minus_the_product_of_r_pulls_with_the_divergence_of_texts(two_tokens):
    got = toys.expected_gradient(
        toys.Penalty("in the reward", of_the_text(one_minus_r)), two_tokens
    )
    assert equal(got, exact("texts", "backward", two_tokens))
    assert not equal(got, exact("tokens", "backward", two_tokens))


def test_beta_pulls_with_the_divergence_of_tokens(two_tokens):
    """TRL's k3, with `use_bias_correction_kl` and without it."""
    got = toys.expected_gradient(toys.Penalty("in the loss × ratio", K3), two_tokens)
    assert equal(got, exact("tokens", "forward", two_tokens))
    assert not equal(got, exact("texts", "forward", two_tokens))
    got = toys.expected_gradient(toys.Penalty("in the loss", K3), two_tokens)
    assert equal(got, exact("tokens", "backward", two_tokens))
    assert equal(
        got, toys.expected_gradient(toys.Penalty("in the reward", summed(one_minus_r)), two_tokens)
    )


def test_what_beta_leaves_out(two_tokens):
    """What a first token does to the divergence of the second: E_q[k1 of token 2 · ∇ log q(1)]."""
    logits, ref = two_tokens
    logits = logits.clone().requires_grad_()
    log_q, log_p = map(toys.token_log_probs, two_tokens)
    first = toys.token_log_probs(logits)[:, 0]
    terms = log_q.sum(1).exp() * (log_q - log_p)[:, 1] * first
    left_out = torch.autograd.grad(terms.sum(), logits)[0]
    whole, fixed = (exact(measure, "forward", two_tokens) for measure in toys.MEASURES)
    assert equal(whole - fixed, left_out) and left_out.abs().max() > 1e-4
    assert left_out[4:].abs().max() < 1e-12  # nothing of it reaches the second token


def test_which_value_the_estimates_have(two_tokens):
    log_q, log_p = map(toys.token_log_probs, two_tokens)
    q = log_q.sum(1).exp()
    values = {
        (measure, kind): function(kind, log_q, log_p).item()
        for measure, function in toys.MEASURES.items()
        for kind in toys.FORMULAS
    }
    assert values["texts", "forward"] == pytest.approx(values["tokens", "forward"], abs=1e-12)
    assert abs(values["texts", "backward"] - values["tokens", "backward"]) > 1e-5
    for number in (K1, K3):
        assert (q @ summed(number)(log_q, log_p)).item() == pytest.approx(
            values["texts", "forward"], abs=1e-12
        )
    for number, measure in ((summed, "tokens"), (of_the_text, "texts")):
        mean = (q @ number(value_of_backward)(log_q, log_p)).item()
        assert mean == pytest.approx(values[measure, "backward"], abs=1e-12)


def test_k3_is_the_better_estimate_near_agreement_only():
    spreads = {}
    for spread in (0.4, 2.5):
        toy = toys.toy_policy(spread, seed=2)
        log_q = toy.logits.log_softmax(0)
        estimates = [
            toys.statistics("forward", k(log_q, toy.log_p), log_q, toy.log_p) for k in (K1, K3)
        ]
        assert all(abs(estimate.bias) < 1e-12 for estimate in estimates)
        spreads[spread] = [estimate.std for estimate in estimates]
    assert spreads[0.4][1] < 0.3 * spreads[0.4][0]
    assert spreads[2.5][1] > 3 * spreads[2.5][0]


def of_one_token(penalty, log_q, log_p, kl_coef):
    """What a penalty of an exercise makes of texts of one token."""
    q, p = log_q[:, None], log_p[:, None]
    return penalty(q, p, torch.ones_like(q).bool(), kl_coef)


# Three texts: one bad, two of equal reward. What does the optimum keep of each?
THREE_P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
THREE_R = torch.tensor([0.1, 0.9, 0.9], dtype=torch.float64)


def rests(penalty, coefficient, limit=math.inf, steps=3000):
    """Shares of the three texts after so many steps of the natural gradient from the reference."""
    log_q = THREE_P.log()
    for _ in range(steps):
        log_ratio = (THREE_P.log() - log_q).clamp(max=limit)
        gain = THREE_R - of_one_token(penalty, log_q, log_q + log_ratio, coefficient)
        log_q = (log_q + 0.5 * gain).log_softmax(0)
    return log_q.exp()


@pytest.mark.parametrize(
    "coefficient, forward, backward", [(0.1, 3.3535e-4, 5.8609e-2), (0.05, 1.1254e-7, 3.0274e-2)]
)
def test_both_optima_keep_the_odds_of_equal_texts_and_differ_in_the_tail(
    coefficient, forward, backward
):
    by_forward = rests(rewards_solution.kl_penalty_forward, coefficient)
    by_backward = rests(rewards_solution.kl_penalty_backward, coefficient)
    for found in (by_forward, by_backward):  # neither settles on one of the two good texts
        assert (found[1] / found[2]).item() == pytest.approx(1.5, abs=1e-9)
    # forward: odds times exp(−Δ/c), Δ = 0.8
    assert by_forward[0].item() == pytest.approx(1 / (1 + math.exp(0.8 / coefficient)), rel=1e-9)
    assert by_forward[0].item() == pytest.approx(forward, rel=1e-4)
    # backward: q = c · p / (λ − R), for one λ
    want = toys._held_by_backward(THREE_R[None], coefficient, THREE_P)[0]
    torch.testing.assert_close(by_backward, want, atol=1e-9, rtol=0)
    of_all = THREE_R + coefficient * THREE_P / want  # λ
    torch.testing.assert_close(of_all, of_all.mean().expand(3), atol=1e-9, rtol=0)
    assert want[0].item() == pytest.approx(backward, rel=1e-4)


def test_a_low_limit_of_the_ratio_lets_go_of_the_tail():
    """Where r is at most 10, a token gets back 9 · kl_coef: too little against a gap of 0.8."""
    penalty = rewards_solution.kl_penalty_backward
    high, low = rests(penalty, 0.1), rests(penalty, 0.1, limit=math.log(10))
    torch.testing.assert_close(low, high, atol=1e-9, rtol=0)  # 9 · 0.1 > 0.8
    assert rests(penalty, 0.05)[0] > 0.03
    falling = [rests(penalty, 0.05, math.log(10), steps)[0].item() for steps in (30, 60, 120)]
    assert falling[0] < 1e-2 and falling[1] < 1e-4 and falling[2] < 1e-8  # as long as one looks
    # The limit of the solution, 1000, lets go where 999 · kl_coef is too little.
    assert rests(penalty, 0.01)[0].item() == pytest.approx(6.2109e-3, rel=1e-3)
    assert rests(penalty, 0.001)[0].item() == pytest.approx(6.246e-4, rel=1e-3)
    assert rests(penalty, 0.0005)[0] < 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cost", [torch.tanh, torch.sinh, lambda gap: gap.clamp(-1, 0.5)])
def test_whatever_rises_with_the_difference_lowers_the_divergence_of_a_token(cost, seed):
    """By the natural gradient, log q − step · c, KL(q‖p) falls by step · Cov(c, log q − log p)."""
    toy = toys.toy_policy(spread=0.7, seed=seed)
    log_q = toy.logits.log_softmax(0)
    gap = log_q - toy.log_p
    q = log_q.exp()
    covariance = q @ (cost(gap) * gap) - (q @ cost(gap)) * (q @ gap)
    step = 1e-6
    after = (log_q - step * cost(gap)).log_softmax(0)
    fall = toys.divergence("forward", log_q, toy.log_p) - toys.divergence(
        "forward", after, toy.log_p
    )
    assert covariance > 0.01
    assert (fall / step).item() == pytest.approx(covariance.item(), rel=1e-4)


# Groups of G texts, drawn from four: every group that can be drawn, with its probability.
FOUR_R = torch.tensor([0.1, 0.35, 0.6, 1.0], dtype=torch.float64)
FOUR_Q = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
FOUR_P = torch.tensor([0.25, 0.4, 0.05, 0.3], dtype=torch.float64)


def mean_over_groups(size, number):
    """E[number(texts of a group, (G,))] over all groups."""
    total = 0.0
    for group in itertools.product(range(4), repeat=size):
        drawn = torch.tensor(group)
        total = total + FOUR_Q[drawn].prod() * number(drawn)
    return total


def update(rewards, drawn, advantages):
    """The mean of advantage · ∇ log q by the logits, (4,), over the texts of a group."""
    gradients = torch.eye(4, dtype=torch.float64)[drawn] - FOUR_Q  # (G, 4)
    return (advantages(rewards[drawn])[:, None] * gradients).mean(0)


def centred(rewards):
    return rewards - rewards.mean()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_group_that_contains_the_own_sample_takes_1_over_g_of_the_gradient(size):
    got = mean_over_groups(size, lambda drawn: update(FOUR_R, drawn, centred))
    exact = FOUR_Q * (FOUR_R - FOUR_Q @ FOUR_R)  # of E[R], by the logits
    torch.testing.assert_close(got, (1 - 1 / size) * exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_with_raw_advantages_beta_is_kl_coef_times_g_minus_1_over_g(size):
    """A penalty in the reward shrinks with the group's mean, a term beside it does not."""
    kl_coef = 0.2
    log_q, log_p = FOUR_Q.log(), FOUR_P.log()
    penalised = FOUR_R - of_one_token(rewards_solution.kl_penalty_forward, log_q, log_p, kl_coef)
    inside = mean_over_groups(size, lambda drawn: update(penalised, drawn, centred))
    plain = mean_over_groups(size, lambda drawn: update(FOUR_R, drawn, centred))
    held = toys.penalty_gradient(toys.pull("in the loss × ratio", K3, log_q, log_p), log_q)
    beta = kl_coef * (size - 1) / size
    torch.testing.assert_close(plain - beta * held, inside, atol=1e-12, rtol=0)
    assert (plain - kl_coef * held - inside).abs().max() > 1e-3


def normalised(rewards):
    return group_advantages(rewards, len(rewards))


def test_scale_and_shift_are_invisible_without_a_penalty_only():
    rewards = FOUR_R
    torch.testing.assert_close(normalised(2 * rewards + 3), normalised(rewards), atol=5e-4, rtol=0)
    penalty = of_one_token(rewards_solution.kl_penalty_forward, FOUR_Q.log(), FOUR_P.log(), 0.2)
    seen = normalised(2 * rewards + 3 - penalty)
    assert (seen - normalised(rewards - penalty)).abs().max() > 0.1
    # it is the reward with half the coefficient
    torch.testing.assert_close(seen, normalised(rewards - penalty / 2), atol=5e-4, rtol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_how_much_of_the_reward_normalised_advantages_carry(size):
    """E[A · (R − μ)] = (1 − 1/G) · E[s], s being the deviation of the group."""

    def carried(drawn):
        spread = FOUR_R[drawn].std() + 1e-4
        return (centred(FOUR_R[drawn]) / spread * (FOUR_R[drawn] - FOUR_Q @ FOUR_R)).mean()

    def variance_over_deviation(drawn):
        return FOUR_R[drawn].var() / (FOUR_R[drawn].std() + 1e-4)

    want = (1 - 1 / size) * mean_over_groups(size, variance_over_deviation)
    assert mean_over_groups(size, carried).item() == pytest.approx(want.item(), abs=1e-12)


@pytest.fixture(scope="module")
def groups():
    """(P, 2000, 8) sentiments of the base model, in groups of eight with replacement, and the
    deviation of each prompt's samples, (P,)."""
    table = torch.tensor(read_optimum(ROOT / "tiny" / "optimum.json").table)
    drawn = torch.randint(
        table.shape[1], (len(table), 16000), generator=torch.Generator().manual_seed(0)
    )
    return table.gather(1, drawn).view(len(table), 2000, 8), table.std(1, correction=0)


def test_beta_beside_normalised_advantages(groups):
    """A reward's slope in them is 0.86 / σ: beta is a kl_coef of 1.16 · beta · σ."""
    rewards, deviation = groups
    carried = 7 / 8 * rewards.std(2).mean(1) / deviation
    assert carried.mean().item() == pytest.approx(0.859, abs=2e-3)
    assert 1 / carried.mean().item() == pytest.approx(1.16, abs=6e-3)
    assert deviation.mean().item() == pytest.approx(0.296, abs=1e-3)


@pytest.mark.parametrize(
    "temperature, want", [(1.0, 0.995), (0.5, 0.980), (0.25, 0.934), (0.1, 0.81)]
)
def test_how_much_exponential_shaping_changes_the_advantages(groups, temperature, want):
    scores = groups[0].flatten()
    shaped = (scores / temperature).exp() - 1  # as test_exponential_shaping_by_hand has it
    pair = torch.stack([group_advantages(scores, 8), group_advantages(shaped, 8)])
    assert pair.corrcoef()[0, 1].item() == pytest.approx(want, abs=2e-3)
