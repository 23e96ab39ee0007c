"""Several processes for real, on the CPU over gloo: shards, two hosts, and vLLM's stand-in.

Copies on one machine: `test_two_processes_train_what_one_does` in test_faults.py.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_faults import metrics_of

from engine.common import ROOT, read_jsonl
from engine.training import checkpoints

pytestmark = pytest.mark.slow
RUN = ["--preset", "tiny", "--batch_size", "8", "--num_generations", "4"]
RUN += ["--max_completion_length", "8", "--save_steps", "2", "--eval_steps", "3"]
SOLVED = []
if (ROOT / "rewards_solution.py").exists():  # a student's copy has no solution
    SOLVED = ["--use_solution", "--kl_type", "forward"]


def launch(config, program, *arguments):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", ROOT / "launch" / f"{config}.yaml", ROOT / program, *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=500, cwd=ROOT
    )


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A run of two processes that hold all weights each."""
    folder = tmp_path_factory.mktemp("processes") / "copies"
    done = launch("ddp", "train.py", *RUN, *SOLVED, "--max_steps", "3", "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_shards_train_what_copies_do(copies, tmp_path):
    folder, program = tmp_path / "shards", "tests/shards_on_cpu.py"
    done = launch("fsdp", program, *RUN, *SOLVED, "--max_steps", "3", "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    for row, other in zip(metrics_of(copies), metrics_of(folder), strict=True):
        assert (row["step"], row["phase"]) == (other["step"], other["phase"])
        names = ("reward", "grad_norm") if row["phase"] == "train" else ("sentiment", "perplexity")
        for name in (*names, *({"kl", "kl_policy_ref"} & row.keys())):
            assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (row["step"], name)
    texts = [read_jsonl(path / "completions.jsonl", step=0) for path in (copies, folder)]
    assert [row["completion"] for row in texts[0]] == [row["completion"] for row in texts[1]]

    from transformers import AutoModelForCausalLM

    whole, own = (load_file(path / "final" / "model.safetensors") for path in (copies, folder))
    base = load_file(ROOT / "tiny" / "gpt2" / "model.safetensors")
    assert whole.keys() == own.keys()
    apart, learned = (
        sum((whole[name] - other[name].float()).abs().sum().item() for name in whole)
        for other in (own, base)
    )
    assert apart < 1e-3 * learned  # all but the biases of the keys, whose gradient is 0
    assert AutoModelForCausalLM.from_pretrained(folder / "final").num_parameters() == sum(
        tensor.numel() for tensor in own.values()
    )
    assert checkpoints.newest_good(folder)[0].name == "checkpoint-3"
    resumed = launch("fsdp", program, "--resume", "--max_steps", "4", "--output_dir", folder)
    assert resumed.returncode == 0 and "Continuing from checkpoint-3" in resumed.stdout
    assert read_jsonl(folder / "metrics.jsonl", phase="train", step=4)


def on_two_hosts(what, folder, *options):
    """What `two_hosts.py` tells of each host: status, seconds, stdout, stderr, files."""
    probe = "ip link add probe0 type veth peer name probe1"
    try:
        done = subprocess.run(["unshare", "-rnm", "sh", "-c", probe], capture_output=True)
    except OSError:
        pytest.skip("no unshare here")
    if done.returncode or not shutil.which("nsenter"):
        pytest.skip("no network namespaces for this user")
    command = ["unshare", "-rnm", sys.executable, ROOT / "tests" / "two_hosts.py", what, folder]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(stderr):
    """The one line of train.py among what the launcher adds."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("train.py:")]
    return line


def test_a_killed_host_ends_the_other_and_the_run_goes_on(tmp_path):
    many = ["--save_steps", "1", "--eval_steps", "100", "--max_steps", "500"]
    first, second = on_two_hosts("kill", tmp_path, *RUN, *many)
    assert first[0] == 1 and first[1] < 60
    line = said(first[3])
    kept = re.search(
        r"At step \d+: another process .* has ended.* (checkpoint-\d+) is kept: --resume", line
    )
    assert kept, line
    newest = {checkpoints.newest_good(tmp_path / str(rank))[0].name for rank in (0, 1)}
    step = min(int(name[11:]) for name in newest)
    before = [row for row in metrics_of(tmp_path / "0") if row["step"] <= step]
    resume = ["--resume", "--max_steps", str(step + 2)]
    for status, _, stdout, stderr, files in on_two_hosts("none", tmp_path, *resume):
        assert status == 0, stderr
        assert f"Continuing from checkpoint-{step}" in stdout or len(newest) == 2
        assert f"checkpoint-{step + 2}" in files
    rows = metrics_of(tmp_path / "0")
    assert rows[: len(before)] == before
    assert [row["step"] for row in rows if row["phase"] == "train"] == [*range(1, step + 3)]
    assert (tmp_path / "0" / "final" / "model.safetensors").exists()


def test_a_cut_link_ends_both_hosts_in_the_stated_time(tmp_path):
    many = ["--save_steps", "1", "--eval_steps", "100", "--max_steps", "500"]
    for rank, (status, seconds, _, stderr, _) in enumerate(
        on_two_hosts("cut", tmp_path, *RUN, *many, "--process_timeout", "8")
    ):
        assert status == 1 and seconds < 8 + 30
        assert re.search("silent for 8 s.* checkpoint-.* is kept", said(stderr)), stderr
        assert checkpoints.newest_good(tmp_path / str(rank))[0]


def test_a_full_disk_on_the_second_host_ends_both(tmp_path):
    first, second = on_two_hosts("full", tmp_path, *RUN, "--max_steps", "12")
    assert first[0] == second[0] == 1
    assert "is full. Free some space. checkpoint-2 is kept" in said(second[3])
    assert re.search("another process .* has ended.* checkpoint-. is kept", said(first[3]))
    assert checkpoints.newest_good(tmp_path / "0")[0]
    assert "checkpoint-2" in second[4]


@pytest.mark.parametrize(
    "generation, asked",
    [
        (
            "vllm",
            "/finish_weight_update /reset_prefix_cache /start_weight_update /update_weights "
            "/v1/completions",
        ),
        ("vllm_colocate", "generate reset_prefix_cache"),
    ],
)
def test_vllm_by_its_stand_in(tmp_path, generation, asked):
    """The interface only. Weights reach it: the ratio of its probabilities to ours stays near 1."""
    program = ROOT / "tests" / "vllm_stand_in.py"
    arguments = [*RUN, *SOLVED, "--max_steps", "4", "--learning_rate", "1e-3"]
    command = [sys.executable, program, *arguments, "--generation", generation]
    done = subprocess.run(
        [*map(str, command), "--output_dir", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"asked: {asked}" in done.stdout
    rows = read_jsonl(tmp_path / "out" / "metrics.jsonl", phase="train")
    assert len(rows) == 4 and len({row["reward"] for row in rows}) == 4
    for row in rows:
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=0.05)
        assert row["sampling/sampling_logp_difference/max"] < 0.05  # bfloat16 below 8 nats: 0.03
    if SOLVED:
        assert rows[0]["kl_policy_ref"] == 0 and rows[-1]["kl_policy_ref"] > 0


def test_every_launch_file_is_described():
    pages = "".join((ROOT / "docs" / f"{p}.md").read_text() for p in ("processes", "two_machines"))
    for path in Path(ROOT / "launch").iterdir():
        assert f"launch/{path.name}" in pages
