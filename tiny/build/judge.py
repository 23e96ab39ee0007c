"""Train the judge of `engine/measuring/judge.py`: n-grams, and a check that a text is text."""

import collections
import time
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse

from engine.common import UserError, whole_file
from engine.measuring.judge import FILE, ORDERS, STOP, encode, find, ngrams, text_statistics, tokens
from tiny.build.judge_report import report_judge
from tiny.build.stated_ratings import unseen_reviews

VOCABULARY = 20_000  # words
SEGMENT = (5, 45)  # tokens in a segment, from and below: completions have about 25 words
CHANCE = 2  # times as often as in shuffled words: pairs that are rarer count as unknown
LONG = 15  # tokens; from here on a segment shows whether it is text


class Vocabulary:
    """The words and n-grams of a collection of texts that occur in enough of them."""

    def __init__(self, texts):
        """`texts`: list of lists of tokens."""
        counts = collections.Counter(token for text in texts for token in set(text))
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        self.words = {token: number for number, token in enumerate(ranked[:VOCABULARY], 1)}
        self.base = len(self.words) + 1
        self.stop = self.words.get(STOP, 0)

    def common_ngrams(self, texts, order, minimum):
        """The n-grams that occur in at least `minimum` of the texts, sorted."""
        _, keys = ngrams(*encode(texts, self.words), self.base, order)
        different, counts = np.unique(keys, return_counts=True)
        return different[counts >= minimum]

    def known_ngrams(self, texts, minimum):
        """Pairs and triples that English puts side by side: two sorted arrays of keys.

        A pair of common words meets by chance too, over a comma or in a slip: "the and". It counts
        only if at least CHANCE times as many texts have it as there would be places with it if all
        words were shuffled, and a triple only if both its pairs do. None goes over the end of a
        sentence.

        Args:
            minimum: texts in which a pair, and a triple, must occur.
        """
        ids, rows = encode(texts, self.words)
        ids[ids == self.stop] = 0
        frequency = np.bincount(ids, minlength=self.base)
        _, keys = ngrams(ids, rows, self.base, 2)
        pairs, counts = np.unique(keys, return_counts=True)
        by_chance = frequency[pairs // self.base] * frequency[pairs % self.base] / len(ids)
        pairs = pairs[(counts >= minimum[0]) & (counts >= CHANCE * by_chance)]
        _, keys = ngrams(ids, rows, self.base, 3)
        triples, counts = np.unique(keys, return_counts=True)
        triples = triples[counts >= minimum[1]]
        known = np.isin(triples // self.base, pairs) & np.isin(triples % self.base**2, pairs)
        return pairs, triples[known]

    def matrix(self, texts, features):
        """Which features each text has: a sparse (texts, features) matrix with rows of length 1."""
        rows = []
        columns = []
        ids = encode(texts, self.words)
        for order in ORDERS:
            at, keys = ngrams(*ids, self.base, order)
            positions, found = find(keys, features)
            rows.append(at[found])
            columns.append(positions[found])
        rows = np.concatenate(rows)
        columns = np.concatenate(columns)
        values = 1 / np.sqrt(np.maximum(np.bincount(rows, minlength=len(texts)), 1))
        shape = len(texts), len(features)
        return scipy.sparse.csr_matrix((values[rows].astype("f4"), (rows, columns)), shape)


def fit_logistic(x, targets, penalty):
    """Weights of a logistic regression without intercept, (F,).

    Both sides get the same total weight. A feature is first multiplied by how much more often it
    occurs on one side (Wang & Manning 2012); that is part of the weights that are returned.

    Args:
        x: sparse (N, F).
        targets: (N,), probabilities of the positive side.
        penalty: of the squared weights.
    """
    share = targets.mean()
    weight = (targets * 0.5 / share + (1 - targets) * 0.5 / (1 - share)) / len(targets)
    good = x.T @ (weight * targets)
    bad = x.T @ (weight * (1 - targets))
    smooth = (good + bad).mean() / 10
    share_of_good = (good + smooth) / (good + smooth).sum()
    share_of_bad = (bad + smooth) / (bad + smooth).sum()
    scale = np.log(share_of_good / share_of_bad)
    scaled = (x @ scipy.sparse.diags(scale)).tocsr()
    transposed = scaled.T.tocsr()

    def loss(w):
        logits = scaled @ w
        value = weight @ (np.logaddexp(0, logits) - targets * logits)
        slope = weight * (1 / (1 + np.exp(-logits)) - targets)
        return value + penalty / 2 * w @ w, transposed @ slope + penalty * w

    found = scipy.optimize.minimize(
        loss, np.zeros(x.shape[1]), jac=True, options={"maxiter": 60}, method="L-BFGS-B"
    )
    return found.x * scale


def soft_labels(x, ratings):
    """P(good review) of all reviews, (N,), learned from those that state their rating.

    Two halves judge each other, so that the probabilities are as sure as they deserve; a review
    that states its rating keeps it.

    Args:
        x: from `Vocabulary.matrix`, whole reviews.
        ratings: (N,) with NaN where nothing is stated.
    """
    penalty = 3e-5
    clear = np.flatnonzero((ratings == 0) | (ratings == 1))
    even = clear[::2]
    odd = clear[1::2]
    logits = np.zeros(len(ratings))
    logits[odd] = x[odd] @ fit_logistic(x[even], ratings[even], penalty)
    logits[even] = x[even] @ fit_logistic(x[odd], ratings[odd], penalty)

    def loss(stretch):
        return np.mean(np.logaddexp(0, -stretch * (2 * ratings[clear] - 1) * logits[clear]))

    stretch = scipy.optimize.minimize_scalar(loss, bounds=(0.1, 20), method="bounded").x
    right = np.mean((logits[clear] > 0) == (ratings[clear] == 1))
    print(f"half of the stated ratings tells {right:.1%} of the other half; × {stretch:.2f}")
    labels = 1 / (1 + np.exp(-stretch * (x @ fit_logistic(x[clear], ratings[clear], penalty))))
    return np.where(np.isnan(ratings), labels, np.clip(ratings, 0.03, 0.97))


def segments_of(texts, labels, rng):
    """The texts cut into segments of random length, and the label of each one's text."""
    pieces = []
    values = []
    for text, label in zip(texts, labels):
        start = 0
        while start < len(text):
            end = start + int(rng.integers(*SEGMENT))
            pieces.append(text[start:end])
            values.append(label)
            start = end
    return pieces, np.array(values)


def made_up(text, polar, rng):
    """No text: shuffled words, a repeated phrase, or a list of strong words; or text that ends so.

    Args:
        text: list of tokens.
        polar: list of words that speak for or against a film.
    """
    kind = rng.choice(["shuffled", "shuffled", "repeated", "list"])
    length = len(text)
    if kind == "shuffled":
        result = [text[i] for i in rng.permutation(length)]
    elif kind == "repeated":
        phrase = text[: rng.integers(1, 6)]
        result = (phrase * length)[:length]
    else:
        chosen = [polar[i] for i in rng.integers(len(polar), size=length)]
        glue = [[], ["and"], ["very"], ["."]][rng.integers(4)]
        result = [token for word in chosen for token in (word, *glue)][:length]
    keep = rng.integers(length // 3 + 1)
    return text[:keep] + result[keep:]


def fit_text_check(texts, vocabulary, tables, polar, rng):
    """Weights (4,) and bias of the check for text, from real segments and `made_up` ones."""
    texts = [text for text in texts if len(text) >= LONG]
    fakes = [made_up(text, polar, rng) for text in texts]
    both = texts + fakes
    ids, rows = encode(both, vocabulary.words)
    x = text_statistics(ids, rows, len(both), vocabulary.stop, vocabulary.base, tables)
    targets = np.repeat([1.0, 0.0], [len(texts), len(fakes)])
    x = np.column_stack([x, np.ones(len(x))])

    def loss(w):
        logits = x @ w
        slope = (1 / (1 + np.exp(-logits)) - targets) / len(targets)
        return np.mean(np.logaddexp(0, logits) - targets * logits), x.T @ slope

    w = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    right = np.mean((x @ w > 0) == (targets == 1))
    print(f"text check: {right:.1%} right; weights {np.round(w, 1).tolist()}", flush=True)
    return w[:-1], w[-1]


def save(out, vocabulary, features, weights, tables, text_check):
    """Write the judge: sorted keys as their differences, weights in 8 bits."""
    scale = np.abs(weights).max() / 127
    rounded = np.round(weights / scale).astype(np.int8)
    kept = np.flatnonzero(rounded)

    def gaps(keys):
        return np.diff(keys, prepend=0)

    arrays = {
        "words": np.frombuffer("\n".join(vocabulary.words).encode(), dtype=np.uint8),
        "feature_gaps": gaps(features[kept]),
        "weights": rounded[kept],
        "scale": np.float64(scale),
        "pair_gaps": gaps(tables[0]),
        "triple_gaps": gaps(tables[1]),
        "text_weights": text_check[0],
        "text_bias": np.float64(text_check[1]),
    }
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / FILE) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    size = (out / FILE).stat().st_size / 1e6
    print(f"{len(kept)} n-grams, {len(tables[0])} pairs, {len(tables[1])} triples; {size:.2f} MB")


def build_judge(corpus, out, minimum=(20, 5, 8), labelled_segments=300_000):
    """The judge from beginning to end.

    Args:
        corpus: folder with the corpora.
        out: folder for the judge.
        minimum: reviews in which a feature, a known pair and a known triple must occur.
        labelled_segments: see `unseen_reviews`.

    Raises:
        UserError: the corpus is too small.
    """
    started = time.time()
    rng = np.random.default_rng(0)
    out = Path(out)
    texts, ratings = unseen_reviews(corpus, labelled_segments)
    texts = [tokens(text) for text in texts]
    ratings = np.array([np.nan if rating is None else rating for rating in ratings])
    stated = {value: int((ratings == value).sum()) for value in (1, 0, 0.5)}
    print(
        f"{len(texts)} reviews, stated ratings {stated}; {time.time() - started:.0f} s", flush=True
    )

    vocabulary = Vocabulary(texts)
    features = [vocabulary.common_ngrams(texts, order, minimum[0]) for order in ORDERS]
    if not len(features[0]):
        raise UserError("The corpus is too small: no word is common in what the judge may read.")
    features = np.concatenate(features)  # sorted: longer n-grams are larger numbers
    labels = soft_labels(vocabulary.matrix(texts, features), ratings)
    print(f"labels of reviews; {time.time() - started:.0f} s", flush=True)

    pieces, targets = segments_of(texts, labels, rng)
    weights = fit_logistic(vocabulary.matrix(pieces, features), targets, 1e-6)
    single = np.flatnonzero(features < vocabulary.base)
    names = list(vocabulary.words)
    ranked = [names[features[i] - 1] for i in single[np.argsort(weights[single])]]
    print("worst:", *ranked[:12], "best:", *ranked[-12:], flush=True)

    # The last tenth of the reviews shows what text looks like; the others make the known n-grams.
    border = len(texts) * 9 // 10
    tables = vocabulary.known_ngrams(texts[:border], minimum[1:])
    real, _ = segments_of(texts[border:], labels[border:], rng)
    polar = ranked[:150] + ranked[-150:]
    text_check = fit_text_check(real, vocabulary, tables, polar, rng)
    save(out, vocabulary, features, weights, tables, text_check)
    print(f"{time.time() - started:.0f} s", flush=True)
    report_judge(corpus, out)
