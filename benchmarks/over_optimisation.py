"""Where reward and judge part: both against √KL, as Gao et al. 2022 draw it (arXiv 2210.10760).

    python benchmarks/over_optimisation.py                          # the runs of ladder.py
    python benchmarks/over_optimisation.py outputs/run outputs/run.1 --out picture.png

Every validation of a run is one point of its completions.jsonl: how far the policy has gone,
d = √KL(policy‖ref), what it has gained by the reward that it was trained on (the proxy), and what
it has gained by a judge that it was not trained on. The judge reads the texts anew. Runs that
differ only in seed and length share a panel. Two curves that rise together: the reward is earned.
A proxy that rises while the judge falls: the reward is hacked.

Gao et al. fit gain = d · (α − β log d) for reinforcement learning and d · (α − β d) for best-of-n.
α is the slope at the start, β is how soon the gain is used up. The printed table has both fits with
their error, so that one can see whether they deserve trust; the picture has the first.
"""

import collections
import math
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
from starting import make_parser, one_line_errors

from engine.common import ROOT, UserError
from engine.measuring.judge import NgramJudge
from engine.measuring.runs import read_run
from engine.pages import report

RUNS = ROOT / "outputs" / "ladder"
RUNGS = ("linear", "early", "hackable", "forward_0.03", "forward_0.1", "backward_0.1")  # by default
FORMS = {  # what β multiplies, as a function of d
    "d(α − β log d)": lambda d: d * np.log(np.where(d > 0, d, 1)),
    "d(α − β d)": lambda d: d**2,
}
RL_FORM = "d(α − β log d)"
COLORS = {"proxy": "#d55e00", "judge": "#0072b2"}
MARKERS = {"proxy": "o", "judge": "s"}
PARTS = {"positive": ("^", "#009e73"), "text": ("x", "black")}  # of the bundled judge


class Fit(NamedTuple):
    """α and β of a curve through points, and how far the points lie from it (root mean square)."""

    alpha: float
    beta: float
    error: float


class Points(NamedTuple):
    """What the validations of runs of one kind say: arrays of the same length."""

    distance: np.ndarray  # √KL, in √nats
    proxy: np.ndarray  # gain over the base model, as the others
    judge: np.ndarray
    positive: np.ndarray  # P(positive) and P(text), the two answers of the bundled judge, or NaN
    text: np.ndarray


def fit_gain(distance, gain, form: str = RL_FORM) -> Fit:
    """Least squares for gain = α·d − β·g(d), with g from FORMS; it is linear in α and β.

    >>> d = np.array([0.0, 1.0, 2.0, 4.0])
    >>> fit = fit_gain(d, d * (0.5 - 0.125 * d), "d(α − β d)")
    >>> [round(number, 6) for number in fit]
    [0.5, 0.125, 0.0]

    Args:
        distance: (P,) √KL of each point.
        gain: (P,) score minus the base model's.

    Raises:
        UserError: fewer than three different distances above 0, through which any curve would pass.
    """
    distance, gain = np.asarray(distance, float), np.asarray(gain, float)
    if len(set(distance[distance > 0])) < 3:
        raise UserError("a fit needs validations at three different distances from the base.")
    terms = np.stack([distance, -FORMS[form](distance)], 1)
    (alpha, beta), *_ = np.linalg.lstsq(terms, gain, rcond=None)
    error = np.sqrt(np.mean((terms @ [alpha, beta] - gain) ** 2))
    return Fit(float(alpha), float(beta), float(error))


def kind_of(run: dict) -> str:
    """What sets a run apart from a plain one, apart from seed and length: "forward 0.1"."""
    return report.label({**run, "name": ""}).strip(" ()") or "no flags"


def validations(run: dict, judge) -> list[list[float]]:
    """The means of each validation of a run: KL, then the rest of `Points` in its order.

    The proxy is the score that the run was paid for, and its negative under --negate_reward; then
    what the judge says counts negative too, but for P(text).

    Raises:
        UserError: the run does not begin with its base model, or its samples lack a score.
    """
    options = run["manifest"]["options"]
    paid = "positive_words" if options["hackable_reward"] else "sentiment"
    sign = -1 if options["negate_reward"] else 1
    samples_of = collections.defaultdict(list)  # by step
    for row in run["completions"]:
        samples_of[row["step"]].append(row)
    if 0 not in samples_of:
        raise UserError(f"the run in {run['folder']} has no validation before its first step.")
    rows = []
    try:
        for _, samples in sorted(samples_of.items()):
            texts = [row["completion"] for row in samples]
            positive, text = (math.nan, math.nan)
            if isinstance(judge, NgramJudge):
                positive, text = map(np.mean, judge.answers(texts))
            kl = statistics.fmean(row["kl"] for row in samples)
            proxy = sign * statistics.fmean(row[paid] for row in samples)
            judged = sign * statistics.fmean(judge(texts))
            rows.append([kl, proxy, judged, sign * positive, text])
    except KeyError as error:
        raise UserError(f"the samples of the run in {run['folder']} lack {error}.") from error
    return rows


def points_of(runs: list[dict], judge) -> dict[str, Points]:
    """The points of each kind of run; each run's own base model is subtracted."""
    kinds = collections.defaultdict(list)
    for run in runs:
        kl, *scores = np.array(validations(run, judge)).T
        distance = kl.clip(min=0) ** 0.5  # an estimate of a small KL may be below 0
        kinds[kind_of(run)].append([distance, *(score - score[0] for score in scores)])
    return {kind: Points(*np.concatenate(points, axis=1)) for kind, points in kinds.items()}


def table(kinds: dict[str, Points]) -> list[str]:
    """α, β and error of both forms for each kind of run, in lines of text."""
    lines = [f"{'run':28} {'gain':6} {'form':15} {'α':>7} {'β':>7} {'error':>7}"]
    for kind, points in kinds.items():
        for name in COLORS:
            for form in FORMS:
                fit = fit_gain(points.distance, getattr(points, name), form)
                numbers = f"{fit.alpha:z7.3f} {fit.beta:z7.3f} {fit.error:z7.3f}"
                lines.append(f"{kind:28.28} {name:6} {form:15} {numbers}")
    return lines


def draw(kinds: dict[str, Points], judge_name: str):
    """One panel for each kind of run: proxy and judge over √KL, with the RL form's curves."""
    from matplotlib.figure import Figure

    columns = min(len(kinds), 2)  # at most 6 inches wide, to be read on a phone
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(3 * columns, 1.3 + 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (kind, points), axes in zip(kinds.items(), panels):
        line = np.linspace(0, points.distance.max(), 200)
        for name, color in COLORS.items():
            gains = getattr(points, name)
            fit = fit_gain(points.distance, gains)
            marker = MARKERS[name]
            axes.plot(points.distance, gains, marker, color=color, alpha=0.5, markersize=4)
            axes.plot(line, fit.alpha * line - fit.beta * FORMS[RL_FORM](line), color=color)
            axes.plot([], [], f"{marker}-", color=color, markersize=4, label=name)
        for name, (marker, color) in PARTS.items():
            gains = getattr(points, name)
            if np.isfinite(gains).all():
                label = f"judge's P({name})"
                axes.plot(points.distance, gains, marker, color=color, alpha=0.5, ms=4, label=label)
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.set(title=kind, xlabel="√KL(policy‖ref), √nats")
        axes.grid(alpha=0.3)
    for axes in list(panels):
        axes.set_axis_off()
    for axes in figure.axes[::columns]:
        axes.set_ylabel("gain over the base")
    entries = figure.axes[0].get_legend_handles_labels()  # the same in every panel
    figure.legend(*entries, loc="outside lower center", ncols=2)
    figure.suptitle(f"Proxy: what the run was paid for.\nJudge: {judge_name}, which it never saw.")
    return figure


def default_runs() -> list[Path]:
    """The finished runs of ladder.py that the picture shows.

    Raises:
        UserError: there is none.
    """
    names = [f"{rung}-*" for rung in RUNGS]
    folders = [folder for name in names for folder in sorted(RUNS.glob(name))]
    folders = [folder for folder in folders if (folder / "compare.json").exists()]
    if not folders:
        raise UserError(f"no run in {RUNS} is finished; give folders of runs.")
    return folders


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="output folders; default: ladder.py's")
    add("--judge", default="ngram", help="ngram, vader, or a classifier's name; default ngram")
    add("--out", default=ROOT / "docs" / "over_optimisation.png", type=Path, help="the picture")
    args = parser.parse_args(argv)
    with one_line_errors(parser.prog):
        runs = [read_run(folder) for folder in args.runs or default_runs()]
        from sentiment import load_judge  # loads torch: not for --help

        kinds = points_of(runs, load_judge(args.judge))
        print("\n".join(table(kinds)))
        report.save_figure(draw(kinds, args.judge), args.out)
        print(f"Wrote {args.out}")


if __name__ == "__main__":
    main()
