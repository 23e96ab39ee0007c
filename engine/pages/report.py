"""Pictures of runs, and of a comparison.

python evaluate.py curves RUN…       learning curves            -> curves.png
python evaluate.py frontier RUN…     sentiment against KL       -> frontier.png

`engine.pages.run_page` makes the page about runs.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.common import UserError, short_path, whole_file
from engine.measuring.metrics import METRICS
from engine.measuring.optimum import Base, Optimum
from engine.measuring.runs import Run, base_of, other_rewards, paid_by

PANELS = ("sentiment", "kl", "perplexity", "length")
CURVE = ("sentiment", "low", "high")
KL_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


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
    features += [f"another {file}"] if (file := other_rewards(run["manifest"])) else []
    return f"{run['name']} ({', '.join(features)})" if features else run["name"]


def plot_curves(runs: list[Run]):
    """Four panels, one line per run: sentiment, KL, perplexity and length over the steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, PANELS):
        for run in runs:
            steps = [row["step"] for row in run["validations"]]
            axes.plot(steps, [row[name] for row in run["validations"]], ".-", label=label(run))
        axes.set(title=METRICS[name].title, xlabel="step")
        if name == "perplexity":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # 40, not 4 × 10¹
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, 1)
    figure.axes[3].set_ylim(bottom=0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_frontier(runs: list[Run], optima: Sequence[tuple[str, Optimum]] = ()):
    """Sentiment against KL(policy‖ref): each run a path of its validations, the optimum in black.

    At the end of a run a level line cuts its nats in two at the optimum: a dotted part, which the
    sentiment needs, and a thick one, which went sideways.

    Args:
        runs: of `read_run`.
        optima: (title, Optimum) of each base model that the runs started from.

    Returns:
        The matplotlib figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    if len(runs) > 10:
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"](range(20)))
    for run in runs:
        kl = [max(row["kl"], 0.0) for row in run["validations"]]
        sentiment = [row["sentiment"] for row in run["validations"]]
        (line,) = axes.plot(kl, sentiment, ".-", alpha=0.7, label=label(run))
        axes.plot(kl[-1], sentiment[-1], "o", markersize=9, color=line.get_color())
        nats = paid_by(run, [optimum for _, optimum in optima])
        if needed := nats.get("needed"):
            _draw_nats(axes, needed["mean"], kl[-1], sentiment[-1], color=line.get_color())
        if len(runs) <= 5:  # more of them would cover each other
            axes.annotate(
                run["name"],
                (kl[-1], sentiment[-1]),
                xytext=(9, -5),
                textcoords="offset points",
                va="top",
                color=line.get_color(),
                bbox=dict(facecolor="white", alpha=0.7, linewidth=0, pad=1),
            )
    for (title, optimum), marker in zip(optima, "dsv^<>" * len(optima)):
        _draw_optimum(axes, title, optimum, marker=marker)
    axes.set_xscale("asinh", linear_width=1.0)
    axes.set_xticks(KL_TICKS, [f"{tick:g}" for tick in KL_TICKS])
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel="KL(policy‖ref) of a completion, nats (linear near 0, logarithmic far from it)",
        ylabel="mean sentiment on held-out prompts",
        title="Sentiment and KL of each run: up and to the left is better",
    )
    axes.set_xlim(0, 3 * max([1.0, *(row["kl"] for run in runs for row in run["validations"])]))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def plot_comparison(comparison: dict, path: str | Path | None = None):
    """Sentiment of both models' completions, one histogram above the other.

    Each has a scale of its own: a trained model often earns nearly the same for every text, and
    that one tall bar would flatten the bars of the base model.

    Args:
        comparison: what `compare_models` returns.
        path: image file to write; None leaves the figure open.

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
        figures = f"KL(policy‖ref) {metrics['kl']:.1f} nats, ref. ppl {metrics['perplexity']:.0f}"
        axes.set(xlim=(0, 1), ylabel="% of completions", title=f"{name} model: {figures}")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # where it hides no bar
    panels[1].set(xlabel="sentiment score of a completion, in steps of 0.05")
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw_nats(axes, needed, kl, sentiment, color):
    """The nats of a policy as a level line in two parts: needed by the sentiment, and sideways."""
    axes.plot([0.0, needed], [sentiment, sentiment], ":", linewidth=1.5, color=color)
    axes.plot([needed, kl], [sentiment, sentiment], "-", linewidth=4, alpha=0.35, color=color)


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
