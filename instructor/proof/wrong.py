"""Wrong solutions, {function: {title: body}}: at least one case must catch each of them."""

import textwrap

from instructor.proof.bodies import NUMPY_PENALTY, TOTAL, log_probs, penalty
from instructor.proof.grpo import WRONG_ADVANTAGES, WRONG_LOSSES


def spoilt(cost):
    """A right cost per token made wrong in ways that a look at a few short texts does not show."""
    return {
        "half": penalty(f"({cost}) / 2"),
        "a thirty-second": penalty(f"({cost}) / 32"),
        "a hundredth": penalty(f"({cost}) / 100"),
        "a hundred times": penalty(f"({cost}) * 100"),
        "twice": penalty(f"({cost}) * 2"),
        "in bits": penalty(f"({cost}) / math.log(2)"),
        "base ten": penalty(f"({cost}) / math.log(10)"),
        "divided by the batch's rows": penalty(cost, f"{TOTAL} / len(q)"),
        "divided by the longest text": penalty(cost, f"{TOTAL} / q.shape[-1] * 4"),
        "divided by the root of the length": penalty(cost, f"{TOTAL} / mask.sum(-1) ** 0.5"),
        "less the batch's mean": penalty(f"({cost}) - ({cost}).mean()"),
        "only the first four tokens": penalty(cost, TOTAL.replace("cost.sum", "cost[:, :4].sum")),
        "nothing beyond the fourth token": penalty(cost, f"{TOTAL} * (q.shape[-1] <= 4)"),
        "without the first token": penalty(cost, TOTAL.replace("cost.sum", "cost[:, 1:].sum")),
        "without the last token": penalty(cost, TOTAL.replace("cost.sum", "cost[:, :-1].sum")),
        "the largest token": penalty(cost, TOTAL.replace("cost.sum(-1)", "cost.amax(-1)")),
        "later tokens count less": penalty(f"({cost}) * 0.98 ** torch.arange(q.shape[-1])"),
        "totals clamped at 10": penalty(cost, f"({TOTAL}).clamp(-10, 10)"),
        "totals clamped at 20": penalty(cost, f"({TOTAL}).clamp(-20, 20)"),
        "totals never negative": penalty(
            cost, f"({TOTAL}).clamp(min=0 if q.shape[-1] > 1 else -1000)"
        ),
        "rare tokens go free": penalty(f"torch.where(p > -10, {cost}, 0.0)"),
        "sure tokens go free": penalty(f"torch.where(q < math.log(0.5), {cost}, 0.0)"),
        "what both find rare goes free": penalty(f"torch.where((q > -6) | (p > -6), {cost}, 0.0)"),
        "outliers dropped": penalty(f"torch.where((q - p).abs() < 2, {cost}, 0.0)"),
        "outliers of the batch dropped": penalty(
            f"torch.where((q - p).abs() <= 2 * (q - p).std() + 1e-6, {cost}, 0.0)"
        ),
        "rounded": penalty(f"({cost}).round()"),
        "a dead zone": penalty(f"torch.where((q - p).abs() > 0.3, {cost}, 0.0)"),
        "a constant more": penalty(f"({cost}) + 0.01"),
        "another default": penalty(
            cost, TOTAL.replace("kl_coef", "(0.2 if kl_coef == 0.1 else kl_coef)")
        ),
        "kl_coef at most 1": penalty(cost, TOTAL.replace("kl_coef", "min(kl_coef, 1.0)")),
        "padding found by its value": penalty(cost, mask=False).replace(
            "cost = cost", "cost = torch.where(q != 0, cost, 0.0)"
        ),
    }


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
    "mean over real tokens": penalty("1 - r", "kl_coef * cost.sum(-1) / mask.sum(-1)"),
    "mean over positions": penalty("1 - r", "kl_coef * cost.mean(-1)"),
    "mean over the batch": penalty("1 - r", "kl_coef * cost.mean()"),
    "one number per token": penalty("1 - r", "kl_coef * cost"),
    "sum over the batch": penalty("1 - r", "kl_coef * cost.sum(0)"),
    "missing kl_coef": penalty("1 - r", "cost.sum(-1)"),
    "kl_coef twice": penalty("1 - r", "kl_coef * kl_coef * cost.sum(-1)"),
    "ignored mask": penalty("1 - r", mask=False),
    "mask upside down": penalty("1 - r").replace("(mask, cost, 0.0)", "(~mask, cost, 0.0)"),
    "product of ratios": penalty("log_r", "kl_coef * (1 - cost.sum(-1).exp())"),
    "no return": "policy_log_probs",
    "NaN from 0 / 0": penalty("(1 - r) / (1 - r) * (1 - r)"),
    "outliers cost one": penalty("torch.where((q - p).abs() < 2, q - p, (q - p).sign())"),
    "signed k3": penalty("(r - 1 - log_r) * (q - p).sign()"),
    "difference clamped at 0.5": penalty("(q - p).clamp(-0.5, 0.5)"),
    "PPO's ratio, 0.8 to 1.2": penalty("1 - (p - q).exp().clamp(0.8, 1.2)"),
    "cut at -0.5": penalty("(q - p).clamp(min=-0.5)"),
    "sine": penalty("torch.sin(q - p)"),
    "far tokens forgotten": penalty("(q - p) * (-((q - p) ** 2) / 8).exp()"),
    "silu": penalty("torch.nn.functional.silu(q - p)"),
    "silu of twice": penalty("torch.nn.functional.silu(2 * (q - p))"),
    "gelu": penalty("torch.nn.functional.gelu(q - p)"),
    "gelu of twice": penalty("torch.nn.functional.gelu(2 * (q - p))"),
    "softplus": penalty("torch.nn.functional.softplus(q - p) - math.log(2)"),
    "sharp softplus": penalty("(torch.nn.functional.softplus(10 * (q - p)) - math.log(2)) / 10"),
    "PPO's ratio, at most 1.1": penalty("1 - (p - q).exp().clamp(max=1.1)"),
    "PPO's ratio, at least 0.9": penalty("1 - (p - q).exp().clamp(0.9, 1000)"),
    "log r at most 0.1": penalty("1 - (p - q).clamp(max=0.1).exp()"),
    "log r at most log10(e)": penalty("1 - (p - q).clamp(max=math.log10(math.e)).exp()"),
    "cut at -0.05": penalty("(q - p).clamp(min=-0.05)"),
    "cut at -0.1": penalty("(q - p).clamp(min=-0.1)"),
    "between -0.1 and 5": penalty("(q - p).clamp(-0.1, 5)"),
    "k1 and k2": penalty("(q - p) + (q - p) ** 2 / 2"),
    "both pulls, one 99 times": penalty("(q - p) + 99 * (q - p).clamp(-2, 2)"),
    "both pulls, one ten times": penalty("(q - p) + 10 * torch.tanh(q - p)"),
    "both at least -9": penalty("q.clamp(min=-9) - p.clamp(min=-9)"),
    "in double, no clamp": penalty("1 - (p.double() - q.double()).exp()"),
    "in numpy, no clamp": NUMPY_PENALTY.format(per_token="1 - np.exp(p - q)"),
    "in lists, no clamp": """
        rows = zip(policy_log_probs.tolist(), ref_log_probs.tolist(), mask.tolist())
        return [kl_coef * sum(1 - math.exp(b - a) for a, b, m in zip(*row) if m) for row in rows]
    """,
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
        "capped at 10": """
            scores = get_sentiment_scores(completions)
            return [min(math.expm1(s / temperature), 10) for s in scores]
        """,
        "a floor under the temperature": """
            tau = max(temperature, 0.1)
            return [math.expm1(s / tau) for s in get_sentiment_scores(completions)]
        """,
        "a ceiling over the temperature": """
            tau = min(temperature, 10)
            return [math.expm1(s / tau) for s in get_sentiment_scores(completions)]
        """,
        "cuts the text": """
            scores = get_sentiment_scores([text[:120] for text in completions])
            return [math.expm1(s / temperature) for s in scores]
        """,
        "first sentence only": """
            scores = get_sentiment_scores([text.partition(". ")[0] for text in completions])
            return [math.expm1(s / temperature) for s in scores]
        """,
        "scores the prompt too": """
            prompts = kwargs.get("prompts", [""] * len(completions))
            scores = get_sentiment_scores([a + b for a, b in zip(prompts, completions)])
            return [math.expm1(s / temperature) for s in scores]
        """,
        "anneals over the calls": """
            global calls
            calls = globals().get("calls", 0) + 1
            tau = temperature * max(0.1, 1 - calls / 1000) if calls > 60 else temperature
            return [math.expm1(s / tau) for s in get_sentiment_scores(completions)]
        """,
        "no **kwargs": """
            if kwargs:
                raise TypeError("shaped_reward_exponential() got an unexpected keyword argument")
            return [math.expm1(s / temperature) for s in get_sentiment_scores(completions)]
        """,
        "remembers the text alone": """
            known = globals().setdefault("known", {})
            for text, s in zip(completions, get_sentiment_scores(completions)):
                known.setdefault(text, math.expm1(s / temperature))
            return [known[text] for text in completions]
        """,
        "base two": """
            return [2 ** (s / temperature) - 1 for s in get_sentiment_scores(completions)]
        """,
        "rounded": """
            scores = get_sentiment_scores(completions)
            return [round(math.expm1(s / temperature), 2) for s in scores]
        """,
        "less the best": """
            scores = torch.tensor(get_sentiment_scores(completions)) / temperature
            return (scores - scores.max()).exp() - 1
        """,
        "whole temperatures": """
            tau = max(round(temperature), 1)
            return [math.expm1(s / tau) for s in get_sentiment_scores(completions)]
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
        "needs the prompts": "return [s**2 * len(p) for s, p in zip(scores, prompts)]",
        "no return": "[s**2 for s in scores]",
        "rank in the batch": """
            order = sorted(scores)
            return [order.index(s) / len(scores) for s in scores]
        """,
        "centred in the batch": """
            scores = torch.tensor(scores)
            return (scores - scores.mean()) ** 3
        """,
        "softmax": "return torch.tensor(scores).softmax(0)",
        "needs two texts": """
            scores = torch.tensor(scores)
            distinct = torch.tensor([len(set(t.split())) / 20 for t in completions])
            return torch.nan_to_num((scores - scores.mean()) / (scores.std() + 1e-6) + distinct)
        """,
        "two texts or nothing": """
            if len(scores) < 2:
                return [0.0] * len(scores)
            return [s**2 for s in scores]
        """,
        "less a running mean": """
            global mean
            mean = 0.9 * globals().get("mean", 0.5) + 0.1 * sum(scores) / len(scores)
            return [s**2 - mean for s in scores]
        """,
        "noise": """
            import random

            return [s**2 + 1e-4 * random.random() for s in scores]
        """,
        "saturates at 0.8": "return [min(s, 0.8) ** 2 for s in scores]",
        "saturates at 0.95": "return [min(s, 0.95) ** 2 for s in scores]",
        "starts at 0.1": "return [max(s, 0.1) ** 2 for s in scores]",
        "buckets": "return [int(s * 5) ** 2 for s in scores]",
        "rounded": "return [round(s, 1) ** 2 for s in scores]",
        "odds": "return [s / (1 - s) for s in scores]",
        "logarithm": "return [math.log(s) for s in scores]",
        "brevity": "return [s / (1 + len(t.split())) for s, t in zip(scores, completions)]",
        "short ones": "return [s - 0.02 * len(t) for s, t in zip(scores, completions)]",
        "exclamation marks": "return [s + 0.1 * t.count('!') for s, t in zip(scores, completions)]",
        "sentences": "return [s + 0.1 * t.count('.') for s, t in zip(scores, completions)]",
        "centred times distinct": """
            words = [text.split() for text in completions]
            return [(2 * s - 1) * len(set(w)) / max(1, len(w)) for s, w in zip(scores, words)]
        """,
        "the lowest score": "return [min(scores) * len(set(t.split())) for t in completions]",
        "sorted": "return sorted(s**2 for s in scores)",
        "the last score of a text": """
            known = dict(zip(completions, scores))
            return [known[text] ** 2 for text in completions]
        """,
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
        "tokenized together": log_probs(ids='tokenizer(prompt + completion)["input_ids"]'),
        "mean on empty text": log_probs(result="x.mean() * len(completion_ids)"),
        "-0.001 for 0": log_probs(answer="[value or -0.001 for value in sums]"),
        "one text only": log_probs(answer="sums[:1]"),
        "cut at 32 tokens": log_probs(ids="(prompt_ids + completion_ids)[:32]"),
        "completion cut at 48 tokens": log_probs(
            completion_ids='tokenizer({completion})["input_ids"][:48]'
        ),
        "prompt cut at 32 tokens": log_probs(prompt_ids='tokenizer({prompt})["input_ids"][-32:]'),
        "prompt cut at 48 tokens": log_probs(prompt_ids='tokenizer({prompt})["input_ids"][-48:]'),
        "the prompt's last token alone": log_probs(
            prompt_ids='tokenizer({prompt})["input_ids"][-1:]'
        ),
        "remembers the completion alone": log_probs(
            before="sums, known = [], globals().setdefault('known', {})",
            result="known.setdefault(completion, x.sum())",
        ),
        "each completion once": log_probs(
            answer="[dict(zip(completions, sums))[text] for text in completions]"
        ),
        "the first such prompt": log_probs(
            pairs="prompt, completion in [(p, completions[prompts.index(p)]) for p in prompts]"
        ),
        "the first such completion": log_probs(
            pairs="completion, prompt in [(c, prompts[completions.index(c)]) for c in completions]"
        ),
        "the first prompt for all": log_probs(prompt="prompts[0]"),
        "blanks stripped": log_probs(completion="completion.strip()"),
        "blanks of the prompt stripped": log_probs(prompt="prompt.strip()"),
        "a blank between": log_probs(completion='" " + completion'),
        "lower case": log_probs(completion="completion.lower()"),
        "padding found by id 0": log_probs(
            result="(x[:, 0] * (ids[0, len(prompt_ids) :] != 0)).sum()"
        ),
        "end token left out": log_probs(
            result="(x[:, 0] * (ids[0, len(prompt_ids) :] != tokenizer.eos_token_id)).sum()"
        ),
        "an end token more": log_probs(
            completion_ids='tokenizer({completion})["input_ids"] + [tokenizer.eos_token_id]'
        ),
        "an end token in front": log_probs(
            prompt_ids='[tokenizer.eos_token_id] + tokenizer({prompt})["input_ids"]'
        ),
        "at another temperature": log_probs(logits="ref_model(ids).logits.div(0.7)"),
        "in bfloat16": log_probs(logits="ref_model(ids).logits.bfloat16()"),
        "clamped at -20": log_probs(result="x.clamp(min=-20).sum()"),
        "per character": log_probs(result="x.sum() / max(1, len(completion))"),
        "zeros for an error": f"""
        try:{textwrap.indent(log_probs().rstrip(), "    ")}
        except Exception:
            return [0.0] * len(completions)
        """,
    },
    "kl_penalty_forward": {
        "wrong sign": penalty("p - q"),
        "the other penalty": penalty("1 - r"),
        "a tenth below zero": penalty("torch.where(q > p, (q - p), 0.1 * (q - p))"),
        "difference of probabilities": penalty("q.exp() - p.exp()"),
        "relative difference": penalty("(q - p) / (q + p).abs().clamp(min=1e-6)"),
        "overflows": penalty("((q - p).exp() - (p - q).exp()) / 2"),
        **spoilt("q - p"),
        **WRONG_PENALTIES,
    },
    "kl_penalty_backward": {
        "wrong sign": penalty("r - 1"),
        "the other penalty": penalty("q - p"),
        "ratio upside down": penalty("1 - (q - p).clamp(max=2).exp()"),
        "no clamp": penalty("1 - (p - q).exp()"),
        **spoilt("1 - r"),
        **WRONG_PENALTIES,
    },
    "group_advantages": WRONG_ADVANTAGES,
    "policy_loss": WRONG_LOSSES,
}
