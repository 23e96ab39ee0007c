"""Try to break out of a locked process, in every way that sandbox.py denies.

Runs in the process that would answer for a submission, before any is graded. An attempt that
succeeded would change nothing: it sets what is already there.
"""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import socket
import struct

DENIED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EXDEV}  # EXDEV: a link out of the folder
# Requests of ioctl(2), commands of fcntl(2), an option of prctl(2).
FIOASYNC = 0x5452
FIOSETOWN = 0x8901
SIOCSPGRP = 0x8902
TIOCSTI = 0x5412
FS_IOC_SETFLAGS = 0x40086602
F_SETOWN_EX = 15
F_SETPIPE_SZ = 1031
PR_SET_PDEATHSIG = 1
BY_NUMBER = {  # system calls that libc may not know
    "clone": 220,
    "io_setup": 0,
    "fchmodat2": 452,
    "setxattrat": 463,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_setattr": 469,
    "close_range": 436,
    # Two older ones: everywhere but on x86-64 they have the numbers of the common table.
    **({"clone": 56, "io_setup": 206} if platform.machine() == "x86_64" else {}),
}
LOCKS = (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, 36, 37, 38)  # the last of open files


def probe(folder, secret, memory):
    """{protection: whether every attempt against it was denied}.

    Args:
        folder: this process's own.
        secret: a file that must not be readable, in a folder that must not be writable.
        memory: bytes that must not be available.
    """
    attempts = {
        "files": files(folder, secret),
        "modes": modes(secret),
        "network": network(),
        "processes": processes(),
        "memory": [lambda: bytearray(memory)],
        "amounts": what_all_share(),
    }
    return {name: all(map(denied, tried)) for name, tried in attempts.items()}


def denied(attempt):
    """Whether an attempt ends in an error that says no."""
    try:
        attempt()
    except MemoryError:
        return True
    except OSError as error:
        return error.errno in DENIED
    return False


def call(function, *args):
    """A function of libc that answers -1 and sets errno."""
    if function(*args) < 0:
        raise OSError(ctypes.get_errno(), "denied")


def files(folder, secret):
    here = os.path.dirname(secret)
    size = os.stat(secret).st_size
    return [
        lambda: open(secret),
        lambda: open(f"{here}/x", "w"),
        lambda: os.truncate(secret, size),
        lambda: os.link(__file__, f"{folder}/x"),
        lambda: os.listdir(os.path.dirname(folder)),  # where the other submissions are
        lambda: open(f"{os.path.dirname(__file__)}/x", "w"),  # where the shared modules are
        lambda: open(f"/proc/{os.getppid()}/maps"),
        lambda: os.mkfifo(f"{folder}/fifo"),
    ]


def modes(secret):
    libc = ctypes.CDLL(None, use_errno=True)
    mode = os.stat(secret).st_mode
    times = (os.stat(secret).st_atime_ns, os.stat(secret).st_mtime_ns)
    shared = os.open(__file__, 0)
    name = secret.encode()
    at = -100  # AT_FDCWD
    return [
        lambda: os.chmod(secret, mode),
        lambda: os.fchmod(shared, os.fstat(shared).st_mode),
        lambda: os.chown(secret, -1, -1),
        lambda: os.fchown(shared, -1, -1),
        lambda: os.lchown(secret, -1, -1),
        lambda: call(libc.fchownat, at, name, -1, -1, 0),
        lambda: os.utime(secret, ns=times),
        lambda: os.setxattr(secret, "user.x", b"", os.XATTR_REPLACE),
        lambda: os.setxattr(shared, "user.x", b"", os.XATTR_REPLACE),
        lambda: os.setxattr(secret, "user.x", b"", os.XATTR_REPLACE, follow_symlinks=False),
        lambda: os.removexattr(secret, "user.x"),
        lambda: os.removexattr(shared, "user.x"),
        lambda: os.removexattr(secret, "user.x", follow_symlinks=False),
        lambda: call(libc.fchmodat, at, name, mode, 0),
        lambda: call(libc.syscall, BY_NUMBER["fchmodat2"], at, name, mode, 0),
        lambda: call(libc.syscall, BY_NUMBER["setxattrat"], at, name, 0, b"user.x", None, 0),
        lambda: call(libc.syscall, BY_NUMBER["removexattrat"], at, name, 0, b"user.x"),
        lambda: call(libc.syscall, BY_NUMBER["file_setattr"], at, name, None, 0, 0),
        lambda: call(libc.syscall, BY_NUMBER["open_tree_attr"], at, name, 0, None, 0),
        lambda: fcntl.ioctl(shared, FS_IOC_SETFLAGS, bytes(8)),
        lambda: call(libc.inotify_init),
        lambda: call(libc.inotify_init1, 0),
        lambda: call(libc.fanotify_init, 0, 0),
    ]


def network():
    return [
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.socketpair,
        lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    ]


def processes():
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    own = os.getpid()
    pipe = os.pipe()[0]
    shared = os.open(__file__, 0)
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 1, 0)
    answers = 4

    def start():
        if os.fork() == 0:
            os._exit(0)

    return [
        start,
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.kill(parent, 0),
        lambda: os.kill(-1, 0),
        lambda: resource.prlimit(parent, resource.RLIMIT_CPU),
        lambda: os.sched_setaffinity(parent, os.sched_getaffinity(parent)),
        lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, own),
        lambda: fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGIO),
        lambda: fcntl.fcntl(pipe, F_SETOWN_EX, bytes(8)),
        lambda: fcntl.fcntl(pipe, fcntl.F_SETLEASE, fcntl.F_UNLCK),
        lambda: fcntl.fcntl(os.open(".", 0), fcntl.F_NOTIFY, 0),
        lambda: fcntl.fcntl(answers, F_SETPIPE_SZ, 1 << 16),
        lambda: fcntl.ioctl(pipe, FIOASYNC, bytes(4)),
        lambda: fcntl.ioctl(pipe, FIOSETOWN, bytes(4)),
        lambda: fcntl.ioctl(pipe, SIOCSPGRP, bytes(4)),
        lambda: fcntl.ioctl(pipe, TIOCSTI, b"x"),
        lambda: call(libc.prctl, PR_SET_PDEATHSIG, 9, 0, 0, 0),
        lambda: call(libc.setuid, os.getuid()),
        *(lambda command=command: fcntl.fcntl(shared, command, lock) for command in LOCKS),
    ]


def what_all_share():
    """Attempts at what one process can use up for all of a user's, or for the whole machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = ctypes.c_ulong(0)
    limit = struct.pack("QQ", 99, 99)
    thread = 0x10000  # CLONE_THREAD alone, no CLONE_FILES: otherwise an invalid argument
    return [
        lambda: call(libc.timer_create, 1, None, ctypes.byref(made)),
        lambda: call(libc.syscall, BY_NUMBER["io_setup"], 1, ctypes.byref(made)),
        lambda: call(libc.syscall, BY_NUMBER["clone"], thread, None, None, None, None),
        lambda: call(libc.syscall, BY_NUMBER["close_range"], 999_999, 999_999, 2),
        lambda: call(libc.setrlimit, resource.RLIMIT_SIGPENDING, limit),
        # Room on the disk that no folder shows.
        lambda: os.open(".", os.O_TMPFILE | os.O_RDWR),
        lambda: call(libc.fallocate, -1, 1, *map(ctypes.c_long, (0, 1))),
    ]
