import json

import pytest
from made_up_run import write_run

import evaluate
from engine import common
from engine.common import UserError
from engine.course.checklist import code_sum
from engine.measuring.runs import asked_kl_coef, read_run, read_runs, run_settings
from engine.options import PRESETS, resolve_options
from engine.pages.report import label

TINY = PRESETS["tiny"]


def test_settings_are_those_of_the_first_model_that_has_any(tmp_path):
    write_run(tmp_path / "run", sentiment_model="own", max_completion_length=20, temperature=0.7)
    want = {"sentiment_model": "own", "max_new_tokens": 20, "temperature": 0.7}
    assert run_settings(str(tmp_path / "run" / "final"), TINY["model_name"]) == want
    assert run_settings(str(tmp_path / "elsewhere"), TINY["model_name"]) == {
        "sentiment_model": TINY["sentiment_model"],
        "max_new_tokens": 48,
        "temperature": 1.0,
    }


def test_a_run_of_an_older_version_has_the_options_of_today(tmp_path):
    options = read_run(write_run(tmp_path / "run"))["manifest"]["options"]
    assert options["credit"] == "completion" and options["model_name"] == TINY["model_name"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"options": 3}', "\xff"])
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    (write_run(tmp_path / "run") / "run.json").write_text(content, encoding="latin-1")
    for arguments in (["evaluate", f"{tmp_path}/run/final"], ["report", f"{tmp_path}/run"]):
        with pytest.raises(SystemExit, match="run.json is damaged") as error:
            evaluate.main(arguments)
        assert "\n" not in error.value.code


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("metrics.jsonl", "", "has no validation yet"),
        ("explore.jsonl", "{oops\n", "cannot be read .*explore.jsonl"),
        ("completions.jsonl", "3\n", "cannot be read .*completions.jsonl"),
        ("completions.jsonl", '{"note": "mine"}\n', "cannot be read .*completions.jsonl"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path, file, content, message):
    (write_run(tmp_path / "run") / file).write_text(content)
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "run")


THE_PENALTY = {"kl_penalty_forward"}
MINE = """
def half(score):
    return score / 2

def sentiment_reward(completions):
    '''Exercise 1: the sentiment.'''
    return [half(1.0) for text in completions]

def shaped_reward(scores):
    '''Exercise 2b: uses another.'''
    return sentiment_reward(scores)

def kl_penalty_forward(q):
    '''Exercise 3b: the penalty.'''
    return q
"""


@pytest.mark.parametrize(
    ("old", "new", "marked"),
    [
        ("", "", set()),
        ("the penalty.", "the penalty, in other words.", set()),
        ("    '''Exercise 2b: uses another.'''\n", "", set()),
        ("def half", "'''What this is.'''\ndef half", set()),
        ("return q", "return q  # and a comment", set()),
        ("return q", "return -q", THE_PENALTY),
        ("[half(1.0)", "[half(2.0)", {"sentiment_reward", "shaped_reward"}),
        ("score / 2", "score / 3", {"sentiment_reward", "shaped_reward"}),
        ("def half", "factor = 2\n\ndef half", {"sentiment_reward", "shaped_reward"} | THE_PENALTY),
        ("return q", "return (q", {"sentiment_reward", "shaped_reward"} | THE_PENALTY),
    ],
)
def test_a_run_is_marked_where_what_it_called_has_changed(tmp_path, old, new, marked):
    """No other exercise, no comment and no docstring, but what stands beside the functions."""
    rewards = tmp_path / "mine.py"
    found = set()
    for name in ("sentiment_reward", "shaped_reward", "kl_penalty_forward"):
        rewards.write_text(MINE)
        folder = write_run(tmp_path / name, rewards=str(rewards))
        manifest = json.loads((folder / "run.json").read_text())
        manifest |= {"rewards_called": [name], "rewards_code": code_sum(rewards, [name])}
        common.write_json(folder / "run.json", manifest)
        rewards.write_text(MINE.replace(old, new))
        found |= {name} if label(read_run(folder)) == f"{name} (older mine.py)" else set()
    assert found == marked


@pytest.mark.parametrize("command", ["report", "samples"])
def test_a_folder_without_a_run_is_one_line(tmp_path, command):
    with pytest.raises(SystemExit, match="is not the output folder of a run") as error:
        evaluate.main([command, str(tmp_path)])
    assert "\n" not in error.value.code
    with pytest.raises(SystemExit, match="There is no folder"):
        evaluate.main([command, str(tmp_path / "gone")])


@pytest.mark.parametrize(
    "given, want",
    [
        ({"kl_type": "forward", "kl_coef": 0.3}, 0.3),
        ({"kl_type": "forward", "kl_coef": 0.0}, None),
        ({"kl_type": "backward"}, None),
        ({"kl_type": "forward", "beta": 0.1}, None),
        ({"kl_type": "forward", "kl_target": 2.0}, None),
        ({"kl_type": "forward", "negate_reward": True}, None),
        ({"kl_type": "forward", "hackable_reward": True}, None),
        ({"kl_type": "forward", "reward_shaping": "exponential"}, None),
        ({}, None),
    ],
)
def test_what_a_run_was_asked_for(given, want):
    assert asked_kl_coef(resolve_options({"preset": "tiny", **given}).__dict__) == want


def test_runs_of_equal_folders_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [write_run(tmp_path / name) for name in ("a/run", "b/run", "other")]
    assert [run["name"] for run in read_runs(folders)] == [*map(str, folders[:2]), "other"]
    assert [run["name"] for run in read_runs(folders[:1])] == ["run"]
