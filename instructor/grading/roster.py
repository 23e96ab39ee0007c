"""The gradebook of a course: read it, and find the person who handed something in."""

import csv
import io
import re
import unicodedata
from pathlib import Path

from instructor.grading.submission import Rejected, normal
from instructor.grading.text import one_line


def read_roster(path):
    """(kind, header, rows) of a gradebook: kind is canvas, moodle or plain.

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
        return "canvas", header, rows
    if {"Identifier", "Full name"} <= set(header):
        return "moodle", header, rows
    return "plain", header, rows


def people_of(kind, header, rows):
    """One dict of name, email and ids for each person of a roster, with the number of its row."""
    titles = [title.strip().lower() for title in header]

    def cell(row, *wanted):
        for title in wanted:
            if title in titles and titles.index(title) < len(row):
                return one_line(row[titles.index(title)])
        return ""

    for i, row in enumerate(rows):
        name = cell(row, "student", "full name", "name", "student name")
        name = name or f"{cell(row, 'first name')} {cell(row, 'last name')}".strip()
        if kind == "canvas" and (not cell(row, "id") or name.strip().startswith("Points Possible")):
            continue
        identifier = re.sub(r"^\D+", "", cell(row, "identifier")) if kind == "moodle" else ""
        ids = {cell(row, title) for title in ("id", "sid", "sis user id", "student id")}
        email = cell(row, "email", "email address")
        logins = {cell(row, "sis login id"), cell(row, "login"), email, email.partition("@")[0]}
        if name or email:
            person = {"row": i, "name": name, "email": email}
            yield {**person, "ids": (ids | {identifier}) - {""}, "logins": logins - {""}}


def match(member, people):
    """The person of a roster who is a `Member`.

    By exact number first, then by e-mail, by login or the exact name, and last by the name without
    accents, case and order. A login counts only for files that have nothing but a name.

    Returns:
        (person or None, how well: 0 for a number to 3 for a similar name, what to tell about it).
    """
    found_by = (
        lambda person: member.id and member.id in person["ids"],
        lambda person: member.email and member.email.lower() == person["email"].lower(),
        lambda person: exact(member.name) in names_of(person, exact) | logins_of(person, member),
        lambda person: normal(member.name) in names_of(person, normal) - {""},
    )
    for level, fits in enumerate(found_by):
        fitting = [person for person in people if fits(person)]
        if len(fitting) > 1:
            names = ", ".join(f"{person['name']} (row {person['row'] + 2})" for person in fitting)
            return None, level, f"fits several in the roster: {names}"
        if fitting:
            unknown = member.id or member.email
            note = f"found by name; {unknown} is not in the roster" if level > 1 and unknown else ""
            return fitting[0], level, note
    return None, len(found_by), f"{member.name} is not in the roster"


def exact(name):
    """A name for comparing as it is written, but for case and spaces around it."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def names_of(person, form):
    """The names of a person, "Núñez, José" in both orders, in the form that is compared."""
    last, comma, first = person["name"].partition(",")
    orders = (person["name"], f"{first.strip()} {last}", f"{last} {first.strip()}")
    return {form(name) for name in (orders if comma else orders[:1])}


def logins_of(person, member):
    """The logins of a person, where the member is known by nothing else."""
    if member.id or member.email:
        return set()
    return {exact(login) for login in (*person["ids"], *person["logins"])} - {""}
