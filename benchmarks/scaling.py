"""What larger models and more completions cost: seconds per step and memory, with a KL penalty.

    python benchmarks/scaling.py models --batch_size 16   # four model sizes, all weights or LoRA
    python benchmarks/scaling.py completions              # 16 to 128 completions; memory over steps

Every run is a process of its own (`time_steps.py`). Models other than the bundled one have random
weights: good for timing, and nothing has to be downloaded.
"""

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import time_steps  # noqa: E402

from engine.common import UserError, quiet_libraries, write_json  # noqa: E402
from engine.options import at_least  # noqa: E402

COUNTS = (16, 32, 64, 128)  # completions per step
SIZES = {  # layers, width, heads; all read up to 1,024 tokens of GPT-2's 50,257
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
}


def completions(args):
    """Seconds per step for each number of completions, and the memory over the steps."""
    rows = []
    for count in COUNTS:
        runs = [time_steps.run(args, kl=True, batch_size=count) for _ in range(args.repeats)]
        seconds = statistics.median(run["step"] for run in runs)
        rows.append({"completions": count, "step": seconds, "memory_gb": runs[-1]["memory_gb"]})
        print(f"{count:4} completions: {seconds:.3f} s, {1000 * seconds / count:.1f} ms each")
    return rows


def models(args):
    """Seconds per step and peak memory of each model size, all weights or LoRA."""
    rows = []
    for size in ("tiny", *SIZES):
        with tempfile.TemporaryDirectory() as folder:
            if size != "tiny":
                random_gpt2(size, folder)
                args.model = folder
            for use_peft in (False, True):
                rows.append({"size": size, "use_peft": use_peft, **one_model(args, use_peft)})
                print(describe(rows[-1]), flush=True)
    return rows


def one_model(args, use_peft):
    """The figures of one model, or only the estimate of its memory where that is too much."""
    from engine.training.preflight import free_memory

    args.kl, args.use_peft = True, use_peft
    estimate = {"estimate_gb": estimated_gb(args)}
    if estimate["estimate_gb"] * 1e9 > 0.8 * free_memory():
        return estimate
    return estimate | time_steps.run(args)


def describe(row):
    text = f"{row['size']:12} {'LoRA' if row['use_peft'] else 'all weights':12}"
    if "step" not in row:
        return f"{text} not run: about {row['estimate_gb']:.0f} GB needed"
    return f"{text} {row['step']:7.2f} s a step {row['peak_gb']:6.1f} GB"


def random_gpt2(size, folder):
    """Save a GPT-2 of that size with random weights and the bundled tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    layers, width, heads = SIZES[size]
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(time_steps.TINY).save_pretrained(folder)


def estimated_gb(args):
    """What `train.py --check` would say."""
    from transformers import AutoConfig

    from engine.training.preflight import memory_of_a_step

    options = time_steps.options_of(args, "unused")
    names = (options.model_name, options.sentiment_model)
    return memory_of_a_step(options, *map(AutoConfig.from_pretrained, names)) / 1e9


def plot(rows, path):
    """Seconds against completions, and memory over the steps: the picture of `completions`."""
    from matplotlib.figure import Figure

    from engine.pages.report import save_figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([r["completions"] for r in rows], [r["step"] for r in rows], "o-")
    left.set(xlabel="completions per step", ylabel="seconds per step", xlim=0, ylim=0)
    for row in rows:
        right.plot(row["memory_gb"], label=f"{row['completions']} completions")
    right.set(xlabel="step", ylabel="resident memory, GB", ylim=0)
    right.legend(fontsize=8)
    save_figure(figure, path)


def main(argv=None):
    parser = time_steps.make_parser(__doc__.split("\n")[0])
    add = parser.add_argument
    add("what", choices=("models", "completions"), help="what grows from run to run")
    add(
        "--repeats",
        type=at_least(1, int),
        default=5,
        help="runs for each number of completions; default 5",
    )
    add("--json", metavar="FILE", help="write every figure to this file")
    add("--plot", metavar="FILE.png", help="draw the picture of docs/speed.md (completions only)")
    args = parser.parse_args(argv)
    if args.plot and args.what == "models":
        parser.error("--plot draws completions, not models")
    quiet_libraries()
    try:
        rows = {"models": models, "completions": completions}[args.what](args)
        if args.json:
            write_json(args.json, rows)
        if args.plot:
            plot(rows, args.plot)
    except (UserError, OSError) as error:
        sys.exit(f"scaling.py: {error}")


if __name__ == "__main__":
    main()
