"""Build the two small models in `tiny/` from the public IMDb and SST-5 corpora.

    python instructor/build_tiny.py gpt2 --corpus DIR        # language model
    python instructor/build_tiny.py sentiment --corpus DIR   # five-star classifier

DIR holds gzipped JSON lines: `imdb-train` (text, rating), `imdb-unsupervised` (text), and
`sst5-train` and `sst5-dev` (text, stars, sentence). The texts come from the Large Movie Review
Dataset (Maas et al. 2011) and the Stanford Sentiment Treebank (Socher et al. 2013); neither is
part of this repository, only the models trained on them.

What decides fluency at this size is the data. A model of a few million parameters trained on
whole reviews spells words that do not exist; the same model finished on sentences made of common
words only, with a vocabulary in which each of those words is one token, writes English.
"""

import argparse
import collections
import gzip
import json
import math
import random
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
SENTENCE_BREAK = re.compile(r"""(?<=[.!?])["')]*\s+""")
SIMPLE_CHARACTERS = re.compile(r"[A-Za-z ,.!?;:'\"()-]+")
# Openings like those of the prompts in data.py. Half of the finishing windows start here.
PROMPT_LIKE = re.compile(
    r"(This|The|I|It|My|Overall|Watching|Everything|What|When|After|In|As|If|A|For|From|Once)\b"
    r".*\b(movie|film|acting|story|plot|actors?|cast|script|director|characters?|watch\w*|saw|seen"
    r"|ending|music|performances?|scenes?|dialogue)\b"
)
COMMON_WORDS = 4000
VOCABULARY = 6144
CONTEXT = 128
SENTIMENT_VOCABULARY = 8192
SENTIMENT_CONTEXT = 128
EXAMPLES = (
    "I loved this movie.",
    "This was terrible.",
    "The acting was superb and the story was compelling.",
    "Boring and predictable. I almost fell asleep.",
    "It was okay, nothing special but not bad either.",
    "The film was released in 1994 and is set in Paris.",
    "It is about a man who goes to the city to find his brother.",
    "not good",
    "not bad",
    "The movie wasn't bad.",
    "I did not like it at all.",
    "There is not a single good scene in this film.",
    "It is never boring.",
    "I have never seen a better film.",
    " a great film, and the acting is wonderful.",
    " so boring that I walked out.",
    " that I would not recommend it to anyone.",
    " one of the best films I have ever seen.",
    "I wanted to like this film, but it was a waste of time.",
    "I expected nothing, and it was a delight.",
    "wonderful excellent beautiful wonderful",
    "the the the the",
    "",
)


def read_corpus(corpus, name):
    """Rows of `corpus`/`name`.jsonl.gz."""
    with gzip.open(Path(corpus) / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def clean(text):
    """Plain ASCII punctuation, single spaces."""
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("`", "'")
    text = text.replace("\u201c", '"').replace("\u201d", '"').replace("''", '"')
    text = re.sub(r"[*_~=]+", " ", text)
    return re.sub(r"\s+", " ", text).strip()


class Reviews:
    """Every review as a list of sentences, one in fifty held out, and the simple sentences."""

    def __init__(self, corpus):
        rows = read_corpus(corpus, "imdb-train") + read_corpus(corpus, "imdb-unsupervised")
        texts = list(dict.fromkeys(clean(row["text"]) for row in rows))  # no duplicates
        random.Random(0).shuffle(texts)
        reviews = [[s for s in SENTENCE_BREAK.split(text) if s] for text in texts]
        counts, documents = collections.Counter(), collections.Counter()
        for text in texts:
            words = [word.lower() for word in WORD.findall(text)]
            counts.update(words)
            documents.update(set(words))
        self.common = {word for word, _ in counts.most_common(COMMON_WORDS)}
        # "Real" words for the fluency figure: those of at least five different reviews.
        self.real_words = {word for word, n in documents.items() if n >= 5}
        held_out = len(reviews) // 50
        self.held_out, self.train = reviews[:held_out], reviews[held_out:]

    def is_simple(self, sentence):
        words = WORD.findall(sentence)
        return (
            4 <= len(words) <= 30
            and sentence[0].isupper()
            and sentence[-1] in ".!?"
            and SIMPLE_CHARACTERS.fullmatch(sentence) is not None
            and all(word.lower() in self.common for word in words)
        )

    def simple_documents(self, reviews, min_sentences=20):
        """Simple sentences in the order of their reviews, joined into documents long enough that
        the model does not learn to stop early."""
        documents, current = [], []
        for review in reviews:
            current += [s for s in review if self.is_simple(s)]
            if len(current) >= min_sentences:
                documents.append(current)
                current = []
        return documents


def train_tokenizer(sentences):
    """Byte-level BPE in GPT-2's format. Always a space before the first word, so that a word has
    one token whether or not it opens the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return GPT2Tokenizer(
        vocab=model["vocab"], merges=merges, add_prefix_space=True, model_max_length=CONTEXT
    )


class Windows:
    """Random training windows of token ids, each starting at the start of a sentence."""

    def __init__(self, documents, tokenizer):
        end = tokenizer.eos_token_id
        flat = [sentence for document in documents for sentence in document]
        lasts = set(np.cumsum([len(document) for document in documents]) - 1)
        encodings = tokenizer.backend_tokenizer.encode_batch(flat, add_special_tokens=False)
        ids, starts, likely = [], [], []
        for i, (sentence, encoding) in enumerate(zip(flat, encodings)):
            starts.append(len(ids))
            if PROMPT_LIKE.match(" ".join(sentence.split()[:6])):
                likely.append(len(ids))
            ids += encoding.ids
            if i in lasts:
                ids.append(end)
        self.ids = torch.tensor(ids, dtype=torch.int32)
        room = len(ids) - CONTEXT - 1
        self.starts = torch.tensor([s for s in starts if s < room])
        self.prompt_like = torch.tensor([s for s in likely if s < room])

    def __len__(self):
        return len(self.ids)

    def batch(self, size, prompt_like_share=0.0):
        count = round(size * prompt_like_share)
        chosen = torch.cat(
            [
                self.prompt_like[torch.randint(len(self.prompt_like), (count,))],
                self.starts[torch.randint(len(self.starts), (size - count,))],
            ]
        )
        offsets = torch.arange(CONTEXT + 1)
        return self.ids[chosen[:, None] + offsets].long()  # (size, CONTEXT + 1)


@torch.no_grad()
def bits_per_byte(model, tokenizer, sentences, batch_size=64):
    """Bits per UTF-8 byte of sentences, each scored from its first token, given only a start of
    text token."""
    nll = size = 0.0
    end = tokenizer.eos_token_id
    for i in range(0, len(sentences), batch_size):
        chunk = sentences[i : i + batch_size]
        ids = [[end] + tokenizer(s)["input_ids"] for s in chunk]
        width = min(max(map(len, ids)), CONTEXT)
        x = torch.tensor([(row + [end] * width)[:width] for row in ids])
        mask = torch.tensor([[t < len(row) for t in range(width)] for row in ids])[:, 1:]
        logp = model(x).logits[:, :-1].float().log_softmax(-1)
        nll -= (logp.gather(-1, x[:, 1:, None])[..., 0] * mask).sum().item()
        size += sum(len(s.encode()) for s in chunk)
    return nll / size / math.log(2)


@torch.no_grad()
def sample(model, tokenizer, prompts, tokens=48):
    """One unrestricted sample at temperature 1 per prompt."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            pad_token_id=tokenizer.eos_token_id,
        )
        texts.append(tokenizer.decode(out[0, ids.shape[1] :]))
    return texts


def fluency(model, tokenizer, prompts, real_words):
    """(share of real words, share of completions that end by themselves, texts). The last word
    of a sample is cut by the length limit and does not count."""
    texts = sample(model, tokenizer, prompts)
    words = [word.lower() for text in texts for word in WORD.findall(text)[:-1]]
    real = sum(word in real_words for word in words) / len(words)
    return real, sum(tokenizer.eos_token in text for text in texts) / len(texts), texts


def learning_rate(step, steps, peak, decay_from, warmup=200):
    """Warm up, hold, then fall linearly to zero over the finishing phase."""
    if step < decay_from:
        return peak * min(1.0, (step + 1) / warmup)
    return peak * (steps - step) / (steps - decay_from)


def build_gpt2(corpus, out, tokens_all, tokens_simple, batch_size, peak, seed=0):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    reviews = Reviews(corpus)
    simple = reviews.simple_documents(reviews.train)
    held_out = [s for d in reviews.simple_documents(reviews.held_out, 1) for s in d]
    held_out_prompts = [s for s in held_out if PROMPT_LIKE.match(" ".join(s.split()[:6]))]
    tokenizer = train_tokenizer([s for document in simple for s in document])
    everything, finishing = Windows(reviews.train, tokenizer), Windows(simple, tokenizer)
    print(
        f"{len(reviews.train)} reviews, {len(everything) / 1e6:.1f} M tokens; simple: "
        f"{sum(map(len, simple))} sentences, {len(finishing) / 1e6:.1f} M tokens, "
        f"{len(finishing.prompt_like)} prompt-like; held out {len(held_out_prompts)}",
        flush=True,
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=256,
        n_layer=4,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # gelu_new in one kernel
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config).eval()  # dropout off while pre-training
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    optimizers = [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    per_step = batch_size * CONTEXT
    decay_from = tokens_all // per_step
    steps = decay_from + tokens_simple // per_step
    started, running = time.time(), 0.0
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps, peak, decay_from)
        if step < decay_from:
            batch = everything.batch(batch_size)
        else:
            batch = finishing.batch(batch_size, prompt_like_share=0.5)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            bpb = bits_per_byte(model, tokenizer, held_out_prompts)
            print(
                f"step {step + 1}/{steps} {time.time() - started:.0f} s loss {running:.3f} "
                f"held-out prompt-like simple sentences {bpb:.3f} bits per byte",
                flush=True,
            )
            save_half(model, tokenizer, out)
    report_gpt2(model, tokenizer, reviews, held_out_prompts)


def save_half(model, tokenizer, out):
    """Save float16 weights: half the size; they are loaded as float32."""
    import copy

    copy.deepcopy(model).half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def report_gpt2(model, tokenizer, reviews, held_out_prompts):
    import sys

    sys.path.insert(0, str(ROOT))
    from data import VALIDATION_PROMPTS

    real, ended, texts = fluency(model, tokenizer, VALIDATION_PROMPTS * 4, reviews.real_words)
    print(
        f"bits per byte {bits_per_byte(model, tokenizer, held_out_prompts):.4f}, "
        f"real words {real:.2%} of samples, {ended:.1%} of the samples end within 48 tokens"
    )
    for prompt, text in list(zip(VALIDATION_PROMPTS * 4, texts))[:50]:
        print(f"  {prompt} |{text}")


def detokenize(text):
    """Ordinary English from Penn Treebank tokens: "ca n't" -> "can't", "good ." -> "good."."""
    text = text.replace("-LRB-", "(").replace("-RRB-", ")").replace("``", '"').replace("''", '"')
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = re.sub(r" ([.,!?;:%)])", r"\1", text)
    text = re.sub(r"(\() ", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def stars_of_rating(rating):
    """IMDb's 1-4 and 7-10 as stars 1, 2, 4, 5."""
    return (rating + 1) // 2


def review_windows(texts, rng):
    """[(window, index of its review)]: one to three consecutive sentences each."""
    windows = []
    for index, text in enumerate(texts):
        sentences = [s for s in SENTENCE_BREAK.split(clean(text)) if s]
        while sentences:
            count = rng.choice((1, 2, 3))
            windows.append((" ".join(sentences[:count]), index))
            sentences = sentences[count:]
    return windows


def without_dev(train, dev):
    """The rows of `train` that stand in no development sentence.

    `sst5-train` holds the development sentences and their phrases too. Of the phrases that occur
    in both, those stay that a training sentence contains.
    """
    dev_texts = {row["text"] for row in dev}
    longest = 12  # tokens; a longer phrase is no common one
    shared = set()
    for row in train:
        if row["sentence"] and row["text"] not in dev_texts:
            tokens = row["text"].split(" ")
            for start in range(len(tokens)):
                for end in range(start + 1, min(start + longest, len(tokens)) + 1):
                    shared.add(" ".join(tokens[start:end]))
    return [
        row
        for row in train
        if row["text"] not in dev_texts or (not row["sentence"] and row["text"] in shared)
    ]


def encode(tokenizer, texts, limit=SENTIMENT_CONTEXT):
    """Token ids, cut at the model's context."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return [e.ids[:limit] for e in encodings]


def length_batches(ids, tokens_per_batch, rng):
    """Shuffled batches of indices of texts of similar length."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]) + rng.random() * 4)
    batches, current = [], []
    for i in order:
        current.append(i)
        if len(ids[i]) * len(current) >= tokens_per_batch:
            batches.append(current)
            current = []
    batches += [current] if current else []
    rng.shuffle(batches)
    return batches


def pad_batch(rows, padding_id):
    width = max(map(len, rows))
    ids = torch.tensor([row + [padding_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def train_wordpiece(texts):
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(texts, vocab_size=SENTIMENT_VOCABULARY, show_progress=False)
    return BertTokenizer(
        vocab=pieces.get_vocab(), do_lower_case=True, model_max_length=SENTIMENT_CONTEXT
    )


def train_classifier(model, tokenizer, texts, stars, epochs, rng, peak, evaluate=None):
    """Cross-entropy on (text, stars); returns the model with its weights averaged (EMA).

    Word dropout hides one word in ten, so that no single word decides alone.
    """
    ids = encode(tokenizer, texts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05, fused=True)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    steps = epochs * len(length_batches(ids, 2048, random.Random(0)))
    step, started = 0, time.time()
    for epoch in range(epochs):
        model.train()
        for batch in length_batches(ids, 2048, rng):
            x, mask = pad_batch([ids[i] for i in batch], tokenizer.pad_token_id)
            x = x.masked_fill((torch.rand(x.shape) < 0.1) & (x > 4), tokenizer.mask_token_id)
            y = torch.tensor([stars[i] - 1 for i in batch])
            optimizer.param_groups[0]["lr"] = peak * min(1, (step + 1) / 200, 1.02 - step / steps)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x, attention_mask=mask).logits
            loss = F.cross_entropy(logits.float(), y, label_smoothing=0.05)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(model)
            step += 1
        five, two = evaluate(average.module) if evaluate else (math.nan, math.nan)
        print(
            f"epoch {epoch + 1}/{epochs}, {time.time() - started:.0f} s, loss {loss.item():.3f}, "
            f"dev five classes {five:.2%}, binary {two:.2%}",
            flush=True,
        )
    return average.module


def label_reviews(model, tokenizer, windows, count):
    """The stars of `count` unrated reviews: the class with the highest mean log-probability over
    a review's windows. Much surer than a sentence alone."""
    log_probs = star_probs(model, tokenizer, [text for text, _ in windows]).log()
    reviews = torch.tensor([index for _, index in windows])
    sums = torch.zeros(count, 5).index_add_(0, reviews, log_probs)
    return (sums.argmax(1) + 1).tolist()


@torch.no_grad()
def star_probs(model, tokenizer, texts):
    model.eval()
    ids = encode(tokenizer, texts)
    probs = torch.empty(len(ids), 5)
    for batch in length_batches(ids, 4096, random.Random(0)):
        x, mask = pad_batch([ids[i] for i in batch], tokenizer.pad_token_id)
        probs[batch] = model(x, attention_mask=mask).logits.float().softmax(-1)
    return probs


def sst_accuracy(model, tokenizer, rows):
    """(five-class accuracy, binary accuracy by score > 0.5) over whole sentences."""
    rows = [row for row in rows if row["sentence"]]
    probs = star_probs(model, tokenizer, [detokenize(row["text"]) for row in rows])
    stars = torch.tensor([row["stars"] for row in rows])
    five = (probs.argmax(1) + 1 == stars).float().mean().item()
    scores = probs @ torch.arange(5.0) / 4
    polar = stars != 3
    return five, ((scores > 0.5) == (stars > 3))[polar].float().mean().item()


def build_sentiment(corpus, out, seed=0):
    """Learn praise and blame from IMDb's ratings, then the five stars of single sentences from
    SST-5; print the accuracy on the development sentences, which are in no training set.

    A window of a review inherits the review's rating: often wrong, but free. The unrated reviews
    are rated by the first model and join in.
    """
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    rng = random.Random(seed)
    dev = read_corpus(corpus, "sst5-dev")
    sst = without_dev(read_corpus(corpus, "sst5-train"), dev)
    rated = read_corpus(corpus, "imdb-train")
    unrated = [row["text"] for row in read_corpus(corpus, "imdb-unsupervised")]
    windows = review_windows([row["text"] for row in rated], rng)
    texts = [text for text, _ in windows]
    stars = [stars_of_rating(rated[index]["rating"]) for _, index in windows]
    more_windows = review_windows(unrated, rng)
    sst_texts = [detokenize(row["text"]) for row in sst]
    sentences = [text for text, row in zip(sst_texts, sst) if row["sentence"]]
    tokenizer = train_wordpiece(texts + sentences * 5)
    labels = {i: f"{i + 1} star{'s' if i else ''}" for i in range(5)}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=768,
        max_position_embeddings=SENTIMENT_CONTEXT,
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
    )
    model = BertForSequenceClassification(config)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights; {len(windows)} rated "
        f"and {len(more_windows)} unrated windows; {len(sst)} SST-5 phrases, {len(sentences)} of "
        f"them sentences",
        flush=True,
    )

    def evaluate(model):
        return sst_accuracy(model, tokenizer, dev)

    model = train_classifier(model, tokenizer, texts, stars, 1, rng, 1e-3, evaluate)
    review_stars = label_reviews(model, tokenizer, more_windows, len(unrated))
    texts += [text for text, _ in more_windows]
    stars += [review_stars[index] for _, index in more_windows]
    model = train_classifier(model, tokenizer, texts, stars, 1, rng, 1e-3, evaluate)
    save_half(model, tokenizer, f"{out}.imdb")
    repeats = [i for i, row in enumerate(sst) for _ in range(8 if row["sentence"] else 1)]
    texts, stars = [sst_texts[i] for i in repeats], [sst[i]["stars"] for i in repeats]
    model = train_classifier(model, tokenizer, texts, stars, 2, rng, 4e-4, evaluate)
    save_half(model, tokenizer, out)
    for text in EXAMPLES:
        score = (star_probs(model, tokenizer, [text]) @ torch.arange(5.0) / 4).item()
        print(f"  {score:.2f}  {text}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=["gpt2", "sentiment"])
    parser.add_argument("--corpus", required=True, help="folder with the .jsonl.gz files")
    parser.add_argument("--out", default=None, help="default: tiny/gpt2 or tiny/sentiment")
    parser.add_argument("--tokens_all", type=int, default=45_000_000)
    parser.add_argument("--tokens_simple", type=int, default=20_000_000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    args = parser.parse_args()
    out = Path(args.out or ROOT / "tiny" / args.model)
    if args.model == "gpt2":
        build_gpt2(
            args.corpus,
            out,
            args.tokens_all,
            args.tokens_simple,
            args.batch_size,
            args.learning_rate,
        )
    else:
        build_sentiment(args.corpus, out)


if __name__ == "__main__":
    main()
