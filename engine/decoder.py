"""GPT-2's forward pass as sampling needs it: new tokens in, logits of the next one out.

The same function as transformers' model, to rounding, without its cost at one token a row: caches
that are copied to grow, masks that are built anew, Python between small products.
"""

import torch

from engine.policy import base_of

LEAST = torch.finfo(torch.float32).min  # not -inf: a row of padding would have no softmax


class GPT2Decoder:
    """A GPT-2 that remembers the keys and values of the tokens it has read.

    Args:
        model: one that `policy.is_plain_gpt2`; dropout does not act.
        mask: (B, P) 1 for a real token of the prompts, 0 for padding, which stands on their left.
        max_new_tokens: how many tokens may follow the prompts.
    """

    def __init__(self, model, mask, max_new_tokens):
        base = base_of(model)
        self.transformer, self.output = base.transformer, base.lm_head.weight  # (V, E)
        self.blocks = [_Block(block) for block in base.transformer.h]
        (rows, prompt), heads, size = mask.shape, base.config.n_head, base.config.n_embd
        places = prompt + max_new_tokens
        shape = (len(self.blocks), 2, rows, heads, places, size // heads)
        self.cache = self.output.new_empty(shape)  # keys and values
        self.hidden = self.output.new_zeros(rows, 1, 1, places)  # is added to attention's scores
        self.hidden[..., :prompt].masked_fill_(mask[:, None, None] == 0, LEAST)
        self.seen = 0
        self.positions = (mask.cumsum(1) - 1).clamp(min=0)

    def __call__(self, ids):
        """(B, V) logits of the next token, after reading `ids`: first all (B, P), then (B, 1)."""
        (rows, length), start = ids.shape, self.seen
        self.seen += length
        hidden = self.hidden[..., : self.seen]
        if length > 1:  # the prompts: no token sees a later one
            hidden = hidden + hidden.new_full((length, length), LEAST).triu(1)
        transformer = self.transformer
        x = (transformer.wte(ids) + transformer.wpe(self.positions)).flatten(0, 1)  # (B·L, E)
        for block, cache in zip(self.blocks, self.cache):
            x = block(x, cache, start, hidden)
        self.positions = self.positions[:, -1:] + 1
        return transformer.ln_f(x.view(rows, length, -1)[:, -1]) @ self.output.t()


class _Block:
    """One transformer block: its layers, and its weights with a LoRA adapter added to them."""

    def __init__(self, block):
        attention, mlp = block.attn, block.mlp
        self.norms, self.activation = (block.ln_1, block.ln_2), mlp.act
        self.linear = [
            _weights(layer) for layer in (attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj)
        ]

    def __call__(self, x, cache, start, hidden):
        """(B·L, E) -> (B·L, E); writes the new keys and values into `cache`."""
        qkv, out, up, down = self.linear
        _, rows, heads, _, width = cache.shape
        new = _linear(self.norms[0](x), qkv).view(rows, -1, 3, heads, width).permute(2, 0, 3, 1, 4)
        end = start + new.shape[3]
        query, cache[:, :, :, start:end] = new[0], new[1:]  # (B, H, L, D), and two of them
        keys, values = cache[:, :, :, :end]
        scores = (query * width**-0.5) @ keys.transpose(-1, -2) + hidden  # (B, H, L, end)
        attended = (scores.softmax(-1) @ values).transpose(1, 2).reshape(x.shape)
        x = x + _linear(attended, out)
        return x + _linear(self.activation(_linear(self.norms[1](x), up)), down)


def _linear(x, weights):
    weight, bias = weights
    return torch.addmm(bias, x, weight)


def _weights(layer):
    """(weight, bias) of a Conv1D, with the LoRA adapters that are switched on."""
    weight = layer.weight
    if hasattr(layer, "get_delta_weight") and not (layer.disable_adapters or layer.merged):
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight, layer.bias
