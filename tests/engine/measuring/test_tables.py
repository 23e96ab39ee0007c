from types import SimpleNamespace

import pytest

from engine.common import make_console
from engine.measuring import metrics, tables
from engine.measuring.optimum import NATS, Optimum
from engine.measuring.tables import (
    print_estimates,
    print_nats,
    prompting_verdict,
    target_remarks,
    validation_header,
    validation_row,
    verdict,
)
from engine.options import resolve_options


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
        ({**RISE, "repetition_3": (0.4, 0.3, 0.5)}, "repeated 3-grams rose from 0.0% to 40.0%"),
        ({**RISE, "distinct_2": (-0.3, -0.4, -0.2)}, "resemble each other"),
        ({**RISE, "length": (-20.0, -21, -19)}, "shrank to 33%"),
    ],
)
def test_verdicts(changes, words):
    assert words in verdict(estimates_of(**changes))


FALL = {"sentiment": (-0.3, -0.35, -0.25), "judge": (-0.2, -0.3, -0.1)}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (FALL, "As asked, the sentiment fell by 0.30 and the judge by 0.20, at 2.0 nats."),
        (
            {**FALL, "judge": (0.004, -0.03, 0.07)},
            "As asked, the sentiment fell by 0.30, but the judge did not follow (+0.00). Do not "
            "trust the reward alone.",
        ),
        (
            RISE,
            "The sentiment rose by 0.30, though bad reviews were asked for; the judge says +0.20.",
        ),
    ],
)
def test_verdicts_on_a_run_that_was_asked_for_bad_reviews(changes, sentence):
    assert verdict(estimates_of(**changes), negated=True) == sentence


def test_what_was_asked_for_is_called_better(capsys):
    """Sentiment, judge, share of positive texts and win rate follow the wish; the KL does not."""
    asked = ("sentiment", "judge", "positive", "win rate")
    fell = (-0.3, -0.35, -0.25)
    names = ("sentiment", "judge", "positive_share", "win_rate")
    estimates = estimates_of(kl=(2.0, 1.9, 2.1), **dict.fromkeys(names, fell))
    for negated, mark in ((False, "worse"), (True, "better")):
        print_estimates(estimates, negated)
        rows = {line[1:].split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
        assert all(rows[title].split()[-1] == mark for title in asked)
        assert rows["KL (nats)"].split()[-1] == "worse"


@pytest.mark.parametrize(
    ("kl_type", "penalty", "kl", "asked"),
    [("forward", -24.1, 241.0, True), ("forward", 0.2, 2.1, False), ("forward", -0.01, 0.1, False)]
    + [("backward", -0.3, 3.0, False), ("none", None, 30.0, False)]
    + [("forward", None, 30.0, False)],  # of a finished run that was resumed: no step
)
def test_a_penalty_that_pays_is_asked_about(capsys, kl_type, penalty, kl, asked):
    """That of `forward` is kl_coef · KL on average, never below 0; near 0 it is noise."""
    options = resolve_options({"kl_type": kl_type})
    run = {"before": {"kl": 0.0}, "after": {"kl": kl}, "seconds": 1.0, "kl_penalty": penalty}
    tables.summarise_run(options, run, final="out/final", console=make_console())
    assert ("Is its sign right?" in " ".join(capsys.readouterr().out.split())) == asked


def test_no_number_is_minus_zero(capsys):
    tiny = -1e-9
    for metric in metrics.METRICS.values():
        assert "-" not in metric.form.format(tiny) and "-" in metric.form.format(-9)
    estimates = estimates_of(kl=(tiny, tiny, tiny))
    estimates["trained"]["kl"]["mean"] = tiny
    estimates["nats"] = {name: {"mean": tiny, "low": tiny, "high": tiny} for name in NATS}
    print_estimates(estimates)
    print_nats(estimates, Optimum({}, {"It": [0.1, 0.9] * 50}), kl_coef=0.1)
    shown = capsys.readouterr().out
    assert "0.00 nats paid: 0.00 (0.00 … 0.00) needed" in shown and "+0.00" in shown
    assert "-0" not in shown
    assert tables.interval({"mean": tiny, "low": tiny, "high": tiny}) == "0.00 (0.00 … 0.00)"


def reached(sentiment, kl):
    """A result of `compare_prefixes`: four prompts, two completions each."""
    return result([sentiment] * 4, kl)


def result(sentiments, kl):
    """The same, with the mean sentiment of each prompt."""
    samples = [
        {"prompt": prompt, "sentiment": sentiment + d}
        for prompt, sentiment in zip("abcd", sentiments)
        for d in (-0.01, 0.01)
    ]
    return {"metrics": {"sentiment": sum(sentiments) / 4, "kl": kl}, "samples": samples}


BASE = {"base": reached(0.5, 0), "base + 'Wow! '": reached(0.6, 1), "base + 'x'": reached(0.5, 9)}


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({}, "The best prefix, 'Wow! ', reaches a sentiment of 0.600 at 1.0 nats."),
        (
            {"trained": reached(0.9, 2), "trained + 'Wow! '": reached(0.95, 3.25)},
            "The best prefix, 'Wow! ', reaches a sentiment of 0.600 at 1.0 nats; the trained model "
            "reaches 0.900 at 2.0 nats, and 0.950 at 3.2 nats with the prefix: the two add up.",
        ),
        (
            {"trained": reached(0.9, 2), "trained + 'Wow! '": reached(0.85, 3)},
            "The best prefix, 'Wow! ', reaches a sentiment of 0.600 at 1.0 nats; the trained model "
            "reaches 0.900 at 2.0 nats, and 0.850 at 3.0 nats with the prefix: the two do not add "
            "up.",
        ),
        (  # the highest, and not clearly so
            {"trained": reached(0.9, 2), "trained + 'Wow! '": result((0.8, 1.0, 0.8, 1.1), 3)},
            "The best prefix, 'Wow! ', reaches a sentiment of 0.600 at 1.0 nats; the trained model "
            "reaches 0.900 at 2.0 nats, and 0.925 at 3.0 nats with the prefix. That is no clear "
            "difference from the trained model alone: whether the two add up, these samples do not "
            "say.",
        ),
        ({"base + 'Wow! '": reached(0.5, 1)}, "No prefix clearly raises the sentiment of 0.500."),
    ],
)
def test_verdicts_on_prompting(more, sentence):
    assert prompting_verdict({**BASE, **more}) == sentence


def test_one_prompt_is_too_little_for_a_verdict_on_prompting():
    result = {"metrics": {"sentiment": 0.5, "kl": 0}, "samples": [{"prompt": "a", "sentiment": 1}]}
    assert "too little" in prompting_verdict({"base": result, "base + 'x'": result})


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
    want = "300 0.975 ±0.25 100.0% 123.45 12345.6 48.0 100.0% 99.9% 100.0%"
    assert row.split() == want.split()


@pytest.mark.parametrize(
    "kl, rate, said",
    [
        (2.0, 1.0, []),
        (2.29, 0.5, []),  # within 15 %
        (2.0, 0.2, ["lowered to 20% of 0.0003"]),
        (2.31, 1.0, ["2 nats was not held: 2.3 in the last steps. Lower --learning_rate"]),
        (1.69, 1.0, ["2 nats was not reached: 1.7 in the last steps. Give more --max_steps"]),
        (6.0, 0.05, ["lowered to 5%", "not held: 6.0"]),
    ],
)
def test_what_is_said_of_a_target(kl, rate, said):
    options = resolve_options({"kl_type": "forward", "kl_target": 2, "learning_rate": 3e-4})
    remarks = target_remarks(options, kl=kl, rate=rate)
    assert len(remarks) == len(said)
    assert all(words in remark for words, remark in zip(said, remarks))


def test_nats_that_nothing_is_known_of(capsys):
    estimates = estimates_of(**RISE)
    estimates["nats"] = dict.fromkeys(("needed", "sideways", "overpayment", "to_optimum"))
    print_nats(estimates, Optimum({}, {"It": [0.1, 0.9] * 50}))
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("2.00 nats paid. How many a sentiment of 0.300 needs is not known: 100")
    assert "sideways" not in shown and "asked for" not in shown
    known = {"mean": 0.5, "low": 0.4, "high": None}
    estimates["nats"] = {
        "needed": known,
        "sideways": known,
        "overpayment": None,
        "to_optimum": known,
    }
    print_nats(estimates, Optimum({}, {"It": [0.1, 0.9] * 50}), kl_coef=0.1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "0.50 (0.40 … ?) needed for a sentiment of 0.300, 0.50 (0.40 … ?) sideways" in shown
    assert "0.50 (0.40 … ?) nats away" in shown and "times the least" not in shown


def test_a_file_of_prompts_is_told_what_it_does_not_change(tmp_path):
    lines = []
    console = SimpleNamespace(print=lambda text, **how: lines.append(text))
    tables.describe_prompts(None, ["a"], console)
    tables.describe_prompts("p.txt", ["a", "b", "a"], console)
    assert lines == [
        "prompts 3 of p.txt, 1 of them repeated; validation and its samples stay on the built-in "
        "movie prompts"
    ]
