"""The folder of a run: made ready, described, guarded while the run lasts, and the final model."""

import contextlib
import copy
import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from engine.common import MANIFEST, ROOT, UserError, read_jsonl, write_json, write_whole
from engine.model.processes import from_first, this_process
from engine.training.card import model_card
from engine.training.checkpoints import newest_good

PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
# What a run writes. The manifest is the last to be moved: while it is there, there is a run.
CARD = "README.md"
CONTENTS = (
    "final",
    "checkpoint-*",
    CARD,
    "metrics.jsonl",
    "completions.jsonl",
    "explore.jsonl",
    MANIFEST,
)


def prepare(options) -> str | None:
    """Make OUTPUT_DIR, moving an earlier run aside.

    Returns:
        The folder of the checkpoint to resume from, if there is one. Of several processes the first
        one does it, and all get the answer.

    Raises:
        UserError: the folder cannot be written.
    """
    return from_first(_prepare(options) if this_process().is_first else None)


def _prepare(options):
    folder = Path(options.output_dir)
    try:
        if options.resume:
            checkpoint, problems = newest_good(folder)
            for name, problem in problems.items():
                print(f"{name} is not used: {problem}.")
            print(f"Continuing from {checkpoint.name if checkpoint else 'the start'}.")
            return str(checkpoint) if checkpoint else None
        if (folder / MANIFEST).exists():
            print(f"The earlier run in {folder} is now in {move_aside(folder)}.")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror}. Choose another --output_dir."
        ) from error


def move_aside(folder):
    """Move the run in a folder to FOLDER.1, or the first such name that is free; returns it.

    A folder that holds other runs below it stays where it is: only this run's own files move.
    """
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    others = [path for path in folder.rglob(MANIFEST) if path.parent != folder]
    if not others:
        folder.rename(aside)
        return aside
    aside.mkdir()
    for pattern in CONTENTS:
        for path in folder.glob(pattern):
            path.rename(aside / path.name)
    return aside


class Manifest:
    """What another person needs to repeat a run, written at once: run.json.

    Args:
        options: of the run.
        facts: more about the run.

    Of several processes the first one writes it.
    """

    def __init__(self, options, **facts):
        self.path = Path(options.output_dir) / MANIFEST
        self.values = {
            "status": "running",
            "options": dataclasses.asdict(options),
            "versions": {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}},
            "git_commit": git_commit(),
            "cpu_count": os.cpu_count(),
            "num_processes": this_process().count,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **facts,
        }
        self.write()

    def write(self, **values):
        """Write it, with other values."""
        self.values |= values
        if this_process().is_first:
            write_json(self.path, self.values)


def git_commit():
    """The commit of this copy, or None where there is no git or no repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return git.stdout.strip() or None


@contextlib.contextmanager
def guarded(trainer, manifest, on_exit):
    """Whatever ends the run early is recorded in its manifest and told in one line.

    Args:
        trainer: `BatchTrainer`; its state tells the step.
        manifest: `Manifest` of the run.
        on_exit: callables for the end, whether good or bad.

    Raises:
        UserError: in place of an error whose meaning is known.
    """
    options = trainer.options
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            manifest.write(status="stopped")
        reason = explain(error, options)
        if reason is None:
            raise
        done = trainer.state.global_step
        where = "After the last step" if done >= options.max_steps else f"At step {done + 1}"
        raise UserError(f"{where}: {reason}{what_is_kept(options)}") from error
    finally:
        for call in on_exit:
            call()


def what_is_kept(options):
    """What is left of a run that failed, as the end of a message."""
    checkpoint, _ = newest_good(options.output_dir)
    return f" {checkpoint.name} is kept: --resume continues from it." if checkpoint else ""


def explain(error, options):
    """What a failure in mid-run means and what to do, or None where only the error itself says."""
    import torch

    if isinstance(error, UserError):
        return str(error)
    # PyTorch's CPU allocator and the writers of safetensors and torch.save raise a plain
    # RuntimeError: nothing but its text tells what it is.
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        fewer = max(options.batch_size // 2, options.num_generations)
        return (
            f"out of memory. Try --batch_size {fewer}, a smaller --max_completion_length, or "
            "--use_peft; --check estimates what is needed."
        )
    signs = ("No space left", "unexpected pos")
    if getattr(error, "errno", None) == errno.ENOSPC or any(sign in str(error) for sign in signs):
        return f"the disk of {options.output_dir} is full. Free some space."
    if lost_another(error):
        silent = "imed out" in str(error)
        what = f"was silent for {options.process_timeout} s" if silent else "has ended"
        return f"another process of this run {what}. It may say why; start all of them again."
    folder = str(Path(options.output_dir))
    if isinstance(error, OSError) and str(error.filename or "").startswith(folder):
        return f"cannot write to {folder}: {error.strerror}."
    return None


def lost_another(error):
    """Whether an error says that another process has gone. gloo raises a plain RuntimeError."""
    import torch.distributed

    signs = ("by peer", "Broken pipe", "Timed out waiting", "timed out after")
    kinds = (RuntimeError, torch.distributed.DistError)
    return isinstance(error, kinds) and any(sign in str(error) for sign in signs)


def save_final(model, tokenizer, run):
    """Write OUTPUT_DIR/final whole or not at all. A LoRA adapter is merged into a copy of its base.
    The model card lies in it and beside it.

    Args:
        run: the manifest of the finished run.

    Returns:
        Its path.
    """
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()  # the trainer keeps its adapter
    folder = Path(run["options"]["output_dir"])
    samples = read_jsonl(folder / "completions.jsonl")
    card = model_card(run, [row for row in samples if row["step"] == samples[-1]["step"]])
    final = folder / "final"
    temporary = folder / ".final.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_whole(temporary / CARD, card)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        write_whole(folder / CARD, card)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final
