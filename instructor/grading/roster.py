"""The gradebook of a course: read it, find the people who handed something in, fill it in."""

import csv
import dataclasses
import io
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from instructor.grading.feedback import summary_line
from instructor.grading.gradebook import number, write_csv
from instructor.grading.submission import Rejected, normal
from instructor.grading.text import one_line


class Roster(NamedTuple):
    """A gradebook as the platform exports it."""

    kind: str  # canvas, moodle or plain
    header: list[str]
    rows: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody who is enrolled."""

    row: int  # of the roster
    name: str
    email: str
    ids: set[str]
    logins: set[str]


class Match(NamedTuple):
    """Who in the roster a `Member` is."""

    person: Person | None
    level: int  # how well it fits: 0 for a number to 3 for a similar name
    note: str  # for the instructor


def read_roster(path):
    """The `Roster` in a CSV file.

    Raises:
        Rejected: it is no CSV with a header.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Rejected(f"the roster '{path}' cannot be read: {error}") from error
    if not rows or len(rows[0]) < 2:
        raise Rejected(f"the roster '{path}' has no header of at least two columns")
    header, *rows = rows
    if {"Student", "ID"} <= set(header):
        return Roster("canvas", header, rows)
    if {"Identifier", "Full name"} <= set(header):
        return Roster("moodle", header, rows)
    return Roster("plain", header, rows)


def people_of(roster):
    """A `Person` for each row of a roster that is about one."""
    titles = [title.strip().lower() for title in roster.header]

    def cell(row, *wanted):
        for title in wanted:
            if title in titles and titles.index(title) < len(row):
                return one_line(row[titles.index(title)])
        return ""

    for i, row in enumerate(roster.rows):
        name = cell(row, "student", "full name", "name", "student name")
        name = name or f"{cell(row, 'first name')} {cell(row, 'last name')}".strip()
        ids = {cell(row, title) for title in ("id", "sid", "sis user id", "student id")}
        if roster.kind == "canvas" and (not cell(row, "id") or name.startswith("Points Possible")):
            continue
        if roster.kind == "moodle":
            ids.add(re.sub(r"^\D+", "", cell(row, "identifier")))
        email = cell(row, "email", "email address")
        logins = {cell(row, "sis login id"), cell(row, "login"), email, email.partition("@")[0]}
        if name or email:
            yield Person(i, name, email, ids=ids - {""}, logins=logins - {""})


def match(member, people):
    """The `Match` of a `Member` in a roster.

    By exact number, otherwise by e-mail, by login or the exact name, and last by the name without
    accents, case and order. A login counts only for files that have nothing but a name.
    """
    found_by = (
        lambda person: member.id and member.id in person.ids,
        lambda person: member.email and member.email.lower() == person.email.lower(),
        lambda person: exact(member.name) in names_of(person, exact) | logins_of(person, member),
        lambda person: normal(member.name) in names_of(person, normal) - {""},
    )
    for level, fits in enumerate(found_by):
        fitting = [person for person in people if fits(person)]
        if len(fitting) > 1:
            names = ", ".join(f"{person.name} (row {person.row + 2})" for person in fitting)
            return Match(None, level, f"fits several in the roster: {names}")
        if fitting:
            unknown = member.id or member.email
            note = f"found by name; {unknown} is not in the roster" if level > 1 and unknown else ""
            return Match(fitting[0], level, note)
    return Match(None, len(found_by), f"{member.name} is not in the roster")


def exact(name):
    """A name for comparing as it is written, but for case and spaces around it."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def names_of(person, form):
    """The names of a person, "Núñez, José" in both orders, in the form that is compared."""
    last, comma, given = person.name.partition(",")
    orders = (person.name, f"{given.strip()} {last}", f"{last} {given.strip()}")
    return {form(name) for name in (orders if comma else orders[:1])}


def logins_of(person, member):
    """The logins of a person, where the member is known by nothing else."""
    if member.id or member.email:
        return set()
    return {exact(login) for login in (*person.ids, *person.logins)} - {""}


class Claim(NamedTuple):
    """A result that may belong to a row of the roster."""

    level: int  # of `Match`
    result: dict


def fill_roster(args, results, submissions):
    """Write OUT/roster.csv; returns a result for everybody who has handed nothing in."""
    roster = read_roster(args.roster)
    people = list(people_of(roster))
    claims = claims_of(results, submissions, people)
    results_by_row = {}
    for row, claimed in claims.items():
        best = min(claim.level for claim in claimed)
        chosen = [claim.result for claim in claimed if claim.level == best]
        for claim in claimed:
            if len(chosen) > 1 or claim.result is not chosen[0]:
                others = [c.result["student"] for c in claimed if c.result is not claim.result]
                flag = f"shares a row of the roster with another: {', '.join(others)}"
                claim.result["flags"].append(flag)
        if len(chosen) == 1 and chosen[0]["score"] is not None:
            results_by_row[row] = chosen[0]
    write_roster(Path(args.out) / "roster.csv", roster, results_by_row, args.column)
    blank = {"status": "no submission", "score": None, "max": None, "tests": [], "flags": []}
    blank |= {"seconds": "", "sandbox": "", "path": "", "reason": ""}
    absent = [person for person in people if person.row not in claims]
    return [{"student": person.name or person.email, **blank} for person in absent]


def claims_of(results, submissions, people):
    """{row of the roster: its claims}; what does not fit is flagged."""
    result_by_path = {result["path"]: result for result in results}
    claims = {}
    for submission in submissions:
        result = result_by_path.get(submission.path)
        if submission.duplicate or result is None:
            continue
        for member in submission.members:
            person, level, note = match(member, people)
            if note:
                result["flags"].append(note)
            if person is not None:
                claims.setdefault(person.row, []).append(Claim(level, result))
    return claims


def write_roster(path, roster, results_by_row, column):
    """The course's own gradebook filled in, every other cell as it was (formulas made harmless).

    Args:
        path: the file to write.
        roster: the gradebook.
        results_by_row: {number of a row: result}.
        column: title of the assignment's column in a Canvas or plain gradebook.
    """
    points, text = columns_to_fill(roster, column)
    header = [*roster.header, *(t for t in (points, text) if t and t not in roster.header)]
    rows = [[*row, *[""] * (len(header) - len(row))] for row in roster.rows]
    for i, result in results_by_row.items():
        rows[i][header.index(points)] = number(result["score"])
        if text:
            rows[i][header.index(text)] = result["reason"] or summary_line(result)
    write_csv(path, [header, *rows])


def columns_to_fill(roster, column):
    """(title of the column for the points, of the one for a text or None)."""
    if roster.kind == "moodle":
        return "Grade", "Feedback comments"
    if roster.kind == "canvas":  # Canvas adds the number of the assignment: "GRPO (4711)"
        title = re.compile(rf"{re.escape(column)}( \(\d+\))?")
        column = next(filter(title.fullmatch, roster.header), column)
    return column, None
