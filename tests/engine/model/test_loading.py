import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from made_up_models import KINDS, adapter_of

import sentiment
from engine.common import UserError
from engine.model import loading
from engine.model.loading import add_lora, is_path, load_model, load_models
from engine.options import PRESETS, resolve_options
from engine.training import preflight

TINY = PRESETS["tiny"]["model_name"]


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
    said = "holds no model, and it is not the output folder of a run that has finished.$"
    with pytest.raises(UserError, match=said):
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
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)  # merged: rounded once more
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


# Adapters as models.

IDS = torch.arange(40, 50)[None]


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_as_peft_reads_it(tmp_path, policy, kind):
    name, adapted = adapter_of(kind, tmp_path / "adapter", with_tokenizer=kind != "plain")
    models = load_models(name, "cpu")
    want = logits(adapted)
    assert (want - logits(policy[0])).abs().max() > 0.1
    for model in (models.policy, models.ref):
        assert type(model).__name__ == "GPT2LMHeadModel"
        torch.testing.assert_close(logits(model), want, atol=1e-4, rtol=0)
    assert all(weight.requires_grad for weight in models.policy.parameters())
    assert models.tokenizer.get_vocab() == policy[1].get_vocab()  # the base's, where it has none
    models.policy.save_pretrained(tmp_path / "final")
    models.tokenizer.save_pretrained(tmp_path / "final")
    again, _ = load_model(str(tmp_path / "final"), "cpu")
    assert logits(again).equal(logits(models.policy))


def test_an_adapter_trained_on_an_adapter_knows_its_base(tmp_path):
    first, _ = adapter_of("DoRA", tmp_path / "first")
    models = load_models(first, "cpu", use_peft=True)
    with models.policy.disable_adapter():
        start = logits(models.policy)
    torch.testing.assert_close(logits(models.policy), start, atol=0, rtol=0)
    with torch.no_grad():
        for name, weight in models.policy.named_parameters():
            if "lora_B" in name:
                weight += 0.05
    models.policy.save_pretrained(tmp_path / "second")
    again, _ = load_model(str(tmp_path / "second"), "cpu")
    torch.testing.assert_close(logits(again), logits(models.policy), atol=1e-4, rtol=0)
    assert (logits(again) - start).abs().max() > 0.1


def test_an_adapter_of_another_model_is_refused(tmp_path, small_gpt2):
    name, _ = adapter_of("plain", tmp_path / "adapter")
    small_gpt2.config.vocab_size = 6144
    small_gpt2.resize_token_embeddings(6144)
    small_gpt2.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "other")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="adapter' holds no model that can be loaded") as error:
        load_model(name, "cpu")
    assert "\n" not in str(error.value)


def test_half_an_adapter_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    name, _ = adapter_of("plain", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[2:]), file)
    with pytest.raises(UserError, match="the adapter does not fit its base, as in"):
        load_model(name, "cpu")


def test_an_adapter_with_tokens_of_its_own(tmp_path, policy):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = (copy.deepcopy(part) for part in policy)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(
        model,
        LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
    )
    adapted.save_pretrained(tmp_path, save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_model(str(tmp_path), "cpu")
    torch.testing.assert_close(logits(loaded), logits(adapted.eval()), atol=1e-4, rtol=0)
    mark, text, _ = checked(str(tmp_path))
    assert mark == preflight.GOOD and "an adapter, which the run merges" in text


def checked(name, **options):
    """What --check says of a policy."""
    chosen = resolve_options({"preset": "tiny", "model_name": name, **options})
    return preflight.check_model(
        name, lambda config, tokenizer: preflight.require_policy(chosen, config, tokenizer)
    )


# Tokenizers that no text could end with.


def no_end(model, tokenizer):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, unk_token=tokenizer.eos_token
    )


def one_more(model, tokenizer):
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


@pytest.mark.parametrize(
    "change, message",
    [
        (no_end, "has no end-of-text token, so that no text could end"),
        (one_more, "The padding token of .* 6144, is beyond the 6144"),
        (lambda *_: None, "holds no tokenizer: copy the files"),
    ],
)
def test_a_tokenizer_that_cannot_work_is_one_line(tmp_path, policy, change, message):
    policy[0].save_pretrained(tmp_path)
    tokenizer = change(policy[0], copy.deepcopy(policy[1]))
    if tokenizer is not None:
        tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_model(str(tmp_path), "cpu")
    assert "\n" not in str(error.value)
    assert checked(str(tmp_path))[:2] == (preflight.BAD, str(error.value))


def test_lora_where_peft_has_none_is_one_line(tmp_path, policy):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=len(policy[1]),
        hidden_size=16,
        state_size=4,
        num_hidden_layers=1,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=0,
    )
    MambaForCausalLM(config).save_pretrained(tmp_path)
    policy[1].save_pretrained(tmp_path)
    name = str(tmp_path)
    with pytest.raises(UserError, match="--use_peft does not work with .* mamba: leave it out"):
        load_models(name, "cpu", use_peft=True)
    assert load_models(name, "cpu").policy.config.model_type == "mamba"
    assert checked(name)[0] == preflight.GOOD
    mark, text, _ = checked(name, use_peft=True)
    assert mark == preflight.BAD and "--use_peft does not work" in text


# Code that a model brings.


@pytest.fixture(params=["config", "tokenizer", "generate"])
def with_code(request, tmp_path, monkeypatch):
    """A folder whose code leaves a file when it runs, and an answer for whoever asks to run it."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\n"
    (folder / "mine.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(**_): pass\n")
    name = {"config": "config.json", "tokenizer": "tokenizer_config.json"}.get(request.param)
    if name:
        values = json.loads((folder / name).read_text()) | {"model_type": "mine"}
        values |= {"tokenizer_class": "Mine"} if "tokenizer_class" in values else {}
        values["auto_map"] = {
            "AutoConfig": "mine.C",
            "AutoTokenizer": ["mine.T", "mine.T"],
            "AutoModelForCausalLM": "mine.M",
            "AutoModelForSequenceClassification": "mine.S",
        }
        (folder / name).write_text(json.dumps(values))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    yield request.param, str(folder)
    assert not ran.exists() and not asked


def test_code_that_a_model_brings_never_runs(with_code):
    kind, name = with_code
    for load in (load_model, sentiment.load_sentiment_model, sentiment.load_judge, checked):
        try:
            load(name)
        except UserError as error:
            assert "\n" not in str(error)
    if kind == "config":
        with pytest.raises(UserError, match="needs code that it brings along, which is never run"):
            load_model(name, "cpu")
        assert checked(name)[0] == preflight.BAD
