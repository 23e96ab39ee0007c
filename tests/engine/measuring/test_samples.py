import io

import pytest
from made_up_run import write_run
from rich.console import Console

from engine.common import UserError
from engine.measuring.samples import plain, print_sample, print_samples, samples_of_run


def shown(width, front, prompt, completion, **settings):
    console = Console(file=io.StringIO(), width=width, **settings)
    print_sample(console, front, prompt, completion)
    return console.file.getvalue()


def test_a_long_text_goes_on_below_where_it_began():
    text = shown(30, " 0.5  ", "This film", " has a good story, and more of it.")
    assert text == " 0.5  This film has a good\n      story, and more of it.\n"


@pytest.mark.parametrize("width", [10, 40, 80, 120])
def test_no_word_is_lost_and_no_line_too_long(width):
    words = [f"word{i}" for i in range(60)]
    lines = shown(width, " " * 8, "One", " " + " ".join(words)).split("\n")
    assert " ".join(" ".join(lines).split()) == " ".join(["One", *words])
    assert max(map(len, lines)) <= max(width, 28)
    assert all(line.startswith(" " * 8) for line in lines if line)


def test_the_prompt_is_dim_and_nothing_else():
    text = shown(40, "", "The director", "'s cut", color_system="standard", force_terminal=True)
    assert text == "\x1b[2mThe director\x1b[0m's cut\n"


def test_brackets_stay_and_control_characters_go():
    assert plain("a\x1b]0;title\x07b\r\n\x9bc\u2028") == "a ]0;title b c"
    assert shown(80, "", "A [bold]", " film [/]") == "A [bold] film [/]\n"


def test_samples_are_of_the_last_validation_and_spread_over_the_prompts(tmp_path):
    run = write_run(tmp_path / "run", steps=(0, 15), samples=20)
    rows = samples_of_run(run, count=5)
    assert [row["prompt"] for row in rows] == [f"It is {i}" for i in (0, 4, 8, 12, 16)]
    assert {row["step"] for row in rows} == {15}
    assert {row["step"] for row in samples_of_run(run, step=0)} == {0}
    assert len(samples_of_run(run)) == len(samples_of_run(run, count=500)) == 20


def test_a_step_without_samples_is_one_line(tmp_path):
    run = write_run(tmp_path / "run", steps=(0, 15))
    with pytest.raises(UserError, match="no samples of step 3. There are those of 0, 15."):
        samples_of_run(run, 3)
    (run / "completions.jsonl").write_text("")
    with pytest.raises(UserError, match="It has none"):
        samples_of_run(run)


def test_the_figures_stand_in_front(capsys):
    print_samples([{"prompt": "It", "completion": " is", "sentiment": 0.25, "kl": 1.5}])
    header, line, note = capsys.readouterr().out.splitlines()
    assert note.startswith("KL nats: log q − log p of this text") and len(note) <= 80
    assert header == "sentiment  KL nats  prompt and completion"
    assert line == "    0.250     1.50  It is"
    print_samples([{"prompt": "It", "completion": " is", "sentiment": 0.25}], with_kl=False)
    assert capsys.readouterr().out.splitlines()[1] == "    0.250  It is"
