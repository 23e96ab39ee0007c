"""The challenge: a sentiment of 0.80 or more for the fewest nats that go sideways.

    python benchmarks/challenge.py --kl_type forward --credit prefix
    python benchmarks/challenge.py --rewards my_rewards.py --kl_type backward --kl_coef 0.2

Trains the bundled models for 60 steps with your rewards.py, or FILE, and whatever other options
of train.py you give, three times: seeds 0, 1 and 2. Prints what came out, and the line for the
table of docs/challenge.md. The models, the prompts and the number of texts are the same for all.
"""

import math
import os
import shlex
import statistics
from pathlib import Path

from starting import make_parser, means, one_line_errors, train_and_compare

from engine.common import UserError
from engine.options import parse_arguments

SEEDS = (0, 1, 2)
SENTIMENT = 0.80
FIXED = {  # what is the same for all
    *("preset", "model_name", "sentiment_model", "max_steps", "batch_size", "prompts", "seed"),
    *("max_completion_length", "temperature", "output_dir", "config", "resume", "check"),
}
COLUMNS = ("sentiment", "needed", "sideways", "judge")


def require_fair(flags: list[str]) -> None:
    """Raises: UserError: an option that is the same for all."""
    for name in parse_arguments("", flags):
        if name in FIXED:
            raise UserError(f"--{name} is the same for all; leave it out.")


def verdict(figures: list[float]) -> str:
    """Whether the mean COLUMNS of three seeds enter the table."""
    if any(map(math.isnan, figures)):
        return "not yet: what such a sentiment needs cannot be told; hold the policy more"
    if figures[0] < SENTIMENT:
        return f"not yet: the sentiment is below {SENTIMENT:.2f}"
    return "it counts"


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--name", default="", help="how the table shall call you")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/challenge"), help="folder of the three runs"
    )
    args, flags = parser.parse_known_args(argv)
    with one_line_errors(parser.prog):
        require_fair(flags)
        runs = []
        for seed in SEEDS:
            folder = args.out / f"seed-{seed}"
            if folder.exists():
                raise UserError(f"{folder} exists: choose another --out, or remove it.")
            run = train_and_compare(folder, [*flags, "--seed", seed], os.cpu_count())
            runs.append(means(run, COLUMNS))
            told = ", ".join(f"{name} {x:.3f}" for name, x in zip(COLUMNS, runs[-1]))
            print(f"seed {seed}: {told}", flush=True)
        figures = [statistics.fmean(column) for column in zip(*runs)]
        cells = [f"{x:.3f}" for x in figures]
        print(f"\n{verdict(figures)}; the line for docs/challenge.md:")
        print(f"| {args.name} | {' | '.join(cells)} | `{shlex.join(flags)}` |")


if __name__ == "__main__":
    main()
