"""The grader: every attack for real, beside right submissions. Not handed out."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
import torch

from instructor import (
    attacks,
    autograder,
    collect,
    grade,
    gradebook,
    judge,
    release,
    training,
)

ROOT = attacks.ROOT
HYPERLINK = '=HYPERLINK("x"), 1'
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


def grader(*arguments, **options):
    command = [sys.executable, str(ROOT / "instructor" / "grade.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def put(folder, student, source):
    (folder / student).mkdir(parents=True)
    data = source if isinstance(source, bytes) else source.encode()
    (folder / student / "rewards.py").write_bytes(data)


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


def hostile_sources(port, marker, models):
    """{student: source} of every attack that is a rewards.py alone; the number is the list's."""
    solution, secret = attacks.SOLUTION, ROOT / "rewards_solution.py"
    attempt, in_penalty = attacks.attempt, attacks.in_penalty
    return {
        "01 template": attacks.TEMPLATE,
        "02 syntax": solution.replace("import math", "import math\ndef broken(:\n", 1),
        "03 missing": attacks.without("kl_penalty_backward"),
        "04 exit": attacks.EXIT_AT_IMPORT,
        "05 dies at import": attacks.CRASH_AT_IMPORT,
        "05 dies in a call": in_penalty("import os\nos._exit(0)"),
        "06 segfault": in_penalty("import ctypes\nctypes.string_at(0)"),
        "07 endless": in_penalty(attacks.ENDLESS),
        "07 endless at import": attacks.on_import(attacks.ENDLESS),
        "08 memory": in_penalty("return bytearray(20 << 30)"),
        "09 recursion": in_penalty("f = lambda: f()\nreturn f()"),
        "10 chatter": attacks.on_import("print('chatter ' * 1_300_000)"),
        "11 huge": in_penalty("return [0.0] * 5_000_000"),
        "12 nan": in_penalty("return [0.0] * (len(policy_log_probs) - 1) + [math.nan]"),
        "13 equal": attacks.ALWAYS_EQUAL,
        "14 passed": attacks.on_import("print('PASSED 100/100')", attacks.TEMPLATE),
        "15 garbage": attacks.GARBAGE_ON_THE_PIPE,
        "16 guesses": attacks.GUESSED_ANSWERS,
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
            if not {"pulls_the_policy_back", "exact_gradient", "judge_function"} & names:
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
        "26 mutates": re.sub(r"^def (kl_penalty_\w+)\(", r"def \1(", solution, flags=re.MULTILINE)
        + textwrap.dedent(
            """

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
        ),
        "27 json": attacks.PATCHES_JSON,
        "27 torch": attacks.PATCHES_TORCH,
        "29 hard-coded": attacks.hard_coded(models),
        "30 random": solution
        + "\n\nsteady = kl_penalty_forward\n\n\ndef kl_penalty_forward(*args, **kwargs):\n"
        "    value = torch.as_tensor(steady(*args, **kwargs))\n"
        "    return value + 1e-7 * torch.rand(value.shape)\n",
        "31 downloads": attacks.on_import(
            "from transformers import AutoModel\nAutoModel.from_pretrained('gpt2-medium')"
        ),
        "32 utf-8": b"\xff\xfe" + solution.encode(),
        "32 nul": solution.encode() + b"\0",
        HYPERLINK: in_penalty(
            "raise ValueError('\\x1b[31m\\x1b]0;title\\x07<script>alert(1)</script> ``` | x')"
        ),
        "35 copy": solution,
        "35 peer": attacks.with_body(solution, *own_work()),
        "35 peer's friend": attacks.with_body(solution, *own_work("quite like the peer's")),
    }


def own_work(comment="mine"):
    return (
        "shaped_reward",
        f"# {comment}\n{textwrap.dedent(attacks.VALID['shaped_reward']['fewer copies'])}",
    )


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
    "11 huge": ("kl_penalty_forward", "larger than 1 MB"),
    "12 nan": ("kl_penalty_forward", "returned nan at index 1"),
    "25 fork bomb": ("kl_penalty_forward", "PermissionError"),
    "25 thread bomb": ("kl_penalty_forward", ""),
    HYPERLINK: ("kl_penalty_forward", "ValueError: <script>alert(1)</script> ``` | x"),
}
FULL = [
    "10 chatter",
    "26 mutates",
    "28 ships",
    "30 random",
    "35 copy",
    "35 peer",
    "35 peer's friend",
]


def shared_memory():
    """What would outlive a process: segments of System V and files in memory."""
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in segments} | set(map(str, Path("/dev/shm").glob("*")))


def processes():
    return {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()}


@pytest.fixture(scope="module")
def batch(tmp_path_factory, policy, listener, classifier):
    """All hostile submissions and all valid ones, graded in one run."""
    folder = tmp_path_factory.mktemp("course")
    course, marker = folder / "in", folder / "marker"
    for student, source in hostile_sources(listener[0].getsockname()[1], marker, policy).items():
        put(course, student, source)
    for student, source in attacks.valid_files().items():
        put(course, student, source)
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
    temporary = folder / "tmp"
    temporary.mkdir()
    before, shared = processes(), shared_memory()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = grader(
        course,
        "--out",
        folder / "out",
        "--timeout",
        "3",
        "--seeds",
        "90210",
        "90211",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    results = {r["student"]: r for r in map(json.loads, lines)}
    with open(folder / "out" / "grades.csv", newline="", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    left = {"processes": processes() - before, "files": list(temporary.iterdir())}
    left["shared memory"] = shared_memory() - shared
    return {"results": results, "rows": rows, "out": folder / "out", "marker": marker, **left} | {
        "shown": done.stdout
    }


def said(result):
    """Everything a submission was told: the reason, and each failure."""
    return "\n".join([result["reason"], *(t["message"] for t in result["tests"])])


def full_points():
    return gradebook.read_rubric(ROOT / "instructor" / "rubric.yaml")["exercises"]


@pytest.mark.slow
def test_every_attack_is_in_the_batch(batch):
    judged = {*NOTHING, *LOST_ONE, *FULL, *GAINED_NOTHING, "29 hard-coded"}
    assert judged | set(attacks.valid_files()) == set(batch["results"])
    assert {int(s[:2]) for s in judged if s[:2].isdigit()} | {34} == set(range(1, 36))


@pytest.mark.slow
@pytest.mark.parametrize("student", NOTHING)
def test_broken_submissions_earn_nothing_and_say_why(batch, student):
    status, words = NOTHING[student]
    result = batch["results"][student]
    assert (result["status"], result["score"]) == (status, 0)
    assert words in said(result)


@pytest.mark.slow
@pytest.mark.parametrize("student", LOST_ONE)
def test_a_fault_costs_its_own_exercise_alone(batch, student):
    function, words = LOST_ONE[student]
    result = batch["results"][student]
    for name, entry in full_points().items():
        if name == function:
            assert result["points"][name] <= 0.25 * entry["points"]
        else:
            assert result["points"][name] == entry["points"]
    assert words in said(result)


@pytest.mark.slow
@pytest.mark.parametrize("student", GAINED_NOTHING)
def test_an_attack_gains_nothing(batch, student):
    result = batch["results"][student]
    for name, entry in full_points().items():
        assert result["points"][name] <= 0.25 * entry["points"]
    assert "IT WORKED" not in result["output"]
    if student not in ("16 guesses", "27 torch"):
        assert "denied" in result["output"]


@pytest.mark.slow
@pytest.mark.parametrize("student", [*FULL, *attacks.valid_files()])
def test_right_submissions_earn_everything(batch, student):
    assert batch["results"][student]["score"] == 100


@pytest.mark.slow
def test_answers_learned_by_heart_fail_on_other_inputs(batch):
    result = batch["results"]["29 hard-coded"]
    visible = [t for t in result["tests"] if t["passed"] or t["message"] == judge.HIDDEN]
    assert len(visible) == len(result["tests"])  # it does know the public tests
    assert result["score"] < 50
    assert any("passes only the inputs of the public tests" in f for f in result["flags"])


@pytest.mark.slow
def test_what_a_person_should_look_at_is_flagged(batch):
    rows = batch["rows"]
    assert "kl_penalty_forward gives other answers" in rows["30 random"]["flags"]
    assert "100% like the solution" in rows["35 copy"]["flags"]
    assert "100% like 35 peer's friend" in rows["35 peer"]["flags"]
    assert "imports ctypes" in rows["06 segfault"]["flags"]
    assert "gives other answers" not in rows["35 copy"]["flags"]


@pytest.mark.slow
def test_nothing_is_left_behind(batch, listener):
    tcp, udp = listener
    for call in (tcp.accept, lambda: udp.recv(10)):
        with pytest.raises(BlockingIOError):
            call()
    time.sleep(2)
    assert not batch["marker"].exists() and not (ROOT / "instructor" / "owned").exists()
    assert batch["files"] == [] and batch["shared memory"] == set()
    alive = [p for p in batch["processes"] if Path(f"/proc/{p}/cmdline").exists()]
    assert not [p for p in alive if b"worker.py" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.mark.slow
def test_text_of_strangers_is_escaped_everywhere(batch):
    cells = [row["student"] for row in batch["rows"].values()]
    assert "'" + HYPERLINK in cells and HYPERLINK not in cells
    files = [p for p in batch["out"].rglob("*") if p.is_file()]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "\x1b" not in text and "\\u001b" not in text and "\x07" not in text
    assert "\x1b" not in batch["shown"]
    (page,) = batch["out"].glob("feedback/HYPERLINK*.md")
    text = page.read_text(encoding="utf-8")
    block = re.compile(r"^ *(`{4,})text\n.*?^ *\1$", re.DOTALL | re.MULTILINE)
    assert "<script>" in text and "<script>" not in block.sub("", text)
    assert len(list(batch["out"].glob("feedback/*.md"))) == len(batch["results"])


@pytest.mark.slow
def test_feedback_gives_no_expected_value_and_no_hidden_input(batch):
    for path in batch["out"].glob("feedback/*.md"):
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
    pages = sorted(batch["out"].glob("results/*.json"))
    assert len(pages) == len(batch["results"])
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
        assert formats == {"text"} and page["visibility"] in grade.VISIBILITIES


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A course, the arguments that grade it, and its grades when nothing interferes."""
    folder = tmp_path_factory.mktemp("whole")
    for i, (name, source) in enumerate(attacks.valid_files().items()):
        put(folder / "in", f"{i:02} {name}", source)
    arguments = [folder / "in", "--seeds", "5", "--jobs", "2", "--out"]
    assert grader(*arguments, folder / "out").returncode == 0
    return arguments, folder / "out"


def assert_same_files(folder, other):
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert [n for n in names if (folder / n).read_bytes() != (other / n).read_bytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumed_gives_the_same_files(tmp_path, whole_run, how):
    arguments, whole = whole_run
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, str(ROOT / "instructor" / "grade.py"), *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [*command, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal, deadline = out / "results.jsonl", time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (1 if how == signal.SIGINT else -9)
    assert (b"--resume goes on" in said) == (how == signal.SIGINT)
    assert 5 <= journal.read_bytes().count(b"\n") < len(attacks.valid_files())
    deadline = time.monotonic() + 60
    while list(temporary.iterdir()):  # the worker notices that the grader is gone, and cleans up
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with open(journal, "ab") as file:
        file.write(b'{"student": "half a li')
    refused = grader(*arguments, out)
    assert refused.returncode == 1 and "--resume goes on" in refused.stderr
    assert grader(*arguments, out, "--resume").returncode == 0
    assert_same_files(whole, out)


@pytest.mark.slow
def test_one_student_graded_again_changes_nothing_else(tmp_path, whole_run):
    arguments, whole = whole_run
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps({**first, "score": 1.0})
    (out / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = grader(*arguments, out, "--only", first["student"])
    assert done.returncode == 0, done.stderr
    assert_same_files(whole, out)
    unknown = grader(*arguments, out, "--only", "nobody")
    assert unknown.returncode == 1 and "nobody handed in as nobody" in unknown.stderr


@pytest.mark.slow
def test_gradescope_grades_one_submission(tmp_path):
    put(tmp_path, "submission", attacks.SOLUTION)
    (tmp_path / "submission" / "notes.txt").write_text("hello")
    done = grader(tmp_path / "submission", "--out", tmp_path / "results", "--gradescope")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results" / "results.json").read_text())["score"] == 100


@pytest.mark.slow
@pytest.mark.parametrize("source, points", [(attacks.SOLUTION, 100), (None, 0)])
def test_the_zip_for_gradescope_grades(tmp_path, source, points):
    """Unpacked and run as Gradescope does it, but with the packages of this environment."""
    autograder.main([str(tmp_path / "a.zip")])
    shutil.unpack_archive(tmp_path / "a.zip", tmp_path / "source")
    assert release.find_leaks(tmp_path / "source") == []
    assert not list((tmp_path / "source").rglob("*solution*"))
    for folder in ("submission", "results"):
        (tmp_path / folder).mkdir()
    if source:
        (tmp_path / "submission" / "rewards.py").write_text(source)
    run = tmp_path / "source" / "run_autograder"
    environment = {**os.environ, "AUTOGRADER_ROOT": str(tmp_path), "PYTHON": sys.executable}
    subprocess.run(["bash", str(run)], env=environment, timeout=300, capture_output=True)
    page = json.loads((tmp_path / "results" / "results.json").read_text())
    assert page["score"] == points
    if not source:
        assert "there is no submission" in page["output"]


def test_gradescope_gets_results_even_if_the_grader_cannot_start(tmp_path):
    for name in ("source", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "run").write_text(autograder.RUN)
    environment = {**os.environ, "AUTOGRADER_ROOT": str(tmp_path), "PYTHON": "/no/such/python"}
    subprocess.run(["bash", str(tmp_path / "run")], env=environment, capture_output=True)
    page = json.loads((tmp_path / "results" / "results.json").read_text())
    assert page["score"] == 0 and "The grader failed" in page["output"]


def handed_in(folder, tensors):
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")


def test_handed_in_models_are_measured_from_their_tensors(tmp_path, policy, classifier, capsys):
    base, _ = policy
    tensors = {k: v.clone() for k, v in base.state_dict().items() if k != "lm_head.weight"}
    handed_in(tmp_path / "in" / "ann" / "final", tensors)
    shutil.copytree(tmp_path / "in" / "ann", tmp_path / "in" / "code")
    (tmp_path / "in" / "code" / "final" / "config.json").write_text(
        '{"auto_map": {"x": "evil.py"}}'
    )
    name = next(iter(tensors))
    broken = {
        "other": {"x": torch.zeros(2)},
        "shape": {**tensors, name: torch.zeros(3)},
        "nan": {**tensors, name: tensors[name] * float("nan")},
    }
    for student, changed in broken.items():
        handed_in(tmp_path / "in" / student, changed)
    (tmp_path / "in" / "pickle").mkdir()
    torch.save(tensors, tmp_path / "in" / "pickle" / "pytorch_model.bin")
    handed_in(tmp_path / "in" / "cut", tensors)
    os.truncate(tmp_path / "in" / "cut" / "model.safetensors", 1000)
    out = tmp_path / "c.csv"
    training.main([str(tmp_path / "in"), f"--out={out}", "--num_samples=1", "--max_new_tokens=4"])
    with open(out, newline="", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    for student in ("ann", "code"):
        assert {**rows[student], "student": ""} == {**rows["(base model)"], "student": ""}
        assert float(rows[student]["kl"]) == 0
    assert "other tensors than the base" in rows["other"]["status"]
    assert "has the shape (3,)" in rows["shape"]["status"]
    assert "not finite" in rows["nan"]["status"]
    assert "pickles are not opened" in rows["pickle"]["status"]
    assert "cannot be read" in rows["cut"]["status"]


@pytest.mark.slow
def test_a_short_training_with_the_reward_of_a_submission(tmp_path, policy, classifier):
    settings = {"options": {"max_steps": 2, "kl_type": "forward"}, "rise": -1.0, "nats": 10}
    with judge.Workshop(1) as workshop:
        workshop.wait()
        (control,) = workshop.controls
        for source, words in (
            (attacks.SOLUTION, "After 2 steps: sentiment 0.5"),
            (attacks.TEMPLATE, "did not finish: it raised UserError: Exercise 3b: implement"),
        ):
            told = training.check(workshop, control, source.encode(), settings, policy)
            assert words in told
        assert list(workshop.folder.iterdir()) == [workshop.tools]


# What needs no sandbox.


@pytest.mark.parametrize(
    "held, unsafe, tier",
    [
        ({"files": True, "network": True}, False, "landlock+seccomp"),
        ({"files": False, "network": True}, True, "unsafe (no files)"),
    ],
)
def test_tiers(held, unsafe, tier):
    assert grade.require_sandbox(held, unsafe) == tier


def test_without_a_sandbox_nothing_is_graded():
    with pytest.raises(judge.GraderError, match="no sandbox for files, network here.*--unsafe"):
        grade.require_sandbox({"files": False, "network": False, "memory": True}, False)


def tests_of(**passed):
    return [
        {"function": "kl_penalty_forward", "case": case, "passed": ok, "message": ""}
        for case, ok in passed.items()
    ]


def test_points_by_hand():
    rubric = gradebook.read_rubric(ROOT / "instructor" / "rubric.yaml")
    core = {"pulls_the_policy_back": True, "belongs_to_its_divergence": True}
    others = {"sums_over_tokens": True, "ignores_padding": False}
    points = gradebook.score(tests_of(**core, **others), rubric)
    assert points["kl_penalty_forward"] == 15 and points["kl_penalty_backward"] == 0  # 3 of 4 cases
    core["pulls_the_policy_back"] = False
    points = gradebook.score(tests_of(**core, **others, x=True, y=True), rubric)
    assert points["kl_penalty_forward"] == 5  # four of six, yet a quarter at most


@pytest.mark.parametrize(
    "text, message",
    [
        ("exercises: {nothing: {points: 1}}", "no exercise nothing"),
        ("exercises: {shaped_reward: {points: 1, core: [x]}}", "has no case x"),
        ("exercises: {shaped_reward: {points: -1}}", "must be a number from 0"),
        ("exercises: [", "is not of the form"),
        ("", "is not of the form"),
        ("exercises: {}\nwithout_core: 2\nhidden_seeds: 1", "without_core lies in"),
    ],
)
def test_a_wrong_rubric_is_one_line(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(judge.GraderError, match=message) as error:
        gradebook.read_rubric(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)


def test_likeness_sees_through_names_and_comments():
    a = "def shaped_reward(scores, completions, prompts=None):\n" + "".join(
        f"    x{i} = [s * {i} for s in scores]\n" for i in range(9)
    )
    b = a.replace("x", "total").replace("scores]", "scores]  # mine")
    assert gradebook.likeness(*map(gradebook.fingerprint, (a, b))) == 1
    assert gradebook.likeness(*map(gradebook.fingerprint, (a, attacks.SOLUTION))) < 0.5
    assert gradebook.fingerprint("def broken(:") == {}


def found(path):
    return {s.student: s for s in collect.collect(path) if not s.duplicate}


def as_zip(folder, target):
    return Path(shutil.make_archive(str(target), "zip", folder))


@pytest.mark.parametrize("zipped", [False, True])
def test_names_of_a_plain_folder(tmp_path, zipped):
    course = tmp_path / "course"
    put(course, "Zoë O'Neil", "a = 1")
    (course / "bob.py").write_text("b = 1")
    with zipfile.ZipFile(course / "eve.zip", "w") as file:
        file.writestr("work/rewards.py", "c = 1")
        file.writestr("__MACOSX/work/._rewards.py", "junk")
    (course / "mallory").mkdir()
    (course / "mallory" / "essay.txt").write_text("my dog …")
    (course / ".DS_Store").write_text("junk")
    got = found(as_zip(course, tmp_path / "all") if zipped else course)
    assert {n: s.source for n, s in got.items() if not s.rejected} == {
        "Zoë O'Neil": b"a = 1",
        "bob": b"b = 1",
        "eve": b"c = 1",
    }
    assert got["mallory"].rejected == "no rewards.py, only essay.txt"


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder"])
def test_names_of_a_gradescope_export(tmp_path, form):
    export = tmp_path / "download" / "assignment_7_export"
    for number in (101, 102, 103):
        put(export, f"submission_{number}", f"n = {number}")
    (export / "submission_metadata.yml").write_text(
        """
submission_101:
  :submitters:
  - :name: José Núñez
    :sid: '900'
    :email: jose@example.org
  :created_at: 2026-11-01 10:00:00.0 Z
submission_102:
  :submitters:
  - :name: José Núñez
    :sid: '900'
    :email: jose@example.org
  :created_at: 2026-11-02 10:00:00.0 Z
submission_103: !ruby/hash:ActiveSupport::HashWithIndifferentAccess
  :submitters:
  - :name: Ann
  - :name: Ben
""",
        encoding="utf-8",
    )
    source = {
        "folder": lambda: export,
        "zip": lambda: as_zip(export, tmp_path / "flat"),
        "zip with a folder": lambda: as_zip(export.parent, tmp_path / "deep"),
    }[form]()
    everything = collect.collect(source)
    got = {s.student: s for s in everything if not s.duplicate}
    assert got["José Núñez"].source == b"n = 102" and got["José Núñez"].id == "900"
    assert got["José Núñez"].flags == ["2 submissions; the newest is graded"]
    assert got["Ann, Ben"].source == b"n = 103"
    assert [s.source for s in everything if s.duplicate] == [b"n = 101"]


def test_names_of_a_canvas_export(tmp_path):
    export = tmp_path / "submissions"
    export.mkdir()
    files = {
        "doejane_1234_98761_rewards.py": "v = 1",
        "doejane_1234_98799_rewards-1.py": "v = 2",
        "núñezjosé_LATE_1235_98765_rewards.py": "v = 3",
        "doejane_7777_98800_rewards.py": "v = 4",
    }
    for name, text in files.items():
        (export / name).write_text(text)
    everything = collect.collect(export)
    got = {(s.student, s.id): s for s in everything if not s.duplicate}
    assert got["doejane", "1234"].source == b"v = 2"
    assert got["doejane (7777)", "7777"].source == b"v = 4"  # a namesake, not a duplicate
    assert got["núñezjosé", "1235"].flags == ["late"]
    assert [s.source for s in everything if s.duplicate] == [b"v = 1"]


def test_names_of_a_moodle_export(tmp_path):
    put(tmp_path, "Zoë O'Neil_501_assignsubmission_file_", "v = 1")
    (tmp_path / "Li Wei_502_assignsubmission_file_rewards.py").write_text("v = 2")
    got = found(tmp_path)
    assert got["Zoë O'Neil"].id == "501" and got["Li Wei"].source == b"v = 2"


def test_nothing_to_grade_is_one_line(tmp_path):
    with pytest.raises(collect.Rejected, match="there is no submission"):
        collect.collect(tmp_path)
    with pytest.raises(collect.Rejected, match="no folder and no zip"):
        collect.collect(tmp_path / "missing")
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(collect.Rejected, match="not a zip file that can be read"):
        collect.collect(tmp_path / "x.zip")


def result_of(student, score=87.5, **more):
    blank = {"status": "graded", "tests": [], "flags": [], "seconds": 10, "sandbox": "x"}
    return {"student": student, "score": score, "max": 100, "path": "p", **blank, **more}


def test_a_canvas_gradebook_is_filled_in(tmp_path):
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "GRPO (4711)"]
    rows = [
        ["    Points Possible", "", "", "", "", "100"],
        ["Núñez, José", "1235", "s1", "jose", 'A, "1"', ""],
        ["=cmd|x, Eve", "1236", "s2", "eve", "A", "3"],
    ]
    (tmp_path / "gradebook.csv").write_text(
        gradebook.csv_text([header, *rows]), encoding="utf-8-sig"
    )
    kind, header, rows = collect.read_roster(tmp_path / "gradebook.csv")
    people = list(collect.people_of(kind, header, rows))
    jose = collect.match(collect.Submission("nunezjose", "p", name="nunezjose"), people)
    by_id = collect.match(collect.Submission("x", "p", id="1235"), people)
    assert kind == "canvas" and len(people) == 2 and jose is by_id and jose["row"] == 1
    by_row = {1: {**result_of("José"), "text": ""}}
    gradebook.write_roster(tmp_path / "out.csv", kind, header, rows, by_row, "GRPO")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        got = list(csv.reader(file))
    assert got[0] == header and got[1][5] == "100"
    assert got[2] == ["Núñez, José", "1235", "s1", "jose", 'A, "1"', "87.5"]
    assert got[3][0] == "'=cmd|x, Eve" and got[3][5] == "3"  # who handed nothing in keeps the cell


def test_a_moodle_worksheet_is_filled_in(tmp_path):
    header = ["Identifier", "Full name", "Email address", "Grade", "Feedback comments"]
    rows = [["Participant 501", "Zoë O'Neil", "zoe@example.org", "", ""]]
    (tmp_path / "m.csv").write_text(gradebook.csv_text([header, *rows]), encoding="utf-8")
    kind, header, rows = collect.read_roster(tmp_path / "m.csv")
    people = list(collect.people_of(kind, header, rows))
    assert collect.match(collect.Submission("Z", "p", id="501"), people)["row"] == 0
    by_row = {0: {**result_of("Z"), "text": "-1 = good"}}
    gradebook.write_roster(tmp_path / "out.csv", kind, header, rows, by_row, "GRPO")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][2:] == ["zoe@example.org", "87.5", "'-1 = good"]


def test_grades_open_in_a_real_reader(tmp_path):
    import pandas

    names = ["Núñez, José", '=HYPERLINK("x")', "+1", 'O"Neil', "@sum", "line\nbreak"]
    gradebook.write_grades(tmp_path / "grades.csv", [result_of(name) for name in names])
    table = pandas.read_csv(tmp_path / "grades.csv")
    want = ["Núñez, José", '\'=HYPERLINK("x")', "+1", 'O"Neil', "'@sum", "line\nbreak"]
    assert table["student"].tolist() == want and table["score"].tolist() == [87.5] * 6
    assert [c for c in ("status", "max", "flags", "seconds", "sandbox") if c not in table] == []


def test_file_names_are_safe_and_different():
    names = gradebook.file_names(["Ann/../x", "Ann .. x", "ANN_.._x", "…", ""])
    assert len({name.casefold() for name in names.values()}) == 5
    assert not any("/" in name or name.startswith(".") for name in names.values())


def test_a_journal_of_another_rubric_is_not_continued(tmp_path):
    put(tmp_path / "in", "ann", "a = 1")
    rubric = gradebook.read_rubric(ROOT / "instructor" / "rubric.yaml")
    args = grade.parse_arguments([str(tmp_path / "in"), f"--out={tmp_path / 'out'}"])
    first = grade.run_settings(args, rubric)
    assert first["seeds"][0] == 0 and len(set(first["seeds"])) == 3
    (tmp_path / "out" / "results.jsonl").write_text("")
    with pytest.raises(judge.GraderError, match="--resume goes on"):
        grade.run_settings(args, rubric)
    args.resume = True
    assert grade.run_settings(args, rubric) == first
    with pytest.raises(judge.GraderError, match="name a new --out"):
        grade.run_settings(args, {**rubric, "without_core": 0})


def test_terminal_controls_are_removed():
    assert judge.clean("\x1b[31mred\x1b]0;t\x07\u202e \x00x\n") == "red x\n"
