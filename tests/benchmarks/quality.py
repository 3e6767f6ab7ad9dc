"""How well an order mixes rows that lie sorted in the files: measures, and the orders compared.

Two measures, both 1.0 for an order that is uniform over all rows:

- *co-batch ratio*: how much likelier two rows of one chunk (rows that lie together in the file)
  share a batch than by chance. For a shuffle within N/W-ths of the rows it is N/W.
- *chi2/df*: how far the labels of a batch are from those of the dataset, as the chi-squared
  statistic per degree of freedom, averaged over the batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows

Order = npt.NDArray[np.int64]

ROWS, CHUNK, BATCH, LABELS = 1 << 17, 64, 256, 16
"""The dataset: rows, sorted by label; rows of a chunk; rows of a batch; labels."""


def co_batch_ratio(order: Order) -> float:
    """Return how much likelier than by chance two rows of a chunk share a batch."""
    batch_of = np.empty(ROWS, np.int64)
    batch_of[order] = np.arange(ROWS) // BATCH
    # A batch has at most BATCH rows of a chunk: count pairs (chunk, batch), then pairs of rows.
    pairs = np.arange(ROWS) // CHUNK * (ROWS // BATCH) + batch_of
    counts = np.unique(pairs, return_counts=True)[1]
    together = int((counts * (counts - 1)).sum()) / (ROWS * (CHUNK - 1))
    return together * (ROWS - 1) / (BATCH - 1)


def label_errors(order: Order) -> tuple[float, float]:
    """Return the total variation and chi2/df of the batches' labels, as means over batches."""
    labels = (order * LABELS // ROWS).reshape(-1, BATCH)
    counts = np.stack([(labels == label).sum(1) for label in range(LABELS)], axis=1)
    right = BATCH / LABELS
    variation = np.abs(counts - right).sum(1).mean() / (2 * BATCH)
    return float(variation), float(((counts - right) ** 2 / right).sum(1).mean() / (LABELS - 1))


def arrayd_order(seed: int, kind: str, **options: int) -> Order:
    """Return the order of an epoch of arrayd."""
    return EpochOrder(Rows(ROWS), seed, 0, kind, **options).window(0, ROWS).view(np.int64)


def two_halves(random: np.random.Generator) -> Order:
    """Return what a user gets who loads one half of the set after the other, each shuffled."""
    half = ROWS // 2
    return np.concatenate([random.permutation(half), half + random.permutation(half)])


def sliding(random: np.random.Generator, rows: Order, size: int) -> Order:
    """Return what a shuffle buffer makes of `rows`: each step gives one of `size` rows by chance.

    That is tf.data's ``shuffle(size)`` and that of WebDataset; the next row takes its place.
    """
    buffer = rows[:size].copy()
    out = np.empty_like(rows)
    places = random.integers(0, size, len(rows) - size).tolist()
    for at, place in enumerate(places):
        out[at] = buffer[place]
        buffer[place] = rows[size + at]
    out[len(places) :] = random.permutation(buffer)
    return out


def chunks_by_chance(random: np.random.Generator) -> Order:
    """Return all rows, chunk after chunk, the chunks in random order."""
    first = random.permutation(ROWS // CHUNK) * CHUNK
    return (first[:, None] + np.arange(CHUNK)).ravel()


def corgipile(random: np.random.Generator, size: int) -> Order:
    """Return the order of CorgiPile: chunks by chance fill a buffer, which is shuffled, and left.

    Xu et al., SIGMOD 2022.
    """
    rows = chunks_by_chance(random)
    return np.concatenate([random.permutation(rows[a : a + size]) for a in range(0, ROWS, size)])


def orders() -> dict[str, Callable[[int], Order]]:
    """Return the orders that are compared, by name; each takes a seed."""
    buffer = ROWS // 20 // CHUNK * CHUNK
    random: Callable[[int], Any] = np.random.default_rng
    return {
        "arrayd, exact": lambda seed: arrayd_order(seed, "exact"),
        "arrayd, block of 64 rows, buffer 5 %": lambda seed: arrayd_order(
            seed, "block", block=CHUNK, buffer=buffer // CHUNK
        ),
        "arrayd, block of 64 rows, buffer 50 %": lambda seed: arrayd_order(
            seed, "block", block=CHUNK, buffer=ROWS // CHUNK // 2
        ),
        "two halves, one after the other": lambda seed: two_halves(random(seed)),
        "as it lies + shuffle buffer 5 %": lambda seed: sliding(
            random(seed), np.arange(ROWS), buffer
        ),
        "chunks by chance + shuffle buffer 5 %": lambda seed: sliding(
            random(seed), chunks_by_chance(random(seed + 100)), buffer
        ),
        "CorgiPile, buffer 5 %": lambda seed: corgipile(random(seed), buffer),
        "numpy's permutation": lambda seed: random(seed).permutation(ROWS),
    }


def measured(make: Callable[[int], Order], epochs: int = 3) -> tuple[float, float, float]:
    """Return co-batch ratio, total variation and chi2/df of an order, as means over seeds."""
    found = []
    for seed in range(epochs):
        order = make(seed)
        assert len(np.unique(order)) == ROWS, "an order leaves out rows"
        found.append((co_batch_ratio(order), *label_errors(order)))
    ratio, variation, chi2 = np.mean(found, axis=0)
    return float(ratio), float(variation), float(chi2)
