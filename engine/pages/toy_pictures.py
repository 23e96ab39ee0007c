"""The pictures of `kl_lab.py`: one figure for each experiment of experiments.py."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.course import toys
from engine.course.experiments import (
    OWN,
    Candidate,
    Divergence,
    PenaltyFigures,
    Rest,
    compare_texts,
    pull_of,
)
from engine.course.toys import FORMULAS, Penalty, TokenToy
from engine.pages.report import COLORS, MARKERS

SHOWN = 0.1  # the coefficient whose nats `draw_beta` shows by position
KINDS = {"forward": COLORS[0], "backward": COLORS[1]}
LOOKS = [{"color": c, "marker": m} for c, m in zip((*COLORS, "black"), MARKERS)]


def new_figure(panels, title, rows=1):
    """A figure of `panels` panels in `rows` rows, and these panels.

    Lines differ in their markers too, for whoever cannot tell the colours apart.
    """
    from cycler import cycler
    from matplotlib.figure import Figure

    columns = -(-panels // rows)
    figure = Figure(figsize=(4.3 * columns, 4.6 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    looks = [{**look, "markevery": 0.15, "markersize": 5} for look in LOOKS]
    for panel in axes:
        panel.set_prop_cycle(cycler(**{name: [look[name] for look in looks] for name in looks[0]}))
    for empty in axes[panels:]:
        empty.remove()
    return figure, axes[:panels]


def legends_below(panels):
    """A legend under each panel, where it hides nothing."""
    for axes in panels:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _cross(axes):
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axvline(0, color="grey", linewidth=0.8)


class _Tokens(NamedTuple):
    """Tokens whose log q − log p runs from −2 to 2, (N,) each."""

    log_q: Tensor
    log_p: Tensor
    preference: Tensor  # log q − log p


def _tokens(size: int = 121) -> _Tokens:
    preference = torch.linspace(-2, 2, size, dtype=torch.float64)
    log_p = torch.full_like(preference, -2)
    return _Tokens(log_p + preference, log_p, preference)


def _look_of(name: str) -> dict[str, Any]:
    """How the line of a candidate is drawn: a student's function is thick and dashed."""
    own = {"linewidth": 3, "linestyle": "--"} if name.startswith(OWN) else {}
    return {"label": name, "linewidth": 1.5, "linestyle": "-"} | own


def _draw_costs(axes, candidates: dict[str, Candidate]):
    """What each number charges a token, by how much likelier the policy finds it."""
    tokens = _tokens()
    for name, candidate in candidates.items():
        cost = candidate.cost(tokens.log_q, tokens.log_p)
        axes.plot(tokens.preference, cost, **_look_of(name))
    _cross(axes)
    axes.set(
        ylim=(-2, 2),
        xlabel="log q − log p of the token",
        ylabel="number subtracted, nats",
        title="Cost of a token\n(a line that rises through 0 holds the policy)",
    )


def draw_costs(candidates: dict[str, Candidate]):
    """The cost of a token alone, the first panel of `draw_penalties`."""
    figure, (price,) = new_figure(
        1,
        "Numbers subtracted from the reward. q: probability of a token under\n"
        "the policy; p: under the reference; r = p/q. Thick, dashed: your functions.",
    )
    _draw_costs(price, candidates)
    price.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.set_size_inches(7.5, 4.2)
    return figure


def draw_penalties(
    candidates: dict[str, Candidate], rows: dict[str, PenaltyFigures], toy: TokenToy
):
    """The cost of a token, the force on the policy, the path that it takes."""
    figure, (price, force, path) = new_figure(
        3,
        "Numbers subtracted from the reward, on a vocabulary of eight tokens.\n"
        "q: probability of a token under the policy; p: under the reference; r = p/q. "
        "Thick, dashed, crosses: your functions.",
    )
    _draw_costs(price, candidates)
    log_q = toy.logits.log_softmax(0)
    for i, (name, (kind, cost)) in enumerate(candidates.items()):
        marker: dict[str, Any] = {**LOOKS[i], "label": name, "s": 25}
        if name.startswith(OWN):
            marker |= {"s": 60, "marker": "x" if kind == "forward" else "+"}
        moved = toys.penalty_gradient(cost(log_q, toy.log_p), log_q)
        force.scatter(toys.exact_gradient(kind, *toy), moved, **marker)
        path.plot(rows[name].path, **_look_of(name))
    force.axline((0, 0), slope=1, color="grey", linewidth=0.8, label="exact gradient")
    force.set(
        xlabel="gradient of the divergence by a logit",
        ylabel="expected gradient of the penalty",
        title="Gradient on each of the eight logits\n(on the grey line: exact)",
    )
    path.set(
        yscale="log",
        ylim=(1e-6, 20),
        xlabel="step",
        ylabel="KL(policy‖ref), nats",
        title="Distance while the penalty alone trains\n(falling: back to the reference)",
    )
    figure.set_size_inches(13, 6.6)
    legends_below((price, force, path))
    return figure


def draw_places(candidates: dict[str, Candidate]):
    """For each number, its pull in three places, beside the two exact gradients."""
    figure, panels = new_figure(
        len(candidates),
        "How a number c of a token pulls, depending on where it stands. "
        "q: policy; p: reference; r = p/q. The expected gradient is E_q[g · ∇log q]:\n"
        "in the reward g = c; in the loss g = c′, the derivative by log q; "
        "in the loss × ratio g = c + c′. Each g is drawn through 0: constants do not pull.",
        rows=1 if len(candidates) <= 3 else 2,
    )
    tokens = _tokens()
    middle = len(tokens.preference) // 2
    colors = ("black", "tab:green", "tab:red")
    dashes = ((0, (1, 0)), (0, (5, 2)), (0, (1, 1.5)))
    for axes, (name, candidate) in zip(panels, candidates.items()):
        for kind, formula in FORMULAS.items():
            g = toys.exact_pull(kind, tokens.log_q, tokens.log_p)
            style = {"color": KINDS[kind], "linewidth": 9, "alpha": 0.3, "marker": ""}
            axes.plot(tokens.preference, g - g[middle], **style, label=f"exact for {formula}")
        for place, color, dash in zip(toys.PLACES, colors, dashes):
            g = pull_of(Penalty(place, candidate.cost), tokens.log_q, tokens.log_p)
            if g is not None:
                style = {"color": color, "linewidth": 2, "linestyle": dash}
                axes.plot(tokens.preference, g - g[middle], **style, label=place)
        _cross(axes)
        axes.set(ylim=(-2.5, 2.5), xlabel="log q − log p of the token", title=f"c = {name}")
        axes.legend(fontsize=7, loc="lower right")
        axes.set(ylabel="g: how hard the token is pushed down")
    return figure


class _Line(NamedTuple):
    """A line of the left panel of `draw_texts`: how far a penalty is off a divergence."""

    penalty: str
    divergence: Divergence
    color: str
    style: str


LINES = (
    _Line("reward: Σ k1", Divergence("texts", "forward"), "black", "-"),
    _Line("loss: k3 × ratio", Divergence("texts", "forward"), "tab:red", "-"),
    _Line("loss: k3 × ratio", Divergence("tokens", "forward"), "tab:red", ":"),
    _Line(f"{OWN}forward", Divergence("texts", "forward"), "tab:blue", "--"),
    _Line(f"{OWN}backward", Divergence("texts", "backward"), "tab:orange", "-"),
    _Line(f"{OWN}backward", Divergence("tokens", "backward"), "tab:orange", ":"),
    _Line(f"{OWN}backward (texts)", Divergence("texts", "backward"), "tab:green", "--"),
)


def draw_texts(penalties: dict[str, Penalty]):
    """How far the gradients are off as policy and reference part; noise as texts grow longer."""
    figure, (error, noise) = new_figure(
        2,
        "Whole texts and single tokens. q: policy; p: reference; r = p/q of a token;\n"
        "k1 = −log r; k3 = r − 1 − log r; Σ, Π: sum and product over the tokens of a text",
    )
    lines = [line for line in LINES if line.penalty in penalties]
    drawn = {line.penalty: penalties[line.penalty] for line in lines}
    distances = []
    rows_of_toys = []
    for i in range(1, 13):
        toy = toys.toy_texts(spread=0.05 * i)
        distances.append(toys.text_divergence("forward", *toy.log_probs()).item())
        rows_of_toys.append(compare_texts(drawn, toy))
    for name, divergence, color, style in lines:
        target = f"{FORMULAS[divergence.kind]} of {divergence.measure}"
        off = [100 * rows[name][divergence] for rows in rows_of_toys]
        error.plot(distances, off, color=color, linestyle=style, label=f"{name} → {target}")
    error.set(
        xlabel="KL(policy‖ref) of a text of two tokens, nats",
        ylabel="error of the expected gradient, % of the exact one",
        title="Error of each number's gradient\n(0 %: exact for the divergence after →)",
    )
    logits, log_p = toys.toy_policy()
    log_q = logits.log_softmax(0)
    r = (log_p - log_q).exp()
    square = (log_q.exp() @ r**2).item()  # E[r] = 1, so a product of T has variance square**T − 1
    lengths = range(1, 129)
    product = [(square**t - 1) ** 0.5 for t in lengths]
    noise.plot(lengths, product, color="tab:green", label="Π r: the text as a whole")
    total = [(t * (square - 1)) ** 0.5 for t in lengths]
    noise.plot(lengths, total, color="tab:orange", label="Σ r: token by token")
    noise.set(
        yscale="log",
        xlabel="tokens of a text, each with the r of the eight-token toy",
        ylabel="standard deviation of one sample",
        title="Noise of a sum and of a product\n(logarithmic: a straight line grows exponentially)",
    )
    figure.set_size_inches(11, 6.2)
    legends_below((error, noise))
    return figure


def draw_beta(rows: list[Rest]):
    """Score against nats where policies rest, the nats of each position, strength against nats."""
    figure, (plane, spent, strength) = new_figure(
        3,
        "Texts of 32 tokens, score = sigmoid(good words − bad words), reward = score − coefficient "
        "· divergence.\nEach point: a policy at rest, where the gradients of score and divergence "
        "cancel, computed exactly.",
    )
    best = [toys.best_possible(10 ** (0.1 * i)) for i in range(-30, 6)]
    scores, nats = zip(*best)
    plane.plot(nats, scores, color="black", marker="", label="best possible")
    looks = ({"color": color, "marker": marker} for color, marker in zip(("black", *COLORS), "os^"))
    for held_by, look in zip(toys.HELD_BY, looks):
        rests = [row for row in rows if row.by == held_by]
        nats = [rest.nats for rest in rests]
        points = {**look, "linestyle": "", "markevery": 1, "label": held_by}
        plane.plot(nats, [rest.found.score for rest in rests], **points)
        shown = next(rest for rest in rests if rest.coefficient == SHOWN)
        label = f"{held_by}: {shown.nats:.2f} in all"
        spent.plot(range(1, toys.WORDS.length + 1), shown.found.nats, **look, label=label)
        strengths = [rest.coefficient / rest.found.spread for rest in rests]
        label = "--beta" if "policy‖" in held_by else "--beta, use_bias_correction_kl off"
        if held_by == toys.OF_TEXTS:  # a penalty in the reward, not in the loss
            strengths = [rest.coefficient for rest in rests]
            label = "--kl_type forward, --kl_coef"
        strength.plot(strengths, nats, **look, markevery=1, label=label)
    plane.set(
        xscale="log",
        xlabel="KL(policy‖ref) of a text, nats",
        ylabel="mean score",
        title="Score and KL of the policies at rest",
    )
    spent.set(
        xlabel="position of the token",
        ylabel="KL(policy‖ref) of this token, nats",
        title=f"KL of each token, at coefficient {SHOWN}",
    )
    strength.set(
        xscale="log",
        xlabel="strength, as given on the command line",
        ylabel="KL(policy‖ref) of a text at rest, nats",
        title="Strength of an option and KL at rest",
    )
    figure.set_size_inches(13, 5.8)
    legends_below((plane, spent, strength))
    return figure


def draw_credit(rows: list[Rest]):
    """The nats of each part of a text, for each kind of credit, at the first coefficient."""
    coefficient = rows[0].coefficient
    figure, (spent,) = new_figure(
        1,
        "Texts of eight parts, reward = score − coefficient · KL(policy‖ref).\n"
        "Each line: a policy at rest, where the expected update is 0.",
    )
    for row in rows:
        if row.coefficient == coefficient:
            label = f"{row.by}: {row.nats:.2f} in all, score {row.found.score:.3f}"
            spent.plot(range(1, toys.PARTS.length + 1), row.found.nats, markevery=1, label=label)
    spent.set(
        ylim=(0, None),
        xlabel="part of the text",
        ylabel="KL(policy‖ref) of this part, nats",
        title=f"KL of each part, at coefficient {coefficient:g}",
    )
    figure.set_size_inches(6.5, 6)
    legends_below((spent,))
    return figure
