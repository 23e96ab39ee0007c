"""GRPO on a policy small enough to watch, with your own two functions of exercise 4.

    python grpo_from_scratch.py

What TRL does for GPT-2 in train.py happens here to a softmax over six words: sample a group, turn
its rewards into advantages, take a clipped step. You see the policy while it learns. A test feeds
the same numbers to TRL's trainer and compares the losses. What other advantages and losses would
do to these six words: `python grpo_lab.py`.
"""

import sys
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from engine.common import UserError
from engine.course.student import Called, load_rewards
from engine.options import OneLineParser, rewards_file

WORDS = ("awful", "boring", "fine", "good", "great", "superb")
REWARDS = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0])


class KLTerm(NamedTuple):
    """TRL's KL term. Its gradient is that of KL(policy‖ref), token by token with the prefix held
    fixed (`python kl_lab.py beta`)."""

    beta: float  # its strength
    ref_log_probs: Tensor  # (B, T), of each sampled token under the reference


def kl_loss(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, kl_term: KLTerm) -> Tensor:
    """What `--beta` adds to the loss: a mean over all real tokens, like the loss itself.

    Args:
        log_probs, old_log_probs, mask: as for `policy_loss` in rewards.py, (B, T) each.
        kl_term: the reference, and how strongly it holds.
    """
    log_r = kl_term.ref_log_probs - log_probs
    k3 = log_r.exp() - 1 - log_r  # (B, T)
    # Without the ratio q/q_old, k3 would pull at another divergence.
    per_token = k3 * (log_probs - old_log_probs).exp()
    return kl_term.beta * (per_token * mask).sum() / mask.sum()


class Held(NamedTuple):
    """What holds the policy near the first one, p."""

    kl_coef: float = 0.0  # of the student's penalty for KL(q‖p)
    beta: float = 0.0  # strength of the KL term in the loss


NOT_HELD = Held()


def train_toy(
    functions: ModuleType | Called,
    held: Held = NOT_HELD,
    steps: int = 60,
    groups: int = 8,
    num_generations: int = 8,
    learning_rate: float = 0.3,
) -> Tensor:
    """Train the toy policy; returns its word probabilities before each step, (steps + 1, 6).

    Args:
        functions: of rewards.py, `group_advantages` and `policy_loss`, and with `held.kl_coef`
            `kl_penalty_forward`.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(len(WORDS), requires_grad=True)
    reference = logits.detach().log_softmax(0)
    history = [logits.detach().softmax(0)]
    size = groups * num_generations
    mask = torch.ones(size, 1, dtype=torch.bool)
    for _ in range(steps):
        words = history[-1].multinomial(size, replacement=True, generator=generator)[:, None]
        old = history[-1].log()[words]  # (B, 1): a text is one word
        ref = reference[words]
        rewards = REWARDS[words[:, 0]]
        if held.kl_coef:
            rewards = rewards - functions.kl_penalty_forward(old, ref, mask, kl_coef=held.kl_coef)
        advantages = functions.group_advantages(rewards, num_generations)
        log_probs = logits.log_softmax(0)[words]
        loss = functions.policy_loss(log_probs, old, advantages, mask)
        if held.beta:
            loss = loss + kl_loss(log_probs, old, mask, KLTerm(held.beta, ref))
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= learning_rate * gradient
        history.append(logits.detach().softmax(0))
    return torch.stack(history)


def row(name: str, policy: Tensor) -> str:
    """A policy in one line: a bar and a share for each word, the mean reward."""
    cells = []
    for share in policy.tolist():
        eighths = round(40 * share)  # of a character; a bar is five characters long at most
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
        cells.append(f"{bar.strip():5}{share:4.0%} ")
    return f"{name:11} {''.join(cells)}{policy @ REWARDS:.2f}"


def print_header(title: str, column: str) -> None:
    print(f"\n{title}\n{column:12}{''.join(f'{word:10}' for word in WORDS)}reward")


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--use_solution", action="store_true", help="use rewards_solution.py instead of rewards.py"
    )
    args = parser.parse_args(argv)
    functions = Called(load_rewards(rewards_file(args.use_solution)))
    history = train_toy(functions)
    print_header("The policy while it learns: the share of each word", "step")
    for step, policy in enumerate(history):
        if step % 5 == 0:
            print(row(f"{step}", policy))
    print_header("The policy after 60 steps, held near the first one", "held by")
    print(row("nothing", history[-1]))
    for strength in (0.1, 0.3, 1.0):
        print(row(f"kl_coef {strength}", train_toy(functions, Held(kl_coef=strength))[-1]))
    for strength in (0.1, 0.3, 1.0):
        print(row(f"beta {strength}", train_toy(functions, Held(beta=strength))[-1]))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"grpo_from_scratch.py: {error}")
