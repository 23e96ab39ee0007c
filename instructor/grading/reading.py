"""Read a folder or a zip within limits. Nothing is unpacked onto the disk."""

import io
import os
import stat
import tokenize
import zipfile
from pathlib import Path, PurePosixPath

from engine.common import first_line
from instructor.grading.submission import Rejected

SIZE_LIMIT = 256 * 1024  # bytes of a rewards.py; the solution has 10 000
ZIP_LIMIT = 64 << 20  # bytes of a zip in a folder or zip
MEMBER_LIMIT = 200_000  # files of a zip
DEPTH_LIMIT = 24  # folders in folders


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
        if not declares_encoding(data):
            raise Rejected(f"not UTF-8 text (byte {error.start})") from error
    return data


def declares_encoding(data):
    """Whether one of the first two lines is a comment such as `# coding: latin-1`. Whether it says
    the truth turns out where Python reads the file: decoding may take minutes here."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:
        return False
    return not encoding.startswith("utf-8")


class Folder:
    """A folder as {relative path: how to read it}."""

    def __init__(self, root):
        self.root = Path(root)

    def paths(self):
        """Relative paths of all files, in order; of a folder that cannot be read, its own."""
        found = []
        left = [PurePosixPath()]
        while left:
            folder = left.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except OSError as error:
                if not folder.parts:
                    raise Rejected(f"'{self.root}' cannot be read: {error.strerror}") from error
                found.append(folder)
                continue
            for entry in entries:
                path = folder / entry.name
                inside = entry.is_dir(follow_symlinks=False) and len(path.parts) < DEPTH_LIMIT
                (left if inside else found).append(path)
        return sorted(found)

    def folders(self):
        """Relative paths of the folders in it and in those."""
        return [
            PurePosixPath(path.relative_to(self.root).as_posix())
            for pattern in ("*", "*/*")
            for path in sorted(self.root.glob(pattern))
            if path.is_dir() and not path.is_symlink()
        ]

    def problem(self, path):
        try:
            mode = (self.root / path).lstat().st_mode
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if stat.S_ISLNK(mode):
            return "a symbolic link"
        return "" if stat.S_ISREG(mode) else "not a regular file"

    def read(self, path, limit):
        fd = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(limit + 1)


class Zip:
    """The same for a zip file, read within limits and never unpacked."""

    def __init__(self, file):
        self.members = {}  # path -> entry; of folders too deep, the path down to the limit
        self.deep = set()  # those paths
        self.twice = set()  # paths of several entries
        self.inside = set()  # folders
        try:
            self.zip = zipfile.ZipFile(file)
            entries = self.zip.infolist()
        except Exception as error:  # a damaged one raises far more than BadZipFile
            raise Rejected(f"not a zip file that can be read ({first_line(error)})") from error
        if len(entries) > MEMBER_LIMIT:
            raise Rejected(f"a zip of more than {MEMBER_LIMIT} files")
        for entry in entries:
            name = entry.filename.replace("\\", "/")  # as Windows writes it
            path = PurePosixPath(*PurePosixPath(name).parts[:DEPTH_LIMIT])
            top = path.parts[:3]
            self.inside.update(PurePosixPath(*top[:depth]) for depth in range(1, len(top)))
            if name.endswith("/") or not path.parts:
                self.inside.add(path)
                continue
            if len(path.parts) == DEPTH_LIMIT:
                self.deep.add(path)
            elif path in self.members:
                self.twice.add(path)
            self.members[path] = entry

    def paths(self):
        return sorted(self.members)

    def folders(self):
        return sorted(path for path in self.inside if 0 < len(path.parts) <= 2)

    def problem(self, path):
        if path.is_absolute() or ".." in path.parts:
            return "a zip entry that points outside its folder"
        if path in self.deep:
            return f"folders in folders, more than {DEPTH_LIMIT - 1} deep"
        if path in self.twice:
            return "two zip entries with one name"
        if stat.S_ISLNK(self.members[path].external_attr >> 16):
            return "a symbolic link"
        return ""

    def read(self, path, limit):
        try:
            with self.zip.open(self.members[path]) as file:
                return file.read(limit + 1)
        except Exception as error:  # damaged, encrypted, an unknown compression
            raise Rejected(f"a zip entry that cannot be read ({first_line(error)})") from error


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
