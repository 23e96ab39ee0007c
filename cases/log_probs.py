"""Exercise 3a: the log-probability of a text."""

import functools
import math

import torch
from torch.nn.utils.rnn import pad_sequence

from cases.asking import Finding, Mistake, Wrong, compare, show
from cases.shaping import WORDS, write_texts

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
    """(the log-probability of each completion, the `Mistake`s that other sums are).

    The mistakes are worked out where somebody looks at them: for wrong answers only.
    """
    pairs = [*zip(prompts, completions)]
    total = log_probs_of(models, *pairs)
    return total, known_mistakes(models, pairs, total)


def known_mistakes(models, pairs, total):
    """The `Mistake`s, one by one."""
    model, tokenizer = models
    pairs = [(token_ids(tokenizer, start), token_ids(tokenizer, rest)) for start, rest in pairs]
    logits = [logits_token_by_token(model, *pair) for pair in pairs]
    tokens = [picked(table.log_softmax(-1), rest) for table, (_, rest) in zip(logits, pairs)]
    raw = [picked(table, rest).sum() for table, (_, rest) in zip(logits, pairs)]
    probs = [picked(table.softmax(-1), rest).sum() for table, (_, rest) in zip(logits, pairs)]
    late = []
    whole = []
    for start, rest in pairs:
        late.append(picked(logits_token_by_token(model, start, rest, 1).log_softmax(-1), rest))
        ids = start + rest
        every = logits_token_by_token(model, ids[:1], ids[1:])
        whole.append(picked(every.log_softmax(-1), ids[1:]).sum())
    without_first = [row[1:].sum() for row in tokens]
    shifted = [row.sum() for row in late]
    yield from (
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
    )


def sums_the_completion(ask, rng):
    """the log-probability of a text is the sum over its completion tokens."""
    prompts = rng.sample(PROMPTS, 3)
    completions = write_texts(rng, 3)
    total, mistakes = sums_and_mistakes(ask.models, prompts, completions)
    got = ask(completions=completions, prompts=prompts)
    meaning = "Σ_t log P(token_t | all before it), in nats"
    otherwise = (
        "the sum: each token of tokenizer(completion) after all before it, none more and none "
        "less, from the model's own logits in float32"
    )
    return compare(got, total, meaning, mistakes, tolerance=2e-3, otherwise=otherwise)


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
    mistakes = [*mistakes, Mistake(border, merged)]
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


@functools.lru_cache(maxsize=64)
def log_probs_of(models, *pairs):
    """The log-probability of each completion of (prompt, completion), (N,), by one forward pass."""
    model, tokenizer = models
    ids = [(token_ids(tokenizer, start), token_ids(tokenizer, rest)) for start, rest in pairs]
    rows = [torch.tensor(start + rest) for start, rest in ids]
    with torch.no_grad():
        # Padded at their ends, where no token of a text looks.
        logits = model(pad_sequence(rows, batch_first=True)).logits
    totals = []
    for (start, rest), row in zip(ids, logits):
        predicting = row[len(start) - 1 : len(start) + len(rest) - 1]
        totals.append(picked(predicting.double().log_softmax(-1), rest).sum())
    return torch.stack(totals)


def odd_pairs(rng, tokenizer):
    """[(a prompt, a completion, what is odd about them)], at most 128 tokens each."""
    this, that = rng.sample(PROMPTS, 2)
    one, other = (" ".join(rng.choices(WORDS, k=6)) for _ in range(2))
    end = tokenizer.eos_token
    again = "the pairs: texts come again in other pairs; take each completion after its own prompt"
    cut = "the length: the whole prompt counts, and every token of the completion"
    blanks = "the blanks: at the ends of a text they count, as all characters do"
    inside = f"the end token: {end} in a text counts, as all tokens do; only padding does not"
    as_it_is = "the characters: capital letters, odd signs and rare tokens count like all others"
    return [
        (this, f" {one}.", again),
        (this, f" {other}.", again),
        (that, f" {one}.", again),
        (" ".join(rng.choices(WORDS, k=50)), f" {one}.", cut),
        (this, "".join(f" {word}" for word in rng.choices(WORDS, k=50)), cut),
        (f" {that} ", f"  {other} ", blanks),
        (that, f" {one}.{end} {other}", inside),
        (this.upper(), f" {other.upper()}…\nÉ", as_it_is),
    ]


def takes_every_pair_as_it_is(ask, rng):
    """texts in new pairs, long texts, blanks at the ends, an end token inside: all of it counts."""
    prompts, completions, causes = zip(*odd_pairs(rng, ask.models[1]))
    want = log_probs_of(ask.models, *zip(prompts, completions))
    got = ask(completions=[*completions], prompts=[*prompts])
    wrong = (got - want).abs() > 2e-3
    if not wrong.any():
        return None
    return Finding(show(want), causes[int(wrong.nonzero()[0])])


def hides_no_error(ask, rng):
    """a text that the model cannot score gets no number that says it is certain."""
    endless = " good" * 200  # beyond the context
    ask(completions=[" good."], prompts=["It is"])  # no error of another kind
    try:
        got = ask(completions=[" good.", " good."], prompts=["It is", endless])
    except Wrong:
        return None
    if (got < -1e-3).all():
        return None
    return Finding("an error", "the except: it turns an error into log-probability 0; take it out")
