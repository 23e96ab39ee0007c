"""Several processes for real, on the CPU over gloo: copies of a model, and shards of it."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from test_faults import metrics_of

from engine.common import ROOT, read_jsonl
from engine.training import checkpoints

pytestmark = pytest.mark.slow
RUN = ["--preset", "tiny", "--batch_size", "8", "--num_generations", "4", "--max_steps", "3"]
RUN += ["--max_completion_length", "8", "--save_steps", "2", "--eval_steps", "3"]
if (ROOT / "rewards_solution.py").exists():  # a student's copy has no solution
    RUN += ["--use_solution", "--kl_type", "forward", "--kl_target", "0.1"]


def program_of(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=500, cwd=ROOT
    )


def launch(config, program, *arguments):
    config = ["--main_process_port", "0", "--config_file", ROOT / "launch" / f"{config}.yaml"]
    return program_of("-m", "accelerate.commands.launch", *config, ROOT / program, *arguments)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A run of two processes that hold all weights each."""
    folder = tmp_path_factory.mktemp("processes") / "copies"
    done = launch("ddp", "train.py", *RUN, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("before → after") == 1  # one process shows
    return folder


def assert_same_figures(folder, other):
    for row, its in zip(metrics_of(folder), metrics_of(other), strict=True):
        assert (row["step"], row["phase"]) == (its["step"], its["phase"])
        names = ("reward", "grad_norm") if row["phase"] == "train" else ("sentiment", "perplexity")
        # kl_coef: the mean over the processes, each controls by the KL of the whole batch
        for name in (*names, *({"kl", "kl_policy_ref", "kl_coef", "num_tokens"} & row.keys())):
            assert row[name] == pytest.approx(its[name], rel=1e-3, abs=1e-4), (row["step"], name)
    texts = [read_jsonl(path / "completions.jsonl", step=0) for path in (folder, other)]
    assert len(texts[0]) == 128  # of two processes each has validated a half
    assert [row["completion"] for row in texts[0]] == [row["completion"] for row in texts[1]]


def assert_same_model(folder, other):
    """Apart by much less than was learnt: later a rounding changes a sample."""
    weights, others = (load_file(p / "final" / "model.safetensors") for p in (folder, other))
    base = load_file(ROOT / "tiny" / "gpt2" / "model.safetensors")
    assert weights.keys() == others.keys()
    apart, learned = (
        sum((weights[name] - its[name].float()).abs().sum().item() for name in weights)
        for its in (others, base)
    )
    assert apart < 1e-3 * learned  # all but the biases of the keys, whose gradient is 0


def test_two_processes_train_what_one_does(copies, tmp_path):
    done = program_of("train.py", *RUN, "--output_dir", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert_same_figures(tmp_path / "one", copies)
    assert_same_model(tmp_path / "one", copies)
    assert json.loads((copies / "run.json").read_text(encoding="utf-8"))["num_processes"] == 2
    newest = checkpoints.newest_good(copies)[0]
    sealed = json.loads((newest / checkpoints.SEAL).read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= sealed.keys()


def test_shards_train_what_copies_do(copies, tmp_path):
    folder, program = tmp_path / "shards", "tests/shards_on_cpu.py"
    done = launch("fsdp", program, *RUN, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    assert_same_figures(copies, folder)
    assert_same_model(copies, folder)
    assert checkpoints.newest_good(folder)[0].name == "checkpoint-3"
    for config, script, run in (("fsdp", program, folder), ("ddp", "train.py", copies)):
        resumed = launch(config, script, "--resume", "--max_steps", "4", "--output_dir", run)
        assert resumed.returncode == 0 and "Continuing from checkpoint-3" in resumed.stdout
        assert read_jsonl(run / "metrics.jsonl", phase="train", step=4)


def test_every_launch_file_is_described():
    page = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    for path in (ROOT / "launch").iterdir():
        assert f"launch/{path.name}" in page
