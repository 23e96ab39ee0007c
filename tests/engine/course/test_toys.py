"""The toys of kl_lab.py against autograd, torch's own divergence, and lists of all texts."""

import itertools
import math

import pytest
import torch

from engine.course import toys
from engine.course.toys import FORMULAS, PLACES


@pytest.fixture
def toy():
    logits, log_p = toys.toy_policy()
    return logits, logits.log_softmax(0), log_p


@pytest.fixture
def texts():
    return toys.toy_texts()


def close(got, want, atol=1e-12):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", FORMULAS)
def test_divergences_match_torch(toy, kind):
    _, log_q, log_p = toy
    pair = (log_p, log_q) if kind == "forward" else (log_q, log_p)
    want = torch.nn.functional.kl_div(*pair, reduction="sum", log_target=True)
    close(toys.divergence(kind, log_q, log_p), want)


def test_penalty_gradient_matches_autograd(toy):
    logits, log_q, log_p = toy
    cost = (log_q - log_p) ** 3
    logits = logits.clone().requires_grad_()
    surrogate = (log_q.exp() * cost * logits.log_softmax(0)).sum()
    want = torch.autograd.grad(surrogate, logits)[0]
    close(toys.penalty_gradient(cost, log_q), want)


def test_the_place_decides_what_is_differentiated(toy):
    """c, c′ and c + c′, by log q, worked out by hand for c = (log q − log p)³."""
    _, log_q, log_p = toy
    gap = log_q - log_p
    want = {"in the reward": gap**3, "in the loss": 3 * gap**2}
    want["in the loss × ratio"] = sum(want.values())
    for place in PLACES:
        close(toys.pull(place, lambda q, p: (q - p) ** 3, log_q, log_p), want[place])


def test_a_number_without_gradient_pulls_in_the_reward_alone(toy):
    _, log_q, log_p = toy
    plain = [toys.pull(p, lambda q, p: (q * p).detach(), log_q, log_p) for p in PLACES]
    assert plain[1] is plain[2] is None
    close(plain[0], log_q * log_p)


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_exact_pull_gives_the_exact_gradient(toy, kind):
    logits, log_q, log_p = toy
    got = toys.penalty_gradient(toys.exact_pull(kind, log_q, log_p), log_q)
    close(got, toys.exact_gradient(kind, logits, log_p))


def test_texts_are_listed_with_their_probabilities(texts):
    log_q = toys.token_log_probs(texts[0])
    assert log_q.shape == (16, 2)
    first = texts[0][:4].softmax(0)
    second = texts[0][4:].view(4, 4).softmax(1)
    for i, (a, b) in enumerate(itertools.product(range(4), range(4))):
        assert log_q[i, 0].exp().item() == pytest.approx(first[a].item(), abs=1e-12)
        assert log_q[i, 1].exp().item() == pytest.approx(second[a, b].item(), abs=1e-12)
    assert log_q.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", FORMULAS)
def test_divergences_of_texts_and_tokens_by_hand(texts, kind):
    """KL of the first token, plus the mean KL of the second one over its prefixes."""
    (q1, q2), (p1, p2) = ((x[:4].softmax(0), x[4:].view(4, 4).softmax(1)) for x in texts)

    def kl(q, p):
        first, second = (q, p) if kind == "forward" else (p, q)
        return (first * (first / second).log()).sum(-1)

    logs = texts.log_probs()
    close(toys.token_divergence(kind, *logs), kl(q1, p1) + q1 @ kl(q2, p2))
    writer = q1 if kind == "forward" else p1  # whose prefixes count
    close(toys.text_divergence(kind, *logs), kl(q1, p1) + writer @ kl(q2, p2))


@pytest.mark.parametrize("kind", FORMULAS)
def test_token_divergence_holds_the_prefix_fixed(texts, kind):
    """Its gradient is that of the same sum with the policy's first token as plain numbers."""
    logits, ref = texts
    logits = logits.clone().requires_grad_()
    (q1, q2), (p1, p2) = ((x[:4].softmax(0), x[4:].view(4, 4).softmax(1)) for x in (logits, ref))
    pairs = ((q1, p1), (q2, p2)) if kind == "forward" else ((p1, q1), (p2, q2))
    first, second = ((a * (a / b).log()).sum(-1) for a, b in pairs)
    want = torch.autograd.grad(first + q1.detach() @ second, logits)[0]
    close(toys.gradient_of_texts("tokens", kind, texts), want)


def test_expected_gradient_and_noise_of_a_penalty_on_texts(texts):
    """Against the gradients of the sixteen texts, written out: c · ∇ log q of the whole text."""
    logits = texts.logits
    penalty = toys.Penalty("in the reward", lambda q, p: q[:, 0] ** 2)
    log_q = toys.token_log_probs(logits)
    rows = []
    for i, (a, b) in enumerate(itertools.product(range(4), range(4))):
        score = torch.zeros(20, dtype=torch.float64)  # ∇ log q: 1 − q at the token, −q elsewhere
        score[:4] = -logits[:4].softmax(0)
        score[4 + 4 * a : 8 + 4 * a] = -logits[4 + 4 * a : 8 + 4 * a].softmax(0)
        score[a] += 1
        score[4 + 4 * a + b] += 1
        rows.append(log_q[i, 0] ** 2 * score)
    q = log_q.sum(1).exp()
    mean = sum(weight * row for weight, row in zip(q, rows))
    variance = sum(weight * (row @ row) for weight, row in zip(q, rows)) - mean @ mean
    close(toys.expected_gradient(penalty, texts), mean)
    want = (variance / (mean @ mean)).sqrt().item()
    assert toys.noise_of_gradient(penalty, texts) == pytest.approx(want, abs=1e-9)


def words(length):
    return toys.WORDS._replace(length=length)


def all_walks(policy):
    """(probability, good − bad, log q − log p) of every text of len(policy) tokens, listed."""
    length = len(policy)
    for moves in itertools.product(range(3), repeat=length):
        at, q, gap = length, 1.0, 0.0
        for t, move in enumerate(moves):
            step = policy[t, at, move]
            q, gap = q * step, gap + (step / toys.WORDS.reference[move]).log()
            at += toys.MOVES[move]
        yield q, at - length, gap


@pytest.mark.parametrize("held_by", toys.HELD_BY)
def test_the_walk_is_the_sum_over_all_texts(held_by):
    policy = toys.resting_policy(held_by, 0.3, words(4))
    listed = list(all_walks(policy))
    score = sum(q / (1 + math.exp(-balance)) for q, balance, _ in listed)
    nats = sum(q * gap for q, _, gap in listed)
    found = toys.walk(policy, words(4))
    assert found.score == pytest.approx(score.item(), abs=1e-12)
    assert found.nats.sum().item() == pytest.approx(nats.item(), abs=1e-12)
    square = sum(q / (1 + math.exp(-balance)) ** 2 for q, balance, _ in listed)
    assert found.spread == pytest.approx((square - score**2).sqrt().item(), abs=1e-9)


@pytest.mark.parametrize("held_by", toys.HELD_BY)
def test_the_policy_rests_where_the_gradient_is_zero(held_by):
    """Autograd through all texts of three tokens, at the logits of the resting policy."""
    holder = toys.HELD_BY[held_by]
    coefficient, length = 0.2, 3
    logits = toys.resting_policy(held_by, coefficient, words(length)).log().requires_grad_()
    policy = logits.softmax(-1)
    reference = toys.WORDS.p
    gain = sum(q / (1 + math.exp(-balance)) for q, balance, _ in all_walks(policy))
    at = torch.zeros(2 * length + 1, dtype=torch.float64)
    at[length] = 1.0
    divergence = 0.0
    for step in policy:
        first, second = (step, reference) if holder.kind == "forward" else (reference, step)
        visited = at if holder.later_tokens_count else at.detach()
        divergence = divergence + visited @ (first * (first / second).log()).sum(-1)
        at = sum((at * step[:, i]).roll(move) for i, move in enumerate(toys.MOVES))
    pull, push = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (gain, divergence))
    assert pull.abs().max() > 1e-3
    torch.testing.assert_close(pull, coefficient * push, atol=1e-9, rtol=0)


def test_held_by_texts_it_rests_at_the_tilted_reference():
    for coefficient in (0.3, 0.05):
        found = toys.walk(toys.resting_policy(toys.OF_TEXTS, coefficient))
        score, nats = toys.best_possible(coefficient)
        assert found.score == pytest.approx(score, abs=1e-9)
        assert found.nats.sum().item() == pytest.approx(nats, abs=1e-9)
        assert toys.fewest_nats(score) == pytest.approx(nats, abs=1e-9)


TEXTS = torch.tensor(list(itertools.product(range(3), repeat=8)))  # all texts of eight parts


def every_text(policy):
    """All 6561 texts: probability, (N,); balance before each part and at the end, (N, 9), as an
    index; and log q − log p of each part, (N, 8)."""
    moves = torch.tensor(toys.MOVES)[TEXTS]
    at = 8 + torch.cat([torch.zeros(len(TEXTS), 1).long(), moves.cumsum(1)], dim=1)
    q = policy[torch.arange(8), at[:, :-1], TEXTS]
    return q.prod(1), at, (q / toys.PARTS.p[TEXTS]).log()


def at_rest(held_by, coefficient):
    """(q, good − bad, Σ k1, Σ (1 − r)) of every text, (N,), where a policy so held rests."""
    q, at, gap = every_text(toys.resting_policy(held_by, coefficient, toys.PARTS))
    return q, at[:, -1] - 8, gap.sum(1), -(-gap).expm1().sum(1)


def test_where_a_penalty_rests_reward_minus_penalty_is_the_same_for_every_text():
    for coefficient in (0.1, 0.03):
        for held_by in toys.HELD_BY:
            q, balance, k1, one_minus_r = at_rest(held_by, coefficient)
            scores = 1 / (1 + (-0.8 * balance.double()).exp())
            spread = [(scores - coefficient * cost).std().item() for cost in (k1, one_minus_r)]
            is_equal = [held_by == toys.OF_TEXTS, held_by == "KL(ref‖policy) per token"]
            assert [s < 1e-9 for s in spread] == is_equal  # beta's number rests at neither
            assert all(s > 1e-2 for s, equal in zip(spread, is_equal) if not equal)
            assert (q @ one_minus_r).item() == pytest.approx(0, abs=1e-12)


def test_of_whole_texts_forward_alone_keeps_the_odds_of_equal_texts():
    """Texts with one good part more than bad ones: equal in reward, in whatever order."""
    for held_by, low, high in (
        (toys.OF_TEXTS, 0.61214, 0.61214),
        ("KL(ref‖policy) per token", 0.39079, 9.81628),
    ):
        _, balance, k1, _ = at_rest(held_by, 0.1)
        share = k1[balance == 1].exp()  # q/p
        assert share.min().item() == pytest.approx(low, abs=1e-5)
        assert share.max().item() == pytest.approx(high, abs=1e-5)


@pytest.mark.parametrize(
    "held_by, coefficient, nats, kept",
    [
        (toys.OF_TEXTS, 0.1, 1.2135, 1.9015e-4),
        (toys.OF_TEXTS, 0.2244, 0.6, 1.55e-2),
        (toys.OF_TEXTS, 0.1548, 0.88, 3.34e-3),
        (toys.OF_TEXTS, 0.1018, 1.2, 2.20e-4),
        (toys.OF_TEXTS, 0.0596, 1.6, 6.52e-7),
        ("KL(ref‖policy) per token", 0.1, 1.1190, 2.0118e-3),
        ("KL(ref‖policy) per token", 0.2006, 0.6, 1.66e-2),
        ("KL(ref‖policy) per token", 0.1259, 0.94, 4.33e-3),
        ("KL(ref‖policy) per token", 0.0902, 1.2, 1.40e-3),
        ("KL(ref‖policy) per token", 0.0553, 1.6, 2.24e-4),
    ],
)
def test_what_is_left_of_low_texts(held_by, coefficient, nats, kept):
    """The share of texts below 0.2: 23 % of the reference's. c · p/Δ, of a token, says 2 %."""
    low = toys.WORDS.scores < 0.2
    reference = toys.WORDS.p.expand(32, 65, 3)
    assert toys.balances(reference)[-1][low].sum().item() == pytest.approx(0.23378, abs=1e-5)
    policy = toys.resting_policy(held_by, coefficient)
    assert toys.walk(policy).nats.sum().item() == pytest.approx(nats, abs=1e-3)
    assert toys.balances(policy)[-1][low].sum().item() == pytest.approx(kept, rel=5e-3)


def value_of_prefixes(credit, coefficient, policy):
    """The value of each text after each part, (N, 9), by a least-squares line over all texts."""
    q, at, gap = every_text(policy)
    scores = 1 / (1 + (-0.8 * (at - 8.0)).double().exp())
    values = scores.clone()
    for k in range(8 if credit.fitted else 0):
        target = scores[:, -1] - coefficient * gap[:, k:].sum(1)
        root = q.sqrt()[:, None]
        columns = torch.stack([torch.ones_like(q), scores[:, k]], dim=1)
        columns = columns[:, :1] if k == 0 else columns  # before the first part all are alike
        line = torch.linalg.lstsq(root * columns, root * target[:, None]).solution
        values[:, k] = (columns @ line)[:, 0]
    return values


@pytest.mark.parametrize("coefficient", [0.1, 0.03])
@pytest.mark.parametrize("by", toys.CREDITS)
def test_by_its_credit_a_policy_rests_where_the_update_is_zero(by, coefficient):
    """E[A_k · ∇ log q(part k)], summed over all texts, by the definition of the credit A_k."""
    credit = toys.CREDITS[by]
    policy = toys.resting_by_credit(credit, coefficient)
    q, at, gap = every_text(policy)
    earned = value_of_prefixes(credit, coefficient, policy).diff(dim=1) - coefficient * gap
    later = torch.zeros_like(q)
    update = torch.zeros_like(policy)
    for k in reversed(range(8)):
        later = earned[:, k] + credit.decay * later  # A_k
        here = at[:, k]
        of_moves = torch.zeros(17, 3, dtype=torch.float64)
        of_moves.index_put_((here, TEXTS[:, k]), q * later, accumulate=True)
        update[k] = of_moves - policy[k] * of_moves.sum(1, keepdim=True)
    assert update.abs().max() < 1e-9
    if not credit.fitted and credit.decay < 1:  # the optimum is another policy
        optimum = toys.resting_by_credit(toys.CREDITS["the whole completion"], coefficient)
        assert (optimum - policy).abs().max() > 0.01


def test_a_credit_of_all_that_comes_later_rests_at_the_optimum():
    for coefficient in (0.1, 0.03):
        policy = toys.resting_by_credit(toys.CREDITS["the whole completion"], coefficient)
        found = toys.walk(policy, toys.PARTS)
        score, nats = toys.best_possible(coefficient, toys.PARTS)
        assert found.score == pytest.approx(score, abs=1e-9)
        assert found.nats.sum().item() == pytest.approx(nats, abs=1e-9)
        policy = toys.resting_by_credit(toys.Credit(1.0, fitted=True), coefficient)
        assert toys.walk(policy, toys.PARTS).score == pytest.approx(score, abs=1e-9)
