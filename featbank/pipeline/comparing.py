"""Published beside measured: numbers, findings in words, and where the two protocols differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from featbank.metrics.catalogue import percent
from featbank.pipeline.study import Claim, Experiment, Figure
from featbank.sampling import size_order
from featbank.sweep import CurvePoint

__all__ = [
    "CHECKS",
    "StudyPoint",
    "Verdict",
    "check_claim",
    "computed_differences",
    "measure",
]


@dataclass(frozen=True, kw_only=True)
class StudyPoint(CurvePoint):
    """A point of a curve, with its experiment and the accuracy of guessing there."""

    experiment: str
    chance: float = 0.0


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

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     StudyPoint(cut, "mlp", 28, {"top1": Score(test)}, experiment="depth")
    ...     for cut, test in [("block4_pool", 0.7129), ("block5_pool", 0.5322)]
    ... ]
    >>> verdict = check_claim(Claim("deeper is better", "rises-with-depth", ("depth",)), points)
    >>> verdict.holds, verdict.said
    (False, 'mlp: block4_pool 71.3 %, block5_pool 53.2 %')
    """

    text: str
    holds: bool | None
    said: str


def check_claim(claim: Claim, points: Sequence[StudyPoint]) -> Verdict:
    """Check a claim.

    Parameters
    ----------
    claim : Claim
    points : sequence of StudyPoint
        Those of all experiments, in the order of depth.

    Returns
    -------
    Verdict

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     StudyPoint(cut, "mlp", 28, {"top1": Score(test)}, experiment="depth")
    ...     for cut, test in [("block3_pool", 0.2876), ("block4_pool", 0.5322), ("block5_pool", 0.7129)]
    ... ]
    >>> check_claim(Claim("deeper is better", "rises-with-depth", ("depth",)), points).said
    'mlp: block3_pool 28.8 %, block4_pool 53.2 %, block5_pool 71.3 %'
    """
    kept = [
        one
        for name in claim.experiments
        for one in points
        if one.experiment == name
        and claim.metric in one.scores
        and claim.cut in (None, one.cut)
        and claim.head in (None, one.head)
        and (claim.n_per_class is None or one.is_of_size(claim.n_per_class))
    ]
    if not kept:
        return Verdict(claim.text, None, f"nothing was measured as {claim.metric}")
    holds, said = CHECKS[claim.check](kept, claim)
    return Verdict(claim.text, holds, said)


def _lines(points: Sequence[StudyPoint], *keys: str) -> dict[tuple[Any, ...], list[StudyPoint]]:
    found: dict[tuple[Any, ...], list[StudyPoint]] = {}
    for one in points:
        found.setdefault(tuple(getattr(one, key) for key in keys), []).append(one)
    return found


def _largest(points: Sequence[StudyPoint]) -> list[StudyPoint]:
    """Keep the points of the largest size each experiment, cut and head has."""
    return [
        one
        for line in _lines(points, "experiment", "cut", "head").values()
        for one in line
        if one.n_per_class == max((other.n_per_class for other in line), key=size_order)
    ]


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """Every line must say yes; lines that say nothing are not counted."""
    told = [one for one in verdicts if one is not None]
    return all(told) if told else None


def _counted(verdicts: Sequence[bool | None]) -> str:
    told = [one for one in verdicts if one is not None]
    return f"{sum(told)} of {len(told)} lines; " if len(told) > 1 else ""


def _rises_with_depth(points: Sequence[StudyPoint], claim: Claim) -> tuple[bool | None, str]:
    """Accuracy rises strictly from each cut to the next deeper one, for every head, at its largest size."""
    verdicts, said = [], []
    for (head,), line in _lines(_largest(points), "head").items():
        values = {one.cut: one.scores[claim.metric].mean for one in line}
        means = list(values.values())
        rises = all(low < high for low, high in pairwise(means))
        verdicts.append(rises if len(means) > 1 else None)
        listed = ", ".join(f"{cut} {percent(value)}" for cut, value in values.items())
        said.append(f"{head}: {listed}")
    return _all(verdicts), _counted(verdicts) + "; ".join(said)


def _gains_shrink(points: Sequence[StudyPoint], claim: Claim) -> tuple[bool | None, str]:
    """Each doubling of the labels brings less than the one before, for every cut and head."""
    verdicts, said = [], []
    for (_, cut, head), line in _lines(points, "experiment", "cut", "head").items():
        # all of uneven classes is no number of samples per class
        by_size = {one.n_per_class: one.scores[claim.metric].mean for one in line if one.n_per_class != "all"}
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


def _lower(points: Sequence[StudyPoint], claim: Claim) -> tuple[bool | None, str]:
    """The first of two experiments is lower; where there are intervals, they do not touch."""
    if len(claim.experiments) != 2:
        return None, "two experiments are needed"
    first, second = (
        max(
            (one for one in _largest(points) if one.experiment == name),
            key=lambda one: one.scores[claim.metric].mean,
            default=None,
        )
        for name in claim.experiments
    )
    if first is None or second is None:
        return None, "only one of the two was measured"
    means = first.scores[claim.metric].mean, second.scores[claim.metric].mean
    said = f"{first.experiment} {percent(means[0])}, {second.experiment} {percent(means[1])}"
    high, low = first.scores[claim.metric].high, second.scores[claim.metric].low
    if high is None or low is None:
        return means[0] < means[1], said
    # Where there are intervals, lower means that they do not touch.
    apart = bool(high < low)
    return apart, f"{said} (95 % intervals {'do not touch' if apart else 'touch'})"


def _no_difference(points: Sequence[StudyPoint], claim: Claim) -> tuple[bool | None, str]:
    """Two experiments or more lie less than one point apart."""
    means = {one.experiment: one.scores[claim.metric].mean for one in _largest(points)}
    said = ", ".join(f"{name} {percent(mean)}" for name, mean in means.items())
    if len(means) < 2:
        return None, f"{said}; two experiments are needed"
    return max(means.values()) - min(means.values()) < _NO_DIFFERENCE, f"{said}; a point is allowed"


def _no_learning(points: Sequence[StudyPoint], claim: Claim) -> tuple[bool | None, str]:
    """No line reaches twice the accuracy of guessing."""
    largest = _largest(points)
    values = [(one, one.scores[claim.metric].mean) for one in largest]
    listed = ", ".join(f"{one.experiment} {one.cut} {percent(value)}" for one, value in values)
    chance = largest[0].chance
    return all(value < 2 * one.chance for one, value in values), f"{listed}; chance is {percent(chance)}"


def _best_temperature_over_1(points: Sequence[StudyPoint], claim: Claim) -> tuple[bool | None, str]:
    """The highest accuracy over temperatures is at one above 1, for every head."""
    verdicts, said = [], []
    for (experiment, head), line in _lines(_largest(points), "experiment", "head").items():
        warm = {one.temperature: one.scores[claim.metric].mean for one in line if one.temperature}
        if len(warm) < 2:
            continue
        best = max(warm, key=warm.__getitem__)
        verdicts.append(best > 1)
        at_1 = f", {percent(warm[1.0])} at T=1" if 1.0 in warm else ""
        said.append(f"{experiment} {head}: highest {percent(warm[best])} at T={best:g}{at_1}")
    return _all(verdicts), "; ".join(said) or "fewer than two temperatures"


#: Accuracies that are nearer than this are called the same.
_NO_DIFFERENCE = 0.01
#: Name of a check -> what it does with points and claim.
CHECKS: dict[str, Callable[[Sequence[StudyPoint], Claim], tuple[bool | None, str]]] = {
    "rises-with-depth": _rises_with_depth,
    "gains-shrink": _gains_shrink,
    "lower": _lower,
    "no-learning": _no_learning,
    "no-difference": _no_difference,
    "best-temperature-over-1": _best_temperature_over_1,
}


def measure(figure: Figure, points: Sequence[StudyPoint]) -> dict[str, Any]:
    """Find the measured number that stands beside a published one.

    Parameters
    ----------
    figure : Figure
    points : sequence of StudyPoint

    Returns
    -------
    dict
        ``label``, ``metric``, ``what``, ``value`` (None where nothing was measured), ``low``, ``high`` (its
        95 % interval, None for a temperature and where there is none), ``experiment``, ``cut``, ``head``,
        ``n_per_class``, ``fewest_per_class``, ``most_per_class``, ``temperature``, ``n_repeats``.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> point = StudyPoint("fc7", "softmax", 28, {"top1": Score(0.75, 0.74, 0.76)}, experiment="fc7")
    >>> measure(Figure("test", 0.7554, "top1", "fc7"), [point])["value"]
    0.75
    """
    found: dict[str, Any] = {
        "label": figure.label,
        "metric": figure.metric,
        "what": figure.what,
        "experiment": figure.experiment,
        "cut": figure.cut,
        "head": figure.head,
        "n_per_class": figure.n_per_class,
        "temperature": figure.temperature,
        "value": None,
        "low": None,
        "high": None,
        "n_repeats": None,
    }
    line = [
        one
        for one in points
        if one.experiment == figure.experiment
        and figure.metric in one.scores
        and figure.cut in (None, one.cut)
        and figure.head in (None, one.head)
        and figure.temperature in (None, one.temperature)
    ]
    if figure.n_per_class is None:
        largest = max((one.n_per_class for one in line), key=size_order, default=None)
        line = [one for one in line if one.n_per_class == largest]
    else:
        line = [one for one in line if one.is_of_size(figure.n_per_class)]
    if not line:
        return found
    best = max(line, key=lambda one: one.scores[figure.metric].mean)
    names = ("cut", "head", "n_per_class", "fewest_per_class", "most_per_class", "temperature", "n_repeats")
    found |= {name: getattr(best, name) for name in names}
    if figure.what == "temperature":
        return found | {"value": best.temperature}
    score = best.scores[figure.metric]
    return found | {"value": score.mean, "low": score.low, "high": score.high}


def computed_differences(
    experiments: Iterable[tuple[Experiment, Experiment, Mapping[str, Any]]], limit: int | None
) -> list[str]:
    """Say where a run departs from its file.

    Parameters
    ----------
    experiments : iterable of (Experiment, Experiment, mapping)
        As the file has it, as it was run, and the source of its run (see `featbank.runs.Run.source`) with
        ``n_classes``, the number of classes there were.
    limit : int or None
        What ``--limit`` said.

    Returns
    -------
    list of str
        Sentences, each once.
    """
    said: dict[str, None] = {}
    for written, run, source in experiments:
        if run.backbone.name != written.backbone.name:
            said.setdefault(f"backbone {run.backbone.name} instead of {written.backbone.name}")
        if source["weights"] == "random":
            said.setdefault(f"{run.backbone.name} has RANDOM weights: its features are those of no training")
        elif written.backbone.weights and run.backbone.weights != written.backbone.weights:
            said.setdefault(
                f"{run.backbone.name} has the weights {source['weights']} instead of "
                f"{written.backbone.weights}"
            )
        expected, there = written.data.n_classes_published, source["n_classes"]
        if expected is not None and expected != there:
            said.setdefault(f"{there} classes here, {expected} in the report")
    if limit is not None:
        said.setdefault(f"at most {limit} images (--limit)")
    return list(said)
