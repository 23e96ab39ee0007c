"""Does everything run on this GPU, and how fast? One table in Markdown, to be pasted.

    python benchmarks/gpu.py                  # GPT-2, from the Hub or the local cache
    python benchmarks/gpu.py --model FOLDER   # another model of its architecture

Eight minutes at most: a check that is not over by then is cut off, the next ones are left out, and
the table says so. Every check is a process of its own, so that the memory is its own too. Under the
table stands a line for each check that failed; then the exit code is 1. Checks: the tests marked
`gpu`, the recorded rollout against the loop, a run that is killed and resumed, stock TRL beside
ours, `train.py` in its presets (shortened where the table says so), a reward model of nlptown's
size, LoRA, TRL's beta, and float16 as on a GPU without TF32.
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
from starting import SOLUTION, make_parser, name_or_folder, one_line_errors, run_program

from engine.common import ROOT, UserError, first_line, read_jsonl

MINUTES = 8
STEP_0 = 0.01  # nats between equal models
WATCH, ROLLOUT, OLD = "--watch", "--rollout", "--without_tf32"  # what this program asks of itself
FORWARD = ["--kl_type", "forward", *SOLUTION]
FAST = ("H100", "H200")  # for which there is a goal in seconds
Check = Callable[[float], "Found"]  # of the time, by `time.perf_counter`, at which it is cut off


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
    nlptown: bool = False  # a reward model of its size


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


def run_until(until: float, *words: object) -> str:
    """`run_program` for as long as there is time."""
    return run_program(*words, timeout=until - time.perf_counter())


def save_large_classifier(folder: Path, **smaller) -> None:
    """A reward model of nlptown's architecture and size, its weights random: for its memory."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    stars = {i: f"{i + 1} star{'s' if i else ''}" for i in range(5)}
    ids = {name: i for i, name in stars.items()}
    config = BertConfig(vocab_size=105_879, id2label=stars, label2id=ids, **smaller)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "tiny" / "sentiment").save_pretrained(folder)


def train(training: Training, until: float) -> Found:
    """Train, and read from the run's files how it went."""
    with tempfile.TemporaryDirectory() as folder:
        out, scorer = Path(folder) / "run", Path(folder) / "scorer"
        words = ["train.py", *training.flags, "--output_dir", out]
        if training.nlptown:
            save_large_classifier(scorer)
            words += ["--sentiment_model", scorer]
        started = time.perf_counter()
        printed = run_until(
            until, "benchmarks/gpu.py", WATCH, *([OLD] if training.old else []), *words
        )
        allocated, reserved = json.loads(printed.splitlines()[-1])
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
    if reserved > training.reserved:
        wrong.append(f"{reserved:.1f} GiB reserved, at most {training.reserved:g}")
    return Found(result, (allocated, reserved), tuple(wrong))


def resume(flags: list, until: float, steps: int = 40, stop: int = 6) -> Found:
    """A run that is killed behind a checkpoint and resumed, against one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        flags = [*flags, "--max_steps", steps, "--save_steps", stop - 1, "--eval_steps", steps]
        run_until(until, "train.py", *flags, "--output_dir", whole)
        killed = kill_at(stop, parts, flags, until)
        run_until(until, "train.py", "--output_dir", parts, "--resume")
        weights = [(run / "final" / "model.safetensors").read_bytes() for run in (whole, parts)]
    same = weights[0] == weights[1]
    wrong = [] if killed else [f"the run was over before it could be killed at step {stop}"]
    wrong += [] if same else ["the weights of the resumed run are others"]
    return Found(f"weights {'equal to the last bit' if same else 'differ'}", wrong=tuple(wrong))


def kill_at(step: int, folder: Path, flags: list, until: float) -> bool:
    """Start a run and kill it after a step; whether it was still running."""
    words = [sys.executable, *map(str, ["train.py", *flags, "--output_dir", folder])]
    log = folder / "metrics.jsonl"
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                done = log.read_text(encoding="utf-8") if log.exists() else ""
                if done.count('"phase": "train"') >= step:
                    return True
                if time.perf_counter() > until:
                    raise subprocess.TimeoutExpired("train.py", 0)
                time.sleep(0.01)
            return False
        finally:
            process.kill()


def suite(until: float) -> Found:
    """The tests that only a GPU can run."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/engine", "-m", "gpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=until - time.perf_counter(),
    )
    lines = (done.stdout.strip() or done.stderr.strip() or "pytest said nothing").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not failed:
        failed = lines[-1:]
    return Found(lines[-1], wrong=tuple(failed))


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
    ids = [row[:8] for row in tokenizer(prompts)["input_ids"]]
    ids[0] = (ids[0] * 8)[:8]  # the loop, too, has columns for 8: other sums round otherwise
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
    found["device"] = model.device.type
    found["captured"] = sampling._rollout.graph is not None
    tune_device()
    sampling._rollout = None  # it was recorded in float32
    found |= {"loop": seconds(loop), "recorded": seconds(recorded)}
    print(json.dumps(found))


def rollout(model: str, until: float, *sizes: int) -> Found:
    """The recorded rollout against the loop: its rows in float32, its seconds in TF32."""
    words = WATCH, "benchmarks/gpu.py", ROLLOUT, model, *sizes
    printed = run_until(until, "benchmarks/gpu.py", *words)
    found, peak = (json.loads(line) for line in printed.splitlines()[-2:])
    result = (
        f"{found['same']} of {found['rows']} rows the same, log-probabilities within "
        f"{found['difference']:.0e}; loop {found['loop']:.3f} s, recorded {found['recorded']:.3f} s"
    )
    wrong = []
    if found["same"] < found["rows"] or not found["difference"] <= 1e-4:
        wrong.append("the recorded step samples otherwise than the loop")
    if found["device"] == "cuda" and not found["captured"]:
        wrong.append("the step was not recorded, and ran kernel by kernel")
    return Found(result, tuple(peak), tuple(wrong))


def beside_stock(flags: list, until: float, steps: int = 10, least: float = 5.0) -> Found:
    """Steps per second with KL, ours over stock TRL's: one run each."""
    run = functools.partial(run_until, until)
    stock, ours = (
        seconds_per_step(Column("on", side), flags, steps, run) for side in ("stock", "ours")
    )
    result = f"stock {stock:.3f} s a step, ours {ours:.3f} s: {stock / ours:.2f}×"
    slow = f"{stock / ours:.2f} times as fast as stock TRL, at least {least:g}"
    return Found(result, wrong=() if stock / ours >= least else (slow,))


def checks(model: str, device: str) -> dict[str, Check]:
    """All of them, by the names they have in the table; what matters most comes first.

    Args:
        device: name of the GPU.
    """
    goal = 60 if any(name in device for name in FAST) else math.inf
    scorer = ["--sentiment_model", ROOT / "tiny" / "sentiment"]
    chosen = ["--model_name", model, *scorer]
    quick, medium = (["--preset", preset, *chosen] for preset in ("quick", "medium"))

    def short(steps):
        return ["--max_steps", steps, "--eval_steps", steps]

    trainings = {
        "tiny": Training(["--preset", "tiny"]),
        "medium, forward KL": Training([*medium, *FORWARD], seconds=goal),
        "medium, nlptown's size, 8 steps": Training([*medium, *FORWARD, *short(8)], nlptown=True),
        "quick, forward KL": Training([*quick, *FORWARD]),
        "quick, no KL, 20 steps": Training([*quick, *short(20)]),
        "medium, no KL, 20 steps": Training([*medium, *short(20)]),
        "quick, LoRA, backward KL, 20 steps": Training(
            [*quick, "--use_peft", "--kl_type", "backward", *SOLUTION, *short(20)]
        ),
        "quick, beta 0.1, 10 steps": Training([*quick, "--beta", "0.1", *short(10)]),
        "quick, float16, 8 steps": Training([*quick, *FORWARD, *short(8)], old=True),
    }
    return {
        "tests marked gpu": suite,
        "rollout, 64 × 48": functools.partial(rollout, model),
        "tiny, killed and resumed": functools.partial(resume, ["--preset", "tiny", *FORWARD]),
        "stock TRL, forward KL, 64 × 32": functools.partial(
            beside_stock, ["--preset=tiny", f"--model_name={model}"]
        ),
        **{name: functools.partial(train, training) for name, training in trainings.items()},
    }


def attempt(check: Check, until: float, over: str) -> Found:
    """What a check finds, whatever happens to it.

    Args:
        over: what to say where there is no more time.
    """
    if time.perf_counter() > until:
        return Found("left out", wrong=(over,))
    try:
        return check(until)
    except subprocess.TimeoutExpired:
        return Found("cut off", wrong=(over,))
    except UserError as error:
        return Found("failed", wrong=(str(error),))
    except Exception as error:  # the other checks are worth their lines
        return Found("failed", wrong=(f"{type(error).__name__}: {first_line(error)}",))


def measure(planned: dict[str, Check], minutes: float = MINUTES) -> Iterator[str]:
    """Lines of the table, each as soon as it is known; then one for everything that failed."""
    until = time.perf_counter() + 60 * minutes
    failed = []
    yield from ("| check | seconds | GiB, allocated / reserved | result |", "|---|---|---|---|")
    for name, check in planned.items():
        started = time.perf_counter()
        found = attempt(check, until, over=f"{minutes:g} minutes were over")
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
    policy = "a folder or a Hub name; default gpt2"
    parser.add_argument("--model", type=name_or_folder, default="gpt2", help=policy)
    args = parser.parse_args(argv)
    with one_line_errors(parser.prog):
        import torch

        if not torch.cuda.is_available():
            raise UserError("there is no GPU here that torch could use (CUDA).")
        print(describe_machine(args.model), end="\n\n")
        lines = []
        for line in measure(checks(args.model, torch.cuda.get_device_name())):
            print(line, flush=True)
            lines.append(line)
    sys.exit(any(line.startswith("- FAILED") for line in lines))


if __name__ == "__main__":
    main()
