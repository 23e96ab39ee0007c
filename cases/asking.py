"""Call a student's function and say what is wrong with its answer.

A case is a function `case(ask, rng)`. `ask(**arguments)` calls the function under test and returns
its answer as a (N,) float64 tensor; the case returns None if all is well, or a `Finding`.
"""

import contextlib
import copy
import random
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch

from engine.common import UserError
from engine.course.student import (
    TooSlow,
    check_rewards,
    describe_error,
    is_to_do,
    loss_and_gradient,
    made,
    name_of,
    plain_values,
    source_of,
    student_code,
    too_slow,
)


@dataclass(frozen=True)
class Finding:
    """Why an answer is wrong."""

    expected: str
    cause: str
    label: str = "usual cause"  # of the cause in the report


class Mistake(NamedTuple):
    """A mistake that people make, and what it answers."""

    cause: str
    values: torch.Tensor | list  # in the shape of the answer


class Wrong(Exception):
    """An answer that no case can use: it has the wrong form, or the function raised."""


class Answered(list):
    """The numbers that another process has read from an answer."""


class Ask:
    """Calls one function and keeps the last call for the report.

    Args:
        function: the function under test.
        models: (ref_model, tokenizer), handed to `compute_ref_log_probs`.
        name: of the exercise; by default the name that the function was written with.
        seconds: after which a call is interrupted; None where the function runs elsewhere.
    """

    def __init__(self, function, models, name=None, seconds=None):
        self.function = function
        self.models = models
        self.seconds = seconds
        self.name = name or name_of(function)
        self.arguments = {}
        self.answer, self.of_loss = None, False  # that of a loss: its value, then its gradient

    def __call__(self, **arguments):
        self.arguments = arguments
        self.answer, self.of_loss = None, False
        arguments = copy.deepcopy(arguments)  # what the function changes in them stays its own
        if self.name == "compute_ref_log_probs":
            arguments = dict(zip(("ref_model", "tokenizer"), self.models), **arguments)
        try:
            with self._here():
                self.answer = made(self.function(**arguments))
        except Wrong:
            raise
        except TooSlow as error:
            path = source_of(self.function)
            raise Wrong(f"it {too_slow(self.seconds, error, path)}") from error
        except (Exception, SystemExit) as error:
            if is_to_do(error):
                raise
            raise Wrong(f"it raised {describe_error(error, source_of(self.function))}") from error
        return self._read(asked_about(self.arguments), trained=arguments.get("log_probs"))

    def _read(self, given, trained=None):
        """The answer to a question about `given`, checked; of a loss, the gradient is that by
        `trained`."""
        try:
            if trained is not None and not isinstance(self.answer, Answered):
                self.answer = loss_and_gradient(self.answer, trained)
            self.answer = plain_values(self.answer)
            self.of_loss = trained is not None
        except UserError as error:
            raise Wrong(str(error)) from error
        except Exception as error:
            raise Wrong(f"what it returned cannot be read: {type(error).__name__}") from error
        try:
            labels, what = labels_of(given), kind_of(given)
            return check_rewards(self.answer, labels, self.name, what=what).double()
        except Exception as error:
            raise Wrong(str(error)) from error

    def _here(self):
        """Around a call: what student code changes in this process is put back, and what the
        grader would refuse is refused."""
        if self.seconds is None:
            return contextlib.nullcontext()
        return student_code(source_of(self.function), self.seconds, fenced=True)


def asked_about(arguments):
    """The argument of a call that says how many numbers come back: one for each of its texts, rows
    or rewards; where it requires a gradient, a loss and one for each of its entries."""
    names = ("completions", "policy_log_probs", "rewards", "log_probs")
    return next(arguments[name] for name in names if name in arguments)


def is_trained(given):
    """Whether what comes back is a loss."""
    return isinstance(given, torch.Tensor) and given.requires_grad


def labels_of(given):
    """The texts that the numbers which come back belong to; where there are none, their numbers."""
    if is_trained(given):
        return range(1, 2 + given.numel())  # the loss and its gradient
    return given if isinstance(given[0], str) else range(1, 1 + len(given))


def kind_of(given):
    """What a number that comes back belongs to."""
    if is_trained(given):
        return "number"
    return "reward" if isinstance(given, torch.Tensor) and given.ndim == 1 else "completion"


def show(value):
    """An argument or answer, short enough to read."""
    if isinstance(value, torch.Tensor) or hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"  # no "-0"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(show(v) for v in value[:6])
        return f"[{shown}{', …' if len(value) > 6 else ''}]"
    return repr(value)


def report(case, ask, rng=None, with_expected=True):
    """Run one case: None if it holds, else the text a tutor would say.

    Args:
        case: the case.
        ask: an `Ask` for the function under test.
        rng: `random.Random` from which the case draws its inputs; by default seeded with 0.
        with_expected: whether the text gives the right answer. A grader's text does not.
    """
    try:
        finding = case(ask, rng or random.Random(0))
    except Wrong as wrong:
        finding = Finding("", str(wrong), "happened")
    if finding is None:
        return None
    lines = [f"{ask.name}: {case.__doc__.splitlines()[0]}"]
    lines += [f"  passed in    {name} = {show(value)}" for name, value in ask.arguments.items()]
    answer = "the loss, then its gradient: " if ask.of_loss else ""
    lines += [f"  came back    {answer}{show(ask.answer)}"] if ask.answer is not None else []
    lines += [f"  expected     {finding.expected}"] if finding.expected and with_expected else []
    return "\n".join([*lines, f"  {finding.label:11}  {finding.cause}"])


def close(got, want, tolerance=1e-4):
    """Whether two lists of numbers differ by at most `tolerance`, which may be one for each."""
    apart = (got - torch.as_tensor(want, dtype=torch.float64)).abs()
    return bool((apart <= torch.as_tensor(tolerance)).all())


def compare(got, want, meaning, mistakes, tolerance=1e-4, otherwise="the formula"):
    """None if `got` equals `want`; else a Finding with the first of the mistakes that answers so.

    Args:
        got, want: (N,), the answer and the right one.
        meaning: of the right answer, in words.
        mistakes: list of `Mistake`.
        tolerance: of every number, or one for each.
        otherwise: the cause if none of the mistakes gives this answer.
    """
    if close(got, want, tolerance):
        return None
    explained = (known.cause for known in mistakes if close(got, known.values, tolerance))
    return Finding(f"{show(torch.as_tensor(want))}: {meaning}", next(explained, otherwise))


def cause_of(text):
    """The cause that a `report` names: its last line, without numbers, which depend on the case."""
    return re.sub(r"\d+", "#", text.strip().rpartition("\n")[2])


def is_news(text, failures, core):
    """Whether a failure has to be told: not what a core failure may have brought about, and no
    cause twice.

    Args:
        text: the report of the failed case.
        failures: {case: report} of the same function's cases that failed before it.
        core: names of the cases that must hold before the others mean much.
    """
    follows = any(case in core for case in failures)
    return not follows and cause_of(text) not in map(cause_of, failures.values())
