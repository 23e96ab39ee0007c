"""How good the judge is, and how independent of the reward model: on texts that it never saw."""

import random

import numpy as np

from engine.measuring.judge import NgramJudge
from tiny.build.corpus import clean, read_corpus
from tiny.build.texts import detokenize

REVIEWS = 3000
WORDS = 25  # about a completion of 32 tokens


def openings(texts, rng):
    """25 words from somewhere in each text: they begin and end in mid-sentence."""
    for text in texts:
        words = text.split(" ")
        start = rng.randrange(max(len(words) - WORDS, 0) + 1)
        yield " ".join(words[start : start + WORDS])


def accuracy(scores, good):
    """How often a score is on the right side of 0.5; exactly 0.5 is half right."""
    sides = np.sign(scores - 0.5)
    return np.mean(np.where(sides == 0, 0.5, (sides > 0) == good))


def partial_correlation(a, b, given):
    """Correlation of what a straight line over `given` leaves of `a` and of `b`."""
    line = np.stack([given, np.ones(len(given))], 1)
    left = [x - line @ np.linalg.lstsq(line, x, rcond=None)[0] for x in (a, b)]
    return np.corrcoef(*left)[0, 1]


def report_judge(corpus, folder):
    """Print how the judge, VADER and the reward model do on rated texts.

    Args:
        corpus: folder with the corpora.
        folder: of the judge.
    """
    from engine.common import ROOT
    from sentiment import get_sentiment_scores, load_judge, load_sentiment_model

    rng = random.Random(1)
    judge = NgramJudge(folder)
    rows = read_corpus(corpus, "imdb-train")
    rows = rng.sample(rows, min(REVIEWS, len(rows)))
    ratings = np.array([row["rating"] for row in rows])
    texts = list(openings([clean(row["text"]) for row in rows], rng))
    sentences = [row for row in read_corpus(corpus, "sst5-dev") if row["sentence"]]
    stars = np.array([row["stars"] for row in sentences])
    polar = stars != 3
    sst = [detokenize(row["text"]) for row in sentences]

    load_sentiment_model(str(ROOT / "tiny" / "sentiment"))
    scorers = {"judge": judge, "VADER": load_judge("vader"), "reward model": get_sentiment_scores}
    scores = {name: np.array(score(texts)) for name, score in scorers.items()}
    proxy = scores["reward model"]
    print(f"{len(texts)} openings of rated reviews, {polar.sum()} polar sentences of SST-5 dev")
    print(f"{'':12} {'right':>6} {'r(rating)':>9} {'r(reward | rating)':>18} {'SST right':>9}")
    for name, values in scores.items():
        rest = partial_correlation(values, proxy, ratings)
        on_sst = accuracy(np.array(scorers[name](sst))[polar], stars[polar] > 3)
        print(
            f"{name:12} {accuracy(values, ratings > 5):6.1%} "
            f"{np.corrcoef(values, ratings)[0, 1]:9.3f} {rest:18.3f} {on_sst:9.1%}"
        )
    shuffled = [" ".join(rng.sample(words, len(words))) for words in map(str.split, texts)]
    for title, kind in (("openings", texts), ("the same, shuffled", shuffled)):
        print(f"P(text) above 0.5: {np.mean(judge.answers(kind)[1] > 0.5):.1%} of {title}")
