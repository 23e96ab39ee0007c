"""Bodies of functions that differ in one place: of a penalty, and of the log-probabilities."""

TOTAL = "kl_coef * cost.sum(-1)"
NUMPY_PENALTY = """
    import numpy as np

    q, p = np.asarray(policy_log_probs, dtype=float), np.asarray(ref_log_probs, dtype=float)
    cost = {per_token}
    return kl_coef * np.where(np.asarray(mask), cost, 0.0).sum(axis=1)
"""


def penalty(per_token, total=TOTAL, mask=True):
    """The body of a penalty from its cost per token and the way the total is made."""
    masked = "torch.where(mask, cost, 0.0)" if mask else "cost"
    return f"""
        q, p = policy_log_probs, ref_log_probs
        log_r = (p - q).clamp(max=math.log(10))
        r = log_r.exp()
        cost = {per_token}
        cost = {masked}
        return {total}
    """


PARTS = {  # of the body of `compute_ref_log_probs`
    "before": "sums = []",
    "pairs": "completion, prompt in zip(completions, prompts)",
    "prompt": "prompt",
    "completion": "completion",
    "prompt_ids": 'tokenizer({prompt})["input_ids"]',
    "completion_ids": 'tokenizer({completion})["input_ids"]',
    "ids": "prompt_ids + completion_ids",
    "logits": "ref_model(ids).logits.float()",
    "start": "len(prompt_ids) - 1",
    "end": "-1",
    "target": "len(prompt_ids)",
    "last": "",
    "result": "x.sum()",
    "answer": "sums",
}


def log_probs(**parts):
    """The body of `compute_ref_log_probs` with other PARTS."""
    parts = PARTS | parts
    for name in ("prompt", "completion"):
        parts[f"{name}_ids"] = parts[f"{name}_ids"].format(**{name: parts[name]})
    return """
        {before}
        for {pairs}:
            prompt_ids = {prompt_ids}
            completion_ids = {completion_ids} if completion else []
            ids = torch.tensor([{ids}])
            with torch.no_grad():
                table = {logits}.log_softmax(-1)[0, {start} : {end}]
            x = table.gather(-1, ids[0, {target} : {last}, None])
            sums.append(({result}).item())
        return {answer}
    """.format(**parts)
