from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.model.scoring import LogProbs, Models
from engine.options import resolve_options
from engine.training.batch import Batch
from engine.training.credit import (
    EVERY,
    LAMBDA,
    cuts,
    discounted,
    fitted_values,
    normalised,
    prefix_advantages,
)
from reward_utils import score_batch

# Two groups of two; all but the first text end by themselves.
IDS = [list(range(1, 11)), [5, 6, 0], [5, 6, 7, 8, 9, 10, 1, 0], [5, 6, 7, 0]]
MASK = torch.tensor([[place < len(ids) for place in range(10)] for ids in IDS])


def by_hand(values_at, lengths, group):
    """The advantages in plain Python: values_at(i, count) is what the first tokens are worth."""
    credits = []
    for i, length in enumerate(lengths):
        row = []
        for token in range(length):
            part, total = token // EVERY, 0.0
            ends = [*range(EVERY, max(lengths), EVERY), max(lengths)]
            for k in range(part, len(ends)):
                before = 0.0 if k == 0 else values_at(i, ends[k - 1])
                total += LAMBDA ** (k - part) * (values_at(i, ends[k]) - before)
            row.append(total)
        credits.append(row)
    answer = []
    for start in range(0, len(lengths), group):
        rows = credits[start : start + group]
        centred = []
        for row in rows:
            places = [[other[t] for other in rows if len(other) > t] for t in range(len(row))]
            centred.append([x - sum(p) / len(p) for x, p in zip(row, places)])
        flat = [x for row in centred for x in row]
        deviation = (sum(x * x for x in flat) / len(flat)) ** 0.5
        answer += [[x / (deviation + 1e-4) for x in row] for row in centred]
    return answer


def test_advantages_are_those_computed_token_by_token():
    """With the lines of numpy's polyfit."""
    random = torch.Generator().manual_seed(0)
    lengths = [10, 3, 9, 4, 10, 7, 10, 2]
    tables = torch.rand(2, 8, 11, generator=random, dtype=torch.float64)

    def at(table, i, count):  # a finished text has one score, however many tokens are allowed
        return table[i, min(count, lengths[i])].item()

    score, penalty = (partial(at, table) for table in tables)

    def value(i, count):
        final = score(i, 10) - penalty(i, 10)
        if lengths[i] <= count:
            return final
        going_on = [j for j in range(8) if lengths[j] > count]
        x = [score(j, count) for j in going_on]
        y = [score(j, 10) - (penalty(j, 10) - penalty(j, count)) for j in going_on]
        return np.polyval(np.polyfit(x, y, 1), score(i, count)) - penalty(i, count)

    ids = [[0] * length for length in lengths]
    assert [*cuts(ids)] == [4, 8]
    scores, penalties = (
        torch.tensor([[f(i, count) for count in (4, 8, 10)] for i in range(8)], dtype=torch.float64)
        for f in (score, penalty)
    )
    mask = torch.tensor([[place < length for place in range(10)] for length in lengths])
    advantages = prefix_advantages(scores, penalties, mask.int(), 4)
    assert advantages.shape == (8, 10) and advantages[~mask].count_nonzero() == 0
    for row, want, length in zip(advantages, by_hand(value, lengths, 4), lengths):
        assert row[:length].tolist() == pytest.approx(want, abs=1e-9)


def test_the_value_of_an_unfinished_text_by_hand():
    """The second text has ended. The others will have 3, 5 and 7 for scores of 1, 2 and 3 now; the
    first pays 2 more until then, so that its 3 are worth 1."""
    scores = torch.tensor([[1.0, 3.0], [4.0, 4.0], [2.0, 5.0], [3.0, 7.0]])
    penalties = torch.tensor([[1.0, 3.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    going_on = torch.tensor([[True], [False], [True], [True]])
    # through (1, 1), (2, 5), (3, 7): slope 3, 13/3 in the middle
    values = fitted_values(scores, penalties, going_on)
    want = [[13 / 3 - 3 - 1, 0.0], [3.0, 3.0], [13 / 3, 5.0], [13 / 3 + 3, 7.0]]
    torch.testing.assert_close(values, torch.tensor(want), atol=1e-5, rtol=0)


def test_where_no_line_can_be_drawn():
    """All scores equal: the mean. One text alone: what it will have. None: nothing to fit."""
    same = torch.tensor([[0.5, 0.2], [0.5, 0.8]])
    none = torch.zeros(2, 2)
    values = fitted_values(same, none, torch.tensor([[True], [True]]))
    assert values[:, 0].tolist() == pytest.approx([0.5, 0.5])
    values = fitted_values(same, none, torch.tensor([[True], [False]]))
    assert values[:, 0].tolist() == pytest.approx([0.2, 0.5])
    values = fitted_values(same, none, torch.tensor([[False], [False]]))
    assert values.equal(same)


def test_with_lambda_1_a_part_gets_the_reward_beyond_what_was_there_before():
    rewards = torch.tensor([[0.0, 0.5, 0.25, 1.0]])
    assert discounted(rewards.diff(dim=1), 1.0).tolist() == [[1.0, 0.5, 0.75]]
    assert discounted(rewards.diff(dim=1), 0.0).tolist() == [[0.5, -0.25, 0.75]]


def test_a_group_is_its_own_baseline():
    values = torch.tensor([[1.0, 5.0], [3.0, 0.0], [7.0, 7.0], [7.0, 7.0]])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]).bool()
    # The second place of the first group is one text alone: it has nobody to be better than.
    scale = (2 / 3) ** 0.5 + 1e-4
    want = [[-1 / scale, 0.0], [1 / scale, 0.0], [0.0, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(normalised(values, mask, 2), torch.tensor(want), atol=1e-6, rtol=0)
    # Nobody wrote anything: no figure that is not a number reaches the weights.
    assert normalised(torch.ones(2, 2), torch.zeros(2, 2).bool(), 2).tolist() == [[0, 0], [0, 0]]


def test_a_text_cut_short_is_scored_as_one_that_ends_there(policy, classifier):
    """Score, negation and penalty: the log-probabilities are cut with the text."""
    random = torch.Generator().manual_seed(1)
    tokenizer = policy[1]
    log_probs = LogProbs(*(-3 * torch.rand(2, 4, 10, generator=random)), MASK)
    rewards = SimpleNamespace(
        sentiment_reward=lambda completions, **_: [len(text) / 10 for text in completions],
        kl_penalty_forward=lambda q, p, mask, kl_coef=0.1: kl_coef * ((3 * q + p) * mask).sum(1),
    )
    options = resolve_options({"kl_type": "forward", "negate_reward": True})
    batch = Batch(["The film"] * 4, [[1]] * 4, IDS, tokenizer.batch_decode(IDS), 0.1, log_probs)
    for count in (4, 8):
        cut = batch.first_tokens(count, Models(policy[0], None, tokenizer))
        starts = [ids[:count] for ids in IDS]
        assert cut.completions == tokenizer.batch_decode(starts, skip_special_tokens=True)
        score_batch(rewards, options, cut)
        lengths = torch.tensor([len(text) for text in cut.completions])
        cost = ((3 * log_probs.policy + log_probs.ref) * MASK)[:, :count].sum(1)
        torch.testing.assert_close(cut.reward, -lengths / 10 - 0.1 * cost, atol=1e-5, rtol=0)


def test_the_advantages_of_the_parts_reach_the_loss(tmp_path, monkeypatch):
    from trl import GRPOTrainer

    import data
    import train

    seen, compute = [], GRPOTrainer._compute_loss

    def spy(self, model, inputs):
        seen.append((inputs["advantages"], inputs["completion_mask"], self.args.lr_scheduler_type))
        return compute(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", spy)
    monkeypatch.setattr(data, "VALIDATION_PROMPTS", data.VALIDATION_PROMPTS[:2])
    given = {"preset": "tiny", "batch_size": 8, "num_generations": 4, "max_steps": 1}
    given |= {"max_completion_length": 12, "credit": "prefix", "lr_scheduler_type": "cosine"}
    train.train(output_dir=str(tmp_path / "out"), **given)
    advantages, mask, schedule = seen[0]
    assert schedule == "cosine" and advantages.shape == mask.shape == (8, 12)
    assert not advantages[:, 0].equal(advantages[:, 4])  # two parts of each text
    everywhere = mask.bool().all(0)  # places where all texts go on; rows come in any order
    sums = advantages.sum(0)[everywhere]
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-5, rtol=0)
