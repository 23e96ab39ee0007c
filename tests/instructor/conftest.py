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
