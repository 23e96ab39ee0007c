"""The sentiment model that scores completions, and a word count that is made to be hacked."""

import re
from collections.abc import Callable
from typing import Any

import torch

from engine.common import UserError, first_line
from engine.measuring.judge import NgramJudge
from engine.measuring.labels import label_values, labels_of, star_order
from engine.model.architecture import context_length
from engine.model.devices import best_device
from engine.model.loading import WEIGHTS, choose_kernels, load_pretrained, load_tokenizer
from engine.options import NLPTOWN

_loaded: Any = None  # (model, tokenizer) of the last load_sentiment_model call


def load_sentiment_model(model_name: str = NLPTOWN, device=None):
    """Load a five-star classifier and make it the one that the scoring functions use.

    Args:
        model_name: Hub name or local folder of a sequence classifier with five labels, "1 star" …
            "5 stars" or "very negative" … "very positive", in any order.
        device: where it goes; the best one by default.

    Returns:
        (model, tokenizer)

    Raises:
        UserError: it cannot be fetched, its labels cannot be read, or it fails at a text.
    """
    global _loaded
    model, tokenizer, _ = _load_classifier(model_name, star_order, device)
    choose_kernels(model)
    _loaded = model, tokenizer
    return _loaded


def _load_classifier(name, read, device=None):
    """(model, tokenizer, what `read` makes of its labels)"""
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(name)
    model = load_pretrained(AutoModelForSequenceClassification, name, **WEIGHTS)
    labels = read(labels_of(model.config), name)
    model = model.to(device or best_device()).eval()
    model.config.pad_token_id = tokenizer.pad_token_id  # a decoder reads what stands before it
    _require_scores(model, tokenizer, name)
    return model, tokenizer, labels


def _require_scores(model, tokenizer, name):
    """Refuse a classifier that fails, or scores a text otherwise where a longer one is beside it:
    here, or it would look like a fault of the student's function."""
    texts = ["A film.", "It was a good film, and I liked it."]
    try:
        beside = class_probs(model, tokenizer, texts)
        alone = class_probs(model, tokenizer, texts[:1])
    except Exception as error:  # of whatever architecture
        raise UserError(
            f"The model '{name}' cannot score texts: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not (alone[0] - beside[0]).abs().max() < 1e-3:  # nor is NaN
        raise UserError(f"The model '{name}' scores a text otherwise where others are beside it.")


def get_star_probs(texts: list[str], batch_size: int = 64) -> torch.Tensor:
    """Probabilities of one to five stars for each text.

    Texts of similar length share a batch; a text beyond the model's context is cut.

    Args:
        texts: list of N strings; N may be 0, a string may be empty.

    Returns:
        (N, 5) float32 tensor on the CPU, in the order of `texts`; every row sums to 1.
    """
    model, tokenizer = _loaded or load_sentiment_model()
    order = star_order(labels_of(model.config), model.name_or_path)
    return class_probs(model, tokenizer, texts, batch_size=batch_size)[:, order]


@torch.no_grad()
def class_probs(model, tokenizer, texts: list[str], batch_size: int = 64) -> torch.Tensor:
    """(N, labels) float32 tensor: the label probabilities of any text classifier."""
    probs = torch.empty(len(texts), model.config.num_labels)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    limit = min(tokenizer.model_max_length, context_length(model))
    for start in range(0, len(texts), batch_size):
        rows = order[start : start + batch_size]
        inputs = tokenizer(
            [texts[i] or " " for i in rows],  # a decoder has no token for nothing
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        ).to(model.device)
        probs[rows] = model(**inputs).logits.float().softmax(-1).cpu()
    return probs


def load_judge(name: str = "ngram") -> Callable[[list[str]], list[float]]:
    """A second opinion on sentiment that no policy was trained on.

    Args:
        name: "ngram", the judge in tiny/judge: n-grams, and a check that a text is text (see
            `engine.measuring.judge`); or "vader", a lexicon with rules for negation and emphasis
            (Hutto & Gilbert 2014). Both need no network and share neither ratings nor architecture
            with the reward model. Or a classifier's Hub name or folder, with star labels or with
            positive and negative ones.

    Returns:
        callable(texts) -> list of floats in [0, 1]; 0.5 is neutral.

    Raises:
        UserError: it cannot be fetched or read, or its labels say nothing about sentiment.
    """
    if name == "ngram":
        return NgramJudge()
    if name == "vader":
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        analyzer = SentimentIntensityAnalyzer()
        return lambda texts: [(analyzer.polarity_scores(t)["compound"] + 1) / 2 for t in texts]

    model, tokenizer, values = _load_classifier(name, label_values)
    return lambda texts: (class_probs(model, tokenizer, texts) @ torch.tensor(values)).tolist()


def get_sentiment_scores(texts: list[str]) -> list[float]:
    """Expected star rating of each text, rescaled to [0, 1]: (E[stars] − 1) / 4.

    Args:
        texts: list of N strings.

    Returns:
        List of N floats; 0 is one star for certain, 0.5 three stars, 1 five stars.
    """
    return (get_star_probs(texts) @ torch.arange(5.0) / 4).tolist()


POSITIVE_WORDS = frozenset(
    "amazing awesome beautiful best brilliant delightful enjoy enjoyable enjoyed excellent "
    "exciting fantastic favorite fun funny good great happy hilarious incredible love loved "
    "lovely masterpiece perfect perfectly superb touching wonderful".split()
)


def get_hackable_scores(texts: list[str]) -> list[float]:
    """Share of a text's words that are in POSITIVE_WORDS, in [0, 1].

    Exploitable by design: "great great great" earns 1, and so does "not good" half of it.

    >>> get_hackable_scores(["great great great", "not good", "A film.", ""])
    [1.0, 0.5, 0.0, 0.0]
    """
    words = [re.findall(r"[a-z']+", text.lower()) for text in texts]
    return [sum(w in POSITIVE_WORDS for w in ws) / len(ws) if ws else 0.0 for ws in words]
