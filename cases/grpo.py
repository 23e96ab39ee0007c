"""Exercises 4a and 4b: the advantages and the loss of GRPO.

What is right is worked out number by number, in double precision. A loss counts by its value and
by its gradient, for a step takes nothing else from it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from cases.asking import Finding, Mistake, close, compare, show
from engine.course.student import loss_and_gradient

# Exercise 4a: advantages.


def random_groups(rng, prompts, size):
    """Rewards of some groups, lists of numbers between 0 and 1; in a group, no two are close."""
    return [
        [(rank + 0.25 + 0.5 * rng.random()) / size for rank in rng.sample(range(size), size)]
        for _ in range(prompts)
    ]


def ask_advantages(ask, groups):
    """The advantages of some groups, in a table like theirs: (prompts, G)."""
    size = len(groups[0])
    return ask(rewards=torch.tensor(groups).flatten(), group_size=size).view(-1, size)


def deviation(group, freedom=1):
    """The standard deviation of some numbers; of a sample, with n − 1 below the sum."""
    mean = sum(group) / len(group)
    return math.sqrt(sum((x - mean) ** 2 for x in group) / (len(group) - freedom))


def takes_the_groups_as_they_stand(ask, rng):
    """the completions of a prompt stand one after the other, and other groups do not matter."""
    first, second, third = random_groups(rng, 3, 3)
    want = ask_advantages(ask, [first, second])[0]
    got = ask_advantages(ask, [first, third])[0]
    if close(got, want, 1e-4):
        return None
    cause = (
        "the groups: each has its own mean and deviation; reshape to (B / G, G), and reduce over "
        "the last dimension"
    )
    return Finding(f"{show(want)} for the first three, whatever comes after them", cause)


def compares_with_its_group(ask, rng):
    """above the mean of its group a completion is positive, below it negative."""
    groups = random_groups(rng, 3, 4)
    got = ask_advantages(ask, groups)
    want = torch.tensor([[x - sum(group) / 4 for x in group] for group in groups]).double()
    if is_multiple(got, want):
        return None
    cause = (
        "the groups: reshape to (B / G, G), then reward − mean of its group, in one unit for the "
        "whole group"
    )
    if is_multiple(-got, want):
        cause = "the sign: better than the group is positive"
    elif is_multiple(got - got.mean(1, keepdim=True), want):
        cause = "the mean: subtract that of its own group"
    elif is_multiple(got.sort(1).values, want.sort(1).values):
        cause = "the order: one number for each completion, in the order of the rewards"
    return Finding(f"a positive multiple, in each group, of {show(want.flatten())}", cause)


def is_multiple(got, want):
    """Whether each row is a positive multiple of that of `want`."""
    scale = (got * want).sum(1, keepdim=True) / want.square().sum(1, keepdim=True)
    return bool((scale > 0).all()) and close(got, scale * want, 1e-3)


def divides_by_the_deviation(ask, rng):
    """in each group, the standard deviation of the advantages is 1."""
    for size in (4, 2, 8):
        groups = random_groups(rng, 2, size)
        found = [deviation(row) for row in ask_advantages(ask, groups).tolist()]
        got, spreads = torch.tensor([found, [deviation(group) for group in groups]]).double()
        if close(got, [1.0, 1.0], 0.02):
            continue
        mistakes = [
            Mistake("the division by the group's standard deviation is missing", spreads),
            Mistake(
                "the deviation: n − 1 below the sum, as torch.std has it, and not n",
                [math.sqrt(size / (size - 1))] * 2,
            ),
            Mistake(
                "the deviation: this divides by its square, the variance",
                spreads / (spreads**2 + 1e-4),
            ),
            Mistake(
                "own sample: the mean is that of the whole group, itself included",
                spreads * size / (size - 1),
            ),
            Mistake(
                "own sample: the mean is that of the whole group, itself included",
                [size / (size - 1)] * 2,
            ),
        ]
        meaning = "their standard deviations, one for each group"
        return compare(got, [1.0, 1.0], meaning, mistakes, 0.02, "the deviation")
    return None


def equal_rewards_teach_nothing(ask, rng):
    """in a group of equal rewards, the advantages are 0."""
    equal, other = random_groups(rng, 2, 4)
    got = ask_advantages(ask, [equal[:1] * 4, other])[0]
    if not close(got, [0.0] * 4, 1e-2):
        return Finding("0 for the first four", "0 / 0: add 1e-4 to the deviation")
    a = torch.tensor(equal[0])
    b = torch.nextafter(a, torch.tensor(1.0))  # the same score, computed in another order
    got = ask(rewards=torch.stack([a, a, b, b]), group_size=4)
    if close(got, [0.0] * 4, 1e-2):
        return None
    cause = "the 1e-4 beside the deviation: without it, rounding is made as large as all else"
    return Finding("about 0: these rewards differ by rounding alone", cause)


# Exercise 4b: the loss.


class Told(NamedTuple):
    """The arguments of one call, as lists; T numbers in each row."""

    new: list  # log-probabilities now
    old: list  # and when the tokens were sampled
    advantages: list
    mask: list  # of 0 and 1
    epsilon: float = 0.2


class Wrongly(NamedTuple):
    """What the arguments are, as a mistaken loss uses them: tensors, (B, T)."""

    new: torch.Tensor
    old: torch.Tensor
    advantages: torch.Tensor  # (B, 1)
    mask: torch.Tensor
    epsilon: float

    @property
    def ratio(self):
        return (self.new - self.old).exp()

    def limited(self, ratio):
        return ratio.clamp(1 - self.epsilon, 1 + self.epsilon)

    def gain(self, ratio):
        """With the clip."""
        return torch.minimum(ratio * self.advantages, self.limited(ratio) * self.advantages)

    def loss(self, gain):
        return -(gain * self.mask).sum() / self.mask.sum()


Loss = Callable[[Wrongly], torch.Tensor]


def exact(told: Told) -> torch.Tensor:
    """The loss and its gradient, token by token as the docstring has them: (1 + B · T,)."""
    count = sum(map(sum, told.mask))
    loss = 0.0
    gradient = []
    for now, before, real, advantage in zip(told.new, told.old, told.mask, told.advantages):
        for q, p, counts in zip(now, before, real):
            ratio = math.exp(q - p)
            limited = min(max(ratio, 1 - told.epsilon), 1 + told.epsilon) * advantage
            loss -= counts * min(ratio * advantage, limited) / count
            stopped = limited < ratio * advantage
            gradient.append(0.0 if stopped else -counts * ratio * advantage / count)
    return torch.tensor([loss, *gradient], dtype=torch.float64)


def answers(told: Told, wrong: Sequence[tuple[str, Loss]]) -> list[Mistake]:
    """What mistaken losses answer."""
    found = []
    for cause, loss in wrong:
        new = torch.tensor(told.new, dtype=torch.float64, requires_grad=True)
        old, advantages = (
            torch.tensor(x, dtype=torch.float64) for x in (told.old, told.advantages)
        )
        value = loss(Wrongly(new, old, advantages[:, None], torch.tensor(told.mask), told.epsilon))
        found.append(Mistake(cause, loss_and_gradient(value, new)))
    return found


def ask_loss(ask, told: Told):
    """The loss and its gradient by the log-probabilities, (1 + B · T,)."""
    more = {} if told.epsilon == Told._field_defaults["epsilon"] else {"epsilon": told.epsilon}
    return ask(
        log_probs=torch.tensor(told.new).requires_grad_(),
        old_log_probs=torch.tensor(told.old),
        advantages=torch.tensor(told.advantages),
        mask=torch.tensor(told.mask).bool(),
        **more,
    )


def expect(ask, told: Told, wrong, otherwise):
    """None, or what is wrong with the answer to these arguments."""
    meaning = "the loss, then its gradient by each log-probability"
    got = ask_loss(ask, told)
    return compare(got, exact(told), meaning, answers(told, wrong), 1e-5, otherwise)


def random_log_probs(rng, rows, tokens):
    return [[-0.2 - 3 * rng.random() for _ in range(tokens)] for _ in range(rows)]


def random_advantages(rng, rows):
    """One of them above 0 and one below."""
    return [(1 if row % 2 else -1) * (0.3 + rng.random()) for row in range(rows)]


def moved(old, ratios):
    """Log-probabilities that are these times as likely."""
    return [[p + math.log(r) for p, r in zip(*pair)] for pair in zip(old, ratios)]


SIGN = ("the sign: an optimiser makes the loss smaller", lambda x: -x.loss(x.gain(x.ratio)))
UPSIDE_DOWN = ("the ratio: it is upside down", lambda x: x.loss(x.gain(1 / x.ratio)))
SUM = ("the mean: this is the sum", lambda x: -(x.gain(x.ratio) * x.mask).sum())
OVER_TEXTS = (
    "the mean: divide by the number of real tokens, not of texts",
    lambda x: -(x.gain(x.ratio) * x.mask).sum(1).mean(),
)
OF_TEXTS = (
    "the ratio: each token has its own; this is that of whole texts",
    lambda x: x.loss(x.gain((x.new - x.old).sum(1, keepdim=True).exp())),
)
OF_MEANS = (
    "the ratio: each token has its own; this is a mean over the text",
    lambda x: x.loss(x.gain(((x.new - x.old) * x.mask).mean(1, keepdim=True).exp())),
)


def pulls_by_the_advantage(ask, rng):
    """right after sampling, the gradient makes tokens of good completions more likely."""
    old = random_log_probs(rng, 2, 3)
    told = Told(old, old, random_advantages(rng, 2), [[1] * 3] * 2)
    wrong = [
        SIGN,
        UPSIDE_DOWN,
        SUM,
        OVER_TEXTS,
        OF_TEXTS,
        (
            "exp: the ratio is that of probabilities",
            lambda x: x.loss(x.gain(x.new - x.old)),
        ),
        (
            "the ratio: divide probabilities and not their logarithms",
            lambda x: x.loss(x.gain(x.new / x.old)),
        ),
        (
            "old_log_probs: without the ratio, this is the loss of REINFORCE",
            lambda x: x.loss(x.new * x.advantages),
        ),
    ]
    return expect(ask, told, wrong, "the gradient: −advantage / number of tokens at each token")


def weighs_all_tokens_alike(ask, rng):
    """the loss is a mean over all real tokens of the batch: a long text has more of them."""
    old = random_log_probs(rng, 2, 4)
    told = Told(old, old, random_advantages(rng, 2), [[1, 0, 0, 0], [1, 1, 1, 1]])
    wrong = [
        SIGN,
        SUM,
        OVER_TEXTS,
        OF_MEANS,
        (
            "the mean: this is one of each text's own mean, where a token of a short text weighs "
            "more",
            lambda x: -((x.gain(x.ratio) * x.mask).sum(1) / x.mask.sum(1)).mean(),
        ),
        (
            "the mean: divide by the number of real tokens, not of places",
            lambda x: -(x.gain(x.ratio) * x.mask).mean(),
        ),
        ("the mask: padding counts", lambda x: -x.gain(x.ratio).mean()),
    ]
    return expect(ask, told, wrong, "the mean: sum over real tokens, divided by their number")


def ignores_padding_in_the_loss(ask, rng):
    """what stands at padded positions does not matter, and gets no gradient."""
    old = random_log_probs(rng, 2, 4)
    new = moved(old, [[1.1, 0.9, 1.05, 0.95]] * 2)
    mask = [[1, 1, 0, 0], [1, 1, 1, 1]]
    advantages = random_advantages(rng, 2)
    want = ask_loss(ask, Told(new, old, advantages, mask))
    for now, before in ((-9.0, -5.0), (0.0, -7.0)):
        told = Told(
            [[*new[0][:2], now, now], new[1]],
            [[*old[0][:2], before, before], old[1]],
            advantages,
            mask,
        )
        got = ask_loss(ask, told)
        if not close(got, want, 1e-5) or not close(got[3:5], [0.0, 0.0], 1e-9):
            cause = "the mask: padding gains nothing, and is not counted"
            return Finding(f"{show(want)}, as with other padding", cause)
    return None


def compares_each_token_with_its_own_past(ask, rng):
    """the ratio is that of a single token, now against when it was sampled."""
    old = random_log_probs(rng, 2, 3)
    ratios = [[1.15, 0.95, 1.0], [0.85, 1.1, 1.05]]
    told = Told(moved(old, ratios), old, random_advantages(rng, 2), [[1] * 3] * 2)
    wrong = [
        SIGN,
        UPSIDE_DOWN,
        SUM,
        OVER_TEXTS,
        OF_TEXTS,
        OF_MEANS,
        (
            "old_log_probs: it does not enter",
            lambda x: x.loss(x.gain((x.new - x.new.detach()).exp())),
        ),
    ]
    return expect(ask, told, wrong, "the ratio: how likely now against then, token by token")


def stops_where_nothing_is_to_gain(ask, rng):
    """beyond 1 ± ε a token gains no more; where it went the wrong way it is still pulled back."""
    old = random_log_probs(rng, 2, 4)
    for epsilon in (0.2, 0.3):
        ratios = [[1 + 2 * epsilon, 1 - 2 * epsilon, 1 + epsilon / 2, 1 - epsilon / 2]] * 2
        told = Told(moved(old, ratios), old, random_advantages(rng, 2), [[1] * 4] * 2, epsilon)
        wrong = [
            SIGN,
            SUM,
            OVER_TEXTS,
            ("the clip is missing", lambda x: x.loss(x.ratio * x.advantages)),
            (
                "the minimum: the clipped term alone lets go of a token that went the wrong way",
                lambda x: x.loss(x.limited(x.ratio) * x.advantages),
            ),
            (
                "the minimum: this is the maximum",
                lambda x: x.loss(
                    torch.maximum(x.ratio * x.advantages, x.limited(x.ratio) * x.advantages)
                ),
            ),
            (
                "the minimum: take it of the two products; where the advantage is negative, that "
                "of the ratios is the other one",
                lambda x: x.loss(torch.minimum(x.ratio, x.limited(x.ratio)) * x.advantages),
            ),
            *(
                (
                    "the clip: it has two sides, 1 − ε and 1 + ε",
                    lambda x, side=side: x.loss(
                        torch.minimum(x.ratio * x.advantages, side(x) * x.advantages)
                    ),
                )
                for side in (
                    lambda x: x.ratio.clamp(min=1 - x.epsilon),
                    lambda x: x.ratio.clamp(max=1 + x.epsilon),
                )
            ),
            (
                "epsilon: it is not used",
                lambda x: x.loss(x._replace(epsilon=0.2).gain(x.ratio)),
            ),
        ]
        if finding := expect(ask, told, wrong, "the clip"):
            return finding
    return None


ADVANTAGE_CORE = (takes_the_groups_as_they_stand, compares_with_its_group)
ADVANTAGE_CASES = (*ADVANTAGE_CORE, divides_by_the_deviation, equal_rewards_teach_nothing)
LOSS_CORE = (pulls_by_the_advantage,)
LOSS_CASES = (
    *LOSS_CORE,
    weighs_all_tokens_alike,
    ignores_padding_in_the_loss,
    compares_each_token_with_its_own_past,
    stops_where_nothing_is_to_gain,
)
