import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.common import UserError, read_jsonl
from engine.model.scoring import Models
from engine.training.batch import Batch
from engine.training.explore import GROUPS, PROMPTS, RECORDS, Explorer, equal_groups

STARTS = [f"The film number {i}" for i in range(13)]


def no_reward(prompts, completions, completion_ids):
    raise UserError("8 completions a group, please")


@pytest.fixture
def explorer(tmp_path, policy):
    options = SimpleNamespace(
        output_dir=tmp_path,
        max_steps=4,
        eval_steps=2,
        num_generations=2,
        temperature=1.0,
        credit="completion",
    )
    return Explorer(options, Models(policy[0], policy[0], policy[1]), no_reward)


def samples(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    return [
        {"prompt": start, "completion": text, "ids": ids, "sentiment": 0.5}
        for start in STARTS
        for _ in range(2)
    ]


def batch(first):
    """A training batch of three groups of two, with all that it was given."""
    shaped = torch.arange(6.0) + first
    penalty = torch.tensor([0.5, 0.0] * 3)
    return Batch(
        prompts=[*"aabbcc"],
        prompt_ids=[[1]] * 6,
        completion_ids=[[i + 5] for i in range(6)],
        completions=[f" text {i}" for i in range(6)],
        scorer=lambda texts: [0.25] * len(texts),
        shaped=shaped,
        penalty=penalty,
        reward=shaped - penalty,
        advantages=torch.tensor([-0.5, 0.5] * 3),
    )


def rows_of(explorer, **match):
    return read_jsonl(explorer.file, **match)


def test_a_run_keeps_texts_and_the_groups_that_the_policy_sampled_next(explorer):
    tokenizer = explorer.models.tokenizer
    explorer.record(0, samples(tokenizer, " dull"))
    for step in (1, 2):
        explorer.see(batch(10 * step))
    explorer.record(2, samples(tokenizer, " great fun"))
    for step in (3, 4):
        explorer.see(batch(10 * step))
    explorer.record(4, samples(tokenizer, " great fun"))

    for step in (0, 2, 4):
        kept = rows_of(explorer, kind="sample", validation=step)
        assert len(kept) == PROMPTS and len({row["prompt"] for row in kept}) == PROMPTS
        assert all(row["policy"]["sentiment"] == 0.5 for row in kept)
    assert ["base" in row for row in rows_of(explorer, kind="sample", validation=0)] == [False] * 6
    last = rows_of(explorer, kind="sample", validation=4)[0]
    assert "".join(token[0] for token in last["policy"]["tokens"]) == " great fun"
    assert last["base"]["completion"] == " dull"
    text, q, p, q_top, p_top = last["policy"]["tokens"][0]
    assert q == p < 0 and len(q_top) == len(p_top) == 5

    groups = rows_of(explorer, kind="group")
    assert [(row["validation"], row["step"]) for row in groups] == [
        (step, at) for step, at in ((0, 1), (2, 3), (4, 4)) for _ in range(GROUPS)
    ]
    (place, worst), (_, best) = groups[1].pop("worst"), groups[1].pop("best")
    assert place == 0 and [len(worst), len(best)] == [1, 1]
    assert [worst[0][0], best[0][0]] == [tokenizer.decode([7]), tokenizer.decode([8])]
    assert groups[1] == {
        "validation": 0,
        "kind": "group",
        "step": 1,
        "equal": 0.0,
        "prompt": "b",
        "completions": [" text 2", " text 3"],
        "score": [0.25, 0.25],
        "shaped": [12.0, 13.0],
        "penalty": [0.5, 0.0],
        "reward": [11.5, 13.0],
        "advantage": [-0.5, 0.5],
    }


def test_groups_in_which_there_is_nothing_to_compare():
    three = batch(10)  # of groups of two
    assert equal_groups(three, 2) == (0, 0)
    three.reward = torch.tensor([1.0, 1.0, 2.0, 2.0 + 1e-7, 3.0, 4.0])
    three.completion_ids = [[7, 8], [7, 8], [5], [6], [5], [5, 5]]
    assert equal_groups(three, 2) == pytest.approx((2 / 3, 1 / 3))
    # Of two processes this one has a group of four and half of another.
    assert equal_groups(three, 4) == (0, 0)
    three.reward[2:] = 1.0
    assert equal_groups(three, 4) == (1, 0)
    assert equal_groups(three.rows(slice(1)), 4) == (0, 0)  # one text alone


def test_a_group_has_no_advantages_where_its_parts_have_their_own(explorer):
    explorer.options.credit = "prefix"
    explorer.record(0, samples(explorer.models.tokenizer, " fun"))
    explorer.see(batch(10))
    rows = rows_of(explorer, kind="group")
    assert len(rows) == GROUPS and all("advantage" not in row for row in rows)


def test_a_validation_text_has_the_reward_that_it_would_earn(explorer):
    tokenizer = explorer.models.tokenizer

    def make_batch(prompts, completions, completion_ids):
        assert prompts == STARTS[::2][:PROMPTS]
        assert completion_ids == tokenizer(completions)["input_ids"]
        shaped, cost = torch.rand(PROMPTS) + 1, torch.arange(PROMPTS) / 4
        random.random(), np.random.rand()
        given = {
            "scorer": lambda texts: [0.5] * 6,
            "shaped": shaped,
            "penalty": cost,
            "reward": shaped - cost,
        }
        return Batch(prompts, [], completion_ids, completions, **given)

    explorer.make_batch = make_batch
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    want = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    explorer.record(0, samples(tokenizer, " fun"))
    got = random.random(), np.random.rand(), torch.rand(()).item()
    assert got == want  # the training draws what it would
    texts = [row["policy"] for row in rows_of(explorer, kind="sample")]
    assert [text["score"] for text in texts] == [0.5] * 6
    assert [text["penalty"] for text in texts] == pytest.approx([i / 4 for i in range(6)], abs=1e-5)
    for text in texts:
        assert text["shaped"] - text["penalty"] == pytest.approx(text["reward"], abs=2e-5)
    explorer.record(2, samples(tokenizer, " dull"))
    row = rows_of(explorer, kind="sample", validation=2)[0]
    assert "reward" in row["policy"] and "reward" not in row["base"]  # of another model


def test_a_reward_that_wants_whole_groups_leaves_the_validation_as_it_is(explorer):
    explorer.record(0, samples(explorer.models.tokenizer, " fun"))
    kept = rows_of(explorer, kind="sample")
    assert len(kept) == PROMPTS and "reward" not in kept[0]["policy"]


def test_a_resumed_run_goes_on_from_what_it_kept(explorer, policy):
    tokenizer = policy[1]
    explorer.record(0, samples(tokenizer, " dull"))
    explorer.record(2, samples(tokenizer, " fun"))
    with open(explorer.file, "a") as file:
        file.write('{"validation": 4, "cut')
    again = Explorer(explorer.options, explorer.models, no_reward)
    again.resume({0})
    assert {row["validation"] for row in rows_of(again)} == {0}
    again.record(2, samples(tokenizer, " fun"))
    assert rows_of(again, validation=2)[0]["base"]["completion"] == " dull"
    again.file.unlink()  # as in a run of an older version
    old = Explorer(explorer.options, explorer.models, no_reward)
    old.resume({0})
    old.record(2, samples(tokenizer, " fun"))
    assert "base" not in rows_of(old, validation=2)[0]


def test_the_number_of_validations_is_bounded(explorer, policy, monkeypatch):
    explorer.options.max_steps, explorer.options.eval_steps = 1000, 3
    many = Explorer(explorer.options, explorer.models, no_reward)
    monkeypatch.setattr(many, "_samples", lambda step, samples: [{"kind": "sample"}])
    for step in [*range(0, 1000, 3), 1000]:
        many.record(step, [])
    kept = [row["validation"] for row in rows_of(many)]
    assert kept[0] == 0 and kept[-1] == 1000 and len(kept) <= RECORDS + 2
