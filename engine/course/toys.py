"""Policies so small that all their texts can be listed: every expectation is a sum, no samples.

q is the policy, p the reference, r = p/q; log-probabilities are per token, in nats, float64. Three
toys: one token of eight; texts of two tokens; texts of 32 tokens, in which only the number of good
and bad words counts. `kl_lab.py` shows what they find.
"""

import functools
import math

import torch

TOKENS = 8
FORMULAS = {"forward": "KL(policy‖ref)", "backward": "KL(ref‖policy)"}  # by the flag's word


def toy_policy(spread=0.4, seed=0):
    """(logits of the policy, log p of the reference), (8,) float64, close to each other."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    return reference + step, reference.log_softmax(0)


def divergence(kind, log_q, log_p):
    """KL(policy‖ref) for "forward", KL(ref‖policy) for "backward", in nats.

    >>> q, p = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> f"{divergence('forward', q, p):.4f} {divergence('backward', q, p):.4f}"
    '0.1438 0.1308'
    """
    first, second = (log_q, log_p) if kind == "forward" else (log_p, log_q)
    return (first.exp() * (first - second)).sum()


def exact_gradient(kind, logits, log_p):
    """Gradient of the divergence itself with respect to the logits, (8,)."""
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(divergence(kind, logits.log_softmax(0), log_p), logits)[0]


def penalty_gradient(cost, log_q):
    """E_q[c · ∇ log q] with respect to the logits of a softmax: q · (c − E_q[c]), (8,).

    >>> penalty_gradient(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]).log()).tolist()
    [0.25, -0.25]
    """
    q = log_q.exp()
    return q * (cost - (q * cost).sum())


def statistics(kind, cost, log_q, log_p):
    """Mean, bias and standard deviation of one sample of `cost` as an estimate of `kind`."""
    q = log_q.exp()
    mean = (q * cost).sum()
    std = (q * (cost - mean) ** 2).sum().sqrt()
    return mean.item(), (mean - divergence(kind, log_q, log_p)).item(), std.item()


def follow(penalty, logits, log_p, steps=400, learning_rate=1.0):
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


def pull(place, cost, log_q, log_p):
    """g of each token, such that the expected gradient is E_q[g · ∇ log q]; shape of log_q.

    None where the number has no gradient (a student's function may return plain floats).
    """
    log_q = log_q.detach().requires_grad_()
    if not cost(log_q, log_p).requires_grad and place != "in the reward":
        return None
    return torch.autograd.grad(PLACES[place](cost, log_q, log_p).sum(), log_q)[0]


def exact_pull(kind, log_q, log_p):
    """g of each token whose E_q[g · ∇ log q] is the exact gradient of the divergence, (N,).

    Like every g up to a constant, which has no pull, because E_q[∇ log q] = 0.
    """
    log_q = log_q.detach().requires_grad_()
    return torch.autograd.grad(divergence(kind, log_q, log_p), log_q)[0] / log_q.detach().exp()


# Texts of two tokens: four first tokens, and after each of them four second ones.
VOCABULARY = 4


def toy_texts(spread=0.4, seed=0):
    """(logits of the policy, logits of the reference), (4 + 4 · 4,) float64: those of the first
    token, then those of the second token after each first one."""
    generator = torch.Generator().manual_seed(seed)
    size = VOCABULARY + VOCABULARY**2
    reference = torch.randn(size, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(size, generator=generator, dtype=torch.float64)
    return reference + step, reference


def token_log_probs(logits):
    """Log-probability of both tokens of all 16 texts, (16, 2)."""
    first = logits[:VOCABULARY].log_softmax(0)
    second = logits[VOCABULARY:].view(VOCABULARY, VOCABULARY).log_softmax(1)
    return torch.stack([first.repeat_interleave(VOCABULARY), second.flatten()], dim=1)


def text_divergence(kind, log_q, log_p):
    """The divergence of whole texts, from the (N, T) log-probabilities of all their tokens."""
    return divergence(kind, log_q.sum(1), log_p.sum(1))


def token_divergence(kind, log_q, log_p):
    """The divergence token by token, Σ_t E_prefix[KL(next token)], along the policy's own texts.

    The prefixes come from the policy but are held fixed: no gradient flows through how often the
    policy comes to a prefix. log_q, log_p: (N, T), all texts.
    """
    first, second = (log_q, log_p) if kind == "forward" else (log_p, log_q)
    others = (log_q.sum(1, keepdim=True) - log_q).detach().exp()  # (N, T), of the other tokens
    return (others * first.exp() * (first - second)).sum()


MEASURES = {"texts": text_divergence, "tokens": token_divergence}


def gradient_of_texts(measure, kind, logits, ref_logits):
    """Gradient of `text_divergence` or `token_divergence` with respect to the logits."""
    logits = logits.detach().requires_grad_()
    value = measure(kind, token_log_probs(logits), token_log_probs(ref_logits))
    return torch.autograd.grad(value, logits)[0]


def text_terms(place, cost, logits, ref_logits):
    """(what the trainer differentiates for each text, (N,); probability of the text, (N,)).

    In the reward, `cost` is a number for the whole text, (N,), and pulls at all its tokens. In the
    loss it is a number for each token, (N, T), and pulls at that token alone.
    """
    log_q, log_p = token_log_probs(logits), token_log_probs(ref_logits)
    if place == "in the reward":
        terms = cost(log_q.detach(), log_p) * log_q.sum(1)
    else:
        terms = PLACES[place](cost, log_q, log_p).sum(1)
    return terms, log_q.detach().sum(1).exp()


def expected_gradient(place, cost, logits, ref_logits):
    """The mean gradient over all texts of the policy, (L,)."""
    logits = logits.detach().requires_grad_()
    terms, q = text_terms(place, cost, logits, ref_logits)
    return torch.autograd.grad(q @ terms, logits)[0]


def noise_of_gradient(place, cost, logits, ref_logits):
    """Standard deviation of the gradient of one text, over the length of the mean gradient."""
    logits = logits.detach().requires_grad_()
    terms, q = text_terms(place, cost, logits, ref_logits)
    rows = [torch.autograd.grad(term, logits, retain_graph=True)[0] for term in terms]
    rows = torch.stack(rows)  # (N, L)
    mean = q @ rows
    return ((q @ (rows - mean) ** 2).sum().sqrt() / mean.norm()).item()


# Texts of 32 tokens. A token is a good word, a bad word or neither; the score of a text is
# sigmoid(good − bad). So all that matters of a prefix is its balance good − bad, −32 … 32, and
# what is best at each balance can be worked out from the last token to the first.
LENGTH = 32
MOVES = (1, -1, 0)  # what a good word, a bad word and any other do to the balance
REFERENCE = (0.07, 0.07, 0.86)  # scores near 0.5 ± 0.32, as those of the bundled models
HELD_BY = {  # what multiplies the coefficient: (kind, whether later tokens are charged too)
    "KL(policy‖ref) of texts": ("forward", True),
    "KL(policy‖ref) per token": ("forward", False),
    "KL(ref‖policy) per token": ("backward", False),
}


def text_scores(length=LENGTH):
    """The score at each final balance, (2 · length + 1,)."""
    return torch.arange(-length, length + 1, dtype=torch.float64).sigmoid()


def _per_move(values):
    """The value after each move, (S, 3), from that of each balance, (S,)."""
    ends = torch.cat([values[:1], values, values[-1:]])  # the outermost balances: never passed
    return torch.stack([ends[1 + move : len(ends) - 1 + move] for move in MOVES], dim=1)


def resting_policy(held_by, coefficient, length=LENGTH):
    """Where reward − coefficient · divergence lets the policy rest: its probabilities, (T, S, 3).

    Its exact gradient is 0 there. "of texts" is the optimum, the tilted reference. "per token"
    holds the prefix fixed: a token does not see what it makes later tokens pay.

    Args:
        held_by: a key of HELD_BY.
        coefficient: reward per nat.
    """
    kind, charged = HELD_BY[held_by]
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    value, policy = text_scores(length), []
    for _ in range(length):
        after = _per_move(value)  # (S, 3)
        if kind == "forward":  # q ∝ p · exp(value / coefficient)
            step = (reference.log() + after / coefficient).softmax(1)
        else:
            step = _held_by_backward(after, coefficient, reference)
        value = (step * after).sum(1)
        if charged:
            value = value - coefficient * kl_of_step(step, reference)
        policy.insert(0, step)
    return torch.stack(policy)


def _held_by_backward(after, coefficient, reference):
    """q where E_q[value] − c · KL(p‖q) is highest: c · p / (λ − value), λ such that Σ q = 1."""
    low = after.max(1, keepdim=True).values + coefficient * reference.min()  # Σ q ≥ 1
    high = after.max(1, keepdim=True).values + coefficient  # Σ q ≤ 1
    for _ in range(60):
        middle = (low + high) / 2
        too_low = (coefficient * reference / (middle - after)).sum(1, keepdim=True) > 1
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    q = coefficient * reference / (high - after)
    return q / q.sum(1, keepdim=True)


def final_balances(policy, visit=lambda at, step: None):
    """Probability of each final balance, (S,), under a policy, (T, S, 3); on the way,
    visit(probability of each balance, the policy there) once for each position."""
    length = len(policy)
    at = torch.zeros(2 * length + 1, dtype=torch.float64)
    at[length] = 1.0
    for step in policy:
        visit(at, step)
        at = sum((at * step[:, i]).roll(move) for i, move in enumerate(MOVES))
    return at


def walk(policy):
    """What a policy of `resting_policy` writes: its mean `score`, the `spread` (standard deviation)
    of scores, and `nats`, KL(policy‖ref) of each position, (T,)."""
    reference, nats = torch.tensor(REFERENCE, dtype=torch.float64), []
    at = final_balances(policy, lambda at, step: nats.append(at @ kl_of_step(step, reference)))
    scores = text_scores(len(policy))
    mean = at @ scores
    spread = (at @ (scores - mean) ** 2).sqrt()
    return {"score": mean.item(), "spread": spread.item(), "nats": torch.stack(nats)}


def kl_of_step(step, reference):
    """KL(policy‖ref) of the next token at each balance, (S,)."""
    return torch.xlogy(step, step / reference).sum(1)


@functools.cache
def reference_balances(length):
    """Probability of each final balance under the reference, (2 · length + 1,)."""
    step = torch.tensor(REFERENCE, dtype=torch.float64)
    return final_balances(step.expand(length, 2 * length + 1, 3))


def best_possible(coefficient, length=LENGTH):
    """(score, nats) of the tilted reference q ∝ p · exp(score / coefficient), the optimum of
    score − coefficient · KL(policy‖ref), from the scores of the reference alone."""
    at, scores = reference_balances(length), text_scores(length)
    tilted = (at.log() + scores / coefficient).softmax(0)
    score = tilted @ scores
    nats = score / coefficient - (at.log() + scores / coefficient).logsumexp(0)
    return score.item(), nats.item()


def fewest_nats(score):
    """KL(policy‖ref) of the best policy that reaches this mean score."""
    low, high = math.log(1e-4), math.log(1e4)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if best_possible(math.exp(middle))[0] > score else (low, middle)
    return best_possible(math.exp(low))[1]
