"""The largest layer of the model: from hidden states to the log-probability of one token each.

A vocabulary has thousands of entries, and of each row only one is asked for. So the logits are made
for a part of the vocabulary at a time, while they are in the processor's cache, and nothing is
computed twice.
"""

from typing import NamedTuple

import torch

from engine.model.architecture import base_of
from engine.model.gpt2 import read

LOGITS = 2**20  # made at a time: 4 MB in float32, which a processor's cache holds
LOGITS_OF_GPU = 2**26  # likewise, 256 MB: a GPU is faster with few large products


class TokenLogProbs(NamedTuple):
    """Of one token at each place, in nats. Gradients flow through the log-probabilities only."""

    log_probs: torch.Tensor
    entropy: torch.Tensor | None  # of the distribution it was drawn from; None without gradients


def completion_log_probs(model, ids, mask, asked, temperature=1.0) -> TokenLogProbs:
    """Log-probabilities of the tokens asked for, each given all before it.

    Args:
        model, ids, mask: as for `gpt2.read`.
        asked: (B, T) boolean, which of the last T < L tokens. Each has a real token before it.
        temperature: the logits are divided by it.

    Returns:
        Both (B, T); 0 for the other tokens.
    """
    hidden, nodes = read(model, ids, mask)
    length = asked.shape[1]
    before = nodes[:, -length - 1 : -1][asked]
    targets = ids[:, -length:][asked]
    weight = base_of(model).lm_head.weight
    found = token_log_probs(hidden.index_select(0, before), weight, targets, temperature)

    def placed(values):
        return values.new_zeros(asked.shape).masked_scatter(asked, values)

    entropy = None if found.entropy is None else placed(found.entropy)
    return TokenLogProbs(placed(found.log_probs), entropy)


def token_log_probs(hidden, weight, targets, temperature=1.0) -> TokenLogProbs:
    """Log-probability of one token for each hidden state, and the entropy it was drawn with.

    Args:
        hidden: (N, E) float32 hidden states, after the last layer norm.
        weight: (V, E) float32, the output layer.
        targets: (N,) token ids.
        temperature: the logits are divided by it.

    Returns:
        Both (N,).
    """
    hidden = hidden if temperature == 1 else hidden / temperature
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return TokenLogProbs(*_Differentiable.apply(hidden, weight, targets))
    chosen, top, sums, _, _ = _over_vocabulary(hidden, weight, targets)
    return TokenLogProbs((chosen - (top + sums.log()))[:, 0], None)


class _Differentiable(torch.autograd.Function):
    """With logits z = h·w and p = softmax(z): d log p_t / dh = w_t − Σ p w, and / dw = (1_t − p) h.

    Σ p w gives the entropy too, log Σ exp z − h · Σ p w.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        chosen, top, sums, means, ctx.parts = _over_vocabulary(
            hidden, weight, targets, average=True, keep=ctx.needs_input_grad[1]
        )
        log_sums = top + sums.log()
        ctx.save_for_backward(hidden, weight, targets, top, sums, means)
        entropy = (top - (hidden * means).sum(1, keepdim=True) + sums.log())[:, 0]
        ctx.mark_non_differentiable(entropy)
        return (chosen - log_sums)[:, 0], entropy

    @staticmethod
    def backward(ctx, gradient, _):
        hidden, weight, targets, top, sums, means = ctx.saved_tensors
        gradient = gradient[:, None]
        for_hidden = for_weight = None
        if ctx.needs_input_grad[0]:
            for_hidden = (weight[targets] - means) * gradient
        if ctx.needs_input_grad[1]:
            scaled = hidden * (-gradient / sums)
            for_weight = torch.cat(
                [exps.t() @ (scaled * (its_top - top).exp()) for exps, its_top in ctx.parts]
            )
            for_weight.index_add_(0, targets, hidden * gradient)
        return for_hidden, for_weight, None


def _rounds(device):
    """Whether products are rounded to TF32."""
    return device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32


def _over_vocabulary(hidden, weight, targets, average=False, keep=False):
    """What a softmax of the logits z = h·w needs, from one part of the vocabulary after the other.

    Whenever a part has a larger logit than those before, their sums shrink to the new scale.
    Where products are rounded, the logit of a target is one of those that were summed up: as it
    was drawn from in the rollout, and no log-probability is above 0.

    Args:
        average: also return Σ p w.
        keep: also return what the gradient of the weights needs.

    Returns:
        (z of the targets, max z, Σ exp(z − max z), Σ p w, parts): three (N, 1), (N, E), and for
        each part exp(z − m) and m, the maximum as far as it was known.
    """
    chosen = (hidden * weight[targets]).sum(1, keepdim=True)
    top = hidden.new_full((len(hidden), 1), -torch.inf)
    sums = hidden.new_zeros(len(hidden), 1)
    means = torch.zeros_like(hidden)
    parts = []
    most = LOGITS_OF_GPU if hidden.device.type == "cuda" else LOGITS
    place = targets[:, None]  # in the part
    for part in weight.split(max(64, most // max(1, len(hidden)))):
        z = hidden @ part.t()
        if _rounds(hidden.device):
            inside = (place >= 0) & (place < len(part))
            chosen = torch.where(inside, z.gather(1, place.clamp(0, len(part) - 1)), chosen)
            place = place - len(part)
        before = top
        top = torch.maximum(top, z.amax(1, keepdim=True))
        exps = z.sub_(top).exp_()
        shrink = (before - top).exp_()
        sums = sums.mul_(shrink).add_(exps.sum(1, keepdim=True))
        if average:
            means.mul_(shrink).addmm_(exps, part)
        if keep:
            parts.append((exps, top))
    return chosen, top, sums, means.div_(sums), parts
