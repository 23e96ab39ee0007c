"""Reference results: every kind of run on the bundled models, three seeds each, in two tables.

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
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from time_steps import has_solution  # noqa: E402

from engine.common import ROOT, UserError, quiet_libraries, read_jsonl, write_whole  # noqa: E402
from engine.measuring.optimum import SETTINGS, settings_of  # noqa: E402
from engine.options import PRESETS, OneLineParser, at_least  # noqa: E402

RUNS = ROOT / "outputs" / "ladder"
KL_COEFS = (0.01, 0.03, 0.1, 0.3, 1.0)
BETAS = (0.04, 0.2, 1.0)
LADDER = {
    "linear": [],
    "early": ["--max_steps", "30", "--eval_steps", "2"],  # its first half, for the picture
    "exponential": ["--reward_shaping", "exponential"],
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
REACHED = ("sentiment", "judge", "kl", "perplexity")  # the first table, with the overpayment
TEXTS = ("repetition_3", "distinct_2", "length", "win_rate")  # the second, with the seconds
FAMILIES = {  # title -> (rungs joined by a line, colour)
    "forward penalty, 0.01 to 1": ([f"forward_{c}" for c in KL_COEFS], "tab:blue"),
    "backward penalty, 0.01 to 1": ([f"backward_{c}" for c in KL_COEFS], "tab:orange"),
    "TRL's beta, 0.04 to 1": ([f"beta_{b}" for b in BETAS], "tab:green"),
    "target of 2 nats": (["target_forward", "target_backward"], "black"),
    "credit by prefix, linear rate": (["credit"], "tab:cyan"),
    "exponential": (["exponential"], "tab:red"),
    "shaped": (["shaped"], "tab:purple"),
    "five_stars": (["five_stars"], "tab:brown"),
    "hackable": (["hackable"], "tab:pink"),
    "LoRA, learning rate 1e-3": (["lora"], "tab:olive"),
}
MARK = "<!-- benchmarks/ladder.py writes what follows -->"


def folder(rung, seed):
    return RUNS / f"{rung}-{seed}"


def finished(rung, seeds):
    """The seeds with which this rung is trained and compared."""
    return [seed for seed in seeds if (folder(rung, seed) / "compare.json").exists()]


def name_of(rung):
    """How the tables call it: its flags."""
    return f"`{' '.join(LADDER[rung])}`" if LADDER[rung] else "no flags"


def run(rung, seed, threads):
    """Train and compare one rung with one seed.

    Raises:
        UserError: either command fails; the message is its last line.
    """
    print(f"{rung}, seed {seed}", flush=True)
    target, env = folder(rung, seed), {**os.environ, "OMP_NUM_THREADS": str(threads)}
    flags = ["--preset", "tiny", *LADDER[rung]] + ["--use_solution"] * has_solution()
    commands = (
        ["train.py", *flags, "--seed", str(seed), "--output_dir", str(target)],
        ["evaluate.py", "compare", "tiny/gpt2", str(target / "final")]
        + ["--json", str(target / "compare.json")],
    )
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=env
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"{command[0]} was ended from outside"]
            raise UserError(f"{rung}, seed {seed}: {lines[-1]}")
    write_whole(target / "compare.txt", done.stdout)


def estimates(rung, seeds):
    """What `evaluate.py compare --json` wrote for each finished seed of a rung."""
    files = [folder(rung, seed) / "compare.json" for seed in finished(rung, seeds)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def figure(value):
    """A number with three digits that count: 0.980, 27.3, 1,050."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def spread(values, percent=False):
    """The mean, and below it in brackets the lowest and the highest value; shares in percent."""
    scale, unit = (100, "%") if percent else (1, "")
    low, mean, high = (figure(scale * f(values)) for f in (min, statistics.fmean, max))
    return f"{mean}{unit}" + (f"<br>({low}–{high}{unit})" if len(values) > 1 else "")


def overpayment(rung, seeds):
    """The cell of a rung: the KL over the least KL at its sentiment, where that is known."""
    done = [estimate["overpayment"] for estimate in estimates(rung, seeds)]
    if None not in (factors := [one["mean"] for one in done]):
        return spread(factors)
    return "" if any(one["optimal_kl"] == 0 for one in done) else "beyond"


def seconds(rung, seeds):
    """The cell of a rung: how long the training took."""
    runs = [folder(rung, seed) / "run.json" for seed in finished(rung, seeds)]
    return spread([json.loads(run.read_text("utf-8"))["seconds"] for run in runs])


def table(seeds, names, more):
    """Markdown: a row for the base model and one for each rung, a column for each metric.

    `more` is a function like `seconds` for one more column, which is called by its name.
    """
    from engine.measuring.metrics import METRICS

    titles = ["run", *(METRICS[name].title for name in names), more.__name__]
    shares = [METRICS[name].form.endswith("%}") for name in names]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for rung in LADDER:
        done = estimates(rung, seeds)
        if not done:
            continue
        if len(lines) == 2:
            base = [spread([done[0]["base"][n]["mean"]], p) for n, p in zip(names, shares)]
            lines.append(f"| base model | {' | '.join(base)} | |")
        means = [[e["trained"][name]["mean"] for e in done] for name in names]
        cells = [spread(values, percent) for values, percent in zip(means, shares)]
        cells.append(more(rung, seeds))
        few = "" if len(done) == len(seeds) else f", {len(done)} of {len(seeds)} seeds"
        lines.append(f"| {name_of(rung)}{few} | {' | '.join(cells)} |")
    return "\n".join(lines)


def three_samples(run_folder):
    """The worst, the median and the best completion after training, by the reward model."""
    rows = read_jsonl(run_folder / "completions.jsonl")
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    rows.sort(key=lambda row: row["sentiment"])
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        text = " ".join((row["prompt"] + row["completion"]).split())
        yield f"- {row['sentiment']:.2f}: " + re.sub(r"([\\*_<>\[\]`])", r"\\\1", text)


def samples_page(seeds):
    """samples.md as text."""
    parts = [
        "# Three texts of each kind of run\n",
        "The worst, the median and the best completion after training, by the reward model, seed "
        f"{seeds[0]}.\n[results.md](results.md) has the figures of these runs.",
    ]
    for rung in LADDER:
        if done := finished(rung, seeds):
            parts += [f"\n## {name_of(rung)}\n", *three_samples(folder(rung, done[0]))]
    return "\n".join(parts) + "\n"


def tables_section(seeds, threads):
    """The part of results.md below the mark, as text."""
    cores = "one CPU core" if threads == 1 else f"{threads} CPU cores"
    machine = f"{cores} a run ({platform.processor() or platform.machine()})"
    solution = " --use_solution" * has_solution()
    return f"""{MARK}

## Tables

`python benchmarks/ladder.py`, seeds {", ".join(map(str, seeds))}, {machine}. Every run is
`python train.py --preset tiny{solution}` with the flags of its row. Every figure is one of
`python evaluate.py compare`, 16 completions to each of 64 held-out prompts: the mean over seeds,
and in brackets the lowest and highest seed.

### How high, and how far

The overpayment is the KL over the least KL at that sentiment; *beyond*: the sentiment is higher
than the samples of the untrained model can tell of.

{table(seeds, REACHED, overpayment)}

### How the texts change, and how long it took

Seconds are those of the training run.

{table(seeds, TEXTS, seconds)}
"""


def point(rung, seeds):
    """(lowest, mean, highest) over seeds, of KL and of sentiment."""
    trained = [done["trained"] for done in estimates(rung, seeds)]
    return [
        (min(values), statistics.fmean(values), max(values))
        for values in ([t[name]["mean"] for t in trained] for name in ("kl", "sentiment"))
    ]


def draw(seeds, path):
    """Sentiment against KL: where every rung ends, and the path of the plain run."""
    from engine.measuring.runs import read_run
    from engine.pages import report
    from evaluate import optimum_of

    paths = [read_run(folder("early", seed)) for seed in finished("early", seeds)]
    tiny = PRESETS["tiny"]
    best = optimum_of(settings_of(*(tiny[name] for name in SETTINGS[:3]), 1.0))
    picture = report.plot_frontier([], [("", best)])
    axes = picture.axes[0]
    if paths:
        steps = list(zip(*(run["validations"] for run in paths)))
        means = (
            [statistics.fmean(r[k] for r in rows) for rows in steps] for k in ("kl", REACHED[0])
        )
        axes.plot(*means, "k.-", label="no penalty, every second step")
    for title, (rungs, color) in FAMILIES.items():
        if points := [point(rung, seeds) for rung in rungs if finished(rung, seeds)]:
            (x, x_error), (y, y_error) = (with_errors([p[i] for p in points]) for i in (0, 1))
            axes.errorbar(x, y, y_error, x_error, "o-", color=color, alpha=0.8, label=title)
    axes.set_xlim(0, 260)
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title(f"What is reached, and what it costs: means and ranges of {len(seeds)} seeds")
    report.save_figure(picture, path)


def with_errors(triples):
    """(means, [distances to the lowest, distances to the highest]) of (lowest, mean, highest)."""
    below = [mean - low for low, mean, _ in triples]
    above = [high - mean for _, mean, high in triples]
    return [mean for _, mean, _ in triples], [below, above]


def write(seeds, threads, out):
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
    parser = OneLineParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    seed = at_least(0, int)
    add(
        "--seeds",
        type=seed,
        nargs="+",
        default=[0, 1, 2],
        help="seeds; default 0 1 2",
    )
    add("--only", nargs="+", choices=LADDER, metavar="RUNG", help="train these kinds of run only")
    add("--jobs", type=at_least(1, int), default=1, help="runs at a time; default 1")
    add("--out", default=ROOT / "docs", type=Path, help="folder of the pages; default docs")
    args = parser.parse_args(argv)
    quiet_libraries()
    threads = max(os.cpu_count() // args.jobs, 1)
    rungs = args.only or LADDER
    to_do = [(r, s) for s in args.seeds for r in rungs if s not in finished(r, [s])]
    try:
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for done in [pool.submit(run, rung, seed, threads) for rung, seed in to_do]:
                done.result()
        write(args.seeds, threads, args.out)
    except (UserError, OSError) as error:
        sys.exit(f"ladder.py: {error}")


if __name__ == "__main__":
    main()
