"""The CSV files: the course's own gradebook filled in, and grades.csv."""

import codecs
import csv

import pytest
from grading_help import result_of

from instructor.grading.feedback import file_names
from instructor.grading.gradebook import cell, csv_text, read_csv, write_grades
from instructor.grading.roster import match, people_of, read_roster, write_roster
from instructor.grading.submission import GraderError, Member


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
    assert (tmp_path / "out.csv").read_bytes().startswith(codecs.BOM_UTF8)  # as it came
    with open(tmp_path / "out.csv", newline="", encoding="utf-8-sig") as file:
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


def test_no_formula_of_any_width_reaches_a_spreadsheet():
    for text in ("=1+1", "＝cmd|' calc'!A0", "＠SUM(1+1)", "＋1+1", "－1+1", " =1", "\t=1", "−1+1"):
        assert cell(text) == f"'{text}"
    assert [cell(text) for text in ("-", "-5", "+0.5", "87,5", "a=1")] == [
        *("-", "-5", "+0.5", "87,5", "a=1")
    ]


def test_no_page_of_feedback_is_written_over():
    """`bob-2` wrote over the page that `bob` had got beside `BOB`."""
    names = ["BOB", "bob", "bob-2", "Bob", "bob-2-2"]
    files = file_names(names)
    assert len({name.casefold() for name in files.values()}) == len(names) == len(files)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_is_read_as_a_spreadsheet_has_saved_it(tmp_path, mark):
    (tmp_path / "a.csv").write_text(
        f'\ufeffname{mark}"a, b; c"\r\nZoë{mark}1,5\r\n'.replace("1,5", '"1,5"'), encoding="utf-8"
    )
    table = read_csv(tmp_path / "a.csv", "the table")
    assert table == (["name", "a, b; c"], [["Zoë", "1,5"]], mark, "utf-8-sig")
    (tmp_path / "b.csv").write_bytes("näme;x\n".encode("latin-1"))
    with pytest.raises(GraderError, match="is not UTF-8: save it as 'CSV UTF-8'"):
        read_csv(tmp_path / "b.csv", "the table")
