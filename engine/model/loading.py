"""Load a language model and make it ready: where it runs, in which precision, with which kernels.

torch is imported inside the functions, so that `--help` need not wait for it.
"""

import contextlib
import ctypes
import inspect
import os
import platform
import sys
from pathlib import Path
from urllib.parse import urlparse

from engine.common import UNUSED, UserError, first_line, import_without

WEIGHTS = {"dtype": "float32", "use_safetensors": True}  # a pickled model could run code


def best_device():
    """CUDA if there is one, else Apple's MPS, else the CPU. Of several GPUs, this process's own."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def mixed_precision(device):
    """(GRPOConfig arguments, autocast type or None). The weights stay float32 everywhere."""
    import torch

    if device.type != "cuda":
        return {"bf16": False, "fp16": False}, None  # TRL's default is bf16, on a CPU too
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return {"bf16": True, "fp16": False}, torch.bfloat16
    return {"bf16": False, "fp16": True}, torch.float16  # with loss scaling, for a T4


def load_pretrained(auto_class, name, **options):
    """`auto_class.from_pretrained(name)` from a local folder, else the local cache, else the Hub.

    Raises:
        UserError: in one line, where that fails.
    """
    if auto_class.__name__.startswith("AutoModel"):
        import_without("transformers.modeling_utils", *UNUSED)
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
    path, known = Path(name), name.startswith(".") or Path(name).is_absolute()
    return known or len(path.parts) > 2 or Path(*path.parts[:1]).is_dir()


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


def load_model(model_name, device=None):
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

    count, ids = kwargs.get("logits_to_keep"), kwargs.get("input_ids")
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
    with_adapter = get_peft_model(model, config)
    with_adapter.create_or_update_model_card = lambda folder: None  # PEFT's empty template
    return with_adapter


def arguments_of(model):
    """Names of what the model's forward takes."""
    return inspect.signature(base_of(model).forward).parameters


def base_of(model):
    """The language model itself, without the LoRA adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_plain_gpt2(model):
    """Whether `engine.model.gpt2` and `output_layer` compute what the model does: a GPT-2 in
    float32, on one device, as it is or with plain LoRA adapters in its blocks."""
    import torch
    from transformers import GPT2LMHeadModel

    base = base_of(model)
    if type(base) is not GPT2LMHeadModel:
        return False
    config, adapted = base.config, [m for m in base.modules() if hasattr(m, "base_layer")]
    outer = {type(m) for m in (base.lm_head, base.transformer.wte, base.transformer.wpe)}
    weights = {(type(p), p.dtype) for p in base.parameters()}  # another type: they lie in shards
    return (
        config.scale_attn_weights
        and not (config.scale_attn_by_inverse_layer_idx or config.add_cross_attention)
        and outer == {torch.nn.Linear, torch.nn.Embedding}
        and weights == {(torch.nn.Parameter, torch.float32)}
        and all(map(_is_plain_lora, adapted))
    )


def _is_plain_lora(layer):
    """Whether a layer that PEFT has wrapped adds a product of two matrices to its weight, and that
    is all: no DoRA, no bias of its own, no other method."""
    variants, bias = getattr(layer, "lora_variant", True), getattr(layer, "lora_bias", {})
    return not variants and not any(bias.values()) and hasattr(layer, "get_delta_weight")


def has_fast_rollout(model):
    """Whether `sampling.generate` can drive the model itself: not GPT-1, BLOOM or Mamba."""
    return {"position_ids", "past_key_values", "logits_to_keep"} <= arguments_of(model).keys()


def context_length(model):
    """The most tokens the model can read, prompt and completion together."""
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


def tokenize_prompts(prompts, tokenizer, model, max_new_tokens):
    """{prompt: its token ids}.

    Raises:
        UserError: a prompt and its completion do not fit into the model's context.
    """
    prompts = list(dict.fromkeys(prompts))
    prompt_ids = dict(zip(prompts, tokenizer(prompts)["input_ids"]))
    longest = max(prompts, key=lambda prompt: len(prompt_ids[prompt]))
    tokens, limit = len(prompt_ids[longest]), context_length(model)
    if tokens + max_new_tokens > limit:
        raise UserError(
            f"The prompt '{longest[:40]}…' has {tokens} tokens; with --max_completion_length "
            f"{max_new_tokens} it exceeds the model's context of {limit}."
        )
    return prompt_ids


def tune_cpu():
    """Settings of this process that make a CPU step faster and leave float32 what it is.

    Where a GPU runs the models there is nothing to do.
    """
    import torch

    if best_device().type == "cpu":
        _keep_freed_memory()
        if torch.backends.cpu.get_cpu_capability() == "AVX512" and not _made_by_intel():
            _multiply_with_onednn()


def _keep_freed_memory():
    """Ask glibc to keep freed memory for the next step instead of handing it back to the system.

    A training step frees and takes the same large tensors again; without this, page faults take
    up to a third of a CPU step. Does nothing where there is no glibc.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_threshold, 2**30)


def _made_by_intel():
    """Whether Intel made the processor: MKL then has code for it."""
    with contextlib.suppress(OSError):
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "Intel" in platform.processor()


def _multiply_with_onednn():
    """Have oneDNN multiply float32 matrices instead of MKL, where it does so in float32.

    MKL has AVX-512 code for Intel's processors only. On another one that has AVX-512, oneDNN
    multiplied 2.6 times as fast; where there is only AVX2, MKL is as fast or faster. PyTorch passes
    float32 to oneDNN only together with the permission to round to bfloat16, which oneDNN may use
    on processors that multiply bfloat16. So one product is compared with float64, and if it was
    rounded, the permission is taken back.
    """
    import torch

    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    error = (a @ b - (a.double() @ b.double())).abs().max()  # 3e-5 in float32, 0.1 in bfloat16
    if error > 1e-3:
        matmul.fp32_precision = before
