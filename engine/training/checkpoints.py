"""Checkpoints that can be trusted, and a run that can be stopped at any moment.

A checkpoint counts only when it is sealed: after its last byte is on the disk, a list of its files
with their SHA-256 is written under a temporary name and renamed. A run that is killed in the
middle of a save, or whose disk damages a file, continues from the newest checkpoint that agrees
with its seal.
"""

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from engine.common import command_line, sha256, share_alike, sync_to_disk, write_json

SEAL = "sealed.json"
KEPT = 2  # checkpoints of a run; the library removes none, it would go by the times of their files


def seal(folder):
    """Declare a checkpoint complete. Its files are forced to the disk first."""
    folder = Path(folder)
    (folder / SEAL).unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and SEAL not in path.name)
    with ThreadPoolExecutor(4) as threads:  # weights and moments at once
        list(threads.map(sync_to_disk, files))
        sums = list(threads.map(sha256, files))
    names = [path.relative_to(folder).as_posix() for path in files]
    write_json(folder / SEAL, dict(zip(names, sums)), sync=True)
    share_alike(folder, like=folder / SEAL)


def problem_of(folder):
    """Why a checkpoint cannot be used; an empty string if it can."""
    try:
        sums = json.loads((Path(folder) / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "was not written to its end"
    except ValueError:
        return f"{SEAL} is damaged"
    for name, expected in sums.items():
        try:
            if sha256(Path(folder) / name) != expected:
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing"
    return ""


def step_of(folder):
    """The step of a checkpoint, by its name alone: clocks go wrong, and copies have new times."""
    return int(folder.name.removeprefix("checkpoint-"))


def in_order(output_dir):
    """The checkpoints of a run, whole or not, the newest first."""
    folders = Path(output_dir).glob("checkpoint-*")
    numbered = [path for path in folders if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(numbered, key=step_of, reverse=True)


def remove_older(newest):
    """Once a checkpoint is sealed, remove all before it but the last KEPT - 1."""
    older = [path for path in in_order(newest.parent) if step_of(path) < step_of(newest)]
    for folder in older[KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


def newest_good(output_dir):
    """The newest checkpoint that can be used, and why newer ones cannot.

    Returns:
        (folder or None, {name: problem}).
    """
    problems = {}
    for folder in in_order(output_dir):
        problem = problem_of(folder)
        if not problem:
            return folder, problems
        problems[folder.name] = problem
    return None, problems


class Stopped(Exception):
    """The run was stopped by a signal and has saved itself. The message says how it goes on."""

    def __init__(self, number, step, output_dir):
        command = command_line("train.py", "--resume", "--output_dir", output_dir)
        super().__init__(f"stopped at step {step}, with a checkpoint. To continue: {command}")
        self.number = number


class Safeguard(TrainerCallback):
    """Seals checkpoints, and turns the first SIGINT or SIGTERM into a save after the step.

    A second signal ends the program at once.
    """

    def __init__(self, console):
        self.console = console
        self.received = 0  # number of the signal
        self.handlers = {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.handlers[number] = signal.signal(number, self.receive)
            except ValueError:
                pass  # not the main thread, as in some notebooks: signals stay as they are

    def receive(self, number, frame):
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        self.console.print(
            "\nWill save after this step and stop. Press Ctrl-C again to quit now.",
            highlight=False,
            soft_wrap=True,
        )

    def on_step_end(self, args, state, control, **kwargs):
        if dist.is_available() and dist.is_initialized():  # all processes stop after one step
            received = torch.tensor([self.received], device=args.device)
            dist.all_reduce(received, dist.ReduceOp.MAX)
            self.received = int(received)
        if self.received:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # every process has files of its own in it
        if not args.should_save:
            return  # the first process does it
        newest = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        seal(newest)
        remove_older(newest)

    def on_train_end(self, args, state, control, **kwargs):
        if self.received:
            raise Stopped(self.received, state.global_step, args.output_dir)

    def restore(self):
        """Give the signals back to whom they belonged."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
