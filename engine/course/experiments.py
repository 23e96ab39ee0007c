"""The experiments of `kl_lab.py` as figures: what a number does to the policies of toys.py."""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from engine.course import toys
from engine.course.student import Called, StudentError, check_rewards, is_written
from engine.course.toys import FORMULAS, Cost, Penalty, TextToy, TokenToy, Walk

OWN = "kl_penalty_"  # how the names of a student's functions begin


class Candidate(NamedTuple):
    """A number per token that may hold the policy near the reference."""

    kind: str  # which divergence it is meant for: a key of FORMULAS
    cost: Cost


def _ratio(q: Tensor, p: Tensor) -> Tensor:
    return (p - q).exp()


# Estimators of a divergence. Are they penalties too?
ESTIMATORS = {
    "k1 = −log r": Candidate("forward", lambda q, p: q - p),
    "k2 = ½ log² r": Candidate("forward", lambda q, p: (p - q) ** 2 / 2),
    "k3 = r − 1 − log r": Candidate("forward", lambda q, p: _ratio(q, p) - 1 - (p - q)),
    "r·log r": Candidate("backward", lambda q, p: _ratio(q, p) * (p - q)),
    "r·log r − (r − 1)": Candidate(
        "backward", lambda q, p: _ratio(q, p) * (p - q) - (_ratio(q, p) - 1)
    ),
}
K1, K2, K3 = list(ESTIMATORS)[:3]


def own_penalties(rewards: ModuleType) -> dict[str, Candidate]:
    """The penalties of a rewards file that are implemented, by name.

    cost(log_q, log_p) takes N tokens, (N,), or the tokens of N texts, (N, T), and returns (N,)
    float64; it carries a gradient where log_q does and the student's function lets it through.
    """

    def cost_of(name) -> Cost:
        function = getattr(Called(rewards), name)

        def cost(log_q, log_p):
            texts = [x.float().reshape(len(x), -1) for x in (log_q, log_p)]  # (N, T) each
            mask = torch.ones(texts[0].shape, dtype=torch.bool)
            values = function(*texts, mask, kl_coef=1.0)
            checked = check_rewards(values, range(1, len(mask) + 1), name, what="token").double()
            return values.double().flatten() if getattr(values, "requires_grad", False) else checked

        return cost

    costs = {kind: cost_of(OWN + kind) for kind in FORMULAS}
    zeros = torch.zeros(toys.TOKENS)
    return {
        OWN + kind: Candidate(kind, cost)
        for kind, cost in costs.items()
        if is_written(cost, zeros, zeros)
    }


def cosine(a: Tensor, b: Tensor) -> float | None:
    """Cosine between two gradients; None where the first is nothing but rounding."""
    if a.norm() < 1e-6 * b.norm():
        return None
    return torch.cosine_similarity(a, b, dim=0).item()


class PenaltyFigures(NamedTuple):
    """What a number estimates, and what it does when it is subtracted from the reward."""

    kind: str
    estimate: toys.Estimate
    pull: float  # cosine with the exact gradient
    path: list[float]  # of `toys.follow`


def compare_penalties(candidates: dict[str, Candidate], toy: TokenToy) -> dict[str, PenaltyFigures]:
    """The figures of each candidate, by name."""
    log_q = toy.logits.log_softmax(0)
    rows = {}
    for name, (kind, cost_of) in candidates.items():
        cost = cost_of(log_q, toy.log_p)
        pull = cosine(toys.penalty_gradient(cost, log_q), toys.exact_gradient(kind, *toy))
        rows[name] = PenaltyFigures(
            kind=kind,
            estimate=toys.statistics(kind, cost, log_q, log_p=toy.log_p),
            pull=pull or 0.0,
            path=toys.follow(cost_of, *toy),
        )
    return rows


def compare_places(
    candidates: dict[str, Candidate], toy: TokenToy
) -> dict[str, dict[str, dict[str, float | None]]]:
    """{name: {place: {kind: cosine}}}: where each number pulls, against both exact gradients.

    A cosine is None where there is no pull; a place is missing where a student's function returns
    numbers without gradient.
    """
    log_q = toy.logits.log_softmax(0)
    exact = {kind: toys.exact_gradient(kind, *toy) for kind in FORMULAS}
    rows = {}
    for name, candidate in candidates.items():
        rows[name] = {}
        for place in toys.PLACES:
            pull = pull_of(Penalty(place, candidate.cost), log_q, toy.log_p)
            if pull is not None:
                moved = toys.penalty_gradient(pull, log_q)
                rows[name][place] = {kind: cosine(moved, exact[kind]) for kind in FORMULAS}
    return rows


def pull_of(penalty: Penalty, log_q: Tensor, log_p: Tensor) -> Tensor | None:
    """`toys.pull`; None also where a student's function fails on numbers that carry a gradient."""
    try:
        return toys.pull(*penalty, log_q, log_p)
    except StudentError:
        if penalty.place == "in the reward":
            raise
        return None


def text_penalties(own: dict[str, Candidate]) -> dict[str, Penalty]:
    """The penalties of the experiment with two tokens, by name."""
    k1, k2, k3 = (ESTIMATORS[name].cost for name in (K1, K2, K3))
    rows = {
        "reward: Σ k1": Penalty("in the reward", lambda q, p: k1(q, p).sum(1)),
        "loss: k3 × ratio": Penalty("in the loss × ratio", k3),
        "loss: k3": Penalty("in the loss", k3),
        "loss: k2": Penalty("in the loss", k2),
    }
    for name, candidate in own.items():
        rows[name] = Penalty("in the reward", candidate.cost)
        rows[f"{name} (texts)"] = Penalty("in the reward", whole(candidate.cost))
    return rows


def whole(cost: Cost) -> Cost:
    """The cost of a text as if it were one long token: r becomes Π r."""
    return lambda log_q, log_p: cost(log_q.sum(1), log_p.sum(1))


class Divergence(NamedTuple):
    """One of the four divergences of texts of two tokens."""

    measure: str  # a key of toys.MEASURES
    kind: str  # a key of FORMULAS


def compare_texts(
    penalties: dict[str, Penalty], toy: TextToy
) -> dict[str, dict[Divergence, float]]:
    """How far each penalty is off each divergence, for texts of two tokens.

    How far off: the length of (expected gradient − exact gradient) over that of the exact one.
    """
    expected = {name: toys.expected_gradient(penalty, toy) for name, penalty in penalties.items()}
    rows = {name: {} for name in penalties}
    for kind in FORMULAS:
        for measure in toys.MEASURES:
            exact = toys.gradient_of_texts(measure, kind, toy)
            for name, gradient in expected.items():
                error = gradient - exact
                off = (error.norm() / exact.norm()).item()
                rows[name][Divergence(measure, kind)] = off
    return rows


class ValueFigures(NamedTuple):
    """How well a number of a text estimates a divergence, in nats."""

    kind: str
    mean: float
    bias_texts: float  # against the divergence of whole texts
    bias_tokens: float  # against that of token after token
    std: float


def compare_values(toy: TextToy) -> dict[str, ValueFigures]:
    """Estimates of the value, for texts of two tokens."""
    log_q, log_p = toy.log_probs()
    q = log_q.sum(1).exp()
    rows = {}
    for name in (K1, K3, "r·log r − (r − 1)"):
        kind, estimate = ESTIMATORS[name]
        values_of = {f"Σ {name}": estimate(log_q, log_p).sum(1)}
        if name != K1:  # whose sum is the same number: a sum of logarithms
            values_of[f"{name}, r of the text"] = whole(estimate)(log_q, log_p)
        for title, values in values_of.items():
            mean = q @ values
            std = (q @ (values - mean) ** 2).sqrt()
            bias = [mean - measure(kind, log_q, log_p) for measure in toys.MEASURES.values()]
            rows[title] = ValueFigures(kind, *(x.item() for x in (mean, *bias, std)))
    return rows


class Rest(NamedTuple):
    """Where reward and divergence let a policy rest."""

    by: str  # what holds the policy, or what credits its parts: a key of HELD_BY or CREDITS
    coefficient: float  # reward per nat
    found: Walk
    fewest: float  # nats of the best policy with this score

    @property
    def nats(self) -> float:
        """Of a whole text."""
        return self.found.nats.sum().item()

    @property
    def late(self) -> float:
        """Share of the nats that the second half of the text pays."""
        return self.found.nats[len(self.found.nats) // 2 :].sum().item() / self.nats


def compare_beta(coefficients: Sequence[float]) -> list[Rest]:
    """Where the policy rests, for each way to hold it and each coefficient."""
    rows = []
    for held_by in toys.HELD_BY:
        for coefficient in coefficients:
            found = toys.walk(toys.resting_policy(held_by, coefficient))
            rows.append(Rest(held_by, coefficient, found, toys.fewest_nats(found.score)))
    return rows


def compare_credit(coefficients: Sequence[float]) -> list[Rest]:
    """Where the policy rests, for each way to credit a part of a text and each coefficient."""
    rows = []
    for by, credit in toys.CREDITS.items():
        for coefficient in coefficients:
            found = toys.walk(toys.resting_by_credit(credit, coefficient), toys.PARTS)
            fewest = toys.fewest_nats(found.score, toys.PARTS)
            rows.append(Rest(by, coefficient, found, fewest))
    return rows
