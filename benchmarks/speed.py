"""How fast a step is, beside TRL as it comes: same model, prompts, batch, lengths, seed.

    python benchmarks/speed.py                      # bundled models, 64 x 32 tokens, five pairs
    python benchmarks/speed.py --model_name FOLDER --pairs 2 --steps 3

Every run is a process of its own: `train.py` (ours) or `stock.py`. The two sides alternate, so that
a machine whose speed changes slows both, and ratios are taken pair by pair. Seconds are TRL's
`step_time`, from the prompts of a batch to its gradient; the median over the steps of a run.
"""

import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from starting import SOLUTION, make_parser, name_or_folder, one_line_errors, run_program

from engine.common import ROOT, make_console, read_jsonl
from engine.options import at_least

WARM_UP = 3  # steps that are not counted
PROGRAMS = {"stock": "benchmarks/stock.py", "ours": "train.py"}
FLAGS_OF_KL = {"off": [], "on": ["--kl_type", "forward", *SOLUTION]}


class Column(NamedTuple):
    """What a run is: with or without KL penalty, and whose trainer."""

    kl: str  # a key of FLAGS_OF_KL
    side: str  # a key of PROGRAMS


COLUMNS = [Column(kl, side) for kl in FLAGS_OF_KL for side in PROGRAMS]


def seconds_per_step(column: Column, flags: list[str], steps: int, run=run_program) -> float:
    """The median `step_time` of a run with that many steps after the warm-up.

    Args:
        run: as `run_program`; what starts the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        run(
            PROGRAMS[column.side],
            *flags,
            *FLAGS_OF_KL[column.kl],
            f"--max_steps={steps + WARM_UP}",
            f"--output_dir={folder}/run",
        )
        rows = read_jsonl(Path(folder) / "run" / "metrics.jsonl")
    times = [row["step_time"] for row in rows if "step_time" in row]
    return statistics.median(times[WARM_UP:])


def compare(flags: list[str], steps: int, pairs: int) -> dict[Column, list[float]]:
    """Seconds per step of each column, one run a pair; every other pair runs in reverse order."""
    seconds: dict[Column, list[float]] = {column: [] for column in COLUMNS}
    for i in range(pairs):
        for column in COLUMNS if i % 2 == 0 else COLUMNS[::-1]:
            seconds[column].append(seconds_per_step(column, flags, steps))
        faster = (f"KL {kl} {ratios(seconds, kl)[-1]:.2f}" for kl in FLAGS_OF_KL)
        print(f"pair {i + 1}: {', '.join(faster)}", flush=True)
    return seconds


def ratios(seconds: dict[Column, list[float]], kl: str) -> list[float]:
    """Steps per second, ours over stock, pair by pair."""
    stock, ours = (seconds[Column(kl, side)] for side in ("stock", "ours"))
    return [slow / fast for slow, fast in zip(stock, ours)]


def spread(values: list[float], form: str) -> str:
    """The median, and in brackets the lowest and the highest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def show(seconds: dict[Column, list[float]]) -> None:
    """Print the medians, the ratios, and what the KL costs."""
    from rich.table import Table

    table = Table(box=None)
    for kl, side in COLUMNS:
        table.add_column(f"{side}, KL {kl}", justify="right")
    table.add_row(*(f"{statistics.median(values):.3f}" for values in seconds.values()))
    console = make_console()
    console.print("seconds per step", table)
    for kl in FLAGS_OF_KL:
        faster = spread(ratios(seconds, kl), ".2f")
        console.print(f"steps per second, ours over stock, KL {kl}: {faster}", highlight=False)
    with_kl, without = (seconds[Column(kl, "ours")] for kl in ("on", "off"))
    costs = [slow / fast - 1 for slow, fast in zip(with_kl, without)]
    console.print(f"the KL costs {spread(costs, '.0%')} of a step", highlight=False)


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    tiny = str(ROOT / "tiny" / "gpt2")
    policy = "policy: a folder or a Hub name; default tiny/gpt2"
    add("--model_name", type=name_or_folder, default=tiny, help=policy)
    add("--batch_size", type=at_least(8, int), default=64, help="completions a step; default 64")
    add("--steps", type=at_least(1, int), default=10, help="steps that count; default 10")
    add("--seed", type=at_least(0, int), default=0, help="seed of the trainings; default 0")
    add("--pairs", type=at_least(1, int), default=5, help="runs of each side; default 5")
    args = parser.parse_args(argv)
    flags = ["--preset=tiny", f"--model_name={args.model_name}"]
    flags += [f"--batch_size={args.batch_size}", f"--seed={args.seed}"]
    with one_line_errors(parser.prog):
        show(compare(flags, args.steps, args.pairs))


if __name__ == "__main__":
    main()
