"""Completions token by token, as policy and reference see them: numbers, and tinted HTML.

The tint of a token is log q − log p, with q = policy and p = reference: the token's share of the
completion's log-ratio, whose mean over completions is KL(policy‖ref). It is defined once, in
engine/pages/page/tokens.css.
"""

import functools
import html
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch

from engine.model.scoring import Models, pad, reference_model, vocabulary_log_probs
from engine.model.texts import decode_behind, decode_completions

PAGE = Path(__file__).parent / "page"
TOKEN_STYLE = (PAGE / "tokens.css").read_text(encoding="utf-8")
LEGEND_STEPS = (-3, -2, -1, 0, 1, 2, 3)  # nats
LIKELIEST = 5  # how many of its likeliest tokens each model names


class Answer(NamedTuple):
    """What one model thinks of the tokens, as lists of (B, T) or (B, T, LIKELIEST)."""

    own: list  # log-probability of each token
    top_values: list  # log-probabilities of the likeliest ones
    top_ids: list  # and their ids


class Token(TypedDict):
    """What both models think of a token of a completion."""

    text: str
    q: float  # log-probability under the policy, nats
    p: float  # under the reference
    q_top: list[list]  # the policy's likeliest tokens: [text, log-probability], the likeliest first
    p_top: list[list]  # the reference's


@torch.no_grad()
def describe_tokens(
    models: Models, prompt_ids, completion_ids, temperature=1.0
) -> list[list[Token]]:
    """What both models think of each token of some completions.

    Args:
        models: the policy that sampled is q, the reference p.
        prompt_ids, completion_ids: lists of B lists of token ids; no prompt is empty.
        temperature: of the sampling.

    Returns:
        B lists with a Token for each token. The texts of a completion join to its decoded text: a
        character of several tokens belongs to the last of them, and an end-of-text token has the
        text "".
    """
    if not any(completion_ids):
        return [[] for _ in completion_ids]
    tokenizer = models.tokenizer
    rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids)]
    ids, mask = pad(rows, tokenizer.pad_token_id, "left", device=models.policy.device)  # (B, L)
    length = max(map(len, completion_ids))
    tokens = ids[:, -length:, None]

    def ask(model):
        log_probs = vocabulary_log_probs(
            model, ids, mask, length=length, temperature=temperature
        )  # (B, T, V)
        values, indices = log_probs.topk(min(LIKELIEST, log_probs.shape[-1]))
        own = log_probs.gather(-1, tokens)[..., 0]
        return Answer(own.tolist(), values.tolist(), indices.tolist())

    def text_of(row, ids):
        return decode_completions(models.policy, tokenizer, [prompt_ids[row]], [ids])[0]

    q = ask(models.policy)
    with reference_model(models.policy, models.ref) as reference:
        p = ask(reference)

    def likeliest(answer, row, t):
        pairs = zip(answer.top_ids[row][t], answer.top_values[row][t])
        prompt = [prompt_ids[row]]
        return [
            [decode_behind(tokenizer, prompt, [[token]], skip_special_tokens=False)[0], value]
            for token, value in pairs
        ]

    described = []
    for row, completion in enumerate(completion_ids):
        texts = token_texts(functools.partial(text_of, row), completion)
        described.append(
            [
                Token(
                    text=text,
                    q=q.own[row][t],
                    p=p.own[row][t],
                    q_top=likeliest(q, row, t),
                    p_top=likeliest(p, row, t),
                )
                for t, text in enumerate(texts, start=length - len(texts))
            ]
        )
    return described


def token_texts(decode, ids: list[int]) -> list[str]:
    """The text that each token adds; together, what `decode(ids)` makes of all of them.

    A token may hold a part of a character only, which decodes to U+FFFD: its character is the
    text of the token that completes it.
    """
    texts = []
    settled = ""
    whole = decode(ids)
    for count in range(1, len(ids) + 1):
        text = whole
        if count < len(ids):
            text = decode(ids[:count]).rstrip("\ufffd")
        if len(text) < len(settled) or not whole.startswith(text):
            text = settled  # what is not settled yet belongs to a later token
        texts.append(text[len(settled) :])
        settled = text
    return texts


def tokens_html(tokens: list[Token]) -> str:
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


def legend_html() -> str:
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
    return f"{name} {value:z.2f}".replace("-", "−")
