"""The CSV files: the course's own gradebook filled in, and grades.csv."""

import csv

from grading_help import result_of

from instructor.grading.gradebook import csv_text, write_grades
from instructor.grading.roster import match, people_of, read_roster, write_roster
from instructor.grading.submission import Member


def test_a_canvas_gradebook_is_filled_in(tmp_path):
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "GRPO (4711)"]
    rows = [
        ["    Points Possible", "", "", "", "", "100"],
        ["Núñez, José", "1235", "s1", "jose", 'A, "1"', ""],
        ["=cmd|x, Eve", "1236", "s2", "eve", "A", "3"],
    ]
    (tmp_path / "gradebook.csv").write_text(csv_text([header, *rows]), encoding="utf-8-sig")
    roster = read_roster(tmp_path / "gradebook.csv")
    people = list(people_of(roster))
    jose = match(Member("nunezjose"), people).person
    by_id = match(Member("x", id="1235"), people).person
    assert roster.kind == "canvas" and len(people) == 2 and jose is by_id and jose.row == 1
    write_roster(tmp_path / "out.csv", roster, {1: result_of("José")}, "GRPO")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        got = list(csv.reader(file))
    assert got[0] == header and got[1][5] == "100"
    assert got[2] == ["Núñez, José", "1235", "s1", "jose", 'A, "1"', "87.5"]
    assert got[3][0] == "'=cmd|x, Eve" and got[3][5] == "3"  # who handed nothing in keeps the cell


def test_a_moodle_worksheet_is_filled_in(tmp_path):
    header = ["Identifier", "Full name", "Email address", "Grade", "Feedback comments"]
    rows = [["Participant 501", "Zoë O'Neil", "zoe@example.org", "", ""]]
    (tmp_path / "m.csv").write_text(csv_text([header, *rows]), encoding="utf-8")
    roster = read_roster(tmp_path / "m.csv")
    assert match(Member("Z", id="501"), list(people_of(roster))).person.row == 0
    result = {**result_of("Z"), "reason": "-1 = good"}
    write_roster(tmp_path / "out.csv", roster, {0: result}, "GRPO")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][2:] == ["zoe@example.org", "87.5", "'-1 = good"]


def test_grades_open_in_a_real_reader(tmp_path):
    import pandas

    names = ["Núñez, José", '=HYPERLINK("x")', "+1", 'O"Neil', "@sum", "line\nbreak"]
    write_grades(tmp_path / "grades.csv", [result_of(name) for name in names])
    table = pandas.read_csv(tmp_path / "grades.csv")
    want = ["Núñez, José", '\'=HYPERLINK("x")', "+1", 'O"Neil', "'@sum", "line\nbreak"]
    assert table["student"].tolist() == want and table["score"].tolist() == [87.5] * 6
    assert [c for c in ("status", "max", "flags", "seconds", "sandbox") if c not in table] == []
