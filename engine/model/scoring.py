"""Score token ids: padding, per-token log-probabilities, policy against reference."""

import contextlib
import math
from typing import Any, NamedTuple

import torch

from engine.model.architecture import arguments_of, is_plain_gpt2
from engine.model.output_layer import completion_log_probs

# log r is cut here before exp(). A cut biases the values of a far policy low; without one, a single
# token can drown those of the batch. At most a thousandth of a policy's tokens have so large an r.
MAX_LOG_RATIO = math.log(1000)


def pad(sequences, padding_id, side, device=None, width=0):
    """Lists of token ids as one tensor, and its attention mask.

    Args:
        sequences: B lists of token ids.
        padding_id: the id that fills the shorter ones.
        side: "left" puts the padding before them, "right" behind.
        width: the least T; the longest list by default.

    Returns:
        (ids, mask), both (B, T) and int64; the mask is 1 for a real token, 0 for padding.
    """
    lengths = [len(ids) for ids in sequences]
    width = max(width, max(lengths))

    def rows(values, filling):  # one tensor of lists: a tensor a row takes ten times as long
        gaps = [[filling] * (width - length) for length in lengths]
        pairs = zip(gaps, values) if side == "left" else zip(values, gaps)
        return torch.tensor([[*a, *b] for a, b in pairs], dtype=torch.long, device=device)

    return rows(sequences, padding_id), rows([[1] * length for length in lengths], 0)


@contextlib.contextmanager
def evaluation_mode(model):
    """Switch off dropout for a while; every module gets back the mode it had."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def compute_log_probs(model, input_ids, attention_mask, completion_length, temperature=1.0):
    """Log-probability of each of the last `completion_length` tokens, given all before it.

    One pass, logits only where they are needed. Padding may stand anywhere: each row's real
    tokens are moved together before the pass and its results moved back after it.

    Args:
        model: causal language model; dropout does not act, whatever its mode. Weights below
            float32 are read as float32: at a log-probability of 8, bfloat16 steps by 0.06, as
            large as the signal.
        input_ids: (B, L) prompt and completion tokens; L = prompt part + completion_length.
        attention_mask: (B, L), 1 for a real token, 0 for padding. Every row begins with at least
            one real prompt token.
        completion_length: T, columns from the right that hold the completion.
        temperature: the logits are divided by it, as in sampling.

    Returns:
        (B, T) float32 tensor in nats; 0 where the completion is padding.
    """
    length = completion_length
    if is_plain_gpt2(model) and not torch.is_autocast_enabled(input_ids.device.type):
        with evaluation_mode(model):
            asked = attention_mask[:, -length:] != 0
            return completion_log_probs(
                model, input_ids, attention_mask, asked=asked, temperature=temperature
            )[0]
    order = attention_mask.long().argsort(dim=1, stable=True)  # padding first, then real tokens
    ids, mask = input_ids.gather(1, order), attention_mask.gather(1, order)
    log_probs = vocabulary_log_probs(model, ids, mask, length=length, temperature=temperature)
    log_probs = log_probs.gather(-1, ids[:, -length:, None])[..., 0]  # (B, T)
    back = torch.zeros_like(input_ids, dtype=torch.float32)
    back = back.scatter(1, order[:, -length:], log_probs)[:, -length:]
    return back.masked_fill(attention_mask[:, -length:] == 0, 0.0)


def vocabulary_log_probs(model, ids, mask, length, temperature=1.0):
    """Log-probability of every token of the vocabulary at the last `length` places.

    Args:
        model, temperature: as for `compute_log_probs`.
        ids, mask: (B, L) token ids with their padding on the left, and 1 for a real token.
        length: T.

    Returns:
        (B, T, V) float32 tensor in nats.
    """
    with evaluation_mode(model):
        logits = _forward(
            model,
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=torch.arange(-length - 1, -1, device=ids.device),
            use_cache=False,
        ).logits
    if logits.shape[1] > length:  # a model that keeps them all
        logits = logits[:, -length - 1 : -1]
    logits = logits.float()  # (B, T, V): logits at t - 1 predict token t
    if temperature != 1:
        logits = logits / temperature
    return logits.log_softmax(-1)


def _forward(model, **inputs):
    inputs = {name: value for name, value in inputs.items() if name in arguments_of(model)}
    if next(model.parameters()).dtype == torch.float32:
        return model(**inputs)
    weights = {name: tensor.float() for name, tensor in model.named_parameters()}
    return torch.func.functional_call(model, weights, kwargs=inputs)


def score_completions(model, tokenizer, prompt_ids, completion_ids, temperature=1.0):
    """Per-token log-probabilities of completions behind their prompts, padded on the right.

    Args:
        model, temperature: as for `compute_log_probs`.
        prompt_ids, completion_ids: lists of B lists of token ids.

    Returns:
        (log_probs, mask), both (B, T): float32, nats, and boolean, the tokens that are real.
    """
    padding = tokenizer.pad_token_id
    prompts, prompt_mask = pad(prompt_ids, padding, "left", device=model.device)
    completions, mask = pad(completion_ids, padding, "right", device=model.device)
    log_probs = compute_log_probs(
        model,
        torch.cat([prompts, completions], dim=1),  # (B, P + T)
        torch.cat([prompt_mask, mask], dim=1),
        completion_length=completions.shape[1],
        temperature=temperature,
    )
    return log_probs, mask.bool()


@contextlib.contextmanager
def reference_model(policy, ref_model=None):
    """The frozen reference: `ref_model`, or a LoRA policy with its adapter switched off."""
    if ref_model is not None:
        yield ref_model
    else:
        with policy.disable_adapter():
            yield policy


class Models(NamedTuple):
    """What samples and scores together."""

    policy: Any
    ref: Any  # the frozen reference; None: the policy with its LoRA adapter switched off
    tokenizer: Any
    amp_dtype: torch.dtype | None = None  # autocast type of both passes; None: that of the rollout


class LogProbs(NamedTuple):
    """Per-token log-probabilities of completions, in nats, each (B, T); padded on the right."""

    policy: torch.Tensor  # float32
    ref: torch.Tensor  # float32
    mask: torch.Tensor  # boolean: the tokens that are real

    def part(self, *rows_and_columns: slice) -> "LogProbs":
        """Those of some rows, or of some rows and columns."""
        return LogProbs(*(values[rows_and_columns] for values in self))


def policy_and_ref_log_probs(
    models: Models,
    prompt_ids,
    completion_ids,
    temperature=1.0,
    *,
    ref_prompt_ids=None,
    sampled_log_probs=None,
) -> LogProbs:
    """Per-token log-probabilities of sampled completions under the policy and the reference.

    Both models read the same ids in the same numeric type, so that equal models give equal
    numbers. `sampled_log_probs` save the policy's pass: equal models then give numbers within 1e-4
    of each other, in TF32 within 1e-2. Under autocast they would differ by what bfloat16 rounds,
    0.14 nats a completion and more, so both models are asked there.

    Args:
        models: the policy is the one that sampled.
        prompt_ids, completion_ids: lists of B lists of token ids.
        temperature: of the sampling.
        ref_prompt_ids: what the reference reads in place of `prompt_ids`, if it is not the same.
        sampled_log_probs: lists of B lists, the policy's, as `sampling.generate` returns them.

    Returns:
        `LogProbs` on the CPU, wherever the models are: what is made of them is small, and would
        have a GPU waited for at every number.
    """
    device = models.policy.device
    autocast = torch.autocast(
        device.type, dtype=models.amp_dtype, enabled=models.amp_dtype is not None
    )

    def score(model, prompt_ids):
        return score_completions(model, models.tokenizer, prompt_ids, completion_ids, temperature)

    with torch.no_grad(), autocast:
        with reference_model(models.policy, models.ref) as reference:
            ref_log_probs, mask = score(reference, ref_prompt_ids or prompt_ids)
        if sampled_log_probs is None or models.amp_dtype is not None:
            policy_log_probs, _ = score(models.policy, prompt_ids)
            policy_log_probs, ref_log_probs = torch.stack([policy_log_probs, ref_log_probs]).cpu()
            return LogProbs(policy_log_probs, ref_log_probs, mask.cpu())
    ref_log_probs, mask = ref_log_probs.cpu(), mask.cpu()
    policy_log_probs = torch.zeros_like(ref_log_probs)
    policy_log_probs[mask] = torch.tensor([value for row in sampled_log_probs for value in row])
    return LogProbs(policy_log_probs, ref_log_probs, mask)


class KLValues(NamedTuple):
    """Estimates of both divergences of each completion, (B,) in nats."""

    forward: torch.Tensor  # KL(policy‖ref)
    backward: torch.Tensor  # KL(ref‖policy) of the next token, summed along the policy's text
    clipped: float  # share of tokens whose log r was cut


def kl_values(policy_log_probs, ref_log_probs, mask) -> KLValues:
    """Estimates of both KL values, to look at; never to subtract from a reward.

    With r = p/q, per token and summed over each completion: r − 1 − log r estimates
    KL(policy‖ref), and r · log r − (r − 1) estimates KL(ref‖policy) of the next token, summed
    along the policy's own text. Both are ≥ 0 and, but for the cut at log r = log 1000, unbiased
    under samples of the policy (Schulman 2020). Near agreement they vary less than log q − log p,
    far away more. The first is also unbiased for whole texts, the
    second is not: there, the texts would have to be the reference's.

    Args:
        policy_log_probs, ref_log_probs: (B, T) float32, nats.
        mask: (B, T) boolean.

    """
    log_ratio = ref_log_probs - policy_log_probs
    clipped = (log_ratio > MAX_LOG_RATIO) & mask
    log_r = torch.where(mask, log_ratio.clamp(max=MAX_LOG_RATIO), 0.0)
    r_minus_1 = log_r.expm1()
    return KLValues(
        forward=(r_minus_1 - log_r).sum(-1),
        backward=((r_minus_1 + 1) * log_r - r_minus_1).sum(-1),
        clipped=(clipped.sum() / mask.sum().clamp(min=1)).item(),
    )
