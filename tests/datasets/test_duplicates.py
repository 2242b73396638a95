"""Identical files on both sides of a split."""

from __future__ import annotations

import numpy as np

from featbank.datasets import duplicates_across_splits
from featbank.manifest import SPLITS, Manifest, RowStatus


def manifest_of(rows):
    """Rows as (content, split, status)."""
    digests = np.zeros((len(rows), 32), dtype=np.uint8)
    digests[:, 31] = [ord(content) for content, *_ in rows]
    return Manifest(
        ids=tuple(b"%d" % index for index in range(len(rows))),
        labels=np.zeros(len(rows), dtype=np.int32),
        classes=("x",),
        splits=np.array([SPLITS.index(split) for _, split, *_ in rows], dtype=np.uint8),
        digests=digests,
        statuses=np.array([row[2] if len(row) > 2 else RowStatus.OK for row in rows], dtype=np.uint8),
    )


def test_train_against_val_and_test():
    manifest = manifest_of(
        [("a", "test"), ("a", "train"), ("b", "train"), ("a", "train"), ("b", "val"), ("c", "test")]
    )
    assert duplicates_across_splits(manifest) == [(1, 0), (2, 4)]


def test_within_one_side_outside_all_and_between_val_and_test_do_not_count():
    manifest = manifest_of([("a", "train"), ("a", "train"), ("a", "none"), ("b", "val"), ("b", "test")])
    assert duplicates_across_splits(manifest) == []


def test_rows_that_cannot_be_read_do_not_count():
    bad = RowStatus.QUARANTINED
    assert duplicates_across_splits(manifest_of([("a", "train", bad), ("a", "test")])) == []
    assert duplicates_across_splits(manifest_of([("a", "train"), ("a", "test", bad)])) == []
