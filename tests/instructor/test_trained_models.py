"""Trained models that were handed in, and a short training with a submission's reward."""

import copy
import csv
import os
import shutil
import struct
import sys

import pytest
import torch

from instructor.grading import short_training, trained_models
from instructor.grading.process import Workshop
from instructor.grading.short_training import train_briefly
from instructor.grading.submission import Rejected
from instructor.proof import attacks


def handed_in(folder, tensors):
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")


def test_handed_in_models_are_measured_from_their_tensors(tmp_path, policy, classifier, capsys):
    base, _ = policy
    tensors = {k: v.clone() for k, v in base.state_dict().items() if k != "lm_head.weight"}
    handed_in(tmp_path / "in" / "ann" / "final", tensors)
    shutil.copytree(tmp_path / "in" / "ann", tmp_path / "in" / "code")
    (tmp_path / "in" / "code" / "final" / "config.json").write_text(
        '{"auto_map": {"x": "evil.py"}}'
    )
    name = next(iter(tensors))
    broken = {
        "other": {"x": torch.zeros(2)},
        "shape": {**tensors, name: torch.zeros(3)},
        "nan": {**tensors, name: tensors[name] * float("nan")},
    }
    for student, changed in broken.items():
        handed_in(tmp_path / "in" / student, changed)
    (tmp_path / "in" / "pickle").mkdir()
    torch.save(tensors, tmp_path / "in" / "pickle" / "pytorch_model.bin")
    handed_in(tmp_path / "in" / "cut", tensors)
    os.truncate(tmp_path / "in" / "cut" / "model.safetensors", 1000)
    out = tmp_path / "c.csv"
    trained_models.main(
        [str(tmp_path / "in"), f"--out={out}", "--num_samples=1", "--max_new_tokens=4"]
    )
    with open(out, newline="", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    for student in ("ann", "code"):
        figures = [{**rows[name], "student": "", "model": ""} for name in (student, "(base model)")]
        assert figures[0] == figures[1]
        assert float(rows[student]["kl"]) == 0
    assert "other tensors than the base" in rows["other"]["status"]
    assert "has the shape (3,)" in rows["shape"]["status"]
    assert "not finite" in rows["nan"]["status"]
    assert "pickles are not opened" in rows["pickle"]["status"]
    assert "cannot be read" in rows["cut"]["status"]


def rows_of(tmp_path):
    """The table for what lies in tmp_path/in, as {(student, model): row}."""
    out = tmp_path / "c.csv"
    trained_models.main(
        [str(tmp_path / "in"), f"--out={out}", "--num_samples=1", "--max_new_tokens=4"]
    )
    with open(out, newline="", encoding="utf-8") as file:
        return {(row["student"], row["model"]): row for row in csv.DictReader(file)}


@pytest.fixture
def tensors(policy):
    state = policy[0].state_dict().items()
    return {k: v.clone() for k, v in state if k != "lm_head.weight"}


def test_two_runs_side_by_side_are_two_rows(tmp_path, tensors, classifier):
    for run in ("run", "run.1"):
        handed_in(tmp_path / "in" / "ann" / "outputs" / run / "final", tensors)
        handed_in(tmp_path / "in" / "ann" / "outputs" / run / "checkpoint-15", tensors)
    rows = rows_of(tmp_path)
    models = {model: row["status"] for (student, model), row in rows.items() if student == "ann"}
    assert models == {"outputs/run/final": "measured", "outputs/run.1/final": "measured"}


def test_only_finite_numbers_of_three_types_are_read(tmp_path, tensors, classifier):
    changed = {
        "half": {k: v.half() for k, v in tensors.items()},
        "bfloat": {k: v.bfloat16() for k, v in tensors.items()},
        "double": {k: v.double() for k, v in tensors.items()},
        "whole": {k: v.to(torch.int8) for k, v in tensors.items()},
        # every weight is finite; what the model computes is not
        "huge": {k: v * 1e30 if v.ndim == 2 else v for k, v in tensors.items()},
    }
    for student, state in changed.items():
        handed_in(tmp_path / "in" / student, state)
    status = {student: row["status"] for (student, _), row in rows_of(tmp_path).items()}
    assert status["half"] == status["bfloat"] == "measured"
    assert "numbers of type F64; read are F16, BF16, F32" in status["double"]
    assert "numbers of type I8" in status["whole"]
    assert "not finite" in status["huge"]


def test_no_link_is_followed_at_any_level(tmp_path, tensors, classifier):
    handed_in(tmp_path / "elsewhere" / "final", tensors)
    target = tmp_path / "elsewhere"
    for student, link, to in (
        ("file", "final/model.safetensors", target / "final" / "model.safetensors"),
        ("folder", "final", target / "final"),
        ("run", "outputs/run", target),
    ):
        path = tmp_path / "in" / student / link
        path.parent.mkdir(parents=True)
        path.symlink_to(to)
    (tmp_path / "in" / "student").symlink_to(target)
    rows = rows_of(tmp_path)
    assert len(rows) == 5
    for (student, _), row in rows.items():
        wanted = "measured" if student == "(base model)" else "no model.safetensors"
        assert row["status"].startswith(wanted) and bool(row["kl"]) == (wanted == "measured")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"x": 1}',
        b'{"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [1152921504606846977], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [' + b"1," * 500_000 + b'1], "data_offsets": [0, 4]}}',
        b"[" * 100_000,
        b'{"\\ud800\\u001b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
    ids=["list", "number", "types", "overflow", "dimensions", "nested", "name"],
)
def test_a_forged_header_is_one_row(tmp_path, header, policy):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(Rejected) as refused:
        trained_models.load_weights(policy[0], tmp_path, "model.safetensors")
    assert len(str(refused.value)) < 400 and str(refused.value).isprintable()


def test_what_is_no_folder_and_what_is_too_large_is_one_row(tmp_path, tensors, classifier):
    handed_in(tmp_path / "in" / "ann", tensors)
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / "sparse").mkdir()
    with open(tmp_path / "in" / "sparse" / "model.safetensors", "wb") as file:
        file.truncate(3 << 30)
    os.makedirs(tmp_path / "in" / "pipe")
    os.mkfifo(tmp_path / "in" / "pipe" / "model.safetensors")
    status = {student: row["status"] for (student, _), row in rows_of(tmp_path).items()}
    assert status["ann"] == "measured" and "larger than" in status["sparse"]
    assert "no model" in status["notes.txt"] and "no regular file" in status["pipe"]


def test_each_look_at_a_model_refuses_what_is_not_finite(tensors, policy, classifier, monkeypatch):
    """One below the other: weights, predictions, figures."""
    base, tokenizer = policy
    name, value = next(iter(tensors.items()))
    with pytest.raises(Rejected, match="holds values that are not finite"):
        changed = {**tensors, name: value * float("nan")}
        trained_models.check_tensors(changed, base.state_dict())
    huge = copy.deepcopy(base)
    huge.load_state_dict({k: v * 1e30 for k, v in tensors.items() if v.ndim == 2}, strict=False)
    with pytest.raises(Rejected, match="its predictions are not finite"):
        trained_models.check_predictions(huge)
    figures = dict.fromkeys(trained_models.COLUMNS, 1.0) | {"perplexity": float("inf")}
    monkeypatch.setattr("evaluate.evaluate_model", lambda *args, **kwargs: {"metrics": figures})
    with pytest.raises(Rejected, match="its perplexity is not finite"):
        trained_models.measure(base, tokenizer, base, 1)


def test_what_a_training_wrote_is_read_when_its_process_has_ended(tmp_path, monkeypatch):
    """Whoever cuts off a file that is mapped kills the one who reads it."""
    events = []

    class Recorded:
        folder = tmp_path

        def __init__(self, *args, **kwargs):
            pass

        def ask(self, operation, **question):
            events.append(operation)

        def end(self):
            events.append("end")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            events.append("close")

    figures = {"metrics": {"sentiment": 0.5, "kl": 0.0}}
    monkeypatch.setattr(short_training, "Child", Recorded)
    monkeypatch.setattr(short_training, "load_weights", lambda *args: events.append("read"))
    monkeypatch.setattr(short_training, "measure", lambda *args: figures)
    settings = {"options": {"max_steps": 2}, "rise": 0.0, "nats": 10}
    assert "After 2 steps" in train_briefly(None, None, b"", settings, (None, None))
    assert events == ["load", "train", "end", "read", "close"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_a_short_training_with_the_reward_of_a_submission(tmp_path, policy, classifier):
    settings = {"options": {"max_steps": 2, "kl_type": "forward"}, "rise": -1.0, "nats": 10}
    with Workshop(1) as workshop:
        workshop.wait()
        (control,) = workshop.controls
        for source, words in (
            (attacks.SOLUTION, "After 2 steps: sentiment 0.5"),
            (attacks.TEMPLATE, "did not finish: it raised UserError: Exercise 3b: implement"),
        ):
            told = train_briefly(workshop, control, source.encode(), settings, policy)
            assert words in told
        assert list(workshop.folder.iterdir()) == [workshop.tools]
