"""What the sentiment models know of words before they see a star: their company and their side."""

import torch
import torch.nn.functional as F

WINDOW = 5  # pieces at most this far away are near; the nearest count most
CONTEXTS = 8000  # the most frequent pieces, whose company is counted


def neighbour_counts(ids, vocabulary):
    """How often each piece has each of the most frequent pieces near it, (V, CONTEXTS), weighted.

    Args:
        ids: one list of token ids per text.
        vocabulary: number V of pieces.
    """
    gap = [-1] * WINDOW  # keeps the texts apart
    flat = torch.tensor([i for row in ids for i in (*row, *gap)])
    counts = torch.bincount(flat[flat >= 0], minlength=vocabulary)
    column = torch.full((vocabulary,), -1)
    column[counts.topk(CONTEXTS).indices] = torch.arange(CONTEXTS)
    pairs = torch.zeros(vocabulary * CONTEXTS)
    for distance in range(1, WINDOW + 1):
        left, right = flat[:-distance], flat[distance:]
        for piece, near in ((left, right), (right, left)):
            real = (piece >= 0) & (near >= 0)
            columns = column[near[real]]
            cells = (piece[real] * CONTEXTS + columns)[columns >= 0]
            weight = (WINDOW + 1 - distance) / WINDOW
            pairs += torch.bincount(cells, minlength=len(pairs)).float() * weight
    return pairs.view(vocabulary, CONTEXTS)


def word_vectors(ids, vocabulary, width):
    """One vector per piece that tells near which pieces it occurs, (V, width).

    Singular vectors of the positive pointwise mutual information between pieces and their
    neighbours (Levy & Goldberg 2014). The arguments are those of `neighbour_counts`.
    """
    pairs = neighbour_counts(ids, vocabulary)
    context = pairs.sum(0) ** 0.75
    pmi = pairs / (pairs.sum(1, keepdim=True) + 1e-9) / (context / context.sum() + 1e-12)
    left, scale, _ = torch.svd_lowrank(pmi.clamp(min=1).log(), q=width + 24, niter=3)
    return F.normalize((left * scale**0.5)[:, :width], dim=1)


def polarities(ids, ratings, vocabulary):
    """One number per piece, (V,): how much it speaks for a good rating.

    Logistic regression of the rating on the mean over the pieces of a review; each time, about a
    third of the pieces is left out. The numbers have mean 0 and standard deviation 1.

    Args:
        ids: one list of token ids per review.
        ratings: the ratings of the reviews, 1 to 10.
    """
    weight = torch.nn.EmbeddingBag(vocabulary, 1, mode="mean")
    torch.nn.init.zeros_(weight.weight)
    optimizer = torch.optim.Adam(weight.parameters(), lr=0.05)
    rows = [torch.tensor(row) for row in ids]
    targets = torch.tensor(ratings) / 10
    for _ in range(5):
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
    """A table for an embedding layer, (V, width), with standard deviation `std`.

    The first width - 1 numbers of a row are those of the word vector, the last is the polarity.
    It varies five times as much as the others, so that a model cannot overlook it.
    """
    table = vectors[:, : width - 1]
    table = torch.cat([table, 5 * table.std() * polarity[:, None]], 1)
    return table * (std / table.std())
