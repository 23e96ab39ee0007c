"""One file that a student has handed in, and the errors of the grader."""

import dataclasses
import unicodedata

from engine.common import UserError
from instructor.grading.text import one_line, visible


class GraderError(UserError):
    """The grader itself cannot go on. The message says what to do, in one line."""


class Rejected(UserError):
    """Why a file cannot be a submission."""


@dataclasses.dataclass
class Submission:
    """A rewards.py with its student. `rejected` and `duplicate` ones are listed, not graded."""

    student: str  # unique; what feedback is named after
    path: str  # where it was found, for the instructor
    source: bytes = b""
    rejected: str = ""  # why it cannot be graded
    flags: list = dataclasses.field(default_factory=list)
    name: str = ""
    email: str = ""
    id: str = ""  # of the platform
    order: tuple = ()  # the highest of a student's submissions counts
    duplicate: bool = False

    def __post_init__(self):
        """File names and metadata are strangers' text: harmless from here on."""
        for field in ("student", "rejected", "name", "email", "id"):
            setattr(self, field, one_line(getattr(self, field)))
        self.path = visible(self.path)
        self.student = self.student or "(no name)"


def normal(name):
    """A name for comparing: no accents, no case, no spaces."""
    plain = unicodedata.normalize("NFKD", str(name))
    return "".join(character for character in plain.casefold() if character.isalnum())
