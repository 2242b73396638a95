"""Slots are only ever added; shards are a pure function of segments and rows per shard."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.banks.shards import ShardPlan, SlotTable, shard_rows_for


def digests(kit, *contents):
    return kit.make_manifest(contents).digests


def test_each_image_gets_one_slot_in_order(kit):
    table, rows = SlotTable.empty().with_digests(digests(kit, "b", "a", "b", "c"))
    assert rows.tolist() == [0, 1, 0, 2]
    assert table.segments.tolist() == [0, 3]
    assert table.digests.tobytes() == b"".join(map(kit.digest_of, "bac"))


def test_slots_are_never_removed_or_renumbered(kit):
    first, _ = SlotTable.empty().with_digests(digests(kit, *"abcd"))
    second, rows = first.with_digests(digests(kit, *"xdb"))
    assert rows.tolist() == [4, 3, 1]
    assert second.segments.tolist() == [0, 4, 5]
    assert (second.digests[:4] == first.digests).all()
    same, rows = second.with_digests(digests(kit, *"ax"))
    assert same is second
    assert rows.tolist() == [0, 4]


def test_a_renewed_digest_gets_a_later_slot_that_wins(kit):
    table, _ = SlotTable.empty().with_digests(digests(kit, *"abc"))
    renew = {kit.digest_of("b"), kit.digest_of("not there")}
    renewed, rows = table.with_digests(digests(kit, *"abb"), renew)
    assert rows.tolist() == [0, 3, 3]
    assert renewed.segments.tolist() == [0, 3, 4]
    assert renewed.with_digests(digests(kit, *"b"))[1].tolist() == [3]


def test_shards_never_cross_a_segment():
    segments = np.array([0, 10, 11, 27], np.int64)
    table = SlotTable(np.zeros((27, 32), np.uint8), segments, np.zeros(27, np.uint8))
    plans = table.plan(8)
    assert plans == [
        ShardPlan(0, 0, 8),
        ShardPlan(1, 8, 10),
        ShardPlan(2, 10, 11),
        ShardPlan(3, 11, 19),
        ShardPlan(4, 19, 27),
    ]
    assert [plan.n_rows for plan in plans] == [8, 2, 1, 8, 8]


@pytest.mark.parametrize("row_bytes", [2, 1000, 4096, 200_704, 1_605_632, 100_000_000])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_shards_hold_whole_batches(row_bytes, batch_size):
    rows = shard_rows_for(row_bytes, batch_size)
    assert rows % batch_size == 0
    assert rows >= batch_size
    assert (
        rows == batch_size
        or rows * row_bytes <= 64 * 2**20 < 2 * rows * row_bytes + 2 * batch_size * row_bytes
    )
    assert (rows // batch_size).bit_count() == 1  # shards of all cuts nest


def test_first_rows(kit):
    table, rows = SlotTable.empty().with_digests(digests(kit, *"abcab"))
    assert table.first_rows(rows).tolist() == [0, 1, 2]
    assert table.first_rows(np.array([2, 1, 1, 2])).tolist() == [-1, 1, 0]


def test_statuses_keep_the_graver_fault():
    table = SlotTable(np.zeros((9, 32), np.uint8), np.array([0, 9]), np.repeat([0, 1, 2], 3).astype(np.uint8))
    found = np.tile([0, 1, 2], 3).astype(np.uint8)
    assert table.with_statuses(found).statuses.tolist() == [0, 1, 2, 1, 1, 1, 2, 1, 2]
