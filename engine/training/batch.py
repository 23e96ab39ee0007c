"""What one step trains on: a batch of texts, on its way from prompts to advantages.

    prompts → texts → log-probabilities → score → shaped score → penalty → reward → advantages

The trainer makes it and asks both models about its tokens; `reward_utils.score_batch` gives it its
rewards; the credit cuts it short; the page about the run keeps some of it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from engine.model.scoring import LogProbs, Models
from engine.model.texts import decode_completions

NOT_YET = torch.empty(0)


class Functions(NamedTuple):
    """What a student's file computes in each step, its answers checked."""

    reward: Callable  # (batch) -> its rewards, (B,); it completes the batch up to them
    advantages: Callable  # (rewards, group size) -> (B,); for --own_grpo
    loss: Callable  # as `policy_loss`; for --own_grpo


@dataclass
class Batch:
    """B texts in groups: the completions of a prompt stand one after the other.

    What is empty at first gets its value when its turn comes.
    """

    prompts: list[str]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]  # an end-of-text token included where one was sampled
    completions: list[str]  # without their prompts
    kl_coef: float = 0.0  # of this step, reward per nat
    log_probs: LogProbs | None = None  # (B, T) each, nats; None without a penalty
    scorer: Callable[[list[str]], list[float]] | None = None  # the reward model, or a word count
    shaped: torch.Tensor = NOT_YET  # (B,), by --reward_shaping, after --negate_reward
    penalty: torch.Tensor = NOT_YET  # (B,), what the KL penalty takes from it
    reward: torch.Tensor = NOT_YET  # (B,), shaped − penalty
    advantages: torch.Tensor = NOT_YET  # (B,), or (B, T) under --credit prefix
    figures: dict[str, float] = field(default_factory=dict)  # what the log of a step tells of it

    @functools.cached_property
    def score(self) -> list[float]:
        """What the scorer says of each text. Asked only where it is needed: not where the student's
        own function scores the texts."""
        return self.scorer(self.completions) if self.scorer else []

    def rows(self, rows: slice) -> "Batch":
        """Some of its texts, and what they were given."""
        return Batch(
            prompts=self.prompts[rows],
            prompt_ids=self.prompt_ids[rows],
            completion_ids=self.completion_ids[rows],
            completions=self.completions[rows],
            kl_coef=self.kl_coef,
            log_probs=self.log_probs and self.log_probs.part(rows),
            scorer=self.scorer,
            shaped=self.shaped[rows],
            penalty=self.penalty[rows],
            reward=self.reward[rows],
            advantages=self.advantages[rows],
        )

    def first_tokens(self, count: int, models: Models) -> "Batch":
        """The same texts, cut after `count` tokens; they have no rewards yet."""
        ids = [row[:count] for row in self.completion_ids]
        return Batch(
            prompts=self.prompts,
            prompt_ids=self.prompt_ids,
            completion_ids=ids,
            completions=decode_completions(models.policy, models.tokenizer, self.prompt_ids, ids),
            kl_coef=self.kl_coef,
            log_probs=self.log_probs and self.log_probs.part(slice(None), slice(count)),
        )
