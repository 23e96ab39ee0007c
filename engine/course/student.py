"""Run the functions of a rewards file: load it, call it within a time limit, check the answer."""

import contextlib
import functools
import inspect
import itertools
import math
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from engine.common import UserError
from engine.course.checklist import TO_DO
from engine.course.fence import as_in_the_grader
from engine.course.importing import import_file, silent_exit, without_traces
from engine.options import rewards_file

TIME_LIMIT = 120  # seconds for one call of a student's function
NUMBERS = (int, float, bool, Fraction, Decimal, np.longdouble)
LONGEST = 100_000  # numbers of an answer: a generator need not end
LARGEST = torch.finfo(torch.float32).max
SHAPES = ". Print the shapes: keepdim=True keeps a dimension, [:, None] adds one"
# What training hands over by position, so that a parameter may have any name; the rest by name.
BY_POSITION = {
    "shaped_reward": ("scores", "completions", "prompts"),
    "compute_ref_log_probs": ("completions", "prompts", "ref_model", "tokenizer"),
    "kl_penalty_forward": ("policy_log_probs", "ref_log_probs", "mask"),
    "kl_penalty_backward": ("policy_log_probs", "ref_log_probs", "mask"),
    "group_advantages": ("rewards", "group_size"),
    "policy_loss": ("log_probs", "old_log_probs", "advantages", "mask"),
}


def load_rewards(path: str | Path | None = None, fenced: bool = False) -> ModuleType:
    """A rewards file as a module; `rewards.py` beside train.py by default.

    Args:
        path: the file.
        fenced: refuse what the grader would refuse.

    Raises:
        UserError: the file is missing, cannot be imported or calls sys.exit; names file and line.
    """
    path = Path(path or rewards_file())
    if not path.is_file():
        raise UserError(f"There is no file '{path}' with reward functions.")
    try:
        whole = path.absolute()  # a fence changes the folder
        with silent_exit(), student_code(path, TIME_LIMIT, fenced):
            return import_file(whole)
    except TooSlow as error:
        raise UserError(f"{path.name} {too_slow(TIME_LIMIT, error, path)}") from error
    except (Exception, SystemExit) as error:
        text = f"{path.name} cannot be imported: {describe_error(error, path)}"
        if isinstance(error, SystemExit):
            text += '. A program of its own stands below `if __name__ == "__main__":`.'
        elif isinstance(error, NameError) and error.name == "get_ipython":
            text += ". Only a notebook knows lines with get_ipython: delete them."
        raise UserError(text) from error


def describe_error(error: BaseException, path: str | Path) -> str:
    """One line: the error, and the last line of `path` that it passed through."""
    file = Path(path).name
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == file]
    line = lines[-1] if lines else None
    message = str(error)
    if isinstance(error, SyntaxError):  # perhaps of a module that the file imports
        line, message, file = error.lineno, error.msg, Path(error.filename or path).name
    elif isinstance(error, SystemExit):
        message = f"sys.exit({shown(error.code)}) was called"
    where = f" ({file}, line {line})" if line else ""
    shapes = SHAPES if "must match the size of tensor" in message else ""
    return f"{type(error).__name__}: {message}{where}{shapes}"


def too_slow(seconds: float, error: BaseException, path: str | Path) -> str:
    """What is said of code that was interrupted, with the line of `path` that it was at."""
    where = describe_error(error, path).partition(": ")[2]
    return f"took longer than {seconds} seconds{where}: an endless loop?"


def unwrapped(function: Callable) -> Any:
    """The function as it was written, below decorators and functools.partial."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = inspect.unwrap(function)
        else:
            return function


def name_of(function: Callable) -> str:
    """The name of a student's function, however it is wrapped."""
    return getattr(unwrapped(function), "__name__", type(function).__name__)


def source_of(function: Callable) -> Path:
    """The path of the file that a student's function was written in."""
    inner = unwrapped(function)
    if not hasattr(inner, "__code__"):  # an object that can be called
        inner = type(inner).__call__
    try:
        return Path(inspect.getfile(inner))
    except TypeError:  # written in C
        return rewards_file()


class TooSlow(BaseException):
    """Beyond `except Exception`, so that the code that loops cannot swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt Python code that runs longer; with None, or where there is no alarm clock, wait."""

    def ring(number, frame):
        raise TooSlow

    if seconds is None:
        yield
        return
    try:
        before = signal.signal(signal.SIGALRM, ring)
    except (AttributeError, ValueError):  # Windows; not the main thread
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again each second, should it be caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def student_code(path: str | Path, seconds: float | None, fenced: bool = False) -> Iterator[None]:
    """Around whatever runs the code of a student's file: a time limit, and no lasting effects.

    Args:
        path: the file.
        seconds: of `time_limit`.
        fenced: of `load_rewards`.
    """
    fence = as_in_the_grader(path) if fenced else contextlib.nullcontext()
    with without_traces(path), fence, time_limit(seconds):
        yield


def is_to_do(error: BaseException | None) -> bool:
    """Whether an error says that an exercise is not written yet. (torch raises NotImplementedError
    too, for a softmax of integers, say.)

    >>> is_to_do(NotImplementedError("Exercise 3b: implement kl_penalty_forward"))
    True
    >>> is_to_do(NotImplementedError("\\"log_softmax\\" not implemented for 'Long'"))
    False
    """
    return isinstance(error, NotImplementedError) and TO_DO.match(str(error)) is not None


class StudentError(UserError):
    """A student's function raised an error of its own."""


def call_student(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a function of the student's.

    Raises:
        StudentError: it raised, or called sys.exit; one line with the file and the line number.
        UserError: it is not written yet, or took too long.
    """
    path = source_of(function)
    try:
        with student_code(path, TIME_LIMIT):
            return made(function(*args, **kwargs))
    except UserError:
        raise
    except TooSlow as error:
        raise UserError(f"{name_of(function)} {too_slow(TIME_LIMIT, error, path)}") from error
    except (Exception, SystemExit) as error:
        if is_to_do(error):
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            raise UserError(f"{error} in {path.name}, line {line}, then run this again.") from error
        raise StudentError(f"{name_of(function)} failed: {describe_error(error, path)}") from error


def is_written(function: Callable, *arguments: Any) -> bool:
    """Whether a function that `call_student` calls is no longer to do.

    Raises:
        UserError: it is written, and fails.
    """
    try:
        function(*arguments)
    except UserError as error:
        if is_to_do(error.__cause__):
            return False
        raise
    return True


class Called:
    """The functions of a rewards file by their names, each called as `call_student` calls it."""

    def __init__(self, rewards: ModuleType):
        self._rewards = rewards

    def __getattr__(self, name: str) -> Callable:
        function = getattr(self._rewards, name, None)
        if function is None:
            raise UserError(f"There is no function {name} in the rewards file.")
        return functools.partial(call_student, function)


def as_in_training(function: Callable, name: str) -> Callable:
    """A student's function to be called by names alone, which hands its arguments over as training
    does.

    Args:
        function: the function.
        name: of the exercise, a key of BY_POSITION where more than the completions have a place.
    """

    @functools.wraps(function)
    def call(**arguments):
        places = BY_POSITION.get(name, ("completions",))
        placed = [arguments.pop(place) for place in places if place in arguments]
        return function(*placed, **arguments)

    return call


def made(answer: Any) -> Any:
    """An answer whose numbers are there. Those of a generator or a `map` are made here, where code
    of the student's is expected to run."""
    if isinstance(answer, Iterator):
        return list(itertools.islice(answer, LONGEST))
    return answer


def plain_values(answer: Any) -> Any:
    """What student code returned, in plain lists and floats: the one rule of what an answer may be.

    Whatever has an order: lists, tuples, deques, the views of a dictionary, generators; and
    whatever has `tolist`: tensors, arrays of numpy, pandas and `array`. In them NUMBERS, those of
    numpy, and tensors, arrays or lists of one number, so that a column is an answer too. Whatever
    is none of these stays as it is; so does a subclass of float, which compares as it likes.
    """
    if isinstance(answer, torch.Tensor):
        answer = answer.detach().cpu().to_dense()
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if type(answer) in NUMBERS:
        try:
            return float(answer)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf if answer > 0 else -math.inf
        except ValueError:  # a Decimal that signals
            return math.nan
    if isinstance(answer, Iterable) and not isinstance(answer, (str, bytes, Mapping, Set)):
        endless = not isinstance(answer, Sized)
        values = list(map(plain_values, itertools.islice(answer, LONGEST if endless else None)))
        return [v[0] if isinstance(v, list) and len(v) == 1 else v for v in values]
    return answer


def shown(value: Any) -> str:
    """A value that is no number, for a message: as it reads, or the name of its type."""
    if value is None or type(value) in (str, list, int, float, complex):
        return f"{value!r:.60}"
    return f"a {type(value).__name__:.60}"


def check_rewards(
    values: Any,
    completions: Sequence[str] | range,
    name: str,
    device: str | torch.device = "cpu",
    what: str = "completion",
) -> torch.Tensor:
    """The values that student code returned, as a float32 CPU tensor of shape (N,).

    Args:
        values: what came back: N numbers in a form that `plain_values` knows, finite in float32,
            in which training computes.
        completions: the N texts it was about, to name the one that caused trouble; range(1, N + 1)
            where there are none.
        name: the function's name.
        device: where a tensor may lie besides the CPU.
        what: each of the N numbers belongs to, if not to a completion.

    Raises:
        UserError: naming the function, the index and the completion.
    """
    if values is None:
        raise UserError(f"{name} returned None: is a `return` missing?")
    allowed = ("cpu", torch.device(device).type)
    if isinstance(values, torch.Tensor) and values.device.type not in allowed:
        raise UserError(f"{name} returned a tensor on {values.device}; expected {device}.")
    tip = "; .sum(-1) adds up each row" if name.startswith("kl_penalty") else ""
    values = plain_values(values)
    if type(values) is float:
        raise UserError(
            f"{name} returned one number for {len(completions)} {what}s; return one for each{tip}."
        )
    if not isinstance(values, list):
        raise UserError(
            f"{name} returned {type(values).__name__}; "
            f"expected a list of {len(completions)} numbers."
        )
    if len(values) != len(completions):
        raise UserError(
            f"{name} returned {len(values)} values for {len(completions)} {what}s; "
            "return exactly one for each."
        )
    if values and all(isinstance(value, list) for value in values):
        raise UserError(
            f"{name} returned a list of numbers for each {what}; return one number for each{tip}."
        )
    for i, value in enumerate(values):
        if type(value) is not float or not abs(value) <= LARGEST:
            large = type(value) is float and math.isfinite(value)
            expected = f"at most {LARGEST:.2g}, as float32 holds" if large else "a finite number"
            about = f"It belongs to {what} {i + 1} of {len(values)}."
            if isinstance(completions[i], str):
                about = f"The completion was {completions[i]!r:.80}."
            raise UserError(
                f"{name} returned {shown(value)} at index {i}; expected {expected}. {about}"
            )
    return torch.tensor(values, dtype=torch.float32)


def check_loss(loss: Any, log_probs: torch.Tensor) -> torch.Tensor:
    """What `policy_loss` returned, as a tensor without dimensions that carries a gradient.

    Args:
        loss: what came back.
        log_probs: what it was made of; it requires a gradient.

    Raises:
        UserError: it is something else, or no finite number.
    """
    if not isinstance(loss, torch.Tensor):
        raise UserError(
            f"policy_loss returned {shown(loss)}; expected a tensor of one number, which carries "
            "the gradient: no item(), no float()."
        )
    if loss.numel() != 1:
        raise UserError(
            f"policy_loss returned a tensor of shape {tuple(loss.shape)}; expected one number for "
            "the whole batch: a mean over its real tokens."
        )
    if log_probs.requires_grad and not loss.requires_grad:
        raise UserError(
            "policy_loss returned a number without a gradient: compute it from log_probs, without "
            "detach(), item() or no_grad()."
        )
    if not loss.isfinite():
        raise UserError(f"policy_loss returned {loss.item()}; expected a finite number.")
    return loss.reshape(())


def loss_and_gradient(loss: Any, log_probs: torch.Tensor) -> torch.Tensor:
    """A loss and its gradient by `log_probs`, (1 + B · T,) float64: all that a step takes from it.

    Raises:
        UserError: of `check_loss`.
    """
    (gradient,) = torch.autograd.grad(check_loss(loss, log_probs), log_probs)
    return torch.cat([loss.detach().reshape(1), gradient.flatten()]).double()


def load_reward(name: str) -> Callable[[list[str]], list[float]]:
    """A function of rewards.py by its name, as callable(completions) -> list of checked floats."""
    function = getattr(Called(load_rewards()), name)

    def score(completions):
        return check_rewards(function(completions), completions, name).tolist()

    return score
