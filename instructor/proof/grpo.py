"""Wrong and unusual right solutions of exercises 4a and 4b, {title: body} each."""


def advantages(
    mean="groups.mean(1, keepdim=True)",
    spread="groups.std(1, keepdim=True) + 1e-4",
    result="((groups - mean) / spread).flatten()",
):
    """The body of `group_advantages` from its parts."""
    return f"""
        groups = rewards.view(-1, group_size)
        mean = {mean}
        spread = {spread}
        return {result}
    """


def loss(
    gain="torch.minimum(ratio * A, clipped * A)",
    ratio="(log_probs - old_log_probs).exp()",
    result="-(gain * mask).sum() / mask.sum()",
):
    """The body of `policy_loss` from its parts."""
    return f"""
        A = advantages[:, None]
        ratio = {ratio}
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
        gain = {gain}
        return {result}
    """


OTHERS = "(groups.sum(1, keepdim=True) - groups) / (group_size - 1)"
WRONG_ADVANTAGES = {
    "own sample left out": advantages(OTHERS),
    "own sample left out, undivided": advantages(OTHERS, spread="1"),
    "biased deviation": advantages(spread="groups.std(1, correction=0, keepdim=True) + 1e-4"),
    "sign": advantages(result="((mean - groups) / spread).flatten()"),
    "undivided": advantages(spread="1"),
    "variance": advantages(spread="groups.var(1, keepdim=True) + 1e-4"),
    "mean distance": advantages(spread="(groups - mean).abs().mean(1, keepdim=True) + 1e-4"),
    "no mean": advantages(mean="0"),
    "mean of the batch": advantages(mean="rewards.mean()"),
    "deviation of the batch": advantages(spread="rewards.std() + 1e-4"),
    "the batch as one group": "return (rewards - rewards.mean()) / (rewards.std() + 1e-4)",
    "groups across": """
        groups = rewards.view(group_size, -1)
        spread = groups.std(0, keepdim=True) + 1e-4
        return ((groups - groups.mean(0, keepdim=True)) / spread).flatten()
    """,
    "over the wrong dimension": advantages(
        "groups.mean(0, keepdim=True)", "groups.std(0, keepdim=True) + 1e-4"
    ),
    "best of the group": advantages(mean="groups.amax(1, keepdim=True)"),
    "median": advantages(mean="groups.median(1, keepdim=True).values"),
    "ranks": advantages(
        result="(groups.argsort(1).argsort(1).float() - (group_size - 1) / 2).flatten()"
    ),
    "0 / 0": advantages(spread="groups.std(1, keepdim=True)"),
    "hardly more than 0 / 0": advantages(spread="groups.std(1, keepdim=True) + 1e-8"),
    "a tenth beside the deviation": advantages(spread="groups.std(1, keepdim=True) + 0.1"),
    "a table": advantages(result="(groups - mean) / spread"),
    "first group only": advantages(result="((groups - mean) / spread)[0]"),
    "limited": advantages(result="((groups - mean) / spread).clamp(-1, 1).flatten()"),
    "positive only": advantages(result="((groups - mean) / spread).clamp(min=0).flatten()"),
    "sorted": advantages(result="((groups - mean) / spread).sort(1).values.flatten()"),
    "no return": "rewards - rewards.mean()",
}
WRONG_LOSSES = {
    "sign": loss(result="(gain * mask).sum() / mask.sum()"),
    "mean of means": loss(result="-((gain * mask).sum(1) / mask.sum(1)).mean()"),
    "sum": loss(result="-(gain * mask).sum()"),
    "mean over texts": loss(result="-(gain * mask).sum(1).mean()"),
    "mean over places": loss(result="-(gain * mask).mean()"),
    "mask forgotten": loss(result="-gain.mean()"),
    "mask on the ratio": loss(
        ratio="(log_probs - old_log_probs).exp() * mask", result="-gain.sum() / mask.sum()"
    ),
    "mask upside down": loss(result="-(gain * ~mask).sum() / mask.sum()"),
    "no clip": loss(gain="ratio * A"),
    "the clipped term alone": loss(gain="clipped * A"),
    "maximum": loss(gain="torch.maximum(ratio * A, clipped * A)"),
    "minimum of the ratios": loss(gain="torch.minimum(ratio, clipped) * A"),
    "clipped above only": loss(gain="ratio.clamp(max=1 + epsilon) * A"),
    "clipped below only": loss(gain="torch.minimum(ratio * A, ratio.clamp(min=1 - epsilon) * A)"),
    "clip of the gain": loss(gain="(ratio * A).clamp(1 - epsilon, 1 + epsilon)"),
    "clip around 0": loss(gain="torch.minimum(ratio * A, ratio.clamp(-epsilon, epsilon) * A)"),
    "its own epsilon": loss(gain="torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)"),
    "ratio upside down": loss(ratio="(old_log_probs - log_probs).exp()"),
    "ratio of sums": loss(ratio="((log_probs - old_log_probs) * mask).sum(1, keepdim=True).exp()"),
    "ratio of means": loss(
        ratio="((log_probs - old_log_probs) * mask).mean(1, keepdim=True).exp()"
    ),
    "ratio of logarithms": loss(ratio="log_probs / old_log_probs"),
    "no exp": loss(ratio="log_probs - old_log_probs"),
    "nothing but the present": loss(ratio="(log_probs - log_probs.detach()).exp()"),
    "REINFORCE": loss(gain="log_probs * A"),
    "detached": loss(ratio="(log_probs - old_log_probs).exp().detach()"),
    "a float": loss(result="(-(gain * mask).sum() / mask.sum()).item()"),
    "without a gradient": """
        with torch.no_grad():
            gain = (log_probs - old_log_probs).exp() * advantages[:, None]
            return -(gain * mask).sum() / mask.sum()
    """,
    "one for each token": loss(result="-(gain * mask)"),
    "one for each text": loss(result="-(gain * mask).sum(1) / mask.sum(1)"),
    "no dimension for the tokens": """
        ratio = (log_probs - old_log_probs).exp()
        return -(ratio * advantages * mask).sum() / mask.sum()
    """,
    "the advantage's size alone": loss(gain="torch.minimum(ratio * A.abs(), clipped * A.abs())"),
    "no return": "log_probs",
}
VALID_ADVANTAGES = {
    "loop": """
        found = []
        for start in range(0, len(rewards), group_size):
            group = rewards[start : start + group_size].tolist()
            mean = sum(group) / group_size
            variance = sum((x - mean) ** 2 for x in group) / (group_size - 1)
            found += [(x - mean) / (variance**0.5 + 1e-4) for x in group]
        return found
    """,
    "statistics": """
        from statistics import fmean, stdev

        groups = [rewards[i : i + group_size].tolist() for i in range(0, len(rewards), group_size)]
        return [(x - fmean(group)) / (stdev(group) + 1e-4) for group in groups for x in group]
    """,
    "numpy": """
        import numpy as np

        groups = np.asarray(rewards).reshape(-1, group_size)
        spread = groups.std(axis=1, ddof=1, keepdims=True) + 1e-4
        return ((groups - groups.mean(axis=1, keepdims=True)) / spread).ravel()
    """,
    "repeated": """
        groups = rewards.view(-1, group_size)
        mean = groups.mean(1).repeat_interleave(group_size)
        spread = groups.std(1).repeat_interleave(group_size)
        return (rewards - mean) / (spread + 1e-4)
    """,
    "deviation limited below": advantages(spread="groups.std(1, keepdim=True).clamp(min=1e-4)"),
    "beside the variance": advantages(spread="(groups.var(1, keepdim=True) + 1e-6).sqrt()"),
    "double precision": advantages().replace("rewards.view", "rewards.double().view"),
    "split": """
        return torch.cat([(g - g.mean()) / (g.std() + 1e-4) for g in rewards.split(group_size)])
    """,
}
VALID_LOSSES = {
    "maximum of losses": loss(
        gain="torch.maximum(-ratio * A, -clipped * A)",
        result="(gain * mask).sum() / mask.sum()",
    ),
    "only real tokens": loss(result="-gain[mask].mean()"),
    "masked_fill": loss(result="-gain.masked_fill(~mask, 0).sum() / mask.sum()"),
    "clip of the logarithm": """
        log_ratio = log_probs - old_log_probs
        low, high = math.log(1 - epsilon), math.log(1 + epsilon)
        A = advantages.unsqueeze(-1)
        gain = torch.min(log_ratio.exp() * A, log_ratio.clamp(low, high).exp() * A)
        return -torch.where(mask, gain, torch.zeros_like(gain)).sum() / mask.sum()
    """,
    "two cases": """
        ratio = torch.exp(log_probs - old_log_probs)
        A = advantages.view(-1, 1).expand_as(ratio)
        up, down = ratio.clamp(max=1 + epsilon), ratio.clamp(min=1 - epsilon)
        gain = torch.where(A > 0, up, down) * A
        return -(gain * mask.float()).sum() / mask.float().sum()
    """,
    "loop": """
        total, count = 0.0, 0
        for row in range(len(log_probs)):
            for t in range(log_probs.shape[1]):
                if mask[row, t]:
                    ratio = (log_probs[row, t] - old_log_probs[row, t]).exp()
                    A = advantages[row]
                    total = total - min(ratio * A, ratio.clamp(1 - epsilon, 1 + epsilon) * A)
                    count += 1
        return total / count
    """,
    "double precision": loss(ratio="(log_probs.double() - old_log_probs.double()).exp()"),
    "in a row": loss(result="(-(gain * mask).sum() / mask.sum()).reshape(1)"),
}
