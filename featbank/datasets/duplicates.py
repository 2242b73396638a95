"""Near-identical images on both sides of a split; of those that are identical the manifest tells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featbank._cuts import LOGITS, CutName
from featbank.errors import InvalidInputError, LeakWarning
from featbank.manifest import SPLITS, Manifest, duplicates_across_splits, named_row, printable

__all__ = [
    "NEAR_DUPLICATE_COSINE",
    "NearPair",
    "check_threshold",
    "cosines_at_random",
    "deepest_vector_cut",
    "nearest_across_splits",
    "tell_near_copies",
]

#: From this cosine on two images count as near-identical. Looked up by eye on Caltech-101 (32 classes) at
#: MobileNetV2's avgpool: seven pairs reach 0.90, and six of them are one picture or two shots of one scene;
#: half of copies that were halved, cropped, mirrored, recompressed or brightened reach it too. The median
#: image's nearest neighbour is at 0.71.
NEAR_DUPLICATE_COSINE = 0.90
#: How many pairs are written down; the count says how many there are.
_MOST_PAIRS = 100
#: Beyond this part of all images, more than copies are alike: then it is said what is.
_ALIKE = 0.2
_LIMITS = (
    "this finds copies; whether images of one patient, place or video are on both sides it cannot show, only "
    "a split that keeps them apart rules that out"
)


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


def check_threshold(asked: bool | float) -> float:
    """Return the cosine from which images count as near-identical."""
    threshold = NEAR_DUPLICATE_COSINE if asked is True else float(asked)
    if not 0 < threshold <= 1:
        raise InvalidInputError(
            f"check_leaks={asked!r} (--leak-cosine) must be True, False or a cosine over 0 and up to 1"
        )
    return threshold


def tell_near_copies(
    manifest: Manifest, cut: str, read: Callable[[NDArray[np.int64]], NDArray[Any]], threshold: float
) -> tuple[list[str], dict[str, Any]]:
    """Warn of validation and test images that a training image is nearly identical to.

    Returns
    -------
    notes : list of str
    found : dict
        ``cut``, ``threshold``, ``count``, ``largest`` (the five largest cosines there are) and ``pairs``
        (at most 100, the nearest first) with ``train``, ``other``, ``split`` and ``cosine``, and
        ``train_group`` and ``other_group`` where the bank has groups.
    """
    pairs = nearest_across_splits(manifest, read)
    near = [one for one in pairs if one.cosine >= threshold]
    found = {
        "cut": cut,
        "threshold": threshold,
        "count": len(near),
        "largest": [one.cosine for one in pairs[:5]],
        "pairs": [_plain(manifest, one) for one in near[:_MOST_PAIRS]],
    }
    largest = ", ".join(f"{one.cosine:.3f}" for one in pairs[:5]) or "none"
    if not near:
        return [
            f"no validation or test image is near-identical to a training image: the largest cosines at "
            f"{cut} are {largest}, all under {threshold:g}"
            + (f"; {_LIMITS}" if manifest.groups is None else "")
        ], found
    first = near[0]
    are = "image is" if len(near) == 1 else "images are"
    message = (
        f"{len(near)} validation or test {are} near-identical to a training image (cosine at {cut} of "
        f"{threshold:g} or more; the largest: {largest}; first: {named_row(manifest, first.row)} ~ "
        f"{named_row(manifest, first.train_row)}); look at them, accuracies may be flattered"
    )
    if len(near) > _ALIKE * len(pairs):
        unrelated = float((cosines_at_random(manifest, read) >= threshold).mean())
        message += (
            f" (that is {len(near) / len(pairs):.0%} of them, and {unrelated:.0%} of pairs at random"
            + (
                ": at this cut unrelated images are as alike, ask for a larger cosine with --leak-cosine)"
                if unrelated > _ALIKE
                else ": it is the split that leaks, as when images of one patient, place, video or series "
                "stand on both sides; split by these)"
            )
        )
    warnings.warn(message, LeakWarning, stacklevel=5)
    return [message], found


def _plain(manifest: Manifest, pair: NearPair) -> dict[str, Any]:
    found = {
        "train": printable(manifest.ids[pair.train_row]),
        "other": printable(manifest.ids[pair.row]),
        "split": SPLITS[int(manifest.splits[pair.row])],
        "cosine": pair.cosine,
    }
    if manifest.groups is not None:
        found |= {"train_group": manifest.group(pair.train_row), "other_group": manifest.group(pair.row)}
    return found


def deepest_vector_cut(cuts: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> str:
    """Return the deepest cut whose features are one vector per image; logits only where there is no other.

    Views are passed over: they are of other images.
    """
    seen = [cut for cut in cuts if CutName.parse(cut).view is None]
    vectors = [cut for cut in seen if len(shapes.get(cut, ())) == 1]
    inner = [cut for cut in vectors if CutName.parse(cut).base != LOGITS]
    if not vectors:
        raise InvalidInputError(
            "check_leaks needs a cut with one vector per image, which the bank has not got; extract one, "
            "e.g. --cut fc7, avgpool or logits"
        )
    return (inner or vectors)[-1]
