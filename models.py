"""Load a language model, sample from it, and score its tokens.

Training, evaluation and the notebook all use these three functions, so that the text that is
scored, the text that is trained on and the text that is shown come from one place.
"""

import contextlib
import ctypes
import inspect
import os
import sys
from pathlib import Path
from urllib.parse import urlparse

import torch

WEIGHTS = {"dtype": torch.float32, "use_safetensors": True}  # a pickled model could run code


class UserError(Exception):
    """A problem the user can solve. The message says what happened and what to do, in one line."""


def best_device():
    """CUDA if there is one, else Apple's MPS, else the CPU. Of several GPUs, this process's own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_pretrained(auto_class, name, **options):
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
                f"The folder '{name}' holds no model that can be loaded: {_first_line(error)}"
            ) from error
    try:
        _require_hub(name)
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Cannot fetch '{name}' from the Hugging Face Hub, and it is no local folder "
            f"({_first_line(error)}). Use the bundled models with --preset tiny, or give the path "
            "of a local copy."
        ) from error


def _require_hub(name):
    """Fail in seconds where the Hub does not answer: its client would retry for minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        raise OSError("HF_HUB_OFFLINE is set")
    from huggingface_hub.utils import get_session  # knows proxies and certificates

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        get_session().head(endpoint, timeout=10)
    except Exception as error:  # httpx's, and those of a proxy
        raise OSError(f"no answer from {urlparse(endpoint).hostname}") from error


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


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
    if "position_ids" in _arguments(model):
        model.register_forward_pre_hook(_count_real_tokens, with_kwargs=True)
    if "logits_to_keep" in _arguments(model):
        model.register_forward_pre_hook(_keep_logits_by_index, with_kwargs=True)
    model = model.to(device or best_device()).eval()
    _choose_kernels(model)
    return model, tokenizer


def _choose_kernels(model):
    """The same functions with less work: measured in `benchmarks/`, equal to rounding."""
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
    up to 2.5 nats off per token on the bundled model.
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
    count, ids = kwargs.get("logits_to_keep"), kwargs.get("input_ids")
    if isinstance(count, int) and count > 0 and ids is not None:
        kwargs["logits_to_keep"] = torch.arange(-min(count, ids.shape[1]), 0, device=ids.device)
    return args, kwargs


def _arguments(model):
    """Names of what the model's forward takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # under LoRA
    return inspect.signature(base.forward).parameters


def has_fast_rollout(model):
    """Whether `generate` can drive the model itself. GPT-1, BLOOM and Mamba are older than that."""
    return {"position_ids", "past_key_values", "logits_to_keep"} <= _arguments(model).keys()


@contextlib.contextmanager
def reference_model(policy, ref_model=None):
    """The frozen reference: `ref_model`, or a LoRA policy with its adapter switched off."""
    if ref_model is not None:
        yield ref_model
    else:
        with policy.disable_adapter():
            yield policy


def context_length(model):
    """The most tokens the model can read, prompt and completion together."""
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


def pad_left(sequences, padding_id, device=None):
    """Lists of token ids as one (B, T) tensor with padding in front, and its attention mask."""
    width = max(map(len, sequences))
    ids = torch.tensor([[padding_id] * (width - len(s)) + list(s) for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    return ids.to(device), mask.to(device)


def pad_right(sequences, padding_id, device=None):
    """Lists of token ids as one (B, T) tensor with padding behind, and its attention mask."""
    width = max(map(len, sequences))
    ids = torch.tensor([list(s) + [padding_id] * (width - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    return ids.to(device), mask.to(device)


@torch.no_grad()
def generate(model, tokenizer, prompt_ids, max_new_tokens, temperature=1.0, seed=None, part=(0, 1)):
    """Sample one completion per prompt from the unrestricted distribution softmax(logits / T).

    A plain decode loop: one forward pass per token with a key-value cache, and one uniform random
    number per row. Inverse-CDF sampling replaces `torch.multinomial`, which draws a random number
    for every entry of the vocabulary and takes half of a CPU decode step to do so. A model without
    `has_fast_rollout` is sampled by its own `generate`, from the same distribution.

    Args:
        prompt_ids: list of B lists of token ids.
        max_new_tokens: the longest completion.
        temperature: T > 0.
        seed: an int makes the samples repeatable; None uses torch's global random state.
        part: (rank, world) where several processes sample one batch, a part each: each draws the
            random numbers of the whole batch and uses its own, so that from equal states they
            sample what one process would.

    Returns:
        (ids, log_probs): B lists of token ids, an end-of-text token included where one was sampled,
        and B lists of their log-probabilities, in nats, as `compute_log_probs` would give them.
    """
    from transformers import DynamicCache

    if not has_fast_rollout(model):
        return _generate_slowly(
            model, tokenizer, prompt_ids, max_new_tokens, temperature, seed, part[0]
        )
    device = model.device
    generator = torch.Generator().manual_seed(seed) if seed is not None else None
    ids, mask = pad_left(prompt_ids, tokenizer.pad_token_id, device)  # (B, P)
    (rank, world), rows = part, len(prompt_ids)
    uniforms = torch.rand(max_new_tokens, world * rows, 1, generator=generator)
    uniforms = uniforms[:, rank * rows : (rank + 1) * rows].to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    precise = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
    columns, log_probs = [], []
    for uniform in uniforms:  # (B, 1)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        # float32 sums of a long tail lose its last digits; float64 is cheap for one row per text.
        probs = (logits.to(precise) / temperature).softmax(-1)  # (B, V)
        cdf = probs.cumsum(-1)
        ids = torch.searchsorted(cdf, uniform.to(precise) * cdf[:, -1:], right=True)  # (B, 1)
        ids = ids.clamp(max=cdf.shape[1] - 1)
        columns.append(torch.where(alive[:, None], ids, tokenizer.pad_token_id))
        log_probs.append(probs.gather(1, ids).log())
        alive = alive & (ids[:, 0] != tokenizer.eos_token_id)
        if not alive.any():
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    rows = _until_end(torch.cat(columns, dim=1), tokenizer.eos_token_id)
    values = torch.cat(log_probs, dim=1).tolist()
    return rows, [row[: len(ids)] for row, ids in zip(values, rows)]


def _until_end(ids, eos_token_id):
    """(B, T) token ids as lists, each up to its first end-of-text token."""
    rows = ids.tolist()
    return [row[: row.index(eos_token_id) + 1] if eos_token_id in row else row for row in rows]


def _generate_slowly(model, tokenizer, prompt_ids, max_new_tokens, temperature, seed, rank):
    """`generate` through transformers' own, and a second pass for the log-probabilities."""
    ids, mask = pad_left(prompt_ids, tokenizer.pad_token_id, model.device)
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    with torch.random.fork_rng():
        torch.manual_seed(seed + 7_368_787 * rank)  # or processes would sample one group alike
        sampled = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    rows = _until_end(sampled[:, ids.shape[1] :], tokenizer.eos_token_id)
    completions, real = pad_right(rows, tokenizer.pad_token_id, model.device)
    both, masks = torch.cat([ids, completions], dim=1), torch.cat([mask, real], dim=1)
    values = compute_log_probs(model, both, masks, completions.shape[1], temperature).tolist()
    return rows, [row[: len(ids)] for row, ids in zip(values, rows)]


def compute_log_probs(model, input_ids, attention_mask, completion_length, temperature=1.0):
    """Log-probability of each of the last `completion_length` tokens, given all before it.

    One pass, logits only where they are needed. Padding may stand anywhere: each row's real
    tokens are moved together before the pass and its results moved back after it.

    Args:
        model: causal language model. Weights below float32 are read as float32: at a
            log-probability of 8, bfloat16 steps by 0.06, as large as the signal.
        input_ids: (B, L) prompt and completion tokens; L = prompt part + completion_length.
        attention_mask: (B, L), 1 for a real token, 0 for padding. Every row begins with at least
            one real prompt token.
        completion_length: T, columns from the right that hold the completion.
        temperature: the logits are divided by it, as in sampling.

    Returns:
        (B, T) float32 tensor in nats; 0 where the completion is padding.
    """
    length = completion_length
    order = attention_mask.long().argsort(dim=1, stable=True)  # padding first, then real tokens
    ids, mask = input_ids.gather(1, order), attention_mask.gather(1, order)
    logits = _forward(
        model,
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=torch.arange(-length - 1, -1, device=ids.device),
        use_cache=False,
    ).logits
    if logits.shape[1] > length:  # a model that keeps them all
        logits = logits[:, -length - 1 : -1]
    logits = logits.float()  # (B, T, V): logits at t - 1 predict token t
    if temperature != 1:
        logits = logits / temperature
    log_probs = logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]  # (B, T)
    back = torch.zeros_like(input_ids, dtype=torch.float32)
    back = back.scatter(1, order[:, -length:], log_probs)[:, -length:]
    return back.masked_fill(attention_mask[:, -length:] == 0, 0.0)


def _forward(model, **inputs):
    inputs = {name: value for name, value in inputs.items() if name in _arguments(model)}
    if next(model.parameters()).dtype == torch.float32:
        return model(**inputs)
    weights = {name: tensor.float() for name, tensor in model.named_parameters()}
    return torch.func.functional_call(model, weights, kwargs=inputs)


def tune_cpu():
    """Settings of this process that make a CPU step faster and leave float32 what it is.

    Where a GPU runs the models there is nothing to do.
    """
    if best_device().type != "cpu":
        return
    _keep_freed_memory()
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


def _multiply_with_onednn():
    """Have oneDNN multiply float32 matrices instead of MKL, where it does so in float32.

    MKL takes generic code on processors that are not Intel's (MKL_VERBOSE=1 shows it); oneDNN, with
    AVX-512, multiplied 2.6 times as fast on the one measured. PyTorch passes float32 to oneDNN only
    together with the permission to round to bfloat16, which oneDNN uses on processors with a unit
    for it (Intel's AMX). So one product is compared with float64, and if it was rounded, the
    permission is taken back.
    """
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    error = (a @ b - (a.double() @ b.double())).abs().max()  # 3e-5 in float32, 0.1 in bfloat16
    if error > 1e-3:
        matmul.fp32_precision = before
