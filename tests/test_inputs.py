"""Input at the limits: long, empty, foreign, odd. Every text has a defined outcome."""

import time

import pytest

import data
import train
from engine.common import UserError
from engine.course.student import load_rewards
from engine.model.texts import tokenize_prompts
from engine.options import resolve_options
from sentiment import get_hackable_scores, get_sentiment_scores

ODD = {
    "empty": "",
    "blank": " \n\t ",
    "NUL": "\0\0",
    "long": "very " * 20_000 + "good",
    "one long word": "a" * 100_000,
    "Chinese": "这部电影非常好看",
    "Arabic": "هذا فيلم رائع",
    "emoji": "🎬🍿👍🏽👨‍👩‍👧‍👦",
    "turned around": "\u202egood\u202c",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_have_a_score(classifier, name):
    text = ODD[name]
    alone, after = get_sentiment_scores([text])[0], get_sentiment_scores(["A good film.", text])[1]
    assert 0 <= alone <= 1 and alone == pytest.approx(after, abs=1e-5)
    assert 0 <= get_hackable_scores([text])[0] <= 1


def test_a_text_beyond_the_context_is_scored_by_its_beginning(classifier):
    long = "A wonderful film. " * 200
    assert get_sentiment_scores([long + "Terrible. " * 50]) == pytest.approx(
        get_sentiment_scores([long]), abs=1e-5
    )


# Files of prompts.


@pytest.mark.slow
def test_a_hundred_thousand_prompts(tmp_path, policy):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Film number {i} was\n\n" for i in range(100_000)), encoding="utf-8")
    model, tokenizer = policy
    options = resolve_options({"preset": "tiny"})
    started = time.perf_counter()
    dataset = data.get_train_dataset(str(file))
    tokenize_prompts(dataset["prompt"][:], tokenizer, model, options.max_completion_length)
    arranged = data.arrange(dataset, 480, seed=0)
    assert len(dataset) == 100_000 and len(set(arranged["prompt"])) == 480
    assert time.perf_counter() - started < 30


def test_prompts_of_every_script_train(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "VALIDATION_PROMPTS", data.VALIDATION_PROMPTS[:4])
    file = tmp_path / "prompts.txt"
    lines = ["这部电影", "هذا الفيلم", "🎬 was", "\u202eback", "naïve café", "   ", "", "x" * 40]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert len(data.get_train_dataset(str(file))) == 6  # the blank ones are none
    # Seven prompts a step: more than there are.
    options = {"preset": "tiny", "batch_size": 14, "num_generations": 2, "max_steps": 2}
    options |= {"max_completion_length": 4, "prompts": str(file), "eval_steps": 10}
    trainer = train.train(**options, output_dir=str(tmp_path / "out"))
    assert trainer.state.global_step == 2


def test_a_prompt_of_ten_kilobytes_is_named(tmp_path, policy):
    file = tmp_path / "prompts.txt"
    file.write_text("It was\n" + "long " * 2000 + "\n", encoding="utf-8")
    model, tokenizer = policy
    options = resolve_options({"preset": "tiny"})
    prompts = data.get_train_dataset(str(file))["prompt"][:]
    with pytest.raises(
        UserError, match=r"'long long .*…' has 2000 tokens.*context of 128"
    ) as error:
        tokenize_prompts(prompts, tokenizer, model, options.max_completion_length)
    assert len(str(error.value)) < 250


def test_the_students_file_is_read_as_utf_8(tmp_path):
    (tmp_path / "rewards.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(UserError, match="rewards.py cannot be imported"):
        load_rewards(tmp_path / "rewards.py")
