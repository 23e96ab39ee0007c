"""Load a language model and make it ready: positions, kernels, an adapter, the ids of its prompts.

torch is imported inside the functions, so that `--help` need not wait for it.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from engine.common import UserError, first_line
from engine.model.architecture import arguments_of, context_length
from engine.model.devices import best_device

WEIGHTS = {"dtype": "float32", "use_safetensors": True}  # a pickled model could run code


def load_pretrained(auto_class, name, **options) -> Any:
    """`auto_class.from_pretrained(name)` from a local folder, else the local cache, else the Hub.

    Raises:
        UserError: in one line, where that fails.
    """
    try:
        return auto_class.from_pretrained(name, local_files_only=True, **options)
    except Exception as error:  # from_pretrained lets the errors of four libraries through
        if (Path(name) / "final").is_dir():
            raise UserError(f"'{name}' is a run; its model is '{Path(name) / 'final'}'.") from error
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
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Cannot fetch '{name}' from the Hugging Face Hub, and it is no local folder "
            f"({first_line(error)}). Use the bundled models (train.py --preset tiny; tiny/gpt2 "
            "elsewhere), or give the path of a local copy."
        ) from error


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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = load_pretrained(AutoTokenizer, model_name)
    model = load_pretrained(AutoModelForCausalLM, model_name, **WEIGHTS)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model = model.to(device or best_device()).eval()
    prepare(model)
    return model, tokenizer


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
    """The model with a LoRA adapter on every linear layer of its blocks (PEFT)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        fan_in_fan_out=model.config.model_type == "gpt2",  # its Conv1D weights are transposed
        task_type="CAUSAL_LM",
    )
    with_adapter: Any = get_peft_model(model, config)
    with_adapter.create_or_update_model_card = lambda folder: None  # PEFT's empty template
    return with_adapter


def tokenize_prompts(prompts, tokenizer, model, max_new_tokens) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        UserError: a prompt and its completion do not fit into the model's context.
    """
    prompt_ids = tokenizer(list(prompts))["input_ids"]
    longest = max(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]))
    tokens = len(prompt_ids[longest])
    limit = context_length(model)
    if tokens + max_new_tokens > limit:
        raise UserError(
            f"The prompt '{prompts[longest][:40]}…' has {tokens} tokens; with {max_new_tokens} new "
            f"ones it exceeds the model's context of {limit}. Shorten it, or lower "
            "--max_completion_length of train.py, --max_new_tokens of evaluate.py."
        )
    return prompt_ids
