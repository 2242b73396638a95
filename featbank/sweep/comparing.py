"""Cuts and heads side by side, best first, with paired differences to the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featbank.errors import InvalidInputError
from featbank.metrics import Interval, paired_difference
from featbank.sweep._points import count_draws, without_few_draws
from featbank.sweep.records import CURVE_METRICS, FitResult, Key
from featbank.sweep.results import SweepResult

__all__ = ["ComparedCurve", "Comparison", "compare"]


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
    mean, low, high : float
        Mean of the metric over repeats and its interval, within [0, 1]; low and high None for fewer than
        three draws.
    difference : Interval or None
        Mean and interval of this one minus the best, repeat by repeat on the same subsets; None for the best
        itself, and where the subsets are others. Its low and high are NaN for fewer than three draws.
    n_paired : int
        Repeats the difference is taken over.
    fit_s, total_s : float
        Seconds of one fit at this size, on average; seconds of all fits of this cut and head.
    """

    run: str
    cut: str
    head: str
    temperature: float | None
    n_repeats: int
    n_failed: int
    mean: float
    low: float | None
    high: float | None
    difference: Interval | None
    n_paired: int
    fit_s: float
    total_s: float


@dataclass(frozen=True)
class Comparison:
    """Curves, best first.

    Parameters
    ----------
    metric : str
        One of `CURVE_METRICS`.
    n_per_class : int or float
        Samples per class they are compared at.
    curves : tuple of ComparedCurve
        Largest mean first (smallest for calibration errors); of equals the cheaper fit.
    notes : tuple of str
        What has to be known to read it.
    """

    metric: str
    n_per_class: float
    curves: tuple[ComparedCurve, ...]
    notes: tuple[str, ...]


def compare(
    results: Mapping[str, SweepResult],
    *,
    n_per_class: float | None = None,
    metric: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare all cuts and heads of one or several sweeps at one size.

    Parameters
    ----------
    results : mapping of str to SweepResult
        Sweeps by name. Those that drew the same images and are judged by the same ones are compared repeat
        by repeat, also where the features come from another backbone.
    n_per_class : int or float, optional
        Samples per class; by default the largest that every curve has.
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
    >>> fits = [FitResult("fc7", head, None, 4, repeat, 8, 10, 0, top1=top1 + repeat / 10)
    ...         for head, top1 in (("softmax", 0.5), ("mlp", 0.6)) for repeat in (0, 1)]
    >>> comparison = compare({"a run": SweepResult(fits)})
    >>> [(one.head, round(one.mean, 2)) for one in comparison.curves]
    [('mlp', 0.65), ('softmax', 0.55)]
    >>> round(comparison.curves[1].difference.mean, 2)
    -0.1
    """
    curves: dict[tuple[str, Key], list[FitResult]] = {}
    for name, result in results.items():
        for fit in result.fits:
            curves.setdefault((name, fit.key), []).append(fit)
    if metric is None:
        tested = any(fit.top1 is not None for fits in curves.values() for fit in fits)
        metric = "top1" if tested else "val_top1"
    if metric not in CURVE_METRICS:
        raise InvalidInputError(f"metric={metric!r} is not one of {', '.join(CURVE_METRICS)}")
    scored = {
        at: {
            size: {
                fit.repeat: float(getattr(fit, metric))
                for fit in fits
                if fit.n_per_class == size and getattr(fit, metric) is not None
            }
            for size in sorted({fit.n_per_class for fit in fits})
        }
        for at, fits in curves.items()
    }
    notes = [
        f"{_spell(at, results)} is left out: none of its fits has {metric}"
        for at, sizes in scored.items()
        if not any(sizes.values())
    ]
    scored = {at: {n: one for n, one in sizes.items() if one} for at, sizes in scored.items()}
    scored = {at: sizes for at, sizes in scored.items() if sizes}
    size = _common_size(scored, n_per_class, results, notes)
    scored = {at: sizes for at, sizes in scored.items() if size in sizes}
    rows = [_row(name, key, results[name], size, metric, confidence) for name, key in scored]
    sign = 1 if metric.startswith("ece") else -1
    rows.sort(key=lambda row: (sign * row.mean, row.fit_s))
    best = rows[0]
    first = scored[best.run, (best.cut, best.head, best.temperature)][size]
    paired = [rows[0]]
    for row in rows[1:]:
        repeats = _same_draws(results, best.run, row.run, size)
        mine = scored[row.run, (row.cut, row.head, row.temperature)][size]
        shared = [one for one in sorted(first.keys() & mine.keys()) if repeats is None or one in repeats]
        difference = None
        if shared:
            values = [mine[one] for one in shared], [first[one] for one in shared]
            fits = [
                fit
                for fit in results[row.run].fits
                if fit.key == (row.cut, row.head, row.temperature)
                and fit.n_per_class == size
                and fit.repeat in shared
            ]
            n_draws = count_draws(fits, results[row.run].n_rows, results[row.run].draws)
            difference = without_few_draws(paired_difference(*values, confidence), n_draws)
        paired.append(ComparedCurve(**{**vars(row), "difference": difference, "n_paired": len(shared)}))
    notes += _notes_on_draws(results, best.run, {row.run for row in rows}, size)
    return Comparison(metric, size, tuple(paired), tuple(notes))


def _row(
    name: str, key: Key, result: SweepResult, size: float, metric: str, confidence: float
) -> ComparedCurve:
    mine = SweepResult(
        [fit for fit in result.fits if fit.key == key], n_rows=result.n_rows, draws=result.draws
    )
    (point,) = [one for one in mine.curve(confidence) if one["n_per_class"] == size]
    times = [fit.duration_s for fit in mine.fits if fit.n_per_class == size]
    cut, head, temperature = key
    return ComparedCurve(
        run=name,
        cut=cut,
        head=head,
        temperature=temperature,
        n_repeats=point["n_repeats"],
        n_failed=point["n_failed"],
        mean=point[f"{metric}_mean"],
        low=point[f"{metric}_low"],
        high=point[f"{metric}_high"],
        difference=None,
        n_paired=0,
        fit_s=sum(times) / len(times),
        total_s=sum(fit.duration_s for fit in mine.fits),
    )


def _spell(at: tuple[str, Key], results: Mapping[str, SweepResult]) -> str:
    name, (cut, head, temperature) = at
    heat = "" if temperature is None else f" at T={temperature:g}"
    return f"{head} on {cut}{heat}{f' of {name}' if len(results) > 1 else ''}"


def _common_size(
    scored: Mapping[tuple[str, Key], Mapping[float, object]],
    asked: float | None,
    results: Mapping[str, SweepResult],
    notes: list[str],
) -> float:
    if not scored:
        raise InvalidInputError("nothing to compare: no fit succeeded; see results.csv for the reasons")
    every = sorted({size for sizes in scored.values() for size in sizes})
    if asked is None:
        common = set.intersection(*(set(sizes) for sizes in scored.values()))
        if not common:
            have = ", ".join(f"{size:g}" for size in every)
            raise InvalidInputError(
                f"no number of samples per class is common to all {len(scored)} curves; they have {have}. "
                "Say which with --samples, or name fewer runs"
            )
        return max(common)
    if asked not in every:
        have = ", ".join(f"{size:g}" for size in every)
        raise InvalidInputError(f"{asked:g} samples per class were not fitted; there are {have}")
    notes += [
        f"{_spell(at, results)} is left out: it was not fitted at {asked:g} samples per class"
        for at, sizes in scored.items()
        if asked not in sizes
    ]
    return asked


def _same_draws(results: Mapping[str, SweepResult], a: str, b: str, size: float) -> set[int] | None:
    """Return the repeats in which two sweeps saw the same images; None for all, within one sweep."""
    if a == b:
        return None
    first, second = results[a].draws, results[b].draws
    if not first or not second or first["judged"] != second["judged"]:
        return set()
    drawn = (one["subsets"].get(f"{size:g}", []) for one in (first, second))
    return {repeat for repeat, (one, other) in enumerate(zip(*drawn, strict=False)) if one == other}


def _notes_on_draws(
    results: Mapping[str, SweepResult], best: str, others: set[str], size: float
) -> list[str]:
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
