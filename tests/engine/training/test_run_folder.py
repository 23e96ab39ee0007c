import errno
import json

import pytest
import torch

from engine.common import UserError
from engine.options import resolve_options
from engine.training import run_folder


def a_run(folder):
    """A finished run as train.py leaves it."""
    for name in ("final", "checkpoint-5"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_text(folder.name)
    for name in ("run.json", "metrics.jsonl", "completions.jsonl", "README.md"):
        (folder / name).write_text(folder.name)


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


OWN = {
    *("run.json", "metrics.jsonl", "completions.jsonl", "README.md"),
    *("final/model.safetensors", "checkpoint-5/model.safetensors"),
}


def options_of(folder, **more):
    return resolve_options({"preset": "tiny", "output_dir": str(folder), **more})


def test_an_earlier_run_moves_aside_whole(tmp_path, capsys):
    a_run(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run_folder.prepare(options_of(tmp_path / "run")) is None
    assert files_below(tmp_path / "run") == set()
    assert files_below(tmp_path / "run.1") == {*OWN, "notes.txt"}
    assert "is now in" in capsys.readouterr().out


def test_a_folder_that_holds_other_runs_is_never_moved(tmp_path):
    a_run(tmp_path / "outputs")
    a_run(tmp_path / "outputs" / "exponential")
    a_run(tmp_path / "outputs" / "notebook" / "none")
    run_folder.prepare(options_of(tmp_path / "outputs"))
    others = {f"exponential/{name}" for name in OWN} | {f"notebook/none/{name}" for name in OWN}
    assert files_below(tmp_path / "outputs") == others
    assert files_below(tmp_path / "outputs.1") == OWN
    a_run(tmp_path / "outputs")
    run_folder.prepare(options_of(tmp_path / "outputs"))
    assert files_below(tmp_path / "outputs.2") == OWN


def test_the_default_folder_cannot_collide_with_named_runs():
    assert resolve_options({}).output_dir == "outputs/run"


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
    run_folder.save_final(small_gpt2, tokenizer, run)
    assert (tmp_path / "final" / "README.md").read_text() == "2 samples"
    assert (tmp_path / "README.md").read_text() == "2 samples"
    before = (tmp_path / "final" / "model.safetensors").read_bytes()

    class Full:
        def save_pretrained(self, folder):
            raise OSError(errno.ENOSPC, "No space left on device")

    with torch.no_grad():
        small_gpt2.transformer.wte.weight.zero_()
    with pytest.raises(OSError):
        run_folder.save_final(small_gpt2, Full(), run)
    assert {p.name for p in tmp_path.iterdir()} == {"final", "README.md", "completions.jsonl"}
    assert (tmp_path / "final" / "model.safetensors").read_bytes() == before
