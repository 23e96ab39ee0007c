"""Each lock of the sandbox by itself: what it holds works where it alone is missing.

So an attack that is denied has been denied by a lock, not by a mistake in the attack; and the probe
before each run sees every lock that is missing. `locked_in.py` runs them, in places of their own.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from break_outs import ATTACKS

from instructor.grading.course import require_sandbox
from instructor.grading.probing import denied
from instructor.grading.submission import GraderError

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the attacks call Linux by the numbers of x86-64",
)
NEEDS_A_SOCKET = ("0x8901", "0x8902")  # of which there is none; a pipe knows no such request
# Not on every kernel and disk.
NEWER = ("raw(463", "ioctl(os.open", "xattr", "O_TMPFILE", "raw(285")
OF_ROOT = ("chown", "raw(300")  # not for an ordinary user


def may_fail(attack):
    """Whether an attack need not work everywhere, though nothing is locked."""
    parts = NEWER + (OF_ROOT if os.geteuid() != 0 else ())
    return any(part in attack for part in parts)


def tried(*jobs):
    """Outcomes of jobs, (edits, what is tried) each, as {what: outcome}."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "locked_in.py")],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_attack_works_where_nothing_is_locked():
    (found,) = tried((None, ATTACKS))
    for attack, outcome in found.items():
        if any(part in attack for part in NEEDS_A_SOCKET):
            assert outcome == "ENOTTY"
        elif attack == "os.kill(os.getppid(), 9)":  # the witness is killed as well, or not yet
            assert outcome in ("worked", "ended")
        else:
            assert outcome == "worked" or may_fail(attack), attack


def test_every_attack_is_denied_where_all_is_locked():
    found, probed = tried(([], ATTACKS), ([], ["probe"]))
    assert set(found.values()) <= {"EPERM", "EACCES", "EXDEV", "ENOSYS", "EAGAIN"}
    assert set(probed["probe"].values()) == {True}


def call(name):
    """Take a system call out of the list of those that are denied."""
    return [rf'(FORBIDDEN = """[^"]*?\s){name}(?=\s)', r"\1"]


def in_list(title, value):
    """Take a value out of a line such as PRCTL = (1, 4, …)."""
    return [rf"(?m)^({title} = \(.*?)\b{value}\b,? ?", r"\1"]


OWN_PROCESS = [r"for call in OWN_PROCESS_ONLY", "for call in ()"]
OTHER_PROCESSES = [r"for call in SELF_AS_ZERO_ONLY", "for call in ()"]
SCOPES = ["SCOPES = 3", "SCOPES = 0"]
HIGH_REQUESTS = [r'yield "ioctl", \[Arg\(1, GT, 0xFFFF\)\]', "pass"]
OTHER_REQUESTS = [r"for bit in range\(8, 16\)", "for bit in ()"]
ALL_64_BITS = ["mask=0xFFFFFFFF", "mask=(1 << 64) - 1"]
ROOT_RIGHTS = [r"        drop_capabilities,\n", ""]
LANDLOCK = [r"lambda: restrict_files\(.*\),", "lambda: None,"]
BESIDE_ITS_FOLDER = [r'\[folder, "/dev/null"\]', '[folder, folder + "/..", "/dev/null"]']
NO_TRUNCATE_RIGHT = [r"FILE_RIGHTS.get\(abi, 16\)", "14"]
SOFT_LIMITS = [r"\(value, value\)", "(value, resource.getrlimit(name)[1])"]
ENDLESS_MEMORY = [r"RLIMIT_AS: in_use \+ limits.memory", "RLIMIT_AS: resource.RLIM_INFINITY"]

LOCKS = {  # a lock -> (how it is taken away, what the probe then misses, parts of what works)
    "chmod": ([call("chmod")], "modes", ["os.chmod('<file>'", "os.chmod('<tools>'"]),
    "fchmod": ([call("fchmod")], "modes", ["os.fchmod("]),
    "fchmodat": ([call("fchmodat")], "modes", ["libc.fchmodat"]),
    "fchmodat2": ([in_list("FORBIDDEN_NUMBERS", 452)], "modes", ["raw(452"]),
    "chown and rights of root": ([call("chown"), ROOT_RIGHTS], "modes", ["os.chown("]),
    "fchown and rights of root": ([call("fchown"), ROOT_RIGHTS], "modes", ["os.fchown("]),
    "lchown and rights of root": ([call("lchown"), ROOT_RIGHTS], "modes", ["os.lchown("]),
    "fchownat and rights of root": ([call("fchownat"), ROOT_RIGHTS], "modes", ["libc.fchownat"]),
    "utime": ([call("utime")], None, ["raw(132"]),
    "utimes": ([call("utimes")], None, ["raw(235"]),
    "futimesat": ([call("futimesat")], None, ["raw(261"]),
    "utimensat": ([call("utimensat")], "modes", ["os.utime('<file>'"]),
    "setxattr": ([call("setxattr")], "modes", ["os.setxattr('<file>', 'user.x', b'x')"]),
    "lsetxattr": ([call("lsetxattr")], "modes", ["b'x', follow_symlinks"]),
    "fsetxattr": ([call("fsetxattr")], "modes", ["os.setxattr(os.open("]),
    "removexattr": ([call("removexattr")], "modes", ["os.removexattr('<file>', 'user.old')"]),
    "lremovexattr": ([call("lremovexattr")], "modes", ["'user.old', follow_symlinks"]),
    "fremovexattr": ([call("fremovexattr")], "modes", ["os.removexattr(os.open("]),
    "setxattrat": ([in_list("FORBIDDEN_NUMBERS", 463)], "modes", ["raw(463"]),
    "removexattrat": ([in_list("FORBIDDEN_NUMBERS", 466)], "modes", []),
    "open_tree_attr": ([in_list("FORBIDDEN_NUMBERS", 467)], "modes", []),
    "file_setattr": ([in_list("FORBIDDEN_NUMBERS", 469)], "modes", []),
    "inotify_init": ([call("inotify_init")], "modes", ["raw(253"]),
    "inotify_init1": ([call("inotify_init1")], "modes", ["raw(294"]),
    "file attributes": ([HIGH_REQUESTS, OTHER_REQUESTS], "modes", ["0x40086602"]),
    "F_SETOWN": ([in_list("FCNTL", 8)], "processes", ["fcntl.F_SETOWN", "raw(72"]),
    "F_SETSIG": ([in_list("FCNTL", 10)], "processes", ["fcntl.F_SETSIG"]),
    "F_SETOWN_EX": ([in_list("FCNTL", 15)], "processes", ["os.pipe()[0], 15"]),
    "F_SETLEASE": ([in_list("FCNTL", 1024)], "processes", []),
    "F_NOTIFY": ([in_list("FCNTL", 1026)], "processes", ["fcntl.F_NOTIFY"]),
    "F_SETPIPE_SZ": ([in_list("FCNTL", 1031)], "processes", ["fcntl(4, 1031"]),
    **{
        f"lock {command}": ([in_list("FCNTL", command)], "processes", [f", 0), {command}, bytes"])
        for command in (5, 6, 7, 36, 37, 38)
    },
    "timers": ([call("timer_create")], "amounts", ["timer_create"]),
    "contexts of aio": ([call("io_setup")], "amounts", ["raw(206"]),
    "signals in store": ([[".*RLIMIT_SIGPENDING.*\n", ""]], "amounts", ["raw(0xEA"]),
    "files of its own": ([['yield "close_range".*', "pass"]], "amounts", ["raw(436"]),
    "files of a thread": ([[r'yield "clone".*CLONE_FILES.*', "pass"]], "amounts", []),
    "nameless files": ([['yield "openat".*', "pass"]], "amounts", ["open('.', os.O_TM", "raw(257"]),
    "nameless files by open": ([['yield "open",.*', "pass"]], None, ["raw(2, "]),
    "room on the disk": ([call("fallocate")], "amounts", ["raw(285"]),
    "FIOASYNC": ([in_list("TERMINAL_FORBIDDEN", "0x52")], "processes", ["0x5452"]),
    "TIOCSTI": ([in_list("TERMINAL_FORBIDDEN", "0x12")], "processes", []),
    "setuid": ([call("setuid")], "processes", []),
    "named pipes": ([[r" 1 << 10 \|", ""]], "files", []),
    "requests of sockets": ([OTHER_REQUESTS], "processes", []),
    "PR_SET_PDEATHSIG": ([in_list("PRCTL", 1)], "processes", ["raw(157, 1,"]),
    "upper half of a number": ([ALL_64_BITS], None, ["raw(72", "raw(157, 1 + "]),
    "kill and its scope": ([OWN_PROCESS, SCOPES], "processes", ["os.kill(<", "raw(234"]),
    "tkill and its scope": ([call("tkill"), SCOPES], None, ["raw(200"]),
    "rt_sigqueueinfo and its scope": ([call("rt_sigqueueinfo"), SCOPES], None, ["raw(129"]),
    "limits of others": ([OTHER_PROCESSES], "processes", ["raw(302, <"]),
    "starting processes": (
        [[r'(?s)yield "clone", \[low\(0, 0, CLONE_THREAD.*?CLONE_FILES\)\]', "pass"]],
        "processes",
        [],
    ),
    "programs": ([call("execve")], "processes", []),
    "socketpair": ([call("socketpair")], "network", ["socketpair()", "SOCK_DGRAM)[0].sendto"]),
    "socket": ([call("socket")], "network", ["socket.SOCK_DGRAM).sendto"]),
    "connect and its scope": ([call("socket"), call("connect"), SCOPES], "network", ["<name>"]),
    "Landlock": (
        [LANDLOCK],
        "files",
        ["os.truncate(", "O_TRUNC", "os.rename(", "os.unlink(", "os.link(", "/proc/self/maps"],
    ),
    "files beside its own": (
        [BESIDE_ITS_FOLDER],
        "files",
        ["os.listdir(", "/../x'", "/../tools/rewards.py'", "/math.py'"],
    ),
    "truncate by path": ([NO_TRUNCATE_RIGHT], "files", ["os.truncate("]),
    "memory": ([ENDLESS_MEMORY], "memory", ["raw(160", "raw(302, 0"]),
    "limits that cannot be raised": ([SOFT_LIMITS], None, ["raw(160", "raw(302, 0"]),
}


def parts_of(ways):
    return [attack for attack in ATTACKS if any(way in attack for way in ways)]


@pytest.fixture(scope="module")
def without():
    """{lock: {what was tried: outcome}}, each without this lock."""
    jobs = [(edits, [*parts_of(ways), "probe"]) for edits, _, ways in LOCKS.values()]
    return dict(zip(LOCKS, tried(*jobs)))


@pytest.mark.parametrize("lock", LOCKS)
def test_what_a_lock_holds_works_without_it_and_the_probe_sees_that(without, lock):
    _, missed, ways = LOCKS[lock]
    found = dict(without[lock])
    probed = found.pop("probe")
    if missed:  # "ended": the probe itself was replaced by another program
        assert probed == "ended" or probed[missed] is False
    for attack, outcome in found.items():
        assert outcome == "worked" or may_fail(attack), attack
    assert len(found) >= len(ways)


def test_a_kernel_that_is_too_old_is_refused():
    """Below Linux 6.2, Landlock did not ask about truncate(2)."""
    (found,) = tried(([["ABI_NEEDED = 3", "ABI_NEEDED = 99"]], ["probe"]))
    assert found == {"probe": "ended"}  # before anything ran
    with pytest.raises(GraderError, match="Grade on Linux 6.2 or newer"):
        require_sandbox({"files": False}, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no such rights")
def test_root_without_its_rights_gives_no_file_away():
    """Below the lock on system calls: what a call that is forgotten there would let through."""
    calls = [call(name) for name in ("chown", "fchown", "lchown", "fchownat")]
    (found,) = tried((calls, parts_of(["chown"])))
    assert set(found.values()) == {"EPERM"} and len(found) == 4


def test_a_scope_holds_what_a_forgotten_call_would_let_through():
    """The same of Landlock."""
    signals = parts_of(["os.kill(<", "raw(234", "raw(200", "raw(129"])
    calls = [call("tkill"), call("rt_sigqueueinfo"), OWN_PROCESS]
    sockets = parts_of(["<name>"])
    found, connected = tried((calls, signals), ([call("socket"), call("connect")], sockets))
    assert set(found.values()) == set(connected.values()) == {"EPERM"}
    assert len(found) == 4 and len(connected) == 1


def test_what_is_denied_is_told_from_what_fails():
    def fails(error):
        def attempt():
            raise error

        return attempt

    assert denied(fails(PermissionError(1, "no"))) and denied(fails(MemoryError()))
    assert not denied(fails(FileNotFoundError(2, "no"))) and not denied(lambda: None)
