"""The pictures of `kl_lab.py`: one figure for each experiment with the toys of toys.py."""

import torch

from engine.course import toys
from engine.course.toys import FORMULAS

OWN = "kl_penalty_"  # how the names of a student's functions begin
SHOWN = 0.1  # the coefficient whose nats `draw_beta` shows by position
COLORS = {"forward": "tab:blue", "backward": "tab:orange"}


def _figure(panels, title, rows=1):
    """A figure of `panels` panels in `rows` rows, and these panels."""
    from matplotlib.figure import Figure

    columns = -(-panels // rows)
    figure = Figure(figsize=(4.3 * columns, 4.6 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for empty in axes[panels:]:
        empty.remove()
    return figure, axes[:panels]


def _legends_below(panels):
    """A legend under each panel, where it hides nothing."""
    for axes in panels:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _cross(axes):
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axvline(0, color="grey", linewidth=0.8)


def _tokens(size=121):
    """(log q, log p) of tokens whose log q − log p runs from −2 to 2, and that difference."""
    preference = torch.linspace(-2, 2, size, dtype=torch.float64)
    log_p = torch.full_like(preference, -2)
    return log_p + preference, log_p, preference


def draw_penalties(penalties, rows, logits, log_p):
    """The cost of a token, the force on the policy, the path that it takes."""
    figure, (price, force, way) = _figure(
        3,
        "Numbers subtracted from the reward, on a vocabulary of eight tokens.\n"
        "q: probability of a token under the policy; p: under the reference; r = p/q. "
        "Thick, dashed, crosses: your functions.",
    )
    at_q, at_p, preference = _tokens()
    log_q = logits.log_softmax(0)
    for i, (name, (kind, penalty)) in enumerate(penalties.items()):
        own = name.startswith(OWN)
        style = dict(color=f"C{i}", linewidth=3 if own else 1.5, linestyle="--" if own else "-")
        price.plot(preference, penalty(at_q, at_p), **style, label=name)
        moved = toys.penalty_gradient(penalty(log_q, log_p), log_q)
        exact = toys.exact_gradient(kind, logits, log_p)
        marker = dict(s=60, marker="x") if own else dict(s=25, marker="o")
        force.scatter(exact, moved, color=f"C{i}", label=name, **marker)
        way.plot(rows[name]["path"], **style, label=name)
    _cross(price)
    price.set(
        ylim=(-2, 2),
        xlabel="log q − log p of the token",
        ylabel="number subtracted, nats",
        title="Cost of a token\n(a line that rises through 0 holds the policy)",
    )
    force.axline((0, 0), slope=1, color="grey", linewidth=0.8, label="exact gradient")
    force.set(
        xlabel="gradient of the divergence by a logit",
        ylabel="expected gradient of the penalty",
        title="Gradient on each of the eight logits\n(on the grey line: exact)",
    )
    way.set(
        yscale="log",
        ylim=(1e-6, 20),
        xlabel="step",
        ylabel="KL(policy‖ref), nats",
        title="Distance while the penalty alone trains\n(falling: back to the reference)",
    )
    figure.set_size_inches(13, 6.6)
    _legends_below((price, force, way))
    return figure


def draw_places(penalties, pull_of):
    """For each number, its pull in three places, beside the two exact gradients."""
    figure, panels = _figure(
        len(penalties),
        "How a number c of a token pulls, depending on where it stands. "
        "q: policy; p: reference; r = p/q. The expected gradient is E_q[g · ∇log q]:\n"
        "in the reward g = c; in the loss g = c′, the derivative by log q; "
        "in the loss × ratio g = c + c′. Each g is drawn through 0: constants do not pull.",
        rows=1 if len(penalties) <= 3 else 2,
    )
    at_q, at_p, preference = _tokens()
    middle = len(preference) // 2
    styles = dict(zip(toys.PLACES, ((0, (1, 0)), (0, (5, 2)), (0, (1, 1.5)))))
    for axes, (name, (_, cost)) in zip(panels, penalties.items()):
        for kind, formula in FORMULAS.items():
            g = toys.exact_pull(kind, at_q, at_p)
            style = dict(color=COLORS[kind], linewidth=9, alpha=0.3)
            axes.plot(preference, g - g[middle], **style, label=f"exact for {formula}")
        for (place, dashes), color in zip(styles.items(), ("black", "tab:green", "tab:red")):
            g = pull_of(cost, place, at_q, at_p)
            if g is not None:
                style = dict(color=color, linewidth=2, linestyle=dashes)
                axes.plot(preference, g - g[middle], **style, label=place)
        _cross(axes)
        axes.set(ylim=(-2.5, 2.5), xlabel="log q − log p of the token", title=f"c = {name}")
        axes.legend(fontsize=7, loc="lower right")
        axes.set(ylabel="g: how hard the token is pushed down")
    return figure


def draw_texts(penalties, compare_texts):
    """How far the gradients are off as policy and reference part; noise as texts grow longer."""
    figure, (error, noise) = _figure(
        2,
        "Whole texts and single tokens. q: policy; p: reference; r = p/q of a token;\n"
        "k1 = −log r; k3 = r − 1 − log r; Σ, Π: sum and product over the tokens of a text",
    )
    wanted = [  # (the number, whose exact gradient, color, line)
        ("reward: Σ k1", ("texts", "forward"), "black", "-"),
        ("loss: k3 × ratio", ("texts", "forward"), "tab:red", "-"),
        ("loss: k3 × ratio", ("tokens", "forward"), "tab:red", ":"),
        (f"{OWN}forward", ("texts", "forward"), "tab:blue", "--"),
        (f"{OWN}backward", ("texts", "backward"), "tab:orange", "-"),
        (f"{OWN}backward", ("tokens", "backward"), "tab:orange", ":"),
        (f"{OWN}backward (texts)", ("texts", "backward"), "tab:green", "--"),
    ]
    wanted = [line for line in wanted if line[0] in penalties]
    spreads, distances, found = [0.05 * i for i in range(1, 13)], [], []
    for spread in spreads:
        toy = toys.toy_texts(spread)
        found.append(compare_texts({name: penalties[name] for name, *_ in wanted}, *toy))
        distances.append(toys.text_divergence("forward", *map(toys.token_log_probs, toy)).item())
    for name, key, color, line in wanted:
        target = f"{FORMULAS[key[1]]} of {key[0]}"
        off = [100 * rows[name][key] for rows in found]
        error.plot(distances, off, color=color, linestyle=line, label=f"{name} → {target}")
    error.set(
        xlabel="KL(policy‖ref) of a text of two tokens, nats",
        ylabel="error of the expected gradient, % of the exact one",
        title="Error of each number's gradient\n(0 %: exact for the divergence after →)",
    )
    logits, log_p = toys.toy_policy()
    log_q = logits.log_softmax(0)
    r, q = (log_p - log_q).exp(), log_q.exp()
    square = (q @ r**2).item()  # E[r] = 1, so a product of T has variance square**T − 1
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
    _legends_below((error, noise))
    return figure


def draw_beta(rows):
    """Score against nats where policies rest, the nats of each position, strength against nats."""
    figure, (plane, spent, strength) = _figure(
        3,
        "Texts of 32 tokens, score = sigmoid(good words − bad words), reward = score − coefficient "
        "· divergence.\nEach point: a policy at rest, where the gradients of score and divergence "
        "cancel, computed exactly.",
    )
    best = [toys.best_possible(10 ** (0.1 * i)) for i in range(-30, 6)]
    scores, nats = zip(*best)
    plane.plot(nats, scores, color="black", label="best possible")
    for held_by, color in zip(toys.HELD_BY, ("black", "tab:red", "tab:orange")):
        own = [
            (c, found, found["nats"].sum().item()) for how, c, found, _ in rows if how == held_by
        ]
        nats = [total for *_, total in own]
        plane.plot(nats, [found["score"] for _, found, _ in own], "o", color=color, label=held_by)
        found = next(found for c, found, _ in own if c == SHOWN)
        label = f"{held_by}: {found['nats'].sum():.2f} in all"
        spent.plot(range(1, toys.LENGTH + 1), found["nats"], color=color, label=label)
        if held_by == "KL(policy‖ref) of texts":
            strength.plot(
                [c for c, *_ in own], nats, "o-", color=color, label="--kl_type forward, --kl_coef"
            )
        else:
            flag = "--beta" if "policy‖" in held_by else "--beta, use_bias_correction_kl off"
            betas = [c / found["spread"] for c, found, _ in own]
            strength.plot(betas, nats, "o-", color=color, label=flag)
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
    _legends_below((plane, spent, strength))
    return figure
