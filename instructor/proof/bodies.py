"""Bodies of functions that differ in one place: of a penalty, and of the log-probabilities."""


def penalty(per_token, total="kl_coef * (cost.sum(-1) if cost.ndim == 2 else cost)", mask=True):
    """The body of a penalty from its cost per token and the way the total is made."""
    masked = "torch.where(mask, cost, 0.0)" if mask else "cost"
    return f"""
        q, p = torch.as_tensor(policy_log_probs), torch.as_tensor(ref_log_probs)
        mask = torch.ones_like(q, dtype=torch.bool) if mask is None else mask
        log_r = (p - q).clamp(max=math.log(10))
        r = log_r.exp()
        cost = {per_token}
        cost = {masked}
        return {total}
    """


def log_probs(
    start="len(prompt_ids) - 1", end="-1", target="len(prompt_ids)", last="", result="x.sum()"
):
    """The body of `compute_ref_log_probs` from the slices it takes."""
    return f"""
        sums = []
        for completion, prompt in zip(completions, prompts):
            prompt_ids = tokenizer(prompt)["input_ids"]
            completion_ids = tokenizer(completion)["input_ids"] if completion else []
            ids = torch.tensor([prompt_ids + completion_ids])
            with torch.no_grad():
                table = ref_model(ids).logits.float().log_softmax(-1)[0, {start} : {end}]
            x = table.gather(-1, ids[0, {target} : {last}, None])
            sums.append(({result}).item())
        return sums
    """
