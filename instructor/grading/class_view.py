"""What the terminal shows at the end: the class as a whole, and the rows that need a look."""

import re
import statistics

from cases import CASES
from instructor.grading.feedback import title
from instructor.grading.gradebook import number

ROWS = 12  # shown at most
HARDEST = 5  # cases
NEED = ("grader error", "unclear", "rejected", "graded", "import error")  # what to look at first
# Flags that need no look, or may wait.
USUAL = re.compile(
    r"late.*|.*the newest is graded|imports .*|also in the hand-in.*|further files.*"
    r"|found by name.*|written answers without points.*"
)


def show(results, rubric, console):
    """The points of the class, its hardest cases, and the hand-ins that need a look."""
    graded = [result for result in results if counts(result)]
    absent = [result for result in results if result["status"] == "no submission"]
    if graded:
        show_points([result["score"] for result in graded], graded[0]["max"], console)
        show_cases(graded, rubric, console)
    if absent:
        names = ", ".join(result["student"] for result in absent)
        console.print(f"\n{len(absent)} handed nothing in: {names}", highlight=False, markup=False)
    show_rows([result for result in results if look_at(result)], console)
    waiting = [result for result in results if result["flags"] and not look_at(result)]
    if waiting:
        line = f"{len(waiting)} more have a flag in grades.csv that may wait."
        console.print(line, highlight=False)


def counts(result):
    """Whether a hand-in has points."""
    return result["score"] is not None


def show_points(scores, most, console):
    """Mean, median, and how many have how many points."""
    mean, median = statistics.fmean(scores), statistics.median(scores)
    line = f"{len(scores)} graded: mean {mean:.1f}, median {median:.1f} of {number(most)} points"
    console.print(line, style="bold", highlight=False)
    for low, high, count in histogram(scores, most):
        bar = "█" * round(40 * count / len(scores))
        bar = bar or "▏" * (count > 0)
        console.print(f"  {low:5.0f} to {high:3.0f}  {count:4} {bar}", highlight=False)


def histogram(scores, most, bins=10):
    """[(from, to, how many)]; the last bin holds full points too.

    >>> histogram([0, 5, 49, 50, 100], 100, 2)
    [(0.0, 50.0, 3), (50.0, 100.0, 2)]
    """
    width = most / bins or 1.0
    bin_of = [min(int(score / width), bins - 1) for score in scores]
    return [(i * width, (i + 1) * width, bin_of.count(i)) for i in range(bins)]


def shares(results, rubric):
    """[(function, case, share of the class that passes it)] of the exercises that count."""
    with_tests = [result["tests"] for result in results if result["tests"]]
    passed = {(test["function"], test["case"]): 0 for tests in with_tests for test in tests}
    for tests in with_tests:
        for test in tests:
            passed[test["function"], test["case"]] += test["passed"]
    return [
        (name, case, passed.get((name, case.__name__), 0) / len(with_tests))
        for name in rubric["exercises"]
        for case in CASES[name][1]
        if with_tests
    ]


def show_cases(results, rubric, console):
    """The share of each exercise's cases that the class passes, and the hardest cases."""
    found = shares(results, rubric)
    if not found:
        return
    console.print("\nshare of the cases that the class passes", style="bold")
    for name in rubric["exercises"]:
        share = statistics.fmean(share for function, _, share in found if function == name)
        line = f"  {share:5.0%} {'█' * round(20 * share):20} {CASES[name][0]} {name}"
        console.print(line, highlight=False, markup=False)
    hardest = sorted(found, key=lambda entry: entry[2])[:HARDEST]
    console.print("\nhardest cases", style="bold")
    for name, case, share in hardest:
        line = f"  {share:5.0%} {CASES[name][0]:3} {title(case)}"
        console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")


def look_at(result):
    """What a person should look at in a result: its reason and flags, as texts."""
    notes = [result["reason"]] * bool(result.get("reason") and result["status"] != "duplicate")
    return notes + [flag for flag in result["flags"] if not USUAL.fullmatch(flag)]


def urgency(result):
    """How much a row needs a look, the least number first: whose points are open, or in nobody's
    row of the roster."""
    known = result["status"] in NEED
    in_no_row = any("roster" in note for note in look_at(result))
    return NEED.index(result["status"]) if known else len(NEED), not in_no_row


def show_rows(results, console):
    from rich.table import Table
    from rich.text import Text

    if not results:
        console.print("\nNo row needs a look.", highlight=False)
        return
    need = "1 row needs a look" if len(results) == 1 else f"{len(results)} rows need a look"
    console.print(f"\n{need}", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("student", no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("status", no_wrap=True)
    table.add_column("points", justify="right", no_wrap=True)
    table.add_column("look at", no_wrap=True, overflow="ellipsis", ratio=1)
    worst = sorted(results, key=urgency)
    for result in worst[:ROWS]:
        points = f"{number(result['score'])}/{number(result['max'])}" if counts(result) else ""
        notes = Text("; ".join(look_at(result)))
        table.add_row(Text(result["student"]), result["status"], points, notes)
    console.print(table)
    if len(worst) > ROWS:
        console.print(f"and {len(worst) - ROWS} more: see flags in grades.csv", highlight=False)


def what_was_written(folder, written, entered=""):
    """What lies in the folder for the instructor, and what is left to do.

    Args:
        folder: of the results.
        written: the file with the points of written answers, if it was given.
        entered: how many of the roster have points now, if there is one.
    """
    names = ["grades.csv", "roster.csv", "feedback", "feedback.zip", "results", "answers.html"]
    *most, last = (name for name in (*names, "answers.csv") if (folder / name).exists())
    text = f"Wrote {', '.join(most)} and {last} to {folder}"
    text += f"\n{entered}." if entered else ""
    if last == "answers.csv" and not written:
        text += (
            "\nWritten answers are for you to grade: open answers.html, fill in answers.csv, then "
            f"add --resume --written {folder / last}."
        )
    return text
