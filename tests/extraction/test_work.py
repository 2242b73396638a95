"""Which batches are left to do."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.extraction.work import Work, run_size


def test_batches_start_anew_at_each_segment_and_name_the_cuts_that_need_them() -> None:
    work = Work(4, np.array([0, 6, 9]), {"fc7": [(0, 6)], "pool": [(4, 6), (6, 9)]})
    assert list(work.batches()) == [(0, 4, ("fc7",)), (4, 6, ("fc7", "pool")), (6, 9, ("pool",))]
    assert work.slots().tolist() == list(range(9))


@pytest.mark.parametrize(("batch_size", "size"), [(1, 32), (5, 35), (32, 32), (33, 33), (256, 256)])
def test_a_run_is_whole_batches(batch_size: int, size: int) -> None:
    assert run_size(batch_size) == size


def test_runs_join_full_batches_for_the_same_cuts() -> None:
    # a segment that ends in a short batch, cuts that change, a gap
    work = Work(4, np.array([0, 42, 50, 90]), {"fc7": [(0, 42), (42, 50), (58, 90)], "pool": [(8, 42)]})
    runs = list(work.runs(32))
    assert runs == [
        (0, 8, ("fc7",)),
        (8, 40, ("fc7", "pool")),
        (40, 42, ("fc7", "pool")),
        (42, 50, ("fc7",)),
        (58, 90, ("fc7",)),
    ]
    cut_up = [(start, min(start + 4, last)) for first, last, _ in runs for start in range(first, last, 4)]
    assert cut_up == [(start, stop) for start, stop, _ in work.batches()]


def test_a_short_batch_ends_its_run() -> None:
    runs = list(Work(4, np.array([0, 6, 12]), {"fc7": [(0, 12)]}).runs(32))
    assert runs == [(0, 6, ("fc7",)), (6, 12, ("fc7",))]


def test_nothing_missing_means_no_batches() -> None:
    work = Work(4, np.array([0, 6]), {"fc7": []})
    assert list(work.batches()) == []
    assert len(work.slots()) == 0
