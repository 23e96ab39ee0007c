"""Two hundred submissions, ten of them hostile: every honest one right, nothing outside changed.

    python -m pytest tests/instructor/test_batch.py -m slow -s

prints how long the grading took. As root it runs twice, once as the user nobody.
"""

import csv
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from break_outs import misleading, outside, swelling
from grading_help import put, state_of

from engine.common import ROOT
from instructor.proof import attacks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
]
STUDENTS = 200
HOSTILE = [  # each in another way; the last three take as much time as they are given
    *("36 modes", "37 signals", "38 outlives", "39 sockets", "41 peers", "42 threads", "43 files"),
    *("44 slow", "46 never reads", "47 half"),
]
NOT_COPIED = (".git", ".ruff_cache", ".pytest_cache", "__pycache__", "outputs*", "*.ipynb", "docs")


def honest_files():
    """[(source, points)]: right ones in every style, an unfinished one, an untouched one."""
    known = [(source, 100.0) for source in attacks.valid_files().values()]
    known += [(attacks.SOLUTION, 100.0), (attacks.TEMPLATE, 0.0)]
    return [*known, (attacks.without("kl_penalty_backward"), 80.0)]


def hand_in(course, around):
    """Write the course; {student: points} of the honest ones."""
    hostile = outside(*around) | swelling() | misleading()
    expected, known = {}, honest_files()
    for i in range(STUDENTS):
        if i % (STUDENTS // len(HOSTILE)) == 7:
            put(course, f"{i:03} hostile", hostile[HOSTILE[i * len(HOSTILE) // STUDENTS]])
        else:
            source, expected[f"{i:03} honest"] = known[i % len(known)]
            put(course, f"{i:03} honest", source)
    return expected


@pytest.fixture(params=["this user", "nobody"])
def place(request):
    """A folder and the command that runs something as the owner of it."""
    folder = Path(tempfile.mkdtemp(prefix="batch-"))
    folder.chmod(0o755)
    yield folder, as_user(request.param)
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=False)
    shutil.rmtree(folder)


def as_user(name):
    """The beginning of a command that runs as this user."""
    if name == "this user":
        return []
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    user = pwd.getpwnam(name)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    again = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
    )
    if subprocess.run([*become, sys.executable, "-c", again], check=False).returncode:
        pytest.skip(f"{name} cannot run {sys.executable}")
    return become


def test_two_hundred_submissions(place):
    folder, become = place
    grader, course, out = folder / "grader", folder / "in", folder / "out"
    shutil.copytree(ROOT, grader, ignore=shutil.ignore_patterns(*NOT_COPIED))
    (folder / "kept").mkdir()
    (folder / "kept" / "file").write_text("nobody's")
    (folder / "tmp").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        unix.bind(str(folder / "socket"))
        os.chmod(folder / "socket", 0o777)
        unix.setblocking(False)
        bystander = subprocess.Popen(
            [*become, sys.executable, "-c", "import time; time.sleep(1e5)"]
        )
        try:
            around = folder / "kept" / "file", bystander.pid, folder / "socket"
            expected = hand_in(course, around)
            if become:
                subprocess.run(["chown", "-R", become[1].partition("=")[2], folder], check=True)
            before = state_of(grader, course, folder / "kept")
            began = time.monotonic()
            done = subprocess.run(
                [*become, sys.executable, grader / "instructor" / "grade.py", course, "--out", out],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "tmp")},
                capture_output=True,
                text=True,
            )
            seconds = time.monotonic() - began
            assert done.returncode == 0, done.stderr[-2000:]
            assert bystander.poll() is None
            with pytest.raises(BlockingIOError):
                unix.recv(10)
        finally:
            bystander.kill()
            bystander.wait()
    with open(out / "grades.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    print(f"\n{len(rows)} submissions in {seconds:.0f} s, {' '.join(become) or 'as this user'}")
    got = {row["student"]: float(row["score"]) for row in rows if row["student"] in expected}
    assert got == expected and len(rows) == STUDENTS
    assert {row["status"] for row in rows} == {"graded"}
    assert max(float(row["score"]) for row in rows if row["student"] not in expected) <= 80
    assert before == state_of(grader, course, folder / "kept")
    left = [path.name for path in (folder / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []  # torch's own
    assert left_behind(folder) == []


def left_behind(folder):
    """Command lines of processes that this run has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if bytes(folder / "tmp") in line or bytes(folder / "grader") in line:
            found.append(line)
    return found
