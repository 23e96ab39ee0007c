"""The rubric, points worked out by hand, names of feedback files, examples in docstrings."""

import doctest
import importlib

import pytest

from cases import CORE
from engine.common import ROOT
from instructor.grading.command import RUBRIC
from instructor.grading.feedback import file_names
from instructor.grading.points import read_rubric, score
from instructor.grading.submission import GraderError


def tests_of(**passed):
    return [
        {"function": "kl_penalty_forward", "case": case, "passed": ok, "message": ""}
        for case, ok in passed.items()
    ]


def test_points_by_hand():
    rubric = read_rubric(RUBRIC)
    core = dict.fromkeys(rubric["exercises"]["kl_penalty_forward"]["core"], True)
    others = {"sums_over_tokens": True, "ignores_padding": False}
    points = score(tests_of(**core, **others), rubric)
    assert points["kl_penalty_forward"] == 16.67 and points["kl_penalty_backward"] == 0  # 5 of 6
    core["pulls_the_policy_back"] = False
    points = score(tests_of(**core, **others, x=True, y=True), rubric)
    assert points["kl_penalty_forward"] == 5  # six of eight, yet a quarter at most


def test_the_core_of_the_rubric_is_what_the_cases_call_their_core():
    for name, entry in read_rubric(RUBRIC)["exercises"].items():
        assert entry.get("core", []) == [case.__name__ for case in CORE.get(name, ())]


@pytest.mark.parametrize(
    "text, message",
    [
        ("exercises: {nothing: {points: 1}}", "no exercise nothing"),
        ("exercises: {shaped_reward: {points: 1, core: [x]}}", "has no case x"),
        ("exercises: {shaped_reward: {points: -1}}", "must be a number from 0"),
        ("exercises: [", "is not of the form"),
        ("", "is not of the form"),
        ("exercises: {}\nwithout_core: 2\nhidden_seeds: 1", "without_core lies in"),
    ],
)
def test_a_wrong_rubric_is_one_line(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(GraderError, match=message) as error:
        read_rubric(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)


def test_file_names_are_safe_and_different():
    names = file_names(["Ann/../x", "Ann .. x", "ANN_.._x", "…", ""])
    assert len({name.casefold() for name in names.values()}) == 5
    assert not any("/" in name or name.startswith(".") for name in names.values())


FILES = sorted((ROOT / "instructor" / "grading").glob("*.py"))


@pytest.mark.parametrize(
    "name", [path.stem for path in FILES if ">>> " in path.read_text(encoding="utf-8")]
)
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(f"instructor.grading.{name}"))
    assert found.attempted and not found.failed
