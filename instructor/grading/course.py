"""Grade a whole course: check the sandbox and the tests, then every submission, in parallel."""

import concurrent.futures
import dataclasses
import math
import queue
import time
from pathlib import Path

from engine.common import ROOT, progress, quiet_libraries, write_whole
from instructor.grading import journal
from instructor.grading.collect import collect
from instructor.grading.corrections import read_corrections
from instructor.grading.course_files import write_all
from instructor.grading.examining import examine
from instructor.grading.points import read_rubric, score
from instructor.grading.process import WorkerGone, Workshop, probe
from instructor.grading.roster import columns_to_fill, read_roster
from instructor.grading.sandbox import PROTECTIONS
from instructor.grading.submission import GraderError
from instructor.grading.written import read_points


@dataclasses.dataclass(frozen=True)
class Grader:
    """How every submission of a run is graded."""

    settings: dict  # of `journal.run_settings`
    models: tuple  # (ref_model, tokenizer)
    sandbox: str = ""  # what protects this machine, of `require_sandbox`


def grade(args, console):
    """Grade as the command line says; returns what `write_all` does.

    Raises:
        UserError: in one line, what to do.
    """
    rubric = read_rubric(args.rubric)
    if Path(args.out).resolve() == Path(args.submissions).resolve():
        raise GraderError(f"'{args.out}' holds the submissions: name another --out.")
    submissions = collect(args.submissions, one=args.gradescope)
    students = [submission.student for submission in submissions]
    if args.roster:  # a mistake in a table is said before anything is graded
        columns_to_fill(read_roster(args.roster), args.column)
    if args.written:
        read_points(args.written, rubric, students)
    again = set(args.only or ())
    if unknown := again - {*students}:
        raise GraderError(
            f"nobody handed in as {', '.join(sorted(unknown))}: --only takes names of grades.csv."
        )
    settings = journal.run_settings(args, rubric)
    if not args.gradescope:
        read_corrections(Path(args.out), students)
    file = Path(args.out) / "results.jsonl"
    done = journal.finished(file, submissions, again)
    done = {path: journal.rescored(result, rubric) for path, result in done.items()}
    if args.only:
        to_grade = [submission for submission in submissions if submission.student in again]
    else:
        to_grade = [submission for submission in submissions if submission.path not in done]
    write_whole(file, "".join(map(journal.journal_line, done.values())))
    new = []
    if to_grade:
        with Workshop(args.jobs, args.unsafe) as workshop:
            grader = prepare(workshop, settings, console, args.unsafe)
            new = grade_with_progress(workshop, to_grade, grader, file, console)
    return write_all(args, [*done.values(), *new], submissions, rubric)


def prepare(workshop, settings, console, unsafe):
    """A `Grader`, once sandbox and tests have been seen to hold on this machine."""
    grader = Grader(settings, load_models())
    workshop.wait()
    held = probe(workshop.controls[0])
    console.print("sandbox")
    for name, meaning in PROTECTIONS.items():
        mark = "[green]✓[/]" if held[name] else "[red]✗[/]"
        console.print(f"  {mark} {name:10} {meaning}", highlight=False)
    sandbox = require_sandbox(held, unsafe)
    if (ROOT / "rewards_solution.py").exists():
        self_check(workshop.controls[0], grader)
        console.print("self-check passed: solution, template, wrong solutions, attacks\n")
    return dataclasses.replace(grader, sandbox=sandbox)


def load_models():
    """(ref_model, tokenizer), the bundled ones; the bundled sentiment model is loaded too."""
    import torch

    from engine.model.loading import load_model
    from sentiment import load_sentiment_model

    quiet_libraries()
    torch.set_num_threads(1)
    load_sentiment_model(str(ROOT / "tiny" / "sentiment"), "cpu")
    return load_model(str(ROOT / "tiny" / "gpt2"), "cpu")


def require_sandbox(held, unsafe):
    """The name of the protection that holds on this machine.

    Args:
        held: {protection: whether it holds}.
        unsafe: whether to go on without.

    Raises:
        GraderError: something does not hold, and `unsafe` is not given.
    """
    missing = [name for name, holds in held.items() if not holds]
    if not missing:
        return "landlock+seccomp"
    if not unsafe:
        raise GraderError(
            f"no sandbox for {', '.join(missing)} here, so nothing is graded. Grade on Linux 6.2 "
            "or newer that allows Landlock and seccomp (most containers do), with libseccomp2 and "
            "requirements-grading.txt installed; --unsafe runs strangers' code without."
        )
    return f"unsafe (no {', '.join(missing)})"


def self_check(control, grader):
    """Grade files whose grade is known; GraderError if one gets another.

    The solution earns everything, the template nothing, each wrong solution loses points at its
    exercise and only there, each attack earns nothing.
    """
    from instructor.proof.attacks import known_files

    rubric = grader.settings["rubric"]
    seeds = grader.settings["seeds"][:2]
    for title, source, expected in known_files():
        found = examine(control, source, seeds, grader.models, seconds=3.0)
        points = score([vars(outcome) for outcome in found.outcomes], rubric)
        for name, entry in rubric["exercises"].items():
            earned = points[name]
            most = entry["points"]
            if not most:  # a rubric that leaves this exercise out: nobody can earn less than all
                continue
            as_expected = {"all": earned == most, "none": earned == 0, "less": earned != most}
            if not as_expected[expected[name]]:
                raise GraderError(
                    f"self-check: '{title}' earns {earned:g} of {most:g} for {name}; it should "
                    f"earn {expected[name]}. The tests do not hold on this machine; nothing was "
                    "graded."
                )


def grade_with_progress(workshop, submissions, grader, file, console):
    """`grade_all` with a bar in a terminal."""
    with progress("grading", len(submissions), console) as tick:
        return grade_all(workshop, submissions, grader, file, tick)


def grade_all(workshop, submissions, grader, file, after_each):
    """Grade in parallel; each result goes to the journal as soon as it is there.

    Args:
        workshop: with one control for each submission that is graded at a time.
        submissions: what to grade.
        grader: how.
        file: the journal.
        after_each: called after each result.
    """
    controls = queue.SimpleQueue()
    for control in workshop.controls:
        controls.put(control)

    def work(submission):
        control = controls.get()
        try:
            return grade_one(control, submission, grader)
        except WorkerGone:  # nobody can be graded any more, and this one was not
            raise
        except Exception as error:  # one submission shall not end the others
            return journal.unfinished(submission, grader.settings, grader.sandbox, error)
        finally:
            controls.put(control)

    pool = concurrent.futures.ThreadPoolExecutor(len(workshop.controls))
    results = []
    try:
        with open(file, "a", encoding="utf-8") as lines:
            tasks = [pool.submit(work, submission) for submission in submissions]
            for task in concurrent.futures.as_completed(tasks):
                results.append(task.result())
                lines.write(journal.journal_line(results[-1]))
                lines.flush()
                after_each()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return results


def grade_one(control, submission, grader):
    """The result of one submission: a dict, as it stands in the journal."""
    started = time.monotonic()
    result = journal.blank_result(submission, grader.settings, grader.sandbox)
    if submission.duplicate:
        result |= {"status": "duplicate", "reason": "A newer submission is graded instead."}
    elif submission.question:
        result |= {"status": "unclear", "reason": submission.question}
    elif submission.rejected:
        result |= {"status": "rejected", "reason": submission.rejected}
    else:
        examine_into(result, control, submission.source, grader)
    # Rounded up to tens, so that a run that was resumed writes the very same files.
    result["seconds"] = math.ceil((time.monotonic() - started) / 10) * 10
    return journal.bounded(result)


def examine_into(result, control, source, grader):
    """Fill a blank result with what the examination of a submission finds."""
    settings = grader.settings
    found = examine(control, source, settings["seeds"], grader.models, settings["timeout"])
    result["tests"] = [vars(outcome) for outcome in found.outcomes]
    result["points"] = score(result["tests"], settings["rubric"])
    result["score"] = round(sum(result["points"].values()), 2)
    result["output"] = found.output
    result["printed"] = found.printed
    if found.import_error:
        result |= {"status": "import error", "reason": found.import_error}
    result["flags"] += sorted(found.flags)
