"""What the worker sees of a submission from outside, and how its folder goes away."""

import mmap
import os
import shutil
import sys
import threading

import pytest

from instructor.grading.sandbox import drop_capabilities
from instructor.grading.watching import Bounds, mapped, overrun, remove, used

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
PLENTY = Bounds(threads=10**6, files=10**6, bytes=1 << 50, written=1 << 50, mapped=10**6)


def nest(folder, levels, name="d"):
    """A chain of folders; by file descriptors, because its path is too long for any call."""
    os.makedirs(folder, exist_ok=True)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        deeper = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    with open(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here), "w") as file:
        file.write("x")
    os.close(here)


def as_an_ordinary_user(function, *arguments):
    """Whether it ends without an error in a process that has no rights of root, if there were any;
    those would make modes mean nothing."""
    pid = os.fork()
    if pid == 0:
        try:
            drop_capabilities()
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("levels, name", [(3, "d"), (1100, "d"), (300, "n" * 250)])
def test_folders_of_any_depth_go_away(tmp_path, levels, name):
    """shutil.rmtree ends in RecursionError, and `ignore_errors` does not ignore that one."""
    nest(tmp_path / "x", levels, name)
    remove(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_closed_folders_go_away_and_links_are_not_followed(tmp_path):
    kept = tmp_path / "kept"
    nest(kept, 2)
    nest(tmp_path / "x" / "closed" / "deeper", 2)
    (tmp_path / "x" / "link").symlink_to(kept)
    (tmp_path / "x" / "closed" / "link").symlink_to(kept)
    os.mkfifo(tmp_path / "x" / "fifo")
    (tmp_path / "x" / "closed" / "deeper").chmod(0o000)
    (tmp_path / "x" / "closed").chmod(0o300)
    assert as_an_ordinary_user(remove, tmp_path / "x")
    remove(tmp_path / "x")  # what is gone is gone
    assert list(tmp_path.iterdir()) == [kept] and (kept / "d" / "d" / "file").exists()


def test_files_folders_and_bytes_are_counted(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"x" * 4096)
    (tmp_path / "two").write_bytes(b"x" * 4096)
    (tmp_path / "link").symlink_to("/")
    files, size, changed = used(tmp_path, 100)
    assert files == 5 and 8192 <= size <= 5 * 4096 + 8192
    assert changed == max(path.stat().st_mtime for path in (tmp_path, *tmp_path.glob("**/")))
    assert used(tmp_path, 3)[0] == 4  # counts no further than it must
    shutil.rmtree(tmp_path / "a")
    nest(tmp_path / "deep", 30, "n" * 250)  # a path that no call takes
    assert used(tmp_path, 10**6)[0] == 10**6 + 1
    remove(tmp_path / "deep")


def test_what_is_beyond_a_bound_is_named(tmp_path):
    own = os.getpid()
    stop = threading.Event()
    assert overrun(own, tmp_path, PLENTY) == ""
    assert overrun(2**22 + 1, tmp_path, PLENTY) == ""  # nobody has this number
    threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(9)]
    for thread in threads:
        thread.start()
    assert "more than 8 threads" in overrun(own, tmp_path, PLENTY._replace(threads=8))
    stop.set()
    with open(os.devnull, "wb") as file:
        file.write(b"x" * (4 << 20))
    assert "wrote more than 2 MB" in overrun(own, tmp_path, PLENTY._replace(written=2 << 20))
    (tmp_path / "big").write_bytes(b"x" * (3 << 20))
    assert "held more than 2 MB" in overrun(own, tmp_path, PLENTY._replace(bytes=2 << 20))
    kept, others = [], mapped(own)  # of earlier tests
    for i in range(4):
        (tmp_path / "gone").write_bytes(bytes(10 + i))
        with open(tmp_path / "gone", "rb") as file:
            kept.append(mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ))
        (tmp_path / "gone").unlink()
    assert overrun(own, tmp_path, PLENTY._replace(mapped=others + 4)) == ""
    few = PLENTY._replace(mapped=others + 3)
    assert f"more than {others + 3} deleted files" in overrun(own, tmp_path, few, untouched=1.0)
    now = tmp_path.stat().st_mtime
    assert overrun(own, tmp_path, few, untouched=now) == ""  # looked at after a change alone
    assert "held more than 0 files" in overrun(own, tmp_path, PLENTY._replace(files=0))
