import os
import shlex
import time
from types import SimpleNamespace

import pytest

from engine.common import ROOT
from engine.training import checkpoints


@pytest.fixture
def saved(tmp_path):
    """A run folder with two sealed checkpoints."""
    for step in (4, 8):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes([step]) * 1000)
        (folder / "trainer_state.json").write_text("{}")
        checkpoints.seal(folder)
    return tmp_path


def test_the_newest_sealed_checkpoint_is_taken(saved):
    (saved / "checkpoint-x").mkdir()
    assert checkpoints.newest_good(saved) == (saved / "checkpoint-8", {})


def unseal(folder):
    (folder / checkpoints.SEAL).unlink()


def flip_a_bit(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[500] ^= 1
    (folder / "model.safetensors").write_bytes(data)


DAMAGE = {
    "was not written to its end": unseal,
    "model.safetensors is damaged": flip_a_bit,
    "trainer_state.json is missing": lambda folder: (folder / "trainer_state.json").unlink(),
    "sealed.json is damaged": lambda folder: os.truncate(folder / checkpoints.SEAL, 20),
}


@pytest.mark.parametrize("problem", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(saved, problem):
    DAMAGE[problem](saved / "checkpoint-8")
    good, problems = checkpoints.newest_good(saved)
    assert good == saved / "checkpoint-4" and problems == {"checkpoint-8": problem}


def test_without_a_good_checkpoint_there_is_none(saved):
    for step in (4, 8):
        unseal(saved / f"checkpoint-{step}")
    assert checkpoints.newest_good(saved)[0] is None


def test_sealing_again_replaces_the_seal(saved):
    (saved / "checkpoint-8" / "model.safetensors").write_bytes(b"new")
    checkpoints.seal(saved / "checkpoint-8")
    assert checkpoints.problem_of(saved / "checkpoint-8") == ""


def save(folder, step):
    """What the library does at a step, and then the callback."""
    (folder / f"checkpoint-{step}").mkdir()
    (folder / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"new")
    args = SimpleNamespace(output_dir=str(folder), should_save=True)
    state = SimpleNamespace(global_step=step)
    checkpoints.Safeguard(None).on_save(args, state, SimpleNamespace())


def test_the_last_two_by_step_are_kept_whatever_the_clock_says(saved):
    for name in ("checkpoint-4", "checkpoint-8"):
        os.utime(saved / name, (time.time() + 7200,) * 2)
    (saved / "checkpoint-best").mkdir()
    save(saved, 10)
    left = {path.name for path in saved.iterdir()}
    assert left == {"checkpoint-8", "checkpoint-10", "checkpoint-best"}
    assert checkpoints.newest_good(saved)[0].name == "checkpoint-10"
    save(saved, 9)  # as after --resume from 8, where 10 was damaged
    assert {path.name for path in saved.iterdir()} == left | {"checkpoint-9"}


def test_nothing_is_removed_before_the_newest_is_sealed(saved, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "seal", full)
    with pytest.raises(OSError):
        save(saved, 10)
    assert {path.name for path in saved.iterdir()} >= {"checkpoint-4", "checkpoint-8"}


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_a_group_can_read_what_it_has_trained(saved):
    weights = saved / "checkpoint-8" / "model.safetensors"
    weights.chmod(0o600)
    mask = os.umask(0o022)
    checkpoints.seal(saved / "checkpoint-8")
    os.umask(mask)
    assert oct(weights.stat().st_mode)[-3:] == "644"


def test_the_command_that_continues_can_be_pasted(tmp_path, monkeypatch):
    folder = str(tmp_path / "my run")
    monkeypatch.chdir(tmp_path)
    said = str(checkpoints.Stopped(15, 3, folder))
    words = shlex.split(said.partition("To continue: ")[2])
    assert words == ["python", str(ROOT / "train.py"), "--resume", "--output_dir", folder]
    monkeypatch.chdir(ROOT)
    assert "To continue: python train.py --resume" in str(checkpoints.Stopped(15, 3, folder))
