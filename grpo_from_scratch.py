"""GRPO in thirty lines, on a policy small enough to watch.

    python grpo_from_scratch.py

What TRL does for GPT-2 in train.py happens here to a softmax over six words: sample a group, turn
its rewards into advantages, take a clipped step. A test feeds the same numbers to TRL's trainer
and compares the losses. Source: Shao et al. 2024, arXiv 2402.03300; token-level mean as in
Yu et al. 2025, arXiv 2503.14476, TRL's default.
"""

import torch

WORDS = ("awful", "boring", "fine", "good", "great", "superb")
REWARDS = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0])


def group_advantages(rewards, num_generations):
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


def grpo_loss(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
    """The clipped surrogate loss, a mean over all real tokens of the batch.

    Args:
        log_probs: (B, T), log q of each sampled token under the policy being trained.
        old_log_probs: (B, T), under the policy that sampled it; no gradient.
        advantages: (B,), one for the whole completion.
        mask: (B, T) boolean, True for real completion tokens.
        epsilon: beyond a ratio of 1 ± epsilon there is nothing more to gain from a token.
    """
    ratio = (log_probs - old_log_probs).exp()  # (B, T); 1 on the first step after sampling
    advantages = advantages[:, None]
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    return -(gain * mask).sum() / mask.sum()


def train_toy(steps=60, groups=8, num_generations=8, learning_rate=0.3, kl_coef=0.0, seed=0):
    """Train the toy policy; returns its word probabilities before each step, (steps + 1, 6).

    With kl_coef, the reward is reduced by kl_coef · (log q − log p), p being the first policy.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(WORDS), requires_grad=True)
    reference = logits.detach().log_softmax(0)
    history = [logits.detach().softmax(0)]
    for _ in range(steps):
        size = groups * num_generations
        words = history[-1].multinomial(size, replacement=True, generator=generator)  # (B,)
        old = history[-1].log()[words]
        rewards = REWARDS[words] - kl_coef * (old - reference[words])
        advantages = group_advantages(rewards, num_generations)
        log_probs = logits.log_softmax(0)[words]
        mask = torch.ones(size, 1, dtype=torch.bool)
        loss = grpo_loss(log_probs[:, None], old[:, None], advantages, mask)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= learning_rate * gradient
        history.append(logits.detach().softmax(0))
    return torch.stack(history)


def main(argv=None):
    from rich.table import Table

    from engine.common import make_console
    from engine.options import OneLineParser

    OneLineParser(description=__doc__.split("\n")[0]).parse_args(argv)
    table = Table(title="What the policy says after 60 steps")
    table.add_column("kl_coef", justify="right")
    for word in WORDS:
        table.add_column(word, justify="right")
    table.add_column("mean reward", justify="right")
    for kl_coef in (0.0, 0.1, 0.3, 1.0):
        policy = train_toy(kl_coef=kl_coef)[-1]
        shares = [f"{share:.0%}" for share in policy.tolist()]
        table.add_row(f"{kl_coef}", *shares, f"{(policy @ REWARDS).item():.2f}")
    make_console().print(table)


if __name__ == "__main__":
    main()
