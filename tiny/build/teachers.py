"""The teachers of the sentiment model: recurrent nets, trained on IMDb ratings and SST-5 stars."""

import random
import tempfile

import torch
import torch.nn.functional as F

from engine.model.scoring import pad
from tiny.build.training import Passes, accuracy, fit, predict


class Teacher(torch.nn.Module):
    """Bidirectional recurrent net over word vectors; mean and maximum of its states.

    Returns (B, 6): the logits of 1 to 5 stars, and the logit of the rating of an IMDb review.
    """

    def __init__(self, table, cell, width):
        """`table`: the word vectors, (V, E); `cell`: torch.nn.GRU or LSTM; `width` of its state."""
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(table.clone(), freeze=False)
        self.states = cell(table.shape[1], width, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(4 * width, 6)

    def forward(self, ids, mask):
        x = self.embedding(ids)  # (B, L, E)
        if self.training:  # leave out whole words, and single numbers of the others
            x = F.dropout(x * (torch.rand(ids.shape) > 0.1)[..., None], 0.5)
        lengths = mask.sum(1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(self.states(packed)[0], True)
        real = mask[:, : states.shape[1], None].bool()
        mean = (states * real).sum(1) / lengths[:, None]
        pooled = torch.cat([states.masked_fill(~real, -9).amax(1), mean], 1)  # (B, 4 · width)
        return self.head(F.dropout(pooled, 0.5, self.training))

    def logits(self, rows, chosen):
        """The six logits of the chosen rows of token ids, without their [CLS] and [SEP]."""
        return self(*pad([rows[i][1:-1] or [0] for i in chosen], 0, side="right"))


def star_probs(model, rows):
    """What a teacher says of rows of token ids: P(1 to 5 stars), (N, 5)."""
    return predict(lambda chosen: model.logits(rows, chosen)[:, :5], rows)


def new_optimizer(model):
    """AdamW that changes the word vectors more slowly than the rest of a teacher."""
    vectors = [model.embedding.weight]
    others = [p for p in model.parameters() if p is not model.embedding.weight]
    slow = {"params": vectors, "lr": 2e-4, "weight_decay": 0.0}
    return torch.optim.AdamW([{"params": others, "lr": 1e-3}, slow])


def learn_ratings(model, data, rng):
    """Train a teacher in place on the ratings of reviews, from a few sentences each."""
    ids = data["rated_ids"]
    ratings = torch.tensor(data["ratings"]) / 10

    def loss_of(model, batch):
        guess = model.logits(ids, batch)[:, 5]
        return F.binary_cross_entropy_with_logits(guess, ratings[batch])

    passes = Passes(ids, epochs=1, tokens_per_batch=2400, rng=rng)
    fit(model, loss_of, passes, [new_optimizer(model)])


def learn_stars(model, data, rng):
    """Train a teacher on the stars; returns a copy with averaged weights."""
    ids = data["ids"]
    order = data["order"]
    labels = data["labels"]

    def loss_of(model, batch):
        chosen = [order[i] for i in batch]
        return F.cross_entropy(model.logits(ids, chosen)[:, :5], labels[chosen])

    def evaluate(model):
        return accuracy(star_probs(model, data["dev_ids"]), data["dev_stars"])

    passes = Passes([ids[i] for i in order], epochs=3, tokens_per_batch=1400, rng=rng)
    return fit(model, loss_of, passes, [new_optimizer(model)], evaluate)


def teach(seed, file):
    """Train one teacher on the data in `file`.

    First come the ratings of reviews: a few sentences often say something else than the review
    does, but there are 190,000 examples. Then comes SST-5, with the stars of whole sentences four
    times as often. Teachers with an even seed are GRUs, the others LSTMs.

    Returns:
        Its star probabilities of all texts and of the development sentences, two numpy arrays
        (N, 5).
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    data = torch.load(file)
    cell, width = (torch.nn.LSTM, 192) if seed % 2 else (torch.nn.GRU, 256)
    model = Teacher(data["table"], cell, width)
    print(f"teacher {seed}, {cell.__name__}: ratings", flush=True)
    learn_ratings(model, data, rng)
    print(f"teacher {seed}: stars", flush=True)
    model = learn_stars(model, data, rng)
    return star_probs(model, data["ids"]).numpy(), star_probs(model, data["dev_ids"]).numpy()


def ask_teachers(examples, table, count):
    """Train `count` teachers, all at the same time, and average what they say.

    Args:
        examples: an `Examples`.
        table: (V, E), the word vectors they begin with.

    Returns:
        Star probabilities of all texts, (N, 5), and of the development sentences, (M, 5).
    """
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({"table": table, **vars(examples)}, file.name)
        # One process each: a recurrent net of this size cannot use more than one core.
        with torch.multiprocessing.get_context("spawn").Pool(count) as pool:
            answers = pool.starmap(teach, [(number, file.name) for number in range(count)])
    of_texts, of_dev = zip(*answers)
    return torch.from_numpy(sum(of_texts) / count), torch.from_numpy(sum(of_dev) / count)
