"""Near-identical images on both sides of a split; those that are identical the manifest knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featbank.manifest import Manifest, duplicates_across_splits

__all__ = [
    "NEAR_DUPLICATE_COSINE",
    "NearPair",
    "cosines_at_random",
    "nearest_across_splits",
]

#: From this cosine on two images count as near-identical. Looked up by eye on Caltech-101 (32 classes) at
#: MobileNetV2's avgpool: seven pairs reach 0.90, and six of them are one picture or two shots of one scene;
#: half of copies that were halved, cropped, mirrored, recompressed or brightened reach it too. The median
#: image's nearest neighbour is at 0.71.
NEAR_DUPLICATE_COSINE = 0.90


class NearPair(NamedTuple):
    """A validation or test row, the training row nearest to it, and the cosine between them."""

    train_row: int
    row: int
    cosine: float


def nearest_across_splits(
    manifest: Manifest, read: Callable[[NDArray[np.int64]], NDArray[Any]], *, block_rows: int = 2048
) -> list[NearPair]:
    """Find the training image nearest to each val and test image, by the cosine of their features.

    Copies byte for byte are `duplicates_across_splits`'s affair and left out, as are rows that could not be
    read. Rows of zeros have no direction; their cosine with anything is 0.

    Parameters
    ----------
    manifest : Manifest
    read : callable
        Takes row numbers, ndarray of int64, and returns their features, (n_rows, n_features). Best of a deep
        layer with one vector per image, which sees through another size, format or crop.
    block_rows : int, default=2048
        Rows compared at a time: two blocks of features and one of block_rows x block_rows cosines are held.

    Returns
    -------
    list of NearPair
        One per val and test row, the largest cosine first.

    Examples
    --------
    >>> manifest = Manifest(
    ...     (b"a", b"b", b"c"), np.zeros(3, np.int32), ("x",), np.array([0, 0, 2], np.uint8),
    ...     np.arange(96, dtype=np.uint8).reshape(3, 32), np.zeros(3, np.uint8))
    >>> features = np.array([[1.0, 0.0], [3.0, 4.0], [0.6, 0.8]])
    >>> [(pair.train_row, pair.row, round(pair.cosine, 6)) for pair in nearest_across_splits(
    ...     manifest, lambda rows: features[rows])]
    [(1, 2, 1.0)]
    """
    train = manifest.rows("train")
    others = np.sort(np.concatenate([manifest.rows("val"), manifest.rows("test")]))
    copies = {row for _, row in duplicates_across_splits(manifest)}
    others = others[[int(row) not in copies for row in others]] if len(others) else others
    best = np.full(len(others), -np.inf)
    nearest = np.zeros(len(others), dtype=np.int64)
    for start in range(0, len(others), block_rows):
        here = slice(start, start + block_rows)
        rows = _unit(read(others[here]))
        for first in range(0, len(train), block_rows):
            against = train[first : first + block_rows]
            cosines = rows @ _unit(read(against)).T  # (n_rows, n_against)
            at = cosines.argmax(axis=1)
            found = cosines[np.arange(len(at)), at]
            better = found > best[here]
            best[here] = np.where(better, found, best[here])
            nearest[here] = np.where(better, against[at], nearest[here])
    if not len(train):
        return []
    order = np.argsort(-best, kind="stable")
    return [NearPair(int(nearest[at]), int(others[at]), min(float(best[at]), 1.0)) for at in order]


def cosines_at_random(
    manifest: Manifest, read: Callable[[NDArray[np.int64]], NDArray[Any]], *, n_pairs: int = 1000
) -> NDArray[np.float32]:
    """Return the cosines of pairs of a training and a val or test image, drawn with a fixed seed.

    Parameters
    ----------
    manifest, read
        As for `nearest_across_splits`.
    n_pairs : int, default=1000

    Returns
    -------
    ndarray of float32, shape (n_pairs,)
        What images that have nothing to do with each other come to; empty without rows on either side.
    """
    rng = np.random.default_rng(0)
    train = manifest.rows("train")
    others = np.concatenate([manifest.rows("val"), manifest.rows("test")])
    if not len(train) or not len(others):
        return np.empty(0, dtype=np.float32)
    pairs = [rows[rng.integers(len(rows), size=n_pairs)] for rows in (train, others)]
    blocks = []
    for first in range(0, n_pairs, 100):
        one, other = (_unit(read(rows[first : first + 100])) for rows in pairs)
        blocks.append((one * other).sum(axis=1))
    return np.concatenate(blocks)


def _unit(features: NDArray[Any]) -> NDArray[np.float32]:
    """Return rows of length 1; zeros stay zeros."""
    rows = features.reshape(len(features), -1).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, np.float32(1))
    return rows
