"""What a penalty is worth in training: does it hold the policy, and is the text still text?

    python -m instructor.proof.trained_penalties                  # all; continues where it stopped
    python -m instructor.proof.trained_penalties --seeds 0 --jobs 2

The cases ask a penalty about a few tokens. Whether they ask the right questions, only training can
say: every penalty below trains the bundled model for 60 steps with `--kl_type forward`, is compared
with its base, and `trained_penalties.md` says whether it holds the policy as `q - p` does. Runs lie
in `outputs/penalties/`; remove a folder there to run it again.
"""

import concurrent.futures
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from engine.common import ROOT, UserError, write_whole
from engine.options import OneLineParser, at_least
from instructor.proof.bodies import penalty
from instructor.proof.mutants import with_body

RUNS = ROOT / "outputs" / "penalties"
PAGE = Path(__file__).with_name("trained_penalties.md")
MEASURED = ("kl", "sentiment", "length", "perplexity")
# Against the penalty that is the exact gradient of KL(policy‖ref), at the same kl_coef:
EXACT = "q - p"
KL_AT_MOST, LENGTH_AT_LEAST, PERPLEXITY_AT_MOST = 2.0, 0.9, 1.25
PENALTIES = {  # name -> cost per token; q, p are log-probabilities, r = p/q is cut at 10
    EXACT: "q - p",
    "1 - r": "1 - r",
    "probability times difference": "q.exp() * (q - p)",
    "difference cut at zero": "(q - p).clamp(min=0)",
    "1 - r cut at zero": "(1 - r).clamp(min=0)",
    "tanh": "torch.tanh(q - p)",
    "sinh, clamped": "torch.sinh((q - p).clamp(-5, 5))",
    "both pulls": "(q - p) + (1 - r)",
    "signed log1p": "torch.log1p((q - p).abs()) * (q - p).sign()",
    "difference clamped at 5": "(q - p).clamp(-5, 5)",
    "a tenth below zero": "torch.where(q > p, (q - p), 0.1 * (q - p))",
    "difference of probabilities": "q.exp() - p.exp()",
    "relative difference": "(q - p) / (q + p).abs().clamp(min=1e-6)",
    "exp(difference) - 1, clamped": "(q - p).clamp(-3, 3).exp() - 1",
    "difference clamped at 1": "(q - p).clamp(-1, 1)",
    "signed root": "(q - p).abs().sqrt() * (q - p).sign()",
    "sign": "(q - p).sign()",
    "cube": "(q - p) ** 3",
}


def folder(name, seed):
    return RUNS / f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}-{seed}"


def finished(name, seeds):
    """The seeds with which this penalty is trained and compared."""
    return [seed for seed in seeds if (folder(name, seed) / "compare.json").exists()]


def rewards_text(name):
    """The solution with this penalty as its forward penalty."""
    source = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    return with_body(source, "kl_penalty_forward", penalty(PENALTIES[name]))


def run(name, seed, threads):
    """Train with one penalty and one seed, and compare.

    Raises:
        UserError: either command fails; the message is its last line.
    """
    print(f"{name}, seed {seed}", flush=True)
    target = folder(name, seed)
    rewards = target.with_suffix(".py")
    rewards.parent.mkdir(parents=True, exist_ok=True)
    write_whole(rewards, rewards_text(name))
    train = ["train.py", "--preset", "tiny", "--kl_type", "forward", "--rewards", str(rewards)]
    train += ["--seed", str(seed), "--output_dir", str(target)]
    compare = ["evaluate.py", "compare", "tiny/gpt2", str(target / "final")]
    compare += ["--json", str(target / "compare.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    for command in (train, compare):
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"{command[0]} was ended from outside"]
            raise UserError(f"{name}, seed {seed}: {lines[-1]}")


def measured(name, seeds):
    """{metric: its means, one for each finished seed} after training."""
    files = [folder(name, seed) / "compare.json" for seed in finished(name, seeds)]
    runs = [json.loads(file.read_text(encoding="utf-8"))["trained"] for file in files]
    return {metric: [run[metric]["mean"] for run in runs] for metric in MEASURED}


def verdict(own, exact):
    """What is wrong with a penalty, from means over seeds beside those of the exact one.

    >>> exact = {"kl": 2.0, "sentiment": 0.8, "length": 30.0, "perplexity": 22.0}
    >>> verdict(exact, exact)
    'holds'
    >>> verdict({**exact, "kl": 5.0, "length": 15.0}, exact)
    'does not hold: 2.5 times the KL, 0.50 times the length'
    """
    ratio = {metric: own[metric] / exact[metric] for metric in MEASURED}
    faults = [f"{ratio['kl']:.1f} times the KL"] * (ratio["kl"] > KL_AT_MOST)
    faults += [f"{ratio['length']:.2f} times the length"] * (ratio["length"] < LENGTH_AT_LEAST)
    if ratio["perplexity"] > PERPLEXITY_AT_MOST:
        faults.append(f"{ratio['perplexity']:.1f} times the perplexity")
    return f"does not hold: {', '.join(faults)}" if faults else "holds"


def table(seeds):
    """Markdown: a row for each penalty that is trained.

    Raises:
        UserError: the exact one is not, and there is nothing to compare with.
    """
    if not finished(EXACT, seeds):
        raise UserError(f"no run with {EXACT} is finished: there is nothing to compare with.")
    means = {}
    for name in PENALTIES:
        if done := finished(name, seeds):
            values = measured(name, seeds)
            means[name] = {metric: statistics.fmean(values[metric]) for metric in MEASURED}
            means[name]["seeds"] = " ".join(map(str, done))
    rows = ["| penalty | cost per token | seeds | KL (nats) | sentiment | length | ref. ppl | it |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, own in means.items():
        cost = PENALTIES[name].replace("torch.", "")
        figures = f"{own['kl']:.2f} | {own['sentiment']:.3f} | {own['length']:.1f} | "
        figures += f"{own['perplexity']:.1f} | {verdict(own, means[EXACT])}"
        rows.append(f"| {name} | `{cost}` | {own['seeds']} | {figures} |")
    return "\n".join(rows)


def page(seeds):
    """trained_penalties.md as text."""
    return f"""# What each penalty is worth in training

`python -m instructor.proof.trained_penalties` wrote this page. Every row is
`python train.py --preset tiny --kl_type forward --rewards FILE` (60 steps, kl_coef 0.1) with this
cost per token, and then `python evaluate.py compare`: means over the seeds of the row. `q` and `p`
are log-probabilities of policy and reference; `r` = p/q, cut at 10.

A penalty *holds* the policy if, beside `{EXACT}`, the exact gradient of KL(policy‖ref), it ends at
no more than {KL_AT_MOST:g} times the KL, writes at least {LENGTH_AT_LEAST:g} times the length, and
has no more than {PERPLEXITY_AT_MOST:g} times the perplexity. What holds belongs into `right.py`,
and every case must pass it; what does not belongs into `wrong.py`.

{table(seeds)}
"""


def main(argv=None):
    parser = OneLineParser(
        prog="trained_penalties",
        description="Train with right and doubtful penalties; write trained_penalties.md.",
    )
    add, seed = parser.add_argument, at_least(0, int)
    add("--seeds", type=seed, nargs="+", default=[0, 1, 2], help="seeds; default 0 1 2")
    add("--only", nargs="+", choices=PENALTIES, metavar="NAME", help="train these penalties only")
    add("--jobs", type=at_least(1, int), default=1, help="runs at a time; default 1")
    args = parser.parse_args(argv)
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(os.cpu_count() // args.jobs, 1))
    names = args.only or PENALTIES
    to_do = [(name, s) for s in args.seeds for name in names if s not in finished(name, [s])]
    try:
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for done in [pool.submit(run, name, s, threads) for name, s in to_do]:
                done.result()
        write_whole(PAGE, page(args.seeds))
    except (UserError, OSError) as error:
        sys.exit(f"trained_penalties: {error}")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
