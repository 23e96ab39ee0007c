"""Unusual right solutions, {function: {title: body}}: every case must pass all of them.

FILES are whole files that are right, and FORBIDDEN ones that would be, but for what the grader does
not let a submission do: the student's own tests must say so, in one sentence.
"""

import re

from instructor.proof.bodies import NUMPY_PENALTY, log_probs, penalty
from instructor.proof.grpo import VALID_ADVANTAGES, VALID_LOSSES

LOOP_PENALTY = """
    rows = zip(policy_log_probs.tolist(), ref_log_probs.tolist(), mask.tolist())
    pairs = [[(q, p) for q, p, m in zip(*row) if m] for row in rows]
    return [kl_coef * sum({per_token} for q, p in row) for row in pairs]
"""
VALID_PENALTIES = {
    "bent": penalty("torch.tanh(q - p)"),
    "steeper": penalty("torch.sinh((q - p).clamp(-5, 5))"),
    "difference clamped at 2": penalty("(q - p).clamp(-2, 2)"),
    "elu": penalty("torch.nn.functional.elu(q - p)"),
    "ratio clamped at 2": penalty("1 - (p - q).exp().clamp(max=2.0)"),
    "signed square": penalty("(q - p) * (q - p).abs()"),
    "padding overwritten": """
        q, p = policy_log_probs, ref_log_probs
        q[~mask] = p[~mask] = -1.0
        return kl_coef * torch.tanh(q - p).sum(-1)
    """,
    "both pulls": penalty("(q - p) + (1 - r)"),
    "signed log1p": penalty("torch.log1p((q - p).abs()) * (q - p).sign()"),
    "float mask": """
        difference = policy_log_probs - ref_log_probs
        cost = torch.log1p(difference.abs()) * difference.sign()
        return kl_coef * (cost * mask.float()).sum(dim=1)
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
        "map": """
            scores = get_sentiment_scores(completions)
            return map(lambda score: math.expm1(score / temperature), scores)
        """,
        "generator": """
            return (math.expm1(s / temperature) for s in get_sentiment_scores(completions))
        """,
        "values of a dictionary": """
            scores = get_sentiment_scores(completions)
            return {i: math.expm1(s / temperature) for i, s in enumerate(scores)}.values()
        """,
        "deque": """
            from collections import deque

            return deque(math.expm1(s / temperature) for s in get_sentiment_scores(completions))
        """,
        "decimals": """
            from decimal import Decimal

            scores = get_sentiment_scores(completions)
            return [(Decimal(s) / Decimal(temperature)).exp() - 1 for s in scores]
        """,
        "rounded to six digits": """
            scores = get_sentiment_scores(completions)
            return [round(math.expm1(s / temperature), 6) for s in scores]
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
        "a full stop wanted": """
            return [s + 0.2 * t.rstrip().endswith(".") for s, t in zip(scores, completions)]
        """,
        "at most 25 words": """
            lengths = [len(text.split()) for text in completions]
            return [s - 0.02 * max(0, n - 25) for s, n in zip(scores, lengths)]
        """,
        "at least 20 words": """
            return [s * (len(t.split()) >= 20) for s, t in zip(scores, completions)]
        """,
        "no markup": "return [s - 0.5 * ('<' in t) for s, t in zip(scores, completions)]",
        "no repeated sentence": """
            rewards = []
            for score, text in zip(scores, completions):
                parts = [part.strip().lower() for part in text.split(".") if part.strip()]
                rewards.append(score - 0.3 * (len(parts) - len(set(parts))))
            return rewards
        """,
        "not the prompt again": """
            starts = prompts or [""] * len(completions)
            again = [bool(p) and p.lower() in t.lower() for p, t in zip(starts, completions)]
            return [s - 0.5 * copied for s, copied in zip(scores, again)]
        """,
        "no word twice in a row": """
            words = [text.lower().split() for text in completions]
            twice = [sum(a == b for a, b in zip(w, w[1:])) for w in words]
            return [s - 0.1 * n for s, n in zip(scores, twice)]
        """,
        "the same two first words": """
            starts = [tuple(text.lower().split()[:2]) for text in completions]
            return [s - 0.3 * (starts.count(a) > 1) for s, a in zip(scores, starts)]
        """,
        "a hundredth, and a wish for 15 words": """
            lengths = [len(text.split()) for text in completions]
            return [0.01 * s - 0.02 * abs(n - 15) for s, n in zip(scores, lengths)]
        """,
        "distinct words, without a limit": """
            return [s + 0.1 * len(set(t.lower().split())) for s, t in zip(scores, completions)]
        """,
        "a question at the end": """
            return [s + 0.2 * t.rstrip().endswith("?") for s, t in zip(scores, completions)]
        """,
        "three sentences": """
            counts = [sum(text.count(end) for end in ".!?") for text in completions]
            return [s + 0.2 * (n >= 3) for s, n in zip(scores, counts)]
        """,
        "no shouting": """
            return [s - 0.1 * t.count("!") for s, t in zip(scores, completions)]
        """,
        "no copies": """
            return [s * (completions.count(t) == 1) for s, t in zip(scores, completions)]
        """,
        "the first of its kind": """
            firsts = [t not in completions[:i] for i, t in enumerate(completions)]
            return [s * first for s, first in zip(scores, firsts)]
        """,
        "unlike its neighbours": """
            others = [sum(a == b for b in completions) - 1 for a in completions]
            return [s - 0.1 * n / len(scores) for s, n in zip(scores, others)]
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
        "one batch padded on the left": """
            starts = [tokenizer(text)["input_ids"] for text in prompts]
            rests = [tokenizer(text)["input_ids"] if text else [] for text in completions]
            longest = max(len(a + b) for a, b in zip(starts, rests))
            gaps = [longest - len(a + b) for a, b in zip(starts, rests)]
            ids = torch.tensor([[0] * n + a + b for n, a, b in zip(gaps, starts, rests)])
            attention = (torch.arange(longest) >= torch.tensor(gaps)[:, None]).long()
            with torch.no_grad():
                table = ref_model(ids, attention_mask=attention).logits.float().log_softmax(-1)
            each = table[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
            return [row[len(row) - len(rest) :].sum() for row, rest in zip(each, rests)]
        """,
        "with a gradient": log_probs()
        .replace("with torch.no_grad():", "if True:")
        .replace(".item()", ""),
        "column": log_probs(answer="torch.tensor(sums)[:, None]"),
        "one-element tensors": log_probs(answer="[torch.tensor([value]) for value in sums]"),
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
        "sparse": """
            q, p = policy_log_probs, ref_log_probs
            return kl_coef * torch.sparse.sum(torch.where(mask, q - p, 0.0).to_sparse(), 1)
        """,
        "0.85 below zero": penalty("torch.where(q > p, q - p, 0.85 * (q - p))"),
        "column": penalty("q - p", "kl_coef * cost.sum(-1, True)"),
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


def instead(old, new):
    return lambda source: source.replace(old, new)


FILES = {  # title: what makes it of the solution
    "other names of parameters": lambda source: re.sub(
        "(?<!compute_)(policy|ref)_log_probs(?!:)", r"my_\1", source
    ),
    "coding cookie": lambda source: f"#!/usr/bin/env python\n# coding: utf-8\n{source}",
    "cells of a notebook": instead("\n\n\ndef ", "\n\n# In[ ]:\n\n# %%\ndef "),
    "ends of lines as Windows makes them": instead("\n", "\r\n"),
    "log in the temporary folder": lambda source: source.replace(
        "import math\n",
        "import logging\nimport math\nimport tempfile\nfrom pathlib import Path\n\n"
        "logging.basicConfig(filename=Path(tempfile.gettempdir()) / 'rewards.log', force=True)\n"
        "logging.warning('imported')\n",
        1,
    ),
}
FORBIDDEN = {  # title: (what stands in front of the solution, what is said of it)
    "helper module": ("from my_helpers import mean", "Only rewards.py is handed in: my_helpers.py"),
    "words beside it": (
        "from pathlib import Path\nwords = Path(__file__).with_name('my_words.txt').read_text()",
        "Only rewards.py is handed in: my_words.txt",
    ),
    "log elsewhere": (
        "import logging\nlogging.basicConfig(filename='/var/rewards.log', force=True)",
        "write into the temporary folder only, not /var/rewards.log",
    ),
    "workers of a data loader": (
        "from torch.utils.data import DataLoader\nlist(DataLoader([1, 2, 3], num_workers=2))",
        "start no process",
    ),
    "pool of processes": (
        "from concurrent.futures import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(2) as pool:\n    list(pool.map(abs, [1]))",
        "start no process",
    ),
    "compiler": ("import subprocess\nsubprocess.run(['cc', '--version'])", "start no process"),
    "torch.compile": ("import torch\ntorch.compile(abs)(torch.ones(2))", "start no process"),
    "download": (
        "from urllib.request import urlopen\nurlopen('http://127.0.0.1:9/words.txt')",
        "use no network",
    ),
    "magic of a notebook": (
        "get_ipython().run_line_magic('autoreload', '2')",
        "Only a notebook knows lines with get_ipython: delete them",
    ),
}
