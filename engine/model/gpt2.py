"""GPT-2's forward pass, without the work that the texts of a batch have in common.

The same function as transformers' model, to rounding. A token sees only the tokens before it. So
where texts begin alike, as the completions of one prompt do, their hidden states are the same, and
are computed once; padding has none. And for sampling, one token at a time, keys and values have
their place from the start, and there is little Python between the products.
"""

from typing import NamedTuple

import torch

from engine.model.architecture import base_of

LEAST = torch.finfo(torch.float32).min  # not -inf: a row of padding would have no softmax


class Read(NamedTuple):
    """Hidden states of the different beginnings of some texts."""

    hidden: torch.Tensor  # (N, E), after the last layer norm
    nodes: torch.Tensor  # (B, L), which of the N belongs to a token; at padding, to the one before


def read(model, ids, mask, cache=None) -> Read:
    """Hidden states of texts, after the last layer norm. Dropout does not act.

    Args:
        model: one that `architecture.is_plain_gpt2`.
        ids: (B, L) token ids.
        mask: (B, L) 1 for a real token, 0 for padding, wherever it stands.
        cache: is filled with the keys and values, where it is given; see `GPT2Decoder`.
    """
    transformer = base_of(model).transformer
    heads = base_of(model).config.n_head
    rows, length = ids.shape
    nodes, first_seen = _shared(ids, mask)
    blocked = _blocked(mask)
    blocked = blocked + blocked.new_full((length, length), LEAST).triu(1)  # later tokens
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    x = transformer.wte(ids.flatten()[first_seen])
    x = x + transformer.wpe(positions.flatten()[first_seen])
    for i, block in enumerate(transformer.h):

        def attend(qkv, layer=i):
            query, keys, values = _heads(qkv.index_select(0, nodes.flatten()), rows, heads)
            if cache is not None:
                cache[layer, 0, :, :, :length] = keys
                cache[layer, 1, :, :, :length] = values
            return _attention(query, keys, values, blocked=blocked).index_select(0, first_seen)

        x = _Block(block)(x, attend)
    return Read(transformer.ln_f(x), nodes)


def _shared(ids, mask):
    """Texts as a tree: (nodes, first_seen), as in `read`, and (N,) where in the flattened ids each
    node stands first. A node is a token and all the tokens before it."""
    tree = {}  # (node of the text before, token) -> node
    nodes = []
    first_seen = []
    position = 0
    for row, real in zip(ids.tolist(), mask.tolist()):
        node = -1
        for token, is_real in zip(row, real):
            if is_real:
                node = tree.setdefault((node, token), len(first_seen))
                if node == len(first_seen):
                    first_seen.append(position)
            nodes.append(max(node, 0))
            position += 1
    nodes = torch.tensor(nodes, device=ids.device).view(ids.shape)
    return nodes, torch.tensor(first_seen, device=ids.device)


class GPT2Decoder:
    """A GPT-2 that remembers the keys and values of the tokens it has read.

    Args:
        model: one that `architecture.is_plain_gpt2`; dropout does not act.
        mask: (B, P) 1 for a real token of the prompts, 0 for padding, which stands on their left.
        max_new_tokens: how many tokens may follow the prompts.
    """

    def __init__(self, model, mask, max_new_tokens):
        base = base_of(model)
        self.model = model
        self.mask = mask
        self.transformer = base.transformer
        self.output = _in_blocks(base.lm_head.weight)
        self.blocks = [_Block(block, self._prepared) for block in base.transformer.h]
        rows, prompt = mask.shape
        heads, size = base.config.n_head, base.config.n_embd
        shape = (len(self.blocks), 2, rows, heads, prompt + max_new_tokens, size // heads)
        self.cache = self.output.new_empty(shape)  # keys and values
        self.blocked = torch.nn.functional.pad(_blocked(mask), (0, max_new_tokens))
        self.seen = 0
        self.positions = mask.sum(1)  # of the next token

    def __call__(self, ids):
        """(B, V) logits of the next token, after reading `ids`: first all (B, P), then (B, 1)."""
        if self.seen == 0:
            return self._read_prompts(ids)
        self.seen += 1
        logits = self._read_token(ids)
        self.positions = self.positions + 1
        return logits

    def _read_prompts(self, ids):
        self.seen = ids.shape[1]
        hidden, nodes = read(self.model, ids, self.mask, self.cache)
        return self._logits(hidden[nodes[:, -1]])

    def _read_token(self, ids):
        rows, heads = self.cache.shape[2:4]
        x = self.transformer.wte(ids[:, 0]) + self.transformer.wpe(self.positions)  # (B, E)
        for block, cache in zip(self.blocks, self.cache):

            def attend(qkv, cache=cache):
                query, keys, values = _heads(qkv, rows, heads)
                return _attention(query, *self._remember(cache, keys, values))

            x = block(x, attend)
        return self._logits(self.transformer.ln_f(x))

    def _remember(self, cache, keys, values):
        """Keep those of the token being read; returns all so far, and what attention adds."""
        cache[0, :, :, self.seen - 1 : self.seen] = keys
        cache[1, :, :, self.seen - 1 : self.seen] = values
        keys, values = cache[:, :, :, : self.seen]
        return keys, values, self.blocked[..., : self.seen]

    def _prepared(self, layer):
        """callable(x) for a Conv1D and the LoRA adapters of it that are switched on; no gradient
        reaches it."""
        weight = _merged_weight(layer)
        return lambda x: torch.addmm(layer.bias, x, weight)

    def _logits(self, x):
        """(B, E) -> (B, V)"""
        return (x @ self.output).transpose(0, 1).flatten(1)


class StaticDecoder(GPT2Decoder):
    """The same, with every tensor where it is from the start: reading a token is the same work on
    the same memory each time, as a CUDA graph needs it.

    Where the token stands is a tensor too. Attention looks at all places, and a mask is opened
    column by column. What an adapter adds to the weights is written anew for every batch, and
    weights that are trained in place are read as they are then.

    Args:
        rows, width: B and P of all batches.
    """

    def __init__(self, model, rows, width, max_new_tokens):
        self.adapted = []  # (layer, its weight with the adapters in it)
        device = model.device
        super().__init__(model, torch.ones(rows, width, device=device).long(), max_new_tokens)
        self.column = torch.empty(1, dtype=torch.long, device=device)  # of the next token

    def start(self, ids, mask):
        """(B, V) logits of the first token, after reading the prompts of a batch, (B, P) both."""
        for layer, weight in self.adapted:
            weight.copy_(_merged_weight(layer))
        self.mask = mask
        self.rewind()
        self.positions.copy_(mask.sum(1))
        self.blocked[..., : mask.shape[1]] = _blocked(mask)
        return self._read_prompts(ids)

    def rewind(self):
        """Back to the place behind the prompts, with nothing remembered."""
        self.cache.zero_()  # what is masked counts nothing, unless it is not even a number
        self.blocked.fill_(LEAST)
        self.positions.zero_()
        self.column.fill_(self.mask.shape[1])

    def __call__(self, ids):
        """(B, V) logits of the next token, after reading one, (B, 1)."""
        self.blocked.index_fill_(3, self.column, 0)
        logits = self._read_token(ids)
        self.positions.add_(1)
        self.column.add_(1)
        return logits

    def _remember(self, cache, keys, values):
        cache[0].index_copy_(2, self.column, keys)
        cache[1].index_copy_(2, self.column, values)
        return cache[0], cache[1], self.blocked

    def _prepared(self, layer):
        if not hasattr(layer, "get_delta_weight"):
            return layer
        weight = torch.empty_like(layer.weight)
        self.adapted.append((layer, weight))
        return lambda x: torch.addmm(layer.bias, x, weight)


class _Block:
    """One transformer block.

    Args:
        prepare: callable(linear layer) -> callable(x), what is to be called in its place.
    """

    def __init__(self, block, prepare=lambda layer: layer):
        attention, mlp = block.attn, block.mlp
        layers = attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj
        self.qkv, self.out, self.up, self.down = map(prepare, layers)
        self.norms = block.ln_1, block.ln_2
        self.activation = mlp.act

    def __call__(self, x, attend):
        """(N, E) -> (N, E); `attend` makes of (N, 3·E) queries, keys and values (N, E)."""
        x = x + self.out(attend(self.qkv(self.norms[0](x))))
        return x + self.down(self.activation(self.up(self.norms[1](x))))


def _in_blocks(weight):
    """(V, E) -> (K, E, V/K), the output layer in K equal parts. On a CPU with AVX2 some rows times
    many small matrices take two thirds of the time that they take times one wide matrix."""
    entries, size = weight.shape
    most = 32 if weight.device.type == "cpu" else 1
    count = max(k for k in range(1, most + 1) if entries % k == 0)
    return weight.view(count, -1, size).transpose(1, 2)


def _heads(qkv, rows, heads):
    """(B·L, 3·E) -> queries, keys and values, (B, H, L, D) each."""
    return qkv.view(rows, -1, 3, heads, qkv.shape[1] // (3 * heads)).permute(2, 0, 3, 1, 4)


def _blocked(mask):
    """(B, L) -> (B, 1, 1, L): what attention adds to its scores, so that none sees padding."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask == 0, LEAST)[:, None, None]


def _attention(query, keys, values, blocked):
    """(B, H, L, D), twice (B, H, M, D) and what is added to the scores -> (B·L, H·D)."""
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2) + blocked
    return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2).flatten(0, 1)


def _merged_weight(layer):
    """The weight of a layer with the LoRA adapters that are switched on."""
    weight = layer.weight
    if hasattr(layer, "get_delta_weight") and not (layer.disable_adapters or layer.merged):
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight
