"""A student's file as Python has it: parsed, imported, and run without lasting effects.

What student code sets for the whole process would be set for the training too. Afterwards it is as
it was; random numbers that were drawn stay drawn.
"""

import ast
import contextlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from engine.common import ROOT


def _set_device(device):
    """None and not the CPU: a default device slows down each operation."""
    torch.set_default_device(None if device == torch.device("cpu") else device)


# Of the whole process: how each is read, and how it is set.
SETTINGS: tuple[tuple[Callable, Callable], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (os.getcwd, os.chdir),
)
MARK = torch.tensor(list(b"students"), dtype=torch.uint8)  # in the place of a seed
_helpers: list[str] = []  # modules beside the file that was imported last


def syntax_tree(path: str | Path) -> ast.Module:
    """A Python file as a syntax tree, read as Python does: a mark or a declared encoding counts.

    Raises:
        SyntaxError: it is no Python.
    """
    return ast.parse(Path(path).read_bytes(), str(path))


def import_file(path: str | Path) -> ModuleType:
    """A Python file as a module, as `import` makes one, anew at each call.

    It stands in `sys.modules`, where dataclasses, pickle and the processes of a pool look for it.
    Modules beside it are read anew with it.

    Raises:
        ImportError: it is no Python file by its name.
        Exception: whatever the file raises.
    """
    path = Path(path).absolute()
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
    if spec is None:
        raise ImportError("its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    for name in _helpers:  # another file may have others of these names
        sys.modules.pop(name, None)
    _helpers.clear()
    sys.modules[spec.name] = module
    beside = [file for file in path.parent.glob("*.py") if file.stem not in sys.modules]
    try:
        # Not exec_module(): that takes the bytecode of an earlier file of this size and second.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        sys.modules.pop(spec.name)
        raise
    finally:
        if path.parent != ROOT:
            _helpers.extend(file.stem for file in beside if _is_imported(file))
    return module


def _module_name(path):
    """The file's own name; or, where another module has this name, that of a package in the folder
    at the top of the disk, as home.ann.rewards. By either, another process finds it."""
    name = path.stem
    known, found = sys.modules.get(name), PathFinder.find_spec(name)
    its_own = known is None or getattr(known, "__file__", None) == str(path)
    first = found is None or found.origin == str(path)
    if its_own and first and "." not in name:
        return name
    parts = [*path.parent.parts[1:], name]
    dotted = any("." in part for part in parts)  # no package has such a name
    return str(path).replace(".", "_") if dotted else ".".join(parts)


def _is_imported(file):
    return getattr(sys.modules.get(file.stem), "__file__", None) == str(file)


@contextlib.contextmanager
def without_traces(path: str | Path) -> Iterator[None]:
    """Around whatever runs the code of a file: modules beside it can be imported; and what is set
    inside for the whole process is at the end as it was before."""
    with importable(path), settings_kept(), seed_kept(), warnings.catch_warnings(), np.errstate():
        yield


@contextlib.contextmanager
def importable(path: str | Path) -> Iterator[None]:
    """Modules beside a file can be imported, where no other module has their name; and the file
    itself by its whole path."""
    path = Path(path).absolute()
    added = [str(path.parent), path.anchor]
    sys.path.extend(added)
    try:
        yield
    finally:  # the code may have added folders of its own, these too
        for folder in added:
            with contextlib.suppress(ValueError):
                del sys.path[-1 - sys.path[::-1].index(folder)]


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """SETTINGS are at the end as they were before."""
    before = [read() for read, _ in SETTINGS]
    try:
        yield
    finally:
        for (read, put), value in zip(SETTINGS, before):
            if read() != value:
                put(value)


@contextlib.contextmanager
def seed_kept() -> Iterator[None]:
    """`torch.manual_seed` inside has no effect at the end: with it each step of a training would
    sample the same texts. Without it, what was drawn inside stays drawn.

    A state of torch's CPU generator begins with the eight bytes of its seed. They have no part in
    the numbers, so that a mark can stand there; whoever sets a seed, be it the same, overwrites it.
    Where a state is laid out otherwise, only a seed that is another is noticed.
    """
    before, seed = torch.get_rng_state(), torch.initial_seed()
    torch.set_rng_state(torch.cat([MARK, before[len(MARK) :]]))
    if (marked := torch.initial_seed()) == seed:
        torch.set_rng_state(before)
    try:
        yield
    finally:
        if torch.initial_seed() != marked:
            torch.set_rng_state(before)
        elif marked != seed:
            after = torch.get_rng_state()[len(MARK) :]
            torch.set_rng_state(torch.cat([before[: len(MARK)], after]))


class HeldBack(io.StringIO):
    """Takes what is written to standard error until it is told; from then on it hands it on."""

    told = False

    def write(self, text: str) -> int:
        return sys.stderr.write(text) if self.told else super().write(text)


@contextlib.contextmanager
def silent_exit() -> Iterator[None]:
    """A SystemExit inside leaves nothing on standard error, where argparse prints its usage."""
    held = HeldBack()
    try:
        with contextlib.redirect_stderr(held):
            yield
    except SystemExit:
        held.truncate(0)
        raise
    finally:
        held.told = True
        sys.stderr.write(held.getvalue())
