"""The largest layer of the model: from hidden states to the log-probability of one token each.

A vocabulary has thousands of entries, and of each row only one is asked for. So the logits are made
for a part of the vocabulary at a time, while they are in the processor's cache, and nothing is
computed twice.
"""

import functools
import types

import torch

from engine.model.gpt2 import read
from engine.model.loading import base_of, is_plain_gpt2

LOGITS = 2**20  # made at a time: 4 MB in float32


def completion_log_probs(model, ids, mask, asked, temperature=1.0):
    """Log-probabilities of the tokens asked for, each given all before it.

    Args:
        model, ids, mask: as for `gpt2.read`.
        asked: (B, T) boolean, which of the last T < L tokens. Each has a real token before it.
        temperature: the logits are divided by it.

    Returns:
        (log_probs, entropy) as of `token_log_probs`, both (B, T); 0 for the other tokens.
    """
    hidden, nodes = read(model, ids, mask)
    length, weight = asked.shape[1], base_of(model).lm_head.weight
    before, targets = nodes[:, -length - 1 : -1][asked], ids[:, -length:][asked]
    pair = token_log_probs(hidden.index_select(0, before), weight, targets, temperature)
    return tuple(
        None if values is None else values.new_zeros(asked.shape).masked_scatter(asked, values)
        for values in pair
    )


def token_log_probs(hidden, weight, targets, temperature=1.0):
    """Log-probability of one token for each hidden state, and the entropy it was drawn with.

    Args:
        hidden: (N, E) float32 hidden states, after the last layer norm.
        weight: (V, E) float32, the output layer.
        targets: (N,) token ids.
        temperature: the logits are divided by it.

    Returns:
        (log_probs, entropy), both (N,) in nats. Gradients flow through the log-probabilities only.
        Where none is wanted, the entropy is None.
    """
    hidden = hidden if temperature == 1 else hidden / temperature
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _TokenLogProbs.apply(hidden, weight, targets)
    top, sums, _, _ = _over_vocabulary(hidden, weight)
    return (_chosen(hidden, weight, targets) - (top + sums.log()))[:, 0], None


class _TokenLogProbs(torch.autograd.Function):
    """With logits z = h·w and p = softmax(z): d log p_t / dh = w_t − Σ p w, and / dw = (1_t − p) h.

    Σ p w gives the entropy too, log Σ exp z − h · Σ p w.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        top, sums, means, ctx.parts = _over_vocabulary(
            hidden, weight, average=True, keep=ctx.needs_input_grad[1]
        )
        log_sums = top + sums.log()
        ctx.save_for_backward(hidden, weight, targets, top, sums, means)
        entropy = (top - (hidden * means).sum(1, keepdim=True) + sums.log())[:, 0]
        ctx.mark_non_differentiable(entropy)
        return (_chosen(hidden, weight, targets) - log_sums)[:, 0], entropy

    @staticmethod
    def backward(ctx, gradient, _):
        hidden, weight, targets, top, sums, means = ctx.saved_tensors
        gradient, for_hidden, for_weight = gradient[:, None], None, None
        if ctx.needs_input_grad[0]:
            for_hidden = (weight[targets] - means) * gradient
        if ctx.needs_input_grad[1]:
            scaled = hidden * (-gradient / sums)
            for_weight = torch.cat(
                [exps.t() @ (scaled * (its_top - top).exp()) for exps, its_top in ctx.parts]
            )
            for_weight.index_add_(0, targets, hidden * gradient)
        return for_hidden, for_weight, None


def _chosen(hidden, weight, targets):
    return (hidden * weight[targets]).sum(1, keepdim=True)


def _over_vocabulary(hidden, weight, average=False, keep=False):
    """What a softmax of the logits z = h·w needs, from one part of the vocabulary after the other.

    Whenever a part has a larger logit than those before, their sums shrink to the new scale.

    Args:
        average: also return Σ p w.
        keep: also return what the gradient of the weights needs.

    Returns:
        (max z, Σ exp(z − max z), Σ p w, parts): (N, 1), (N, 1), (N, E), and for each part
        exp(z − m) and m, the maximum as far as it was known.
    """
    top, sums = hidden.new_full((len(hidden), 1), -torch.inf), hidden.new_zeros(len(hidden), 1)
    means, parts = torch.zeros_like(hidden), []
    for part in weight.split(max(64, LOGITS // max(1, len(hidden)))):
        z = hidden @ part.t()
        before, top = top, torch.maximum(top, z.amax(1, keepdim=True))
        exps, shrink = z.sub_(top).exp_(), (before - top).exp_()
        sums = sums.mul_(shrink).add_(exps.sum(1, keepdim=True))
        if average:
            means.mul_(shrink).addmm_(exps, part)
        if keep:
            parts.append((exps, top))
    return top, sums, means.div_(sums), parts


def use_for_loss(model, temperature):
    """Have TRL's loss take its log-probabilities from here, on a CPU.

    TRL asks the model for them (`fused_lm_head=True`) and has a kernel for GPUs; on a CPU it makes
    the logits of prompts and padding too, three times. Call it after TRL has prepared the model.

    Args:
        model: the trainer's model, plain or with a LoRA adapter; dropout does not act.
        temperature: of the sampling.
    """
    base = base_of(model)
    if base.device.type != "cpu" or not is_plain_gpt2(base):
        return
    others = base.forward

    @functools.wraps(type(base).forward)
    def forward(self, *args, **kwargs):
        if not kwargs.get("fused_lm_head") or torch.is_autocast_enabled("cpu"):
            return others(*args, **kwargs)
        ids, mask, labels = (kwargs[name] for name in ("input_ids", "attention_mask", "labels"))
        log_probs, entropy = completion_log_probs(
            self, ids, mask, labels[:, 1:] != -100, temperature
        )
        return types.SimpleNamespace(log_probs=log_probs, entropy=entropy)

    base.forward = types.MethodType(forward, base)
