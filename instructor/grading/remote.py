"""A function of a submission, to be called as if it were here: questions and answers as JSON."""

import json

from instructor.exercises import Wrong, encode


class OfShape:
    """An answer of which only the shape is told: a tensor of not one dimension, never built."""

    def __init__(self, shape):
        self.shape = shape

    def __repr__(self):
        return f"numbers of shape {self.shape}"


def remote(child, name, journal):
    """A function of the submission, to be asked like a local one; answers go into `journal`."""

    def function(ref_model=None, tokenizer=None, **arguments):
        sent = {key: encode(value) for key, value in arguments.items()}
        given = next(v for k, v in arguments.items() if k in ("completions", "policy_log_probs"))
        answer = child.ask("call", function=name, arguments=sent, length=len(given))
        journal.append(json.dumps(answer))
        return decode(answer, name, given)

    function.__name__ = name
    return function


def decode(answer, name, given):
    """What the worker's `encode` made of an answer, as this process would have got it.

    Args:
        answer: of `process.flat`: it may be forged, so every field is looked at before its use.
        name: of the function.
        given: the texts or log-probabilities that it was asked about: one number for each.

    Raises:
        Wrong: it is no list of at most as many plain values.
    """
    kind = answer.get("kind") if isinstance(answer, dict) else None
    value, shape, of_type = (answer.get(k) if kind else None for k in ("value", "shape", "type"))
    if kind == "list" and isinstance(value, list) and len(value) <= len(given):
        return value
    if kind == "plain" and not isinstance(value, (list, dict)):
        return value
    if kind == "missing":
        raise Wrong(f"there is no function {name}")
    if kind == "shape" and isinstance(shape, list) and len(shape) <= 8:
        if shape == list(getattr(given, "shape", ())):
            return OfShape(tuple(shape))  # one number for each token
        raise Wrong(f"{name} returned a tensor of shape {shape}; expected {len(given)} numbers")
    if kind == "length" and isinstance(answer.get("length"), int):
        raise Wrong(
            f"{name} returned {answer['length']} values for {len(given)} completions; "
            "return exactly one for each."
        )
    if kind == "item" and isinstance(of_type, str) and isinstance(answer.get("index"), int):
        what = f"a {of_type[:60]} at index {answer['index']}"
        raise Wrong(f"{name} returned {what}; expected a plain number")
    if kind == "other" and isinstance(of_type, str):
        raise Wrong(f"{name} returned {of_type[:60]}; expected a list of numbers")
    raise Wrong(f"{name} returned something that is no list of numbers")
