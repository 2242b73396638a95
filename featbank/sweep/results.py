"""What a sweep leaves behind: the fits, the curve they make together, and the heads worth keeping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._registry import nearest
from featbank.errors import InvalidInputError
from featbank.manifest import short_repr
from featbank.sampling import Size
from featbank.sweep.curves import CurvePoint, IntervalKind, LearningCurve, spell_key
from featbank.sweep.records import COLUMNS, FitResult, Hits, Key, fits_to_csv

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

    def curves(self) -> dict[Key, LearningCurve]:
        """Return the learning curve of each cut, head and temperature, in the order they were made."""
        fits: dict[Key, list[FitResult]] = {}
        for one in self.fits:
            fits.setdefault(one.key, []).append(one)
        repeats = tuple(sorted({one.repeat for one in self.fits}))
        return {
            key: LearningCurve(tuple(members), self.n_rows, self.draws, self.hits, repeats)
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
        >>> fits = [FitResult("fc7", "softmax", None, 4, r, 8, 10, 0, top1=0.5 + 0.2 * r) for r in (0, 1)]
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

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each fit as a dict of plain values, keys as `COLUMNS`."""
        for one in self.fits:
            yield {name: getattr(one, name) for name in COLUMNS}

    def to_csv(self) -> str:
        """Return the fits as CSV: a header, one line per fit, empty where a value is not known.

        Numbers are written so that reading them back gives the same bits.
        """
        return fits_to_csv(self.fits)
