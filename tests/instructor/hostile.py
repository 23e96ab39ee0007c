"""Hostile and broken submissions with what each must get. The numbers are those of the list.

`test_attacks.py` grades them all for real, in one batch. <port> stands for a port where a server
listens that nobody may reach, <marker> for a path that nobody may write.
"""

import os
from typing import NamedTuple

from engine.common import ROOT
from instructor.proof import attacks, swelling
from instructor.proof.attacks import SOLUTION, attempt, in_penalty, on_import

SECRET = str(ROOT / "rewards_solution.py")
HYPERLINK = '=HYPERLINK("x"), 1'
MUTATING = """

def mutating(function):
    def wrapped(*places, **arguments):
        answer = function(*places, **arguments)
        for value in [*places, *arguments.values()]:
            if isinstance(value, torch.Tensor):
                value.zero_()
            elif isinstance(value, list):
                value.clear()
        return answer

    return wrapped


for name in ("shaped_reward", "kl_penalty_forward", "kl_penalty_backward"):
    globals()[name] = mutating(globals()[name])
"""
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
ERROR_OF_ERRORS = """
    class Worse(Exception):
        def __str__(self):
            raise RuntimeError('worse')
    raise Worse
"""


class Nothing(NamedTuple):
    """A submission that earns nothing."""

    source: str | bytes | None  # None: it is no plain rewards.py
    status: str
    words: str  # of the reason or of the first failure


NOTHING = {
    "01 template": Nothing(attacks.TEMPLATE, "graded", "Not implemented: Exercise 2a"),
    "02 syntax": Nothing(
        SOLUTION.replace("import math", "import math\ndef broken(:\n", 1),
        "import error",
        "SyntaxError: invalid syntax (rewards.py, line",
    ),
    "04 exit": Nothing(
        attacks.EXIT_AT_IMPORT, "import error", "SystemExit: sys.exit(0) was called"
    ),
    "05 dies at import": Nothing(
        attacks.CRASH_AT_IMPORT, "import error", "it ended its process (exit status 0)"
    ),
    "07 endless at import": Nothing(
        on_import(attacks.ENDLESS), "import error", "no answer within 3 seconds"
    ),
    "13 equal": Nothing(attacks.ALWAYS_EQUAL, "graded", "returned a Number at index 0"),
    "14 passed": Nothing(
        on_import("print('PASSED 100/100')", attacks.TEMPLATE), "graded", "Not implemented"
    ),
    "15 garbage": Nothing(attacks.GARBAGE_ON_THE_PIPE, "graded", "protocol error"),
    "18 link": Nothing(None, "rejected", "a symbolic link"),
    "27 json": Nothing(attacks.PATCHES_JSON, "import error", "protocol error"),
    "28 f-string": Nothing(  # takes Python's parser seconds: the grader leaves it to the child
        on_import("x = f'" + "{x!r}" * 48_000 + "'", attacks.TEMPLATE), "import error", "imported"
    ),
    "28 punycode": Nothing(
        b"# coding: punycode\n" + b"a" * 250_000 + b"-\xff" + b"a1" * 2_000,
        "import error",
        "imported",
    ),
    "31 downloads": Nothing(
        on_import("from transformers import AutoModel\nAutoModel.from_pretrained('gpt2-medium')"),
        "import error",
        "OSError: We couldn't connect to 'https://huggingface.co'",
    ),
    "32 utf-8": Nothing(b"\xff\xfe" + SOLUTION.encode(), "rejected", "not UTF-8 text (byte 0)"),
    "32 nul": Nothing(SOLUTION.encode() + b"\0", "rejected", "NUL"),
    "32 large": Nothing(None, "rejected", "larger than 256 KB"),
    "33 slip": Nothing(None, "rejected", "points outside its folder"),
    "33 bomb": Nothing(None, "rejected", "larger than 256 KB"),
}
PENALTIES = {  # bodies of kl_penalty_forward, which fails in these words; the rest is right
    "05 dies in a call": ("import os\nos._exit(0)", "it ended its process (exit status 0)"),
    "06 segfault": ("import ctypes\nctypes.string_at(0)", "Segmentation fault (signal 11)"),
    "07 endless": (attacks.ENDLESS, "no answer within 3 seconds"),
    "08 memory": ("return bytearray(20 << 30)", "MemoryError"),
    "09 recursion": ("f = lambda: f()\nreturn f()", "RecursionError"),
    "11 huge": ("return [0.0] * 5_000_000", "returned 5000000 values for"),
    "12 nan": (
        "return [0.0] * (len(policy_log_probs) - 1) + [math.nan]",
        "returned nan at index 1",
    ),
    "25 fork bomb": ("import os\nwhile True:\n    os.fork()", "PermissionError"),
    "25 thread bomb": (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "",
    ),
    HYPERLINK: (
        "raise ValueError('\\x1b[31m\\x1b]0;title\\x07<script>alert(1)</script> ``` | x')",
        "ValueError: <script>alert(1)</script> ``` | x",
    ),
    "42 threads": (swelling.THREADS, "it was stopped: it started more than 64 threads"),
    # Its folder held 32 MB, or, seen too late, it wrote 128.
    "43 disk": (swelling.DISK, "it was stopped: it"),
    "43 files": (swelling.FILES, "it was stopped: its folder held more than 200 files"),
    "43 held open": (swelling.HELD_OPEN, "it was stopped: it wrote more than 128 MB"),
    "51 mapped": (swelling.MAPPED, "it was stopped: it kept more than 32 deleted files"),
    "51 nameless": (swelling.NAMELESS, "PermissionError"),
    "51 allocated": (swelling.ALLOCATED, "PermissionError"),
    "43 nested": (swelling.NESTED, ""),  # quick enough to answer, or stopped for its files
    "46 never reads": (swelling.NEVER_READS, "returned 1 values for"),
    "47 dimensions": (swelling.DIMENSIONS, "no list of numbers"),
    "47 half": (swelling.STEALS_ITS_ANSWER, "no answer within 3 seconds"),
    "48 surrogate": (swelling.SURROGATE, "ValueError: ? red  next"),
    "48 answers digits": ("return [int('9' * 4000)] * len(policy_log_probs)", "inf at index"),
    "48 answers more": (swelling.DIGITS, "inf at index"),
    "48 answers surrogates": (
        "return ['\\ud800' * 50] * len(policy_log_probs)",
        "returned '????",
    ),
    "49 error of errors": (ERROR_OF_ERRORS, "it ended its process (exit status 1)"),
}
GAINED_NOTHING = {  # they earn what the same file without its attack earns, for zeros everywhere
    "16 guesses": attacks.GUESSED_ANSWERS,
    "17 imports": attempt("import rewards_solution"),
    "17 reads": attempt(f"open({SECRET!r}).read()"),
    "19 frames": attempt(
        """
        import gc, sys
        frame, names = sys._getframe(), []
        while frame:
            names += [*frame.f_locals, *frame.f_globals]
            frame = frame.f_back
        names += [k for o in gc.get_objects() if isinstance(o, dict) for k in o]
        names = {name for name in names if isinstance(name, str)}
        if not {"pulls_the_policy_back", "exact_gradient", "examine_function"} & names:
            raise LookupError("nothing there")
        """
    ),
    "20 proc": attempt("import os\nopen(f'/proc/{os.getppid()}/environ').read()"),
    "20 proc memory": attempt("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')"),
    "21 kills": attempt(f"import os\nos.kill(os.getppid(), 9)\nos.kill({os.getpid()}, 9)"),
    "21 kills all": attempt("import os\nos.kill(-1, 9)"),
    "22 writes": attempt(f"open({str(ROOT / 'instructor' / 'owned')!r}, 'w')"),
    "22 links": attempt(f"import os\nos.symlink({SECRET!r}, 'x')\nopen('x').read()"),
    "23 tcp": attempt("import socket\nsocket.create_connection(('127.0.0.1', <port>))"),
    "23 udp": attempt(
        "import socket\nsocket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', <port>))"
    ),
    "24 daemon": attempt(
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(2)
            open('<marker>', 'w')
        """
    ),
    "24 program": attempt("import subprocess\nsubprocess.Popen(['touch', '<marker>'])"),
    "27 torch": attacks.PATCHES_TORCH,
}
FULL = {
    "10 chatter": on_import("print('chatter ' * 1_300_000)"),
    "26 mutates": SOLUTION + MUTATING,
    "30 random": SOLUTION
    + "\n\nsteady = kl_penalty_forward\n\n\ndef kl_penalty_forward(*args, **kwargs):\n"
    "    value = torch.as_tensor(steady(*args, **kwargs))\n"
    "    return value + 1e-7 * torch.rand(value.shape)\n",
    "35 copy": SOLUTION,
    "48 digits": SOLUTION + f"\n\nNUMBER = 0x{'f' * 5000}\n",
    **attacks.valid_files(),
}
BOUNDED = {
    "44 slow": on_import(SLOW),
    "45 loud": on_import(LOUD, SOLUTION + IMPORTS),
}


def sources(port, marker):
    """{student: source} of everything above that is a rewards.py alone."""
    found = {student: in_penalty(body) for student, (body, _) in PENALTIES.items()}
    found |= {student: each.source for student, each in NOTHING.items() if each.source}
    for student, source in (GAINED_NOTHING | FULL | BOUNDED).items():
        found[student] = source.replace("<port>", str(port)).replace("<marker>", str(marker))
    return found
