import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

import grpo_from_scratch as grpo
from engine.course.toys import divergence
from engine.model.scoring import kl_values
from engine.training.kl_control import KLControl

NO_CAP = {"score_sd": 0.3, "penalty_sd": 0.0}  # a penalty that is the same for all texts


@pytest.mark.parametrize(
    "kl, steps, level, coef",
    [
        # too far by a tenth: level · exp(30/60 · 0.1), and at once exp(3 · 0.1) more
        ([2.2], 60, 0.1 * math.exp(0.05), 0.1 * math.exp(0.35)),
        ([2.2], 300, 0.1 * math.exp(0.01), 0.1 * math.exp(0.31)),
        ([2.2], 6, 0.1 * math.exp(0.05), 0.1 * math.exp(0.35)),  # no faster than in 60 steps
        ([1.8], 60, 0.1 * math.exp(-0.025), 0.1 * math.exp(-0.325)),
        ([2.0], 60, 0.1, 0.1),
        # errors of 4 and −1, clipped to ±0.2 for the level and to ±1 beside it
        ([10.0], 60, 0.1 * math.exp(0.1), 0.1 * math.exp(3.1)),
        ([0.0], 60, 0.1 * math.exp(-0.05), 0.1 * math.exp(-3.05)),
        ([-50.0], 60, 0.1 * math.exp(-0.05), 0.1 * math.exp(-3.05)),
        # errors −0.5, (1.2 + 0.2)/2 − 1 = −0.3, (1.4 + 0.4)/2 − 1 = −0.1, (1.6 + 0.6)/2 − 1 = 0.1,
        # (1.7 + 0.5)/2 − 1 = 0.1: what lies more than three steps back is forgotten
        ([1.0, 1.2, 1.4, 1.6], 60, 0.1 * math.exp(-0.075), 0.1 * math.exp(0.225)),
        ([1.0, 1.2, 1.4, 1.6, 1.7], 60, 0.1 * math.exp(-0.025), 0.1 * math.exp(0.275)),
    ],
)
def test_updates_by_hand(kl, steps, level, coef):
    control = KLControl(target=2.0, coef=0.1)
    for value in kl:
        control.update(value, steps, **NO_CAP)
    assert control.level == pytest.approx(level, rel=1e-12)
    assert control.coef == pytest.approx(coef, rel=1e-12)


def test_what_was_held_is_the_mean_of_the_last_four_steps():
    control = KLControl(target=2.0, coef=0.1)
    assert control.held is None
    for value in (9.0, 1.0, 2.0, 2.5, float("nan"), 2.7):
        control.update(value, 60, **NO_CAP)
    assert control.held == pytest.approx((1.0 + 2.0 + 2.5 + 2.7) / 4, abs=1e-12)


@pytest.mark.parametrize("kl, level", [(0.0, 0.001), (50.0, 10.0)])
def test_a_target_out_of_reach_drives_it_only_so_far(kl, level):
    control = KLControl(target=2.0, coef=0.1)
    for _ in range(1000):
        control.update(kl, 60, **NO_CAP)
        assert 0 < control.coef < 1000
    assert control.level == pytest.approx(level)


@pytest.mark.parametrize("kl", [float("nan"), float("inf"), -float("inf"), None])
def test_what_is_no_number_changes_nothing(kl):
    control, calm = KLControl(2.0, 0.1), KLControl(2.0, 0.1)
    for value in (1.0, kl, 1.5, kl):
        control.update(value, 60, **NO_CAP)
    for value in (1.0, 1.5):
        calm.update(value, 60, **NO_CAP)
    assert control.state() == calm.state()


def test_the_penalty_never_differs_more_than_the_reward():
    """Far above the target: coefficient and level stop where the two differ alike, and so does the
    level, which would otherwise have to come down again."""
    control = KLControl(2.0, 0.1)
    control.update(8.0, 60, score_sd=0.2, penalty_sd=0.1)
    assert control.coef == pytest.approx(0.2)  # it wanted 0.1 · exp(0.1 + 3)
    assert control.level == pytest.approx(0.1 * math.exp(0.1))
    control.update(8.0, 60, score_sd=0.1, penalty_sd=0.4)  # of a coefficient of 0.2
    assert control.coef == control.level == pytest.approx(0.05)
    control.update(8.0, 60, score_sd=0.0, penalty_sd=0.4)  # all rewards equal: next to nothing
    assert 0 < control.coef < 1e-4


@pytest.mark.parametrize(
    "kl, steps, rate",
    [
        ([0.0], 60, 1.0),  # nothing is known of its growth
        # d = 0, 0.5: 0.5 a step where 2/60 are allowed; not below 0.4 at once
        ([0.0, 0.5], 60, 0.4),
        # d = 0.5, 0.55: 0.05 a step
        ([0.5, 0.605], 60, 2 / 60 / 0.05),
        ([0.5, 0.605], 600, 0.03 / 0.05),  # 2/600 would be noise
        ([0.5, 0.605], 10, 1.0),  # too short a run to come slower
        # and then no growth: up by a tenth
        ([0.5, 0.605, 0.5], 60, 1.1 * 2 / 60 / 0.05),
        # d = 0.8, 0.9, 1: 0.4 as above, and then by what it moved at: (1 + 0.4) / 2 · 1/3
        ([1.28, 1.62, 2.0], 60, 0.7 / 3),
        ([3.0, 2.5, 2.5], 60, 1.0),  # above the target and coming back
        ([0.02, 0.03], 60, 1.0),  # slow
    ],
)
def test_a_policy_takes_half_of_the_run_to_arrive(kl, steps, rate):
    control = KLControl(2.0, 0.1)
    for value in kl:
        control.update(value, steps, **NO_CAP)
    assert control.rate == pytest.approx(rate, rel=1e-9)


def test_the_rate_is_that_of_the_steps_that_are_judged():
    """What was slowed down already is not slowed down again for the same growth."""
    control = KLControl(2.0, 0.1)
    for value in (0.0, 0.005, 0.02):
        control.update(value, 60, **NO_CAP)
    # d grew 0.05 in the first step and 0.1 in both, at rates of 1 and 2/3; 2/60 are allowed
    assert control.rate == pytest.approx((1 + 2 / 3) / 2 * (2 / 60) / 0.05)


class Schedule:
    """What a learning rate schedule has that accelerate wraps."""

    def __init__(self, rate):
        self.base_lrs = [rate]


def logged(control, state, kl, optimizer=None, schedule=None):
    optimizer = optimizer or SimpleNamespace(param_groups=[])
    schedule = SimpleNamespace(scheduler=schedule or Schedule(1e-4))
    row = {"reward": 0.5, "kl_policy_ref": kl, **NO_CAP}
    control.on_log(None, state, None, row, optimizer=optimizer, lr_scheduler=schedule)


def test_only_the_log_of_a_step_counts():
    control, state = KLControl(2.0, 0.1), TrainerState(max_steps=60)
    control.on_log(None, state, None, {"train_runtime": 3.0, "train_loss": 0.1})
    assert control.coef == 0.1
    logged(control, state, 2.2)
    assert control.coef == pytest.approx(0.1 * math.exp(0.35))


def test_the_rate_reaches_the_next_step_and_the_plan():
    control, state = KLControl(2.0, 0.1), TrainerState(max_steps=60)
    optimizer = SimpleNamespace(param_groups=[{"lr": 8e-5}])
    schedule = Schedule(1e-4)
    for kl, factor in ((0.0, 1.0), (0.5, 0.4)):
        logged(control, state, kl, optimizer, schedule)
        assert control.rate == factor
        assert optimizer.param_groups[0]["lr"] == pytest.approx(8e-5 * factor)
        assert schedule.base_lrs == pytest.approx([1e-4 * factor])


def test_it_goes_on_from_trainer_state_json(tmp_path):
    """Written and read by transformers; the next update is equal to the last bit."""
    one, other = KLControl(2.0, 0.1), KLControl(2.0, 0.1)
    for value in (0.1, 0.7, 1.3, 1.9, 2.3):
        one.update(value, 60, **NO_CAP)
    TrainerState(stateful_callbacks=[one]).save_to_json(tmp_path / "trainer_state.json")
    assert (
        "KLControl"
        in json.loads((tmp_path / "trainer_state.json").read_text())["stateful_callbacks"]
    )
    saved = TrainerState.load_from_json(tmp_path / "trainer_state.json")
    other.on_train_begin(TrainingArguments(tmp_path), saved, TrainerControl())
    assert other.state() == one.state() and other.rate < 1
    for control in (one, other):
        control.update(2.6, 60, **NO_CAP)
    assert other.coef == one.coef and other.rate == one.rate


def learning_rates(steps, decay=False, first=0.03):
    """After a warm-up, constant, or down to 0."""
    return [first * min((i + 1) / 5, 1) * (1 - i / steps if decay else 1) for i in range(steps)]


def train_toy(solution, control, rates, kind, seed):
    """GRPO with Adam on texts of 32 words, each drawn from six as in grpo_from_scratch; the exact
    KL of a text before each step and after the last. `rates`: the learning rate of each step."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(6, requires_grad=True)
    reference = logits.detach().log_softmax(0)
    optimizer = torch.optim.Adam([logits], lr=0.0)
    mask = torch.ones(64, 32).bool()
    penalty_of = getattr(solution, f"kl_penalty_{kind}")
    history = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate * control.rate
        log_q = logits.detach().log_softmax(0)
        history.append(32 * divergence("forward", log_q, reference).item())
        words = log_q.exp().expand(64, 6).multinomial(32, replacement=True, generator=generator)
        log_probs = (log_q[words], reference[words])  # (64, 32) each
        penalty = penalty_of(*log_probs, mask, kl_coef=1.0)
        scores = torch.sigmoid(30 * (grpo.REWARDS[words].mean(1) - 0.55))
        advantages = solution.group_advantages(scores - control.coef * penalty, 8)
        loss = solution.policy_loss(logits.log_softmax(0)[words], log_q[words], advantages, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        control.update(
            kl_values(*log_probs, mask).forward.mean().item(),
            len(rates),
            score_sd=scores.view(8, 8).std(1).mean().item(),
            penalty_sd=control.coef * penalty.view(8, 8).std(1).mean().item(),
        )
    log_q = logits.detach().log_softmax(0)
    return [*history, 32 * divergence("forward", log_q, reference).item()]


@pytest.mark.parametrize(
    "target, steps, decay, kind, within",
    [
        (1.0, 60, True, "forward", 0.35),  # too far at first, and no time to come back
        (2.0, 60, True, "backward", 0.15),
        (4.0, 60, True, "forward", 0.1),
        (1.0, 200, False, "backward", 0.1),
        (2.0, 200, True, "forward", 0.1),
        (4.0, 200, False, "backward", 0.1),
    ],
)
def test_a_toy_ends_near_the_target(solution, target, steps, decay, kind, within):
    rates = learning_rates(steps, decay)
    ends = [train_toy(solution, KLControl(target, 0.1), rates, kind, seed)[-1] for seed in range(3)]
    assert ends == pytest.approx([target] * 3, rel=within)


@pytest.mark.parametrize("first", [0.02, 0.03, 0.09, 0.15])
def test_a_toy_does_not_overshoot_whatever_its_learning_rate(solution, first):
    """A quarter of the way it is no further than it ends, so that it unlearns nothing."""
    for seed in range(3):
        kls = train_toy(
            solution, KLControl(2.0, 0.1), learning_rates(60, first=first), "forward", seed
        )
        assert kls[15] < 0.8 * kls[-1] and max(kls) < 1.3 * 2.0
        assert kls[-1] == pytest.approx(2.0, rel=0.15)
