"""Load a language model and make it ready: positions, kernels, an adapter.

torch is imported inside the functions, so that `--help` need not wait for it.
"""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from engine.common import UserError, first_line
from engine.model.architecture import arguments_of, vocabulary_size
from engine.model.devices import best_device, mixed_precision

DESCRIBES = ("config.json", "adapter_config.json", "tokenizer_config.json")  # a model's parts
WEIGHTS = {"dtype": "float32", "use_safetensors": True}  # a pickled model could run code


def load_pretrained(auto_class, name, **options) -> Any:
    """`auto_class.from_pretrained(name)` from a local folder, else the local cache, else the Hub.

    Where `name` is an adapter of PEFT: of its base, with the adapter merged into the weights.

    Raises:
        UserError: in one line, where that fails.
    """
    try:
        return _from_pretrained(auto_class, name, local_files_only=True, **options)
    except Exception as error:  # from_pretrained lets the errors of four libraries through
        if "trust_remote_code" in str(error):
            raise UserError(
                f"'{name}' needs code that it brings along, which is never run here. Use a model "
                "of an architecture that transformers has."
            ) from error
        if (Path(name) / "final").is_dir():
            raise UserError(f"'{name}' is a run; its model is '{Path(name) / 'final'}'.") from error
        if Path(name).is_dir() and not any((Path(name) / file).exists() for file in DESCRIBES):
            raise UserError(
                f"The folder '{name}' holds no model, and it is not the output folder of a run "
                "that has finished."
            ) from error
        if Path(name).is_dir():
            raise UserError(
                f"The folder '{name}' holds no model that can be loaded: {first_line(error)}"
            ) from error
        if is_path(name):
            raise UserError(
                f"There is no folder '{name}': check the name, or train first."
            ) from error
    try:
        _require_hub()
        return _from_pretrained(auto_class, name, local_files_only=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Cannot fetch '{name}' from the Hugging Face Hub, and it is no local folder "
            f"({first_line(error)}). Use the bundled models (train.py --preset tiny; tiny/gpt2 "
            "elsewhere), or give the path of a local copy."
        ) from error


def _from_pretrained(auto_class, name, local_files_only, **options):
    from torch.nn import Module
    from transformers import AutoTokenizer
    from transformers.utils.hub import cached_file

    def file(filename):
        """Where a file of the model lies, fetched if it may be; None where there is none."""
        return cached_file(
            name,
            filename,
            local_files_only=local_files_only,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )

    adapter = file("adapter_config.json")
    has_own = auto_class is AutoTokenizer and file("tokenizer_config.json")
    if adapter is None or has_own:
        return auto_class.from_pretrained(
            name, local_files_only=local_files_only, trust_remote_code=False, **options
        )
    base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
    loaded = load_pretrained(auto_class, base, **options)
    if not isinstance(loaded, Module):
        return loaded
    if (weights := file("adapter_model.safetensors")) is None:
        raise OSError("it has no adapter_model.safetensors")
    merged = _merge(loaded, Path(weights).parent, len(load_tokenizer(name)))
    merged.name_or_path = name  # for PEFT, what an adapter trained on it is based on
    return merged


def _merge(model, folder, tokens):
    """The model with the adapter in a folder merged into its weights, all of them trainable.

    PEFT's own loading: transformers' drops what DoRA and `modules_to_save` have trained.

    Args:
        tokens: how many the adapter's tokenizer knows; it may have been given new ones.
    """
    from peft import PeftConfig, PeftModel

    if tokens > vocabulary_size(model.config):
        model.resize_token_embeddings(tokens)
    adapted = PeftModel(model, PeftConfig.from_pretrained(str(folder)))
    result = adapted.load_adapter(str(folder), "default", torch_device="cpu")
    if strange := [*result.missing_keys, *result.unexpected_keys]:
        raise ValueError(f"the adapter does not fit its base, as in {strange[0]}")
    if not hasattr(adapted, "merge_and_unload"):
        raise ValueError("an adapter of this kind cannot be merged into its base")
    merged: Any = adapted.merge_and_unload()
    output = merged.get_output_embeddings()
    if output is not None and output.weight is not merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = False  # or what is saved would be tied when loaded
    return merged.requires_grad_(True)


def is_path(name):
    """Whether a model's name can only be a path: on the Hub it has an owner at most before it."""
    path = Path(name)
    if name.startswith(".") or path.is_absolute():
        return True
    return len(path.parts) > 2 or Path(*path.parts[:1]).is_dir()


def _require_hub():
    """Fail in seconds where the Hub does not answer: its client would retry for minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        raise OSError("HF_HUB_OFFLINE is set")
    from huggingface_hub.utils import get_session  # knows proxies and certificates

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        get_session().head(endpoint, timeout=10)
    except Exception as error:  # httpx's, and those of a proxy
        raise OSError(f"no answer from {urlparse(endpoint).hostname}") from error


def load_model(model_name: str, device=None):
    """A causal language model and its tokenizer, ready to sample from.

    Args:
        model_name: a Hub name (`gpt2`), a local folder, or a folder with a LoRA adapter.
        device: where the model goes; the best one by default.

    Returns:
        (model, tokenizer). float32 weights, dropout off. A tokenizer without a padding token
        pads with its end-of-text token; masks come from lengths, so a sampled end of text
        stays a token like any other.

    Raises:
        UserError: the model cannot be fetched or is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model_name)
    model = load_pretrained(AutoModelForCausalLM, model_name, **WEIGHTS)
    require_tokens(tokenizer, vocabulary_size(model.config), model_name)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model = model.to(device or best_device()).eval()
    prepare(model)
    return model, tokenizer


def load_tokenizer(name):
    """The tokenizer of a model; one without a padding token pads with its end-of-text token.

    Raises:
        UserError: there is none. transformers makes one of nothing but special tokens then.
    """
    from transformers import AutoTokenizer

    tokenizer = load_pretrained(AutoTokenizer, name)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            f"'{name}' holds no tokenizer: copy the files of that of its base model beside it, "
            "tokenizer.json and tokenizer_config.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_tokens(tokenizer, vocabulary, name):
    """Refuse a tokenizer whose texts could not end, or be padded for the model.

    Args:
        vocabulary: how many tokens the model has embeddings for.

    Raises:
        UserError: it has no end-of-text token, or the model no embedding for that or the padding.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of '{name}' has no end-of-text token, so that no text could end: name "
            "one, as eos_token in its tokenizer_config.json, or use another model."
        )
    for what, token in (("end-of-text", "eos_token"), ("padding", "pad_token")):
        if (number := getattr(tokenizer, f"{token}_id")) >= vocabulary:
            raise UserError(
                f"The {what} token of '{name}', {number}, is beyond the {vocabulary} that its "
                f"model has embeddings for: name another, as {token} in tokenizer_config.json."
            )


def load_models(model_name: str, device, use_peft=False):
    """What a run trains: `engine.model.scoring.Models`, the policy equal to the reference.

    Args:
        model_name, device: as for `load_model`.
        use_peft: train a LoRA adapter; the reference is the policy without it.

    Raises:
        UserError: as `load_model` and `add_lora`.
    """
    import copy

    from engine.model.scoring import Models

    policy, tokenizer = load_model(model_name, device)
    amp_dtype = mixed_precision(policy.device).scores
    if use_peft:
        return Models(add_lora(policy), None, tokenizer, amp_dtype)
    reference = copy.deepcopy(policy).requires_grad_(False)
    return Models(policy, reference, tokenizer, amp_dtype)


def prepare(model):
    """What every model of a run needs, the reference that TRL loads for `--beta` too: positions
    counted from the first real token, and this project's kernels."""
    if "position_ids" in arguments_of(model):
        model.register_forward_pre_hook(_count_real_tokens, with_kwargs=True)
    if "logits_to_keep" in arguments_of(model):
        model.register_forward_pre_hook(_keep_logits_by_index, with_kwargs=True)
    choose_kernels(model)


def choose_kernels(model):
    """Give any model the same functions with less work: measured, and equal to rounding."""
    from transformers.activations import GELUTanh, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):  # eight kernels, and what each of them saves
                setattr(module, name, GELUTanh())
    if model.device.type == "cpu":  # on texts this short the fused attention only has overhead
        model.set_attn_implementation("eager")


def _count_real_tokens(model, args, kwargs):
    """Number positions from the first real token, as `generate` does, wherever nobody has.

    GPT-2 numbers them from the left edge. TRL's loss pads prompts on the left and passes no
    positions, so that it would score other log-probabilities than those that were sampled from:
    up to 3.3 nats off per token on the bundled model (`benchmarks/padding.py`).
    """
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and kwargs.get("position_ids") is None:
        if kwargs.get("past_key_values") is None:
            kwargs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return args, kwargs


def _keep_logits_by_index(model, args, kwargs):
    """Name the positions whose logits are kept, where only their number was given.

    A slice of the hidden states is not contiguous; PyTorch would multiply it with a copy of the
    output layer for every row of the batch where that layer is frozen, as under LoRA: 10 GB at 64
    rows of GPT-2. An index copies the states instead.
    """
    import torch

    count = kwargs.get("logits_to_keep")
    ids = kwargs.get("input_ids")
    if isinstance(count, int) and count > 0 and ids is not None:
        kwargs["logits_to_keep"] = torch.arange(-min(count, ids.shape[1]), 0, device=ids.device)
    return args, kwargs


def add_lora(model):
    """The model with a LoRA adapter on every linear layer of its blocks (PEFT).

    Raises:
        UserError: PEFT has none for this architecture.
    """
    from peft import LoraConfig, get_peft_model

    kind = model.config.model_type
    config = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        fan_in_fan_out=kind == "gpt2",  # its Conv1D weights are transposed
        task_type="CAUSAL_LM",
    )
    try:
        with_adapter: Any = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"--use_peft does not work with a model of the kind {kind}: leave it out."
        ) from error
    with_adapter.create_or_update_model_card = lambda folder: None  # PEFT's empty template
    return with_adapter
