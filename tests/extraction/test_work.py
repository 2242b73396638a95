"""Which batches are left to do."""

from __future__ import annotations

import numpy as np

from featbank.extraction.work import Work


def test_batches_start_anew_at_each_segment_and_name_the_cuts_that_need_them() -> None:
    work = Work(4, np.array([0, 6, 9]), {"fc7": [(0, 6)], "pool": [(4, 6), (6, 9)]})
    assert list(work.batches()) == [(0, 4, ("fc7",)), (4, 6, ("fc7", "pool")), (6, 9, ("pool",))]
    assert work.slots().tolist() == list(range(9))


def test_nothing_missing_means_no_batches() -> None:
    work = Work(4, np.array([0, 6]), {"fc7": []})
    assert list(work.batches()) == []
    assert len(work.slots()) == 0
