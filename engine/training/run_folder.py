"""The folder of a run: made ready, described, guarded while the run lasts, and the final model."""

import contextlib
import copy
import dataclasses
import errno
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from engine.common import (
    MANIFEST,
    ROOT,
    UserError,
    portable,
    read_jsonl,
    share_alike,
    short_path,
    write_json,
    write_whole,
)
from engine.measuring.optimum import OPTIMUM
from engine.model.processes import from_first, this_process
from engine.options import (
    FIELDS,
    MAY_BE_MENDED,
    files_of,
    last_sums,
    read_manifest,
    rewards_file,
    sums_of,
    to_record,
)
from engine.training.card import model_card
from engine.training.checkpoints import newest_good

PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
LOCK = ".lock"  # stays in the folder; it is the lock on it that counts, and the system keeps that
OURS = {"status", "options", "versions"}  # in every run.json of a run
# What a run writes. The manifest is the last to be moved: while it is there, there is a run.
CARD = "README.md"
CONTENTS = (
    "final",
    "checkpoint-[0-9]*",
    "runs",  # TensorBoard's
    CARD,
    "metrics.jsonl",
    "completions.jsonl",
    "explore.jsonl",
    OPTIMUM,
    MANIFEST,
)


def prepare(options) -> tuple[str | None, Callable[[], None]]:
    """Make OUTPUT_DIR, moving an earlier run aside, and keep other runs out of it.

    Returns:
        The folder of the checkpoint to resume from, if there is one, and what lets other runs in
        again. Of several processes the first one does it, and all get the answer.

    Raises:
        UserError: the folder cannot be written, holds other things than a run, or is in use.
    """
    if not this_process().is_first:
        return from_first(None), lambda: None
    checkpoint, lock = _prepare(options)
    return from_first(checkpoint), lock.close


def _prepare(options):
    folder = Path(options.output_dir).resolve()  # of a link, where it leads: the run stays there
    try:
        require_own(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = claim(folder)
        if options.resume:
            return _checkpoint(options), lock
        if holds_run(folder):
            earlier = short_path(move_aside(folder))
            print(f"The earlier run in {options.output_dir} is now in {earlier}.")
        return None, lock
    except OSError as error:
        raise UserError(
            f"Cannot write to {options.output_dir}: {error.strerror}. Choose another --output_dir."
        ) from error


def _checkpoint(options):
    """The checkpoint to resume from, or None; says what is another than before."""
    checkpoint, problems = newest_good(options.output_dir)
    for name, problem in problems.items():
        print(f"{name} is not used: {problem}.")
    before = last_sums(read_manifest(options.output_dir))
    for name, sum_now in sums_of(options, MAY_BE_MENDED).items():
        if sum_now != before.get(name, sum_now):
            print(f"{files_of(options)[name]} is another than before: run.json keeps both sums.")
    print(f"Continuing from {checkpoint.name if checkpoint else 'the start'}.")
    return str(checkpoint) if checkpoint else None


def holds_run(folder):
    """Whether this program has written what is in a folder."""
    try:
        return OURS <= read_manifest(folder).keys()
    except UserError:
        return False


def require_own(folder):
    """Refuse a folder with files but no run in it, and the project itself, whatever is in it.

    Hidden files do not count: no run writes over them.

    Raises:
        UserError: it names a folder that is free.
    """
    folder = Path(folder).resolve()
    default = Path(str(FIELDS["output_dir"].default))
    if ROOT.is_relative_to(folder):
        free = free_name(ROOT / default)
    elif not folder.is_dir() or holds_run(folder):
        return
    else:
        free = free_name(folder / default.name)
    if found := sorted(path.name for path in folder.iterdir() if path.name[0] != "."):
        raise UserError(
            f"{short_path(folder)} holds no run but other files, such as {found[0]}. Name a folder "
            f"for this run alone, for example --output_dir {shlex.quote(str(short_path(free)))}"
        )


def free_name(folder):
    """This path if nothing is there, else FOLDER.1, or the first such name that is free."""
    names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    return next(path for path in itertools.chain([folder], names) if not os.path.lexists(path))


def move_aside(folder):
    """Move the run in a folder to FOLDER.1, or the first such name that is free; returns it.

    Only what a run has written moves. Other runs in folders below it stay, and so does all else.
    """
    aside = free_name(folder)
    aside.mkdir()
    for path in [path for pattern in CONTENTS for path in folder.glob(pattern)]:
        if path.is_file() or not any(path.rglob(MANIFEST)):
            path.rename(aside / path.name)
    return aside


def claim(folder):
    """Lock a folder against other runs, for as long as the file that it returns is open.

    The lock is the system's and goes with the process, however that ends; what a killed run or
    another machine has left is no lock.

    Raises:
        UserError: a process that goes on has it.
    """
    file = open(folder / LOCK, "a+", encoding="utf-8")
    try:
        lock(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            print(f"The disk of {folder} has no locks: start no second run into it.")
            return file
        file.seek(0)
        holder = file.read() or "another process"
        file.close()
        raise UserError(
            f"A run into {short_path(folder)} is going on ({holder}). Wait for its end, or choose "
            "another --output_dir."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def lock(file):
    """Take the lock on an open file, or raise OSError at once. A process has it once, and those it
    forks do not."""
    if sys.platform == "win32":  # locks bytes: one that nobody reads
        import msvcrt

        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Manifest:
    """What another person needs to repeat a run, written at once: run.json.

    Args:
        options: of the run.
        facts: more about the run.

    Of several processes the first one writes it.
    """

    def __init__(self, options, **facts):
        self.options = options
        self.path = Path(options.output_dir) / MANIFEST
        self.values = {
            "status": "running",
            "options": dataclasses.asdict(options),
            "versions": {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}},
            "git_commit": git_commit(),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),  # of other numbers, other rounding
            "num_processes": this_process().count,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **facts,
        }
        if this_process().is_first:
            self.values |= what_was_read(options)
        self.write()

    def write(self, **values):
        """Write it, with other values."""
        self.values |= values
        if this_process().is_first:
            write_json(self.path, self.values | {"options": to_record(self.options)})


def what_was_read(options):
    """The name of the rewards file, and `sums_of` what the run began with; of what is another since
    a --resume, beside that, the sum that it has now."""
    sums = sums_of(options)
    began = read_manifest(options.output_dir).get("sha256", {}) if options.resume else sums
    resumed = {name: now for name, now in sums.items() if now != began.get(name)}
    return {
        "rewards_file": portable(str(rewards_file(options.use_solution, options.rewards))),
        "sha256": began,
        **({"sha256_resumed": resumed} if resumed else {}),
    }


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
        cause = " If there is some, `ulimit -f` limits its files." * ("unexpected" in str(error))
        return f"the disk of {options.output_dir} is full. Free some space.{cause}"
    if lost_another(error):
        silent = "imed out" in str(error)
        what = f"was silent for {options.process_timeout} s" if silent else "has ended"
        return f"another process of this run {what}. It may say why; start all of them again."
    if getattr(error, "errno", None) == errno.EFBIG or "File too large" in str(error):
        return "a file may not become as large as it must: see `ulimit -f`."
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
        share_alike(temporary, like=temporary / CARD)
        replace_folder(final, temporary)
        write_whole(folder / CARD, card)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def replace_folder(folder, new):
    """Give a folder of models the files of another one; what else lies in it stays."""
    old = free_name(folder.with_name(f".{folder.name}.old"))
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    for path in old.glob("*"):
        if not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(old, ignore_errors=True)
