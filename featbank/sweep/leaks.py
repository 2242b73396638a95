"""Images that stand on both sides of a split: told before anything is fitted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._cuts import LOGITS, CutName
from featbank.datasets.duplicates import (
    NEAR_DUPLICATE_COSINE,
    NearPair,
    cosines_at_random,
    nearest_across_splits,
)
from featbank.errors import InvalidInputError, LeakWarning
from featbank.manifest import SPLITS, Manifest, duplicates_across_splits, printable

__all__ = ["check_threshold", "deepest_vector_cut", "tell_copies", "tell_groups", "tell_near_copies"]

Read = Callable[[NDArray[np.int64]], NDArray[Any]]

#: How many pairs are written down; the count says how many there are.
_MOST_PAIRS = 100
#: Beyond this part of all images, more than copies are alike: then it is said what is.
_ALIKE = 0.2
_LIMITS = (
    "this finds copies; whether images of one patient, place or video are on both sides it cannot show, only "
    "a split that keeps them apart rules that out"
)


def tell_groups(manifest: Manifest) -> list[str]:
    """Warn of groups that have training images and validation or test images, and return the message."""
    if manifest.groups is None:
        return []
    train, *others = (np.unique(manifest.groups[manifest.rows(name)]) for name in ("train", "val", "test"))
    torn = np.intersect1d(train, np.concatenate(others))
    if not len(torn):
        return []
    row = int(np.flatnonzero(manifest.groups == torn[0])[0])
    message = (
        f"{len(torn)} of {len(manifest.group_names)} groups have training and validation or test images "
        f"(first: {manifest.group(row)!r}); accuracies are flattered, split by group"
    )
    warnings.warn(message, LeakWarning, stacklevel=4)
    return [message]


def _named(manifest: Manifest, row: int) -> str:
    """Return the id of an image, and of which group it is."""
    group = manifest.group(row)
    return printable(manifest.ids[row]) + ("" if group is None else f" of group {group!r}")


def tell_copies(manifest: Manifest) -> list[str]:
    """Warn of validation and test images that are training images byte for byte, and return the message."""
    pairs = duplicates_across_splits(manifest)
    if not pairs:
        return []
    train, other = pairs[0]
    are = (
        "image is byte for byte a training image"
        if len(pairs) == 1
        else "images are byte for byte training images"
    )
    message = (
        f"{len(pairs)} validation or test {are} (first: {_named(manifest, other)} = "
        f"{_named(manifest, train)}); accuracies are flattered, remove the copies and extract again"
    )
    warnings.warn(message, LeakWarning, stacklevel=4)
    return [message]


def check_threshold(asked: bool | float) -> float | None:
    """Return the cosine from which images count as near-identical; None if nobody asked."""
    if asked is False:
        return None
    threshold = NEAR_DUPLICATE_COSINE if asked is True else float(asked)
    if not 0 < threshold <= 1:
        raise InvalidInputError(
            f"check_leaks={asked!r} (--leak-cosine) must be True, False or a cosine over 0 and up to 1"
        )
    return threshold


def tell_near_copies(
    manifest: Manifest, cut: str, read: Read, threshold: float
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
        f"{threshold:g} or more; the largest: {largest}; first: {_named(manifest, first.row)} ~ "
        f"{_named(manifest, first.train_row)}); look at them, accuracies may be flattered"
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
