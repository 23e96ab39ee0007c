import pytest
import torch

import grpo_lab
from engine.course import variants


class Rewards:
    """A rewards file with two functions that are not those of GRPO."""

    group_advantages = staticmethod(lambda rewards, size: variants.undivided(rewards, size))

    def policy_loss(log_probs, old_log_probs, advantages, mask, epsilon=0.2):
        return -(log_probs * mask * advantages[:, None]).mean()


class ToDo(Rewards):
    def group_advantages(*args):
        raise NotImplementedError("Exercise 4a: implement group_advantages")


@pytest.fixture
def small(monkeypatch):
    """The labs' experiments at little cost, and the figures that they draw."""
    figures = []

    def kept(experiment):
        def run(own):
            figures.append(experiment(own))
            return figures[-1]

        return run

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(variants, "SIZES", (2, 4))
    monkeypatch.setattr(grpo_lab, "SIZES", (2, 4))
    monkeypatch.setattr("engine.pages.variant_pictures.SIZES", (2, 4))
    monkeypatch.setattr(grpo_lab, "RUNS", 20)
    experiments = {name: kept(run) for name, run in grpo_lab.EXPERIMENTS.items()}
    monkeypatch.setattr(grpo_lab, "EXPERIMENTS", experiments)
    return figures


def test_the_command_shows_and_draws_every_experiment_in_80_columns(
    tmp_path, capsys, monkeypatch, small
):
    monkeypatch.setattr(grpo_lab, "load_rewards", lambda path: Rewards)
    grpo_lab.main(["--out", str(tmp_path / "new")])
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert set(pictures) == {f"grpo_lab_{name}.png" for name in grpo_lab.EXPERIMENTS}
    assert all(data[:4] == b"\x89PNG" for data in pictures.values())
    lines = [x for x in capsys.readouterr().out.splitlines() if not x.startswith("Picture: ")]
    assert len(lines) > 60 and max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text.replace("… over the batch's deviation", "")
    assert text.count("group_advantages") > 4 and text.count("policy_loss") > 1
    assert "still to do" not in text
    words = [line.strip() for line in lines]
    assert not [word for word in words if word and len(word) < 4]  # no line was broken
    assert len(small) == 3
    for figure in small:
        for axes in figure.axes:
            assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
            handles, labels = axes.get_legend_handles_labels()
            assert handles and labels == [text.get_text() for text in axes.get_legend().texts]


def test_what_is_to_do_is_left_out(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setattr(grpo_lab, "load_rewards", lambda path: ToDo)
    grpo_lab.main(["--out", str(tmp_path)])
    out = capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"grpo_lab_variants.png", "grpo_lab_length.png"}
    assert variants.GRPO not in out and "policy_loss " in out
    assert out.endswith("group_advantages is still to do in rewards.py.\n")
    assert small[2] is None


def test_rewards_are_whole_tenths():
    assert torch.equal(10 * grpo_lab.SIX_WORDS.rewards, (10 * grpo_lab.SIX_WORDS.rewards).round())
