"""Whose work is it: nothing is merged or dropped in silence, and no layout ends the run."""

import contextlib
import io
import os
import random
import zipfile
from pathlib import Path

import pytest
from grading_help import put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructor.grading.collect import collect
from instructor.grading.feedback import file_names
from instructor.grading.submission import Rejected, readable

METADATA = """
submission_{0}:
  :submitters:
  - :name: {1}
    :sid: '{2}'
    :email: {1}@example.org
  :created_at: 2026-11-01 10:00:00.0 Z
"""


def rows(path, **options):
    return {s.student: s for s in collect(path, **options) if not s.duplicate}


def zipped(files):
    """The bytes of a zip of {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def export(folder, *people):
    """A Gradescope export with one rewards.py for each name."""
    entries = []
    for number, name in enumerate(people, 1):
        put(folder, f"submission_{number}", f"who = '{name}'")
        entries.append(METADATA.format(number, name, 900 + number))
    (folder / "submission_metadata.yml").write_text("".join(entries))
    return folder


@pytest.mark.parametrize("wrapped", [False, True])
def test_metadata_of_a_student_name_nobody(tmp_path, wrapped):
    folder = export(tmp_path / "in" / "assignment_7_export", "ann", "bob", "eve")
    swapped = METADATA.format(3, "ann", 901) + METADATA.format(1, "eve", 903)
    (folder / "submission_3" / "submission_metadata.yml").write_text(swapped)
    got = rows(folder.parent if wrapped else folder)
    assert {name: row.source for name, row in got.items()} == {
        name: f"who = '{name}'".encode() for name in ("ann", "bob", "eve")
    }


def test_a_folder_that_the_metadata_do_not_name_is_a_row(tmp_path):
    folder = export(tmp_path / "in", "ann", "bob")
    put(folder, "submission_77", "a = 77")
    (folder / "submission_2" / "rewards.py").unlink()
    (folder / "submission_2").rmdir()
    got = rows(folder)
    assert got["submission_77"].source == b"a = 77"
    assert got["submission_77"].flags == ["not in submission_metadata.yml"]
    assert got["bob"].question == "Nothing is in it."


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{','.join(f'*{a}' for _ in range(9))}]}}\n"
    for a, b in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB.replace("a: &a", "submission_1: {':submitters': [{':name': &z [1]}]}\na: &a"),
        MERGES,
        "[" * 2000,
        "submission_1: [",
        "- 1",
        "",
        "? [1]\n: 2",
        "submission_1:\n  :submitters: 5\n  :created_at: 2026-99-99",
        "\0",
    ],
    ids=["bomb", "merges", "deep", "broken", "list", "empty", "key", "types", "nul"],
)
def test_odd_metadata_are_one_refusal_or_one_row(tmp_path, text):
    folder = export(tmp_path / "in", "ann")
    (folder / "submission_metadata.yml").write_text(text)
    with contextlib.suppress(Rejected):
        got = [row for row in collect(folder) if row.source]
        assert [row.source for row in got] == [b"who = 'ann'"]
        assert got[0].flags  # nobody's, and said so
        assert len(got[0].student) < 100


def test_names_that_resemble_each_other_stay_apart(tmp_path):
    names = ("group1_11", "group11_1", "Muller", "Müller", "ann", "Ann")
    for i, name in enumerate(names):
        put(tmp_path, name, f"a = {i}")
    assert {n: r.source for n, r in rows(tmp_path).items()} == {
        name: f"a = {i}".encode() for i, name in enumerate(names)
    }
    assert len(set(map(str.casefold, file_names(names).values()))) == len(names)


def test_several_files_beside_each_other_are_a_question(tmp_path):
    for name, more in (("ann", "x/rewards.py"), ("bob", "x/rewards.py"), ("eve", "y.py")):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / more).write_text("a = 1")
    (tmp_path / "ann" / "y").mkdir()
    (tmp_path / "ann" / "y" / "rewards.py").write_text("a = 2")
    (tmp_path / "bob" / "rewards.py").write_text("b = 1")
    (tmp_path / "eve" / "z.py").write_text("z = 1")
    (tmp_path / "zoe.py").write_text("a = 1")
    (tmp_path / "zoe").mkdir()
    (tmp_path / "zoe" / "rewards.py").write_text("a = 2")
    (tmp_path / "same.py").write_text("a = 1")
    (tmp_path / "same.zip").write_bytes(zipped({"rewards.py": "a = 1"}))
    (tmp_path / "nobody").mkdir()
    got = rows(tmp_path)
    assert "ann/x/rewards.py, ann/y/rewards.py" in got["ann"].question
    assert "eve/y.py, eve/z.py" in got["eve"].question and got["eve"].source == b""
    assert "Keep one" in got["zoe"].question
    assert got["bob"].source == b"b = 1"
    assert got["bob"].flags == ["also in the hand-in: bob/x/rewards.py"]
    assert got["same"].source == b"a = 1" and not got["same"].question
    assert got["nobody"].question == "Nothing is in it."


def test_a_file_without_a_name_beside_the_folders_is_a_question(tmp_path):
    put(tmp_path, "ann", "a = 1")
    (tmp_path / "rewards.py").write_text("a = 2")
    got = rows(tmp_path)
    assert got["ann"].source == b"a = 1" and "Whose is it?" in got["rewards"].question


def test_further_files_of_a_canvas_hand_in_do_not_hide_it(tmp_path):
    for name in ("rewards.py", "essay.pdf", "helper.py"):
        number = {"rewards.py": 5, "essay.pdf": 9, "helper.py": 7}[name]
        (tmp_path / f"doejane_1234_{number}_{name}").write_text(f"a = '{name}'")
    got = rows(tmp_path)
    assert got["doejane"].source == b"a = 'rewards.py'" and not got["doejane"].rejected
    assert got["doejane"].flags == ["further files: helper.py, essay.pdf"]


@pytest.mark.parametrize(
    "name, found",
    [
        ("./rewards.py", True),
        ("work\\rewards.py", True),
        ("./a/./b/rewards.py", True),
        ("é" * 300 + "/rewards.py", True),
        ("..\\..\\rewards.py", False),
        ("/rewards.py", False),
    ],
)
def test_names_in_a_zip(tmp_path, name, found):
    (tmp_path / "ann.zip").write_bytes(zipped({name: "a = 1"}))
    (tmp_path / "bob.py").write_text("b = 1")
    got = rows(tmp_path)
    assert got["bob"].source == b"b = 1"
    assert got["ann"].source == (b"a = 1" if found else b"")
    assert found or "outside" in got["ann"].rejected


def test_two_entries_of_one_name_are_rejected(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("rewards.py", "a = 1")
            file.writestr("rewards.py", "a = 2")
    (tmp_path / "ann.zip").write_bytes(buffer.getvalue())
    assert rows(tmp_path)["ann"].rejected == "two zip entries with one name"


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_no_utf8(tmp_path):
    for name in (b"\xff.py", b"\xfe.py", b"a\x1b[31m\n.py"):
        with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:
            file.write("a = 1")
    got = rows(tmp_path)
    assert set(got) == {"?", "? (2)", "a"}
    for row in got.values():
        assert row.path.encode() and row.path.isprintable()
    assert len({row.path for row in got.values()}) == 3


def test_one_student_with_thousands_of_files(tmp_path):
    files = {f"bob/{i}/x.py": "" for i in range(5000)}
    (tmp_path / "all.zip").write_bytes(zipped({"ann/rewards.py": "a = 1", **files}))
    got = rows(tmp_path / "all.zip")
    assert got["ann"].source == b"a = 1" and got["bob"].rejected == "more than 2000 files"


def test_folders_in_folders_in_folders(tmp_path):
    put(tmp_path, "ann", "a = 1")
    deep = tmp_path / "bob"
    with contextlib.chdir(tmp_path):
        for _ in range(60):
            deep = Path("d" * 100)
            deep.mkdir()
            os.chdir(deep)
        Path("rewards.py").write_text("b = 1")
    got = rows(tmp_path)
    assert got["ann"].source == b"a = 1" and len(got) == 2
    (other,) = set(got) - {"ann"}
    assert got[other].rejected
    with contextlib.chdir(tmp_path):  # pytest could not remove it
        for _ in range(60):
            os.chdir("d" * 100)
        Path("rewards.py").unlink()
        for _ in range(60):
            os.chdir("..")
            Path("d" * 100).rmdir()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("backup", ["rewards_backup.py", "rewards (1).py", "old rewards.py"])
def test_gradescope_hands_over_one_student_however_it_lies(tmp_path, wrapped, backup):
    folder = tmp_path / "work" if wrapped else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "rewards.py").write_text("a = 1")
    (folder / backup).write_text("a = 2")
    (tmp_path / "notes.txt").write_text("hello")
    ((name, row),) = rows(tmp_path, one=True).items()
    assert name == "submission" and row.source == b"a = 1"
    assert row.flags == [f"also in the hand-in: {backup}"]


# Anything that a disk or a platform can hold.


def test_damaged_zips_are_one_row_or_one_refusal(tmp_path):
    good = zipped({f"{name}/rewards.py": f"who = '{name}'\n" * 40 for name in ("ann", "bob")})
    rng = random.Random(0)
    for i in range(60):
        damaged = bytearray(good)
        for _ in range(1 + i % 3):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        outer = tmp_path / f"{i}.zip"
        outer.write_bytes(damaged)
        with contextlib.suppress(Rejected):
            assert all(row.source or row.rejected or row.question for row in collect(outer))
        course = tmp_path / f"course{i}"
        course.mkdir()
        (course / "eve.zip").write_bytes(damaged)
        (course / "zoe.py").write_text("z = 1")
        got = rows(course)
        assert set(got) == {"eve", "zoe"} and got["zoe"].source == b"z = 1"
        outer.write_bytes(damaged[: rng.randrange(len(damaged))])  # cut off
        with contextlib.suppress(Rejected):
            collect(outer)


NAMES = st.one_of(
    st.sampled_from(
        ["ann", "Ann", "rewards.py", "rewards (1).py", "a.zip", "submission_1", "work", "..", "."]
        + ["doejane_1_2_rewards.py", "Li_5_assignsubmission_file_", "submission_metadata.yml"]
        + ["a\\b", "./x", ".git", "__MACOSX", "ü", "u\u0308", "\u202egnp", "a\nb", "CON", "=1+1"]
    ),
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12),
)
LAYOUTS = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map(tuple),
    st.sampled_from([b"a = 1", b"", b"\xff", b"\0", b"PK\x03\x04", zipped({"rewards.py": "z"})]),
    min_size=1,
    max_size=8,
)
MANY = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


def assert_rows(path, tops):
    """Every hand-in has one row, or there is one clear refusal."""
    try:
        found = collect(path)
    except Rejected as error:
        assert "\n" not in str(error)
        return
    students = [row.student for row in found if not row.duplicate]
    assert len(students) == len(set(students)) and len({row.path for row in found}) == len(found)
    for row in found:
        assert row.student == readable(row.student) and row.path.encode()
        assert bool(row.source) + bool(row.rejected) + bool(row.question) <= 1
    assert len(found) <= tops


@MANY
@given(LAYOUTS)
def test_any_layout_in_a_zip(tmp_path_factory, layout):
    path = tmp_path_factory.mktemp("zip") / "in.zip"
    with zipfile.ZipFile(path, "w") as file:
        for parts, data in layout.items():
            name = "/".join(parts).encode("utf-8", "replace").decode()
            file.writestr(zipfile.ZipInfo(name), data)
    assert_rows(path, len(layout) + 1)


@MANY
@given(LAYOUTS)
def test_any_layout_in_a_folder(tmp_path_factory, layout):
    root = tmp_path_factory.mktemp("folder")
    for parts, data in layout.items():
        with contextlib.suppress(OSError, ValueError):
            file = root.joinpath(*(p for p in parts if p not in ("..", ".")), "rewards.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    tops = len(list(root.rglob("*")))
    assert_rows(root, tops + 1)
