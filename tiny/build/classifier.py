"""The sentiment classifier from beginning to end."""

import random
import time

import torch

from tiny.build.examples import Corpora, Examples
from tiny.build.rules import SEED
from tiny.build.saving import save_half
from tiny.build.student import new_student, train_student
from tiny.build.teachers import ask_teachers
from tiny.build.tokenizer_training import encode, train_wordpiece
from tiny.build.training import accuracy
from tiny.build.word_vectors import embeddings, polarities, word_vectors


def learn_words(corpora, tokenizer):
    """Word vectors, (V, 256), and polarities, (V,), of all pieces."""
    texts = corpora.reviews + corpora.sentences
    pieces = [ids[1:-1] for ids in encode(tokenizer, texts, limit=None)]  # no [CLS], no [SEP]
    vectors = word_vectors(pieces, len(tokenizer), 256)
    ratings = [row["rating"] for row in corpora.rated]
    return vectors, polarities(pieces[: len(ratings)], ratings, len(tokenizer))


def build_sentiment(corpus, out, segments, teachers):
    """Recurrent teachers learn SST-5 on word vectors from IMDb; a small BERT learns from them.

    After the 7,400 sentences of SST-5, a small BERT knows too few words, and longer training only
    teaches it these sentences by heart. The teachers need fewer examples, and they can label as
    many sentences of reviews as one likes. The development sentences are in no training set.

    Args:
        corpus: folder with the corpora.
        out: folder for the finished model.
        segments: number of segments of reviews that the teachers label.
        teachers: number of teachers; each is trained in a process of its own.
    """
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    started = time.time()
    corpora = Corpora(corpus)
    tokenizer = train_wordpiece(corpora.reviews[:30000] + corpora.sentences * 5)
    vectors, polarity = learn_words(corpora, tokenizer)
    examples = Examples(corpora, tokenizer, segments, rng)
    print(
        f"{len(corpora.sst)} phrases, {len(corpora.sentences)} of them sentences; "
        f"{len(examples.ratings)} rated windows; "
        f"{len(examples.ids) - len(examples.labels)} segments; {time.time() - started:.0f} s",
        flush=True,
    )
    table = embeddings(vectors, polarity, 256, 0.25)
    probs, dev_probs = ask_teachers(examples, table, teachers)
    five, two = accuracy(dev_probs, examples.dev_stars)
    print(f"all teachers: five classes {five:.2%}, binary {two:.2%}; {time.time() - started:.0f} s")

    student = new_student(tokenizer, vectors, polarity)
    student = train_student(student, tokenizer, examples, probs, rng)
    save_half(student, tokenizer, out)
    print(f"{time.time() - started:.0f} s")
