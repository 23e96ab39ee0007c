"""The exercises: every case of cases.py, on the solution and on the student's file."""

import random

import pytest
from cases import CASES, Ask, report


@pytest.mark.parametrize(
    "name, case",
    [
        pytest.param(
            name,
            case,
            id=f"{name}-{case.__name__}",
            marks=getattr(pytest.mark, exercise if exercise == "bonus" else f"exercise{exercise}"),
        )
        for name, (exercise, cases) in CASES.items()
        for case in cases
    ],
)
def test_exercise(rewards, policy, name, case):
    function = getattr(rewards, name, None)
    if function is None:
        pytest.fail(f"there is no function {name} in {rewards.__name__}.py", pytrace=False)
    text = report(case, Ask(function, policy), random.Random(0))
    if text:
        pytest.fail(text, pytrace=False)
