import copy

import pytest
import torch
from transformers import GPT2LMHeadModel

from engine.model import output_layer
from engine.model.loading import add_lora, prepare
from engine.model.output_layer import token_log_probs, use_for_loss

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


@pytest.mark.parametrize("temperature", [1.0, 0.7])
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


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_the_loss_of_trl_gets_what_trl_would_compute(small_gpt2, lora, temperature):
    """Log-probabilities, entropies and every gradient, with padding on both sides, where two texts
    begin alike and two are the same."""
    from trl.trainer.utils import add_fused_lm_head

    ids = [
        [0, 0, 3, 1, 4, 1, 5],
        [2, 7, 1, 8, 2, 0, 0],
        [3, 1, 4, 2, 8, 0, 0],
        [2, 7, 1, 8, 2, 0, 0],
    ]
    ids = torch.tensor(ids)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], *[[1, 1, 1, 1, 1, 0, 0]] * 3])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    results = []
    for ours in (False, True):
        base = copy.deepcopy(small_gpt2)
        prepare(base)
        torch.manual_seed(1)  # an adapter starts with random numbers
        model = add_lora(base) if lora else base
        add_fused_lm_head(base, temperature=temperature, outputs=("log_probs", "entropy"))
        if ours:
            use_for_loss(model, temperature)
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        (out.log_probs * torch.arange(24.0).view(4, 6)).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([out.log_probs, out.entropy, *gradients])
    assert len(results[0]) > 10
    for want, got in zip(*results, strict=True):
        assert_close(got, want)


def test_every_other_call_of_the_model_is_as_before(small_gpt2):
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    want = small_gpt2(ids, labels=ids)
    use_for_loss(small_gpt2, 1.0)
    got = small_gpt2(ids, labels=ids)
    assert got.loss.equal(want.loss) and got.logits.equal(want.logits)


def test_where_it_cannot_compute_the_same_trl_does(small_bloom):
    forward = small_bloom.forward
    use_for_loss(small_bloom, 1.0)
    assert small_bloom.forward == forward and not isinstance(small_bloom, GPT2LMHeadModel)
