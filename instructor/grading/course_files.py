"""Everything that a graded course gets: the files in OUT and the table in the terminal."""

import json
import math
from pathlib import Path

from engine.common import first_line, write_whole
from instructor.exercises import every_case
from instructor.grading.feedback import feedback, file_names, gradescope, summary_line
from instructor.grading.gradebook import number, write_grades, write_roster
from instructor.grading.journal import journal_line
from instructor.grading.likeness import similar
from instructor.grading.roster import match, people_of, read_roster


def write_all(args, results, submissions, settings):
    """Every file of the course from the results, sorted; the journal too.

    Returns:
        the results, with flags for files that are alike, and one more for everybody of the roster
        who has handed nothing in.
    """
    out, rubric = Path(args.out), settings["rubric"]
    order = {submission.path: i for i, submission in enumerate(submissions)}
    results = sorted(results, key=lambda result: order.get(result["path"], len(order)))
    write_whole(out / "results.jsonl", "".join(map(journal_line, results)))
    results = with_likeness(results, submissions)
    files = file_names([result["student"] for result in filter(not_duplicate, results)])
    for folder in ("feedback", "results"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for result in filter(not_duplicate, results):
        try:
            write_pages(out, files[result["student"]], result, rubric, args.visibility)
        except Exception as error:  # one student's pages shall not keep the others from theirs
            result["flags"].append(f"feedback cannot be written: {first_line(error)}")
    if args.roster:
        results += fill_roster(args, results, submissions)
    write_grades(out / "grades.csv", results)
    return results


def write_pages(out, stem, result, rubric, visibility):
    """The pages of one student: feedback/STEM.md and results/STEM.json."""
    write_whole(out / "feedback" / f"{stem}.md", feedback(result, rubric))
    page = gradescope(result, rubric, visibility)
    write_whole(out / "results" / f"{stem}.json", json.dumps(page, indent=1))


def not_duplicate(result):
    return result["status"] != "duplicate"


def with_likeness(results, submissions):
    """The results with further flags for files that resemble each other or the solution."""
    sources = {
        submission.student: submission.source
        for submission in submissions
        if submission.source and not (submission.rejected or submission.duplicate)
    }
    alike = similar(sources)
    return [
        {**result, "flags": result["flags"] + alike[result["student"]]}
        if not_duplicate(result)
        else result
        for result in results
    ]


def fill_roster(args, results, submissions):
    """Write OUT/roster.csv; returns a result for everybody who has handed nothing in."""
    kind, header, rows = read_roster(args.roster)
    people = list(people_of(kind, header, rows))
    result_by_path, result_by_row = {result["path"]: result for result in results}, {}
    for submission in submissions:
        result = result_by_path.get(submission.path)
        if submission.duplicate or result is None:
            continue
        person = match(submission, people)
        if person is None:
            result["flags"].append("not in the roster")
        elif person["row"] in result_by_row:
            result["flags"].append("shares a row of the roster with another")
        else:
            text = result["reason"] or summary_line(result)
            result_by_row[person["row"]] = {**result, "text": text}
    target = Path(args.out) / "roster.csv"
    write_roster(target, kind, header, rows, result_by_row, args.column)
    blank = {"status": "no submission", "score": None, "max": None, "tests": [], "flags": []}
    blank |= {"seconds": "", "sandbox": "", "path": "", "reason": ""}
    return [
        {"student": person["name"] or person["email"], **blank}
        for person in people
        if person["row"] not in result_by_row
    ]


def show(results, console):
    """The table of students and the view of the class."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("student", no_wrap=True, overflow="ellipsis", max_width=32)
    table.add_column("status", no_wrap=True)
    table.add_column("points", justify="right", no_wrap=True)
    table.add_column("look at", no_wrap=True, overflow="ellipsis", ratio=1)
    for result in results:
        points = f"{number(result['score'])}/{number(result['max'])}"
        points = points if result["score"] is not None else ""
        notes = [result["reason"]] * bool(result.get("reason")) + result["flags"]
        table.add_row(Text(result["student"]), result["status"], points, Text("; ".join(notes)))
    console.print(table)
    console.print("\nshare of the class that passes", style="bold")
    shown = None
    for function, case, share in class_view(results):
        if function != shown:
            console.print(f"  {function}", highlight=False)
        shown, bar = function, "" if math.isnan(share) else "█" * round(10 * share)
        console.print(f"    {share:5.0%} {bar:10} {case}", highlight=False, markup=False)


def class_view(results):
    """[(function, case, share of the graded submissions that pass it)]."""
    graded = [result for result in results if result["tests"]]
    passed = {}
    for result in graded:
        for test in result["tests"]:
            key = test["function"], test["case"]
            passed[key] = passed.get(key, 0) + test["passed"]
    return [
        (
            name,
            case.__name__,
            passed.get((name, case.__name__), 0) / len(graded) if graded else math.nan,
        )
        for name, case in every_case()
    ]
