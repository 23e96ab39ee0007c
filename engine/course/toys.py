"""Policies so small that all their texts can be listed: every expectation is a sum, no samples.

q is the policy, p the reference, r = p/q; log-probabilities are per token, in nats, float64. Three
toys: one token of eight; texts of two tokens; texts of 32 tokens or of eight parts, in which only
the number of good and bad ones counts. `kl_lab.py` shows what they find.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Cost = Callable[[Tensor, Tensor], Tensor]  # (log q, log p) of tokens -> a number for each

TOKENS = 8
FORMULAS = {"forward": "KL(policy‖ref)", "backward": "KL(ref‖policy)"}  # by the flag's word


class TokenToy(NamedTuple):
    """One token of eight: policy and reference, (8,) float64 each."""

    logits: Tensor
    log_p: Tensor


def toy_policy(spread: float = 0.4, seed: int = 0) -> TokenToy:
    """A policy close to its reference."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    return TokenToy(reference + step, reference.log_softmax(0))


def divergence(kind: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(policy‖ref) for "forward", KL(ref‖policy) for "backward", in nats.

    >>> q, p = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> f"{divergence('forward', q, p):.4f} {divergence('backward', q, p):.4f}"
    '0.1438 0.1308'
    """
    writer, other = (log_q, log_p) if kind == "forward" else (log_p, log_q)
    return (writer.exp() * (writer - other)).sum()


def exact_gradient(kind: str, logits: Tensor, log_p: Tensor) -> Tensor:
    """Gradient of the divergence itself with respect to the logits, (8,)."""
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(divergence(kind, logits.log_softmax(0), log_p), logits)[0]


def penalty_gradient(cost: Tensor, log_q: Tensor) -> Tensor:
    """E_q[c · ∇ log q] with respect to the logits of a softmax: q · (c − E_q[c]), (8,).

    >>> penalty_gradient(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]).log()).tolist()
    [0.25, -0.25]
    """
    q = log_q.exp()
    return q * (cost - (q * cost).sum())


class Estimate(NamedTuple):
    """One sample of a number as an estimate of a divergence, in nats."""

    mean: float
    bias: float
    std: float


def statistics(kind: str, cost: Tensor, log_q: Tensor, log_p: Tensor) -> Estimate:
    """How well the cost of each token, (8,), estimates the divergence `kind`."""
    q = log_q.exp()
    mean = (q * cost).sum()
    std = (q * (cost - mean) ** 2).sum().sqrt()
    bias = mean - divergence(kind, log_q, log_p)
    return Estimate(mean.item(), bias.item(), std.item())


def follow(
    penalty: Cost, logits: Tensor, log_p: Tensor, steps: int = 400, learning_rate: float = 1.0
) -> list[float]:
    """KL(policy‖ref) along the path that the penalty alone makes the policy take.

    `penalty(log_q, log_p)` is the cost of each token, (8,). Returns steps + 1 floats; the path
    ends early, in infinity, where the policy has given up a token for good.
    """
    path = []
    for _ in range(steps + 1):
        log_q = logits.log_softmax(0)
        path.append(divergence("forward", log_q, log_p).item())
        if not math.isfinite(path[-1]):
            return [*path[:-1], math.inf]
        logits = logits - learning_rate * penalty_gradient(penalty(log_q, log_p), log_q)
    return path


# Where a number c(log q, log p) can stand, and what the trainer then differentiates. The ratio is
# q/q_old: 1, because the policy has just sampled, and its gradient is ∇ log q.
PLACES = {
    "in the reward": lambda cost, q, p: cost(q.detach(), p) * q,
    "in the loss": lambda cost, q, p: cost(q, p),
    "in the loss × ratio": lambda cost, q, p: cost(q, p) * (q - q.detach()).exp(),
}


def pull(place: str, cost: Cost, log_q: Tensor, log_p: Tensor) -> Tensor | None:
    """g of each token, such that the expected gradient is E_q[g · ∇ log q]; shape of log_q.

    None where the number has no gradient (a student's function may return plain floats).
    """
    log_q = log_q.detach().requires_grad_()
    if not cost(log_q, log_p).requires_grad and place != "in the reward":
        return None
    return torch.autograd.grad(PLACES[place](cost, log_q, log_p).sum(), log_q)[0]


def exact_pull(kind: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """g of each token whose E_q[g · ∇ log q] is the exact gradient of the divergence, (N,).

    Like every g up to a constant, which has no pull, because E_q[∇ log q] = 0.
    """
    log_q = log_q.detach().requires_grad_()
    return torch.autograd.grad(divergence(kind, log_q, log_p), log_q)[0] / log_q.detach().exp()


# Texts of two tokens: four first tokens, and after each of them four second ones.
VOCABULARY = 4


class TextToy(NamedTuple):
    """Logits of policy and reference, (4 + 4 · 4,) float64 each: those of the first token, then
    those of the second token after each first one."""

    logits: Tensor
    ref_logits: Tensor

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """(log q, log p) of both tokens of all 16 texts, (16, 2) each."""
        return token_log_probs(self.logits), token_log_probs(self.ref_logits)

    def with_gradient(self) -> "TextToy":
        """The same toy, whose policy is to be differentiated."""
        return TextToy(self.logits.detach().requires_grad_(), self.ref_logits)


class Penalty(NamedTuple):
    """A number, and where it stands: a key of `PLACES`."""

    place: str
    cost: Cost


def toy_texts(spread: float = 0.4, seed: int = 0) -> TextToy:
    """A policy of texts, the closer to its reference the smaller the spread."""
    generator = torch.Generator().manual_seed(seed)
    size = VOCABULARY + VOCABULARY**2
    reference = torch.randn(size, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(size, generator=generator, dtype=torch.float64)
    return TextToy(reference + step, reference)


def token_log_probs(logits: Tensor) -> Tensor:
    """Log-probability of both tokens of all 16 texts, (16, 2)."""
    first = logits[:VOCABULARY].log_softmax(0)
    second = logits[VOCABULARY:].view(VOCABULARY, VOCABULARY).log_softmax(1)
    return torch.stack([first.repeat_interleave(VOCABULARY), second.flatten()], dim=1)


def text_divergence(kind: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """The divergence of whole texts, from the (N, T) log-probabilities of all their tokens."""
    return divergence(kind, log_q.sum(1), log_p.sum(1))


def token_divergence(kind: str, log_q: Tensor, log_p: Tensor) -> Tensor:
    """The divergence token by token, Σ_t E_prefix[KL(next token)], along the policy's own texts.

    The prefixes come from the policy but are held fixed: no gradient flows through how often the
    policy comes to a prefix. log_q, log_p: (N, T), all texts.
    """
    writer, other = (log_q, log_p) if kind == "forward" else (log_p, log_q)
    rest = (log_q.sum(1, keepdim=True) - log_q).detach().exp()  # (N, T), q of the other tokens
    return (rest * writer.exp() * (writer - other)).sum()


MEASURES = {"texts": text_divergence, "tokens": token_divergence}


def gradient_of_texts(measure: str, kind: str, toy: TextToy) -> Tensor:
    """Gradient of a divergence with respect to the logits; `measure` is a key of `MEASURES`."""
    toy = toy.with_gradient()
    return torch.autograd.grad(MEASURES[measure](kind, *toy.log_probs()), toy.logits)[0]


def text_terms(penalty: Penalty, toy: TextToy) -> tuple[Tensor, Tensor]:
    """(what the trainer differentiates for each text, (N,); probability of the text, (N,)).

    In the reward, the cost is a number for the whole text, (N,), and pulls at all its tokens. In
    the loss it is a number for each token, (N, T), and pulls at that token alone.
    """
    log_q, log_p = toy.log_probs()
    if penalty.place == "in the reward":
        terms = penalty.cost(log_q.detach(), log_p) * log_q.sum(1)
    else:
        terms = PLACES[penalty.place](penalty.cost, log_q, log_p).sum(1)
    return terms, log_q.detach().sum(1).exp()


def expected_gradient(penalty: Penalty, toy: TextToy) -> Tensor:
    """The mean gradient over all texts of the policy, (L,)."""
    toy = toy.with_gradient()
    terms, q = text_terms(penalty, toy)
    return torch.autograd.grad(q @ terms, toy.logits)[0]


def noise_of_gradient(penalty: Penalty, toy: TextToy) -> float:
    """Standard deviation of the gradient of one text, over the length of the mean gradient."""
    toy = toy.with_gradient()
    terms, q = text_terms(penalty, toy)
    gradients = [torch.autograd.grad(term, toy.logits, retain_graph=True)[0] for term in terms]
    rows = torch.stack(gradients)  # (N, L)
    mean = q @ rows
    return ((q @ (rows - mean) ** 2).sum().sqrt() / mean.norm()).item()


# Texts of T tokens. A token is a good word, a bad word or neither; the score of a text is a sigmoid
# of good − bad. So all that matters of a prefix is its balance good − bad, −T … T, S = 2T + 1 in
# all, and what is best at each balance can be worked out from the last token to the first.
MOVES = (1, -1, 0)  # what a good word, a bad word and any other do to the balance


class WalkToy(NamedTuple):
    """Texts of which only the balance counts."""

    length: int  # T
    reference: tuple[float, ...]  # probability of each of MOVES
    slope: float  # of the score, sigmoid(slope · balance)

    @property
    def p(self) -> Tensor:
        """The reference, (3,)."""
        return torch.tensor(self.reference, dtype=torch.float64)

    @property
    def scores(self) -> Tensor:
        """The score at each balance, (S,)."""
        balance = torch.arange(-self.length, self.length + 1, dtype=torch.float64)
        return (self.slope * balance).sigmoid()


WORDS = WalkToy(32, (0.07, 0.07, 0.86), 1.0)  # scores 0.5 ± 0.32, as those of the bundled models
PARTS = WalkToy(8, (0.2, 0.2, 0.6), 0.8)  # eight parts of a text, as `--credit prefix` sees it


class Holder(NamedTuple):
    """What multiplies the coefficient."""

    kind: str  # a key of FORMULAS
    later_tokens_count: bool  # whether a token pays for what it makes later ones pay


OF_TEXTS = "KL(policy‖ref) of texts"
HELD_BY = {
    OF_TEXTS: Holder("forward", later_tokens_count=True),
    "KL(policy‖ref) per token": Holder("forward", later_tokens_count=False),
    "KL(ref‖policy) per token": Holder("backward", later_tokens_count=False),
}


def _per_move(values: Tensor) -> Tensor:
    """The value after each move, (S, 3), from that of each balance, (S,)."""
    ends = torch.cat([values[:1], values, values[-1:]])  # the outermost balances: never passed
    return torch.stack([ends[1 + move : len(ends) - 1 + move] for move in MOVES], dim=1)


def resting_policy(held_by: str, coefficient: float, toy: WalkToy = WORDS) -> Tensor:
    """Where reward − coefficient · divergence lets the policy rest: its probabilities, (T, S, 3).

    Its exact gradient is 0 there. "of texts" is the optimum, the tilted reference. "per token"
    holds the prefix fixed: a token does not see what it makes later tokens pay.

    Args:
        held_by: a key of HELD_BY.
        coefficient: reward per nat.
    """
    holder = HELD_BY[held_by]
    reference = toy.p
    value = toy.scores
    steps = []  # from the last token to the first
    for _ in range(toy.length):
        after = _per_move(value)  # (S, 3)
        if holder.kind == "forward":  # q ∝ p · exp(value / coefficient)
            step = (reference.log() + after / coefficient).softmax(1)
        else:
            step = _held_by_backward(after, coefficient, reference)
        value = (step * after).sum(1)
        if holder.later_tokens_count:
            value = value - coefficient * kl_of_step(step, reference)
        steps.append(step)
    return torch.stack(steps[::-1])


def _held_by_backward(after: Tensor, coefficient: float, reference: Tensor) -> Tensor:
    """q where E_q[value] − c · KL(p‖q) is highest: c · p / (λ − value), λ such that Σ q = 1."""
    low = after.max(1, keepdim=True).values + coefficient * reference.min()  # Σ q ≥ 1
    high = after.max(1, keepdim=True).values + coefficient  # Σ q ≤ 1
    for _ in range(60):
        middle = (low + high) / 2
        too_low = (coefficient * reference / (middle - after)).sum(1, keepdim=True) > 1
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    q = coefficient * reference / (high - after)
    return q / q.sum(1, keepdim=True)


def balances(policy: Tensor) -> list[Tensor]:
    """Probability of each balance, (S,), before each token of a policy, (T, S, 3), and at the
    end: T + 1 tensors."""
    length = len(policy)
    at = torch.zeros(2 * length + 1, dtype=torch.float64)
    at[length] = 1.0
    visited = [at]
    for step in policy:
        moved = [(at * step[:, i]).roll(move) for i, move in enumerate(MOVES)]
        at = moved[0] + moved[1] + moved[2]
        visited.append(at)
    return visited


class Walk(NamedTuple):
    """What a policy at rest writes."""

    score: float  # mean
    spread: float  # standard deviation of the scores
    nats: Tensor  # KL(policy‖ref) of each position, (T,)


def walk(policy: Tensor, toy: WalkToy = WORDS) -> Walk:
    """The exact figures of a policy, (T, S, 3)."""
    *before, at = balances(policy)
    nats = [now @ kl_of_step(step, toy.p) for now, step in zip(before, policy)]
    mean = at @ toy.scores
    spread = (at @ (toy.scores - mean) ** 2).sqrt()
    return Walk(mean.item(), spread.item(), torch.stack(nats))


def kl_of_step(step: Tensor, reference: Tensor) -> Tensor:
    """KL(policy‖ref) of the next token at each balance, (S,)."""
    return torch.xlogy(step, step / reference).sum(1)


@functools.cache
def reference_balances(toy: WalkToy) -> Tensor:
    """Probability of each final balance under the reference, (S,)."""
    return balances(unmoved(toy))[-1]


def unmoved(toy: WalkToy) -> Tensor:
    """The reference as a policy, (T, S, 3)."""
    return toy.p.expand(toy.length, 2 * toy.length + 1, 3)


class Optimum(NamedTuple):
    """Where no policy has a higher score with as few nats."""

    score: float
    nats: float


def best_possible(coefficient: float, toy: WalkToy = WORDS) -> Optimum:
    """What the tilted reference q ∝ p · exp(score / coefficient) has, the optimum of
    score − coefficient · KL(policy‖ref), from the scores of the reference alone."""
    log_weights = reference_balances(toy).log() + toy.scores / coefficient
    score = log_weights.softmax(0) @ toy.scores
    nats = score / coefficient - log_weights.logsumexp(0)
    return Optimum(score.item(), nats.item())


def fewest_nats(score: float, toy: WalkToy = WORDS) -> float:
    """KL(policy‖ref) of the best policy that reaches this mean score."""
    low, high = math.log(1e-4), math.log(1e4)  # of the coefficient
    for _ in range(60):
        middle = (low + high) / 2
        if best_possible(math.exp(middle), toy).score > score:
            low = middle
        else:
            high = middle
    return best_possible(math.exp(low), toy).nats


class Credit(NamedTuple):
    """What a part of a text is credited with: the change of the value of the text so far, less its
    own penalty, and a share of what the later parts are credited with."""

    decay: float  # that share, λ
    fitted: bool  # value of a prefix: a line fitted to what is still to come; else its own score


CREDITS = {
    "the whole completion": Credit(1.0, fitted=False),  # all later parts count: the optimum
    "prefix's score, λ = 0.4": Credit(0.4, fitted=False),
    "fitted value, λ = 0.4": Credit(0.4, fitted=True),  # --credit prefix
    "fitted value, λ = 0": Credit(0.0, fitted=True),
}


def resting_by_credit(credit: Credit, coefficient: float, toy: WalkToy = PARTS) -> Tensor:
    """Where score − coefficient · KL(policy‖ref) lets the policy rest, (T, S, 3), by this credit.

    The expected update is 0 at every balance: credit, which holds the part's own penalty, is the
    same for each of its moves. Fitted values depend on the policy, so this is a fixed point.

    Raises:
        ArithmeticError: none was found.
    """
    policy = unmoved(toy)
    for _ in range(200):
        values = [toy.scores] * (toy.length + 1)
        if credit.fitted:
            values = _fitted_values(policy, coefficient, toy)
        answer = _at_rest(values, credit.decay, coefficient, toy=toy)
        if (answer - policy).abs().max() < 1e-13:
            return answer
        policy = answer
    raise ArithmeticError("the policy does not come to rest")


def _at_rest(values: list[Tensor], decay: float, coefficient: float, *, toy: WalkToy) -> Tensor:
    """The policy by which every move of a balance earns one credit: q ∝ p · exp(rest of it / c),
    the rest being what the move earns besides its own penalty c · (log q − log p)."""
    later = torch.zeros_like(toy.scores)  # mean credit of the next part
    steps = []
    for before, after in zip(values[-2::-1], values[:0:-1]):
        worth = _per_move(after + decay * later) / coefficient  # (S, 3)
        steps.append((toy.p.log() + worth).softmax(1))
        later = coefficient * (toy.p.log() + worth).logsumexp(1) - before
    return torch.stack(steps[::-1])


def _fitted_values(policy: Tensor, coefficient: float, toy: WalkToy) -> list[Tensor]:
    """At each place, the least-squares line from the score of the text so far to the final score
    minus the penalties still to come: T + 1 tensors, (S,)."""
    to_come = [toy.scores]
    for step in policy.flip(0):
        penalty = coefficient * kl_of_step(step, toy.p)
        to_come.append((step * _per_move(to_come[-1])).sum(1) - penalty)
    lines = []
    for at, target in zip(balances(policy), to_come[::-1]):
        centred = toy.scores - at @ toy.scores
        slope = (at @ (centred * target)) / (at @ centred**2).clamp(min=1e-30)
        lines.append(at @ target + slope * centred)
    return [*lines[:-1], toy.scores]
