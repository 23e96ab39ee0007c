"""Texts for the sentiment models: phrases of SST-5 and pieces of IMDb reviews."""

import re
from typing import NamedTuple

from tiny.build.corpus import SENTENCE_BREAK, clean, split_sentences


def detokenize(text):
    """Ordinary English from Penn Treebank tokens: "ca n't" -> "can't", "good ." -> "good."."""
    text = text.replace("-LRB-", "(").replace("-RRB-", ")").replace("``", '"').replace("''", '"')
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = re.sub(r" ([.,!?;:%)])", r"\1", text)
    text = re.sub(r"(\() ", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def without_dev(train, dev):
    """The rows of `train` that are not from a development sentence.

    `sst5-train` holds the development sentences and their phrases too. A phrase that occurs in
    both stays if a training sentence contains it.
    """
    dev_texts = {row["text"] for row in dev}
    longest = 12  # tokens; no longer phrase is in two sentences by chance
    shared = set()
    for row in train:
        if row["sentence"] and row["text"] not in dev_texts:
            tokens = row["text"].split(" ")
            for start in range(len(tokens)):
                for end in range(start + 1, min(start + longest, len(tokens)) + 1):
                    shared.add(" ".join(tokens[start:end]))
    return [
        row
        for row in train
        if row["text"] not in dev_texts or (not row["sentence"] and row["text"] in shared)
    ]


def review_segments(texts, count, rng):
    """`count` sentences of reviews; one in three is cut to words from its middle.

    The model will judge completions, and these break off in the middle of a sentence too.
    """
    return [segment.text for segment in placed_segments(texts, count, rng)]


class Segment(NamedTuple):
    """A piece of a review, and the numbers of the review and of the sentence that it is from."""

    text: str
    review: int
    sentence: int


def placed_segments(texts, count, rng):
    """`review_segments`, each a `Segment`."""
    segments = []
    for review, text in enumerate(texts):
        for number, sentence in enumerate(SENTENCE_BREAK.split(text)):
            words = sentence.split(" ")
            if 3 <= len(words) <= 60:
                if rng.random() < 0.35:
                    start = rng.randrange(len(words) - 1)
                    words = words[start : start + rng.randint(3, 30)]
                segments.append(Segment(" ".join(words[:40]), review, number))
    rng.shuffle(segments)
    return segments[:count]


def rated_windows(rows, rng):
    """(texts, ratings): one to three sentences of a review, and the rating of that review."""
    texts = []
    ratings = []
    for row in rows:
        sentences = split_sentences(clean(row["text"]))
        start = 0
        while start < len(sentences):
            count = rng.choice((1, 1, 2, 3))
            texts.append(" ".join(sentences[start : start + count]))
            ratings.append(row["rating"])
            start += count
    return texts, ratings
