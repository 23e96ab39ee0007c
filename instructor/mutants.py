"""A test of the tests: wrong solutions that must fail, unusual right ones that must pass.

    python instructor/mutants.py

prints which case catches each wrong solution and what the student reads. Each entry is the body of
one function, put in the place of the solution's.
"""

import random
import sys
import textwrap
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from instructor.make_rewards import BODY, FUNCTION  # noqa: E402


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


# Penalties that are wrong in either place; the key says how.
WRONG_PENALTIES = {
    "a value, k2": penalty("log_r**2 / 2"),
    "a value, k3": penalty("r - 1 - log_r"),
    "a value, r log r": penalty("r * log_r"),
    "a value, r log r - (r - 1)": penalty("r * log_r - (r - 1)"),
    "absolute difference": penalty("(q - p).abs()"),
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
}
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
    "cut off at zero": penalty("(1 - r).clamp(min=0)"),
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
        **VALID_PENALTIES,
    },
    "kl_penalty_backward": {
        "numpy": NUMPY_PENALTY.format(per_token="1 - np.exp(np.minimum(p - q, 2.3))"),
        "loop": LOOP_PENALTY.format(per_token="1 - math.exp(min(p - q, 3.0))"),
        "other clamp": penalty("1 - (p - q).clamp(-4, 4).exp()"),
        **VALID_PENALTIES,
    },
}


def with_body(source, function, body):
    """The text of a rewards file with another body for one function."""
    for match in BODY.finditer(source):
        if FUNCTION.findall(source[: match.start()])[-1] == function:
            body = textwrap.indent(textwrap.dedent(body).strip("\n"), match.group(1))
            return f"{source[: match.start()]}{body.rstrip()}\n{source[match.end() :]}"
    raise KeyError(function)


def load(source, name):
    """A rewards file from its text, as a module; errors in it name the file `name`."""
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def reports(function, body, models):
    """{case: what the student reads} for the cases that one body fails."""
    from cases import CASES, Ask, report

    source = (ROOT / "rewards_solution.py").read_text(encoding="utf-8")
    answer = getattr(load(with_body(source, function, body), "rewards.py"), function)
    texts = {
        case.__name__: report(case, Ask(answer, models), random.Random(0))
        for case in CASES[function][1]
    }
    return {case: text for case, text in texts.items() if text}


def main():
    from models import load_model
    from sentiment import load_sentiment_model
    from train import PRESETS

    load_sentiment_model(PRESETS["tiny"]["sentiment_model"], "cpu")
    models = load_model(PRESETS["tiny"]["model_name"], "cpu")
    missed = 0
    for title, table in (("wrong", WRONG), ("valid", VALID)):
        for function, bodies in table.items():
            for name, body in bodies.items():
                found = reports(function, body, models)
                missed += bool(found) != (title == "wrong")
                message = next(iter(found.values()), "").splitlines()
                cause = message[-1].removeprefix("  usual cause  ") if message else "passes"
                print(f"{title} | {function} | {name} | {', '.join(found) or '-'} | {cause}")
    print(f"{missed} wrong verdicts")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
