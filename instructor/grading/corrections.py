"""What a person has corrected: OUT/corrections.csv, which every run of the folder reads again.

A row has a student as in grades.csv, and what there is to say of that hand-in: points more or less
with a reason for the student to read, or the person of the roster whose it is, or both. Several
rows of one student add up.
"""

import math
from typing import NamedTuple

from engine.common import first_line
from instructor.grading.gradebook import read_csv, write_csv
from instructor.grading.submission import GraderError

NAME = "corrections.csv"
HEADER = ["student", "person", "points", "reason"]


class Correction(NamedTuple):
    """A row of the file."""

    student: str
    person: str
    points: float | None
    reason: str


def read_corrections(out, students):
    """The rows of OUT/corrections.csv as `Correction`; without one, an empty one is written.

    Raises:
        GraderError: naming the row that does not fit.
    """
    path = out / NAME
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_csv(path, [HEADER])
        return []
    table = read_csv(path, "the file of corrections")
    if missing := {*HEADER} - {"person"} - {*table.header}:
        raise GraderError(f"'{path}' lacks the columns {', '.join(sorted(missing))}.")
    known = {name.lstrip("'"): name for name in students}
    found = []
    for line, row in enumerate(table.records(), 2):
        row = {title: text.strip() for title, text in row.items()}
        student = known.get(row["student"].lstrip("'"))
        if student is None:
            raise GraderError(f"'{path}', row {line}: nobody handed in as {row['student']}.")
        points = points_of(row["points"], f"'{path}', row {line}")
        found.append(Correction(student, row.get("person", ""), points, row["reason"]))
    return found


def points_of(text, where):
    """Points more or less, or None where there are none to give."""
    try:
        points = float(text.replace(",", ".")) if text else 0.0
    except ValueError as error:
        raise GraderError(f"{where}: {first_line(error)}") from error
    if not math.isfinite(points):
        raise GraderError(f"{where}: {text} is no number of points.")
    return points if text else None


def points_for(result, corrections):
    """The corrections of points that are about a result."""
    if result["status"] == "duplicate":
        return []
    own = [each for each in corrections if each.student == result["student"]]
    return [each for each in own if each.points is not None]


def counted(results, corrections):
    """The results, 0 points where there are none but a correction gives some: written answers and
    late days then count as they do for everybody."""
    for result in results:
        if result["score"] is None and points_for(result, corrections):
            result["score"] = 0.0
    return results


def corrected(results, corrections):
    """The results of `counted` with their corrections; nobody falls below 0."""
    for result in results:
        if own := points_for(result, corrections):
            total = result["score"] + sum(each.points for each in own)
            result["score"] = max(0.0, round(total, 2))
            given = [f"{each.reason} ({each.points:+g})" for each in own]
            result["corrections"] = [*result.get("corrections", []), *given]
    return results


def persons_of(corrections):
    """{student: who in the roster that is}."""
    return {each.student: each.person for each in corrections if each.person}
