"""What the variants of GRPO change on the bundled models: a table and a picture, three seeds each.

    python benchmarks/variants.py             # all; continues where it stopped
    python benchmarks/variants.py --seeds 0

Every run is `train.py --preset tiny --kl_type forward` with the flags of its row. Runs lie in
`outputs/variants/`. Writes the table into `docs/grpo.md` and `docs/variants.png`.
"""

import os
from pathlib import Path

from starting import SOLUTION, make_parser, means, one_line_errors, spread, train_and_compare

from engine.common import ROOT, write_whole
from engine.options import at_least

RUNS = ROOT / "outputs" / "variants"
VARIANTS = {
    "as it is": [],
    "mean of each text's mean": ["--loss_type", "grpo"],
    "constant length": ["--loss_type", "dr_grpo"],
    "undivided": ["--scale_rewards", "none"],
    "deviation of the batch": ["--scale_rewards", "batch"],
    "Dr. GRPO": ["--loss_type", "dr_grpo", "--scale_rewards", "none"],
    "groups of 2": ["--num_generations", "2"],
    "groups of 4": ["--num_generations", "4"],
    "groups of 16": ["--num_generations", "16"],
}
COLUMNS = ("sentiment", "kl", "needed", "sideways", "judge")
BEGIN = "<!-- benchmarks/variants.py writes this table -->"
END = "<!-- end of the table -->"


def table(found: dict[str, list[list[float]]]) -> str:
    """Markdown: a row for each variant, from the figures of its seeds."""
    lines = [f"| variant | flags | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for name, runs in found.items():
        flags = f"`{' '.join(VARIANTS[name])}`" if VARIANTS[name] else ""
        lines.append(f"| {name} | {flags} | {' | '.join(map(spread, map(list, zip(*runs))))} |")
    return "\n".join(lines)


def draw(found: dict[str, list[list[float]]], path: Path) -> None:
    """Sentiment against the nats that went sideways: a point for each seed."""
    from matplotlib.figure import Figure

    from engine.pages.report import save_figure, style_of

    figure = Figure(figsize=(6, 6), layout="constrained")  # narrow, to be read on a phone
    axes = figure.subplots()
    for i, (name, runs) in enumerate(found.items()):
        sentiment, _, _, sideways, _ = zip(*runs)
        axes.plot(sideways, sentiment, **style_of(i), markersize=8, linestyle="", label=name)
    axes.set(xlabel="nats that went sideways", ylabel="sentiment")
    axes.set_title("Variants of GRPO, a point for each seed:\nup and to the left is better")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower left", ncols=2)
    save_figure(figure, path)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--seeds", type=at_least(0, int), nargs="+", default=[0, 1, 2], help="default 0 1 2"
    )
    args = parser.parse_args(argv)
    found: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    with one_line_errors(parser.prog):
        for seed in args.seeds:
            for name, flags in VARIANTS.items():
                print(f"{name}, seed {seed}", flush=True)
                folder = RUNS / f"{'-'.join(flags).replace('--', '') or 'default'}-{seed}"
                flags = ["--kl_type", "forward", *flags, *SOLUTION, "--seed", seed]
                found[name].append(means(train_and_compare(folder, flags, os.cpu_count()), COLUMNS))
        draw(found, ROOT / "docs" / "variants.png")
        page = ROOT / "docs" / "grpo.md"
        above, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        below = rest.partition(END)[2]
        write_whole(page, f"{above}{BEGIN}\n{table(found)}\n{END}{below}")
        print(f"{table(found)}\nWrote {page} and variants.png beside it")


if __name__ == "__main__":
    main()
