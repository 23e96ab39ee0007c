"""Who has handed in: what the name of a file or folder tells, and Gradescope's metadata."""

import dataclasses
import re
import unicodedata
from pathlib import PurePosixPath

from engine.common import first_line
from instructor.grading.submission import Member, Rejected, readable

CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<order>\d+)_(?P<file>.+)")
MOODLE = re.compile(r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_file_?(?P<file>.*)")
METADATA = "submission_metadata.yml"
METADATA_LIMIT = 16 << 20  # bytes


@dataclasses.dataclass
class Owner:
    """A student, or a group, and what belongs to them."""

    key: tuple  # equal for what certainly means the same: the platform's number, or the exact name
    members: list[Member]
    flags: list[str] = dataclasses.field(default_factory=list)  # for the instructor
    order: int | str | None = None  # of a platform that tells which hand-in is newer
    file: str | None = None  # the student's name for it, where the platform has added to that

    @property
    def student(self):
        return ", ".join(member.name for member in self.members)


def owner_of(top, metadata):
    """The `Owner` that the name of a file or folder tells, or its entry in the metadata."""
    if metadata:
        return owner_by_metadata(top, metadata.get(top))
    name = unicodedata.normalize("NFC", top)
    if match := MOODLE.fullmatch(name):
        member = Member(readable(match["name"]), id=match["id"])
        key = ("moodle", match["id"], match["name"])
        return Owner(key, [member], file=match["file"] or None)
    if match := CANVAS.fullmatch(name):
        member = Member(readable(match["name"]), id=match["id"])
        late = ["late"] if match["late"] else []
        key = ("canvas", match["id"])
        return Owner(key, [member], late, order=int(match["order"]), file=match["file"])
    stem = name.rsplit(".", 1)[0] if name.lower().endswith((".py", ".zip")) else name
    return Owner(("name", stem), [Member(readable(stem))])


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
