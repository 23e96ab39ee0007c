"""What several tests of the instructor's tools look at; made once."""

import pytest

from instructor.handout.student_copy import copy_files


@pytest.fixture(scope="session")
def student_copy(tmp_path_factory):
    """The folder of a copy as students get it; never change it."""
    folder = tmp_path_factory.mktemp("student") / "copy"
    copy_files(folder)
    return folder
