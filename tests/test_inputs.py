"""Input at the limits: long, empty, foreign, odd. Every text has a defined outcome."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
import train
from engine.common import UserError
from engine.course.student import check_rewards, load_rewards
from engine.model.scoring import kl_values
from engine.model.texts import tokenize_prompts
from engine.options import resolve_options
from reward_utils import make_reward_function
from sentiment import get_hackable_scores, get_sentiment_scores

QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LOG_PROB = st.floats(-80, 0, width=32)
TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=4)
ODD = {
    "empty": "",
    "blank": " \n\t ",
    "NUL": "\0\0",
    "long": "very " * 20_000 + "good",
    "one long word": "a" * 100_000,
    "Chinese": "这部电影非常好看",
    "Arabic": "هذا فيلم رائع",
    "emoji": "🎬🍿👍🏽👨‍👩‍👧‍👦",
    "turned around": "\u202egood\u202c",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_have_a_score(classifier, name):
    text = ODD[name]
    alone, after = get_sentiment_scores([text])[0], get_sentiment_scores(["A good film.", text])[1]
    assert 0 <= alone <= 1 and alone == pytest.approx(after, abs=1e-5)
    assert 0 <= get_hackable_scores([text])[0] <= 1


def test_a_text_beyond_the_context_is_scored_by_its_beginning(classifier):
    long = "A wonderful film. " * 200
    assert get_sentiment_scores([long + "Terrible. " * 50]) == pytest.approx(
        get_sentiment_scores([long]), abs=1e-5
    )


@QUICK
@given(texts=TEXTS)
def test_a_score_depends_on_its_text_alone(classifier, texts):
    scores = get_sentiment_scores(texts)
    assert all(0 <= score <= 1 for score in scores)
    alone = [get_sentiment_scores([text])[0] for text in texts]
    assert scores == pytest.approx(alone, abs=1e-5)


@QUICK
@given(
    texts=TEXTS,
    shaping=st.sampled_from(["linear", "exponential", "shaped", "five_stars"]),
    negate=st.booleans(),
)
def test_every_reward_of_every_text_is_finite(classifier, solution, texts, shaping, negate):
    reward = make_reward_function(solution, reward_shaping=shaping, negate_reward=negate)
    try:
        rewards = reward(["It is"] * len(texts), texts, [[1]] * len(texts))
    except UserError as error:
        if isinstance(error.__cause__, NotImplementedError):
            pytest.skip(str(error))
        raise
    assert len(rewards) == len(texts) and all(map(math.isfinite, rewards))


@QUICK
@given(
    values=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=6),
    form=st.sampled_from([list, tuple, np.array, torch.tensor]),
)
def test_numbers_of_any_form_come_through(values, form):
    got = check_rewards(form(values), ["a text"] * len(values), "f")
    assert got.dtype == torch.float32 and got.tolist() == pytest.approx(values, rel=1e-6, abs=1e-30)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@QUICK
@given(values=ANYTHING)
def test_anything_else_is_refused_in_one_line(values):
    try:
        got = check_rewards(values, ["a text", "another"], "f")
    except UserError as error:
        assert "f returned" in str(error) and "\n" not in str(error)
    else:
        assert got.shape == (2,) and got.isfinite().all()


@QUICK
@given(
    rows=st.lists(
        st.lists(
            st.tuples(*[st.floats(-80, 0, width=32)] * 2, st.booleans()), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=4,
    )
)
def test_kl_estimates_are_never_negative(rows):
    q, p, mask = torch.tensor(rows).unbind(-1)
    values = kl_values(q, p, mask.bool())
    for value in (values.forward, values.backward):
        assert value.isfinite().all() and (value >= -1e-4).all()
    assert 0 <= values.clipped <= 1


# Files of prompts.


@pytest.mark.slow
def test_a_hundred_thousand_prompts(tmp_path, policy):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Film number {i} was\n\n" for i in range(100_000)), encoding="utf-8")
    model, tokenizer = policy
    options = resolve_options({"preset": "tiny"})
    started = time.perf_counter()
    dataset = data.get_train_dataset(str(file))
    tokenize_prompts(dataset["prompt"][:], tokenizer, model, options.max_completion_length)
    arranged = data.arrange(dataset, 480, seed=0)
    assert len(dataset) == 100_000 and len(set(arranged["prompt"])) == 480
    assert time.perf_counter() - started < 30


def test_prompts_of_every_script_train(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "VALIDATION_PROMPTS", data.VALIDATION_PROMPTS[:4])
    file = tmp_path / "prompts.txt"
    lines = ["这部电影", "هذا الفيلم", "🎬 was", "\u202eback", "naïve café", "   ", "", "x" * 40]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert len(data.get_train_dataset(str(file))) == 6  # the blank ones are none
    # Seven prompts a step: more than there are.
    options = {"preset": "tiny", "batch_size": 14, "num_generations": 2, "max_steps": 2}
    options |= {"max_completion_length": 4, "prompts": str(file), "eval_steps": 10}
    trainer = train.train(**options, output_dir=str(tmp_path / "out"))
    assert trainer.state.global_step == 2


def test_a_prompt_of_ten_kilobytes_is_named(tmp_path, policy):
    file = tmp_path / "prompts.txt"
    file.write_text("It was\n" + "long " * 2000 + "\n", encoding="utf-8")
    model, tokenizer = policy
    options = resolve_options({"preset": "tiny"})
    prompts = data.get_train_dataset(str(file))["prompt"][:]
    with pytest.raises(
        UserError, match=r"'long long .*…' has 2000 tokens.*context of 128"
    ) as error:
        tokenize_prompts(prompts, tokenizer, model, options.max_completion_length)
    assert len(str(error.value)) < 250


def test_the_students_file_is_read_as_utf_8(tmp_path):
    (tmp_path / "rewards.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(UserError, match="rewards.py cannot be imported"):
        load_rewards(tmp_path / "rewards.py")
