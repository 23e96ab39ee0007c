"""Find the submissions in what a course hands in: folders, zips, exports of three platforms.

    a folder      NAME.py, NAME/rewards.py or NAME.zip for each student
    Gradescope    submission_ID/… with submission_metadata.yml beside them
    Canvas        lastfirst_LATE_USER_FILE_rewards.py, one flat folder
    Moodle        Full Name_ID_assignsubmission_file_/rewards.py

each as a folder or as one zip. Nothing is unpacked onto the disk: files are read within limits,
and whatever is no plain small text is a submission too, rejected for a stated reason. Where it is
not clear what a student has handed in, or who, the row holds a question and no points: nothing is
merged or dropped in silence.
"""

import io
import re
from pathlib import PurePosixPath

from instructor.grading.identity import METADATA, owner_of, read_metadata
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


class Unclear(Rejected):
    """What the instructor must settle."""


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
        named = [
            file.name for file in files if len(file.parts) == 1 and rank({file: file.name}) == 2
        ]
        if named and not one:
            flag = f"taken for one student's folder, with {', '.join(map(readable, named[:4]))}"
            found[0].flags.append(flag)
    else:
        root = root_of(files)
        metadata = read_metadata(source, root) if root / METADATA in files else {}
        found = [
            submission
            for handed in owned(files, folders, root, metadata).values()
            for submission in submissions_of(source, handed)
        ]
    if not found:
        raise Rejected(f"there is no submission in '{path}': no rewards.py, no .py, no .zip")
    return in_order(found)


def is_content(path):
    """Whether a path is a student's, not of an operating system; hidden files are not."""
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return bool(path.parts) and not hidden and "__MACOSX" not in path.parts


def lonely(files):
    """Whether the only rewards.py lies in the folder itself, which then is one student's."""
    named = [file for file in files if file.name == "rewards.py"]
    return named == [PurePosixPath("rewards.py")]


def root_of(files):
    """The folder that holds the hand-ins: the one around all, unless it is one student's own."""
    root = PurePosixPath()
    for depth in range(3):
        firsts = {file.parts[depth] for file in files}
        if len(firsts) != 1 or any(len(file.parts) == depth + 1 for file in files):
            break
        (first,) = firsts
        if first in ("/", ".."):
            break
        inside = root / first
        named = [file for file in files if file.name == "rewards.py"]
        students = {file.parts[depth + 1] for file in named} - {"rewards.py"}
        own = inside / "rewards.py" in named and len(students) < 2
        if own and inside / METADATA not in files:
            break
        root = inside
    return root


def owned(files, folders, root, metadata):
    """{key of an owner: [(owner, {path: the name that the student gave it})]}.

    One entry of the list for each file or folder in `root`; an empty folder counts too, and so does
    a folder that only the metadata name.
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
    owners = {}
    for top, paths in tops.items():
        owner = owner_of(top, metadata)
        names = {path: path.name for path in paths}
        if owner.file and paths == [root / top]:
            names = {paths[0]: owner.file}
        owners.setdefault(owner.key, []).append((owner, names))
    return owners


def submissions_of(source, handed):
    """The rows of one owner: the submission, and older ones, which are not graded."""
    owner = handed[0][0]
    if owner.key == ("name", "rewards") and [*handed[0][1].values()] == ["rewards.py"]:
        row = hand_in(source, owner.student, owner.members, handed[0][1])
        return [unclear(row, "Whose is it? It lies beside the hand-ins, without a name.")]
    if owner.order is None or len(handed) == 1:
        flags = [flag for one, _ in handed for flag in one.flags]
        if len(handed) > 1 and owner.key[0] == "name":  # ann.py beside ann/ and ann.zip
            parts = [hand_in(source, owner.student, owner.members, names) for _, names in handed]
            return [one_of(parts, flags)]
        names = {path: name for _, own in handed for path, name in own.items()}
        return [hand_in(source, owner.student, owner.members, names, flags)]
    return newest(source, handed)


def newest(source, handed):
    """The rows of an owner with several hand-ins on a platform that tells which is newer."""
    side, sheet = [], b""
    handed = sorted(handed, key=lambda entry: entry[0].order)
    if handed[0][0].key[0] == "canvas":  # which gives every file of a hand-in a number of its own
        for _, names in handed:
            sheet = sheet_of(source, names)[0] or sheet  # the newest
        best = min(rank(names) for _, names in handed)
        side = [readable(n) for _, names in handed if rank(names) > best for n in names.values()]
        handed = [(owner, names) for owner, names in handed if rank(names) == best]
    rows = [hand_in(source, o.student, o.members, names, o.flags) for o, names in handed]
    latest = [row for row, (owner, _) in zip(rows, handed) if owner.order == handed[-1][0].order]
    older = rows[: len(rows) - len(latest)]
    chosen = one_of(latest, latest[-1].flags)
    for row in older:
        row.duplicate = True
    if older:
        chosen.flags.append(f"{len(older) + 1} submissions; the newest is graded")
    chosen.answers = chosen.answers or sheet
    side = [name for name in side if not SHEET.fullmatch(name)]
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
        places = ", ".join(row.path for row in rows[:4])
        return unclear(best, f"Which of these is the submission: {places}? Keep one.")
    return best


def unclear(row, question):
    """The row with a question in the place of a submission."""
    row.source, row.rejected, row.question = b"", "", question
    return row


def hand_in(source, student, members, names, flags=()):
    """The row of one hand-in.

    Args:
        source: a `Folder` or `Zip`.
        student, members, flags: of the `Submission`.
        names: {path: the name that the student gave to the file}.
    """
    row = Submission(student, "", members=tuple(members), flags=list(flags))
    if not names:
        row.path, row.rejected = readable(f"{source.label}{student}"), "nothing in it"
        return row
    paths = sorted(names, key=lambda path: (len(path.parts), path))
    row.path = place(source, paths[0])
    if len(paths) > FILES_LIMIT:
        row.rejected = f"more than {FILES_LIMIT} files"
        return row
    row.answers, problem = sheet_of(source, names)
    row.flags += [problem] if problem else []
    for pattern in CANDIDATES:
        fitting = [path for path in paths if pattern.fullmatch(names[path])]
        if fitting:
            return from_candidates(source, row, fitting, beside(names, fitting[0]))
    shown = ", ".join(sorted({readable(name)[:60] for name in names.values()})[:3])
    row.rejected = f"no rewards.py, only {shown}"
    return row


def beside(names, chosen):
    """Names of files in the folder of the chosen one that look like another version of it."""
    near = [path for path in names if path.parent == chosen.parent and path != chosen]
    return [readable(names[path]) for path in near if VERSION.search(names[path])]


def from_candidates(source, row, fitting, versions):
    """The row of a hand-in in which these paths, shallow ones first, may be the submission.

    Args:
        source, row: of `hand_in`.
        fitting: the paths.
        versions: names of files that are to be told beside it.
    """
    first = [path for path in fitting if len(path.parts) == len(fitting[0].parts)]
    found = [contents(source, path) for path in first[:8]]
    row.path = place(source, first[0])
    row.source, row.rejected, row.question, answers = found[0]
    row.answers = row.answers or answers
    if len(set(found)) > 1:
        places = ", ".join(place(source, path) for path in first[:4])
        return unclear(row, f"Which of these is the submission: {places}? Keep one.")
    if more := [*versions, *(place(source, path) for path in fitting[len(first) :])]:
        row.flags.append(f"also in the hand-in: {', '.join(more[:3])}")
    return row


def contents(source, path):
    """(source, why it is rejected, what is not clear about it, written answers in the same zip)."""
    try:
        data, answers = read_one(source, path)
        return data, "", "", answers
    except Unclear as error:
        return b"", "", str(error), b""
    except Rejected as error:
        return b"", str(error), "", b""
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})", "", b""


def sheet_of(source, names):
    """(the answers.md among the files of a hand-in, what is wrong with it)."""
    sheets = [path for path in names if SHEET.fullmatch(names[path])]
    sheets.sort(key=lambda path: (len(path.parts), path))
    if not sheets:
        return b"", ""
    data, problem, *_ = contents(source, sheets[0])
    problem = f"answers.md: {problem}" if problem else ""
    first = [path for path in sheets if len(path.parts) == len(sheets[0].parts)]
    if len(first) > 1:
        problem = f"several sheets of answers; {place(source, first[0])} is taken"
    return data, problem


def place(source, path):
    """Where something was found, for the instructor."""
    return readable(f"{source.label}{path}")


def read_one(source, path):
    """(the bytes of the submission at a path of a folder or zip, written answers in the same zip).

    Raises:
        Rejected: it cannot be one; `Unclear` where a zip holds several.
        OSError: it cannot be read.
    """
    if problem := source.problem(path):
        raise Rejected(problem)
    if path.suffix.lower() != ".zip":
        return check(source.read(path, SIZE_LIMIT)), b""
    data = source.read(path, ZIP_LIMIT)
    if len(data) > ZIP_LIMIT:
        raise Rejected(f"a zip larger than {ZIP_LIMIT >> 20} MB")
    inner = Zip(io.BytesIO(data))
    outside = [entry for entry in inner.paths() if inner.problem(entry)]
    if outside:
        raise Rejected(inner.problem(outside[0]))
    names = {entry: entry.name for entry in inner.paths() if is_content(entry)}
    row = hand_in(inner, "", (), names)
    if row.path.lower().endswith(".zip") or row.rejected.startswith(("no rewards.py", "nothing")):
        raise Rejected("a zip without rewards.py")
    if row.question:
        raise Unclear(row.question)
    if row.rejected:
        raise Rejected(row.rejected)
    return row.source, row.answers


def in_order(submissions):
    """The submissions sorted by student, with names and paths that are all different."""
    students, paths = {}, set()
    for row in submissions:
        ids = ", ".join(filter(None, (member.id for member in row.members)))
        if not row.duplicate:
            name, repeat = row.student, 1
            while row.student in students:
                repeat += 1
                row.student = f"{name} ({ids})" if ids and repeat == 2 else f"{name} ({repeat})"
            students[row.student] = row
        path, repeat = row.path, 1
        while row.path in paths:
            repeat += 1
            row.path = f"{path} ({repeat})"
        paths.add(row.path)

    def by_student(row):
        return normal(row.student), row.student, row.duplicate, row.path

    return sorted(submissions, key=by_student)
