import pytest
import torch

import reward_utils
from engine.common import UserError
from engine.course.student import load_rewards
from engine.model.scoring import LogProbs
from engine.options import REWARD_SHAPINGS, resolve_options
from engine.training.batch import Batch
from reward_utils import SHAPERS, make_reward_function, score_batch

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
        return [1.5 / temperature, 0.5 / temperature]

    @staticmethod
    def shaped_reward(scores, completions, prompts=None):
        return [10 * s for s in scores]

    @staticmethod
    def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
        return kl_coef * torch.tensor([1.0, 2.0])


def reward_of(**options):
    metrics = {}
    zeros = torch.zeros(2, 3)
    log_probs = zeros, zeros, torch.tensor([[True] * 3, [True, True, False]])
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
        ({"reward_shaping": "exponential", "shaping_temperature": 0.5}, [3.0, 1.0]),
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
        "kl_coef": 0.1,
        "kl_penalty": pytest.approx(0.15),
        "kl_policy_ref": 0.0,
        "kl_ref_policy": 0.0,
        "kl_clipped_share": 0.0,
    }


def test_a_batch_keeps_every_part_of_its_reward():
    zeros = torch.zeros(2, 3)
    given = {"kl_type": "forward", "negate_reward": True, "hackable_reward": True, "kl_coef": 9.0}
    batch = Batch(PROMPTS, [[1], [1]], IDS, TEXTS, 0.5, LogProbs(zeros, zeros, zeros == 0))
    score_batch(Rewards, resolve_options(given), batch)
    assert batch.score == [1.0, 0.0]
    assert batch.shaped.tolist() == [-1.0, 0.0]  # after negation, before the penalty
    assert batch.penalty.tolist() == [0.5, 1.0]  # by the coefficient of the batch
    assert batch.reward.tolist() == [-1.5, -1.0]
    assert batch.figures["score"] == 0.5 and batch.figures["kl_coef"] == 0.5
    second = batch.rows(slice(1, 2))
    assert (second.completions, second.score, second.reward.tolist()) == ([" bad"], [0.0], [-1.0])
    assert second.log_probs.mask.shape == (1, 3)


def test_five_stars_is_sparse(monkeypatch):
    probs = torch.tensor([[0.0, 0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 0.0, 0.21, 0.79]])
    monkeypatch.setattr(reward_utils, "get_star_probs", lambda texts: probs)
    assert reward_of(reward_shaping="five_stars")[0] == [1.0, 0.0]


@pytest.mark.parametrize("shaping", ["exponential", "five_stars", "custom"])
def test_hackable_with_a_sentiment_shaping_is_refused(shaping):
    with pytest.raises(UserError, match="choose one"):
        make_reward_function(Rewards, reward_shaping=shaping, hackable_reward=True)


@pytest.mark.parametrize("shaping", ["linear", "shaped"])
def test_a_temperature_of_another_shaping_is_refused(shaping):
    with pytest.raises(UserError, match="--shaping_temperature is that of .*exponential"):
        make_reward_function(Rewards, reward_shaping=shaping, shaping_temperature=0.5)


def test_the_temperature_of_the_shaping_is_told():
    given = {"reward_shaping": "exponential", "shaping_temperature": 0.25}
    described = reward_utils.describe_reward(resolve_options(given))
    assert described == "exponential sentiment at temperature 0.25"
    given["shaping_temperature"] = 1
    assert reward_utils.describe_reward(resolve_options(given)) == "exponential sentiment"


def test_an_unimplemented_exercise_names_itself_and_its_line(unsolved, classifier):
    rewards = load_rewards(unsolved)
    with pytest.raises(UserError, match=r"Exercise 3b: implement .* in rewards.py, line \d+"):
        reward_utils.check_exercises(rewards, resolve_options({"kl_type": "forward"}))


PER_TOKEN = """
def sentiment_reward(completions, **kwargs):
    return [0.0, 1.0]
def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
    return kl_coef * 0.5 * mask
def group_advantages(rewards, group_size):
    return (rewards - rewards.mean()) / 0
def policy_loss(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
    return log_probs.mean()
"""


def test_a_penalty_without_its_sum_is_told_the_same_by_the_tests_and_by_train(tmp_path, classifier):
    from cases import Ask, report
    from cases.asking import Wrong

    path = tmp_path / "rewards.py"
    path.write_text(PER_TOKEN)
    rewards = load_rewards(path)
    with pytest.raises(UserError) as trained:
        reward_utils.check_exercises(rewards, resolve_options({"kl_type": "forward"}))
    said = str(trained.value)
    assert said.startswith("kl_penalty_forward returned a list of numbers for each ")
    assert said.endswith("return one number for each; .sum(-1) adds up each row.")

    def case(ask, rng):
        """Any case."""
        logs = -torch.ones(2, 3)
        ask(policy_log_probs=logs, ref_log_probs=logs, mask=torch.ones(2, 3), kl_coef=0.1)

    told = report(case, Ask(rewards.kl_penalty_forward, None))
    assert told.splitlines()[-1].split("happened")[1].strip() == said
    with pytest.raises(Wrong, match="It belongs to reward 1 of 4.$"):
        Ask(rewards.group_advantages, None)(rewards=torch.ones(4) / 3, group_size=2)


def test_advantages_that_are_no_numbers_name_their_reward(tmp_path, classifier):
    path = tmp_path / "rewards.py"
    path.write_text(PER_TOKEN)
    said = "group_advantages returned -?inf at index 0; .* It belongs to reward 1 of 2.$"
    with pytest.raises(UserError, match=said):
        reward_utils.check_exercises(load_rewards(path), resolve_options({"own_grpo": True}))


def test_every_shaping_of_the_command_line_has_a_function():
    assert set(REWARD_SHAPINGS) == {*SHAPERS, "none"}
