"""Sample completions from a language model: for training, evaluation and the notebook."""

from dataclasses import dataclass

import torch

from engine.common import UserError
from engine.model.gpt2 import GPT2Decoder
from engine.model.loading import context_length, has_fast_rollout, is_plain_gpt2
from engine.model.scoring import compute_log_probs, evaluation_mode, pad


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int | None = 0
    batch_size: int = 64


@torch.no_grad()
def generate(model, tokenizer, prompt_ids, max_new_tokens, temperature=1.0, seed=None, place=None):
    """Sample one completion per prompt from the unrestricted distribution softmax(logits / T).

    Args:
        model: causal language model; dropout does not act, whatever its mode.
        prompt_ids: list of B lists of token ids.
        max_new_tokens: the longest completion.
        temperature: T > 0.
        seed: an int makes the samples repeatable; None uses torch's global random state.
        place: (first, total) where the prompts are rows first … first + B − 1 of a batch of `total`
            rows: they get the random numbers of their rows, so that several processes sample what
            one would.

    Returns:
        (ids, log_probs): B lists of token ids, an end-of-text token included where one was sampled,
        and B lists of their log-probabilities, in nats, as `compute_log_probs` would give them.
    """
    sample = _decode if has_fast_rollout(model) else _decode_with_transformers
    with evaluation_mode(model):
        ids, log_probs = sample(
            model, tokenizer, prompt_ids, max_new_tokens, temperature, seed, place
        )
    completions = _until_end(ids, tokenizer.eos_token_id)
    return completions, [
        values[: len(completion)] for values, completion in zip(log_probs.tolist(), completions)
    ]


def _decode(model, tokenizer, prompt_ids, max_new_tokens, temperature, seed, place):
    """A plain decode loop: (ids, log_probs), both (B, T).

    One forward pass per token with a key-value cache, and one uniform random number per row.
    Inverse-CDF sampling replaces `torch.multinomial`, which draws a random number for every entry
    of the vocabulary and takes half of a CPU decode step to do so.
    """
    device = model.device
    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", device)  # (B, P)
    if is_plain_gpt2(model):
        next_logits = GPT2Decoder(model, mask, max_new_tokens)
    else:
        next_logits = _with_growing_cache(model, mask)
    precise = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
    columns, log_probs = [], []
    for uniform in _uniforms(max_new_tokens, len(prompt_ids), seed, place).to(device):  # (B, 1)
        logits = next_logits(ids).float()  # (B, V)
        if temperature != 1:
            logits /= temperature
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

    cache, positions = DynamicCache(config=model.config), (mask.cumsum(1) - 1).clamp(min=0)

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


def _uniforms(max_new_tokens, size, seed, place):
    """(T, B, 1) random numbers in [0, 1): of the whole batch, those of B rows."""
    generator = torch.Generator().manual_seed(seed) if seed is not None else None
    first, total = place or (0, size)
    return torch.rand(max_new_tokens, total, 1, generator=generator)[:, first : first + size]


def _decode_with_transformers(
    model, tokenizer, prompt_ids, max_new_tokens, temperature, seed, place
):
    """The same through the model's own `generate`, and a second pass for the log-probabilities."""
    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", model.device)
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    with torch.random.fork_rng():
        torch.manual_seed(seed + 7_368_787 * (place or (0,))[0])  # or processes would sample alike
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
    completions = _until_end(sampled[:, ids.shape[1] :], tokenizer.eos_token_id)
    padded, real = pad(completions, tokenizer.pad_token_id, "right", model.device)
    both, masks = torch.cat([ids, padded], dim=1), torch.cat([mask, real], dim=1)
    return padded, compute_log_probs(model, both, masks, padded.shape[1], temperature)


def _until_end(ids, eos_token_id):
    """(B, T) token ids as lists, each up to its first end-of-text token."""
    rows = ids.tolist()
    return [row[: row.index(eos_token_id) + 1] if eos_token_id in row else row for row in rows]


def generate_batches(model, tokenizer, prompts, sampling, rows=None, tick=lambda: None):
    """Token ids of one completion for each prompt, sampled in batches with a seed for each.

    Args:
        prompts: list of N strings.
        sampling: a Sampling.
        rows: the range of prompts to sample for; all by default.
        tick: callable() after each batch.

    Raises:
        UserError: a prompt and its completion exceed the model's context.
    """
    prompt_ids = tokenizer(list(prompts))["input_ids"]
    require_room(model, prompts, prompt_ids, sampling.max_new_tokens)
    rows = range(len(prompts)) if rows is None else rows
    completion_ids = []
    for start in range(0, len(prompts), sampling.batch_size):
        batch = range(start, min(start + sampling.batch_size, len(prompts)))
        first, stop = max(rows.start, batch.start), min(rows.stop, batch.stop)
        if first >= stop:
            continue  # another process samples these
        completion_ids += generate(
            model,
            tokenizer,
            prompt_ids[first:stop],
            sampling.max_new_tokens,
            sampling.temperature,
            seed=sampling.seed * 100_003 + start,
            place=(first - start, len(batch)),
        )[0]
        tick()
    return completion_ids


def require_room(model, prompts, prompt_ids, max_new_tokens):
    """Refuse a prompt that, with its completion, exceeds the model's context.

    Raises:
        UserError: with the longest prompt, its length and what to do.
    """
    longest = max(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
    tokens, limit = len(prompt_ids[longest]), context_length(model)
    if tokens + max_new_tokens > limit:
        raise UserError(
            f"The prompt '{prompts[longest][:40]}…' has {tokens} tokens; with {max_new_tokens} new "
            f"ones it exceeds the model's context of {limit}. Shorten it, or give a smaller "
            "--max_new_tokens."
        )
