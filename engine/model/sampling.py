"""Sample completions from a language model: for training, evaluation and the notebook."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from engine.model.architecture import has_fast_rollout, is_plain_gpt2
from engine.model.gpt2 import GPT2Decoder
from engine.model.loading import tokenize_prompts
from engine.model.scoring import compute_log_probs, evaluation_mode, pad


@dataclass(frozen=True)
class Sampling:
    """How texts are sampled: from the unrestricted distribution softmax(logits / temperature)."""

    max_new_tokens: int = 48  # of the longest completion
    temperature: float = 1.0  # above 0
    seed: int | None = 0  # makes the samples repeatable; None: torch's global random state
    batch_size: int = 64  # rows that `generate_batches` samples at a time


class Rows(NamedTuple):
    """Rows first … of a batch of `total`: they get the random numbers of their rows, so that
    several processes sample what one would."""

    first: int
    total: int


class Sampled(NamedTuple):
    """B completions, an end-of-text token included where one was sampled."""

    completion_ids: list[list[int]]
    log_probs: list[list[float]]  # of each token, nats, as `compute_log_probs` would give them


@torch.no_grad()
def generate(
    model, tokenizer, prompt_ids, sampling=Sampling(), rows: Rows | None = None
) -> Sampled:
    """Sample one completion per prompt.

    Args:
        model: causal language model; dropout does not act, whatever its mode.
        prompt_ids: list of B lists of token ids.
        rows: which of a larger batch these are; the whole batch by default.
    """
    sample = _decode if has_fast_rollout(model) else _decode_with_transformers
    rows = rows or Rows(0, len(prompt_ids))
    with evaluation_mode(model):
        ids, log_probs = sample(model, tokenizer, prompt_ids, sampling, rows)
    completions = _until_end(ids, tokenizer.eos_token_id)
    lengths = map(len, completions)
    return Sampled(
        completions, [values[:length] for values, length in zip(log_probs.tolist(), lengths)]
    )


def _decode(model, tokenizer, prompt_ids, sampling, rows):
    """A plain decode loop: (ids, log_probs), both (B, T).

    One forward pass per token with a key-value cache, and one uniform random number per row.
    Inverse-CDF sampling replaces `torch.multinomial`, which draws a random number for every entry
    of the vocabulary and takes half of a CPU decode step to do so.
    """
    device = model.device
    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", device=device)  # (B, P)
    if is_plain_gpt2(model):
        next_logits = GPT2Decoder(model, mask, sampling.max_new_tokens)
    else:
        next_logits = _with_growing_cache(model, mask)
    precise = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
    columns, log_probs = [], []
    for uniform in _uniforms(sampling, rows, len(prompt_ids)).to(device):  # (B, 1)
        logits = next_logits(ids).float()  # (B, V)
        if sampling.temperature != 1:
            logits /= sampling.temperature
        logits -= logits.amax(1, keepdim=True)
        # float32 sums of a long tail lose its last digits.
        cdf = logits.exp().cumsum(1, dtype=precise)
        ids = torch.searchsorted(cdf, uniform.to(precise) * cdf[:, -1:], right=True)  # (B, 1)
        ids = ids.clamp(max=cdf.shape[1] - 1)
        columns.append(torch.where(alive[:, None], ids, tokenizer.pad_token_id))
        log_probs.append(logits.gather(1, ids) - cdf[:, -1:].log())
        alive = alive & (ids[:, 0] != tokenizer.eos_token_id)
        if not alive.any():
            break
    return torch.cat(columns, dim=1), torch.cat(log_probs, dim=1)


def _with_growing_cache(model, mask):
    """callable(ids) -> (B, V) logits of the next token, by the model's own forward pass.

    Args:
        mask: (B, P) of the prompts, which are what it reads first; then (B, 1) tokens each.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def next_logits(ids):
        nonlocal mask, positions
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
        return logits

    return next_logits


def _uniforms(sampling, rows, count):
    """(T, B, 1) random numbers in [0, 1): drawn for the whole batch, those of its B rows."""
    generator = None
    if sampling.seed is not None:
        generator = torch.Generator().manual_seed(sampling.seed)
    whole = torch.rand(sampling.max_new_tokens, rows.total, 1, generator=generator)
    return whole[:, rows.first : rows.first + count]


def _decode_with_transformers(model, tokenizer, prompt_ids, sampling, rows):
    """The same through the model's own `generate`, and a second pass for the log-probabilities."""
    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", device=model.device)
    seed = int(torch.randint(2**31, ())) if sampling.seed is None else sampling.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed + 7_368_787 * rows.first)  # or processes would sample alike
        sampled = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    completions = _until_end(sampled[:, ids.shape[1] :], tokenizer.eos_token_id)
    padded, real = pad(completions, tokenizer.pad_token_id, "right", device=model.device)
    log_probs = compute_log_probs(
        model,
        torch.cat([ids, padded], dim=1),
        torch.cat([mask, real], dim=1),
        completion_length=padded.shape[1],
        temperature=sampling.temperature,
    )
    return padded, log_probs


def _until_end(ids, eos_token_id):
    """(B, T) token ids as lists, each up to its first end-of-text token."""
    rows = ids.tolist()
    return [row[: row.index(eos_token_id) + 1] if eos_token_id in row else row for row in rows]


def generate_batches(
    model, tokenizer, prompts, sampling=Sampling(), rows=None, tick=lambda: None
) -> list[list[int]]:
    """Token ids of one completion for each prompt, sampled in batches with a seed for each.

    Args:
        prompts: list of N strings.
        rows: the range of prompts to sample for, where other processes sample for the others; all
            by default.
        tick: callable() after each batch.

    Raises:
        UserError: a prompt and its completion exceed the model's context.
    """
    prompt_ids = tokenize_prompts(prompts, tokenizer, model, max_new_tokens=sampling.max_new_tokens)
    rows = range(len(prompts)) if rows is None else rows
    completion_ids = []
    for start in range(0, len(prompts), sampling.batch_size):
        stop = min(start + sampling.batch_size, len(prompts))
        own = range(max(rows.start, start), min(rows.stop, stop))
        if not own:
            continue  # another process samples these
        completion_ids += generate(
            model,
            tokenizer,
            prompt_ids[own.start : own.stop],
            sampling=replace(sampling, seed=(sampling.seed or 0) * 100_003 + start),
            rows=Rows(own.start - start, stop - start),
        ).completion_ids
        tick()
    return completion_ids
