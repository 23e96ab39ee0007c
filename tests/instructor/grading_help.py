"""What several tests of the grader need."""

import os
import subprocess
import sys

from engine.common import ROOT

FRONT = ROOT / "instructor" / "grade.py"


def grader(*arguments, **options):
    """Run grade.py as a program; its finished process."""
    command = [sys.executable, str(FRONT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, **options)


def put(folder, student, source):
    """Hand in a rewards.py, a text or bytes, as FOLDER/STUDENT/rewards.py."""
    (folder / student).mkdir(parents=True)
    data = source if isinstance(source, bytes) else source.encode()
    (folder / student / "rewards.py").write_bytes(data)


def result_of(student, score=87.5, **more):
    """A result as the grader makes it, without tests."""
    blank = {"status": "graded", "tests": [], "flags": [], "seconds": 10, "sandbox": "x"}
    return {"student": student, "score": score, "max": 100, "path": "p", **blank, **more}


def examined(sources, models):
    """{name: what the grader finds in a source}, each examined for real in the sandbox."""
    from instructor.grading.examining import examine
    from instructor.grading.process import Workshop

    with Workshop(1) as workshop:
        workshop.wait()
        return {
            name: examine(workshop, workshop.controls[0], source.encode(), [0, 7], models)
            for name, source in sources.items()
        }


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
