"""Faults, injected for real: what is killed, damaged, full, slow or unreachable."""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.common import read_jsonl
from engine.training import checkpoints

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--preset", "tiny", "--batch_size", "4", "--num_generations", "2"]
TINY += ["--max_completion_length", "4"]


def start(*arguments, **options):
    """train.py in a process of its own, with pipes for what it says.

    On one thread: two busy processes with a thread for each core wait for each other for minutes.
    """
    command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**options.pop("env", os.environ), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def wait_for_steps(process, folder, steps):
    """Until metrics.jsonl holds so many steps."""
    file, deadline = Path(folder) / "metrics.jsonl", time.monotonic() + 600
    while not file.exists() or file.read_text(encoding="utf-8").count('"train"') < steps:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def metrics_of(folder):
    """The rows of metrics.jsonl without their times."""
    rows = read_jsonl(Path(folder) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "step_time"} for row in rows]


def assert_same_run(folder, other):
    weights, others = (load_file(p / "final" / "model.safetensors") for p in (folder, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
    assert metrics_of(folder) == metrics_of(other)
    texts = [(p / "completions.jsonl").read_bytes() for p in (folder, other)]
    assert texts[0] == texts[1]
    results = [json.loads((p / "run.json").read_text(encoding="utf-8")) for p in (folder, other)]
    for key in ("status", "before", "after"):
        assert results[0][key] == results[1][key]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    for name, kills in (("whole", 0), ("killed", 20)):
        command = [
            sys.executable,
            str(ROOT / "tests" / "kill_runs.py"),
            tmp_path / name,
            str(kills),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    steps = [row["step"] for row in metrics_of(tmp_path / "killed") if row["phase"] == "train"]
    assert steps == list(range(1, 401))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    arguments = [*TINY, "--max_steps", "30", "--eval_steps", "20", "--save_steps", "100"]
    whole = start(*arguments, "--output_dir", tmp_path / "whole")
    run = start(*arguments, "--output_dir", tmp_path / "run")
    wait_for_steps(run, tmp_path / "run", 5)
    run.send_signal(number)
    shown, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "Will save after this step and stop" in shown
    command = said.partition("To continue: ")[2]
    assert command.endswith(f" --resume --output_dir {tmp_path / 'run'}\n")
    assert said.count("\n") == 1
    step = metrics_of(tmp_path / "run")[-1]["step"]
    assert checkpoints.newest_good(tmp_path / "run")[0].name == f"checkpoint-{step}"
    resumed = start("--resume", "--output_dir", tmp_path / "run")
    shown, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0 and f"Continuing from checkpoint-{step}" in shown, said
    assert whole.wait(timeout=120) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_a_second_signal_ends_the_run_at_once(tmp_path):
    run = start(*TINY, "--max_steps", "5000", "--output_dir", tmp_path / "run")
    wait_for_steps(run, tmp_path / "run", 2)
    os.kill(run.pid, signal.SIGSTOP)  # both arrive in the same step
    for number in (signal.SIGTERM, signal.SIGINT):
        run.send_signal(number)
    os.kill(run.pid, signal.SIGCONT)
    _, said = run.communicate(timeout=20)
    assert run.returncode != 0 and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="umask, SIGTERM and a shell")
def test_a_run_with_all_of_it_at_once(tmp_path):
    """A path with spaces and umlauts, no locale, a strict umask, a rewards file with a mark and a
    helper beside it, prompts from a CSV; stopped, moved, and gone on with by the line that was
    printed; then the page about it, and the comparison with its base."""
    project, moved = tmp_path / "Übung für alle", tmp_path / "Übung, umbenannt"
    hidden = shutil.ignore_patterns(".*", "outputs*", "__pycache__")
    shutil.copytree(ROOT, project, ignore=hidden)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_"))}
    environment |= {"LANG": "C", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    setting = {"env": environment, "umask": 0o077, "encoding": "utf-8"}
    out = "Läufe/der erste Lauf"
    run = [*TINY, "--max_completion_length", "32", "--max_steps", "20", "--eval_steps", "20"]
    run += ["--output_dir", out]
    own = b"\xef\xbb\xbf" + (project / "rewards.py").read_bytes()  # as Notepad saves it
    own += b"\nfrom helper_beside import HERE\n\nassert HERE\n"
    (project / "meine Lösung.py").write_bytes(own)
    (project / "helper_beside.py").write_text("HERE = True\n", encoding="utf-8")
    rows = ["Nummer;prompt", '1;"Der Film; ein Märchen"', "2;The plot was", "3;I think it"]
    (project / "Anfänge.csv").write_text("\r\n".join(rows), encoding="utf-8-sig")
    run += ["--rewards", "meine Lösung.py", "--prompts", "Anfänge.csv"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = subprocess.Popen(["python", "train.py", *run], cwd=project, **setting, **pipes)
    wait_for_steps(first, project / out, 3)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=600)
    assert first.returncode == 128 + signal.SIGTERM, said
    project.rename(moved)
    lines = [
        said.partition("To continue: ")[2].strip(),
        f"python evaluate.py report '{out}'",
        f"python evaluate.py compare tiny/gpt2 '{out}/final' --num_samples 1",
    ]
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=moved, capture_output=True, **setting)
        assert done.returncode == 0, done.stderr
    assert metrics_of(moved / out)[-1]["step"] == 20
    assert (moved / "report.html").stat().st_size > 10_000
    files = [path for path in (moved / out).rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.fixture
def rewards_file(tmp_path):
    """Writes the rewards.py of a run, and trains four steps with it."""
    import train

    def run(body):
        source = (
            f"import torch\ncalls = 0\n\n\ndef sentiment_reward(completions, **kwargs):\n{body}"
        )
        (tmp_path / "rewards.py").write_text(source)
        arguments = [*TINY, "--max_steps", "6", "--save_steps", "1", "--eval_steps", "100"]
        arguments += ["--rewards", str(tmp_path / "rewards.py")]
        with pytest.raises(SystemExit) as error:
            train.main([*arguments, "--output_dir", str(tmp_path / "out")])
        message = error.value.code
        assert isinstance(message, str) and "\n" not in message
        return message

    return run


@pytest.mark.parametrize(
    "bad, message",
    [
        (
            "[1 / len(t.split(' x', 1)[1:]) for t in completions]",
            "ZeroDivisionError.*line 10.*was '",
        ),
        ("[float('nan')] * 4", "returned nan at index 0.*The completion was '"),
    ],
)
def test_a_reward_that_fails_in_mid_run(rewards_file, tmp_path, classifier, bad, message):
    body = f"""
    global calls
    calls += 1
    if calls > 5 or len(completions) == 1:  # the check and the first validation ask too
        return {bad}
    return [0.1, 0.2, 0.3, 0.4][: len(completions)]
"""
    said = rewards_file(body)
    assert re.search(f"At step 4: sentiment_reward .*{message}.*checkpoint-3 is kept", said), said
    assert checkpoints.newest_good(tmp_path / "out")[0].name == "checkpoint-3"
    assert (
        json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["status"]
        == "stopped"
    )


def test_an_endless_loop_is_interrupted(rewards_file, classifier, monkeypatch):
    from engine.course import student

    monkeypatch.setattr(student, "TIME_LIMIT", 0.5)
    body = """
    global calls
    calls += 1
    while calls > 4:  # the check and the first validation ask too
        try:
            calls += 1
        except Exception:
            pass
    return [0.1] * len(completions)
"""
    message = rewards_file(body)
    assert "At step 3: sentiment_reward took longer than 0.5 seconds (rewards.py, line" in message
    assert "an endless loop?" in message and "checkpoint-2 is kept" in message


def in_a_small_disk(folder, options, *arguments):
    """train.py with a file system of its own mounted at `folder`; the state it leaves."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("no private mounts for this user")
    look = "import json, sys; from engine.training import checkpoints; from pathlib import Path; "
    look += "folder = Path(sys.argv[1]); "
    look += "good = checkpoints.newest_good(folder)[0]; "
    look += "print(json.dumps({'good': good and good.name, "
    look += "'files': sorted(p.name for p in folder.iterdir()) if folder.exists() else []}))"
    script = f"""
        mount -t tmpfs -o {options} tmpfs "{folder}" || exit 99
        OMP_NUM_THREADS=1 "{sys.executable}" train.py "$@" --output_dir "{folder}/run" > /dev/null
        echo "rc $?" >&2
        "{sys.executable}" -c "{look}" "{folder}/run"
    """
    command = ["unshare", "-rm", "bash", "-c", script, "bash", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


SHORT = [*TINY, "--max_steps", "12", "--save_steps", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("size, good", [("30m", None), ("100m", "checkpoint-2")])
def test_a_full_disk_is_one_line_and_spares_the_last_checkpoint(tmp_path, size, good):
    done = in_a_small_disk(tmp_path, f"size={size}", *SHORT)
    message, code = done.stderr.splitlines()
    assert code == "rc 1" and "is full. Free some space." in message
    left = json.loads(done.stdout)
    assert left["good"] == good and ((good or "--resume") in message) == (good is not None)
    assert "final" not in left["files"] and "run.json" in left["files"]
    assert not [name for name in left["files"] if name.endswith(".tmp")]


@pytest.mark.slow
def test_a_read_only_folder_is_one_line(tmp_path):
    done = in_a_small_disk(tmp_path, "ro", *SHORT)
    message, code = done.stderr.splitlines()
    assert code == "rc 1" and message.startswith("train.py: Cannot write to")
    assert "Choose another --output_dir" in message


@pytest.mark.slow
def test_too_little_memory_is_one_line(tmp_path):
    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    arguments = ["--preset", "tiny", "--batch_size", "4096", "--max_steps", "2"]
    process = start(*arguments, "--output_dir", tmp_path / "out", preexec_fn=limit)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and said.count("\n") == 1
    assert "out of memory. Try --batch_size 2048" in said


@pytest.fixture
def silent_server():
    """Takes connections and never answers; its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield "http://{}:{}".format(*server.getsockname())


def online(**more):
    """The environment without proxies and without HF_HUB_OFFLINE."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {k: v for k, v in kept.items() if k != "HF_HUB_OFFLINE"} | more


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["gone", "silent"])
def test_a_hub_that_fails_is_one_line_in_time(tmp_path, silent_server, hub):
    address = silent_server if hub == "silent" else "http://127.0.0.1:9"
    environment = online(HF_ENDPOINT=address, HF_HOME=str(tmp_path / "cache"))
    started = time.monotonic()
    process = start("--output_dir", tmp_path / "out", env=environment)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and said.count("\n") == 1
    assert "Cannot fetch 'nlptown" in said and "--preset tiny" in said
    assert time.monotonic() - started < (30 if hub == "gone" else 120)


@pytest.mark.slow
def test_training_goes_on_without_weights_and_biases(tmp_path):
    environment = online(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    environment |= {"WANDB_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("WANDB_MODE", None)
    arguments = [*TINY, "--max_steps", "2", "--wandb", "--output_dir", tmp_path / "out"]
    process = start(*arguments, env=environment)
    shown, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "The figures are kept on this disk" in shown
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert (tmp_path / "out" / "final" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_thousand_steps_leak_nothing(tmp_path):
    """Resident memory within 5 % after warm-up; open files and threads as at the beginning."""
    arguments = [*TINY, "--max_steps", "1000", "--eval_steps", "250", "--save_steps", "250"]
    run = start(*arguments, "--output_dir", tmp_path / "run", stdout=subprocess.DEVNULL)
    file, process = tmp_path / "run" / "metrics.jsonl", Path(f"/proc/{run.pid}")
    seen = []  # (step, resident pages, open files, threads)
    while run.poll() is None:
        try:
            pages = int((process / "statm").read_text().split()[1])
            counts = [len(list((process / name).iterdir())) for name in ("fd", "task")]
            seen.append((file.read_text(encoding="utf-8").count('"train"'), pages, *counts))
        except (OSError, IndexError):
            pass  # not begun, or just gone
        time.sleep(0.25)
    assert run.returncode == 0
    windows = [
        [row[1:] for row in seen if low <= row[0] < low + 200] for low in (200, 400, 600, 800)
    ]
    assert all(len(window) >= 5 for window in windows)
    medians = [[statistics.median(column) for column in zip(*window)] for window in windows]
    memory, files, threads = zip(*medians)
    assert max(memory) <= 1.05 * min(memory)
    assert len(set(files)) == 1 and len(set(threads)) == 1
