from contextlib import nullcontext

import pytest

from engine.common import UserError
from engine.model import processes


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
