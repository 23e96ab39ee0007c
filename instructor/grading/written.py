"""Written answers: read a student's answers.md, and the points that a person gave for it."""

import re

from engine.common import write_whole
from instructor.grading.gradebook import number, read_csv, write_csv
from instructor.grading.submission import GraderError

SHEET = re.compile(r"answers[-_ ()\d]*\.(md|txt)", re.IGNORECASE)  # the name of such a file


def answers_by_heading(text, headings):
    """{heading: answer} of an answers.md; a question that is not answered is left out.

    A heading is a line such as `## 3b` or `# Exercise 3b: the penalty`, outside blocks of code. A
    block ends at a line such as the sheet itself has, `## 3b` and nothing else, and one that is
    never closed is none. The question that the sheet quotes is no part of the answer.

    >>> answers_by_heading("## 2a\\n> Why?\\n\\nIt cancels.\\n## 2b\\n> Which?\\n", ["2a", "2b"])
    {'2a': 'It cancels.'}
    """
    names = "|".join(re.escape(heading) for heading in sorted(headings, key=len, reverse=True))
    line_of = re.compile(rf"#{{1,6}}\s*(?:exercise\s+)?({names})(?![\w)])", re.IGNORECASE)
    by_lower = {heading.lower(): heading for heading in headings}
    of_the_sheet = re.compile(rf"##\s+(?:{names})\s*", re.IGNORECASE)
    found = {}
    current = None
    lines = text.splitlines()
    blocks = closed_fences(lines, of_the_sheet)
    for i, line in enumerate(lines):
        if i not in blocks and (match := line_of.match(line.strip())):
            current = by_lower[match.group(1).lower()]
        elif current:
            found.setdefault(current, []).append(line)
    answers = {heading: without_question(lines) for heading, lines in found.items()}
    return {heading: answers[heading] for heading in headings if answers.get(heading)}


def closed_fences(lines, end):
    """Numbers of the lines inside blocks of code, each of which is closed before a line `end`."""
    inside = set()
    opened = None
    for i, line in enumerate(lines):
        if end.fullmatch(line):
            opened = None
        elif line.lstrip().startswith(("```", "~~~")):
            if opened is not None:
                inside.update(range(opened, i))
            opened = i if opened is None else None
    return inside


def without_question(lines):
    """An answer without the first quoted block above it."""
    text = "\n".join(lines).strip("\n")
    return re.sub(r"\A(?:[ \t]*>.*(?:\n|\Z))+", "", text).strip()


def read_points(path, rubric, students):
    """{student: {"points": {heading: points}, "comment": text}} of a filled-in answers.csv.

    Args:
        path: the file.
        rubric: its `written` says how many points there are.
        students: who has handed in.

    Raises:
        GraderError: naming the row, where it does not fit.
    """
    table = read_csv(path, "the table")
    if not {"student", *rubric["written"]} <= {*table.header}:
        raise GraderError(f"'{path}' lacks columns: fill in the answers.csv of the grader.")
    known = {name.lstrip("'"): name for name in students}
    found = {}
    for line, row in enumerate(table.records(), 2):
        student = known.get(row["student"].lstrip("'"))
        if student is None:
            raise GraderError(f"'{path}', row {line}: nobody handed in as {row['student']}.")
        if student in found:
            raise GraderError(f"'{path}', row {line}: {student} stands there twice.")
        points = {}
        for heading, entry in rubric["written"].items():
            if cell := row[heading].strip():
                points[heading] = points_of(cell, entry["points"], f"'{path}', row {line}")
        found[student] = {"points": points, "comment": row.get("comment", "").strip()}
    return found


def points_of(cell, most, where):
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise GraderError(f"{where}: {cell[:20]} is no number from 0 to {number(most)}.")
    return value


def with_written(results, answers, given, rubric):
    """The results with the points of written answers, which raise score and maximum.

    Args:
        results: of the code.
        answers: {student: {heading: answer}}.
        given: of `read_points`.
        rubric: its `written` says how many points there are.
    """
    most = sum(entry["points"] for entry in rubric["written"].values())
    finished = []
    for result in results:
        if result["status"] == "duplicate":
            finished.append(result)
            continue
        graded = given.get(result["student"], {"points": {}, "comment": ""})
        points = graded["points"]
        answered = answers.get(result["student"], {})
        left = [heading for heading in answered if heading not in points]
        flags = [f"written answers without points: {', '.join(left)}"] if left else []
        written = {heading: points.get(heading, 0.0) for heading in rubric["written"]}
        total = result["score"]
        total = None if total is None else round(total + sum(written.values()), 2)
        result = {**result, "score": total, "max": result["max"] + most, "written": written}
        result |= {"flags": result["flags"] + flags, "comment": graded["comment"]}
        finished.append(result)
    return finished


def write_sheets(out, submissions, answers, rubric):
    """Write OUT/answers.html, to read and grade, and an empty OUT/answers.csv; a person's
    answers.csv stays as it is."""
    from instructor.grading.written_page import page

    students = [one.student for one in submissions if not one.duplicate]
    write_whole(out / "answers.html", page(students, answers, rubric))
    if not (out / "answers.csv").exists():
        header = ["student", *rubric["written"], "comment"]
        write_csv(out / "answers.csv", [header, *([name] for name in students)])
