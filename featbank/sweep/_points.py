"""One point of a curve: mean and interval of the fits of one size, and what they were fitted with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank.metrics import Interval, bootstrap_interval, mean_interval
from featbank.metrics.intervals import FEWEST_DRAWS
from featbank.sweep.records import CURVE_METRICS, FitResult

__all__ = ["count_draws", "curve_point", "uses_all", "without_few_draws"]

_UNKNOWN = Interval(*[float("nan")] * 3)


def uses_all(fit: FitResult, n_rows: Mapping[str, int]) -> bool:
    """Say whether a fit saw every training sample there is."""
    return fit.n_per_class == "all" or fit.n_train == n_rows.get("train")


def count_draws(fits: Sequence[FitResult], n_rows: Mapping[str, int], draws: Mapping[str, Any]) -> int:
    """Count the different subsets that fits of one size saw; without a record each repeat saw another."""
    if uses_all(fits[0], n_rows):
        return 1
    digests = dict(enumerate(draws.get("subsets", {}).get(f"{fits[0].n_per_class}", [])))
    return len({digests.get(one.repeat, one.repeat) for one in fits})


def without_few_draws(found: Interval, n_draws: int) -> Interval:
    """Leave the mean alone where draws are too few for an interval over them.

    Repeats of one draw differ by the heads' random start only, which is not what the interval speaks of.
    """
    return found if n_draws >= FEWEST_DRAWS else Interval(found.mean, float("nan"), float("nan"))


def curve_point(
    fits: Sequence[FitResult],
    n_draws: int,
    confidence: float,
    interval: Literal["t", "bootstrap"],
    right: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    """Return ``_mean``, ``_low``, ``_high``, ``_min``, ``_max`` of each metric; see `SweepResult.curve`.

    Parameters
    ----------
    fits : sequence of FitResult
        The fits of one curve and size, none of which failed.
    n_draws : int
        How many different subsets they saw.
    confidence, interval
        See `SweepResult.curve`.
    right : mapping of str to ndarray, shape (n_fits, n_rows)
        For the metrics that are known row by row, which rows the fits got right.
    """
    point: dict[str, Any] = {}
    for metric in CURVE_METRICS:
        values = _known(fits, metric)
        if not values:
            found = _UNKNOWN
        elif interval == "t":
            found = without_few_draws(mean_interval(values, confidence), n_draws)
        elif metric in right:
            found = bootstrap_interval(right[metric], confidence)
        else:
            found = Interval(float(np.mean(values)), float("nan"), float("nan"))
        for end, value in zip(("mean", "low", "high"), found, strict=True):
            # shares: an interval of few repeats may reach beyond what there is
            point[f"{metric}_{end}"] = None if np.isnan(value) else min(max(value, 0.0), 1.0)
        point |= _ends(metric, values)
    for name in ("C", "lr"):
        point |= _ends(name, _known(fits, name))
    return point


def _known(fits: Sequence[FitResult], name: str) -> list[float]:
    return [getattr(one, name) for one in fits if getattr(one, name) is not None]


def _ends(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {f"{name}_min": min(values, default=None), f"{name}_max": max(values, default=None)}
