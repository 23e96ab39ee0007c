from contextlib import nullcontext
from dataclasses import replace

import pytest

from engine.common import UserError
from engine.model import processes
from engine.options import resolve_options
from engine.training import checkpoints, run_folder


@pytest.fixture
def two_hosts(tmp_path, monkeypatch):
    """`prepare_all` as on the second of two hosts that share no disk; the first has `first`."""
    options = resolve_options({"output_dir": str(tmp_path / "own")})

    def prepare_all(own, first):
        for name in own:
            folder = tmp_path / "own" / name
            folder.mkdir(parents=True)
            (folder / "trainer_state.json").write_text("{}")
            checkpoints.seal(folder)
        asked = iter([lambda mine: [first, *mine], lambda mine: [True, *mine]])
        monkeypatch.setattr(run_folder, "several_hosts", lambda: True)
        monkeypatch.setattr(run_folder, "is_shared", lambda folder: False)
        monkeypatch.setattr(run_folder, "gather", lambda mine, process: next(asked)(mine))
        return run_folder.prepare_all(replace(options, resume=True))

    return prepare_all


def test_hosts_resume_from_the_newest_checkpoint_of_both(two_hosts, tmp_path):
    prepared = two_hosts(["checkpoint-2", "checkpoint-4"], first="checkpoint-2")
    assert prepared == (str(tmp_path / "own" / "checkpoint-2"), True)


def test_hosts_without_a_common_checkpoint_are_told(two_hosts):
    with pytest.raises(UserError, match="newest are 'checkpoint-2', 'checkpoint-8'"):
        two_hosts(["checkpoint-6", "checkpoint-8"], first="checkpoint-2")


def test_hosts_that_have_none_begin(two_hosts):
    assert two_hosts([], first="") == (None, True)


def test_sharded_weights_need_a_shared_disk(two_hosts, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="on a disk that they share"):
        two_hosts([], first="")


def test_a_shared_folder_is_seen_and_left_as_it_was(tmp_path):
    assert processes.is_shared(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_zero_3_is_refused_and_zero_2_is_not(tmp_path, monkeypatch):
    for stage in "23":
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
        with pytest.raises(UserError, match="with FSDP") if stage == "3" else nullcontext():
            assert not processes.is_sharded()
    (tmp_path / "d.json").write_text('{"zero_optimization": {"stage": 3}}')
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "d.json"))
    with pytest.raises(UserError, match="with FSDP, as in launch/fsdp.yaml"):
        processes.is_sharded()
    (tmp_path / "d.json").write_text("[")
    with pytest.raises(UserError, match="Cannot read the DeepSpeed file"):
        processes.is_sharded()


def test_the_first_fsdp_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert processes.is_sharded()
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="fsdp_version: 2"):
        processes.is_sharded()
