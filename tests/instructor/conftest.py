"""What the tests of the instructor's tools compute once."""

import pytest


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
