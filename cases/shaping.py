"""Exercises 1, 2a, 2b and the bonus: functions of the score and the text."""

import torch

from cases.asking import Finding, Mistake, close, compare, show
from sentiment import get_sentiment_scores

WORDS = (
    "film story actor scene music plot good bad great terrible boring wonderful slow funny never "
    "always it the a and was is of not I loved hated again unforgettable disappointing"
).split()


def write_texts(rng, count):
    """Completions of two to fourteen words. Another seed, other texts: nobody can learn them."""
    texts = [rng.choices(WORDS, k=rng.randint(2, 14)) for _ in range(count)]
    return [f" {' '.join(words)}." for words in texts]


# Exercise 1 and 2a: functions of the score.


def equals_the_score(ask, rng):
    """the reward of a text is its sentiment score."""
    texts = write_texts(rng, 3)
    want = torch.tensor(get_sentiment_scores(texts))
    got = ask(completions=texts)
    mistakes = [Mistake("the sign", -want)]
    return compare(got, want, "get_sentiment_scores", mistakes, tolerance=1e-5)


def is_exponential_in_the_score(ask, rng):
    """the reward is exp(score / temperature) − 1."""
    texts = [*write_texts(rng, 3), ""]
    scores = torch.tensor(get_sentiment_scores(texts), dtype=torch.float64)
    for temperature in (None, 0.5, 2.0):
        tau = temperature or 1.0
        got = ask(completions=texts, **({"temperature": temperature} if temperature else {}))
        mistakes = [
            Mistake("the temperature: it is ignored", scores.exp() - 1),
            Mistake("the − 1: the worst text must earn 0", (scores / tau).exp()),
            Mistake("the temperature: divide the score by it", (scores * tau).exp() - 1),
            Mistake("the order: divide inside exp(), not outside", (scores.exp() - 1) / tau),
            Mistake(
                "the exponential: this is linear, no shaping at all where no penalty is paid",
                scores,
            ),
            Mistake("the sign in exp(): better texts must earn more", (-scores / tau).exp() - 1),
        ]
        want = (scores / tau).exp() - 1
        meaning = f"scores {show(scores)}, temperature {tau}"
        if finding := compare(got, want, meaning, mistakes, tolerance=1e-5):
            return finding
    return None


# Exercise 2b and the bonus: open-ended rewards.

PLAIN = " a quiet story about two people who meet again in a small town by the sea."
TEXTS = (
    PLAIN,
    " great great great great great great great great great great great great great great.",
    " good.",
    " I laughed, I cried, and when the lights went on nobody wanted to leave the cinema at all.",
)


def gives_a_number_for_each_text(ask, rng):
    """one finite number for each text, the empty one included."""
    texts = ["", " ", " fine.", *write_texts(rng, 1)]
    if ask.name == "shaped_reward":
        ask(scores=[0.1, 0.2, 0.5, 0.9], completions=texts)
        ask(scores=[0.5], completions=[""], prompts=["This movie was"])
    else:
        ask(completions=texts)
        ask(completions=[""])


def pays_for_sentiment(ask, rng):
    """of two texts of equal quality, the one with the better score earns more."""
    scores = [0.1 + 0.2 * i + rng.uniform(-0.05, 0.05) for i in range(5)]
    got = ask(scores=scores, completions=[PLAIN] * 5, prompts=["It is"] * 5)
    if (got.diff() > 0).all():
        return None
    if (got == got[0]).all():
        cause = "the score: it does not enter"
    elif (got.diff() < 0).all():
        cause = "the sign of the score"
    elif (got.diff() >= 0).all():
        cause = "the steps: different scores earn the same, so GRPO sees no difference there"
    else:
        cause = "the order: some better score earns less"
    return Finding("numbers that rise with the score", cause)


def does_not_pay_for_repetition(ask, rng):
    """of two texts with equal scores, the repetitive one earns no more."""
    word = rng.choice(["great", "wonderful", "excellent"])
    for copies in (len(PLAIN.split()), 40):
        repetitive = " " + " ".join([word] * copies) + "."
        got = ask(scores=[0.9, 0.9], completions=[PLAIN, repetitive])
        if got[1] > got[0] + 1e-9:
            return Finding("second ≤ first", "what grows with repetition: the length, perhaps")
    return None


def teaches_more_than_the_score(ask, rng):
    """GRPO must be able to tell it from the plain score."""
    scores = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    got = ask(scores=scores.tolist(), completions=list(TEXTS), prompts=["It is"] * 4)
    ours, plain = ((x - x.mean()) / (x.std() + 1e-12) for x in (got, scores))
    if not close(ours, plain):
        return None
    return Finding(
        "advantages other than those of the score",
        "the shape: this is scale · score + shift, which the group undoes (without a penalty); "
        "let the text matter, or bend the curve",
    )
