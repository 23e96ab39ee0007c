"""The gradebook of a course: read it, find the people who handed something in, fill it in."""

import collections
import dataclasses
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from instructor.grading.feedback import summary_line
from instructor.grading.gradebook import number, read_csv, write_csv
from instructor.grading.submission import GraderError, Member, normal
from instructor.grading.text import one_line

IDS = ("id", "sid", "sis user id", "student id", "id number", "orgdefinedid")
LOGINS = ("sis login id", "login", "login id", "username", "user name", "github_username")
NAMES = ("student", "full name", "name", "student name", "identifier")
EMAILS = ("email", "email address")
# Moodle's column for the grade in languages of its own, where it is not called "Grade".
GRADES = ("Grade", "Bewertung", "Note", "Calificación", "Valutazione", "Cijfer", "Nota", "Ocena")


class Roster(NamedTuple):
    """A gradebook as the platform exports it."""

    kind: str  # canvas, moodle or plain
    header: list[str]
    rows: list[list[str]]
    delimiter: str = ","
    encoding: str = "utf-8"


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
        GraderError: it is no CSV with a header.
    """
    header, rows, *form = read_csv(path, "the roster")
    titles = {title.strip().lower() for title in header}
    if len(header) < 2 and not titles & {*IDS, *LOGINS, *NAMES, *EMAILS}:
        raise GraderError(f"the roster '{path}' has no header of at least two columns")
    if {"student", "id"} <= titles:
        return Roster("canvas", header, rows, *form)
    if "identifier" in titles and "grade" in titles or numbered(rows):
        return Roster("moodle", header, rows, *form)
    return Roster("plain", header, rows, *form)


def numbered(rows):
    """Whether the first column is Moodle's: the same word and a number, "Participant 501"."""
    words = {re.sub(r"\d+$", "", row[0]) for row in rows}
    return len(words) == 1 and all(re.fullmatch(r"[^\W\d_]{3}\D*\d+", row[0]) for row in rows)


def people_of(roster):
    """A `Person` for each row of a roster that is about one."""
    titles = [title.strip().lower() for title in roster.header]

    def cells(row, *wanted):
        """What a row has in these columns; Brightspace puts # before a number or a login."""
        found = [one_line(row[titles.index(t)]) for t in wanted if t in titles[: len(row)]]
        return [text.lstrip("#") for text in found if text not in ("", "-")]

    def first(row, *wanted):
        return next(iter(cells(row, *wanted)), "")

    for i, row in enumerate(roster.rows):
        name = first(row, *NAMES[:-1])
        name = name or f"{first(row, 'first name')} {first(row, 'last name')}".strip()
        ids = {*cells(row, *IDS)}
        if roster.kind == "canvas" and (not first(row, "id") or name.startswith("Points Possible")):
            continue
        email = first(row, *EMAILS)
        if roster.kind == "moodle":
            ids.add(re.sub(r"^\D+", "", row[0]))
            email = email or next((one_line(text) for text in row[1:4] if "@" in text), "")
            name = name or (one_line(row[1]) if email else one_line(row[0]))
        logins = {*cells(row, *LOGINS), email, email.partition("@")[0]}
        logins |= {*cells(row, "identifier")} if roster.kind == "plain" else set()
        person = Person(i, name, email, ids=ids - {""}, logins=logins - {""})
        if name or email or person.logins or person.ids:
            yield person


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


def title_of(submissions, people):
    """What stands before every login in an export: "GRPO_" of Blackboard, "grpo-" of GitHub
    Classroom; empty where there is no such thing."""
    names = [exact(member.name) for one in submissions for member in one.members]
    logins = sorted({exact(login) for person in people for login in person.logins})
    titles = collections.Counter(
        name.removesuffix(login) for name in names for login in logins if name.endswith(login)
    )
    (title, _), *_ = titles.most_common(1) or [("", 0)]
    return title if title.endswith(("_", "-")) else ""


class Claim(NamedTuple):
    """A result that may belong to a row of the roster."""

    level: int  # of `Match`
    result: dict


def fill_roster(args, results, submissions, persons=()):
    """Write OUT/roster.csv.

    Args:
        args, results, submissions: of the run.
        persons: {student: who in the roster that is, where a person has said so}.

    Returns:
        (a result for everybody who has handed nothing in, how many were entered as a sentence)
    """
    roster = read_roster(args.roster)
    people = list(people_of(roster))
    claims = claims_of(results, submissions, people, dict(persons))
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
    column, _ = columns_to_fill(roster, args.column)
    entered = f"{len(results_by_row)} of {len(people)} of the roster entered, column {column}"
    if not people:
        entered = "nobody is known in the roster: it needs a column ID, Login, Name or Email"
    names = [person.name or person.email or min(person.logins | person.ids) for person in absent]
    return [{"student": name, **blank} for name in names], entered


def claims_of(results, submissions, people, persons):
    """{row of the roster: its claims}; what does not fit is flagged."""
    result_by_path = {result["path"]: result for result in results}
    title = title_of(submissions, people)
    claims = {}
    for submission in submissions:
        result = result_by_path.get(submission.path)
        if submission.duplicate or result is None:
            continue
        if said := persons.get(submission.student):
            found = [found_by_person(said, people)]
        else:
            found = [found_by_export(member, people, title) for member in submission.members]
        for person, level, note in found:
            if note:
                result["flags"].append(note)
            if person is not None:
                claims.setdefault(person.row, []).append(Claim(level, result))
    return claims


def found_by_export(member, people, title):
    """The `Match` of a member, without what the platform puts before a login if need be."""
    found = match(member, people)
    if found.person is None and title and exact(member.name).startswith(title):
        shorter = match(Member(member.name[len(title) :]), people)
        return shorter if shorter.person else found
    return found


def found_by_person(said, people):
    """The `Match` of what a person has written about somebody: a number, a login, a name. It comes
    before all others."""
    matches = [match(Member("", "", said), people), match(Member(said), people)]
    found = next((each for each in matches if each.person), matches[-1])
    return found._replace(level=-1) if found.person else found


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
    write_csv(path, [header, *rows], roster.delimiter, roster.encoding)


def columns_to_fill(roster, column):
    """(title of the column for the points, of the one for a text or None).

    Raises:
        GraderError: a platform's own gradebook has none, and would not take back a new one; or it
            is a column that says who somebody is.
    """
    if column.lower() in {*IDS, *LOGINS, *NAMES, *EMAILS}:
        raise GraderError(f"the column {column} says who a student is: --column is for the points.")
    # Canvas: "GRPO (4711)"; Blackboard: "GRPO [Total Pts: 100 Score] |4711"; Brightspace: "GRPO
    # Points Grade <Numeric MaxPoints:100>".
    title = re.compile(rf"{re.escape(column)}(?: \(\d+\)| \[.*| Points Grade.*)?")
    points = next(filter(title.fullmatch, roster.header), None)
    if roster.kind != "moodle":
        return points or column, None
    points = points or next((title for title in GRADES if title in roster.header), None)
    if points is None:
        raise GraderError("which column of the roster is for the points? --column TITLE says it.")
    texts = [t for t in roster.header if re.search(r"feedback|[ck]om+ent", t, re.IGNORECASE)]
    return points, next(iter(texts), "Feedback comments")
