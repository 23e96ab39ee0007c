"""Who in the roster has handed in: exact numbers first, and what fits two is entered nowhere."""

import csv
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from grading_help import result_of

from instructor.grading.gradebook import csv_text
from instructor.grading.roster import Roster, columns_to_fill, fill_roster
from instructor.grading.submission import GraderError, Member, Submission

HEADER = ("name", "email", "id", "login", "GRPO")


class Filled(NamedTuple):
    """What becomes of a roster."""

    points: dict  # name of the row -> points
    flags: dict  # student -> flags
    absent: set


def filled(tmp_path, people, handed):
    """The roster of these people filled in from hand-ins {student: members}."""
    roster = tmp_path / "roster.csv"
    roster.write_text(csv_text([HEADER, *people]), encoding="utf-8")
    results = [
        {**result_of(student, score=float(i)), "path": student, "reason": "x"}
        for i, student in enumerate(handed, 1)
    ]
    submissions = [
        Submission(student, student, members=tuple(members)) for student, members in handed.items()
    ]
    args = SimpleNamespace(roster=roster, out=tmp_path, column="GRPO")
    absent, _ = fill_roster(args, results, submissions)
    with open(tmp_path / "roster.csv", newline="", encoding="utf-8") as file:
        points = {row[0]: row[-1] for row in list(csv.reader(file))[1:]}
    flags = {result["student"]: "; ".join(result["flags"]) for result in results}
    return Filled(points, flags, {result["student"] for result in absent})


def test_a_number_comes_before_an_email_and_a_name(tmp_path):
    people = [
        ["Ann Lee", "ann@x", "1", "alee", ""],
        ["Bob Ray", "bob@x", "2", "bray", ""],
        ["Eve Fox", "eve@x", "3", "efox", ""],
    ]
    handed = {
        "Bob Ray": [Member("Bob Ray", "bob@x", "1")],  # Ann's number
        "Ann Lee": [Member("Ann Lee", "bob@x")],
        "efox": [Member("efox")],
    }
    points, flags, absent = filled(tmp_path, people, handed)
    assert points == {"Ann Lee": "1", "Bob Ray": "2", "Eve Fox": "3"} and absent == set()


def test_every_member_of_a_group_gets_the_points(tmp_path):
    people = [["Ann", "a@x", "1", "", ""], ["Ben", "b@x", "2", "", ""], ["Eve", "", "3", "", ""]]
    handed = {"Ann, Ben": [Member("Ann", "a@x"), Member("Ben", "b@x")]}
    points, flags, absent = filled(tmp_path, people, handed)
    assert points == {"Ann": "1", "Ben": "1", "Eve": ""} and absent == {"Eve"}


def test_what_fits_two_is_entered_nowhere_and_said(tmp_path):
    people = [
        ["Jose", "j1@x", "1", "", ""],
        ["José Núñez", "j2@x", "2", "jose", ""],
        ["Li Wei", "l1@x", "3", "", ""],
        ["Li Wei", "l2@x", "4", "", "7"],
        ["Müller", "m@x", "5", "", ""],
    ]
    handed = {"jose": [Member("jose")], "Li Wei": [Member("Li Wei")]}
    handed |= {"Muller": [Member("Muller")], "Müller": [Member("Müller")]}
    points, flags, absent = filled(tmp_path, people, handed)
    assert "fits several in the roster: Jose (row 2), José Núñez (row 3)" in flags["jose"]
    assert "fits several in the roster: Li Wei (row 4), Li Wei (row 5)" in flags["Li Wei"]
    assert points["Jose"] == points["José Núñez"] == "" and points["Li Wei"] == "7"
    assert points["Müller"] == "4"  # the exact name
    assert "shares a row of the roster with another: Müller" in flags["Muller"]
    assert flags["Müller"] == ""


def test_a_display_name_is_no_login(tmp_path):
    people = [["Ann Lee", "ann@x", "1", "bob", ""], ["Bob Ray", "bob@x", "2", "bray", ""]]
    handed = {"bob": [Member("bob", "bob@elsewhere", "77")]}
    points, flags, absent = filled(tmp_path, people, handed)
    assert points == {"Ann Lee": "", "Bob Ray": ""} and "not in the roster" in flags["bob"]
    handed = {"Ann Lee": [Member("Ann Lee", id="77")]}
    points, flags, absent = filled(tmp_path, people, handed)
    assert points["Ann Lee"] == "1"
    assert flags["Ann Lee"] == "found by name; 77 is not in the roster"


def test_names_of_a_roster_are_made_harmless_where_they_enter(tmp_path):
    people = [["Ann\u2028\x1b[31m Lee\n", "ann@x", "1", "", ""], ["Ben\u202e", "", "2", "", ""]]
    points, flags, absent = filled(tmp_path, people, {})
    assert absent == {"Ann Lee", "Ben"}


def test_an_open_question_leaves_the_gradebook_as_it_is(tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text(csv_text([HEADER, ["Ann", "a@x", "1", "", "5"]]), encoding="utf-8")
    result = {**result_of("Ann", score=None), "path": "Ann", "reason": "Which?"}
    submission = Submission("Ann", "Ann", members=(Member("Ann"),), question="Which?")
    args = SimpleNamespace(roster=roster, out=tmp_path, column="GRPO")
    assert fill_roster(args, [result], [submission]) == (
        [],
        "0 of 1 of the roster entered, column GRPO",
    )
    assert '"5"' in roster.read_text()


@pytest.mark.parametrize("column", ["ID", "Student", "sis login id", "Email"])
def test_who_a_student_is_is_not_overwritten_with_points(column):
    roster = Roster("plain", ["ID", "Student", "SIS Login ID", "Email", "GRPO"], [])
    with pytest.raises(GraderError, match=f"the column {column} says who a student is"):
        columns_to_fill(roster, column)
    assert columns_to_fill(roster, "GRPO") == ("GRPO", None)


def test_a_roster_in_which_nobody_is_known_says_what_it_needs(tmp_path):
    (tmp_path / "book.csv").write_text("Familienname;Vorname\nDoe;Jane\n")
    args = SimpleNamespace(out=tmp_path, roster=tmp_path / "book.csv", column="GRPO")
    assert fill_roster(args, [], [])[1].endswith("it needs a column ID, Login, Name or Email")
