"""Read a folder or a zip within limits. Nothing is unpacked onto the disk."""

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from instructor.grading.submission import Rejected

SIZE_LIMIT = 256 * 1024  # bytes of a rewards.py; the solution has 10 000
ZIP_LIMIT, MEMBER_LIMIT, DEPTH_LIMIT = 64 << 20, 5000, 32


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
        """Everything but folders, sorted; a folder too deep or closed stands for its content."""
        found, folders = [], [PurePosixPath()]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        is_folder = entry.is_dir(follow_symlinks=False)
                        deep = len(folder.parts) >= DEPTH_LIMIT
                        (folders if is_folder and not deep else found).append(folder / entry.name)
            except OSError:
                found.append(folder)
        return sorted(found)

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
        except Exception as error:  # a damaged zip raises a dozen kinds
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
        except Exception as error:  # the same
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
