"""What README, docs and notebook say about KL terms, each statement on an exact toy, to 1e-6.

One token: what the number pulls at, in the reward (detached), in the loss (differentiated), and in
the loss times the ratio q/q_old. Two tokens: whole texts against single tokens.
"""

import pytest
import torch

import rewards_solution
from engine.course import toys

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
