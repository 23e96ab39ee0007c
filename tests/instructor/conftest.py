"""What several tests of the instructor's tools look at; made once."""

import pytest

from instructor.handout.student_copy import copy_files


@pytest.fixture(scope="session")
def student_copy(tmp_path_factory):
    """The folder of a copy as students get it; never change it."""
    folder = tmp_path_factory.mktemp("student") / "copy"
    copy_files(folder)
    return folder


@pytest.fixture(scope="session")
def workshop():
    """A worker of the grader, in whose processes anything may be examined."""
    from instructor.grading.process import Workshop

    with Workshop(jobs=1) as workshop:
        workshop.wait()
        yield workshop


@pytest.fixture(scope="session")
def control(workshop):
    return workshop.controls[0]


@pytest.fixture(scope="session")
def gradescopes_grader(tmp_path_factory):
    """The grader as Gradescope gets it, which grades at once: it has no files to check itself."""
    from grading_help import unpack_grader

    folder = tmp_path_factory.mktemp("gradescope") / "source"
    unpack_grader(folder)
    return folder


@pytest.fixture
def sevens(monkeypatch):
    """Everybody whose file can be graded gets 7 points, without a sandbox."""
    from instructor.grading import course
    from instructor.grading.journal import blank_result

    class Nothing:
        def __init__(self, *arguments):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def grade_all(workshop, submissions, settings, file, console):
        found = []
        for one in submissions:
            result = blank_result(one, settings, "x")
            status = "unclear" if one.question else "duplicate" if one.duplicate else "graded"
            points = 7.0 if status == "graded" else None
            found.append({**result, "status": status, "score": points, "reason": one.question})
        return found

    monkeypatch.setattr(course, "Workshop", Nothing)
    monkeypatch.setattr(course, "prepare", lambda workshop, settings, *more: settings)
    monkeypatch.setattr(course, "grade_with_progress", grade_all)
    monkeypatch.setattr(course.journal, "rescored", lambda result, rubric: result)
