"""From the student's functions to the one reward that TRL calls.

    score (sentiment, stars or word count) → shaping → negation → minus KL penalty

Negation turns the score around and never the penalty. The penalty is part of the reward, which GRPO
then divides by its standard deviation in the group. What student code returns is checked on
every call, because a wrong length or a NaN would otherwise train a model on nonsense in silence.
"""

import torch

from engine.common import UserError
from engine.course.student import StudentError, call_student, check_rewards, load_rewards, name_of
from engine.model.scoring import compute_log_probs, kl_values
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
]
KL_NAMES = {  # the flag's word: formula and standard name, shown wherever the flag is
    "forward": "KL(policy‖ref), the reverse KL",
    "backward": "KL(ref‖policy) of each token, the forward KL",
}


def _linear(rewards, completions, prompts, scores):
    if scores is not None:
        return scores
    return call_student(rewards.sentiment_reward, completions, prompts=prompts)


def _exponential(rewards, completions, prompts, scores):
    return call_student(rewards.shaped_reward_exponential, completions, prompts=prompts)


def _shaped(rewards, completions, prompts, scores):
    scores = scores if scores is not None else get_sentiment_scores(completions)
    return call_student(rewards.shaped_reward, scores, completions, prompts)


def _custom(rewards, completions, prompts, scores):
    return call_student(rewards.my_custom_reward, completions, prompts=prompts)


def _five_stars(rewards, completions, prompts, scores):
    return (get_star_probs(completions)[:, 4] >= 0.8).float()


# --reward_shaping: (the function that computes it, the name of the student's function behind it)
SHAPERS = {
    "linear": (_linear, "sentiment_reward"),
    "exponential": (_exponential, "shaped_reward_exponential"),
    "shaped": (_shaped, "shaped_reward"),
    "five_stars": (_five_stars, "five_stars"),
    "custom": (_custom, "my_custom_reward"),
}


def functions_called(reward_shaping, kl_type):
    """Names of the functions of a rewards file that a run calls."""
    return {SHAPERS[reward_shaping][1], f"kl_penalty_{kl_type}"}


def describe_reward(
    reward_shaping,
    kl_type,
    kl_coef,
    hackable_reward,
    negate_reward,
    kl_target=None,
    credit="completion",
):
    """The reward of a run as a line of text."""
    score = "share of positive words" if hackable_reward else "sentiment"
    text = f"{'minus ' if negate_reward else ''}{reward_shaping} {score}"
    if kl_type != "none":
        strength = kl_coef if kl_target is None else "kl_coef"
        text += f" − {strength} × penalty for {KL_NAMES[kl_type]}"
    if kl_target is not None:
        text += f"; kl_coef, {kl_coef} at first, is adapted to end near {kl_target:g} nats"
    if credit == "prefix":
        text += "; each part of a text has an advantage of its own"
    return text


def make_reward_function(
    rewards,
    reward_shaping="linear",
    kl_type="none",
    kl_coef=0.1,
    hackable_reward=False,
    negate_reward=False,
    log_probs=None,
    kl_control=None,
    credit=None,
):
    """Compose the one reward function that TRL calls.

    Args:
        rewards: module with the student's functions (`load_rewards`).
        reward_shaping: a key of SHAPERS.
        kl_type: "none", "forward" or "backward".
        kl_coef: strength of the KL penalty, reward units per nat.
        hackable_reward: score by the share of positive words instead of sentiment.
        negate_reward: turn the shaped score around.
        log_probs: callable(prompts, completion_ids, sampled_log_probs) -> (policy, ref, mask),
            needed unless kl_type is "none".
        kl_control: the `KLControl` whose `coef` takes the place of kl_coef, or None.
        credit: the `PrefixCredit` that may also ask for the rewards of unfinished texts, or None.

    Returns:
        callable(prompts, completions, completion_ids, **kwargs) -> list of N floats. Through TRL's
        `log_metric` it reports the mean score, the penalty, its coefficient and the KL values;
        through `record` prompts, completions, their token ids, shaped scores after negation and
        rewards, both (N,) tensors, and callable(texts) -> list of floats, the score.

    Raises:
        UserError: a combination that means nothing.
    """
    penalty_function = penalty_of(rewards, reward_shaping, kl_type, hackable_reward)
    score = get_hackable_scores if hackable_reward else get_sentiment_scores

    def parts(prompts, completions, both, log_metric=ignored):
        """Shaped scores and rewards of texts, (N,) each; `both` are their log-probabilities."""
        counts = score(completions) if hackable_reward else None
        shaped = shape_scores(rewards, reward_shaping, completions, prompts, counts)
        log_metric("score", shaped.mean().item())
        shaped = -shaped if negate_reward else shaped
        if kl_type == "none":
            return shaped, shaped
        coef = kl_coef if kl_control is None else kl_control.coef
        return shaped, shaped - kl_penalty(penalty_function, coef, completions, *both, log_metric)

    def reward(prompts, completions, completion_ids, log_metric=ignored, record=ignored, **kwargs):
        sampled = kwargs.get("sampled_log_probs")  # of this project's own rollout
        both = None if kl_type == "none" else log_probs(prompts, completion_ids, sampled)
        shaped, total = parts(prompts, completions, both, log_metric)
        record(prompts, completions, completion_ids, shaped, total, score)
        if credit is not None:
            credit.see(
                completion_ids, total, lambda *cut: parts(prompts, *first_tokens(both, *cut))[1]
            )
        return total.tolist()

    return reward


def penalty_of(rewards, reward_shaping, kl_type, hackable_reward):
    """The student's penalty function, None without a penalty.

    Raises:
        UserError: there is no such function, or the combination means nothing.
    """
    if hackable_reward:
        require_word_counts(reward_shaping)
    function = getattr(rewards, f"kl_penalty_{kl_type}", None)
    if kl_type != "none" and function is None:
        raise UserError(f"There is no function kl_penalty_{kl_type} in the rewards file.")
    return function


def first_tokens(both, texts, count):
    """(texts, `both` for their first `count` tokens alone): what `parts` takes."""
    if both is None:
        return texts, None
    return texts, tuple(values[:, :count] for values in both)


def ignored(*values):
    """What takes the place of a callable for reports that nobody reads."""


def require_word_counts(reward_shaping):
    """Refuse a shaping that does not work on counts of words.

    Raises:
        UserError: it scores the sentiment itself.
    """
    if reward_shaping not in ("linear", "shaped"):
        raise UserError(
            f"--hackable_reward counts words and --reward_shaping {reward_shaping} scores "
            "sentiment: choose one, or linear or shaped with --hackable_reward."
        )


def kl_penalty(function, kl_coef, completions, policy, ref, mask, log_metric):
    """The student's penalty of each completion, (N,) float32; reports it and the KL values.

    Args:
        function: the student's penalty function.
        policy, ref, mask: (N, T) per-token log-probabilities and which of them are real.
        log_metric: callable(name, value).

    Raises:
        UserError: the function failed or returned something else.
    """
    returned = call_student(function, policy, ref, mask, kl_coef=kl_coef)
    penalty = check_rewards(returned, completions, name_of(function), mask.device)
    values = kl_values(policy, ref, mask)
    log_metric("kl_coef", kl_coef)
    log_metric("kl_penalty", penalty.mean().item())
    log_metric("kl_policy_ref", values["forward"].mean().item())
    log_metric("kl_ref_policy", values["backward"].mean().item())
    log_metric("kl_clipped_share", values["clipped"])
    return penalty


def shape_scores(rewards, reward_shaping, completions, prompts, counts=None):
    """The shaped scores of N completions, (N,) float32.

    Args:
        counts: scores in place of the sentiment, for `--hackable_reward`.

    Raises:
        UserError: the student's function failed or returned something else; where one completion
            alone makes it fail, the message ends with it.
    """
    shape, name = SHAPERS[reward_shaping]
    try:
        return check_rewards(shape(rewards, completions, prompts, counts), completions, name)
    except StudentError as error:
        for i, text in enumerate(completions):
            try:
                shape(rewards, [text], [prompts[i]], None if counts is None else [counts[i]])
            except UserError:
                raise UserError(f"{error}. The completion was {text!r:.80}.") from error
        raise


def check_exercises(rewards, reward_shaping="linear", kl_type="none", kl_coef=0.1, **options):
    """Call what a run will need on a small batch, before any model is loaded into training.

    Raises:
        UserError: an exercise is not implemented, or returns what no run could use.
    """
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers stay as they are
    mask = torch.tensor([[True, True, True], [True, True, False]])
    policy, ref = -torch.rand(2, 2, 3, generator=generator)
    reward = make_reward_function(
        rewards,
        reward_shaping,
        kl_type,
        kl_coef,
        log_probs=lambda *_: (policy, ref, mask),
        **options,
    )
    reward(["This movie was", "The plot"], [" great fun.", " dull"], [[1, 2, 3], [1, 2]])
