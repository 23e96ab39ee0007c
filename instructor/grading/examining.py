"""The examining side: run every case of every function on one submission.

The cases are those of cases, which students run as `pytest --student`. Here they also run
with seeds that nobody has seen, and the function that they ask is in another process: questions
and answers are JSON.
"""

import dataclasses
import hashlib
import json
import random

import torch

from cases import CASES, Ask, Wrong, report
from cases.asking import Answered, asked_about, labels_of
from instructor.grading.points import every_case
from instructor.grading.process import OUTPUT_SHOWN, Allowance, Child
from instructor.grading.text import clean

WHOLE = 6  # seconds that all answers of a submission may take, as a multiple of those for one
MESSAGE_LIMIT = 2000  # characters
HIDDEN = "It holds for the inputs of the public tests, but not for others."
ENDED = "It holds for the inputs of the public tests; with others it gave no answer."


@dataclasses.dataclass
class Outcome:
    """What became of one case of one function."""

    function: str
    case: str
    passed: bool  # with every seed
    message: str = ""  # for the student: never a hidden input or an expected value for one
    public_only: bool = False  # right for the inputs of the public tests, wrong for others


@dataclasses.dataclass
class Examination:
    """What became of one submission."""

    outcomes: list[Outcome]  # in the order of CASES
    import_error: str = ""  # why the file cannot be imported; then no case passes
    flags: set[str] = dataclasses.field(default_factory=set)  # for a person to look at
    output: str = ""  # the beginning of what the submission printed
    printed: str = ""  # the same, when it was imported: no hidden input can be in it


def examine(control, source, seeds, models, seconds=10.0):
    """Run every case of every function on one submission.

    Args:
        control: of the workshop, for the processes.
        source: bytes of its rewards.py.
        seeds: the first is that of the public tests, the others are hidden.
        models: (ref_model, tokenizer), the bundled ones, of this process.
        seconds: for one answer; for all of them together, WHOLE times as many.

    Returns:
        an `Examination`.
    """
    allowance = Allowance(WHOLE * seconds)
    seeds = [seeds[0], *(seed_of_the_file(seed, source) for seed in seeds[1:])]

    def child():
        return Child(control, source, seconds, allowance)

    found = Examination([])
    with child() as first:
        imports = imports_of(first)
        error = load(first)
        found.printed = found.output = printed_by(first)[:OUTPUT_SHOWN]
    if imports:
        found.flags.add(f"imports {', '.join(imports)}")
    if error:
        found.import_error = f"The file cannot be imported: {error}"[:MESSAGE_LIMIT]
        for name, case in every_case():
            found.outcomes.append(Outcome(name, case.__name__, False, found.import_error))
    else:
        ask_all(found, child, seeds, models)
    return found


def seed_of_the_file(seed, source):
    """A seed of its own for each file: what one submission learns of its hidden inputs, and passes
    on to another in some way that nobody has thought of, is no help there."""
    return int.from_bytes(hashlib.sha256(f"{seed}:".encode() + source).digest()[:4], "big")


def ask_all(found, child, seeds, models):
    """Complete an `Examination`, by asking processes that `child()` begins."""
    questions = [Questions(name, models) for name in CASES]

    def ask(asking, some):
        with child() as process:
            load(process)  # if it fails this time, the questions will say so
            for each in some:
                asking(each, process, seeds)
            found.output = (found.output + printed_by(process))[:OUTPUT_SHOWN]

    # A submission could write a hidden input into a file's time of access, say. So nothing whose
    # words a student reads comes after it: the public questions of all functions are the first.
    for asking in (Questions.ask_public, Questions.ask_hidden):
        before = {each: {**each.messages} for each in questions if each.holding()}
        ask(asking, before)
        for each, messages in before.items():
            if each.messages != messages:  # perhaps by another function's fault: alone, it counts
                each.messages = messages
                ask(asking, [each])
    for each in questions:
        found.outcomes += each.outcomes()
        found.flags |= each.flags


def imports_of(child):
    """What a submission imports that is unusual; nothing where even that took too long."""
    try:
        found = child.ask("imports")
    except Wrong:
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def load(child):
    """Have a process import its submission; why that failed, or an empty string."""
    try:
        child.ask("load")
    except (Wrong, NotImplementedError) as error:
        return str(error)
    return ""


def printed_by(child):
    return clean(child.output.decode("utf-8", "replace"))


class Questions:
    """The cases of one function, asked of processes that have imported a submission.

    Args:
        name: of the function.
        models: (ref_model, tokenizer).
    """

    def __init__(self, name, models):
        self.child = None  # the process that is asked
        self.name = name
        self.models = models
        self.cases = CASES[name][1]
        self.flags = set()  # for a person to look at
        self.messages = dict.fromkeys(self.cases, "")  # case -> why it failed, if it did
        self.answers = {}  # case -> those to the public seed
        self.fixed = set()  # cases whose inputs are the same with every seed

    def holding(self):
        """The cases that have not failed yet."""
        return [case for case in self.cases if not self.messages[case]]

    def outcomes(self):
        """A list of `Outcome`."""
        if HIDDEN in self.messages.values():
            self.flags.add(f"{self.name} passes only the inputs of the public tests")
        return [
            Outcome(self.name, case.__name__, not message, message, message == HIDDEN)
            for case, message in self.messages.items()
        ]

    def ask_public(self, child, seeds):
        """Each case with the public seed, which is the first."""
        self.child = child
        for case in self.cases:
            rng = random.Random(seeds[0])
            self.messages[case], self.answers[case] = self.run(case, rng)
            if rng.getstate() == random.Random(seeds[0]).getstate():
                self.fixed.add(case)

    def ask_hidden(self, child, seeds):
        """What held, with the other seeds, and with the public one again."""
        self.child = child
        for seed in seeds[1:]:
            for case in self.holding():
                if case not in self.fixed and self.run(case, random.Random(seed))[0]:
                    self.fails(case, HIDDEN)
        for case in self.holding():
            message, answers = self.run(case, random.Random(seeds[0]))
            if answers != self.answers[case] and not child.dead:
                self.flags.add(f"{self.name} gives other answers to the same question")
            if message:
                self.fails(case, "It held, and did not hold when asked again.")

    def fails(self, case, why):
        """A case has failed after hidden inputs were told, of which no word may come out: not in an
        error, and not in how the process has ended."""
        self.messages[case] = ENDED if self.child.dead else why

    def run(self, case, rng):
        """(why a case fails, or an empty string; the answers that it got, as JSON)."""
        answers = []
        ask = Ask(remote(self.child, self.name, answers), self.models, self.name)
        try:
            message = report(case, ask, rng, with_expected=False) or ""
        except NotImplementedError as error:  # perhaps in one branch only
            message = f"Not implemented: {error}"
        except Exception as error:  # numbers that no case has thought of: wrong, and looked at
            kind = type(error).__name__
            self.flags.add(f"{self.name}: no verdict, {kind}: {error}"[:200])
            message = f"{self.name}: its answer could not be judged ({kind})"
        return message[:MESSAGE_LIMIT], answers


class OfShape:
    """An answer of which only the shape is told: a tensor of not one dimension, never built."""

    def __init__(self, shape):
        self.shape = shape

    def __repr__(self):
        return f"numbers of shape {self.shape}"


def remote(child, name, answers):
    """A function of the submission, to be called as if it were here; answers go into a list."""

    def function(ref_model=None, tokenizer=None, **arguments):
        sent = {key: encode(value) for key, value in arguments.items()}
        labels = labels_of(asked_about(arguments))
        answer = child.ask("call", function=name, arguments=sent, length=len(labels))
        answers.append(json.dumps(answer))
        return decode(answer, name, asked_about(arguments))

    function.__name__ = name
    return function


def encode(value):
    """An argument of a question as JSON: tensors as nested lists with their type."""
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    return value


def decode(answer, name, given):
    """What the worker's `encode` made of an answer, as this process would have got it.

    Args:
        answer: of `process.flat`: it may be forged, so every field is looked at before its use.
        name: of the function.
        given: what it was asked about.

    Raises:
        Wrong: it is no list of at most as many plain values.
    """
    answer = answer if isinstance(answer, dict) else {}
    kind = answer.get("kind")
    value = answer.get("value")
    expected = len(labels_of(given))
    if kind == "list" and isinstance(value, list) and len(value) <= expected:
        return Answered(value)
    if kind == "plain" and not isinstance(value, (list, dict)):
        return value
    shape = answer.get("shape")
    if kind == "shape" and isinstance(shape, list) and len(shape) <= 8:
        if shape == list(getattr(given, "shape", ())):
            return OfShape(tuple(shape))  # one number for each token
    raise Wrong(what_is_wrong(answer, name, expected))


def what_is_wrong(answer, name, expected):
    """In words, why an answer of the worker holds no `expected` numbers."""
    kind = answer.get("kind")
    shape = answer.get("shape")
    of_type = answer.get("type")
    if kind == "missing":
        return f"there is no function {name}"
    if kind == "shape" and isinstance(shape, list) and len(shape) <= 8:
        return f"{name} returned a tensor of shape {shape}; expected {expected} numbers"
    if kind == "length" and isinstance(answer.get("length"), int):
        return (
            f"{name} returned {answer['length']} values for {expected} completions; "
            "return exactly one for each."
        )
    if kind == "item" and isinstance(of_type, str) and isinstance(answer.get("index"), int):
        where = f"a {of_type[:60]} at index {answer['index']}"
        return f"{name} returned {where}; expected a plain number"
    if kind == "other" and isinstance(of_type, str):
        return f"{name} returned {of_type[:60]}; expected a list of numbers"
    return f"{name} returned something that is no list of numbers"
