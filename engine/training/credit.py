"""Which tokens earned the reward: `--credit prefix`.

GRPO gives one advantage to all tokens of a completion, though most of them had no part in what it
earned. The gradient still points the right way on average, but with much noise, and noise costs
nats of KL that buy no reward. Here the reward function is also asked about the unfinished text,
every EVERY tokens. What a part of the text earned is then the change from before it to after it,

    δ_k = R(text up to the end of part k) − R(text up to its start),

and its credit is what it and the later parts earned, later ones discounted:

    A_k = δ_k + λ·δ_{k+1} + λ²·δ_{k+2} + …

With λ = 1 this is the reward minus that of the text so far: right on average, and noisy, because
later parts are mostly chance. With λ = 0 a part is not credited with what it leads to. This is
generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438), where the rewarded prefix
takes the place of a value network. Then, as in GRPO, the group is the baseline: minus the mean of
the group at the same place, over the group's standard deviation.
"""

import torch

EVERY = 4  # tokens in a part
LAMBDA = 0.4


def cuts(completion_ids):
    """After how many tokens the texts of a batch are cut: every EVERY, before the longest ends."""
    return range(EVERY, max(map(len, completion_ids)), EVERY)


def prefix_advantages(rewards, mask, group_size):
    """The advantage of every token.

    Args:
        rewards: (B, K), of the texts cut at each of their K − 1 `cuts`, and of the whole texts.
        mask: (B, T), the tokens that are real.
        group_size: completions per prompt, which stand one after the other.

    Returns:
        (B, T); 0 where the mask is.
    """
    # What all texts have before their first token is the same, and goes with the group's mean.
    before = torch.zeros_like(rewards[:, :1])
    earned = torch.cat([before, rewards], dim=1).diff(dim=1)
    credit = discounted(earned, LAMBDA)
    parts = torch.arange(mask.shape[1], device=rewards.device) // EVERY  # the part of each token
    of_tokens = credit[:, parts.clamp(max=credit.shape[1] - 1)]
    return normalised(of_tokens.to(mask.device), mask.bool(), group_size)


def discounted(earned, decay):
    """What each part of a text and the parts after it earned, later ones discounted: (N, S).

    >>> discounted(torch.tensor([[1.0, 0.0, 2.0]]), 0.5).tolist()
    [[1.5, 1.0, 2.0]]
    """
    credit = earned.clone()
    for part in reversed(range(earned.shape[1] - 1)):
        credit[:, part] += decay * credit[:, part + 1]
    return credit


def normalised(credit, mask, group_size):
    """Credit beside that of the group at the same place, in standard deviations of the group.

    Args:
        credit: (N, T) of each token.
        mask: (N, T), the tokens that are real; the others get 0.
        group_size: a divisor of N.

    >>> normalised(torch.tensor([[1.0, 2.0], [3.0, 8.0]]), torch.ones(2, 2).bool(), 2)
    tensor([[-0.4472, -1.3416],
            [ 0.4472,  1.3416]])
    """
    credit, real = (x.view(-1, group_size, mask.shape[1]) for x in (credit, mask.float()))
    mean = (credit * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    centred = (credit - mean) * real
    count = real.sum((1, 2), keepdim=True).clamp(min=1)
    variance = centred.square().sum((1, 2), keepdim=True) / count
    return (centred / (variance.sqrt() + 1e-4)).view(mask.shape)
