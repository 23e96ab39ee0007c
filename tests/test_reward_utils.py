import copy
import math

import numpy as np
import pytest
import torch

import reward_utils
from models import UserError, generate
from reward_utils import check_rewards, kl_values, make_reward_function, policy_and_ref_log_probs

PROMPTS = ["This movie was", "The plot of this film"]
TEXTS = [" good", " bad"]
IDS = [[1, 2, 3], [1, 2]]


class Rewards:
    """Student functions with known answers."""

    @staticmethod
    def sentiment_reward(completions, **kwargs):
        return [0.75, 0.25]

    @staticmethod
    def shaped_reward_exponential(completions, temperature=1.0, **kwargs):
        return [1.5, 0.5]

    @staticmethod
    def shaped_reward(scores, completions, prompts=None):
        return [10 * s for s in scores]

    @staticmethod
    def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
        return kl_coef * torch.tensor([1.0, 2.0])


def reward_of(**options):
    metrics = {}
    zeros = torch.zeros(2, 3)
    log_probs = (zeros, zeros, torch.tensor([[True] * 3, [True, True, False]]))
    reward = make_reward_function(Rewards, log_probs=lambda *_: log_probs, **options)
    values = reward(
        prompts=PROMPTS, completions=TEXTS, completion_ids=IDS, log_metric=metrics.__setitem__
    )
    return values, metrics


@pytest.mark.parametrize(
    "options, want",
    [
        ({}, [0.75, 0.25]),
        ({"reward_shaping": "exponential"}, [1.5, 0.5]),
        ({"negate_reward": True}, [-0.75, -0.25]),
        ({"kl_type": "forward"}, [0.75 - 0.1, 0.25 - 0.2]),
        ({"kl_type": "forward", "kl_coef": 0.5}, [0.75 - 0.5, 0.25 - 1.0]),
        # negation turns the score around and leaves the penalty alone
        ({"kl_type": "forward", "negate_reward": True}, [-0.75 - 0.1, -0.25 - 0.2]),
        ({"hackable_reward": True}, [1.0, 0.0]),
        ({"hackable_reward": True, "reward_shaping": "shaped"}, [10.0, 0.0]),
    ],
)
def test_composition(options, want):
    values, metrics = reward_of(**options)
    assert values == pytest.approx(want, abs=1e-6)
    assert isinstance(values, list) and all(isinstance(v, float) for v in values)


def test_metrics_reach_the_log():
    _, metrics = reward_of(kl_type="forward")
    assert metrics == {
        "score": 0.5,
        "kl_penalty": pytest.approx(0.15),
        "kl_policy_ref": 0.0,
        "kl_ref_policy": 0.0,
        "kl_clipped_share": 0.0,
    }


def test_five_stars_is_sparse(monkeypatch):
    probs = torch.tensor([[0.0, 0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 0.0, 0.21, 0.79]])
    monkeypatch.setattr(reward_utils, "get_star_probs", lambda texts: probs)
    assert reward_of(reward_shaping="five_stars")[0] == [1.0, 0.0]


@pytest.mark.parametrize("shaping", ["exponential", "five_stars", "custom"])
def test_hackable_with_a_sentiment_shaping_is_refused(shaping):
    with pytest.raises(UserError, match="choose one"):
        make_reward_function(Rewards, reward_shaping=shaping, hackable_reward=True)


@pytest.mark.parametrize(
    "values",
    [
        [1, 0.5],
        (1.0, 0.5),
        np.array([1.0, 0.5], dtype=np.float32),
        torch.tensor([1.0, 0.5], requires_grad=True),
        [torch.tensor(1.0), np.float64(0.5)],
        [True, 0.5],
    ],
)
def test_every_list_of_numbers_is_welcome(values):
    assert check_rewards(values, TEXTS, "f").tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "values, message",
    [
        (None, "f returned None"),
        ([1.0], "f returned 1 values for 2 completions"),
        ([1.0, 2.0, 3.0], "f returned 3 values for 2 completions"),
        ([0.5, None], "f returned None at index 1.* ' bad'"),
        ([0.5, math.nan], "f returned nan at index 1.* ' bad'"),
        ([math.inf, 0.5], "f returned inf at index 0.* ' good'"),
        ([0.5, "0.5"], "f returned '0.5' at index 1"),
        ([[0.5], [0.5]], r"f returned \[0.5\] at index 0"),
        (torch.ones(2, 2), r"f returned \[1.0, 1.0\] at index 0"),
        (torch.tensor(0.5), "f returned float; expected a list of 2 numbers"),
        ("ab", "f returned str; expected a list of 2 numbers"),
        ([1j, 0.5], "f returned 1j at index 0"),
        (torch.ones(2, device="meta"), "a tensor on meta; expected cpu"),
    ],
)
def test_bad_values_name_function_index_and_completion(values, message):
    with pytest.raises(UserError, match=message) as error:
        check_rewards(values, TEXTS, "f")
    assert "\n" not in str(error.value)


def test_an_error_in_student_code_names_file_and_line(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("def sentiment_reward(completions, **kwargs):\n    return 1 / 0\n")
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    with pytest.raises(UserError, match=r"ZeroDivisionError.*rewards.py, line 2"):
        reward_utils.call_student(namespace["sentiment_reward"], TEXTS)


def test_an_unimplemented_exercise_names_itself_and_its_line(unsolved, classifier):
    rewards = reward_utils.load_rewards(use_solution=False)
    with pytest.raises(UserError, match=r"Exercise 3b: implement .* in rewards.py, line \d+"):
        reward_utils.check_exercises(rewards, kl_type="forward")


def test_kl_values_by_hand():
    policy = torch.tensor([[-1.0, -2.0], [-1.0, -5.0]])
    ref = torch.tensor([[-2.0, -1.0], [-1.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    values = kl_values(policy, ref, mask)
    # log r = −1 and 1: r − 1 − log r is 1/e and e − 2; r log r − (r − 1) is 1 − 2/e and 1
    assert values["forward"].tolist() == pytest.approx([0.3678794 + 0.7182818, 0.0], abs=1e-6)
    assert values["backward"].tolist() == pytest.approx([0.2642411 + 1.0, 0.0], abs=1e-6)
    assert values["clipped"] == 0
    assert kl_values(policy, ref, torch.ones(2, 2, dtype=torch.bool))["clipped"] == 0.25


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("in_training_mode", [False, True])
def test_step_0_has_no_kl_and_no_penalty(
    classifier, policy, solution, temperature, in_training_mode
):
    """The policy is the reference: with dropout configured, padded, at any temperature."""
    from trl.trainer.utils import disable_dropout_in_model

    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    ref_model = copy.deepcopy(model)
    disable_dropout_in_model(model)  # what GRPOConfig(disable_dropout=True) calls
    model.train(in_training_mode)
    prompt_ids = tokenizer(PROMPTS * 4)["input_ids"]  # of different lengths: padded
    completion_ids, _ = generate(model, tokenizer, prompt_ids, 12, temperature, seed=3)
    completion_ids[0] = completion_ids[0][:3] + [tokenizer.eos_token_id]
    log_probs = policy_and_ref_log_probs(
        model, ref_model, tokenizer, prompt_ids, completion_ids, temperature
    )
    for value in kl_values(*log_probs).values():
        assert torch.as_tensor(value).abs().max() <= 1e-5
    for penalty in (solution.kl_penalty_forward, solution.kl_penalty_backward):
        assert torch.as_tensor(penalty(*log_probs, kl_coef=1.0)).abs().max() <= 1e-5


def test_step_0_with_the_log_probs_of_the_rollout(classifier, policy, solution):
    """The same without a second policy pass: rounding differs, by less than a thousandth nat."""
    model, tokenizer = policy
    prompt_ids = tokenizer(PROMPTS * 4)["input_ids"]
    ids, sampled = generate(model, tokenizer, prompt_ids, 32, seed=3)
    log_probs = policy_and_ref_log_probs(
        model, model, tokenizer, prompt_ids, ids, sampled_log_probs=sampled
    )
    for value in kl_values(*log_probs).values():
        assert torch.as_tensor(value).abs().max() <= 1e-5
    for penalty in (solution.kl_penalty_forward, solution.kl_penalty_backward):
        assert torch.as_tensor(penalty(*log_probs, kl_coef=0.1)).abs().max() <= 1e-5


def test_checklist_says_what_is_done(capsys, unsolved):
    reward_utils.print_checklist(unsolved / "rewards.py")
    *lines, _, hint = capsys.readouterr().out.splitlines()
    assert hint.endswith("python -m pytest --student")
    assert [line[:5].strip() for line in lines] == ["done"] + ["to do"] * 6
    assert "Exercise 3b" in lines[4] and "kl_penalty_forward" in lines[4]


def test_a_rewards_file_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "rewards.py").write_text("def f(:\n")
    monkeypatch.setattr(reward_utils, "__file__", str(tmp_path / "reward_utils.py"))
    with pytest.raises(UserError, match=r"rewards.py cannot be imported: SyntaxError.*line 1"):
        reward_utils.load_rewards()
    (tmp_path / "rewards.py").unlink()
    with pytest.raises(UserError, match="There is no rewards.py"):
        reward_utils.load_rewards()
