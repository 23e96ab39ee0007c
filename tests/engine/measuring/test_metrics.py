import math

import numpy as np
import pytest

from engine.measuring import metrics
from engine.measuring.metrics import repetition, summarise


@pytest.mark.parametrize(
    "ids, n, want",
    [
        ([1, 2, 3, 4], 3, 0.0),  # 123 234
        ([1, 1, 1, 1, 1], 3, 2 / 3),  # 111 three times
        ([1, 2, 1, 2, 1], 2, 0.5),  # 12 21 12 21
        ([1, 2], 3, 0.0),  # no 3-gram at all
        ([], 3, 0.0),
    ],
)
def test_repetition(ids, n, want):
    assert repetition(ids, n) == pytest.approx(want, abs=1e-9)


def sample(prompt="a", ids=(1, 2, 3), sentiment=0.5, judge=0.5, kl=1.0, ref_nll=6.0, **more):
    return {
        "prompt": prompt,
        "ids": list(ids),
        "sentiment": sentiment,
        "judge": judge,
        "positive_words": 0.0,
        "kl": kl,
        "ref_nll": ref_nll,
        "length": len(ids),
        "repetition_3": repetition(list(ids), 3),
        "repetition_4": repetition(list(ids), 4),
        "self_bleu_4": 0.0,
        "finished": False,
        **more,
    }


def test_summary_by_hand():
    samples = [
        sample(ids=[1, 2], sentiment=0.2, judge=0.1, kl=1.0, positive_words=0.5),
        sample(ids=[1, 1, 1, 1], sentiment=0.8, judge=0.4, kl=3.0, finished=True),
    ]
    want = {
        "sentiment": 0.5,
        "sentiment_sd": 0.3,
        "judge": 0.25,
        "positive_share": 0.5,
        "positive_words": 0.25,
        "kl": 2.0,
        "kl_per_token": 4 / 6,
        "entropy": (12 - 4) / 6,  # −log q = −log p − (log q − log p), summed, per token
        "perplexity": math.exp(12 / 6),  # pooled over all six tokens
        "perplexity_median": (math.exp(6 / 2) + math.exp(6 / 4)) / 2,
        "repetition_3": 0.25,  # none, and one of two 111
        "repetition_4": 0.0,
        "self_bleu_4": 0.0,
        "length": 3.0,
        "finished": 0.5,
    }
    assert summarise(samples) == pytest.approx(want, abs=1e-9)


def test_variety_by_hand():
    # 1-grams: 1 2 | 1 3 3: three of five differ. Without the first prompt 1 3 of three, without
    # the second 1 2 of two.
    share, without = metrics.variety([[1, 2], [1, 3, 3]])
    assert share == pytest.approx(3 / 5)
    assert without.tolist() == pytest.approx([2 / 3, 1.0])
    samples = [{"ids": [1, 2]}, {"ids": [1, 3, 3]}]
    assert metrics.METRICS["distinct_1"].kind.value(samples) == pytest.approx(3 / 5)
    assert metrics.METRICS["distinct_2"].kind.value(samples) == 1  # 12, 13, 33


def test_jackknife_by_hand():
    got = metrics.jackknife(2.0, np.array([1.0, 2.0, 3.0]))
    error = math.sqrt(2 / 3 * 2)  # (n − 1)/n · Σ (θ_i − mean)²
    assert got == pytest.approx({"mean": 2, "low": 2 - 1.96 * error, "high": 2 + 1.96 * error})


def test_equal_samples_differ_by_nothing():
    rows = [sample(p, ids=[i, 2, 3], sentiment=i / 4, judge=i / 4) for p in "abc" for i in range(4)]
    estimates = metrics.compare_samples(rows, rows)
    for name in metrics.METRICS:
        assert estimates["difference"][name] == {"mean": 0, "low": 0, "high": 0}
    assert estimates["trained"]["win_rate"]["mean"] == 0.5
    assert estimates["base"]["distinct_1"]["mean"] == 4 / 36  # 0 1 2 3 among 36 tokens


def test_difference_and_win_rate_by_hand():
    base = [sample(p, judge=0.5, sentiment=0.2) for p in "abcd"]
    trained = [sample(p, judge=j, sentiment=0.9) for p, j in zip("abcd", (0.6, 0.5, 0.4, 0.9))]
    estimates = metrics.compare_samples(base, trained)
    assert estimates["trained"]["win_rate"]["mean"] == (1 + 0.5 + 0 + 1) / 4
    assert estimates["difference"]["win_rate"]["mean"] == pytest.approx(0.125)
    assert estimates["difference"]["sentiment"] == pytest.approx(
        {"mean": 0.7, "low": 0.7, "high": 0.7}
    )
    assert set(estimates["base"]) == set(estimates["difference"]) == set(metrics.METRICS)


def test_intervals_are_over_prompts():
    """Completions that only repeat their prompt's score add nothing to what four prompts say."""
    few = [sample(p, sentiment=s) for p, s in zip("abcd", (0.1, 0.3, 0.6, 0.8))]
    many = [dict(row) for row in few for _ in range(25)]
    interval = metrics.compare_samples(few, few)["base"]["sentiment"]
    assert interval == pytest.approx(metrics.compare_samples(many, many)["base"]["sentiment"])
    assert interval["high"] - interval["low"] > 0.3


def test_interval_of_a_median():
    """Seven prompts of equal completions: a resampled median is one of their seven values."""
    nll = [3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0]  # of three tokens: exp(1) … exp(7)
    rows = [sample(p, ref_nll=x) for p, x in zip("abcdefg", nll) for _ in range(3)]
    base = metrics.compare_samples(rows, rows)["base"]["perplexity_median"]
    assert base["mean"] == pytest.approx(math.exp(4))
    # P(median of 7 draws ≤ second value) = P(Bin(7, 2/7) ≥ 4) = 0.10, ≤ first: 0.0099
    assert base["low"] == pytest.approx(math.exp(2)) and base["high"] == pytest.approx(math.exp(6))


def test_one_prompt_has_no_interval():
    estimates = metrics.compare_samples([sample()] * 2, [sample()] * 2)
    for side in ("base", "trained", "difference"):
        for name, estimate in estimates[side].items():
            if (side, name) != ("base", "win_rate"):  # one half by definition
                assert estimate["low"] is None and estimate["high"] is None, (side, name)
    assert estimates["base"]["sentiment"] == {"mean": 0.5, "low": None, "high": None}


def test_self_bleu_of_copies_and_of_strangers():
    copies = [sample(ids=[1, 2, 3, 4, 5]) for _ in range(3)]
    metrics.add_self_bleu(copies)
    assert [s["self_bleu_4"] for s in copies] == pytest.approx([1, 1, 1])
    strangers = [sample(ids=range(10 * i, 10 * i + 6)) for i in range(3)]
    metrics.add_self_bleu(strangers)
    assert max(s["self_bleu_4"] for s in strangers) < 0.1
