"""What no kernel limit bounds for an ordinary user: threads, disk and files of one submission.

The worker looks every twentieth of a second and kills what is beyond; so more can exist for that
long. Also removes folders whose content tries to stay. Imports nothing of the grader: a copy of
this file lies beside worker.py.
"""

import os
from typing import NamedTuple

INTERVAL = 0.05  # seconds between two looks


class Bounds(NamedTuple):
    """The most that one submission may have."""

    threads: int
    files: int  # in its folder, folders too
    bytes: int  # of them on the disk
    written: int  # bytes that it ever wrote, also to files that it has deleted and still holds open
    mapped: int  # files that it has deleted and still has in its memory


BOUNDS = Bounds(threads=64, files=200, bytes=32 << 20, written=128 << 20, mapped=32)


def overrun(pid, folder, bounds=BOUNDS, untouched=None):
    """Which bound a process exceeds, in words for the student; an empty text if none.

    Args:
        pid: the process.
        folder: the one that it may write to.
        bounds: the most that it may have.
        untouched: when the folder had last changed before the process began. The list of what is
            mapped is long: whoever has not touched the folder has no deleted files.
    """
    try:
        if len(os.listdir(f"/proc/{pid}/task")) > bounds.threads:
            return f"it started more than {bounds.threads} threads"
        if written(pid) > bounds.written:
            return f"it wrote more than {bounds.written >> 20} MB"
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""
    files, size, changed = used(folder, enough=bounds.files)
    if changed != untouched and mapped(pid) > bounds.mapped:
        return f"it kept more than {bounds.mapped} deleted files in memory"
    if files > bounds.files:
        return f"its folder held more than {bounds.files} files"
    if size > bounds.bytes:
        return f"its folder held more than {bounds.bytes >> 20} MB"
    return ""


def written(pid):
    """Bytes that a process has handed to write(2) so far; 0 where nobody may know."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return int(file.read().split("wchar:")[1].split()[0])
    except (PermissionError, IndexError):
        return 0


def mapped(pid):
    """How many deleted files a process has mapped into its memory: they are on the disk, and no
    folder shows them."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = [line.split(maxsplit=5) for line in file if line.endswith(b"(deleted)\n")]
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        return 0
    return len({(device, inode) for _, _, _, device, inode, _ in lines})


def used(folder, enough):
    """(files and folders below a folder, their bytes on the disk, when a folder last changed);
    counts to `enough` and one."""
    files = size = changed = 0
    folders = [folder]
    while folders and files <= enough:
        try:
            here = folders.pop()
            changed = max(changed, os.stat(here, follow_symlinks=False).st_mtime)
            with os.scandir(here) as entries:
                for entry in entries:
                    files += 1
                    if files > enough:
                        break
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:  # a folder that hides its content, or a path of more than 4096 bytes
            return enough + 1, size, changed
    return files, size, changed


def remove(folder):
    """Delete a folder whose processes have ended, however deep it is and whatever its modes.

    Every folder in it is lifted to the top before it is emptied, so that no path grows long and
    nothing recurses. No link is followed.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    prefix = f".{os.urandom(8).hex()}"  # a name that nobody can have taken
    lifted = 0
    try:
        while names := os.listdir(top):
            for name in names:
                if not is_folder(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)
                inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    for inner in os.listdir(inside):
                        if is_folder(inner, inside):
                            os.chmod(inner, 0o700, dir_fd=inside)
                            lifted += 1
                            target = f"{prefix}-{lifted}"
                            os.rename(inner, target, src_dir_fd=inside, dst_dir_fd=top)
                        else:
                            os.unlink(inner, dir_fd=inside)
                finally:
                    os.close(inside)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)


def is_folder(name, parent):
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    return mode & 0o170000 == 0o040000
