"""Cuts and heads side by side, best first, with paired differences to the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from featbank.errors import InvalidInputError
from featbank.metrics import Interval, paired_difference
from featbank.sampling import Size, size_order
from featbank.sweep.curves import CurvePoint, LearningCurve, check_metric, judged_by, without_few_draws
from featbank.sweep.records import Key
from featbank.sweep.results import SweepResult

__all__ = ["ComparedCurve", "Comparison", "compare"]


#: What says which curve is best by a metric, without the rows the metric is of; ``val_top1`` for all others.
_SIBLINGS = {
    "top5": "val_top5",
    "train_top5": "val_top5",
    "best_top1": "best_val_top1",
    "final_top1": "final_val_top1",
}


@dataclass(frozen=True)
class ComparedCurve:
    """One cut and head at the size all are compared at.

    Parameters
    ----------
    run : str
        The name its sweep was given under.
    cut, head : str
        Where features were read, and what was trained on them.
    temperature : float or None
        Temperature of the softmax features; None at any other cut.
    n_repeats, n_failed : int
        Fits that succeeded, and those that did not.
    n_draws : int
        How many of the repeats drew other samples.
    mean, low, high : float
        Mean of the metric over repeats and its interval, within [0, 1]; low and high None for fewer than
        three draws.
    rank : float
        Mean of what the curves are ranked by, see `Comparison`.
    difference : Interval or None
        Mean and interval of this one minus the best, repeat by repeat on the same subsets; None for the best
        itself, and where the subsets are others. Its low and high are NaN for fewer than three draws.
    n_paired : int
        Repeats the difference is taken over.
    fit_s, total_s : float
        Seconds of one fit at this size, on average; seconds of all fits of this cut and head.
    fewest_per_class, most_per_class : int or None
        Training samples of the class that has fewest and of the one that has most.
    """

    run: str
    cut: str
    head: str
    temperature: float | None
    n_repeats: int
    n_failed: int
    n_draws: int
    mean: float
    low: float | None
    high: float | None
    rank: float
    difference: Interval | None
    n_paired: int
    fit_s: float
    total_s: float
    fewest_per_class: int | None = None
    most_per_class: int | None = None

    @property
    def key(self) -> Key:
        """Cut, head and temperature."""
        return self.cut, self.head, self.temperature


@dataclass(frozen=True)
class Comparison:
    """Curves, best first.

    Parameters
    ----------
    metric : str
        One of `CURVE_METRICS`.
    ranked_by : str
        The metric that says which is best: of the validation rows, because the best by the test rows flatters
        itself; `metric` itself where nothing was validated, which a note says.
    n_per_class : int or "all"
        Samples per class they are compared at.
    curves : tuple of ComparedCurve
        Best first; of equals the cheaper fit.
    notes : tuple of str
        What has to be known to read it.
    """

    metric: str
    ranked_by: str
    n_per_class: Size
    curves: tuple[ComparedCurve, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.curves)} curves by {self.metric} at {self.n_per_class}>"


def compare(
    results: Mapping[str, SweepResult],
    *,
    n_per_class: Size | None = None,
    metric: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare all cuts and heads of one or several sweeps at one size.

    Parameters
    ----------
    results : mapping of str to SweepResult
        Sweeps by name. Those that drew the same images and are judged by the same ones are compared repeat
        by repeat, also where the features come from another backbone.
    n_per_class : int or "all", optional
        Samples per class; by default the largest that every curve has, with an interval if there is one.
    metric : str, optional
        One of `CURVE_METRICS`; by default ``"top1"``, or ``"val_top1"`` where there are no test rows.
    confidence : float, default=0.95
        Level of the intervals.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInputError
        If nothing was fitted, no size is common to all curves, or the metric or size is not there.

    Examples
    --------
    >>> from featbank.sweep import FitResult
    >>> fits = [FitResult("fc7", head, None, 4, repeat, 8, 10, 0, top1=top1 + repeat / 10, val_top1=top1)
    ...         for head, top1 in (("softmax", 0.5), ("mlp", 0.6)) for repeat in (0, 1)]
    >>> comparison = compare({"a run": SweepResult(fits)})
    >>> [(one.head, round(one.mean, 2)) for one in comparison.curves]
    [('mlp', 0.65), ('softmax', 0.55)]
    >>> round(comparison.curves[1].difference.mean, 2)
    -0.1
    """
    curves = {(name, key): one for name, result in results.items() for key, one in result.curves().items()}
    everything = {at: one.points(confidence) for at, one in curves.items()}
    if metric is None:
        metric = judged_by(point for points in everything.values() for point in points)
    check_metric(metric)
    points = {
        at: {one.n_per_class: one for one in found if metric in one.scores}
        for at, found in everything.items()
    }
    notes = [
        f"{_spell(at, results)} is left out: none of its fits has {metric}"
        for at, sizes in points.items()
        if not sizes
    ]
    points = {at: sizes for at, sizes in points.items() if sizes}
    size = _common_size(points, n_per_class, metric, results, notes)
    chosen = {at: sizes[size] for at, sizes in points.items() if size in sizes}
    ranked_by = _ranked_by(metric, list(chosen.values()), notes)
    rows = [_row(name, point, curves[name, key], metric, ranked_by) for (name, key), point in chosen.items()]
    sign = 1 if ranked_by.startswith("ece") else -1
    rows.sort(key=lambda row: (sign * row.rank, row.fit_s))
    best = rows[0]
    first = curves[best.run, best.key].by_repeat(size, metric)
    paired = [best]
    for row in rows[1:]:
        repeats = _same_draws(results, best.run, row.run, size)
        curve = curves[row.run, row.key]
        mine = curve.by_repeat(size, metric)
        shared = [one for one in sorted(first.keys() & mine.keys()) if repeats is None or one in repeats]
        difference = None
        if shared:
            values = [mine[one] for one in shared], [first[one] for one in shared]
            difference = paired_difference(*values, confidence)
            difference = without_few_draws(difference, curve.n_draws(size, shared))
        paired.append(replace(row, difference=difference, n_paired=len(shared)))
    notes += _notes_on_draws(results, best.run, {row.run for row in rows}, size)
    return Comparison(metric, ranked_by, size, tuple(paired), tuple(notes))


def _ranked_by(metric: str, points: Sequence[CurvePoint], notes: list[str]) -> str:
    """Return the metric of the validation rows that says which of the curves is best."""
    sibling = metric if "val_" in metric else _SIBLINGS.get(metric, "val_top1")
    if all(sibling in point.scores for point in points):
        return sibling
    notes.append(
        f"not every curve has {sibling}: the best is the best by {metric} itself, on the images it is "
        "reported for, which flatters it"
    )
    return metric


def _row(name: str, point: CurvePoint, curve: LearningCurve, metric: str, ranked_by: str) -> ComparedCurve:
    times = [fit.duration_s for fit in curve.fits if fit.n_per_class == point.n_per_class]
    score = point.scores[metric]
    return ComparedCurve(
        run=name,
        cut=point.cut,
        head=point.head,
        temperature=point.temperature,
        n_repeats=point.n_repeats or 0,
        n_failed=point.n_failed,
        n_draws=point.n_draws or 0,
        mean=score.mean,
        low=score.low,
        high=score.high,
        rank=point.scores[ranked_by].mean,
        difference=None,
        n_paired=0,
        fit_s=sum(times) / len(times),
        total_s=sum(fit.duration_s for fit in curve.fits),
        fewest_per_class=point.fewest_per_class,
        most_per_class=point.most_per_class,
    )


def _spell(at: tuple[str, Key], results: Mapping[str, SweepResult]) -> str:
    name, (cut, head, temperature) = at
    heat = "" if temperature is None else f" at T={temperature:g}"
    return f"{head} on {cut}{heat}{f' of {name}' if len(results) > 1 else ''}"


def _common_size(
    points: Mapping[tuple[str, Key], Mapping[Size, CurvePoint]],
    asked: Size | None,
    metric: str,
    results: Mapping[str, SweepResult],
    notes: list[str],
) -> Size:
    """Return the size asked for; else the largest all have, before it those of which all have an interval."""
    if not points:
        raise InvalidInputError("nothing to compare: no fit succeeded; see results.csv for the reasons")
    every = sorted({size for sizes in points.values() for size in sizes}, key=size_order)
    have = ", ".join(map(str, every))
    if asked is None:
        common = set.intersection(*(set(sizes) for sizes in points.values()))
        if not common:
            raise InvalidInputError(
                f"no number of samples per class is common to all {len(points)} curves; they have {have}. "
                "Say which with --samples, or name fewer runs"
            )
        sure = {
            size
            for size in common
            if all(sizes[size].interval(metric) is not None for sizes in points.values())
        }
        return max(sure or common, key=size_order)
    if asked not in every:
        raise InvalidInputError(f"{asked} samples per class were not fitted; there are {have}")
    notes += [
        f"{_spell(at, results)} is left out: it was not fitted at {asked} samples per class"
        for at, sizes in points.items()
        if asked not in sizes
    ]
    return asked


def _same_draws(results: Mapping[str, SweepResult], a: str, b: str, size: Size) -> set[int] | None:
    """Return the repeats in which two sweeps saw the same images; None for all, within one sweep."""
    if a == b:
        return None
    first, second = results[a].draws, results[b].draws
    if not first or not second or first["judged"] != second["judged"]:
        return set()
    drawn = (one["subsets"].get(f"{size}", []) for one in (first, second))
    return {repeat for repeat, (one, other) in enumerate(zip(*drawn, strict=False)) if one == other}


def _notes_on_draws(results: Mapping[str, SweepResult], best: str, others: set[str], size: Size) -> list[str]:
    notes = []
    for name in sorted(others - {best}):
        if _same_draws(results, best, name, size):
            continue
        lacking = [one for one in (best, name) if not results[one].draws]
        if lacking:
            why = f"{' and '.join(lacking)} did not record what was drawn (not finished, or an older version)"
        elif results[best].draws["judged"] != results[name].draws["judged"]:
            why = f"{name} is judged by other images than {best}"
        else:
            why = f"{name} drew other training images than {best} (another split or seed)"
        notes.append(f"no paired differences: {why}")
    return notes
