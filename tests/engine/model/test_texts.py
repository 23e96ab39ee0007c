"""Texts and token ids, with tokenizers and models that are not GPT-2's."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from engine.common import UserError
from engine.measuring.samples import describe_samples
from engine.model.sampling import Sampling, generate, generate_batches
from engine.model.scoring import Models, score_completions
from engine.model.texts import decode_behind, decode_completions, end_ids, tokenize_prompts
from engine.pages.token_view import describe_tokens

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]


@pytest.fixture
def llama():
    """A tokenizer that decodes as that of Llama 2: the first blank of a text is lost."""
    words = ["<unk>", "<s>", "</s>", "▁This", "▁was", "▁great", "▁fun", "ny", "▁"]
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_the_blank_between_prompt_and_completion_is_kept(llama, small_gpt2):
    prompt = llama("This was")["input_ids"]
    assert llama.decode([5], skip_special_tokens=True) == "great"  # the trap
    texts = decode_completions(
        small_gpt2, llama, [prompt] * 4, [[5, 4, 2], [7], [2], []]
    )  # 2 ends a text
    assert texts == [" great was", "ny", "", ""]
    assert decode_behind(llama, [prompt], [[5, 2]], skip_special_tokens=False) == [" great</s>"]
    sample = describe_samples(Models(small_gpt2, None, llama), ["This was"], [prompt], [[5, 2]])[0]
    assert sample["prompt"] + sample["completion"] == "This was great" and sample["finished"]


def test_the_tokens_of_a_page_join_to_that_text(llama, small_gpt2):
    prompt = llama("This was")["input_ids"]
    llama.pad_token = "</s>"
    (tokens,) = describe_tokens(Models(small_gpt2, small_gpt2, llama), [prompt], [[5, 6, 7, 2]])
    assert [token["text"] for token in tokens] == [" great", " fun", "ny", ""]
    named = {text for token in tokens for text, _ in token["q_top"]}
    assert named <= {
        llama.decode([0]),
        "<s>",
        "</s>",
        " This",
        " was",
        " great",
        " fun",
        "ny",
        " ",
        "",
    }


def test_a_prompt_does_not_end_with_what_the_tokenizer_puts_behind_it(llama, small_gpt2):
    want = tokenize_prompts(["This was", "This"], llama, small_gpt2)
    assert want == [[1, 3, 4], [1, 3]]  # what stands before a text belongs to it
    llama.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert llama("This")["input_ids"] == [1, 3, 2]
    assert tokenize_prompts(["This was", "This"], llama, small_gpt2) == want


def test_prompts_that_no_model_could_read_are_named(llama, small_gpt2):
    small_gpt2.config.vocab_size = 4
    with pytest.raises(UserError, match="The prompt 'This was' has tokens that the model has no"):
        tokenize_prompts(["This", "This was"], llama, small_gpt2)
    llama.backend_tokenizer.post_processor = None
    with pytest.raises(UserError, match="The prompt '' has no tokens: leave it out"):
        tokenize_prompts(["This", ""], llama, small_gpt2)


@pytest.mark.parametrize("small_model", ["small_gpt2", "small_bloom"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_text_ends_at_each_token_that_the_model_names(request, small_model, plain, token_ids):
    """0 is the tokenizer's, 4 and 7 are the model's: of Gemma, Llama 3, Qwen."""
    model = request.getfixturevalue(small_model)
    model.generation_config.eos_token_id = [4, 7]
    if not plain:  # read by the forward pass of transformers
        model.config.scale_attn_by_inverse_layer_idx = True
    assert end_ids(model, token_ids) == [0, 4, 7]
    ids, log_probs = generate(model, token_ids, PROMPTS * 30, Sampling(8))
    ends = {row[-1] for row in ids if len(row) < 8}
    assert ends == {0, 4, 7}
    assert not any({0, 4, 7} & set(row[:-1]) for row in ids)
    scored, mask = score_completions(model, token_ids, PROMPTS * 30, ids)
    assert mask.sum(1).tolist() == list(map(len, ids)) == list(map(len, log_probs))
    want = torch.tensor([value for row in log_probs for value in row])
    torch.testing.assert_close(scored[mask], want, atol=1e-4, rtol=0)


def test_an_evaluation_calls_a_text_finished_that_ends_with_any_of_them(policy, classifier):
    from evaluate import evaluate_model

    model, tokenizer = policy
    often = generate_batches(model, tokenizer, ["The film"] * 16, Sampling(8))
    second = max(set(often[0]), key=[token for row in often for token in row].count)
    before = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [before, second]
        samples = evaluate_model(
            model, tokenizer, ["The film"], model, samples_per_prompt=16, max_new_tokens=8
        )["samples"]
    finally:
        model.generation_config.eos_token_id = before
    ended = [sample for sample in samples if sample["ids"][-1] == second]
    assert ended and all(sample["finished"] for sample in ended)
    assert all(second not in sample["ids"][:-1] for sample in samples)
    word = tokenizer.decode([second])
    assert not any(s["completion"].endswith(word) and len(s["ids"]) == 1 for s in ended)
