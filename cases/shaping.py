"""Exercises 1, 2a, 2b and the bonus: functions of the score and the text."""

import math

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
        otherwise = "the exponential: of each score, in base e, nothing taken off, nothing rounded"
        if finding := compare(got, want, meaning, mistakes, 1e-5, otherwise):
            return finding
    for tau in (0.02, 50.0):
        got = ask(completions=texts, temperature=tau)
        want = (scores / tau).exp() - 1
        if not close(got / want, torch.ones(len(texts)), 1e-3):
            cause = "the limits: cut off neither the temperature nor the reward"
            return Finding(f"{show(want)}: scores {show(scores)}, temperature {tau}", cause)
    return None


LONG_TEXT = (
    " At first I hated it, it was slow and boring and the actors were terrible, and my friends and "
    "I were about to leave. But then it became a wonderful film with great music, and I loved it!"
)
CALLS = 64  # about as many as a run of the smallest preset makes


def scores_the_completion_alone(ask, rng):
    """training passes the prompts too: only the completion counts, whole, at every call alike."""
    texts = [LONG_TEXT, " a slow and boring film.", " great actors, and the music too."]
    prompts = ["I loved this wonderful film and", "It was terrible and boring, and", "It is"]
    alone = ask(completions=texts, temperature=0.5)
    got = ask(completions=texts, temperature=0.5, prompts=prompts)
    if not close(got, alone, 1e-5):
        return Finding(show(alone), "the prompt: score the completion alone")
    right = [close(got[i], math.expm1(2 * s)) for i, s in enumerate(get_sentiment_scores(texts))]
    if right == [False, True, True]:
        return Finding("another number for the first", "the length: score the whole text")
    first = ask(completions=[" good."], temperature=0.5, prompts=["It is"])
    for _ in range(CALLS):
        again = ask(completions=[" good."], temperature=0.5, prompts=["It is"])
        if not close(again, first, 1e-6):
            return Finding(
                f"{show(first)}, as at the first call",
                "the memory: the same text earns something else later; keep nothing between calls",
            )
    return None


# Exercise 2b and the bonus: open-ended rewards. A sensible one may want any length, any ending, any
# words: so what is compared is the best of several ordinary texts, and not one of them.

PLAIN = " a quiet story about two people who meet again in a small town by the sea."


def ordinary_texts(word="great"):
    """Texts of six to thirty words that somebody may want to read; one of them says `word`."""
    return [
        PLAIN,
        " funny and moving from start to end!",
        " brilliant actors, wonderful music, surprising moments, and nobody could guess any of it.",
        f" a {word} film with fine actors and an honest story, told slowly but never boring, so "
        "that nobody in our row wanted it to end.",
        " who would have thought that baking bread could be so moving?",
        " We laughed, then we cried. The end came too soon. My sister wants to see it again.",
        " the first half takes its time, then one brave teacher finds those old letters under his "
        "kitchen floor, reads them aloud at night, and slowly everything they believed changes.",
    ]


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
    middle = [(i + rng.uniform(0.2, 0.8)) / 20 for i in range(1, 19)]
    scores = [0.0, *middle, 0.97, 0.99, 1.0]
    rng.shuffle(scores)
    by_score = torch.tensor(scores).argsort()
    enters = rises = False
    for text in ordinary_texts():
        got = ask(scores=scores, completions=[text] * len(scores), prompts=["It is"] * len(scores))
        steps = got[by_score].diff()
        if (steps <= 0).any() and rises_alone(ask, text, scores, got):
            steps = steps.new_ones(len(steps))
        if (steps < 0).any():
            sign = (steps <= 0).all()
            cause = "the sign of the score" if sign else "the order: some better score earns less"
            return Finding("numbers that rise with the score", cause)
        enters = enters or (steps > 0).any()
        rises = rises or (steps > 0).all()
    if rises:
        return None
    cause = "the score: it does not enter"
    if enters:
        cause = "the steps: different scores earn the same, so GRPO sees no difference there"
    return Finding("numbers that rise with the score", cause)


def rises_alone(ask, text, scores, together):
    """Whether a text that is asked about alone earns more for a better score, and a copy of it
    among others, `together`, no more than that: a reward may refuse copies."""
    told = ask.arguments, ask.answer
    alone = torch.cat([ask(scores=[s], completions=[text], prompts=["It is"]) for s in scores])
    ask.arguments, ask.answer = told  # what a report shows
    rises = (alone[torch.tensor(scores).argsort()].diff() > 0).all()
    return bool(rises and (together <= alone + 1e-6).all())


def judges_each_text_by_itself(ask, rng):
    """a text earns the same whatever the others score, and whenever it is asked about."""
    texts = ordinary_texts()
    prompts = ["It is"] * len(texts)
    others = [rng.uniform(0.1, 0.9) for _ in texts[1:]]
    answers = [
        ask(scores=[0.5, *scores], completions=texts, prompts=prompts)
        for scores in (others, [1 - score for score in others], [0.45] * len(others), others)
    ]
    expected = f"{show(answers[0])}, as when it was asked first"
    if not close(answers[3], answers[0], 1e-6):
        cause = "the memory: the same texts earn something else later; keep nothing, draw nothing"
        return Finding(expected, cause)
    if not all(close(answer[:1], answers[0][:1], 1e-6) for answer in answers):
        cause = "the group: the scores of other texts enter; comparing them is the work of GRPO"
        return Finding(f"{answers[0][0]:.4g} for the first, whatever the others score", cause)
    low, high = (
        torch.cat([ask(scores=[score], completions=[text], prompts=["It is"]) for text in texts])
        for score in (0.2, 0.8)
    )
    if (high > low).any():
        return None
    return Finding("more for the better score", "the single text: alone, its score does not count")


def does_not_pay_for_repetition(ask, rng):
    """of two texts with equal scores, the one that repeats itself or says nothing earns no more."""
    word = rng.choice(["great", "wonderful", "excellent"])
    empty = {  # text -> what grows with it
        " " + " ".join([word] * 40) + ".": "repetition: the length, perhaps",
        " it was good." * 12: "repetition: the number of sentences, perhaps",
        f" {word}.": "brevity: one word earns the most",
        "": "brevity: no text at all earns the most",
        " " + "!" * 40: "exclamation marks",
    }
    ordinary = ordinary_texts(word)
    texts = [*ordinary, *empty]
    for score in (0.9, 0.1):
        got = ask(scores=[score] * len(texts), completions=texts, prompts=["It is"] * len(texts))
        best = got[: len(ordinary)].max()
        for earned, (text, grows) in zip(got[len(ordinary) :], empty.items()):
            if earned > best + 1e-6:
                most = f"at most {best:.4g}, as the best of the others, for {text!r:.40}"
                return Finding(f"{most}; it got {earned:.4g}", f"what grows with {grows}")
    return None


def teaches_more_than_the_score(ask, rng):
    """GRPO must be able to tell it from the plain score."""
    prompt = "My friends and I"
    texts = [
        *ordinary_texts(),
        PLAIN,
        *write_texts(rng, 3),
        " great" * 15,
        " good.",
        "",
        f" {prompt} liked it. {prompt} liked it.",
        " it was good. it was good. it was good.",
        '<br /><b>10/10</b> "MUST SEE" (2004): http://film.example *****',
        " it began well and\n\nthen",
        " very very good good!!! So so GOOD!!!",
        "".join(f" {word}" for word in rng.choices(WORDS, k=60)),
    ]
    scores = torch.tensor([rng.uniform(0.1, 0.9) for _ in texts], dtype=torch.float64)
    got = ask(scores=scores.tolist(), completions=texts, prompts=[prompt] * len(texts))
    ours, plain = ((x - x.mean()) / (x.std() + 1e-12) for x in (got, scores))
    if not close(ours, plain):
        return None
    return Finding(
        "advantages other than those of the score",
        "the shape: this is scale · score + shift, which the group undoes (without a penalty); "
        "let the text matter, or bend the curve",
    )
