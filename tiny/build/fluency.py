"""How well the language model writes: bits per byte, real words, samples."""

import math

import torch

from data import VALIDATION_PROMPTS
from engine.model.scoring import compute_log_probs, pad
from tiny.build.corpus import WORD
from tiny.build.tokenizer_training import CONTEXT

BATCH_SIZE = 64  # sentences
TOKENS = 48  # in a sample


@torch.no_grad()
def bits_per_byte(model, tokenizer, sentences):
    """Bits per UTF-8 byte that the model needs for the sentences; lower is better.

    Each sentence stands alone after a start-of-text token and is scored from its first token.
    """
    nll = 0.0
    size = 0
    end = tokenizer.eos_token_id
    for i in range(0, len(sentences), BATCH_SIZE):
        chunk = sentences[i : i + BATCH_SIZE]
        rows = [[end, *tokenizer(s)["input_ids"]][:CONTEXT] for s in chunk]
        ids, mask = pad(rows, end, side="right")
        nll -= compute_log_probs(model, ids, mask, ids.shape[1] - 1).sum().item()
        size += sum(len(s.encode()) for s in chunk)
    return nll / size / math.log(2)


@torch.no_grad()
def sample(model, tokenizer, prompts):
    """One completion of at most TOKENS tokens per prompt, at temperature 1, nothing cut off."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            pad_token_id=tokenizer.eos_token_id,
        )
        texts.append(tokenizer.decode(out[0, ids.shape[1] :]))
    return texts


def fluency(model, tokenizer, prompts, real_words):
    """Sample a completion per prompt and look at its words.

    The last word of a sample does not count: the length limit may have cut it.

    Returns:
        (share of real words, share of completions that end by themselves, the completions).
    """
    texts = sample(model, tokenizer, prompts)
    words = [word.lower() for text in texts for word in WORD.findall(text)[:-1]]
    real = sum(word in real_words for word in words) / len(words)
    return real, sum(tokenizer.eos_token in text for text in texts) / len(texts), texts


def report(model, tokenizer, real_words, held_out):
    """Print the figures of a finished model and fifty of its completions.

    Args:
        real_words: set of lower-case words; see `Reviews`.
        held_out: sentences for the bits per byte.
    """
    prompts = VALIDATION_PROMPTS * 4
    real, ended, texts = fluency(model, tokenizer, prompts, real_words)
    print(
        f"bits per byte {bits_per_byte(model, tokenizer, held_out):.4f}, "
        f"real words {real:.2%} of samples, {ended:.1%} of the samples end within {TOKENS} tokens"
    )
    for prompt, text in list(zip(prompts, texts))[:50]:
        print(f"  {prompt} |{text}")
