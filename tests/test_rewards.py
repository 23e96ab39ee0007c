"""The exercises, on the solution and on the student's file: every case, and the examples in the
docstrings."""

import random

import pytest

from cases import CASES, CORE, Ask, example_report, is_news, report
from cases.examples import SECONDS
from engine.course.student import as_in_training

EARLIER = pytest.StashKey()  # {(file, function): {case: report} of what has failed so far}


def marker(exercise):
    return getattr(pytest.mark, exercise if exercise == "bonus" else f"exercise{exercise}")


def earlier_reports(request, rewards, name):
    return request.config.stash.setdefault(EARLIER, {}).setdefault((rewards.__name__, name), {})


def skip_what_does_not_end(request, rewards, name):
    """Each further call would take as long as the first."""
    if any("an endless loop?" in text for text in earlier_reports(request, rewards, name).values()):
        pytest.skip(f"{name}: a call of it did not end; first mend that")


def fail_with_news(request, rewards, name, case, text):
    """Fail with a report; skip where it only follows from what was told before."""
    earlier = earlier_reports(request, rewards, name)
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
    skip_what_does_not_end(request, rewards, name)
    text = f"there is no function {name} in {rewards.__name__}.py"
    if function is not None:
        asked = Ask(as_in_training(function, name), policy, name, SECONDS)
        text = report(case, asked, random.Random(0))
    if text:
        fail_with_news(request, rewards, name, case.__name__, text)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marker(exercise)) for name, (exercise, _) in CASES.items()]
)
def test_docstring_example(request, rewards, name):
    skip_what_does_not_end(request, rewards, name)
    if text := hasattr(rewards, name) and example_report(rewards, name):
        fail_with_news(request, rewards, name, "the example", text)
