"""What a sweep leaves behind: the fits, the curve they make together, and the heads worth keeping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank._registry import nearest
from featbank.errors import InvalidInputError
from featbank.manifest import short_repr
from featbank.metrics import Interval, PowerLaw, fit_power_law, paired_difference
from featbank.metrics.intervals import FEWEST_DRAWS
from featbank.sampling import Size
from featbank.sweep._points import count_draws, curve_point, uses_all, without_few_draws
from featbank.sweep.records import COLUMNS, CURVE_METRICS, FitResult, Key, fits_to_csv

__all__ = [
    "FitId",
    "Hits",
    "KeptHead",
    "Key",
    "Predictions",
    "SweepGroup",
    "SweepResult",
    "fit_id",
    "head_name",
]

#: Fewer images to judge by are said; "all right" of so many that it means at least this share is no news.
_FEW, _SURE = 100, 0.99

#: Which fit of a sweep: its curve, samples per class, repeat.
FitId = tuple[Key, Size, int]


def fit_id(fit: FitResult) -> FitId:
    """Return what tells a fit from all others of its sweep."""
    return fit.key, fit.n_per_class, fit.repeat


def head_name(fit: FitResult) -> str:
    """Return a name for the files of a fitted head, e.g. ``"fc7-softmax-n16-r0"``, ``"fc7-softmax-all-r0"``.

    Examples
    --------
    >>> head_name(FitResult("fc7", "logreg(C=0.1)", None, 16, 0, 48, 4096, 7))
    'fc7-logreg-C=0.1-n16-r0'
    """
    cut, head, temperature = fit.key
    at = "" if temperature is None else f"-T{temperature:g}"
    stem = f"{cut}{at}-{head.removesuffix(')').replace('(', '-')}"
    safe = "".join(char if char.isalnum() or char in "._@+-=" else "_" for char in stem)
    size = "all" if fit.n_per_class == "all" else f"n{fit.n_per_class}"
    return f"{safe}-{size}-r{fit.repeat}"


@dataclass(frozen=True, eq=False)
class Hits:
    """Which of the rows it is judged by a fit got right.

    Parameters
    ----------
    split : {"test", "val"}
        Which rows; validation only where the bank has no test rows.
    top1 : ndarray of bool, shape (n_rows,)
        Whether the answer was right, in the order of the manifest.
    top5 : ndarray of bool, shape (n_rows,), or None
        Whether the true class was among the five likeliest; None where a head knows no probabilities.
    """

    split: str
    top1: NDArray[np.bool_]
    top5: NDArray[np.bool_] | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a kept head answered on the rows it is judged by.

    Parameters
    ----------
    split : {"test", "val"}
        Which rows; validation only where the bank has no test rows.
    rows : ndarray of int64, shape (n_rows,)
        Row numbers in the bank's manifest.
    y_true, y_pred : ndarray of int64, shape (n_rows,)
        Indices into the bank's classes.
    p_true, p_pred : ndarray of float64, shape (n_rows,), or None
        Probability given to the true and to the predicted class; None where a head knows none.
    """

    split: str
    rows: NDArray[np.int64]
    y_true: NDArray[np.int64]
    y_pred: NDArray[np.int64]
    p_true: NDArray[np.float64] | None = None
    p_pred: NDArray[np.float64] | None = None

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class KeptHead:
    """A fitted head that is worth keeping, with the fit it comes from.

    Parameters
    ----------
    fit : FitResult
        Its record.
    estimator : object
        The fitted head; ``predict`` takes original features.
    history : dict from str to list of float
        Loss and accuracy per epoch; empty for heads that have no epochs.
    predictions : Predictions
        Its answers.
    """

    fit: FitResult
    estimator: Any
    history: dict[str, list[float]]
    predictions: Predictions

    __repr__ = short_repr

    @property
    def name(self) -> str:
        """A name for its files, e.g. ``"fc7-softmax-n16-r0"``."""
        return head_name(self.fit)


@dataclass(frozen=True, eq=False)
class SweepGroup:
    """Fits that were finished together: all repeats of one cut, head and size, or a single fit.

    Parameters
    ----------
    fits : list of FitResult
        Their records.
    kept : list of KeptHead
        Those of them that are worth keeping, as far as is known now.
    dropped : tuple of str
        Names of heads kept before that these replace.
    notes : tuple of str
        What the fits warned of.
    hits : mapping from FitId to Hits
        Right and wrong answers, of the fits that did not fail.
    n_total : int
        How many fits the whole sweep has.
    """

    fits: list[FitResult]
    kept: list[KeptHead]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hits: Mapping[FitId, Hits] = field(default_factory=dict)
    n_total: int = 0

    __repr__ = short_repr


@dataclass(eq=False)
class SweepResult:
    """Everything a sweep found.

    Parameters
    ----------
    fits : list of FitResult
        One per fit: by cut, head, size and repeat.
    cuts : tuple of str
        Cuts in the order of depth, shallow first.
    classes : tuple of str
        Class names.
    heads : list of KeptHead
        Kept heads that were fitted by this process; empty when read back from a run, see
        `featbank.runs.Run`.
    notes : list of str
        What has to be known to read the figures: leaks, missing splits, fits that failed.
    hits : dict from FitId to Hits
        Which rows each fit got right.
    n_rows : dict from str to int
        Labelled, readable rows of each split.
    draws : dict
        Digests of the rows of every subset and of those heads are judged by; equal digests are the same
        images in another bank, too. ``{"judged": ..., "subsets": {"<n_per_class>": [one per repeat]}}``.
    near_duplicates : dict
        What the search for near-identical images found; empty if nobody asked.
    untrained : dict
        Classes that only validation or test rows have: ``policy`` ("drop": those rows are left out, "keep":
        they count as wrong) and ``classes`` with their numbers of ``val`` and ``test`` rows; empty for none.
    """

    fits: list[FitResult] = field(default_factory=list)
    cuts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    heads: list[KeptHead] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hits: dict[FitId, Hits] = field(default_factory=dict)
    n_rows: dict[str, int] = field(default_factory=dict)
    draws: dict[str, Any] = field(default_factory=dict)
    near_duplicates: dict[str, Any] = field(default_factory=dict)
    untrained: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"<SweepResult of {len(self.fits)} fits{failed}, {len(self.keys)} curves>"

    @property
    def failed(self) -> list[FitResult]:
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
        >>> fits = [FitResult("fc7", "ncm", None, 4, 0, 8, 10, 0, top1=1.0)]
        >>> SweepResult(fits, n_rows={"train": 8, "test": 12}).resolution()[0]
        'only 12 test images: each is 8.33 points of accuracy'
        """
        found = []
        n, images, metric = self.n_rows.get("test", 0), "test images", "top1"
        if not n:
            n, images, metric = self.n_rows.get("val", 0), "validation images", "val_top1"
        if 0 < n < _FEW:
            found.append(f"only {n} {images}: each is {100 / n:.3g} points of accuracy")
        perfect = sum(getattr(one, metric) == 1.0 for one in self.fits)
        # Clopper and Pearson's interval has this closed form where all are right.
        low = 0.025 ** (1 / n) if n else 1.0
        if perfect and low < _SURE:
            found.append(
                f"{perfect} of {len(self.fits)} fits got all {n} {images} right: so few bound the accuracy "
                f"to {100 * low:.3g} to 100 % only (exact 95 % interval), however little the repeats differ"
            )
        return found

    def curve(
        self, confidence: float = 0.95, *, interval: Literal["t", "bootstrap"] = "t"
    ) -> list[dict[str, Any]]:
        """Return mean and interval over repeats for each cut, head, temperature and size.

        An interval over the repeats speaks of other draws of training samples, so it takes three different
        ones: where all samples are used there is one draw, however often it is repeated.

        Parameters
        ----------
        confidence : float, default=0.95
            Level of the intervals.
        interval : {"t", "bootstrap"}, default="t"
            "t": over the repeats, how far other training samples would have moved the mean. "bootstrap": over
            the rows judged by, how far another test set of this size would have; known of ``top1`` and
            ``top5`` on those rows only.

        Returns
        -------
        list of dict
            ``cut``, ``head``, ``temperature``, ``n_per_class``, ``n_repeats``, ``n_draws`` (how many of the
            repeats drew other samples), ``all_samples`` (whether these are all there are), ``n_failed``,
            ``fewest_per_class``, ``most_per_class`` and ``mean_per_class`` (training samples of a class), and
            for each of `CURVE_METRICS` its ``_mean``, ``_low``, ``_high``, ``_min`` and ``_max``, within
            [0, 1]: None where it is not known, low and high also of fewer than three draws. ``C_min``,
            ``C_max``, ``lr_min``, ``lr_max``: what the heads were fitted with. Failed fits are counted, and
            left out of the means; a size of which every fit failed has no point.

        Raises
        ------
        InvalidInputError
            If `interval` is neither, or "bootstrap" is asked of fits whose answers were not recorded.

        Examples
        --------
        >>> fits = [FitResult("fc7", "softmax", None, 4, r, 8, 10, 0, top1=0.5 + 0.2 * r) for r in (0, 1)]
        >>> (point,) = SweepResult(fits).curve()
        >>> point["n_repeats"], round(point["top1_mean"], 2), point["val_top1_mean"]
        (2, 0.6, None)
        """
        if interval not in ("t", "bootstrap"):
            raise InvalidInputError(f"interval={interval!r} is not one of 't', 'bootstrap'")
        groups: dict[tuple[Key, Size], list[FitResult]] = {}
        for one in self.fits:
            groups.setdefault((one.key, one.n_per_class), []).append(one)
        points = []
        for ((cut, head, temperature), size), members in groups.items():
            good = [one for one in members if one.status == "ok"]
            if not good:
                continue
            point: dict[str, Any] = {
                "cut": cut,
                "head": head,
                "temperature": temperature,
                "n_per_class": size,
                "n_repeats": len(good),
                "n_draws": count_draws(good, self.n_rows, self.draws),
                "all_samples": uses_all(good[0], self.n_rows),
                "n_failed": len(members) - len(good),
                "fewest_per_class": good[0].fewest_per_class,
                "most_per_class": good[0].most_per_class,
                "mean_per_class": good[0].mean_per_class,
            }
            right = self._right(good) if interval == "bootstrap" else {}
            points.append(point | curve_point(good, point["n_draws"], confidence, interval, right))
        return points

    def n_draws(self, key: Key, size: Size, repeats: Sequence[int]) -> int:
        """Return in how many of some repeats a curve drew other samples."""
        fits = [one for one in self.fits if one.key == key and one.n_per_class == size]
        return count_draws([one for one in fits if one.repeat in repeats] or fits, self.n_rows, self.draws)

    def _right(self, fits: Sequence[FitResult]) -> dict[str, NDArray[np.float64]]:
        """Return which rows fits got right, for the metrics of the rows they are judged by."""
        lacking = [one for one in fits if fit_id(one) not in self.hits]
        if lacking:
            raise InvalidInputError(
                f"the answers of {_spell(lacking[0].key)!r} were not recorded row by row, which "
                "interval='bootstrap' needs; fit again with this version"
            )
        of_fits = [self.hits[fit_id(one)] for one in fits]
        prefix = "" if of_fits[0].split == "test" else f"{of_fits[0].split}_"
        found = {}
        for name in ("top1", "top5"):
            right = [getattr(one, name) for one in of_fits]
            if all(one is not None for one in right):
                found[f"{prefix}{name}"] = np.array(right, dtype=np.float64)
        return found

    def by_repeat(self, key: Key, size: Size, metric: str) -> dict[int, float]:
        """Return what the fits of one curve and size reached, by repeat.

        One fit to all samples stands for every repeat: the others would have given the same.
        """
        fits = [one for one in self.fits if one.key == key and one.n_per_class == size]
        found = {one.repeat: getattr(one, metric) for one in fits if getattr(one, metric) is not None}
        if len(fits) == len(found) == 1 and uses_all(fits[0], self.n_rows):
            (value,) = found.values()
            return {one.repeat: value for one in self.fits} | found
        return found

    def _check(self, key: Key, metric: str) -> None:
        if metric not in CURVE_METRICS:
            raise InvalidInputError(f"metric={metric!r} is not one of {', '.join(CURVE_METRICS)}")
        if key not in self.keys:
            known = nearest(_spell(key), [_spell(one) for one in self.keys])
            raise InvalidInputError(f"no fit of {_spell(key)!r}; there are {known}")

    def difference(
        self, a: Key, b: Key, n_per_class: Size, *, metric: str = "top1", confidence: float = 0.95
    ) -> Interval:
        """Compare two curves at one size, repeat by repeat: both saw the same samples in each.

        Parameters
        ----------
        a, b : (cut, head, temperature)
            The curves; temperature None unless the cut is softmax.
        n_per_class : int or "all"
            The size.
        metric : str, default="top1"
            One of `CURVE_METRICS`.
        confidence : float, default=0.95
            Level of the interval.

        Returns
        -------
        Interval
            Of a minus b, over the repeats both have; low and high NaN where these are fewer than three
            different draws.

        Raises
        ------
        InvalidInputError
            If there is no such curve, or they share no repeat at this size.
        """
        self._check(a, metric)
        self._check(b, metric)
        first, second = (self.by_repeat(key, n_per_class, metric) for key in (a, b))
        shared = sorted(first.keys() & second.keys())
        if not shared:
            raise InvalidInputError(
                f"{_spell(a)!r} and {_spell(b)!r} share no repeat at {n_per_class} samples per "
                f"class that knows {metric}"
            )
        found = paired_difference([first[one] for one in shared], [second[one] for one in shared], confidence)
        return without_few_draws(found, self.n_draws(a, n_per_class, shared))

    def power_law(self, key: Key, *, metric: str = "top1", random_state: int = 0) -> PowerLaw:
        """Fit ``a - b * n**-c`` to one curve, to read what more labels would bring.

        "All" of uneven classes is no number of samples per class, and takes no part.

        Parameters
        ----------
        key : (cut, head, temperature)
            The curve.
        metric : str, default="top1"
            One of `CURVE_METRICS`.
        random_state : int, default=0
            Seed of the bootstrap.

        Returns
        -------
        PowerLaw
            Its band comes from the repeats that succeeded at every size, if there are at least three, else
            from how far the sizes lie off the law.

        Raises
        ------
        InvalidInputError
            If there is no such curve, or it has fewer than four sizes.
        """
        self._check(key, metric)
        sizes = sorted({one.n_per_class for one in self.fits if one.key == key and one.n_per_class != "all"})
        found = {size: self.by_repeat(key, size, metric) for size in sizes}
        found = {size: values for size, values in found.items() if values}
        shared = sorted(set.intersection(*(set(values) for values in found.values()))) if found else []
        if len(shared) >= FEWEST_DRAWS:
            acc: Any = [[values[one] for one in shared] for values in found.values()]
        else:
            acc = [float(np.mean(list(values.values()))) for values in found.values()]
        return fit_power_law(list(found), acc, random_state=random_state)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each fit as a dict of plain values, keys as `COLUMNS`."""
        for one in self.fits:
            yield {name: getattr(one, name) for name in COLUMNS}

    def to_csv(self) -> str:
        """Return the fits as CSV: a header, one line per fit, empty where a value is not known.

        Numbers are written so that reading them back gives the same bits.
        """
        return fits_to_csv(self.fits)


def _spell(key: Key) -> str:
    return "/".join(str(part) for part in key if part is not None)
