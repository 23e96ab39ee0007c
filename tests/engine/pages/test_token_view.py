import copy
import re
from html.parser import HTMLParser

import pytest
import torch

from engine.model.loading import add_lora
from engine.model.scoring import Models
from engine.pages.token_view import describe_tokens, legend_html, token_texts, tokens_html

PROMPTS = ["This movie was", "It", "The plot of this film is"]
TEXTS = [" great fun.", " not a café, but a naïve 😀 film", "\n\x07 odd <b>"]


def brute_force(model, prompt, completion, temperature):
    """The whole distribution of each token, one unpadded sequence, in float64."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


@pytest.fixture
def pair(policy):
    """(policy, reference, tokenizer): the policy is the bundled model, disturbed."""
    reference, tokenizer = policy
    changed = copy.deepcopy(reference)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in changed.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return changed, reference, tokenizer


def test_every_number_is_that_of_a_brute_force_pass(pair):
    changed, reference, tokenizer = pair
    temperature = 0.7
    prompts = tokenizer(PROMPTS)["input_ids"]
    completions = tokenizer(TEXTS)["input_ids"]
    completions[0].append(tokenizer.eos_token_id)
    got = describe_tokens(Models(changed, reference, tokenizer), prompts, completions, temperature)
    assert [len(tokens) for tokens in got] == [len(ids) for ids in completions]
    for tokens, prompt, ids in zip(got, prompts, completions):
        for name, model in (("q", changed), ("p", reference)):
            want = brute_force(model, prompt, ids, temperature)
            mine = torch.tensor([token[name] for token in tokens], dtype=torch.float64)
            chosen = want.gather(1, torch.tensor(ids)[:, None])[:, 0]
            torch.testing.assert_close(mine, chosen, atol=5e-5, rtol=0)
            best = want.topk(5)
            tops = [[value for _, value in token[f"{name}_top"]] for token in tokens]
            tops = torch.tensor(tops, dtype=torch.float64)
            torch.testing.assert_close(tops, best.values, atol=5e-5, rtol=0)
            assert tokens[0][f"{name}_top"][0][0] == tokenizer.decode([best.indices[0, 0]])


def test_equal_models_have_no_tint_and_other_texts_change_nothing(policy):
    model, tokenizer = policy
    prompts, completions = tokenizer(PROMPTS)["input_ids"], tokenizer(TEXTS)["input_ids"]
    together = describe_tokens(Models(model, model, tokenizer), prompts, completions)
    assert all(token["q"] == token["p"] for tokens in together for token in tokens)
    (alone,) = describe_tokens(Models(model, model, tokenizer), prompts[1:2], completions[1:2])
    assert [t["q"] for t in alone] == pytest.approx([t["q"] for t in together[1]], abs=1e-5)
    assert describe_tokens(Models(model, model, tokenizer), prompts[:1], [[]]) == [[]]


def test_the_reference_of_a_lora_policy_is_the_model_without_its_adapter(policy):
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    prompts, completions = tokenizer(PROMPTS)["input_ids"], tokenizer(TEXTS)["input_ids"]
    want = describe_tokens(Models(model, model, tokenizer), prompts, completions)
    lora = add_lora(model).eval()
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    got = describe_tokens(Models(lora, None, tokenizer), prompts, completions)
    for ours, theirs in zip(got, want):
        assert [t["p"] for t in ours] == pytest.approx([t["p"] for t in theirs], abs=1e-5)
        assert any(abs(token["q"] - token["p"]) > 0.01 for token in ours)


def test_token_texts_join_to_the_decoded_text(policy):
    tokenizer = policy[1]

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)

    for text in (*TEXTS, "日本語 ok", ""):
        ids = tokenizer(text)["input_ids"]
        texts = token_texts(decode, [*ids, tokenizer.eos_token_id])
        assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=True)
        assert len(texts) == len(ids) + 1 and texts[-1] == ""
    ids = tokenizer("😀")["input_ids"]  # the tokenizer puts a space before a text
    assert token_texts(decode, ids) == [" ", "", "", "", "😀"]
    cut = ids[:-1]  # half a character at the end stays visible
    assert "".join(token_texts(decode, cut)) == tokenizer.decode(cut) == " \ufffd"
    odd = [ids[1], *tokenizer(" film")["input_ids"], ids[2], ids[1]]  # bytes that fit nowhere
    assert "".join(token_texts(decode, odd)) == tokenizer.decode(odd)


def test_the_html_holds_the_texts_and_their_tints():
    tokens = [{"text": " <i>&", "q": -1.0, "p": -3.25}, {"text": "", "q": -2.5, "p": -0.5}]
    text, seen = tokens_html(tokens), []
    parser = HTMLParser()
    parser.handle_data = seen.append
    parser.feed(text)
    assert "".join(seen) == " <i>&"
    assert re.findall(r"--d:([-.\d]+)", text) == ["2.25000", "-2.00000"]
    assert text.count('tabindex="0"') == 2 and "log q −1.00, log p −3.25" in text
    assert re.findall(r"--d:([-\d]+)", legend_html()) == ["-3", "-2", "-1", "0", "1", "2", "3"]
