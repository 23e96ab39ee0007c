import copy
import math

import pytest
import torch

from engine.model.loading import add_lora
from engine.model.sampling import Sampling, generate
from engine.model.scoring import (
    Models,
    compute_log_probs,
    kl_values,
    pad,
    policy_and_ref_log_probs,
    reference_model,
)

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]
COMPLETIONS = [[3, 5, 8, 0], [9, 7], [9, 3, 2, 3, 8]]  # the first ends with an end of text


def brute_force(model, prompt, completion, temperature):
    """One token at a time, one unpadded sequence at a time, in float64."""
    model = copy.deepcopy(model).double()
    ids, values = list(prompt), []
    for token in completion:
        logits = model(torch.tensor([ids])).logits[0, -1] / temperature
        values.append((logits[token] - logits.exp().sum().log()).item())
        ids.append(token)
    return values


def assert_matches_brute_force(model, ids, mask, length, places, temperature=1.0):
    with torch.no_grad():
        got = compute_log_probs(model, ids, mask, length, temperature)
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS)):
            want = torch.tensor(brute_force(model, prompt, completion, temperature)).float()
            torch.testing.assert_close(got[row, places[row]], want, atol=1e-5, rtol=0)
            left_over = [t for t in range(length) if t not in places[row]]
            assert got[row, left_over].eq(0).all()
    assert got.dtype == torch.float32


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs_as_in_training(small_gpt2, dtype, temperature):
    prompts, prompt_mask = pad(PROMPTS, 0, "left")
    completions, mask = pad(COMPLETIONS, 0, "right")
    ids, masks = torch.cat([prompts, completions], 1), torch.cat([prompt_mask, mask], 1)
    places = [list(range(len(c))) for c in COMPLETIONS]
    assert_matches_brute_force(small_gpt2.to(dtype), ids, masks, 5, places, temperature)


@pytest.mark.parametrize("prompt_side", ["left", "right"])
@pytest.mark.parametrize("completion_side", ["left", "right"])
def test_log_probs_do_not_depend_on_the_padding_side(small_gpt2, prompt_side, completion_side):
    prompts, prompt_mask = pad(PROMPTS, 0, prompt_side)
    completions, mask = pad(COMPLETIONS, 0, completion_side)
    ids, masks = torch.cat([prompts, completions], 1), torch.cat([prompt_mask, mask], 1)
    places = [row.nonzero().flatten().tolist() for row in mask]
    assert_matches_brute_force(small_gpt2, ids, masks, 5, places)


def test_log_probs_of_the_bundled_model_match_its_full_forward(policy):
    model, tokenizer = policy
    ids = torch.tensor([tokenizer("The acting was not very good at all.")["input_ids"]])
    with torch.no_grad():
        want = model(ids).logits[0, :-1].double().log_softmax(-1)
        want = want.gather(1, ids[0, 1:, None])[:, 0].float()
        got = compute_log_probs(model, ids, torch.ones_like(ids), ids.shape[1] - 1)[0]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_lora_reference_is_the_model_without_its_adapter(small_gpt2):
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        before = small_gpt2(ids).logits
        lora = add_lora(small_gpt2).eval()
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
        assert not torch.allclose(lora(ids).logits, before)
        with reference_model(lora) as reference:
            torch.testing.assert_close(reference(ids).logits, before, atol=1e-6, rtol=0)


STARTS = ["This movie was", "The plot of this film"]


def test_kl_values_are_cut_at_a_ratio_of_a_thousand():
    """A token 500 times as likely under the reference counts whole, one e²⁰ times as 1,000."""
    policy = torch.tensor([[-8.0], [-25.0]])
    ref = torch.tensor([[-8.0 + math.log(500)], [-5.0]])
    values = kl_values(policy, ref, torch.ones(2, 1).bool())
    ratios = (500.0, 1000.0)
    forward = [r - 1 - math.log(r) for r in ratios]
    backward = [r * math.log(r) - (r - 1) for r in ratios]
    assert values.forward.tolist() == pytest.approx(forward, rel=1e-5)
    assert values.backward.tolist() == pytest.approx(backward, rel=1e-5)
    assert values.clipped == 0.5


def test_kl_values_by_hand():
    policy = torch.tensor([[-1.0, -2.0], [-1.0, -8.0]])
    ref = torch.tensor([[-2.0, -1.0], [-1.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    values = kl_values(policy, ref, mask)
    # log r = −1 and 1: r − 1 − log r is 1/e and e − 2; r log r − (r − 1) is 1 − 2/e and 1
    assert values.forward.tolist() == pytest.approx([0.3678794 + 0.7182818, 0.0], abs=1e-6)
    assert values.backward.tolist() == pytest.approx([0.2642411 + 1.0, 0.0], abs=1e-6)
    assert values.clipped == 0
    assert kl_values(policy, ref, torch.ones(2, 2, dtype=torch.bool)).clipped == 0.25


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("in_training_mode", [False, True])
def test_step_0_has_no_kl_and_no_penalty(
    classifier, policy, solution, temperature, in_training_mode
):
    """The policy is the reference: with dropout configured, padded, at any temperature."""
    from trl.trainer.utils import disable_dropout_in_model

    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    ref_model = copy.deepcopy(model)
    disable_dropout_in_model(model)  # what GRPOConfig(disable_dropout=True) calls
    model.train(in_training_mode)
    prompt_ids = tokenizer(STARTS * 4)["input_ids"]  # of different lengths: padded
    completion_ids, _ = generate(model, tokenizer, prompt_ids, Sampling(12, temperature, seed=3))
    completion_ids[0] = completion_ids[0][:3] + [tokenizer.eos_token_id]
    models = Models(model, ref_model, tokenizer)
    log_probs = policy_and_ref_log_probs(models, prompt_ids, completion_ids, temperature)
    for value in kl_values(*log_probs):
        assert torch.as_tensor(value).abs().max() <= 1e-5
    for penalty in (solution.kl_penalty_forward, solution.kl_penalty_backward):
        assert torch.as_tensor(penalty(*log_probs, kl_coef=1.0)).abs().max() <= 1e-5


def test_step_0_with_the_log_probs_of_the_rollout(classifier, policy, solution):
    """The same without a second policy pass: rounding differs, by less than a thousandth nat."""
    model, tokenizer = policy
    prompt_ids = tokenizer(STARTS * 4)["input_ids"]
    ids, sampled = generate(model, tokenizer, prompt_ids, Sampling(32, seed=3))
    models = Models(model, model, tokenizer)
    log_probs = policy_and_ref_log_probs(models, prompt_ids, ids, sampled_log_probs=sampled)
    for value in kl_values(*log_probs):
        assert torch.as_tensor(value).abs().max() <= 1e-5
    for penalty in (solution.kl_penalty_forward, solution.kl_penalty_backward):
        assert torch.as_tensor(penalty(*log_probs, kl_coef=0.1)).abs().max() <= 1e-5


@pytest.mark.parametrize("sampler", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_dropout_does_not_act_whatever_the_mode(small_gpt2, token_ids, sampler, plain):
    """GPT-2 ships with dropout 0.1, which acts in training mode."""
    assert small_gpt2.config.attn_pdrop == 0.1
    if not plain:  # read by the forward pass of transformers, as other architectures are
        small_gpt2.config.scale_attn_by_inverse_layer_idx = True
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])

    def measure():
        if sampler:
            return generate(small_gpt2, token_ids, PROMPTS, Sampling(6, 1e-4))
        with torch.no_grad():
            return compute_log_probs(small_gpt2, ids, torch.ones_like(ids), 4).tolist()

    want = measure()
    small_gpt2.train()
    small_gpt2.transformer.h[0].eval()
    assert measure() == want
    assert small_gpt2.training and small_gpt2.transformer.h[1].training
    assert not small_gpt2.transformer.h[0].training  # every module has its mode again


def test_under_autocast_both_models_are_asked_in_the_same_way(policy):
    """What the rollout saw is rounded otherwise; equal models must give equal numbers."""
    model, tokenizer = policy
    prompt_ids = tokenizer(STARTS * 4)["input_ids"]
    ids, sampled = generate(model, tokenizer, prompt_ids, Sampling(16, seed=3))
    models = Models(model, copy.deepcopy(model), tokenizer, torch.bfloat16)
    q, p, _ = policy_and_ref_log_probs(models, prompt_ids, ids, sampled_log_probs=sampled)
    assert q.equal(p) and q.abs().sum() > 0


@pytest.mark.gpu
def test_log_probs_of_a_gpu_reach_the_cpu(policy):
    model, tokenizer = copy.deepcopy(policy[0]).cuda(), policy[1]
    prompt_ids = tokenizer(STARTS * 4)["input_ids"]
    ids, sampled = generate(model, tokenizer, prompt_ids, Sampling(16, seed=3))
    models = Models(model, copy.deepcopy(model), tokenizer)
    for known in (sampled, None):
        found = policy_and_ref_log_probs(models, prompt_ids, ids, sampled_log_probs=known)
        assert {values.device.type for values in found} == {"cpu"}
        torch.testing.assert_close(found.policy, found.ref, atol=1e-4, rtol=0)
        on_cpu = Models(policy[0], policy[0], tokenizer)
        want = policy_and_ref_log_probs(on_cpu, prompt_ids, ids).ref
        torch.testing.assert_close(found.ref, want, atol=1e-3, rtol=0)
