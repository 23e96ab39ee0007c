import re

import pytest

from engine.course.checklist import exercises, main
from engine.course.hints import HINTS, LEVELS
from engine.course.student import rewards_file


def test_every_exercise_has_three_hints():
    names = [label.split()[-1].lower() for label in exercises(rewards_file()).values()]
    assert list(HINTS) == names
    assert all(len(hints) == len(LEVELS) == 3 for hints in HINTS.values())
    assert all(hints[0].rstrip().endswith("?") for name, hints in HINTS.items())


@pytest.mark.parametrize("exercise", HINTS)
def test_each_hint_names_the_next(exercise, capsys):
    asked, said = ["--hint", exercise], []
    while asked:
        main("rewards.py", asked)
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        said.append(" ".join(out.split()))
        found = re.search(r"The next one: python rewards.py (.*)\n", out)
        asked = found.group(1).split() if found else None
    assert len(said) == 3
    assert all(text in out for text, out in zip(HINTS[exercise], said))


@pytest.mark.parametrize(
    "asked, message",
    [
        (["--hint", "4"], "rewards.py: argument --hint: invalid choice: '4'"),
        (["--hint", "3b", "4"], "rewards.py: argument level: invalid choice: 4"),
        (["2"], "rewards.py: hint 2 of which exercise? Give --hint EXERCISE 2"),
    ],
)
def test_a_hint_that_there_is_not(asked, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main("rewards.py", asked)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
