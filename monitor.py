"""What a training run shows and records: progress, validation, metrics.jsonl, completions.jsonl."""

import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

SAMPLES_SHOWN = 4
HEADER = " step   sentiment     positive  KL (nats)  ref. ppl  length  repeated  praise"


def quiet_libraries():
    """No progress bars, no advice and no Hub chatter from the libraries underneath."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("WANDB_SILENT", "true")
    import datasets
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def make_console():
    """Rich's console; in a notebook, plain lines, where it would box every print."""
    if "ipykernel" in sys.modules:
        return Console(force_jupyter=False, force_terminal=False, color_system=None)
    return Console()


def write_json(path, value):
    """Write JSON under a temporary name, then rename: never half a file."""
    temporary = Path(f"{path}.tmp")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def append_jsonl(path, rows):
    """Append one JSON object per line."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path, **match):
    """The rows of a JSONL file whose fields equal those of `match`."""
    rows = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return [row for row in rows if match.items() <= row.items()]


def keep_rows(path, wanted):
    """Drop the rows of a JSONL file that are not `wanted(row)`, and a last one that was cut off."""
    if not Path(path).exists():
        return
    kept = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if line.endswith("\n") and wanted(json.loads(line)):
                kept.append(line)
    temporary = Path(f"{path}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def format_row(step, metrics):
    """One line of the validation table; HEADER names its columns."""
    return (
        f"{step:5d}   {metrics['sentiment']:.3f} ±{metrics['sentiment_sd']:.2f}"
        f"{metrics['positive_share']:11.0%}{metrics['kl']:11.1f}{metrics['perplexity']:10.1f}"
        f"{metrics['length']:8.1f}{metrics['repetition_3']:10.1%}{metrics['positive_words']:8.0%}"
    )


class Monitor(TrainerCallback):
    """Shows a run's progress and validates it every `eval_steps` steps.

    Args:
        validate: callable() -> the dict of `evaluate.evaluate_model` for the policy as it is.
        output_dir: folder of metrics.jsonl and completions.jsonl.
        eval_steps: steps between two validations; before the first step and after the last
            there is always one.
        start_step: the step of the checkpoint that the run resumes from.
        log: callable(dict) that also gets the validation metrics, as `wandb.log`.
    """

    def __init__(self, validate, output_dir, eval_steps, console=None, start_step=0, log=None):
        self.validate = validate
        self.log = log
        self.eval_steps = eval_steps
        self.console = console or make_console()
        self.metrics_file = Path(output_dir) / "metrics.jsonl"
        self.completions_file = Path(output_dir) / "completions.jsonl"
        # A resumed run writes again what lies beyond its checkpoint.
        keep_rows(self.metrics_file, lambda row: row["step"] <= start_step)
        done = []  # validations of a process before this one
        if self.metrics_file.exists():
            done = read_jsonl(self.metrics_file, phase="validation")
        self.validated = {row["step"] for row in done}
        keep_rows(self.completions_file, lambda row: row["step"] in self.validated)
        figures = [{k: v for k, v in row.items() if k not in ("step", "phase")} for row in done]
        self.first, self.last = (figures[0], figures[-1]) if figures else (None, None)
        self.header_shown = False
        self.train_log = {}  # TRL's latest log
        self.equal_groups = []  # share of groups with equal rewards, each step since validation
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
        self.start_step = state.global_step
        if self.start_step % self.eval_steps == 0:
            self._run_validation(self.start_step)
        self.task = self.progress.add_task("", total=args.max_steps, reward="…")
        self.progress.update(self.task, completed=state.global_step)
        self.progress.start()

    def on_log(self, args, state, control, logs, **kwargs):
        if "reward" not in logs:
            return  # the closing summary of the run
        self.train_log = logs
        self.equal_groups.append(logs["frac_reward_zero_std"])
        row = {key: value for key, value in logs.items() if not key.startswith("rewards/")}
        append_jsonl(self.metrics_file, [{"step": state.global_step, "phase": "train", **row}])
        self.progress.update(self.task, reward=f"{logs['reward']:.3f}")

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(self.task, completed=state.global_step)

    def on_substep_end(self, args, state, control, **kwargs):
        self.progress.refresh()

    def on_step_begin(self, args, state, control, **kwargs):
        """Validation and plain progress lines come here, after the log of the step before."""
        step = state.global_step
        if step == self.start_step:
            return
        if step % self.eval_steps == 0:
            self._run_validation(step)
        elif not self.console.is_terminal and step % 10 == 0:
            done = (time.perf_counter() - self.started) / (step - self.start_step)
            left = done * (args.max_steps - step)
            reward = self.train_log.get("reward", float("nan"))
            self.console.print(f"{step:5d}   reward {reward:.3f}, about {left:.0f} s left")

    def on_train_end(self, args, state, control, **kwargs):
        self.stop()
        if state.global_step >= args.max_steps:  # not where a signal has stopped it
            self._run_validation(state.global_step)

    def stop(self):
        """Take the progress bar off the screen."""
        self.progress.stop()

    def _run_validation(self, step):
        if step in self.validated:
            return
        self.validated.add(step)
        started = time.perf_counter()
        result = self.validate()
        metrics = result["metrics"]
        rows = [{k: v for k, v in s.items() if k != "ids"} for s in result["samples"]]
        append_jsonl(self.completions_file, [{"step": step, **row} for row in rows])
        append_jsonl(self.metrics_file, [{"step": step, "phase": "validation", **metrics}])
        if self.log:
            rows = {f"validation/{name}": value for name, value in metrics.items()}
            self.log({"train/global_step": step, **rows})
        self.first, self.last = self.first or metrics, metrics
        if not self.header_shown:
            self.console.print(HEADER, style="bold")
            self.header_shown = True
        self.console.print(format_row(step, metrics), style="cyan", highlight=False)
        equal = sum(self.equal_groups) / max(len(self.equal_groups), 1)
        self.equal_groups = []
        if equal >= 0.25:
            self.console.print(
                f"        {equal:.0%} of the groups earned one and the same reward: no advantage, "
                "nothing learned",
                style="yellow",
                highlight=False,
            )
        every = len(result["samples"]) // SAMPLES_SHOWN
        for sample in result["samples"][::every][:SAMPLES_SHOWN]:
            line = Text("        ")
            line.append(sample["prompt"], style="dim")
            line.append(" " + " ".join(sample["completion"].split()))
            self.console.print(line, no_wrap=True, overflow="ellipsis")
        self.validation_seconds += time.perf_counter() - started
