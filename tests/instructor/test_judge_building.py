"""How the judge is built: whose ratings, which sentences, and the same bytes again."""

import contextlib
import gzip
import io
import json
import random
import re

import numpy as np
import pytest

from engine.common import UserError
from engine.measuring.judge import FILE, NgramJudge, tokens
from tiny.build import judge as building
from tiny.build.judge_report import accuracy, partial_correlation
from tiny.build.rules import negations
from tiny.build.stated_ratings import stated_rating, unseen_reviews, without_rating
from tiny.build.texts import placed_segments, review_segments

LIKES = "I loved this film. The story was great and the acting was superb. A good film to see."
HATES = "I hated this film. The story was awful and the acting was terrible. A bad film to see."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Made-up reviews in the form of the corpora: two of five state their rating, so that both
    halves of these have good ones and bad ones."""
    folder = tmp_path_factory.mktemp("corpus")

    def review(number):
        sentences = (LIKES, HATES)[number % 2].split(". ")
        random.Random(number).shuffle(sentences)
        text = f"Film number {number} of them all. " + ". ".join(sentences * 2) + "."
        return text + f" I give it {(9, 2)[number % 2]}/10." * (number % 5 < 2)

    files = {
        "imdb-train": [{"text": review(i), "rating": (9, 2)[i % 2]} for i in range(40)],
        "imdb-unsupervised": [{"text": review(i)} for i in range(20, 500)],
        "sst5-dev": [
            {"text": "A good film .", "stars": 4, "sentence": True},
            {"text": "A bad film .", "stars": 2, "sentence": True},
        ],
    }
    for name, rows in files.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A gem. 10/10", 1),
        ("8.5 out of 10 stars!", 1),
        ("Seven out of ten.", 1),
        ("4/5", 1),
        ("3 stars out of 4", 1),
        ("I rate it a nine, because of her.", 1),
        ("I give this movie a solid 8.", 1),
        ("1/10", 0),
        ("zero out of ten", 0),
        ("I gave it a 2 because", 0),
        ("2 / 5", 0),
        ("6/10", 0.5),
        ("9/11 was a Tuesday", None),
        ("12/10", None),
        ("on 8/10/2004", None),
        ("5/1000", None),
        ("It gets a 20.", None),
        ("I give it a chance", None),
        ("2 of 5 people", None),
        ("9/10 for her, 2/10 for the rest", None),
        ("", None),
    ],
)
def test_stated_ratings(text, expected):
    assert stated_rating(text) == expected


def test_the_rating_itself_is_taken_out():
    assert (
        without_rating("Good. 8 out of 10 stars. I give it an 8.").split() == "Good. . I .".split()
    )


def test_known_pairs_are_more_common_than_by_chance():
    """Of 252 tokens, 84 are a, 48 b and 80 c. "a b" would stand 16 times by chance, and stands in
    44 texts; "c a" 27 times, and 40 texts are not twice as many."""
    texts = [["a", "b", ".", "c"]] * 40 + [["c", "a"]] * 40 + [["b", "a", "b"]] * 4
    vocabulary = building.Vocabulary(texts)
    a, b, c = (vocabulary.words[word] for word in "abc")
    base = vocabulary.base
    pairs, triples = vocabulary.known_ngrams(texts, (3, 3))
    count = sum(map(len, texts))
    frequency = {word: sum(text.count(word) for text in texts) for word in "abc"}
    want = []
    for (x, y), found in {("a", "b"): 44, ("c", "a"): 40, ("b", "a"): 4}.items():
        if found >= 2 * frequency[x] * frequency[y] / count:
            want.append(vocabulary.words[x] * base + vocabulary.words[y])
    assert pairs.tolist() == sorted(want) == [a * base + b]
    assert c * base + a not in pairs and triples.tolist() == []  # "b a b" holds an unknown pair
    pairs, triples = vocabulary.known_ngrams([["a", "b", "c"]] * 5 + [["d"] * 40] * 5, (5, 5))
    assert len(pairs) == 2 and len(triples) == 1
    assert vocabulary.known_ngrams([["a", "b", "c"]] * 5, (6, 5))[0].tolist() == []


def test_segments_keep_their_places():
    texts = ["One two three four. Five six seven eight nine.", "Short. This one is long enough."]
    placed = placed_segments(texts, 10, random.Random(3))
    assert [segment.text for segment in placed] == review_segments(texts, 10, random.Random(3))
    sentences = [re.split(r"(?<=\.) ", text) for text in texts]
    assert len(placed) == 3
    for text, review, sentence in placed:
        assert text in sentences[review][sentence]


def test_no_sentence_that_the_reward_model_learned_from(corpus):
    """An independent look: every labelled segment is found in no text of the judge."""
    from tiny.build.examples import Corpora

    (corpus / "sst5-train.jsonl.gz").write_bytes(gzip.compress(b""))
    rng = random.Random(0)
    count = 1500
    negations(rng, 4000)
    labelled = review_segments(Corpora(corpus).reviews, count, rng)
    texts, ratings = unseen_reviews(corpus, count)
    assert len(texts) == len(ratings) == 480 - 20  # twenty are among the rated reviews
    numbered = [s for s in labelled if s.startswith("Film number") and s.endswith("all.")]
    rated = {f"Film number {i} of them all." for i in range(40)}
    learned = set(numbered) - rated
    left = {text.partition(" of them all.")[0] + " of them all." for text in texts}
    assert len(learned) > 50 and not learned & left
    assert {r for r in ratings if r is not None} == {0.0, 1.0}
    assert not any("/10" in text for text in texts)


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    """(the folder of a judge, the lines that its building printed)."""
    folder = tmp_path_factory.mktemp("judge")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        building.build_judge(corpus, folder, minimum=(5, 5, 5), labelled_segments=1500)
    return folder, printed.getvalue().splitlines()


def test_a_judge_of_made_up_reviews(built):
    folder, printed = built
    good, bad = NgramJudge(folder)([LIKES, HATES])
    assert good > 0.7 and bad < 0.3
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert any("of the other half" in line for line in printed)
    assert "40 openings of rated reviews, 2 polar sentences of SST-5 dev" in printed
    (judge,) = [line.split() for line in printed if line.startswith("judge ")]
    assert float(judge[1].rstrip("%")) > 90


def test_the_same_bytes_again(built, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "report_judge", lambda corpus, out: None)
    building.build_judge(corpus, tmp_path, minimum=(5, 5, 5), labelled_segments=1500)
    assert (tmp_path / FILE).read_bytes() == (built[0] / FILE).read_bytes()


def test_too_small_a_corpus_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="too small"):
        building.build_judge(corpus, tmp_path)


def test_made_up_texts_keep_their_length():
    rng = np.random.default_rng(0)
    text = tokens("This is a text of some length, is it not.")
    for _ in range(50):
        fake = building.made_up(text, ["good", "bad"], rng)
        assert len(fake) == len(text) and set(fake) <= {*text, "good", "bad", "and", "very", "."}


def test_accuracy_by_hand():
    scores = np.array([0.9, 0.5, 0.4, 0.6])
    good = np.array([True, True, False, False])
    assert accuracy(scores, good) == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_partial_correlation_by_hand():
    given = np.array([0.0, 0.0, 1.0, 1.0])
    a = given + [1, -1, 1, -1]
    b = 5 * given + [1, -1, 1, -1]
    assert partial_correlation(a, b, given) == pytest.approx(1)
    assert partial_correlation(a, given + [1, -1, -1, 1], given) == pytest.approx(0, abs=1e-12)
