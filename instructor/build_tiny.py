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
SENTIMENT_VOCABULARY = 12288
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
    matrices, others = hidden_matrices(model)
    optimizers = [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    per_step = batch_size * CONTEXT
    decay_from = tokens_all // per_step
    steps = decay_from + tokens_simple // per_step
    started, running, best = time.time(), 0.0, math.inf
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
            if bpb < best:  # towards the end it begins to learn the simple sentences by heart
                best = bpb
                save_half(model, tokenizer, out)
    model = GPT2LMHeadModel.from_pretrained(out, dtype=torch.float32).eval()
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


def hidden_matrices(model):
    """(matrices of the blocks, everything else): Muon takes the first, AdamW the second."""
    named = model.named_parameters()
    matrices = [p for n, p in named if p.ndim == 2 and (".h." in n or ".layer." in n)]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if id(p) not in chosen]


def word_vectors(ids, vocabulary, width, window=5, contexts=8000):
    """What stands near a piece, in `width` numbers: singular vectors of the positive pointwise
    mutual information between pieces and their neighbours (Levy & Goldberg 2014), (V, width)."""
    gap = [-1] * window
    flat = torch.tensor([i for row in ids for i in (*row, *gap)])
    counts = torch.bincount(flat[flat >= 0], minlength=vocabulary)
    column = torch.full((vocabulary,), -1)
    column[counts.topk(contexts).indices] = torch.arange(contexts)
    pairs = torch.zeros(vocabulary * contexts)
    for distance in range(1, window + 1):
        left, right = flat[:-distance], flat[distance:]
        for piece, near in ((left, right), (right, left)):
            real = (piece >= 0) & (near >= 0)
            piece, near = piece[real], column[near[real]]
            cells = (piece * contexts + near)[near >= 0]
            weight = (window + 1 - distance) / window
            pairs += torch.bincount(cells, minlength=len(pairs)).float() * weight
    pairs = pairs.view(vocabulary, contexts)
    context = pairs.sum(0) ** 0.75
    pmi = pairs / (pairs.sum(1, keepdim=True) + 1e-9) / (context / context.sum() + 1e-12)
    left, scale, _ = torch.svd_lowrank(pmi.clamp(min=1).log(), q=width + 24, niter=3)
    return F.normalize((left * scale**0.5)[:, :width], dim=1)


def polarities(ids, ratings, vocabulary, epochs=5):
    """One number per piece, (V,), standardised: how much it speaks for a good rating. Logistic
    regression of the rating on the mean over the pieces of a review, a third of them dropped."""
    weight = torch.nn.EmbeddingBag(vocabulary, 1, mode="mean")
    torch.nn.init.zeros_(weight.weight)
    optimizer = torch.optim.Adam(weight.parameters(), lr=0.05)
    rows, targets = [torch.tensor(row) for row in ids], torch.tensor(ratings) / 10
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(256):
            kept = [rows[i][torch.rand(len(rows[i])) > 0.3] for i in batch]
            offsets = torch.tensor([0] + [len(row) for row in kept[:-1]]).cumsum(0)
            logits = weight(torch.cat(kept), offsets)[:, 0]
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, targets[batch]).backward()
            optimizer.step()
    values = weight.weight.detach()[:, 0]
    return (values - values.mean()) / values.std()


def embeddings(vectors, polarity, width, std):
    """(V, width): the first width − 1 numbers of the word vectors, and the polarity five times as
    wide as one of them, so that it is heard."""
    table = vectors[:, : width - 1]
    table = torch.cat([table, 5 * table.std() * polarity[:, None]], 1)
    return table * (std / table.std())


class Teacher(torch.nn.Module):
    """Bidirectional recurrent net over word vectors; mean and maximum of its states.

    Returns (B, 6): logits of the five stars, and of the rating of an IMDb review.
    """

    def __init__(self, table, cell, width):
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(table.clone(), freeze=False)
        self.states = cell(table.shape[1], width, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(4 * width, 6)

    def forward(self, ids, mask):
        x = self.embedding(ids)  # (B, L, E)
        if self.training:
            x = F.dropout(x * (torch.rand(ids.shape) > 0.1)[..., None], 0.5)
        lengths = mask.sum(1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(self.states(packed)[0], True)
        real = mask[:, : states.shape[1], None].bool()
        mean = (states * real).sum(1) / lengths[:, None]
        pooled = torch.cat([states.masked_fill(~real, -9).amax(1), mean], 1)  # (B, 4 · width)
        return self.head(F.dropout(pooled, 0.5, self.training))


def fit(model, loss_of, lengths, epochs, optimizers, tokens_per_batch, rng, evaluate=None):
    """Train; returns the model with its weights averaged over the last few hundred steps.

    Args:
        loss_of: callable(model, indices) -> loss of these examples.
        lengths: list of token lists, one per example, to make batches of similar length.
        optimizers: their learning rates warm up over 200 steps and fall linearly to zero.
        evaluate: callable(model) -> (five-class accuracy, binary accuracy), or None.
    """
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    steps = epochs * len(length_batches(lengths, tokens_per_batch, random.Random(0)))
    step, started = 0, time.time()
    for epoch in range(epochs):
        model.train()
        for batch in length_batches(lengths, tokens_per_batch, rng):
            share = min((step + 1) / 200, 1, 1.02 - step / steps)
            for optimizer, peak in zip(optimizers, peaks):
                for group, lr in zip(optimizer.param_groups, peak):
                    group["lr"] = lr * share
                optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            average.update_parameters(model)
            step += 1
        shown = ""
        if evaluate:
            five, two = evaluate(average.module.eval())
            shown = f", dev five classes {five:.2%}, binary {two:.2%}"
        print(
            f"  epoch {epoch + 1}/{epochs}, {time.time() - started:.0f} s, "
            f"loss {loss.item():.3f}{shown}",
            flush=True,
        )
    return average.module.eval()


@torch.no_grad()
def predict(forward, ids, tokens_per_batch=6000):
    """(N, 5) star probabilities; `forward(indices)` gives logits."""
    probs = torch.empty(len(ids), 5)
    for batch in length_batches(ids, tokens_per_batch, random.Random(0)):
        probs[batch] = forward(batch).float().softmax(-1)
    return probs


def review_segments(texts, count, rng):
    """`count` sentences of reviews; of one in three, words from the middle, as completions are."""
    segments = []
    for text in texts:
        for sentence in SENTENCE_BREAK.split(text):
            words = sentence.split(" ")
            if 3 <= len(words) <= 60:
                if rng.random() < 0.35:
                    start = rng.randrange(len(words) - 1)
                    words = words[start : start + rng.randint(3, 30)]
                segments.append(" ".join(words[:40]))
    rng.shuffle(segments)
    return segments[:count]


GOOD = (
    "good great funny interesting exciting entertaining original clever believable enjoyable "
    "impressive convincing moving memorable brilliant satisfying|worth watching|worth seeing|"
    "a good film|a good movie|well made|well written|well acted"
)
BAD = (
    "bad boring stupid dull terrible awful silly predictable annoying disappointing slow "
    "ridiculous painful horrible weak forgettable|a bad film|a bad movie|a waste of time|badly made"
)


def negations(rng, count):
    """`count` (text, star probabilities) with a negated adjective, made by rule.

    SST has few of them, and no word of "It is never boring" says what the sentence says.
    """
    subjects = ("it", "this", "the movie", "the film", "the story", "the acting", "the plot")
    frames = ("{s} is not {a}", "{s} was not {a}", "{s} isn't {a}", "{s} wasn't {a}", "not {a}")
    frames += ("{s} is never {a}", "{s} was never {a}", "not {a} at all", "{s} is not {a} at all")
    frames += ("I did not find it {a}", "I didn't think it was {a}", "{s} is by no means {a}")
    affirmed = ("{s} is {a}", "{s} was {a}", "{s} is very {a}", "{s} was really {a}", "{a}")
    outcomes = {  # (good word, negated) -> P(1 to 5 stars)
        (True, True): (0.25, 0.6, 0.15, 0.0, 0.0),
        (False, True): (0.0, 0.05, 0.35, 0.5, 0.1),
        (True, False): (0.0, 0.0, 0.05, 0.5, 0.45),
        (False, False): (0.45, 0.5, 0.05, 0.0, 0.0),
    }
    rows = []
    for _ in range(count):
        good, negated = rng.random() < 0.5, rng.random() < 0.75
        words, *phrases = (GOOD if good else BAD).split("|")
        frame = rng.choice(frames if negated else affirmed)
        text = frame.format(s=rng.choice(subjects), a=rng.choice([*words.split(), *phrases]))
        if rng.random() < 0.7:
            text = text[0].upper() + text[1:] + "."
        rows.append((text, outcomes[good, negated]))
    return rows


def idioms(rng, count):
    """`count` (text, star probabilities) of turns that mean the opposite of their words."""
    like, hate = "like love enjoy recommend", "hate dislike regret"
    good, bad = (0.0, 0.0, 0.05, 0.35, 0.6), (0.6, 0.35, 0.05, 0.0, 0.0)
    not_liked, not_hated = (0.35, 0.55, 0.1, 0.0, 0.0), (0.0, 0.1, 0.45, 0.4, 0.05)
    rows = []
    for _ in range(count):
        noun = rng.choice(("film", "movie", "story", "performance"))
        subject = rng.choice(("I have", "I've", "you will", "we have"))
        seen = rng.choice(("seen", "watched")) if "will" not in subject else "see"
        verb, never = rng.choice(("did not", "didn't", "could not")), f"{subject} never {seen}"
        object_ = rng.choice(("it", "this", "this movie", "the film")) + rng.choice(("", " at all"))
        text, probs = rng.choice(
            (
                (f"{never} a {rng.choice(('better', 'finer', 'funnier'))} {noun}", good),
                (f"{never} a {rng.choice(('worse', 'duller', 'sillier'))} {noun}", bad),
                (f"there is no {rng.choice(('better', 'finer'))} {noun}", good),
                (f"there is not a single good {rng.choice(('scene', 'joke', 'line'))}", bad),
                (f"I {verb} {rng.choice(like.split())} {object_}", not_liked),
                (f"I {verb} {rng.choice(hate.split())} {object_}", not_hated),
            )
        )
        if rng.random() < 0.7:
            text = text[0].upper() + text[1:] + "."
        rows.append((text, probs))
    return rows


def accuracy(probs, stars):
    """(five-class accuracy, binary accuracy by score > 0.5)."""
    five = (probs.argmax(1) + 1 == stars).float().mean().item()
    polar, scores = stars != 3, probs @ torch.arange(5.0) / 4
    return five, ((scores > 0.5) == (stars > 3))[polar].float().mean().item()


def rated_windows(rows, rng):
    """(texts, ratings): runs of one to three sentences of a review, and the review's rating."""
    texts, ratings = [], []
    for row in rows:
        sentences = [s for s in SENTENCE_BREAK.split(clean(row["text"])) if s]
        start = 0
        while start < len(sentences):
            count = rng.choice((1, 1, 2, 3))
            texts.append(" ".join(sentences[start : start + count]))
            ratings.append(row["rating"])
            start += count
    return texts, ratings


def teach(seed, file):
    """Train one teacher on the data in `file`; its star probabilities of all texts and of dev.

    First the ratings of reviews, from a few sentences each: often wrong, but 190,000 of them.
    Then SST-5, with the stars of whole sentences four times as often.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng, data = random.Random(seed), torch.load(file)
    cell, width = ((torch.nn.GRU, 256), (torch.nn.LSTM, 192))[seed % 2]
    model = Teacher(data["table"], cell, width)
    vectors = [model.embedding.weight]
    others = [p for p in model.parameters() if p is not model.embedding.weight]

    def optimizer():
        slow = {"params": vectors, "lr": 2e-4, "weight_decay": 0.0}
        return torch.optim.AdamW([{"params": others, "lr": 1e-3}, slow])

    def logits(model, rows, chosen):  # without [CLS] and [SEP]
        return model(*pad_batch([rows[i][1:-1] or [0] for i in chosen], 0))

    def probs(model, rows):
        return predict(lambda chosen: logits(model, rows, chosen)[:, :5], rows)

    rated, ratings = data["rated"], torch.tensor(data["ratings"]) / 10
    order, labels = data["order"], data["labels"]

    def rating_loss(model, batch):
        guess = logits(model, rated, batch)[:, 5]
        return F.binary_cross_entropy_with_logits(guess, ratings[batch])

    def star_loss(model, batch):
        chosen = [order[i] for i in batch]
        return F.cross_entropy(logits(model, data["ids"], chosen)[:, :5], labels[chosen])

    print(f"teacher {seed}, {cell.__name__}: ratings", flush=True)
    fit(model, rating_loss, rated, 1, [optimizer()], 2400, rng)
    print(f"teacher {seed}: stars", flush=True)
    repeated = [data["ids"][i] for i in order]
    model = fit(
        model,
        star_loss,
        repeated,
        3,
        [optimizer()],
        1400,
        rng,
        lambda model: accuracy(probs(model, data["dev_ids"]), data["dev_stars"]),
    )
    return probs(model, data["ids"]).numpy(), probs(model, data["dev_ids"]).numpy()


def build_sentiment(corpus, out, segments, teachers, seed=0):
    """Recurrent teachers learn SST-5 on word vectors from IMDb; a small BERT learns from them.

    A two-layer BERT knows too few words after 7,400 sentences, and longer training only teaches
    it these sentences. The teachers get by with less, and their opinions on sentences of reviews
    are as many examples as one likes. The development sentences are in no training set.
    """
    import tempfile

    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    rng, started = random.Random(seed), time.time()
    dev = read_corpus(corpus, "sst5-dev")
    sst = without_dev(read_corpus(corpus, "sst5-train"), dev)
    dev = [row for row in dev if row["sentence"]]
    texts = [detokenize(row["text"]) for row in sst]
    sentences = [text for text, row in zip(texts, sst) if row["sentence"]]
    rated = read_corpus(corpus, "imdb-train")
    reviews = [clean(r["text"]) for r in rated + read_corpus(corpus, "imdb-unsupervised")]
    tokenizer = train_wordpiece(reviews[:30000] + sentences * 5)
    pieces = [ids[1:-1] for ids in encode(tokenizer, reviews + sentences, limit=None)]
    vectors = word_vectors(pieces, len(tokenizer), 256)
    ratings = [row["rating"] for row in rated]
    polarity = polarities(pieces[: len(rated)], ratings, len(tokenizer))
    ranked = [tokenizer.convert_ids_to_tokens(i) for i in polarity.argsort().tolist()]
    print("worst:", *ranked[:12], "best:", *ranked[-12:], flush=True)

    negated = negations(rng, 4000)
    texts += [text for text, _ in negated]
    ids = encode(tokenizer, texts + review_segments(reviews, segments, rng))
    dev_ids = encode(tokenizer, [detokenize(row["text"]) for row in dev])
    dev_stars = torch.tensor([row["stars"] for row in dev])
    stars = F.one_hot(torch.tensor([row["stars"] - 1 for row in sst]), 5).float()
    labels = torch.cat([stars, torch.tensor([probs for _, probs in negated])])
    order = [i for i, row in enumerate(sst) for _ in range(4 if row["sentence"] else 1)]
    order += range(len(sst), len(texts))
    windows, window_ratings = rated_windows(rated, rng)
    print(
        f"{len(sst)} phrases, {len(sentences)} of them sentences; {len(windows)} rated windows; "
        f"{len(ids) - len(texts)} segments; {time.time() - started:.0f} s",
        flush=True,
    )
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        data = {
            "table": embeddings(vectors, polarity, 256, 0.25),
            "rated": encode(tokenizer, windows, limit=82),
            "ratings": window_ratings,
            "ids": ids,
            "order": order,
            "labels": labels,
            "dev_ids": dev_ids,
            "dev_stars": dev_stars,
        }
        torch.save(data, file.name)
        # One process each: a recurrent net of this size has no use for more than one core.
        with torch.multiprocessing.get_context("spawn").Pool(teachers) as pool:
            answers = pool.starmap(teach, [(number, file.name) for number in range(teachers)])
    probs, dev_probs = (torch.from_numpy(sum(parts) / teachers) for parts in zip(*answers))
    five, two = accuracy(dev_probs, dev_stars)
    print(f"all teachers: five classes {five:.2%}, binary {two:.2%}; {time.time() - started:.0f} s")

    names = {i: f"{i + 1} star{'s' if i else ''}" for i in range(5)}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=768,
        max_position_embeddings=SENTIMENT_CONTEXT,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    student = BertForSequenceClassification(config)
    table = student.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        table.copy_(embeddings(vectors, polarity, config.hidden_size, 0.1))
    matrices, others = hidden_matrices(student)
    others = [p for p in others if p is not table]
    muon = torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW([{"params": others}, {"params": [table], "lr": 5e-4}], lr=1e-3)

    def logits(model, rows, chosen, hide=0.0):
        x, mask = pad_batch([rows[i] for i in chosen], tokenizer.pad_token_id)
        hidden = (torch.rand(x.shape) < hide) & (x > 4)  # 0 to 4 are special
        with torch.autocast("cpu", torch.bfloat16):
            x = x.masked_fill(hidden, tokenizer.mask_token_id)
            return model(x, attention_mask=mask).logits.float()

    def student_probs(model, rows):
        return predict(lambda chosen: logits(model, rows, chosen), rows)

    turns = idioms(rng, 1500)
    targets = torch.cat([probs, torch.tensor([probs for _, probs in turns])])
    targets[: len(texts)] = 0.3 * labels + 0.7 * probs[: len(texts)]
    order += range(len(texts), len(ids) + len(turns))
    ids += encode(tokenizer, [text for text, _ in turns])

    def loss_of(model, batch):
        chosen = [order[i] for i in batch]
        return F.cross_entropy(logits(model, ids, chosen, hide=0.05), targets[chosen])

    print(
        f"student, {sum(p.numel() for p in student.parameters()) / 1e6:.2f} M weights", flush=True
    )
    student = fit(
        student,
        loss_of,
        [ids[i] for i in order],
        2,
        [muon, adam],
        2048,
        rng,
        lambda model: accuracy(student_probs(model, dev_ids), dev_stars),
    )
    save_half(student, tokenizer, out)
    scores = student_probs(student, encode(tokenizer, EXAMPLES)) @ torch.arange(5.0) / 4
    for score, text in zip(scores.tolist(), EXAMPLES):
        print(f"  {score:.2f}  {text}")
    print(f"{time.time() - started:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=["gpt2", "sentiment"])
    parser.add_argument("--corpus", required=True, help="folder with the .jsonl.gz files")
    parser.add_argument("--out", default=None, help="default: tiny/gpt2 or tiny/sentiment")
    parser.add_argument("--segments", type=int, default=300_000, help="texts for the teachers")
    parser.add_argument("--teachers", type=int, default=4, help="one process each")
    parser.add_argument("--tokens_all", type=int, default=32_000_000)
    parser.add_argument("--tokens_simple", type=int, default=16_000_000)
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
        build_sentiment(args.corpus, out, args.segments, args.teachers)


if __name__ == "__main__":
    main()
