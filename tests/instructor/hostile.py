"""Hostile and broken submissions with what each must get. The numbers are those of the list.

`test_attacks.py` grades them all for real, in one batch.
"""

import os

from engine.common import ROOT
from instructor.proof import attacks
from instructor.proof import swelling as bodies
from instructor.proof.attacks import SOLUTION, attempt, in_penalty, on_import

HYPERLINK = '=HYPERLINK("x"), 1'
MUTATING = """

def mutating(function):
    def wrapped(**arguments):
        answer = function(**arguments)
        for value in arguments.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
            elif isinstance(value, list):
                value.clear()
        return answer

    return wrapped


for name in ("shaped_reward", "kl_penalty_forward", "kl_penalty_backward"):
    globals()[name] = mutating(globals()[name])
"""


def hostile_sources(port, marker, models):
    """{student: source} of every attack that is a rewards.py alone.

    Args:
        port: where a server listens that nobody may reach.
        marker: a path that nobody may write.
        models: (ref_model, tokenizer).
    """
    listed = broken() | break_outs(port, marker) | tricks(models)
    return listed | swelling() | misleading()


def broken():
    """Files that fail, crash, never end, or answer what is no answer: numbers 1 to 16."""
    return {
        "01 template": attacks.TEMPLATE,
        "02 syntax": SOLUTION.replace("import math", "import math\ndef broken(:\n", 1),
        "03 missing": attacks.without("kl_penalty_backward"),
        "04 exit": attacks.EXIT_AT_IMPORT,
        "05 dies at import": attacks.CRASH_AT_IMPORT,
        "05 dies in a call": in_penalty("import os\nos._exit(0)"),
        "06 segfault": in_penalty("import ctypes\nctypes.string_at(0)"),
        "07 endless": in_penalty(attacks.ENDLESS),
        "07 endless at import": on_import(attacks.ENDLESS),
        "08 memory": in_penalty("return bytearray(20 << 30)"),
        "09 recursion": in_penalty("f = lambda: f()\nreturn f()"),
        "10 chatter": on_import("print('chatter ' * 1_300_000)"),
        "11 huge": in_penalty("return [0.0] * 5_000_000"),
        "12 nan": in_penalty("return [0.0] * (len(policy_log_probs) - 1) + [math.nan]"),
        "13 equal": attacks.ALWAYS_EQUAL,
        "14 passed": on_import("print('PASSED 100/100')", attacks.TEMPLATE),
        "15 garbage": attacks.GARBAGE_ON_THE_PIPE,
        "16 guesses": attacks.GUESSED_ANSWERS,
    }


def break_outs(port, marker):
    """Files that try to leave the sandbox: numbers 17 to 25."""
    secret = ROOT / "rewards_solution.py"
    return {
        "17 imports": attempt("import rewards_solution"),
        "17 reads": attempt(f"open({str(secret)!r}).read()"),
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
        "22 links": attempt(f"import os\nos.symlink({str(secret)!r}, 'x')\nopen('x').read()"),
        "23 tcp": attempt(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))"),
        "23 udp": attempt(
            "import socket\n"
            f"socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"
        ),
        "24 daemon": attempt(
            f"""
            import os, time
            if os.fork() == 0:
                os.setsid()
                time.sleep(2)
                open({str(marker)!r}, 'w')
            """
        ),
        "24 program": attempt(f"import subprocess\nsubprocess.Popen(['touch', {str(marker)!r}])"),
        "25 fork bomb": in_penalty("import os\nwhile True:\n    os.fork()"),
        "25 thread bomb": in_penalty(
            "import threading, time\nwhile True:\n"
            "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
        ),
    }


def tricks(models):
    """Files that try to deceive the grader, and right ones that look odd: from number 26 on."""
    return {
        "26 mutates": SOLUTION + MUTATING,
        "27 json": attacks.PATCHES_JSON,
        "27 torch": attacks.PATCHES_TORCH,
        "29 hard-coded": attacks.hard_coded(models),
        "30 random": SOLUTION
        + "\n\nsteady = kl_penalty_forward\n\n\ndef kl_penalty_forward(*args, **kwargs):\n"
        "    value = torch.as_tensor(steady(*args, **kwargs))\n"
        "    return value + 1e-7 * torch.rand(value.shape)\n",
        "31 downloads": on_import(
            "from transformers import AutoModel\nAutoModel.from_pretrained('gpt2-medium')"
        ),
        "32 utf-8": b"\xff\xfe" + SOLUTION.encode(),
        "32 nul": SOLUTION.encode() + b"\0",
        HYPERLINK: in_penalty(
            "raise ValueError('\\x1b[31m\\x1b]0;title\\x07<script>alert(1)</script> ``` | x')"
        ),
        "35 copy": SOLUTION,
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


GAINED_NOTHING = [  # what the same file without its attack earns, for zeros everywhere
    *("16 guesses", "17 imports", "17 reads", "19 frames", "20 proc", "20 proc memory", "21 kills"),
    *("21 kills all", "22 writes", "22 links", "23 tcp", "23 udp", "24 daemon", "24 program"),
    "27 torch",
]
NOTHING = {  # student -> (status, words of the reason or of the first failure)
    "01 template": ("graded", "Not implemented: Exercise 2a"),
    "02 syntax": ("import error", "SyntaxError: invalid syntax (rewards.py, line"),
    "04 exit": ("import error", "SystemExit: 0"),
    "05 dies at import": ("import error", "it ended its process (exit status 0)"),
    "07 endless at import": ("import error", "no answer within 3 seconds"),
    "13 equal": ("graded", "returned a Number at index 0"),
    "14 passed": ("graded", "Not implemented"),
    "15 garbage": ("graded", "protocol error"),
    "27 json": ("import error", "protocol error"),
    "31 downloads": ("import error", "OSError: We couldn't connect to 'https://huggingface.co'"),
    "32 utf-8": ("rejected", "not UTF-8 text (byte 0)"),
    "32 nul": ("rejected", "NUL"),
    "32 large": ("rejected", "larger than 256 KB"),
    "18 link": ("rejected", "a symbolic link"),
    "33 slip": ("rejected", "points outside its folder"),
    "33 bomb": ("rejected", "larger than 256 KB"),
}
LOST_ONE = {  # student -> (function, words): everything but this function earns full points
    "03 missing": ("kl_penalty_backward", "there is no function kl_penalty_backward"),
    "05 dies in a call": ("kl_penalty_forward", "it ended its process (exit status 0)"),
    "06 segfault": ("kl_penalty_forward", "Segmentation fault (signal 11)"),
    "07 endless": ("kl_penalty_forward", "no answer within 3 seconds"),
    "08 memory": ("kl_penalty_forward", "MemoryError"),
    "09 recursion": ("kl_penalty_forward", "RecursionError"),
    "11 huge": ("kl_penalty_forward", "returned 5000000 values for"),
    "12 nan": ("kl_penalty_forward", "returned nan at index 1"),
    "25 fork bomb": ("kl_penalty_forward", "PermissionError"),
    "25 thread bomb": ("kl_penalty_forward", ""),
    HYPERLINK: ("kl_penalty_forward", "ValueError: <script>alert(1)</script> ``` | x"),
    **{student: ("kl_penalty_forward", words) for student, words in STOPPED.items()},
}
FULL = [
    "10 chatter",
    "26 mutates",
    "28 ships",
    "30 random",
    "35 copy",
    "48 digits",
]
