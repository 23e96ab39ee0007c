"""The examining side: run every case of every function on one submission.

The cases are those of tests/cases, which students run as `pytest --student`. Here they also run
with seeds that nobody has seen.
"""

import dataclasses
import random

from instructor.exercises import CASES, Ask, Wrong, every_case, report
from instructor.grading.process import OUTPUT_SHOWN, Child, clean
from instructor.grading.remote import remote

HIDDEN = "It holds for the inputs of the public tests, but not for others."


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

    outcomes: list  # of `Outcome`, in the order of CASES
    import_error: str = ""  # why the file cannot be imported; then no case passes
    flags: set = dataclasses.field(default_factory=set)  # for a person to look at
    output: str = ""  # the beginning of what the submission printed
    printed: str = ""  # the same, when it was imported: no hidden input can be in it


def examine(workshop, control, source, seeds, models, seconds=10.0):
    """Run every case of every function on one submission.

    Args:
        workshop, control: where its processes come from.
        source: bytes of its rewards.py.
        seeds: the first is that of the public tests, the others are hidden.
        models: (ref_model, tokenizer), the bundled ones, of this process.
        seconds: for one answer.

    Returns:
        an `Examination`.
    """
    error, output = try_import(workshop, control, source, seconds)
    if error:
        message = f"The file cannot be imported: {error}"
        outcomes = [Outcome(name, case.__name__, False, message) for name, case in every_case()]
        return Examination(outcomes, message, output=output, printed=output)
    outcomes, flags, printed = [], set(), output
    for name, (_, cases) in CASES.items():
        with Child(workshop, control, source, seconds) as child:
            load(child)  # if it fails this time, the questions will say so
            found, unsteady = examine_function(child, name, cases, seeds, models)
            output += clean(child.output.decode("utf-8", "replace"))
        outcomes += found
        if unsteady:
            flags.add(f"{name} gives other answers to the same question")
        if any(outcome.public_only for outcome in found):
            flags.add(f"{name} passes only the inputs of the public tests")
    return Examination(outcomes, flags=flags, output=output[:OUTPUT_SHOWN], printed=printed)


def try_import(workshop, control, source, seconds):
    """(why a submission cannot be imported, or an empty string; what it printed)."""
    with Child(workshop, control, source, seconds) as child:
        error = load(child)
        return error, clean(child.output.decode("utf-8", "replace"))[:OUTPUT_SHOWN]


def load(child):
    """Have a process import its submission; why that failed, or an empty string."""
    try:
        child.ask("load")
    except (Wrong, NotImplementedError) as error:
        return str(error)
    return ""


def examine_function(child, name, cases, seeds, models):
    """(outcomes of one function, whether a repeated question got another answer)."""
    messages, asked, public_only = {case: "" for case in cases}, {}, set()
    first, *hidden = seeds

    def run(case, seed):
        asked[case, seed] = []
        ask = Ask(remote(child, name, asked[case, seed]), models, name)
        try:
            return report(case, ask, random.Random(seed), with_expected=False) or ""
        except NotImplementedError as error:  # perhaps in one branch only
            return f"Not implemented: {error}"

    for case in cases:
        messages[case] = run(case, first)
    before = {case: asked[case, first] for case in cases}
    for seed in hidden:
        for case in cases:
            if not messages[case] and run(case, seed):
                messages[case] = child.dead or HIDDEN
                if not child.dead:
                    public_only.add(case)
    unsteady = False
    for case in cases:
        again = run(case, first)
        if asked[case, first] != before[case]:
            unsteady = True
            if again and not messages[case]:
                messages[case] = "It held, and did not hold when asked again."
    outcomes = [
        Outcome(name, case.__name__, not message, message, case in public_only)
        for case, message in messages.items()
    ]
    return outcomes, unsteady and not child.dead
