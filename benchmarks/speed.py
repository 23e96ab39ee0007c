"""How fast a step is, beside TRL as it comes: same model, prompts, batch, lengths, seed.

    python benchmarks/speed.py                      # bundled model, 64 x 32 tokens, five pairs
    python benchmarks/speed.py --model FOLDER --pairs 2 --steps 3
    python benchmarks/speed.py --growth             # ours at four batch sizes; memory over steps
    python benchmarks/speed.py --sizes              # ours at four model sizes, all weights or LoRA

Each run is a process of its own; the two sides alternate, so that a machine whose speed drifts
slows both, and ratios are taken pair by pair. "Stock" is TRL's GRPOTrainer with its own generation,
a reward function that scores with the same sentiment model and, for the KL, takes the
log-probabilities of policy and reference in two plain forward passes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PHASES = ("rollout", "score", "log-probs", "loss+backward", "optimizer", "rest")
WARM_UP = 3  # steps that are not counted
SIZES = {  # layers, width, heads; all read up to 1,024 tokens of GPT-2's 50,257
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
}
COLUMNS = [(kl, side) for kl in ("off", "on") for side in ("stock", "ours")]


class Clock:
    """Time spent in named phases; a phase inside another does not count for the outer one."""

    def __init__(self):
        self.totals = dict.fromkeys(PHASES, 0.0)
        self.inner = []

    def wrap(self, owner, name, phase):
        """Time every call of `owner.name`."""
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            started = time.perf_counter()
            self.inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - started
                self.totals[phase] += elapsed - self.inner.pop()
                if self.inner:
                    self.inner[-1] += elapsed

        setattr(owner, name, timed)


def options_of(args):
    import train

    given = {"preset": "tiny", "model_name": args.model, "use_solution": True, "seed": args.seed}
    given |= {"batch_size": args.batch_size, "max_steps": args.steps + WARM_UP}
    given |= {"kl_type": "forward" if args.kl else "none", "save_steps": 10**6}
    given |= {"use_peft": args.use_peft}
    return train.resolve_options({**given, "output_dir": args.folder})


def our_trainer(options, callback, clock):
    import models
    import reward_utils
    import train

    models.tune_cpu()
    device = models.best_device()
    clock.wrap(reward_utils, "policy_and_ref_log_probs", "log-probs")
    return train.make_trainer(options, train.load_parts(options, device), device, [callback])


def stock_trainer(options, callback, clock):
    """TRL as its documentation shows it, plus the two passes that a KL penalty needs."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOTrainer

    import data
    import models
    import sentiment
    import train

    device = models.best_device()
    sentiment.load_sentiment_model(options.sentiment_model, device)
    tokenizer = AutoTokenizer.from_pretrained(options.model_name, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(options.model_name, dtype=torch.float32).to(device)
    reference = copy.deepcopy(model).eval().requires_grad_(False)

    def log_probs(model, ids, mask, length):
        with torch.no_grad():
            logits = model(ids, attention_mask=mask).logits[:, -length - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]

    def two_passes(prompts, completion_ids):
        padding = tokenizer.pad_token_id
        left, left_mask = models.pad_left(tokenizer(prompts)["input_ids"], padding, device)
        right, right_mask = models.pad_right(completion_ids, padding, device)
        ids, mask = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
        pair = [log_probs(m, ids, mask, right.shape[1]) for m in (trainer.model, reference)]
        return *pair, right_mask

    def reward(prompts, completions, completion_ids, **kwargs):
        scores = torch.tensor(sentiment.get_sentiment_scores(completions))
        if options.kl_type != "none":
            policy, ref, mask = kl.passes(prompts, completion_ids)
            scores = scores - options.kl_coef * ((policy - ref) * mask).sum(-1).cpu()
        return scores.tolist()

    kl = types.SimpleNamespace(passes=two_passes)
    clock.wrap(kl, "passes", "log-probs")
    config = train.make_config(options, device)
    config.shuffle_dataset = True
    trainer = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=reward,
        train_dataset=data.get_train_dataset(),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    return trainer


def measure(args):
    """Train some steps in this process: seconds per step and phase, peak memory, as a dict."""
    import resource

    import monitor

    monitor.quiet_libraries()
    from transformers import TrainerCallback

    import sentiment

    clock, marks, memory = Clock(), [], []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer, **kwargs):
            clock.wrap(optimizer, "step", "optimizer")

        def on_step_end(self, args, state, control, **kwargs):
            marks.append((time.perf_counter(), dict(clock.totals)))
            memory.append(resident())

    options = options_of(args)
    clock.wrap(sentiment, "class_probs", "score")
    trainer = (stock_trainer if args.side == "stock" else our_trainer)(options, Watch(), clock)
    clock.wrap(trainer, "_generate", "rollout")
    clock.wrap(trainer, "compute_loss", "loss+backward")
    clock.wrap(trainer.accelerator, "backward", "loss+backward")
    trainer.train()
    marks = marks[WARM_UP - 1 :]
    steps = [
        {"step": b[0] - a[0], **{p: b[1][p] - a[1][p] for p in PHASES[:-1]}}
        for a, b in zip(marks, marks[1:])
    ]
    result = {key: statistics.median(step[key] for step in steps) for key in steps[0]}
    result["rest"] = result["step"] - sum(result[phase] for phase in PHASES[:-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result["peak_gb"] = peak / (1e9 if sys.platform == "darwin" else 1e6)
    return {**result, "memory_gb": memory}


def resident():
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 1e9


def run(args, **more):
    """`measure` in a process of its own."""
    import tempfile

    settings = {**vars(args), **more}
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{k}={settings[k]}" for k in ("model", "batch_size", "steps", "seed", "side")]
        flags += [f"--folder={folder}/run"] + [f"--{k}" for k in ("kl", "use_peft") if settings[k]]
        command = [sys.executable, __file__, "--measure", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"speed.py: {settings['side']} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def floor(args):
    """Seconds that the arithmetic of a step needs at this machine's own rate, and its parts.

    Two floating-point operations a weight and token for a forward pass, twice that for a backward
    pass; the rollout reads every token once, the reference too, the loss reads it and goes back;
    the sentiment model reads the completions. Attention's own products are left out: below 3 % at
    these lengths.
    """
    import torch

    from models import load_model, tune_cpu
    from monitor import quiet_libraries
    from sentiment import load_sentiment_model

    def matrix_weights(model):
        weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
        return weights - sum(
            m.weight.numel()
            for name, m in model.named_modules()
            if isinstance(m, torch.nn.Embedding) and ("wpe" in name or "embeddings" in name)
        )

    quiet_libraries()
    tune_cpu()
    options = options_of(args)
    policy = matrix_weights(load_model(options.model_name)[0])
    scorer = matrix_weights(load_sentiment_model(options.sentiment_model)[0])
    tokens = options.batch_size * (options.max_completion_length + 5)  # a prompt has about five
    passes = 1 + args.kl + 3  # rollout; reference; loss forward and backward
    operations = 2 * tokens * (passes * policy + scorer)
    a = torch.randn(tokens, 1024)
    b = torch.randn(1024, 1024)
    for _ in range(3):
        a @ b
    started, count = time.perf_counter(), 20
    for _ in range(count):
        a @ b
    rate = count * 2 * tokens * 1024 * 1024 / (time.perf_counter() - started)
    return {"operations": operations, "operations_per_second": rate, "seconds": operations / rate}


def compare(args):
    """Both sides, with and without KL; the order turns around from one round to the next."""
    pairs = {"off": [], "on": []}
    for i in range(args.pairs):
        done = {}
        for kl, side in COLUMNS if i % 2 == 0 else COLUMNS[::-1]:
            done[kl, side] = run(args, kl=kl == "on", side=side)
        for kl in pairs:
            pairs[kl].append({side: done[kl, side] for side in ("stock", "ours")})
        print(f"pair {i + 1}: " + ", ".join(f"KL {kl} {ratios(pairs[kl])[-1]:.2f}" for kl in pairs))
    args.kl = True
    return {"pairs": pairs, "floor": floor(args)}


def ratios(pairs):
    """Steps per second, ours over stock, pair by pair."""
    return [pair["stock"]["step"] / pair["ours"]["step"] for pair in pairs]


def spread(values, form):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def median(pairs, side, key):
    return statistics.median(pair[side][key] for pair in pairs)


def show(args, result):
    from rich.table import Table

    from monitor import make_console

    table = Table("seconds per step", box=None)
    for kl, side in COLUMNS:
        table.add_column(f"{side}, KL {kl}", justify="right")
    for key in (*PHASES, "step", "peak_gb"):
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
    from matplotlib.figure import Figure

    from report import save_figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bottom = [0.0] * len(COLUMNS)
    for phase in PHASES:
        heights = [median(result["pairs"][kl], side, phase) for kl, side in COLUMNS]
        names = [f"{side}\nKL {kl}" for kl, side in COLUMNS]
        axes.bar(names, heights, bottom=bottom, label=phase)
        bottom = [b + h for b, h in zip(bottom, heights)]
    axes.axhline(result["floor"]["seconds"], color="k", linestyle="--", label="floor, KL on")
    axes.set(ylabel="seconds per step", title="Where a step's time goes")
    axes.legend(fontsize=8)
    save_figure(figure, path)


def growth(args):
    """Ours at four batch sizes: seconds per step, and memory over the steps of the largest."""
    args.kl, sizes, rows = True, (16, 32, 64, 128), []
    for size in sizes:
        runs = [run(args, side="ours", batch_size=size) for _ in range(args.pairs)]
        seconds = statistics.median(r["step"] for r in runs)
        rows.append({"completions": size, "step": seconds, "memory_gb": runs[-1]["memory_gb"]})
        print(f"{size:4} completions: {seconds:.3f} s, {1000 * seconds / size:.1f} ms each")
    return rows


def random_gpt2(size, folder):
    """Save a GPT-2 of that size, random weights, the bundled tokenizer: good for timing."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    layers, width, heads = SIZES[size]
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "tiny" / "gpt2").save_pretrained(folder)


def estimated_gb(args):
    """What `train.py --check` would say."""
    from transformers import AutoConfig

    import preflight

    options = options_of(args)
    models = (options.model_name, options.sentiment_model)
    return preflight.memory_of_a_step(options, *map(AutoConfig.from_pretrained, models)) / 1e9


def sizes(args):
    """Ours, KL on, all weights or LoRA: seconds per step and peak memory of each model size."""
    import tempfile

    import preflight

    args.kl, rows = True, []
    for size in ("tiny", *SIZES):
        with tempfile.TemporaryDirectory() as folder:
            if size != "tiny":
                random_gpt2(size, folder)
                args.model = folder
            for args.use_peft in (False, True):
                row = {"size": size, "use_peft": args.use_peft, "estimate_gb": estimated_gb(args)}
                text = f"{size:12} {'LoRA' if args.use_peft else 'all weights':12}"
                if row["estimate_gb"] * 1e9 > 0.8 * preflight.free_memory():
                    text += f" not run: about {row['estimate_gb']:.0f} GB needed"
                else:
                    row |= run(args, side="ours")
                    text += f" {row['step']:7.2f} s a step {row['peak_gb']:6.1f} GB"
                print(text, flush=True)
                rows.append(row)
    return rows


def plot_growth(rows, path):
    from matplotlib.figure import Figure

    from report import save_figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([r["completions"] for r in rows], [r["step"] for r in rows], "o-")
    left.set(xlabel="completions per step", ylabel="seconds per step", xlim=0, ylim=0)
    for row in rows:
        right.plot(row["memory_gb"], label=f"{row['completions']} completions")
    right.set(xlabel="step", ylabel="resident memory, GB", ylim=0)
    right.legend(fontsize=8)
    save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default=str(ROOT / "tiny" / "gpt2"), help="folder or Hub name")
    add("--batch_size", type=int, default=64, help="completions per step")
    add("--steps", type=int, default=10, help="counted steps of a run")
    add("--pairs", type=int, default=5, help="runs of each side")
    add("--seed", type=int, default=0)
    add("--growth", action="store_true", help="time and memory against the number of completions")
    add("--sizes", action="store_true", help="time and memory against the size of the model")
    add("--json", metavar="FILE", help="write every figure")
    add("--plot", metavar="FILE.png", help="write the picture")
    for hidden in ("--side", "--folder"):
        add(hidden, help=argparse.SUPPRESS)
    for hidden in ("--measure", "--kl", "--use_peft"):
        add(hidden, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    args.folder = "unused"
    result = (growth if args.growth else sizes if args.sizes else compare)(args)
    if not args.growth and not args.sizes:
        show(args, result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    if args.plot and not args.sizes:
        (plot_growth if args.growth else plot)(result, args.plot)


if __name__ == "__main__":
    main()
