"""Identical files on both sides of a split."""

from __future__ import annotations

from featbank.manifest import SPLITS, Manifest, RowStatus

__all__ = ["duplicates_across_splits"]


def duplicates_across_splits(manifest: Manifest) -> list[tuple[int, int]]:
    """Find val and test images whose bytes are also those of a training image.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    list of (int, int)
        One pair for each such val or test row: the first training row with the same digest, and the row;
        in the order of the second. Rows that could not be read are left out.
    """
    first_train: dict[bytes, int] = {}
    for row in manifest.rows("train"):
        first_train.setdefault(manifest.digests[row].tobytes(), int(row))
    others = (SPLITS.index("val"), SPLITS.index("test"))
    pairs = []
    for row in range(len(manifest)):
        if manifest.splits[row] in others and manifest.statuses[row] == RowStatus.OK:
            train_row = first_train.get(manifest.digests[row].tobytes())
            if train_row is not None:
                pairs.append((train_row, row))
    return pairs
