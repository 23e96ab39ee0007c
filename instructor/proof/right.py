"""Unusual right solutions, {function: {title: body}}: every case must pass all of them."""

from instructor.proof.bodies import penalty
from instructor.proof.grpo import VALID_ADVANTAGES, VALID_LOSSES

NUMPY_PENALTY = """
    import numpy as np

    q, p = np.asarray(policy_log_probs, dtype=float), np.asarray(ref_log_probs, dtype=float)
    cost = {per_token}
    if mask is not None:
        return kl_coef * np.where(np.asarray(mask), cost, 0.0).sum(axis=1)
    return kl_coef * cost
"""
LOOP_PENALTY = """
    if mask is None:
        pairs = [[(q, p)] for q, p in zip(policy_log_probs, ref_log_probs)]
    else:
        rows = zip(policy_log_probs.tolist(), ref_log_probs.tolist(), mask.tolist())
        pairs = [[(q, p) for q, p, m in zip(*row) if m] for row in rows]
    return [kl_coef * sum({per_token} for q, p in row) for row in pairs]
"""
VALID_PENALTIES = {
    "bent": penalty("torch.tanh(q - p)"),
    "steeper": penalty("torch.sinh((q - p).clamp(-5, 5))"),
    "both pulls": penalty("(q - p) + (1 - r)"),
    "signed log1p": penalty("torch.log1p((q - p).abs()) * (q - p).sign()"),
    "float mask": """
        q, p = torch.as_tensor(policy_log_probs), torch.as_tensor(ref_log_probs)
        cost = torch.log1p((q - p).abs()) * (q - p).sign()
        return kl_coef * (cost if mask is None else (cost * mask.float()).sum(dim=1))
    """,
}
VALID = {
    "shaped_reward_exponential": {
        "vectorised": """
            scores = torch.tensor(get_sentiment_scores(completions))
            return (scores / temperature).exp() - 1
        """,
        "numpy": """
            import numpy as np

            return np.expm1(np.array(get_sentiment_scores(completions)) / temperature)
        """,
        "from the worked example": """
            return [math.expm1(s / temperature) for s in sentiment_reward(completions)]
        """,
    },
    "shaped_reward": {
        "squared score": "return [s**2 for s in scores]",
        "fewer copies": """
            rewards = []
            for score, text in zip(scores, completions):
                words = text.split()
                repeated = len(words) - len(set(words))
                rewards.append(score - 0.05 * repeated)
            return rewards
        """,
        "length window": """
            lengths = torch.tensor([float(len(text.split())) for text in completions])
            return torch.tensor(scores) - 0.02 * (lengths - 15).abs()
        """,
    },
    "compute_ref_log_probs": {
        "cross entropy": """
            from torch.nn.functional import cross_entropy

            sums = []
            for prompt, completion in zip(prompts, completions):
                start = tokenizer(prompt)["input_ids"]
                rest = tokenizer(completion)["input_ids"] if completion else []
                ids = torch.tensor([start + rest])
                labels = torch.tensor([[-100] * len(start) + rest])
                with torch.no_grad():
                    logits = ref_model(ids).logits[0, :-1].float()
                sums.append(-cross_entropy(logits, labels[0, 1:], reduction="sum"))
            return sums
        """,
        "one padded batch": """
            from torch.nn.utils.rnn import pad_sequence

            starts = [tokenizer(text)["input_ids"] for text in prompts]
            rests = [tokenizer(text)["input_ids"] if text else [] for text in completions]
            rows = [torch.tensor(a + b) for a, b in zip(starts, rests)]
            ids = pad_sequence(rows, batch_first=True)
            spans = zip(starts, rests)
            real = pad_sequence(
                [torch.tensor([0.0] * len(a) + [1.0] * len(b)) for a, b in spans], batch_first=True
            )
            attention = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
            with torch.no_grad():
                table = ref_model(ids, attention_mask=attention.long()).logits.float()
            table = table.log_softmax(-1)[:, :-1]
            return (table.gather(-1, ids[:, 1:, None])[..., 0] * real[:, 1:]).sum(-1)
        """,
        "token by token": """
            sums = []
            for prompt, completion in zip(prompts, completions):
                ids, total = list(tokenizer(prompt)["input_ids"]), 0.0
                for token in tokenizer(completion)["input_ids"] if completion else []:
                    logits = ref_model(torch.tensor([ids])).logits[0, -1]
                    total += torch.log_softmax(logits.float(), 0)[token].item()
                    ids.append(token)
                sums.append(total)
            return sums
        """,
    },
    "kl_penalty_forward": {
        "numpy": NUMPY_PENALTY.format(per_token="q - p"),
        "loop": LOOP_PENALTY.format(per_token="q - p"),
        "k1 clamped": penalty("(q - p).clamp(-5, 5)"),
        "double precision": penalty("q.double() - p.double()"),
        # Odd, but they hold the policy: trained_penalties.md.
        "difference clamped at 1": penalty("(q - p).clamp(-1, 1)"),
        "signed root": penalty("(q - p).abs().sqrt() * (q - p).sign()"),
        "sign": penalty("(q - p).sign()"),
        "cube": penalty("(q - p) ** 3"),
        "exp(difference) - 1, clamped": penalty("(q - p).clamp(-3, 3).exp() - 1"),
        **VALID_PENALTIES,
    },
    "kl_penalty_backward": {
        "numpy": NUMPY_PENALTY.format(per_token="1 - np.exp(np.minimum(p - q, 2.3))"),
        "loop": LOOP_PENALTY.format(per_token="1 - math.exp(min(p - q, 3.0))"),
        "other clamp": penalty("1 - (p - q).clamp(-4, 4).exp()"),
        **VALID_PENALTIES,
    },
    "group_advantages": VALID_ADVANTAGES,
    "policy_loss": VALID_LOSSES,
}
