import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from made_up_models import TINY, adapter_of

import data
import train
from engine.common import UserError, read_jsonl

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
        (["--kl_target", "2"], "add --kl_type forward or backward"),
        (["--kl_target", "0", "--kl_type", "forward"], "kl_target must be at least 0.01"),
    ],
)
def test_mistakes(capsys, tmp_path, arguments, message):
    out = tmp_path / "out"
    assert re.search(message, fails(capsys, "--preset", "tiny", "--output_dir", out, *arguments))
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "leave one of the two out"),
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", "shard the weights with FSDP"),
        ("WORLD_SIZE", "2", "Several machines cannot train one run"),
    ],
)
def test_launches_that_no_run_can_use(capsys, tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    said = fails(capsys, "--preset", "tiny", "--use_peft", "--output_dir", tmp_path / "out")
    assert message in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option, value, exercise",
    [("--kl_type", "forward", "3b"), ("--reward_shaping", "exponential", "2a")],
)
def test_an_exercise_still_to_do(capsys, tmp_path, unsolved, option, value, exercise):
    out = tmp_path / "out"
    arguments = ["--preset", "tiny", "--output_dir", out, "--rewards", unsolved]
    message = fails(capsys, *arguments, option, value)
    assert re.search(rf"Exercise {exercise}: implement .* in rewards.py, line \d+", message)
    assert not out.exists()


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
        (
            "return [[1.0, 0.5]] * len(completions)",
            "returned a list of numbers for each completion",
        ),
        ("return completions[99]", r"IndexError.*rewards.py, line 2"),
        (
            "raise SystemExit",
            r"^train.py: sentiment_reward failed: SystemExit: .*rewards.py, line 2",
        ),
    ],
)
def test_a_reward_function_that_returns_nonsense(capsys, tmp_path, body, message):
    source = f"def sentiment_reward(completions, **kwargs):\n    {body}\n"
    (tmp_path / "rewards.py").write_text(source)
    out = tmp_path / "out"
    arguments = ["--preset", "tiny", "--output_dir", out, "--rewards", tmp_path / "rewards.py"]
    assert re.search(message, fails(capsys, *arguments))
    assert not out.exists()


def test_what_a_reward_sets_for_the_whole_process_changes_no_figure(tmp_path):
    changes = "torch.set_default_dtype(torch.float64)", "torch.set_grad_enabled(False)"
    changes += "torch.manual_seed(0)", "warnings.simplefilter('error')"
    found = []
    for name, lines in ("plain", ()), ("changing", changes):
        body = "\n    ".join([*lines, "return [len(text) / 10 for text in completions]"])
        source = "\n".join(["import warnings, torch", *lines])
        source += f"\n\n\ndef my_custom_reward(completions, **kwargs):\n    {body}\n"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        options = {"rewards": str(tmp_path / f"{name}.py"), "reward_shaping": "custom"}
        options |= {"output_dir": str(tmp_path / name), "eval_steps": 10, "use_solution": False}
        run(tmp_path, **options)
        rows = read_jsonl(tmp_path / name / "metrics.jsonl")
        times = ("step_time", "seconds")
        found.append([{k: v for k, v in row.items() if k not in times} for row in rows])
    assert found[0] == found[1] and found[0][1]["reward"] != found[0][2]["reward"]


def test_debug_shows_the_traceback():
    with pytest.raises(UserError):
        train.main(["--num_generations", "7", "--debug"])


def test_a_run_leaves_what_it_promises(tmp_path, capsys, policy, solution):
    from engine.model.loading import load_model

    trainer, out = run(tmp_path, kl_type="forward")
    manifest = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "finished"
    assert manifest["options"]["kl_type"] == "forward"
    assert manifest["options"]["model_name"] == "tiny/gpt2"  # from this project's folder
    rewards = ROOT / manifest["rewards_file"]
    assert manifest["sha256"]["rewards"] == hashlib.sha256(rewards.read_bytes()).hexdigest()
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
    for text in (row["policy"] for row in read_jsonl(out / "explore.jsonl", kind="sample")):
        q, p = torch.tensor([token[1:3] for token in text["tokens"]]).T[:, None]  # (1, T) each
        assert text["score"] == text["shaped"] == pytest.approx(text["sentiment"], abs=1e-4)
        penalty = solution.kl_penalty_forward(q, p, torch.ones_like(q).bool(), kl_coef=0.1)
        assert text["penalty"] == pytest.approx(float(penalty[0]), abs=1e-4)
        assert text["reward"] == pytest.approx(text["shaped"] - text["penalty"], abs=2e-5)
    assert (out / "checkpoint-2").is_dir()
    model, _ = load_model(str(out / "final"), "cpu")
    weights = dict(trainer.model.named_parameters())
    assert all(p.equal(weights[name]) for name, p in model.named_parameters())
    assert not model.transformer.wte.weight.equal(policy[0].transformer.wte.weight)
    shown = capsys.readouterr().out
    assert "before → after" in shown and "python evaluate.py compare" in shown
    assert "KL(policy‖ref), the reverse KL" in shown
    assert "{'loss'" not in shown and "Warning" not in shown
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card == (out / "final" / "README.md").read_text(encoding="utf-8")
    assert "tiny/gpt2" in card and "None" not in card and f"Reward:** {manifest['reward']}" in card
    assert f"| sentiment | {manifest['before']['sentiment']:.3f} |" in card
    assert "8 completions to 4 prompts" in card and "64, openings of film reviews" in card
    sample = read_jsonl(out / "completions.jsonl", step=0)[0]
    text = " ".join((sample["prompt"] + sample["completion"]).split())
    assert text in " ".join(shown.split())  # whole, however it is wrapped
    assert max(map(len, shown.splitlines())) <= 200


def test_the_same_seed_gives_the_same_run(tmp_path, monkeypatch):
    """From the first weights of an adapter on, which are random and hardly move in two steps."""
    from engine.training import trainer as trainer_module

    weights, adapters, seeds = [], [], []
    generate = trainer_module.generate

    def spy(model, tokenizer, prompt_ids, sampling, rows):
        seeds.append(sampling.seed)
        return generate(model, tokenizer, prompt_ids, sampling, rows)

    monkeypatch.setattr(trainer_module, "generate", spy)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer, _ = run(tmp_path / name, seed=seed, use_peft=True, eval_steps=9)
        named = list(trainer.model.named_parameters())
        weights.append(torch.cat([p.detach().flatten() for _, p in named]))
        adapters.append(torch.cat([p.detach().flatten() for n, p in named if "lora_A" in n]))
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert (adapters[0] - adapters[2]).abs().mean() > 0.01
    assert seeds[:2] == seeds[2:4] and len(set(seeds)) == 4  # each step of each run its own


def test_a_resumed_run_is_equal_to_the_last_bit(tmp_path, capsys, monkeypatch):
    """Weights, figures, texts and card; under a KL target the coefficient is another each step."""
    from engine.training.monitor import Monitor

    write = Monitor.on_log

    def killed(self, args, state, control, **kwargs):
        write(self, args, state, control, **kwargs)
        if state.global_step == 3:  # its row is in metrics.jsonl, beyond the checkpoint
            raise KeyboardInterrupt

    options = {"kl_type": "forward", "kl_target": 0.5, "save_steps": 2, "max_steps": 5}
    one, whole = run(tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Monitor, "on_log", killed)
        run(tmp_path / "parts", **options)
    capsys.readouterr()
    other, parts = run(tmp_path / "parts", max_steps=5, resume=True)
    assert "Continuing from checkpoint-2" in (said := capsys.readouterr().out)
    shown = " ".join(said.split())
    assert "kl_coef, 0.1 at first, is adapted to end near 0.5 nats" in shown
    assert re.search(r"kl_coef 0\.1 → \S+: the last steps had \S+ nats, the target is 0\.5", shown)
    weights = dict(one.model.named_parameters())
    assert all(p.equal(weights[name]) for name, p in other.model.named_parameters())
    rows, others = (
        [{k: v for k, v in row.items() if k != "step_time"} for row in read_jsonl(file)]
        for file in (whole / "metrics.jsonl", parts / "metrics.jsonl")
    )
    assert rows == others
    for name in ("completions.jsonl", "explore.jsonl", "README.md"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert {p.name for p in whole.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
    coefs = [row["kl_coef"] for row in rows if row["phase"] == "train"]
    assert coefs[0] == pytest.approx(0.1) and len(set(coefs)) == 5
    assert json.loads((parts / "run.json").read_text(encoding="utf-8"))["kl_coef"] == coefs[-1]
    longer, _ = run(tmp_path / "parts", max_steps=6, resume=True)  # what is finished can go on
    assert longer.state.global_step == 6


def test_lora_trains_the_adapter_alone_and_merges_it(tmp_path, policy):
    from engine.model.loading import load_model

    trainer, out = run(tmp_path, use_peft=True, kl_type="backward", learning_rate=1e-2)
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)  # the trainer keeps its adapter
    merged = trainer.model.base_model.model.transformer.h[0].attn.c_attn.base_layer.weight
    assert merged.equal(policy[0].transformer.h[0].attn.c_attn.weight)  # and its base as it was
    model, _ = load_model(str(out / "final"), "cpu")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.transformer.wte.weight.equal(policy[0].transformer.wte.weight)
    attention = model.transformer.h[0].attn.c_attn.weight
    assert not attention.equal(policy[0].transformer.h[0].attn.c_attn.weight)
    validations = read_jsonl(out / "metrics.jsonl", phase="validation")
    assert validations[0]["kl"] == pytest.approx(0, abs=1e-5) and validations[-1]["kl"] != 0
    assert "a LoRA adapter, merged into its base" in (out / "final" / "README.md").read_text(
        encoding="utf-8"
    )
    assert not list(out.glob("checkpoint-*/README.md"))  # PEFT's template knows nothing of the run


@pytest.mark.parametrize(
    ("scores", "most"), [(torch.bfloat16, 0), (None, 1e-3)], ids=["as on a T4", "as on an A100"]
)
def test_step_0_has_no_kl_under_mixed_precision(tmp_path, monkeypatch, scores, most):
    """bfloat16 for the loss, on a CPU; where both models are asked under autocast, the policy is
    the reference to the last bit, and where the rollout is believed, to its rounding."""
    from engine.model import devices, loading
    from engine.training import trainer as trainer_module

    mixed = devices.Precision(loss=torch.bfloat16, scores=scores)
    for module in (loading, trainer_module):
        monkeypatch.setattr(module, "mixed_precision", lambda device: mixed)
    kind = {"kl_type": "forward"} if FAST["use_solution"] else {"beta": 0.0}
    trainer, out = run(tmp_path, max_steps=1, max_completion_length=16, **kind)
    assert trainer.accelerator.mixed_precision == "no"  # or it would wrap the policy alone
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["before"]["kl"] == 0
    row = read_jsonl(out / "metrics.jsonl", phase="train")[0]
    assert 0 <= row.get("kl_policy_ref", 0) <= most and 0 <= row.get("kl_ref_policy", 0) <= most


def test_a_final_model_that_cannot_be_saved_is_one_line(tmp_path, capsys, monkeypatch):
    from engine.training import run_folder

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "save_final", full)
    out = tmp_path / "out"
    arguments = ["--preset", "tiny", "--max_steps", "1", "--batch_size", "4", "--output_dir", out]
    arguments += ["--num_generations", "2", "--max_completion_length", "4"]
    message = fails(capsys, *arguments)
    assert "After the last step: the disk of" in message and "checkpoint-1 is kept" in message
    manifest = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (
        manifest["status"] == "stopped" and manifest["after"]["sentiment"] > 0
    )  # what is measured


@pytest.mark.parametrize("options", [{"beta": 0.1}, {"beta": 0.1, "use_peft": True}])
def test_beta_turns_on_the_kl_term_of_trl(tmp_path, options):
    _, out = run(tmp_path, max_steps=1, **options)
    # Prompts of unequal length are padded, and before the first step policy and reference agree.
    assert read_jsonl(out / "metrics.jsonl", phase="train")[0]["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"reward_shaping": "exponential", "negate_reward": True},
        {"reward_shaping": "shaped", "hackable_reward": True},
        {"reward_shaping": "five_stars", "kl_type": "backward"},
        {"reward_shaping": "custom", "temperature": 0.8},
        {"hackable_reward": True},
        {"reward_shaping": "exponential", "credit": "prefix", "lr_scheduler_type": "linear"},
    ],
)
def test_every_reward_runs(tmp_path, options):
    _, out = run(tmp_path, max_steps=1, **options)
    score, reward = (
        read_jsonl(out / "metrics.jsonl", phase="train")[0][k] for k in ("score", "reward")
    )
    assert reward == pytest.approx(-score if options.get("negate_reward") else score, abs=1e-4)
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))["reward"]
    assert ("an advantage of its own" in told) == (options.get("credit") == "prefix")


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


@pytest.mark.parametrize("options", [{"beta": 0.1}, {"use_peft": True}])
def test_training_starts_from_an_adapter(tmp_path, options):
    """Policy and both references are what PEFT makes of it; its base is 1.6 nats away."""
    from engine.model.loading import load_model

    name, adapted = adapter_of("head", tmp_path / "adapter")
    kind = {"kl_type": "forward"} if FAST["use_solution"] else {}
    trainer, out = run(tmp_path, model_name=name, learning_rate=1e-3, **options, **kind)
    validations = read_jsonl(out / "metrics.jsonl", phase="validation")
    assert validations[0]["kl"] == pytest.approx(0, abs=1e-4) and validations[-1]["kl"] != 0
    first = read_jsonl(out / "metrics.jsonl", phase="train")[0]
    for figure in ("kl_policy_ref", "kl"):  # of the penalty, and of TRL's term
        assert first.get(figure, 0) == pytest.approx(0, abs=1e-5)
    ids = torch.arange(40, 50)[None]
    with torch.no_grad():
        start = adapted(ids).logits
        model, _ = load_model(str(out / "final"), "cpu")
        moved = (model(ids).logits - start).abs().max()
    assert type(model).__name__ == "GPT2LMHeadModel" and 0 < moved < 1


@pytest.mark.parametrize("generation", ["own", "trl"])
def test_ends_of_another_tokenizer_and_model(tmp_path, generation):
    """A tokenizer that ends each prompt, and a model with a second token that ends a text."""
    from tokenizers import processors
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    bundled = AutoTokenizer.from_pretrained(TINY)
    end = bundled.eos_token
    second = bundled(" the")["input_ids"][-1]
    own = bundled.backend_tokenizer
    own.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, eos_token=end, unk_token=end)
    model = AutoModelForCausalLM.from_pretrained(TINY)
    model.generation_config.eos_token_id = [0, second]
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    trainer, out = run(
        tmp_path,
        model_name=str(tmp_path / "model"),
        generation=generation,
        batch_size=32,
        max_steps=1,
        max_completion_length=16,
    )
    rows = trainer.batch.completion_ids
    assert tokenizer("The plot")["input_ids"][-1] == 0
    assert all(ids and ids[-1] != 0 for ids in trainer.batch.prompt_ids)
    assert not any({0, second} & set(row[:-1]) for row in rows)
    ended = [row[-1] in (0, second) for row in rows]
    assert any(row[-1] == second for row in rows) and not all(ended)
    figures = read_jsonl(out / "metrics.jsonl", phase="train")[0]
    assert figures["completions/clipped_ratio"] == pytest.approx(1 - sum(ended) / len(ended))
    samples = read_jsonl(out / "completions.jsonl")
    assert any(sample["finished"] for sample in samples if sample["length"] < 16)
    assert all(sample["finished"] == (sample["length"] < 16) for sample in samples[:4])


def test_a_model_that_scores_otherwise_than_it_samples_is_refused(tmp_path, capsys, policy):
    from transformers import RwkvConfig, RwkvForCausalLM

    size = {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}
    config = RwkvConfig(vocab_size=len(policy[1]), bos_token_id=0, eos_token_id=0, **size)
    model = RwkvForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    model.save_pretrained(tmp_path / "rwkv")
    policy[1].save_pretrained(tmp_path / "rwkv")
    out = tmp_path / "out"
    arguments = ["--preset", "tiny", "--model_name", tmp_path / "rwkv", "--output_dir", out]
    assert "of the kind rwkv cannot be trained here" in fails(capsys, *arguments)
    assert not out.exists()


def test_prompts_file_is_what_the_policy_sees(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("Nobody\nEverybody\nNobody\n", encoding="utf-8")
    trainer, _ = run(tmp_path, prompts=str(tmp_path / "p.txt"), max_steps=3)
    assert set(trainer.train_dataset["prompt"]) == {"Nobody", "Everybody"}
    text = f"prompts 3 of {tmp_path / 'p.txt'}, 1 of them repeated; validation and its samples stay"
    assert " ".join(capsys.readouterr().out.split()).count(text) == 1


def test_check_refuses_a_folder_of_other_files(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SystemExit, match="not ready"):
        train.main(["--check", "--preset", "tiny", "--output_dir", str(tmp_path)])
    assert "✗ disk" in (shown := capsys.readouterr().out) and "such as thesis.tex" in shown


def test_check_writes_nothing(tmp_path, capsys):
    arguments = ["--check", "--preset", "tiny", "--output_dir", str(tmp_path / "out")]
    assert train.main(arguments) is None
    shown = capsys.readouterr().out
    assert shown.count("✓") == 9 and "60 steps × 8 prompts × 8 completions: 7.5 passes" in shown
    assert list(tmp_path.iterdir()) == []


def test_check_ends_red_where_something_is_missing(tmp_path, capsys, unsolved):
    (tmp_path / "empty").mkdir()
    arguments = ["--check", "--preset", "tiny", "--kl_type", "forward", "--rewards", str(unsolved)]
    arguments += ["--model_name", str(tmp_path / "empty"), "--prompts", str(tmp_path / "none.txt")]
    with pytest.raises(SystemExit, match="not ready"):
        train.main([*arguments, "--output_dir", str(tmp_path / "out")])
    lines = {line[2:12].strip(): line for line in capsys.readouterr().out.splitlines()}
    crosses = {name for name, line in lines.items() if line.startswith("✗")}
    assert crosses == {"model", "batch", "exercises"}
    assert "Exercise 3b: kl_penalty_forward" in lines["exercises"]
    assert "none.txt" in lines["batch"] and "holds no model" in lines["model"]


def test_groups_of_one_text_are_named(tmp_path, capsys):
    """And counted by group where the whole batch's deviation divides."""
    run(tmp_path, temperature=0.01, max_steps=1, beta=0.1, scale_rewards="batch")
    shown = capsys.readouterr().out
    assert "in 100% of the groups all completions were one and the same text" in shown
    assert "advantages are 0, and only the KL term of --beta moves the policy there." in shown
    assert "in 100% of the groups all rewards were equal" in shown


def test_groups_with_equal_rewards_are_named(tmp_path, capsys, monkeypatch):
    import reward_utils

    zeros = reward_utils.Shaper(lambda rewards, options, batch: [0.0] * len(batch.prompts), "zeros")
    monkeypatch.setitem(reward_utils.SHAPERS, "five_stars", zeros)
    run(tmp_path, reward_shaping="five_stars", max_steps=2)
    shown = capsys.readouterr().out
    assert "in 100% of the groups all rewards were equal" in shown
    said = (
        "step 1: in every group all rewards were equal. Where rewards are equal, advantages are 0."
    )
    assert said in shown and shown.count("advantages are 0") == 1
    run(tmp_path, reward_shaping="five_stars", max_steps=1, credit="prefix")  # parts may differ
    assert "all rewards were equal" not in capsys.readouterr().out
