"""Handing out items: every one once, a bounded number at a time, and nobody waits; without Ray."""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from featbank.engines import map_unordered
from featbank.engines.mapping import outcomes

spec = importlib.util.spec_from_file_location("simulation", Path(__file__).with_name("simulation.py"))
assert spec is not None
assert spec.loader is not None
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)
SimulatedPool = simulation.SimulatedPool


def test_every_item_is_computed_once_and_four_a_slot_are_on_their_way() -> None:
    pool = SimulatedPool(3, lambda item: 1 + item % 5)
    taken: list[int] = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    seen = []
    for outcome in outcomes(pool, items()):
        seen.append(outcome.item)
        assert len(taken) - len(seen) < 12
    assert sorted(seen) == list(range(100))
    assert seen != sorted(seen)
    assert pool.most == 12


def test_nodes_that_join_get_work_and_those_that_leave_get_none() -> None:
    pool = SimulatedPool(1, lambda item: 1.0)
    flying = []
    for number, _ in enumerate(outcomes(pool, range(60))):
        flying.append(len(pool.waiting) + len(pool.running))
        pool.n_nodes = 4 if 10 <= number < 30 else 1
    assert max(flying[:10]) == 3
    assert max(flying[12:30]) == 15
    assert max(flying[-15:]) == 3


def test_a_cluster_without_nodes_is_waited_for() -> None:
    pool = SimulatedPool(0, lambda item: 1.0)
    found = outcomes(pool, range(3))
    pool.running = [(100.0, 0)]  # somebody comes after all
    pool.submit = lambda item: item
    assert next(found).item == 0
    assert pool.time == 100


def test_64_nodes_are_busy_to_the_end() -> None:
    # as tests/benchmarks/test_cluster.py measures them: 39 shards of 16 photographs, MobileNetV2, one lane,
    # had a standard deviation of 8 % of the mean
    takes = np.random.default_rng(0).lognormal(np.log(0.5), 0.08, 1000)
    pool = SimulatedPool(64, takes.__getitem__)
    assert sum(1 for _ in outcomes(pool, range(1000))) == 1000
    idle = 1 - pool.busy_s / (64 * pool.time)
    assert idle < 0.05, f"{idle:.1%} of 64 nodes were idle"


def test_an_item_that_takes_ten_times_as_long_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = SimulatedPool(2, lambda item: 3000.0 if item == 13 else 20.0)
    with caplog.at_level(logging.WARNING, "featbank"):
        assert len(list(outcomes(pool, range(100)))) == 100
    (said,) = caplog.messages
    assert said.startswith("13 has taken 20")
    assert "others 20.0 s (the median of " in said


def test_what_waits_behind_others_is_not_overdue(caplog: pytest.LogCaptureFixture) -> None:
    # eight minutes pass before the last of the first eight begins, and each takes two of them
    pool = SimulatedPool(1, lambda item: 120.0 if item < 20 else 1.0)
    assert len(list(outcomes(pool, range(24)))) == 24
    assert len(list(outcomes(SimulatedPool(1, lambda item: 1e-3 if item else 0.5), range(99)))) == 99
    assert caplog.messages == []


def test_here_an_error_is_the_items_own() -> None:
    found = {one.item: one for one in map_unordered(lambda one: 6 // one, [3, 0, 2])}
    assert [found[3].get(), found[2].get()] == [2, 3]
    assert Counter(one.error is None for one in found.values()) == {True: 2, False: 1}
    with pytest.raises(ZeroDivisionError):
        found[0].get()
