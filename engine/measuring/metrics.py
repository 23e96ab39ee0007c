"""The figures that describe a policy, each with the uncertainty of its sample.

`evaluate.py` samples and scores; here its rows, one dict per completion, become figures of four
kinds: ratios, medians, measures of variety, and the share of pairs won. Completions to one prompt
resemble each other, so the intervals treat prompts, not completions, as the independent draws: 64
prompts are 64 observations, however many completions each has.
"""

import collections
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000
Sample = dict[str, Any]  # of `evaluate.evaluate_model`
Estimate = dict[str, Any]  # `mean`, and `low` and `high`, None where one prompt is all there is


class Comparison(NamedTuple):
    """Estimates of a metric: of the base model, of the trained one, and of their difference."""

    base: Estimate
    trained: Estimate
    difference: Estimate


@dataclass
class Ratio:
    """A sum over the samples divided by another: a mean, a mean per token, a share."""

    fraction: Callable[[Sample], tuple[float, float]]  # sample -> (numerator, denominator)
    transform: Callable[[float], float] = float  # of the quotient
    needs: str | None = None  # a field that not every sample has

    def value(self, samples):
        numerators, denominators = zip(*map(self.fraction, samples))
        return self.transform(math.fsum(numerators) / sum(denominators))

    def compare(self, base, trained) -> Comparison:
        """Estimates over prompts.

        Args:
            base, trained: a list of samples for each prompt.
        """

        return over_prompts(self._of_prompts(base), self._of_prompts(trained), len(base))

    def estimate(self, groups) -> Estimate:
        """The estimate of one model alone, from a list of samples for each prompt."""
        return bootstrap(self._of_prompts(groups), len(groups))

    def _of_prompts(self, groups):
        sums = [np.sum([self.fraction(s) for s in samples], axis=0) for samples in groups]
        top, bottom = np.array(sums, dtype=float).T  # each (P,)
        return lambda prompts: self.transform(top[prompts].sum() / bottom[prompts].sum())


@dataclass
class Median:
    """The median over completions."""

    item: Callable[[Sample], float]

    def value(self, samples):
        return statistics.median(map(self.item, samples))

    compare = Ratio.compare

    def _of_prompts(self, groups):
        values = [[self.item(sample) for sample in samples] for samples in groups]
        return lambda prompts: float(np.median(np.concatenate([values[i] for i in prompts])))


@dataclass
class Variety:
    """The share of different items among all items of the sample."""

    items: Callable[[Sample], list]

    def value(self, samples):
        return variety([[x for sample in samples for x in self.items(sample)]])[0]

    def compare(self, base, trained) -> Comparison:
        """As for Ratio, with intervals by the jackknife: a resampled prompt would be a copy."""
        (a, a_without), (b, b_without) = (
            variety([[x for sample in samples for x in self.items(sample)] for samples in side])
            for side in (base, trained)
        )
        return Comparison(
            jackknife(a, a_without),
            jackknife(b, b_without),
            jackknife(b - a, b_without - a_without),
        )


class WinRate:
    """How often the judge prefers the trained model's completion; one half for the base itself."""

    def compare(self, base, trained) -> Comparison:
        """As for Ratio."""

        def win(base_score, trained_score):
            return (trained_score > base_score) + 0.5 * (trained_score == base_score)

        wins = np.array(
            [
                np.mean([win(b["judge"], t["judge"]) for b, t in zip(*samples)])
                for samples in zip(base, trained)
            ]
        )
        rate = bootstrap(lambda prompts: float(wins[prompts].mean()), len(wins))
        difference = {k: None if v is None else v - 0.5 for k, v in rate.items()}
        return Comparison(_estimate(0.5, 0.5, 0.5), rate, difference)


class Metric(NamedTuple):
    """One figure: how it is called, how it is written, what it means, how it is computed."""

    title: str  # of a table's row
    meaning: str
    kind: Ratio | Median | Variety | WinRate
    form: str = "{:z.3f}"  # how a value is written
    better: int = 0  # +1 higher, −1 lower, 0 neither
    short: str = ""  # title of a narrow column; the title itself by default

    @property
    def column(self):
        return self.short or self.title


def mean_of(key, needs=None):
    """The mean of a field over completions."""
    return Ratio(lambda s: (s[key], 1), needs=needs)


def mean_per_token(key, transform: Callable[[float], float] = float):
    """The sum of a field over all completions, divided by the number of their tokens."""
    return Ratio(lambda s: (s[key], s["length"]), transform)


def distinct(n):
    """The share of different n-grams."""
    return Variety(lambda s: ngrams(s["ids"], n))


def exponential(nats):
    return math.exp(min(nats, 700.0))  # beyond this a float overflows


METRICS = {
    "sentiment": Metric(
        title="sentiment",
        better=1,
        meaning="mean score of the reward model, 0 to 1",
        kind=mean_of("sentiment"),
    ),
    "judge": Metric(
        title="judge",
        better=1,
        meaning="mean score of an independent judge, 0 to 1",
        kind=mean_of("judge", needs="judge"),
    ),
    "positive_share": Metric(
        title="positive",
        form="{:z.1%}",
        better=1,
        meaning="share of completions that score above 0.5",
        kind=Ratio(lambda s: (s["sentiment"] > 0.5, 1)),
    ),
    "positive_words": Metric(
        title="positive words",
        form="{:z.1%}",
        meaning="share of words that --hackable_reward counts",
        kind=mean_of("positive_words"),
        short="pos. words",
    ),
    "kl": Metric(
        title="KL (nats)",
        form="{:z.2f}",
        better=-1,
        meaning="distance from the reference of a whole completion: KL(policy‖ref), the mean of "
        "log q − log p",
        kind=mean_of("kl"),
        short="KL nats",
    ),
    "kl_per_token": Metric(
        title="KL / token",
        better=-1,
        meaning="the same per sampled token",
        kind=mean_per_token("kl"),
    ),
    "entropy": Metric(
        title="entropy / token",
        form="{:z.2f}",
        meaning="how open the choice of a token is, in nats: the mean of −log q",
        kind=Ratio(lambda s: (s["ref_nll"] - s["kl"], s["length"])),
        short="entropy",
    ),
    "perplexity": Metric(
        title="ref. perplexity",
        form="{:z.1f}",
        better=-1,
        meaning="how surprising the reference finds the texts: e to the mean nats of a token",
        kind=mean_per_token("ref_nll", exponential),
        short="ref. ppl",
    ),
    "perplexity_median": Metric(
        title="median perplexity",
        form="{:z.1f}",
        better=-1,
        meaning="of a completion's own tokens under the reference, the median over completions",
        kind=Median(lambda s: exponential(s["ref_nll"] / s["length"])),
    ),
    "repetition_3": Metric(
        title="repeated 3-grams",
        form="{:z.1%}",
        better=-1,
        meaning="share of three-token sequences that the completion has used before",
        kind=mean_of("repetition_3"),
        short="repeated",
    ),
    "repetition_4": Metric(
        title="repeated 4-grams",
        form="{:z.1%}",
        better=-1,
        meaning="within a completion, mean over completions",
        kind=mean_of("repetition_4"),
    ),
    **{
        f"distinct_{n}": Metric(
            title=f"distinct {n}-grams",
            better=1,
            meaning="share of the sample's that differ",
            kind=distinct(n),
        )
        for n in (1, 2, 3)
    },
    "self_bleu_4": Metric(
        title="self-BLEU-4",
        better=-1,
        meaning="likeness of a completion to others of the sample, 0 to 1",
        kind=mean_of("self_bleu_4", needs="self_bleu_4"),
    ),
    "unique_share": Metric(
        title="unique",
        form="{:z.1%}",
        better=1,
        meaning="share of different completions in the sample",
        kind=Variety(lambda s: [tuple(s["ids"])]),
    ),
    "length": Metric(
        title="length (tokens)",
        form="{:z.1f}",
        meaning="mean, an end-of-text token included",
        kind=mean_of("length"),
        short="length",
    ),
    "finished": Metric(
        title="finished",
        form="{:z.1%}",
        meaning="share of completions that end by themselves, with an end-of-text token",
        kind=mean_of("finished"),
    ),
    "win_rate": Metric(
        title="win rate",
        form="{:z.1%}",
        better=1,
        meaning="share of pairs in which the judge prefers the trained model's",
        kind=WinRate(),
    ),
}


def ngrams(ids, n):
    """All runs of n neighbouring token ids."""
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def repetition(ids: list[int], n: int) -> float:
    """Share of a sequence's n-grams that stood in it before, in [0, 1].

    >>> repetition([1, 2, 3, 1, 2, 3], 3)  # 123 231 312 123
    0.25
    """
    grams = ngrams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def summarise(samples: list[Sample]) -> dict[str, float]:
    """{metric: value} for the ratios and medians of the samples, and `sentiment_sd`."""
    values = {
        name: metric.kind.value(samples)
        for name, metric in METRICS.items()
        if isinstance(metric.kind, Median)
        or (isinstance(metric.kind, Ratio) and (metric.kind.needs or "ids") in samples[0])
    }
    sentiment = np.array([s["sentiment"] for s in samples])
    return {**values, "sentiment_sd": float(sentiment.std())}


def compare_samples(base: list[Sample], trained: list[Sample]) -> dict[str, dict[str, Estimate]]:
    """Every metric of two samples of the same prompts, and of their difference, with intervals.

    Args:
        base, trained: samples of `evaluate_model`, pairs in the same order; `judge` and
            `self_bleu_4` are in each.

    Returns:
        {"base", "trained", "difference"}: {metric: {"mean", "low", "high"}}, 95 % intervals over
        prompts; None for `low` and `high` where one prompt is all there is.
    """
    groups = [list(by_prompt(samples).values()) for samples in (base, trained)]
    results = {"base": {}, "trained": {}, "difference": {}}
    for name, metric in METRICS.items():
        for side, estimate in metric.kind.compare(*groups)._asdict().items():
            results[side][name] = estimate
    return results


def by_prompt(samples: list[Sample]) -> dict[str, list[Sample]]:
    """{prompt: its samples}, in the order of first appearance."""
    groups = {}
    for sample in samples:
        groups.setdefault(sample["prompt"], []).append(sample)
    return groups


def variety(items_by_prompt: list[list]) -> tuple[float, np.ndarray]:
    """Share of different items among all, and the same with each prompt left out in turn.

    >>> share, without = variety([["a", "a"], ["a", "b"]])
    >>> share, without.tolist()
    (0.5, [1.0, 0.5])
    """
    counts = [collections.Counter(items) for items in items_by_prompt]
    total = collections.Counter()
    for count in counts:
        total.update(count)
    size = total.total()
    without = []
    for count in counts:
        lost = sum(total[item] == n for item, n in count.items())
        without.append((len(total) - lost) / max(size - count.total(), 1))
    return len(total) / max(size, 1), np.array(without)


def jackknife(value: float, without: np.ndarray) -> Estimate:
    """95 % interval of a statistic from its values with each prompt left out (Efron 1981)."""
    n = len(without)
    if n < 2:
        return _estimate(value)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return _estimate(value, value - 1.96 * error, value + 1.96 * error)


def bootstrap(statistic: Callable[[np.ndarray], float], count: int) -> Estimate:
    """95 % percentile interval of `statistic(prompts)`, over `count` prompts drawn anew.

    Args:
        statistic: of the prompts with these numbers, an int64 array.
    """
    from scipy.stats import bootstrap

    prompts = np.arange(count)
    value = statistic(prompts)
    if count < 2:
        return _estimate(value)
    result = bootstrap(
        (prompts,),
        statistic,
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return _estimate(value, *result.confidence_interval)


def over_prompts(base, trained, count: int) -> Comparison:
    """Estimates of two statistics, as for `bootstrap`, and of their difference."""
    return Comparison(
        bootstrap(base, count),
        bootstrap(trained, count),
        bootstrap(lambda prompts: trained(prompts) - base(prompts), count),
    )


def _estimate(mean, low=None, high=None) -> Estimate:
    """An estimate; without `low` and `high`, one that one prompt alone cannot give."""
    return {
        "mean": float(mean),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def is_clear(estimate: Estimate) -> bool:
    """Whether the interval is known and does not contain 0."""
    return estimate["low"] is not None and not estimate["low"] <= 0 <= estimate["high"]


def add_self_bleu(
    samples: list[Sample], references: int = 64, tick: Callable[[], object] = lambda: None
) -> None:
    """Add `self_bleu_4` to each sample: BLEU-4 of its tokens against others of the sample.

    The references are `references` completions spread evenly over the sample, the completion
    itself left out: a fixed number, because BLEU grows with it (Zhu et al. 2018, Texygen).
    `tick()` is called for every 64 samples.
    """
    from sacrebleu.metrics.bleu import BLEU

    settings: dict[str, Any] = {"tokenize": "none", "effective_order": True}
    texts = [" ".join(map(str, s["ids"])) for s in samples]
    chosen = np.unique(np.linspace(0, len(texts) - 1, references + 1).astype(int)).tolist()
    # Most texts have the same references, whose n-grams are counted once.
    usual = [texts[j] for j in chosen[:references]]
    of_the_others = BLEU(**settings, references=[[text] for text in usual])
    for i, sample in enumerate(samples):
        others = [texts[j] for j in chosen if j != i][:references]
        score = 0.0
        if texts[i] and others:
            bleu = (
                of_the_others
                if others == usual
                else BLEU(**settings, references=[[t] for t in others])
            )
            score = bleu.corpus_score([texts[i]], None).score
        sample["self_bleu_4"] = score / 100
        if i % 64 == 0:
            tick()
