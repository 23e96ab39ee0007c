"""Reward hacking without training: what a reward itself asks for.

    python benchmarks/optimal_hacking.py                      # two minutes a seed on two cores
    python benchmarks/optimal_hacking.py --seeds 0 --samples 64 --out picture.png

The best policy for a reward R at each KL is known: the base model, each of its texts weighted by
exp(R/β). So one can ask what a judge says of *that* policy, without training any. If the judge
falls along the way, the reward asks for the wrong texts. If it rises, and falls only in trained
runs (benchmarks/over_optimisation.py), then the nats that went sideways have made the texts worse.

Samples texts of the base model, scores them with the sentiment model, with the share of positive
words and with the bundled judge, and prints a table for each of the two rewards.
"""

import math
from pathlib import Path

import numpy as np
from starting import make_parser, one_line_errors, spread

from engine.common import ROOT, progress
from engine.measuring.optimum import MARGIN, STRENGTHS, tilt, tilted_weights
from engine.options import PRESETS, at_least
from engine.pages import report

NATS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # the rows of the table
REWARDS = ("sentiment", "positive words")
JUDGED = {"judge": ("#0072b2", "-"), "positive": ("#009e73", "--"), "text": ("black", ":")}


def sample(seed: int, samples: int) -> dict[str, np.ndarray]:
    """Scores of samples of the bundled base model: {name: (P, N)}, names of REWARDS and JUDGED."""
    from data import VALIDATION_PROMPTS
    from engine.measuring.judge import NgramJudge
    from engine.model.loading import load_model
    from engine.model.sampling import Sampling, generate_batches
    from sentiment import get_hackable_scores, get_sentiment_scores, load_sentiment_model

    tiny = PRESETS["tiny"]
    model, tokenizer = load_model(tiny["model_name"])
    load_sentiment_model(tiny["sentiment_model"])
    prompts = [prompt for prompt in VALIDATION_PROMPTS for _ in range(samples)]
    sampling = Sampling(tiny["max_completion_length"], seed=seed)
    with progress(f"seed {seed}", math.ceil(len(prompts) / sampling.batch_size)) as tick:
        ids = generate_batches(model, tokenizer, prompts, sampling=sampling, tick=tick)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    judge = NgramJudge()
    positive, text = judge.answers(texts)
    scores = {
        "sentiment": get_sentiment_scores(texts),
        "positive words": get_hackable_scores(texts),
        "judge": judge(texts),
        "positive": positive,
        "text": text,
    }
    return {name: np.reshape(values, (-1, samples)) for name, values in scores.items()}


def along_optimum(scores: dict[str, np.ndarray], reward: str) -> dict[str, np.ndarray]:
    """What the best policies for a reward are like, from the base model to the last KL that the
    samples can tell of.

    Args:
        scores: of `sample`.
        reward: the one of them that is tilted by.

    Returns:
        {"kl" and each name of `scores`: (S,) means over prompts}, kl in nats.

    >>> one = {"a": np.array([[0.0, 1.0] * 50]), "b": np.array([[1.0, 0.0] * 50])}
    >>> means = along_optimum(one, "a")
    >>> bool(np.allclose(means["a"] + means["b"], 1)), round(float(means["kl"].max()), 2)
    (True, 0.69)
    """
    strengths = STRENGTHS[STRENGTHS >= 0]
    table = scores[reward] / scores[reward].std()  # so that the grid of strengths fits any reward
    kl = tilt(table, strengths)[1].mean(axis=1)
    known = kl <= math.log(table.shape[1]) - MARGIN
    weights = [tilted_weights(table, strength) for strength in strengths[known]]
    means = {
        name: np.array([(w * values).sum(axis=1).mean() for w in weights])
        for name, values in scores.items()
    }
    return {"kl": kl[known], **means}


def table_of(paths: list[dict[str, np.ndarray]], reward: str) -> list[str]:
    """A Markdown row for each KL of NATS: means over seeds, and their standard deviation."""
    names = (reward, *JUDGED)
    lines = [f"| KL (nats) | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for kl in NATS:
        reached = [path for path in paths if path["kl"].max() >= kl]
        if len(reached) < len(paths):
            continue
        cells = []
        for name in names:
            values = [float(np.interp(kl, path["kl"], path[name])) for path in paths]
            cells.append(spread(values, decimals=3))
        lines.append(f"| {kl:g} | {' | '.join(cells)} |")
    return lines


def draw(paths: dict[str, list[dict[str, np.ndarray]]]):
    """A panel for each reward: what the judge says of its best policy, over the KL."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")  # narrow, to be read on a phone
    for axes, (reward, of_seeds) in zip(figure.subplots(1, len(paths), sharey=True), paths.items()):
        for name, (color, dashes) in {reward: ("#d55e00", "-."), **JUDGED}.items():
            title = {reward: "the reward", "judge": "judge"}.get(name, f"judge's P({name})")
            for path in of_seeds:
                axes.plot(path["kl"], path[name], dashes, color=color, label=title)
                title = None  # one line of the legend for all seeds
        axes.set(title=f"best policy for\n{reward}", xlabel="KL(policy‖ref), nats", ylim=(0, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mean over texts, 0 to 1")
    entries = axes.get_legend_handles_labels()  # the same in every panel
    figure.legend(*entries, loc="outside lower center", ncols=2)
    return figure


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seeds", type=at_least(0, int), nargs="+", default=[0, 1, 2], help="default 0 1 2")
    add("--samples", type=at_least(2, int), default=256, help="of each prompt; default 256")
    add("--out", default=ROOT / "docs" / "optimal_hacking.png", type=Path, help="the picture")
    args = parser.parse_args(argv)
    with one_line_errors(parser.prog):
        scores = [sample(seed, args.samples) for seed in args.seeds]
        paths = {reward: [along_optimum(one, reward) for one in scores] for reward in REWARDS}
        for reward in REWARDS:
            print("\n".join(table_of(paths[reward], reward)), end="\n\n")
        report.save_figure(draw(paths), args.out)
        print(f"Wrote {args.out}")


if __name__ == "__main__":
    main()
