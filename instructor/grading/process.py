"""The process side: start locked processes, one submission in each, and ask them questions.

What a submission sends is read as plain JSON and never unpickled. Everything that is missing, late
or malformed is an error of the submission.
"""

import json
import os
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

from engine.common import ROOT
from instructor.exercises import Wrong
from instructor.grading.sandbox import PROTECTIONS
from instructor.grading.submission import GraderError

MODULES = ("data.py", "evaluate.py", "reward_utils.py", "sentiment.py", "train.py")
WORKER = ("instructor/grading/sandbox.py", "instructor/grading/worker.py")
ANSWER_LIMIT, OUTPUT_SHOWN = 1 << 20, 2000
LIMITS = {"cpu_seconds": 60, "memory": 2 << 30, "file_size": 1 << 20}
CONTROL = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;?]*[ -/]*[@-~]"  # terminal commands, colours
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"  # controls, reversed writing
)


class Dead(Wrong):
    """The process of the submission cannot be asked any more."""


def modules_to_copy():
    """The files that a submission may import, and nothing else of this project.

    Returns:
        {path below the root: path in the folder of copies}. engine/ stays a package; the worker
        and the sandbox lie beside it.
    """
    engine = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("engine/*.py"))
    return {name: name for name in (*engine, *MODULES)} | {n: Path(n).name for n in WORKER}


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
        (self.tools / "engine").mkdir(parents=True)
        for source, target in modules_to_copy().items():
            shutil.copyfile(ROOT / source, self.tools / target)
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


def probe(workshop, control):
    """{protection: whether it holds} on this machine, by trying to break out."""
    secret = str(ROOT / "tests" / "cases" / "__init__.py")
    memory = 2 * LIMITS["memory"]
    try:
        with Child(workshop, control, b"", 30.0) as child:
            held = child.ask("probe", secret=secret, memory=memory)
    except Wrong:
        return dict.fromkeys(PROTECTIONS, False)
    return {name: held.get(name) is True for name in PROTECTIONS}
