"""Read the corpora, clean the texts, and choose the simple sentences."""

import collections
import gzip
import json
import random
import re
from pathlib import Path

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
SENTENCE_BREAK = re.compile(r"""(?<=[.!?])["')]*\s+""")
SIMPLE_CHARACTERS = re.compile(r"[A-Za-z ,.!?;:'\"()-]+")
# Sentences that begin like the prompts in data.py.
PROMPT_LIKE = re.compile(
    r"(This|The|I|It|My|Overall|Watching|Everything|What|When|After|In|As|If|A|For|From|Once)\b"
    r".*\b(movie|film|acting|story|plot|actors?|cast|script|director|characters?|watch\w*|saw|seen"
    r"|ending|music|performances?|scenes?|dialogue)\b"
)
COMMON_WORDS = 4000


def read_corpus(corpus, name):
    """The rows of the file `name`.jsonl.gz in the folder `corpus`, as a list of dicts."""
    with gzip.open(Path(corpus) / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def clean(text):
    """The text with plain ASCII quotes, without markup characters, and with single spaces."""
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("`", "'")
    text = text.replace("\u201c", '"').replace("\u201d", '"').replace("''", '"')
    text = re.sub(r"[*_~=]+", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def split_sentences(text):
    """The sentences of a text, without empty ones."""
    return [sentence for sentence in SENTENCE_BREAK.split(text) if sentence]


def is_prompt_like(sentence):
    """Whether the first six words of a sentence look like a prompt of data.py."""
    return PROMPT_LIKE.match(" ".join(sentence.split()[:6])) is not None


class Reviews:
    """All IMDb reviews without duplicates, each as a list of sentences.

    Attributes:
        train: the reviews to learn from.
        held_out: one review in fifty, never trained on.
        common: the most frequent words, in lower case.
        real_words: the words of at least five different reviews, in lower case. The share of
            these among the words that the model writes tells how many words it invents.
    """

    def __init__(self, corpus):
        rows = read_corpus(corpus, "imdb-train") + read_corpus(corpus, "imdb-unsupervised")
        texts = list(dict.fromkeys(clean(row["text"]) for row in rows))  # no duplicates
        random.Random(0).shuffle(texts)
        counts = collections.Counter()
        reviews_with = collections.Counter()
        for text in texts:
            words = [word.lower() for word in WORD.findall(text)]
            counts.update(words)
            reviews_with.update(set(words))
        self.common = {word for word, _ in counts.most_common(COMMON_WORDS)}
        self.real_words = {word for word, n in reviews_with.items() if n >= 5}
        reviews = [split_sentences(text) for text in texts]
        border = len(reviews) // 50
        self.held_out = reviews[:border]
        self.train = reviews[border:]

    def is_simple(self, sentence):
        """Whether a sentence is whole, not too long, and made of common words only."""
        words = WORD.findall(sentence)
        return (
            4 <= len(words) <= 30
            and sentence[0].isupper()
            and sentence[-1] in ".!?"
            and SIMPLE_CHARACTERS.fullmatch(sentence) is not None
            and all(word.lower() in self.common for word in words)
        )

    def simple_documents(self, reviews, min_sentences=20):
        """The simple sentences in the order of their reviews, joined into long documents.

        With short documents the model would learn to stop early.

        Returns:
            Lists of at least `min_sentences` sentences each.
        """
        documents = []
        current = []
        for review in reviews:
            current += [sentence for sentence in review if self.is_simple(sentence)]
            if len(current) >= min_sentences:
                documents.append(current)
                current = []
        return documents

    def held_out_prompts(self):
        """The simple sentences of the held-out reviews that begin like a prompt."""
        documents = self.simple_documents(self.held_out, 1)
        return [s for document in documents for s in document if is_prompt_like(s)]
