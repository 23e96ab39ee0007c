"""What a training run shows and records: progress, validations and the files about them."""

import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from engine.common import append_jsonl, keep_rows, progress, read_jsonl
from engine.measuring.samples import print_sample
from engine.measuring.tables import validation_header, validation_row
from engine.training.explore import EqualGroups, Explorer, equal_groups

SAMPLES_SHOWN = 4


class Validations(TrainerCallback):
    """Validates a run every `eval_steps` steps, before the first and after the last: what each of
    several processes does. The first one is a `Monitor`, which also shows and records it.

    Args:
        validate: callable() -> the dict of `evaluate.evaluate_model` for the policy as it is.
        trainer: `BatchTrainer`: it knows the options, and how to hold all weights for a while.
        validated: steps of the validations that an earlier process of this run has done.
    """

    def __init__(self, validate, trainer, validated=()):
        self.validate = validate
        self.trainer = trainer
        self.eval_steps = trainer.options.eval_steps
        self.validated = set(validated)

    def on_train_begin(self, args, state, control, **kwargs):
        self.start_step = state.global_step
        if self.start_step % self.eval_steps == 0:
            self._run_validation(self.start_step)

    def on_step_begin(self, args, state, control, **kwargs):
        """Validations come here, after the log of the step before."""
        step = state.global_step
        if step != self.start_step and step % self.eval_steps == 0:
            self._run_validation(step)

    def on_epoch_end(self, args, state, control, **kwargs):
        """The last validation, before a tracker closes its files at the end of the training."""
        self.on_train_end(args, state, control)

    def on_train_end(self, args, state, control, **kwargs):
        self.stop()
        if state.global_step >= args.max_steps:  # not where a signal has stopped it
            self._run_validation(state.global_step)

    def stop(self):
        """Take off the screen what is on it."""

    def _run_validation(self, step):
        if step not in self.validated:
            self.validated.add(step)
            with self.trainer.whole_weights():
                self._validate(step)

    def _validate(self, step):
        self.validate()

    def on_batch(self, batch):
        """A training batch, complete, before the policy learns from it."""

    def results(self):
        """What the manifest of a finished run keeps of the validations."""
        return {}


class Monitor(Validations):
    """Shows a run's progress, and validates, shows and records it.

    Args:
        validate: as for `Validations`.
        trainer: `BatchTrainer`: its log gets the validation metrics too, each name with "eval_"
            before it, and passes them on to a tracker.
        console: rich's.
        start_step: the step of the checkpoint that the run resumes from.
    """

    def __init__(self, validate, trainer, console, start_step=0):
        self.explorer = Explorer(trainer.options, trainer.models, trainer.make_batch)
        options = trainer.options
        self.by_parts = options.credit == "prefix"  # then equal rewards are not all that counts
        self.console = console
        self.metrics_file = Path(options.output_dir) / "metrics.jsonl"
        self.completions_file = Path(options.output_dir) / "completions.jsonl"
        # A resumed run writes again what lies beyond its checkpoint.
        keep_rows(self.metrics_file, lambda row: row["step"] <= start_step)
        done = []  # validations of a process before this one
        if self.metrics_file.exists():
            done = read_jsonl(self.metrics_file, phase="validation")
        super().__init__(validate, trainer, (row["step"] for row in done))
        keep_rows(self.completions_file, lambda row: row["step"] in self.validated)
        self.explorer.resume(self.validated)
        figures = [{k: v for k, v in row.items() if k not in ("step", "phase")} for row in done]
        self.before = figures[0] if figures else None  # of the first validation
        self.after = figures[-1] if figures else None  # of the latest
        self.header_shown = False
        self.train_log = {}  # TRL's latest log
        self.equal_groups = []  # `EqualGroups` of each step since the latest validation
        self.said_equal = False
        self.validation_seconds = 0.0
        self.progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("reward {task.fields[reward]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()
        super().on_train_begin(args, state, control)
        self.task = self.progress.add_task("", total=args.max_steps, reward="…")
        self.progress.update(self.task, completed=state.global_step)
        self.progress.start()

    def on_log(self, args, state, control, logs, **kwargs):
        if "reward" not in logs:
            return  # the closing summary of the run
        self.train_log = logs
        row = {key: value for key, value in logs.items() if not key.startswith("rewards/")}
        append_jsonl(self.metrics_file, [{"step": state.global_step, "phase": "train", **row}])
        self.progress.update(self.task, reward=f"{logs['reward']:.3f}")

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(self.task, completed=state.global_step)

    def on_step_begin(self, args, state, control, **kwargs):
        """Plain progress lines come here too."""
        super().on_step_begin(args, state, control)
        step = state.global_step
        done = step - self.start_step
        validated = step % self.eval_steps == 0
        if done and not validated and not self.console.is_terminal and step % 10 == 0:
            left = (time.perf_counter() - self.started) / done * (args.max_steps - step)
            reward = self.train_log.get("reward", float("nan"))
            self.console.print(f"{step:5d}   reward {reward:.3f}, about {left:.0f} s left")

    def stop(self):
        """Take the progress bar off the screen."""
        self.progress.stop()

    def on_batch(self, batch):
        self.explorer.see(batch)
        options = self.trainer.options
        equal = equal_groups(batch, options.num_generations)
        self.equal_groups.append(equal)
        if not (self.said_equal or self.by_parts) and (equal.rewards == 1 or equal.texts > 0):
            self.said_equal = True
            text = nothing_to_compare(self.trainer.state.global_step + 1, equal, options.beta)
            self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def results(self):
        """What the manifest of a finished run keeps."""
        control = self.trainer.kl_control
        return {
            "before": self.before,
            "after": self.after,
            "kl_coef": self.train_log.get("kl_coef"),  # at the last step
            "kl_penalty": self.train_log.get("kl_penalty"),  # mean over its texts
            "rate": control.rate if control else 1.0,  # factor of the learning rate, likewise
            "kl_held": control.held if control else None,  # nats, over the last steps
            "validation_seconds": round(self.validation_seconds, 1),
        }

    def _validate(self, step):
        started = time.perf_counter()
        with progress(f"validation at step {step}", None, self.console):
            result = self.validate()
        self._show(step, result["metrics"], result["samples"])  # what is kept takes a second more
        self._record(step, result["metrics"], result["samples"])
        self.validation_seconds += time.perf_counter() - started

    def _record(self, step, metrics, samples):
        texts = [{k: v for k, v in sample.items() if k != "ids"} for sample in samples]
        append_jsonl(self.completions_file, [{"step": step, **text} for text in texts])
        self.explorer.record(step, samples)
        append_jsonl(self.metrics_file, [{"step": step, "phase": "validation", **metrics}])
        self.trainer.log({f"eval_{name}": value for name, value in metrics.items()})
        self.before = self.before or metrics
        self.after = metrics

    def _show(self, step, metrics, samples):
        if not self.header_shown:
            self.console.print(validation_header(), style="bold")
            self.header_shown = True
        self.console.print(validation_row(step, metrics), style="cyan", highlight=False)
        equal = sum(row.rewards for row in self.equal_groups) / max(len(self.equal_groups), 1)
        self.equal_groups = []
        if equal >= 0.25 and not self.by_parts:
            self.console.print(
                f"        in {equal:.0%} of the groups all rewards were equal: these teach nothing",
                style="yellow",
                highlight=False,
            )
        every = max(len(samples) // SAMPLES_SHOWN, 1)
        for sample in samples[::every][:SAMPLES_SHOWN]:
            print_sample(self.console, " " * 8, sample["prompt"], completion=sample["completion"])


def nothing_to_compare(step: int, equal: EqualGroups, beta: float) -> str:
    """What is said, once, of a step without a difference to learn from."""
    if equal.texts:
        what = f"in {equal.texts:.0%} of the groups all completions were one and the same text"
    else:
        what = "in every group all rewards were equal"
    moved = ", and only the KL term of --beta moves the policy there" if beta else ""
    return f"        step {step}: {what}. Where rewards are equal, advantages are 0{moved}."
