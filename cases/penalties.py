"""Exercises 3b and 3c: penalties. A penalty is a number without gradient.

What it does to the policy is examined where expectations are exact: a policy over a few tokens, all
of them listed. q and p are log-probabilities of the policy and of the reference.
"""

import torch

from cases.asking import Finding, Mistake, Wrong, close, show
from engine.course.toys import exact_gradient


def random_log_probs(rng, texts, tokens):
    values = [[-4 * rng.random() - 0.05 for _ in range(tokens)] for _ in range(texts)]
    return torch.tensor(values)


def costs_nothing_where_the_models_agree(ask, rng):
    """policy and reference agree, so there is nothing to pay."""
    same = random_log_probs(rng, 2, 3)
    mask = torch.ones(2, 3).bool()
    got = ask(policy_log_probs=same, ref_log_probs=same.clone(), mask=mask)
    if close(got, [0.0, 0.0], 1e-6):
        return None
    arguments = ask.arguments  # what the report is about
    answer = ask.answer
    q, p = toy_policies(rng, 0.5)
    cost = cost_of_each_token(ask, q, p)
    agreed = cost_of_each_token(ask, q, q)
    ask.arguments = arguments
    ask.answer = answer
    pulls = (correlation(cost, q - p, q.exp()) > 0.3).all()
    if pulls and close(agreed, agreed.mean().expand_as(agreed)):
        each = f"{agreed.mean():+.3g} · kl_coef"
        cause = f"a constant: right but for {each} at every token; take it away"
        return Finding("[0, 0]", cause)
    return Finding("[0, 0]", "both models must enter: compare them, token by token")


def ignores_padding(ask, rng):
    """what stands at padded positions does not matter."""
    q, p = random_log_probs(rng, 2, 4), random_log_probs(rng, 2, 4)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    want = ask(policy_log_probs=q, ref_log_probs=p, mask=mask, kl_coef=1.0)
    for padding in (-30.0, 0.0):
        got = ask(
            policy_log_probs=torch.where(mask, q, padding),
            ref_log_probs=torch.where(mask, p, padding / 3 - 1),
            mask=mask,
            kl_coef=1.0,
        )
        if not close(got, want, 1e-5):
            return Finding(f"{show(want)}, as with other padding", "the mask: apply it before sum")
    return None


def sums_over_tokens(ask, rng):
    """a completion of two halves costs what the halves cost."""
    q, p = random_log_probs(rng, 2, 4), random_log_probs(rng, 2, 4)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    halves = [
        ask(policy_log_probs=q[:, s], ref_log_probs=p[:, s], mask=mask[:, s], kl_coef=1.0)
        for s in (slice(0, 2), slice(2, 4))
    ]
    want = halves[0] + halves[1]
    got = ask(policy_log_probs=q, ref_log_probs=p, mask=mask, kl_coef=1.0)
    if close(got, want, 1e-4):
        return None
    mean = close(got, want / 2) or close(got[0], want[0] / 2)
    cause = "the sum: this is a mean, which makes long texts cheap" if mean else "the sum"
    return Finding(f"{show(want)}: both halves together", cause)


def grows_with_kl_coef(ask, rng):
    """twice the coefficient, twice the penalty; the default is 0.1."""
    arguments = dict(
        policy_log_probs=random_log_probs(rng, 2, 3),
        ref_log_probs=random_log_probs(rng, 2, 3),
        mask=torch.ones(2, 3).bool(),
    )
    one = ask(**arguments, kl_coef=1.0)
    for expected, more in ((one / 10, {}), (2 * one, {"kl_coef": 2.0}), (0 * one, {"kl_coef": 0})):
        got = ask(**arguments, **more)
        if not close(got, expected, 1e-5):
            return Finding(show(expected), "kl_coef: multiply by it, once, outside exp()")
    return None


def toy_policies(rng, spread, count=6, tokens=8):
    """(log q, log p) pairs, (2·count, tokens) each: a reference p, and policies q on either side
    of it at the same distance."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    p = torch.randn(count, tokens, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(count, tokens, generator=generator, dtype=torch.float64)
    q = torch.cat([p + step, p - step]).log_softmax(-1)
    return q, torch.cat([p, p]).log_softmax(-1)


def correlation(a, b, weights):
    """Of the columns of a and b, (R, V), under the probabilities `weights`, (R, V)."""
    a, b = (x - (weights * x).sum(-1, keepdim=True) for x in (a, b))
    covariance = (weights * a * b).sum(-1)
    scale = (weights * a * a).sum(-1) * (weights * b * b).sum(-1)
    return covariance / scale.sqrt().clamp(min=1e-30)


def cost_of_each_token(ask, q, p):
    """The penalty of every token of toy policies: (R, V)."""
    mask = torch.ones(q.numel(), 1).bool()
    arguments = dict(policy_log_probs=q.reshape(-1, 1).float(), mask=mask, kl_coef=1.0)
    return ask(**arguments, ref_log_probs=p.reshape(-1, 1).float()).view(q.shape)


def known_mistakes(q, p):
    """What people write in the place of a penalty, as costs of each token."""
    log_r = p - q
    r = log_r.exp()
    sign = "the sign: positive where the policy likes the token more than the reference"
    ratio = "the ratio: it is upside down"
    value = "value and penalty: this estimates the divergence, yet as a number to subtract it "
    flat = f"{value}does not pull; read the docstring again"
    away = f"{value}pushes the policy away; read the docstring again"
    size = "the size: without its sign, it punishes a token for being too rare as well"
    no_policy = "the policy: only the reference enters"
    no_reference = "the reference: only the policy enters"
    return [
        Mistake(sign, log_r),
        Mistake(sign, r - 1),
        Mistake(ratio, 1 - 1 / r),
        Mistake(ratio, 1 / r - 1),
        Mistake(flat, log_r**2 / 2),
        Mistake(flat, r - 1 - log_r),
        Mistake(away, r * log_r),
        Mistake(away, r * log_r - (r - 1)),
        Mistake(size, log_r.abs()),
        Mistake(no_policy, -p),
        Mistake(no_policy, -p.exp()),
        Mistake(no_reference, -q),
        Mistake(no_reference, q),
    ]


def pulls_the_policy_back(ask, rng):
    """subtracted from the reward, the penalty pulls the policy back to the reference.

    The natural gradient changes KL(policy‖ref) at the rate −Cov_q[c, log q − log p]. For every c
    that rises with log q − log p the covariance is positive (Chebyshev), whatever its form.
    """
    for spread in (0.1, 0.5, 1.0):
        q, p = toy_policies(rng, spread)
        cost = cost_of_each_token(ask, q, p)
        pull = correlation(cost, q - p, q.exp())
        if (pull > 0.3).all():
            continue
        explained = (
            mistake.cause
            for mistake in known_mistakes(q, p)
            if (correlation(cost, mistake.values, q.exp()) > 0.999).all()
        )
        cause = "which tokens become dearer"
        if close(cost, cost[0, 0].expand_as(cost), 1e-6):
            cause = "the difference: every token costs the same"
        elif (pull < -0.3).all():
            cause = "the sign"
        return Finding(
            "dearer, the more the policy prefers a token over the reference "
            f"(correlation with log q − log p above 0.3; it is {pull.min():.2f} at worst)",
            next(explained, cause),
        )
    return None


def belongs_to_its_divergence(ask, rng):
    """it holds the policy by its own divergence, not by the other one."""
    # One token that the reference hardly knows, two that the policy has half given up.
    q = torch.tensor([[0.1, 0.8, 0.05, 0.05]], dtype=torch.float64).log()
    p = torch.tensor([[0.0015, 0.6595, 0.136, 0.203]], dtype=torch.float64).log()
    cost = cost_of_each_token(ask, q, p)
    pulls = {}  # how closely the cost follows the exact gradient of each divergence
    for kind in ("forward", "backward"):
        exact = exact_gradient(kind, q[0], p[0]) / q.exp()  # (1, V): of a softmax, q · (c − mean)
        pulls[f"kl_penalty_{kind}"] = correlation(cost, exact, q.exp()).item()
    own = pulls.pop(ask.name)
    (other,) = pulls.values()
    if other < 0.999 or own > 0.99:
        return None
    return Finding(
        "a penalty for its own divergence",
        "forward and backward: this is the penalty of the other one",
    )


def depends_on_the_difference_alone(ask, rng):
    """equal differences cost the same, whether the token is likely or rare."""
    likely_to_rare = torch.tensor([-1.1, -2.0, -4.0, -7.0]) - 0.5 * rng.random()
    for difference in (-0.8, -0.2, 0.2, 0.8):
        cost = cost_of_each_token(ask, likely_to_rare, likely_to_rare - difference)
        if not close(cost, cost[0].expand_as(cost), 1e-3 * (1 + abs(cost[0].item()))):
            return Finding(
                f"one number, four times: log q − log p is {difference:g} everywhere",
                "the probability: it weighs the difference, so some tokens are hardly held; "
                "let log q − log p alone decide",
            )
    return None


def refunds_what_it_charges(ask, rng):
    """close to agreement, liking a token a little too little earns what a little too much costs.

    Otherwise every token costs something on average, and the shortest text is the cheapest.
    """
    q = torch.tensor([-1.0 - rng.random()]).expand(3)
    less, same, more = cost_of_each_token(ask, q, q - torch.tensor([-0.02, 0.0, 0.02])).tolist()
    charged = more - same
    refunded = same - less
    if abs(charged - refunded) <= 0.1 * abs(charged + refunded) + 1e-6:
        return None
    cause = "the size: without its sign, a token costs for being too rare as well"
    if abs(refunded) < abs(charged) and charged * refunded >= 0:
        cause = "the cut: the negative half brings back what the policy has given up; keep it"
    return Finding(f"as far below {same:.4g} as above it", cause)


def stays_finite(ask, rng):
    """a finite number even where one model finds the text impossible."""
    try:
        ask(
            policy_log_probs=torch.tensor([[-150.0], [-0.1]]),
            ref_log_probs=torch.tensor([[-0.1], [-150.0]]),
            mask=torch.ones(2, 1).bool(),
            kl_coef=1.0,
        )
    except Wrong as wrong:
        if "returned inf" in str(wrong) or "returned -inf" in str(wrong):
            cause = "exp() overflows: clamp log r from above, at log 1000 say"
        elif "returned nan" in str(wrong):
            cause = "inf − inf, inf · 0 or 0 / 0: clamp log r from above, at log 1000 say"
        else:
            raise  # another mistake, which has its own words
        return Finding("finite numbers", cause)


def works_on_paper(ask, rng):
    """two plain lists, one log-probability per completion, give the same as tensors."""
    q, p = random_log_probs(rng, 3, 1), random_log_probs(rng, 3, 1)
    want = ask(policy_log_probs=q, ref_log_probs=p, mask=torch.ones(3, 1).bool(), kl_coef=0.5)
    got = ask(
        policy_log_probs=q[:, 0].tolist(),
        ref_log_probs=p[:, 0].tolist(),
        mask=None,
        kl_coef=0.5,
    )
    if close(got, want, 1e-5):
        return None
    return Finding(show(want), "mask=None: lists of one number per completion, nothing to sum")


PENALTY_CORE = (
    pulls_the_policy_back,
    belongs_to_its_divergence,
    depends_on_the_difference_alone,
    refunds_what_it_charges,
)
PENALTY_CASES = (
    costs_nothing_where_the_models_agree,
    pulls_the_policy_back,
    belongs_to_its_divergence,
    depends_on_the_difference_alone,
    refunds_what_it_charges,
    sums_over_tokens,
    ignores_padding,
    grows_with_kl_coef,
    stays_finite,
    works_on_paper,
)
