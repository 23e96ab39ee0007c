"""Pictures of runs, and of a comparison.

python evaluate.py curves RUN…       learning curves            -> curves.png
python evaluate.py frontier RUN…     sentiment against KL       -> frontier.png

`engine.pages.run_page` makes the page about runs.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.common import UserError, short_path, whole_file
from engine.measuring.metrics import METRICS
from engine.measuring.optimum import Base, Optimum
from engine.measuring.runs import Run, base_of, changed_rewards, paid_by, sentiment_at

PANELS = ("sentiment", "kl", "perplexity", "length")
CURVE = ("sentiment", "low", "high")
KL_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
# Of Okabe and Ito, which colour-blind people can tell apart; black is that of the optimum. A run
# has a marker too. Figures are at most 7.5 inches wide: their 10 points are still read on a phone.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^vPX*"
LINE = 0.22  # of a legend, in inches
STEPS = (-1, 1, 0, -2, 2, -3, 3, -4, 4, -5, 5)
LABELS = [(9 * side, 13 * step) for step in STEPS for side in (1, -1)]  # from an end, in points
NEEDED = {"linestyle": ":", "linewidth": 1.5}  # the two parts of a run's nats
SIDEWAYS = {"linestyle": "-", "linewidth": 4, "alpha": 0.35}


def label(run: Run) -> str:
    """The name of a run and what sets it apart: "run7 (forward 0.1)"."""
    options = run["manifest"]["options"]
    features = [options["reward_shaping"]] if options["reward_shaping"] != "linear" else []
    if options["shaping_temperature"] != 1:
        features.append(f"at {options['shaping_temperature']:g}")
    if options["kl_type"] != "none":
        target = options["kl_target"]
        strength = f"to {target:g} nats" if target else f"{options['kl_coef']:g}"
        features.append(f"{options['kl_type']} {strength}")
    if options["beta"]:
        features.append(f"beta {options['beta']:g}")
    if options["credit"] == "prefix":
        features.append("credit by prefix")
    features += [flag for flag in ("hackable_reward", "negate_reward", "use_peft") if options[flag]]
    features += [f"older {file}"] if (file := changed_rewards(run["manifest"])) else []
    return f"{run['name']} ({', '.join(features)})" if features else run["name"]


def style_of(i: int) -> dict[str, Any]:
    """The colour and the marker of run i: 42 pairs.

    >>> style_of(0), style_of(6)
    ({'color': '#0072b2', 'marker': 'o'}, {'color': '#0072b2', 'marker': '*'})
    """
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}


def plot_curves(runs: list[Run]):
    """Four panels, one line per run: sentiment, KL, perplexity and length over the steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    labels = list(map(label, runs))
    columns = 2 if max(map(len, labels)) < 36 else 1  # so many characters fit beside each other
    height = 6 + LINE * math.ceil(len(runs) / columns)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, PANELS):
        for i, run in enumerate(runs):
            steps = [row["step"] for row in run["validations"]]
            values = [row[name] for row in run["validations"]]
            axes.plot(steps, values, **style_of(i), markersize=4, alpha=0.8)
        axes.set(title=METRICS[name].title, xlabel="step")
        if name == "perplexity":
            axes.set_title(f"{METRICS[name].title}, logarithmic")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # 40, not 4 × 10¹
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, 1)
    figure.axes[3].set_ylim(0, 1.05 * figure.axes[3].dataLim.y1)
    figure.legend(figure.axes[0].lines, labels, loc="outside lower center", ncols=columns)
    return figure


def plot_frontier(runs: list[Run], optima: Sequence[tuple[str, Optimum]] = ()):
    """Sentiment against KL(policy‖ref): each run a path of its validations, the optimum in black.

    At the end of a run a level line cuts its nats in two at the optimum: a dotted part, which the
    sentiment needs, and a thick one, which went sideways. Upright bars are the noise of its first
    and its last validation: with it a run may stand above the line that no policy can cross.

    Args:
        runs: of `read_run`.
        optima: (title, Optimum) of each base model that the runs started from.

    Returns:
        The matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.7 + LINE * len(runs)), layout="constrained")
    axes = figure.subplots()
    ends = []
    cut = False  # whether the nats of any run
    for i, run in enumerate(runs):
        kl = [max(row["kl"], 0.0) for row in run["validations"]]
        sentiment = [row["sentiment"] for row in run["validations"]]
        style = style_of(i)
        axes.plot(kl, sentiment, **style, markersize=4, alpha=0.7, label=label(run))
        axes.plot(kl[-1], sentiment[-1], **style, markersize=10)
        ends.append((run["name"], (kl[-1], sentiment[-1]), style["color"]))
        nats = paid_by(run, [optimum for _, optimum in optima])
        if needed := nats.get("needed"):
            _draw_nats(axes, needed["mean"], kl[-1], sentiment[-1], color=style["color"])
            cut = True
    if cut:
        axes.plot([], [], color="gray", **NEEDED, label="nats that the last sentiment needs")
        axes.plot([], [], color="gray", **SIDEWAYS, label="nats that went sideways")
    _draw_intervals(axes, runs)
    for (title, optimum), marker in zip(optima, "d12348" * len(optima)):
        _draw_optimum(axes, title, optimum, marker=marker)
    axes.set_xscale("asinh", linear_width=1.0)
    axes.set_xticks(KL_TICKS, [f"{tick:g}" for tick in KL_TICKS])
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel="KL(policy‖ref) of a completion, nats\n(linear near 0, logarithmic far from it)",
        ylabel="mean sentiment on held-out prompts",
        title="Sentiment and KL of each run:\nup and to the left is better",
    )
    farthest = max([1.0, *(row["kl"] for run in runs for row in run["validations"])])
    axes.set_xlim(-0.06, 1.5 * farthest)
    axes.grid(alpha=0.3)
    if runs:  # whoever draws anything else makes the legend
        figure.legend(loc="outside lower left")
    if len(runs) <= 5:  # more of them would cover the paths
        _name_ends(figure, axes, ends)
    return figure


def _draw_intervals(axes, runs):
    """Upright bars at the first and the last validation of each run."""
    bars = [
        (max(row["kl"], 0.0), interval["low"], interval["high"], style_of(i)["color"])
        for i, run in enumerate(runs)
        for row in (run["validations"][0], run["validations"][-1])
        if (interval := sentiment_at(run, row["step"])) and interval["low"] is not None
    ]
    if bars:
        x, low, high, colors = zip(*bars)
        title = "95 % interval over prompts"
        axes.vlines(x, low, high, colors=colors, linewidth=2, alpha=0.6, label=title)


def _name_ends(figure, axes, ends):
    """Write the name of each run beside its end, where it covers no other name and no other end,
    and as little as can be of a line.

    Args:
        ends: (name, (x, y), color) of each run.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # only then it is known where the axes lie
    markers = [axes.transData.transform(place) for _, place, _ in ends]
    half = 6 * figure.dpi / 72  # of a marker, in pixels
    taken = [Bbox([[x - half, y - half], [x + half, y + half]]) for x, y in markers]
    paths = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    for name, place, color in ends:
        text = axes.annotate(name, place, textcoords="offset points", va="center", color=color)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        covered = {}
        for x, y in LABELS:
            text.set(position=(x, y), horizontalalignment="left" if x > 0 else "right")
            box = text.get_window_extent()
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            lines = sum(path.intersects_bbox(box, filled=False) for path in paths)
            covered[x, y] = (not inside, box.count_overlaps(taken), lines)
        x, y = min(covered, key=covered.__getitem__)  # the first of the best
        text.set(position=(x, y), horizontalalignment="left" if x > 0 else "right")
        taken.append(text.get_window_extent())


def plot_comparison(comparison: dict):
    """Sentiment of both models' completions, one histogram above the other.

    Each has a scale of its own: a trained model often earns nearly the same for every text, and
    that one tall bar would flatten the bars of the base model.

    Args:
        comparison: what `compare_models` returns.

    Returns:
        The matplotlib figure.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, sharex=True, figsize=(8.5, 4.6), layout="constrained")
    for axes, name, color in zip(panels, ("base", "trained"), ("#7f8c8d", "#e67e22")):
        scores = [sample["sentiment"] for sample in comparison[name]["samples"]]
        metrics = comparison[name]["metrics"]
        share = [100 / len(scores)] * len(scores)  # of one completion
        counted = f"{len(scores)} completions"
        axes.hist(scores, bins=20, range=(0, 1), weights=share, color=color, label=counted)
        mean = f"mean {metrics['sentiment']:.2f}"
        axes.axvline(metrics["sentiment"], color="black", linestyle="--", label=mean)
        figures = f"KL(policy‖ref) {metrics['kl']:z.1f} nats, ref. ppl {metrics['perplexity']:.0f}"
        axes.set(xlim=(0, 1), ylabel="% of completions", title=f"{name} model: {figures}")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # where it hides no bar
    panels[1].set(xlabel="sentiment score of a completion, in steps of 0.05")
    return figure


def _draw_nats(axes, needed, kl, sentiment, color):
    """The nats of a policy as a level line in two parts: needed by the sentiment, and sideways."""
    axes.plot([0.0, needed], [sentiment, sentiment], color=color, **NEEDED)
    axes.plot([needed, kl], [sentiment, sentiment], color=color, **SIDEWAYS)


def _draw_optimum(axes, title, optimum, marker):
    """The best possible policy as a line with its interval, and best-of-n as points beside it."""
    curve = {name: [point[name] for point in optimum.curve()] for name in ("kl", *CURVE)}
    axes.fill_between(curve["kl"], curve["low"], curve["high"], color="black", alpha=0.15, lw=0)
    axes.plot(curve["kl"], curve["sentiment"], "k-", label=f"best possible policy{title}")
    points = optimum.best_of_n()
    axes.plot(
        *zip(*((point["kl"], point["sentiment"]) for point in points)),
        marker,
        color="black",
        alpha=0.6,
        label=f"best of {points[0]['n']} to {points[-1]['n']} samples{title}",
    )


def optimum_titles(runs: list[Run]) -> dict[Base, str]:
    """{base of a run: what its optimum is called in a legend}, in the order of the runs."""
    bases = dict.fromkeys(map(base_of, runs))
    if len(bases) == 1:
        return {base: "" for base in bases}
    return {
        base: f" from {short_path(base.model_name)}, {base.max_completion_length} tokens, "
        f"temperature {base.temperature:g}"
        for base in bases
    }


def save_figure(figure, path: str | Path) -> None:
    """Write an image; the ending of its name says which kind.

    Raises:
        UserError: matplotlib knows no such kind.
    """
    path = Path(path)
    kind = path.suffix[1:].lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"Cannot write a picture of the kind '{path.suffix}'; try .png or .svg.")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format=kind)
