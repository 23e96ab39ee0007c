"""The largest layer of the model: from hidden states to the log-probability of one token each.

A vocabulary has thousands of entries, and of each row only one is asked for. So the logits are made
a few rows at a time, while they are in the processor's cache, and nothing is computed twice.
"""

import functools
import types

import torch

from engine.policy import base_of, is_plain_gpt2

ROWS = 128  # hidden states whose logits are made at a time: 3 MB in float32 at 6,144 entries


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
    log_probs, buffer = hidden.new_empty(len(hidden)), hidden.new_empty(ROWS, len(weight))
    for rows in _chunks(len(hidden)):
        chosen, sums, _ = _exponentials(hidden[rows], weight, targets[rows], buffer)
        log_probs[rows] = (chosen - sums.log())[:, 0]
    return log_probs, None


class _TokenLogProbs(torch.autograd.Function):
    """With logits z = h·w and p = softmax(z): d log p_t / dh = w_t − Σ p w, and / dw = (1_t − p) h.

    Σ p w gives the entropy too, log Σ exp z − h · Σ p w.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        log_probs, entropy, sums = hidden.new_empty(3, len(hidden), 1)
        exps, means = hidden.new_empty(len(hidden), len(weight)), torch.empty_like(hidden)
        for rows in _chunks(len(hidden)):
            h, z = hidden[rows], exps[rows]
            log_probs[rows], sums[rows], top = _exponentials(h, weight, targets[rows], z)
            torch.mm(z, weight, out=means[rows])
            means[rows] /= sums[rows]
            entropy[rows] = top - (h * means[rows]).sum(1, keepdim=True)
        log_sums = sums.log()
        ctx.save_for_backward(hidden, weight, targets, exps, sums, means)
        ctx.mark_non_differentiable(entropy := (entropy + log_sums)[:, 0])
        return (log_probs - log_sums)[:, 0], entropy

    @staticmethod
    def backward(ctx, gradient, _):
        hidden, weight, targets, exps, sums, means = ctx.saved_tensors
        gradient, for_hidden, for_weight = gradient[:, None], None, None
        if ctx.needs_input_grad[0]:
            for_hidden = (weight[targets] - means) * gradient
        if ctx.needs_input_grad[1]:
            for_weight = exps.t() @ (hidden * (-gradient / sums))
            for_weight.index_add_(0, targets, hidden * gradient)
        return for_hidden, for_weight, None


def _chunks(count):
    return [slice(start, start + ROWS) for start in range(0, count, ROWS)]


def _exponentials(hidden, weight, targets, out):
    """Write exp(z − max z) into the first rows of `out`; return z_target − max z, Σ and max z."""
    z = torch.mm(hidden, weight.t(), out=out[: len(hidden)])
    top = z.amax(1, keepdim=True)
    chosen = z.gather(1, targets[:, None]) - top
    return chosen, z.sub_(top).exp_().sum(1, keepdim=True), top


def use_for_loss(model, temperature):
    """Have TRL's loss take its log-probabilities from here, on a CPU.

    TRL asks the model for them (`fused_lm_head=True`) and has a kernel for GPUs; on a CPU it makes
    the logits of prompts and padding too, three times. Call it after TRL has prepared the model.

    Args:
        model: the trainer's model, plain or with a LoRA adapter.
        temperature: of the sampling.
    """
    base = base_of(model)
    if base.device.type != "cpu" or not is_plain_gpt2(base):
        return
    others = base.forward

    @functools.wraps(type(base).forward)
    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        if not fused_lm_head:
            return others(*args, labels=labels, **kwargs)
        hidden = self.transformer(*args, **kwargs, use_cache=False).last_hidden_state[:, :-1]
        asked = (labels[:, 1:] != -100).flatten().nonzero()[:, 0]
        chosen = hidden.flatten(0, 1).index_select(0, asked)
        pair = token_log_probs(
            chosen, self.lm_head.weight, labels[:, 1:].flatten()[asked], temperature
        )
        places = hidden.new_zeros(len(labels) * hidden.shape[1])
        log_probs, entropy = (
            None if values is None else places.index_copy(0, asked, values).view(len(labels), -1)
            for values in pair
        )
        return types.SimpleNamespace(log_probs=log_probs, entropy=entropy)

    base.forward = types.MethodType(forward, base)
