"""A KL coefficient that is adapted at each step, so that the run ends near a chosen KL.

The adaptive controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2) multiplies the
coefficient by 1 + 0.1 · clip(KL / target − 1, −0.2, 0.2): stronger when the policy is too far from
the reference, weaker when too near. That is an integral controller, for very many steps. Here it
is faster, and two terms keep it from swinging:

    error = (KL + change of KL over the last 3 steps) / target − 1
    level ← level · exp(gain / steps · clip(error, −0.2, 0.2)), gain 15 below the target, 30 above
    coef  = level · exp(3 · clip(error, −1, 1)), at most cap

A coefficient cannot help against noise. A learning rate that is too high throws the policy about;
its KL grows whatever the penalty says, and a coefficient that follows drowns the reward: then the
policy forgets what it has learned, and moves away all the same. So the coefficient ends at

    cap = the coefficient at which the penalty differs within a group as much as the reward does.

At the optimum for KL(policy‖ref), reward minus penalty is equal for all texts of a prompt: the two
differ alike. A penalty that differs more is noise. What is left is the learning rate. A policy that
comes too fast cannot be stopped, because Adam's momentum carries it on: it goes beyond its target,
and has to come back with less sentiment than it had. So it may come no faster than it must, which
is in half of the run. With d = √(KL / target), which grows evenly while a policy moves evenly:

    allowed = 2 / steps, growth of d a step, and at least 0.03
    rate ← (mean rate of the last 3 steps) · allowed / (mean growth in them)

as a factor of the run's own learning rate. It is never above 1, and rises only while d is below 1,
by a tenth a step at most.
"""

import math
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

# Why not Ziegler's rule alone: Adam's momentum lets the policy follow a new coefficient only after
# about ten steps. A gain that gets anywhere in 60 steps then swings between half and twice the
# target. The immediate term brakes at once; the change of KL says where the momentum leads. A
# level that fell as fast as it rises would be so low when the policy arrives that it overshoots.
FALL, RISE, MAX_ERROR = 15.0, 30.0, 0.2
IMMEDIATE = 3.0
LOOK_BACK = 3  # steps
# The presets set the learning rate and the number of steps together, so the gain of the integral
# goes with the number of steps. Below 60 it would be too large for the ten steps of delay.
FEWEST_STEPS = 60
MAX_CHANGE = 100.0  # of the level, either way: a target out of reach drives it no further
NOISE = 0.03  # of the estimate: a growth of d a step that may be nothing else
STRONGEST_BRAKE, RELEASE, SLOWEST = 0.4, 1.1, 0.05  # factors of the learning rate


class KLControl(TrainerCallback, ExportableState):
    """Holds the coefficient; transformers saves it with each checkpoint, in trainer_state.json.

    Args:
        target: KL(policy‖ref) of a completion that the run should end at, nats, above 0.
        coef: the first level, above 0.
    """

    def __init__(self, target, coef):
        self.target = target
        self.first_coef = self.level = self.coef = coef
        self.rate = 1.0  # of the learning rate of the run
        self.recent = []  # KL of the last steps, the newest last
        self.rates = []  # at which they moved

    @property
    def held(self):
        """Mean KL of the completions of the last steps, nats; None before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else None

    def state(self):
        attributes = {
            name: getattr(self, name) for name in ("level", "coef", "rate", "recent", "rates")
        }
        return {
            "args": {"target": self.target, "coef": self.first_coef},
            "attributes": attributes,
        }

    def on_train_begin(self, args, state, control, **kwargs):
        # Left to transformers, a second controller would be made, unknown to the reward function.
        callbacks: Any = state.stateful_callbacks
        for name, value in callbacks[type(self).__name__]["attributes"].items():
            setattr(self, name, value)

    def on_log(self, args, state, control, logs, **kwargs):
        """TRL logs the mean over all processes: they all go on with the same coefficient."""
        if "kl_policy_ref" not in logs:  # the closing summary of the run
            return
        rate = self.rate
        self.update(logs["kl_policy_ref"], state.max_steps, logs["score_sd"], logs["penalty_sd"])
        self._set_rate(self.rate / rate, kwargs["optimizer"], kwargs["lr_scheduler"])

    def update(self, kl, steps, score_sd, penalty_sd):
        """Take account of one step.

        Args:
            kl: mean KL(policy‖ref) of the step's completions, nats, by the estimator of
                `scoring.kl_values`: its mean is that of the validation table, its noise a third
                less. One that is not finite, or None, changes nothing.
            steps: of the whole run.
            score_sd: standard deviation of the reward without its penalty in a group, mean over
                the groups of the step.
            penalty_sd: that of the penalty, with the coefficient as it was.
        """
        if kl is None or not math.isfinite(kl):
            return
        self.recent = [*self.recent, kl][-LOOK_BACK - 1 :]
        error = (kl + (kl - self.recent[0])) / self.target - 1
        gain = (RISE if error > 0 else FALL) / max(steps, FEWEST_STEPS)
        level = self.level * math.exp(gain * clip(error, MAX_ERROR))
        lowest = self.first_coef / MAX_CHANGE
        wanted = level * math.exp(IMMEDIATE * clip(error, 1.0))
        cap = self.coef * score_sd / penalty_sd if penalty_sd > 0 else math.inf
        # A level above the cap would only have to come down again.
        self.level = min(max(min(level, cap), lowest), self.first_coef * MAX_CHANGE)
        self.coef = max(min(wanted, cap), lowest * math.exp(-IMMEDIATE))
        self.rate = self._next_rate(2 / steps)
        self.rates = [*self.rates, self.rate][-LOOK_BACK:]

    def _next_rate(self, allowed):
        """The learning rate of the next step, as a factor of the run's own.

        Args:
            allowed: growth of d a step.
        """
        steps = len(self.recent) - 1
        if steps == 0:
            return self.rate
        before, now = (math.sqrt(max(self.recent[i], 0) / self.target) for i in (0, -1))
        growth = (now - before) / steps
        moved_at = sum(self.rates[-steps:]) / steps
        wanted = moved_at * max(allowed, NOISE) / growth if growth > 0 else math.inf
        if wanted < self.rate:
            return max(wanted, STRONGEST_BRAKE * self.rate, SLOWEST)
        return min(wanted, RELEASE * self.rate, 1.0) if now < 1 else self.rate

    def _set_rate(self, factor, optimizer, scheduler):
        """Multiply the learning rate of the next step, and of all that the schedule has planned."""
        for group in optimizer.param_groups:
            group["lr"] *= factor
        plan = getattr(scheduler, "scheduler", scheduler)  # accelerate has wrapped it
        plan.base_lrs = [base * factor for base in plan.base_lrs]


def clip(value, limit):
    return min(max(value, -limit), limit)
