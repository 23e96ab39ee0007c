"""What a model is made of: which of this project's ways it can go.

torch is imported inside the functions, so that `--help` need not wait for it.
"""

import inspect
import sys


def arguments_of(model):
    """Names of what the model's forward takes."""
    return inspect.signature(base_of(model).forward).parameters


def base_of(model):
    """The language model itself, without the LoRA adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_plain_gpt2(model):
    """Whether `engine.model.gpt2` and `output_layer` compute what the model does: a GPT-2 in
    float32, on one device, as it is or with plain LoRA adapters in its blocks."""
    import torch
    from transformers import GPT2LMHeadModel

    base = base_of(model)
    if type(base) is not GPT2LMHeadModel:
        return False
    config = base.config
    adapted = [module for module in base.modules() if hasattr(module, "base_layer")]
    outer = {type(m) for m in (base.lm_head, base.transformer.wte, base.transformer.wpe)}
    weights = {(type(p), p.dtype) for p in base.parameters()}  # another type: they lie in shards
    return (
        config.scale_attn_weights
        and not (config.scale_attn_by_inverse_layer_idx or config.add_cross_attention)
        and outer == {torch.nn.Linear, torch.nn.Embedding}
        and weights == {(torch.nn.Parameter, torch.float32)}
        and all(map(_is_plain_lora, adapted))
    )


def _is_plain_lora(layer):
    """Whether a layer that PEFT has wrapped adds a product of two matrices to its weight, and that
    is all: no DoRA, no bias of its own, no other method."""
    variants = getattr(layer, "lora_variant", True)
    bias = getattr(layer, "lora_bias", {})
    return not variants and not any(bias.values()) and hasattr(layer, "get_delta_weight")


def has_fast_rollout(model):
    """Whether `sampling.generate` can drive the model itself: not GPT-1, BLOOM or Mamba."""
    return {"position_ids", "past_key_values", "logits_to_keep"} <= arguments_of(model).keys()


def vocabulary_size(config):
    """How many tokens a model of this configuration has an embedding for."""
    return config.get_text_config().vocab_size


def context_length(model):
    """The most tokens the model can read: of a language model, prompt and completion together."""
    places = getattr(model.config, "max_position_embeddings", None) or -1
    if places < 0:  # XLNet says -1
        return sys.maxsize
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return places - padding - 1  # RoBERTa and its kin number positions from behind it
    return places
