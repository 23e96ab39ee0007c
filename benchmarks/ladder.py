"""Reference results: every kind of run on the bundled models, three seeds each, one table.

    python benchmarks/ladder.py                                   # all; goes on where it stopped
    python benchmarks/ladder.py --jobs 4                          # four at a time, a core each
    python benchmarks/ladder.py --only linear forward_0.1 --seeds 0

Trains each rung with `train.py --preset tiny --use_solution`, compares it with the base model, and
writes `benchmarks/RESULTS.md` and `benchmarks/frontier.png` from all that is finished. Runs lie in
`outputs_ladder/`; remove a folder there to run it again.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RUNS = ROOT / "outputs_ladder"
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
    "lora": ["--use_peft", "--learning_rate", "1e-3"],
}
SHOWN = (
    "sentiment",
    "judge",
    "kl",
    "perplexity",
    "repetition_3",
    "distinct_2",
    "length",
    "win_rate",
)


def folder(rung, seed):
    return RUNS / f"{rung}-{seed}"


def finished(rung, seed):
    return (folder(rung, seed) / "compare.json").exists()


def run(rung, seed, threads):
    """Train and compare one rung with one seed; raises if either command fails."""
    print(f"{rung}, seed {seed}", flush=True)
    target, env = folder(rung, seed), {**os.environ, "OMP_NUM_THREADS": str(threads)}
    train = [sys.executable, "train.py", "--preset", "tiny", "--use_solution"]
    train += [*LADDER[rung], "--seed", str(seed), "--output_dir", str(target)]
    subprocess.run(train, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=env)
    compare = [sys.executable, "evaluate.py", "compare", "tiny/gpt2", str(target / "final")]
    compare += ["--json", str(target / "compare.json")]
    done = subprocess.run(compare, cwd=ROOT, check=True, capture_output=True, text=True, env=env)
    (target / "compare.txt").write_text(done.stdout, encoding="utf-8")


def spread(values):
    return f"{statistics.fmean(values):.3g}" + (
        f" ({min(values):.3g}–{max(values):.3g})" if len(values) > 1 else ""
    )


def results(seeds):
    """RESULTS.md as text, from the finished runs: the mean over seeds, and their range."""
    from metrics import METRICS

    head = "| run | seeds | " + " | ".join(METRICS[name].title for name in SHOWN) + " | seconds |"
    lines = [head, "|---|" + "---|" * (len(SHOWN) + 2)]
    samples = []
    for rung, flags in LADDER.items():
        done = [seed for seed in seeds if finished(rung, seed)]
        if not done:
            continue
        estimates = [json.loads((folder(rung, s) / "compare.json").read_text()) for s in done]
        manifests = [json.loads((folder(rung, s) / "run.json").read_text()) for s in done]
        if len(lines) == 2:
            base = [f"{estimates[0]['base'][name]['mean']:.3g}" for name in SHOWN]
            lines.append(f"| base model | | {' | '.join(base)} | |")
        cells = [spread([e["trained"][name]["mean"] for e in estimates]) for name in SHOWN]
        seconds = spread([m["seconds"] for m in manifests])
        lines.append(
            f"| `{' '.join(flags) or 'no flags'}` | {len(done)} | {' | '.join(cells)} | {seconds} |"
        )
        samples += [
            f"### `{' '.join(flags) or 'no flags'}`",
            "",
            *three_samples(folder(rung, done[0])),
            "",
        ]
    return "\n".join(lines), "\n".join(samples)


def three_samples(run_folder):
    """The worst, the median and the best completion after training, by the reward model."""
    from monitor import read_jsonl

    rows = read_jsonl(run_folder / "completions.jsonl")
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    rows.sort(key=lambda row: row["sentiment"])
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        text = " ".join((row["prompt"] + row["completion"]).split())
        yield f"- {row['sentiment']:.2f} {text}"


FAMILIES = {  # title -> (rungs joined by a line, colour)
    "forward penalty, 0.01 to 1": ([f"forward_{c}" for c in KL_COEFS], "tab:blue"),
    "backward penalty, 0.01 to 1": ([f"backward_{c}" for c in KL_COEFS], "tab:orange"),
    "TRL's beta, 0.04 to 1": ([f"beta_{b}" for b in BETAS], "tab:green"),
    "exponential": (["exponential"], "tab:red"),
    "shaped": (["shaped"], "tab:purple"),
    "five_stars": (["five_stars"], "tab:brown"),
    "hackable": (["hackable"], "tab:pink"),
    "LoRA, learning rate 1e-3": (["lora"], "tab:olive"),
}


def point(rung, seeds):
    """(lowest, mean, highest) over seeds, of KL and of sentiment."""
    files = [folder(rung, s) / "compare.json" for s in seeds if finished(rung, s)]
    trained = [json.loads(file.read_text())["trained"] for file in files]
    return [
        (min(values), statistics.fmean(values), max(values))
        for values in ([t[name]["mean"] for t in trained] for name in ("kl", "sentiment"))
    ]


def draw(seeds):
    """Sentiment against KL: the end of every rung, and the way of the plain run in steps of two."""
    import report
    from evaluate import best_of_n_baseline

    runs = [report.read_run(folder("early", s)) for s in seeds if finished("early", s)]
    figure = report.plot_frontier([], best_of_n_baseline(runs[0]))
    axes = figure.axes[0]
    way = list(zip(*(run["validations"] for run in runs)))
    axes.plot(
        *([statistics.fmean(row[k] for row in rows) for rows in way] for k in ("kl", "sentiment")),
        "k.-",
        label="no penalty, every second step",
    )
    for title, (rungs, color) in FAMILIES.items():
        points = [point(rung, seeds) for rung in rungs if finished(rung, seeds[0])]
        if points:
            (x, y) = ([p[i][1] for p in points] for i in (0, 1))
            errors = [
                [[p[i][1] - p[i][0] for p in points], [p[i][2] - p[i][1] for p in points]]
                for i in (0, 1)
            ]
            axes.errorbar(x, y, errors[1], errors[0], "o-", color=color, alpha=0.8, label=title)
    axes.set_xlim(0, 260)
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title(f"What is reached, and what it costs: means and ranges of {len(seeds)} seeds")
    report.save_figure(figure, ROOT / "benchmarks" / "frontier.png")


MARK = "<!-- benchmarks/ladder.py writes what follows -->"


def write(seeds, threads):
    """Refresh the table, the picture and the samples; what people wrote above the mark stays."""
    from monitor import quiet_libraries

    quiet_libraries()
    table, samples = results(seeds)
    draw(seeds)
    cores = "one CPU core" if threads == 1 else f"{threads} CPU cores"
    machine = f"{cores} a run ({platform.processor() or platform.machine()})"
    text = f"""{MARK}

## Table

`python benchmarks/ladder.py`, seeds {", ".join(map(str, seeds))}, {machine}. Every run is
`python train.py --preset tiny --use_solution` with the flags of its row; every figure is one of
`python evaluate.py compare`, 16 completions to each of 64 held-out prompts: the mean over seeds,
and in brackets the lowest and highest seed. Seconds are those of the training run.

{table}

## Samples

The worst, the median and the best completion after training, by the reward model, seed {seeds[0]}.

{samples}"""
    target = ROOT / "benchmarks" / "RESULTS.md"
    above = target.read_text(encoding="utf-8").partition(MARK)[0] if target.exists() else ""
    temporary = target.with_suffix(".tmp")
    temporary.write_text(above + text, encoding="utf-8")
    temporary.replace(target)
    print(f"Wrote {target}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=LADDER, default=list(LADDER), metavar="RUNG")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args()
    threads = max(os.cpu_count() // args.jobs, 1)
    to_do = [(rung, seed) for seed in args.seeds for rung in args.only if not finished(rung, seed)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(run, rung, seed, threads) for rung, seed in to_do]:
            done.result()
    write(args.seeds, threads)


if __name__ == "__main__":
    main()
