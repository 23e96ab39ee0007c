"""The exercises, on the solution and on the student's file: every case of tests/cases, and the
examples in the docstrings."""

import random

import pytest
from cases import CASES, CORE, Ask, example_report, is_news, report

EARLIER = pytest.StashKey()  # {(file, function): {case: report} of what has failed so far}


def marker(exercise):
    return getattr(pytest.mark, exercise if exercise == "bonus" else f"exercise{exercise}")


def tell(request, rewards, name, case, text):
    """Fail with a report; skip where it only follows from what was told before."""
    earlier = request.config.stash.setdefault(EARLIER, {}).setdefault((rewards.__name__, name), {})
    core = {core.__name__ for core in CORE.get(name, ())}
    news = is_news(text, earlier, core)
    earlier[case] = text
    if news:
        pytest.fail(text, pytrace=False)
    pytest.skip(f"{name}: {case} fails too; first mend what is told about {next(iter(earlier))}")


@pytest.mark.parametrize(
    "name, case",
    [
        pytest.param(name, case, id=f"{name}-{case.__name__}", marks=marker(exercise))
        for name, (exercise, cases) in CASES.items()
        for case in cases
    ],
)
def test_exercise(request, rewards, policy, name, case):
    function = getattr(rewards, name, None)
    text = f"there is no function {name} in {rewards.__name__}.py"
    if function is not None:
        text = report(case, Ask(function, policy, name), random.Random(0))
    if text:
        tell(request, rewards, name, case.__name__, text)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marker(exercise)) for name, (exercise, _) in CASES.items()]
)
def test_docstring_example(request, rewards, name):
    if text := hasattr(rewards, name) and example_report(rewards, name):
        tell(request, rewards, name, "the example", text)
