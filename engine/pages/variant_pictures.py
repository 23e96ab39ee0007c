"""The pictures of `grpo_lab.py`: one figure for each experiment of variants.py."""

from torch import Tensor

from engine.course import variants
from engine.course.variants import SIZES, Advantages, ClipFigures, LengthSignal, Signal
from engine.pages.toy_pictures import LOOKS, legends_below, new_figure


def widths(count: int) -> list[float]:
    """Widths of lines that may lie on one another: the first is the widest."""
    return [1.4 + 0.8 * i for i in range(count)][::-1]


def draw_variants(signals: dict[str, list[Signal]], own: Advantages | None):
    """Noise by the size of a group; what a prompt counts by its difficulty; equal groups."""
    figure, (noise, push, equal) = new_figure(
        3,
        "Left: the policy over six words, all equally likely. Middle and right: prompts to which "
        "a share of the answers is right.\nA right answer earns 1, a wrong one 0. G: size of a "
        "group; σ: standard deviation of the rewards to a prompt.",
    )
    for (name, row), width in zip(signals.items(), widths(len(signals))):
        noises = [signal.noise for signal in row]
        noise.plot(SIZES, noises, markevery=1, linewidth=width, label=name)
    noise.set(
        xscale="log",
        xticks=SIZES,
        xticklabels=SIZES,
        ylim=(0.2, None),
        xlabel="size of a group",
        ylabel="standard deviation / length of the mean",
        title="Noise of the gradient that 64 texts tell",
    )
    noise.minorticks_off()
    shares = [0.01, *(0.04 * i for i in range(1, 25)), 0.99]
    prompts = [variants.prompt(share) for share in shares]
    push.plot(
        shares,
        [variants.gradient_signal(prompt, 8, variants.undivided).scale for prompt in prompts],
        label="undivided, G = 8",
    )
    if own:
        for size in (2, 8, 16):
            scales = [variants.gradient_signal(prompt, size, own).scale for prompt in prompts]
            push.plot(shares, scales, label=f"group_advantages, G = {size}")
    limit = [(share * (1 - share)) ** -0.5 for share in shares]
    push.plot(shares, limit, color="grey", linestyle="--", label="1/σ, G without end")
    push.set(
        ylim=(0, 6),
        xlabel="share of right answers",
        ylabel="expected gradient / gradient of the mean reward",
        title="What a prompt counts",
    )
    for size in SIZES:
        chances = [variants.equal_share(prompt, size) for prompt in prompts]
        equal.plot(shares, chances, label=f"G = {size}")
    equal.set(
        ylim=(0, 1),
        xlabel="share of right answers",
        ylabel="share of groups",
        title="Groups of equal reward: no advantage",
    )
    figure.set_size_inches(13, 6.2)
    legends_below((noise, push, equal))
    return figure


def draw_lengths(rows: dict[str, LengthSignal]):
    """How hard each text is pushed, and where the mean length goes."""
    figure, (pushed, path) = new_figure(
        2,
        f"Texts of {variants.SHORT} and of {variants.LIMIT} tokens; a right one earns 1, a wrong "
        "one 0, and length earns nothing.\nAdvantage: reward − mean of a group of eight.",
    )
    width = 0.8 / len(rows)
    for i, (name, row) in enumerate(rows.items()):
        places = [k + width * i for k in range(len(row.scaled))]
        pushed.bar(places, row.scaled.tolist(), width=width, label=name)
    toy = variants.length_toy(0.5)
    names = [variants.name_of_text(toy, text) for text in range(len(toy.policy))]
    pushed.axhline(0, color="grey", linewidth=0.8)
    pushed.set(
        xticks=[k + 0.4 - width / 2 for k in range(len(names))],
        xlabel="text",
        ylabel="push up, each time the text is drawn",
        title="Push by each loss, scaled to earn the same",
    )
    pushed.set_xticklabels(names, fontsize=8)
    for i, (name, loss) in enumerate(variants.LOSSES.items(), 1):  # as the bars beside it
        found = variants.follow_lengths(*loss)
        path.plot(found.right, found.length, **LOOKS[i], label=name)
    path.set(
        xlabel="share of right texts, as training goes on",
        ylabel="mean length, tokens",
        title="Mean length along the expected gradient",
    )
    figure.set_size_inches(11, 6)
    legends_below((pushed, path))
    return figure


def draw_clip(words: tuple[str, ...], runs: dict[str, Tensor], rows: dict[str, ClipFigures]):
    """The ratios of one rollout with and without the clip, and the mean reward of all runs.

    Args:
        runs: the policies of each kind of run, of `variants.follow_rollouts`; of the first two the
            ratios are drawn.
        rows: their figures.
    """
    figure, panels = new_figure(
        3,
        "Eight steps with each rollout of eight words. Left, middle: the first rollout of one run, "
        "the first that ends on a wrong word without the clip.\nratio: probability of a word now "
        "over what it was when the rollout was sampled. Pale band: 1 ± 0.2.",
    )
    kinds = list(runs)
    chosen = int(rows[kinds[1]].stuck.int().argmax())
    for axes, kind in zip(panels, kinds[:2]):
        policies = runs[kind][0, :, chosen]  # (steps + 1, K)
        axes.axhspan(0.8, 1.2, color="grey", alpha=0.25, linewidth=0)
        for word, ratios, width in zip(words, (policies / policies[0]).T, widths(len(words))):
            axes.plot(range(len(ratios)), ratios, linewidth=width, label=word)
        axes.set(
            yscale="log",
            ylim=(0.01, 10),
            xlabel="step with this rollout",
            ylabel="ratio",
            title=f"Ratio of each word: {kind}",
        )
    for (kind, row), width in zip(rows.items(), widths(len(rows))):
        missing = [1 - reward for reward in row.rewards]
        panels[2].plot(range(len(missing)), missing, linewidth=width, label=kind)
    panels[2].set(
        yscale="log",
        xlabel="rollouts",
        ylabel="1 − mean reward of the policy",
        title="Below the best reward, mean of all runs",
    )
    figure.set_size_inches(13, 5.8)
    legends_below(panels)
    return figure
