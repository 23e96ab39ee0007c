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
import socket
import sys

PROTECTIONS = {
    "files": "reads and writes nothing but its own folder and the libraries",
    "network": "opens no connection",
    "processes": "starts no process and reaches no other",
    "memory": "stays below its memory limit",
}
NO_NEW_PRIVILEGES, PARENT_DEATH_SIGNAL = 38, 1  # of prctl(2)

# Landlock: system calls and access rights, the same on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights known to an ABI; from the fifth on 16
LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/proc/cpuinfo")

FORBIDDEN = """
    socket socketcall connect bind listen accept accept4 io_uring_setup
    fork vfork execve execveat unshare setns
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    pidfd_open pidfd_getfd pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo tkill
    shmget msgget semget mq_open memfd_create memfd_secret
    setpriority ioprio_set sched_setscheduler sched_setparam sched_setattr migrate_pages move_pages
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsmount mount_setattr
    bpf perf_event_open userfaultfd add_key request_key keyctl open_by_handle_at name_to_handle_at
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
    sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex acct quotactl
    syslog iopl ioperm
""".split()
OWN_PROCESS_ONLY = ("kill", "tgkill")
SELF_AS_ZERO_ONLY = ("prlimit64", "sched_setaffinity")


def limit(cpu_seconds, memory, file_size):
    """Resource limits: processor seconds, bytes of memory beyond those in use, bytes per file."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        in_use = int(statm.read().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: in_use + memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
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
    everything = (1 << RIGHTS.get(abi, 16)) - 1

    class Ruleset(ctypes.Structure):
        _fields_ = [("handled_access_fs", ctypes.c_uint64)]

    class PathBeneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]

    rules = Ruleset(everything)
    ruleset = call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(8), 0)
    for paths, rights in ((readable, READ_FILE | READ_DIR | EXECUTE), (writable, everything)):
        for path in filter(os.path.exists, paths):
            fd = os.open(path, os.O_PATH)
            of_a_file = rights & (READ_FILE | WRITE_FILE | EXECUTE)
            rule = PathBeneath(rights if os.path.isdir(path) else of_a_file, fd)
            call(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
            os.close(fd)
    call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def restrict_calls():
    """seccomp: no sockets, no processes, no signals to others, no administration."""
    import pyseccomp
    from pyseccomp import ALLOW, ERRNO, MASKED_EQ, NE, Arg

    rules = pyseccomp.SyscallFilter(ALLOW)  # a foreign architecture's calls kill the process
    for name in FORBIDDEN:
        if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
            rules.add_rule(ERRNO(errno.EPERM), name)
    clone_thread, this_process = 0x10000, os.getpid()
    rules.add_rule(ERRNO(errno.EPERM), "clone", Arg(0, MASKED_EQ, clone_thread, 0))
    rules.add_rule(ERRNO(errno.ENOSYS), "clone3")  # its flags lie in memory; libc falls back
    for name in OWN_PROCESS_ONLY:
        rules.add_rule(ERRNO(errno.EPERM), name, Arg(0, NE, this_process))
    for name in SELF_AS_ZERO_ONLY:
        rules.add_rule(ERRNO(errno.EPERM), name, Arg(0, NE, 0))
    rules.load()


def lock(folder, readable, cpu_seconds, memory, file_size, unsafe=False):
    """Lock this process in. With `unsafe`, a step that this machine cannot take is left out.

    Args:
        folder: the one place where it may write.
        readable: further paths that it may read, besides the libraries of Python.
        cpu_seconds, memory, file_size: see `limit`.

    Raises:
        OSError, ImportError: a mechanism is missing.
    """
    libraries = {*LIBRARIES, *filter(None, sys.path), sys.prefix, sys.base_prefix, *readable}
    steps = (
        lambda: limit(cpu_seconds, memory, file_size),
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


def probe(secret, memory):
    """Try to break out of this process; {protection: it held}.

    Args:
        secret: a file that must not be readable, in a folder that must not be writable.
        memory: bytes that must not be available.
    """

    def denied(action, *errors):
        try:
            action()
        except errors:
            return True
        return False

    def start_process():
        if os.fork() == 0:
            os._exit(0)

    parent = os.getppid()
    return {
        "files": denied(lambda: open(secret), PermissionError)
        and denied(lambda: open(f"{os.path.dirname(secret)}/x", "w"), PermissionError)
        and denied(lambda: open(f"/proc/{parent}/maps"), PermissionError),
        "network": all(
            denied(lambda kind=kind: socket.socket(socket.AF_INET, kind), PermissionError)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ),
        "processes": denied(start_process, PermissionError)
        and denied(lambda: os.kill(parent, 0), PermissionError),
        "memory": denied(lambda: bytearray(memory), MemoryError),
    }
