import os

import pytest

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
