"""What each exercise must do. `pytest` asks the functions in process, a grader from outside.

Cases judge numbers and never code, so loops or vectors, lists or tensors, numpy or torch all pass,
and so does every KL penalty that pulls the policy back, not only the one of the solution.
"""

from collections.abc import Callable
from typing import NamedTuple

from cases.asking import Ask, Finding, Wrong, is_news, report
from cases.examples import example_report
from cases.grpo import ADVANTAGE_CASES, ADVANTAGE_CORE, LOSS_CASES, LOSS_CORE
from cases.log_probs import (
    an_empty_completion_is_certain,
    hides_no_error,
    joins_ids_not_texts,
    sums_the_completion,
    takes_every_pair_as_it_is,
)
from cases.penalties import PENALTY_CASES, PENALTY_CORE
from cases.shaping import (
    does_not_pay_for_repetition,
    equals_the_score,
    gives_a_number_for_each_text,
    is_exponential_in_the_score,
    judges_each_text_by_itself,
    pays_for_sentiment,
    scores_the_completion_alone,
    teaches_more_than_the_score,
)

__all__ = [
    "CASES",
    "CORE",
    "Ask",
    "Exercise",
    "Finding",
    "Wrong",
    "example_report",
    "is_news",
    "report",
]


class Exercise(NamedTuple):
    """What one function must do."""

    label: str  # as in the docstrings of rewards.py: "3b"
    cases: tuple[Callable, ...]  # see `cases.asking`


CASES = {  # function -> its exercise
    "sentiment_reward": Exercise("1", (equals_the_score,)),
    "shaped_reward_exponential": Exercise(
        "2a", (is_exponential_in_the_score, scores_the_completion_alone)
    ),
    "shaped_reward": Exercise(
        "2b",
        (
            gives_a_number_for_each_text,
            pays_for_sentiment,
            judges_each_text_by_itself,
            does_not_pay_for_repetition,
            teaches_more_than_the_score,
        ),
    ),
    "compute_ref_log_probs": Exercise(
        "3a",
        (
            sums_the_completion,
            joins_ids_not_texts,
            an_empty_completion_is_certain,
            takes_every_pair_as_it_is,
            hides_no_error,
        ),
    ),
    "kl_penalty_forward": Exercise("3b", PENALTY_CASES),
    "kl_penalty_backward": Exercise("3c", PENALTY_CASES),
    "group_advantages": Exercise("4a", ADVANTAGE_CASES),
    "policy_loss": Exercise("4b", LOSS_CASES),
    "my_custom_reward": Exercise("bonus", (gives_a_number_for_each_text,)),
}

# What must hold before the other cases of a function mean much. While one fails, the others are not
# explained, and the exercise earns few of its points.
CORE = {
    "shaped_reward_exponential": (is_exponential_in_the_score,),
    "shaped_reward": (pays_for_sentiment, teaches_more_than_the_score),
    "compute_ref_log_probs": (sums_the_completion,),
    "kl_penalty_forward": PENALTY_CORE,
    "kl_penalty_backward": PENALTY_CORE,
    "group_advantages": ADVANTAGE_CORE,
    "policy_loss": LOSS_CORE,
}
