"""The process that answers for a submission. Started by grade.py, in a folder of copies.

    python -I worker.py CONTROL_FD…

loads torch and the bundled models once and then, for each order that comes over a control socket,
forks a process that locks itself in (sandbox.py), loads one submission and answers calls. The
first process never runs anything of a student's; it kills what exceeds the bounds (watching.py).
Neither knows an expected value: questions come in over a pipe as JSON lines, plain answers go out,
and the grader decides what is right.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # -I leaves out the folder of the program

import imports  # noqa: E402
import probing  # noqa: E402
import sandbox  # noqa: E402
import watching  # noqa: E402

SUBREAPER = 36  # of prctl(2)


def serve(controls):
    """Fork and end processes on demand, until the grader is gone."""
    try:
        sandbox.prctl(SUBREAPER, 1)  # what escapes a dead process becomes our child
    except (OSError, AttributeError):
        pass
    selector = selectors.DefaultSelector()
    running = {}  # control -> its process
    for control in controls:
        selector.register(control, selectors.EVENT_READ)
    while selector.get_map():
        for key, _ in selector.select(watching.INTERVAL if running else None):
            control = key.fileobj
            order, fds = receive(control)
            if order and "folder" in order:
                send(control, begin(running, control, order, fds))
                continue
            status = end(running.pop(control, None), running.values())
            if order:
                send(control, status)
            else:  # the grader is gone
                selector.unregister(control)
        for process in running.values():
            kill_if_over(process)


def receive(control):
    """(the order of a grader, or None where it is gone; the file descriptors that come with it)."""
    try:
        data, fds, _, _ = socket.recv_fds(control, 65536, 3)
    except ConnectionError:
        return None, []
    return (json.loads(data) if data else None), fds


def send(control, reply):
    """A grader that is gone needs no answer."""
    with contextlib.suppress(OSError):
        control.send(json.dumps(reply).encode())


@dataclasses.dataclass
class Running:
    """A process that answers for a submission."""

    pid: int
    folder: str
    untouched: float  # when the folder had last changed before
    over: str = ""  # the bound for which it was killed
    looked: float = 0.0  # when its use was last looked at


def begin(running, control, order, fds):
    """Fork the process of an order; what the grader is told."""
    try:
        untouched = os.stat(order["folder"]).st_mtime
        pid = os.fork()
    except OSError as error:
        return {"failed": str(error)}
    else:
        if pid == 0:
            become(order, fds)
        running[control] = Running(pid, order["folder"], untouched)
        return {}
    finally:
        for fd in fds:
            os.close(fd)


def kill_if_over(process):
    """Kill a process that exceeds its bounds."""
    now = time.monotonic()
    if process.over or now - process.looked < watching.INTERVAL:
        return
    process.looked = now
    process.over = watching.overrun(process.pid, process.folder, untouched=process.untouched)
    if process.over:
        os.kill(process.pid, signal.SIGKILL)


def end(process, others):
    """Kill a process and whatever it has started: {"exit"} or {"signal"} as it died, "over"."""
    if process is None:
        return {}
    for target in (process.pid, -process.pid):
        try:
            os.kill(target, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    _, status = os.waitpid(process.pid, 0)
    while orphans := set(children()) - {other.pid for other in others}:
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"over": process.over, **({"signal": -code} if code < 0 else {"exit": code})}


def children():
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text(encoding="ascii").split()] if path.exists() else []


def become(order, fds):
    """Turn this fresh copy into the process of one submission; never returns."""
    code = 1
    try:
        questions, answers, output = fds
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(questions, 200)  # out of the way: each may lie at 3 or 4
        os.dup2(answers, 201)
        os.dup2(200, 3)
        os.dup2(201, 4)
        os.closerange(5, 1 << 20)
        os.setsid()
        os.nice(5)  # who watches comes first
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"1000")  # where memory ends, this process shall go and not the worker
        os.chdir(order["folder"])
        tempfile.tempdir = order["folder"]
        os.environ.clear()
        here = {"HOME": order["folder"], "TMPDIR": order["folder"], "LANG": "C.UTF-8"}
        os.environ.update(here, **ENVIRONMENT)
        sys.stdout = open(1, "w", 1, encoding="utf-8", errors="replace", closefd=False)
        sys.stderr = open(2, "w", 1, encoding="utf-8", errors="replace", closefd=False)
        sandbox.lock(order["folder"], readable=[str(HERE)], unsafe=order["unsafe"])
        reseed()
        with open(3, "rb", closefd=False) as incoming:
            answer_all(incoming, answers=4, folder=order["folder"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "disabled",
    "CUDA_VISIBLE_DEVICES": "",
}


def reseed():
    """All copies are born with the same random state; one who relies on it shall be seen."""
    import numpy
    import torch

    seed = int.from_bytes(os.urandom(4), "big")
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def answer_all(incoming, answers, folder):
    rewards = None
    for line in incoming:
        question = json.loads(line)
        operation = question.pop("operation")
        number = question.pop("number")
        answer = None
        try:
            if operation == "imports":
                answer = imports.unusual_imports((Path(folder) / "rewards.py").read_bytes())
            elif operation == "load":
                rewards = load(Path(folder) / "rewards.py")
            elif operation == "call":
                answer = call(rewards, **question)
            elif operation == "probe":
                answer = probing.probe(folder, **question)
            else:
                overrun(folder, **question)
            data = json.dumps({"number": number, "answer": answer})
        except BaseException as error:  # SystemExit too: a submission must not end the process
            data = json.dumps({"number": number, **describe(error)})
        data = data.encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]


def load(path):
    """The student's file as a module."""
    from engine.course.student import import_file, student_code

    with student_code(path, None):
        return import_file(path)


def describe(error):
    """How an error is told: as a TODO that is left, or as what was raised."""
    from engine.course.student import describe_error, is_to_do

    if is_to_do(error):
        return {"todo": str(error)[:200]}
    text = describe_error(error, "rewards.py")
    if was_refused(error):
        text += ". The grader lets a submission start no process, use no network and no other file"
    return {"raised": text[:1000]}


def was_refused(error):
    """Whether an error is a refusal, or was made of one: torch.compile wraps it."""
    seen, left = set(), [error]
    while left:
        one = left.pop()
        if isinstance(one, PermissionError):
            return True
        if one is not None and id(one) not in seen:  # a circle is possible
            seen.add(id(one))
            left += [one.__cause__, one.__context__]
    return False


def call(rewards, function, arguments, length):
    """One call; its arguments and its answer, of at most `length` numbers, as JSON."""
    from engine.course.student import as_in_training, loss_and_gradient, made, student_code

    target = getattr(rewards, function, None)
    if target is None:
        return {"kind": "missing"}
    arguments = {name: decode(value) for name, value in arguments.items()}
    if function == "compute_ref_log_probs":
        arguments["ref_model"], arguments["tokenizer"] = MODELS
    trained = arguments.get("log_probs")
    if trained is not None:
        trained.requires_grad_()
    with student_code(rewards.__file__, None):
        answer = made(as_in_training(target, function)(**arguments))
        if trained is not None:
            answer = loss_and_gradient(answer, trained)
    return encode(answer, length)


def decode(value):
    import torch

    if isinstance(value, dict):
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    return value


def encode(answer, length):
    """An answer as plain JSON: a flat list of numbers. Anything else is named by its form.

    Args:
        answer: what the function returned; see `engine.course.student.plain_values`.
        length: how many numbers were asked for; of a longer answer only its length is told.
    """
    import numpy
    import torch

    from engine.course.student import plain_values

    # Looked at first: nothing is built of an answer that is too long.
    dense = isinstance(answer, (torch.Tensor, numpy.ndarray))
    if dense and answer.ndim > 1 and answer.shape[1:] != (1,):  # a column is a list too
        return {"kind": "shape", "shape": list(answer.shape)}
    flat = hasattr(answer, "__len__") and getattr(answer, "ndim", 1) > 0
    if flat and not isinstance(answer, str) and len(answer) > length:
        return {"kind": "length", "length": len(answer)}
    values = plain_values(answer)
    if type(values) is list:
        if len(values) > length:
            return {"kind": "length", "length": len(values)}
        for i, item in enumerate(values):
            if item is not None and type(item) not in (float, str):
                return {"kind": "item", "index": i, "type": type(item).__name__[:60]}
        return {"kind": "list", "value": [x[:100] if type(x) is str else x for x in values]}
    if values is None or type(values) in (float, str):
        return {"kind": "plain", "value": values[:100] if type(values) is str else values}
    return {"kind": "other", "type": type(values).__name__[:60]}


def overrun(folder, what, number_of):
    """Have more of something than is allowed, and wait for the end."""
    kept = []
    if what == "threads":
        for _ in range(number_of):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    for i in range(number_of if what != "threads" else 0):
        path = Path(folder, str(i))
        path.write_bytes(b"x")
        if what == "mapped":
            with open(path, "rb") as file:
                kept.append(mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ))
            path.unlink()
    time.sleep(60)


def prepare():
    """Everything a submission may need, loaded once and shared by all copies."""
    global MODELS
    os.environ.update(ENVIRONMENT)
    import numpy  # noqa: F401
    import torch

    torch.set_num_threads(1)  # no pool of threads that a fork would lose
    import reward_utils  # noqa: F401  # a submission may import it
    from engine.common import quiet_libraries
    from engine.model.loading import load_model
    from sentiment import load_sentiment_model

    with contextlib.suppress(ImportError):  # then the sandbox says so
        import pyseccomp  # noqa: F401
    quiet_libraries()
    load_sentiment_model(str(HERE / "tiny" / "sentiment"), "cpu")
    MODELS = load_model(str(HERE / "tiny" / "gpt2"), "cpu")


if __name__ == "__main__":
    prepare()
    sockets = [socket.socket(fileno=int(fd)) for fd in sys.argv[1:]]
    for control in sockets:
        control.send(b"{}")  # ready
    serve(sockets)
    if HERE.parent.name.startswith("grade-"):  # a grader that was killed cannot do it
        with contextlib.suppress(OSError):  # or does it at this moment
            watching.remove(HERE.parent)
