import math

import pytest

from engine.common import UserError
from engine.course import experiments, toys
from engine.course.experiments import ESTIMATORS, K1, K2, K3


class Numbers:
    """A rewards file: one penalty returns plain floats, the other a tensor with a gradient."""

    def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
        return (kl_coef * (policy_log_probs - ref_log_probs)).sum(-1).tolist()

    def kl_penalty_backward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
        return kl_coef * (policy_log_probs - ref_log_probs).tanh().sum(-1)


@pytest.fixture
def toy():
    return toys.toy_policy()


def test_estimators_have_the_bias_that_theory_says(toy):
    log_q = toy.logits.log_softmax(0)
    for name, (kind, estimate) in ESTIMATORS.items():
        found = toys.statistics(kind, estimate(log_q, toy.log_p), log_q, toy.log_p)
        assert (abs(found.bias) < 1e-12) == (name != K2)


def test_what_each_estimate_does_as_a_penalty(toy):
    rows = experiments.compare_penalties(ESTIMATORS, toy)
    assert rows[K1].pull == pytest.approx(1, abs=1e-6)
    assert rows[K1].path[-1] < 1e-6
    assert rows["r·log r"].pull < -0.9
    assert rows["r·log r"].path[-1] == math.inf
    assert all(abs(rows[name].pull) < 0.6 for name in (K2, K3, "r·log r − (r − 1)"))
    assert all(rows[name].path[-1] > rows[name].path[0] for name in (K2, K3))
    assert rows[K3].pull > 0.3  # at first: in the end it leaves all the same


def test_what_each_estimate_does_in_the_loss(toy):
    rows = experiments.compare_places(ESTIMATORS, toy)
    k1, k2, k3 = (rows[name] for name in (K1, K2, K3))
    assert k1["in the loss"] == {"forward": None, "backward": None}
    exact = [(k1, "in the reward", "forward"), (k1, "in the loss × ratio", "forward")]
    exact += [(k2, "in the loss", "forward"), (k3, "in the loss × ratio", "forward")]
    exact += [(k3, "in the loss", "backward")]
    for row, place, kind in exact:
        assert row[place][kind] == pytest.approx(1, abs=1e-6)
    wrong = [(k2, "in the reward"), (k3, "in the reward"), (k2, "in the loss × ratio")]
    assert all(max(row[place].values()) < 0.999 for row, place in wrong)


def test_students_functions_take_part_with_or_without_a_gradient(toy):
    own = experiments.own_penalties(Numbers)
    rows = experiments.compare_places(own, toy)
    assert list(rows["kl_penalty_forward"]) == ["in the reward"]
    assert rows["kl_penalty_forward"]["in the reward"]["forward"] == pytest.approx(1, abs=1e-6)
    assert list(rows["kl_penalty_backward"]) == list(toys.PLACES)
    table = experiments.compare_texts(experiments.text_penalties(own), toys.toy_texts())
    assert table["kl_penalty_forward"]["texts", "forward"] < 1e-6
    assert table["kl_penalty_forward (texts)"]["texts", "forward"] < 1e-6
    assert 0.01 < table["kl_penalty_backward"]["texts", "backward"] < 1


def test_a_penalty_that_fails_is_shown_and_one_to_do_left_out():
    class Broken(Numbers):
        def kl_penalty_forward(*args, **kwargs):
            return 1 / 0

    class ToDo(Numbers):
        def kl_penalty_forward(*args, **kwargs):
            raise NotImplementedError("Exercise 3b: implement kl_penalty_forward")

    with pytest.raises(UserError, match="kl_penalty_forward failed: ZeroDivisionError"):
        experiments.own_penalties(Broken)
    assert list(experiments.own_penalties(ToDo)) == ["kl_penalty_backward"]


def test_estimates_of_the_value_of_texts_and_of_tokens():
    toy = toys.toy_texts()
    logs = toy.log_probs()
    apart = toys.token_divergence("backward", *logs) - toys.text_divergence("backward", *logs)
    for name, row in experiments.compare_values(toy).items():
        assert min(abs(row.bias_texts), abs(row.bias_tokens)) < 1e-12
        gap = apart.item() if row.kind == "backward" else 0.0
        assert row.bias_texts - row.bias_tokens == pytest.approx(gap, abs=1e-12)
        if name.endswith("of the text"):
            assert abs(row.bias_texts) < 1e-12
    assert abs(apart) > 1e-3


def test_the_best_possible_policy_pays_least():
    for row in experiments.compare_beta((0.3, 0.03)):
        factor = row.nats / row.fewest
        if row.by == toys.OF_TEXTS:
            assert factor == pytest.approx(1, abs=1e-6)
        else:  # and the prefix held fixed leaves the work to the later tokens
            assert factor > 1.01
            assert row.late > 0.6


def test_a_prefix_valued_by_its_score_pays_early_and_too_much():
    """The resting points of four credits: (overpaid, share of nats in the second half)."""
    rows = experiments.compare_credit((0.1, 0.05, 0.03))
    found = {(row.by, row.coefficient): (row.nats / row.fewest, row.late) for row in rows}
    optimum, by_score, fitted, fitted_0 = toys.CREDITS
    for coefficient, factor, late in (
        (0.1, 1.108, 0.277),
        (0.05, 1.237, 0.190),
        (0.03, 1.299, 0.165),
    ):
        assert found[optimum, coefficient] == pytest.approx((1, 0.532), abs=2e-3)
        assert found[by_score, coefficient] == pytest.approx((factor, late), abs=1e-3)
        assert 1 < found[fitted, coefficient][0] < found[fitted_0, coefficient][0] < 1.0115
