"""Sample completions from a language model: for training, evaluation and the notebook."""

import functools
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from engine.common import UserError, first_line
from engine.model.architecture import base_of, has_fast_rollout, is_plain_gpt2
from engine.model.gpt2 import GPT2Decoder, StaticDecoder
from engine.model.scoring import Models, evaluation_mode, pad, score_completions
from engine.model.texts import end_ids, tokenize_prompts

# Nats a token, between sampling and scoring. float32 rounds by a hundredth of it; TF32, on a GPU,
# by 4e-4 on average and by 3e-3 at most.
TOLERANCE = {"cpu": 1e-3, "mps": 1e-3, "cuda": 1e-2}
ASK_EVERY = 8  # tokens of a recorded rollout, whether all texts have ended: who asks a GPU waits
WARM_UP = 3  # steps before one is recorded, as PyTorch's documentation has it


@dataclass(frozen=True)
class Sampling:
    """How texts are sampled: from the unrestricted distribution softmax(logits / temperature)."""

    max_new_tokens: int = 48  # of the longest completion
    temperature: float = 1.0  # above 0
    seed: int | None = 0  # makes the samples repeatable; None: torch's global random state
    batch_size: int = 64  # rows that `generate_batches` samples at a time
    prompt_width: int = 0  # tokens of a run's longest prompt: so that all batches have one shape


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
    if model.device.type == "cuda" and is_plain_gpt2(model):
        sample = _decode_recorded
    else:
        sample = _decode if has_fast_rollout(model) else _decode_with_transformers
    rows = rows or Rows(0, len(prompt_ids))
    with evaluation_mode(model):
        ids, log_probs = sample(model, tokenizer, prompt_ids, sampling, rows)
    completions = _until_end(ids, end_ids(model, tokenizer))
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
    ends = torch.tensor(end_ids(model, tokenizer), device=device)
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
    columns, log_probs = [], []
    for uniform in _uniforms(sampling, rows, len(prompt_ids)).to(device):  # (B, 1)
        ids, values = _draw(next_logits(ids).float(), uniform, sampling.temperature)
        columns.append(torch.where(alive[:, None], ids, tokenizer.pad_token_id))
        log_probs.append(values)
        alive = alive & (ids != ends).all(1)
        if not alive.any():
            break
    return torch.cat(columns, dim=1), torch.cat(log_probs, dim=1)


def _draw(logits, uniform, temperature):
    """One token for each row: (ids, log_probs), both (B, 1).

    Args:
        logits: (B, V) float32; they are overwritten.
        uniform: (B, 1) random numbers in [0, 1).
    """
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    if temperature != 1:
        logits /= temperature
    logits -= logits.amax(1, keepdim=True)
    # float32 sums of a long tail lose its last digits.
    cdf = logits.exp().cumsum(1, dtype=precise)
    ids = torch.searchsorted(cdf, uniform.to(precise) * cdf[:, -1:], right=True)
    ids = ids.clamp(max=cdf.shape[1] - 1)
    return ids, logits.gather(1, ids) - cdf[:, -1:].log()


class _Shape(NamedTuple):
    """What a recorded step holds for; another one is recorded for anything else."""

    rows: int  # B
    width: int  # P, of the prompts
    tokens: int  # T
    temperature: float
    ends: tuple[int, ...]
    padding: int
    weights: tuple[int, ...]  # where they lie in memory


class _Rollout:
    """A rollout of GPT-2 whose step, sampling included, is recorded as a CUDA graph and replayed.

    Python takes longer to launch the kernels of a step one by one than a GPU to run them. A graph
    repeats them on the same memory, so that everything that changes is a tensor with a place of its
    own; random numbers are drawn before. On a CPU the same step runs as it is.
    """

    refused = False  # a GPU that has not recorded one step is not asked for another

    def __init__(self, model, shape: _Shape):
        self.shape = shape
        self.decoder = StaticDecoder(model, shape.rows, shape.width, shape.tokens)
        empty = functools.partial(torch.zeros, device=model.device)
        self.uniforms = empty(shape.tokens, shape.rows, 1)
        self.step = empty(1, dtype=torch.long)  # which token is drawn next
        self.drawn = empty(shape.rows, 1, dtype=torch.long)  # the latest
        self.alive = empty(shape.rows, dtype=torch.bool)
        self.ids = empty(shape.rows, shape.tokens, dtype=torch.long)
        self.log_probs = empty(shape.rows, shape.tokens, dtype=torch.float64)
        self.ends = torch.tensor(shape.ends, device=model.device)
        self.graph = None
        if model.device.type == "cuda" and shape.tokens > 1:
            with torch.cuda.device(model.device):
                self.graph = self._recorded()

    def _recorded(self):
        """The step as a graph; None where a GPU or its driver will not record it."""
        if _Rollout.refused:
            return None
        before = torch.cuda.current_stream()
        try:
            return self._record()
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # PyTorch leaves it where the end of a recording fails
            _Rollout.refused = True
            print(
                "sampling step by step: this GPU does not record a step "
                f"({first_line(error.__context__ or error)})",
                file=sys.stderr,
            )
            return None

    def _record(self):
        stream = _side_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.decoder.rewind()
                self.step.zero_()
                self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those of NCCL, may go on meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._advance()
        return graph

    def __call__(self, ids, mask, uniforms):
        """(ids, log_probs), both (B, up to T); the prompts' ids and mask are (B, P)."""
        logits = self.decoder.start(ids, mask)
        self.uniforms.copy_(uniforms)
        self.step.zero_()
        self.alive.fill_(True)
        self._sample(logits)
        advance = self._advance if self.graph is None else self.graph.replay
        for done in range(1, self.shape.tokens):
            if done % ASK_EVERY == 0 and not self.alive.any():
                break
            advance()
        else:
            done = self.shape.tokens
        return self.ids[:, :done].clone(), self.log_probs[:, :done].clone()

    def _advance(self):
        self._sample(self.decoder(self.drawn))

    def _sample(self, logits):
        uniform = self.uniforms.index_select(0, self.step)[0]
        ids, log_probs = _draw(logits, uniform, self.shape.temperature)
        shown = torch.where(self.alive[:, None], ids, self.shape.padding)
        self.ids.index_copy_(1, self.step, shown)
        self.log_probs.index_copy_(1, self.step, log_probs)
        self.alive.logical_and_((ids != self.ends).all(1))
        self.drawn.copy_(ids)
        self.step.add_(1)


@functools.cache
def _side_stream(device):
    """The one stream of a GPU on which steps are recorded.

    cuBLAS keeps work space for every stream for ever, up to 32 MiB; and what it takes before the
    recording is not part of a graph's own memory.
    """
    return torch.cuda.Stream(device)


_rollout: _Rollout | None = None  # the latest: a run has one shape


def _decode_recorded(model, tokenizer, prompt_ids, sampling, rows):
    """As `_decode`, for GPT-2 on a GPU."""
    global _rollout
    longest = max(sampling.prompt_width, *map(len, prompt_ids))
    shape = _Shape(
        rows=len(prompt_ids),
        width=longest + -longest % 8,
        tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        ends=tuple(end_ids(model, tokenizer)),
        padding=tokenizer.pad_token_id,
        weights=tuple(weight.data_ptr() for weight in base_of(model).parameters()),
    )
    if _rollout is None or _rollout.shape != shape:
        _rollout = None  # its memory is free before the next one takes some
        _rollout = _Rollout(model, shape)
    ids, mask = pad(
        prompt_ids, tokenizer.pad_token_id, "left", device=model.device, width=shape.width
    )
    return _rollout(ids, mask, _uniforms(sampling, rows, len(prompt_ids)))


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
    made = _generate_with_transformers(model, tokenizer, prompt_ids, sampling, rows)
    sampled = made.sequences[:, max(map(len, prompt_ids)) :]
    completions = _until_end(sampled, end_ids(model, tokenizer))
    padded, _ = pad(completions, tokenizer.pad_token_id, "right", device=model.device)
    log_probs, _ = score_completions(
        model, tokenizer, prompt_ids, completions, sampling.temperature
    )
    return padded, log_probs


def _generate_with_transformers(model, tokenizer, prompt_ids, sampling, rows, **more):
    """What the model's own `generate` returns; `more` says what beside the sequences."""
    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", device=model.device)
    seed = int(torch.randint(2**31, ())) if sampling.seed is None else sampling.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed + 7_368_787 * rows.first)  # or processes would sample alike
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end_ids(model, tokenizer),
            return_dict_in_generate=True,
            **more,
        )


def _until_end(ids, ends):
    """(B, T) token ids as lists, each up to its first token that ends a text."""
    ends = set(ends)
    rows = ids.tolist()
    lengths = [next((i for i, token in enumerate(row, 1) if token in ends), None) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths)]


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
    longest = max(map(len, prompt_ids), default=0)
    sampling = replace(sampling, prompt_width=max(sampling.prompt_width, longest))
    first_seed = (sampling.seed or 0) * 100_003
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
            sampling=replace(sampling, seed=first_seed + start),
            rows=Rows(own.start - start, stop - start),
        ).completion_ids
        tick()
    return completion_ids


def require_same_scores(models: Models, prompt_ids, sampling: Sampling) -> None:
    """Refuse a policy that scores its own samples otherwise than it drew them.

    Some architectures read padding as if it were text (RWKV is 2 nats a token off), and their
    training would go anywhere. Costs eight tokens of four texts, and no random number of the run.

    Args:
        prompt_ids: lists of token ids; the shortest and the longest are tried.
        sampling: of the run; its seed and its batch size do not count.

    Raises:
        UserError: naming the kind of the model, and by how much.
    """
    error = _scoring_error(models.policy, models.tokenizer, prompt_ids, sampling)
    if not error <= TOLERANCE[models.policy.device.type]:  # nor is NaN
        raise UserError(
            f"A model of the kind {models.policy.config.model_type} cannot be trained here: its "
            f"own texts are scored {error:.2g} nats a token off what they were sampled with, as "
            "where padding is read like text. Use one of another architecture."
        )


@torch.no_grad()
def _scoring_error(model, tokenizer, prompt_ids, sampling):
    """Nats a token between sampling and scoring: the mean of a text, and of four the largest."""
    sampling = replace(sampling, max_new_tokens=min(8, sampling.max_new_tokens), seed=0)
    by_length = sorted(prompt_ids, key=len)
    prompts = [by_length[0], by_length[-1]] * 2
    if has_fast_rollout(model):
        ids, drawn = generate(model, tokenizer, prompts, sampling)
    else:
        ids, drawn = _watched(model, tokenizer, prompts, sampling)
    ids[:2] = [row[: len(row) // 2 + 1] for row in ids[:2]]  # padding behind them too
    scored, mask = score_completions(model, tokenizer, prompts, ids, sampling.temperature)
    drawn = torch.tensor([(row + [0.0] * 8)[: scored.shape[1]] for row in drawn]).to(scored)
    errors = ((drawn - scored).abs() * mask).sum(1) / mask.sum(1)
    return errors.max().item()  # NaN where one is


def _watched(model, tokenizer, prompt_ids, sampling):
    """What the model's own `generate` samples, with the log-probabilities that it drew from."""
    with evaluation_mode(model):
        made = _generate_with_transformers(
            model, tokenizer, prompt_ids, sampling, Rows(0, len(prompt_ids)), output_logits=True
        )
    logits = torch.stack(made.logits, dim=1).float() / sampling.temperature  # (B, T, V)
    sampled = made.sequences[:, -logits.shape[1] :]
    log_probs = logits.log_softmax(-1).gather(-1, sampled[..., None])[..., 0]
    return _until_end(sampled, end_ids(model, tokenizer)), log_probs.tolist()
