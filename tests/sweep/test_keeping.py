"""The heads kept are the same in whatever order fits are finished, and whatever was done before."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from featbank.sweep import Fit, Predictions
from featbank.sweep.fitting import keep

NOTHING = Predictions("test", *(np.zeros(1, np.int64),) * 3)


def finished(repeat, val_top1, n=8, head="ncm", status="ok"):
    fit = Fit("fc7", head, None, n, repeat, 24, 10, 7, status=status, val_top1=val_top1)
    return fit if status == "failed" else Fit(**vars(fit) | {"estimator": object(), "predictions": NOTHING})


#: The best at the largest size that anything succeeded at is repeat 1; 3 is as good, but later.
FITS = [
    finished(0, 0.5),
    finished(1, 0.7),
    finished(2, 0.6),
    finished(3, 0.7),
    finished(0, 0.9, n=4),
    finished(0, None, n=16, status="failed"),
]


def names(fits) -> list[str]:
    return [one.name for one in fits if one.estimator is not None]


def test_a_better_one_replaces_the_one_before():
    best = {}
    steps = [keep("best", [fit], best) for fit in FITS]
    assert [names(fits) for fits in steps] == [["fc7-ncm-n8-r0"], ["fc7-ncm-n8-r1"], [], [], [], []]
    assert [fits[0].replaces for fits in steps] == ["", "fc7-ncm-n8-r0", "", "", "", ""]
    assert all(one.estimator is None for one in best.values())  # nothing is held for the comparison


@pytest.mark.parametrize("order", [*permutations(range(6))][::37])
def test_the_order_and_what_was_done_before_do_not_matter(order):
    for before in range(7):
        first, second = {}, {}
        keep("best", [FITS[at].without_head() for at in order[:before]], second)
        standing: list[str] = []
        for best, part in ((first, order[:before]), (second, order[before:])):
            for at in part:
                fits = keep("best", [FITS[at]], best)
                gone = {one.replaces for one in fits}
                standing = [name for name in standing if name not in gone] + names(fits)
        assert standing == ["fc7-ncm-n8-r1"]


def test_those_of_one_group_are_compared_with_each_other_first():
    fits = keep("best", [*FITS, finished(2, 0.1, head="knn")], {})
    assert names(fits) == ["fc7-ncm-n8-r1", "fc7-knn-n8-r2"]
    assert {one.replaces for one in fits} == {""}


def test_all_and_none():
    assert len(names(keep("all", FITS, {}))) == 5
    assert names(keep("none", FITS, {})) == []
