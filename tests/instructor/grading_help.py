"""What several tests of the grader need."""

import io
import os
import shutil
import subprocess
import sys

from rich.console import Console

from engine.common import ROOT


def grader(*arguments, root=ROOT, **options):
    """Run the grade.py of a copy of the grader as a program; its finished process."""
    command = [sys.executable, str(root / "instructor" / "grade.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, **options)


def unpack_grader(folder):
    """Put the grader, as Gradescope gets it, into a new folder: no solution, so no self-check."""
    from instructor.grading import gradescope

    archive = folder.with_suffix(".zip")
    gradescope.main([str(archive)])
    shutil.unpack_archive(archive, folder)
    archive.unlink()


def put(folder, student, source):
    """Hand in a rewards.py, a text or bytes, as FOLDER/STUDENT/rewards.py."""
    (folder / student).mkdir(parents=True)
    data = source if isinstance(source, bytes) else source.encode()
    (folder / student / "rewards.py").write_bytes(data)


def graded(tmp_path, *more):
    """Grade tmp_path/export.zip with the roster tmp_path/book.csv into tmp_path/out, as the command
    line would; what `course.grade` returns."""
    from instructor.grading import course
    from instructor.grading.command import parse_arguments

    arguments = [str(tmp_path / "export.zip"), f"--out={tmp_path / 'out'}", *more]
    args = parse_arguments([*arguments, f"--roster={tmp_path / 'book.csv'}"])
    return course.grade(args, Console(file=io.StringIO()))


def result_of(student, score=87.5, **more):
    """A result as the grader makes it, without tests."""
    blank = {"status": "graded", "reason": "", "tests": [], "flags": [], "seconds": 10}
    blank |= {"max": 100, "sandbox": "x", "path": "p"}
    return {"student": student, "score": score, **blank, **more}


def state_of(*folders):
    """{file or folder: its mode, owner, size, time of change and extended attributes}."""
    found = {}
    for path in (path for folder in folders for path in (folder, *folder.rglob("*"))):
        if "__pycache__" not in path.parts and ".git" not in path.parts:
            now = path.lstat()
            time_of_change = 0 if path.is_dir() else now.st_mtime_ns
            found[path] = (now.st_mode, now.st_uid, now.st_gid, now.st_size, time_of_change)
            found[path] += tuple(os.listxattr(path, follow_symlinks=False))
    return found
