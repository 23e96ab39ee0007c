"""Reference results: every kind of run on the bundled models, three seeds each, one table.

    python benchmarks/ladder.py                                   # all; goes on where it stopped
    python benchmarks/ladder.py --only linear forward_0.1 --seeds 0

Trains each rung with `train.py --preset tiny --use_solution`, compares it with the base model, and
writes `benchmarks/RESULTS.md` and `benchmarks/frontier.png` from all that is finished. Runs lie in
`outputs_ladder/`; remove a folder there to run it again.
"""

import argparse
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
LADDER = {
    "linear": [],
    "exponential": ["--reward_shaping", "exponential"],
    "shaped": ["--reward_shaping", "shaped"],
    "five_stars": ["--reward_shaping", "five_stars"],
    "hackable": ["--hackable_reward"],
    "negated": ["--negate_reward"],
    **{f"forward_{c}": ["--kl_type", "forward", "--kl_coef", str(c)] for c in KL_COEFS},
    **{f"backward_{c}": ["--kl_type", "backward", "--kl_coef", str(c)] for c in KL_COEFS},
    **{f"beta_{b}": ["--beta", str(b)] for b in (0.04, 0.2, 1.0)},
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


def run(rung, seed):
    """Train and compare one rung with one seed; raises if either command fails."""
    target = folder(rung, seed)
    train = [sys.executable, "train.py", "--preset", "tiny", "--use_solution"]
    train += [*LADDER[rung], "--seed", str(seed), "--output_dir", str(target)]
    subprocess.run(train, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    compare = [sys.executable, "evaluate.py", "compare", "tiny/gpt2", str(target / "final")]
    compare += ["--json", str(target / "compare.json")]
    done = subprocess.run(compare, cwd=ROOT, check=True, capture_output=True, text=True)
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


def write(seeds):
    import report
    from evaluate import best_of_n_baseline
    from monitor import quiet_libraries

    quiet_libraries()
    table, samples = results(seeds)
    done = [(rung, seeds[0]) for rung in LADDER if finished(rung, seeds[0])]
    runs = [report.read_run(folder(*pair)) for pair in done]
    shown = [run for run in runs if not run["manifest"]["options"]["negate_reward"]]
    figure = report.plot_frontier(shown, best_of_n_baseline(runs[0]))
    report.save_figure(figure, ROOT / "benchmarks" / "frontier.png")
    hardware = (
        f"{len(os.sched_getaffinity(0))} CPU cores ({platform.processor() or platform.machine()})"
    )
    text = f"""# Reference results on the bundled models

`python benchmarks/ladder.py`, seeds {", ".join(map(str, seeds))}, {hardware}. Every run is
`python train.py --preset tiny --use_solution` with the flags of its row; every figure is one of
`python evaluate.py compare`, 16 completions to each of 64 held-out prompts: the mean over seeds,
and in brackets the lowest and highest seed. Seconds are those of the training run.

{table}

![sentiment against KL, one path for each run of seed {seeds[0]}](frontier.png)

## Samples

The worst, the median and the best completion after training, by the reward model, seed {seeds[0]}.

{samples}"""
    target = ROOT / "benchmarks" / "RESULTS.md"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)
    print(f"Wrote {target} from {len(done)} rungs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=LADDER, default=list(LADDER), metavar="RUNG")
    args = parser.parse_args()
    for seed in args.seeds:
        for rung in args.only:
            if not finished(rung, seed):
                print(f"{rung}, seed {seed}", flush=True)
                run(rung, seed)
    write(args.seeds)


if __name__ == "__main__":
    main()
