import pytest

from engine import metrics
from engine.tables import validation_header, validation_row, verdict


def estimates_of(**changes):
    means = {name: {"mean": 0.0, "low": 0.0, "high": 0.0} for name in metrics.METRICS}
    base = {**means, "perplexity": {"mean": 20.0}, "distinct_2": {"mean": 0.7}}
    base["length"] = {"mean": 30.0}
    trained = {**base, "kl": {"mean": 2.0}}
    difference = dict(means)
    for name, (mean, low, high) in changes.items():
        difference[name] = {"mean": mean, "low": low, "high": high}
        trained[name] = {"mean": base[name]["mean"] + mean}
    return {"base": base, "trained": trained, "difference": difference}


RISE = {"sentiment": (0.3, 0.25, 0.35), "judge": (0.2, 0.1, 0.3)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sentiment": (0.01, -0.02, 0.04)}, "no clear difference"),
        ({"sentiment": (-0.2, -0.3, -0.1)}, "fell by 0.20"),
        (RISE, "rose by 0.30 and the judge by 0.20, at 2.0 nats"),
        ({**RISE, "judge": (0.02, -0.03, 0.07)}, "the judge did not follow"),
        ({**RISE, "perplexity": (60.0, 50, 70)}, "4.0 times as surprising"),
        ({**RISE, "repetition_3": (0.4, 0.3, 0.5)}, "repeated 3-grams rose by 40%"),
        ({**RISE, "distinct_2": (-0.3, -0.4, -0.2)}, "resemble each other"),
        ({**RISE, "length": (-20.0, -21, -19)}, "shrank to 33%"),
    ],
)
def test_verdicts(changes, words):
    assert words in verdict(estimates_of(**changes))


def test_table_fits_80_columns():
    metrics = {
        "sentiment": 0.975,
        "sentiment_sd": 0.25,
        "positive_share": 1.0,
        "kl": 123.45,
        "perplexity": 12345.6,
        "length": 48.0,
        "finished": 1.0,
        "repetition_3": 0.999,
        "positive_words": 1.0,
    }
    row = validation_row(300, metrics)
    assert len(row) == 80 and len(row) == len(validation_header())
    assert row.split() == [
        "300",
        "0.975",
        "±0.25",
        "100.0%",
        "123.45",
        "12345.6",
        "48.0",
        "100.0%",
        "99.9%",
        "100.0%",
    ]
