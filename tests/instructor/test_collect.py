"""Submissions are found in plain folders and in the exports of three platforms."""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from grading_help import put

from instructor.grading.collect import collect
from instructor.grading.reading import Folder
from instructor.grading.submission import Member, Rejected


def found(path):
    return {s.student: s for s in collect(path) if not s.duplicate}


def as_zip(folder, target):
    return Path(shutil.make_archive(str(target), "zip", folder))


@pytest.mark.parametrize("zipped", [False, True])
def test_names_of_a_plain_folder(tmp_path, zipped):
    course = tmp_path / "course"
    put(course, "Zoë O'Neil", "a = 1")
    (course / "bob.py").write_text("b = 1")
    with zipfile.ZipFile(course / "eve.zip", "w") as file:
        file.writestr("hand-in/rewards.py", "c = 1")
        file.writestr("__MACOSX/hand-in/._rewards.py", "junk")
    (course / "mallory").mkdir()
    (course / "mallory" / "essay.txt").write_text("my dog …")
    (course / ".DS_Store").write_text("junk")
    got = found(as_zip(course, tmp_path / "all") if zipped else course)
    assert {n: s.source for n, s in got.items() if not s.question} == {
        "Zoë O'Neil": b"a = 1",
        "bob": b"b = 1",
        "eve": b"c = 1",
    }
    assert got["mallory"].question == "No rewards.py, only essay.txt: a text: ask for rewards.py."


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder"])
def test_names_of_a_gradescope_export(tmp_path, form):
    export = tmp_path / "download" / "assignment_7_export"
    for number in (101, 102, 103):
        put(export, f"submission_{number}", f"n = {number}")
    (export / "submission_metadata.yml").write_text(
        """
submission_101:
  :submitters:
  - :name: José Núñez
    :sid: '900'
    :email: jose@example.org
  :created_at: 2026-11-01 10:00:00.0 Z
submission_102:
  :submitters:
  - :name: José Núñez
    :sid: '900'
    :email: jose@example.org
  :created_at: 2026-11-02 10:00:00.0 Z
submission_103: !ruby/hash:ActiveSupport::HashWithIndifferentAccess
  :submitters:
  - :name: Ann
  - :name: Ben
""",
        encoding="utf-8",
    )
    source = {
        "folder": lambda: export,
        "zip": lambda: as_zip(export, tmp_path / "flat"),
        "zip with a folder": lambda: as_zip(export.parent, tmp_path / "deep"),
    }[form]()
    everything = collect(source)
    got = {s.student: s for s in everything if not s.duplicate}
    assert got["José Núñez"].source == b"n = 102"
    assert got["José Núñez"].members == (Member("José Núñez", "jose@example.org", "900"),)
    assert got["Ann, Ben"].members == (Member("Ann"), Member("Ben"))
    assert got["José Núñez"].flags == ["2 submissions; the newest is graded"]
    assert got["Ann, Ben"].source == b"n = 103"
    assert [s.source for s in everything if s.duplicate] == [b"n = 101"]


def test_names_of_a_canvas_export(tmp_path):
    export = tmp_path / "submissions"
    export.mkdir()
    files = {
        "doejane_1234_98761_rewards.py": "v = 1",
        "doejane_1234_98799_rewards-1.py": "v = 2",
        "núñezjosé_LATE_1235_98765_rewards.py": "v = 3",
        "doejane_7777_98800_rewards.py": "v = 4",
    }
    for name, text in files.items():
        (export / name).write_text(text)
    everything = collect(export)
    got = {(s.student, s.members[0].id): s for s in everything if not s.duplicate}
    assert got["doejane (1234)", "1234"].source == b"v = 2"
    assert got["doejane (7777)", "7777"].source == b"v = 4"  # a namesake, not a duplicate
    assert got["núñezjosé", "1235"].flags == ["late"]
    older = [s for s in everything if s.duplicate]
    assert [(s.student, s.source) for s in older] == [("doejane (1234)", b"v = 1")]


@pytest.mark.parametrize(
    "layout, student",
    [
        ("ann", "ann"),
        ("ann/code", "ann"),
        ("ann/code/src", "ann"),
        ("course/ann", "ann"),  # a zip that is called so, or its folder
        ("course", "course"),
        ("download/Ann Lee_501_assignsubmission_file_/code", "Ann Lee"),
        ("download/397063-25 - Ann Lee - Nov 1, 2026 1000 AM", "Ann Lee"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_class_of_one(tmp_path, layout, student, zipped):
    """`ann/code/rewards.py` alone was the hand-in of somebody called code."""
    course = tmp_path / "course"
    put(course, layout, "a = 1")
    (row,) = collect(as_zip(course, tmp_path / "course") if zipped else course)
    assert (row.student, row.source, row.flags) == (student, b"a = 1", [])


def test_names_of_a_moodle_export(tmp_path):
    put(tmp_path, "Zoë O'Neil_501_assignsubmission_file_", "v = 1")
    (tmp_path / "Li Wei_502_assignsubmission_file_rewards.py").write_text("v = 2")
    got = found(tmp_path)
    assert got["Zoë O'Neil"].members[0].id == "501" and got["Li Wei"].source == b"v = 2"


def test_an_encoding_that_is_declared_is_none_of_the_graders_business(tmp_path):
    """What it holds is decoded in the sandbox alone: of punycode, 256 KB take minutes."""
    put(tmp_path, "ann", "# coding: latin-1\na = 'ü'".encode("latin-1"))
    put(tmp_path, "bob", b"# coding: punycode\n" + b"a" * 250_000 + b"-\xff" + b"a1" * 2_000)
    put(tmp_path, "eve", "\n\n# coding: latin-1\na = 'ü'".encode("latin-1"))
    put(tmp_path, "zoe", "# coding: utf-8\na = 'ü'".encode("latin-1"))
    rejected = {name: row.rejected for name, row in found(tmp_path).items()}
    assert rejected == {
        "ann": "",
        "bob": "",
        "eve": "not UTF-8 text (byte 25)",
        "zoe": "not UTF-8 text (byte 21)",
    }


def test_what_is_no_regular_file_is_rejected_and_not_read(tmp_path):
    (tmp_path / "kept.txt").write_text("secret = 1")
    course = tmp_path / "course"
    put(course, "ann", "a = 1")
    for student in ("link", "loop", "folder", "pipe"):
        (course / student).mkdir()
    (course / "link" / "rewards.py").symlink_to(tmp_path / "kept.txt")
    (course / "loop" / "rewards.py").symlink_to("rewards.py")
    (course / "folder" / "rewards.py").symlink_to(course / "ann")
    os.mkfifo(course / "pipe" / "rewards.py")
    (course / "peer").symlink_to(course / "ann")
    got = found(course)
    assert got["ann"].source == b"a = 1"
    for student in ("link", "loop", "folder"):
        assert got[student].rejected == "a symbolic link" and got[student].source == b""
    assert got["pipe"].rejected == "not a regular file"
    assert got["peer"].rejected and got["peer"].source == b""


def test_a_file_that_the_disk_does_not_give_is_one_row(tmp_path, monkeypatch):
    for student in ("ann", "bob"):
        put(tmp_path, student, "a = 1")
    whole = Folder.read

    def breaks(self, path, limit):
        if path.parts[0] == "bob":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(self, path, limit)

    monkeypatch.setattr(Folder, "read", breaks)
    got = found(tmp_path)
    assert got["ann"].source == b"a = 1"
    assert got["bob"].rejected == "cannot be read (Input/output error)"


def test_nothing_to_grade_is_one_line(tmp_path):
    with pytest.raises(Rejected, match="there is no submission"):
        collect(tmp_path)
    with pytest.raises(Rejected, match="no folder and no zip"):
        collect(tmp_path / "missing")
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(Rejected, match="not a zip file that can be read"):
        collect(tmp_path / "x.zip")
