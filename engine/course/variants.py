"""The variants of GRPO as figures: what each makes of the gradient, on policies over a few texts.

So few that all groups can be listed: an expectation is a sum over them, and only `follow_rollouts`
samples. G is the size of a group, J the mean reward of the policy; numbers are float64.
`grpo_lab.py` shows what they find.
"""

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from engine.course.student import Called, check_loss, check_rewards, is_written
from engine.course.toys import penalty_gradient

Advantages = Callable[[Tensor, int], Tensor]  # (rewards, (B,); G) -> (B,), as `group_advantages`
Loss = Callable[..., Tensor]  # as `policy_loss`
ALMOST_0 = 1e-4  # what TRL adds to a deviation before it divides
BATCH = 64  # texts of a step
FUNCTIONS = ("group_advantages", "policy_loss")  # of exercise 4


class Toy(NamedTuple):
    """A policy that writes one of K texts."""

    policy: Tensor  # (K,), the probability of each
    rewards: Tensor  # (K,)


def prompt(right: float) -> Toy:
    """A prompt with two answers, a wrong one that earns 0 and a right one that earns 1.

    Args:
        right: share of the right one.
    """
    return Toy(torch.tensor([1 - right, right], dtype=torch.float64), torch.arange(2).double())


class Own(NamedTuple):
    """The functions of a rewards file that are implemented; None where one is to do."""

    advantages: Advantages | None
    loss: Loss | None


def own_grpo(rewards: ModuleType) -> Own:
    """The two functions of exercise 4, with their answers checked; advantages come as float64."""
    called = Called(rewards)

    def advantages(values, size):
        answer = called.group_advantages(values, size)
        numbers = range(1, len(values) + 1)
        checked = check_rewards(answer, numbers, FUNCTIONS[0], what="reward")
        return (answer if isinstance(answer, Tensor) else checked).double()

    def loss(log_probs, *others, **more):
        return check_loss(called.policy_loss(log_probs, *others, **more), log_probs)

    pair, zeros = torch.tensor([0.0, 1.0]), torch.zeros(2, 1, requires_grad=True)
    has_advantages = is_written(advantages, pair, 2)
    has_loss = is_written(loss, zeros, zeros.detach(), pair, zeros == 0)
    return Own(advantages if has_advantages else None, loss if has_loss else None)


# What the variants make of the rewards of a batch. GRPO itself is the student's `group_advantages`.


def undivided(rewards: Tensor, size: int) -> Tensor:
    """Rewards less the mean of their group: `--scale_rewards none`.

    >>> undivided(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    rows = rewards.unflatten(0, (-1, size))
    return rewards - rows.mean(1).repeat_interleave(size)


def leave_one_out(rewards: Tensor, size: int) -> Tensor:
    """Rewards less the mean of the others in their group: RLOO (Ahmadian et al. 2024, 2402.14740).

    >>> leave_one_out(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2).tolist()
    [-2.0, 2.0, 0.0, 0.0]
    """
    totals = rewards.unflatten(0, (-1, size)).sum(1).repeat_interleave(size)
    return rewards - (totals - rewards) / (size - 1)


def no_baseline(rewards: Tensor, size: int) -> Tensor:
    """The rewards themselves: REINFORCE (Williams 1992)."""
    return rewards


class Groups(NamedTuple):
    """All groups that can be drawn, in any order."""

    texts: Tensor  # (N, G), the text at each place
    chances: Tensor  # (N,), of the group


def all_groups(policy: Tensor, size: int) -> Groups:
    """Every group of a policy over K texts, once for all orders of the same texts."""
    kinds = itertools.combinations_with_replacement(range(len(policy)), size)
    texts = torch.tensor(list(kinds))
    counts = one_hot(texts, len(policy)).double().sum(1)  # (N, K)
    orders = math.lgamma(size + 1) - (counts + 1).lgamma().sum(1)
    return Groups(texts, (orders + torch.xlogy(counts, policy).sum(1)).exp())


def equal_share(toy: Toy, size: int) -> float:
    """The share of groups whose rewards are all equal: there is no advantage in them."""
    groups = all_groups(toy.policy, size)
    rewards = toy.rewards[groups.texts]
    return groups.chances[(rewards == rewards[:, :1]).all(1)].sum().item()


class Signal(NamedTuple):
    """How well a step knows where to go."""

    cosine: float  # between the expected gradient and that of the mean reward; 1: unbiased
    scale: float  # how long the expected one is along the other, over the length of that
    noise: float  # standard deviation of a step's gradient over the length of its mean


def signal_of(toy: Toy, mean: Tensor, variance: Tensor) -> Signal:
    """The signal of a gradient by the logits with this mean, (K,), and this total variance."""
    exact = penalty_gradient(toy.rewards, toy.policy.log())
    return Signal(
        torch.cosine_similarity(mean, exact, dim=0).item(),
        (mean @ exact / exact.square().sum()).item(),
        (variance.clamp(min=0).sqrt() / mean.norm()).item(),
    )


def gradient_signal(toy: Toy, size: int, advantages: Advantages) -> Signal:
    """The first gradient of BATCH texts of one prompt, in groups of `size`."""
    groups = all_groups(toy.policy, size)
    gradients = _gradients(toy, groups, advantages)
    mean = groups.chances @ gradients
    variance = groups.chances @ (gradients - mean).square().sum(1)
    return signal_of(toy, mean, variance * size / BATCH)


def _gradients(toy: Toy, groups: Groups, advantages: Advantages) -> Tensor:
    """The mean of A · ∇ log q in each group, by the logits, (N, K)."""
    kinds, size = len(toy.policy), groups.texts.shape[1]
    given = advantages(toy.rewards[groups.texts].flatten(), size).view(-1, 1, size)
    pushed = given @ one_hot(groups.texts, kinds).double()  # (N, 1, K)
    return pushed[:, 0] @ (torch.eye(kinds).double() - toy.policy) / size


def signal_by_batch(toy: Toy, size: int, batch: int = BATCH) -> Signal:
    """`gradient_signal` where the deviation of the whole batch divides: `--scale_rewards batch`.

    That ties the groups of a batch together. But the deviation needs two sums only, of the rewards
    and of their squares. Rewards are whole tenths here, so these are integers, and their chances
    stand in a grid: groups that come together are a convolution.
    """
    level = (10 * toy.rewards).round().long() - 5  # around 0: a small grid
    peak = int(level.abs().max())
    sums = torch.stack([level + peak, level**2])  # (2, K), from 0
    shape = _shape(2 * peak * batch, peak**2 * batch)
    total = torch.arange(shape[0]).double()[:, None] - peak * batch
    variance = (torch.arange(shape[1]) - total**2 / batch) / (batch - 1) / 100
    possible = variance > 1e-9  # where all rewards are equal, no gradient is left to divide
    factor = torch.where(possible, 1 / (variance.clamp(min=0).sqrt() + ALMOST_0), 0.0)
    one = torch.fft.rfft2(_grid(sums, toy.policy, shape)).conj()

    def beside(power: int, groups_drawn: int) -> Tensor:
        """Mean of factor ** power over the rest of the batch, by the sums of the groups drawn."""
        spectrum = torch.fft.rfft2(factor**power) * one ** (batch - groups_drawn * size)
        return torch.fft.irfft2(spectrum, s=shape)

    groups = all_groups(toy.policy, size)
    gradients = _gradients(toy, groups, undivided)
    of_groups = sums[:, groups.texts].sum(2)  # (2, N)
    weighted = groups.chances[:, None] * gradients
    mean = beside(1, 1)[*of_groups] @ weighted
    square = (weighted * gradients).sum(1) @ beside(2, 1)[*of_groups] * size / batch
    if batch > size:  # the products of two groups
        shape_of_two = _shape(4 * peak * size, 2 * peak**2 * size)
        spectra = [torch.fft.rfft2(_grid(of_groups, x, shape_of_two)) for x in weighted.T]
        pairs = torch.fft.irfft2(sum(x**2 for x in spectra), s=shape_of_two)
        others = beside(2, 2)[: shape_of_two[0], : shape_of_two[1]]
        square = square + (pairs * others).sum() * (1 - size / batch)
    return signal_of(toy, mean, square - mean.square().sum())


def _shape(*largest: int) -> tuple[int, ...]:
    """Of a grid from 0 to `largest` or a little more: Fourier transforms like small factors."""
    return tuple((x // 36 + 1) * 36 for x in largest)


def _grid(at: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values added up at their places, (2, N), in a grid of zeros."""
    grid = torch.zeros(shape, dtype=torch.float64)
    return grid.index_put_((at[0], at[1]), values, accumulate=True)


SIZES = (2, 4, 8, 16)  # of a group
GRPO = "group_advantages (GRPO)"


def compare_signals(toy: Toy, own: Advantages | None) -> dict[str, list[Signal]]:
    """The signal of each variant with groups of each of SIZES."""
    rules = {
        "no baseline (REINFORCE)": no_baseline,
        "mean of the others (RLOO)": leave_one_out,
        "group's mean (Dr. GRPO)": undivided,
        "… over the batch's deviation": None,
        GRPO: own,
        "J, if it were known": lambda rewards, size: rewards - toy.policy @ toy.rewards,
    }
    rows = {}
    for name, rule in rules.items():
        if rule:
            rows[name] = [gradient_signal(toy, size, rule) for size in SIZES]
        elif name != GRPO:
            rows[name] = [signal_by_batch(toy, size) for size in SIZES]
    return rows


# Texts of different length. The first token decides which text it will be, so that only its
# log-probability has a gradient; but a loss weighs texts by all their tokens.
LIMIT = 32  # tokens that a text may have: --max_completion_length
SHORT = 4
SIZE = 8  # of a group


class LengthToy(NamedTuple):
    """A policy that writes one of K texts."""

    policy: Tensor  # (K,)
    rewards: Tensor  # (K,)
    lengths: Tensor  # (K,), tokens

    def gradient_of(self, values: Tensor) -> Tensor:
        """The gradient of the mean of `values`, (K,), by the logits."""
        return penalty_gradient(values, self.policy.log())


def length_toy(right: float) -> LengthToy:
    """Right texts, short and long, and wrong ones, as often short as long.

    Args:
        right: share of the right ones, which earn 1; the others earn 0.
    """
    shares = torch.tensor([right, right, 1 - right, 1 - right], dtype=torch.float64) / 2
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    return LengthToy(shares, rewards, torch.tensor([SHORT, LIMIT] * 2).double())


class Rest(NamedTuple):
    """The texts of a batch beside one group."""

    count: int
    tokens: Tensor  # (M,), what they may have in all
    chances: Tensor  # (M,)


def rest_of(toy: LengthToy, batch: int) -> Rest:
    """The rest of a batch: its tokens are a sum of independent lengths, a convolution."""
    count, places = batch - SIZE, LIMIT * batch + 1
    one = torch.zeros(places, dtype=torch.float64).index_add_(0, toy.lengths.long(), toy.policy)
    chances = torch.fft.irfft(torch.fft.rfft(one) ** count, n=places)
    return Rest(count, torch.arange(places).double(), chances)


def token_weights(loss_type: str, lengths: Tensor, rest: Rest) -> Tensor:
    """What a token counts in the loss, by the lengths of the texts in N groups, (N, G).

    Returns:
        (N, G), or (N, 1) where it is the same in all texts of a group. In dapo (and bnpo) it hangs
        on the tokens of the whole batch: its mean over the rest of the batch.
    """
    if loss_type == "grpo":
        return 1 / lengths / (SIZE + rest.count)
    if loss_type == "dr_grpo":
        return torch.full_like(lengths, 1 / LIMIT / (SIZE + rest.count))
    tokens = lengths.sum(1, keepdim=True) + rest.tokens  # (N, M)
    return (rest.chances / tokens).sum(1, keepdim=True)


# The loss types, and the texts of a batch; two of them do not hang on the batch.
LOSSES = {
    "grpo": ("grpo", SIZE),
    "dapo, one group": ("dapo", SIZE),
    "dapo, 64 texts": ("dapo", BATCH),
    "dr_grpo": ("dr_grpo", SIZE),
}


def text_weights(toy: LengthToy, loss_type: str, batch: int = SIZE) -> Tensor:
    """How hard a batch pushes each text, per time that the text is drawn in it, (K,).

    The mean over all batches of advantage times what a token counts; advantages are undivided.
    """
    groups = all_groups(toy.policy, SIZE)
    advantages = undivided(toy.rewards[groups.texts].flatten(), SIZE).view(groups.texts.shape)
    weights = token_weights(loss_type, toy.lengths[groups.texts], rest_of(toy, batch))
    return _by_text(toy, groups, advantages * weights * batch)


def _by_text(toy: LengthToy, groups: Groups, values: Tensor) -> Tensor:
    """The mean of values, (N, G), over the draws of each text, (K,)."""
    drawn = one_hot(groups.texts, len(toy.policy)).double()  # (N, G, K)
    means = torch.einsum("n,ng,ngk->k", groups.chances, values, drawn) / SIZE
    return means / toy.policy


def own_text_weights(toy: LengthToy, loss: Loss) -> Tensor:
    """`text_weights` of a student's `policy_loss`, by its gradient for each group."""
    groups = all_groups(toy.policy, SIZE)
    advantages = undivided(toy.rewards[groups.texts].flatten(), SIZE).view(groups.texts.shape)
    pushes = []
    for texts, given in zip(groups.texts, advantages):
        log_probs = torch.zeros(SIZE, LIMIT, dtype=torch.float64, requires_grad=True)
        mask = torch.arange(LIMIT) < toy.lengths[texts][:, None]
        (slope,) = torch.autograd.grad(loss(log_probs, log_probs.detach(), given, mask), log_probs)
        pushes.append(-slope[:, 0])
    return _by_text(toy, groups, torch.stack(pushes) * SIZE)


def name_of_text(toy: LengthToy, text: int) -> str:
    verdict = "right" if toy.rewards[text] else "wrong"
    return f"{verdict}, {toy.lengths[text]:.0f} tokens"


class LengthSignal(NamedTuple):
    """What weights of texts make of the gradient."""

    cosine: float  # with the gradient of the mean reward
    tokens: float  # change of the mean length, per 1 of mean reward, at first
    scaled: Tensor  # (K,), the weights, by what makes them earn (or lose) as much as reward − J


def length_signal(toy: LengthToy, weights: Tensor) -> LengthSignal:
    """The figures of weights, (K,)."""
    moved, exact = toy.gradient_of(weights), toy.gradient_of(toy.rewards)
    cosine = torch.cosine_similarity(moved, exact, dim=0).item()
    earned = moved @ exact
    tokens = moved @ toy.gradient_of(toy.lengths) / earned
    return LengthSignal(cosine, tokens.item(), weights * exact.square().sum() / earned.abs())


class LengthPath(NamedTuple):
    """Where the expected gradient takes a policy."""

    right: list[float]  # share of right texts
    length: list[float]  # mean length, tokens


def follow_lengths(
    loss_type: str, batch: int = SIZE, right: float = 0.1, until: float = 0.95
) -> LengthPath:
    """The path of a policy by the expected gradient, in steps that earn as much reward each."""
    toy = length_toy(right)
    path = LengthPath([], [])
    while True:
        path.right.append((toy.policy @ toy.rewards).item())
        path.length.append((toy.policy @ toy.lengths).item())
        if path.right[-1] > until:
            return path
        moved = toy.gradient_of(text_weights(toy, loss_type, batch))
        step = 0.01 / (moved @ toy.gradient_of(toy.rewards))
        toy = toy._replace(policy=(toy.policy.log() + step * moved).softmax(0))


# More than one step with each rollout: the policy that is trained leaves the one that sampled.
NO_CLIP = 1e9  # an epsilon that no ratio reaches


class Inner(NamedTuple):
    """How a policy is trained: one group of SIZE texts in a rollout."""

    epsilon: float = 0.2
    steps: int = 8  # with each rollout
    rollouts: int = 30
    learning_rate: float = 1.0
    runs: int = 1000  # with random numbers of their own


def follow_rollouts(advantages: Advantages, loss: Loss, toy: Toy, inner: Inner) -> Tensor:
    """The policies of all runs: (rollouts, steps + 1, runs, K), the first of each rollout being the
    one that sampled it."""
    generator = torch.Generator().manual_seed(0)
    logits = toy.policy.log().expand(inner.runs, -1)
    mask = torch.ones(inner.runs * SIZE, 1, dtype=torch.bool)  # a text is one word
    rollouts = []
    for _ in range(inner.rollouts):
        policies = [logits.softmax(1)]
        texts = policies[0].multinomial(SIZE, replacement=True, generator=generator)  # (runs, G)
        old = logits.log_softmax(1).gather(1, texts).reshape(-1, 1)
        given = advantages(toy.rewards[texts].flatten(), SIZE)
        for _ in range(inner.steps):
            logits = logits.detach().requires_grad_()
            log_probs = logits.log_softmax(1).gather(1, texts).reshape(-1, 1)
            value = loss(log_probs, old, given, mask, epsilon=inner.epsilon)
            (gradient,) = torch.autograd.grad(value * inner.runs, logits)  # a mean for each run
            logits = (logits - inner.learning_rate * gradient).detach()
            policies.append(logits.softmax(1))
        rollouts.append(torch.stack(policies))
    return torch.stack(rollouts)


class ClipFigures(NamedTuple):
    """What became of the runs of `follow_rollouts`."""

    ratio: float  # the largest that a loss has seen, in all runs
    nats: float  # KL(policy after the first rollout ‖ policy that sampled it), mean over runs
    rewards: list[float]  # J before each rollout and at the end, mean over runs
    stuck: Tensor  # (runs,) whether a run ends on one text, and not on the best


def clip_figures(toy: Toy, policies: Tensor) -> ClipFigures:
    """The figures of `follow_rollouts`."""
    ratios = policies / policies[:, :1]
    nats = torch.xlogy(policies[0, -1], ratios[0, -1]).sum(-1)
    ends = torch.cat([policies[:, 0], policies[-1:, -1]])  # (rollouts + 1, runs, K)
    share, likeliest = ends[-1].max(1)
    return ClipFigures(
        ratio=ratios[:, :-1].max().item(),  # the loss of a step is that of the policy before it
        nats=nats.mean().item(),
        rewards=(ends @ toy.rewards).mean(1).tolist(),
        stuck=(share > 0.95) & (likeliest != toy.rewards.argmax()),
    )
