import math

import pytest
import torch

import grpo_from_scratch as grpo
from engine.common import ROOT


def test_beta_by_hand():
    old = torch.tensor([[0.5, 0.5]]).log()
    new = torch.tensor([[0.55, 0.4]]).log()
    ref = torch.tensor([[0.11, 0.8]]).log()  # r = 0.2 and 2
    mask = torch.ones(1, 2, dtype=torch.bool)
    got = grpo.kl_loss(new, old, mask, grpo.KLTerm(2.0, ref))
    # k3 = r − 1 − log r, each times the ratio 1.1 or 0.8
    want = 1.1 * (-0.8 + math.log(5)) + 0.8 * (1 - math.log(2))
    assert got.item() == pytest.approx(2.0 * want / 2, abs=1e-6)


def test_trl_makes_the_same_advantages_and_the_same_loss(solution, tmp_path, monkeypatch):
    import trl

    import data
    import train
    from engine.model.scoring import compute_log_probs

    score, compute_loss = trl.GRPOTrainer._calculate_rewards, trl.GRPOTrainer.compute_loss
    seen = {}

    def recorded_rewards(self, *args, **kwargs):
        rewards = score(self, *args, **kwargs)  # (B, 1): there is one reward function
        seen["rewards"] = rewards[:, 0]
        return rewards

    def recorded_loss(self, model, inputs, **kwargs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        now = compute_log_probs(model, ids, attention, inputs["completion_ids"].shape[1])
        mask, advantages = inputs["completion_mask"].bool(), inputs["advantages"]
        loss = compute_loss(self, model, inputs, **kwargs)
        seen["advantages"] = advantages
        seen["first step"] = loss, solution.policy_loss(now, now.detach(), advantages, mask)
        # As if other weights had sampled, so that ratios differ from 1 and clipping bites.
        shift = 0.4 * torch.randn(now.shape, generator=torch.Generator().manual_seed(0))
        other = {**inputs, "old_per_token_logps": now.detach() + shift}
        old = other["old_per_token_logps"]
        seen["clipped"] = (
            compute_loss(self, model, other, **kwargs),
            solution.policy_loss(now, old, advantages, mask),
        )
        # And held near a reference by TRL's beta, by way of its gradient.
        other["ref_per_token_logps"] = now.detach() - 2 * shift.roll(1, 0)
        kl_term = grpo.KLTerm(0.3, other["ref_per_token_logps"])
        self.beta = kl_term.beta
        seen["with beta"] = (
            compute_loss(self, model, other, **kwargs),
            solution.policy_loss(now, old, advantages, mask)
            + grpo.kl_loss(now, old, mask, kl_term),
        )
        self.beta = 0.0
        weight = self.accelerator.unwrap_model(model).transformer.ln_f.weight
        seen["gradient with beta"] = tuple(
            torch.autograd.grad(x, weight, retain_graph=True)[0] for x in seen["with beta"]
        )
        return loss

    monkeypatch.setattr(data, "VALIDATION_PROMPTS", data.VALIDATION_PROMPTS[:4])
    monkeypatch.setattr(trl.GRPOTrainer, "_calculate_rewards", recorded_rewards)
    monkeypatch.setattr(trl.GRPOTrainer, "compute_loss", recorded_loss)
    train.train(
        preset="tiny",
        max_steps=1,
        batch_size=8,
        num_generations=4,
        max_completion_length=8,
        output_dir=str(tmp_path / "out"),
    )
    want = solution.group_advantages(seen.pop("rewards"), 4)
    assert want.abs().max() > 0.5
    got = seen.pop("advantages").sort().values  # TRL shuffles the batch before the loss
    torch.testing.assert_close(got, want.sort().values, atol=1e-5, rtol=0)
    for trl_value, own_value in seen.values():
        torch.testing.assert_close(trl_value, own_value, atol=1e-5, rtol=0)
    assert seen["clipped"][1].abs() > 0.01 and seen["gradient with beta"][1].abs().max() > 0.01
    assert (seen["with beta"][1] - seen["clipped"][1]).abs() > 0.05


def test_the_toy_learns_the_best_word(solution):
    history = grpo.train_toy(solution)
    assert history[0].tolist() == pytest.approx([1 / 6] * 6)
    assert history[-1].argmax() == 5 and history[-1][5] > 0.9


def test_with_a_kl_penalty_the_end_is_the_known_one(solution):
    # the optimum of E[reward] − kl_coef · KL(q‖p) is q ∝ p · exp(reward / kl_coef)
    want = (grpo.REWARDS / 0.5).softmax(0)
    got = grpo.train_toy(solution, grpo.Held(kl_coef=0.5), steps=300, groups=64, learning_rate=0.1)[
        -20:
    ].mean(0)
    torch.testing.assert_close(got, want, atol=0.03, rtol=0)


def test_with_beta_it_rests_at_the_coefficient_that_is_beta_times_the_spread(solution):
    """Advantages are rewards over their spread, so beta · spread is reward per nat."""
    got = grpo.train_toy(
        solution,
        grpo.Held(beta=1.0),
        steps=300,
        groups=64,
        num_generations=64,
        learning_rate=0.1,
    )
    policy = got[-20:].mean(0)
    spread = (policy @ (grpo.REWARDS - policy @ grpo.REWARDS) ** 2).sqrt()
    want = (grpo.REWARDS / (1.0 * spread)).softmax(0)
    torch.testing.assert_close(policy, want, atol=0.03, rtol=0)
    assert spread < 0.9 * grpo.REWARDS.std(correction=0)


def test_the_command_shows_the_policy_while_it_learns_in_80_columns(capsys):
    grpo.main(["--use_solution"] * (ROOT / "rewards_solution.py").exists())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    steps = [int(line.split()[0]) for line in lines if line[:1].isdigit()]
    assert steps == list(range(0, 61, 5))


def test_a_row_of_the_policy_by_hand():
    policy = torch.tensor([0.0, 0.02, 0.1, 0.5, 0.375, 0.0])
    # a bar of five characters in eighths: 0, 1, 4, 20, 15, 0; mean 0.004 + 0.05 + 0.35 + 0.3375
    bars = ["       0% ", "▏      2% ", "▌     10% ", "██▌   50% ", "█▉    38% ", "       0% "]
    assert grpo.row("start", policy) == f"{'start':12}{''.join(bars)}0.74"
