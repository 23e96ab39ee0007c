"""What a run keeps for the page about it: a few texts token by token, and what GRPO saw.

`explore.jsonl` has two kinds of rows, both with the step of their `validation`:

- `sample`: to one prompt, the text of the `policy` and what the `base` model wrote there, each
  with its tokens: [text, log q, log p, likeliest tokens of q, and of p], the last two as lists of
  [text, log-probability]. The policy's text also has its reward, as if it had been trained on:
  score → shaping → penalty → reward.
- `group`: of the training `step` after the validation (of the last step, after the last one), the
  completions to one prompt: score → shaping → penalty → reward → advantage; and for its `worst`
  and its `best` text their place in the group and their tokens. No advantage under `--credit
  prefix`, where a completion has several. `equal` is the share of that step's groups in which all
  rewards were equal.

A token takes about 210 bytes. A run keeps no more than RECORDS + 2 validations, of PROMPTS prompts
and GROUPS groups each.
"""

import contextlib
import math
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from engine.common import UserError, append_jsonl, keep_rows, read_jsonl
from engine.model.texts import tokenize_prompts
from engine.pages.token_view import describe_tokens

FILE = "explore.jsonl"
PROMPTS = 6
GROUPS = 2
RECORDS = 24
SAME = 1e-6  # rewards that differ by less: the same text may score a little otherwise in a batch
PARTS = ("score", "shaped", "penalty", "reward")  # of a batch, that a page shows of each text


class Explorer:
    """Writes the explore.jsonl of a run.

    Args:
        options: of the run.
        models: `scoring.Models`.
        make_batch: callable(prompts, completions, completion_ids) -> a `Batch` of these texts with
            the rewards that the run would give them.
    """

    def __init__(self, options, models, make_batch):
        self.file = Path(options.output_dir) / FILE
        self.options = options
        self.models = models
        self.make_batch = make_batch
        self.every = options.eval_steps * math.ceil(
            options.max_steps / options.eval_steps / RECORDS
        )
        self.base = {}  # prompt -> the sample of the base model there
        self.batch = None  # of the latest training step
        self.waiting = None  # the validation whose groups are still to come

    def resume(self, validated):
        """Keep the rows of the validations in a set, and remember what the base model wrote."""
        keep_rows(self.file, lambda row: row["validation"] in validated)
        if self.file.exists():
            rows = read_jsonl(self.file, kind="sample", validation=0)
            self.base = {row["prompt"]: row["policy"] for row in rows}

    def see(self, batch):
        """Take a training batch, before the policy learns from it."""
        self.batch = batch
        if self.waiting is not None:
            self._write(self.waiting, self._groups(batch, self.waiting + 1))
            self.waiting = None

    def record(self, step, samples):
        """Write the rows of a validation, after `step` steps.

        Args:
            samples: of `evaluate.evaluate_model`.
        """
        last = step >= self.options.max_steps
        if step % self.every and not last:
            return
        self._write(step, self._samples(step, samples))
        if not last:
            self.waiting = step
        elif self.batch is not None:
            self._write(step, self._groups(self.batch, step))

    def _write(self, validation, rows):
        append_jsonl(self.file, [{"validation": validation, **row} for row in rows])

    def _samples(self, step, samples):
        first = {}  # prompt -> its first sample
        for sample in samples:
            first.setdefault(sample["prompt"], sample)
        prompts = list(first)
        prompts = prompts[:: max(len(prompts) // PROMPTS, 1)][:PROMPTS]
        policy = [first[prompt] for prompt in prompts]
        if step == 0:
            self.base = {sample["prompt"]: sample for sample in policy}
        base = [self.base.get(prompt) for prompt in prompts] if step else []
        base = [] if None in base else base  # resumed from a run that kept none
        texts = self._described(prompts * (2 if base else 1), [*policy, *base])
        rewards = self._rewards(prompts, policy)
        for i, prompt in enumerate(prompts):
            parts = {name: values[i] for name, values in rewards.items()}
            row = {"kind": "sample", "prompt": prompt, "policy": texts[i] | parts}
            yield row | ({"base": texts[len(prompts) + i]} if base else {})

    def _described(self, prompts, samples):
        """The samples as they are kept."""
        tokens = self._tokens(prompts, [sample["ids"] for sample in samples])
        return [
            {
                "completion": sample["completion"],
                "sentiment": round(sample["sentiment"], 4),
                "ids": sample["ids"],
                "tokens": row,
            }
            for sample, row in zip(samples, tokens)
        ]

    def _rewards(self, prompts, samples):
        """What the run's reward would be for texts that it does not train on: {part: numbers}.

        Empty where the student's function cannot say: it may count on groups of a certain size. One
        that compares the texts of a group compares texts of different prompts here.
        """
        texts = [sample["completion"] for sample in samples]
        ids = [sample["ids"] for sample in samples]
        # A function that draws random numbers leaves those of the training as they are.
        with contextlib.suppress(UserError), random_numbers_kept():
            batch = self.make_batch(prompts, texts, ids)
            return {name: rounded(getattr(batch, name)) for name in PARTS}
        return {}

    def _tokens(self, prompts, completion_ids):
        """The tokens of some completions, as they are kept."""
        prompt_ids = tokenize_prompts(prompts, self.models.tokenizer, self.models.policy)
        described = describe_tokens(
            self.models, prompt_ids, completion_ids, temperature=self.options.temperature
        )
        return [
            [
                [
                    t["text"],
                    round(t["q"], 5),
                    round(t["p"], 5),
                    short(t["q_top"]),
                    short(t["p_top"]),
                ]
                for t in row
            ]
            for row in described
        ]

    def _groups(self, batch, step):
        size = self.options.num_generations
        whole = len(batch.prompts) // size  # another process may share the last group
        equal = equal_groups(batch, size).rewards
        for start in range(0, min(GROUPS, whole) * size, size):
            group = batch.rows(slice(start, start + size))
            figures = {name: rounded(getattr(group, name)) for name in PARTS}
            if self.options.credit == "completion":
                figures["advantage"] = rounded(group.advantages)
            order = sorted(range(size), key=figures["reward"].__getitem__)
            ends = {"worst": order[0], "best": order[-1]}
            tokens = self._tokens(
                group.prompts[:2], [group.completion_ids[i] for i in ends.values()]
            )
            yield {
                "kind": "group",
                "step": step,
                "equal": round(equal, 4),
                "prompt": group.prompts[0],
                "completions": group.completions,
                **figures,
                **{name: [i, row] for (name, i), row in zip(ends.items(), tokens)},
            }


class EqualGroups(NamedTuple):
    """Shares of the groups of a batch in which there is nothing to compare."""

    rewards: float  # all rewards are equal: every advantage is 0
    texts: float  # all completions are one and the same


def equal_groups(batch, size) -> EqualGroups:
    """Of the groups that this process has at least two texts of.

    TRL's `frac_reward_zero_std` is not that under --scale_rewards batch: then it looks at the
    deviation of the whole batch.
    """
    groups = [batch.rows(slice(i, i + size)) for i in range(0, len(batch.prompts) - 1, size)]
    rewards = [bool(group.reward.max() - group.reward.min() < SAME) for group in groups]
    texts = [group.completion_ids.count(group.completion_ids[0]) for group in groups]
    alike = [count == len(group.prompts) for count, group in zip(texts, groups)]
    return EqualGroups(*(sum(x) / max(len(groups), 1) for x in (rewards, alike)))


@contextlib.contextmanager
def random_numbers_kept():
    """Whatever is drawn inside, from torch, numpy or `random`, is drawn again after it."""
    of_python = random.getstate()
    of_numpy = np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def rounded(values):
    """Numbers, in a list or a tensor, with five decimals."""
    return [round(value, 5) for value in torch.as_tensor(values).tolist()]


def short(tops):
    """[text, log-probability] pairs with two decimals."""
    return [[text, round(value, 2)] for text, value in tops]
