"""What the grader will not let a submission do, refused where students test their file.

So that it costs a sentence before the deadline, and no points after it. This is no protection: the
grader has another, in the kernel.
"""

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROVIDED = ("data.py", "evaluate.py", "reward_utils.py", "sentiment.py", "train.py")
FOLDERS = ("engine", "cases", "tests", "__pycache__")  # those beside a file that hold none of it
STARTS = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen")
TALKS = ("socket.bind", "socket.connect", "socket.getaddrinfo")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_fences: list["Fence"] = []  # around what runs now: a hook cannot be taken away again


class Fence:
    """What one file may do.

    Args:
        path: the file, which is all that is handed in.
        folder: where it may write.
    """

    def __init__(self, path: Path, folder: Path):
        self.path = path
        self.folder = folder
        self.refused = ""  # what it tried first

    def refusal(self, event: str, args: tuple) -> str:
        """Why something is refused, or an empty string. See the audit events of Python."""
        if event in STARTS:
            return "The grader lets a submission start no process"
        if event in TALKS:
            return "The grader lets a submission use no network"
        if event != "open" or isinstance(args[0], int):
            return ""
        path = Path(os.path.realpath(os.fsdecode(args[0])))
        if self.writes(*args[1:]) and path.parts[:2] != ("/", "dev"):
            if self.folder in (path, *path.parents) or "__pycache__" in path.parts:
                return ""
            return f"The grader lets a submission write into the temporary folder only, not {path}"
        beside = self.path.parent in path.parents and Path(sys.prefix) not in path.parents
        known = (*PROVIDED, *FOLDERS, self.path.name)
        if beside and path.relative_to(self.path.parent).parts[0] not in known:
            return f"Only {self.path.name} is handed in: {path.name} will not be there"
        return ""

    @staticmethod
    def writes(mode: str | None, flags: int | None) -> bool:
        if mode is None:  # os.open
            return bool((flags or 0) & WRITES)
        return any(letter in mode for letter in "wax+")


def _hook(event, args):
    if _fences:
        fence = _fences[-1]
        if text := fence.refusal(event, args):
            fence.refused = fence.refused or text
            raise PermissionError(text)


@contextlib.contextmanager
def as_in_the_grader(path: str | Path) -> Iterator[None]:
    """Around whatever runs the code of a file: it works in an empty folder, and raises
    PermissionError where the grader would not let it go on."""
    before = tempfile.tempdir
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        fence = Fence(Path(path).resolve(), Path(folder).resolve())
        with contextlib.chdir(folder), _inside(fence):
            tempfile.tempdir = folder
            try:
                yield
            except Exception as error:
                if not fence.refused:
                    raise
                told = PermissionError(fence.refused)  # a library may have made another error of it
                raise told.with_traceback(error.__traceback__) from None
            finally:
                tempfile.tempdir = before
                _forget(folder, environment)


def _forget(folder, before):
    """Put back the environment's variables that name a folder which goes away: torch's cache."""
    for name in [name for name, value in os.environ.items() if folder in value]:
        del os.environ[name]
        if name in before:
            os.environ[name] = before[name]


@contextlib.contextmanager
def _inside(fence):
    _hook_once()
    _fences.append(fence)
    try:
        yield
    finally:
        _fences.remove(fence)


@functools.cache
def _hook_once():
    sys.addaudithook(_hook)
