"""Whatever the texts and numbers are: inputs that Hypothesis draws."""

import math

import numpy as np
import pytest
import torch

from engine.common import UserError
from engine.course.student import check_rewards, is_to_do
from engine.model.scoring import kl_values
from reward_utils import make_reward_function
from sentiment import get_sentiment_scores

hypothesis = pytest.importorskip("hypothesis", reason="students do without it")
given, st = hypothesis.given, hypothesis.strategies

QUICK = hypothesis.settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=4)


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
        if is_to_do(error.__cause__):
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
