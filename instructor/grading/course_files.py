"""Every file that a graded course gets."""

import json
import zipfile
from pathlib import Path

from engine.common import first_line, whole_file, write_whole
from instructor.archive import add_file
from instructor.grading.corrections import corrected, counted, persons_of, read_corrections
from instructor.grading.feedback import feedback, file_names, gradescope
from instructor.grading.gradebook import write_grades
from instructor.grading.journal import journal_line
from instructor.grading.late import with_late
from instructor.grading.roster import fill_roster
from instructor.grading.written import answers_by_heading, read_points, with_written, write_sheets


def write_all(args, results, submissions, rubric):
    """Every file of the course from the results, sorted; the journal too.

    Returns:
        (the results, and one more for everybody of the roster who has handed nothing in; how many
        of the roster were entered, as a sentence, or an empty text)
    """
    out = Path(args.out)
    order = {submission.path: i for i, submission in enumerate(submissions)}
    names = {submission.path: submission.student for submission in submissions}
    results = sorted(results, key=lambda result: order.get(result["path"], len(order)))
    for result in results:  # since it was graded, a namesake may have changed the name
        result["student"] = names.get(result["path"], result["student"])
    write_whole(out / "results.jsonl", "".join(map(journal_line, results)))
    corrections = []
    if not args.gradescope:
        corrections = read_corrections(out, [s.student for s in submissions])
        results = counted(results, corrections)
        results = grade_written(args, results, submissions, rubric)
        results = with_late(results, submissions, rubric["late"])
        results = corrected(results, corrections)
    files = file_names([result["student"] for result in filter(not_duplicate, results)])
    for folder in ("feedback", "results"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for result in filter(not_duplicate, results):
        try:
            write_pages(out, files[result["student"]], result, rubric, args.visibility)
        except Exception as error:  # one student's pages shall not keep the others from theirs
            result["flags"].append(f"feedback cannot be written: {first_line(error)}")
    write_way_back(out, files, submissions)
    entered = ""
    if args.roster:
        absent, entered = fill_roster(args, results, submissions, persons_of(corrections))
        results += absent
    write_grades(out / "grades.csv", results)
    return results, entered


def write_way_back(out, files, submissions):
    """OUT/feedback.zip: all pages under the names by which the platform takes them back.

    Moodle knows a folder of its export by the number in it, Canvas a file by its two numbers,
    Brightspace a folder by its name.

    Args:
        out: the folder.
        files: of `file_names`.
        submissions: of the run.
    """
    pages = {
        one.returned: out / "feedback" / f"{files[one.student]}.md"
        for one in submissions
        if one.returned and one.student in files
    }
    if not pages:
        return
    with whole_file(out / "feedback.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, page in sorted(pages.items()):
            if page.exists():
                add_file(archive, name, page.read_bytes())


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
