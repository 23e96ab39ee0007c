"""Points: the rubric, and what the outcomes of a submission earn."""

from pathlib import Path

import yaml

from cases import CASES
from engine.common import first_line
from instructor.grading.late import check_late
from instructor.grading.submission import GraderError


def every_case():
    """Every case of every exercise as (function name, case), in order."""
    return [(name, case) for name, (_, cases) in CASES.items() for case in cases]


def read_rubric(path):
    """The rubric as a dict, checked against the exercises there are.

    Raises:
        GraderError: naming what is wrong.
    """
    try:
        rubric = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        rubric["late"] = check_late(rubric.get("late"))
        for name, entry in rubric["exercises"].items():
            check_exercise(name, entry)
        for heading, entry in rubric.setdefault("written", {}).items():
            if not isinstance(heading, str) or not {"points", "for"} <= set(entry):
                raise GraderError(f'rubric: written "{heading}" needs quotes, points and for')
            check_points(f"written {heading}", entry)
        if not 0 <= rubric["without_core"] <= 1 or int(rubric["hidden_seeds"]) < 0:
            raise GraderError("rubric: without_core lies in [0, 1], hidden_seeds is 0 or more")
    except OSError as error:
        raise GraderError(f"the rubric '{path}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise GraderError(
            f"the rubric '{path}' is not of the form of rubric.yaml: {first_line(error)}"
        ) from error
    return rubric


def check_exercise(name, entry):
    """Raises GraderError where an entry of the rubric is not about an exercise there is."""
    if name not in CASES:
        raise GraderError(f"rubric: there is no exercise {name}; known: {', '.join(CASES)}")
    known = {case.__name__ for case in CASES[name][1]}
    if unknown := set(entry.get("core", ())) - known:
        raise GraderError(f"rubric: {name} has no case {', '.join(sorted(unknown))}")
    check_points(name, entry)


def check_points(name, entry):
    """Raises GraderError where an entry of the rubric has no points."""
    if not (isinstance(entry["points"], (int, float)) and entry["points"] >= 0):
        raise GraderError(f"rubric: points of {name} must be a number from 0 on")


def score(tests, rubric):
    """{function: points} from a submission's tests, rounded to hundredths.

    >>> rubric = {"without_core": 0.5, "exercises": {"f": {"points": 10, "core": ["a"]}}}
    >>> tests = [{"function": "f", "case": c, "passed": p} for c, p in (("a", False), ("b", True))]
    >>> score(tests + [{"function": "f", "case": "c", "passed": True}], rubric)
    {'f': 5.0}
    """
    points = {}
    for name, entry in rubric["exercises"].items():
        own = {test["case"]: test["passed"] for test in tests if test["function"] == name}
        share = sum(own.values()) / len(own) if own else 0.0
        if not all(own.get(case, False) for case in entry.get("core", ())):
            share = min(share, rubric["without_core"])
        points[name] = round(entry["points"] * share, 2)
    return points


def maximum(rubric):
    """The most points that a submission can earn."""
    return sum(entry["points"] for entry in rubric["exercises"].values())
