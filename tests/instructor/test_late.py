"""What a late file costs, by the times that four platforms tell."""

import re
import time
import zipfile

import pytest
from grading_help import graded

from instructor.grading.collect import collect
from instructor.grading.command import RUBRIC
from instructor.grading.late import days_late, with_late
from instructor.grading.points import read_rubric
from instructor.grading.submission import GraderError, Submission

EXPORTS = {
    "blackboard": "GRPO_ann_attempt_2026-12-02-11-30-00_rewards.py",
    "brightspace": "1-2 - ann - Dec 2, 2026 1130 AM/rewards.py",
    "gradescope": "submission_7/rewards.py",
    "canvas": "annlee_LATE_4243_20261203_rewards.py",  # a number, and no time
    "moodle": "ann_1_assignsubmission_file/rewards.py",
}
METADATA = """
submission_7:
  :submitters:
  - :name: ann
  :created_at: 2026-12-02 10:30:00.5 Z
"""
BLACKBOARD = "GRPO_{}_attempt_2026-12-{}_rewards.py"


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    """An hour before UTC in December."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def rubric(tmp_path, due, per_day):
    text = RUBRIC.read_text(encoding="utf-8")
    text, times = re.subn("late:\n.*\n.*", f"late: {{due: {due}, per_day: {per_day}}}", text)
    assert times == 1
    path = tmp_path / "rubric.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "due, came, days",
    [
        ("2026-12-01 12:00", "2026-12-01-12-00-00", 0),  # Blackboard, to the second
        ("2026-12-01 12:00", "2026-12-01-12-00-01", 1),
        ("2026-12-01 12:00", "2026-12-02-12-00-00", 1),
        ("2026-12-01 12:00", "2026-12-02-12-00-01", 2),
        ("2026-12-01", "2026-12-01-23-59-59", 0),  # a day counts to its end
        ("2026-12-01", "20261202 0001", 1),  # Brightspace
        ("2026-12-01 12:00", "2026-12-01 11:00:00+00:00", 0),  # Gradescope: noon in Berlin
        ("2026-12-01 12:00", "2026-12-01 11:00:01+00:00", 1),
        ("2026-12-01 12:00+00:00", "2026-12-01-13-00-00", 0),
        ("2026-12-01 12:00", "", 0),  # Moodle, a plain folder
        ("2026-12-01 12:00", "soon", 0),
        (None, "2026-12-09-00-00-00", 0),
    ],
)
def test_days_begun_after_the_deadline(due, came, days):
    assert days_late(Submission("ann", "a.py", handed_in=came), due) == days


@pytest.mark.parametrize("due", [None, "2026-12-01"])
def test_what_is_only_called_late_is_one_day(due):
    assert days_late(Submission("ann", "a.py", flags=["late"]), due) == 1


def test_nobody_claims_to_know_by_how_much():
    late = Submission("ann", "a.py", flags=["late"])
    result = {"path": "a.py", "status": "graded", "score": 50.0, "flags": ["late"]}
    (found,) = with_late([result], [late], {"due": None, "per_day": 0.1})
    assert found["flags"] == ["late"] and found["score"] == 45.0
    assert found["corrections"] == ["late (−10% of the points)"]


def test_every_platform_that_has_times_tells_them(tmp_path):
    days = {}
    for platform, name in EXPORTS.items():
        file = tmp_path / platform / name
        file.parent.mkdir(parents=True)
        file.write_text("x = 1")
        if platform == "gradescope":
            (tmp_path / platform / "submission_metadata.yml").write_text(METADATA)
        (row,) = collect(tmp_path / platform)
        days[platform] = days_late(row, "2026-12-01 11:00")
    assert days == {"blackboard": 2, "brightspace": 2, "gradescope": 2, "canvas": 1, "moodle": 0}


def test_late_days_cost_points_in_every_file_and_again_by_another_rubric(tmp_path, sevens):
    days = {"ann": "01-11-00-00", "bo": "02-11-00-00", "cid": "09-11-00-00"}
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for name, day in days.items():
            file.writestr(BLACKBOARD.format(name, day), "x = 1")
    (tmp_path / "book.csv").write_text("login,GRPO\nann,\nbo,\ncid,\n")
    path = rubric(tmp_path, "2026-12-01 12:00", 0.25)
    results, _ = graded(tmp_path, f"--rubric={path}")
    assert [result["score"] for result in results] == [7.0, 5.25, 0.0]
    out = tmp_path / "out"
    assert '"bo","5.25"' in (out / "roster.csv").read_text()
    pages = [(out / "feedback" / f"GRPO_{name}.md").read_text() for name in days]
    assert "late" not in pages[0]
    assert "- late by 1 day (−25% of the points)" in pages[1]
    assert "- late by 8 days (−100% of the points)" in pages[2]
    assert "late by 8 days" in (out / "grades.csv").read_text(encoding="utf-8")
    assert "late" not in (out / "results.jsonl").read_text(encoding="utf-8")  # so nothing adds up

    rows = "student,person,points,reason\nGRPO_bo,,1,was ill\n"
    (out / "corrections.csv").write_text(rows, encoding="utf-8")
    path = rubric(tmp_path, "2026-12-01 12:00", 0.1)
    results, _ = graded(tmp_path, f"--rubric={path}", "--resume")
    assert [result["score"] for result in results] == [7.0, 7.3, 1.4]  # 6.3 + 1; 7 · 0.2
    page = (out / "feedback" / "GRPO_bo.md").read_text()
    assert "- late by 1 day (−10% of the points)\n- was ill (+1)" in page
    assert "That makes 7.3 of 100 points." in page


@pytest.mark.parametrize("due, told", [("2026-12-01", 1), ("", 0)])
def test_a_time_in_another_language_is_flagged(tmp_path, sevens, due, told):
    """It counted as in time, and nobody was told."""
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        file.writestr("1-2 - ann - 2. Dezember 2026 1130/rewards.py", "x = 1")
        file.writestr("1-3 - bo - Dec 1, 2026 1130 AM/rewards.py", "x = 1")
    (tmp_path / "book.csv").write_text("login,GRPO\nann,\nbo,\n")
    results, _ = graded(tmp_path, f"--rubric={rubric(tmp_path, due, 0.25)}")
    flags = {result["student"]: result["flags"] for result in results}
    assert flags == {"ann": ["time not read: late or not?"] * told, "bo": []}
    assert [result["score"] for result in results] == [7.0, 7.0]


def test_without_a_deadline_nothing_is_late(tmp_path):
    assert read_rubric(RUBRIC)["late"] == {"due": None, "per_day": 0}
    old = tmp_path / "old.yaml"
    old.write_text("exercises: {}\nwithout_core: 0.5\nhidden_seeds: 1", encoding="utf-8")
    assert read_rubric(old)["late"] == {"due": None, "per_day": 0}


@pytest.mark.parametrize(
    "due, per_day, message",
    [
        ("tomorrow", 0.1, "due: tomorrow is no time like"),
        ("2026-12-01", 10, "per_day is a share"),
        ("2026-12-01", "true", "per_day is a share"),
        ("2026-12-01, days: 1", 0.1, "due and per_day, nothing else"),
    ],
)
def test_a_rule_that_cannot_be_is_one_line(tmp_path, due, per_day, message):
    with pytest.raises(GraderError, match=message):
        read_rubric(rubric(tmp_path, due, per_day))
