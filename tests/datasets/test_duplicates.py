"""Identical and near-identical files on both sides of a split."""

from __future__ import annotations

import numpy as np

from featbank.datasets import duplicates_across_splits
from featbank.datasets.duplicates import nearest_across_splits
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


def near(features, rows, **options):
    features = np.asarray(features, dtype=np.float32)
    pairs = nearest_across_splits(manifest_of(rows), lambda at: features[at], **options)
    return [(pair.train_row, pair.row, round(pair.cosine, 4)) for pair in pairs]


def test_the_nearest_training_row_of_each_val_and_test_row():
    rows = [("a", "train"), ("b", "train"), ("c", "val"), ("d", "test"), ("e", "none")]
    features = [[1, 0], [0, 2], [0.6, 0.8], [5, 0.1], [1, 0]]
    assert near(features, rows) == [(0, 3, 0.9998), (1, 2, 0.8)]


def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    rows = [(chr(200 + at), ("train", "val", "test")[at % 3]) for at in range(40)]
    features = rng.normal(size=(40, 5))
    whole = near(features, rows)
    assert len(whole) == 26
    assert near(features, rows, block_rows=3) == whole
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for train_row, row, cosine in whole:
        assert cosine == round(max(unit[row] @ unit[one] for one in range(0, 40, 3)), 4)
        assert train_row % 3 == 0


def test_copies_unreadable_rows_and_zeros():
    bad = RowStatus.QUARANTINED
    rows = [
        ("a", "train"),
        ("b", "train", bad),
        ("a", "test"),
        ("c", "test", bad),
        ("d", "test"),
        ("e", "val"),
    ]
    features = [[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [0, 0]]
    assert near(features, rows) == [(0, 4, 0.0), (0, 5, 0.0)]
    assert near([[0, 0], [1, 0]], [("a", "train"), ("b", "test")]) == [(0, 1, 0.0)]
    assert near([[1, 0]], [("a", "test")]) == []
