"""The exercises. Each test runs on the solution and on the student's file."""

import math

import pytest
import torch

PENALTIES = pytest.mark.parametrize(
    "name",
    [
        pytest.param("forward", marks=pytest.mark.exercise3b),
        pytest.param("backward", marks=pytest.mark.exercise3c),
    ],
)
TEXTS = [" a wonderful film that I loved.", " a terrible film that I hated.", ""]


def as_list(values):
    return [float(v) for v in values]


@pytest.mark.exercise1
def test_sentiment_reward_is_the_score(rewards):
    from sentiment import get_sentiment_scores

    assert as_list(rewards.sentiment_reward(TEXTS)) == pytest.approx(get_sentiment_scores(TEXTS))


@pytest.mark.exercise2a
def test_exponential_shaping(rewards, monkeypatch):
    monkeypatch.setattr(rewards, "get_sentiment_scores", lambda texts: [0.0, 0.5, 1.0])
    want = [0.0, 0.6487212707, 1.7182818285]  # exp(s) − 1
    assert as_list(rewards.shaped_reward_exponential(TEXTS)) == pytest.approx(want, abs=1e-6)
    want = [0.0, 1.7182818285, 6.3890560989]  # exp(2 s) − 1
    got = as_list(rewards.shaped_reward_exponential(TEXTS, temperature=0.5))
    assert got == pytest.approx(want, abs=1e-6)


@pytest.mark.exercise2b
def test_shaped_reward_prefers_the_better_score_and_no_repetition(rewards):
    plain = " a quiet story about two people who meet again in a small town by the sea."
    repetitive = " great great great great great great great great great great great great great."
    low, high = as_list(rewards.shaped_reward([0.2, 0.9], [plain, plain], ["It is"] * 2))
    assert low < high
    same, repeated = as_list(rewards.shaped_reward([0.9, 0.9], [plain, repetitive]))
    assert repeated <= same
    assert all(map(math.isfinite, as_list(rewards.shaped_reward([0.5], [""]))))


@pytest.mark.exercise3a
def test_ref_log_probs_sum_over_the_completion(rewards, policy):
    model, tokenizer = policy
    prompts = ["This movie was", "The plot", "It is"]
    completions = [" very good.", " of this film is not new", ""]
    got = as_list(rewards.compute_ref_log_probs(completions, prompts, model, tokenizer))
    for prompt, completion, value in zip(prompts, completions, got):
        ids = tokenizer(prompt)["input_ids"]
        want = 0.0
        for token in tokenizer(completion)["input_ids"] if completion else []:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].double()
            want += (logits[token] - logits.logsumexp(0)).item()
            ids = [*ids, token]
        assert value == pytest.approx(want, abs=1e-4)


Q = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, -9.0]])
P = torch.tensor([[-1.5, -1.0, -0.5], [-1.0, -4.0, -1.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.exercise3b
def test_forward_penalty_by_hand(rewards):
    # q − p: (0.5 − 1.0 + 0.0) and (−2.0 + 3.0), the last token of the second row is padding
    got = rewards.kl_penalty_forward(Q, P, MASK, kl_coef=0.1)
    assert as_list(got) == pytest.approx([-0.05, 0.1], abs=1e-6)
    assert as_list(rewards.kl_penalty_forward([-1.0, -2.0], [-3.0, -1.5], None, 0.1)) == (
        pytest.approx([0.2, -0.05], abs=1e-6)
    )


@pytest.mark.exercise3c
def test_backward_penalty_by_hand(rewards):
    # 1 − r, r = exp(p − q) cut at 10: (1 − e^−0.5) + (1 − e) + 0 and (1 − e²) + (1 − e^−3)
    got = rewards.kl_penalty_backward(Q, P, MASK, kl_coef=0.1)
    want = [0.1 * (0.3934693403 - 1.7182818285), 0.1 * (-6.3890560989 + 0.9502129316)]
    assert as_list(got) == pytest.approx(want, abs=1e-5)
    got = rewards.kl_penalty_backward([-20.0], [-1.0], None, kl_coef=1.0)
    assert as_list(got) == pytest.approx([-9.0], abs=1e-4)  # r is cut at 10


@PENALTIES
def test_penalties_vanish_where_the_models_agree(rewards, name):
    penalty = getattr(rewards, f"kl_penalty_{name}")
    assert as_list(penalty(Q, Q, MASK)) == pytest.approx([0, 0], abs=1e-6)


@PENALTIES
def test_penalties_pull_with_the_exact_gradient(rewards, name):
    """Σ_x q(x) c(x) ∇log q(x) against the gradient of the divergence by autograd."""
    torch.manual_seed(0)
    logits = (0.5 * torch.randn(8, dtype=torch.float64)).requires_grad_()
    p = (0.5 * torch.randn(8, dtype=torch.float64)).log_softmax(0)
    q = logits.log_softmax(0)
    mask = torch.ones(8, 1, dtype=torch.bool)
    cost = getattr(rewards, f"kl_penalty_{name}")(
        q.detach().float()[:, None], p.float()[:, None], mask, kl_coef=1.0
    )
    got = torch.autograd.grad((q.exp().detach() * torch.as_tensor(cost) * q).sum(), logits)[0]
    q = logits.log_softmax(0)
    forward, backward = (q.exp() * (q - p)).sum(), (p.exp() * (p - q)).sum()
    want = torch.autograd.grad(forward if name == "forward" else backward, logits)[0]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.bonus
def test_custom_reward_gives_a_number_for_each_text(rewards):
    got = as_list(rewards.my_custom_reward(TEXTS))
    assert len(got) == len(TEXTS) and all(map(math.isfinite, got))


def test_student_file_is_generated_from_the_solution():
    from pathlib import Path

    from instructor.make_rewards import student_text

    root = Path(__file__).parent.parent
    solution = (root / "rewards_solution.py").read_text(encoding="utf-8")
    student = (root / "rewards.py").read_text(encoding="utf-8")
    assert student == student_text(solution)
    assert student.count("raise NotImplementedError") == 6
    assert "SOLUTION" not in student


def test_docstring_examples():
    import doctest

    import evaluate
    import rewards_solution
    import sentiment

    for module in (rewards_solution, sentiment, evaluate):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0
