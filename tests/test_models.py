import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models
from models import (
    UserError,
    compute_log_probs,
    generate,
    has_fast_rollout,
    load_model,
    pad_left,
    pad_right,
)
from train import PRESETS, add_lora

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
    prompts, prompt_mask = pad_left(PROMPTS, 0)
    completions, mask = pad_right(COMPLETIONS, 0)
    ids, masks = torch.cat([prompts, completions], 1), torch.cat([prompt_mask, mask], 1)
    places = [list(range(len(c))) for c in COMPLETIONS]
    assert_matches_brute_force(small_gpt2.to(dtype), ids, masks, 5, places, temperature)


@pytest.mark.parametrize("pad_prompt", [pad_left, pad_right])
@pytest.mark.parametrize("pad_completion", [pad_left, pad_right])
def test_log_probs_do_not_depend_on_the_padding_side(small_gpt2, pad_prompt, pad_completion):
    prompts, prompt_mask = pad_prompt(PROMPTS, 0)
    completions, mask = pad_completion(COMPLETIONS, 0)
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


@pytest.mark.parametrize("small_model", ["small_gpt2", "small_bloom"])
def test_samples_follow_the_distribution_of_the_model(request, small_model, token_ids):
    """4,000 samples of two tokens against exact probabilities, by a chi-squared statistic."""
    model, count = request.getfixturevalue(small_model), 4000
    assert has_fast_rollout(model) == (small_model == "small_gpt2")
    prompt, temperature = [3, 1, 4], 1.3
    samples, _ = generate(model, token_ids, [prompt] * count, 2, temperature, seed=1)
    with torch.no_grad():
        first = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        after = [
            (model(torch.tensor([prompt + [a]])).logits[0, -1] / temperature).softmax(-1)
            for a in range(11)
        ]
    expected = {(0,): first[0].item()}  # an end of text ends the completion
    expected |= {(a, b): (first[a] * after[a][b]).item() for a in range(1, 11) for b in range(11)}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    observed = dict.fromkeys(expected, 0)
    for sample in samples:
        observed[tuple(sample)] += 1
    large = [key for key, p in expected.items() if p * count >= 5]
    rest = 1 - sum(expected[key] for key in large)
    statistic = sum((observed[k] - count * expected[k]) ** 2 / (count * expected[k]) for k in large)
    others = count - sum(observed[key] for key in large)
    statistic += (others - count * rest) ** 2 / (count * rest)
    degrees = len(large)
    assert degrees > 20
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations


def test_samples_do_not_depend_on_padding_or_on_the_batch(small_gpt2, token_ids):
    """At a temperature near 0 sampling is greedy, so each row can be checked alone."""
    together, _ = generate(small_gpt2, token_ids, PROMPTS, 6, 1e-4)
    alone = [generate(small_gpt2, token_ids, [prompt], 6, 1e-4)[0][0] for prompt in PROMPTS]
    assert together == alone


def test_a_completion_ends_with_its_end_of_text(small_gpt2, token_ids):
    samples, _ = generate(small_gpt2, token_ids, PROMPTS * 50, 8, seed=0)
    ended = [s for s in samples if 0 in s]
    assert ended and all(s.index(0) == len(s) - 1 for s in ended)
    assert all(len(s) == 8 for s in samples if 0 not in s)


def test_a_model_without_positions_is_sampled_and_scored(small_bloom, token_ids):
    ids, log_probs = generate(small_bloom, token_ids, PROMPTS * 4, 6, 0.7, seed=0)
    assert (ids, log_probs) == generate(small_bloom, token_ids, PROMPTS * 4, 6, 0.7, seed=0)
    assert ids != generate(small_bloom, token_ids, PROMPTS * 4, 6, 0.7, seed=1)[0]
    assert ids != generate(small_bloom, token_ids, PROMPTS * 4, 6, 0.7, seed=0, part=(1, 2))[0]
    for prompt, row, values in zip(PROMPTS * 4, ids, log_probs, strict=True):
        with torch.no_grad():
            logits = small_bloom(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        want = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(row)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(values), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_rollout_knows_the_log_probs_of_the_training_pass(policy, temperature):
    model, tokenizer = policy
    prompt_ids = tokenizer(["It was", "My friends and I", "The"] * 8)["input_ids"]
    ids, log_probs = generate(model, tokenizer, prompt_ids, 24, temperature, seed=0)
    prompts, prompt_mask = pad_left(prompt_ids, tokenizer.pad_token_id)
    completions, mask = pad_right(ids, tokenizer.pad_token_id)
    both, masks = torch.cat([prompts, completions], 1), torch.cat([prompt_mask, mask], 1)
    with torch.no_grad():
        want = compute_log_probs(model, both, masks, completions.shape[1], temperature)
    assert list(map(len, log_probs)) == list(map(len, ids))
    got = torch.tensor([value for row in log_probs for value in row])
    torch.testing.assert_close(got, want[mask.bool()], atol=1e-4, rtol=0)


def test_seed_repeats_and_differs(policy):
    model, tokenizer = policy
    ids = tokenizer(["This movie was"] * 4)["input_ids"]
    first = generate(model, tokenizer, ids, 8, seed=1)
    assert first == generate(model, tokenizer, ids, 8, seed=1)
    assert first != generate(model, tokenizer, ids, 8, seed=2)
    assert len({tuple(ids) for ids in first[0]}) > 1  # rows draw their own numbers


def test_loading_turns_dropout_off_and_keeps_float32(policy):
    model, tokenizer = policy
    assert model.config.attn_pdrop == 0.1  # as in GPT-2: the trap is there
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer.pad_token_id is not None


@pytest.mark.parametrize("lora", [False, True])
def test_left_padding_moves_no_position_in_a_plain_forward(policy, lora):
    model, tokenizer = policy
    model = add_lora(copy.deepcopy(model)).eval() if lora else model
    ids = torch.tensor(tokenizer("The music was")["input_ids"])
    padded = torch.cat([torch.zeros(5, dtype=torch.long), ids])[None]
    mask = torch.tensor([[0] * 5 + [1] * len(ids)])
    with torch.no_grad():  # as TRL's loss calls it: a mask, no positions
        got = model(input_ids=padded, attention_mask=mask).logits[:, 5:]
        torch.testing.assert_close(got, model(ids[None]).logits, atol=1e-4, rtol=0)


def test_a_frozen_output_layer_is_not_copied_for_every_row():
    """Where it is, the product with it is a batched one; attention takes two of these a layer."""
    model, _ = load_model(PRESETS["tiny"]["model_name"], "cpu")
    lora = add_lora(model).eval()
    ids = torch.randint(1, 99, (5, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.profiler.profile() as profile:
        kept = lora(input_ids=ids, logits_to_keep=4).logits
    batched = [event.count for event in profile.key_averages() if event.key == "aten::bmm"]
    assert batched == [2 * model.config.num_hidden_layers]
    torch.testing.assert_close(kept, lora(input_ids=ids).logits[:, -4:], atol=1e-5, rtol=0)


def test_a_model_that_cannot_be_fetched_says_so_in_one_line():
    with pytest.raises(UserError, match=r"Cannot fetch 'no/such-model'.*--preset tiny") as error:
        load_model("no/such-model")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        load_model(str(tmp_path))


@pytest.fixture
def checkpoint(tmp_path, policy):
    """OUTPUT_DIR/checkpoint-15 of a LoRA run, the adapter moved away from zero."""
    model, tokenizer = load_model(PRESETS["tiny"]["model_name"], "cpu")
    adapted = add_lora(model)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    folder = tmp_path / "checkpoint-15"
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, adapted


def test_an_adapter_in_mid_run_loads_with_its_base(checkpoint, policy):
    folder, adapted = checkpoint
    loaded, _ = load_model(str(folder), "cpu")
    ids = torch.arange(40, 50)[None]
    with torch.no_grad():
        got, want, base = (model(ids).logits for model in (loaded, adapted.eval(), policy[0]))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert (got - base).abs().max() > 0.1


def broken(folder, how):
    weights = folder / "adapter_model.safetensors"
    if how == "missing":
        weights.unlink()
    elif how == "cut short":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif how == "base is gone":
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "/no/such/base"
        (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("how", ["missing", "cut short", "base is gone"])
def test_a_broken_adapter_is_one_line(checkpoint, how):
    folder, _ = checkpoint
    broken(folder, how)
    with pytest.raises(UserError, match="checkpoint-15' holds no model") as error:
        load_model(str(folder), "cpu")
    assert "\n" not in str(error.value)


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("adapter", [True, False])
def test_a_pickled_model_is_refused_and_never_opened(checkpoint, small_gpt2, tmp_path, adapter):
    folder, _ = checkpoint
    name = "adapter_model.bin" if adapter else "pytorch_model.bin"
    if adapter:
        (folder / "adapter_model.safetensors").unlink()
    else:
        (folder / "adapter_config.json").unlink()
        small_gpt2.config.save_pretrained(folder)
    torch.save({"weight": Payload(tmp_path / "ran")}, folder / name)
    with pytest.raises(UserError, match="holds no model"):
        load_model(str(folder), "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_run_folder_names_its_model(tmp_path):
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(UserError, match="is a run; its model is '.*run/final'"):
        load_model(str(tmp_path / "run"), "cpu")


def test_no_network_fails_at_once(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens on this port
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match="no answer from 127.0.0.1"):
        models._require_hub("gpt2")


def test_lora_reference_is_the_model_without_its_adapter(small_gpt2):
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        before = small_gpt2(ids).logits
        lora = add_lora(small_gpt2).eval()
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
        assert not torch.allclose(lora(ids).logits, before)
        with models.reference_model(lora) as reference:
            torch.testing.assert_close(reference(ids).logits, before, atol=1e-6, rtol=0)


def test_loaded_model_is_the_same_function(small_gpt2, tmp_path):
    small_gpt2.config.architectures = ["GPT2LMHeadModel"]
    assert small_gpt2.config.activation_function == "gelu_new"
    small_gpt2.save_pretrained(tmp_path)
    for file in Path(PRESETS["tiny"]["model_name"]).glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    loaded, _ = models.load_model(str(tmp_path), "cpu")
    assert not any("NewGELU" in type(module).__name__ for module in loaded.modules())
    assert loaded.config._attn_implementation != small_gpt2.config._attn_implementation
    assert loaded.config.activation_function == "gelu_new"  # what another program will read
    ids = torch.randint(0, 10, (3, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(ids).logits, small_gpt2(ids).logits, atol=1e-5, rtol=0)


def test_tuned_cpu_multiplies_in_float32():
    """Every kind of product of a training step: forward, both of backward, batched, one row."""
    code = """
import models, torch
models.tune_cpu()
for rows, inner, columns in [(64, 256, 768), (2368, 1024, 256), (256, 2368, 1024), (1, 768, 99)]:
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    exact = a.double() @ b.double()
    worst = 1e-6 * (a.abs().double() @ b.abs().double()).max()
    for product in (a @ b, a @ b.t().contiguous().t(), torch.addmm(torch.zeros(columns), a, b),
                    torch.stack([a, a]) @ torch.stack([b, b])):
        assert (product - exact).abs().max() < worst, (rows, inner, columns)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("rounds", "kept"), [(False, "bf16"), (True, "none")])
def test_a_cpu_that_would_round_is_left_alone(monkeypatch, rounds, kept):
    setting, multiply = torch.backends.mkldnn.matmul, torch.Tensor.matmul

    def product(a, b):
        if a.dtype == torch.float64:
            return multiply(a, b)
        if rounds and setting.fp32_precision == "bf16":
            a, b = a.bfloat16(), b.bfloat16()
        return multiply(a.double(), b.double()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    try:
        models._multiply_with_onednn()
        assert setting.fp32_precision == kept
    finally:
        setting.fp32_precision = "none"
