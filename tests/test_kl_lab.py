import pytest

import kl_lab


class Rewards:
    """A rewards file with both penalties."""

    kl_penalty_forward = kl_penalty_backward = staticmethod(
        lambda policy, ref, mask, kl_coef: kl_coef * (policy - ref).sum(-1)
    )


def test_the_command_shows_and_draws_every_experiment_in_80_columns(tmp_path, capsys, monkeypatch):
    experiments, figures = dict(kl_lab.EXPERIMENTS), []

    def kept(experiment):
        def run(own):
            figures.append(experiment(own))
            return figures[-1]

        return run

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(kl_lab, "COEFFICIENTS", (0.1,))
    monkeypatch.setattr(kl_lab, "CREDIT_COEFFICIENTS", (0.1,))
    monkeypatch.setattr(kl_lab, "load_rewards", lambda path: Rewards)
    monkeypatch.setattr(
        kl_lab, "EXPERIMENTS", {name: kept(run) for name, run in experiments.items()}
    )
    kl_lab.main(["--out", str(tmp_path / "new")])
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert set(pictures) == {f"kl_lab_{name}.png" for name in experiments}
    assert all(data[:4] == b"\x89PNG" for data in pictures.values())
    lines = [x for x in capsys.readouterr().out.splitlines() if not x.startswith("Picture: ")]
    assert len(lines) > 80 and max(map(len, lines)) <= 80
    assert "…" not in "".join(lines).replace("… of the whole text", "").replace("kl_penalty_…", "")
    for figure in figures:
        for axes in figure.axes:
            assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
            drawn = {artist.get_label() for artist in [*axes.lines, *axes.collections]}
            drawn = {label for label in drawn if not label.startswith("_")}
            assert drawn and drawn == {text.get_text() for text in axes.get_legend().texts}


def test_one_experiment_alone(tmp_path, capsys):
    kl_lab.main(["places", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["kl_lab_places.png"]
    with pytest.raises(SystemExit):
        kl_lab.main(["colours"])
    assert "invalid choice: 'colours'" in capsys.readouterr().err
