"""The programs in benchmarks/: their arithmetic, and one pair of runs of a few steps."""

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sentiment
from engine.common import ROOT, UserError, append_jsonl, write_json
from engine.measuring.judge import NgramJudge
from engine.measuring.labels import star_order
from engine.measuring.metrics import METRICS
from engine.measuring.optimum import NATS
from engine.measuring.runs import read_run
from engine.options import PRESETS, parse_arguments, resolve_options


@pytest.fixture
def program(monkeypatch):
    """callable(name) -> a program of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def ladder(program, monkeypatch, tmp_path):
    """benchmarks/ladder.py as a module, with its runs in a folder of the test."""
    module = program("ladder")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    return module


@pytest.fixture
def over_optimisation(program):
    return program("over_optimisation")


def finish(ladder, rung, seed, sentiment, **nats):
    """Pretend that a run of the ladder is finished."""
    folder = ladder.folder(rung, seed)
    folder.mkdir(parents=True)
    figures = {name: {"mean": 0.5} for name in METRICS}
    trained = {**figures, "sentiment": {"mean": sentiment}, "perplexity": {"mean": 1050.4}}
    paid = {name: {"mean": nats[name]} if name in nats else None for name in NATS}
    comparison = {"base": figures, "trained": trained, "nats": paid}
    write_json(folder / "compare.json", comparison)
    write_json(folder / "run.json", {"seconds": 60.0 + seed})
    rows = [("The end", f" was *fun* {i}", i / 10) for i in range(5)]
    append_jsonl(
        folder / "completions.jsonl",
        [{"step": 60, "prompt": p, "completion": c, "sentiment": s} for p, c, s in rows],
    )


def test_the_tables_of_the_ladder(ladder):
    finish(ladder, "linear", 0, 0.9)
    finish(ladder, "linear", 1, 0.8)
    finish(ladder, "lora", 0, 0.7)
    columns = ladder.Table(("sentiment", "perplexity", "win_rate"), {"seconds": ladder.seconds})
    middle = "1,050 ± 0 | 50.0 ± 0.0%"
    assert ladder.table_of(columns, [0, 1]).splitlines() == [  # √((0.05² + 0.05²) / 1) = 0.0707
        "| run | sentiment | ref. perplexity | win rate | seconds |",
        "|---|---|---|---|---|",
        "| base model | 0.500 | 0.500 | 50.0% | |",
        f"| no flags | 0.850 ± 0.071 | {middle} | 60.5 ± 0.7 |",
        "| `--use_peft --learning_rate 1e-3`, 1 of 2 seeds | 0.700 | 1,050 | 50.0% | 60.0 |",
    ]


def test_the_nats_in_the_tables_of_the_ladder(ladder):
    finish(ladder, "linear", 0, 0.9, needed=0.5, sideways=0.75, overpayment=2.5)
    finish(ladder, "linear", 1, 0.9, needed=0.5, sideways=0.25, overpayment=1.5)
    finish(ladder, "shaped", 0, 0.9, needed=0.5, sideways=0.75)
    finish(ladder, "shaped", 1, 0.99)  # beyond the samples
    cells = {
        title: [of_rung(rung, [0, 1]) for rung in ("linear", "shaped")]
        for title, of_rung in ladder.REACHED.more.items()
    }
    assert cells == {
        "needed": ["0.500 ± 0.000", "beyond"],
        "sideways": ["0.500 ± 0.354", ""],
        "from asked": ["", ""],
        "overpaid ×": ["2.00 ± 0.71", ""],
    }


def test_the_samples_of_the_ladder(ladder):
    finish(ladder, "linear", 0, 0.9)
    assert ladder.samples_page([0]).splitlines()[5:] == [
        "## no flags",
        "",
        r"- 0.00: The end was \*fun\* 0",
        r"- 0.20: The end was \*fun\* 2",
        r"- 0.40: The end was \*fun\* 4",
    ]


def test_what_people_wrote_stays_in_the_results(ladder, monkeypatch, tmp_path):
    monkeypatch.setattr(ladder, "draw", lambda seeds, path: path.touch())
    with pytest.raises(UserError, match="no run in .* is finished"):
        ladder.write([0], 1, tmp_path / "out")
    finish(ladder, "linear", 0, 0.9)
    ladder.write([0], 1, tmp_path / "out")
    page = tmp_path / "out" / "results.md"
    first = page.read_text(encoding="utf-8")
    page.write_text(f"# By people\n\n{first}", encoding="utf-8")
    ladder.write([0], 1, tmp_path / "out")
    assert page.read_text(encoding="utf-8") == f"# By people\n\n{first}"


@pytest.mark.skipif(not (ROOT / "docs" / "results.md").exists(), reason="a student's copy")
def test_the_results_have_the_tables_that_the_ladder_writes(ladder):
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text.count(ladder.MARK) == 1
    for columns in (ladder.REACHED, ladder.TEXTS):
        assert ladder.table_of(columns, [0]).splitlines()[0] in text
    below = text.partition(ladder.MARK)[2]
    for rung in ladder.LADDER:  # with all seeds, or with how many
        name = ladder.name_of(rung)
        assert below.count(f"| {name} |") + below.count(f"| {name}, ") == 2, name


def test_the_figures_in_the_picture_of_the_ladder(ladder):
    finish(ladder, "linear", 0, 0.9)
    finish(ladder, "linear", 1, 0.8)
    finish(ladder, "lora", 0, 0.7)
    spread = ladder.Spread.of("sentiment", ["linear", "lora"], [0, 1])
    assert spread.means == pytest.approx([0.85, 0.7], abs=1e-12)
    assert spread.deviations == pytest.approx([math.sqrt(0.005), 0], abs=1e-12)


@pytest.mark.slow
def test_the_reproducer_of_the_padding_stands_alone(tmp_path):
    """In another folder, with nothing of this project."""
    own = shutil.copy(ROOT / "benchmarks" / "padding.py", tmp_path / "pasted.py")
    command = [sys.executable, own, str(ROOT / "tiny" / "gpt2")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    *_, positions, figures = done.stdout.splitlines()
    assert positions == "positions in the loss: None"
    mean, largest = map(float, re.search(r"mean (\S+) nats, largest (\S+)", figures).groups())
    assert 0.1 < mean < largest and [path.name for path in tmp_path.iterdir()] == ["pasted.py"]


def test_a_comparison_of_speed_by_hand(program, monkeypatch, capsys):
    """Stock takes 4 and 6 s, with the KL 5 and 9; ours takes 2 and 2, with the KL 2.5 and 3."""
    speed, asked = program("speed"), []
    times = [[4, 2, 5, 2.5], [3, 9, 2, 6]]  # the second pair in reverse order

    def seconds_per_step(column, flags, steps):
        asked.append(column)
        return times[(len(asked) - 1) // 4][(len(asked) - 1) % 4]

    monkeypatch.setattr(speed, "seconds_per_step", seconds_per_step)
    speed.show(speed.compare([], steps=1, pairs=2))
    assert asked == [*speed.COLUMNS, *reversed(speed.COLUMNS)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pair 1: KL off 2.00, KL on 2.00"
    assert lines[1] == "pair 2: KL off 3.00, KL on 3.00"
    assert lines[4].split() == ["5.000", "2.000", "7.000", "2.750"]
    assert lines[5] == "steps per second, ours over stock, KL off: 2.50 (2.00 to 3.00)"
    assert lines[-1] == "the KL costs 38% (25% to 50%) of a step"


@pytest.mark.slow
def test_a_few_steps_are_timed(program, capsys):
    program("speed").main(["--steps=1", "--batch_size=8", "--pairs=1"])
    pair, _, names, seconds, *_ = capsys.readouterr().out.splitlines()
    assert pair.startswith("pair 1: KL off ") and names.count("KL on") == 2
    assert len(seconds.split()) == 4 and all(float(value) > 0 for value in seconds.split())


def test_without_a_gpu_one_line_says_so():
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gpu.py: there is no GPU here that torch could use (CUDA).\n"


def in_a_while():
    """A time at which a check of a GPU is over long since."""
    return time.perf_counter() + 300


def test_the_table_of_a_gpu_and_what_failed(program):
    gpu = program("gpu")

    def broken(until):
        raise UserError("train.py: no such model")

    def unexpected(until):
        raise ValueError("no steps\nand more")

    planned = {
        "good": lambda until: gpu.Found("0.5 → 0.8", (3.21, 3.6)),
        "slow": lambda until: gpu.Found("late", wrong=("70 s, at most 60", "far off")),
        "broken": broken,
        "unexpected": unexpected,
    }
    assert list(gpu.measure(planned)) == [
        "| check | seconds | GiB, allocated / reserved | result |",
        "|---|---|---|---|",
        "| good | 0 | 3.2 / 3.6 | 0.5 → 0.8 |",
        "| slow | 0 |  | late |",
        "| broken | 0 |  | failed |",
        "| unexpected | 0 |  | failed |",
        "",
        "- FAILED slow: 70 s, at most 60",
        "- FAILED slow: far off",
        "- FAILED broken: train.py: no such model",
        "- FAILED unexpected: ValueError: no steps",
    ]
    assert list(gpu.measure({"good": planned["good"]}))[-1] == "All checks passed."


def test_what_takes_too_long_is_cut_off_and_the_rest_left_out(program):
    gpu = program("gpu")

    def slow(until):
        return gpu.run_until(until, "-c", "import time; time.sleep(60)")

    assert list(gpu.measure({"slow": slow, "next": slow}, minutes=0.005))[2:] == [
        "| slow | 0 |  | cut off |",
        "| next | 0 |  | left out |",
        "",
        "- FAILED slow: 0.005 minutes were over",
        "- FAILED next: 0.005 minutes were over",
    ]


def test_a_run_to_be_killed_is_cut_off_too(program, tmp_path, monkeypatch):
    gpu, started = program("gpu"), []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **settings):
            started.append(self)
            super().__init__(*args, **settings)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    with pytest.raises(subprocess.TimeoutExpired):
        gpu.kill_at(1, tmp_path / "run", ["--preset", "tiny"], until=0)
    (run,) = started
    assert run.returncode not in (None, 0)


def trainings_of(gpu, device=""):
    planned = gpu.checks("tiny/gpt2", device).items()
    return {n: check.args[0] for n, check in planned if getattr(check, "func", None) is gpu.train}


def test_every_training_of_a_gpu_is_one_that_can_be_asked_for(program):
    trainings = trainings_of(program("gpu"))
    assert len(trainings) == 9
    for training in trainings.values():
        options = resolve_options(parse_arguments("", list(map(str, training.flags))))
        assert options.sentiment_model == PRESETS["tiny"]["sentiment_model"]


@pytest.mark.parametrize(
    ("device", "seconds"), [("NVIDIA H100 80GB HBM3", 60), ("NVIDIA H200", 60), ("Tesla T4", None)]
)
def test_only_a_fast_gpu_has_a_goal_in_seconds(program, device, seconds):
    limits = {n: t.seconds for n, t in trainings_of(program("gpu"), device).items()}
    assert limits.pop("medium, forward KL") == (seconds or math.inf)
    assert set(limits.values()) == {math.inf}


def test_a_folder_is_that_of_who_asks(program, monkeypatch, tmp_path):
    gpu, asked = program("gpu"), []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(gpu, "describe_machine", lambda model: "a machine")
    monkeypatch.setattr(gpu, "checks", lambda *words: asked.append(words) or {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for words in (["--model", "mine"], ["--model", "owner/name"]):
        with pytest.raises(SystemExit, match="False"):
            gpu.main(words)
    assert asked == [(str(tmp_path / "mine"), "Tesla T4"), ("owner/name", "Tesla T4")]


def test_a_large_reward_model_can_be_used(program, tmp_path):
    gpu = program("gpu")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    gpu.save_large_classifier(tmp_path, **small, intermediate_size=8)
    model, tokenizer, order = sentiment._load_classifier(str(tmp_path), star_order, "cpu")
    assert order == [0, 1, 2, 3, 4] and model.config.vocab_size == 105_879
    assert sentiment.class_probs(model, tokenizer, ["A film."]).shape == (1, 5)


def test_a_rollout_is_compared_with_the_loop(program):
    """Uncaptured, on a CPU; the peak is that of a GPU, so it is 0."""
    found = program("gpu").rollout(PRESETS["tiny"]["model_name"], in_a_while(), 8, 6)
    assert found.wrong == () and found.peak == (0, 0)
    assert found.result.startswith("8 of 8 rows the same, log-probabilities within ")


@pytest.mark.parametrize(("device", "captured"), [("cuda", True), ("cuda", False), ("cpu", False)])
def test_a_rollout_that_a_gpu_did_not_record_is_a_failure(program, monkeypatch, device, captured):
    gpu = program("gpu")
    told = {"rows": 8, "same": 8, "difference": 1e-6, "loop": 0.2, "recorded": 0.1}
    told |= {"device": device, "captured": captured}
    monkeypatch.setattr(gpu, "run_program", lambda *_, **__: f"{json.dumps(told)}\n[1.5, 2.5]\n")
    found = gpu.rollout("gpt2", in_a_while())
    assert found.peak == (1.5, 2.5)
    wrong = ("the step was not recorded, and ran kernel by kernel",)
    assert found.wrong == (wrong if device == "cuda" and not captured else ())


@pytest.mark.parametrize(("seconds", "passes"), [(0.1, True), (0.2, False)])
def test_a_step_is_held_against_one_of_stock_trl(program, monkeypatch, seconds, passes):
    gpu = program("gpu")

    def run(name, *flags, timeout):
        folder = Path(flags[-1].removeprefix("--output_dir="))
        folder.mkdir()
        step = {"train.py": seconds, "benchmarks/stock.py": 0.55}[name]
        append_jsonl(folder / "metrics.jsonl", [{"step_time": step}] * 13)
        return ""

    monkeypatch.setattr(gpu, "run_program", run)
    found = gpu.beside_stock([], in_a_while())
    ratio = "5.50" if passes else "2.75"
    assert found.result == f"stock 0.550 s a step, ours {seconds:.3f} s: {ratio}×"
    assert found.wrong == (() if passes else (f"{ratio} times as fast as stock TRL, at least 5",))


@pytest.mark.parametrize(
    ("said", "result", "wrong"),
    [
        ((0, "..\n2 passed in 1.00s\n", ""), "2 passed in 1.00s", ()),
        ((1, "FAILED a - b\n1 failed\n", ""), "1 failed", ("FAILED a - b",)),
        ((4, "", "a warning\nExit: no package\n"), "Exit: no package", ("Exit: no package",)),
        ((-9, "", ""), "pytest said nothing", ("pytest said nothing",)),
    ],
)
def test_what_the_tests_for_a_gpu_said(program, monkeypatch, said, result, wrong):
    done = subprocess.CompletedProcess([], *said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert program("gpu").suite(in_a_while()) == (result, None, wrong)


@pytest.mark.slow
def test_a_training_is_measured_and_held_to_its_limits(program):
    gpu = program("gpu")
    flags = ["--preset", "tiny", *gpu.FORWARD, "--max_steps", 2, "--eval_steps", 2]
    flags += ["--batch_size", 4, "--num_generations", 2, "--max_completion_length", 4]
    good = gpu.train(gpu.Training(flags), in_a_while())
    assert good.wrong == () and good.peak == (0, 0)
    figures = r"2 steps, median \d+\.\d{3} s: sentiment 0\.\d\d → 0\.\d\d, -?\d\.\d\d nats"
    assert re.fullmatch(figures, good.result)
    bad = gpu.train(gpu.Training(flags, seconds=0, reserved=-1, old=True), in_a_while())
    assert [line.split(", at most ")[1] for line in bad.wrong] == ["0", "-1"]


@pytest.mark.slow
def test_a_killed_run_is_compared_with_a_whole_one(program):
    flags = ["--preset", "tiny", "--batch_size", 4, "--num_generations", 2]
    flags += ["--max_completion_length", 4]
    found = program("gpu").resume(flags, in_a_while(), steps=12, stop=3)
    assert found == ("weights equal to the last bit", None, ())


@pytest.mark.slow
def test_the_tests_for_a_gpu_are_skipped_in_one_line(program):
    found = program("gpu").suite(in_a_while())
    assert re.fullmatch(r"\d+ skipped, \d+ deselected in .*", found.result) and not found.wrong


def test_a_program_that_fails_is_one_line(program):
    starting = program("starting")
    with pytest.raises(UserError, match="^evaluate.py: .*invalid choice: 'measure'"):
        starting.run_program("evaluate.py", "measure")


@pytest.mark.parametrize(("form", "beta"), [("d(α − β log d)", 0.25), ("d(α − β d)", 0.04)])
def test_a_curve_of_known_alpha_and_beta_is_found(over_optimisation, form, beta):
    distance = [0.0, 0.5, 1.0, 1.0, 2.5, 6.0]
    slowed = [0 if d == 0 else beta * (math.log(d) if "log" in form else d) for d in distance]
    gain = [d * (0.6 - s) for d, s in zip(distance, slowed)]
    fit = over_optimisation.fit_gain(distance, gain, form)
    assert fit == pytest.approx((0.6, beta, 0), abs=1e-12)


def test_the_error_of_a_fit_by_hand(over_optimisation):
    """At d = 1 the RL form is α, whatever β; two values there leave half their distance each."""
    fit = over_optimisation.fit_gain([1, 1, math.e, math.e**2], [0.4, 0.6, 0, 0])
    alpha, beta = fit.alpha, fit.beta
    gaps = [alpha - 0.4, alpha - 0.6, math.e * (alpha - beta), math.e**2 * (alpha - 2 * beta)]
    assert fit.error == pytest.approx((sum(gap**2 for gap in gaps) / 4) ** 0.5, abs=1e-12)
    slope = gaps[0] + gaps[1] + math.e * gaps[2] + math.e**2 * gaps[3]  # of the error over α
    assert slope == pytest.approx(0, abs=1e-9) and fit.error > 0.05


@pytest.mark.parametrize("distance", [[], [0, 0, 0], [0, 1, 2], [0, 1, 1, 1]])
def test_too_few_points_for_a_fit(over_optimisation, distance):
    with pytest.raises(UserError, match="three different distances"):
        over_optimisation.fit_gain(distance, [0.5] * len(distance))


def over_optimised(folder, **options):
    """A run of four validations: KL 0, 1, 4, 16; proxy 0.5 to 0.9; texts of 1 to 4 words."""
    folder.mkdir()
    rows = [(0, 0, 0.5, "a"), (5, 1, 0.6, "a b"), (10, 4, 0.8, "a b c"), (15, 16, 0.9, "a b c d")]
    keys = ("step", "kl", "sentiment", "completion")
    write_json(folder / "run.json", {"options": {"kl_type": "none", **options}})
    write_rows = [
        {**dict(zip(keys, row)), "kl": row[1] + shift, "prompt": "p", "positive_words": row[2] / 2}
        for row in rows
        for shift in ((-1, 1) if row[1] else (0, 0))
    ]
    append_jsonl(folder / "completions.jsonl", write_rows)
    validations = [{"phase": "validation", "step": row[0]} for row in rows]
    append_jsonl(folder / "metrics.jsonl", validations)
    return folder


def word_judge(texts):
    return [0.5 - 0.1 * len(text.split()) for text in texts]


def test_points_of_runs_by_hand(over_optimisation, tmp_path):
    folders = [over_optimised(tmp_path / "a"), over_optimised(tmp_path / "b", seed=1, max_steps=15)]
    folders.append(over_optimised(tmp_path / "c", hackable_reward=True, negate_reward=True))
    kinds = over_optimisation.points_of([read_run(folder) for folder in folders], word_judge)
    assert list(kinds) == ["no flags", "hackable_reward, negate_reward"]
    plain, hacked = kinds.values()
    assert plain.distance.tolist() == [0, 1, 2, 4] * 2
    assert plain.proxy == pytest.approx([0, 0.1, 0.3, 0.4] * 2, abs=1e-12)
    assert plain.judge == pytest.approx([0, -0.1, -0.2, -0.3] * 2, abs=1e-12)
    assert hacked.proxy == pytest.approx([0, -0.05, -0.15, -0.2], abs=1e-12)
    assert hacked.judge == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-12)
    assert np.isnan([*plain.positive, *plain.text]).all()  # this judge has no two answers
    lines = over_optimisation.table(kinds)
    assert len(lines) == 1 + 2 * 2 * 2 and max(map(len, lines)) <= 80


def test_the_two_parts_of_the_bundled_judge(over_optimisation, tmp_path):
    judge = NgramJudge()
    run = read_run(over_optimised(tmp_path / "a"))
    (points,) = over_optimisation.points_of([run], judge).values()
    positive, text = judge.answers(["a", "a b", "a b c", "a b c d"])
    assert points.positive == pytest.approx(positive - positive[0], abs=1e-12)
    assert points.text == pytest.approx(text - text[0], abs=1e-12)
    negated = read_run(over_optimised(tmp_path / "b", negate_reward=True))
    (points,) = over_optimisation.points_of([negated], judge).values()
    assert points.positive == pytest.approx(positive[0] - positive, abs=1e-12)
    assert points.text == pytest.approx(text - text[0], abs=1e-12)


def test_over_optimisation_draws(over_optimisation, tmp_path, capsys):
    folders = [str(over_optimised(tmp_path / name)) for name in "ab"]
    over_optimisation.main([*folders, "--out", str(tmp_path / "picture.png")])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "no flags" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lacking", "says"),
    [("kl", "lack 'kl'"), ("step 0", "before its first step"), ("all", "There is no folder")],
)
def test_over_optimisation_of_a_damaged_run(over_optimisation, tmp_path, lacking, says):
    folder = tmp_path / "run"
    if lacking != "all":
        file = over_optimised(folder) / "completions.jsonl"
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        rows = [r for r in rows if lacking == "kl" or r["step"]]
        file.unlink()
        append_jsonl(file, [{k: v for k, v in row.items() if k != lacking} for row in rows])
    with pytest.raises(SystemExit, match=says) as error:
        over_optimisation.main([str(folder), "--out", str(tmp_path / "picture.png")])
    assert "\n" not in str(error.value) and not (tmp_path / "picture.png").exists()


def test_what_the_best_policy_is_like_by_hand(program):
    """Two texts of a prompt, rewards 0 and 1, among many equal ones: the tilted share is known."""
    along = program("optimal_hacking").along_optimum
    half = np.tile([0.0, 1.0], 64)[None]
    scores = {"reward": half, "judge": 0.25 + half / 2, "other": 1 - half}
    means = along(scores, "reward")
    share = means["reward"]
    assert share[0] == pytest.approx(0.5) and share[-1] > 0.99
    assert means["judge"] == pytest.approx(0.25 + share / 2, abs=1e-12)
    inside = share < 1 - 1e-6
    q = share[inside]
    kl = q * np.log(2 * q) + (1 - q) * np.log(2 * (1 - q))
    assert means["kl"][inside] == pytest.approx(kl, abs=1e-9)


def test_the_table_of_optimal_hacking(program):
    module = program("optimal_hacking")
    path = {"kl": np.array([0.0, 1.0]), "sentiment": np.array([0.5, 0.9])}
    path |= {name: np.array([0.4, 0.6]) for name in module.JUDGED}
    lines = module.table_of([path, {**path, "judge": np.array([0.4, 0.8])}], "sentiment")
    assert lines[2].startswith("| 0 | 0.500 ± 0.000 | 0.400 ± 0.000 |")
    assert lines[4].startswith("| 0.5 | 0.700 ± 0.000 | 0.550 ± 0.071 |")
    assert len(lines) == 2 + 4  # 0, 0.25, 0.5 and 1: the samples tell no more


RUN = {
    "trained": {"sentiment": {"mean": 0.82}, "kl": {"mean": 1.2}, "judge": {"mean": 0.7}},
    "nats": {"needed": {"mean": 0.7}, "sideways": {"mean": 0.5}, "to_optimum": None},
}


def test_figures_of_a_run(program):
    means = program("starting").means
    assert means(RUN, ("sentiment", "sideways", "judge")) == [0.82, 0.5, 0.7]
    assert math.isnan(means(RUN, ("to_optimum",))[0])


def test_the_table_of_variants(program):
    variants = program("variants")
    found = {"as it is": [[0.8, 1.5, 0.6, 0.9, 0.7], [0.82, 1.7, 0.7, 1.0, 0.7]]}
    assert variants.table(found).splitlines()[2] == (
        "| as it is |  | 0.81 ± 0.01 | 1.60 ± 0.14 | 0.65 ± 0.07 | 0.95 ± 0.07 | 0.70 ± 0.00 |"
    )


def test_the_challenge_says_what_counts(program, monkeypatch, tmp_path, capsys):
    challenge = program("challenge")
    asked = []

    def pretend(folder, flags, threads):
        asked.append(flags)
        return RUN

    monkeypatch.setattr(challenge, "train_and_compare", pretend)
    challenge.main(["--name", "Ann", "--out", str(tmp_path / "x"), "--kl_type", "forward"])
    assert asked == [["--kl_type", "forward", "--seed", seed] for seed in (0, 1, 2)]
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("it counts")
    assert said[-1] == "| Ann | 0.820 | 0.700 | 0.500 | 0.700 | `--kl_type forward` |"
    assert challenge.verdict([0.79, 0.5, 0.5, 0.7]).startswith("not yet: the sentiment")
    assert challenge.verdict([0.99, math.nan, math.nan, 0.7]).startswith("not yet: what such")
    for words in (["--seed", "3"], ["--max_steps=100"], ["--prompts", "mine.txt"]):
        with pytest.raises(SystemExit, match="is the same for all"):
            challenge.main(words)
    (tmp_path / "x" / "seed-0").mkdir(parents=True)
    with pytest.raises(SystemExit, match="exists: choose another --out"):
        challenge.main(["--out", str(tmp_path / "x")])


def test_a_folder_is_named_from_where_a_person_stands(program, monkeypatch, tmp_path):
    """The programs that are measured run in the project's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    name_or_folder = program("starting").name_or_folder
    assert name_or_folder("mine") == str(tmp_path / "mine")
    assert name_or_folder("gpt2") == "gpt2"


def test_low_texts_are_counted(program, monkeypatch, capsys):
    import evaluate

    samples = [{"sentiment": score} for score in (0.1, 0.199, 0.2, 0.9)]
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_, **__: {"samples": samples})
    program("low_texts").main([str(ROOT / "tiny" / "gpt2")])
    assert capsys.readouterr().out.endswith("gpt2: 2 of 4, 50.00%\n")
