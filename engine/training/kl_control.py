"""A KL coefficient that is adapted at each step, so that the run ends near a chosen KL.

The adaptive controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2) multiplies the
coefficient by 1 + 0.1 · clip(KL / target − 1, −0.2, 0.2): stronger when the policy is too far from
the reference, weaker when too near. That is an integral controller, for very many steps. Here it
is faster, and two terms keep it from swinging:

    error = (KL + change of KL over the last 3 steps) / target − 1
    level ← level · exp(30 / steps · clip(error, −0.2, 0.2))
    coef  = level · exp(3 · clip(error, −1, 1))
"""

import math
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

# Why not Ziegler's rule alone: Adam's momentum lets the policy follow a new coefficient only after
# about ten steps. A gain that gets anywhere in 60 steps then swings between half and twice the
# target. The immediate term brakes at once; the change of KL says where the momentum leads.
INTEGRAL, MAX_ERROR = 30.0, 0.2
IMMEDIATE = 3.0
LOOK_BACK = 3  # steps
# The presets set the learning rate and the number of steps together, so the gain of the integral
# goes with the number of steps. Below 60 it would be too large for the ten steps of delay.
FEWEST_STEPS = 60
MAX_CHANGE = 100.0  # of the level, either way: a target out of reach drives it no further


class KLControl(TrainerCallback, ExportableState):
    """Holds the coefficient; transformers saves it with each checkpoint, in trainer_state.json.

    Args:
        target: KL(policy‖ref) of a completion that the run should end at, nats, above 0.
        coef: the first level, above 0.
    """

    def __init__(self, target, coef):
        self.target = target
        self.first_coef = self.level = self.coef = coef
        self.recent = []  # KL of the last steps, the newest last

    def state(self):
        return {
            "args": {"target": self.target, "coef": self.first_coef},
            "attributes": {"level": self.level, "coef": self.coef, "recent": self.recent},
        }

    def on_train_begin(self, args, state, control, **kwargs):
        # Left to transformers, a second controller would be made, unknown to the reward function.
        callbacks: Any = state.stateful_callbacks
        saved = callbacks[type(self).__name__]["attributes"]
        self.level = saved["level"]
        self.coef = saved["coef"]
        self.recent = saved["recent"]

    def on_log(self, args, state, control, logs, **kwargs):
        """TRL logs the mean over all processes: they all go on with the same coefficient."""
        if "kl_policy_ref" in logs:  # not in the closing summary of the run
            self.update(logs["kl_policy_ref"], state.max_steps)

    def update(self, kl, steps):
        """Take account of one step.

        Args:
            kl: mean KL(policy‖ref) of the step's completions, nats, by the estimator of
                `scoring.kl_values`: its mean is that of the validation table, its noise a third
                less. One that is not finite, or None, changes nothing.
            steps: of the whole run.
        """
        if kl is None or not math.isfinite(kl):
            return
        self.recent = [*self.recent, kl][-LOOK_BACK - 1 :]
        error = (kl + (kl - self.recent[0])) / self.target - 1
        gain = INTEGRAL / max(steps, FEWEST_STEPS)
        level = self.level * math.exp(gain * clip(error, MAX_ERROR))
        self.level = min(max(level, self.first_coef / MAX_CHANGE), self.first_coef * MAX_CHANGE)
        self.coef = self.level * math.exp(IMMEDIATE * clip(error, 1.0))


def clip(value, limit):
    return min(max(value, -limit), limit)
