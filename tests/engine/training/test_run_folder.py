import errno
import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from engine.common import UserError, sha256
from engine.options import resolve_options
from engine.training import run_folder


def a_run(folder):
    """A finished run as train.py leaves it."""
    for name in ("final", "checkpoint-5"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_text(folder.name)
    for name in ("metrics.jsonl", "completions.jsonl", "README.md", "optimum.json"):
        (folder / name).write_text(folder.name)
    manifest = {"status": "finished", "versions": {}, "options": {"preset": "tiny"}}
    (folder / "run.json").write_text(json.dumps(manifest))


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {".lock"}


OWN = {
    *("run.json", "metrics.jsonl", "completions.jsonl", "README.md", "optimum.json"),
    *("final/model.safetensors", "checkpoint-5/model.safetensors"),
}


def options_of(folder, **more):
    return resolve_options({"preset": "tiny", "output_dir": str(folder), **more})


def prepare(folder):
    """Make a folder ready, and let others in again."""
    checkpoint, release = run_folder.prepare(options_of(folder))
    release()
    return checkpoint


def test_an_earlier_run_moves_aside_and_nothing_else(tmp_path, capsys):
    a_run(tmp_path / "run")
    for name in ("notes.txt", "checkpoint-best"):
        (tmp_path / "run" / name).write_text("mine")
    assert prepare(tmp_path / "run") is None
    assert files_below(tmp_path / "run") == {"notes.txt", "checkpoint-best"}
    assert files_below(tmp_path / "run.1") == OWN
    assert "is now in" in capsys.readouterr().out


def test_a_folder_that_holds_other_runs_is_never_moved(tmp_path):
    a_run(tmp_path / "outputs")
    a_run(tmp_path / "outputs" / "exponential")
    a_run(tmp_path / "outputs" / "notebook" / "none")
    prepare(tmp_path / "outputs")
    others = {f"exponential/{name}" for name in OWN} | {f"notebook/none/{name}" for name in OWN}
    assert files_below(tmp_path / "outputs") == others
    assert files_below(tmp_path / "outputs.1") == OWN
    a_run(tmp_path / "more")
    for path in (tmp_path / "more").iterdir():
        path.rename(tmp_path / "outputs" / path.name)
    prepare(tmp_path / "outputs")
    assert files_below(tmp_path / "outputs.2") == OWN


FOREIGN = {
    "notes": {"README.md": "my notes", "final/thesis.tex": "thesis"},
    "another training": {"checkpoint-500/model.safetensors": "weights"},
    "rows of others": {"completions.jsonl": '{"note": "mine"}'},
    "graded work": {"run.json": '{"seeds": [0], "timeout": 10}', "results.jsonl": ""},
    "a damaged run": {"run.json": '{"status": '},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_with_files_of_no_run_is_refused_and_left_alone(tmp_path, kind):
    folder = tmp_path / "my files"
    for name, text in FOREIGN[kind].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "run").mkdir()  # so that this name is taken
    with pytest.raises(UserError, match="holds no run but other files, such as ") as error:
        prepare(folder)
    free = shlex.split(str(error.value))[-1]
    assert free == str(folder / "run.1") and "\n" not in str(error.value)
    assert {name: (folder / name).read_text() for name in files_below(folder)} == FOREIGN[kind]
    prepare(free)


def test_the_project_itself_is_no_folder_for_a_run(tmp_path, monkeypatch):
    """Even where a version before this one has left a run in it."""
    project = tmp_path / "project"
    a_run(project)
    monkeypatch.setattr(run_folder, "ROOT", project)
    monkeypatch.chdir(project)
    for folder in (".", project, tmp_path):
        with pytest.raises(UserError, match="Name a folder for this run alone") as error:
            prepare(folder)
        assert shlex.split(str(error.value))[-1] == str(project / "outputs" / "run")
    assert files_below(project) == OWN


def test_hidden_files_are_no_hindrance(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    assert prepare(tmp_path) is None


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_runs_stay_on_the_disk_that_a_link_leads_to(tmp_path):
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "scratch" / "run")  # where nothing is yet
    prepare(link)
    a_run(tmp_path / "made")
    for path in (tmp_path / "made").iterdir():
        path.rename(tmp_path / "scratch" / "run" / path.name)
    prepare(link)
    assert link.is_symlink() and files_below(tmp_path / "scratch" / "run") == set()
    assert files_below(tmp_path / "scratch" / "run.1") == OWN
    assert not (tmp_path / "run.1").exists()


HOLD = """
import fcntl, sys

file = open(sys.argv[1], "w")
file.write("process 1 on another")
file.flush()
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the other process locks as Unix does")
@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_stays_out_while_the_first_goes_on(tmp_path, resume):
    folder = tmp_path / "run"
    a_run(folder)
    command = [sys.executable, "-c", HOLD, folder / ".lock"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"going on \(process 1 on another\). Wait for its end"):
            run_folder.prepare(options_of(folder, resume=resume))
        assert files_below(folder) == OWN and not (tmp_path / "run.1").exists()
        other.kill()  # what is left in the file is no lock
    run_folder.prepare(options_of(folder, resume=resume))[1]()


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder, "lock", no_locks)
    assert prepare(tmp_path / "run") is None
    assert "has no locks: start no second run into it" in capsys.readouterr().out


def test_a_run_that_goes_on_with_another_file_says_so_and_keeps_both_sums(tmp_path, capsys):
    rewards = tmp_path / "mine.py"
    rewards.write_text("first")
    given = {"rewards": str(rewards), "model_name": "no/model", "sentiment_model": "no/stars"}
    for text, resume in (("first", False), ("second", True)):
        rewards.write_text(text)
        options = options_of(tmp_path / "run", resume=resume, **given)
        _, release = run_folder.prepare(options)
        run_folder.Manifest(options)
        release()
    assert "mine.py is another than before: run.json keeps both sums." in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["rewards_file"] == str(rewards)
    assert found["sha256"]["rewards"] == sha256(b"first")
    assert found["sha256_resumed"] == {"rewards": sha256(b"second")}


class Trainer:
    """All that `guarded` asks of a trainer."""

    def __init__(self, step, options):
        self.options = options
        self.state = type("State", (), {"global_step": step})


@pytest.mark.parametrize(
    "step, error, message",
    [
        (3, UserError("f returned nan."), "At step 4: f returned nan."),
        (3, MemoryError(), "At step 4: out of memory. Try --batch_size 32"),
        (3, RuntimeError("gloo: Connection closed by peer"), "process of this run has ended. It"),
        (3, RuntimeError("gloo: Timed out waiting 600000ms"), "was silent for 600 s. It may say"),
        (60, OSError(errno.ENOSPC, "No space left"), "After the last step: the disk of .* is full"),
        (3, OSError(errno.EFBIG, "File too large"), "At step 4: a file .* as large .* `ulimit -f`"),
        (
            3,
            RuntimeError("I/O error: File too large (os error 27)"),
            "large as it must: see `ulimit",
        ),
        (3, RuntimeError("unexpected pos 576 vs 534"), "is full. Free .*, `ulimit -f` limits its"),
    ],
)
def test_a_run_that_fails_is_recorded_and_told_in_one_line(tmp_path, step, error, message):
    options = options_of(tmp_path)
    manifest = run_folder.Manifest(options)
    ended = []
    with pytest.raises(UserError, match=message) as told:
        with run_folder.guarded(Trainer(step, options), manifest, [lambda: ended.append(1)]):
            raise error
    assert "\n" not in str(told.value) and ended == [1]
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "stopped"


def test_what_has_no_explanation_passes_through(tmp_path):
    options = options_of(tmp_path)
    manifest = run_folder.Manifest(options)
    ended = []
    with pytest.raises(KeyError):
        with run_folder.guarded(Trainer(0, options), manifest, [lambda: ended.append(1)]):
            raise KeyError("x")
    assert ended == [1]
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "stopped"


def test_a_final_model_is_whole_or_not_there(tmp_path, small_gpt2, policy, monkeypatch):
    tokenizer = policy[1]
    monkeypatch.setattr(run_folder, "model_card", lambda run, samples: f"{len(samples)} samples")
    (tmp_path / "completions.jsonl").write_text('{"step": 0}\n{"step": 5}\n{"step": 5}\n')
    run = {"options": {"output_dir": str(tmp_path)}}
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "model.safetensors").write_text("of an earlier life of this run")
    (tmp_path / "final" / "converted.gguf").write_text("mine")
    mask = os.umask(0o027)
    run_folder.save_final(small_gpt2, tokenizer, run)
    os.umask(mask)
    assert (tmp_path / "final" / "converted.gguf").read_text() == "mine"
    if os.name != "nt":
        modes = {oct(path.stat().st_mode)[-3:] for path in (tmp_path / "final").glob("*[!f]")}
        assert modes == {"640"}
    assert (tmp_path / "final" / "README.md").read_text() == "2 samples"
    assert (tmp_path / "README.md").read_text() == "2 samples"
    before = (tmp_path / "final" / "model.safetensors").read_bytes()
    assert before[8:9] == b"{"

    class Full:
        def save_pretrained(self, folder):
            raise OSError(errno.ENOSPC, "No space left on device")

    with torch.no_grad():
        small_gpt2.transformer.wte.weight.zero_()
    with pytest.raises(OSError):
        run_folder.save_final(small_gpt2, Full(), run)
    assert {p.name for p in tmp_path.iterdir()} == {"final", "README.md", "completions.jsonl"}
    assert (tmp_path / "final" / "model.safetensors").read_bytes() == before
