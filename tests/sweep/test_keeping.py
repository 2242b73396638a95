"""The heads kept are the same in whatever order fits are finished, and whatever was done before."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from featbank.sweep import FitResult, Predictions
from featbank.sweep._fitting import Outcome
from featbank.sweep._keeping import Keeper

NOTHING = Predictions("test", *(np.zeros(1, np.int64),) * 3)


def outcome(repeat, val_top1, n=8, head="ncm", status="ok"):
    record = FitResult("fc7", head, None, n, repeat, 24, 10, 7, status=status, val_top1=val_top1)
    return Outcome(record, object(), NOTHING) if status == "ok" else Outcome(record)


#: The best at the largest size that anything succeeded at is repeat 1; 3 is as good, but later.
FITS = [
    outcome(0, 0.5),
    outcome(1, 0.7),
    outcome(2, 0.6),
    outcome(3, 0.7),
    outcome(0, 0.9, n=4),
    outcome(0, None, n=16, status="failed"),
]


def names(kept) -> list[str]:
    return [one.name for one in kept]


def test_a_better_one_replaces_the_one_before():
    keeper = Keeper("best", ())
    steps = [keeper.choose([one]) for one in FITS]
    assert [names(kept) for kept, _ in steps] == [["fc7-ncm-n8-r0"], ["fc7-ncm-n8-r1"], [], [], [], []]
    assert [dropped for _, dropped in steps] == [(), ("fc7-ncm-n8-r0",), (), (), (), ()]


@pytest.mark.parametrize("order", [*permutations(range(6))][::37])
def test_the_order_and_what_was_done_before_do_not_matter(order):
    for before in range(7):
        done, to_do = order[:before], order[before:]
        first, second = Keeper("best", ()), Keeper("best", [FITS[at].record for at in done])
        standing: list[str] = []
        for keeper, part in ((first, done), (second, to_do)):
            for at in part:
                kept, dropped = keeper.choose([FITS[at]])
                standing = [name for name in standing if name not in dropped] + names(kept)
        assert standing == ["fc7-ncm-n8-r1"]


def test_those_of_one_group_are_compared_with_each_other_first():
    kept, dropped = Keeper("best", ()).choose([*FITS, outcome(2, 0.1, head="knn")])
    assert (names(kept), dropped) == (["fc7-ncm-n8-r1", "fc7-knn-n8-r2"], ())


def test_all_and_none():
    assert len(Keeper("all", ()).choose(FITS)[0]) == 5
    assert Keeper("none", ()).choose(FITS) == ([], ())
