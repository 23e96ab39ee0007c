"""The figures that describe a policy, each with the uncertainty of its sample.

`evaluate.py` samples and scores; here its rows, one dict per completion, become means, ratios and
measures of variety. Completions to one prompt resemble each other, so the intervals treat prompts,
not completions, as the independent draws: 64 prompts are 64 observations, however many completions
each has.
"""

import collections
import math
import statistics
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Metric(NamedTuple):
    title: str  # of a table's row
    form: str  # how a value is written
    better: int  # +1 higher, −1 lower, 0 neither
    meaning: str
    ratio: object = None  # sample -> (numerator, denominator), summed over samples
    transform: object = float
    median: object = None  # sample -> value, of which the median is taken; neither: variety


def per_completion(key):
    return lambda s: (s[key], 1)


def per_token(key):
    return lambda s: (s[key], s["length"])


METRICS = {
    "sentiment": Metric(
        "sentiment",
        "{:.3f}",
        1,
        "mean score of the reward model, 0 to 1",
        per_completion("sentiment"),
    ),
    "judge": Metric(
        "judge", "{:.3f}", 1, "mean score of an independent judge, 0 to 1", per_completion("judge")
    ),
    "positive_share": Metric(
        "positive",
        "{:.1%}",
        1,
        "share of completions that score above 0.5",
        lambda s: (s["sentiment"] > 0.5, 1),
    ),
    "positive_words": Metric(
        "positive words",
        "{:.1%}",
        0,
        "share of words that --hackable_reward counts",
        per_completion("positive_words"),
    ),
    "kl": Metric(
        "KL (nats)",
        "{:.2f}",
        -1,
        "KL(policy‖ref) of a whole completion, E[log q − log p]",
        per_completion("kl"),
    ),
    "kl_per_token": Metric(
        "KL / token", "{:.3f}", -1, "the same per sampled token", per_token("kl")
    ),
    "perplexity": Metric(
        "ref. perplexity",
        "{:.1f}",
        -1,
        "of all completion tokens under the reference",
        per_token("ref_nll"),
        lambda nll: math.exp(min(nll, 700.0)),
    ),
    "perplexity_median": Metric(
        "median perplexity",
        "{:.1f}",
        -1,
        "of a completion's own tokens under the reference, the median over completions",
        median=lambda s: math.exp(min(s["ref_nll"] / s["length"], 700.0)),
    ),
    "repetition_3": Metric(
        "repeated 3-grams",
        "{:.1%}",
        -1,
        "within a completion, mean over completions",
        per_completion("repetition_3"),
    ),
    "repetition_4": Metric(
        "repeated 4-grams",
        "{:.1%}",
        -1,
        "within a completion, mean over completions",
        per_completion("repetition_4"),
    ),
    "distinct_1": Metric("distinct 1-grams", "{:.3f}", 1, "share of the sample's that differ"),
    "distinct_2": Metric("distinct 2-grams", "{:.3f}", 1, "share of the sample's that differ"),
    "distinct_3": Metric("distinct 3-grams", "{:.3f}", 1, "share of the sample's that differ"),
    "self_bleu_4": Metric(
        "self-BLEU-4",
        "{:.3f}",
        -1,
        "likeness of a completion to others of the sample, 0 to 1",
        per_completion("self_bleu_4"),
    ),
    "unique_share": Metric("unique", "{:.1%}", 1, "share of different completions in the sample"),
    "length": Metric(
        "length (tokens)",
        "{:.1f}",
        0,
        "mean, an end-of-text token included",
        per_completion("length"),
    ),
    "truncated_share": Metric(
        "truncated", "{:.1%}", 0, "share that does not end by itself", per_completion("truncated")
    ),
    "win_rate": Metric(
        "win rate", "{:.1%}", 1, "share of pairs in which the judge prefers the trained model's"
    ),
}


def repetition(ids, n=3):
    """Share of a sequence's n-grams that stood in it before, in [0, 1].

    >>> repetition([1, 2, 3, 1, 2, 3])  # 123 231 312 123
    0.25
    """
    grams = ngrams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ngrams(ids, n):
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def summarise(samples):
    """{metric: value} for the metrics that are means, ratios or medians over the samples."""
    values = {}
    for name, metric in METRICS.items():
        if metric.median is not None:
            values[name] = statistics.median(map(metric.median, samples))
        if metric.ratio is None or (name in ("judge", "self_bleu_4") and name not in samples[0]):
            continue
        numerators, denominators = zip(*(metric.ratio(s) for s in samples))
        values[name] = metric.transform(math.fsum(numerators) / sum(denominators))
    sentiment = np.array([s["sentiment"] for s in samples])
    return {**values, "sentiment_sd": float(sentiment.std())}


def add_self_bleu(samples, references=64):
    """Add `self_bleu_4` to each sample: BLEU-4 of its tokens against others of the sample.

    The references are `references` completions spread evenly over the sample, the completion
    itself left out: a fixed number, because BLEU grows with it (Zhu et al. 2018, Texygen).
    """
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    texts = [" ".join(map(str, s["ids"])) for s in samples]
    chosen = np.unique(np.linspace(0, len(texts) - 1, references + 1).astype(int)).tolist()
    for i, sample in enumerate(samples):
        others = [texts[j] for j in chosen if j != i][:references]
        score = bleu.sentence_score(texts[i], others).score if texts[i] and others else 0.0
        sample["self_bleu_4"] = score / 100


def by_prompt(samples):
    """{prompt: its samples}, in the order of first appearance."""
    groups = {}
    for sample in samples:
        groups.setdefault(sample["prompt"], []).append(sample)
    return groups


def ratio_sums(groups, ratio):
    """(P, 2): numerator and denominator of a ratio, summed over each prompt's samples."""
    return np.array([np.sum([ratio(s) for s in rows], axis=0) for rows in groups], dtype=float)


def variety(grams_by_prompt):
    """Share of different items among all, and the same with each prompt left out in turn.

    >>> share, without = variety([["a", "a"], ["a", "b"]])
    >>> share, without.tolist()
    (0.5, [1.0, 0.5])
    """
    counts = [collections.Counter(grams) for grams in grams_by_prompt]
    total = collections.Counter()
    for count in counts:
        total.update(count)
    size = total.total()
    without = []
    for count in counts:
        lost = sum(total[gram] == n for gram, n in count.items())
        without.append((len(total) - lost) / max(size - count.total(), 1))
    return len(total) / max(size, 1), np.array(without)


def jackknife(value, without):
    """95 % interval of a statistic from its values with each prompt left out (Efron 1981)."""
    n = len(without)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return _estimate(value, value - 1.96 * error, value + 1.96 * error)


def _estimate(mean, low, high):
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def bootstrap(statistic, columns, seed=0):
    """95 % percentile interval of `statistic(*columns)`, the rows (prompts) resampled together."""
    from scipy.stats import bootstrap

    value = statistic(*columns)
    if len(columns[0]) < 2:
        return _estimate(value, math.nan, math.nan)
    result = bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return _estimate(value, *result.confidence_interval)


def _variety_items(name, rows):
    if name == "unique_share":
        return [tuple(s["ids"]) for s in rows]
    return [gram for s in rows for gram in ngrams(s["ids"], int(name[-1]))]


def compare_samples(base, trained):
    """Every metric of two samples of the same prompts, and of their difference, with intervals.

    Args:
        base, trained: samples of `evaluate_model`, pairs in the same order; `judge` and
            `self_bleu_4` are in each.

    Returns:
        {"base", "trained", "difference"}: {metric: {"mean", "low", "high"}}, 95 % intervals over
        prompts. The base's win rate is one half by definition.
    """
    groups = list(by_prompt(base).values()), list(by_prompt(trained).values())
    results = {"base": {}, "trained": {}, "difference": {}}
    for name, metric in METRICS.items():
        if name == "win_rate":
            continue
        if metric.ratio is None and metric.median is None:
            pair = [variety([_variety_items(name, rows) for rows in side]) for side in groups]
            (a, a_without), (b, b_without) = pair
            estimates = (jackknife(a, a_without), jackknife(b, b_without))
            difference = jackknife(b - a, b_without - a_without)
        elif metric.median is not None:
            a, b = ([[*map(metric.median, rows)] for rows in side] for side in groups)

            def median(rows, prompts):
                return float(np.median(np.concatenate([rows[i] for i in prompts])))

            prompts = (np.arange(len(a)),)
            estimates = [
                bootstrap(lambda i, rows=rows: median(rows, i), prompts) for rows in (a, b)
            ]
            difference = bootstrap(lambda i, a=a, b=b: median(b, i) - median(a, i), prompts)
        else:
            sums = [ratio_sums(side, metric.ratio) for side in groups]

            def value(top, bottom, transform=metric.transform):
                return transform(top.sum() / bottom.sum())

            def change(a, b, c, d, value=value):
                return value(c, d) - value(a, b)

            estimates = [bootstrap(value, tuple(s.T)) for s in sums]
            difference = bootstrap(change, (*sums[0].T, *sums[1].T))
        results["base"][name], results["trained"][name] = estimates
        results["difference"][name] = difference
    wins = [
        np.mean(
            [(t["judge"] > b["judge"]) + 0.5 * (t["judge"] == b["judge"]) for b, t in zip(*rows)]
        )
        for rows in zip(*groups)
    ]
    rate = bootstrap(lambda x: float(np.mean(x)), (np.array(wins),))
    results["base"]["win_rate"] = _estimate(0.5, 0.5, 0.5)
    results["trained"]["win_rate"] = rate
    results["difference"]["win_rate"] = {key: value - 0.5 for key, value in rate.items()}
    return results
