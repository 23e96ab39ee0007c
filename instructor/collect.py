"""Find the submissions in what a course hands in: folders, zips, exports of three platforms.

    a folder      NAME.py, NAME/rewards.py or NAME.zip for each student
    Gradescope    submission_ID/… with submission_metadata.yml beside them
    Canvas        lastfirst_LATE_USER_FILE_rewards.py, one flat folder
    Moodle        Full Name_ID_assignsubmission_file_/rewards.py

each as a folder or as one zip. Nothing is unpacked onto the disk: files are read within limits,
and whatever is no plain small text is a submission too, rejected for a stated reason.
"""

import csv
import dataclasses
import io
import os
import re
import stat
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath

SIZE_LIMIT = 256 * 1024  # bytes of a rewards.py; the solution has 10 000
ZIP_LIMIT, MEMBER_LIMIT = 64 << 20, 5000
CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<order>\d+)_(?P<file>.+)")
MOODLE = re.compile(r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_file_?(?P<file>.*)")


@dataclasses.dataclass
class Submission:
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


class Rejected(Exception):
    """Why a file cannot be a submission."""


def check(data):
    """The bytes of a source file, if they are one.

    Raises:
        Rejected: they are too many or no text.
    """
    if len(data) > SIZE_LIMIT:
        raise Rejected(f"larger than {SIZE_LIMIT // 1024} KB")
    if b"\0" in data:
        raise Rejected("contains NUL bytes: not a text file")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected(f"not UTF-8 text (byte {error.start})") from error
    return data


class Folder:
    """A folder as {relative path: how to read it}."""

    def __init__(self, root):
        self.root, self.label = Path(root), ""

    def paths(self):
        for path in sorted(self.root.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                yield PurePosixPath(path.relative_to(self.root).as_posix())

    def problem(self, path):
        mode = (self.root / path).lstat().st_mode
        if stat.S_ISLNK(mode):
            return "a symbolic link"
        return "" if stat.S_ISREG(mode) else "not a regular file"

    def read(self, path, limit):
        fd = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(limit + 1)


class Zip:
    """The same for a zip file, read within limits and never unpacked."""

    def __init__(self, file, label=""):
        self.label = label
        try:
            self.zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError) as error:
            raise Rejected(f"not a zip file that can be read ({error})") from error
        self.members = {info.filename: info for info in self.zip.infolist() if not info.is_dir()}
        if len(self.members) > MEMBER_LIMIT:
            raise Rejected(f"a zip of more than {MEMBER_LIMIT} files")

    def paths(self):
        for name in sorted(self.members):
            yield PurePosixPath(name)

    def problem(self, path):
        info = self.members[str(path)] if str(path) in self.members else None
        if path.is_absolute() or ".." in path.parts or "\\" in str(path) or info is None:
            return "a zip entry that points outside its folder"
        if stat.S_ISLNK(info.external_attr >> 16):
            return "a symbolic link"
        return ""

    def read(self, path, limit):
        try:
            with self.zip.open(str(path)) as file:
                return file.read(limit + 1)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
            raise Rejected(f"a zip entry that cannot be read ({error})") from error


def open_source(path):
    """A folder or a zip file as something to read from.

    Raises:
        Rejected: it is neither.
    """
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    if path.is_file():
        return Zip(path)
    raise Rejected(f"'{path}' is no folder and no zip file")


def collect(path):
    """Every submission below `path`, sorted by student; of several, the newest is to be graded.

    Raises:
        Rejected: there is nothing to grade.
    """
    source = open_source(path)
    metadata = gradescope_metadata(source)
    found = []
    for unit, files in units(source).items():
        found += submissions_of(source, unit, files, metadata)
    if not found:
        raise Rejected(f"there is no submission in '{path}': no rewards.py, no .py, no .zip")
    return mark_duplicates(found)


def units(source):
    """{owner: its paths}: the first folder of a path, or the file itself where there is none."""
    paths = [
        p
        for p in source.paths()
        if p.name != "submission_metadata.yml" and "__MACOSX" not in p.parts and p.name[0] != "."
    ]
    firsts = {p.parts[0] for p in paths if len(p.parts) > 1}
    if [p for p in paths if p.name == "rewards.py"] == [PurePosixPath("rewards.py")]:
        return {"submission": paths}  # one student's folder
    lone = len(firsts) == 1 and all(len(p.parts) > 1 for p in paths)
    around = lone and any(len(p.parts) > 2 or p.suffix == ".zip" for p in paths)
    if lone and not around:  # a zip of one folder full of NAME.py, not of one student
        around = "rewards.py" not in {p.name for p in paths}
    grouped = {}
    for p in paths:
        inner = p.parts[1:] if around and ".." not in p.parts else p.parts
        grouped.setdefault(inner[0], []).append(p)
    return grouped


def submissions_of(source, owner, paths, metadata):
    """The submissions of one folder or file of the hand-in; rejected ones too."""
    who = identify(owner, metadata)
    if who is None:
        return []
    best = pick(paths)
    if best is None:
        names = ", ".join(sorted({p.name for p in paths})[:3])
        return [Submission(**who, path=owner, rejected=f"no rewards.py, only {names}")]
    others = [p for p in paths if p.name == best.name and p != best]
    result = [read_one(source, best, who)]
    result += [dataclasses.replace(read_one(source, p, who), order=(-1,)) for p in others]
    return result


def pick(paths):
    """The submission among the files of one student: rewards.py, else the only .py, else a zip."""
    by_depth = sorted(paths, key=lambda p: (len(p.parts), str(p)))
    for wanted in (
        [p for p in by_depth if p.name == "rewards.py"],
        [p for p in by_depth if re.fullmatch(r".*rewards[-_ ()\d]*\.py", p.name)],
        [p for p in by_depth if p.suffix == ".py"],
        [p for p in by_depth if p.suffix == ".zip"],
    ):
        if wanted and (
            wanted[0].name == "rewards.py" or wanted[0].suffix == ".zip" or len(wanted) == 1
        ):
            return wanted[0]
    return None


def read_one(source, path, who):
    label = f"{source.label}{path}"
    try:
        if problem := source.problem(path):
            raise Rejected(problem)
        if path.suffix == ".zip":
            inner = Zip(io.BytesIO(_whole(source, path)), f"{label}:")
            unsafe = [p for p in inner.paths() if inner.problem(p)]
            if unsafe:
                raise Rejected(inner.problem(unsafe[0]))
            best = pick([p for p in inner.paths() if "__MACOSX" not in p.parts])
            if best is None or best.suffix == ".zip":
                raise Rejected("a zip without rewards.py")
            return read_one(inner, best, who)
        return Submission(**who, path=label, source=check(source.read(path, SIZE_LIMIT)))
    except Rejected as error:
        return Submission(**who, path=label, rejected=str(error))
    except OSError as error:
        return Submission(**who, path=label, rejected=f"cannot be read ({error.strerror})")


def _whole(source, path):
    data = source.read(path, ZIP_LIMIT)
    if len(data) > ZIP_LIMIT:
        raise Rejected(f"a zip larger than {ZIP_LIMIT >> 20} MB")
    return data


def identify(owner, metadata):
    """Who handed in: the fields of a Submission that its name or the metadata tell."""
    if metadata:
        if owner not in metadata:
            return None
        entry = metadata[owner] or {}
        people = entry.get(":submitters") or [{}]
        names = [str(person.get(":name") or "") for person in people]
        first = people[0]
        name = ", ".join(filter(None, names)) or owner
        return {
            "student": name,
            "name": name,
            "email": str(first.get(":email") or ""),
            "id": str(first.get(":sid") or ""),
            "order": (str(entry.get(":created_at") or ""), owner),
        }
    if match := MOODLE.fullmatch(owner):
        return {"student": match["name"], "name": match["name"], "id": match["id"]}
    if match := CANVAS.fullmatch(owner):
        flags = ["late"] if match["late"] else []
        order = (int(match["order"]),)
        who = {"student": match["name"], "name": match["name"], "id": match["id"]}
        return {**who, "flags": flags, "order": order}
    stem = owner.rsplit(".", 1)[0] if owner.endswith((".py", ".zip")) else owner
    return {"student": stem, "name": stem}


def gradescope_metadata(source):
    """{folder: entry} of submission_metadata.yml, or {}."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads Ruby's tags as what they hold."""

    def plain(loader, suffix, node):
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("!ruby", plain)
    for path in source.paths():
        if path.name == "submission_metadata.yml" and len(path.parts) <= 2:
            try:
                return yaml.load(source.read(path, 16 << 20), Loader) or {}
            except (yaml.YAMLError, ValueError) as error:
                raise Rejected(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    return {}


def normal(name):
    """A name for comparing: no accents, no case, no spaces."""
    plain = unicodedata.normalize("NFKD", str(name))
    return "".join(c for c in plain.casefold() if c.isalnum())


def mark_duplicates(submissions):
    """Of several by one student the newest stays; namesakes with other ids stay apart."""
    groups = {}
    for submission in submissions:
        groups.setdefault((submission.id or normal(submission.student)), []).append(submission)
    taken = {}
    for group in groups.values():
        group.sort(key=lambda s: (s.order, not s.rejected), reverse=True)
        for i, submission in enumerate(group):
            if submission.id and taken.get(submission.student, submission.id) != submission.id:
                submission.student += f" ({submission.id})"
            taken.setdefault(submission.student, submission.id)
            if i:
                submission.duplicate = True
        if len(group) > 1:
            group[0].flags.append(f"{len(group)} submissions; the newest is graded")
    return sorted(submissions, key=lambda s: (normal(s.student), s.student, s.duplicate, s.path))


def read_roster(path):
    """(kind, header, rows) of a gradebook: kind is canvas, moodle or plain.

    Raises:
        Rejected: it is no CSV with a header.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Rejected(f"the roster '{path}' cannot be read: {error}") from error
    if not rows or len(rows[0]) < 2:
        raise Rejected(f"the roster '{path}' has no header of at least two columns")
    header = rows[0]
    if {"Student", "ID"} <= set(header):
        return "canvas", header, rows[1:]
    if {"Identifier", "Full name"} <= set(header):
        return "moodle", header, rows[1:]
    return "plain", header, rows[1:]


def people_of(kind, header, rows):
    """One dict of name, email and ids for each person of a roster, with its row number."""
    lower = [title.strip().lower() for title in header]

    def cell(row, *titles):
        for title in titles:
            if title in lower and lower.index(title) < len(row):
                return row[lower.index(title)].strip()
        return ""

    for i, row in enumerate(rows):
        name = cell(row, "student", "full name", "name", "student name")
        name = name or f"{cell(row, 'first name')} {cell(row, 'last name')}".strip()
        if kind == "canvas" and (not cell(row, "id") or name.strip().startswith("Points Possible")):
            continue
        identifier = re.sub(r"^\D+", "", cell(row, "identifier")) if kind == "moodle" else ""
        ids = {cell(row, "id"), cell(row, "sid"), identifier, cell(row, "sis login id")}
        email = cell(row, "email", "email address")
        if name or email:
            yield {"row": i, "name": name, "email": email, "ids": ids - {""}}


def match(submission, people):
    """The person of a roster who handed this in, or None: by id, e-mail or name."""
    keys = {normal(submission.name), normal(submission.student)}
    for person in people:
        if submission.id and submission.id in person["ids"]:
            return person
        if submission.email and submission.email.lower() == person["email"].lower():
            return person
    for person in people:
        last, _, first = person["name"].partition(",")
        names = {normal(person["name"]), normal(f"{first} {last}"), normal(f"{last} {first}")}
        login = {normal(i) for i in person["ids"]} | {normal(person["email"].partition("@")[0])}
        if keys & (names | login) - {""}:
            return person
    return None
