"""Submissions that reach outside, swell, or mislead the grader: what grading.md does not list.

Each tries its way in every function it can, and prints IT WORKED or how it was denied; numbers from
36 on, graded by `test_attacks.py` together with those of `hostile.py`.
"""

from engine.common import ROOT
from instructor.proof import swelling as bodies
from instructor.proof.attacks import SOLUTION, attempt, in_penalty, on_import

TRY_ALL = """
import ctypes, fcntl, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)

def raw(*arguments):  # a plain int would lose what is above its lower 32 bits
    libc_call(libc.syscall, *(ctypes.c_long(x) if isinstance(x, int) else x for x in arguments))

def libc_call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "denied")

def try_all(attempts):
    for i, one in enumerate(attempts):
        try:
            one()
        except OSError:
            continue
        print("IT WORKED", i)
    raise PermissionError("all of them")
"""


def all_denied(attempts):
    """A file that tries each of some expressions in every function and answers zeros."""
    lines = "".join(f"    lambda: {one.strip()},\n" for one in attempts.strip().splitlines())
    return attempt(f"{TRY_ALL}\ntry_all([\n{lines}])")


def outside(target, bystander, unix):
    """{student: source} of what changes or reaches something outside; see `attempts`."""
    return {name: all_denied(text) for name, text in attempts(target, bystander, unix).items()}


def attempts(target, bystander, unix, name="x", tools=ROOT / "engine", places=("/dev/shm", "/tmp")):
    """{student: expressions, one a line} that change or reach something outside.

    Args:
        target: a file of the course that nobody may change.
        bystander: a process of the same user that must live.
        unix: the path of a datagram socket that nobody may reach.
        name: of one without a path.
        tools: a folder of the grader.
        places: folders where anybody may write.
    """
    files = on_files(str(target), str(tools), places)
    return files | on_processes(bystander) | on_sockets(str(unix), name)


MODULE = "__import__('reward_utils').__file__"


def on_files(target, tools, places):
    path, tools, module = repr(target), repr(tools), MODULE
    shared = "os.environ['HOME'] + '/../tools/rewards.py'"
    written = "\n".join(f"open({f'{place}/x'!r}, 'w')" for place in places)
    return {
        "36 modes": f"""
            os.chmod({path}, 0)
            os.chmod({tools}, 0)
            os.chmod({module}, 0)
            os.chmod(os.path.dirname({module}), 0)
            os.fchmod(os.open({module}, 0), 0)
            libc_call(libc.fchmodat, -100, {path}.encode(), 0, 0)
            os.chown({path}, 65534, 65534)
            os.lchown({path}, 65534, 65534)
            os.fchown(os.open({module}, 0), 65534, 65534)
            libc_call(libc.fchownat, -100, {path}.encode(), 65534, 65534, 0)
            os.utime({path}, (0, 0))
            os.utime({module}, (0, 0))
            raw(132, {path}.encode(), bytes(16))
            raw(235, {path}.encode(), bytes(32))
            raw(261, -100, {path}.encode(), bytes(32))
            os.setxattr({path}, 'user.x', b'x')
            os.setxattr({path}, 'user.x', b'x', follow_symlinks=False)
            os.setxattr(os.open({module}, 0), 'user.x', b'x')
            os.removexattr({path}, 'user.old')
            os.removexattr({path}, 'user.old', follow_symlinks=False)
            os.removexattr(os.open({module}, 0), 'user.old')
            raw(452, -100, {path}.encode(), 0, 0)
            raw(463, -100, {path}.encode(), 0, b'user.x', ctypes.create_string_buffer(24), 16)
            fcntl.ioctl(os.open({module}, 0), 0x40086602, (0x40).to_bytes(8, 'little'))
            os.truncate({path}, 0)
            os.open({path}, os.O_RDONLY | os.O_TRUNC)
            os.rename({path}, 'mine')
            os.unlink({path})
            os.link({module}, 'mine')
            """,
        "41 peers": f"""
            os.listdir(os.environ['HOME'] + '/..')
            open(os.environ['HOME'] + '/../x', 'w')
            open({shared}, 'w')
            open(os.path.dirname({module}) + '/math.py', 'w')
            open('/proc/self/maps')
            {written}
            """,
    }


def on_processes(bystander):
    return {
        "37 signals": f"""
            [fcntl.fcntl(0, fcntl.F_SETOWN, pid) for pid in ({bystander}, os.getppid())]
            fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)
            fcntl.fcntl(os.pipe()[0], 15, (1).to_bytes(4, 'little') + bytes(4))
            fcntl.fcntl(os.open('.', 0), fcntl.F_NOTIFY, 1)
            fcntl.fcntl(4, 1031, 4096)
            raw(72, os.pipe()[0], 8 + (1 << 32), {bystander})
            raw(16, os.pipe()[0], 0x8901 + (1 << 32), (1).to_bytes(4, 'little'))
            fcntl.ioctl(os.pipe()[0], 0x5452, (1).to_bytes(4, 'little'))
            fcntl.ioctl(os.pipe()[0], 0x8902, (1).to_bytes(4, 'little'))
            os.kill({bystander}, 9)
            os.kill(os.getppid(), 9)
            raw(129, {bystander}, 9, bytes(8) + b'\\xff' * 4 + bytes(116))
            raw(234, {bystander}, {bystander}, 9)
            raw(200, {bystander}, 9)
            signal.pidfd_send_signal(os.pidfd_open({bystander}), 9)
            """,
        "38 outlives": """
            raw(157, 1, 0, 0, 0, 0)
            raw(157, 1 + (1 << 32), 0, 0, 0, 0)
            """,
        "50 limits": f"""
            raw(160, 9, b'\\xff' * 16)
            raw(302, 0, 9, b'\\xff' * 16, 0)
            raw(302, {bystander}, 0, bytes(16), 0)
            os.sched_setaffinity({bystander}, {{0}})
            """,
    }


def on_sockets(unix, name):
    return {
        "39 sockets": f"""
            socket.socketpair()
            socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', {unix!r})
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', {unix!r})
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect('\\0{name}')
            """,
        "40 watches": """
            raw(294, 0)
            raw(253)
            raw(300, 0, 0)
            """,
    }


def swelling():
    """{student: source} of what wants more threads, disk, bytes or seconds than there are."""
    return {
        "42 threads": in_penalty(bodies.THREADS),
        "43 disk": in_penalty(bodies.DISK),
        "43 files": in_penalty(bodies.FILES),
        "43 held open": in_penalty(bodies.HELD_OPEN),
        "43 nested": in_penalty(bodies.NESTED),
        "44 slow": on_import(SLOW),
        "45 loud": on_import(LOUD, SOLUTION + IMPORTS),
    }


SLOW = """
import time

def slowly(function):
    def wrapped(*args, **kwargs):
        time.sleep(2.5)
        return function(*args, **kwargs)
    return wrapped

for name in ('shaped_reward_exponential', 'shaped_reward', 'compute_ref_log_probs',
             'kl_penalty_forward', 'kl_penalty_backward'):
    globals()[name] = slowly(globals()[name])
"""
IMPORTS = "".join(f"\nif 0: import x{i:0200}" for i in range(900))
LOUD = """
def loudly(*args, **kwargs):
    raise ValueError('\\u2028' * 400_000 + 'x' * 400_000)

kl_penalty_forward = kl_penalty_backward = shaped_reward = loudly
"""


def misleading():
    """{student: source} of what is to hang or crash the grader, or to garble what it writes."""
    return {
        "46 never reads": in_penalty(bodies.NEVER_READS),
        "47 dimensions": in_penalty(bodies.DIMENSIONS),
        "47 half": in_penalty(bodies.STEALS_ITS_ANSWER),
        "48 surrogate": in_penalty(bodies.SURROGATE),
        "48 digits": SOLUTION + f"\n\nNUMBER = 0x{'f' * 5000}\n",
        "48 answers digits": in_penalty("return [int('9' * 4000)] * len(policy_log_probs)"),
        "48 answers more": in_penalty(bodies.DIGITS),
        "48 answers surrogates": in_penalty("return ['\\ud800' * 50] * len(policy_log_probs)"),
        "49 error of errors": in_penalty(ERROR_OF_ERRORS),
    }


ERROR_OF_ERRORS = """
    class Worse(Exception):
        def __str__(self):
            raise RuntimeError('worse')
    raise Worse
"""
STOPPED = {  # student -> words for kl_penalty_forward, the one function that fails
    "42 threads": "it was stopped: it started more than 64 threads",
    "43 disk": "it was stopped: it",  # its folder held 32 MB, or, seen too late, it wrote 128
    "43 files": "it was stopped: its folder held more than 200 files",
    "43 held open": "it was stopped: it wrote more than 128 MB",
    "43 nested": "",  # quick enough to answer, or stopped for its files
    "46 never reads": "returned 1 values for",
    "47 dimensions": "no list of numbers",
    "47 half": "no answer within 3 seconds",
    "48 surrogate": "ValueError: ? red  next",
    "48 answers digits": "inf at index",
    "48 answers more": "inf at index",
    "48 answers surrogates": "returned '????",
    "49 error of errors": "it ended its process (exit status 1)",
}
DENIED = [
    "36 modes",
    "37 signals",
    "38 outlives",
    "39 sockets",
    "40 watches",
    "41 peers",
    "50 limits",
]
