"""What the labels of a sentiment classifier mean: one reading, for reward models and judges."""

import re

from engine.common import UserError

STARS = re.compile(r"(\d+) stars?|stars? (\d+)")
SHADES = re.compile(r"(very |extremely |strongly |highly )?(neg|neu|pos)(ative|tral|itive)?\b.*")
SIGNS = {"neg": -1, "neu": 0, "pos": 1}


def labels_of(config) -> list[str]:
    """The names of a classifier's outputs, in their order."""
    return [config.id2label[i] for i in range(config.num_labels)]


def label_values(labels: list[str], name: str) -> list[float]:
    """What each label of a sentiment classifier is worth, 0 to 1.

    Args:
        labels: of `labels_of`.
        name: of the model, for the message.

    Raises:
        UserError: they are neither stars nor shades of negative and positive, or two mean the same.

    >>> label_values(["NEGATIVE", "neutral", "POSITIVE"], "some model")
    [0.0, 0.5, 1.0]
    >>> label_values(["3 stars", "2 stars", "1 star"], "some model")
    [1.0, 0.5, 0.0]
    >>> label_values(["Very Negative", "Negative", "Neutral", "Positive", "Very Positive"], "five")
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    texts = [re.sub(r"[\W_]+", " ", label).strip().lower() for label in labels]
    shades = [value for text in texts if (value := _shade(text)) is not None]
    values = shades or [value for text in texts if (value := _stars(text)) is not None]
    one_sided = bool(shades) and min(shades) != -max(shades)
    if one_sided or len(set(values)) < max(2, len(labels)):
        raise UserError(
            f"The labels of '{name}' are no scale of sentiment: {', '.join(labels)}. Stars (1 "
            "star, 2 stars …), or shades of negative and positive, are needed."
        )
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def star_order(labels: list[str], name: str) -> list[int]:
    """Which output of a reward model stands for one star, which for two … five.

    Raises:
        UserError: there are not five, or they cannot be read.

    >>> star_order(["5 stars", "4 stars", "3 stars", "2 stars", "1 star"], "some model")
    [4, 3, 2, 1, 0]
    """
    if len(labels) != 5:
        raise UserError(
            f"The sentiment model '{name}' has {len(labels)} labels; five, for 1 to 5 stars, are "
            "needed."
        )
    values = label_values(labels, name)
    return sorted(range(5), key=values.__getitem__)


def _stars(text):
    match = STARS.fullmatch(text)
    return int(match[1] or match[2]) if match else None


def _shade(text):
    """−2 for "very negative" … 2 for "very positive"; None for anything else."""
    match = SHADES.fullmatch(text)
    return SIGNS[match[2]] * (2 if match[1] else 1) if match else None
