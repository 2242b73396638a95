"""Published findings in words, checked on measured curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from featbank.pipeline.study import Claim, is_of_size
from featbank.sampling import size_order

__all__ = ["CHECKS", "Verdict", "check_claim"]

#: A point of a curve (see `featbank.sweep.SweepResult.curve`) with its ``experiment`` and ``chance``.
Point = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Parameters
    ----------
    text : str
        The claim.
    holds : bool or None
        Whether it is so here; None where the curves do not say.
    said : str
        The figures it was judged by.
    """

    text: str
    holds: bool | None
    said: str


def check_claim(claim: Claim, points: Sequence[Point]) -> Verdict:
    """Check a claim.

    Parameters
    ----------
    claim : Claim
    points : sequence of mapping
        Those of all experiments, each with its ``experiment`` and the accuracy of guessing, ``chance``; in
        the order of depth.

    Returns
    -------
    Verdict

    Examples
    --------
    >>> points = [
    ...     {"experiment": "depth", "cut": cut, "head": "mlp", "n_per_class": 28, "top1_mean": test}
    ...     for cut, test in [("block3_pool", 0.2876), ("block4_pool", 0.5322), ("block5_pool", 0.7129)]
    ... ]
    >>> check_claim(Claim("deeper is better", "rises-with-depth", ("depth",)), points).said
    'mlp: block3_pool 28.8 %, block4_pool 53.2 %, block5_pool 71.3 %'
    """
    key = f"{claim.metric}_mean"
    kept = [
        one
        for name in claim.experiments
        for one in points
        if one["experiment"] == name
        and one.get(key) is not None
        and claim.cut in (None, one["cut"])
        and claim.head in (None, one["head"])
        and (claim.n_per_class is None or is_of_size(one, claim.n_per_class))
    ]
    if not kept:
        return Verdict(claim.text, None, f"nothing was measured as {claim.metric}")
    holds, said = CHECKS[claim.check](kept, claim)
    return Verdict(claim.text, holds, said)


def _lines(points: Sequence[Point], *keys: str) -> dict[tuple[Any, ...], list[Point]]:
    found: dict[tuple[Any, ...], list[Point]] = {}
    for one in points:
        found.setdefault(tuple(one[key] for key in keys), []).append(one)
    return found


def _largest(points: Sequence[Point]) -> list[Point]:
    """Keep the points of the largest size each experiment, cut and head has."""
    return [
        one
        for line in _lines(points, "experiment", "cut", "head").values()
        for one in line
        if one["n_per_class"] == max((other["n_per_class"] for other in line), key=size_order)
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """Every line must say yes; lines that say nothing are not counted."""
    told = [one for one in verdicts if one is not None]
    return all(told) if told else None


def _counted(verdicts: Sequence[bool | None]) -> str:
    told = [one for one in verdicts if one is not None]
    return f"{sum(told)} of {len(told)} lines; " if len(told) > 1 else ""


def _rises_with_depth(points: Sequence[Point], claim: Claim) -> tuple[bool | None, str]:
    verdicts, said = [], []
    for (head,), line in _lines(_largest(points), "head").items():
        values = {one["cut"]: float(one[f"{claim.metric}_mean"]) for one in line}
        means = list(values.values())
        rises = all(low < high for low, high in pairwise(means))
        verdicts.append(rises if len(means) > 1 else None)
        listed = ", ".join(f"{cut} {_percent(value)}" for cut, value in values.items())
        said.append(f"{head}: {listed}")
    return _all(verdicts), _counted(verdicts) + "; ".join(said)


def _gains_shrink(points: Sequence[Point], claim: Claim) -> tuple[bool | None, str]:
    verdicts, said = [], []
    for (_, cut, head), line in _lines(points, "experiment", "cut", "head").items():
        # all of uneven classes is no number of samples per class
        numbered = [one for one in line if one["n_per_class"] != "all"]
        by_size = {one["n_per_class"]: float(one[f"{claim.metric}_mean"]) for one in numbered}
        sizes = sorted(by_size)
        gains = [(by_size[high] - by_size[low]) / math.log2(high / low) for low, high in pairwise(sizes)]
        shrink = all(later < earlier for earlier, later in pairwise(gains))
        verdicts.append(shrink if len(gains) > 1 else None)
        listed = ", ".join(f"{100 * one:+.1f}" for one in gains)
        said.append(
            f"{cut} {head}: {listed} points per doubling from {sizes[0]} to {sizes[-1]}"
            if gains
            else f"{cut} {head}: fewer than two sizes"
        )
    return _all(verdicts), _counted(verdicts) + "; ".join(said)


def _lower(points: Sequence[Point], claim: Claim) -> tuple[bool | None, str]:
    if len(claim.experiments) != 2:
        return None, "two experiments are needed"
    first, second = (
        max(
            (one for one in _largest(points) if one["experiment"] == name),
            key=lambda one: float(one[f"{claim.metric}_mean"]),
            default=None,
        )
        for name in claim.experiments
    )
    if first is None or second is None:
        return None, "only one of the two was measured"
    means = float(first[f"{claim.metric}_mean"]), float(second[f"{claim.metric}_mean"])
    said = f"{first['experiment']} {_percent(means[0])}, {second['experiment']} {_percent(means[1])}"
    high, low = first.get(f"{claim.metric}_high"), second.get(f"{claim.metric}_low")
    if high is None or low is None:
        return means[0] < means[1], said
    # Where there are intervals, lower means that they do not touch.
    apart = bool(high < low)
    return apart, f"{said} (95 % intervals {'do not touch' if apart else 'touch'})"


def _no_learning(points: Sequence[Point], claim: Claim) -> tuple[bool | None, str]:
    largest = _largest(points)
    values = [(one, float(one[f"{claim.metric}_mean"])) for one in largest]
    listed = ", ".join(f"{one['experiment']} {one['cut']} {_percent(value)}" for one, value in values)
    chance = largest[0]["chance"]
    return all(value < 2 * one["chance"] for one, value in values), f"{listed}; chance is {_percent(chance)}"


def _best_temperature_over_1(points: Sequence[Point], claim: Claim) -> tuple[bool | None, str]:
    verdicts, said = [], []
    for (experiment, head), line in _lines(_largest(points), "experiment", "head").items():
        warm = {one["temperature"]: float(one[f"{claim.metric}_mean"]) for one in line if one["temperature"]}
        if len(warm) < 2:
            continue
        best = max(warm, key=warm.__getitem__)
        verdicts.append(best > 1)
        at_1 = f", {_percent(warm[1.0])} at T=1" if 1.0 in warm else ""
        said.append(f"{experiment} {head}: highest {_percent(warm[best])} at T={best:g}{at_1}")
    return _all(verdicts), "; ".join(said) or "fewer than two temperatures"


#: Name of a check -> what it does with points and claim.
CHECKS: dict[str, Callable[[Sequence[Point], Claim], tuple[bool | None, str]]] = {
    "rises-with-depth": _rises_with_depth,
    "gains-shrink": _gains_shrink,
    "lower": _lower,
    "no-learning": _no_learning,
    "best-temperature-over-1": _best_temperature_over_1,
}
