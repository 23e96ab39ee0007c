"""What brings training nearer to the optimum: settings tried, each against the overpayment.

    python benchmarks/settings.py                              # all, seed 0
    python benchmarks/settings.py --only now linear --seeds 0 1 2 --out outputs/settings.jsonl

Trains `--preset tiny --kl_type forward` with one thing changed at a time, measures the last policy
on 8 completions to each of 64 held-out prompts, and writes a line for each run. Rows that are
there already are not made again; at the end all of them are shown.
"""

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from time_steps import has_solution  # noqa: E402

from engine.common import (  # noqa: E402
    ROOT,
    UserError,
    append_jsonl,
    quiet_libraries,
    read_jsonl,
)
from engine.measuring.optimum import settings_of  # noqa: E402
from engine.options import OneLineParser, at_least, resolve_options  # noqa: E402

LINEAR = {"lr_scheduler_type": "linear"}
RAW = {"scale_rewards": "none"}  # advantages are not divided by the group's deviation
PREFIX = {"credit": "prefix"}
# name: (options of train.py, TRL's settings, what else)
SETTINGS = {
    "now": ({}, {}, {}),
    "now, mean of the last 30": ({}, {}, {"average": 30}),
    "linear": ({}, LINEAR, {}),
    "linear, mean of the last 30": ({}, LINEAR, {"average": 30}),
    "raw": ({}, RAW, {}),
    "linear, raw, 90 steps, 8e-5": ({"max_steps": 90, "learning_rate": 8e-5}, LINEAR | RAW, {}),
    "linear, raw, groups of 16, 2e-4": (
        {"num_generations": 16, "learning_rate": 2e-4},
        LINEAR | RAW,
        {},
    ),
    "linear, raw, 0.05, 400 steps": ({"max_steps": 400, "kl_coef": 0.05}, LINEAR | RAW, {}),
    "linear, batch of 512": ({"batch_size": 512}, LINEAR, {}),
    "credit": (PREFIX, {}, {}),
    "linear, credit": (PREFIX, LINEAR, {}),
    "linear, credit, 90 steps": (PREFIX | {"max_steps": 90}, LINEAR, {}),
    "linear, credit, 90 steps, 7e-5": (
        PREFIX | {"max_steps": 90, "learning_rate": 7e-5},
        LINEAR,
        {},
    ),
    "linear, credit, groups of 4, 90 steps, 7e-5": (
        PREFIX | {"num_generations": 4, "max_steps": 90, "learning_rate": 7e-5},
        LINEAR,
        {},
    ),
    "linear, credit, batch of 32, 180 steps, 4.5e-5": (
        PREFIX | {"batch_size": 32, "max_steps": 180, "learning_rate": 4.5e-5},
        LINEAR,
        {},
    ),
    "linear, credit, batch of 96": (PREFIX | {"batch_size": 96}, LINEAR, {}),
    "linear, credit, batch of 256": (PREFIX | {"batch_size": 256}, LINEAR, {}),
    "linear, credit, Muon, 2e-3": (
        PREFIX | {"learning_rate": 2e-3},
        LINEAR,
        {"optimizer": "muon"},
    ),
    "linear, credit, embeddings frozen, 1.3e-4": (
        PREFIX | {"learning_rate": 1.3e-4},
        LINEAR,
        {"frozen": ["wte", "wpe"]},
    ),
    "linear, credit, 0.05, 400 steps": (PREFIX | {"max_steps": 400, "kl_coef": 0.05}, LINEAR, {}),
    "linear, credit, 0.05, 600 steps, 5e-5": (
        PREFIX | {"max_steps": 600, "kl_coef": 0.05, "learning_rate": 5e-5},
        LINEAR,
        {},
    ),
    "linear, two steps a rollout": ({"max_steps": 120}, LINEAR | {"num_iterations": 2}, {}),
    "linear, epsilon 1e-4, 3e-4": ({"learning_rate": 3e-4}, LINEAR | {"adam_epsilon": 1e-4}, {}),
    "linear, epsilon 1e-3, 5e-4": ({"learning_rate": 5e-4}, LINEAR | {"adam_epsilon": 1e-3}, {}),
    "linear, SGD, 0.03": ({"learning_rate": 0.03}, LINEAR, {"optimizer": "sgd"}),
    "linear, Muon, 2e-3": ({"learning_rate": 2e-3}, LINEAR, {"optimizer": "muon"}),
    "linear, raw, Muon, 2e-3, 90 steps": (
        {"learning_rate": 2e-3, "max_steps": 90},
        LINEAR | RAW,
        {"optimizer": "muon"},
    ),
    "linear, embeddings frozen, 2e-4": (
        {"learning_rate": 2e-4},
        LINEAR,
        {"frozen": ["wte", "wpe"]},
    ),
    "linear, only biases and norms, 2e-3": (
        {"learning_rate": 2e-3},
        LINEAR,
        {"trained": ["ln_", "bias"]},
    ),
    "linear, rewards are noise, no penalty": ({"kl_type": "none"}, LINEAR, {"noise": True}),
    "beta 0.2": ({"kl_type": "none", "beta": 0.2}, {}, {}),
    "beta 1": ({"kl_type": "none", "beta": 1.0}, {}, {}),
    "beta 0.2, without the ratio": (
        {"kl_type": "none", "beta": 0.2},
        {"use_bias_correction_kl": False},
        {},
    ),
    "beta 0.1, raw": ({"kl_type": "none", "beta": 0.1}, RAW, {}),
}
NOISE = """import random

numbers = random.Random(0)


def sentiment_reward(completions, **kwargs):
    return [numbers.random() for _ in completions]
"""


def choose_weights(policy, frozen=(), trained=()):
    """Train only weights with a name in `trained`, if there are any, and with none in `frozen`."""
    for name, weights in policy.named_parameters():
        chosen = not trained or any(part in name for part in trained)
        weights.requires_grad_(chosen and not any(part in name for part in frozen))


def make_optimizer(kind, policy, learning_rate):
    """SGD with momentum, or Muon on the matrices of the blocks; the rest is then not trained."""
    import torch

    if kind == "sgd":
        return torch.optim.SGD(policy.parameters(), lr=learning_rate, momentum=0.9)
    choose_weights(policy, frozen=("wte", "wpe"))
    matrices = [p for p in policy.parameters() if p.requires_grad and p.ndim == 2]
    for weights in policy.parameters():
        weights.requires_grad_(any(weights is matrix for matrix in matrices))
    return torch.optim.Muon(matrices, lr=learning_rate, momentum=0.9, weight_decay=0.0)


def averager(policy, first_step):
    """A callback that keeps the mean of the weights from a step on, and puts it in at the end."""
    import torch
    from transformers import TrainerCallback

    class Averager(TrainerCallback):
        mean, count = None, 0

        @torch.no_grad()
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step > first_step:
                self.count += 1
                self.mean = self.mean or [torch.zeros_like(p) for p in policy.parameters()]
                for mean, weights in zip(self.mean, policy.parameters()):
                    mean.lerp_(weights, 1 / self.count)

        @torch.no_grad()
        def on_train_end(self, args, state, control, **kwargs):
            for mean, weights in zip(self.mean, policy.parameters()):
                weights.copy_(mean)

    return Averager()


def run(name, seed, folder):
    """Train with one setting; returns its row."""
    import trl
    from transformers import set_seed

    import data
    import train
    from engine.model.devices import best_device
    from evaluate import evaluate_model, optimum_of

    changed, config, extra = SETTINGS[name]
    (noise := Path(folder) / "noise.py").write_text(NOISE)
    source = {"use_solution": has_solution()} if not extra.get("noise") else {"rewards": str(noise)}
    given = {"preset": "tiny", "kl_type": "forward", "seed": seed, "output_dir": str(folder)}
    options = resolve_options(given | source | changed | {"save_steps": 10**6})
    device = best_device()
    set_seed(options.seed)
    parts = train.load_parts(options, device)
    choose_weights(parts.policy, extra.get("frozen", ()), extra.get("trained", ()))
    callbacks, optimizers = [], (None, None)
    if "average" in extra:
        callbacks = [averager(parts.policy, options.max_steps - extra["average"])]
    if "optimizer" in extra:
        optimizer = make_optimizer(extra["optimizer"], parts.policy, options.learning_rate)
        optimizers = (optimizer, None)
    make_config = train.make_config

    def changed_config(*arguments):
        made = make_config(*arguments)
        for key, value in config.items():
            setattr(made, key, value)
        return made

    class Trainer(trl.GRPOTrainer):
        def __init__(self, **rest):
            super().__init__(**rest, optimizers=optimizers)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(train, "make_config", changed_config))
        stack.enter_context(mock.patch.object(trl, "GRPOTrainer", Trainer))
        trainer = train.make_trainer(options, parts, device, callbacks)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    result = evaluate_model(
        parts.policy,
        parts.tokenizer,
        data.VALIDATION_PROMPTS,
        parts.ref_model,
        samples_per_prompt=8,
        max_new_tokens=options.max_completion_length,
    )
    names = (options.model_name, options.sentiment_model, options.max_completion_length, 1.0)
    paid = optimum_of(settings_of(*names)).overpayment(result["samples"])
    figures = {key: result["metrics"][key] for key in ("sentiment", "kl", "perplexity", "length")}
    return {"name": name, "seed": seed, **figures, "overpayment": paid["mean"], "seconds": seconds}


def show(rows):
    """The rows as a table in Markdown, in the order of SETTINGS."""
    print("| setting | seed | sentiment | KL (nats) | overpayment | steps |\n" + "|---" * 6 + "|")
    for row in sorted(rows, key=lambda row: list(SETTINGS).index(row["name"])):
        paid = "none" if row["overpayment"] is None else f"{row['overpayment']:.2f}×"
        steps = SETTINGS[row["name"]][0].get("max_steps", 60)
        figures = f"{row['sentiment']:.3f} | {row['kl']:.2f} | {paid} | {steps}"
        print(f"| {row['name']} | {row['seed']} | {figures} |")


def main(argv=None):
    parser = OneLineParser(description=__doc__.split("\n")[0])
    seed = at_least(0, int)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, metavar="NAME", help="these alone")
    parser.add_argument("--seeds", type=seed, nargs="+", default=[0], help="seeds; default 0")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "settings.jsonl")
    args = parser.parse_args(argv)
    quiet_libraries()
    os.chdir(ROOT)
    from engine.model.devices import tune_cpu

    tune_cpu()
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        done = read_jsonl(args.out) if args.out.exists() else []
        made = {(row["name"], row["seed"]) for row in done}
        for name in args.only or SETTINGS:
            for number in args.seeds:
                if (name, number) not in made:
                    with tempfile.TemporaryDirectory() as folder:
                        append_jsonl(args.out, [run(name, number, folder)])
        show(read_jsonl(args.out))
    except (UserError, OSError) as error:
        sys.exit(f"settings.py: {error}")


if __name__ == "__main__":
    main()
