"""Trained models that were handed in, and a short training with a submission's reward."""

import csv
import os
import shutil
import sys

import pytest
import torch

from instructor.grading import trained_models
from instructor.grading.process import Workshop
from instructor.grading.short_training import train_briefly
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
        assert {**rows[student], "student": ""} == {**rows["(base model)"], "student": ""}
        assert float(rows[student]["kl"]) == 0
    assert "other tensors than the base" in rows["other"]["status"]
    assert "has the shape (3,)" in rows["shape"]["status"]
    assert "not finite" in rows["nan"]["status"]
    assert "pickles are not opened" in rows["pickle"]["status"]
    assert "cannot be read" in rows["cut"]["status"]


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
