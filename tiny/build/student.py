"""The sentiment model that is kept: a small BERT that learns from the teachers."""

import torch
import torch.nn.functional as F

from engine.model.scoring import pad
from tiny.build.tokenizer_training import CONTEXT
from tiny.build.training import (
    Passes,
    accuracy,
    fit,
    hidden_matrices,
    muon,
    predict,
)
from tiny.build.word_vectors import embeddings

SPECIAL_TOKENS = 5  # their ids are 0 to 4


def new_student(tokenizer, vectors, polarity):
    """BERT with random weights, except the word embeddings, which begin as word vectors."""
    from transformers import BertConfig, BertForSequenceClassification

    names = {i: f"{i + 1} star{'s' if i else ''}" for i in range(5)}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=768,
        max_position_embeddings=CONTEXT,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    student = BertForSequenceClassification(config)
    with torch.no_grad():
        table = embeddings(vectors, polarity, config.hidden_size, 0.1)
        word_embeddings(student).copy_(table)
    return student


def word_embeddings(student):
    """The weights of the word embeddings, (V, width)."""
    return student.bert.embeddings.word_embeddings.weight


def new_optimizers(student):
    """Muon for the matrices of the blocks, AdamW for the rest, slower for the word embeddings."""
    table = word_embeddings(student)
    matrices, others = hidden_matrices(student)
    others = [p for p in others if p is not table]
    adam = torch.optim.AdamW([{"params": others}, {"params": [table], "lr": 5e-4}], lr=1e-3)
    return [muon(matrices, 1e-3), adam]


def star_logits(model, tokenizer, rows, hide=0.0):
    """The logits of 1 to 5 stars of rows of token ids, (B, 5).

    Args:
        hide: this share of the tokens is replaced by [MASK], so that no single word decides.
    """
    x, mask = pad(rows, tokenizer.pad_token_id, side="right")
    hidden = (torch.rand(x.shape) < hide) & (x >= SPECIAL_TOKENS)
    with torch.autocast("cpu", torch.bfloat16):
        x = x.masked_fill(hidden, tokenizer.mask_token_id)
        return model(x, attention_mask=mask).logits.float()


def star_probs(model, tokenizer, rows):
    """What the student says of rows of token ids: P(1 to 5 stars), (N, 5)."""
    return predict(lambda chosen: star_logits(model, tokenizer, [rows[i] for i in chosen]), rows)


def train_student(student, tokenizer, examples, probs, rng):
    """Train the student on the opinions of the teachers.

    Args:
        examples: an `Examples`.
        probs: (texts, 5), what the teachers say of all its texts.

    Returns:
        A copy with averaged weights.
    """
    optimizers = new_optimizers(student)
    ids, targets, order = examples.for_student(tokenizer, probs, rng)

    def loss_of(model, batch):
        chosen = [order[i] for i in batch]
        logits = star_logits(model, tokenizer, [ids[i] for i in chosen], hide=0.05)
        return F.cross_entropy(logits, targets[chosen])

    def evaluate(model):
        return accuracy(star_probs(model, tokenizer, examples.dev_ids), examples.dev_stars)

    weights = sum(p.numel() for p in student.parameters())
    print(f"student, {weights / 1e6:.2f} M weights", flush=True)
    passes = Passes([ids[i] for i in order], epochs=2, tokens_per_batch=2048, rng=rng)
    return fit(student, loss_of, passes, optimizers, evaluate)
