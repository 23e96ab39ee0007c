"""Every file that a graded course gets."""

import json
from pathlib import Path

from engine.common import first_line, write_whole
from instructor.grading.feedback import feedback, file_names, gradescope
from instructor.grading.gradebook import write_grades
from instructor.grading.journal import journal_line
from instructor.grading.roster import fill_roster
from instructor.grading.written import answers_by_heading, read_points, with_written, write_sheets


def write_all(args, results, submissions, rubric):
    """Every file of the course from the results, sorted; the journal too.

    Returns:
        the results, and one more for everybody of the roster who has handed nothing in.
    """
    out = Path(args.out)
    order = {submission.path: i for i, submission in enumerate(submissions)}
    results = sorted(results, key=lambda result: order.get(result["path"], len(order)))
    write_whole(out / "results.jsonl", "".join(map(journal_line, results)))
    if not args.gradescope:
        results = grade_written(args, results, submissions, rubric)
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


def grade_written(args, results, submissions, rubric):
    """The results with the points of --written; the page and the table to give such points."""
    answers = {}
    for submission in submissions:
        if not submission.duplicate:
            text = submission.answers.decode("utf-8", "replace")
            answers[submission.student] = answers_by_heading(text, [*rubric["written"]])
    if rubric["written"] and (any(answers.values()) or args.written):
        write_sheets(Path(args.out), submissions, answers, rubric)
    if not args.written:
        return results
    given = read_points(args.written, rubric, [*answers])
    return with_written(results, answers, given, rubric)


def write_pages(out, stem, result, rubric, visibility):
    """The pages of one student: feedback/STEM.md and results/STEM.json."""
    write_whole(out / "feedback" / f"{stem}.md", feedback(result, rubric))
    page = gradescope(result, rubric, visibility)
    write_whole(out / "results" / f"{stem}.json", json.dumps(page, indent=1))


def not_duplicate(result):
    return result["status"] != "duplicate"
