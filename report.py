"""Pictures and a page about finished runs, from the files that `train.py` leaves.

python evaluate.py curves RUN…       learning curves            -> curves.png
python evaluate.py frontier RUN…     sentiment against KL       -> frontier.png
python evaluate.py report RUN…       all of it, on one page     -> report.html
"""

import base64
import html
import io
import json
import math
from pathlib import Path

from models import UserError
from monitor import read_jsonl

PANELS = (  # metric, title, logarithmic axis
    ("sentiment", "sentiment", False),
    ("kl", "KL(policy‖ref), nats", False),
    ("perplexity", "reference perplexity", True),
    ("length", "length, tokens", False),
)


def read_run(folder):
    """A run as dict: `name`, its `manifest`, its `validations` and its `completions`, by step.

    Raises:
        UserError: the folder holds no run, or one without a validation.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == "final" else folder
    try:
        manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        validations = read_jsonl(folder / "metrics.jsonl", phase="validation")
        completions = read_jsonl(folder / "completions.jsonl")
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"'{folder}' is not the output folder of a run ({type(error).__name__}: run.json, "
            "metrics.jsonl and completions.jsonl are needed)."
        ) from error
    if not validations:
        raise UserError(f"The run in '{folder}' has no validation yet.")
    return {
        "name": folder.name,
        "folder": folder,
        "manifest": manifest,
        "validations": validations,
        "completions": completions,
    }


def label(run):
    """The name of a run and what sets it apart: "run7 (forward 0.1)"."""
    options = run["manifest"]["options"]
    parts = [options["reward_shaping"]] if options["reward_shaping"] != "linear" else []
    if options["kl_type"] != "none":
        parts.append(f"{options['kl_type']} {options['kl_coef']:g}")
    if options["beta"]:
        parts.append(f"beta {options['beta']:g}")
    parts += [flag for flag in ("hackable_reward", "negate_reward", "use_peft") if options[flag]]
    return f"{run['name']} ({', '.join(parts)})" if parts else run["name"]


def plot_curves(runs):
    """Four panels, one line per run: sentiment, KL, perplexity and length over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for axes, (name, title, logarithmic) in zip(figure.subplots(2, 2).flat, PANELS):
        for run in runs:
            steps = [row["step"] for row in run["validations"]]
            axes.plot(steps, [row[name] for row in run["validations"]], ".-", label=label(run))
        axes.set(title=title, xlabel="step")
        if logarithmic:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, 1)
    figure.axes[3].set_ylim(bottom=0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def best_of_n(samples, counts=(1, 2, 4, 8, 16)):
    """What the base model reaches if each answer is the best of n by sentiment: no training at all.

    With m samples of a prompt, sorted, the i-th is the best of n drawn without replacement with
    probability C(i − 1, n − 1) / C(m, n), so that every sample counts.

    Returns:
        List of dicts `n`, `sentiment`, and `kl`, the bound log n − (n − 1) / n in nats
        (Beirami et al. 2024, arXiv 2401.01879).

    >>> rows = [{"prompt": "a", "sentiment": s} for s in (0.0, 0.6)]
    >>> [row["sentiment"] for row in best_of_n(rows, counts=(1, 2))]
    [0.3, 0.6]
    """
    groups = {}
    for sample in samples:
        groups.setdefault(sample["prompt"], []).append(sample["sentiment"])
    points = []
    for n in counts:
        if n > min(map(len, groups.values())):
            break
        means = []
        for scores in groups.values():
            m, scores = len(scores), sorted(scores)
            chances = [math.comb(i, n - 1) / math.comb(m, n) for i in range(m)]
            means.append(sum(p * s for p, s in zip(chances, scores)))
        bound = math.log(n) - (n - 1) / n
        points.append({"n": n, "sentiment": sum(means) / len(means), "kl": bound})
    return points


def plot_frontier(runs, best=()):
    """Sentiment against KL(policy‖ref): each run a path of its validations, best-of-n in grey."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    if len(runs) > 10:
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)
    for run in runs:
        kl = [max(row["kl"], 0.0) for row in run["validations"]]
        sentiment = [row["sentiment"] for row in run["validations"]]
        (line,) = axes.plot(kl, sentiment, ".-", alpha=0.7, label=label(run))
        axes.plot(kl[-1], sentiment[-1], "o", markersize=9, color=line.get_color())
    if best:
        axes.plot(
            [point["kl"] for point in best],
            [point["sentiment"] for point in best],
            "k--",
            marker="d",
            alpha=0.5,
            label="best of n from the base (KL: upper bound)",
        )
        for point in best:
            place = dict(xytext=(5, -12), textcoords="offset points", fontsize=8, alpha=0.7)
            axes.annotate(f"n = {point['n']}", (point["kl"], point["sentiment"]), **place)
    axes.set_xscale("symlog", linthresh=1.0)
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel="KL(policy‖ref) of a completion, nats (linear up to 1, then logarithmic)",
        ylabel="mean sentiment on held-out prompts",
        title="What is reached, and what it costs",
    )
    axes.set_xlim(0, 1.3 * max([1.0, *(row["kl"] for run in runs for row in run["validations"])]))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def save_figure(figure, path):
    """Write an image under a temporary name, then rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=130, format=path.suffix[1:] or "png")
    temporary.replace(path)


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
blockquote { margin: .4rem 0; padding-left: .8rem; border-left: 3px solid #ccc; }
.prompt { color: #888; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


def write_report(runs, best, path):
    """One HTML file about the runs: options, figures, pictures, samples. Needs no network."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>Training runs</title><style>{STYLE}</style><h1>Training runs</h1>",
        "<h2>Before and after</h2>",
        _table(runs),
        "<p>Held-out prompts, sampled as in training. KL and reference perplexity are measured "
        "against the model that each run started from.</p>",
        "<h2>What is reached, and what it costs</h2>",
        _image(plot_frontier(runs, best), "sentiment against KL, one path for each run"),
        "<h2>Learning curves</h2>",
        _image(plot_curves(runs), "sentiment, KL, perplexity and length over the steps"),
    ]
    for run in runs:
        parts += [f"<h2>{html.escape(label(run))}</h2>", *_samples(run), _manifest(run)]
    temporary = Path(f"{path}.tmp")
    temporary.write_text("\n".join(parts), encoding="utf-8")
    temporary.replace(path)


def _table(runs):
    names = ("sentiment", "positive_share", "kl", "perplexity", "repetition_3", "length")
    forms = ("{:.3f}", "{:.0%}", "{:.1f}", "{:.1f}", "{:.1%}", "{:.1f}")
    titles = ("sentiment", "positive", "KL (nats)", "ref. perplexity", "repeated", "length")
    rows = ["<tr><th>run" + "".join(f"<th>{title}" for title in titles)]
    first = runs[0]["validations"][0]
    for name, row in [
        ("before training", first),
        *((label(run), run["validations"][-1]) for run in runs),
    ]:
        cells = "".join(f"<td>{form.format(row[key])}" for key, form in zip(names, forms))
        rows.append(f"<tr><td>{html.escape(name)}{cells}")
    return f"<table>{''.join(rows)}</table>"


def _image(figure, text):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{html.escape(text)}' src='data:image/png;base64,{data}'>"


def _samples(run):
    """Before and after, for the worst, the median and the best completion after training."""
    last = run["validations"][-1]["step"]
    before = [row for row in run["completions"] if row["step"] == 0]
    after = [row for row in run["completions"] if row["step"] == last]
    pairs = sorted(zip(before, after), key=lambda pair: pair[1]["sentiment"])
    if not pairs:
        return
    for title, i in (("Worst", 0), ("Median", len(pairs) // 2), ("Best", -1)):
        yield f"<p>{title} sentiment after training:</p>"
        for name, row in zip(("before", "after"), pairs[i]):
            yield (
                f"<blockquote>{name}, {row['sentiment']:.2f}: <span class=prompt>"
                f"{html.escape(row['prompt'])}</span>{html.escape(row['completion'])}</blockquote>"
            )


def _manifest(run):
    manifest = run["manifest"]
    kept = {key: value for key, value in manifest.items() if key not in ("before", "after")}
    text = html.escape(json.dumps(kept, indent=1, ensure_ascii=False))
    return f"<details><summary>Options and versions</summary><pre>{text}</pre></details>"
