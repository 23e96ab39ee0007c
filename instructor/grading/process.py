"""The process side: start locked processes, one submission in each, and ask them questions.

What a submission sends is read as plain JSON and never unpickled. Everything that is missing, late
or malformed is an error of the submission.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from cases import Wrong
from engine.common import ROOT
from engine.course.checklist import TO_DO
from instructor.grading.sandbox import LIMITS, PROTECTIONS
from instructor.grading.submission import GraderError
from instructor.grading.text import clean
from instructor.grading.watching import BOUNDS, remove

MODULES = ("data.py", "evaluate.py", "reward_utils.py", "sentiment.py", "train.py")
WORKER = tuple(
    f"instructor/grading/{name}.py"
    for name in ("imports", "probing", "sandbox", "watching", "worker")
)
ANSWER_LIMIT = 1 << 16  # bytes
OUTPUT_SHOWN = 2000  # bytes
TEXT_LIMIT = 1000  # characters
ROOM = 256 << 20  # bytes on the disk that no submission exceeds, by watching.py and sandbox.py
CONTROL_SECONDS = 300  # for an order to the worker, which answers at once


class Dead(Wrong):
    """The process of the submission cannot be asked any more."""


class WorkerGone(GraderError):
    """Nobody can be graded any more; what was asked last says nothing about a submission."""

    def __init__(self):
        super().__init__("the worker process is gone; --resume goes on with what is left")


class Allowance:
    """The seconds that all answers of one submission may take together."""

    def __init__(self, seconds):
        self.seconds = self.left = seconds

    def spend(self, seconds):
        self.left -= seconds


def modules_to_copy():
    """The files that a submission may import, and nothing else of this project.

    Returns:
        {path below the root: path in the folder of copies}. engine/ stays a package; the worker
        and what it needs lie beside it.
    """
    files = [path for path in ROOT.glob("engine/**/*") if path.is_file()]
    engine = sorted(path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc")
    return {name: name for name in (*engine, *MODULES)} | {n: Path(n).name for n in WORKER}


class Control(NamedTuple):
    """A line to the worker, over which it is told to start or end one process at a time."""

    socket: socket.socket
    folder: Path  # in which each process gets a folder of its own
    unsafe: bool  # go on where the machine cannot lock a process in


class Workshop:
    """A folder of copies and the process in it that forks one locked process per order.

    Args:
        jobs: how many submissions are asked at a time; `controls` has one `Control` for each.
        unsafe: of `Control`.
    """

    def __init__(self, jobs, unsafe=False):
        self.folder = Path(tempfile.mkdtemp(prefix="grade-"))
        self._look_for_room(jobs)
        self.tools = self.folder / "tools"
        for source, target in modules_to_copy().items():
            (self.tools / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, self.tools / target)
        shutil.copytree(ROOT / "tiny", self.tools / "tiny")
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(jobs)]
        theirs = [theirs.fileno() for _, theirs in pairs]
        try:
            self.process = self._start(theirs)
        except OSError as error:
            remove(self.folder)
            raise GraderError(f"The worker process did not start: {error.strerror}.") from error
        self.controls = [Control(ours, self.folder, unsafe) for ours, _ in pairs]
        for ours, end in pairs:
            ours.settimeout(CONTROL_SECONDS)
            end.close()

    def _look_for_room(self, jobs):
        """One submission on a small disk shall not be what another fails by."""
        free = shutil.disk_usage(self.folder).free
        needed = jobs * ROOM
        if free < needed:
            os.rmdir(self.folder)
            raise GraderError(
                f"'{self.folder.parent}' has {free >> 20} MB left; {jobs} submissions at a time "
                f"may need {needed >> 20}. Set TMPDIR to a larger place, or --jobs to less."
            )

    def _start(self, theirs):
        return subprocess.Popen(
            [sys.executable, "-I", str(self.tools / "worker.py"), *map(str, theirs)],
            cwd=self.tools,
            env={"PATH": os.environ.get("PATH", "")},
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the grader alone
        )

    def wait(self):
        """Until the worker is ready.

        Raises:
            GraderError: it did not start.
        """
        for control in self.controls:
            try:
                ready = control.socket.recv(4096)
            except OSError:
                ready = b""
            if not ready:
                raise GraderError("The worker process did not start; its error is above.")

    def close(self):
        for control in self.controls:
            control.socket.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        remove(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class Child:
    """One locked process with one submission in it.

    Args:
        control: the `Control` that starts it.
        source: bytes of the submission's rewards.py.
        seconds: for one question, by the clock.
        allowance: `Allowance` of the whole submission; by default there is no limit.

    Raises:
        WorkerGone: the worker has ended.
        RuntimeError: the machine has no room for a process.
    """

    def __init__(self, control, source, seconds=10.0, allowance=None):
        self.control = control
        self.seconds = seconds
        self.allowance = allowance or Allowance(float("inf"))
        self.number = 0  # of the last question
        self.output = b""  # the beginning of what it printed
        self.buffer = b""  # what has come of an answer
        self.dead = ""  # why it cannot be asked any more
        self.fds = []
        self.folder = Path(tempfile.mkdtemp(dir=control.folder))
        try:
            (self.folder / "rewards.py").write_bytes(source)
            self._start()
        except BaseException:
            self._clear()
            raise

    def _start(self):
        questions, self.questions = os.pipe()
        self.answers, answers = os.pipe()
        self.shown, shown = os.pipe()
        self.fds = [self.questions, self.answers, self.shown]
        theirs = [questions, answers, shown]
        order = {"folder": str(self.folder), "unsafe": self.control.unsafe}
        for fd in self.fds:  # a submission that steals bytes or does not read must not block us
            os.set_blocking(fd, False)
        try:
            reply = self._order(order, theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        if "failed" in reply:
            raise RuntimeError(f"no process could be started ({reply['failed']})")

    def ask(self, operation, **question) -> Any:
        """Send one question, return the reply, checked by `flat`.

        Raises:
            Dead: it crashed, was late, or did not keep to the protocol; then it is gone.
        """
        if self.dead:
            raise Dead(self.dead)
        self.number += 1
        line = json.dumps({"operation": operation, "number": self.number, **question}).encode()
        started = time.monotonic()
        try:
            answer = self._exchange(line + b"\n", started)
        finally:
            self.allowance.spend(time.monotonic() - started)
        try:
            kind, content = read_reply(answer, self.number)
        except RecursionError:
            self._die("protocol error: the answer is no JSON")
        except ValueError as error:
            self._die(f"protocol error: {error}")
        if kind == "todo" and TO_DO.match(content):
            raise NotImplementedError(content[:200])
        if kind in ("raised", "todo"):
            raise Wrong(f"it raised {content[:500]}")
        return content

    def _exchange(self, line, started):
        """Write a question and read one line, both within the time."""
        deadline = started + min(self.seconds, self.allowance.left)
        poll = select.poll()
        for fd, event in zip(self.fds, (select.POLLOUT, select.POLLIN, select.POLLIN)):
            poll.register(fd, event)
        while True:
            answered = b"\n" in self.buffer  # then only what was printed before it is left
            left = deadline - time.monotonic()
            ready = [fd for fd, _ in poll.poll(0 if answered else max(0, left) * 1000)]
            if answered and (self.shown not in ready or left < 0):
                break
            if left < 0:
                self._late()
            if self.questions in ready:
                line = self._write(line)
                if not line:
                    poll.unregister(self.questions)
            if self.shown in ready and not self._show():
                poll.unregister(self.shown)
            if self.answers in ready:
                self._read()
        answer, _, self.buffer = self.buffer.partition(b"\n")
        if self.buffer:
            self._die("protocol error: more than one answer")
        return answer

    def _late(self):
        if self.allowance.left < self.seconds:
            seconds = self.allowance.seconds
            self._die(f"all its answers together took longer than {seconds:.0f} seconds")
        self._die(f"no answer within {self.seconds:.0f} seconds")

    def _write(self, line):
        try:
            return line[os.write(self.questions, line) :]
        except BlockingIOError:
            return line
        except BrokenPipeError:
            self._die()

    def _show(self):
        """Keep the beginning of what it prints; whether there may be more."""
        try:
            data = os.read(self.shown, 1 << 16)
        except BlockingIOError:
            return True
        self.output = (self.output + data)[:OUTPUT_SHOWN]
        return bool(data)

    def _read(self):
        try:
            data = os.read(self.answers, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._die()
        self.buffer += data
        if len(self.buffer) > ANSWER_LIMIT:
            self._die(f"the answer is larger than {ANSWER_LIMIT >> 10} KB")

    def _die(self, reason=None):
        """Kill it and raise; without a reason, it has ended by itself and the status tells why."""
        status = self._order({"end": True})
        if status.get("over"):
            reason = f"it was stopped: {status['over']}"
        elif reason is None and "signal" in status:
            name = signal.strsignal(status["signal"])
            reason = f"its process crashed: {name} (signal {status['signal']})"
        elif reason is None:
            reason = f"it ended its process (exit status {status.get('exit')})"
        self.dead = reason
        self._show()
        raise Dead(reason)

    def _order(self, order, fds=()):
        try:
            socket.send_fds(self.control.socket, [json.dumps(order).encode()], fds)
            reply = self.control.socket.recv(4096)
        except OSError as error:
            raise WorkerGone from error
        if not reply:
            raise WorkerGone
        return json.loads(reply)

    def close(self):
        """Kill it if it still runs, and remove its folder."""
        try:
            if not self.dead:
                self.dead = "it has ended"
                self._order({"end": True})
        finally:
            self._clear()

    def _clear(self):
        while self.fds:
            os.close(self.fds.pop())
        remove(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def read_reply(line, number) -> tuple[str, Any]:
    """The one reply to question `number` as (kind, content): answer, todo or raised.

    Raises:
        ValueError: it is none.
    """
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise ValueError("the answer is no JSON") from error
    if not isinstance(reply, dict) or reply.pop("number", None) != number:
        raise ValueError("an answer to a question that was not asked")
    if len(reply) != 1:
        raise ValueError("an answer of unknown form")
    ((kind, content),) = reply.items()
    if not (kind == "answer" or kind in ("todo", "raised") and isinstance(content, str)):
        raise ValueError("an answer of unknown form")
    return kind, flat(content)


def flat(value, depth=2) -> Any:
    """A value of JSON with at most `depth` levels, a dict of lists, its texts made harmless.

    Raises:
        ValueError: it is deeper.
    """
    if isinstance(value, str):
        return clean(value)[:TEXT_LIMIT]
    if isinstance(value, dict) and depth:
        return {clean(key)[:100]: flat(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list) and depth:
        return [flat(item, depth - 1) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ValueError("an answer of unknown form")


def probe(control):
    """{protection: whether it holds} on this machine, by trying to break out."""
    secret = str(ROOT / "cases" / "__init__.py")
    try:
        with Child(control, b"", seconds=30.0) as child:
            held = child.ask("probe", secret=secret, memory=2 * LIMITS.memory)
    except Wrong:
        return dict.fromkeys(PROTECTIONS, False)
    amounts = {"threads": BOUNDS.threads, "files": BOUNDS.files, "mapped": BOUNDS.mapped}
    bounded = [stopped(control, what, most + 1) for what, most in amounts.items()]
    held["amounts"] = held["amounts"] is True and all(bounded)
    return {name: held.get(name) is True for name in PROTECTIONS}


def stopped(control, what, number_of):
    """Whether a process that has too much of something is killed."""
    try:
        with Child(control, b"", seconds=10.0) as child:
            child.ask("overrun", what=what, number_of=number_of)
    except Dead as dead:
        return "it was stopped" in str(dead)
    return False
