"""One file that a student has handed in, and the errors of the grader."""

import dataclasses
import unicodedata

from engine.common import UserError
from instructor.grading.text import one_line, visible

# Letters that Unicode does not take apart, as people type them who have no such key.
LETTERS = str.maketrans(
    {**dict(zip("łøđðħıþ", ["l", "o", "d", "d", "h", "i", "th"])), "æ": "ae", "œ": "oe"}
)


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
    rejected: str = ""  # why it cannot be graded: no points
    question: str = ""  # what the instructor must settle before it can be graded
    flags: list = dataclasses.field(default_factory=list)
    answers: bytes = b""  # of the answers.md beside it
    members: tuple = ()  # of `Member`: who has handed it in
    duplicate: bool = False  # a newer one of the same student is graded
    handed_in: str = ""  # when, where a platform tells
    returned: str = ""  # the name by which a platform takes a file of feedback back

    def __post_init__(self):
        """File names and metadata are strangers' text: harmless from here on."""
        for field in ("student", "rejected", "question"):
            setattr(self, field, one_line(getattr(self, field)))
        self.path = visible(self.path)
        self.student = self.student or "(no name)"


@dataclasses.dataclass(frozen=True)
class Member:
    """One of those who have handed something in, as far as the platform tells."""

    name: str
    email: str = ""
    id: str = ""  # a number of the platform, or of the university


def readable(name):
    """A name from outside that every file and every page can hold: UTF-8, no control characters.

    >>> readable("Zoe\\u0308\\n"), readable("a\\udcff\\x1b[1m")
    ('Zoë', 'a?')
    """
    return unicodedata.normalize("NFC", one_line(name)) or "unnamed"


def normal(name):
    """A name for comparing: no accents, no case, no spaces.

    >>> normal("Łukasz Sørensen") == normal("lukasz sorensen")
    True
    """
    plain = unicodedata.normalize("NFKD", str(name)).casefold().translate(LETTERS)
    return "".join(character for character in plain if character.isalnum())
