import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from engine.model.architecture import is_plain_gpt2
from engine.model.gpt2 import GPT2Decoder, StaticDecoder, read
from engine.model.loading import add_lora
from engine.model.scoring import pad

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]
NEXT = [[1, 4, 1], [2, 7, 1], [8, 2, 8]]


def adapted(model):
    """With a LoRA adapter that changes what the model says."""
    lora = add_lora(model).eval()
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return lora


@torch.no_grad()
def assert_decodes(model):
    """Logits after the prompts and after each further token, against unpadded whole passes."""
    ids, mask = pad(PROMPTS, 0, "left")
    decoder = GPT2Decoder(model, mask, len(NEXT[0]))
    assert_logits(model, PROMPTS, [decoder(ids), *read_on(decoder)])


def read_on(decoder):
    return [decoder(torch.tensor(NEXT)[:, [t]]) for t in range(len(NEXT[0]))]


def assert_logits(model, prompts, got):
    for row, (prompt, more) in enumerate(zip(prompts, NEXT)):
        want = model(torch.tensor([prompt + more])).logits[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack(got)[:, row], want, atol=1e-5, rtol=1e-5)


def test_texts_that_begin_alike_are_read_once_up_to_where_they_part(small_gpt2):
    """Five nodes: 3, 3 1, 3 1 4, 3 1 5, 1. Padding belongs to the token before it."""
    ids = torch.tensor([[0, 3, 1, 4], [3, 1, 0, 5], [3, 1, 4, 0], [1, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    with torch.no_grad():
        hidden, nodes = read(small_gpt2, ids, mask)
    assert hidden.shape == (5, 16)
    assert nodes.tolist() == [[0, 0, 1, 2], [0, 1, 1, 3], [0, 1, 2, 2], [4, 4, 4, 4]]
    for text, node in ([3, 1, 4], 2), ([3, 1, 5], 3), ([1], 4):
        with torch.no_grad():
            want = small_gpt2.transformer(torch.tensor([text])).last_hidden_state[0, -1]
        torch.testing.assert_close(hidden[node], want, atol=1e-5, rtol=1e-5)


def test_logits_are_those_of_the_model(small_gpt2):
    assert is_plain_gpt2(small_gpt2)
    assert_decodes(small_gpt2)


def test_logits_with_an_adapter_and_with_it_switched_off(small_gpt2):
    plain = copy.deepcopy(small_gpt2)
    lora = adapted(small_gpt2)
    assert is_plain_gpt2(lora)
    assert_decodes(lora)
    ids, mask = pad(PROMPTS, 0, "left")
    with torch.no_grad(), lora.disable_adapter():
        got, want = GPT2Decoder(lora, mask, 1)(ids), GPT2Decoder(plain, mask, 1)(ids)
    assert got.equal(want)
    lora.merge_adapter()
    assert_decodes(lora)


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_a_static_decoder_reads_batch_after_batch(small_gpt2, lora):
    """Weights that change in place are read as they are, those of an adapter and its switch too;
    of the batch before nothing is left, not even what is no number."""
    model = adapted(small_gpt2) if lora else small_gpt2
    decoder = StaticDecoder(model, rows=3, width=8, max_new_tokens=3)
    places = [tensor.data_ptr() for tensor in (decoder.cache, decoder.blocked, decoder.positions)]
    for prompts in (PROMPTS, [[2, 7, 1], [8, 2, 8, 1, 8, 2, 8], [4]], PROMPTS):
        start = pad(prompts, 0, "left", width=8)
        assert_logits(model, prompts, [decoder.start(*start), *read_on(decoder)])
        if lora:
            with model.disable_adapter():
                assert_logits(model, prompts, [decoder.start(*start), *read_on(decoder)])
        decoder.cache.fill_(torch.nan)
        for weight in model.parameters():
            weight.mul_(0.9)
    tensors = decoder.cache, decoder.blocked, decoder.positions
    assert [tensor.data_ptr() for tensor in tensors] == places


def changed(name):
    def change(model):
        setattr(model.config, name, not getattr(model.config, name))
        return model

    return change


def with_adapter(**settings):
    def change(model):
        config = LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, **settings)
        return get_peft_model(model, config)

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("scale_attn_weights"),
        changed("scale_attn_by_inverse_layer_idx"),
        lambda model: model.bfloat16(),
        with_adapter(target_modules=["c_attn"], use_dora=True),
        with_adapter(target_modules=["c_attn"], lora_bias=True),
        with_adapter(target_modules=["wte"]),
        with_adapter(target_modules=["c_attn"], modules_to_save=["lm_head"]),
    ],
)
def test_what_it_would_compute_otherwise_it_leaves_alone(small_gpt2, change):
    assert not is_plain_gpt2(change(small_gpt2))


def test_another_architecture_is_left_alone(small_bloom):
    assert not is_plain_gpt2(small_bloom)
