"""Models that tests make: adapters that somebody has trained elsewhere."""

import torch

from engine.options import PRESETS

TINY = PRESETS["tiny"]["model_name"]
KINDS = {
    "plain": {"target_modules": ["c_attn"]},
    "DoRA": {"target_modules": ["c_attn", "c_fc"], "use_dora": True},
    "head": {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    "layer norm": {"target_modules": ["c_attn"], "modules_to_save": ["ln_1"]},
    "biases": {"target_modules": ["c_attn"], "bias": "all"},
}


def adapter_of(kind, folder, base=TINY, with_tokenizer=True):
    """The folder of an adapter that has been trained, and PEFT's model of it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, fan_in_fan_out=True, task_type="CAUSAL_LM", **KINDS[kind])
    adapted = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    adapted.save_pretrained(folder)
    if with_tokenizer:
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder), adapted
