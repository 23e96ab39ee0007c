import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import data
import monitor
import preflight
import train
from monitor import read_jsonl
from train import OptionError, resolve_options

ROOT = Path(train.__file__).parent
FAST = {
    "preset": "tiny",
    "max_steps": 2,
    "batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "eval_steps": 1,
    "use_solution": (ROOT / "rewards_solution.py").exists(),  # a student's copy has none
}


@pytest.fixture(autouse=True)
def few_validation_prompts(monkeypatch):
    monkeypatch.setattr(data, "VALIDATION_PROMPTS", data.VALIDATION_PROMPTS[:4])


def run(tmp_path, **options):
    trainer = train.train(**{**FAST, "output_dir": str(tmp_path / "out"), **options})
    return trainer, tmp_path / "out"


def fails(capsys, *arguments):
    """The one line that the command line prints for a user's mistake."""
    with pytest.raises(SystemExit) as error:
        train.main([str(a) for a in arguments])
    message = error.value.code if isinstance(error.value.code, str) else capsys.readouterr().err
    assert error.value.code not in (0, None)
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 1
    return message


# options


def test_explicit_options_win_over_config_over_preset(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("preset: tiny\nmax_steps: 7\nlearning_rate: 5e-4\nwandb: true\n")
    options = resolve_options({"config": str(config), "max_steps": 9})
    assert (options.max_steps, options.learning_rate, options.wandb) == (9, 5e-4, True)
    assert options.max_completion_length == train.PRESETS["tiny"]["max_completion_length"]
    assert options.kl_coef == 0.1


def test_defaults_are_the_medium_preset():
    assert train.PRESETS["medium"].items() <= vars(resolve_options({})).items()
    assert resolve_options({"reward_shaping": "none"}).reward_shaping == "linear"


def test_command_line_gives_only_what_was_said():
    given = train.parse_arguments(["--kl_type", "forward", "--use_peft", "--kl_coef", "0.3"])
    assert given == {"kl_type": "forward", "use_peft": True, "kl_coef": 0.3}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"kl_typ": "forward"}, "no option 'kl_typ'. Did you mean kl_type"),
        ({"kl_type": "both"}, "kl_type must be one of none, forward, backward, not 'both'"),
        ({"num_generations": 1}, "num_generations must be at least 2"),
        ({"num_generations": 7}, "7 does not divide --batch_size 64; .* 2, 4, 8, 16, 32, 64"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": "many"}, "max_steps must be of type int"),
        ({"max_steps": 2.5}, "max_steps must be of type int"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0"),
        ({"learning_rate": True}, "learning_rate must be of type float"),
        ({"temperature": 0.0}, "temperature must be at least 0.01"),
        ({"wandb": "yes"}, "wandb must be of type bool"),
        ({"config": "no.yaml"}, "Cannot read the config file no.yaml"),
    ],
)
def test_bad_options(given, message):
    with pytest.raises(OptionError, match=message):
        resolve_options(given)


@pytest.mark.parametrize("content", ["- a\n- b\n", "just text", "a: [1\n", ""])
def test_bad_config_files(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(OptionError, match="config file .*c.yaml"):
        resolve_options({"config": str(tmp_path / "c.yaml")})


# bad input on the command line: one line, a non-zero exit, nothing half-written


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--kl_type", "sideways"], "invalid choice: 'sideways'"),
        (["--no_such_flag"], "unrecognized arguments: --no_such_flag"),
        (["--max_steps", "ten"], "invalid int value: 'ten'"),
        (["--batch_size", "10"], "legal for this batch: 2, 5, 10"),
        (["--prompts", "missing.txt"], "Cannot read the prompts file missing.txt"),
        (["--model_name", "no/such-model"], "Cannot fetch 'no/such-model'"),
        (["--sentiment_model", "no/such-model"], "Cannot fetch 'no/such-model'"),
        (["--max_completion_length", "126"], "exceeds the model's context of 128"),
        (["--resume"], "There is no run to resume in"),
        (["--hackable_reward", "--reward_shaping", "five_stars"], "choose one"),
    ],
)
def test_mistakes(capsys, tmp_path, arguments, message):
    out = tmp_path / "out"
    assert re.search(message, fails(capsys, "--preset", "tiny", "--output_dir", out, *arguments))
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [("ACCELERATE_USE_FSDP", "true", "FSDP"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", "stage 3")],
)
def test_a_launch_that_shards_weights_is_refused(capsys, tmp_path, monkeypatch, name, value, what):
    monkeypatch.setenv(name, value)
    message = fails(capsys, "--preset", "tiny", "--output_dir", tmp_path / "out")
    assert what in message and "launch/zero2.yaml" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option, value, exercise",
    [("--kl_type", "forward", "3b"), ("--reward_shaping", "exponential", "2a")],
)
def test_an_exercise_still_to_do(capsys, tmp_path, unsolved, option, value, exercise):
    out = tmp_path / "out"
    message = fails(capsys, "--preset", "tiny", "--output_dir", out, option, value)
    assert re.search(rf"Exercise {exercise}: implement .* in rewards.py, line \d+", message)
    assert not out.exists()


def test_an_empty_prompts_file(capsys, tmp_path):
    (tmp_path / "p.txt").write_text("\n")
    message = fails(capsys, "--preset", "tiny", "--prompts", tmp_path / "p.txt")
    assert "holds no prompt" in message


def test_a_prompt_longer_than_the_context(capsys, tmp_path):
    (tmp_path / "p.txt").write_text("long " * 200)
    message = fails(capsys, "--preset", "tiny", "--prompts", tmp_path / "p.txt")
    assert "200 tokens" in message and "context of 128" in message


def test_an_output_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    message = fails(capsys, "--preset", "tiny", "--output_dir", tmp_path / "file" / "out")
    assert "Cannot write to" in message and "--output_dir" in message


@pytest.mark.parametrize(
    "body, message",
    [
        ("return [0.5]", "sentiment_reward returned 1 values for 2 completions"),
        ("return None", "sentiment_reward returned None"),
        ("return [float('nan')] * len(completions)", "returned nan at index 0"),
        ("return [float('inf')] * len(completions)", "returned inf at index 0"),
        ("return ['good'] * len(completions)", "returned 'good' at index 0"),
        ("return [[1.0]] * len(completions)", r"returned \[1.0\] at index 0"),
        ("return completions[99]", r"IndexError.*rewards.py, line 2"),
    ],
)
def test_a_reward_function_that_returns_nonsense(capsys, tmp_path, monkeypatch, body, message):
    import reward_utils

    source = f"def sentiment_reward(completions, **kwargs):\n    {body}\n"
    (tmp_path / "rewards.py").write_text(source)
    monkeypatch.setattr(reward_utils, "__file__", str(tmp_path / "reward_utils.py"))
    out = tmp_path / "out"
    assert re.search(message, fails(capsys, "--preset", "tiny", "--output_dir", out))
    assert not out.exists()


def test_debug_shows_the_traceback():
    with pytest.raises(OptionError):
        train.main(["--num_generations", "7", "--debug"])


# real runs


def test_a_run_leaves_what_it_promises(tmp_path, capsys, policy):
    from models import load_model

    trainer, out = run(tmp_path, kl_type="forward")
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["options"]["kl_type"] == "forward"
    assert manifest["before"]["kl"] == pytest.approx(0, abs=1e-5)
    assert manifest["versions"]["trl"] and manifest["seconds"] > 0
    assert [row["step"] for row in read_jsonl(out / "metrics.jsonl", phase="train")] == [1, 2]
    assert [row["step"] for row in read_jsonl(out / "metrics.jsonl", phase="validation")] == [
        0,
        1,
        2,
    ]
    first = read_jsonl(out / "metrics.jsonl", phase="train")[0]
    assert abs(first["kl_policy_ref"]) <= 1e-5 and abs(first["kl_penalty"]) <= 1e-5
    assert len(read_jsonl(out / "completions.jsonl")) == 3 * 4 * 2  # validations, prompts, samples
    assert (out / "checkpoint-2").is_dir()
    model, _ = load_model(str(out / "final"), "cpu")
    weights = dict(trainer.model.named_parameters())
    assert all(p.equal(weights[name]) for name, p in model.named_parameters())
    assert not model.transformer.wte.weight.equal(policy[0].transformer.wte.weight)
    shown = capsys.readouterr().out
    assert "before → after" in shown and "python evaluate.py compare" in shown
    assert "KL(policy‖ref), the reverse KL" in shown
    assert "{'loss'" not in shown and "Warning" not in shown
    assert max(map(len, shown.splitlines())) <= 200


def test_an_earlier_run_moves_aside(tmp_path):
    for _ in range(3):
        run(tmp_path, max_steps=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.1", "out.2"]


def test_the_same_seed_gives_the_same_run(tmp_path, monkeypatch):
    import models

    weights, seeds, generate = [], [], models.generate

    def spy(*args, **validation):
        if not validation:
            seeds.append(args[5])
        return generate(*args, **validation)

    monkeypatch.setattr(models, "generate", spy)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer, _ = run(tmp_path / name, seed=seed)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert seeds[:2] == seeds[2:4] and len(set(seeds)) == 4  # each step of each run its own


def test_resume_goes_on_where_the_run_stopped(tmp_path):
    run(tmp_path / "whole", max_steps=4, save_steps=2)
    run(tmp_path / "parts", max_steps=2, save_steps=2)
    _, out = run(tmp_path / "parts", max_steps=4, save_steps=2, resume=True)
    whole = tmp_path / "whole" / "out"
    for phase in ("train", "validation"):
        parts = read_jsonl(out / "metrics.jsonl", phase=phase)
        want = read_jsonl(whole / "metrics.jsonl", phase=phase)
        assert [row["step"] for row in parts] == [row["step"] for row in want]
        key = "reward" if phase == "train" else "sentiment"
        assert [r[key] for r in parts] == pytest.approx([r[key] for r in want], abs=1e-6)


def test_lora_trains_the_adapter_alone_and_merges_it(tmp_path, policy):
    from models import load_model

    trainer, out = run(tmp_path, use_peft=True, kl_type="backward", learning_rate=1e-2)
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained)
    model, _ = load_model(str(out / "final"), "cpu")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.transformer.wte.weight.equal(policy[0].transformer.wte.weight)
    attention = model.transformer.h[0].attn.c_attn.weight
    assert not attention.equal(policy[0].transformer.h[0].attn.c_attn.weight)
    validations = read_jsonl(out / "metrics.jsonl", phase="validation")
    assert validations[0]["kl"] == pytest.approx(0, abs=1e-5) and validations[-1]["kl"] != 0


@pytest.mark.parametrize("options", [{"beta": 0.1}, {"beta": 0.1, "use_peft": True}])
def test_beta_turns_on_the_kl_term_of_trl(tmp_path, options):
    _, out = run(tmp_path, max_steps=1, **options)
    assert "kl" in read_jsonl(out / "metrics.jsonl", phase="train")[0]


@pytest.mark.parametrize(
    "options",
    [
        {"reward_shaping": "exponential", "negate_reward": True},
        {"reward_shaping": "shaped", "hackable_reward": True},
        {"reward_shaping": "five_stars", "kl_type": "backward"},
        {"reward_shaping": "custom", "temperature": 0.8},
        {"hackable_reward": True},
    ],
)
def test_every_reward_runs(tmp_path, options):
    _, out = run(tmp_path, max_steps=1, **options)
    score, reward = (
        read_jsonl(out / "metrics.jsonl", phase="train")[0][k] for k in ("score", "reward")
    )
    assert reward == pytest.approx(-score if options.get("negate_reward") else score, abs=1e-4)


def test_a_model_without_a_fast_rollout_trains_all_the_same(tmp_path, capsys, policy):
    from transformers import BloomConfig, BloomForCausalLM

    model, tokenizer = policy
    config = BloomConfig(vocab_size=model.config.vocab_size, hidden_size=16, n_layer=2, n_head=2)
    config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    _, out = run(tmp_path, model_name=str(tmp_path / "bloom"), kl_type="forward")
    assert capsys.readouterr().out.count("by the model's own generate") == 1
    first, second = read_jsonl(out / "metrics.jsonl", phase="train")
    assert abs(first["kl_policy_ref"]) <= 1e-5 and second["reward"] != first["reward"]
    rows = read_jsonl(out / "metrics.jsonl", phase="validation")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and rows[-1]["kl"] != 0


def test_prompts_file_is_what_the_policy_sees(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("Nobody\nEverybody\n")
    trainer, _ = run(tmp_path, prompts=str(tmp_path / "p.txt"), max_steps=1)
    assert trainer.train_dataset["prompt"][:] == ["Nobody", "Everybody"]


def test_check_writes_nothing(tmp_path, capsys):
    arguments = ["--check", "--preset", "tiny", "--output_dir", str(tmp_path / "out")]
    assert train.main(arguments) is None
    shown = capsys.readouterr().out
    assert shown.count("✓") == 9 and "60 steps × 8 prompts × 8 completions: 7.5 passes" in shown
    assert list(tmp_path.iterdir()) == []


def test_check_ends_red_where_something_is_missing(tmp_path, capsys, unsolved):
    (tmp_path / "empty").mkdir()
    arguments = ["--check", "--preset", "tiny", "--kl_type", "forward"]
    arguments += ["--model_name", str(tmp_path / "empty"), "--prompts", str(tmp_path / "none.txt")]
    with pytest.raises(SystemExit, match="not ready"):
        train.main([*arguments, "--output_dir", str(tmp_path / "out")])
    lines = {line[2:12].strip(): line for line in capsys.readouterr().out.splitlines()}
    crosses = {name for name, line in lines.items() if line.startswith("✗")}
    assert crosses == {"model", "batch", "exercises"}
    assert "Exercise 3b: kl_penalty_forward" in lines["exercises"]
    assert "none.txt" in lines["batch"] and "holds no model" in lines["model"]


def test_packages_are_compared_with_their_pins(monkeypatch):
    assert preflight.check_packages() == (preflight.GOOD, "all as pinned")
    real = preflight.importlib.metadata.version
    versions = {"trl": "0.1.0", "torch": "2.13.0+cu130"}
    monkeypatch.setattr(
        preflight.importlib.metadata, "version", lambda name: versions.get(name) or real(name)
    )
    mark, text = preflight.check_packages()
    assert mark == preflight.DOUBTFUL and text.startswith("trl 0.1.0, not ") and "torch" not in text

    def gone(name):
        if name == "peft":
            raise preflight.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(preflight.importlib.metadata, "version", gone)
    assert preflight.check_packages() == (
        preflight.BAD,
        "missing: peft; pip install -r requirements.txt",
    )


def gpt2_config(**sizes):
    from transformers import GPT2Config

    return GPT2Config(**sizes)


def test_weights_are_counted_from_a_configuration(policy, classifier):
    for model in (policy[0], classifier[0]):
        weights = sum(p.numel() for p in model.parameters())
        assert preflight.weights_of(model.config) == pytest.approx(weights, rel=0.02)
    assert preflight.weights_of(gpt2_config()) == pytest.approx(124.4e6, rel=0.01)


def test_memory_is_near_what_was_measured(policy, classifier):
    """Peaks of three runs on a CPU with the bundled sentiment model."""
    scorer = classifier[0].config
    tiny = train.resolve_options({"preset": "tiny"})
    quick = train.resolve_options({"preset": "quick"})
    lora = train.resolve_options({"preset": "medium", "use_peft": True})
    measured = ((tiny, policy[0].config, 2.1e9), (quick, gpt2_config(), 8.3e9))
    for options, config, peak in (*measured, (lora, gpt2_config(), 9.0e9)):
        need = preflight.memory_of_a_step(options, config, scorer)
        assert need == pytest.approx(peak, rel=1 / 3)


def test_too_little_memory_or_disk_is_a_cross(policy, classifier, monkeypatch, tmp_path):
    options = train.resolve_options({"preset": "tiny", "output_dir": str(tmp_path / "a" / "b")})
    configs = policy[0].config, classifier[0].config
    for free, mark in ((1e8, preflight.BAD), (1.7e9, preflight.DOUBTFUL), (9e9, preflight.GOOD)):
        monkeypatch.setattr(preflight, "free_memory", lambda free=free: free)
        assert preflight.check_memory(options, *configs)[0] == mark
    assert preflight.check_disk(options, configs[0])[0] == preflight.GOOD
    usage = preflight.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    mark, text = preflight.check_disk(options, configs[0])
    assert mark == preflight.BAD and "choose another --output_dir" in text


def test_groups_with_equal_rewards_are_named(tmp_path, capsys, monkeypatch):
    import reward_utils

    monkeypatch.setattr(reward_utils, "_five_stars", None)
    shapings = {**reward_utils.SHAPINGS, "five_stars": (lambda r, c, p, s: [0.0] * len(c), "zero")}
    monkeypatch.setattr(reward_utils, "SHAPINGS", shapings)
    run(tmp_path, reward_shaping="five_stars", max_steps=1)
    assert "100% of the groups earned one and the same reward" in capsys.readouterr().out


@pytest.mark.slow
def test_wandb_offline(tmp_path):
    """The real client, in a process of its own."""
    options = {**FAST, "output_dir": str(tmp_path / "out"), "wandb": True}
    code = (
        "import data; data.VALIDATION_PROMPTS = data.VALIDATION_PROMPTS[:4]; import train;"
        f"train.train(**{options!r})"
    )
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


# the screen


def test_table_fits_80_columns():
    metrics = {
        "sentiment": 0.975,
        "sentiment_sd": 0.25,
        "positive_share": 1.0,
        "kl": 123.45,
        "perplexity": 12345.6,
        "length": 48.0,
        "repetition_3": 0.999,
        "positive_words": 1.0,
    }
    row = monitor.format_row(300, metrics)
    assert len(row) <= 80 and len(row) == len(monitor.HEADER)
    assert row.split() == [
        "300",
        "0.975",
        "±0.25",
        "100%",
        "123.5",
        "12345.6",
        "48.0",
        "99.9%",
        "100%",
    ]


def test_rows_beyond_a_checkpoint_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4')  # the last was cut off
    monitor.keep_rows(file, lambda row: row["step"] <= 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


SCRIPTS = [ROOT / name for name in ("train.py", "evaluate.py", "kl_lab.py")]
SCRIPTS += [
    ROOT / "instructor" / f"{name}.py" for name in ("build_tiny", "release", "make_notebook")
]


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.exists()])
def test_help(script):
    result = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("usage:")
