"""Exercise 3a: the log-probability of a text."""

import functools
import math

import torch

from cases.asking import Finding, Mistake, compare
from cases.shaping import write_texts

PROMPTS = ("This movie was", "The plot", "I watched this because", "It is", "My friends and I")


def token_ids(tokenizer, text):
    return tokenizer(text)["input_ids"] if text else []


def logits_token_by_token(model, prompt_ids, completion_ids, shift=0):
    """(C, V) logits that predict each completion token, one forward pass each: slow and plain.

    `shift=1` reads one position too late, to recognise that mistake.
    """
    return _logits(model, tuple(prompt_ids), tuple(completion_ids), shift)


@functools.lru_cache(maxsize=64)  # a grader asks about the same texts again and again
def _logits(model, prompt_ids, completion_ids, shift):
    ids = prompt_ids + completion_ids
    rows = []
    for i in range(len(prompt_ids), len(ids)):
        with torch.no_grad():
            rows.append(model(torch.tensor([ids[: i + shift]])).logits[0, -1].double())
    return torch.stack(rows)


def picked(table, completion_ids):
    return table[range(len(completion_ids)), completion_ids]  # (C,)


def sums_and_mistakes(models, prompts, completions):
    """(the log-probability of each completion, the `Mistake`s that other sums are)."""
    model, tokenizer = models
    tokens = []
    late = []
    whole = []
    raw = []
    probs = []
    for prompt, completion in zip(prompts, completions):
        start = token_ids(tokenizer, prompt)
        rest = token_ids(tokenizer, completion)
        logits = logits_token_by_token(model, start, rest)
        tokens.append(picked(logits.log_softmax(-1), rest))
        raw.append(picked(logits, rest).sum())
        probs.append(picked(logits.softmax(-1), rest).sum())
        late.append(picked(logits_token_by_token(model, start, rest, 1).log_softmax(-1), rest))
        ids = start + rest
        every = logits_token_by_token(model, ids[:1], ids[1:])
        whole.append(picked(every.log_softmax(-1), ids[1:]).sum())
    total = torch.stack([row.sum() for row in tokens])
    without_first = [row[1:].sum() for row in tokens]
    shifted = [row.sum() for row in late]
    return total, [
        Mistake("the sign: a log-probability is never positive", -total),
        Mistake("the sum: this is the mean over tokens", [row.mean() for row in tokens]),
        Mistake("the shift: the logits at position t predict token t + 1", shifted),
        Mistake("the first token: the last prompt token predicts it", without_first),
        Mistake("the last token: it counts too", [row[:-1].sum() for row in tokens]),
        Mistake("the prompt: only completion tokens count", whole),
        Mistake("the base: natural logarithms, nats", total / math.log(2)),
        Mistake("the logarithm: this is the probability", total.exp()),
        Mistake("the logarithm: these are summed probabilities", probs),
        Mistake("log_softmax: logits are not log-probabilities yet", raw),
    ]


def sums_the_completion(ask, rng):
    """the log-probability of a text is the sum over its completion tokens."""
    prompts = rng.sample(PROMPTS, 3)
    completions = write_texts(rng, 3)
    total, mistakes = sums_and_mistakes(ask.models, prompts, completions)
    got = ask(completions=completions, prompts=prompts)
    meaning = "Σ_t log P(token_t | all before it), in nats"
    return compare(got, total, meaning, mistakes, tolerance=2e-3)


def joins_ids_not_texts(ask, rng):
    """prompt and completion are tokenized apart, as the sampled ids were."""
    prompts = ["The act", "I like this mov"]
    completions = ["ing was good", "ie a lot"]
    total, mistakes = sums_and_mistakes(ask.models, prompts, completions)
    model, tokenizer = ask.models
    merged = []
    for prompt, completion in zip(prompts, completions):
        ids = token_ids(tokenizer, prompt + completion)
        length = len(token_ids(tokenizer, prompt))
        table = logits_token_by_token(model, ids[:length], ids[length:]).log_softmax(-1)
        merged.append(picked(table, ids[length:]).sum())
    border = "the border: tokenized together, tokens merge across it; join the lists of ids"
    mistakes.append(Mistake(border, merged))
    got = ask(completions=completions, prompts=prompts)
    meaning = "Σ log P over tokenizer(completion)"
    return compare(got, total, meaning, mistakes, tolerance=2e-3, otherwise="the ids")


def an_empty_completion_is_certain(ask, rng):
    """an empty completion has probability 1, so log-probability 0."""
    got = ask(completions=["", " good."], prompts=["It is", "It is"])
    if abs(got[0]) < 1e-6:
        return None
    cause = (
        "the logarithm: this is the probability" if abs(got[0] - 1) < 1e-6 else "no token: no sum"
    )
    return Finding("0 for the first", cause)
