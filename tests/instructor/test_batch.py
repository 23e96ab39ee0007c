"""Honest and hostile submissions graded by an ordinary user, who has fewer means than root."""

import csv
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from grading_help import put, state_of, unpack_grader
from hostile import PENALTIES

from instructor.proof import attacks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
]
HOSTILE = (
    "42 threads",
    "43 files",
    "43 held open",
    "51 mapped",
    "46 never reads",
)  # what the worker watches
HONEST = {
    "solution": (attacks.SOLUTION, "100"),
    "template": (attacks.TEMPLATE, "0"),
    "unfinished": (attacks.without("kl_penalty_backward"), "85"),
}


@pytest.fixture
def nobodys():
    """A folder that the user nobody owns, and the beginning of a command that runs as nobody."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    user = pwd.getpwnam("nobody")
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    # Started by itself: the grader starts its worker that way.
    again = "import subprocess as s, sys; sys.exit(s.call([sys.executable, '-c', 'import torch']))"
    if subprocess.run([*become, sys.executable, "-c", again], check=False).returncode:
        pytest.skip(f"nobody cannot run {sys.executable}")
    folder = Path(tempfile.mkdtemp(prefix="batch-"))
    folder.chmod(0o755)
    yield folder, become
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=False)
    shutil.rmtree(folder)


def test_an_ordinary_user_grades_as_root_does(nobodys):
    folder, become = nobodys
    unpack_grader(folder / "grader")
    (folder / "tmp").mkdir()
    for student in HOSTILE:
        put(folder / "in", student, attacks.in_penalty(PENALTIES[student][0]))
    for student, (source, _) in HONEST.items():
        put(folder / "in", student, source)
    subprocess.run(["chown", "-R", "nobody", folder], check=True)
    before = state_of(folder / "grader", folder / "in")
    done = subprocess.run(
        [*become, sys.executable, folder / "grader" / "instructor" / "grade.py"]
        + [folder / "in", "--out", folder / "out", "--timeout", "3"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "tmp")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with open(folder / "out" / "grades.csv", newline="", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert {row["status"] for row in rows.values()} == {"graded"}
    for student, (_, points) in HONEST.items():
        assert rows[student]["score"] == points
    assert max(float(rows[student]["score"]) for student in HOSTILE) <= 80
    assert before == state_of(folder / "grader", folder / "in")
    left = [path.name for path in (folder / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []  # torch's own
