"""How fast a step is, beside TRL as it comes: same model, prompts, batch, lengths, seed.

    python benchmarks/speed.py                      # bundled model, 64 x 32 tokens, five pairs
    python benchmarks/speed.py --model FOLDER --pairs 2 --steps 3

Every run is a process of its own (`time_steps.py`, which says what "stock" is). The two sides
alternate, so that a machine whose speed changes slows both, and ratios are taken pair by pair.
`scaling.py` measures what larger models and more completions cost.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import time_steps  # noqa: E402

from engine.common import UserError, make_console, quiet_libraries, write_json  # noqa: E402
from engine.options import at_least  # noqa: E402

COLUMNS = [(kl, side) for kl in ("off", "on") for side in ("stock", "ours")]


def compare(args):
    """Both sides, with and without KL; the order turns around from one round to the next."""
    pairs = {"off": [], "on": []}
    for i in range(args.pairs):
        done = {}
        for kl, side in COLUMNS if i % 2 == 0 else COLUMNS[::-1]:
            done[kl, side] = time_steps.run(args, kl=kl == "on", side=side)
        for kl in pairs:
            pairs[kl].append({side: done[kl, side] for side in ("stock", "ours")})
        print(f"pair {i + 1}: " + ", ".join(f"KL {kl} {ratios(pairs[kl])[-1]:.2f}" for kl in pairs))
    return {"pairs": pairs, "floor": floor(args.model, args.batch_size)}


def ratios(pairs):
    """Steps per second, ours over stock, pair by pair."""
    return [pair["stock"]["step"] / pair["ours"]["step"] for pair in pairs]


def floor(model_name, batch_size):
    """Seconds that the arithmetic of a step with KL needs at this machine's own rate.

    Two floating-point operations a weight and token for a forward pass, twice that for a backward
    pass; the rollout reads every token once, the reference too, the loss reads it and goes back;
    the sentiment model reads the completions. Attention's own products are left out: below 3 % at
    these lengths. So is what `engine/model/gpt2.py` saves where texts begin alike.

    Returns:
        dict with `operations`, `operations_per_second` and `seconds`.
    """
    from engine.model.devices import tune_cpu
    from engine.model.loading import load_model
    from engine.options import PRESETS
    from sentiment import load_sentiment_model

    tune_cpu()
    tiny = PRESETS["tiny"]
    policy = matrix_weights(load_model(model_name)[0])
    scorer = matrix_weights(load_sentiment_model(tiny["sentiment_model"])[0])
    tokens = batch_size * (tiny["max_completion_length"] + 5)  # a prompt has about five
    passes = 1 + 1 + 3  # rollout; reference; loss forward and backward
    operations, rate = 2 * tokens * (passes * policy + scorer), multiplication_rate(tokens)
    return {"operations": operations, "operations_per_second": rate, "seconds": operations / rate}


def matrix_weights(model):
    """How many weights a model multiplies with: its matrices without those it only looks up."""
    import torch

    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    return weights - sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and ("wpe" in name or "embeddings" in name)
    )


def multiplication_rate(rows, width=1024, count=20):
    """Floating-point operations per second of this machine, in float32 products of that size."""
    import torch

    a, b = torch.randn(rows, width), torch.randn(width, width)
    for _ in range(3):
        a @ b
    started = time.perf_counter()
    for _ in range(count):
        a @ b
    return count * 2 * rows * width * width / (time.perf_counter() - started)


def spread(values, form):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def median(pairs, side, key):
    return statistics.median(pair[side][key] for pair in pairs)


def show(result):
    """Print the table of phases, the ratios, and what the KL costs."""
    from rich.table import Table

    table = Table("seconds per step", box=None)
    for kl, side in COLUMNS:
        table.add_column(f"{side}, KL {kl}", justify="right")
    for key in (*time_steps.PHASES, "step", "peak_gb"):
        cells = [f"{median(result['pairs'][kl], side, key):.3f}" for kl, side in COLUMNS]
        table.add_row("peak memory, GB" if key == "peak_gb" else key, *cells)
    console = make_console()
    console.print(table)
    for kl, pairs in result["pairs"].items():
        text = f"steps per second, ours over stock, KL {kl}: {spread(ratios(pairs), '.2f')}"
        console.print(text, highlight=False)
    both = zip(result["pairs"]["on"], result["pairs"]["off"])
    costs = [on["ours"]["step"] / off["ours"]["step"] - 1 for on, off in both]
    console.print(f"the KL costs {spread(costs, '.0%')} of a step", highlight=False)
    least = result["floor"]
    console.print(
        f"floor with KL: {least['operations'] / 1e9:.0f} G operations at "
        f"{least['operations_per_second'] / 1e9:.0f} G/s, {least['seconds']:.2f} s",
        highlight=False,
    )


def plot(result, path):
    """Bars of seconds per step, phase by phase, for both sides, without and with KL."""
    from matplotlib.figure import Figure

    from engine.pages.report import save_figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bottom = [0.0] * len(COLUMNS)
    for phase in time_steps.PHASES:
        heights = [median(result["pairs"][kl], side, phase) for kl, side in COLUMNS]
        names = [f"{side}\nKL {kl}" for kl, side in COLUMNS]
        axes.bar(names, heights, bottom=bottom, label=phase)
        bottom = [b + h for b, h in zip(bottom, heights)]
    axes.axhline(result["floor"]["seconds"], color="k", linestyle="--", label="floor, KL on")
    axes.set(ylabel="seconds per step", title="Where a step's time goes")
    axes.legend(fontsize=8)
    save_figure(figure, path)


def main(argv=None):
    parser = time_steps.make_parser(__doc__.split("\n")[0])
    add = parser.add_argument
    add("--pairs", type=at_least(1, int), default=5, help="runs of each side; default 5")
    add("--json", metavar="FILE", help="write every figure to this file")
    add("--plot", metavar="FILE.png", help="draw the picture of docs/speed.md")
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        result = compare(args)
        show(result)
        if args.json:
            write_json(args.json, result)
        if args.plot:
            plot(result, args.plot)
    except (UserError, OSError) as error:
        sys.exit(f"speed.py: {error}")


if __name__ == "__main__":
    main()
