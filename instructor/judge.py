"""Ask one submission in its sandbox, judge the answers here: the outcome of every case.

The cases are those of tests/cases.py, which students run as `pytest --student`; here they also run
with seeds that nobody has seen. What a submission sends is read as plain JSON, never unpickled,
and everything that is missing, late or malformed fails.
"""

import dataclasses
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cases import CASES, Ask, Wrong, report  # noqa: E402

from instructor.sandbox import PROTECTIONS  # noqa: E402

TOOLS = (  # what a submission may import, and nothing else of this project
    "checkpoints.py",
    "data.py",
    "evaluate.py",
    "metrics.py",
    "models.py",
    "monitor.py",
    "reward_utils.py",
    "sentiment.py",
    "train.py",
    "instructor/sandbox.py",
    "instructor/worker.py",
)
ANSWER_LIMIT, OUTPUT_SHOWN = 1 << 20, 2000
LIMITS = {"cpu_seconds": 60, "memory": 2 << 30, "file_size": 1 << 20}
CONTROL = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;?]*[ -/]*[@-~]"  # terminal commands, colours
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"  # controls, reversed writing
)


class Dead(Wrong):
    """The process of the submission cannot be asked any more."""


class GraderError(Exception):
    """The grader itself cannot go on. The message says what to do, in one line."""


def clean(text):
    """Text from a submission without control characters, colours or reversed writing."""
    return CONTROL.sub("", str(text))


class Workshop:
    """A folder of copies and the process in it that forks one locked process per order.

    Args:
        jobs: how many submissions are asked at a time.
        unsafe: go on where the machine cannot lock a process in.
    """

    def __init__(self, jobs, unsafe=False):
        self.unsafe = unsafe
        self.folder = Path(tempfile.mkdtemp(prefix="grade-"))
        self.tools = self.folder / "tools"
        self.tools.mkdir()
        for name in TOOLS:
            shutil.copyfile(ROOT / name, self.tools / Path(name).name)
        shutil.copytree(ROOT / "tiny", self.tools / "tiny")
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(jobs)]
        theirs = [theirs.fileno() for _, theirs in pairs]
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(self.tools / "worker.py"), *map(str, theirs)],
            cwd=self.tools,
            env={"PATH": os.environ.get("PATH", "")},
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the grader alone
        )
        self.controls = [ours for ours, _ in pairs]
        for _, end in pairs:
            end.close()

    def wait(self):
        """Until the worker is ready."""
        for control in self.controls:
            if not control.recv(4096):
                raise GraderError("The worker process did not start; its error is above.")

    def close(self):
        for control in self.controls:
            control.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class Child:
    """One locked process with one submission in it.

    Args:
        workshop, control: where it comes from.
        source: bytes of the submission's rewards.py.
        seconds: for one question, by the clock.
        limits: changes to LIMITS.
    """

    def __init__(self, workshop, control, source, seconds=10.0, **limits):
        self.control, self.seconds, self.number = control, seconds, 0
        self.output, self.dead, self.buffer = b"", None, b""
        self.folder = Path(tempfile.mkdtemp(dir=workshop.folder))
        (self.folder / "rewards.py").write_bytes(source)
        questions, self.questions = os.pipe()
        self.answers, answers = os.pipe()
        self.shown, shown = os.pipe()
        limits = {**LIMITS, **limits}
        order = {"folder": str(self.folder), "limits": limits, "unsafe": workshop.unsafe}
        fds = [questions, answers, shown]
        try:
            socket.send_fds(control, [json.dumps(order).encode()], fds)
            self._reply()
        finally:
            for fd in fds:
                os.close(fd)

    def ask(self, operation, **question):
        """Send one question, return the reply as a dict.

        Raises:
            Dead: it crashed, was late, or did not keep to the protocol; then it is gone.
        """
        if self.dead:
            raise Dead(self.dead)
        self.number += 1
        line = json.dumps({"operation": operation, "number": self.number, **question}).encode()
        try:
            os.write(self.questions, line + b"\n")
            reply = json.loads(self._read_line(time.monotonic() + self.seconds))
        except BrokenPipeError:
            self._die()
        except (ValueError, RecursionError):
            self._die("protocol error: the answer is no JSON")
        kinds = {"answer", "todo", "raised"}
        if not isinstance(reply, dict) or reply.pop("number", None) != self.number:
            self._die("protocol error: an answer to a question that was not asked")
        if len(reply) != 1 or not kinds & set(reply):
            self._die("protocol error: an answer of unknown form")
        if "raised" in reply:
            raise Wrong(f"it raised {clean(reply['raised'])[:500]}")
        if "todo" in reply:
            raise NotImplementedError(clean(reply["todo"])[:200])
        return reply["answer"]

    def _read_line(self, deadline):
        poll = select.poll()
        for fd in (self.answers, self.shown):
            poll.register(fd, select.POLLIN)
        while True:
            answered = b"\n" in self.buffer  # then only what was printed before it is left
            events = poll.poll(0 if answered else max(0, deadline - time.monotonic()) * 1000)
            if answered and self.shown not in [fd for fd, _ in events]:
                break
            if not events:
                self._die(f"no answer within {self.seconds:.0f} seconds")
            for fd, _ in events:
                data = os.read(fd, 1 << 16)
                if fd == self.shown:
                    self.output = (self.output + data)[:OUTPUT_SHOWN]
                    if not data:
                        poll.unregister(fd)
                elif not data:
                    self._die()
                else:
                    self.buffer += data
            if len(self.buffer) > ANSWER_LIMIT:
                self._die("the answer is larger than 1 MB")
            if time.monotonic() > deadline:
                self._die(f"no answer within {self.seconds:.0f} seconds")
        line, _, self.buffer = self.buffer.partition(b"\n")
        if self.buffer:
            self._die("protocol error: more than one answer")
        return line

    def _die(self, reason=None):
        status = self._end()
        if reason is None and "signal" in status:
            name = signal.strsignal(status["signal"])
            reason = f"its process crashed: {name} (signal {status['signal']})"
        elif reason is None:
            reason = f"it ended its process (exit status {status.get('exit')})"
        self.dead = reason
        raise Dead(reason)

    def _end(self):
        self.control.send(b'{"end": true}')
        return self._reply()

    def _reply(self):
        reply = self.control.recv(4096)
        if not reply:
            raise GraderError("the worker process is gone; --resume goes on with what is left")
        return json.loads(reply)

    def close(self):
        if not self.dead:
            self._end()
        for fd in (self.questions, self.answers, self.shown):
            os.close(fd)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def remote(child, name, journal):
    """A function of the submission, to be asked like a local one; answers go into `journal`."""

    def function(ref_model=None, tokenizer=None, **arguments):
        sent = {key: encode(value) for key, value in arguments.items()}
        answer = child.ask("call", function=name, arguments=sent)
        journal.append(json.dumps(answer))
        return decode(answer, name)

    function.__name__ = name
    return function


def encode(value):
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    return value


def decode(answer, name):
    """What the worker's `encode` made of an answer, as this process would have got it."""
    try:
        kind = answer["kind"]
        if kind == "tensor":
            return torch.tensor(answer["value"], dtype=torch.float64).reshape(answer["shape"])
        if kind in ("list", "plain"):
            return answer["value"]
        if kind == "item":
            what = f"a {clean(answer['type'])[:60]} at index {int(answer['index'])}"
            raise Wrong(f"{name} returned {what}; expected a plain number")
        if kind == "missing":
            raise Wrong(f"there is no function {name}")
        raise Wrong(f"{name} returned {clean(answer['type'])[:60]}; expected a list of numbers")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Wrong(f"{name} returned something that is no list of numbers") from error


@dataclasses.dataclass
class Outcome:
    """What became of one case of one function."""

    function: str
    case: str
    passed: bool  # with every seed
    message: str = ""  # for the student: never a hidden input or an expected value for one


def judge(workshop, control, source, seeds, models, seconds=10.0):
    """Run every case of every function on one submission.

    Args:
        workshop, control: where its processes come from.
        source: bytes of its rewards.py.
        seeds: the first is that of the public tests, the others are hidden.
        models: (ref_model, tokenizer), the bundled ones, of this process.
        seconds: for one answer.

    Returns:
        (outcomes, flags, output): a list of `Outcome` in the order of CASES, a set of things for
        a person to look at, and the beginning of what the submission printed.
    """
    outcomes, flags, output = [], set(), ""
    with Child(workshop, control, source, seconds) as child:
        try:
            child.ask("load")
            failed = None
        except (Wrong, NotImplementedError) as error:
            failed = str(error)
        output += clean(child.output.decode("utf-8", "replace"))
    for name, (_, cases) in CASES.items():
        if failed:
            message = NO_IMPORT + failed
            outcomes += [Outcome(name, case.__name__, False, message) for case in cases]
            continue
        with Child(workshop, control, source, seconds) as child:
            try:
                child.ask("load")
            except (Wrong, NotImplementedError):
                pass  # the questions will say so
            found, unsteady = judge_function(child, name, cases, seeds, models)
            output += clean(child.output.decode("utf-8", "replace"))
        outcomes += found
        if unsteady:
            flags.add(f"{name} gives other answers to the same question")
        hidden_only = [o.case for o in found if not o.passed and o.message.startswith(HIDDEN)]
        if hidden_only:
            flags.add(f"{name} passes only the inputs of the public tests")
    return outcomes, flags, output[:OUTPUT_SHOWN]


NO_IMPORT = "The file cannot be imported: "
HIDDEN = "It holds for the inputs of the public tests, but not for others."


def judge_function(child, name, cases, seeds, models):
    """(outcomes of one function, whether a repeated question got another answer)."""
    messages, asked = {case: "" for case in cases}, {}
    first, *hidden = seeds

    def run(case, seed):
        asked[case, seed] = []
        ask = Ask(remote(child, name, asked[case, seed]), models)
        text = report(case, ask, random.Random(seed)) or ""
        return "\n".join(line for line in text.splitlines() if not line.startswith("  expected"))

    try:
        for case in cases:
            messages[case] = run(case, first)
        before = {case: asked[case, first] for case in cases}
        for seed in hidden:
            for case in cases:
                if not messages[case] and run(case, seed):
                    messages[case] = child.dead or HIDDEN
        unsteady = False
        for case in cases:
            again = run(case, first)
            if asked[case, first] != before[case]:
                unsteady = True
                if again and not messages[case]:
                    messages[case] = "It held, and did not hold when asked again."
    except NotImplementedError as error:
        return [
            Outcome(name, case.__name__, False, f"Not implemented: {error}") for case in cases
        ], False
    outcomes = [Outcome(name, c.__name__, not text, text) for c, text in messages.items()]
    return outcomes, unsteady and not child.dead


def probe(workshop, control):
    """{protection: whether it holds} on this machine, by trying to break out."""
    secret = str(ROOT / "tests" / "cases.py")
    memory = 2 * LIMITS["memory"]
    try:
        with Child(workshop, control, b"", 30.0) as child:
            held = child.ask("probe", secret=secret, memory=memory)
    except Wrong:
        return dict.fromkeys(PROTECTIONS, False)
    return {name: held.get(name) is True for name in PROTECTIONS}
