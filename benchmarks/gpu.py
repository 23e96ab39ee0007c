"""Does everything run on this GPU, and how fast? One table in Markdown, to be pasted.

    python benchmarks/gpu.py                  # GPT-2, from the Hub or the local cache
    python benchmarks/gpu.py --model FOLDER   # another model of its architecture

Eight minutes at most: a check that has not begun by then is left out, and says so. Every check is a
process of its own, so that the memory is its own too. Under the table stands a line for each check
that failed; then the exit code is 1. Checks: `pytest -m gpu`, the recorded rollout against the
loop, `train.py` in its presets (shortened where the table says so), LoRA, TRL's beta, float16 as on
a GPU without TF32, a run that is killed and resumed, and stock TRL beside ours.
"""

import functools
import importlib.metadata
import json
import math
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from speed import Column, seconds_per_step
from starting import SOLUTION, make_parser, one_line_errors, run_program

from engine.common import ROOT, UserError, read_jsonl

MINUTES = 8  # after which no check begins
STEP_0 = 0.01  # nats between equal models
WATCH, ROLLOUT, OLD = "--watch", "--rollout", "--without_tf32"  # what this program asks of itself
FORWARD = ["--kl_type", "forward", *SOLUTION]


class Found(NamedTuple):
    """What a check found."""

    result: str
    peak: tuple[float, float] | None = None  # GiB at most, allocated and reserved
    wrong: tuple[str, ...] = ()  # what should be otherwise


class Training(NamedTuple):
    """A run of train.py, and what it must keep to."""

    flags: list
    seconds: float = math.inf  # of the whole command
    reserved: float = 6.0  # GiB
    old: bool = False  # as on a GPU without TF32


def watch(words: list[str]) -> None:
    """Run a program here; the last line it prints is its peak: GiB allocated and reserved."""
    import torch

    if words[0] == OLD:
        words = words[1:]
        torch.cuda.is_bf16_supported = lambda *args, **kwargs: False
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    peak = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    print(json.dumps([size / 2**30 for size in peak]))


def watched(*words: object, old: bool = False) -> tuple[float, float]:
    """The peak of a program that runs in a process of its own."""
    printed = run_program("benchmarks/gpu.py", WATCH, *([OLD] if old else []), *words)
    allocated, reserved = json.loads(printed.splitlines()[-1])
    return allocated, reserved


def train(training: Training) -> Found:
    """Train, and read from the run's files how it went."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        started = time.perf_counter()
        peak = watched("train.py", *training.flags, "--output_dir", out, old=training.old)
        seconds = time.perf_counter() - started
        steps = read_jsonl(out / "metrics.jsonl", phase="train")
        manifest = json.loads((out / "run.json").read_text(encoding="utf-8"))
    before, after = manifest["before"], manifest["after"]
    step = statistics.median(row["step_time"] for row in steps)
    result = (
        f"{len(steps)} steps, median {step:.3f} s: sentiment {before['sentiment']:.2f} → "
        f"{after['sentiment']:.2f}, {after['kl']:.2f} nats"
    )
    first = {"validation": before["kl"], "batch": steps[0].get("kl_policy_ref", 0.0)}
    wrong = [
        f"the first {what} is {nats:.3f} nats off its reference, at most {STEP_0}"
        for what, nats in first.items()
        if not abs(nats) <= STEP_0
    ]
    if not all(math.isfinite(row["loss"]) for row in steps):
        wrong.append("a loss is not finite")
    if seconds > training.seconds:
        wrong.append(f"{seconds:.0f} s, at most {training.seconds:g}")
    if peak[1] > training.reserved:
        wrong.append(f"{peak[1]:.1f} GiB reserved, at most {training.reserved:g}")
    return Found(result, peak, tuple(wrong))


def resume(flags: list, steps: int = 40, stop: int = 6) -> Found:
    """A run that is killed behind a checkpoint and resumed, against one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        flags = [*flags, "--max_steps", steps, "--save_steps", stop - 1, "--eval_steps", steps]
        run_program("train.py", *flags, "--output_dir", whole)
        killed = kill_at(stop, parts, flags)
        run_program("train.py", "--output_dir", parts, "--resume")
        weights = [(run / "final" / "model.safetensors").read_bytes() for run in (whole, parts)]
    same = weights[0] == weights[1]
    wrong = [] if killed else [f"the run was over before it could be killed at step {stop}"]
    wrong += [] if same else ["the weights of the resumed run are others"]
    return Found(f"weights {'equal to the last bit' if same else 'differ'}", wrong=tuple(wrong))


def kill_at(step: int, folder: Path, flags: list) -> bool:
    """Start a run and kill it after a step; whether it was still running."""
    words = ["train.py", *flags, "--output_dir", folder]
    log = folder / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        if log.exists() and log.read_text(encoding="utf-8").count('"phase": "train"') >= step:
            process.kill()
            process.wait()
            return True
        time.sleep(0.01)
    return False


def suite() -> Found:
    """The tests that only a GPU can run."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu"], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not failed:
        failed = lines[-1:] or ["pytest did not run"]
    return Found(lines[-1] if lines else "", wrong=tuple(failed))


def roll_out(name: str, rows: int = 64, tokens: int = 48) -> None:
    """Print how long a rollout takes by each way, and how the ways differ, as JSON."""
    import torch

    from data import TRAIN_PROMPTS
    from engine.model import sampling
    from engine.model.devices import tune_device
    from engine.model.loading import load_model

    model, tokenizer = load_model(name)
    group = max(1, rows // 8)
    prompts = [prompt for prompt in TRAIN_PROMPTS[:8] for _ in range(group)][:rows]
    ids = tokenizer(prompts)["input_ids"]
    asked = model, tokenizer, ids, sampling.Sampling(tokens, seed=7), sampling.Rows(0, len(ids))
    loop, recorded = sampling._decode, sampling._decode_recorded

    def finished(sample):
        with torch.no_grad():
            drawn, log_probs = (values.cpu() for values in sample(*asked))
        return drawn, log_probs

    def seconds(sample):
        finished(sample)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            finished(sample)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    (one, of_one), (other, of_other) = finished(loop), finished(recorded)
    length = min(one.shape[1], other.shape[1])
    same = (one[:, :length] == other[:, :length]).all(1)
    errors = (of_one[same, :length] - of_other[same, :length]).abs()
    found = {"rows": len(ids), "same": int(same.sum())}
    found["difference"] = errors.max().item() if errors.numel() else math.nan
    tune_device()
    sampling._rollout = None  # it was recorded in float32
    found |= {"loop": seconds(loop), "recorded": seconds(recorded)}
    print(json.dumps(found))


def rollout(model: str, *sizes: int) -> Found:
    """The recorded rollout against the loop: its rows in float32, its seconds in TF32."""
    printed = run_program("benchmarks/gpu.py", WATCH, "benchmarks/gpu.py", ROLLOUT, model, *sizes)
    found, peak = (json.loads(line) for line in printed.splitlines()[-2:])
    result = (
        f"{found['same']} of {found['rows']} rows the same, log-probabilities within "
        f"{found['difference']:.0e}; loop {found['loop']:.3f} s, recorded {found['recorded']:.3f} s"
    )
    wrong = []
    if found["same"] < found["rows"] or not found["difference"] <= 1e-4:
        wrong.append("the recorded step samples otherwise than the loop")
    return Found(result, tuple(peak), tuple(wrong))


def beside_stock(flags: list, steps: int = 10, least: float = 5.0) -> Found:
    """Steps per second with KL, ours over stock TRL's: one run each."""
    stock, ours = (seconds_per_step(Column("on", side), flags, steps) for side in ("stock", "ours"))
    result = f"stock {stock:.3f} s a step, ours {ours:.3f} s: {stock / ours:.2f}×"
    slow = f"{stock / ours:.2f} times as fast as stock TRL, at least {least:g}"
    return Found(result, wrong=() if stock / ours >= least else (slow,))


def checks(model: str) -> dict[str, Callable[[], Found]]:
    """All of them, by the names they have in the table."""
    scorer = ["--sentiment_model", ROOT / "tiny" / "sentiment"]
    chosen = ["--model_name", model, *scorer]
    quick, medium = (["--preset", preset, *chosen] for preset in ("quick", "medium"))

    def short(steps):
        return ["--max_steps", steps, "--eval_steps", steps]

    trainings = {
        "tiny": Training(["--preset", "tiny"]),
        "medium, forward KL": Training([*medium, *FORWARD], seconds=60),
        "medium, no KL, 60 steps": Training([*medium, *short(60)]),
        "quick, forward KL": Training([*quick, *FORWARD]),
        "quick, LoRA, backward KL, 20 steps": Training(
            [*quick, "--use_peft", "--kl_type", "backward", *SOLUTION, *short(20)]
        ),
        "quick, beta 0.1, 10 steps": Training([*quick, "--beta", "0.1", *short(10)]),
        "quick, float16, 8 steps": Training([*quick, *FORWARD, *short(8)], old=True),
    }
    return {
        "pytest -m gpu": suite,
        "rollout, 64 × 48": functools.partial(rollout, model),
        "stock TRL, forward KL, 64 × 32": functools.partial(
            beside_stock, ["--preset=tiny", f"--model_name={model}"]
        ),
        **{name: functools.partial(train, training) for name, training in trainings.items()},
        "tiny, killed and resumed": functools.partial(resume, ["--preset", "tiny", *FORWARD]),
    }


def measure(planned: dict[str, Callable[[], Found]], minutes: float = MINUTES) -> Iterator[str]:
    """Lines of the table, each as soon as it is known; then one for everything that failed."""
    began = time.perf_counter()
    failed = []
    yield from ("| check | seconds | GiB, allocated / reserved | result |", "|---|---|---|---|")
    for name, check in planned.items():
        started = time.perf_counter()
        if started - began > 60 * minutes:
            found = Found("left out", wrong=(f"{minutes:g} minutes were over",))
        else:
            try:
                found = check()
            except UserError as error:
                found = Found("failed", wrong=(str(error),))
        memory = " / ".join(f"{size:.1f}" for size in found.peak or ())
        yield f"| {name} | {time.perf_counter() - started:.0f} | {memory} | {found.result} |"
        failed += [f"{name}: {what}" for what in found.wrong]
    yield ""
    yield from (f"- FAILED {line}" for line in failed)
    if not failed:
        yield "All checks passed."


def describe_machine(model: str) -> str:
    """Device, driver, versions and model, as one line."""
    import torch

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    driver = (said.strip().splitlines() or ["unknown"])[0]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{torch.cuda.get_device_name()}, driver {driver}, CUDA {torch.version.cuda}, "
        f"Python {platform.python_version()}, {versions}; model {Path(model).name}"
    )


PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [WATCH]:
        return watch(argv[1:])
    if argv[:1] == [ROLLOUT]:
        return roll_out(argv[1], *map(int, argv[2:]))
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="gpt2", help="a folder or a Hub name; default gpt2")
    args = parser.parse_args(argv)
    with one_line_errors(parser.prog):
        import torch

        if not torch.cuda.is_available():
            raise UserError("there is no GPU here that torch could use (CUDA).")
        print(describe_machine(args.model), end="\n\n")
        lines = []
        for line in measure(checks(args.model)):
            print(line, flush=True)
            lines.append(line)
    sys.exit(any(line.startswith("- FAILED") for line in lines))


if __name__ == "__main__":
    main()
