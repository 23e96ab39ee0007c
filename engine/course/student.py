"""Run the functions of a rewards file: load it, call it within a time limit, check the answer."""

import ast
import contextlib
import functools
import importlib.util
import inspect
import math
import re
import signal
import traceback
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from engine.common import ROOT, UserError

TIME_LIMIT = 120  # seconds for one call of a student's function


def rewards_file(use_solution=False):
    """The path of `rewards.py`, or of `rewards_solution.py`."""
    return ROOT / ("rewards_solution.py" if use_solution else "rewards.py")


def load_rewards(path=None):
    """A rewards file as a module; `rewards.py` beside train.py by default.

    Raises:
        UserError: the file is missing or cannot be imported; names the file and the line.
    """
    path = Path(path or rewards_file())
    if not path.is_file():
        raise UserError(f"There is no file '{path}' with reward functions.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise UserError(f"'{path}' is no Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        with time_limit(TIME_LIMIT):
            spec.loader.exec_module(module)
    except TooSlow as error:
        raise UserError(f"{path.name} {too_slow(TIME_LIMIT, error, path)}") from error
    except Exception as error:
        raise UserError(f"{path.name} cannot be imported: {describe_error(error, path)}") from error
    return module


def describe_error(error, path):
    """One line: the error, and the last line of `path` that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(path).name]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f" ({Path(path).name}, line {line})" if line else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}{where}"


def too_slow(seconds, error, path):
    """What is said of code that was interrupted, with the line of `path` that it was at."""
    where = describe_error(error, path).partition(": ")[2]
    return f"took longer than {seconds} seconds{where}: an endless loop?"


def unwrapped(function):
    """The function as it was written, below decorators and functools.partial."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function


def name_of(function):
    """The name of a student's function, however it is wrapped."""
    return getattr(unwrapped(function), "__name__", type(function).__name__)


def source_of(function):
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
def time_limit(seconds):
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


class StudentError(UserError):
    """A student's function raised an error of its own."""


def call_student(function, *args, **kwargs):
    """Call a function of the student's.

    Raises:
        StudentError: it raised; one line with the file and the line number.
        UserError: it is not written yet, or took too long.
    """
    path = source_of(function)
    try:
        with time_limit(TIME_LIMIT):
            return function(*args, **kwargs)
    except NotImplementedError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(f"{error} in {path.name}, line {line}, then run this again.") from error
    except UserError:
        raise
    except TooSlow as error:
        raise UserError(f"{name_of(function)} {too_slow(TIME_LIMIT, error, path)}") from error
    except Exception as error:
        raise StudentError(f"{name_of(function)} failed: {describe_error(error, path)}") from error


def plain_values(answer):
    """What student code returned, in plain lists and floats: the one rule of what an answer may be.

    Lists and tuples, and whatever has `tolist`: tensors, arrays of numpy, pandas and `array`. In
    them int, float, bool, Fraction, numbers of numpy, and tensors or arrays without dimensions.
    Whatever is none of these stays as it is; so does a subclass of float, which compares as it
    likes.
    """
    if isinstance(answer, torch.Tensor):
        answer = answer.detach().cpu()
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if isinstance(answer, (list, tuple)):
        return [plain_values(value) for value in answer]
    if type(answer) in (int, float, bool, Fraction) or isinstance(answer, np.longdouble):
        try:
            return float(answer)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf if answer > 0 else -math.inf
    return answer


def shown(value):
    """A value that is no number, for a message: as it reads, or the name of its type."""
    if value is None or type(value) in (str, list, float, complex):
        return f"{value!r:.60}"
    return f"a {type(value).__name__:.60}"


def check_rewards(values, completions, name, device="cpu"):
    """The values that student code returned, as a float32 CPU tensor of shape (N,).

    Args:
        values: what came back: N finite numbers in a form that `plain_values` knows.
        completions: the N texts it was about, to name the one that caused trouble.
        name: the function's name.
        device: where a tensor may lie besides the CPU.

    Raises:
        UserError: naming the function, the index and the completion.
    """
    if values is None:
        raise UserError(f"{name} returned None: is a `return` missing?")
    if isinstance(values, torch.Tensor) and values.device.type not in (
        "cpu",
        torch.device(device).type,
    ):
        raise UserError(f"{name} returned a tensor on {values.device}; expected {device}.")
    tip = "; .sum(-1) adds up each row" if name.startswith("kl_penalty") else ""
    values = plain_values(values)
    if type(values) is float:
        raise UserError(
            f"{name} returned one number for {len(completions)} completions; "
            f"return one for each{tip}."
        )
    if not isinstance(values, list):
        raise UserError(
            f"{name} returned {type(values).__name__}; "
            f"expected a list of {len(completions)} numbers."
        )
    if len(values) != len(completions):
        raise UserError(
            f"{name} returned {len(values)} values for {len(completions)} completions; "
            "return exactly one for each."
        )
    for i, value in enumerate(values):
        if type(value) is not float or not math.isfinite(value):
            raise UserError(
                f"{name} returned {shown(value)} at index {i}; expected a finite number. "
                f"The completion was {completions[i]!r:.80}."
            )
    return torch.tensor(values)


def exercises(path):
    """The exercises of a rewards file in order: {function name: label} such as "Exercise 3b"."""
    labels = {
        node.name: re.match(r"[^:,]+", ast.get_docstring(node) or "") for node in functions(path)
    }
    return {name: match.group() for name, match in labels.items() if match}


def to_do(path):
    """The exercises of a rewards file that still raise NotImplementedError: {name: label}."""
    labels = exercises(path)
    return {
        node.name: labels[node.name]
        for node in functions(path)
        if node.name in labels and any(map(raises_to_do, ast.walk(node)))
    }


def functions(path):
    """The functions of a file, as syntax trees."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def raises_to_do(node):
    """Whether a node of a syntax tree is the TODO that the handed-out file holds:
    raise NotImplementedError("Exercise 3b: implement …")."""
    if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
        return False
    text = node.exc.args[0]
    return (
        getattr(node.exc.func, "id", "") == "NotImplementedError"
        and isinstance(text, ast.Constant)
        and re.match(r"(Exercise \w+|Bonus): implement", str(text.value)) is not None
    )


def main(path, argv=None):
    """`python rewards.py`: the checklist, or with `--hint 3b` a hint."""
    from engine.course.hints import HINTS, LEVELS, print_hint
    from engine.options import OneLineParser

    path = Path(path)
    parser = OneLineParser(
        prog=path.name, description="Say which exercises of this file are done, or give a hint."
    )
    parser.add_argument(
        "--hint", choices=HINTS, metavar="EXERCISE", help=f"one of {', '.join(HINTS)}"
    )
    parser.add_argument(
        "level",
        nargs="?",
        type=int,
        choices=range(1, len(LEVELS) + 1),
        help="of the hint: " + ", ".join(f"{i} {name}" for i, name in enumerate(LEVELS, 1)),
    )
    args = parser.parse_args(argv)
    if args.hint:
        print_hint(args.hint, args.level or 1, path.name)
    elif args.level:
        parser.error(f"hint {args.level} of which exercise? Give --hint EXERCISE {args.level}")
    else:
        print_checklist(path)


def print_checklist(path):
    """Say which exercises of a rewards file are done."""
    left = to_do(path)
    lines = {node.name: node.lineno for node in functions(path)}
    for name, label in exercises(path).items():
        state = "to do" if name in left else "done"
        print(f"{state:5}  {label:12}  {name} (line {lines[name]})")
    print("\nWhether what is done is right: python -m pytest --student")
    print(f"Hints, three for each exercise: python {Path(path).name} --hint 3b")


def load_reward(name):
    """A function of rewards.py by its name, as callable(completions) -> list of checked floats."""
    function = getattr(load_rewards(), name, None)
    if function is None:
        raise UserError(f"rewards.py has no function {name}.")

    def score(completions):
        return check_rewards(call_student(function, completions), completions, name).tolist()

    return score
