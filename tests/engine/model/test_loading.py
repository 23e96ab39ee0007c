import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from engine.common import UserError
from engine.model import loading
from engine.model.loading import add_lora, is_path, load_model
from engine.options import PRESETS


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


def test_a_path_that_leads_nowhere_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for name in ("outputs/run", "a/b/final", "../final", "./model", str(tmp_path / "away")):
        with pytest.raises(UserError, match=f"There is no folder '{name}': check the name, or"):
            load_model(name)
    assert not is_path("gpt2") and not is_path("owner/name") and is_path("outputs/run")


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
        loading._require_hub()


def test_loaded_model_is_the_same_function(small_gpt2, tmp_path):
    small_gpt2.config.architectures = ["GPT2LMHeadModel"]
    assert small_gpt2.config.activation_function == "gelu_new"
    small_gpt2.save_pretrained(tmp_path)
    for file in Path(PRESETS["tiny"]["model_name"]).glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    loaded, _ = load_model(str(tmp_path), "cpu")
    assert not any("NewGELU" in type(module).__name__ for module in loaded.modules())
    assert loaded.config._attn_implementation != small_gpt2.config._attn_implementation
    assert loaded.config.activation_function == "gelu_new"  # what another program will read
    ids = torch.randint(0, 10, (3, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(ids).logits, small_gpt2(ids).logits, atol=1e-5, rtol=0)
