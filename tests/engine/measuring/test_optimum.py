import json
import math

import numpy as np
import pytest
from scipy.optimize import brentq

import evaluate
from engine.common import ROOT, UserError
from engine.measuring.optimum import (
    MARGIN,
    Optimum,
    best_of_samples,
    known_optimum,
    read_optimum,
    settings_of,
    tilt,
)

BASE = settings_of("tiny/gpt2", "tiny/sentiment", 32, 1.0)


def toy(seed=0, texts=60, prompts=4):
    """(probabilities, rewards), each (P, K): every text of a toy world is listed."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(texts), prompts), rng.uniform(0, 1, (prompts, texts))


def exact(probabilities, rewards, strength):
    """Mean reward and KL of the tilted reference, as sums over all texts."""
    weights = probabilities * np.exp(strength * rewards)
    q = weights / weights.sum(axis=1, keepdims=True)
    kl = (q * np.log(q / probabilities)).sum(axis=1)
    return (q * rewards).sum(axis=1).mean(), kl.mean()


def exact_kl(probabilities, rewards, sentiment):
    strength = brentq(
        lambda s: exact(probabilities, rewards, s)[0] - sentiment, -200, 200, xtol=1e-13
    )
    return exact(probabilities, rewards, strength)[1]


def exact_sentiment(probabilities, rewards, kl):
    strength = brentq(lambda s: exact(probabilities, rewards, s)[1] - kl, 0, 200)
    return exact(probabilities, rewards, strength)[0]


def sampled(probabilities, rewards, size, seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.choice(r, size, p=p) for p, r in zip(probabilities, rewards)]
    return Optimum(BASE, {f"prompt {i}": row.tolist() for i, row in enumerate(rows)})


def test_tilting_by_hand():
    # weights 1 : 2 : 4 of three samples
    reward, kl = tilt([[0.0, 1.0, 2.0]], [0.0, math.log(2)])
    assert reward[:, 0] == pytest.approx([1.0, (2 + 8) / 7], abs=1e-12)
    weights = [1 / 7, 2 / 7, 4 / 7]
    want = sum(w * math.log(3 * w) for w in weights)
    assert kl[:, 0] == pytest.approx([0.0, want], abs=1e-12)


def test_tilting_the_whole_toy_is_exact():
    """With every text once, equally likely, the estimate is no estimate."""
    _, rewards = toy(texts=50)
    even = np.full(rewards.shape, 1 / 50)
    optimum = Optimum(BASE, {str(i): row.tolist() for i, row in enumerate(rewards)})
    reward, kl = tilt(rewards, [3.0])
    assert (reward.mean(), kl.mean()) == pytest.approx(exact(even, rewards, 3.0), abs=1e-10)
    # the grid of strengths is fine enough for the inverse, on both sides of the reference
    for sentiment in (0.3, 0.4, 0.55, 0.6, 0.7, 0.8):
        want = exact_kl(even, rewards, sentiment)
        assert optimum.needed_kl(sentiment) == pytest.approx(want, abs=1e-9)


def test_an_estimate_from_samples_holds_the_exact_optimum_in_its_interval():
    probabilities, rewards = toy(prompts=32)
    for seed in range(5):
        optimum = sampled(probabilities, rewards, 384, seed)
        for sentiment in (0.65, 0.8):
            want = exact_kl(probabilities, rewards, sentiment)
            assert optimum.needed_kl(sentiment) == pytest.approx(want, rel=0.06)
        for point in optimum.curve()[30::5]:
            best = exact_sentiment(probabilities, rewards, point["kl"])
            assert point["low"] <= best <= point["high"]
            assert optimum.sentiment_at(point["kl"]) == pytest.approx(point["sentiment"])


def test_the_needed_nats_are_estimated_a_little_too_high():
    """A bias falls as 1/N: what half of the samples say more is about what all say too much."""
    bundled = read_optimum(ROOT / "tiny" / "optimum.json")
    halves = [
        Optimum(bundled.base, {prompt: row[i::2] for prompt, row in bundled.scores.items()})
        for i in range(2)
    ]
    for sentiment in (0.7, 0.8, 0.88, 0.945):  # 0.28 to 1.99 nats
        all_say = bundled.needed_kl(sentiment)
        more = sum(half.needed_kl(sentiment) for half in halves) / 2 - all_say
        assert 0 < more < 0.01 * all_say


def test_the_estimate_saturates_and_knows_it():
    optimum = sampled(*toy(), 16)
    _, kl = optimum.tilted
    assert kl.max() <= math.log(16) + 1e-9
    assert optimum.limit == pytest.approx(math.log(16) - MARGIN)
    assert optimum.needed_kl(0.95) == math.inf and optimum.sentiment_at(2.0) is None
    assert all(point["kl"] <= optimum.limit for point in optimum.curve())


def rows(optimum, sentiment, kl):
    """Samples of a policy: two completions to each prompt, in another order."""
    prompts = reversed(list(optimum.scores))
    return [{"prompt": p, "sentiment": sentiment, "kl": kl} for p in prompts for _ in range(2)]


def figures_of(policies, probabilities, rewards):
    """Samples that stand for policies whose every text is known: the exact means of each prompt."""
    sentiment = (policies * rewards).sum(axis=1)
    kl = (policies * np.log(policies / probabilities)).sum(axis=1)
    return [
        {"prompt": str(i), "sentiment": s, "kl": k} for i, (s, k) in enumerate(zip(sentiment, kl))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_nats_needed_and_sideways_are_divergences(seed):
    """Against the divergences themselves, on a world whose texts are all listed."""
    rng = np.random.default_rng(seed)
    _, rewards = toy(seed, texts=200, prompts=5)
    even = np.full(rewards.shape, 1 / 200)
    drift = rng.normal(0, 0.4, rewards.shape)  # what has nothing to do with the reward
    policies = np.exp(2.0 * rewards + rng.uniform(-1, 1, (5, 1)) * rewards + drift)
    policies /= policies.sum(axis=1, keepdims=True)
    optimum = Optimum(BASE, {str(i): row.tolist() for i, row in enumerate(rewards)})

    def divergence(other):
        return (policies * np.log(policies / other)).sum(axis=1).mean()

    def tilted(strength):
        weights = np.exp(strength * rewards)
        return weights / weights.sum(axis=1, keepdims=True)

    reward = (policies * rewards).sum(axis=1).mean()
    strength = brentq(lambda s: (tilted(s) * rewards).sum(1).mean() - reward, 0, 50, xtol=1e-14)
    paid = optimum.paid(figures_of(policies, even, rewards), kl_coef=0.25)
    means = {name: estimate["mean"] for name, estimate in paid.items()}
    needed = (tilted(strength) * np.log(200 * tilted(strength))).sum(axis=1).mean()
    assert means["needed"] == pytest.approx(needed, abs=1e-9)
    assert means["sideways"] == pytest.approx(divergence(tilted(strength)), abs=1e-9)
    assert means["needed"] + means["sideways"] == pytest.approx(divergence(even), abs=1e-12)
    assert means["to_optimum"] == pytest.approx(divergence(tilted(1 / 0.25)), abs=1e-9)
    assert means["overpayment"] == pytest.approx(divergence(even) / needed, abs=1e-9)
    for estimate in paid.values():
        assert estimate["low"] < estimate["mean"] < estimate["high"]


def test_prompts_drawn_anew_are_those_of_the_optimum_too():
    """An interval draws the prompts of the run and of the base together."""
    _, rewards = toy(texts=50)
    optimum = Optimum(BASE, {str(i): row.tolist() for i, row in enumerate(rewards)})
    drawn = np.array([2, 0, 2, 3])
    again = Optimum(BASE, {str(i): rewards[j].tolist() for i, j in enumerate(drawn)})
    assert optimum.needed_kl(0.7, drawn) == pytest.approx(again.needed_kl(0.7), abs=1e-12)
    assert optimum.best_for(0.2, drawn) == pytest.approx(again.best_for(0.2), abs=1e-12)
    assert optimum.needed_kl(0.7) != pytest.approx(again.needed_kl(0.7), abs=1e-3)


def test_the_optimum_itself_pays_nothing_sideways():
    _, rewards = toy(texts=50)
    even = np.full(rewards.shape, 1 / 50)
    optimum = Optimum(BASE, {str(i): row.tolist() for i, row in enumerate(rewards)})
    best = np.exp(rewards / 0.3)
    best /= best.sum(axis=1, keepdims=True)
    paid = optimum.paid(figures_of(best, even, rewards), kl_coef=0.3)
    assert paid["sideways"]["mean"] == pytest.approx(0.0, abs=1e-9)
    assert paid["to_optimum"]["mean"] == pytest.approx(0.0, abs=1e-9)
    assert paid["overpayment"]["mean"] == pytest.approx(1.0, abs=1e-9)
    value = (best * (rewards - 0.3 * np.log(50 * best))).sum(axis=1).mean()
    assert optimum.best_for(0.3) == pytest.approx(value, abs=1e-12)


def test_what_the_samples_cannot_say_is_none():
    optimum = sampled(*toy(), 100)
    base = optimum.table.mean()
    fell = optimum.paid(rows(optimum, base - 0.01, 0.1))
    assert fell["overpayment"] is None and fell["to_optimum"] is None
    assert 0 < fell["needed"]["mean"] < 0.01
    assert fell["sideways"]["mean"] == pytest.approx(0.1 - fell["needed"]["mean"], abs=1e-12)
    beyond = optimum.paid(rows(optimum, 0.999, 9.0), kl_coef=0.1)
    assert beyond["needed"] is beyond["sideways"] is beyond["overpayment"] is None
    assert beyond["to_optimum"]["mean"] > 0  # what was asked for is not beyond
    assert optimum.paid(rows(optimum, 0.999, 9.0), kl_coef=0.001)["to_optimum"] is None


def test_best_of_n_is_the_mean_over_all_choices():
    from itertools import combinations

    scores = [0.1, 0.5, 0.4, 0.8, 0.8]
    points = Optimum(BASE, {"a": scores}).best_of_n(counts=(2, 3, 4, 8))
    assert [point["n"] for point in points] == [2, 3, 4]  # eight are more than there are
    for point in points:
        best = [max(chosen) for chosen in combinations(scores, point["n"])]
        assert point["sentiment"] == pytest.approx(sum(best) / len(best), abs=1e-12)
    assert points[0]["kl"] == pytest.approx(0.1931472, abs=1e-6)


def test_the_best_of_a_policys_own_samples():
    rows = [
        {"prompt": prompt, "sentiment": score}
        for prompt, scores in {"a": (0.1, 0.2, 0.3, 0.8), "b": (0.5, 0.5, 0.5, 0.9)}.items()
        for score in scores
    ]
    assert best_of_samples(rows) == pytest.approx({1: (1.4 + 2.4) / 8, 4: 0.85}, abs=1e-12)


def test_a_file_comes_back_as_it_was(tmp_path):
    optimum = Optimum(BASE, {"It “was”": [0.5, 0.123], "x": [1.0, 0.0]}, 0.01)
    optimum.save(tmp_path / "optimum.json")
    assert read_optimum(tmp_path / "optimum.json") == optimum
    assert known_optimum(BASE, ["x", "It “was”"], [tmp_path]) == optimum
    assert known_optimum(BASE, ["x"], [tmp_path]) is None
    other = settings_of("tiny/gpt2", "tiny/sentiment", 32, 0.7)
    assert known_optimum(other, ["x", "It “was”"], [tmp_path]) is None


UNEVEN = BASE._asdict() | {"largest_probability": 0.1, "thousandths": {"a": [1], "b": [1, 2]}}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"thousandths": {"a": 1}}', "\x00", json.dumps(UNEVEN)]
)
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "optimum.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read as an optimum") as error:
        read_optimum(tmp_path / "optimum.json")
    assert "\n" not in str(error.value)


def test_folders_of_this_repository_have_one_name(monkeypatch):
    absolute = settings_of(str(ROOT / "tiny/gpt2"), str(ROOT / "tiny" / "sentiment"), 32, 1)
    monkeypatch.chdir(ROOT)
    assert absolute == settings_of("tiny/gpt2", "./tiny/sentiment", 32, 1.0) == BASE
    assert settings_of("gpt2", "some/model", 32, 1).model_name == "gpt2"


def test_the_bundled_optimum_is_that_of_the_bundled_models():
    optimum = read_optimum(ROOT / "tiny" / "optimum.json")
    assert optimum.base == BASE and list(optimum.scores) == evaluate.VALIDATION_PROMPTS
    assert optimum.table.shape == (64, 384) and 0 < optimum.largest_probability < 0.05


def test_the_command_samples_writes_and_shows(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("It was\nThe plot\n")
    model = str(ROOT / "tiny" / "gpt2")
    arguments = ["optimum", model, f"--prompts={prompts}", "--max_new_tokens=4", "--num_samples=16"]
    files = [tmp_path / "o.json", tmp_path / "again.json"]
    for file in files:
        evaluate.main([*arguments, "--out", str(file)])
    optimum = read_optimum(files[0])
    assert optimum.table.shape == (2, 16) and len(set(optimum.table[0])) > 8
    assert "best possible" in capsys.readouterr().out
    assert files[0].read_bytes() == files[1].read_bytes()
