"""The learning curve: what one head reached on the features of one cut, by training samples per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import as_frame, as_html, short_repr
from featbank.metrics import (
    Interval,
    PowerLaw,
    bootstrap_interval,
    fit_power_law,
    mean_interval,
    paired_difference,
)
from featbank.metrics.catalogue import bounds, less_is_better, spelling
from featbank.metrics.learning_curve import FEWEST_DRAWS, share_of_folds
from featbank.sampling import Size, size_order
from featbank.sweep.records import CURVE_METRICS, Fit, Key

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CurvePoint",
    "IntervalKind",
    "LearningCurve",
    "Score",
    "check_metric",
    "interval_of",
    "judged_by",
    "judged_rows",
    "main_metric",
    "spell_key",
    "spelled_metric",
    "without_few_draws",
]

#: What an interval speaks of: "t" other training samples, "bootstrap" other test images.
IntervalKind = Literal["t", "bootstrap"]

N = TypeVar("N", int, float)

#: Parameters of which a point keeps the range its heads were fitted with.
_FITTED_WITH = ("C", "lr")


class HasFolds(Protocol):
    """What says whether its repeats are folds."""

    @property
    def n_folds(self) -> int | None:
        """How many."""


class Score(NamedTuple):
    """Mean of a score over the repeats, the ends of its interval (None: none), the least and the most.

    Examples
    --------
    >>> score = Score(0.76, low=0.74, high=0.78)
    >>> f"{score.mean:.0%}, {score.low:.0%} to {score.high:.0%}"
    '76%, 74% to 78%'
    """

    mean: float
    low: float | None = None
    high: float | None = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One size of a learning curve.

    Parameters
    ----------
    cut, head : str
        Where features were read, and what was trained on them.
    n_per_class : int or "all"
        Training samples per class; "all" where classes have more or fewer.
    scores : mapping of str to Score
        By metric, one of `CURVE_METRICS` or another that was asked for; one that is not known is not among
        them.
    temperature : float or None
        Temperature of the softmax features; None at any other cut.
    n_repeats, n_draws : int or None
        Fits that succeeded, and how many of them drew other samples; None if nobody knows.
    n_failed : int
        Fits that did not succeed.
    all_samples : bool
        Whether these are all training samples there are.
    fewest_per_class, most_per_class, mean_per_class : float or None
        Training samples of a class.
    ranges : mapping of str to (float, float)
        Least and most of ``C`` and ``lr`` that the heads were fitted with, where they have them.
    unit : {"samples", "groups"}
        What `n_per_class` counts.
    n_folds : int or None
        Where repeats are the folds of a cross-validation, how many these are.
    n_val : int or None
        Validation labels that were spent beside those of the draw.

    Examples
    --------
    >>> point = CurvePoint("fc7", "softmax", 16, {"top1": Score(0.76, 0.74, 0.78)}, n_repeats=5)
    >>> point.mean("top1"), point.interval("top1"), point.mean("top5")
    (0.76, (0.74, 0.78), None)
    """

    cut: str
    head: str
    n_per_class: Size
    scores: Mapping[str, Score]
    temperature: float | None = None
    n_repeats: int | None = None
    n_draws: int | None = None
    n_failed: int = 0
    all_samples: bool = False
    fewest_per_class: int | None = None
    most_per_class: int | None = None
    mean_per_class: float | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    unit: str = "samples"
    n_folds: int | None = None
    n_val: int | None = None

    __repr__ = short_repr

    @property
    def key(self) -> Key:
        """The curve this point belongs to."""
        return self.cut, self.head, self.temperature

    def is_of_size(self, n_per_class: Size) -> bool:
        """Say whether this is the point of a size; all of even classes are so many of each class as well."""
        return self.n_per_class == n_per_class or (n_per_class == "all" and self.all_samples)

    def mean(self, metric: str) -> float | None:
        """Return the mean of a score, None where it is not known."""
        return self.scores[metric].mean if metric in self.scores else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return low and high of a score's interval, None where there is none."""
        score = self.scores.get(metric)
        return None if score is None or score.low is None or score.high is None else (score.low, score.high)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CurvePoint:
        """Return the point that `to_dict` gave these values of; what is missing is not known.

        Where draws are not counted, each repeat drew others.

        Examples
        --------
        >>> point = CurvePoint.from_dict({"cut": "fc7", "head": "mlp", "n_per_class": 4, "top1_mean": 0.5})
        >>> point.mean("top1"), point.interval("top1"), point.n_draws
        (0.5, None, None)
        """
        scores = {
            metric: Score(mean, *(values.get(f"{metric}_{end}") for end in Score._fields[1:]))
            for metric in (*CURVE_METRICS, *(name.removesuffix("_mean") for name in values))
            if (mean := values.get(f"{metric}_mean")) is not None
        }
        ranges = {
            name: (values[f"{name}_min"], values[f"{name}_max"])
            for name in _FITTED_WITH
            if values.get(f"{name}_min") is not None
        }
        own = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        own.setdefault("n_draws", own.get("n_repeats"))
        return cls(**own, scores=scores, ranges=ranges)

    def to_dict(self) -> dict[str, Any]:
        """Return flat plain values, for JSON and tables.

        Returns
        -------
        dict
            What the point says of itself, and for each of `CURVE_METRICS` its ``_mean``, ``_low``, ``_high``,
            ``_min`` and ``_max``, for ``C`` and ``lr`` the last two: None where it is not known.
        """
        found = {name: value for name, value in vars(self).items() if name not in ("scores", "ranges")}
        for metric in dict.fromkeys((*CURVE_METRICS, *self.scores)):
            score = self.scores.get(metric)
            found |= {f"{metric}_{end}": score and getattr(score, end) for end in Score._fields}
        for name in _FITTED_WITH:
            found[f"{name}_min"], found[f"{name}_max"] = self.ranges.get(name, (None, None))
        return found


def interval_of(points: Iterable[HasFolds]) -> str:
    """Return what the interval over repeats is called wherever it stands."""
    folded = any(one.n_folds for one in points)
    return f"95 % interval for other training {'and test ' if folded else ''}images"


def judged_by(points: Iterable[CurvePoint]) -> str:
    """Return the accuracy that points are judged by: ``val_top1`` where none was scored on test images."""
    known = {metric for one in points for metric in one.scores}
    return "val_top1" if "val_top1" in known and "top1" not in known else "top1"


def main_metric(*sweeps: Iterable[CurvePoint]) -> str:
    """Return what points are shown and compared by: the first other score that was asked for, else accuracy.

    Where several sweeps have another one each, it is accuracy, which all have.

    Examples
    --------
    >>> scores = {"top1": Score(0.5), "macro_f1": Score(0.4), "val_macro_f1": Score(0.5)}
    >>> main_metric([CurvePoint("fc7", "mlp", 4, scores)])
    'macro_f1'
    """
    several = [points for one in sweeps if (points := list(one))]
    found = set()
    for points in several:
        others = [
            [name for name in one.scores if name not in CURVE_METRICS and not name.startswith("val_")]
            for one in points
        ]
        # a head without probabilities lacks some
        longest: list[str] = max(others, key=len)
        found.add(next(iter(longest), judged_by(points)))
    return found.pop() if len(found) == 1 else judged_by([one for points in several for one in points])


def spelled_metric(metric: str, points: Iterable[CurvePoint]) -> str:
    """Return what a score is called in a heading, such as "test accuracy" or "test macro_f1"."""
    named = "accuracy" if metric in ("top1", "val_top1") else metric
    return f"{judged_rows(points)} {named}"


def judged_rows(points: Iterable[CurvePoint]) -> str:
    """Say which images points are judged by, "test" or "validation"."""
    return "test" if judged_by(points) == "top1" else "validation"


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Scores of one head on one cut, by size and repeat; comes from `featbank.sweep.SweepResult.curves`.

    Parameters
    ----------
    fits : tuple of Fit
        Those of this curve, failed ones among them.
    n_rows : mapping of str to int
        Rows of each split.
    draws : mapping
        See `featbank.sweep.SweepResult`.
    repeats : tuple of int
        Numbers of all repeats of the sweep.
    judged_groups : tuple of ndarray
        See `featbank.sweep.SweepResult`.

    Examples
    --------
    >>> fits = [Fit("fc7", "softmax", None, 4, r, 8, 10, 0, top1=0.5 + 0.2 * r) for r in (0, 1)]
    >>> curve = LearningCurve(tuple(fits))
    >>> curve, curve.scores("top1").tolist(), curve.points()[0].mean("top1")
    (<LearningCurve fc7/softmax, 1 size, 2 repeats>, [[0.5, 0.7]], 0.6)
    """

    fits: tuple[Fit, ...]
    n_rows: Mapping[str, int] = field(default_factory=dict)
    draws: Mapping[str, Any] = field(default_factory=dict)
    repeats: tuple[int, ...] = ()
    judged_groups: tuple[NDArray[np.int32], ...] = ()

    def __repr__(self) -> str:
        many = (("size", len(self._by_size)), ("repeat", len(self._repeats)))
        counts = ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in many)
        return f"<LearningCurve {spell_key(self.key)}, {counts}>"

    def _repr_html_(self) -> str:
        """Show the curve in a notebook: mean and interval of each size."""
        points = self.points()
        metric = main_metric(points)
        unit, factor, digits = spelling(metric)
        sign = " %" if unit else ""
        rows = []
        for one in points:
            mean, between = one.mean(metric), one.interval(metric)
            low, high = (f"{factor * end:.{digits}f}" for end in between or (0.0, 0.0))
            rows.append(
                (
                    f"{one.n_per_class}",
                    "" if mean is None else f"{factor * mean:.{digits}f}{sign}",
                    "" if between is None else f"{low} to {high}{sign}",
                    f"{one.n_repeats}",
                )
            )
        counted = f"{points[0].unit if points else 'samples'} per class"
        head = (counted, spelled_metric(metric, points), "95 % interval", "repeats")
        return as_html(f"{self.head} on {spell_key((self.cut, '', self.temperature)).strip('/')}", head, rows)

    @property
    def key(self) -> Key:
        """Cut, head, and temperature (None unless the cut is softmax)."""
        return self.fits[0].key

    @property
    def cut(self) -> str:
        """Where features were read."""
        return self.fits[0].cut

    @property
    def head(self) -> str:
        """What was trained on them."""
        return self.fits[0].head

    @property
    def temperature(self) -> float | None:
        """Temperature of the softmax features; None at any other cut."""
        return self.fits[0].temperature

    @property
    def n_per_class(self) -> tuple[Size, ...]:
        """Sizes, ascending; those at which every fit failed among them."""
        return tuple(sorted(self._by_size, key=size_order))

    @cached_property
    def _by_size(self) -> dict[Size, list[Fit]]:
        found: dict[Size, list[Fit]] = {}
        for one in self.fits:
            found.setdefault(one.n_per_class, []).append(one)
        return found

    @cached_property
    def _repeats(self) -> list[int]:
        return sorted({one.repeat for one in self.fits})

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the other scores that were asked for."""
        return tuple(dict.fromkeys(name for one in self.fits for name in one.metrics))

    def scores(self, metric: str) -> NDArray[np.float64]:
        """Return one score of every fit.

        Parameters
        ----------
        metric : str
            One of `CURVE_METRICS`.

        Returns
        -------
        ndarray of float64, shape (n_sizes, n_repeats)
            NaN where there is no such fit, or it does not know this score.
        """
        check_metric(metric, self.metrics)
        rows = {size: row for row, size in enumerate(self.n_per_class)}
        columns = {repeat: column for column, repeat in enumerate(self._repeats)}
        found = np.full((len(rows), len(columns)), np.nan)
        for one in self.fits:
            value = one.score(metric)
            if value is not None:
                found[rows[one.n_per_class], columns[one.repeat]] = value
        return found

    def by_repeat(self, size: Size, metric: str) -> dict[int, float]:
        """Return what the fits of one size reached, by repeat.

        One fit to all samples stands for every repeat: the others would have given the same.
        """
        check_metric(metric, self.metrics)
        fits = self._by_size.get(size, [])
        found = {one.repeat: value for one in fits if (value := one.score(metric)) is not None}
        if len(fits) == len(found) == 1 and self._uses_all(fits[0]):
            (value,) = found.values()
            return dict.fromkeys(self.repeats, value) | found
        return found

    def n_draws(self, size: Size, repeats: Iterable[int] | None = None) -> int:
        """Return in how many repeats (all by default) other samples were drawn; 1 where all samples are used.

        Without a record of what was drawn each repeat drew others.
        """
        fits = self._by_size[size]
        if self._uses_all(fits[0]):
            return 1
        known = set(self._repeats if repeats is None else repeats) & {one.repeat for one in fits}
        digests = dict(enumerate(self.draws.get("subsets", {}).get(f"{size}", [])))
        return len({digests.get(one, one) for one in known or {fit.repeat for fit in fits}})

    def share(self, size: Size) -> float:
        """Return which part of the training images of a class a draw takes, on average over the classes.

        0 where nobody knows how many there are. See `featbank.metrics.mean_interval`. Of folds it is
        `featbank.metrics.share_of_folds`.
        """
        if self.n_folds:
            return share_of_folds(self.n_folds)
        recorded = self.draws.get("shares", {}).get(f"{size}")
        if recorded is not None:
            return float(recorded)
        pool = self.n_rows.get("train")
        return min(1.0, self._by_size[size][0].n_train / pool) if pool else 0.0

    @property
    def n_folds(self) -> int | None:
        """How many folds its repeats are; None where they are draws."""
        return self.draws.get("folds")

    def _uses_all(self, fit: Fit) -> bool:
        return not self.n_folds and self._takes_all(fit)

    def _takes_all(self, fit: Fit) -> bool:
        return fit.n_per_class == "all" or fit.n_train == self.n_rows.get("train")

    def points(self, confidence: float = 0.95, *, interval: IntervalKind = "t") -> list[CurvePoint]:
        """Return mean and interval over the repeats of each size.

        An interval over the repeats speaks of other draws of training samples, so it takes three different
        ones: where all samples are used there is one draw, however often it is repeated.

        Parameters
        ----------
        confidence : float, default=0.95
            Level of the intervals.
        interval : {"t", "bootstrap"}, default="t"
            "t": over the repeats, how far other training samples (another pool, not only other draws of this
            one) would have moved the mean on these test rows; of folds, other training and test rows.
            "bootstrap": over the rows judged by (or their groups, where the bank has such), how far another
            test set of this size would have; known of ``top1`` and ``top5`` on those rows only.

        Returns
        -------
        list of CurvePoint
            In the order of the fits. Failed fits are counted, and left out of the means; a size of which
            every fit failed has no point.

        Raises
        ------
        InvalidInputError
            If `interval` is neither, or "bootstrap" is asked of fits whose answers were not recorded.
        """
        if interval not in ("t", "bootstrap"):
            raise InvalidInputError(f"interval={interval!r} is not one of 't', 'bootstrap'")
        found = []
        for size, members in self._by_size.items():
            good = [one for one in members if one.status == "ok"]
            if not good:
                continue
            n_draws = self.n_draws(size, [one.repeat for one in good])
            right = self._right(good) if interval == "bootstrap" else None
            share = self.share(size)
            means = _known(one.mean_per_class for one in good)
            fewest, most = (
                _known(getattr(one, f"{name}_per_class") for one in good) for name in ("fewest", "most")
            )
            scores = {
                metric: _score(values, n_draws, confidence, share, right, metric)
                for metric in (*CURVE_METRICS, *self.metrics)
                if (values := _known(one.score(metric) for one in good))
            }
            chosen = {
                name: values
                for name in _FITTED_WITH
                if (values := _known(getattr(one, name) for one in good))
            }
            found.append(
                CurvePoint(
                    self.cut,
                    self.head,
                    size,
                    scores,
                    self.temperature,
                    n_repeats=len(good),
                    n_draws=n_draws,
                    n_failed=len(members) - len(good),
                    all_samples=self._takes_all(good[0]),
                    fewest_per_class=min(fewest, default=None),
                    most_per_class=max(most, default=None),
                    mean_per_class=float(np.mean(means)) if means else None,
                    ranges={name: (min(values), max(values)) for name, values in chosen.items()},
                    unit=self.draws.get("unit", "samples"),
                    n_folds=self.n_folds,
                    n_val=good[0].n_val,
                )
            )
        return found

    def _right(self, fits: Sequence[Fit]) -> dict[str, tuple[NDArray[np.float64], NDArray[Any] | None]]:
        """Return which rows fits got right, and their groups, for the metrics of rows they are judged by."""
        of_fits = [one.hits for one in fits]
        known = [one for one in of_fits if one is not None]
        if len(known) < len(of_fits):
            raise InvalidInputError(
                f"the answers of {spell_key(self.key)!r} were not recorded row by row, which "
                "interval='bootstrap' needs; fit again with this version"
            )
        groups: NDArray[Any] | None = None
        if self.judged_groups and self.n_folds:
            groups = np.concatenate([self.judged_groups[one.repeat] for one in fits])
        elif self.judged_groups:
            groups = self.judged_groups[0]
        prefix = "" if known[0].split == "test" else f"{known[0].split}_"
        found = {}
        for name in ("top1", "top5"):
            right = [getattr(one, name) for one in known]
            if all(one is not None for one in right):
                # each fold has rows of its own, which are judged once
                rows = np.concatenate(right) if self.n_folds else np.array(right)
                found[f"{prefix}{name}"] = rows.astype(np.float64), groups
        return found

    def difference(
        self, other: LearningCurve, n_per_class: Size, *, metric: str = "top1", confidence: float = 0.95
    ) -> Interval:
        """Compare with another curve at one size, repeat by repeat: both saw the same samples in each.

        Parameters
        ----------
        other : LearningCurve
            Of the same sweep.
        n_per_class : int or "all"
            The size.
        metric : str, default="top1"
            One of `CURVE_METRICS`.
        confidence : float, default=0.95
            Level of the interval.

        Returns
        -------
        Interval
            Of this minus the other, over the repeats both have; low and high NaN where these are fewer than
            three different draws.

        Raises
        ------
        InvalidInputError
            If they share no repeat at this size.
        """
        first, second = (one.by_repeat(n_per_class, metric) for one in (self, other))
        shared = sorted(first.keys() & second.keys())
        if not shared:
            raise InvalidInputError(
                f"{spell_key(self.key)!r} and {spell_key(other.key)!r} share no repeat at {n_per_class} "
                f"samples per class that knows {metric}"
            )
        values = [first[one] for one in shared], [second[one] for one in shared]
        found = paired_difference(*values, confidence, share=self.share(n_per_class))
        return without_few_draws(found, self.n_draws(n_per_class, shared))

    def power_law(self, *, metric: str = "top1", random_state: int = 0) -> PowerLaw:
        """Fit ``a - b * n**-c``, to read what more labels would bring.

        "All" of uneven classes is no number of samples per class, and takes no part.

        Parameters
        ----------
        metric : str, default="top1"
            One of `CURVE_METRICS`.
        random_state : int, default=0
            Seed of the bootstrap.

        Returns
        -------
        PowerLaw
            Its band comes from the repeats that succeeded at every size, if there are at least three, and
            speaks of other training samples as the intervals of `points` do; else from how far the sizes lie
            off the law.

        Raises
        ------
        InvalidInputError
            If it has fewer than four sizes, or less is better of the metric, as of losses and ``"ece"``.
        """
        if less_is_better(metric):
            raise InvalidInputError(
                f"metric={metric!r} falls as samples grow, and the law is of what rises; take an accuracy, "
                "such as 'top1'"
            )
        found = {size: self.by_repeat(size, metric) for size in self.n_per_class if size != "all"}
        found = {size: values for size, values in found.items() if values}
        shared = sorted(set.intersection(*(set(values) for values in found.values()))) if found else []
        if len(shared) >= FEWEST_DRAWS:
            acc: Any = [[values[one] for one in shared] for values in found.values()]
        else:
            acc = [float(np.mean(list(values.values()))) for values in found.values()]
        shares = [self.share(size) for size in found]
        return fit_power_law(
            list(found), acc, shares=shares, least=bounds(metric)[0], random_state=random_state
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one line per size as a pandas data frame, columns as `CurvePoint.to_dict`.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        return as_frame(one.to_dict() for one in self.points())


def check_metric(metric: str, others: Iterable[str] = ()) -> None:
    """Raise `InvalidInputError` unless there are curves of `metric`; `others` were asked for."""
    known = (*CURVE_METRICS, *others)
    if metric not in known:
        raise InvalidInputError(f"metric={metric!r} is not one of {', '.join(known)}")


def spell_key(key: Key) -> str:
    """Return the name of a curve for messages, e.g. ``"fc7/softmax"``."""
    return "/".join(str(part) for part in key if part is not None)


def without_few_draws(found: Interval, n_draws: int) -> Interval:
    """Leave the mean alone where draws are too few for an interval over them.

    Repeats of one draw differ by the heads' random start only, which is not what the interval speaks of.
    """
    return found if n_draws >= FEWEST_DRAWS else Interval(found.mean, float("nan"), float("nan"))


def _known(values: Iterable[N | None]) -> list[N]:
    return [one for one in values if one is not None]


def _score(
    values: Sequence[float],
    n_draws: int,
    confidence: float,
    share: float,
    right: Mapping[str, tuple[NDArray[np.float64], NDArray[Any] | None]] | None,
    metric: str,
) -> Score:
    if right is None:
        found = without_few_draws(mean_interval(values, confidence, share=share), n_draws)
    elif metric in right:
        rows, groups = right[metric]
        found = bootstrap_interval(rows, confidence, groups=groups)
    else:
        found = Interval(float(np.mean(values)), float("nan"), float("nan"))
    # an interval of few repeats may reach beyond what there is
    least, most = bounds(metric)
    low, high = (None if np.isnan(one) else min(max(one, least), most) for one in (found.low, found.high))
    return Score(min(max(found.mean, least), most), low, high, min(values), max(values))
