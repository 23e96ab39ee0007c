"""Which tokens earned the reward: `--credit prefix`.

GRPO gives one advantage to all tokens of a completion, though most of them had no part in what it
earned. The gradient still points the right way on average, but with much noise, and noise costs
nats of KL that buy no reward. Here the reward function is also asked about the unfinished text,
every EVERY tokens. What an unfinished text is worth is the penalised reward that it will end with,

    V_k = a_k + b_k · score(text up to place k) − penalty(text up to place k),

where a_k and b_k are fitted in each batch: the straight line, by least squares, from the score of
the unfinished texts to their later score minus their later penalty. What part k of a text earned is
then the change from before it to after it, and its credit is what it and the later parts earned,
later ones discounted:

    δ_k = V_k − V_{k−1},        A_k = δ_k + λ·δ_{k+1} + λ²·δ_{k+2} + …

With λ = 1 this is the reward minus the value of the text so far: right on average, and noisy,
because later parts are mostly chance. With λ = 0 a part is not credited with what it leads to,
beyond what V knows of it. This is generalised advantage estimation (Schulman et al. 2016, arXiv
1506.02438) with a line in place of a value network. The line matters: with the bare score of the
unfinished text for V, a policy comes to rest away from the optimum, and pays its nats early in the
text. VinePPO (arXiv 2410.01679) samples the value of a prefix instead; RED (arXiv 2411.08302) gives
each token the change of a reward model's score.

Then, as in GRPO, the group is the baseline: minus the mean of the group at the same place, over the
group's standard deviation.
"""

import torch

EVERY = 4  # tokens in a part
LAMBDA = 0.4


def cuts(completion_ids):
    """After how many tokens the texts of a batch are cut: every EVERY, before the longest ends."""
    return range(EVERY, max(map(len, completion_ids)), EVERY)


def prefix_advantages(scores, penalties, mask, group_size):
    """The advantage of every token.

    Args:
        scores: (B, K), the rewards before the penalty of the texts cut at each of their K − 1
            `cuts`, and of the whole texts.
        penalties: (B, K), what the KL penalty takes from them.
        mask: (B, T), the tokens that are real.
        group_size: completions per prompt, which stand one after the other.

    Returns:
        (B, T); 0 where the mask is.
    """
    lengths = mask.sum(1, keepdim=True).to(scores.device)
    ends = EVERY * torch.arange(1, scores.shape[1], device=scores.device)
    values = fitted_values(scores, penalties, going_on=lengths > ends)
    # What all texts have before their first token is the same, and goes with the group's mean.
    before = torch.zeros_like(values[:, :1])
    earned = torch.cat([before, values], dim=1).diff(dim=1)
    credit = discounted(earned, LAMBDA)
    parts = torch.arange(mask.shape[1], device=scores.device) // EVERY  # the part of each token
    of_tokens = credit[:, parts.clamp(max=credit.shape[1] - 1)]
    return normalised(of_tokens.to(mask.device), mask.bool(), group_size)


def fitted_values(scores, penalties, going_on):
    """What each unfinished text is worth: the penalised reward that it can be expected to end with.

    Args:
        scores, penalties: as for `prefix_advantages`.
        going_on: (B, K − 1), whether a text has more tokens than it is cut to.

    Returns:
        (B, K). A text that has ended, and a whole one, is worth its penalised reward.

    >>> scores = torch.tensor([[0.0, 0.25], [1.0, 0.75], [0.5, 0.5]])
    >>> fitted_values(scores, torch.zeros(3, 2), torch.ones(3, 1).bool())[:, 0].tolist()
    [0.25, 0.75, 0.5]
    """
    values = scores - penalties
    for place, here in enumerate(going_on.T):
        if here.any():
            so_far = penalties[here, place]
            to_come = values[here, -1] + so_far  # the final score minus the penalty still to pay
            values[here, place] = line(scores[here, place], to_come) - so_far
    return values


def line(x, y):
    """The straight line of least squares from x to y, at x; the mean of y where all x are equal."""
    x = x - x.mean()
    slope = (x * y).sum() / x.square().sum().clamp(min=1e-12)
    return y.mean() + slope * x


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
