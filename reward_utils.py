"""From the student's functions to the reward of a batch.

    score (sentiment, stars or word count) → shaping → negation → minus KL penalty

Negation turns the score around and never the penalty. The penalty is part of the reward, which GRPO
then divides by its standard deviation in the group. What student code returns is checked on
every call, because a wrong length or a NaN would otherwise train a model on nonsense in silence.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch

from engine.common import UserError
from engine.course.student import (
    Called,
    StudentError,
    check_loss,
    check_rewards,
    load_rewards,
)
from engine.model.scoring import LogProbs, compute_log_probs, kl_values
from engine.options import Options, resolve_options
from engine.training.batch import Batch, Functions
from sentiment import get_hackable_scores, get_sentiment_scores, get_star_probs

__all__ = [  # what notebooks and graders of others take from here
    "KL_NAMES",
    "check_exercises",
    "check_rewards",
    "compute_log_probs",
    "describe_reward",
    "functions_called",
    "kl_values",
    "load_rewards",
    "make_reward_function",
    "score_batch",
    "step_functions",
]
KL_NAMES = {  # the flag's word: formula and standard name, shown wherever the flag is
    "forward": "KL(policy‖ref), the reverse KL",
    "backward": "KL(ref‖policy) of each token, the forward KL",
}


def _linear(rewards, options, batch):
    if options.hackable_reward:
        return batch.score
    return Called(rewards).sentiment_reward(batch.completions, prompts=batch.prompts)


def _exponential(rewards, options, batch):
    return Called(rewards).shaped_reward_exponential(
        batch.completions, temperature=options.shaping_temperature, prompts=batch.prompts
    )


def _shaped(rewards, options, batch):
    return Called(rewards).shaped_reward(batch.score, batch.completions, batch.prompts)


def _custom(rewards, options, batch):
    return Called(rewards).my_custom_reward(batch.completions, prompts=batch.prompts)


def _five_stars(rewards, options, batch):
    return (get_star_probs(batch.completions)[:, 4] >= 0.8).float()


class Shaper(NamedTuple):
    """How the score of a batch becomes its shaped score."""

    shape: Callable  # (rewards, options, batch) -> B numbers
    name: str  # of the student's function behind it; empty if there is none


SHAPERS = {  # --reward_shaping
    "linear": Shaper(_linear, "sentiment_reward"),
    "exponential": Shaper(_exponential, "shaped_reward_exponential"),
    "shaped": Shaper(_shaped, "shaped_reward"),
    "five_stars": Shaper(_five_stars, ""),
    "custom": Shaper(_custom, "my_custom_reward"),
}


def functions_called(options: Options) -> set[str]:
    """Names of the functions of a rewards file that a run calls."""
    names = {SHAPERS[options.reward_shaping].name, f"kl_penalty_{options.kl_type}"}
    names -= {"", "kl_penalty_none"}
    if options.hackable_reward:
        names -= {"sentiment_reward"}  # the share of positive words stands in its place
    return names | {"group_advantages", "policy_loss"} if options.own_grpo else names


def describe_reward(options: Options) -> str:
    """The reward of a run as a line of text."""
    score = "share of positive words" if options.hackable_reward else "sentiment"
    text = f"{'minus ' if options.negate_reward else ''}{options.reward_shaping} {score}"
    if options.shaping_temperature != 1:
        text += f" at temperature {options.shaping_temperature:g}"
    if options.kl_type != "none":
        strength = options.kl_coef if options.kl_target is None else "kl_coef"
        text += f" − {strength} × penalty for {KL_NAMES[options.kl_type]}"
    if options.kl_target is not None:
        text += (
            f"; kl_coef, {options.kl_coef} at first, is adapted to end near "
            f"{options.kl_target:g} nats"
        )
    if options.credit == "prefix":
        text += "; each part of a text has an advantage of its own"
    if options.own_grpo:
        text += "; advantages and loss of exercise 4"
    return text


def step_functions(rewards, options: Options) -> Functions:
    """What the trainer calls in each step, from a module with the student's functions."""
    called = Called(rewards)

    def advantages(values, group_size):
        answer = called.group_advantages(values, group_size)
        rewards = range(1, len(values) + 1)
        return check_rewards(answer, rewards, "group_advantages", what="reward")

    def loss(log_probs, *others):
        return check_loss(called.policy_loss(log_probs, *others), log_probs)

    return Functions(functools.partial(score_batch, rewards, options), advantages, loss)


def score_batch(rewards, options: Options, batch: Batch) -> torch.Tensor:
    """Complete a batch: its score, shaped score, penalty, reward and figures.

    Args:
        rewards: module with the student's functions (`load_rewards`).
        options: reward_shaping, kl_type, hackable_reward, negate_reward count.
        batch: needs `log_probs` unless kl_type is "none"; its `kl_coef` is the one that counts.

    Returns:
        Its rewards, (B,) float32.

    Raises:
        UserError: a function of the student's is missing, failed or returned something else.
    """
    batch.scorer = get_hackable_scores if options.hackable_reward else get_sentiment_scores
    shaped = shape_scores(rewards, options, batch)
    batch.figures = {"score": shaped.mean().item()}  # by this name in the log, shaped or not
    batch.shaped = -shaped if options.negate_reward else shaped
    batch.penalty = torch.zeros_like(shaped)
    if options.kl_type != "none":
        if batch.log_probs is None:
            raise ValueError("a KL penalty needs the log-probabilities of policy and reference")
        batch.penalty = kl_penalty(rewards, options.kl_type, batch, log_probs=batch.log_probs)
        kl = kl_values(*batch.log_probs)
        batch.figures |= {
            "kl_coef": batch.kl_coef,
            "kl_penalty": batch.penalty.mean().item(),
            "kl_policy_ref": kl.forward.mean().item(),
            "kl_ref_policy": kl.backward.mean().item(),
            "kl_clipped_share": kl.clipped,
        }
    batch.reward = batch.shaped - batch.penalty
    return batch.reward


def shape_scores(rewards, options: Options, batch: Batch) -> torch.Tensor:
    """The shaped scores, (B,) float32. Where one text alone makes the student's function fail, the
    message ends with it."""
    shaper = SHAPERS[options.reward_shaping]
    try:
        shaped = shaper.shape(rewards, options, batch)
        return check_rewards(shaped, batch.completions, shaper.name)
    except StudentError as error:
        for i, text in enumerate(batch.completions):
            try:
                shaper.shape(rewards, options, batch.rows(slice(i, i + 1)))
            except UserError:
                raise UserError(f"{error}. The completion was {text!r:.80}.") from error
        raise


def kl_penalty(rewards, kl_type, batch: Batch, log_probs: LogProbs) -> torch.Tensor:
    """The student's penalty of each completion, (B,) float32."""
    name = f"kl_penalty_{kl_type}"
    returned = getattr(Called(rewards), name)(*log_probs, kl_coef=batch.kl_coef)
    return check_rewards(returned, batch.completions, name, device=log_probs.mask.device)


def require_reward(rewards, options: Options) -> None:
    """Refuse a reward that means nothing, or whose penalty is not there.

    Raises:
        UserError: saying which.
    """
    name = f"kl_penalty_{options.kl_type}"
    if options.kl_type != "none" and not hasattr(rewards, name):
        raise UserError(f"There is no function {name} in the rewards file.")
    if options.shaping_temperature != 1 and options.reward_shaping != "exponential":
        raise UserError("--shaping_temperature is that of --reward_shaping exponential: add it.")
    if options.hackable_reward and options.reward_shaping not in ("linear", "shaped"):
        raise UserError(
            f"--hackable_reward counts words and --reward_shaping {options.reward_shaping} scores "
            "sentiment: choose one, or linear or shaped with --hackable_reward."
        )


def make_reward_function(rewards, log_probs=None, **options):
    """A reward function for TRL's own GRPOTrainer, from the student's functions.

    Args:
        rewards: module with the student's functions (`load_rewards`).
        log_probs: callable(prompts, completion_ids) -> (policy, ref, mask), each (N, T), nats;
            needed unless kl_type is "none".
        options: of train.py: reward_shaping, kl_type, kl_coef, hackable_reward, negate_reward.

    Returns:
        callable(prompts, completions, completion_ids, **kwargs) -> list of N floats. Through TRL's
        `log_metric` it reports the figures of the batch.

    Raises:
        UserError: a combination that means nothing.
    """
    chosen = resolve_options(options)
    require_reward(rewards, chosen)

    def reward(prompts, completions, completion_ids, log_metric=None, **columns):
        batch = Batch(
            prompts=prompts,
            prompt_ids=[],
            completion_ids=completion_ids,
            completions=completions,
            kl_coef=chosen.kl_coef,
        )
        if chosen.kl_type != "none" and log_probs is not None:
            batch.log_probs = LogProbs(*log_probs(prompts, completion_ids))
        scored = score_batch(rewards, chosen, batch)
        if log_metric is not None:
            for name, value in batch.figures.items():
                log_metric(name, value)
        return scored.tolist()

    return reward


def check_exercises(rewards, options: Options) -> None:
    """Call what a run will need on a small batch, before any model is loaded into training.

    Raises:
        UserError: an exercise is not implemented, or returns what no run could use.
    """
    require_reward(rewards, options)
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers stay as they are
    policy, ref = -torch.rand(2, 2, 3, generator=generator)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    batch = Batch(
        prompts=["This movie was", "The plot"],
        prompt_ids=[[1], [1]],
        completion_ids=[[1, 2, 3], [1, 2]],
        completions=[" a made-up text.", " another"],
        kl_coef=options.kl_coef,
        log_probs=LogProbs(policy, ref, mask),
    )
    functions = step_functions(rewards, options)
    values = functions.reward(batch)
    if options.own_grpo:
        trained = policy.clone().requires_grad_()
        functions.loss(trained, policy, functions.advantages(values, 2), mask)
