"""The answer of play.py as HTML: one column for each policy, and its style."""

import html

from engine.measuring.metrics import METRICS, Sample
from engine.pages.token_view import TOKEN_STYLE, legend_html, tokens_html

STYLE = (
    TOKEN_STYLE
    + """
.policies { display: grid; gap: 1.5rem; margin: 1rem 0; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.policies h2 { font-size: 1.1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.sample { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent);
  padding: .75rem 0; }
.sample p { margin: 0 0 .3rem; }
.prompt, .small { opacity: .75; }
.small { font-size: .85rem; font-variant-numeric: tabular-nums; }
"""
)


def page_of(results: dict[str, list[Sample]], seed: int) -> str:
    """What `play.write` returns as HTML, one column for each policy."""
    columns = (
        f"<section><h2>{html.escape(title)}</h2>{''.join(map(sample_html, samples))}</section>"
        for title, samples in results.items()
    )
    return (
        f'{legend_html()}<div class="policies">{"".join(columns)}</div>'
        f'<p class="small">{METRICS["kl"].column}: the sum of log q − log p over the text, which '
        f"may be below 0; its mean over many texts is the KL. Seed {seed}.</p>"
    )


def sample_html(sample: Sample) -> str:
    """A sample with its figures, its tokens tinted."""
    figures = " · ".join(
        f"{METRICS[name].column} {METRICS[name].form.format(sample[name])}"
        for name in ("sentiment", "kl")
    )
    prompt = f'<span class="prompt">{html.escape(sample["prompt"])}</span>'
    text = f'<p class="text">{prompt}{tokens_html(sample["tokens"])}</p>'
    return f'<div class="sample"><p class="small">{figures}</p>{text}</div>'
