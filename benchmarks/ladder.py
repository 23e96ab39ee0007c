"""Reference results: every kind of run on the bundled models, five seeds each, in two tables.

    python benchmarks/ladder.py                                   # all; continues where it stopped
    python benchmarks/ladder.py --jobs 4                          # four at a time, a core each
    python benchmarks/ladder.py --only linear forward_0.1 --seeds 0 --out outputs/ladder

Trains each kind of run (a rung) with `train.py --preset tiny`, compares the model with its base,
and writes `results.md`, `samples.md` and `frontier.png` in `docs/` from all that is finished. Runs
lie in `outputs/ladder/`; remove a folder there to run it again. The functions of
rewards_solution.py are used where that file exists, otherwise those of rewards.py.
"""

import concurrent.futures
import json
import os
import platform
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from starting import SOLUTION, make_parser, one_line_errors, train_and_compare

from engine.common import ROOT, UserError, read_jsonl, write_whole
from engine.measuring.optimum import settings_of
from engine.options import PRESETS, at_least

RUNS = ROOT / "outputs" / "ladder"
KL_COEFS = (0.01, 0.03, 0.1, 0.3)
BETAS = (0.2, 1.0)
LADDER = {
    "linear": [],
    "early": ["--max_steps", "30", "--eval_steps", "2"],  # its first half, for the picture
    "shaped": ["--reward_shaping", "shaped"],
    "five_stars": ["--reward_shaping", "five_stars"],
    "hackable": ["--hackable_reward"],
    "negated": ["--negate_reward"],
    **{f"forward_{c}": ["--kl_type", "forward", "--kl_coef", str(c)] for c in KL_COEFS},
    **{f"backward_{c}": ["--kl_type", "backward", "--kl_coef", str(c)] for c in KL_COEFS},
    **{f"beta_{b}": ["--beta", str(b)] for b in BETAS},
    "target_forward": ["--kl_type", "forward", "--kl_target", "2"],
    "target_backward": ["--kl_type", "backward", "--kl_target", "2"],
    "credit": ["--kl_type", "forward", "--credit", "prefix", "--lr_scheduler_type", "linear"],
    "lora": ["--use_peft", "--learning_rate", "1e-3"],
}
FAMILIES = {  # title -> rungs joined by a line
    "forward penalty, 0.01 to 0.3": [f"forward_{c}" for c in KL_COEFS],
    "backward penalty, 0.01 to 0.3": [f"backward_{c}" for c in KL_COEFS],
    "TRL's beta, 0.2 and 1": [f"beta_{b}" for b in BETAS],
    "target of 2 nats": ["target_forward", "target_backward"],
    "credit by prefix, linear rate": ["credit"],
    "shaped": ["shaped"],
    "five_stars": ["five_stars"],
    "hackable": ["hackable"],
    "LoRA, learning rate 1e-3": ["lora"],
}
MARK = "<!-- benchmarks/ladder.py writes what follows -->"


def folder(rung: str, seed: int) -> Path:
    return RUNS / f"{rung}-{seed}"


def finished(rung: str, seeds: list[int]) -> list[int]:
    """The seeds with which this rung is trained and compared."""
    return [seed for seed in seeds if (folder(rung, seed) / "compare.json").exists()]


def name_of(rung: str) -> str:
    """How the tables call it: its flags."""
    return f"`{' '.join(LADDER[rung])}`" if LADDER[rung] else "no flags"


def run(rung: str, seed: int, threads: int) -> None:
    """Train and compare one rung with one seed.

    Raises:
        UserError: either command fails; the message is its last line.
    """
    print(f"{rung}, seed {seed}", flush=True)
    try:
        train_and_compare(folder(rung, seed), [*LADDER[rung], *SOLUTION, "--seed", seed], threads)
    except UserError as error:
        raise UserError(f"{rung}, seed {seed}: {error}") from error


def estimates(rung: str, seeds: list[int]) -> list[dict]:
    """What `evaluate.py compare --json` wrote for each finished seed of a rung."""
    files = [folder(rung, seed) / "compare.json" for seed in finished(rung, seeds)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def figure(value: float) -> str:
    """A number with three digits that count: 0.980, 27.3, 1,050."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def cell(values: list[float], percent: bool = False) -> str:
    """Mean ± standard deviation, with the decimals that the mean needs; shares in percent."""
    scale, unit = (100, "%") if percent else (1, "")
    mean = figure(scale * statistics.fmean(values))
    if len(values) == 1:
        return mean + unit
    decimals = len(mean.partition(".")[2])
    return f"{mean} ± {scale * statistics.stdev(values):,.{decimals}f}{unit}"


def nats(name: str) -> Callable[[str, list[int]], str]:
    """The cell of a rung for one of the figures of `Optimum.paid`."""

    def of_rung(rung: str, seeds: list[int]) -> str:
        paid = [estimate["nats"][name] for estimate in estimates(rung, seeds)]
        if all(paid):
            return cell([one["mean"] for one in paid])
        return "beyond" if name == "needed" else ""

    return of_rung


def seconds(rung: str, seeds: list[int]) -> str:
    """The cell of a rung: how long the training took."""
    manifests = [folder(rung, seed) / "run.json" for seed in finished(rung, seeds)]
    return cell([json.loads(file.read_text("utf-8"))["seconds"] for file in manifests])


class Table(NamedTuple):
    """The columns of a table: names of `METRICS`, and more that are made of whole runs."""

    metrics: tuple[str, ...]
    more: dict[str, Callable[[str, list[int]], str]]  # title: the cell of a rung with these seeds


REACHED = Table(
    ("sentiment", "judge", "kl"),
    {
        "needed": nats("needed"),
        "sideways": nats("sideways"),
        "from asked": nats("to_optimum"),
        "overpaid ×": nats("overpayment"),
    },
)
TEXTS = Table(
    ("perplexity", "repetition_3", "distinct_2", "length", "win_rate"), {"seconds": seconds}
)


def table_of(columns: Table, seeds: list[int]) -> str:
    """Markdown: a row for the base model and one for each rung that is finished with a seed."""
    from engine.measuring.metrics import METRICS

    metrics = [METRICS[name] for name in columns.metrics]
    titles = ["run", *(metric.title for metric in metrics), *columns.more]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]

    def cells(models):
        """The cells of the metrics; `models` has the figures of one model for each seed."""
        values = [[model[name]["mean"] for model in models] for name in columns.metrics]
        percent = [metric.form.endswith("%}") for metric in metrics]
        return " | ".join(map(cell, values, percent))

    for rung in LADDER:
        done = estimates(rung, seeds)
        if not done:
            continue
        if len(lines) == 2:
            empty = " |" * len(columns.more)
            lines.append(f"| base model | {cells([done[0]['base']])} |{empty}")
        few = "" if len(done) == len(seeds) else f", {len(done)} of {len(seeds)} seeds"
        figures = cells([estimate["trained"] for estimate in done])
        more = " | ".join(of_rung(rung, seeds) for of_rung in columns.more.values())
        lines.append(f"| {name_of(rung)}{few} | {figures} | {more} |")
    return "\n".join(lines)


def three_samples(run_folder: Path) -> list[str]:
    """The worst, the median and the best completion after training, by the reward model."""
    rows = read_jsonl(run_folder / "completions.jsonl")
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    rows.sort(key=lambda row: row["sentiment"])
    lines = []
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        text = " ".join((row["prompt"] + row["completion"]).split())
        lines.append(f"- {row['sentiment']:.2f}: " + re.sub(r"([\\*_<>\[\]`])", r"\\\1", text))
    return lines


def samples_page(seeds: list[int]) -> str:
    """samples.md as text."""
    lines = [
        "# Three texts of each kind of run\n",
        "The worst, the median and the best completion after training, by the reward model, seed "
        f"{seeds[0]}.\n[results.md](results.md) has the figures of these runs.",
    ]
    for rung in LADDER:
        if done := finished(rung, seeds):
            lines += [f"\n## {name_of(rung)}\n", *three_samples(folder(rung, done[0]))]
    return "\n".join(lines) + "\n"


def tables_section(seeds: list[int], threads: int) -> str:
    """The part of results.md below the mark, as text."""
    cores = "one CPU core" if threads == 1 else f"{threads} CPU cores"
    training = " ".join(["train.py --preset tiny", *SOLUTION])
    machine = f"{cores} a run ({platform.processor() or platform.machine()})"
    return f"""{MARK}

## Tables

`python benchmarks/ladder.py`, seeds {", ".join(map(str, seeds))}, {machine}. Every run is
`python {training}` with the flags of its row. Every figure is one of
`python evaluate.py compare`, 16 completions to each of 64 held-out prompts: mean ± standard
deviation over the training seeds. The seed of the evaluation is always the same: its own noise,
about ±0.015 in sentiment, is not in the deviation.

### How high, and how far

The KL is the sum of the nats that the sentiment *needed* and of those that went *sideways*. *From
asked*: how many nats the policy is away from the best for sentiment − `kl_coef` · KL, where a run
was asked for that. *Overpaid*: the KL over the needed nats. *Beyond*: the sentiment is higher than
the samples of the untrained model can tell of.

{table_of(REACHED, seeds)}

### How the texts change, and how long it took

Seconds are those of the training run.

{table_of(TEXTS, seeds)}
"""


def draw(seeds: list[int], path: Path) -> None:
    """Sentiment against KL: where every rung ends, and the path of the plain run."""
    from engine.measuring.runs import read_run, sentiment_at
    from engine.pages import report
    from evaluate import optimum_of

    tiny = PRESETS["tiny"]
    models = (tiny["model_name"], tiny["sentiment_model"])
    best = optimum_of(settings_of(*models, tiny["max_completion_length"], 1.0))
    picture = report.plot_frontier([], [("", best)])
    axes = picture.axes[0]
    paths = [read_run(folder("early", seed)) for seed in finished("early", seeds)]
    if paths:
        steps = list(zip(*(run["validations"] for run in paths)))  # of each step, all seeds
        kl, sentiment = (
            [statistics.fmean(row[name] for row in rows) for rows in steps]
            for name in ("kl", "sentiment")
        )
        axes.plot(kl, sentiment, "k.--", label="no penalty, every second step")
        noise = sentiment_at(paths[0], 0)  # all seeds validate the same model by the same texts
        if noise and noise["low"] is not None:
            title = "95 % interval of its start"
            axes.vlines(0.0, noise["low"], noise["high"], "k", linewidth=2, alpha=0.5, label=title)
    for i, (title, rungs) in enumerate(FAMILIES.items()):
        rungs = [rung for rung in rungs if finished(rung, seeds)]
        if rungs:
            kl, sentiment = (Spread.of(name, rungs, seeds) for name in ("kl", "sentiment"))
            style = {**report.style_of(i), "alpha": 0.8, "label": title}
            axes.errorbar(kl.means, sentiment.means, sentiment.deviations, kl.deviations, **style)
    axes.set_xlim(-0.06, 260)
    picture.legend(loc="outside lower left", ncols=2)
    axes.set_title(
        f"What is reached, and what it costs:\nmean ± standard deviation, {len(seeds)} seeds"
    )
    report.save_figure(picture, path)


class Spread(NamedTuple):
    """A metric of several rungs: means and standard deviations over the seeds."""

    means: list[float]
    deviations: list[float]  # 0 where there is one seed

    @classmethod
    def of(cls, name: str, rungs: list[str], seeds: list[int]) -> "Spread":
        values = [[e["trained"][name]["mean"] for e in estimates(rung, seeds)] for rung in rungs]
        deviations = [statistics.stdev(row) if len(row) > 1 else 0.0 for row in values]
        return cls([statistics.fmean(row) for row in values], deviations)


def write(seeds: list[int], threads: int, out: Path) -> None:
    """Write tables, samples and picture; what people wrote above the mark of results.md stays.

    Raises:
        UserError: no run is finished.
    """
    if not any(finished(rung, seeds) for rung in LADDER):
        raise UserError(f"no run in {RUNS} is finished.")
    out.mkdir(parents=True, exist_ok=True)
    draw(seeds, out / "frontier.png")
    write_whole(out / "samples.md", samples_page(seeds))
    page = out / "results.md"
    above = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else ""
    write_whole(page, above + tables_section(seeds, threads))
    print(f"Wrote results.md, samples.md and frontier.png in {out}")


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seeds", type=at_least(0, int), nargs="+", default=[*range(5)], help="default 0 1 2 3 4")
    add("--only", nargs="+", choices=LADDER, metavar="RUNG", help="train these kinds of run only")
    add("--jobs", type=at_least(1, int), default=1, help="runs at a time; default 1")
    add("--out", default=ROOT / "docs", type=Path, help="folder of the pages; default docs")
    args = parser.parse_args(argv)
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    rungs = args.only or LADDER
    to_do = [(r, s) for s in args.seeds for r in rungs if not finished(r, [s])]
    with one_line_errors(parser.prog):
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for done in [pool.submit(run, rung, seed, threads) for rung, seed in to_do]:
                done.result()
        write(args.seeds, threads, args.out)


if __name__ == "__main__":
    main()
