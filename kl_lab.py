"""What a KL penalty does to a policy, on a toy where every expectation is exact.

    python kl_lab.py                  # table, and kl_lab.png, with your functions of rewards.py

The policy q is a softmax over eight tokens, the reference p another one. All tokens can be listed,
so means, variances and gradients are sums and no samples. A penalty is a number c(token) that is
subtracted from the reward; no gradient flows through it. Policy gradient therefore moves the
logits along −E_q[c · ∇ log q], whatever c was meant to estimate.
"""

import math
import sys
from pathlib import Path

import torch

from engine.common import UserError, make_console
from engine.options import OneLineParser
from engine.student import call_student, check_rewards, load_rewards, name_of, rewards_file
from reward_utils import KL_NAMES

TOKENS = 8


def _ratio(log_q, log_p):
    return (log_p - log_q).exp()


# Estimators of a divergence: (which one, the number per token). Are they penalties too?
ESTIMATORS = {
    "k1 = −log r": ("forward", lambda q, p: q - p),
    "k2 = ½ log² r": ("forward", lambda q, p: (p - q) ** 2 / 2),
    "k3 = r − 1 − log r": ("forward", lambda q, p: _ratio(q, p) - 1 - (p - q)),
    "r·log r": ("backward", lambda q, p: _ratio(q, p) * (p - q)),
    "r·log r − (r − 1)": ("backward", lambda q, p: _ratio(q, p) * (p - q) - (_ratio(q, p) - 1)),
}


def toy_policy(spread=0.4, seed=0):
    """(logits of the policy, log p of the reference), (8,) float64, close to each other."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    step = spread * torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    return reference + step, reference.log_softmax(0)


def divergence(kind, log_q, log_p):
    """KL(policy‖ref) for "forward", KL(ref‖policy) for "backward", in nats.

    >>> q, p = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> f"{divergence('forward', q, p):.4f} {divergence('backward', q, p):.4f}"
    '0.1438 0.1308'
    """
    first, second = (log_q, log_p) if kind == "forward" else (log_p, log_q)
    return (first.exp() * (first - second)).sum()


def exact_gradient(kind, logits, log_p):
    """Gradient of the divergence itself with respect to the logits, (8,)."""
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(divergence(kind, logits.log_softmax(0), log_p), logits)[0]


def penalty_gradient(cost, log_q):
    """E_q[c · ∇ log q] with respect to the logits of a softmax: q · (c − E_q[c]), (8,).

    >>> penalty_gradient(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]).log()).tolist()
    [0.25, -0.25]
    """
    q = log_q.exp()
    return q * (cost - (q * cost).sum())


def statistics(kind, cost, log_q, log_p):
    """Mean, bias and standard deviation of one sample of `cost` as an estimate of `kind`."""
    q = log_q.exp()
    mean = (q * cost).sum()
    std = (q * (cost - mean) ** 2).sum().sqrt()
    return mean.item(), (mean - divergence(kind, log_q, log_p)).item(), std.item()


def follow(penalty, logits, log_p, steps=400, learning_rate=1.0):
    """KL(policy‖ref) along the path that the penalty alone makes the policy take.

    `penalty(log_q, log_p)` is the cost of each token, (8,). Returns steps + 1 floats; the path
    ends early, in infinity, where the policy has given up a token for good.
    """
    path = []
    for _ in range(steps + 1):
        log_q = logits.log_softmax(0)
        path.append(divergence("forward", log_q, log_p).item())
        if not math.isfinite(path[-1]):
            return [*path[:-1], math.inf]
        logits = logits - learning_rate * penalty_gradient(penalty(log_q, log_p), log_q)
    return path


def own_penalties(rewards):
    """{name: (kind, cost per token)} for the penalties of a rewards file that are implemented."""

    def cost_of(function):
        def cost(log_q, log_p):
            mask = torch.ones(TOKENS, 1, dtype=torch.bool)
            column = (log_q.float()[:, None], log_p.float()[:, None])  # eight texts of one token
            values = call_student(function, *column, mask, kl_coef=1.0)
            names = [f"token {i}" for i in range(TOKENS)]
            return check_rewards(values, names, name_of(function)).double()

        return cost

    own = {}
    for kind in KL_NAMES:
        cost = cost_of(getattr(rewards, f"kl_penalty_{kind}"))
        try:
            cost(*(torch.zeros(TOKENS),) * 2)
        except UserError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
            continue
        own[f"kl_penalty_{kind}"] = (kind, cost)
    return own


def experiment(penalties, logits, log_p):
    """One row of figures for each penalty: a dict of floats, and its `path`."""
    log_q = logits.log_softmax(0)
    rows = {}
    for name, (kind, penalty) in penalties.items():
        cost = penalty(log_q, log_p)
        mean, bias, std = statistics(kind, cost, log_q, log_p)
        moved, exact = penalty_gradient(cost, log_q), exact_gradient(kind, logits, log_p)
        path = follow(penalty, logits, log_p)
        pull = torch.cosine_similarity(moved, exact, dim=0).item()
        rows[name] = dict(kind=kind, mean=mean, bias=bias, std=std, pull=pull, path=path)
    return rows


def print_table(rows, logits, log_p):
    """What `experiment` found, one table for each divergence."""
    from rich.table import Table

    console = make_console()
    log_q = logits.log_softmax(0)
    for kind, meaning in KL_NAMES.items():
        table = Table(title=f"{meaning}: {divergence(kind, log_q, log_p):.4f} nats at the start")
        table.add_column("number per token", no_wrap=True)
        for title in ("mean", "bias", "std", "pull", "KL at the end"):
            table.add_column(title, justify="right")
        for name, row in rows.items():
            if row["kind"] == kind:
                figures = [f"{row[key]:+.4f}" for key in ("mean", "bias")]
                end = row["path"][-1]
                end = f"{end:.4f}" if end < math.inf else "runs away"
                figures += [f"{row['std']:.4f}", f"{row['pull']:+.2f}", end]
                table.add_row(name, *figures)
        console.print(table)
    console.print(
        "mean, bias, std: of one sample, as an estimate of the divergence\n"
        "pull: cosine between where the number pushes the policy and where the\n"
        "  divergence falls fastest; +1 is the exact gradient, below 0 drives it away\n"
        "KL at the end: KL(policy‖ref) after 400 steps of the penalty alone",
        highlight=False,
    )


def plot(penalties, logits, log_p, path=None):
    """Three pictures: the cost of a token, the force on the policy, the path it takes.

    Returns the matplotlib figure; written to `path` where one is given.
    """
    from matplotlib.figure import Figure

    from engine.report import save_figure

    figure = Figure(figsize=(13, 4.3), layout="constrained")
    price, force, way = figure.subplots(1, 3)
    log_q = logits.log_softmax(0)
    # Eight tokens at a time, since that is what the student's functions are asked for.
    log_ratio = torch.linspace(-2, 2, 15 * TOKENS, dtype=torch.float64)
    at = -2 * torch.ones_like(log_ratio)
    for i, (name, (kind, penalty)) in enumerate(penalties.items()):
        own = name not in ESTIMATORS
        style = dict(color=f"C{i}", linewidth=3 if own else 1.5, linestyle="--" if own else "-")
        pieces = zip((at + log_ratio).split(TOKENS), at.split(TOKENS))
        price.plot(log_ratio, torch.cat([penalty(q, p) for q, p in pieces]), **style, label=name)
        moved = penalty_gradient(penalty(log_q, log_p), log_q)
        exact = exact_gradient(kind, logits, log_p)
        force.scatter(exact, moved, color=f"C{i}", s=60 if own else 25, marker="x" if own else "o")
        way.plot(follow(penalty, logits, log_p), **style)
    price.axhline(0, color="grey", linewidth=0.8)
    price.axvline(0, color="grey", linewidth=0.8)
    price.set(
        ylim=(-2, 2),
        xlabel="log q − log p: the policy likes the token more →",
        ylabel="what the token costs",
        title="A cost that falls here pays the policy\nfor what it already prefers",
    )
    price.legend(fontsize=8)
    force.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    force.set(
        xlabel="exact gradient of the divergence, per logit",
        ylabel="expected gradient of the penalty",
        title="On the line: the exact gradient.\nDownhill: away from the reference",
    )
    way.set(
        yscale="log",
        ylim=(1e-6, 20),
        xlabel="steps of the penalty alone",
        ylabel="KL(policy‖ref), nats",
        title="Where it leads:\nback to the reference, or off",
    )
    if path:
        save_figure(figure, path)
    return figure


def main(argv=None):
    parser = OneLineParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--use_solution", action="store_true", help="show the penalties of rewards_solution.py"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("kl_lab.png"), help="the picture (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    logits, log_p = toy_policy()
    own = own_penalties(load_rewards(rewards_file(args.use_solution)))
    penalties = {**ESTIMATORS, **own}
    print_table(experiment(penalties, logits, log_p), logits, log_p)
    plot(penalties, logits, log_p, args.out)
    for kind in KL_NAMES:
        if f"kl_penalty_{kind}" not in own:
            print(f"kl_penalty_{kind} is still to do in rewards.py.")
    print(f"Picture: {args.out}")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"Error: {error}")
