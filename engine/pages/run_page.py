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
from string import Template

from engine.common import short_path, write_whole
from engine.measuring.judge import NgramJudge
from engine.measuring.metrics import METRICS
from engine.pages.report import COLUMNS, PANELS, base_of, label
from engine.pages.token_view import PAGE, TOKEN_STYLE, legend_html

SAMPLE = ("step", "prompt", "completion", "sentiment", "kl")  # what the page shows of a sample


def write_page(runs, optima, path):
    """Write the page.

    Args:
        runs: of `report.read_run`.
        optima: (title, Optimum) of each base model that the runs started from.
        path: of the HTML file.
    """
    charts, page = (read_part(f"{name}.js") for name in ("charts", "page"))
    text = Template(read_part("page.html")).substitute(
        style=TOKEN_STYLE + read_part("page.css"),
        legend=legend_html(),
        table=before_and_after(runs),
        data=pack(page_data(runs, optima)),
        script=re.sub(r"^export ", "", charts, flags=re.M) + page,
    )
    write_whole(path, text)


def read_part(name):
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


def page_data(runs, optima):
    """All that the page shows, as plain values: `metrics`, `panels`, `runs` and `optima`."""
    judge = NgramJudge()
    return {
        "metrics": {
            name: {
                "title": metric.title,
                "column": metric.column,
                "digits": int(re.search(r"\.(\d)", metric.form).group(1)),
                "percent": "%" in metric.form,
            }
            for name, metric in METRICS.items()
            if name in {*PANELS, *COLUMNS, "judge"}
        },
        "panels": PANELS,
        "runs": [run_data(run, judge) for run in runs],
        "optima": [
            {"title": title, "curve": optimum.curve(), "points": optimum.best_of_n()}
            for title, optimum in optima
        ],
    }


def run_data(run, judge):
    """What the page shows of one run."""
    manifest = {k: v for k, v in run["manifest"].items() if k not in ("before", "after")}
    samples = [{key: row.get(key) for key in SAMPLE} for row in run["completions"]]
    for sample, verdict in zip(samples, judge([row["completion"] for row in samples])):
        sample["judge"] = verdict
    figures = dict.fromkeys(("step", *PANELS))
    return {
        "name": run["name"],
        "label": label(run),
        "manifest": manifest,
        "validations": [{key: row.get(key) for key in figures} for row in run["validations"]],
        "samples": samples,
        "explore": [without_ids(row) for row in run["explore"]],
    }


def without_ids(row):
    """A row of explore.jsonl without the token ids of its texts, which only a resumed run needs."""
    return {
        name: {k: v for k, v in value.items() if k != "ids"} if isinstance(value, dict) else value
        for name, value in row.items()
    }


def before_and_after(runs):
    """The figures of each base model and of each run at its end, as an HTML table."""
    titles = "".join(f"<th>{METRICS[name].title}" for name in COLUMNS)
    lines = [f"<thead><tr><th>run{titles}</thead><tbody>"]
    firsts = {base_of(run): run for run in reversed(runs)}  # the first run of each base
    several = len(firsts) > 1
    for base in dict.fromkeys(map(base_of, runs)):
        name = f"before training, {short_path(base[0])}" if several else "before training"
        lines.append(table_row(name, firsts[base]["validations"][0]))
    lines += [table_row(label(run), run["validations"][-1]) for run in runs]
    return f"<table>{''.join(lines)}</tbody></table>"


def table_row(name, figures):
    """One row of `before_and_after`."""
    cells = "".join(f"<td>{METRICS[key].form.format(figures[key])}" for key in COLUMNS)
    return f"<tr><td>{html.escape(name)}{cells}"
