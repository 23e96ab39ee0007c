import math

import pytest
import torch

from engine.model import output_layer
from engine.model.output_layer import token_log_probs

COUNT, WIDTH, VOCABULARY = 300, 16, 150


@pytest.fixture(params=["the vocabulary at once", "in three parts"])
def inputs(request, monkeypatch):
    if request.param == "in three parts":
        monkeypatch.setattr(output_layer, "LOGITS", 64 * COUNT)  # 64 entries, 64 and 22
    torch.manual_seed(0)
    hidden, weight = torch.randn(COUNT, WIDTH), torch.randn(VOCABULARY, WIDTH)
    weight[100:] *= 1.5  # the largest logits stand in the last parts, for many rows
    return hidden, weight, torch.randint(VOCABULARY, (COUNT,))


def assert_close(got, want):
    """Within 5e-6 of the largest entry: some gradients reach 60, where float32 steps by 4e-6."""
    torch.testing.assert_close(got, want, atol=5e-6 * max(1.0, want.abs().max().item()), rtol=0)


@pytest.fixture(params=["exact products", "as where they are rounded"])
def products(request, monkeypatch):
    monkeypatch.setattr(output_layer, "_rounds", lambda device: "exact" not in request.param)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.usefixtures("products")
def test_values_and_gradients_against_float64(inputs, temperature):
    hidden, weight, targets = inputs
    factors = torch.randn(COUNT)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    log_probs, entropy = token_log_probs(h, w, targets, temperature)
    (log_probs * factors).sum().backward()
    hx, wx = hidden.double().requires_grad_(), weight.double().requires_grad_()
    exact = (hx @ wx.t() / temperature).log_softmax(-1)
    chosen = exact.gather(1, targets[:, None])[:, 0]
    (chosen * factors).sum().backward()
    for got, want in (
        (log_probs, chosen),
        (entropy, -(exact.exp() * exact).sum(1)),
        (h.grad, hx.grad),
        (w.grad, wx.grad),
    ):
        assert_close(got.double(), want)
    assert not entropy.requires_grad


def test_a_rounded_logit_is_compared_with_rounded_ones(monkeypatch):
    """Both logits are 1.00 + 0.003, and bfloat16 makes 1 of it: half the probability each."""
    multiply = torch.Tensor.matmul
    monkeypatch.setattr(output_layer, "_rounds", lambda device: True)
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: multiply(a.bfloat16(), b.bfloat16()).float()
    )
    weight = torch.tensor([[1.003], [1.003]])
    log_probs, _ = token_log_probs(torch.ones(1, 1), weight, torch.tensor([1]))
    assert log_probs.item() == pytest.approx(-math.log(2), abs=1e-6)


def test_without_gradients_the_same_log_probs_and_no_entropy(inputs):
    hidden, weight, targets = inputs
    with_gradients, _ = token_log_probs(hidden, weight.requires_grad_(), targets)
    with torch.no_grad():
        without, entropy = token_log_probs(hidden, weight, targets)
    assert without.equal(with_gradients) and entropy is None


def test_a_frozen_output_layer_gets_no_gradient_and_keeps_no_logits(inputs):
    hidden, weight, targets = inputs
    hidden.requires_grad_()
    log_probs, _ = token_log_probs(hidden, weight, targets)
    assert log_probs.grad_fn.parts == []
    log_probs.sum().backward()
    both = hidden.detach().requires_grad_(), weight.requires_grad_()
    token_log_probs(*both, targets)[0].sum().backward()
    assert hidden.grad.equal(both[0].grad)


def test_a_token_that_is_all_but_impossible_has_a_log_prob():
    """exp(-200) is 0 in float32; its logarithm must not be."""
    weight = torch.tensor([[200.0], [0.0]])
    log_probs, _ = token_log_probs(torch.ones(1, 1), weight, torch.tensor([1]))
    assert log_probs.tolist() == [-200.0]
