"""Lock a process in before it runs a submission: Landlock for files, seccomp for the rest.

Both are part of the Linux kernel and need no privileges, no second program and no container. What
a process gives up here it cannot get back. Runs inside the process that will answer for a
submission, so nothing of the grader is imported.

Sources: landlock(7), seccomp(2) and libseccomp's documentation.
"""

import ctypes
import errno
import os
import resource
import sys
from typing import NamedTuple

PROTECTIONS = {
    "files": "reads and writes nothing but its own folder and the libraries",
    "modes": "changes no mode, owner, time or attribute, and watches no file",
    "network": "opens no connection, also not on this machine",
    "processes": "starts no process, signals none, outlives none and talks to none",
    "memory": "stays below its memory limit",
    "amounts": "is stopped at too many threads or files, and uses up nothing that all share",
}


class Limits(NamedTuple):
    """What one process may use."""

    cpu_seconds: int
    memory: int  # bytes beyond those in use
    file_size: int  # bytes


LIMITS = Limits(cpu_seconds=60, memory=2 << 30, file_size=1 << 20)

# prctl(2).
NO_NEW_PRIVILEGES = 38
PARENT_DEATH_SIGNAL = 1

# Landlock: system calls and access rights, the same on every architecture.
CREATE_RULESET = 444
ADD_RULE = 445
RESTRICT_SELF = 446
EXECUTE = 1
WRITE_FILE = 2
READ_FILE = 4
READ_DIR = 8
TRUNCATE = 1 << 14
FILE_RIGHTS = {3: 15, 4: 15}  # rights known to an ABI; from the fifth on 16
SOCKETS_AND_DEVICES = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15  # never needed in a folder
ABI_NEEDED = 3  # of Linux 6.2: before, truncate(2) asked nobody
ABI_OF_SCOPES = 6
SCOPES = 3  # no abstract socket and no signal leaves the process
LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/proc/cpuinfo")

FORBIDDEN = """
    socket socketcall socketpair connect bind listen accept accept4 io_uring_setup
    fork vfork execve execveat unshare setns
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    pidfd_open pidfd_getfd pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo tkill
    shmget msgget semget mq_open memfd_create memfd_secret
    setpriority ioprio_set sched_setscheduler sched_setparam sched_setattr migrate_pages move_pages
    chmod fchmod fchmodat chown fchown lchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
    inotify_init inotify_init1 inotify_add_watch fanotify_init fanotify_mark flock
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsmount mount_setattr
    bpf perf_event_open userfaultfd add_key request_key keyctl open_by_handle_at name_to_handle_at
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
    sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex acct quotactl
    syslog iopl ioperm timer_create io_setup fallocate
""".split()
# By number, the same on every architecture, where libseccomp may be older than the call:
# fchmodat2, setxattrat, removexattrat, open_tree_attr, file_setattr.
FORBIDDEN_NUMBERS = (452, 463, 466, 467, 469)
CLONE_THREAD = 0x10000  # clone(2) without it starts a process
CLONE_FILES = 0x400  # without it a thread has a table of files, and so many files, of its own
# The bit of O_TMPFILE that no other flag has, the same on every architecture: such a file has no
# name, so that no folder changes with it. `tempfile` does without.
NAMELESS = 0o20000000
OWN_PROCESS_ONLY = ("kill", "tgkill")
SELF_AS_ZERO_ONLY = ("prlimit64", "sched_setaffinity")
# fcntl(2): F_SETOWN, F_SETSIG, F_SETOWN_EX send signals; F_SETLEASE, F_NOTIFY; F_SETPIPE_SZ. And
# F_GETLK, F_SETLK, F_SETLKW and those of open files: two submissions could talk by their locks.
FCNTL = (8, 10, 15, 1024, 1026, 1031, 5, 6, 7, 36, 37, 38)
# prctl(2): PR_SET_PDEATHSIG, _DUMPABLE, _MM, _CHILD_SUBREAPER, _PTRACER.
PRCTL = (1, 4, 35, 36, 0x59616D61)
# ioctl(2): only terminal requests, 0x54.., are let through, and of those not TIOCSCTTY, TIOCSPGRP,
# TIOCSTI, TIOCLINUX, TIOCCONS, TIOCNOTTY, TIOCSETD, FIOASYNC. So FIOSETOWN, SIOCSPGRP, and the
# requests that change a file's attributes are not.
TERMINAL = 0x54
TERMINAL_FORBIDDEN = (0x0E, 0x10, 0x12, 0x1C, 0x1D, 0x22, 0x23, 0x52)


def limit(limits):
    """Set the resource limits of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        in_use = int(statm.read().split()[0]) * resource.getpagesize()
    values = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_AS: in_use + limits.memory,
        resource.RLIMIT_FSIZE: limits.file_size,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_SIGPENDING: 64,  # all processes of a user have one store of these
        resource.RLIMIT_CORE: 0,
    }
    for name, value in values.items():
        resource.setrlimit(name, (value, value))


def drop_capabilities():
    """A process of root gives up what makes it root (capset(2), version 3)."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    nothing = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(Header(0x20080522, 0)), nothing):
        raise OSError(ctypes.get_errno(), "capset")


def restrict_files(readable, writable):
    """Landlock: from here on only files below these paths exist for this process."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *args):
        result = libc.syscall(number, *args)
        if result < 0:
            raise OSError(ctypes.get_errno(), "Landlock")
        return result

    abi = call(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < ABI_NEEDED:
        raise OSError(errno.ENOSYS, "Landlock is too old: Linux 6.2 is needed")
    everything = (1 << FILE_RIGHTS.get(abi, 16)) - 1

    class Ruleset(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]

    class PathBeneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]

    scopes = SCOPES if abi >= ABI_OF_SCOPES else 0
    size = ctypes.sizeof(Ruleset) if scopes else 8  # an older kernel knows only the first field
    rules = Ruleset(everything, 0, scopes)
    ruleset = call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    own = everything & ~(SOCKETS_AND_DEVICES | EXECUTE)
    for paths, rights in ((readable, READ_FILE | READ_DIR | EXECUTE), (writable, own)):
        for path in filter(os.path.exists, paths):
            fd = os.open(path, os.O_PATH)
            of_a_file = rights & (READ_FILE | WRITE_FILE | EXECUTE | TRUNCATE)
            rule = PathBeneath(rights if os.path.isdir(path) else of_a_file, fd)
            call(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
            os.close(fd)
    call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def denied_calls():
    """(system call, conditions on its arguments under which it is denied), one by one."""
    from pyseccomp import GT, MASKED_EQ, NE, Arg

    def low(position, value, mask=0xFFFFFFFF):  # the kernel reads 32 bits; so must the rule
        return Arg(position, MASKED_EQ, mask, value)

    for call in (*FORBIDDEN, *FORBIDDEN_NUMBERS):
        yield call, ()
    yield "clone", [low(0, 0, CLONE_THREAD)]
    yield "clone", [low(0, 0, CLONE_FILES)]
    yield "close_range", [low(2, 2, 2)]  # CLOSE_RANGE_UNSHARE
    yield "openat", [low(2, NAMELESS, NAMELESS)]
    yield "open", [low(1, NAMELESS, NAMELESS)]
    for call in OWN_PROCESS_ONLY:
        yield call, [Arg(0, NE, os.getpid())]
    for call in SELF_AS_ZERO_ONLY:
        yield call, [Arg(0, NE, 0)]
    for command in FCNTL:
        yield "fcntl", [low(1, command)]
    for option in PRCTL:
        yield "prctl", [low(0, option)]
    yield "ioctl", [Arg(1, GT, 0xFFFF)]
    for bit in range(8, 16):  # a request whose second byte differs in one bit is no terminal's
        yield "ioctl", [low(1, ~(TERMINAL << 8) & 1 << bit, 1 << bit)]
    for request in TERMINAL_FORBIDDEN:
        yield "ioctl", [low(1, TERMINAL << 8 | request)]


def restrict_calls():
    """seccomp: no sockets, no processes, no signals to others, no file's mode or owner changed."""
    import pyseccomp
    from pyseccomp import ALLOW, ERRNO

    rules = pyseccomp.SyscallFilter(ALLOW)  # a foreign architecture's calls kill the process
    here = pyseccomp.system_arch()
    for call, conditions in denied_calls():
        if isinstance(call, int) or pyseccomp.resolve_syscall(here, call) >= 0:
            rules.add_rule(ERRNO(errno.EPERM), call, *conditions)
    for call in ("clone3", "openat2"):  # their flags lie in memory; libc does without them
        rules.add_rule(ERRNO(errno.ENOSYS), call)
    rules.load()


def lock(folder, readable, limits=LIMITS, unsafe=False):
    """Lock this process in. With `unsafe`, a step that this machine cannot take is left out.

    Args:
        folder: the one place where it may write.
        readable: further paths that it may read, besides the libraries of Python.
        limits: what it may use.

    Raises:
        OSError, ImportError: a mechanism is missing.
    """
    libraries = {*LIBRARIES, *filter(None, sys.path), sys.prefix, sys.base_prefix, *readable}
    steps = (
        lambda: limit(limits),
        drop_capabilities,
        lambda: prctl(PARENT_DEATH_SIGNAL, 9),
        lambda: prctl(NO_NEW_PRIVILEGES, 1),
        lambda: restrict_files(libraries, [folder, "/dev/null"]),
        restrict_calls,
    )
    for step in steps:
        try:
            step()
        except (OSError, ImportError, AttributeError, ValueError):
            if not unsafe:
                raise


def prctl(option, value):
    """prctl(2) for this process.

    Raises:
        OSError: the kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
