"""The language model: a small GPT-2, trained on whole reviews and finished on simple sentences."""

import math
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tiny.build.corpus import Reviews, is_prompt_like
from tiny.build.fluency import bits_per_byte, report
from tiny.build.saving import save_half
from tiny.build.tokenizer_training import CONTEXT, train_bpe
from tiny.build.training import hidden_matrices, muon

BATCH_SIZE = 32  # windows
PEAK = 2e-3  # the highest learning rate
WARMUP = 200  # steps


class Windows:
    """Random training windows of token ids; each begins where a sentence begins."""

    def __init__(self, documents, tokenizer):
        """Tokenize `documents`, lists of sentences; an end-of-text token follows each."""
        end = tokenizer.eos_token_id
        flat = [sentence for document in documents for sentence in document]
        lasts = set(np.cumsum([len(document) for document in documents]) - 1)
        encodings = tokenizer.backend_tokenizer.encode_batch(flat, add_special_tokens=False)
        ids = []
        starts = []
        prompt_like = []
        for i, (sentence, encoding) in enumerate(zip(flat, encodings)):
            starts.append(len(ids))
            if is_prompt_like(sentence):
                prompt_like.append(len(ids))
            ids += encoding.ids
            if i in lasts:
                ids.append(end)
        self.ids = torch.tensor(ids, dtype=torch.int32)
        beyond = len(ids) - CONTEXT - 1  # from here on, a window would not fit
        self.starts = torch.tensor([s for s in starts if s < beyond])
        self.prompt_like = torch.tensor([s for s in prompt_like if s < beyond])

    def __len__(self):
        """The number of tokens."""
        return len(self.ids)

    def batch(self, size, prompt_like_share=0.0):
        """`size` random windows, (size, CONTEXT + 1).

        Args:
            prompt_like_share: this share of them begins with a sentence that is like a prompt.
        """
        count = round(size * prompt_like_share)
        chosen = torch.cat(
            [
                self.prompt_like[torch.randint(len(self.prompt_like), (count,))],
                self.starts[torch.randint(len(self.starts), (size - count,))],
            ]
        )
        offsets = torch.arange(CONTEXT + 1)
        return self.ids[chosen[:, None] + offsets].long()


def new_model(tokenizer):
    """GPT-2 with random weights. Dropout is off (`eval`), also while it is trained."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=256,
        n_layer=4,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # the same as gelu_new, in one kernel
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config).eval()


def new_optimizers(model):
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices, others = hidden_matrices(model)
    adam = torch.optim.AdamW(others, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon(matrices, PEAK), adam]


class Schedule(NamedTuple):
    """Steps on whole reviews, and from `decay_from` on steps on simple sentences."""

    decay_from: int
    steps: int

    def learning_rate(self, step):
        """Rise to PEAK, stay there, then fall linearly to zero from step `decay_from` on."""
        if step < self.decay_from:
            return PEAK * min(1.0, (step + 1) / WARMUP)
        return PEAK * (self.steps - step) / (self.steps - self.decay_from)

    def batches(self, everything, finishing):
        """One batch per step: from everything first, then from the simple sentences, where half of
        the windows begin like a prompt."""
        for step in range(self.steps):
            if step < self.decay_from:
                yield everything.batch(BATCH_SIZE)
            else:
                yield finishing.batch(BATCH_SIZE, prompt_like_share=0.5)


def training_step(model, optimizers, batch, rate):
    """Learn from one batch of windows; returns its loss in nats per token."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def train(model, batches, schedule, evaluate, save):
    """Train, evaluate every 500 steps and at the end, and save the best model.

    Towards the end the model begins to learn the simple sentences by heart: the last model need
    not be the best.

    Args:
        batches: one tensor (B, CONTEXT + 1) of token ids per step.
        evaluate: callable() -> bits per byte on held-out sentences.
        save: callable(), called after each evaluation that is the best so far.
    """
    optimizers = new_optimizers(model)
    started = time.time()
    running = 0.0
    best = math.inf
    for step, batch in enumerate(batches):
        loss = training_step(model, optimizers, batch, schedule.learning_rate(step))
        running = loss if step == 0 else 0.98 * running + 0.02 * loss
        if (step + 1) % 500 == 0 or step + 1 == schedule.steps:
            bpb = evaluate()
            print(
                f"step {step + 1}/{schedule.steps} {time.time() - started:.0f} s "
                f"loss {running:.3f} held-out prompt-like simple sentences {bpb:.3f} bits per byte",
                flush=True,
            )
            if bpb < best:
                best = bpb
                save()


def build_gpt2(corpus, out, tokens_all, tokens_simple):
    """Build the tokenizer and the language model, and save the best model in the folder `out`.

    Args:
        corpus: folder with the corpora.
        tokens_all: tokens to train on from whole reviews.
        tokens_simple: tokens to train on from simple sentences, after that.
    """
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    reviews = Reviews(corpus)
    simple = reviews.simple_documents(reviews.train)
    held_out = reviews.held_out_prompts()
    tokenizer = train_bpe([sentence for document in simple for sentence in document])
    everything = Windows(reviews.train, tokenizer)
    finishing = Windows(simple, tokenizer)
    print(
        f"{len(reviews.train)} reviews, {len(everything) / 1e6:.1f} M tokens; simple: "
        f"{sum(map(len, simple))} sentences, {len(finishing) / 1e6:.1f} M tokens, "
        f"{len(finishing.prompt_like)} prompt-like; held out {len(held_out)}",
        flush=True,
    )
    model = new_model(tokenizer)
    decay_from = tokens_all // (BATCH_SIZE * CONTEXT)
    schedule = Schedule(decay_from, decay_from + tokens_simple // (BATCH_SIZE * CONTEXT))
    train(
        model,
        schedule.batches(everything, finishing),
        schedule,
        evaluate=lambda: bits_per_byte(model, tokenizer, held_out),
        save=lambda: save_half(model, tokenizer, out),
    )
    best = GPT2LMHeadModel.from_pretrained(out, dtype=torch.float32).eval()
    report(best, tokenizer, reviews.real_words, held_out)
