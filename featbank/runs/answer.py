"""The answer of a sweep in three sentences: the best head, how few labels do, what more would bring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import as_html, printable
from featbank.metrics import Interval, paired_difference
from featbank.metrics.catalogue import less_is_better, score_text, spelling
from featbank.metrics.learning_curve import FEWEST_DRAWS
from featbank.sampling import Size, size_order, size_words
from featbank.sweep import ComparedCurve, Comparison, CurvePoint, LearningCurve, SweepResult, compare
from featbank.sweep.curves import judged_rows, main_metric

__all__ = ["Answer", "answer_html", "answer_of", "ranked"]

#: So many points less than the best are as good as the best for most uses.
_NEAR = 0.02


@dataclass(frozen=True)
class Answer:
    """What a sweep found, in words; every number with its 95 % interval, or why it has none.

    The intervals are those for other training images; see `featbank.metrics.mean_interval`.

    Parameters
    ----------
    best : str
        Which head on which cut is how good, and how sure it is that it is the best.
    accuracy : str
        The figure in it, for those who want to print it bold.
    labels : str
        How few labels come within two points of it; empty where there is one size.
    doubling : str
        What twice as many labels would bring; empty where there is one size.

    Examples
    --------
    >>> import featbank
    >>> answer = featbank.answer_of(featbank.open_run().result())
    >>> print(answer.best)
    The ... head on ... recognises ... % of the ... test images at 16 samples per class ...
    >>> answer.accuracy in answer.best
    True
    """

    best: str
    accuracy: str
    labels: str = ""
    doubling: str = ""

    def __str__(self) -> str:
        return " ".join(one for one in (self.best, self.labels, self.doubling) if one)


def answer_of(result: SweepResult) -> Answer | None:
    """Say which cut and head is best, how many labels come near it, what the next doubling would bring.

    The best is chosen by validation accuracy, never by test accuracy unless nothing was validated, which is
    said.

    Parameters
    ----------
    result : SweepResult

    Returns
    -------
    Answer or None
        None if no fit succeeded, or none was scored on test or validation images.

    Examples
    --------
    >>> from featbank.sweep import Fit
    >>> fits = [Fit("fc7", "ncm", None, n, r, 2 * n, 10, 0, top1=0.9 - 0.4 / n + 0.01 * r)
    ...         for n in (4, 8, 16, 32) for r in range(3)]
    >>> answer = answer_of(SweepResult(fits, n_rows={"train": 90, "test": 50}))
    >>> answer.accuracy, answer.labels.partition(":")[0]
    ('89.8 %', '16 per class (32 in all) come within two points of that')
    """
    compared = ranked(result)
    if compared is None:
        return None
    best = compared.curves[0]
    curve = result.curves()[best.key]
    points = {one.n_per_class: one for one in curve.points() if compared.metric in one.scores}
    accuracy = score_text(best.mean, compared.metric)
    if less_is_better(compared.metric):  # of a loss there are no two points, and no law
        return Answer(_best(compared, best, points[compared.n_per_class], accuracy, result), accuracy)
    return Answer(
        _best(compared, best, points[compared.n_per_class], accuracy, result),
        accuracy,
        _labels(curve, points, compared),
        _doubling(curve, points, compared.metric),
    )


def ranked(result: SweepResult) -> Comparison | None:
    """Compare the curves of one sweep; the first is the best, wherever one is named.

    Parameters
    ----------
    result : SweepResult

    Returns
    -------
    Comparison or None
        At the largest size that all have, else the largest there is; None as for `answer_of`.

    Examples
    --------
    >>> import featbank
    >>> ranked(featbank.open_run().result()).curves[0].key
    ('block3_pool', 'logreg', None)
    """
    try:
        return compare(result)
    except InvalidInputError:
        metric = main_metric(result.points())
        sizes: list[Size] = [one.n_per_class for one in result.points() if metric in one.scores]
        return compare(result, n_per_class=sorted(sizes, key=size_order)[-1]) if sizes else None


def _spelled(one: ComparedCurve) -> str:
    at = "" if one.temperature is None else f" at T = {one.temperature:g}"
    return f"{printable(one.head)} head on {printable(one.cut)}{at}"


def _best(
    compared: Comparison, best: ComparedCurve, point: CurvePoint, accuracy: str, result: SweepResult
) -> str:
    named = judged_rows([point])
    split = "test" if named == "test" else "val"
    n_rows = f"{result.n_rows[split]:,} " if split in result.n_rows else ""
    text = f"The {_spelled(best)} recognises {accuracy} of the {n_rows}{named} images"
    if compared.metric not in ("top1", "val_top1"):
        text = f"The {_spelled(best)} comes to {compared.metric} {accuracy} on the {n_rows}{named} images"
    text += f" at {size_words(vars(point))}"
    if point.n_val:
        text += f" and {point.n_val:,} validation labels"
    tested = named == "test"  # what chose the head says nothing of other images
    if not tested:
        draws = "one draw" if best.n_draws < 2 else f"the mean of {best.n_draws} draws"
        text += f" ({draws}; nothing was tested, so no interval)"
    elif best.low is not None and best.high is not None:
        low = score_text(best.low, compared.metric).removesuffix(" %")
        between = f"{low} to {score_text(best.high, compared.metric)}"
        of, by = ("training and test", "folds") if best.n_folds else ("training", "draws")
        text += f" ({between} for other {of} images, by {best.n_draws} {by})"
    else:
        text += " (one draw, no interval)" if best.n_draws < 2 else f" ({best.n_draws} draws, no interval)"
    if len(compared.curves) == 1:
        return f"{text}."
    by = "the same images, which flatters it"
    if "val_" in compared.ranked_by:
        chosen = compared.ranked_by.removeprefix("val_")
        by = f"validation {'accuracy' if chosen == 'top1' else chosen}"
    text += f"; the best of {len(compared.curves)} curves by {by}"
    second = compared.curves[1]
    if second.difference is None:
        return f"{text}, before the {_spelled(second)}."
    apart = Interval(
        *(-one for one in (second.difference.mean, second.difference.high, second.difference.low))
    )
    alike = tested and math.isnan(apart.low) and min(second.n_draws, second.n_paired) >= FEWEST_DRAWS
    if not alike and (math.isnan(apart.low) or not tested):
        apart = Interval(apart.mean, math.nan, math.nan)
        return f"{text}, {_points(apart, compared.metric)} from the {_spelled(second)}."
    if alike and abs(apart.mean) < 1e-9:
        return f"{text}, not to be told from the {_spelled(second)}: both do exactly as well in every draw."
    above, below = (apart.mean > 0, apart.mean < 0) if alike else (apart.low > 0, apart.high < 0)
    if less_is_better(compared.metric):
        above, below = below, above
    sure = "ahead of" if above else "behind" if below else "not to be told from"
    by_draw = " in every draw" if alike else ""
    return f"{text}, {sure} the {_spelled(second)}: {_points(apart, compared.metric)}{by_draw}."


def _points(found: Interval, metric: str = "top1") -> str:
    """Return a difference in points of a share, or of a loss, with its interval."""
    unit, factor, digits = spelling(metric)
    # no "-0.0": what is rounded to nothing has no sign that means anything
    mean, low, high = (f"{round(factor * one, digits) + 0.0:+.{digits}f}" for one in found)
    between = "" if math.isnan(found.low) else f" ({low} to {high})"
    return f"{mean}{' points' if unit else ''}{between}"


def _of_both(curve: LearningCurve, first: Size, second: Size, metric: str) -> Interval:
    """Return one size minus another, repeat by repeat: subsets are nested, so the luck of a draw goes out."""
    scores, sizes = curve.scores(metric), list(curve.n_per_class)
    rows: NDArray[np.float64] = scores[[sizes.index(first), sizes.index(second)]]
    shared = rows[:, np.isfinite(rows).all(axis=0)]
    if (
        _is_tested(curve)
        and shared.shape[1]
        and min(curve.n_draws(first), curve.n_draws(second)) >= FEWEST_DRAWS
    ):
        return paired_difference(shared[0], shared[1], share=min(curve.share(first), curve.share(second)))
    means = [float(np.nanmean(row)) for row in rows]
    return Interval(means[0] - means[1], float("nan"), float("nan"))


def _is_tested(curve: LearningCurve) -> bool:
    return any(one.top1 is not None for one in curve.fits)


def _in_all(curve: LearningCurve, size: Size) -> str:
    """Say how many labels a size spends, those that validate aside."""
    fit = next(one for one in curve.fits if one.n_per_class == size)
    more = f", and {fit.n_val:,} to validate" if fit.n_val else ""
    return f"{fit.n_train:,} in all{more}"


def _labels(curve: LearningCurve, points: dict[Size, CurvePoint], compared: Comparison) -> str:
    """Say how few labels come within two points of what the most of them reach."""
    sizes = sorted(points, key=size_order)
    if len(sizes) < 2:
        return ""
    most, metric = sizes[-1], compared.metric
    near = next(
        size for size in sizes if points[size].scores[metric].mean >= points[most].scores[metric].mean - _NEAR
    )
    reached = f"{score_text(points[most].scores[metric].mean, metric)} at {size_words(vars(points[most]))}"
    of = "that" if most == compared.n_per_class else reached
    if near == most:
        before = sizes[-2]
        gap = _points(_of_both(curve, most, before, metric))
        return (
            f"Fewer labels do not come within two points of {of}: from {before} per class on it gained {gap}."
        )
    gap = _points(_of_both(curve, most, near, metric))
    return (
        f"{near} per class ({_in_all(curve, near)}) come within two points of {of}: the rest brought {gap}."
    )


def _doubling(curve: LearningCurve, points: dict[Size, CurvePoint], metric: str) -> str:
    """Say what twice as many labels would bring, by the law of the curve; else what the last ones brought."""
    sizes = [size for size in sorted(points, key=size_order) if size != "all"]
    if len(sizes) < 2:
        return ""
    try:
        law = curve.power_law(metric=metric)
    except InvalidInputError:  # fewer than four sizes
        last, before = sizes[-1], sizes[-2]
        gain = _of_both(curve, last, before, metric)
        return (
            f"From {before} to {last} per class it gained {_points(gain)}; to say what the next doubling "
            "would bring takes four sizes."
        )
    now, then = law.n_max, 2 * law.n_max
    _, b, c = law.samples.T
    low, high = np.quantile(b * (now**-c - then**-c), [0.025, 0.975])
    if not _is_tested(curve):
        low = high = math.nan
    gain = Interval(float(law.predict(then) - law.predict(now)), float(low), float(high))
    return f"Twice as many, {then:g} per class, would bring {_points(gain)} by the law of the curve."


def answer_html(title: str, result: SweepResult) -> str:
    """Return the answer and the mean accuracy of each curve by size as HTML, for a notebook; all escaped."""
    head, rows, caption = result.table()
    return as_html(title, head, rows, caption, above=str(answer_of(result) or "No fit succeeded."))
