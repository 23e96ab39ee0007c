"""The examples from which the sentiment models learn."""

import torch
import torch.nn.functional as F

from tiny.build.corpus import clean, read_corpus
from tiny.build.rules import NEGATIONS, idioms, negations
from tiny.build.texts import detokenize, rated_windows, review_segments, without_dev
from tiny.build.tokenizer_training import encode


class Corpora:
    """What the sentiment models read of SST-5 and IMDb.

    Attributes:
        dev: rows of the development sentences of SST-5.
        sst: rows of the training phrases of SST-5, nothing of the development sentences.
        phrases: the texts of `sst` as ordinary English.
        sentences: those of the phrases that are whole sentences.
        rated: rows of the IMDb reviews with a rating.
        reviews: the texts of all IMDb reviews, those of `rated` first.
    """

    def __init__(self, corpus):
        dev = read_corpus(corpus, "sst5-dev")
        self.sst = without_dev(read_corpus(corpus, "sst5-train"), dev)
        self.dev = [row for row in dev if row["sentence"]]
        self.phrases = [detokenize(row["text"]) for row in self.sst]
        self.sentences = [text for text, row in zip(self.phrases, self.sst) if row["sentence"]]
        self.rated = read_corpus(corpus, "imdb-train")
        rows = self.rated + read_corpus(corpus, "imdb-unsupervised")
        self.reviews = [clean(row["text"]) for row in rows]


class Examples:
    """Texts as token ids: first those with labels, then segments of reviews without.

    Attributes:
        ids: one list of token ids per text.
        labels: (labelled texts, 5), the probabilities of 1 to 5 stars.
        order: indices of the texts for one epoch; whole sentences stand there four times.
        rated_ids, ratings: sentences of reviews as token ids, and the ratings of their reviews.
        dev_ids, dev_stars: the development sentences as token ids, and their stars.
    """

    def __init__(self, corpora, tokenizer, segments, rng):
        """Make the examples, with at most `segments` segments of reviews."""
        sst = corpora.sst
        negated = negations(rng, NEGATIONS)
        texts = corpora.phrases + [text for text, _ in negated]
        self.ids = encode(tokenizer, texts + review_segments(corpora.reviews, segments, rng))
        self.dev_ids = encode(tokenizer, [detokenize(row["text"]) for row in corpora.dev])
        self.dev_stars = torch.tensor([row["stars"] for row in corpora.dev])
        stars = F.one_hot(torch.tensor([row["stars"] - 1 for row in sst]), 5).float()
        self.labels = torch.cat([stars, torch.tensor([probs for _, probs in negated])])
        self.order = [i for i, row in enumerate(sst) for _ in range(4 if row["sentence"] else 1)]
        self.order += range(len(sst), len(texts))
        windows, self.ratings = rated_windows(corpora.rated, rng)
        self.rated_ids = encode(tokenizer, windows, limit=82)

    def for_student(self, tokenizer, probs, rng):
        """What the student learns from: all texts, and idioms made by rule.

        Args:
            probs: (texts, 5), what the teachers say of all texts.

        Returns:
            (ids, targets, order) as above; the targets are the star probabilities of all texts.
            Where a text has a label, the target is a mixture of the label and the teachers.
        """
        labelled = len(self.labels)
        made = idioms(rng, 1500)
        targets = torch.cat([probs, torch.tensor([star_probs for _, star_probs in made])])
        targets[:labelled] = 0.3 * self.labels + 0.7 * probs[:labelled]
        ids = self.ids + encode(tokenizer, [text for text, _ in made])
        return ids, targets, [*self.order, *range(labelled, len(ids))]
