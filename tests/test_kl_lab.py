import math

import pytest

import kl_lab
from engine.common import UserError
from engine.course import toys


class Numbers:
    """A rewards file: one penalty returns plain floats, the other a tensor with a gradient."""

    def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
        return (kl_coef * (policy_log_probs - ref_log_probs)).sum(-1).tolist()

    def kl_penalty_backward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
        return kl_coef * (policy_log_probs - ref_log_probs).tanh().sum(-1)


@pytest.fixture
def toy():
    logits, log_p = kl_lab.toy_policy()
    return logits, logits.log_softmax(0), log_p


def test_estimators_have_the_bias_that_theory_says(toy):
    _, log_q, log_p = toy
    for name, (kind, estimate) in kl_lab.ESTIMATORS.items():
        _, bias, _ = toys.statistics(kind, estimate(log_q, log_p), log_q, log_p)
        assert (abs(bias) < 1e-12) == (not name.startswith("k2"))


def test_what_each_estimate_does_as_a_penalty(toy):
    logits, _, log_p = toy
    rows = kl_lab.compare_penalties(kl_lab.ESTIMATORS, logits, log_p)
    assert rows["k1 = −log r"]["pull"] == pytest.approx(1, abs=1e-6)
    assert rows["k1 = −log r"]["path"][-1] < 1e-6
    assert rows["r·log r"]["pull"] < -0.9
    assert rows["r·log r"]["path"][-1] == math.inf
    assert all(abs(rows[n]["pull"]) < 0.6 for n in rows if n.startswith(("k2", "k3", "r·log r −")))
    assert all(rows[n]["path"][-1] > rows[n]["path"][0] for n in rows if n.startswith(("k2", "k3")))


def test_what_each_estimate_does_in_the_loss(toy):
    logits, _, log_p = toy
    rows = kl_lab.compare_places(kl_lab.ESTIMATORS, logits, log_p)
    k1, k2, k3 = (rows[name] for name in (kl_lab.K1, kl_lab.K2, kl_lab.K3))
    assert k1["in the loss"] == {"forward": None, "backward": None}
    exact = [(k1, "in the reward", "forward"), (k1, "in the loss × ratio", "forward")]
    exact += [(k2, "in the loss", "forward"), (k3, "in the loss × ratio", "forward")]
    exact += [(k3, "in the loss", "backward")]
    for row, place, kind in exact:
        assert row[place][kind] == pytest.approx(1, abs=1e-6)
    wrong = [(k2, "in the reward"), (k3, "in the reward"), (k2, "in the loss × ratio")]
    assert all(max(row[place].values()) < 0.999 for row, place in wrong)


def test_students_functions_take_part_with_or_without_a_gradient(toy):
    logits, log_q, log_p = toy
    own = kl_lab.own_penalties(Numbers)
    rows = kl_lab.compare_places(own, logits, log_p)
    assert list(rows["kl_penalty_forward"]) == ["in the reward"]
    assert rows["kl_penalty_forward"]["in the reward"]["forward"] == pytest.approx(1, abs=1e-6)
    assert list(rows["kl_penalty_backward"]) == list(toys.PLACES)
    table = kl_lab.compare_texts(kl_lab.text_penalties(own), *toys.toy_texts())
    assert table["kl_penalty_forward"]["texts", "forward"] < 1e-6
    assert table["kl_penalty_forward (texts)"]["texts", "forward"] < 1e-6
    assert 0.01 < table["kl_penalty_backward"]["texts", "backward"] < 1


def test_an_error_in_a_students_function_is_shown(toy):
    class Broken(Numbers):
        def kl_penalty_forward(policy_log_probs, ref_log_probs, mask, kl_coef=0.1):
            return 1 / 0

    with pytest.raises(UserError, match="kl_penalty_forward failed: ZeroDivisionError"):
        kl_lab.own_penalties(Broken)


def test_unsolved_penalties_are_left_out():
    class Unsolved(Numbers):
        def kl_penalty_forward(*args, **kwargs):
            raise NotImplementedError("Exercise 3b: implement kl_penalty_forward")

    assert list(kl_lab.own_penalties(Unsolved)) == ["kl_penalty_backward"]


def test_estimates_of_the_value_of_texts_and_of_tokens():
    rows = kl_lab.compare_values(*toys.toy_texts())
    logs = [toys.token_log_probs(x) for x in toys.toy_texts()]
    apart = toys.token_divergence("backward", *logs) - toys.text_divergence("backward", *logs)
    for name, (kind, _, text_bias, token_bias, _) in rows.items():
        assert min(abs(text_bias), abs(token_bias)) < 1e-12
        gap = apart.item() if kind == "backward" else 0.0
        assert text_bias - token_bias == pytest.approx(gap, abs=1e-12)
        if name.endswith("of the text"):
            assert abs(text_bias) < 1e-12
    assert abs(apart) > 1e-3


def test_the_best_possible_policy_pays_least():
    for held_by, _, found, fewest in kl_lab.compare_beta((0.3, 0.03)):
        factor = found["nats"].sum().item() / fewest
        if held_by == "KL(policy‖ref) of texts":
            assert factor == pytest.approx(1, abs=1e-6)
        else:  # and the prefix held fixed leaves the work to the later tokens
            assert factor > 1.01
            assert found["nats"][16:].sum() > 0.6 * found["nats"].sum()


def test_the_command_shows_and_draws_every_experiment_in_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(kl_lab, "COEFFICIENTS", (0.1,))
    monkeypatch.setattr(kl_lab, "load_rewards", lambda path: Numbers)
    kl_lab.main(["--out", str(tmp_path / "new")])
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert set(pictures) == {f"kl_lab_{name}.png" for name in kl_lab.EXPERIMENTS}
    assert all(data[:4] == b"\x89PNG" for data in pictures.values())
    lines = [x for x in capsys.readouterr().out.splitlines() if not x.startswith("Picture: ")]
    assert len(lines) > 80 and max(map(len, lines)) <= 80
    assert "…" not in "".join(lines).replace("… of the whole text", "").replace("kl_penalty_…", "")


def test_every_panel_has_a_title_a_legend_and_names_on_its_axes(monkeypatch):
    monkeypatch.setattr(kl_lab, "COEFFICIENTS", (0.1,))
    monkeypatch.setattr(kl_lab, "show", lambda what: None)
    own = kl_lab.own_penalties(Numbers)
    for experiment in kl_lab.EXPERIMENTS.values():
        for axes in experiment(own).axes:
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
