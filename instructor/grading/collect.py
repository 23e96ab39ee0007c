"""Find the submissions in what a course hands in: folders, zips, exports of three platforms.

    a folder      NAME.py, NAME/rewards.py or NAME.zip for each student
    Gradescope    submission_ID/… with submission_metadata.yml beside them
    Canvas        lastfirst_LATE_USER_FILE_rewards.py, one flat folder
    Moodle        Full Name_ID_assignsubmission_file_/rewards.py

each as a folder or as one zip. Nothing is unpacked onto the disk: files are read within limits,
and whatever is no plain small text is a submission too, rejected for a stated reason.
"""

import dataclasses
import io
import re
from pathlib import PurePosixPath

from engine.common import first_line
from instructor.grading.reading import SIZE_LIMIT, ZIP_LIMIT, Zip, check, open_source
from instructor.grading.submission import Rejected, Submission, normal

CANVAS = re.compile(r"(?P<name>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<order>\d+)_(?P<file>.+)")
MOODLE = re.compile(r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_file_?(?P<file>.*)")


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
    paths = [path for path in source.paths() if is_content(path)]
    if [path for path in paths if path.name == "rewards.py"] == [PurePosixPath("rewards.py")]:
        return {"submission": paths}  # one student's folder
    firsts = {path.parts[0] for path in paths if len(path.parts) > 1}
    lone = len(firsts) == 1 and all(len(path.parts) > 1 for path in paths)
    around = lone and any(len(path.parts) > 2 or path.suffix == ".zip" for path in paths)
    if lone and not around:  # a zip of one folder full of NAME.py, not of one student
        around = "rewards.py" not in {path.name for path in paths}
    grouped = {}
    for path in paths:
        inner = path.parts[1:] if around and ".." not in path.parts else path.parts
        grouped.setdefault(inner[0], []).append(path)
    return grouped


def is_content(path):
    """Whether a file comes from a student, not from the platform or an operating system."""
    extra = path.name == "submission_metadata.yml" or "__MACOSX" in path.parts
    return not extra and path.name[0] != "."


def submissions_of(source, owner, paths, metadata):
    """The submissions of one folder or file of the hand-in; rejected ones too."""
    who = identify(owner, metadata)
    if who is None:
        return []
    best = pick(paths)
    if best is None:
        names = ", ".join(sorted({path.name for path in paths})[:3])
        return [Submission(**who, path=owner, rejected=f"no rewards.py, only {names}")]
    others = [path for path in paths if path.name == best.name and path != best]
    found = [read_one(source, best, who)]
    found += [dataclasses.replace(read_one(source, path, who), order=(-1,)) for path in others]
    return found


def pick(paths):
    """The submission among the files of one student: rewards.py, else the only .py, else a zip."""
    by_depth = sorted(paths, key=lambda path: (len(path.parts), str(path)))
    for wanted in (
        [path for path in by_depth if path.name == "rewards.py"],
        [path for path in by_depth if re.fullmatch(r".*rewards[-_ ()\d]*\.py", path.name)],
        [path for path in by_depth if path.suffix == ".py"],
        [path for path in by_depth if path.suffix == ".zip"],
    ):
        if wanted and (
            wanted[0].name == "rewards.py" or wanted[0].suffix == ".zip" or len(wanted) == 1
        ):
            return wanted[0]
    return None


def read_one(source, path, who):
    """The `Submission` at a path of a folder or zip, rejected where it cannot be one."""
    label = f"{source.label}{path}"
    try:
        if problem := source.problem(path):
            raise Rejected(problem)
        if path.suffix == ".zip":
            inner = Zip(io.BytesIO(whole_zip(source, path)), f"{label}:")
            unsafe = [entry for entry in inner.paths() if inner.problem(entry)]
            if unsafe:
                raise Rejected(inner.problem(unsafe[0]))
            best = pick([entry for entry in inner.paths() if "__MACOSX" not in entry.parts])
            if best is None or best.suffix == ".zip":
                raise Rejected("a zip without rewards.py")
            return read_one(inner, best, who)
        return Submission(**who, path=label, source=check(source.read(path, SIZE_LIMIT)))
    except Rejected as error:
        return Submission(**who, path=label, rejected=str(error))
    except OSError as error:
        return Submission(**who, path=label, rejected=f"cannot be read ({error.strerror})")


def whole_zip(source, path):
    """The bytes of a zip inside a folder or zip.

    Raises:
        Rejected: they are too many.
    """
    data = source.read(path, ZIP_LIMIT)
    if len(data) > ZIP_LIMIT:
        raise Rejected(f"a zip larger than {ZIP_LIMIT >> 20} MB")
    return data


def identify(owner, metadata):
    """Who handed in: the fields of a Submission that its name or the metadata tell."""
    if metadata:
        return identify_by_metadata(owner, metadata)
    if match := MOODLE.fullmatch(owner):
        return {"student": match["name"], "name": match["name"], "id": match["id"]}
    if match := CANVAS.fullmatch(owner):
        flags = ["late"] if match["late"] else []
        order = (int(match["order"]),)
        who = {"student": match["name"], "name": match["name"], "id": match["id"]}
        return {**who, "flags": flags, "order": order}
    stem = owner.rsplit(".", 1)[0] if owner.endswith((".py", ".zip")) else owner
    return {"student": stem, "name": stem}


def identify_by_metadata(owner, metadata):
    """The same from Gradescope's metadata; None for a folder that they do not name."""
    if owner not in metadata:
        return None
    entry = metadata[owner] or {}
    people = entry.get(":submitters") or [{}]
    names = [str(person.get(":name") or "") for person in people]
    name = ", ".join(filter(None, names)) or owner
    return {
        "student": name,
        "name": name,
        "email": str(people[0].get(":email") or ""),
        "id": str(people[0].get(":sid") or ""),
        "order": (str(entry.get(":created_at") or ""), owner),
    }


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
                raise Rejected(f"{path} cannot be read: {first_line(error)}") from error
    return {}


def mark_duplicates(submissions):
    """Of several by one student the newest stays; namesakes with other ids stay apart."""
    groups = {}
    for submission in submissions:
        groups.setdefault((submission.id or normal(submission.student)), []).append(submission)
    taken = {}
    for group in groups.values():
        group.sort(key=lambda one: (one.order, not one.rejected), reverse=True)
        for i, submission in enumerate(group):
            if submission.id and taken.get(submission.student, submission.id) != submission.id:
                submission.student += f" ({submission.id})"
            taken.setdefault(submission.student, submission.id)
            if i:
                submission.duplicate = True
        if len(group) > 1:
            group[0].flags.append(f"{len(group)} submissions; the newest is graded")

    def by_student(submission):
        student = submission.student
        return normal(student), student, submission.duplicate, submission.path

    return sorted(submissions, key=by_student)
