import importlib.util
import json
import os
import subprocess
import sys

import pytest

from engine.common import ROOT, UserError
from engine.options import TRACKERS, resolve_options
from engine.training.preflight import require_possible


@pytest.mark.parametrize("name", TRACKERS[1:])
def test_a_tracker_that_is_not_installed_is_told_before_the_run(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"--report_to {name} needs a package: pip install {name}"):
        require_possible(resolve_options({"report_to": name}))
    require_possible(resolve_options({}))


def test_wandb_is_a_short_form():
    assert resolve_options({"wandb": True}).report_to == "wandb"
    assert resolve_options({"wandb": True, "report_to": "wandb"}).report_to == "wandb"
    with pytest.raises(UserError, match="give only one of them"):
        resolve_options({"wandb": True, "report_to": "trackio"})
    with pytest.raises(UserError, match="report_to must be one of none, wandb, trackio"):
        resolve_options({"report_to": "mlflow"})


def train_with(tracker, tmp_path, **environment):
    """A run of two steps in a process of its own; returns its validations."""
    options = {"preset": "tiny", "max_steps": 2, "batch_size": 4, "num_generations": 2}
    options |= {"max_completion_length": 4, "eval_steps": 1, "report_to": tracker}
    options |= {"output_dir": str(tmp_path / "out")}
    code = (
        "import data; data.VALIDATION_PROMPTS = data.VALIDATION_PROMPTS[:4]; import train;"
        f"train.train(**{options!r})"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True
    )
    rows = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["phase"] == "validation"]


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    train_with("wandb", tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_tensorboard_gets_every_validation(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = train_with("tensorboard", tmp_path)
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    for name in ("sentiment", "kl", "finished"):
        got = [(event.step, event.value) for event in events.Scalars(f"eval/{name}")]
        assert got == [(row["step"], pytest.approx(row[name], abs=1e-6)) for row in rows]
    assert [event.step for event in events.Scalars("train/reward")] == [1, 2]


@pytest.mark.slow
def test_trackio_gets_every_validation_on_this_disk(tmp_path):
    pytest.importorskip("trackio")
    import sqlite3

    rows = train_with("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    (file,) = (tmp_path / "trackio").glob("*.db")
    logged = sqlite3.connect(file).execute("select metrics from metrics").fetchall()
    logged = [json.loads(metrics) for (metrics,) in logged]
    got = [metrics["eval/sentiment"] for metrics in logged if "eval/sentiment" in metrics]
    assert got == pytest.approx([row["sentiment"] for row in rows], abs=1e-6)
