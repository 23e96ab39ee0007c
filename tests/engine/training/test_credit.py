from types import SimpleNamespace

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
    normalised,
    prefix_advantages,
)
from reward_utils import score_batch

# Two groups of two; all but the first text end by themselves.
IDS = [list(range(1, 11)), [5, 6, 0], [5, 6, 7, 8, 9, 10, 1, 0], [5, 6, 7, 0]]
MASK = torch.tensor([[place < len(ids) for place in range(10)] for ids in IDS])


def by_hand(rewards_at, lengths, group):
    """The advantages in plain Python: rewards_at(i, count) is the reward of the first tokens."""
    credits = []
    for i, length in enumerate(lengths):
        row = []
        for token in range(length):
            part, total = token // EVERY, 0.0
            ends = [*range(EVERY, max(lengths), EVERY), max(lengths)]
            for k in range(part, len(ends)):
                before = 0.0 if k == 0 else rewards_at(i, ends[k - 1])
                total += LAMBDA ** (k - part) * (rewards_at(i, ends[k]) - before)
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
    random = torch.Generator().manual_seed(0)
    table = torch.rand(4, 11, generator=random, dtype=torch.float64)
    lengths = [len(ids) for ids in IDS]

    def rewards_at(i, count):  # a finished text has one reward, however many tokens are allowed
        return table[i, min(count, lengths[i])].item()

    assert [*cuts(IDS)] == [4, 8]
    rewards = [[rewards_at(i, count) for count in (4, 8, 10)] for i in range(4)]
    rewards = torch.tensor(rewards, dtype=torch.float64)
    advantages = prefix_advantages(rewards, MASK.int(), 2)
    assert advantages.shape == (4, 10) and advantages[~MASK].count_nonzero() == 0
    for row, want, length in zip(advantages, by_hand(rewards_at, lengths, 2), lengths):
        assert row[:length].tolist() == pytest.approx(want, abs=1e-9)


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
        kl_penalty_forward=lambda q, p, mask, kl_coef=0.1: kl_coef * ((q - p) * mask).sum(1),
    )
    options = resolve_options({"kl_type": "forward", "negate_reward": True})
    batch = Batch(["The film"] * 4, [[1]] * 4, IDS, tokenizer.batch_decode(IDS), 0.1, log_probs)
    for count in (4, 8):
        cut = batch.first_tokens(count, Models(policy[0], None, tokenizer))
        starts = [ids[:count] for ids in IDS]
        assert cut.completions == tokenizer.batch_decode(starts, skip_special_tokens=True)
        score_batch(rewards, options, cut)
        lengths = torch.tensor([len(text) for text in cut.completions])
        ratio = ((log_probs.policy - log_probs.ref) * MASK)[:, :count].sum(1)
        torch.testing.assert_close(cut.reward, -lengths / 10 - 0.1 * ratio, atol=1e-6, rtol=0)


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
