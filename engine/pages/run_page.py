"""The page about runs: one HTML file to explore them, which needs no network.

    python evaluate.py report RUN…     -> report.html

engine/pages/page/ holds what the browser gets: page.html with its styles, charts.js for the charts,
page.js for all else. The data go in as compressed JSON in base64, in which no text of a model or
name of a folder can be taken for HTML.
"""

import base64
import gzip
import html
import json
import math
import re
import statistics
from pathlib import Path
from string import Template

from engine.common import short_path, write_whole
from engine.measuring.judge import NgramJudge
from engine.measuring.metrics import METRICS
from engine.measuring.optimum import Optimum
from engine.measuring.runs import Run, base_of, paid_by, sentiment_at
from engine.measuring.tables import interval
from engine.pages.report import PANELS, label
from engine.pages.token_view import PAGE, TOKEN_STYLE, legend_html

COLUMNS = ("sentiment", "positive_share", "perplexity", "entropy", "repetition_3", "length", "kl")
CHARTS = (*PANELS, "entropy")
NATS = {  # of `Optimum.paid` -> the title of its column
    "needed": "of these needed",
    "sideways": "sideways",
    "to_optimum": "away from what was asked",
}
WORDS = {  # that the page explains, beside the columns of its table
    "policy, q, and reference, p": "the model that is trained, and the same before training",
    "nats": "the unit of KL and entropy, of logarithms to base e: at one nat a text of the policy "
    "is typically 2.7 times as likely under the policy as under the reference",
}
SAMPLE = ("step", "prompt", "completion", "sentiment", "kl")  # what the page shows of a sample


def write_page(runs: list[Run], optima: list[tuple[str, Optimum]], path: str | Path) -> None:
    """Write the page.

    Args:
        runs: of `read_run`.
        optima: (title, Optimum) of each base model that the runs started from.
        path: of the HTML file.
    """
    paid = [paid_by(run, [optimum for _, optimum in optima]) for run in runs]
    charts = re.sub(r"^export ", "", read_file("charts.js"), flags=re.M)
    text = Template(read_file("page.html")).substitute(
        style=TOKEN_STYLE + read_file("page.css"),
        legend=legend_html(),
        table=before_and_after(runs, paid),
        words=words(),
        data=pack(page_data(runs, optima, paid)),
        script=charts + read_file("page.js"),
    )
    write_whole(path, text)


def read_file(name):
    """A file of engine/pages/page as text."""
    return (PAGE / name).read_text(encoding="utf-8")


def pack(value):
    """A value as JSON, compressed, in base64."""
    text = json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def finite(value):
    """The value with None for every number that JSON does not have, and floats cut to 6 digits.

    >>> finite({"a": [float("nan"), 0.123456789, 2]})
    {'a': [None, 0.123457, 2]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def page_data(runs, optima, paid):
    """All that the page shows, as plain values: `metrics`, `panels`, `runs` and `optima`.

    Args:
        runs, optima: of `write_page`.
        paid: of `paid_by`, for each run.
    """
    judge = NgramJudge()
    return {
        "metrics": {
            name: {
                "title": metric.title,
                "column": metric.column,
                "meaning": metric.meaning,
                "digits": int(re.findall(r"\.(\d)", metric.form)[0]),
                "percent": "%" in metric.form,
            }
            for name, metric in METRICS.items()
            if name in {*CHARTS, *COLUMNS, "judge"}
        },
        "panels": CHARTS,
        "runs": [run_data(run, judge, nats) for run, nats in zip(runs, paid)],
        "optima": [
            {"title": title, "curve": optimum.curve(), "points": optimum.best_of_n()}
            for title, optimum in optima
        ],
    }


def run_data(run: Run, judge: NgramJudge, paid: dict) -> dict:
    """What the page shows of one run; `paid` of `paid_by`."""
    manifest = {k: v for k, v in run["manifest"].items() if k not in ("before", "after")}
    samples = [{key: row.get(key) for key in SAMPLE} for row in run["completions"]]
    for sample, score in zip(samples, judge([row["completion"] for row in run["completions"]])):
        sample["judge"] = score
    figures = ("step", *CHARTS)
    validations = [{key: row.get(key) for key in figures} for row in run["validations"]]
    for i in (0, -1):
        noise = sentiment_at(run, run["validations"][i]["step"]) or {}
        validations[i] |= {end: noise.get(end) for end in ("low", "high")}
    return {
        "name": run["name"],
        "label": label(run),
        "manifest": manifest,
        "validations": validations,
        "needed": paid["needed"]["mean"] if paid.get("needed") else None,  # nats
        "places": nats_by_place(run),
        "samples": samples,
        "explore": [without_ids(row) for row in run["explore"]],
    }


def nats_by_place(run: Run) -> list[dict]:
    """The mean nats per token along the texts of a run's last validation, as points x (tokens from
    the start) and y; empty for a run of an older version."""
    last = run["validations"][-1]["step"]
    parts = [r["kl_parts"] for r in run["completions"] if r["step"] == last and "kl_parts" in r]
    if not parts:
        return []
    width = math.ceil(run["manifest"]["options"]["max_completion_length"] / len(parts[0]))
    means = [statistics.fmean(column) / width for column in zip(*parts)]
    return [{"x": (i + 0.5) * width, "y": mean} for i, mean in enumerate(means)]


def without_ids(row):
    """A row of explore.jsonl without the token ids of its texts, which only a resumed run needs."""
    return {
        name: {k: v for k, v in value.items() if k != "ids"} if isinstance(value, dict) else value
        for name, value in row.items()
    }


def words():
    """What the words of the page mean, a line each, as an HTML list."""
    meant = {METRICS[name].title: METRICS[name].meaning for name in COLUMNS} | WORDS
    lines = (f"<div><dt>{word}</dt><dd>{meaning}</dd></div>" for word, meaning in meant.items())
    return f'<dl class="words">{"".join(lines)}</dl>'


def before_and_after(runs, paid):
    """The figures of each base model and of each run at its end, as an HTML table."""
    titles = [METRICS[name].title for name in COLUMNS] + [*NATS.values()]
    lines = [f"<thead><tr><th>run{''.join(f'<th>{title}' for title in titles)}</thead><tbody>"]
    bases = {}
    for run in runs:
        bases.setdefault(base_of(run), run["validations"][0])
    for base, figures in bases.items():
        name = "before training"
        if len(bases) > 1:
            name += f", {short_path(base.model_name)}"
        lines.append(table_row(name, figures, {}))
    for run, nats in zip(runs, paid):
        lines.append(table_row(label(run), run["validations"][-1], nats))
    return f"<table class=wide>{''.join(lines)}</tbody></table>"


def table_row(name, figures, nats):
    """One row of `before_and_after`; `nats` of `paid_by`."""
    # The entropy is not there in a run of an older version.
    cells = [METRICS[key].form.format(figures[key]) if key in figures else "" for key in COLUMNS]
    known = [interval(nats[key]) if nats.get(key) else "" for key in NATS]
    cells += [text.replace(" … ", "&nbsp;…&nbsp;") for text in known]  # a line may end before it
    titles = [METRICS[key].title for key in COLUMNS] + [*NATS.values()]  # shown on a phone
    columns = (f'<td data-name="{title}">{cell}' for title, cell in zip(titles, cells))
    return f"<tr><td>{html.escape(name)}{''.join(columns)}"
