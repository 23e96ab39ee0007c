"""The gradebook of a course: read it, and find the person who handed something in."""

import csv
import io
import re
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
        ids = {cell(row, "id"), cell(row, "sid"), identifier, cell(row, "sis login id")}
        email = cell(row, "email", "email address")
        if name or email:
            yield {"row": i, "name": name, "email": email, "ids": ids - {""}}


def match(submission, people):
    """The person of a roster who handed this in, or None: by id, e-mail or name."""
    for person in people:
        if submission.id and submission.id in person["ids"]:
            return person
        if submission.email and submission.email.lower() == person["email"].lower():
            return person
    handed_in_as = {normal(submission.name), normal(submission.student)}
    for person in people:
        last, _, first = person["name"].partition(",")
        names = {normal(person["name"]), normal(f"{first} {last}"), normal(f"{last} {first}")}
        logins = {normal(login) for login in person["ids"]}
        logins.add(normal(person["email"].partition("@")[0]))
        if handed_in_as & (names | logins) - {""}:
            return person
    return None
