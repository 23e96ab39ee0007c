import math

import pytest
import torch

import kl_lab


@pytest.fixture
def toy():
    logits, log_p = kl_lab.toy_policy()
    return logits, logits.log_softmax(0), log_p


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_divergences_match_torch(toy, kind):
    _, log_q, log_p = toy
    pair = (log_p, log_q) if kind == "forward" else (log_q, log_p)
    want = torch.nn.functional.kl_div(*pair, reduction="sum", log_target=True)
    assert kl_lab.divergence(kind, log_q, log_p).item() == pytest.approx(want.item(), abs=1e-12)


def test_penalty_gradient_matches_autograd(toy):
    logits, log_q, log_p = toy
    cost = (log_q - log_p) ** 3
    logits = logits.clone().requires_grad_()
    surrogate = (log_q.exp() * cost * logits.log_softmax(0)).sum()
    want = torch.autograd.grad(surrogate, logits)[0]
    torch.testing.assert_close(kl_lab.penalty_gradient(cost, log_q), want, atol=1e-12, rtol=0)


def test_estimators_have_the_bias_that_theory_says(toy):
    _, log_q, log_p = toy
    for name, (kind, estimate) in kl_lab.ESTIMATORS.items():
        _, bias, _ = kl_lab.statistics(kind, estimate(log_q, log_p), log_q, log_p)
        assert (abs(bias) < 1e-12) == (not name.startswith("k2"))


def test_what_each_number_does_as_a_penalty(toy, solution):
    logits, _, log_p = toy
    own = kl_lab.own_penalties(solution)
    rows = kl_lab.experiment({**kl_lab.ESTIMATORS, **own}, logits, log_p)
    for name in ("k1 = −log r", *own):
        assert rows[name]["pull"] == pytest.approx(1, abs=1e-5)
        assert rows[name]["path"][-1] < 1e-6
    assert rows["r·log r"]["pull"] < -0.9
    assert rows["r·log r"]["path"][-1] == math.inf
    assert all(abs(rows[n]["pull"]) < 0.6 for n in rows if n.startswith(("k2", "k3", "r·log r −")))
    assert all(rows[n]["path"][-1] > rows[n]["path"][0] for n in rows if n.startswith(("k2", "k3")))


def test_the_command_writes_its_picture(tmp_path, capsys):
    kl_lab.main(["--out", str(tmp_path / "lab.png")])
    assert (tmp_path / "lab.png").read_bytes()[:4] == b"\x89PNG"
    assert "r·log r" in capsys.readouterr().out


def test_unsolved_penalties_are_left_out():
    class Unsolved:
        def kl_penalty_forward(*args, **kwargs):
            raise NotImplementedError("Exercise 3b: implement kl_penalty_forward")

        def kl_penalty_backward(log_q, log_p, mask, kl_coef=0.1):
            return kl_coef * (log_q - log_p)[:, 0]

    assert list(kl_lab.own_penalties(Unsolved)) == ["kl_penalty_backward"]
