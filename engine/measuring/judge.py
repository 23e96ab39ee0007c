"""An offline judge of sentiment: a linear model over n-grams that also asks whether a text is text.

It shares no rating and no architecture with the reward model (see tiny/README.md for what it was
trained on), and it answers two questions about a text:

- Is it positive? A logistic regression over its words, pairs and triples of words. Each counts
  once, however often it occurs: repetition earns nothing.
- Is it text? In English most neighbouring words have been neighbours before. A list of words, a
  shuffled review or a repeated phrase has few *different* known pairs and triples for its length.

The score is 0.5 + P(text) · (P(positive) − 0.5): what is no text is neither good nor bad.
"""

import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.common import ROOT, UserError

FOLDER = ROOT / "tiny" / "judge"
FILE = "judge.npz"
ORDERS = (1, 2, 3)
MIN_WORDS = 3  # with fewer there is no triple, and nothing to see of a text
STOP = "."  # stands for every end of a sentence
TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|[.!?]+")


def tokens(text: str) -> list[str]:
    """The words of a text in lower case, and a "." for each end of a sentence.

    >>> tokens("It’s GOOD!! 10/10, really")
    ["it's", 'good', '.', 'really']
    """
    found = TOKEN.findall(text.lower().replace("\u2019", "'"))
    return [STOP if token[0] in ".!?" else token for token in found]


class Encoded(NamedTuple):
    """The tokens of all texts in a row, as numbers, and the text of each: both int64 (T,)."""

    ids: np.ndarray
    rows: np.ndarray


def encode(texts: list[list[str]], words: dict[str, int]) -> Encoded:
    """The tokens of texts as numbers from 1 on; 0 is a word that is not in `words`."""
    ids = np.array([words.get(token, 0) for text in texts for token in text], dtype=np.int64)
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    return Encoded(ids, rows)


def ngrams(ids, rows, base, order):
    """The n-grams of known words in each text, every one once.

    Args:
        ids, rows: from `encode`.
        base: more than the largest id; an n-gram is the number whose digits in it are the ids.
        order: n.

    Returns:
        (rows, keys), int64, sorted by key and then by row.

    Raises:
        ValueError: so many texts that a number would not fit into 64 bits.
    """
    count = len(ids) - order + 1
    if count <= 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    texts = int(rows[-1]) + 1
    if base**order * texts >= 2**63:
        raise ValueError(f"{texts} texts are too many at once.")
    keys = np.zeros(count, np.int64)
    known = rows[:count] == rows[order - 1 :]
    for offset in range(order):
        digit = ids[offset : offset + count]
        keys = keys * base + digit
        known &= digit > 0
    pairs = np.unique(keys[known] * texts + rows[:count][known])
    return pairs % texts, pairs // texts


def find(keys, table):
    """Where each of `keys` stands in the sorted array `table`: (positions, found), each (K,)."""
    positions = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return positions, table[positions] == keys


def text_statistics(ids, rows, texts, stop, base, tables):
    """What tells text from a list of words.

    Args:
        ids, rows: from `encode`.
        texts: number N of texts.
        stop: the id of the end of a sentence, over which no pair or triple goes.
        base: see `ngrams`.
        tables: the sorted keys of the known pairs, and of the known triples.

    Returns:
        (N, 4) logarithms of shares: the different known pairs, and the different known triples, of
        the places within sentences where one could stand; and of the words, the different ones and
        the known ones. Short texts are drawn towards one eighth and one half: where no words stand
        side by side, nothing speaks for a text. A sum of logarithms needs all shares to be high.
    """
    is_word = ids != stop
    words = np.where(is_word, ids, 0)
    columns = []
    for order, table in zip((2, 3), tables):
        at, keys = ngrams(words, rows, base, order)
        seen = np.bincount(at[find(keys, table)[1]], minlength=texts)
        columns.append((seen + 0.25) / (places(is_word, rows, order, texts) + 2))
    count = places(is_word, rows, 1, texts)
    known = np.bincount(rows[words > 0], minlength=texts)
    different = np.bincount(ngrams(words, rows, base, 1)[0], minlength=texts)
    columns += [(different + count - known + 1) / (count + 2), (known + 1) / (count + 2)]
    return np.log(np.stack(columns, 1))


def places(is_word, rows, order, texts):
    """How often `order` words stand side by side in one sentence of each text, (N,).

    >>> places(np.array([True, True, False, True]), np.zeros(4, int), 2, texts=1)
    array([1])
    """
    count = max(len(rows) - order + 1, 0)
    inside = rows[:count] == rows[len(rows) - count :]
    for offset in range(order):
        inside &= is_word[offset : offset + count]
    return np.bincount(rows[:count][inside], minlength=texts)


def sigmoid(x):
    """1 / (1 + exp(−x)), without overflow."""
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


class NgramJudge:
    """The judge in a folder, callable(texts) -> list of floats in [0, 1]; 0.5 is neutral."""

    def __init__(self, folder=FOLDER):
        """Load it.

        Raises:
            UserError: there is none, or the file is damaged.
        """
        try:
            with np.load(Path(folder) / FILE, allow_pickle=False) as file:
                words = bytes(file["words"]).decode().split("\n")
                self.features = np.cumsum(file["feature_gaps"])
                self.weights = file["weights"] * file["scale"]
                self.tables = np.cumsum(file["pair_gaps"]), np.cumsum(file["triple_gaps"])
                self.text_weights = file["text_weights"]
                self.text_bias = float(file["text_bias"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"The judge in {folder} cannot be read; `git checkout tiny` brings it back, and "
                "--judge vader does without it."
            ) from error
        self.words = {word: number for number, word in enumerate(words, 1)}
        self.base = len(words) + 1

    def __call__(self, texts: list[str]) -> list[float]:
        """The scores of N texts."""
        positive, is_text = self.answers(texts)
        return (0.5 + is_text * (positive - 0.5)).tolist()

    def answers(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The two answers about N texts: P(positive) and P(text), each (N,)."""
        ids, rows = encode([tokens(text) for text in texts], self.words)
        return self._positive(ids, rows, len(texts)), self._is_text(ids, rows, len(texts))

    def _positive(self, ids, rows, texts):
        total = np.zeros(texts)
        present = np.zeros(texts)
        for order in ORDERS:
            at, keys = ngrams(ids, rows, self.base, order)
            positions, found = find(keys, self.features)
            total += np.bincount(at[found], self.weights[positions[found]], minlength=texts)
            present += np.bincount(at[found], minlength=texts)
        return sigmoid(total / np.sqrt(np.maximum(present, 1)))

    def _is_text(self, ids, rows, texts):
        stop = self.words.get(STOP, 0)
        shares = text_statistics(ids, rows, texts, stop=stop, base=self.base, tables=self.tables)
        enough = np.bincount(rows[ids != stop], minlength=texts) >= MIN_WORDS
        return enough * sigmoid(shares @ self.text_weights + self.text_bias)
