"""GRPO in thirty lines, on a policy small enough to watch.

    python grpo_from_scratch.py

What TRL does for GPT-2 in train.py happens here to a softmax over six words: sample a group, turn
its rewards into advantages, take a clipped step. You see the policy while it learns. A test feeds
the same numbers to TRL's trainer and compares the losses. Source: Shao et al. 2024, arXiv
2402.03300; token-level mean as in Yu et al. 2025, arXiv 2503.14476, TRL's default.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

WORDS = ("awful", "boring", "fine", "good", "great", "superb")
REWARDS = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0])


def group_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """How much better than its group each completion did, in the group's standard deviations.

    Args:
        rewards: (B,) tensor; each run of `num_generations` entries answers one prompt.

    Returns:
        (B,) tensor: mean 0 in every group; all 0 in a group of equal rewards, which teaches
        nothing.

    >>> [round(a, 2) for a in group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2).tolist()]
    [-0.71, 0.71, 0.0, 0.0]
    """
    groups = rewards.view(-1, num_generations)  # (prompts, G)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()


class KLTerm(NamedTuple):
    """TRL's KL term. Its gradient is that of KL(policy‖ref), token by token with the prefix held
    fixed (`python kl_lab.py beta`)."""

    beta: float  # its strength
    ref_log_probs: Tensor  # (B, T), of each sampled token under the reference


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    kl_term: KLTerm | None = None,
) -> Tensor:
    """The clipped surrogate loss, a mean over all real tokens of the batch.

    On the first step after sampling its value is near 0, whatever the policy does: the ratio is 1
    and advantages add up to 0. It is there for its gradient, −advantage · ∇ log q.

    Args:
        log_probs: (B, T), log q of each sampled token under the policy being trained.
        old_log_probs: (B, T), under the policy that sampled it; no gradient.
        advantages: (B,), one for the whole completion.
        mask: (B, T) boolean, True for real completion tokens.
        epsilon: beyond a ratio of 1 ± epsilon there is nothing more to gain from a token.
        kl_term: holds the policy near a reference.
    """
    ratio = (log_probs - old_log_probs).exp()  # (B, T); 1 on the first step after sampling
    advantages = advantages[:, None]
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    if kl_term:
        log_r = kl_term.ref_log_probs - log_probs
        k3 = log_r.exp() - 1 - log_r  # (B, T)
        # Without the ratio it would pull at another divergence.
        gain = gain - kl_term.beta * ratio * k3
    return -(gain * mask).sum() / mask.sum()


def train_toy(
    steps: int = 60,
    groups: int = 8,
    num_generations: int = 8,
    learning_rate: float = 0.3,
    kl_coef: float = 0.0,
    beta: float = 0.0,
) -> Tensor:
    """Train the toy policy; returns its word probabilities before each step, (steps + 1, 6).

    With kl_coef, the reward is reduced by kl_coef · (log q − log p), p being the first policy;
    with beta, p holds the policy in the loss.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(len(WORDS), requires_grad=True)
    reference = logits.detach().log_softmax(0)
    history = [logits.detach().softmax(0)]
    size = groups * num_generations
    mask = torch.ones(size, 1, dtype=torch.bool)
    for _ in range(steps):
        words = history[-1].multinomial(size, replacement=True, generator=generator)  # (B,)
        old = history[-1].log()[words]
        ref = reference[words]
        rewards = REWARDS[words] - kl_coef * (old - ref)
        advantages = group_advantages(rewards, num_generations)
        log_probs = logits.log_softmax(0)[words]
        kl_term = KLTerm(beta, ref[:, None]) if beta else None
        loss = grpo_loss(log_probs[:, None], old[:, None], advantages, mask=mask, kl_term=kl_term)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= learning_rate * gradient
        history.append(logits.detach().softmax(0))
    return torch.stack(history)


class Noise(NamedTuple):
    """How well a batch tells the gradient."""

    relative: float  # standard deviation of the batch's gradient over the length of its mean
    cosine: float  # between this mean and the exact gradient of the mean reward


def gradient_noise(num_generations: int, batch_size: int = 64, advantages=group_advantages):
    """The noise of the first step's gradient, exactly: by all groups that can be drawn."""
    policy = torch.full((len(WORDS),), 1 / len(WORDS), dtype=torch.float64)
    words = range(len(WORDS))
    groups = torch.tensor(list(itertools.combinations_with_replacement(words, num_generations)))
    counts = torch.nn.functional.one_hot(groups, len(WORDS)).double().sum(1)  # (groups, 6)
    orders = (counts.sum(1) + 1).lgamma() - (counts + 1).lgamma().sum(1)
    chances = (orders + counts @ policy.log()).exp()  # of each group, in any order
    rewards = REWARDS.double()
    advantage = advantages(rewards[groups].flatten(), num_generations).view(groups.shape)
    of_words = torch.eye(len(WORDS)).double() - policy  # ∇ log q of each word, by the logits
    gradients = (advantage[..., None] * of_words[groups]).mean(1)  # (groups, 6)
    mean = chances @ gradients
    variance = chances @ (gradients - mean).square().sum(1) * num_generations / batch_size
    exact = policy * (rewards - policy @ rewards)
    cosine = torch.cosine_similarity(mean, exact, dim=0)
    return Noise((variance.sqrt() / mean.norm()).item(), cosine.item())


def row(name: str, policy: Tensor) -> str:
    """A policy in one line: a bar and a share for each word, the mean reward."""
    cells = []
    for share in policy.tolist():
        eighths = round(40 * share)  # of a character; a bar is five characters long at most
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
        cells.append(f"{bar.strip():5}{share:4.0%} ")
    return f"{name:11} {''.join(cells)}{policy @ REWARDS:.2f}"


def print_header(title: str, column: str) -> None:
    print(f"\n{title}\n{column:12}{''.join(f'{word:10}' for word in WORDS)}reward")


def main(argv: list[str] | None = None) -> None:
    from engine.options import OneLineParser

    OneLineParser(description=str(__doc__).split("\n")[0]).parse_args(argv)
    print_header("The policy while it learns: the share of each word", "step")
    for step, policy in enumerate(train_toy()):
        if step % 5 == 0:
            print(row(f"{step}", policy))
    print_header("The policy after 60 steps, held near the first one", "held by")
    print(row("nothing", train_toy()[-1]))
    for strength in (0.1, 0.3, 1.0):
        print(row(f"kl_coef {strength}", train_toy(kl_coef=strength)[-1]))
    for strength in (0.1, 0.3, 1.0):
        print(row(f"beta {strength}", train_toy(beta=strength)[-1]))
    print("\nThe first gradient, told from 64 words, by the size of a group")
    print("              noise     cosine with the exact one")
    for size in (2, 4, 8, 16):
        noise = gradient_noise(size)
        print(f"groups of {size:<4}{noise.relative:.2f}      {noise.cosine:.3f}")


if __name__ == "__main__":
    main()
