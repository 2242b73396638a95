"""Which slots are pushed together."""

from __future__ import annotations

import pytest

from featbank.banks.shards import ShardPlan
from featbank.extraction.forward import run_size
from featbank.extraction.storing import runs


def shards(*ranges: tuple[int, int]) -> list[ShardPlan]:
    return [ShardPlan(number, *one) for number, one in enumerate(ranges)]


@pytest.mark.parametrize(("batch_size", "size"), [(1, 32), (5, 35), (32, 32), (33, 33), (256, 256)])
def test_a_run_is_whole_batches(batch_size: int, size: int) -> None:
    assert run_size(batch_size) == size


def test_runs_join_shards_for_the_same_cuts() -> None:
    # a shard that ends in a short batch, cuts that change, a gap
    needed = {"fc7": shards((0, 42), (42, 50), (58, 90)), "pool": shards((8, 42))}
    assert list(runs(32, 4, [0, 8, 42, 50, 58, 90], needed)) == [
        (0, 8, ("fc7",)),
        (8, 40, ("fc7", "pool")),
        (40, 42, ("fc7", "pool")),
        (42, 50, ("fc7",)),
        (58, 90, ("fc7",)),
    ]
    # shards of the same cut, to the size of a run or a batch less
    assert list(runs(35, 4, [0, 24, 48, 80], {"fc7": shards((0, 24), (24, 48), (48, 80))})) == [
        (0, 32, ("fc7",)),
        (32, 64, ("fc7",)),
        (64, 80, ("fc7",)),
    ]


def test_a_short_batch_ends_its_run() -> None:
    found = list(runs(32, 4, [0, 6, 12], {"fc7": shards((0, 6), (6, 12))}))
    assert found == [(0, 6, ("fc7",)), (6, 12, ("fc7",))]


def test_nothing_missing_means_no_runs() -> None:
    assert list(runs(32, 4, [], {"fc7": []})) == []
