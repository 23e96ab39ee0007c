"""Time the steps of one short training, phase by phase, and print the figures as JSON.

    python benchmarks/time_steps.py                # this project's trainer
    python benchmarks/time_steps.py --side stock   # TRL's trainer as its documentation shows it

`speed.py` and `scaling.py` run this in a process of its own for every figure. "Stock" is TRL's
GRPOTrainer with its own generation, a reward function that scores with the same sentiment model
and, for the KL, takes the log-probabilities of policy and reference in two plain forward passes.
The functions of rewards_solution.py are used where that file exists, otherwise those of rewards.py.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.common import ROOT, UserError, quiet_libraries  # noqa: E402
from engine.options import OneLineParser, at_least, resolve_options  # noqa: E402

PHASES = ("rollout", "score", "log-probs", "loss+backward", "optimizer", "rest")
WARM_UP = 3  # steps that are not counted
TINY = str(ROOT / "tiny" / "gpt2")


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


def has_solution():
    """Whether rewards_solution.py exists: a student's copy has only rewards.py."""
    return (ROOT / "rewards_solution.py").exists()


def options_of(args, folder):
    """The options of the training that is timed."""
    given = {"preset": "tiny", "model_name": args.model, "use_solution": has_solution()}
    given |= {"batch_size": args.batch_size, "max_steps": args.steps + WARM_UP, "seed": args.seed}
    given |= {"kl_type": "forward" if args.kl else "none", "save_steps": 10**6}
    return resolve_options({**given, "use_peft": args.use_peft, "output_dir": str(folder)})


def our_trainer(options, callback, clock):
    import train
    from engine.model import scoring
    from engine.model.devices import best_device, tune_cpu

    tune_cpu()
    device = best_device()
    clock.wrap(scoring, "policy_and_ref_log_probs", "log-probs")
    return train.make_trainer(options, train.load_parts(options, device), device, [callback])


def plain_log_probs(model, ids, mask, length):
    """Log-probabilities of the last `length` tokens, in one plain forward pass."""
    import torch

    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits[:, -length - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]


def stock_trainer(options, callback, clock):
    """TRL as its documentation shows it, plus the two passes that a KL penalty needs."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOTrainer

    import data
    import sentiment
    import train
    from engine.model.devices import best_device
    from engine.model.scoring import pad

    device = best_device()
    sentiment.load_sentiment_model(options.sentiment_model, device)
    tokenizer = AutoTokenizer.from_pretrained(options.model_name, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(options.model_name, dtype=torch.float32).to(device)
    reference = copy.deepcopy(model).eval().requires_grad_(False)

    def two_passes(prompts, completion_ids):
        padding = tokenizer.pad_token_id
        left, left_mask = pad(tokenizer(prompts)["input_ids"], padding, "left", device)
        right, right_mask = pad(completion_ids, padding, "right", device)
        both = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
        pair = [plain_log_probs(m, *both, right.shape[1]) for m in (trainer.model, reference)]
        return *pair, right_mask

    kl = SimpleNamespace(passes=two_passes)
    clock.wrap(kl, "passes", "log-probs")

    def reward(prompts, completions, completion_ids, **kwargs):
        scores = torch.tensor(sentiment.get_sentiment_scores(completions))
        if options.kl_type != "none":
            policy, ref, mask = kl.passes(prompts, completion_ids)
            scores = scores - options.kl_coef * ((policy - ref) * mask).sum(-1).cpu()
        return scores.tolist()

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


def measure(args, folder):
    """Train some steps in this process.

    Returns:
        dict: `step` and every phase, the median in seconds; `peak_gb` of memory; `memory_gb`, the
        memory in use after each step, warm-up included.
    """
    import resource

    import psutil
    from transformers import TrainerCallback

    import sentiment

    clock, marks, memory = Clock(), [], []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer, **kwargs):
            clock.wrap(optimizer, "step", "optimizer")

        def on_step_end(self, args, state, control, **kwargs):
            marks.append((time.perf_counter(), dict(clock.totals)))
            memory.append(psutil.Process().memory_info().rss / 1e9)

    clock.wrap(sentiment, "class_probs", "score")
    make_trainer = stock_trainer if args.side == "stock" else our_trainer
    trainer = make_trainer(options_of(args, folder), Watch(), clock)
    clock.wrap(trainer, "_generate", "rollout")
    clock.wrap(trainer, "compute_loss", "loss+backward")
    clock.wrap(trainer.accelerator, "backward", "loss+backward")
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_gb = peak / (1e9 if sys.platform == "darwin" else 1e6)
    return {**medians(marks[WARM_UP - 1 :]), "peak_gb": peak_gb, "memory_gb": memory}


def medians(marks):
    """Median seconds of a step and of its phases, from (time, {phase: total}) after each step."""
    measured = PHASES[:-1]
    steps = [
        {"step": b[0] - a[0], **{phase: b[1][phase] - a[1][phase] for phase in measured}}
        for a, b in zip(marks, marks[1:])
    ]
    result = {key: statistics.median(step[key] for step in steps) for key in steps[0]}
    return {**result, "rest": result["step"] - sum(result[phase] for phase in measured)}


def run(args, **more):
    """`measure` in a process of its own, with the settings of `args` and those given by name.

    Raises:
        UserError: it failed; the message is its last line.
    """
    settings = {**vars(args), **more}
    named = ("model", "batch_size", "steps", "seed", "side")
    flags = [f"--{name}={settings[name]}" for name in named if name in settings]
    flags += [f"--{name}" for name in ("kl", "use_peft") if settings.get(name)]
    done = subprocess.run(
        [sys.executable, __file__, *flags], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["it was ended from outside"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def make_parser(description):
    """A parser with the flags that `time_steps.py`, `speed.py` and `scaling.py` share."""
    parser = OneLineParser(description=description)
    add = parser.add_argument
    add(
        "--model",
        default=TINY,
        help="folder or Hub name of the policy; by default the bundled GPT-2",
    )
    add(
        "--batch_size",
        type=at_least(8, int),
        default=64,
        help="completions per step; default 64",
    )
    add(
        "--steps",
        type=at_least(1, int),
        default=10,
        help="steps that are counted in a run; default 10",
    )
    add(
        "--seed",
        type=at_least(0, int),
        default=0,
        help="seed of the trainings; default 0",
    )
    return parser


def main(argv=None):
    parser = make_parser(__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--side",
        choices=("stock", "ours"),
        default="ours",
        help="whose trainer; default ours",
    )
    add("--kl", action="store_true", help="with a KL penalty")
    add("--use_peft", action="store_true", help="train a small LoRA adapter instead of all weights")
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(args, Path(folder) / "run")))
    except UserError as error:
        sys.exit(f"time_steps.py: {error}")


if __name__ == "__main__":
    main()
