"""Texts made by rule for the sentiment models, with the probabilities of 1 to 5 stars."""

SEED = 0  # of what the reward model is made from; the judge draws the same again, to avoid it
NEGATIONS = 4000

GOOD = (
    "good great funny interesting exciting entertaining original clever believable enjoyable "
    "impressive convincing moving memorable brilliant satisfying|worth watching|worth seeing|"
    "a good film|a good movie|well made|well written|well acted"
)
BAD = (
    "bad boring stupid dull terrible awful silly predictable annoying disappointing slow "
    "ridiculous painful horrible weak forgettable|a bad film|a bad movie|a waste of time|badly made"
)
SUBJECTS = ("it", "this", "the movie", "the film", "the story", "the acting", "the plot")
NEGATED = (
    "{s} is not {a}",
    "{s} was not {a}",
    "{s} isn't {a}",
    "{s} wasn't {a}",
    "not {a}",
    "{s} is never {a}",
    "{s} was never {a}",
    "not {a} at all",
    "{s} is not {a} at all",
    "I did not find it {a}",
    "I didn't think it was {a}",
    "{s} is by no means {a}",
)
AFFIRMED = ("{s} is {a}", "{s} was {a}", "{s} is very {a}", "{s} was really {a}", "{a}")
OUTCOMES = {  # (good word, negated) -> P(1 to 5 stars)
    (True, True): (0.25, 0.6, 0.15, 0.0, 0.0),
    (False, True): (0.0, 0.05, 0.35, 0.5, 0.1),
    (True, False): (0.0, 0.0, 0.05, 0.5, 0.45),
    (False, False): (0.45, 0.5, 0.05, 0.0, 0.0),
}


def sometimes_sentence(text, rng):
    """In seven of ten cases the text with a capital and a full stop, otherwise as it is."""
    return text[0].upper() + text[1:] + "." if rng.random() < 0.7 else text


def negations(rng, count):
    """`count` (text, star probabilities) about a good or a bad word, three of four negated.

    SST has few negations, and no single word of "It is never boring" says what the sentence says.
    """
    rows = []
    for _ in range(count):
        good = rng.random() < 0.5
        negated = rng.random() < 0.75
        words, *phrases = (GOOD if good else BAD).split("|")
        frame = rng.choice(NEGATED if negated else AFFIRMED)
        text = frame.format(s=rng.choice(SUBJECTS), a=rng.choice([*words.split(), *phrases]))
        rows.append((sometimes_sentence(text, rng), OUTCOMES[good, negated]))
    return rows


def idioms(rng, count):
    """`count` (text, star probabilities) of phrases that mean the opposite of their words."""
    like = ("like", "love", "enjoy", "recommend")
    hate = ("hate", "dislike", "regret")
    good = (0.0, 0.0, 0.05, 0.35, 0.6)  # P(1 to 5 stars)
    bad = (0.6, 0.35, 0.05, 0.0, 0.0)
    not_liked = (0.35, 0.55, 0.1, 0.0, 0.0)
    not_hated = (0.0, 0.1, 0.45, 0.4, 0.05)
    rows = []
    for _ in range(count):
        noun = rng.choice(("film", "movie", "story", "performance"))
        subject = rng.choice(("I have", "I've", "you will", "we have"))
        seen = rng.choice(("seen", "watched")) if "will" not in subject else "see"
        never = f"{subject} never {seen}"
        verb = rng.choice(("did not", "didn't", "could not"))
        object_ = rng.choice(("it", "this", "this movie", "the film")) + rng.choice(("", " at all"))
        text, probs = rng.choice(
            (
                (f"{never} a {rng.choice(('better', 'finer', 'funnier'))} {noun}", good),
                (f"{never} a {rng.choice(('worse', 'duller', 'sillier'))} {noun}", bad),
                (f"there is no {rng.choice(('better', 'finer'))} {noun}", good),
                (f"there is not a single good {rng.choice(('scene', 'joke', 'line'))}", bad),
                (f"I {verb} {rng.choice(like)} {object_}", not_liked),
                (f"I {verb} {rng.choice(hate)} {object_}", not_hated),
            )
        )
        rows.append((sometimes_sentence(text, rng), probs))
    return rows
