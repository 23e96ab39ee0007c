"""A function of a submission, to be called as if it were here: questions and answers as JSON."""

import json

import torch

from instructor.exercises import Wrong, encode
from instructor.grading.process import clean


def remote(child, name, journal):
    """A function of the submission, to be asked like a local one; answers go into `journal`."""

    def function(ref_model=None, tokenizer=None, **arguments):
        sent = {key: encode(value) for key, value in arguments.items()}
        answer = child.ask("call", function=name, arguments=sent)
        journal.append(json.dumps(answer))
        return decode(answer, name)

    function.__name__ = name
    return function


def decode(answer, name):
    """What the worker's `encode` made of an answer, as this process would have got it."""
    try:
        kind = answer["kind"]
        if kind == "tensor":
            return torch.tensor(answer["value"], dtype=torch.float64).reshape(answer["shape"])
        if kind in ("list", "plain"):
            return answer["value"]
        if kind == "item":
            what = f"a {clean(answer['type'])[:60]} at index {int(answer['index'])}"
            raise Wrong(f"{name} returned {what}; expected a plain number")
        if kind == "missing":
            raise Wrong(f"there is no function {name}")
        raise Wrong(f"{name} returned {clean(answer['type'])[:60]}; expected a list of numbers")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Wrong(f"{name} returned something that is no list of numbers") from error
