import copy
import json

import pytest
import torch
from datasets import Dataset

import data
import sentiment
from engine.common import ROOT, UserError
from engine.measuring.labels import label_values
from engine.model.architecture import context_length
from engine.options import PRESETS
from sentiment import get_sentiment_scores, load_judge


def test_prompts_are_many_and_disjoint():
    train, validation = set(data.TRAIN_PROMPTS), set(data.VALIDATION_PROMPTS)
    assert len(train) == len(data.TRAIN_PROMPTS) >= 50
    assert len(validation) == len(data.VALIDATION_PROMPTS) >= 64
    assert not train & validation
    assert all(p == p.strip() for p in train | validation)
    assert data.get_train_dataset()["prompt"][:] == data.TRAIN_PROMPTS
    assert data.get_validation_dataset().column_names == ["prompt"]


def test_prompts_of_a_file(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("First\n\n  Zweite Zeile, mit ü  \n", encoding="utf-8")
    assert data.read_prompts(text) == ["First", "Zweite Zeile, mit ü"]
    lines = tmp_path / "prompts.jsonl"  # a prompt may hold every character
    content = '{"prompt": "One\u2028more\x85time"}\n{"prompt": "Two", "id": 2}\n'
    lines.write_text(content, encoding="utf-8")
    assert data.get_train_dataset(lines)["prompt"][:] == ["One\u2028more\x85time", "Two"]


PROMPTS = ["This movie, which I saw,", 'The "plot"']
JSON_LINES = "".join(json.dumps({"id": 1, "prompt": prompt}) + "\n" for prompt in PROMPTS)
CSV = 'prompt\n"This movie, which I saw,"\n"The ""plot"""\n'


@pytest.mark.parametrize(
    "name, content",
    [
        ("text.txt", "\n".join(PROMPTS)),
        ("text.csv.txt", "\n\n".join(PROMPTS)),
        ("no ending", JSON_LINES),
        ("rows.jsonl", JSON_LINES),
        ("ROWS.JSONL", JSON_LINES),
        ("rows.ndjson", JSON_LINES),
        ("rows.txt", JSON_LINES),
        ("table.csv", CSV),
        ("table.txt", CSV),
        ("table.jsonl", CSV),
        ("columns.csv", 'id,Prompt ,n\n1,"This movie, which I saw,",\n2,"The ""plot""",3\n,,\n'),
        ("excel.csv", 'id;"prompt"\n\n1;"This movie, which I saw,"\n2;"The ""plot"""'),
        ("tabs.tsv", 'prompt\tid\nThis movie, which I saw,\t1\n"The ""plot"""\t2'),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_is_in_a_prompts_file_says_what_it_is(tmp_path, name, content, mark, end):
    """Whatever its name; a byte-order mark and line ends are no part of a prompt."""
    (tmp_path / name).write_bytes((mark + content.replace("\n", end)).encode())
    assert data.read_prompts(tmp_path / name) == PROMPTS


def test_what_a_prompt_may_hold(tmp_path):
    """In text, what begins like a list of instructions; in a table, lines and a text of its own."""
    (tmp_path / "a.txt").write_bytes("[INST] Review:\n\ufeff[1]\nprompt\n\u2028 x".encode())
    assert data.read_prompts(tmp_path / "a.txt") == ["[INST] Review:", "[1]", "prompt", "x"]
    (tmp_path / "a.csv").write_bytes(b'prompt,x\n"It was\n{a}",1\n"{""b"": 1}",2\n')
    assert data.read_prompts(tmp_path / "a.csv") == ["It was\n{a}", '{"b": 1}']


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", None, "Cannot read the prompts file .*a.txt: No such file"),
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n  \n", "holds no prompt"),
        ("a.txt", b"\xff\xfe", "a.txt:1: not UTF-8 text"),
        ("a.txt", b"\xef\xbb\xbfone\ntwo\nthr\xe9e", "a.txt:3: not UTF-8 text"),
        ("a.txt", b'One\n{"prompt": "Two"}\n', "a.txt:1: expected a JSON object"),
        ("a.txt", b'{"prompt": "One"}\n\nTwo\n', "a.txt:3: expected a JSON object"),
        ("a.txt", b'[{"prompt": "One"}]', "a.txt:1: expected a JSON object"),
        ("a.json", b'[\n{"prompt": "One"}\n]', "a.json:1: expected a JSON object"),
        ("a.NDJSON", b"One\n", "a.NDJSON:1: expected a JSON object"),
        ("a.csv", b"text,label\nOne,1\n", "a.csv:1: expected a header with a column `prompt`"),
        ("a.csv", b"prompt\n\nOne, two\n", "a.csv:3: 2 columns, and 1 in the header"),
        ("a.csv", b"id,prompt\n1\n", "a.csv:2: 1 columns"),
        ("a.csv", b'prompt\n"One\nTwo"\n"Three" x\n', "a.csv:4: .*expected after"),
        ("a.csv", b'prompt\nOne\n"Two\nThree\n', "a.csv:3: unexpected end of data"),
        ("a.csv", b"id,prompt\n1,One\n2,\n", "a.csv:3: `prompt` must be a text"),
        ("a.csv", b"prompt\n", "no prompt below its header"),
        ("a.jsonl", b'{"prompt": "One"}\n{"text": "Two"}\n', "a.jsonl:2: expected"),
        ("a.jsonl", b"{prompt}\n", "a.jsonl:1: expected"),
        ("a.jsonl", b'{"prompt": 3}\n', "a.jsonl:1: `prompt` must be a text"),
        ("a.jsonl", b'["One"]\n', "a.jsonl:1: expected"),
    ],
)
def test_a_bad_prompts_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        data.read_prompts(tmp_path / name)


def test_score_is_the_rescaled_expectation(monkeypatch):
    probs = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0], [0.1, 0.2, 0.3, 0.25, 0.15]])
    monkeypatch.setattr(sentiment, "get_star_probs", lambda texts: probs)
    # 0.2 · 0.25 + 0.3 · 0.5 + 0.25 · 0.75 + 0.15 · 1
    want = [0.0, 1.0, 0.5375]
    assert sentiment.get_sentiment_scores(["a", "b", "c"]) == pytest.approx(want, abs=1e-6)


def test_batching_keeps_order_and_values(classifier):
    texts = ["", "I loved it.", "A film. " * 200, "Terrible and far too long.", "\u00e9 \u4e2d"]
    together = sentiment.get_star_probs(texts * 20, batch_size=7)
    alone = torch.cat([sentiment.get_star_probs([t]) for t in texts]).repeat(20, 1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.sum(1), torch.ones(100), atol=1e-5, rtol=0)
    assert sentiment.get_star_probs([]).shape == (0, 5)
    assert sentiment.get_sentiment_scores([]) == []


@pytest.mark.parametrize(
    "text, low, high",
    [
        ("I loved this movie.", 0.8, 1.0),
        ("This was terrible.", 0.0, 0.2),
        ("Boring and predictable. I almost fell asleep.", 0.0, 0.2),
        ("The film was released in 1994 and is set in Paris.", 0.4, 0.6),
        ("It was okay, nothing special but not bad either.", 0.25, 0.6),
        ("not good", 0.0, 0.42),
        ("not bad", 0.5, 0.8),
        ("It is never boring.", 0.5, 0.9),
        ("", 0.4, 0.6),
    ],
)
def test_the_bundled_classifier_on_plain_neutral_and_negated_sentences(classifier, text, low, high):
    (score,) = sentiment.get_sentiment_scores([text])
    assert low <= score <= high


def test_a_classifier_without_five_labels_is_refused(tmp_path, classifier):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=2
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    classifier[1].save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has 2 labels; five"):
        sentiment.load_sentiment_model(str(tmp_path))
    assert sentiment._loaded is not None and sentiment._loaded[0].config.num_labels == 5


def test_the_bundled_models_are_small():
    files = [f for f in (ROOT / "tiny").rglob("*") if f.is_file() and "build" not in f.parts]
    assert {f.suffix for f in files} <= {".safetensors", ".npz", ".json", ".md", ".txt"}
    assert 1e6 < sum(f.stat().st_size for f in files) <= 20e6
    assert (ROOT / "tiny" / "judge" / "judge.npz").stat().st_size <= 2e6


def test_prompts_are_arranged_for_the_whole_run():
    dataset = Dataset.from_dict({"prompt": list("abcde")})
    long = data.arrange(dataset, 13, seed=1)["prompt"]
    assert sorted(long[:5]) == sorted(long[5:10]) == list("abcde") and len(long) == 13
    assert long[:5] != long[5:10]  # each pass is shuffled anew
    assert data.arrange(dataset, 7, seed=1)["prompt"] == long[:7]  # a longer run begins alike
    assert data.arrange(dataset, 13, seed=2)["prompt"] != long


def test_vader_hears_negation():
    good, bad, neutral = load_judge("vader")(["a good film.", "not a good film.", "a film."])
    assert bad < neutral == 0.5 < good


def test_the_judge_is_not_fooled_where_vader_is():
    fooled = "fun " * 20
    assert load_judge("vader")([fooled])[0] > 0.9
    assert load_judge()([fooled])[0] == pytest.approx(0.5, abs=0.1)


def test_a_classifier_as_judge(classifier):
    texts = ["a great film", "a bad film", ""]
    judge = load_judge(PRESETS["tiny"]["sentiment_model"])
    assert judge(texts) == pytest.approx(get_sentiment_scores(texts), abs=1e-5)


EMOTIONS = ["joy", "anger", "sadness", "fear", "surprise"]


@pytest.mark.parametrize(
    "labels",
    [
        ["sports", "politics"],
        EMOTIONS,
        ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"],
        ["1 star", "1 star"],
        ["neutral", "positive"],
        ["negative", "3 stars"],
        ["positron", "negligence"],
        ["positive"],
    ],
)
def test_labels_that_say_nothing_are_refused(labels):
    with pytest.raises(UserError, match=f"'it' are no scale of sentiment: {', '.join(labels)}. "):
        label_values(labels, "it")


@pytest.mark.parametrize(
    "labels, values",
    [
        (["POS", "NEG", "NEU"], [1, 0, 0.5]),
        (
            ["very_positive", "Negative", "neutral", "Very Negative", "Positive"],
            [1, 0.25, 0.5, 0, 0.75],
        ),
        (["star_3", "1 stars", "2-stars"], [1, 0, 0.5]),
        (["positive review", "negative review"], [1, 0]),
    ],
)
def test_labels_are_read_by_their_names(labels, values):
    assert label_values(labels, "it") == values


FIVE = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]


def saved(folder, model, tokenizer, labels):
    """The folder of a classifier with labels of these names."""
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def kept(classifier, monkeypatch):
    """What is loaded goes again."""
    monkeypatch.setattr(sentiment, "_loaded", classifier)
    return classifier


def test_labels_in_another_order_give_the_same_scores(tmp_path, kept):
    model, tokenizer = copy.deepcopy(kept[0]), kept[1]
    texts = ["A wonderful film.", "Terrible, a waste of time.", "It is a film."]
    want = sentiment.get_star_probs(texts)
    order = [3, 0, 4, 1, 2]
    with torch.no_grad():
        for weight in model.classifier.parameters():
            weight.copy_(weight[order])
    name = saved(tmp_path, model, tokenizer, [FIVE[i] for i in order])
    sentiment.load_sentiment_model(name, "cpu")
    torch.testing.assert_close(sentiment.get_star_probs(texts), want, atol=1e-6, rtol=0)
    assert load_judge(name)(texts) == pytest.approx(get_sentiment_scores(texts), abs=1e-6)


def test_five_emotions_are_no_reward(tmp_path, kept):
    name = saved(tmp_path, copy.deepcopy(kept[0]), kept[1], EMOTIONS)
    for load in (sentiment.load_sentiment_model, load_judge):
        with pytest.raises(UserError, match="no scale of sentiment: joy, anger") as error:
            load(name)
        assert "\n" not in str(error.value)


def classifier_of(kind, tokenizer, **sizes):
    """A random classifier of five labels."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=5, **sizes)
    return AutoModelForSequenceClassification.from_config(config)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 16}


@pytest.mark.parametrize(
    "kind, sizes, usable",
    [
        ("roberta", SMALL | {"max_position_embeddings": 66, "pad_token_id": 1}, 64),
        ("bert", SMALL | {"max_position_embeddings": 66}, 66),
        ("bloom", {"hidden_size": 16, "n_layer": 1, "n_head": 2}, None),
        ("xlnet", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}, None),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 66}, 66),
    ],
)
def test_a_reward_model_of_any_architecture_scores_every_text(tmp_path, kept, kind, sizes, usable):
    """As long as its places allow; a decoder gets the padding token that it has not."""
    from transformers import PreTrainedTokenizerFast

    parts = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    parts = {"eos_token": "[SEP]", "unk_token": "[UNK]"} if kind == "gpt2" else parts
    own = kept[1].backend_tokenizer
    side = "left" if kind == "xlnet" else "right"  # it reads its answer off the last place
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, padding_side=side, **parts)
    name = saved(tmp_path, classifier_of(kind, tokenizer, **sizes), tokenizer, FIVE)
    model, _ = sentiment.load_sentiment_model(name, "cpu")
    assert usable is None or context_length(model) == usable
    texts = ["good film " * 300, "", "A film."]
    together = sentiment.get_star_probs(texts)
    torch.testing.assert_close(together.sum(1), torch.ones(3), atol=1e-5, rtol=0)
    alone = torch.cat([sentiment.get_star_probs([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_reward_model_that_cannot_score_is_named_and_not_the_student(tmp_path, kept, policy):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=policy[1].backend_tokenizer)
    model = classifier_of("gpt2", bare, n_embd=16, n_layer=1, n_head=2)
    name = saved(tmp_path, model, bare, FIVE)
    with pytest.raises(UserError, match=f"The model '{name}' cannot score texts: ValueError"):
        sentiment.load_sentiment_model(name, "cpu")


def test_a_reward_model_that_reads_padding_is_refused(tmp_path, kept, policy):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=policy[1].backend_tokenizer, eos_token="<|endoftext|>", padding_side="left"
    )
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
    name = saved(tmp_path, classifier_of("gpt2", tokenizer, **sizes), tokenizer, FIVE)
    with pytest.raises(UserError, match="scores a text otherwise where others are beside it"):
        sentiment.load_sentiment_model(name, "cpu")


def test_a_reward_model_without_a_tokenizer_is_refused(tmp_path, kept):
    copy.deepcopy(kept[0]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer: copy the files"):
        sentiment.load_sentiment_model(str(tmp_path), "cpu")
