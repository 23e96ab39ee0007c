"""The cases of the exercises, for the tools of the instructor."""

import torch

from cases import (
    CASES,
    CORE,
    Ask,
    Wrong,
    example_report,
    is_news,
    report,
)

__all__ = [
    "CASES",
    "CORE",
    "Ask",
    "Wrong",
    "encode",
    "every_case",
    "example_report",
    "is_news",
    "report",
]


def every_case():
    """Every case of every exercise as (function name, case), in order."""
    return [(name, case) for name, (_, cases) in CASES.items() for case in cases]


def encode(value):
    """An argument of a question as JSON: tensors as nested lists with their type."""
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    return value
