"""Find the submissions in what a course hands in: folders, zips, exports of five platforms.

    a folder      NAME.py, NAME/rewards.py or NAME.zip for each student
    Gradescope    submission_ID/… with submission_metadata.yml beside them
    Canvas        lastfirst_LATE_USER_FILE_rewards.py, one flat folder
    Moodle        Full Name_ID_assignsubmission_file_/rewards.py, and …_onlinetext_/
    Blackboard    TITLE_LOGIN_attempt_TIME_rewards.py, and a text for each attempt
    Brightspace   ID-ID - Full Name - TIME/rewards.py

each as a folder or as one zip. Nothing is unpacked onto the disk: files are read within limits,
and whatever is no plain small text is a submission too, rejected for a stated reason. Where it is
not clear what a student has handed in, or who, the row holds a question and no points: nothing is
merged or dropped in silence.
"""

import io
import itertools
import re
from collections import Counter
from pathlib import PurePath, PurePosixPath
from typing import NamedTuple

from engine.common import ROOT
from instructor.grading.identity import (
    METADATA,
    PLATFORMS,
    Owner,
    export_of,
    owner_of,
    read_metadata,
)
from instructor.grading.reading import SIZE_LIMIT, ZIP_LIMIT, Zip, check, open_source
from instructor.grading.submission import Member, Rejected, Submission, normal, readable
from instructor.grading.written import SHEET

FILES_LIMIT = 2000  # of one student
CANDIDATES = (  # names of files that may be the submission: what comes first is taken
    re.compile(r"rewards\.py"),
    re.compile(r"rewards[-_ ()\d]*\.py", re.IGNORECASE),
    re.compile(r".*\.py", re.IGNORECASE),
    re.compile(r".*\.zip", re.IGNORECASE),
)
VERSION = re.compile(
    r"rewards?(?!s?_solution|_utils|s?\.py$).*\.(py|zip|bak|old)|.rewards?\.py", re.IGNORECASE
)


OTHERS = {"venv", "virtualenv", "site-packages", "node_modules", "__pycache__", "__MACOSX"}
TAKES_BACK = ("moodle", "canvas", "brightspace")  # a zip of files of feedback
INSTEAD = {  # what is handed in instead, and what helps
    (".ipynb",): "a notebook: ask for rewards.py",
    (".py.txt",): "take .txt off its name",
    (".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"): "unpack it, only zips are read",
    (".doc", ".docx", ".odt", ".rtf", ".pages", ".pdf"): "a document: ask for rewards.py",
    (".html", ".txt"): "a text: ask for rewards.py",
}


class Entry(NamedTuple):
    """A file or folder of an export."""

    owner: Owner
    names: dict  # {path of a file: the name that the student gave it}
    top: str = ""  # its own name


class Contents(NamedTuple):
    """What a file turns out to hold; one of these, and answers perhaps."""

    source: bytes = b""
    rejected: str = ""  # why it cannot be graded
    question: str = ""  # what the instructor must settle
    answers: bytes = b""  # the answers.md in the same zip


def collect(path, one=False):
    """Every submission below `path`, sorted by student; of several, the newest is to be graded.

    Args:
        path: a folder or a zip.
        one: everything in it is one student's.

    Raises:
        Rejected: there is nothing to grade, or the metadata cannot be read.
    """
    source = open_source(path)
    files = [file for file in source.paths() if is_content(file)]
    folders = [folder for folder in source.folders() if is_content(folder)]
    if files and (one or lonely(files)):
        found = [hand_in(source, "submission", [Member("submission")], {f: f.name for f in files})]
        others = [file.name for file in files if len(file.parts) == 1 and is_any_python(file)]
        if others and not one:
            flag = f"taken for one student's folder, with {', '.join(map(readable, others[:4]))}"
            found[0].flags.append(flag)
    else:
        root = root_of(files, PurePath(path).stem)
        metadata = read_metadata(source, root) if root / METADATA in files else {}
        found = [
            submission
            for entries in by_owner(files, folders, root, metadata).values()
            for submission in with_way_back(submissions_of(source, entries), entries)
        ]
    if not found:
        raise Rejected(f"there is no submission in '{path}': no rewards.py, no .py, no .zip")
    return in_order(found)


def is_content(path):
    """Whether a path is a student's, not of an operating system or of Python; hidden files are
    not, and nor is a virtual environment."""
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return bool(path.parts) and not hidden and not OTHERS & {*path.parts}


def is_any_python(file):
    """Whether a file may be a submission, but is not named like one."""
    return rank({file: file.name}) == 2


def lonely(files):
    """Whether the only rewards.py lies in the folder itself, which then is one student's."""
    named = [file for file in files if file.name == "rewards.py"]
    return named == [PurePosixPath("rewards.py")]


def root_of(files, export):
    """The folder that holds the hand-ins: the one around all, unless it is one student's own.

    Of folders around one student's only file, the first is taken for the student's, or the one that
    a platform has named; a folder called as the export itself is nobody's.
    """
    root = PurePosixPath()
    for depth in range(3):
        names = {file.parts[depth] for file in files}
        if len(names) != 1 or any(len(file.parts) == depth + 1 for file in files):
            break
        (name,) = names
        if name in ("/", ".."):
            break
        inside = root / name
        named = [file for file in files if file.name == "rewards.py"]
        students = {file.parts[depth + 1] for file in named} - {"rewards.py"}
        own = inside / "rewards.py" in named and len(students) < 2
        if own and inside / METADATA not in files:
            return around_one(inside, export)
        root = inside
    return root


def around_one(folder, export):
    """The folder around one student's, of which `folder` may be one inside."""
    named = [any(form.fullmatch(part) for form in PLATFORMS.values()) for part in folder.parts]
    first = named.index(True) if any(named) else int(folder.parts[0] == export)
    return PurePosixPath(*folder.parts[: min(first, len(folder.parts) - 1)])


def by_owner(files, folders, root, metadata):
    """{key of an owner: its entries}, one `Entry` for each file or folder in `root`.

    An empty folder counts too, and so does a folder that only the metadata name.
    """
    tops = {}
    for file in files:
        if file != root / METADATA:
            tops.setdefault(file.parts[len(root.parts)], []).append(file)
    for folder in folders:
        if folder.parent == root:
            tops.setdefault(folder.name, [])
    for top in metadata:
        tops.setdefault(top, [])
    export = export_of(tops, metadata)
    if export.platform == "brightspace":
        tops.pop("index.html", None)  # its table of contents
    owners = {}
    for top, paths in tops.items():
        owner = owner_of(top, export)
        names = {path: path.name for path in paths}
        if owner.file and paths == [root / top]:
            names = {paths[0]: owner.file}
        entries = owners.setdefault(owner.key, [])
        attempt = [entry for entry in entries if entry.owner.order == owner.order]
        if export.platform == "blackboard" and attempt:  # which lays its files side by side
            attempt[0].names.update(names)
        else:
            entries.append(Entry(owner, names, top))
    return owners


def with_way_back(rows, entries):
    """The rows of one owner; for a platform that takes feedback back, with the name that it needs:
    the folder of its export, or the name of its file, both of which have its numbers in them."""
    platform = entries[0].owner.key[0]
    for row in rows if platform in TAKES_BACK else []:
        for entry in entries:
            if entry.top and not row.duplicate and row.path in map(readable, entry.names):
                given = entry.owner.file
                folder = f"{entry.top}/" if given is None else entry.top.removesuffix(given)
                row.returned = entry.top if platform == "canvas" else f"{folder}feedback.md"
                break
    return rows


def submissions_of(source, entries):
    """The rows of one owner: the submission, and older ones, which are not graded."""
    owner = entries[0].owner
    if owner.key == ("name", "rewards") and [*entries[0].names.values()] == ["rewards.py"]:
        row = hand_in(source, owner.student, owner.members, entries[0].names)
        return [unclear(row, "Whose is it? It lies beside the hand-ins, without a name.")]
    if owner.order is None or len(entries) == 1:
        flags = [flag for entry in entries for flag in entry.owner.flags]
        if len(entries) > 1 and owner.key[0] == "name":  # ann.py beside ann/ and ann.zip
            rows = [hand_in(source, owner.student, owner.members, e.names) for e in entries]
            return [one_of(rows, flags)]
        names = {path: name for entry in entries for path, name in entry.names.items()}
        return [hand_in(source, owner.student, owner.members, names, flags, owner.handed_in)]
    return newest(source, sorted(entries, key=lambda entry: entry.owner.order))


def newest(source, entries):
    """The rows of an owner with several hand-ins, in the order in which the platform got them."""
    side = []
    sheet = b""
    if entries[0].owner.key[0] == "canvas":  # which numbers every file of a hand-in
        for entry in entries:
            sheet = sheet_of(source, entry.names)[0] or sheet  # the newest
        best = min(rank(entry.names) for entry in entries)
        aside = [entry for entry in entries if rank(entry.names) > best]
        side = [readable(name) for entry in aside for name in entry.names.values()]
        entries = [entry for entry in entries if rank(entry.names) == best]
    rows = [
        hand_in(source, owner.student, owner.members, names, owner.flags, owner.handed_in)
        for owner, names, _ in entries
    ]
    last = entries[-1].owner.order
    latest = [row for row, entry in zip(rows, entries) if entry.owner.order == last]
    older = rows[: len(rows) - len(latest)]
    chosen = one_of(latest, latest[-1].flags)
    for row in older:
        row.duplicate = True
    if older:
        chosen.flags.append(f"{len(older) + 1} submissions; the newest is graded")
    chosen.answers = chosen.answers or sheet
    side = [name for name in side if not SHEET.fullmatch(name) and not name.endswith(".html")]
    if side:
        chosen.flags.append(f"further files: {', '.join(side[:3])}")
    return [chosen, *older]


def rank(names):
    """How well files, {path: name}, fit a submission: 1 for rewards.py, with a number or not."""
    fits = [i for name in names.values() for i, c in enumerate(CANDIDATES) if c.fullmatch(name)]
    return max(min(fits, default=len(CANDIDATES)), 1)


def one_of(rows, flags):
    """One row from several of the same owner: equal files are one, others are a question."""
    best = rows[0]
    best.flags = list(flags)
    if len({(row.source, row.rejected, row.question) for row in rows}) > 1:
        return which_of(best, [row.path for row in rows])
    return best


def which_of(row, paths):
    """The row with the question which of some files it is about."""
    return unclear(row, f"Which of these is the submission: {', '.join(paths[:4])}? Keep one.")


def unclear(row, question):
    """The row with a question in the place of a submission."""
    row.source = b""
    row.rejected = ""
    row.question = question
    return row


def hand_in(source, student, members, names, flags=(), handed_in=""):
    """The row of one hand-in.

    Args:
        source: a `Folder` or `Zip`.
        student, members, flags, handed_in: of the `Submission`.
        names: {path: the name that the student gave to the file}.
    """
    row = Submission(student, "", members=tuple(members), flags=list(flags), handed_in=handed_in)
    if not names:
        row.path = readable(student)
        return unclear(row, "Nothing is in it.")
    paths = shallow_first(names)
    row.path = readable(paths[0])
    if len(paths) > FILES_LIMIT:
        row.rejected = f"more than {FILES_LIMIT} files"
        return row
    row.answers, problem = sheet_of(source, names)
    row.flags += [problem] if problem else []
    for pattern in CANDIDATES:
        fitting = [path for path in paths if pattern.fullmatch(names[path])]
        if fitting:
            return from_candidates(source, row, fitting, beside(names, fitting[0]))
    if problems := list(filter(None, map(source.problem, paths[:8]))):
        row.rejected = problems[0]
        return row
    return unclear(row, what_instead(names.values()))


def what_instead(names):
    """In one line, what lies there in the place of rewards.py.

    >>> what_instead(["rewards.py.txt"]), what_instead(["a.dat"])
    ('No rewards.py, only rewards.py.txt: take .txt off its name.', 'No rewards.py, only a.dat.')
    """
    shown = ", ".join(sorted({readable(name)[:60] for name in names})[:3])
    kinds = [
        help for ends, help in INSTEAD.items() if any(name.lower().endswith(ends) for name in names)
    ]
    return f"No rewards.py, only {shown}{': ' if kinds else ''}{''.join(kinds[:1])}."


def shallow_first(paths):
    return sorted(paths, key=lambda path: (len(path.parts), path))


def top_level(paths):
    """Those of some paths, shallow ones first, that lie as high as the first."""
    return [path for path in paths if len(path.parts) == len(paths[0].parts)]


def beside(names, chosen):
    """Names of files in the folder of the chosen one that look like another version of it."""
    near = [path for path in names if path.parent == chosen.parent and path != chosen]
    return [readable(names[path]) for path in near if VERSION.search(names[path])]


def from_candidates(source, row, fitting, versions):
    """The row of a hand-in in which these paths, shallow ones first, may be the submission.

    Args:
        source, row: of `hand_in`.
        fitting: the paths.
        versions: names of files beside it that a flag shall name.
    """
    candidates = top_level(fitting)
    found = [contents(source, path) for path in candidates[:8]]
    row.path = readable(candidates[0])
    row.source = found[0].source
    row.rejected = found[0].rejected
    row.question = found[0].question
    row.answers = row.answers or found[0].answers
    if len(set(found)) > 1:
        return which_of(row, [readable(path) for path in candidates])
    if versions and is_template(row.source):
        return which_of(row, [f"{row.path}, which is as it was handed out", *versions])
    if more := [*versions, *map(readable, fitting[len(candidates) :])]:
        row.flags.append(f"also in the hand-in: {', '.join(more[:3])}")
    return row


def is_template(source):
    """Whether a file is the students' one, unchanged but for ends of lines."""
    path = ROOT / "rewards.py"
    return path.exists() and source.split() == path.read_bytes().split()


def contents(source, path):
    """The `Contents` at a path of a folder or zip, whatever lies there."""
    try:
        return read_one(source, path)
    except Rejected as error:
        return Contents(rejected=str(error))
    except OSError as error:
        return Contents(rejected=f"cannot be read ({error.strerror})")


def sheet_of(source, names):
    """(the answers.md among the files of a hand-in, what is wrong with it)."""
    sheets = shallow_first(path for path in names if SHEET.fullmatch(names[path]))
    if not sheets:
        return b"", ""
    sheet = contents(source, sheets[0])
    problem = f"answers.md: {sheet.rejected}" if sheet.rejected else ""
    if len(top_level(sheets)) > 1:
        problem = f"several sheets of answers; {readable(sheets[0])} is taken"
    return sheet.source, problem


def read_one(source, path):
    """The `Contents` at a path of a folder or zip.

    Raises:
        Rejected: it cannot be a submission.
        OSError: it cannot be read.
    """
    if problem := source.problem(path):
        raise Rejected(problem)
    if path.suffix.lower() != ".zip":
        return Contents(check(source.read(path, SIZE_LIMIT)))
    data = source.read(path, ZIP_LIMIT)
    if len(data) > ZIP_LIMIT:
        raise Rejected(f"a zip larger than {ZIP_LIMIT >> 20} MB")
    inner = Zip(io.BytesIO(data))
    outside = [entry for entry in inner.paths() if inner.problem(entry)]
    if outside:
        raise Rejected(inner.problem(outside[0]))
    names = {entry: entry.name for entry in inner.paths() if is_content(entry)}
    row = hand_in(inner, "", (), names)
    if row.path.lower().endswith(".zip"):
        return Contents(question="A zip without rewards.py.")
    if row.question:
        return Contents(question=row.question)
    if row.rejected:
        raise Rejected(row.rejected)
    return Contents(row.source, answers=row.answers)


def in_order(submissions):
    """The submissions sorted by student, with names and paths that are all different."""
    students = set()
    paths = set()
    namesakes = Counter(row.student for row in submissions if not row.duplicate)
    for row in submissions:
        ids = ", ".join(filter(None, (member.id for member in row.members)))
        if ids and namesakes[row.student] > 1:  # each: of a bare name nobody knows whose it is
            row.student = f"{row.student} ({ids})"
        if not row.duplicate:
            row.student = unused(row.student, students, [f"{row.student} (2)"])
        row.path = unused(row.path, paths, [f"{row.path} (2)"])

    def by_student(row):
        return normal(row.student), row.student, row.duplicate, row.path

    return sorted(submissions, key=by_student)


def unused(text, used, further):
    """The first of a text, `further` ones, and the text with a number from 3 on that is not used.

    >>> unused("Ann", {"Ann", "Ann (7)"}, ["Ann (7)"])
    'Ann (3)'
    """
    numbered = (f"{text} ({repeat})" for repeat in itertools.count(3))
    chosen = next(t for t in itertools.chain([text], further, numbered) if t not in used)
    used.add(chosen)
    return chosen
