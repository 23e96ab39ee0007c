"""Try things in a process that has locked itself in as that of a submission does.

    python locked_in.py < JOBS

reads a list of jobs as JSON and prints a list of {what was tried: outcome}. A job is [edits,
tries]: [pattern, replacement] pairs that take a lock out of the text of sandbox.py, or null where
nothing is to be locked at all; and expressions as in break_outs.py, or "probe". Each is tried by a
process of its own in surroundings of its own. Nothing here needs torch.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import types
from pathlib import Path

import pyseccomp  # noqa: F401  # once, not in each process
from break_outs import HELPERS

GRADING = Path(__file__).resolve().parents[2] / "instructor" / "grading"
MEMORY = 256 << 20


class Surroundings:
    """What lies around a submission: the shared modules, a file, a process and a socket."""

    def __init__(self):
        self.top = Path(tempfile.mkdtemp(prefix="locked-"))
        self.own, self.tools, self.around = (self.top / n for n in ("own", "tools", "around"))
        for folder in (self.own, self.tools, self.around):
            folder.mkdir()
        for name in ("sandbox.py", "probing.py"):
            shutil.copyfile(GRADING / name, self.tools / name)
        self.file, module = self.around / "file", self.tools / "reward_utils.py"
        for path in (self.file, module):
            path.write_text("'nobody's'")
            with contextlib.suppress(OSError):  # not every file system has attributes
                os.setxattr(path, "user.old", b"x")
        module.write_text("")
        self.sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        for end, name in zip(self.sockets, (str(self.around / "socket"), f"\0{self.top.name}")):
            end.bind(name)
        self.bystander = os.fork()
        if self.bystander == 0:
            time.sleep(300)  # nobody else may end it, should all go wrong
            os._exit(0)

    def aimed(self, expression):
        """The expression with what lies here in it."""
        here = {"file": self.file, "process": self.bystander, "socket": self.around / "socket"}
        here |= {"name": self.top.name, "tools": self.tools, "around": self.around}
        return re.sub(r"<(\w+)>", lambda match: str(here[match[1]]), expression)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.bystander, signal.SIGKILL)
        os.waitpid(self.bystander, 0)
        for end in self.sockets:
            end.close()
        self.top.chmod(0o700)
        for folder, folders, _ in os.walk(self.top):  # an attack may have closed one
            for name in folders:
                os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(self.top)


def outcome_of(tried, edits):
    """Its error's name, "worked", or "ended" where the process did; of the probe, what it found."""
    surroundings = Surroundings()
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:  # stands for the worker: some attacks kill it
        if os.fork() == 0:
            os.close(reading)
            become(surroundings, tried, edits, fcntl.fcntl(writing, fcntl.F_DUPFD, 100))
        os.close(writing)
        os.wait()
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        said = answer.read()
    os.waitpid(parent, 0)
    surroundings.close()
    return json.loads(said) if said else "ended"


def become(surroundings, tried, edits, answers):
    """Lock this process in and let it try; never returns."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.pipe()[1], 4)
        os.closerange(5, 100)
        os.chdir(surroundings.own)
        os.environ["HOME"] = str(surroundings.own)
        sys.path.insert(0, str(surroundings.tools))
        import probing

        import reward_utils  # noqa: F401

        names = {}
        exec(HELPERS, names)
        if edits is not None:
            sandbox = sandbox_without(edits)
            limits = sandbox.LIMITS._replace(memory=MEMORY)
            sandbox.lock(str(surroundings.own), [str(surroundings.tools)], limits)
        if tried == "probe":
            said = probing.probe(str(surroundings.own), str(surroundings.file), 2 * MEMORY)
        else:
            said = attempt(surroundings.aimed(tried), names)
        os.write(answers, json.dumps(said).encode())
    finally:
        os._exit(0)


def sandbox_without(edits):
    """The module sandbox.py with these changes to its text, each of which must change it."""
    source = (GRADING / "sandbox.py").read_text(encoding="utf-8")
    for pattern, replacement in edits:
        changed = re.sub(pattern, replacement, source, count=1)
        assert changed != source, pattern
        source = changed
    module = types.ModuleType("sandbox")
    exec(source, module.__dict__)
    return module


def attempt(expression, names):
    try:
        eval(expression, names)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "worked"


if __name__ == "__main__":
    found = [{t: outcome_of(t, edits) for t in tries} for edits, tries in json.load(sys.stdin)]
    print(json.dumps(found))
