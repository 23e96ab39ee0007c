"""The best possible policy: the highest reward that any policy can have at each KL.

For a prompt x, a reward R and a reference p, the policy that maximises E[R] − β·KL(policy‖ref) is
known without any training: the reference tilted by its reward,

    q*(y | x) = p(y | x) · exp(R(x, y) / β) / Z(x).

Its mean reward and its KL are estimated from N samples of the reference: with weights
w_i ∝ exp(R_i/β) that sum to 1, the reward is Σ w_i R_i and the KL is Σ w_i log(N w_i). As β falls
from ∞ to 0 the two run along one curve, and no policy lies above it. The estimate of the KL can
never exceed log N, where one sample has all the weight: it is trusted up to log N − 2.

What a policy q paid, its KL(q‖p), falls into two parts. Let q_s be the tilted reference that has
the mean reward of q. Then

    KL(q‖p) = KL(q_s‖p) + KL(q‖q_s),

the nats that the reward needs, and the nats that went sideways: log(q_s/p) is R/β minus a constant
of the prompt, so q and q_s have the same mean of it. In the same way the distance from the optimum
of J = E[R] − c·KL(q‖p) is known without its texts: (J* − J)/c = KL(q‖q*), where J* is the mean over
prompts of c · log E_p[exp(R/c)]. Both hold for means over prompts too, with one β for all.

Sources: Ziegler et al. 2019, arXiv 1909.08593, figure 3; Rafailov et al. 2023, arXiv 2305.18290,
section 4. Best-of-n: Beirami et al. 2024, arXiv 2401.01879.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.common import ROOT, UserError, portable, progress, write_whole
from engine.measuring.metrics import Estimate, Sample, bootstrap, by_prompt

OPTIMUM = "optimum.json"  # in tiny/ that of the bundled models, in a run's folder that of its base
SAMPLES = 128  # of each prompt, where nobody says how many
BATCH_SIZE = 64
MARGIN = 2.0  # nats below log N up to which the estimate is trusted
# 1/β per unit of reward: from (nearly) the worst sample over the reference itself to the best.
_UP = np.geomspace(0.05, 300.0, 500)
STRENGTHS = np.concatenate([-_UP[::-1], [0.0], _UP])


class Base(NamedTuple):
    """What an optimum depends on, besides the prompts: options of a run, by their names."""

    model_name: str
    sentiment_model: str
    max_completion_length: int
    temperature: float


SETTINGS = Base._fields
NATS = ("needed", "sideways", "overpayment", "to_optimum")  # of `Optimum.paid`


def tilt(scores, strengths=STRENGTHS):
    """Mean reward and KL of the tilted reference, estimated from samples of the reference.

    Args:
        scores: (P, N), the reward of N samples of each of P prompts.
        strengths: (G,), values of 1/β.

    Returns:
        (reward, kl), each (G, P); kl in nats.

    >>> reward, kl = tilt(np.array([[0.0, 1.0]]), np.array([0.0, math.log(3)]))
    >>> reward[:, 0].round(4).tolist(), kl[:, 0].round(4).tolist()  # weights 1/4 and 3/4
    ([0.5, 0.75], [0.0, 0.1308])
    """
    scores = np.asarray(scores, dtype=float)
    reward, kl = np.empty((2, len(strengths), len(scores)))
    for i, strength in enumerate(strengths):
        weights = tilted_weights(scores, strength)
        # 0 · log 0 is 0: the smallest positive number stands in for a weight of 0.
        logs = np.log(np.maximum(weights * scores.shape[1], np.finfo(float).tiny))
        reward[i] = (weights * scores).sum(axis=1)
        kl[i] = (weights * logs).sum(axis=1)
    return reward, kl


def tilted_weights(scores, strength):
    """The weights of samples under the tilted reference, (P, N); those of a prompt sum to 1.

    Args:
        scores: (P, N), the rewards of the samples.
        strength: 1/β.
    """
    exponents = strength * scores
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


TRIES = (1, 4, 16)  # samples of a prompt, of which the best is taken


def best_of_samples(samples: list[Sample]) -> dict[int, float]:
    """{n: the sentiment of the best of n samples}, for those of TRIES that there are."""
    scores = np.array([[s["sentiment"] for s in group] for group in by_prompt(samples).values()])
    return {n: best_of(scores, n) for n in TRIES if n <= scores.shape[1]}


def best_of(scores: np.ndarray, n: int) -> float:
    """The mean of the best of n samples, over prompts.

    With N samples of a prompt, sorted, the i-th is the best of n drawn without replacement with
    probability C(i − 1, n − 1) / C(N, n), so that every sample counts.

    Args:
        scores: (P, N), the samples of each prompt.
        n: at most N.
    """
    ordered = np.sort(scores, axis=1)
    size = ordered.shape[1]
    chances = [math.comb(i, n - 1) / math.comb(size, n) for i in range(size)]
    return float((ordered @ np.array(chances)).mean())


@dataclass
class Optimum:
    """Rewards of samples of an untrained model, and what follows from them."""

    base: Base  # of `settings_of`: what was sampled, how, and what scored it
    scores: dict[str, list[float]]  # prompt -> N rewards in [0, 1]
    largest_probability: float | None = None  # of a whole text, among the samples

    @cached_property
    def table(self):
        """(P, N) array of the scores."""
        return np.array(list(self.scores.values()), dtype=float)

    @cached_property
    def tilted(self):
        """`tilt` of the scores: (reward, kl), each (G, P)."""
        return tilt(self.table)

    @property
    def limit(self):
        """The KL in nats up to which the estimate is trusted."""
        return math.log(self.table.shape[1]) - MARGIN

    def curve(self):
        """The trusted part of the frontier: list of dicts `kl`, `sentiment`, `low` and `high`.

        The last two are the 95 % interval of the sentiment at this KL, over prompts.
        """
        reward, kl = (values[STRENGTHS >= 0][::5] for values in self.tilted)
        prompts = np.random.default_rng(0).integers(0, len(self.table), (500, len(self.table)))
        at = [x for x in kl.mean(axis=1) if x <= self.limit]
        again = np.array(
            [np.interp(at, kl[:, i].mean(axis=1), reward[:, i].mean(axis=1)) for i in prompts]
        )  # (500, points)
        low, high = np.percentile(again, [2.5, 97.5], axis=0)
        middle = np.interp(at, kl.mean(axis=1), reward.mean(axis=1))
        names = ("kl", "sentiment", "low", "high")
        return [dict(zip(names, map(float, row))) for row in zip(at, middle, low, high)]

    def needed_kl(self, sentiment, prompts=None):
        """The least KL, in nats, at which a policy can have this mean sentiment.

        Args:
            sentiment: mean over prompts.
            prompts: indices of the prompts that count, for resampling; None for all, once each.

        Returns:
            KL(q_s‖p); infinity where the samples cannot say.
        """
        prompts = np.arange(len(self.table)) if prompts is None else prompts
        share = np.bincount(prompts, minlength=len(self.table)) / len(prompts)
        reward, kl = (values @ share for values in self.tilted)
        after = int(np.searchsorted(reward, sentiment))
        if not 0 < after < len(reward):
            return math.inf
        here = slice(after - 1, after + 1)
        needed = hermite(sentiment, reward[here], kl[here], slopes=STRENGTHS[here])
        return needed if needed <= self.limit else math.inf

    def sentiment_at(self, kl):
        """The highest mean sentiment that a policy can have at this KL; None beyond the limit."""
        reward, price = (values[STRENGTHS >= 0].mean(axis=1) for values in self.tilted)
        return None if kl > self.limit else float(np.interp(kl, price, reward))

    def best_for(self, kl_coef, prompts=None):
        """The highest value of E[R] − kl_coef · KL(q‖p), mean over prompts.

        Args:
            kl_coef: reward per nat.
            prompts: as for `needed_kl`.
        """
        table = self.table if prompts is None else self.table[prompts]
        largest = table.max(axis=1)
        rest = np.exp((table - largest[:, None]) / kl_coef).mean(axis=1)
        return float((largest + kl_coef * np.log(rest)).mean())

    def best_of_n(self, counts=(1, 2, 4, 8, 16, 32, 64)):
        """What the reference reaches if each answer is the best of n by reward.

        Returns:
            List of dicts `n`, `sentiment`, and `kl` in nats: log n − (n − 1) / n, which is exact
            where no single text is likely and no two are worth the same, and a bound elsewhere.

        >>> [p["sentiment"] for p in Optimum({}, {"a": [0.0, 0.6]}).best_of_n(counts=(1, 2))]
        [0.3, 0.6]
        """
        return [
            {"n": n, "sentiment": best_of(self.table, n), "kl": math.log(n) - (n - 1) / n}
            for n in counts
            if n <= self.table.shape[1]
        ]

    def paid(self, samples, kl_coef=None) -> dict[str, Estimate | None]:
        """What a policy paid its nats for.

        Args:
            samples: of `evaluate_model`, to exactly the prompts of this optimum.
            kl_coef: of a policy that was asked for the most of E[R] − kl_coef · KL(q‖p).

        Returns:
            Four estimates with their 95 % intervals over prompts: `needed`, KL(q_s‖p), and
            `sideways`, KL(q‖q_s), both in nats; `overpayment`, all nats over the needed ones; and
            `to_optimum`, KL(q‖q*) in nats, without a `kl_coef` None. The first three are None
            where the sentiment lies beyond what the samples can say, the last where q* does, the
            overpayment also where the sentiment did not rise. An end of an interval that the
            samples cannot say is None.
        """
        groups = by_prompt(samples)
        sentiment, kl = (
            np.array([np.mean([s[name] for s in groups[prompt]]) for prompt in self.scores])
            for name in ("sentiment", "kl")
        )

        def needed(prompts):
            return self.needed_kl(sentiment[prompts].mean(), prompts)

        def sideways(prompts):
            return kl[prompts].mean() - needed(prompts)

        def overpayment(prompts):
            return kl[prompts].mean() / needed(prompts)

        found: dict[str, Estimate | None] = dict.fromkeys(NATS)
        everything = np.arange(len(self.scores))
        if needed(everything) < math.inf:
            found["needed"] = _known(bootstrap(needed, len(everything)))
            found["sideways"] = _known(bootstrap(sideways, len(everything)))
            if sentiment.mean() > self.table.mean():
                found["overpayment"] = _known(bootstrap(overpayment, len(everything)))
        if kl_coef and tilt(self.table, np.array([1 / kl_coef]))[1].mean() <= self.limit:

            def to_optimum(prompts, kl_coef=kl_coef):
                reached = sentiment[prompts].mean() / kl_coef - kl[prompts].mean()
                return self.best_for(kl_coef, prompts) / kl_coef - reached

            found["to_optimum"] = _known(bootstrap(to_optimum, len(everything)))
        return found

    def save(self, path):
        """Write it as JSON, three decimals of each score, one prompt a line."""
        rows = ",\n".join(
            f"  {json.dumps(prompt, ensure_ascii=False)}: "
            + json.dumps([round(1000 * score) for score in scores], separators=(",", ":"))
            for prompt, scores in self.scores.items()
        )
        head = {**self.base._asdict(), "largest_probability": self.largest_probability}
        lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
        body = ",\n".join([*lines, f' "thousandths": {{\n{rows}\n }}'])
        write_whole(path, f"{{\n{body}\n}}\n")


def hermite(x, ends, values, slopes):
    """The cubic through two points with these slopes there, at a place between them.

    KL as a function of the mean reward has the slope 1/β, so that this is far more exact than a
    straight line.

    >>> hermite(2.0, (1.0, 3.0), values=(1.0, 27.0), slopes=(3.0, 27.0))  # x³
    8.0
    """
    width = ends[1] - ends[0]
    t = (x - ends[0]) / width
    value = values[0] * (1 + 2 * t) * (1 - t) ** 2 + values[1] * t**2 * (3 - 2 * t)
    return float(value + width * t * (1 - t) * (slopes[0] * (1 - t) - slopes[1] * t))


def _known(estimate: Estimate) -> Estimate:
    """An estimate with None in place of an end that is infinite."""
    ends = {name: estimate[name] for name in ("low", "high")}
    known = {k: v if v is None or math.isfinite(v) else None for k, v in ends.items()}
    return Estimate(mean=estimate["mean"], low=known["low"], high=known["high"])


def read_optimum(path):
    """An `Optimum` from the file that `save` wrote.

    Raises:
        UserError: it cannot be read.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        scores = {p: [s / 1000 for s in row] for p, row in values["thousandths"].items()}
        base = Base(*(values[name] for name in SETTINGS))
        if len({len(row) for row in scores.values()}) != 1:
            raise ValueError("rows of different lengths")
        return Optimum(base, scores, values["largest_probability"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as an optimum ({type(error).__name__}). Remove it, and it is "
            "made anew."
        ) from error


def settings_of(model_name, sentiment_model, max_completion_length, temperature) -> Base:
    """The base of an optimum; folders of this repository by short name."""

    return Base(
        portable(str(model_name)),
        portable(str(sentiment_model)),
        int(max_completion_length),
        float(temperature),
    )


def known_optimum(base: Base, prompts, folders=()) -> Optimum | None:
    """The optimum of this base and these prompts in `tiny/` or in one of the folders, or None.

    Raises:
        UserError: a file is damaged.
    """
    for folder in (ROOT / "tiny", *folders):
        if (path := Path(folder) / OPTIMUM).exists():
            optimum = read_optimum(path)
            if optimum.base == base and set(optimum.scores) == set(prompts):
                return optimum
    return None


def sample_optimum(model, tokenizer, base: Base, prompts, score, samples: int) -> Optimum:
    """Sample an untrained model under a progress bar, and keep the reward of every sample.

    Args:
        model, tokenizer: those of the base.
        prompts: list of P different strings.
        score: callable(texts) -> list of rewards in [0, 1].
        samples: N, completions of each prompt.

    Raises:
        UserError: a prompt and its completion exceed the model's context.
    """
    from engine.model.sampling import Sampling, generate
    from engine.model.texts import decode_completions, tokenize_prompts

    length = base.max_completion_length
    prompt_ids = dict(
        zip(prompts, tokenize_prompts(prompts, tokenizer, model, max_new_tokens=length))
    )
    longest = max(map(len, prompt_ids.values()))
    scores = {prompt: [] for prompt in prompts}
    largest = -math.inf
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    batches = math.ceil(len(repeated) / BATCH_SIZE)
    with progress("sampling the base model, to know the best possible", batches) as tick:
        for start in range(0, len(repeated), BATCH_SIZE):
            batch = repeated[start : start + BATCH_SIZE]
            rows = [prompt_ids[prompt] for prompt in batch]
            sampling = Sampling(length, base.temperature, seed=start, prompt_width=longest)
            ids, log_probs = generate(model, tokenizer, rows, sampling=sampling)
            texts = decode_completions(model, tokenizer, rows, ids)
            for prompt, value in zip(batch, score(texts)):
                scores[prompt].append(float(value))
            largest = max(largest, *map(math.fsum, log_probs))
            tick()
    return Optimum(base, scores, math.exp(largest))
