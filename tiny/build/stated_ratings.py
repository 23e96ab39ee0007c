"""Ratings that the reward model never saw: those that reviewers write into their text.

The teachers of the reward model learned the ratings of all rated reviews. So the judge learns from
the unrated ones: one in ten says "7/10" or "I give it a nine".
"""

import random
import re

from tiny.build.corpus import SENTENCE_BREAK, clean, read_corpus
from tiny.build.rules import NEGATIONS, SEED, negations
from tiny.build.texts import placed_segments

NUMBERS = "zero one two three four five six seven eight nine ten".split()
VALUE = rf"(\d\d?(?:[.,]\d\d?)?|{'|'.join(NUMBERS)})"
OUT_OF = re.compile(
    rf"(?<![\w/.,$-]){VALUE}(?:\s*stars?)?\s*(?:/|out\s+of)\s*(10|5|4|ten|five|four)"
    r"(?:\s*stars?)?(?![\w/%])",
    re.IGNORECASE,
)
GIVE_IT = re.compile(
    r"\b(?:give|gave|giving|rate|rated|deserves?|gets?|earns)\s+"
    r"(?:it|this|(?:this|the) (?:movie|film))\s+(?:as\s+)?an?\s+(?:solid\s+|big\s+|perfect\s+)?"
    rf"{VALUE}()(?=\s*[.!,;)]|\s*$|\s+(?:because|for|and|but)\b)",
    re.IGNORECASE,
)


def number(text):
    """The value of a number in digits or as a word, up to ten."""
    text = text.lower().replace(",", ".")
    return float(NUMBERS.index(text) if text in NUMBERS else text)


def stated_rating(text):
    """What a review says of its own rating: 1 good, 0 bad, 0.5 between, None nothing clear.

    As in the rated reviews, 7 of 10 and more is good, and 4 of 10 and less is bad.

    >>> [stated_rating(t) for t in ("8/10", "I give it a two.", "5 out of 10", "Fine. 9/11", "")]
    [1.0, 0.0, 0.5, None, None]
    >>> stated_rating("The first is 9/10, this one 3/10.")
    """
    found = set()
    for pattern in (OUT_OF, GIVE_IT):
        for match in pattern.finditer(text):
            share = number(match[1]) / number(match[2] or "10")
            if share <= 1:
                found.add(1.0 if share >= 0.7 else 0.0 if share <= 0.4 else 0.5)
    return found.pop() if len(found) == 1 else None


def without_rating(text):
    """The text without what it says of its own rating."""
    return GIVE_IT.sub(" ", OUT_OF.sub(" ", text))


def unseen_reviews(corpus, labelled_segments=300_000):
    """The unrated reviews without the sentences that the reward model has learned from.

    The teachers labelled `labelled_segments` segments of all reviews. Which ones is drawn again
    here, with the random numbers of `classifier.build_sentiment`.

    Args:
        corpus: folder with the corpora.
        labelled_segments: as many as the teachers labelled.

    Returns:
        (texts, ratings): lists of strings and of `stated_rating`; no text twice, none that is
        among the rated reviews.
    """
    rated = [clean(row["text"]) for row in read_corpus(corpus, "imdb-train")]
    reviews = rated + [clean(row["text"]) for row in read_corpus(corpus, "imdb-unsupervised")]
    rng = random.Random(SEED)
    negations(rng, NEGATIONS)  # build_sentiment draws these first
    labelled = placed_segments(reviews, labelled_segments, rng)
    seen = {(segment.review, segment.sentence) for segment in labelled}
    known = set(rated)
    texts = []
    ratings = []
    for index, review in enumerate(reviews):
        if index >= len(rated) and review not in known:
            known.add(review)
            sentences = enumerate(SENTENCE_BREAK.split(review))
            left = [text for number, text in sentences if (index, number) not in seen]
            texts.append(without_rating(". ".join(left)))
            ratings.append(stated_rating(review))
    return texts, ratings
