"""Exercises 3b and 3c: penalties. A penalty is a number without gradient.

What it does to the policy is examined where expectations are exact: a policy over a few tokens, all
of them listed. q and p are log-probabilities of the policy and of the reference.
"""

import math
import re

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


TEXTS = (  # tokens of a text, and the range of log q − log p of each of them
    (1, -1.0, 1.0),
    (2, -12.0, 12.0),
    (5, -2.0, 2.0),
    (16, -12.0, 12.0),
    (33, -0.5, 0.5),
    (48, 0.0, 2.0),
    (64, -2.0, 0.0),
    (64, -12.0, 12.0),
)
OUTLIERS = ((2, 3, 12.0), (4, 20, -12.0))  # text, token, log q − log p


def long_texts(rng):
    """(log q, log p, mask), (8, 64) each: texts of 1 to 64 tokens, with small and large differences
    one at a time and together. The models agree at padded positions."""
    longest = max(length for length, _, _ in TEXTS)
    rows = [
        [rng.uniform(low, high) for _ in range(length)] + [0.0] * (longest - length)
        for length, low, high in TEXTS
    ]
    for text, token, difference in OUTLIERS:
        rows[text][token] = difference
    mask = torch.arange(longest) < torch.tensor([[length] for length, _, _ in TEXTS])
    return *apart(torch.tensor(rows), -0.1 - 2 * rng.random()), mask


def sums_over_tokens(ask, rng):
    """a completion costs what its tokens cost one by one, be they one or 64."""
    q, p, mask = long_texts(rng)
    each = torch.where(mask, cost_of_each_token(ask, q, p), 0.0)
    want = each.sum(-1)
    got = ask(policy_log_probs=q, ref_log_probs=p, mask=mask, kl_coef=1.0)
    wrong = (got - want).abs() > 1e-4 * (1 + each.abs().sum(-1))
    if not wrong.any():
        return None
    text = int(wrong.nonzero()[0])
    tokens = TEXTS[text][0]
    cause = f"the sum: a text of {tokens} tokens costs {got[text]:.4g}, its tokens {want[text]:.4g}"
    if any(close(got, want / n) for n in (mask.sum(-1), mask.shape[1])):
        cause = "the sum: this is a mean, which makes long texts cheap"
    elif close(got, want * (mask.numel() / len(mask))):
        cause = "the batch: what a text costs is divided by the number of texts beside it"
    return Finding(f"{show(want)}: all tokens together", cause)


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
    q_column, p_column = (x.reshape(-1, 1).float() for x in (q, p))
    arguments = dict(policy_log_probs=q_column, ref_log_probs=p_column, mask=mask)
    return ask(**arguments, kl_coef=1.0).view(q.shape)


def apart(difference, higher):
    """(log q, log p) whose difference is `difference`; `higher` is the higher of the two."""
    return higher + difference.clamp(max=0), higher - difference.clamp(min=0)


def cost_of_each_difference(ask, difference, higher):
    """The penalty of single tokens by their log q − log p; `higher` is as for `apart`."""
    return cost_of_each_token(ask, *apart(torch.as_tensor(difference), higher))


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
    return never_falls(ask, rng)


def never_falls(ask, rng):
    """None if no token is cheaper than one that the policy prefers less, to 12 nats either way."""
    difference = torch.linspace(-12, 12, 97) + 0.1 * rng.random()
    cost = cost_of_each_difference(ask, difference, -0.9 - rng.random())
    falls = cost.diff() < -1e-4 * (1 + cost[1:].abs())
    if not falls.any():
        return None
    i = int(falls.nonzero()[0])
    less, more = difference[i].item(), difference[i + 1].item()
    return Finding(
        "as dear or dearer, the higher log q − log p",
        f"far from agreement: log q − log p = {more:.1f} is cheaper than {less:.1f}, so going "
        "further pays, or coming back does not",
    )


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
    likely_to_rare = torch.tensor([-0.01, -1.1, -2.0, -4.0, -7.0]) - 0.3 * rng.random()
    for difference in (-0.8, -0.2, 0.2, 0.8, 3.0, -3.0, 12.0, -12.0):
        each = torch.full_like(likely_to_rare, difference)
        cost = cost_of_each_difference(ask, each, likely_to_rare)
        if not close(cost, cost[0].expand_as(cost), 1e-3 * (1 + abs(cost[0].item()))):
            return Finding(
                f"one number, five times: log q − log p is {difference:g} everywhere",
                "the probability: it weighs the difference, so some tokens are hardly held; "
                "let log q − log p alone decide",
            )
    return None


def refunds_what_it_charges(ask, rng):
    """what liking a token too much costs, liking it too little brings back.

    Close to agreement the two are equal. Otherwise every token costs something on average, and the
    shortest text is the cheapest. Far from it each is at least what one nat costs near it.
    """
    higher = -1.0 - rng.random()
    points = [0.0, -0.02, 0.02, -12.0, 12.0]
    same, *costs = cost_of_each_difference(ask, points, higher).tolist()
    refunded, far_refunded = same - costs[0], same - costs[2]
    charged, far_charged = costs[1] - same, costs[3] - same
    if abs(charged - refunded) > 0.1 * abs(charged + refunded) + 1e-6:
        cause = "the size: without its sign, a token costs for being too rare as well"
        if abs(refunded) < abs(charged) and charged * refunded >= 0:
            cause = "the cut: the negative half brings back what the policy has given up; keep it"
        return Finding(f"as far below {same:.4g} as above it", cause)
    if min(far_charged, far_refunded) >= LEAST * min(charged / points[2], 1):
        return None
    cause = f"the limit: at log q − log p = 12 a token costs only {far_charged:.2g} · kl_coef"
    if far_refunded < far_charged:
        cause = (
            "the cut: a token that the policy has all but given up brings back only "
            f"{far_refunded:.2g} · kl_coef"
        )
    return Finding("at least what one nat costs, either way", cause)


LEAST = 0.8  # of a nat, at 12 nats: bent penalties reach 1, those cut off early stay far below
NATS = (0.0, 0.05, 0.1, 1.0, 6.0, 12.0)  # log q − log p


def costs_kl_coef_per_nat(ask, rng):
    """near agreement, a token that the policy prefers by d nats costs kl_coef · d."""
    higher = -1.0 - rng.random()
    alone = torch.cat([cost_of_each_difference(ask, [nats], higher) for nats in NATS])
    if not 0.8 <= scale_of(alone) <= 1.2:
        scale = scale_of(alone)
        bits = abs(scale * math.log(2) - 1) < 0.05
        cause = f"the size: a nat costs {scale:.3g} · kl_coef"
        return Finding(WITHIN, "the unit: nats, natural logarithms, not bits" if bits else cause)
    scale = scale_of(cost_of_each_difference(ask, NATS * 7, higher))
    if 0.8 <= scale <= 1.2:
        return None
    return Finding(WITHIN, f"the batch: beside other texts a nat costs {scale:.3g} · kl_coef")


WITHIN = "kl_coef · (log q − log p), within a fifth"


def scale_of(costs):
    """What a nat costs near agreement, from the costs at NATS and kl_coef 1."""
    near, twice, one, six, twelve = (costs[1:6] - costs[0]).tolist()
    scale = near / NATS[1]
    if abs(twice - 2 * near) > 0.2 * abs(near):
        return one  # no slope at agreement, as sign and cube have none
    if 1.2 < scale <= 2.4 and 0.8 <= (twelve - six) / 6 <= 1.2:
        return 1.0  # two penalties of a nat each, of which one levels off
    return scale


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
        if re.search("returned -?inf|as float32 holds", str(wrong)):
            cause = "exp() overflows: clamp log r from above, at log 1000 say"
        elif "returned nan" in str(wrong):
            cause = "inf − inf, inf · 0 or 0 / 0: clamp log r from above, at log 1000 say"
        else:
            raise  # another mistake, which has its own words
        return Finding("finite numbers", cause)


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
    costs_kl_coef_per_nat,
    sums_over_tokens,
    ignores_padding,
    grows_with_kl_coef,
    stays_finite,
)
