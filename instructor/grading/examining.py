"""The examining side: run every case of every function on one submission.

The cases are those of cases, which students run as `pytest --student`. Here they also run
with seeds that nobody has seen.
"""

import dataclasses
import random

from instructor.exercises import CASES, Ask, Wrong, every_case, report
from instructor.grading.process import OUTPUT_SHOWN, Allowance, Child, WorkerGone
from instructor.grading.remote import remote
from instructor.grading.text import clean

WHOLE = 6  # seconds that all answers of a submission may take, as a multiple of those for one
MESSAGE_LIMIT = 2000  # characters
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
        seconds: for one answer; for all of them together, WHOLE times as many.

    Returns:
        an `Examination`.
    """
    allowance = Allowance(WHOLE * seconds)
    error, output = try_import(workshop, control, source, seconds, allowance)
    if error:
        message = f"The file cannot be imported: {error}"[:MESSAGE_LIMIT]
        outcomes = [Outcome(name, case.__name__, False, message) for name, case in every_case()]
        return Examination(outcomes, message, output=output, printed=output)
    outcomes, flags, printed = [], set(), output
    for name, (_, cases) in CASES.items():
        with Child(workshop, control, source, seconds, allowance) as child:
            load(child)  # if it fails this time, the questions will say so
            found, noticed = examine_function(child, name, cases, seeds, models)
            output += clean(child.output.decode("utf-8", "replace"))
        outcomes += found
        flags |= noticed
    return Examination(outcomes, flags=flags, output=output[:OUTPUT_SHOWN], printed=printed)


def try_import(workshop, control, source, seconds, allowance):
    """(why a submission cannot be imported, or an empty string; what it printed)."""
    with Child(workshop, control, source, seconds, allowance) as child:
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
    """(outcomes of one function, flags: for example that an answer changed when asked again)."""
    messages, asked, public_only, flags = {case: "" for case in cases}, {}, set(), set()
    first, *hidden = seeds

    def run(case, seed):
        asked[case, seed] = []
        ask = Ask(remote(child, name, asked[case, seed]), models, name)
        try:
            found = report(case, ask, random.Random(seed), with_expected=False) or ""
        except NotImplementedError as error:  # perhaps in one branch only
            found = f"Not implemented: {error}"
        except WorkerGone:
            raise
        except Exception as error:  # numbers that no case has thought of: wrong, and looked at
            flags.add(f"{name}: no verdict, {type(error).__name__}: {error}"[:200])
            found = f"{name}: its answer could not be judged ({type(error).__name__})"
        return found[:MESSAGE_LIMIT]

    for case in cases:
        messages[case] = run(case, first)
    before = {case: asked[case, first] for case in cases}
    for seed in hidden:
        for case in cases:
            if not messages[case] and run(case, seed):
                messages[case] = child.dead or HIDDEN
                if not child.dead:
                    public_only.add(case)
    for case in cases:
        again = run(case, first)
        if asked[case, first] != before[case]:
            if not child.dead:
                flags.add(f"{name} gives other answers to the same question")
            if again and not messages[case]:
                messages[case] = child.dead or "It held, and did not hold when asked again."
    outcomes = [
        Outcome(name, case.__name__, not message, message, case in public_only)
        for case, message in messages.items()
    ]
    if public_only:
        flags.add(f"{name} passes only the inputs of the public tests")
    return outcomes, flags
