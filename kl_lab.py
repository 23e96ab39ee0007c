"""What a KL term does to a policy, on toys so small that every expectation is exact.

    python kl_lab.py                # five experiments: their tables, and a picture of each
    python kl_lab.py places         # one of them

penalties  Which numbers estimate a divergence, and which hold the policy as a
           penalty? No gradient flows through a reward: they are not the same.
places     The same numbers in the reward, in the loss, and in the loss times
           the ratio q/q_old.
texts      Two tokens: the divergence of whole texts, and of token after token.
beta       Texts of 32 tokens: what TRL's --beta pays for a score, and what
           the best policy pays.
credit     Texts of eight parts: where a policy comes to rest if each part is
           credited with what it added (--credit prefix).

Your penalties of rewards.py take part in the first three as soon as they are
written. q is the policy, p the reference, r = p/q; all values are in nats.
The figures come from engine/course/experiments.py, the toys from toys.py beside it.
"""

import math
import sys

from engine.common import UserError
from engine.course import toys
from engine.course.experiments import (
    ESTIMATORS,
    K1,
    K2,
    K3,
    OWN,
    Candidate,
    Divergence,
    Rest,
    compare_beta,
    compare_credit,
    compare_penalties,
    compare_places,
    compare_texts,
    compare_values,
    own_penalties,
    text_penalties,
)
from engine.course.student import load_rewards, rewards_file
from engine.course.toys import FORMULAS
from engine.pages import lab
from engine.pages.lab import add_figures, make_table, show

HOW = {  # the options that hold a policy so, for the keys of toys.HELD_BY
    toys.OF_TEXTS: "--kl_type forward: this is the best possible policy",
    "KL(policy‖ref) per token": "--beta",
    "KL(ref‖policy) per token": "--kl_type backward, and --beta with use_bias_correction_kl=False",
}
COEFFICIENTS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
CREDIT_COEFFICIENTS = (0.1, 0.05, 0.03)


def costs(own: dict[str, Candidate]):
    """Draw what well-known estimators, all but the plainest, charge a token; and your functions."""
    from engine.pages.toy_pictures import draw_costs

    return draw_costs({name: c for name, c in ESTIMATORS.items() if name != K1} | own)


def penalties(own: dict[str, Candidate]):
    """Print and draw: what each number estimates, and what it does when it is subtracted."""
    from engine.pages.toy_pictures import draw_penalties

    toy = toys.toy_policy()
    candidates = {**ESTIMATORS, **own}
    rows = compare_penalties(candidates, toy)
    for kind, formula in FORMULAS.items():
        value = toys.divergence(kind, toy.logits.log_softmax(0), toy.log_p)
        table = make_table(f"{formula} of one token: {value:.4f} nats at the start", "number")
        add_figures(table, "mean", "bias", "std", "pull", "KL at the end")
        for name, row in rows.items():
            if row.kind != kind:
                continue
            mean, bias, std = row.estimate
            end = f"{row.path[-1]:.4f}" if row.path[-1] < math.inf else "runs away"
            table.add_row(
                name, f"{mean:+z.4f}", f"{bias:+z.4f}", f"{std:.4f}", f"{row.pull:+z.2f}", end
            )
        show(table)
    show(
        "mean, bias, std: of one sample, as an estimate of the divergence\n"
        "pull: cosine between where the number, subtracted from the reward, moves the\n"
        "  policy at first and where the divergence falls fastest; +1 is the exact\n"
        "  gradient, below 0 drives the policy away. A small one may lose it later: k3\n"
        "KL at the end: KL(policy‖ref) after 400 steps of the penalty alone\n"
    )
    return draw_penalties(candidates, rows, toy)


def places(own: dict[str, Candidate]):
    """Print and draw: the same numbers in the reward, in the loss, in the loss times the ratio."""
    from engine.pages.toy_pictures import draw_places

    candidates = {name: ESTIMATORS[name] for name in (K1, K2, K3)} | own
    table = make_table("Where a number stands: its pull against both gradients", "number", "place")
    add_figures(table, *FORMULAS.values())
    for name, found in compare_places(candidates, toys.toy_policy()).items():
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
    return draw_places(candidates)


def texts(own: dict[str, Candidate]):
    """Print and draw: the divergence of texts of two tokens, and that of token after token."""
    from engine.pages.toy_pictures import draw_texts

    toy = toys.toy_texts()
    columns = [Divergence(measure, kind) for kind in FORMULAS for measure in toys.MEASURES]
    table = make_table("Two tokens: how far the expected gradient is off", "number")
    add_figures(table, *(f"{FORMULAS[kind][3:-1]}\nof {measure}" for measure, kind in columns))
    add_figures(table, "noise")
    candidates = text_penalties(own)
    for name, row in compare_texts(candidates, toy).items():
        off = ["exact" if row[column] < 1e-5 else f"{row[column]:.1%}" for column in columns]
        shown = "… of the whole text" if name.endswith("(texts)") else name
        table.add_row(shown, *off, f"{toys.noise_of_gradient(candidates[name], toy):.1f}")
    show(table)
    table = make_table("Two tokens: estimates of the value", "number per text")
    add_figures(table, "mean", "bias: texts", "tokens", "std")
    for name, row in compare_values(toy).items():
        bias = f"{row.bias_texts:+z.4f}", f"{row.bias_tokens:+z.4f}"
        table.add_row(name, f"{row.mean:.4f}", *bias, f"{row.std:.4f}")
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
    return draw_texts(candidates)


def beta(own: dict[str, Candidate]):
    """Print and draw: where reward and divergence let a policy rest, by three ways to hold it."""
    from engine.pages.toy_pictures import draw_beta

    rows = compare_beta(COEFFICIENTS)
    for held_by, how in HOW.items():
        table = make_table(f"32 tokens, held by {held_by}\n{how}")
        add_figures(table, "coefficient", "spread", "--beta", *REST)
        for row in rows:
            if row.by != held_by:
                continue
            spread = row.found.spread
            table.add_row(
                f"{row.coefficient:g}",
                f"{spread:.3f}",
                f"{row.coefficient / spread:.2f}" if "--beta" in how else "",
                *figures_of_rest(row),
            )
        show(table)
    show(
        "per token: the prefix is held fixed, so that no token is charged for what it\n"
        "  makes later tokens pay\n"
        "coefficient: reward per nat; spread: standard deviation of the scores; --beta:\n"
        "  coefficient / spread, for --beta stands beside advantages: rewards / spread\n"
        "  in large groups (docs/options.md has those of eight)\n"
        "fewest: nats of the best policy with this score; factor: nats / fewest\n"
        "late: share of the nats that the second half of the text pays\n"
    )
    return draw_beta(rows)


def credit(own: dict[str, Candidate]):
    """Print and draw: where the policy rests, by four ways to credit a part of a text."""
    from engine.pages.toy_pictures import draw_credit

    rows = compare_credit(CREDIT_COEFFICIENTS)
    table = make_table("Eight parts, held by KL(policy‖ref) of texts", "a part is credited by")
    add_figures(table, "coefficient", *REST)
    for i, row in enumerate(rows, 1):
        end = i % len(CREDIT_COEFFICIENTS) == 0
        table.add_row(row.by, f"{row.coefficient:g}", *figures_of_rest(row), end_section=end)
    show(table)
    show(
        "a part is credited with what it changes in the value of the text, less its own\n"
        "  penalty, plus λ times what the next part is credited with\n"
        "the whole completion: λ = 1, all that comes later counts; this is the optimum\n"
        "prefix's score: the value of a text so far is its score\n"
        "fitted value: a line, fitted at each place, from the score so far to the final\n"
        "  score less the penalties still to come\n"
        "What a good part earns at once, later parts can no longer add. By its score, a\n"
        "prefix is credited with λ of this loss only: the policy pays its nats early.\n"
    )
    return draw_credit(rows)


EXPERIMENTS = {
    "penalties": penalties,
    "places": places,
    "texts": texts,
    "beta": beta,
    "credit": credit,
}
REST = ("score", "nats", "fewest", "factor", "late")


def figures_of_rest(row: Rest) -> list[str]:
    """The cells of a policy at rest, below the titles REST."""
    figures = [f"{x:.2f}" for x in (row.nats, row.fewest)]
    factor = f"{row.nats / row.fewest:.3f}"
    return [f"{row.found.score:.3f}", *figures, factor, f"{row.late:.0%}"]


def say_cosine(value: float | None) -> str:
    if value is None:
        return "no pull"
    return "exact" if value > 1 - 1e-6 else f"{value:+z.3f}"


def main(argv: list[str] | None = None) -> None:
    args = lab.parse(str(__doc__), EXPERIMENTS, argv)
    own = own_penalties(load_rewards(rewards_file(args.use_solution)))
    lab.run("kl_lab", EXPERIMENTS, args, own)
    for kind in FORMULAS:
        if OWN + kind not in own:
            print(f"{OWN}{kind} is still to do in rewards.py.")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"kl_lab.py: {error}")
