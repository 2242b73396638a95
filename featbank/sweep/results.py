"""What a sweep leaves behind: the fits, the curves they make together, and cuts and heads side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._registry import nearest
from featbank.errors import InvalidInputError
from featbank.manifest import as_frame, as_html
from featbank.metrics import Interval, paired_difference
from featbank.metrics.catalogue import bounds, less_is_better, spelling
from featbank.sampling import Size, size_order
from featbank.sweep.curves import (
    CurvePoint,
    IntervalKind,
    LearningCurve,
    check_metric,
    judged_by,
    main_metric,
    spell_key,
    spelled_metric,
    without_few_draws,
)
from featbank.sweep.records import COLUMNS, CURVE_METRICS, Fit, Key, fits_to_csv

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ComparedCurve", "Comparison", "SweepResult", "compare"]

#: An interval as narrow as this is one of repeats that are all alike, but for rounding.
_ALIKE = 1e-9
#: Fewer images to judge by are said; "all right" of so many that it means at least this share is no news.
_FEW, _SURE = 100, 0.99
#: What says which curve is best by a metric, without the rows the metric is of; ``val_top1`` for all others.
_SIBLINGS = {
    "top5": "val_top5",
    "train_top5": "val_top5",
    "best_top1": "best_val_top1",
    "final_top1": "final_val_top1",
}


@dataclass(eq=False)
class SweepResult:
    """Everything a sweep found.

    Parameters
    ----------
    fits : list of Fit
        By cut, head, size and repeat; those whose heads were kept have them.
    cuts : tuple of str
        Cuts in the order of depth, shallow first.
    classes : tuple of str
        Class names.
    notes : list of str
        What has to be known to read the figures: leaks, missing splits, fits that failed.
    n_rows : dict from str to int
        Labelled, readable rows of each split.
    draws : dict
        Digests of the rows of every subset and of those heads are judged by; equal digests are the same
        images in another bank, too. ``{"judged": ..., "subsets": {"<n_per_class>": [one per repeat]},
        "shares": {"<n_per_class>": part of the training images of a class, on average}}``; also ``folds``,
        how many there were; ``unit``, "groups" where these were drawn; ``val``, a digest of the rows that
        chose; ``grouped``, whether the bank has groups; ``held_out``, the part of each draw that chose.
    near_duplicates : dict
        What the search for near-identical images found; empty if nobody asked.
    untrained : dict
        Classes that only validation or test rows have: ``policy`` ("drop": those rows are left out, "keep":
        they count as wrong) and ``classes`` with their numbers of ``val`` and ``test`` rows; empty for none.
    judged_groups : tuple of ndarray of int
        Group of each row that is judged, an array for each fold; empty where the bank has no groups.

    Examples
    --------
    >>> from featbank.sweep import Fit
    >>> fits = [Fit("fc7", "ncm", None, n, repeat, 2 * n, 10, 0, top1=0.9 - 1 / n + repeat / 100)
    ...         for n in (4, 8) for repeat in range(3)]
    >>> result = SweepResult(fits)
    >>> [(one.n_per_class, round(one.mean("top1"), 2)) for one in result.points()]
    [(4, 0.66), (8, 0.79)]
    """

    fits: list[Fit] = field(default_factory=list)
    cuts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    n_rows: dict[str, int] = field(default_factory=dict)
    draws: dict[str, Any] = field(default_factory=dict)
    near_duplicates: dict[str, Any] = field(default_factory=dict)
    untrained: dict[str, Any] = field(default_factory=dict)
    judged_groups: tuple[NDArray[np.int32], ...] = ()

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"<SweepResult of {len(self.fits)} fits{failed}, {len(self.keys)} curves>"

    def _repr_html_(self) -> str:
        """Show the result in a notebook: the mean accuracy of each curve by size, and its notes."""
        return as_html(repr(self)[1:-1], *self.table(), *self.notes)

    def table(self) -> tuple[list[str], list[list[str]], str]:
        """Return the mean accuracy of each curve by size as text.

        Returns
        -------
        head : list of str
        rows : list of list of str
            One per curve, in the order they were made.
        caption : str
            What the figures are.
        """
        points = self.points()
        metric = main_metric(points)
        unit, factor, digits = spelling(metric)
        sizes = sorted({one.n_per_class for one in points}, key=size_order)
        lines: dict[Key, dict[Size, str]] = {}
        for one in points:
            mean = one.mean(metric)
            cell = "" if mean is None else f"{factor * mean:.{digits}f}"
            lines.setdefault(one.key, {})[one.n_per_class] = cell
        rows = [
            [cut if at is None else f"{cut} T={at:g}", name, *(cells.get(size, "") for size in sizes)]
            for (cut, name, at), cells in lines.items()
        ]
        counted = points[0].unit if points else "samples"
        caption = f"{spelled_metric(metric, points)}{unit} by {counted} per class"
        return ["cut", "head", *map(str, sizes)], rows, caption

    def to_frame(self) -> pd.DataFrame:
        """Return one line per fit as a pandas data frame, columns as in a run's ``results.csv``.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        return as_frame(self.rows())

    @property
    def heads(self) -> list[Fit]:
        """The fits whose heads were kept, by this process; none when read back from a run."""
        return [one for one in self.fits if one.estimator is not None]

    @property
    def failed(self) -> list[Fit]:
        """The fits that failed."""
        return [one for one in self.fits if one.status == "failed"]

    @property
    def keys(self) -> list[Key]:
        """The curves there are, in the order they were made."""
        return list(dict.fromkeys(one.key for one in self.fits))

    def resolution(self) -> list[str]:
        """Say how little the rows judged by can tell apart, where they are few.

        Returns
        -------
        list of str
            What one of fewer than 100 images is worth, and within what "all right" leaves the accuracy open
            where that begins below 99 %.

        Examples
        --------
        >>> fits = [Fit("fc7", "ncm", None, 4, 0, 8, 10, 0, top1=1.0)]
        >>> SweepResult(fits, n_rows={"train": 8, "test": 12}).resolution()[0]
        'only 12 test images: each is 8.33 points of accuracy'
        """
        found = []
        n, images, metric = self.n_rows.get("test", 0), "test images", "top1"
        if not n:
            n, images, metric = self.n_rows.get("val", 0), "validation images", "val_top1"
        if 0 < n < _FEW:
            found.append(f"only {n} {images}: each is {100 / n:.3g} points of accuracy")
        folds = self.draws.get("folds")
        judged: dict[Any, list[bool]] = {}
        for one in self.fits:  # the folds of a size judge each image once between them
            at = (one.key, one.n_per_class) if folds else one.id
            judged.setdefault(at, []).append(getattr(one, metric) == 1.0)
        perfect = sum(len(right) == (folds or 1) and all(right) for right in judged.values())
        of_groups, how = "", "exact 95 % interval"
        if self.judged_groups:
            units = _units(n, self.judged_groups)
            of_groups, how = f" of {units} groups", "95 % interval of so many groups"
        low = _least_of_all_right(n, self.judged_groups)
        if perfect and low < _SURE:
            fits, differ = ("curves' sizes", "folds") if folds else ("fits", "repeats")
            found.append(
                f"{perfect} of {len(judged)} {fits} got all {n} {images}{of_groups} right: so few bound the "
                f"accuracy to {100 * low:.3g} to 100 % only ({how}), however little the {differ} differ"
            )
        return found

    def curves(self) -> dict[Key, LearningCurve]:
        """Return the learning curve of each cut, head and temperature, in the order they were made."""
        fits: dict[Key, list[Fit]] = {}
        for one in self.fits:
            fits.setdefault(one.key, []).append(one)
        repeats = tuple(sorted({one.repeat for one in self.fits}))
        return {
            key: LearningCurve(tuple(members), self.n_rows, self.draws, repeats, self.judged_groups)
            for key, members in fits.items()
        }

    def curve(self, cut: str, head: str, temperature: float | None = None) -> LearningCurve:
        """Return one learning curve.

        Parameters
        ----------
        cut, head : str
        temperature : float, optional
            Of the softmax features.

        Raises
        ------
        InvalidInputError
            If nothing was fitted there.

        Examples
        --------
        >>> fits = [Fit("fc7", "softmax", None, 4, r, 8, 10, 0, top1=0.5 + 0.2 * r) for r in (0, 1)]
        >>> (point,) = SweepResult(fits).curve("fc7", "softmax").points()
        >>> point.n_repeats, round(point.mean("top1"), 2), point.mean("val_top1")
        (2, 0.6, None)
        """
        curves, key = self.curves(), (cut, head, temperature)
        if key not in curves:
            known = nearest(spell_key(key), [spell_key(one) for one in curves])
            raise InvalidInputError(f"no fit of {spell_key(key)!r}; there are {known}")
        return curves[key]

    def points(self, confidence: float = 0.95, *, interval: IntervalKind = "t") -> list[CurvePoint]:
        """Return the points of all curves; see `LearningCurve.points`."""
        return [
            point for curve in self.curves().values() for point in curve.points(confidence, interval=interval)
        ]

    @property
    def metrics(self) -> list[str]:
        """Names of the other scores that were asked for."""
        return list(dict.fromkeys(name for one in self.fits for name in one.metrics))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each fit as a dict of plain values, keys as `COLUMNS`, and its other scores."""
        for one in self.fits:
            yield {name: getattr(one, name) for name in COLUMNS} | dict(one.metrics)

    def to_csv(self) -> str:
        """Return the fits as CSV: a header, one line per fit, empty where a value is not known.

        Numbers are written so that reading them back gives the same bits.
        """
        return fits_to_csv(self.fits, metrics=self.metrics)


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
        three draws, and where all repeats are alike: of an accuracy of 1 they are the exact interval of so
        many test images.
    rank : float
        Mean of what the curves are ranked by, see `Comparison`.
    difference : Interval or None
        Mean and interval of this one minus the best, repeat by repeat on the same subsets; None for the best
        itself, and where the subsets are others. Its low and high are NaN for fewer than three draws, and
        where all repeats differ alike.
    n_paired : int
        Repeats the difference is taken over.
    fit_s, total_s : float
        Seconds of one fit at this size, on average; seconds of all fits of this cut and head.
    fewest_per_class, most_per_class : int or None
        Training samples of the class that has fewest and of the one that has most.
    unit, n_folds, n_val
        As of `featbank.sweep.CurvePoint`.

    Examples
    --------
    >>> from featbank.sweep import Fit
    >>> fits = [Fit("fc7", head, None, 4, repeat, 8, 10, 0, top1=top1 + repeat / 100, val_top1=top1)
    ...         for head, top1 in (("softmax", 0.5), ("mlp", 0.6)) for repeat in range(3)]
    >>> best, second = compare(SweepResult(fits)).curves
    >>> best.head, second.head, f"{second.difference.mean:+.2f}"
    ('mlp', 'softmax', '-0.10')
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
    unit: str = "samples"
    n_folds: int | None = None
    n_val: int | None = None

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
        Best first; equals in the order they were asked for.
    notes : tuple of str
        What has to be known to read it.

    Examples
    --------
    >>> from featbank.sweep import Fit
    >>> fits = [Fit("fc7", head, None, 4, 0, 8, 10, 0, top1=top1, val_top1=top1)
    ...         for head, top1 in (("softmax", 0.5), ("mlp", 0.6))]
    >>> comparison = compare(SweepResult(fits))
    >>> comparison, comparison.ranked_by, comparison.curves[0].head
    (<Comparison of 2 curves by top1 at 4>, 'val_top1', 'mlp')
    """

    metric: str
    ranked_by: str
    n_per_class: Size
    curves: tuple[ComparedCurve, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.curves)} curves by {self.metric} at {self.n_per_class}>"

    def _repr_html_(self) -> str:
        """Show the comparison in a notebook, best first."""
        rows = []
        unit, factor, digits = spelling(self.metric)
        of_one = 1 if len({one.run for one in self.curves}) == 1 else 0
        for one in self.curves:
            known = one.low is not None and one.high is not None
            mean, low, high = (
                f"{factor * (value or 0):.{digits}f}" for value in (one.mean, one.low, one.high)
            )
            less = "" if one.difference is None else f"{factor * one.difference.mean:+.{digits}f}"
            cut = one.cut if one.temperature is None else f"{one.cut} T={one.temperature:g}"
            between = f"{low} to {high}" if known else ""
            rows.append([one.run, cut, one.head, mean, between, less, f"{one.fit_s:.2g}"][of_one:])
        head = ["run", "cut", "head", self.metric, "interval", "minus the best", "seconds a fit"][of_one:]
        return as_html(repr(self)[1:-1], head, rows, f"{self.metric}{unit}", *self.notes)

    def to_frame(self) -> pd.DataFrame:
        """Return one line per curve as a pandas data frame, columns as the fields of `ComparedCurve`.

        ``difference`` is its mean; ``difference_low`` and ``difference_high`` are its interval.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        rows = []
        for one in self.curves:
            mean, low, high = one.difference or (None, None, None)
            rows.append(vars(one) | {"difference": mean, "difference_low": low, "difference_high": high})
        return as_frame(rows)


def compare(
    results: Mapping[str, SweepResult] | SweepResult,
    *,
    n_per_class: Size | None = None,
    metric: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare all cuts and heads of one or several sweeps at one size.

    Parameters
    ----------
    results : SweepResult or mapping of str to SweepResult
        One sweep, or several by name, such as ``{run.name: run.result() for run in runs}``. Those
        that drew the same images and are judged by the same ones are compared repeat by repeat, also where
        the features come from another backbone.
    n_per_class : int or "all", optional
        Samples per class; by default the largest that every curve has, with an interval if there is one.
    metric : str, optional
        One of `CURVE_METRICS`, or another score that was asked for, by default the first of these; else
        ``"top1"``, or ``"val_top1"`` where there are no test rows.
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
    >>> from featbank.sweep import Fit
    >>> fits = [Fit("fc7", head, None, 4, repeat, 8, 10, 0, top1=top1 + repeat / 10, val_top1=top1)
    ...         for head, top1 in (("softmax", 0.5), ("mlp", 0.6)) for repeat in (0, 1)]
    >>> comparison = compare(SweepResult(fits))
    >>> [(one.head, round(one.mean, 2)) for one in comparison.curves]
    [('mlp', 0.65), ('softmax', 0.55)]
    >>> round(comparison.curves[1].difference.mean, 2)
    -0.1
    """
    if not isinstance(results, Mapping):
        results = {"": results}
    curves = {(name, key): one for name, result in results.items() for key, one in result.curves().items()}
    everything = {at: one.points(confidence) for at, one in curves.items()}
    if metric is None:
        metric = main_metric(
            *(
                [point for at, points in everything.items() if at[0] == name for point in points]
                for name in results
            )
        )
    check_metric(metric, [name for result in results.values() for name in result.metrics])
    points = {
        at: {one.n_per_class: one for one in found if metric in one.scores}
        for at, found in everything.items()
    }
    without = [at for at, sizes in points.items() if not sizes]
    points = {at: sizes for at, sizes in points.items() if sizes}
    some = {name for name, _ in points}  # of a run that has none at all one line is enough
    left_out = dict.fromkeys(_spell(at, results) if at[0] in some or not some else at[0] for at in without)
    notes = [f"{one} is left out: none of its fits has {metric}" for one in left_out]
    size = _common_size(points, n_per_class, metric, results, notes)
    chosen = {at: sizes[size] for at, sizes in points.items() if size in sizes}
    ranked_by = _ranked_by(metric, list(chosen.values()), notes)
    rows = [
        _row(name, point, curves[name, key], metric, ranked_by, confidence)
        for (name, key), point in chosen.items()
    ]
    sign = 1 if less_is_better(ranked_by) else -1
    rows.sort(key=lambda row: sign * row.rank)  # equals as they were asked for: no stopwatch decides
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
            difference = paired_difference(*values, confidence, share=curve.share(size))
            difference = without_few_draws(difference, curve.n_draws(size, shared))
            difference = _told_of(difference, metric)
        paired.append(replace(row, difference=difference, n_paired=len(shared)))
    notes += _notes_on_draws(results, best.run, {row.run for row in rows}, size)
    return Comparison(metric, ranked_by, size, tuple(paired), tuple(notes))


def _ranked_by(metric: str, points: Sequence[CurvePoint], notes: list[str]) -> str:
    """Return the metric of the validation rows that says which of the curves is best."""
    sibling = (
        metric
        if metric.startswith(("val_", "best_val_", "final_val_"))
        else _SIBLINGS.get(metric, "val_top1" if metric in CURVE_METRICS else f"val_{metric}")
    )
    if any(sibling not in point.scores for point in points) and judged_by(points) == "val_top1":
        return metric  # of the validation rows, as they are judged by these
    if all(sibling in point.scores for point in points):
        return sibling
    notes.append(
        f"not every curve has {sibling}: the best is the best by {metric} itself, on the images it is "
        "reported for, which flatters it"
    )
    return metric


def _units(n: int, groups: Sequence[NDArray[Any]]) -> int:
    """Return how many rows are judged, or groups of them: images of one group are not independent."""
    return len(np.unique(np.concatenate(groups))) if groups else n


def _least_of_all_right(n: int, groups: Sequence[NDArray[Any]], error: float = 0.05) -> float:
    """Return where the exact interval of an accuracy begins, of rows that were all answered rightly.

    References
    ----------
    Clopper, Pearson: The use of confidence or fiducial limits, Biometrika 26, 1934; it has this closed form.
    """
    return float((error / 2) ** (1 / _units(n, groups))) if n else 1.0


def _told_of(difference: Interval, metric: str) -> Interval:
    """Return a difference whose interval is none where all repeats differ alike, and within what there is."""
    if difference.high - difference.low < _ALIKE:
        return Interval(difference.mean, float("nan"), float("nan"))
    least, most = bounds(metric)
    low, high = (float(np.clip(one, least - most, most - least)) for one in difference[1:])
    return Interval(difference.mean, low, high)


def _row(
    name: str, point: CurvePoint, curve: LearningCurve, metric: str, ranked_by: str, confidence: float
) -> ComparedCurve:
    times = [fit.duration_s for fit in curve.fits if fit.n_per_class == point.n_per_class]
    score = point.scores[metric]
    low, high = score.low, score.high
    if low is not None and high is not None and high - low < _ALIKE:
        # repeats that are all alike say nothing of their spread
        low = high = None
        if score.mean == 1 and metric in ("top1", "val_top1"):
            n = curve.n_rows.get("test" if metric == "top1" else "val", 0)
            low, high = _least_of_all_right(n, curve.judged_groups, 1 - confidence), 1.0
    return ComparedCurve(
        run=name,
        cut=point.cut,
        head=point.head,
        temperature=point.temperature,
        n_repeats=point.n_repeats or 0,
        n_failed=point.n_failed,
        n_draws=point.n_draws or 0,
        mean=score.mean,
        low=low,
        high=high,
        rank=point.scores[ranked_by].mean,
        difference=None,
        n_paired=0,
        fit_s=sum(times) / len(times),
        total_s=sum(fit.duration_s for fit in curve.fits),
        fewest_per_class=point.fewest_per_class,
        most_per_class=point.most_per_class,
        unit=point.unit,
        n_folds=point.n_folds,
        n_val=point.n_val,
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
    for name in sorted(others - {best}):
        notes += [f"{name} {what}" for what in _unlike(results[best], results[name], best)]
    return notes


def _unlike(first: SweepResult, second: SweepResult, best: str) -> list[str]:
    """Say what else than training and test images is not alike in a sweep and that of the best curve."""
    mine, theirs = first.draws, second.draws
    if not mine or not theirs:
        return []
    found = []
    if mine.get("unit") != theirs.get("unit"):
        units = [one.get("unit", "images") for one in (theirs, mine)]
        found.append(f"counts {units[0]} per class, {best} {units[1]}")
    if mine.get("folds") != theirs.get("folds"):
        how = [f"{one['folds']} folds" if one.get("folds") else "one split" for one in (theirs, mine)]
        found.append(f"is judged by {how[0]}, {best} by {how[1]}")
    if mine.get("held_out") != theirs.get("held_out"):
        parts = [f"{one['held_out']:g}" if one.get("held_out") else "nothing" for one in (theirs, mine)]
        found.append(f"holds {parts[0]} of each draw out to choose, {best} {parts[1]}")
    labels = [max((fit.n_val or 0 for fit in one.fits), default=0) for one in (second, first)]
    if mine.get("val") != theirs.get("val"):
        found.append(
            f"was chosen with {labels[0] or 'no'} validation labels, {best} with {labels[1] or 'none'}"
            if labels[0] != labels[1]
            else f"was chosen by other validation images than {best}"
        )
    return found
