"""Training that several models share: batches, parameter groups, the loop, and prediction."""

import random
import time
from typing import NamedTuple

import torch


def length_batches(ids, tokens_per_batch, rng):
    """Shuffled batches of texts of similar length.

    Args:
        ids: one list of token ids per text.
        tokens_per_batch: a batch is full when it holds this many tokens, padding included.
        rng: the `random.Random` that varies the batches from epoch to epoch.

    Returns:
        Lists of indices into `ids`; together they hold each index once.
    """
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]) + rng.random() * 4)
    batches = []
    current = []
    for i in order:
        current.append(i)
        if len(ids[i]) * len(current) >= tokens_per_batch:
            batches.append(current)
            current = []
    batches += [current] if current else []
    rng.shuffle(batches)
    return batches


def hidden_matrices(model):
    """(matrices of the blocks, all other parameters): Muon takes the first, AdamW the second."""
    named = model.named_parameters()
    matrices = [p for n, p in named if p.ndim == 2 and (".h." in n or ".layer." in n)]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if id(p) not in chosen]


def muon(matrices, lr):
    """Muon with the update size of AdamW, so that both learn well with similar rates."""
    return torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")


class Passes(NamedTuple):
    """How often to go through the examples, and in which batches."""

    rows: list  # one list of token ids per example
    epochs: int
    tokens_per_batch: int
    rng: random.Random


def fit(model, loss_of, passes, optimizers, evaluate=None):
    """Train `model` in place.

    The learning rates of the optimizers rise over 200 steps and then fall linearly to zero.

    Args:
        loss_of: callable(model, indices) -> loss of these examples.
        passes: a `Passes`.
        evaluate: callable(model) -> (five-class accuracy, binary accuracy), or None.

    Returns:
        A copy of the model with its weights averaged over the last few hundred steps.
    """
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    rows, epochs, tokens_per_batch, rng = passes
    steps = epochs * len(length_batches(rows, tokens_per_batch, random.Random(0)))
    step = 0
    started = time.time()
    for epoch in range(epochs):
        model.train()
        for batch in length_batches(rows, tokens_per_batch, rng):
            share = min((step + 1) / 200, 1, 1.02 - step / steps)
            for optimizer, peak in zip(optimizers, peaks):
                for group, lr in zip(optimizer.param_groups, peak):
                    group["lr"] = lr * share
                optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            average.update_parameters(model)
            step += 1
        shown = ""
        if evaluate:
            five, two = evaluate(average.module.eval())
            shown = f", dev five classes {five:.2%}, binary {two:.2%}"
        print(
            f"  epoch {epoch + 1}/{epochs}, {time.time() - started:.0f} s, "
            f"loss {loss.item():.3f}{shown}",
            flush=True,
        )
    return average.module.eval()


@torch.no_grad()
def predict(forward, ids):
    """The probabilities of 1 to 5 stars of N texts, (N, 5).

    Args:
        forward: callable(indices) -> logits of these texts, (B, 5).
        ids: one list of token ids per text.
    """
    probs = torch.empty(len(ids), 5)
    for batch in length_batches(ids, 6000, random.Random(0)):
        probs[batch] = forward(batch).float().softmax(-1)
    return probs


def accuracy(probs, stars):
    """How often the most probable number of stars, and how often the side, is right.

    The side is positive where the mean score is above 0.5; texts of three stars have no side.

    Args:
        probs: (N, 5), the probabilities of 1 to 5 stars.
        stars: (N,), the true numbers of stars.

    Returns:
        (five-class accuracy, binary accuracy), each from 0 to 1.
    """
    five = (probs.argmax(1) + 1 == stars).float().mean().item()
    score = probs @ torch.arange(5.0) / 4  # (N,), the expected stars, from 0 to 1
    polar = stars != 3
    return five, ((score > 0.5) == (stars > 3))[polar].float().mean().item()
