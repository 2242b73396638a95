from __future__ import annotations

import pytest

from featbank.heads._schedule import annealed


@pytest.mark.parametrize(
    ("annealing", "expected"),
    [
        ("inverse-time", [1.0, 0.8, 0.5, 0.2]),
        ("cosine", [1.0, 0.982963, 0.75, 0.0]),
        ("step", [1.0, 1.0, 0.1, 1e-4]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_rates(annealing: str, expected: list[float]) -> None:
    got = [annealed(annealing, t, annealing_epochs=20.0, max_epochs=60) for t in (0, 5, 20, 80)]
    assert got == pytest.approx(expected, abs=1e-6)
