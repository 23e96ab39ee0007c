"""Completions token by token, as policy and reference see them: numbers, and tinted HTML.

The tint of a token is log q − log p, with q = policy and p = reference: the token's share of the
completion's log-ratio, whose mean over completions is KL(policy‖ref). It is defined once, in
engine/pages/page/tokens.css.
"""

import html
from pathlib import Path

import torch

from engine.model.scoring import pad, reference_model, vocabulary_log_probs

PAGE = Path(__file__).parent / "page"
TOKEN_STYLE = (PAGE / "tokens.css").read_text(encoding="utf-8")
LEGEND_STEPS = (-3, -2, -1, 0, 1, 2, 3)  # nats


@torch.no_grad()
def describe_tokens(models, prompt_ids, completion_ids, temperature=1.0, top=5):
    """What both models think of each token of some completions.

    Args:
        models: `scoring.Models`: the policy that sampled is q, the reference p.
        prompt_ids, completion_ids: lists of B lists of token ids; no prompt is empty.
        temperature: of the sampling.
        top: how many of its likeliest tokens each model names.

    Returns:
        B lists with one dict per token: `text`, the log-probabilities `q` and `p` in nats, and
        `q_top` and `p_top`, lists of [text, log-probability], the likeliest first. The texts of a
        completion join to its decoded text: a character of several tokens belongs to the last of
        them, and an end-of-text token has the text "".
    """
    if not any(completion_ids):
        return [[] for _ in completion_ids]
    tokenizer = models.tokenizer
    rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids)]
    ids, mask = pad(rows, tokenizer.pad_token_id, "left", models.policy.device)  # (B, L)
    length = max(map(len, completion_ids))
    tokens = ids[:, -length:, None]

    def ask(model):
        log_probs = vocabulary_log_probs(model, ids, mask, length, temperature)  # (B, T, V)
        values, indices = log_probs.topk(min(top, log_probs.shape[-1]))  # (B, T, top)
        return log_probs.gather(-1, tokens)[..., 0].tolist(), values.tolist(), indices.tolist()

    q = ask(models.policy)
    with reference_model(models.policy, models.ref) as reference:
        p = ask(reference)

    def named(answer, row, t):
        _, values, indices = answer
        return [[tokenizer.decode([i]), v] for i, v in zip(indices[row][t], values[row][t])]

    described = []
    for row, completion in enumerate(completion_ids):
        texts = token_texts(tokenizer, completion)
        described.append(
            [
                {
                    "text": text,
                    "q": q[0][row][t],
                    "p": p[0][row][t],
                    "q_top": named(q, row, t),
                    "p_top": named(p, row, t),
                }
                for t, text in enumerate(texts, start=length - len(texts))
            ]
        )
    return described


def token_texts(tokenizer, ids):
    """The text that each token adds; together, what the tokenizer decodes from all of them.

    A token may hold a part of a character only, which decodes to U+FFFD: its character is the
    text of the token that completes it.
    """
    texts, done = [], ""
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    for count in range(1, len(ids) + 1):
        part = whole
        if count < len(ids):
            part = tokenizer.decode(ids[:count], skip_special_tokens=True).rstrip("\ufffd")
        if len(part) < len(done) or not whole.startswith(part):
            part = done  # what is not settled yet belongs to a later token
        texts.append(part[len(done) :])
        done = part
    return texts


def tokens_html(tokens):
    """A completion of `describe_tokens` as HTML, tinted by TOKEN_STYLE; hover or focus tells q, p.

    >>> print(tokens_html([{"text": " <b", "q": -0.5, "p": -1.5}]))
    <span class="tokens"><span class="token" tabindex="0" style="--d:1.00000"
    title="log q −0.50, log p −1.50"> &lt;b</span></span>
    """
    spans = (
        f'<span class="token" tabindex="0" style="--d:{token["q"] - token["p"]:.5f}"\n'
        f'title="{_nats("log q", token["q"])}, {_nats("log p", token["p"])}">'
        f"{html.escape(token['text'])}</span>"
        for token in tokens
    )
    return f'<span class="tokens">{"".join(spans)}</span>'


def legend_html():
    """What the two tints mean, as HTML."""
    steps = "".join(
        f'<span class="token" style="--d:{d}">{f"{d:+d}".replace("-", "−") if d else 0}</span>'
        for d in LEGEND_STEPS
    )
    return (
        '<p class="token-legend"><span>log q − log p, nats:</span>'
        f"<span>reference likes it more</span><span>{steps}</span>"
        "<span>policy likes it more</span></p>"
    )


def _nats(name, value):
    return f"{name} {value:.2f}".replace("-", "−")
