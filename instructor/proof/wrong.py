"""Wrong solutions, {function: {title: body}}: at least one case must catch each of them."""

from instructor.proof.bodies import log_probs, penalty
from instructor.proof.grpo import WRONG_ADVANTAGES, WRONG_LOSSES

# Penalties that are wrong in either place; the key says how.
WRONG_PENALTIES = {
    "a value, k2": penalty("log_r**2 / 2"),
    "a value, k3": penalty("r - 1 - log_r"),
    "a value, r log r": penalty("r * log_r"),
    "a value, r log r - (r - 1)": penalty("r * log_r - (r - 1)"),
    "absolute difference": penalty("(q - p).abs()"),
    "probability times difference": penalty("q.exp() * (q - p)"),
    "difference cut at zero": penalty("(q - p).clamp(min=0)"),
    "1 - r cut at zero": penalty("(1 - r).clamp(min=0)"),
    "reference only": penalty("-p"),
    "policy only": penalty("-q"),
    "probability of the text": penalty("(-p.sum(-1, keepdim=True)).exp() + 0 * q"),
    "constant": penalty("torch.ones_like(q)"),
    "ratio without its 1": penalty("-r"),
    "kl_coef inside exp": penalty("1 - (kl_coef * log_r).exp()", "cost.sum(-1)"),
    "mean over real tokens": penalty(
        "1 - r", "kl_coef * (cost.sum(-1) / mask.sum(-1) if cost.ndim == 2 else cost)"
    ),
    "mean over positions": penalty(
        "1 - r", "kl_coef * (cost.mean(-1) if cost.ndim == 2 else cost)"
    ),
    "mean over the batch": penalty("1 - r", "kl_coef * cost.mean()"),
    "one number per token": penalty("1 - r", "kl_coef * cost"),
    "sum over the batch": penalty("1 - r", "kl_coef * cost.sum(0)"),
    "missing kl_coef": penalty("1 - r", "cost.sum(-1) if cost.ndim == 2 else cost"),
    "kl_coef twice": penalty(
        "1 - r", "kl_coef * kl_coef * (cost.sum(-1) if cost.ndim == 2 else cost)"
    ),
    "ignored mask": penalty("1 - r", mask=False),
    "mask upside down": penalty("1 - r").replace("(mask, cost, 0.0)", "(~mask, cost, 0.0)"),
    "product of ratios": penalty(
        "log_r", "kl_coef * (1 - (cost.sum(-1) if cost.ndim == 2 else cost).exp())"
    ),
    "no lists": """
        return kl_coef * ((policy_log_probs - ref_log_probs) * mask).sum(-1)
    """,
    "no return": "policy_log_probs",
    "NaN from 0 / 0": penalty("(1 - r) / (1 - r) * (1 - r)"),
}
WRONG = {
    "shaped_reward_exponential": {
        "ignores the temperature": """
            return [math.exp(s) - 1 for s in get_sentiment_scores(completions)]
        """,
        "forgets the - 1": """
            return [math.exp(s / temperature) for s in get_sentiment_scores(completions)]
        """,
        "multiplies": """
            return [math.exp(s * temperature) - 1 for s in get_sentiment_scores(completions)]
        """,
        "divides outside": """
            return [(math.exp(s) - 1) / temperature for s in get_sentiment_scores(completions)]
        """,
        "linear": "return get_sentiment_scores(completions)",
        "wrong sign": """
            return [math.exp(-s / temperature) - 1 for s in get_sentiment_scores(completions)]
        """,
        "first text only": """
            return [math.exp(get_sentiment_scores(completions)[0] / temperature) - 1]
        """,
    },
    "shaped_reward": {
        "the score itself": "return scores",
        "scaled and shifted": "return [2 * s - 1 for s in scores]",
        "blind to the score": "return [len(set(text.split())) / 20 for text in completions]",
        "wrong sign": "return [-s * len(set(t.split())) for s, t in zip(scores, completions)]",
        "pays for length": "return [s * len(t.split()) for s, t in zip(scores, completions)]",
        "fails on empty text": """
            return [s * len(set(t.split())) / len(t.split()) for s, t in zip(scores, completions)]
        """,
        "needs the prompts": "return [s * len(p) for s, p in zip(scores, prompts)]",
        "no return": "[s**2 for s in scores]",
    },
    "compute_ref_log_probs": {
        "off by one": log_probs(start="len(prompt_ids)", end=""),
        "without the first token": log_probs(start="len(prompt_ids)", target="len(prompt_ids) + 1"),
        "without the last token": log_probs(end="-2", last="-1"),
        "with the prompt": log_probs(start="0", target="1"),
        "mean for sum": log_probs(result="x.mean() if len(x) else x.sum()"),
        "negative": log_probs(result="-x.sum()"),
        "probability": log_probs(result="x.sum().exp()"),
        "base two": log_probs(result="x.sum() / math.log(2)"),
        "raw logits": log_probs().replace(".log_softmax(-1)", ""),
        "softmax, no log": log_probs().replace("log_softmax", "softmax"),
        "tokenized together": log_probs().replace(
            "torch.tensor([prompt_ids + completion_ids])",
            'torch.tensor([tokenizer(prompt + completion)["input_ids"]])',
        ),
        "mean on empty text": log_probs(result="x.mean() * len(completion_ids)"),
        "one text only": log_probs().replace("return sums", "return sums[:1]"),
    },
    "kl_penalty_forward": {
        "wrong sign": penalty("p - q"),
        "the other penalty": penalty("1 - r"),
        "a tenth below zero": penalty("torch.where(q > p, (q - p), 0.1 * (q - p))"),
        "difference of probabilities": penalty("q.exp() - p.exp()"),
        "relative difference": penalty("(q - p) / (q + p).abs().clamp(min=1e-6)"),
        "overflows": penalty("(q - p).exp() - (p - q).exp()"),
        **WRONG_PENALTIES,
    },
    "kl_penalty_backward": {
        "wrong sign": penalty("r - 1"),
        "the other penalty": penalty("q - p"),
        "ratio upside down": penalty("1 - (q - p).clamp(max=2).exp()"),
        "no clamp": penalty("1 - (p - q).exp()"),
        **WRONG_PENALTIES,
    },
    "group_advantages": WRONG_ADVANTAGES,
    "policy_loss": WRONG_LOSSES,
}
