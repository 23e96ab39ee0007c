"""Who has handed in: what the name of a file or folder tells, and Gradescope's metadata."""

import dataclasses
import re
import unicodedata
from pathlib import PurePosixPath
from typing import NamedTuple

from engine.common import first_line
from instructor.grading.submission import Member, Rejected, readable

PLATFORMS = {  # how an export names a file or folder, whatever the student has called it
    "moodle": re.compile(  # one for each kind of hand-in: file, onlinetext
        r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_[^_]+_?(?P<file>.*)"
    ),
    "canvas": re.compile(  # a text that was typed in has no number
        r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?:(?P<order>\d+)_(?P<file>.+)|text\.html)"
    ),
    "blackboard": re.compile(  # title of the assignment, login; a text for each attempt
        r"(?P<name>.+)_attempt_(?P<order>\d{4}(?:-\d\d){5})(?:_(?P<file>.+)|\.txt)"
    ),
    "brightspace": re.compile(  # the last part is the time
        r"(?P<id>\d+)-\d+ - (?P<name>.+) - (?P<order>[^-]*\d{4}[^-]*)"
    ),
}
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
METADATA = "submission_metadata.yml"
METADATA_LIMIT = 16 << 20  # bytes


@dataclasses.dataclass
class Owner:
    """A student, or a group, and what belongs to them."""

    key: tuple  # equal for what certainly means the same: the platform's number, or the exact name
    members: list[Member]
    flags: list[str] = dataclasses.field(default_factory=list)  # for the instructor
    order: int | str | None = None  # of a platform that tells which hand-in is newer
    unread: str = ""  # when, in words that nobody here reads
    file: str | None = None  # the student's name for it, where the platform has added to that

    @property
    def student(self):
        return ", ".join(member.name for member in self.members)

    @property
    def handed_in(self):
        """When, where the platform tells the time; else an empty text."""
        return self.order if isinstance(self.order, str) else self.unread


class Export(NamedTuple):
    """What is known of a whole export."""

    metadata: dict  # of Gradescope
    platform: str = ""  # of `PLATFORMS`
    blind: bool = False  # everybody has the same name, and only a number tells them apart
    unsure: bool = False  # a student may have named the file so in a plain folder


def export_of(tops, metadata):
    """The `Export` with these files and folders in it.

    Whose names most of them have is what exported them: what one student calls a file makes a plain
    folder no platform's. One or two names of Canvas may be an accident, or all of a small class.
    """
    candidates = [top for top in tops if "." not in top or top.lower().endswith((".py", ".zip"))]
    for platform, pattern in PLATFORMS.items():
        found = [match for top in tops if (match := pattern.fullmatch(normalized(top)))]
        others = [top for top in candidates if not pattern.fullmatch(normalized(top))]
        if len(found) > len(others):
            names = {match["name"] for match in found}
            people = {match["id"] for match in found} if platform == "moodle" else names
            blind = len(names) == 1 < len(people)
            return Export(metadata, platform, blind, platform == "canvas" and len(found) < 3)
    return Export(metadata)


def normalized(top):
    return unicodedata.normalize("NFC", top)


def owner_of(top, export):
    """The `Owner` that the name of a file or folder tells, or its entry in the metadata."""
    if export.metadata:
        return owner_by_metadata(top, export.metadata.get(top))
    name = normalized(top)
    match = PLATFORMS[export.platform].fullmatch(name) if export.platform else None
    if match:
        return owner_by_name(match.groupdict(), export)
    stem = name.rsplit(".", 1)[0] if name.lower().endswith((".py", ".zip")) else name
    return Owner(("name", stem), [Member(readable(stem))])


def owner_by_name(parts, export):
    """The `Owner` from the parts of a name that a platform has given, of `PLATFORMS`."""
    name, number, order = parts["name"], parts.get("id", ""), parts.get("order")
    key = (export.platform, number, name)
    if export.platform == "canvas":
        key = (export.platform, number)
        order = int(order or 0)
    unread = ""
    if export.platform == "brightspace":
        time, number = order, ""  # the number is none that a gradebook has
        order = time_of(time)
        unread = "" if order else time
    flags = ["late"] if parts.get("late") else []
    if export.unsure and number:
        flags.append(f"known by a number in its file name alone: {number}")
    shown = f"{name} {number}" if export.blind else name
    members = [Member(readable(shown), id=number)]
    return Owner(key, members, flags, order, unread, parts.get("file") or None)


def time_of(text):
    """Brightspace's time of a hand-in, to be compared; None where it is of another language.

    >>> time_of("Nov 3, 2026 134 PM"), time_of("Nov 3, 2026 1200 AM"), time_of("3. November 2026")
    ('20261103 1334', '20261103 0000', None)
    """
    found = re.fullmatch(r"(\w{3})\w* (\d+), (\d{4}) (\d+?)(\d\d) ?([AP])M", text)
    if not found or found[1].lower() not in MONTHS:
        return None
    hour = int(found[4]) % 12 + 12 * (found[6] == "P")
    month = MONTHS.index(found[1].lower()) + 1
    return f"{found[3]}{month:02}{int(found[2]):02} {hour:02}{found[5]}"


def owner_by_metadata(top, entry):
    """The same from Gradescope's metadata; a folder that they do not name is told so."""
    if not isinstance(entry, dict):
        return Owner(("folder", top), [Member(readable(top))], [f"not in {METADATA}"])
    people = entry.get(":submitters")
    people = [p for p in people if isinstance(p, dict)] if isinstance(people, list) else []
    members = [member for member in map(member_of, people) if member.name]
    if not members:
        return Owner(("folder", top), [Member(readable(top))], [f"nobody's in {METADATA}"])
    known = sorted(member.id or member.email.lower() or member.name for member in members)
    return Owner(("gradescope", *known), members, order=text(entry.get(":created_at")))


def member_of(person):
    """A `Member` from the entry of a submitter."""
    name, email, number = (text(person.get(title)) for title in (":name", ":email", ":sid"))
    return Member(name or email or number, email, number)


def text(value):
    """A scalar of the metadata as text; of anything else, which may be endless, nothing."""
    if value is None or isinstance(value, (list, dict, set, tuple)):
        return ""
    return readable(str(value)[:200])


def read_metadata(source, root):
    """{folder: entry} of the metadata in the root of an export.

    Raises:
        Rejected: they cannot be read.
    """
    import yaml

    path = PurePosixPath(root, METADATA)

    class Loader(yaml.SafeLoader):
        """Reads Ruby's tags as what they hold, and merges nothing, which could grow for ever."""

        def flatten_mapping(self, node):
            pass

    def plain(loader, suffix, node):
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("!ruby", plain)
    try:
        if problem := source.problem(path):
            raise Rejected(problem)
        data = source.read(path, METADATA_LIMIT)
        if len(data) > METADATA_LIMIT:
            raise Rejected(f"larger than {METADATA_LIMIT >> 20} MB")
        found = yaml.load(data, Loader)
    except Exception as error:  # yaml raises what its constructors raise
        raise Rejected(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(found, dict) or not found:
        raise Rejected(f"{path} names no submissions: export them again.")
    return {str(key): entry for key, entry in found.items() if isinstance(key, (str, int))}
