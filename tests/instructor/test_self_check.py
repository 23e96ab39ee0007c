"""The check before each run: it stops the run where one known file earns what it should not."""

import sys
import time
from types import SimpleNamespace

import pytest

from instructor.grading import course
from instructor.grading.command import RUBRIC
from instructor.grading.examining import Examination, Outcome
from instructor.grading.points import every_case, maximum, read_rubric
from instructor.grading.process import Child, Dead, probe
from instructor.grading.submission import GraderError
from instructor.proof import attacks, swelling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
KNOWN = list(attacks.known_files())
GRADER = course.Grader({"rubric": read_rubric(RUBRIC), "seeds": [0, 1]}, models=())


def earning(wanted):
    """An examination that earns "all", "less" or "none" at each exercise."""
    first = {name: case for name, case in reversed(every_case())}
    outcomes = [
        Outcome(name, case.__name__, wanted == "all" or wanted == "less" and case != first[name])
        for name, case in every_case()
    ]
    return Examination(outcomes)


def checked(monkeypatch, believed, grader=GRADER):
    """Run the self-check with a grader that takes each known file for what `believed` says."""

    def examine(control, source, seeds, models, seconds):
        return earning(believed[source])

    monkeypatch.setattr(course, "examine", examine)
    course.self_check(None, grader)


def truth():
    return {source: next(iter(expected.values())) for _, source, expected in KNOWN}


@pytest.mark.parametrize("title, source", [(title, source) for title, source, _ in KNOWN])
def test_one_file_that_is_judged_wrongly_stops_the_run(monkeypatch, title, source):
    believed = truth()
    believed[source] = "less" if believed[source] == "all" else "all"
    with pytest.raises(GraderError, match="nothing was graded") as error:
        checked(monkeypatch, believed)
    assert f"'{title}'" in str(error.value)


def test_a_grader_that_judges_rightly_goes_on(monkeypatch):
    checked(monkeypatch, truth())


def test_a_rubric_may_give_an_exercise_no_points(monkeypatch):
    """As instructor/README.md says of the core alone: 40 points, and the check holds for these."""
    core = {"kl_penalty_forward", "group_advantages", "policy_loss"}
    rubric = read_rubric(RUBRIC)
    for name in rubric["exercises"].keys() - core:
        rubric["exercises"][name]["points"] = 0
    assert maximum(rubric) == 40
    grader = course.Grader({"rubric": rubric, "seeds": [0, 1]}, models=())
    checked(monkeypatch, truth(), grader)
    believed = truth() | {source: "less" for source, kind in truth().items() if kind == "all"}
    with pytest.raises(GraderError, match="nothing was graded"):
        checked(monkeypatch, believed, grader)


def test_the_check_runs_before_anything_is_graded(monkeypatch):
    def stops(*args):
        raise GraderError("self-check")

    workshop = SimpleNamespace(controls=[None], wait=lambda: None)
    held = dict.fromkeys(course.PROTECTIONS, True)
    monkeypatch.setattr(course, "load_models", lambda: None)
    monkeypatch.setattr(course, "probe", lambda *args: held)
    monkeypatch.setattr(course, "self_check", stops)
    console = SimpleNamespace(print=lambda *args, **more: None)
    with pytest.raises(GraderError, match="self-check"):
        course.prepare(workshop, GRADER.settings, console, unsafe=False)
    held["amounts"] = False
    with pytest.raises(GraderError, match="no sandbox for amounts here"):
        course.prepare(workshop, GRADER.settings, console, unsafe=False)


def test_each_class_of_attack_is_among_the_known_files():
    """What reaches outside is the probe's, see test_sandbox.py; the rest is here."""
    everything = b"".join(source for _, source, _ in KNOWN).decode()
    bodies = {name: body for name, body in vars(swelling).items() if name.isupper()}
    del bodies["STEALS_ITS_ANSWER"]  # takes the whole time for an answer
    for tried_before in ("MAPPED", "NAMELESS", "ALLOCATED"):  # every run, by the probe
        del bodies[tried_before]
    assert len(bodies) == 10
    for name, body in bodies.items():
        (line, *_) = [line for line in body.splitlines() if "(" in line]
        assert line.strip() in everything, name


@pytest.mark.slow
def test_a_real_worker_passes_the_probe(control):
    """Also what no kernel holds: threads and files, which the worker watches."""
    assert probe(control) == dict.fromkeys(course.PROTECTIONS, True)
    started = time.monotonic()
    with Child(control, b"", seconds=60.0) as child:
        with pytest.raises(Dead, match="it started more than 64 threads"):
            child.ask("overrun", what="threads", number_of=65)
    assert time.monotonic() - started < 30  # at once, and not when its time is over
