"""Every attack for real, beside right submissions."""

import contextlib
import csv
import dataclasses
import json
import os
import re
import socket
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from grading_help import grader, put, state_of
from hostile import BOUNDED, FULL, GAINED_NOTHING, HYPERLINK, NOTHING, PENALTIES, sources

from cases import Wrong
from engine.common import ROOT, lines_of
from instructor.grading.command import RUBRIC, VISIBILITIES
from instructor.grading.points import read_rubric
from instructor.grading.process import Child
from instructor.proof import attacks, swelling
from instructor.proof.right import FORBIDDEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.fixture(scope="module")
def listener():
    """A server that nobody may reach; its TCP and UDP sockets."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(tcp.getsockname())
        tcp.setblocking(False)
        udp.setblocking(False)
        yield tcp, udp


def shared_memory():
    """What would outlive a process: segments of System V and files in memory."""
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in segments} | set(map(str, Path("/dev/shm").glob("*")))


@pytest.mark.slow
def test_one_submission_can_write_nothing_that_another_reads(workshop, control):
    """No shared memory that is writable, and no file but the pipes of its own questions."""
    worker = workshop.process.pid
    with Child(control, b"x = 1\n", seconds=60) as child:
        child.ask("load")  # by now it has locked itself in
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        assert len(children) == 1
        for pid in (worker, *children):
            mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
            assert mapped and not [line for line in mapped if re.match(r"\S+ .w.s ", line)]
        opened = {os.readlink(fd) for fd in Path(f"/proc/{children[0]}/fd").iterdir()}
        assert {name.split(":")[0] for name in opened} <= {"pipe", "/dev/null"}
    assert not Path(f"/proc/{children[0]}").exists() and not child.folder.exists()


@dataclasses.dataclass
class Batch:
    """What a graded class has left behind."""

    out: Path
    shown: str  # in the terminal
    marker: Path  # that nobody may have written
    results: dict  # student -> result
    rows: dict  # student -> row of grades.csv
    changed: list  # files and folders of others
    temporary: Path  # the grader's own files
    shared_memory: set


@pytest.fixture(scope="module")
def batch(tmp_path_factory, policy, listener, classifier):
    """All hostile submissions and all valid ones, graded in one run."""
    folder = tmp_path_factory.mktemp("course")
    course = folder / "in"
    marker = folder / "marker"
    temporary = folder / "tmp"
    temporary.mkdir()
    port = listener[0].getsockname()[1]
    for student, source in sources(port, marker).items():
        put(course, student, source)
    put(course, "03 missing", attacks.without("kl_penalty_backward"))
    put(course, "29 hard-coded", attacks.hard_coded(policy))
    put_what_is_no_plain_file(course)
    memory = shared_memory()
    before = state_of(ROOT, course)
    done = grader(
        *(course, "--out", folder / "out", "--timeout", "3", "--seeds", "90210", "90211"),
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stderr
    after = state_of(ROOT, course)
    with open(folder / "out" / "grades.csv", newline="", encoding="utf-8") as grades:
        rows = {row["student"]: row for row in csv.DictReader(grades)}
    lines = map(json.loads, lines_of(folder / "out" / "results.jsonl"))
    return Batch(
        out=folder / "out",
        shown=done.stdout,
        marker=marker,
        results={result["student"]: result for result in lines},
        rows=rows,
        changed=[path for path in before | after if before.get(path) != after.get(path)],
        temporary=temporary,
        shared_memory=shared_memory() - memory,
    )


@pytest.mark.slow
@pytest.mark.parametrize("title", ["compiler", "torch.compile"])
def test_what_is_refused_is_said_however_a_library_has_wrapped_it(control, title):
    code, _ = FORBIDDEN[title]
    with Child(control, code.encode(), seconds=60) as child:
        with pytest.raises(Wrong, match="The grader lets a submission start no process"):
            child.ask("load")


TEMPORARY = """
import tempfile
with tempfile.TemporaryFile() as file:
    file.write(b"x")
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "code, said",
    [(TEMPORARY, ""), (swelling.NAMELESS, "Permission"), (swelling.ALLOCATED, "Permi")],
)
def test_room_on_the_disk_that_no_folder_shows_is_refused(control, code, said):
    """Python's own temporary files do without a file that never had a name."""
    with Child(control, textwrap.dedent(code).encode(), seconds=60) as child:
        if not said:
            child.ask("load")
            return
        with pytest.raises(Wrong, match=said):
            child.ask("load")


def put_what_is_no_plain_file(course):
    """Hand-ins with further files, with a link, too large, and in zips that mean harm."""
    put(course, "28 ships", attacks.SOLUTION)
    for name in ("conftest.py", "torch.py", "sitecustomize.py", "json.py"):
        (course / "28 ships" / name).write_text("raise SystemExit('taken over')")
    (course / "18 link").mkdir()
    (course / "18 link" / "rewards.py").symlink_to(ROOT / "rewards_solution.py")
    put(course, "32 large", "")
    os.truncate(course / "32 large" / "rewards.py", 1 << 30)
    with zipfile.ZipFile(course / "33 slip.zip", "w") as file:
        file.writestr("../../rewards.py", attacks.SOLUTION)
    with zipfile.ZipFile(course / "33 bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("rewards.py", b" " * (64 << 20))


def said(result):
    """Everything a submission was told: the reason, and each failure."""
    return "\n".join([result["reason"], *(t["message"] for t in result["tests"])])


def full_points():
    return read_rubric(RUBRIC)["exercises"]


@pytest.mark.slow
def test_every_attack_is_in_the_batch(batch):
    judged = {*NOTHING, *PENALTIES, *GAINED_NOTHING, *FULL, *BOUNDED}
    judged |= {"03 missing", "28 ships", "29 hard-coded"}
    assert judged == set(batch.results)
    reach_outside = {*range(36, 42), 50}  # test_sandbox.py tries these
    numbers = {int(student[:2]) for student in judged if student[:2].isdigit()}
    assert numbers | {34} | reach_outside == set(range(1, 52))


@pytest.mark.slow
@pytest.mark.parametrize("student", NOTHING)
def test_broken_submissions_earn_nothing_and_say_why(batch, student):
    result = batch.results[student]
    status = NOTHING[student].status
    assert (result["status"], result["score"] or 0) == (status, 0)
    assert (result["score"] is None) == (status == "rejected")  # a person decides
    assert NOTHING[student].words in said(result)


@pytest.mark.slow
@pytest.mark.parametrize("student", ["03 missing", *PENALTIES])
def test_a_fault_costs_its_own_exercise_alone(batch, student):
    faulty = "kl_penalty_backward" if student == "03 missing" else "kl_penalty_forward"
    words = PENALTIES.get(student, ("", "there is no function kl_penalty_backward"))[1]
    result = batch.results[student]
    for name, entry in full_points().items():
        if name == faulty:
            assert result["points"][name] <= 0.25 * entry["points"]
        else:
            assert result["points"][name] == entry["points"]
    assert words in said(result)


@pytest.mark.slow
@pytest.mark.parametrize("student", GAINED_NOTHING)
def test_an_attack_gains_nothing(batch, student):
    result = batch.results[student]
    for name, entry in full_points().items():
        assert result["points"][name] <= 0.25 * entry["points"]
    assert "IT WORKED" not in result["output"]
    late = "took longer than" in said(result) or "no answer within" in said(result)
    if student not in ("16 guesses", "27 torch") and not late:  # on a busy machine
        assert "denied" in result["output"]


@pytest.mark.slow
@pytest.mark.parametrize("student", ["28 ships", *FULL])
def test_right_submissions_earn_everything(batch, student):
    assert batch.results[student]["score"] == 100


@pytest.mark.slow
def test_answers_learned_by_heart_fail_on_other_inputs(batch):
    result = batch.results["29 hard-coded"]
    visible = [test for test in result["tests"] if test["passed"] or test["public_only"]]
    assert len(visible) == len(result["tests"])  # it does know the public tests
    assert result["score"] < 50
    assert any("passes only the inputs of the public tests" in f for f in result["flags"])


@pytest.mark.slow
def test_what_a_person_should_look_at_is_flagged(batch):
    rows = batch.rows
    assert "kl_penalty_forward gives other answers" in rows["30 random"]["flags"]
    assert "imports ctypes" in rows["06 segfault"]["flags"]
    assert "gives other answers" not in rows["35 copy"]["flags"]


@pytest.mark.slow
def test_a_submission_has_a_bounded_size_and_time(batch):
    slow = batch.results["44 slow"]
    loud = batch.results["45 loud"]
    assert "all its answers together took longer than 18 seconds" in said(slow)
    assert slow["seconds"] <= 40 and slow["score"] < 50
    assert loud["status"] == "graded" and loud["points"]["compute_ref_log_probs"] == 20
    longest = max(map(len, lines_of(batch.out / "results.jsonl")))
    assert longest < 50_000  # 7 MB were seen


@pytest.mark.slow
def test_nothing_outside_has_changed(batch):
    assert batch.changed == []


@pytest.mark.slow
def test_the_grader_never_failed(batch):
    assert {result["status"] for result in batch.results.values()} == {
        *("graded", "rejected", "import error")
    }


@pytest.mark.slow
def test_nothing_is_left_behind(batch, listener):
    tcp, udp = listener
    for call in (tcp.accept, lambda: udp.recv(10)):
        with pytest.raises(BlockingIOError):
            call()
    time.sleep(2)
    assert not batch.marker.exists() and not (ROOT / "instructor" / "owned").exists()
    assert list(batch.temporary.iterdir()) == [] and batch.shared_memory == set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert bytes(batch.temporary) not in path.read_bytes()  # of a worker


@pytest.mark.slow
def test_text_of_strangers_is_escaped_everywhere(batch):
    cells = [row["student"] for row in batch.rows.values()]
    assert "'" + HYPERLINK in cells and HYPERLINK not in cells
    files = [p for p in batch.out.rglob("*") if p.is_file()]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "\x1b" not in text and "\\u001b" not in text and "\x07" not in text
    assert "\x1b" not in batch.shown
    (page,) = batch.out.glob("feedback/HYPERLINK*.md")
    text = page.read_text(encoding="utf-8")
    block = re.compile(r"^ *(`{4,})text\n.*?^ *\1$", re.DOTALL | re.MULTILINE)
    assert "<script>" in text and "<script>" not in block.sub("", text)
    assert len(list(batch.out.glob("feedback/*.md"))) == len(batch.results)


@pytest.mark.slow
def test_feedback_gives_no_expected_value_and_no_hidden_input(batch):
    for path in batch.out.glob("feedback/*.md"):
        assert not re.search(r"^ *expected  ", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert "9021" not in path.read_text(encoding="utf-8")


GRADESCOPE = {  # documented fields and their types
    "score": (int, float),
    "execution_time": (int, float),
    "output": str,
    "output_format": str,
    "visibility": str,
    "stdout_visibility": str,
    "extra_data": dict,
    "tests": list,
}


GRADESCOPE_TEST = {
    "score": (int, float),
    "max_score": (int, float),
    "status": str,
    "name": str,
    "number": str,
    "output": str,
    "output_format": str,
    "tags": list,
    "visibility": str,
}


@pytest.mark.slow
def test_gradescope_results_have_the_documented_fields(batch):
    pages = sorted(batch.out.glob("results/*.json"))
    assert len(pages) == len(batch.results)
    for path in pages:
        page = json.loads(path.read_text(encoding="utf-8"))
        assert set(page) == set(GRADESCOPE)
        assert all(isinstance(page[key], kind) for key, kind in GRADESCOPE.items())
        for test in page["tests"]:
            assert set(test) == set(GRADESCOPE_TEST)
            assert all(isinstance(test[key], kind) for key, kind in GRADESCOPE_TEST.items())
            assert (
                test["status"] in ("passed", "failed") and 0 <= test["score"] <= test["max_score"]
            )
        assert sum(t["score"] for t in page["tests"]) == pytest.approx(page["score"], abs=0.01)
        assert sum(t["max_score"] for t in page["tests"]) == pytest.approx(100, abs=0.01)
        formats = {page["output_format"], *(t["output_format"] for t in page["tests"])}
        assert formats == {"text"} and page["visibility"] in VISIBILITIES
