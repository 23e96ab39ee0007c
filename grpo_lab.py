"""What the variants of GRPO change, on policies so small that nearly all of it is exact.

    python grpo_lab.py              # three experiments: their tables, and a picture of each
    python grpo_lab.py length       # one of them

variants   What is subtracted from a reward, and what divides it: REINFORCE, RLOO,
           Dr. GRPO, GRPO. Which of them follow the gradient of the mean reward?
           How noisy are they? What does a prompt count that is easy or hard?
length     Over what the loss takes its mean (--loss_type), and what that does to
           texts of different length.
clip       Eight steps with each rollout, with the clip and without it; and one.

Your two functions of exercise 4 take part as soon as they are written. G is the
size of a group, J the mean reward of the policy.
The figures come from engine/course/variants.py; docs/grpo.md explains them.
"""

import sys

import torch

from engine.common import UserError
from engine.course import variants
from engine.course.student import load_rewards, rewards_file
from engine.course.variants import SIZES, Advantages, Inner, Own, Toy
from engine.pages import lab
from engine.pages.lab import add_figures, make_table, show
from grpo_from_scratch import REWARDS, WORDS

# Whole tenths, which float32 does not have.
SIX_WORDS = Toy(torch.full((6,), 1 / 6, dtype=torch.float64), (10 * REWARDS.double()).round() / 10)
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
RIGHT = 0.25  # of the texts of `length`
RUNS = 1000  # of `clip`


def compare_variants(own: Own):
    """Print and draw: expected gradient and noise of each advantage, prompts easy and hard."""
    from engine.pages.variant_pictures import draw_variants

    signals = variants.compare_signals(SIX_WORDS, own.advantages)
    tables = {
        "noise": "Six words: noise of the gradient that 64 words tell",
        "cosine": "Cosine of the expected gradient with that of the mean reward",
        "scale": "Its length along it, over the length of that",
    }
    for figure, title in tables.items():
        table = make_table(title, "subtracted from the reward")
        add_figures(table, *(f"G = {size}" for size in SIZES))
        for name, row in signals.items():
            table.add_row(name, *(f"{getattr(signal, figure):.3f}" for signal in row))
        show(table)
    show(
        "noise: standard deviation of the gradient over the length of its mean\n"
        "group's mean: --scale_rewards none. It contains the own reward, so that 1/G of\n"
        "  the gradient is lost. RLOO is the same times G/(G − 1), exactly\n"
        "… over the batch's deviation: --scale_rewards batch\n"
        "group_advantages: yours, and --scale_rewards group. Of two words it sees only\n"
        "  which is better: any two rewards that differ get −0.71 and 0.71\n"
    )
    rules: dict[str, Advantages] = {"undivided": variants.undivided}
    if own.advantages:
        rules["group_advantages"] = own.advantages
    table = make_table("Prompts, by the share of answers that are right: G = 8", "right")
    add_figures(table, "groups of equal reward", *rules, "1/σ")
    for share in SHARES:
        prompt = variants.prompt(share)
        scales = [variants.gradient_signal(prompt, 8, rule).scale for rule in rules.values()]
        figures = [f"{x:.3f}" for x in (*scales, (share * (1 - share)) ** -0.5)]
        table.add_row(f"{share:.0%}", f"{variants.equal_share(prompt, 8):.1%}", *figures)
    show(table)
    show(
        "expected gradient over that of the prompt's mean reward. Divided by the group's\n"
        "  deviation, easy and hard prompts count more than those in between; undivided,\n"
        "  or divided by the batch's, all count alike\n"
        "1/σ: what division makes of it in very large groups\n"
    )
    return draw_variants(signals, own.advantages)


def compare_lengths(own: Own):
    """Print and draw: how hard each loss pushes short and long texts, and what becomes of them."""
    from engine.pages.variant_pictures import draw_lengths

    toy = variants.length_toy(RIGHT)
    weights = {"reward − J": toy.rewards - toy.policy @ toy.rewards}
    for name, (loss_type, batch) in variants.LOSSES.items():
        weights[name] = variants.text_weights(toy, loss_type, batch)
    if own.loss:
        weights["policy_loss"] = variants.own_text_weights(toy, own.loss)
    rows = {name: variants.length_signal(toy, values) for name, values in weights.items()}
    table = make_table(f"Push up of each text; {RIGHT:.0%} are right, half of all short", "loss")
    names = [variants.name_of_text(toy, text) for text in range(len(toy.policy))]
    add_figures(table, *(name.replace(", ", "\n") for name in names), "cosine", "tokens")
    for name, row in rows.items():
        pushes = [f"{x:+.3f}" for x in row.scaled]
        table.add_row(name, *pushes, f"{row.cosine:.4f}", f"{row.tokens:+.2f}")
    show(table)
    show(
        "push: each time the text is drawn in a group of eight, by an undivided advantage\n"
        "  (--scale_rewards none); scaled so that a small step earns the same\n"
        "reward − J: the gradient of the mean reward; cosine: with that one\n"
        "tokens: what the mean length gains, per 1 of mean reward, at first. Length earns\n"
        "  nothing here: it should be 0\n"
        "grpo: mean of the texts' means; dapo, bnpo: mean over the tokens of the batch;\n"
        "  dr_grpo: over as many tokens as there may be; policy_loss: yours\n"
    )
    return draw_lengths(rows)


def compare_clip(own: Own):
    """Print and draw: what becomes of ratios and rewards, with and without the clip."""
    from engine.pages.variant_pictures import draw_clip

    advantages, loss = own
    if advantages is None or loss is None:
        return None
    kinds = {
        "8 steps, ε = 0.2": Inner(runs=RUNS),
        "8 steps, no clip": Inner(epsilon=variants.NO_CLIP, runs=RUNS),
        "1 step, ε = 0.2": Inner(steps=1, runs=RUNS),
        "1 step, no clip": Inner(epsilon=variants.NO_CLIP, steps=1, runs=RUNS),
    }
    runs = {
        name: variants.follow_rollouts(advantages, loss, SIX_WORDS, inner)
        for name, inner in kinds.items()
    }
    rows = {name: variants.clip_figures(SIX_WORDS, policies) for name, policies in runs.items()}
    table = make_table(f"Six words, {RUNS} runs: rollouts of eight words", "with each rollout")
    after = (1, 5, Inner().rollouts)
    add_figures(table, "largest\nratio", "nats of\nthe first")
    add_figures(table, *(f"reward\nafter {n}" for n in after), "ended on a\nwrong word")
    for name, row in rows.items():
        rewards = [f"{row.rewards[n]:.3f}" for n in after]
        stuck = f"{row.stuck.double().mean():.1%}"
        table.add_row(name, f"{row.ratio:.4g}", f"{row.nats:.3f}", *rewards, stuck)
    show(table)
    show(
        "ratio: of a word's probability to what it was when sampled, as the losses saw it\n"
        "nats of the first: KL(policy after the first rollout ‖ policy that sampled it)\n"
        "reward: J, from 0.550 on, mean over the runs. Without the clip it rises faster,\n"
        "  and some runs end with nearly all probability on a word that is not the best,\n"
        "  but led its first groups. Then rewards are equal, and little is left to learn\n"
        "With one step the loss sees no ratio but 1, and the clip never acts: train.py\n"
    )
    return draw_clip(WORDS, runs, rows)


EXPERIMENTS = {"variants": compare_variants, "length": compare_lengths, "clip": compare_clip}


def main(argv: list[str] | None = None) -> None:
    args = lab.parse(str(__doc__), EXPERIMENTS, argv)
    own = variants.own_grpo(load_rewards(rewards_file(args.use_solution)))
    lab.run("grpo_lab", EXPERIMENTS, args, own)
    for name, function in zip(variants.FUNCTIONS, own):
        if function is None:
            print(f"{name} is still to do in rewards.py.")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"grpo_lab.py: {error}")
