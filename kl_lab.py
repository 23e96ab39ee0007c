"""What a KL term does to a policy, on toys so small that every expectation is exact.

    python kl_lab.py                # four experiments: their tables, and a picture of each
    python kl_lab.py places         # one of them

penalties  Which numbers estimate a divergence, and which hold the policy as a
           penalty? No gradient flows through a reward: they are not the same.
places     The same numbers in the reward, in the loss, and in the loss times
           the ratio q/q_old.
texts      Two tokens: the divergence of whole texts, and of token after token.
beta       Texts of 32 tokens: what TRL's --beta pays for a score, and what
           the best policy pays.

Your penalties of rewards.py take part in the first three as soon as they are
written. q is the policy, p the reference, r = p/q; all values are in nats.
The toys are in engine/course/toys.py.
"""

import argparse
import math
import sys
from pathlib import Path

import torch

from engine.common import UserError, make_console
from engine.course import toys
from engine.course.student import (
    StudentError,
    call_student,
    check_rewards,
    load_rewards,
    name_of,
    rewards_file,
)
from engine.course.toys import FORMULAS, exact_gradient, toy_policy
from engine.options import OneLineParser


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
K1, K2, K3 = list(ESTIMATORS)[:3]


def own_penalties(rewards):
    """{name: (kind, cost)} for the penalties of a rewards file that are implemented.

    cost(log_q, log_p) takes N tokens, (N,), or the tokens of N texts, (N, T), and returns (N,)
    float64; it carries a gradient where log_q does and the student's function lets it through.
    """

    def cost_of(function):
        def cost(log_q, log_p):
            texts = [x.float().reshape(len(x), -1) for x in (log_q, log_p)]  # (N, T) each
            mask = torch.ones(texts[0].shape, dtype=torch.bool)
            values = call_student(function, *texts, mask, kl_coef=1.0)
            names = [f"token {i}" for i in range(len(mask))]
            checked = check_rewards(values, names, name_of(function)).double()
            return values.double() if getattr(values, "requires_grad", False) else checked

        return cost

    own = {}
    for kind in FORMULAS:
        cost = cost_of(getattr(rewards, f"kl_penalty_{kind}"))
        try:
            cost(*(torch.zeros(toys.TOKENS),) * 2)
        except UserError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
            continue
        own[f"kl_penalty_{kind}"] = (kind, cost)
    return own


def cosine(a, b):
    """Cosine between two gradients; None where the first is nothing but rounding."""
    if a.norm() < 1e-6 * b.norm():
        return None
    return torch.cosine_similarity(a, b, dim=0).item()


def compare_penalties(penalties, logits, log_p):
    """One row of figures for each penalty: a dict of floats, and its `path`."""
    log_q = logits.log_softmax(0)
    rows = {}
    for name, (kind, penalty) in penalties.items():
        cost = penalty(log_q, log_p)
        mean, bias, std = toys.statistics(kind, cost, log_q, log_p)
        pull = cosine(toys.penalty_gradient(cost, log_q), exact_gradient(kind, logits, log_p))
        path = toys.follow(penalty, logits, log_p)
        rows[name] = dict(kind=kind, mean=mean, bias=bias, std=std, pull=pull or 0.0, path=path)
    return rows


def compare_places(penalties, logits, log_p):
    """{name: {place: {kind: cosine}}}: where each number pulls, against both exact gradients.

    A cosine is None where there is no pull; a place is missing where a student's function returns
    numbers without gradient.
    """
    log_q = logits.log_softmax(0)
    exact = {kind: exact_gradient(kind, logits, log_p) for kind in FORMULAS}
    rows = {}
    for name, (_, cost) in penalties.items():
        rows[name] = {}
        for place in toys.PLACES:
            pull = pull_of(cost, place, log_q, log_p)
            if pull is not None:
                moved = toys.penalty_gradient(pull, log_q)
                rows[name][place] = {kind: cosine(moved, exact[kind]) for kind in FORMULAS}
    return rows


def pull_of(cost, place, log_q, log_p):
    """`toys.pull`; None also where a student's function fails on numbers that carry a gradient."""
    try:
        return toys.pull(place, cost, log_q, log_p)
    except StudentError:
        if place == "in the reward":
            raise
        return None


def text_penalties(own):
    """{name: (place, cost)} of the experiment with two tokens."""
    k1, k2, k3 = (ESTIMATORS[name][1] for name in (K1, K2, K3))
    rows = {
        "reward: Σ k1": ("in the reward", lambda q, p: k1(q, p).sum(1)),
        "loss: k3 × ratio": ("in the loss × ratio", k3),
        "loss: k3": ("in the loss", k3),
        "loss: k2": ("in the loss", k2),
    }
    for name, (_, cost) in own.items():
        rows[name] = ("in the reward", cost)
        rows[f"{name} (texts)"] = ("in the reward", whole(cost))
    return rows


def whole(cost):
    """The cost of a text as if it were one long token: r becomes Π r."""
    return lambda log_q, log_p: cost(log_q.sum(1), log_p.sum(1))


def compare_texts(penalties, logits, ref_logits):
    """{name: {(measure, kind): how far off}} for texts of two tokens.

    How far off: the length of (expected gradient − exact gradient) over that of the exact one.
    """
    rows = {name: {} for name in penalties}
    for kind in FORMULAS:
        for measure, divergence in toys.MEASURES.items():
            exact = toys.gradient_of_texts(divergence, kind, logits, ref_logits)
            for name, penalty in penalties.items():
                error = toys.expected_gradient(*penalty, logits, ref_logits) - exact
                rows[name][measure, kind] = (error.norm() / exact.norm()).item()
    return rows


def compare_values(logits, ref_logits):
    """{name: (kind, mean, bias against texts, bias against tokens, std)} of estimates of the value,
    for texts of two tokens."""
    log_q, log_p = toys.token_log_probs(logits), toys.token_log_probs(ref_logits)
    q = log_q.sum(1).exp()
    rows = {}
    for name in (K1, K3, "r·log r − (r − 1)"):
        kind, estimate = ESTIMATORS[name]
        exact = [measure(kind, log_q, log_p) for measure in toys.MEASURES.values()]
        for title, values in (
            (f"Σ {name}", estimate(log_q, log_p).sum(1)),
            (f"{name}, r of the text", whole(estimate)(log_q, log_p)),
        ):
            mean = q @ values
            std = (q @ (values - mean) ** 2).sqrt()
            rows[title] = (kind, *(x.item() for x in (mean, mean - exact[0], mean - exact[1], std)))
    del rows[f"{K1}, r of the text"]  # the same number: the sum of logarithms
    return rows


HOW = {  # the options that hold a policy so, for the keys of toys.HELD_BY
    "KL(policy‖ref) of texts": "--kl_type forward: this is the best possible policy",
    "KL(policy‖ref) per token": "--beta",
    "KL(ref‖policy) per token": "--kl_type backward, and --beta with use_bias_correction_kl=False",
}
COEFFICIENTS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


def compare_beta(coefficients):
    """[(held_by, coefficient, `toys.walk` of where the policy rests, fewest nats for its score)],
    for each way to hold the policy in `toys.HELD_BY`."""
    rows = []
    for held_by in toys.HELD_BY:
        for coefficient in coefficients:
            found = toys.walk(toys.resting_policy(held_by, coefficient))
            rows.append((held_by, coefficient, found, toys.fewest_nats(found["score"])))
    return rows


def penalties(own):
    """Print and draw: what each number estimates, and what it does when it is subtracted."""
    from engine.course.toy_pictures import draw_penalties

    logits, log_p = toy_policy()
    candidates = {**ESTIMATORS, **own}
    rows = compare_penalties(candidates, logits, log_p)
    for kind, formula in FORMULAS.items():
        value = toys.divergence(kind, logits.log_softmax(0), log_p)
        table = make_table(f"{formula} of one token: {value:.4f} nats at the start", "number")
        for title in ("mean", "bias", "std", "pull", "KL at the end"):
            table.add_column(title, justify="right")
        for name, row in rows.items():
            if row["kind"] == kind:
                end = row["path"][-1]
                figures = [f"{row[key]:+.4f}" for key in ("mean", "bias")]
                figures += [f"{row['std']:.4f}", f"{row['pull']:+.2f}"]
                table.add_row(name, *figures, f"{end:.4f}" if end < math.inf else "runs away")
        show(table)
    show(
        "mean, bias, std: of one sample, as an estimate of the divergence\n"
        "pull: cosine between where the number, subtracted from the reward, moves the\n"
        "  policy and where the divergence falls fastest; +1 is the exact gradient, below\n"
        "  0 drives the policy away\n"
        "KL at the end: KL(policy‖ref) after 400 steps of the penalty alone\n"
    )
    return draw_penalties(candidates, rows, logits, log_p)


def places(own):
    """Print and draw: the same numbers in the reward, in the loss, in the loss times the ratio."""
    from engine.course.toy_pictures import draw_places

    logits, log_p = toy_policy()
    candidates = {name: ESTIMATORS[name] for name in (K1, K2, K3)} | own
    table = make_table("Where a number stands: its pull against both gradients", "number", "place")
    for formula in FORMULAS.values():
        table.add_column(formula, justify="right")
    for name, found in compare_places(candidates, logits, log_p).items():
        for i, place in enumerate(toys.PLACES):
            cells = ["–", "–"]
            if place in found:
                cells = [say_cosine(found[place][kind]) for kind in FORMULAS]
            table.add_row("" if i else name, place, *cells, end_section=i == 2)
    show(table)
    show(
        "exact: the gradient of this divergence (cosine 1); other figures: the cosine\n"
        "no pull: the expected gradient is 0\n"
        "–: your function returns numbers without gradient\n"
        "--beta is k3 in the loss × ratio; with use_bias_correction_kl=False, in the loss\n"
        "The first two places add up to the third: ∇E_q[c] = E_q[c · ∇log q] + E_q[∇c].\n"
        "So × ratio gives the gradient of the mean of c, right where c is unbiased.\n"
    )
    return draw_places(candidates, pull_of)


def texts(own):
    """Print and draw: the divergence of texts of two tokens, and that of token after token."""
    from engine.course.toy_pictures import draw_texts

    toy = toys.toy_texts()
    columns = [(measure, kind) for kind in FORMULAS for measure in toys.MEASURES]
    table = make_table("Two tokens: how far the expected gradient is off", "number")
    for measure, kind in columns:
        title = f"{FORMULAS[kind][3:-1]}\nof {measure}"
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("noise", justify="right")
    candidates = text_penalties(own)
    for name, row in compare_texts(candidates, *toy).items():
        off = ["exact" if row[key] < 1e-5 else f"{row[key]:.1%}" for key in columns]
        shown = "… of the whole text" if name.endswith("(texts)") else name
        noise = toys.noise_of_gradient(*candidates[name], *toy)
        table.add_row(shown, *off, f"{noise:.1f}")
    show(table)
    table = make_table("Two tokens: estimates of the value", "number per text")
    for title in ("mean", "bias: texts", "tokens", "std"):
        table.add_column(title, justify="right")
    for name, (_, mean, *bias, std) in compare_values(*toy).items():
        table.add_row(name, f"{mean:.4f}", *(f"{x:+.4f}" for x in bias), f"{std:.4f}")
    show(table)
    show(
        "of texts: the divergence of whole texts; of tokens: that of the next token,\n"
        "  along the policy's own text, the prefix held fixed. In value the two are equal\n"
        "  for KL(policy‖ref), not for KL(ref‖policy): its texts are the reference's\n"
        "off: length of (expected gradient − exact one), in % of the exact one\n"
        "noise: standard deviation of one text's gradient over the length of the mean\n"
        "loss: k3 × ratio is --beta; with use_bias_correction_kl=False it is loss: k3\n"
        "kl_penalty_…: yours, in the reward, summed over tokens; of the whole text: given\n"
        "  the text as if it were one token, so that r is the product of all its r\n"
    )
    return draw_texts(candidates, compare_texts)


def beta(own):
    """Print and draw: where reward and divergence let a policy rest, by three ways to hold it."""
    from engine.course.toy_pictures import draw_beta

    rows = compare_beta(COEFFICIENTS)
    for held_by, how in HOW.items():
        table = make_table(f"32 tokens, held by {held_by}\n{how}")
        for title in (
            "coefficient",
            "spread",
            "--beta",
            "score",
            "nats",
            "fewest",
            "factor",
            "late",
        ):
            table.add_column(title, justify="right", no_wrap=True)
        for name, coefficient, found, fewest in rows:
            if name == held_by:
                nats, spread = found["nats"].sum().item(), found["spread"]
                late = (found["nats"][toys.LENGTH // 2 :].sum() / nats).item()
                strength = "" if "--beta" not in how else f"{coefficient / spread:.2f}"
                cells = [f"{coefficient:g}", f"{spread:.3f}", strength, f"{found['score']:.3f}"]
                cells += [f"{nats:.2f}", f"{fewest:.2f}", f"{nats / fewest:.2f}", f"{late:.0%}"]
                table.add_row(*cells)
        show(table)
    show(
        "per token: the prefix is held fixed, so that no token is charged for what it\n"
        "  makes later tokens pay\n"
        "coefficient: reward per nat; spread: standard deviation of the scores; --beta:\n"
        "  coefficient / spread, for --beta stands beside advantages: rewards / spread\n"
        "fewest: nats of the best policy with this score; factor: nats / fewest\n"
        "late: share of the nats that the second half of the text pays\n"
    )
    return draw_beta(rows)


EXPERIMENTS = {f.__name__: f for f in (penalties, places, texts, beta)}


def make_table(title, *columns):
    """A table of 80 characters at most, whose first columns are text."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def show(what):
    make_console().print(what, highlight=False, markup=False)


def say_cosine(value):
    if value is None:
        return "no pull"
    return "exact" if value > 1 - 1e-6 else f"{value:+.3f}"


def main(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiment", nargs="?", choices=EXPERIMENTS, help="one of them; without it, all four"
    )
    parser.add_argument(
        "--use_solution", action="store_true", help="show the penalties of rewards_solution.py"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("."),
        metavar="FOLDER",
        help="where the pictures kl_lab_EXPERIMENT.png go (default: this folder)",
    )
    args = parser.parse_args(argv)
    from engine.pages.report import save_figure

    own = own_penalties(load_rewards(rewards_file(args.use_solution)))
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.experiment] if args.experiment else EXPERIMENTS:
        path = args.out / f"kl_lab_{name}.png"
        save_figure(EXPERIMENTS[name](own), path)
        print(f"Picture: {path}\n")
    for kind in FORMULAS:
        if f"kl_penalty_{kind}" not in own:
            print(f"kl_penalty_{kind} is still to do in rewards.py.")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"kl_lab.py: {error}")
