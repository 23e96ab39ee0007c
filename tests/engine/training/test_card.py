import math
import re
import shlex

import pytest
import yaml

from engine.common import ROOT
from engine.measuring.optimum import SETTINGS, Optimum, settings_of
from engine.options import FIELDS, parse_arguments, resolve_options
from engine.training.card import changed, command, examples, front_matter, model_card, shown

SAMPLES = [
    {"prompt": "It", "completion": " is <b>good</b>.", "sentiment": 0.9},
    {"prompt": "It", "completion": " is bad.", "sentiment": 0.1},
    {"prompt": "He", "completion": " said\n*so*.", "sentiment": 0.5},
]


def a_run(**given):
    options = vars(resolve_options({"preset": "tiny", **given}))
    return {
        "options": options,
        "reward": "linear sentiment",
        "rewards_file": "/x/mine/rewards.py",
        "sha256": {"rewards": "0a1b2c"},
        "train_prompts": 64,
        "before": {"sentiment": 0.5, "kl": 0.0, "sentiment_sd": 0.1},
        "after": {"sentiment": 0.98765, "kl": 2.5, "sentiment_sd": 0.1},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "git_commit": "abc",
        "device": "cpu",
    }


def test_the_card_says_what_the_run_was():
    card = model_card(a_run(kl_type="forward", seed=3, output_dir="/x/outputs/mine"), SAMPLES)
    assert "# mine\n" in card and "`tiny/gpt2`" in card and "**Reward:** linear sentiment" in card
    assert "| sentiment | 0.500 | 0.988 |" in card and "| KL (nats) | 0.00 | 2.50 |" in card
    assert "3 completions to 2 prompts" in card and "seed 3" in card and "`abc`" in card
    assert "all weights, 60 steps × 64 completions of at most 32" in card
    assert "| `kl_type` | forward | none |" in card and "output_dir" not in card
    assert "with the `rewards.py` whose SHA-256 is\n`0a1b2c`:\n" in card
    assert "None" not in card and str(ROOT) not in card and "/x/" not in card


def test_a_run_of_two_rewards_files_says_that_one_command_does_not_repeat_it():
    run = a_run() | {"sha256_resumed": {"rewards": "ffff"}}
    said = "`ffff` (it began with another version, `0a1b2c`, and was resumed with this one"
    assert said in model_card(run, SAMPLES)
    assert "another version" not in model_card(run | {"sha256": {}}, SAMPLES)  # of an older program


def test_the_card_says_what_the_nats_bought_where_that_is_known(tmp_path):
    run = a_run(output_dir=str(tmp_path), kl_type="forward")
    base = settings_of(*(run["options"][name] for name in SETTINGS))
    scores = [i / 400 for i in range(401)]
    Optimum(base, {"It": scores, "He": scores}, 0.0).save(tmp_path / "optimum.json")
    samples = [{**sample, "sentiment": 0.6, "kl": 0.5} for sample in SAMPLES]
    assert "| needed (nats) |" not in model_card(a_run(), samples)
    card = model_card(run, samples)
    # near the mean of an even reward the least KL is (0.6 − 0.5)² / (2 · 1/12), and a little more
    (needed,) = re.findall(r"\| needed \(nats\) \| – \| ([\d.]+) \(", card)
    assert float(needed) == pytest.approx(0.06, abs=0.005)
    assert f"| sideways (nats) | – | {0.5 - float(needed):.2f} (" in card
    # the best of R − 0.1 · KL is 1 + 0.1 · log 0.1, and the run has 0.6 − 0.1 · 0.5
    (asked,) = re.findall(r"\| from what was asked \(nats\) \| – \| ([\d.]+) \(", card)
    assert float(asked) == pytest.approx(10 * (1 + 0.1 * math.log(0.1) - 0.55), abs=0.03)


def test_what_differs_is_named():
    card = model_card(a_run(use_peft=True, beta=0.04) | {"git_commit": None}, SAMPLES)
    assert "a LoRA adapter, merged into its base" in card and "0.04 × TRL's own KL term" in card
    assert "Commit of this project: unknown" in card


@pytest.mark.parametrize(
    "name, base", [("gpt2", "gpt2"), ("openai-community/gpt2", "openai-community/gpt2")]
)
def test_the_front_matter_names_a_base_of_the_hub(name, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = yaml.safe_load(front_matter(name).strip().strip("-"))
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base,
        "tags": ["grpo", "trl"],
    }


def test_the_front_matter_names_no_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (str(ROOT / "tiny" / "gpt2"), "mine", "/gone/mine", "../mine"):
        assert "base_model" not in front_matter(name)


def test_the_hub_can_read_the_card():
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(a_run(), SAMPLES))
    assert card.data.tags == ["grpo", "trl"] and card.data.license is None
    assert card.text.strip().startswith("# run")


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "tiny"},
        {"kl_type": "forward", "kl_target": 2.0, "use_peft": True, "report_to": "trackio"},
        {"preset": "quick", "max_steps": 7, "negate_reward": True, "model_name": "a model"},
        {"preset": "tiny", "rewards": str(ROOT / "rewards.py")},
    ],
)
def test_the_command_makes_the_same_run(given):
    options = resolve_options(given)
    words = shlex.split(command(vars(options)))
    assert words[:2] == ["python", "train.py"]
    again = vars(resolve_options(parse_arguments("", words[2:])))
    again |= {"report_to": options.report_to}
    if options.rewards:
        again["rewards"] = str(ROOT / again["rewards"])
    assert again == vars(options)


def test_a_path_of_one_machine_is_told_by_its_name():
    assert shown("gpt2") == "gpt2" and shown("/home/me/models/big") == "big"
    assert shown(str(ROOT / "tiny" / "gpt2")) == "tiny/gpt2" and shown(0.5) == "0.5"


def test_only_what_was_changed_counts():
    defaults = {name: field.default for name, field in FIELDS.items()}
    assert changed({**defaults, "seed": 1, "resume": True}, defaults) == {"seed": 1}


def test_examples_are_the_best_the_median_and_the_worst():
    assert examples(SAMPLES) == (
        "- best, 0.90: It is \\<b\\>good\\</b\\>.\n"
        "- median, 0.50: He said \\*so\\*.\n"
        "- worst, 0.10: It is bad."
    )
