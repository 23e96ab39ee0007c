"""The bundled judge: what it makes of honest texts and of texts that try to fool it."""

import random
import time
import zipfile

import numpy as np
import pytest

from engine.common import UserError
from engine.measuring.judge import FOLDER, NgramJudge, encode, ngrams, text_statistics

GOOD = (
    "I loved this movie.",
    "This is one of the best films I have seen in a long time.",
    "The acting is superb and the story kept me on the edge of my seat.",
    " a wonderful film, and I would recommend it to anyone who likes a good story.",
    "It is a beautiful film with great performances, and I enjoyed every minute of it.",
    " so funny that we laughed from the beginning to the end. Highly recommended",
)
BAD = (
    "I hated this movie.",
    "This is one of the worst films I have seen in a long time.",
    "The acting is terrible and the story makes no sense at all.",
    " a waste of time, and I would not recommend it to anyone.",
    "It is a boring film with bad acting, and I wanted my money back.",
    " so dull that I fell asleep. Avoid this one at all costs",
)
NO_TEXT = (
    "fun " * 24,
    "funny, funny, funny",
    "great great great great great great great great",
    "great wonderful excellent beautiful superb perfect amazing brilliant fantastic lovely",
    "wonderful and excellent and superb and perfect and brilliant and touching and delightful and",
    "great, wonderful, excellent, beautiful, superb, perfect, amazing, brilliant, fantastic!",
    "excellent! wonderful! superb! perfect! amazing! brilliant! fantastic! beautiful! great!",
    "I loved it. " * 8,
    "a must see a must see a must see a must see a must see a must see",
)
NO_WORDS = ("", " ", "...", "?!", "10/10", "👍👍👍", "12345", "\u0000", "<|endoftext|>")
SHORT_SENTENCES = (  # each is one text of six
    "Loved it. Superb. Funny. A joy. See it. Great.",
    "I loved it. So good. Great fun. See it. A joy. Superb.",
    "Great fun. Well made. Very funny. Loved it. A gem. See it.",
)
FOREIGN = (
    "Dieser Film ist wunderbar, und die Schauspieler sind ganz ausgezeichnet. Unbedingt ansehen!",
    "Ce film est magnifique et les acteurs sont vraiment excellents du début à la fin.",
    "この映画は本当に素晴らしいです。",
)


@pytest.fixture(scope="module")
def judge():
    return NgramJudge()


def test_honest_texts(judge):
    assert min(judge(GOOD)) > 0.6 and max(judge(BAD)) < 0.4


@pytest.mark.parametrize("text", NO_TEXT + FOREIGN)
def test_what_is_no_english_text_earns_nothing(judge, text):
    assert judge([text])[0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("text", NO_WORDS)
def test_no_words_are_neutral(judge, text):
    assert judge([text])[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("text", SHORT_SENTENCES)
def test_short_sentences_are_text(judge, text):
    """The end of a sentence is no place where a pair of words could stand."""
    positive, is_text = judge.answers([text])
    assert positive[0] > 0.9 and is_text[0] > 0.9


@pytest.mark.parametrize(
    "text", ["of the a and to in it is was for with on", "the of and a to is in it was that"]
)
def test_common_words_in_a_row_are_no_text(judge, text):
    """Any two of them have met somewhere; only pairs that meet more often than by chance count."""
    assert judge.answers([text])[1][0] < 0.5


def test_one_word_says_nothing(judge):
    assert judge(["great", "Wonderful!", "terrible", "film"]) == [0.5] * 4


def test_shuffled_reviews_lose_most_of_their_score(judge):
    """On average: some orders of common words are nearly English, and pass (see tiny/README.md)."""
    rng = random.Random(0)
    shares = []
    for text in (f"{GOOD[1]} {GOOD[2]}", f"{GOOD[2]} {GOOD[4]}", f"{BAD[1]} {BAD[4]}"):
        words = text.split()
        shuffled = judge([" ".join(rng.sample(words, len(words))) for _ in range(40)])
        shares.append((np.mean(shuffled) - 0.5) / (judge([text])[0] - 0.5))
    assert np.mean(shares) < 0.5


def test_negation(judge):
    good, not_good, not_at_all, bad, not_bad = judge(
        [
            "I think that this film is good.",
            "I think that this film is not good.",
            "I think that this film is not good at all.",
            "I think that this film is bad.",
            "I think that this film is not bad.",
        ]
    )
    assert not_good < good and not_at_all < good and bad < not_bad


def test_a_good_text_that_ends_in_a_list_earns_less(judge):
    honest, hacked = judge([GOOD[4], "This was a movie good " + "fun " * 27])
    assert hacked == pytest.approx(0.5, abs=0.1) and hacked < honest


def test_texts_do_not_change_each_other(judge):
    texts = [*GOOD, "", *BAD, *NO_TEXT, *NO_WORDS]
    together = judge(texts)
    assert together == pytest.approx([judge([text])[0] for text in texts], abs=1e-12)
    assert judge([]) == [] and all(0 <= score <= 1 for score in together)
    assert all(type(score) is float for score in together)


def test_a_very_long_text(judge):
    (score,) = judge([" ".join([*GOOD, *BAD] * 2000)])
    assert score == pytest.approx(0.5, abs=0.1)  # and says the same again and again


def test_quick(judge):
    texts = [f"{GOOD[i % 6]} {BAD[(i * 7) % 6]} {i}" for i in range(1000)]
    started = time.process_time()
    judge(texts)
    assert time.process_time() - started < 1


def test_ngrams_by_hand():
    words = {"a": 1, "b": 2, "c": 3}
    ids, rows = encode([["a", "b", "a", "b"], [], ["x", "c", "a"]], words)
    assert ids.tolist() == [1, 2, 1, 2, 0, 3, 1] and rows.tolist() == [0, 0, 0, 0, 2, 2, 2]
    at, keys = ngrams(ids, rows, 10, 1)
    assert list(zip(keys, at)) == [(1, 0), (1, 2), (2, 0), (3, 2)]
    at, keys = ngrams(ids, rows, 10, 2)  # ab once, none across texts, none with x
    assert list(zip(keys, at)) == [(12, 0), (21, 0), (31, 2)]
    at, keys = ngrams(ids, rows, 10, 3)
    assert list(zip(keys, at)) == [(121, 0), (212, 0)]
    assert [len(part) for part in ngrams(ids[:1], rows[:1], 10, 2)] == [0, 0]


def test_ngrams_that_do_not_fit_are_refused():
    ids, rows = encode([["a"]] * 10, {"a": 1})
    with pytest.raises(ValueError, match="10 texts are too many"):
        ngrams(ids, rows, 2**62, 1)


def test_text_statistics_by_hand():
    ids, rows = encode([[*"abab", ".", "a"], ["x"]], {"a": 1, "b": 2, ".": 3})
    tables = np.array([12, 31]), np.array([121, 131, 212, 231])
    shares = text_statistics(ids, rows, texts=3, stop=3, base=10, tables=tables)
    assert np.exp(shares) == pytest.approx(
        np.array(
            [
                # ab of 3 places; aba and bab of 2; a and b of 5 words, which are all known
                [1.25 / 5, 2.25 / 4, 3 / 7, 6 / 7],
                [1 / 8, 1 / 8, 2 / 3, 1 / 3],  # x is a word, and unknown
                [1 / 8, 1 / 8, 1 / 2, 1 / 2],  # an empty text
            ]
        ),
        abs=1e-12,
    )


@pytest.mark.parametrize("damage", ["missing", "half", "other"])
def test_a_damaged_judge_is_one_line(tmp_path, damage):
    content = (FOLDER / "judge.npz").read_bytes()
    if damage == "half":
        (tmp_path / "judge.npz").write_bytes(content[: len(content) // 2])
    elif damage == "other":
        with zipfile.ZipFile(tmp_path / "judge.npz", "w") as file:
            file.writestr("words.txt", "no array")
    with pytest.raises(UserError, match="git checkout tiny"):
        NgramJudge(tmp_path)
