"""What an estimate counts: starting once, each image by what images take once all is warm."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featbank.extraction import ExtractionSettings, choosing, estimating, plan
from featbank.extraction.choosing import Computing


class Clock:
    """Time that passes only where something is done."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pushed: list[int] = []

    def perf_counter(self) -> float:
        return self.now_s

    def ready(self, cuts: Any) -> None:
        self.now_s += 5

    def trial(self, images: Any, cuts: Any) -> None:
        self.now_s += 0.1 * len(images) if self.pushed else 9
        self.pushed.append(len(images))

    def batches(self, runs: Any, *, held: int) -> Iterator[Any]:
        for _, rows in runs:
            yield SimpleNamespace(images=rows)


@pytest.mark.parametrize(
    ("n_images", "seconds", "n_pushed"), [(100, 5 + 9 + 9, 30), (25, 5 + 9 + 1.5, 25), (4, 5 + 9, 4)]
)
def test_starting_counts_once_and_warm_images_say_what_each_takes(
    monkeypatch: pytest.MonkeyPatch, n_images: int, seconds: float, n_pushed: int
) -> None:
    clock = Clock()
    monkeypatch.setattr(choosing, "time", clock)
    manifest = SimpleNamespace(rows=lambda: np.arange(3))  # fewer than are pushed: they come again
    loader = SimpleNamespace(manifest=manifest, run_slots=10, batches=clock.batches)
    computing: Any = SimpleNamespace(loader=loader, forwards=[clock], cuts=("fc7",))
    assert Computing.pass_s(computing, n_images) == pytest.approx(seconds)
    assert sum(clock.pushed) == n_pushed


def test_made_up_photographs_are_made_before_the_clock_runs() -> None:
    made = estimating._MadeUpImages(71, 53)
    assert made.read(3) is made.read(3)
    assert len({made.read(number) for number in range(len(made.ids))}) == len(made.ids)


def test_planning_is_part_of_what_an_extraction_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=40, cache_dir=tmp_path)
    monkeypatch.setattr(Computing, "pass_s", lambda self, n_images: 1000.0 * n_images)
    with plan("digits", settings, measure=True) as found:
        assert found.duration_s is not None
        assert found.duration_s > 40_000
