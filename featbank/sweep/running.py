"""Running a sweep: read each cut once, fit everything asked for, score it on rows that never train."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank import datasets
from featbank._registry import nearest
from featbank.errors import InvalidInputError, LeakWarning, UnknownNameError
from featbank.manifest import Manifest, printable
from featbank.sampling import Size, draw_nested, parse_sizes
from featbank.sweep._fitting import Candidate, Plan, SplitRows, fit_group, make_candidates
from featbank.sweep.results import SweepGroup, SweepResult

__all__ = ["FeatureSource", "run_sweep"]

logger = logging.getLogger(__name__)

SOFTMAX, LOGITS = "softmax", "logits"


class FeatureSource(Protocol):
    """What a sweep needs of a bank."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the complete cuts."""

    @property
    def manifest(self) -> Manifest:
        """The rows."""

    def features(self, cut: str, rows: Any = None, dtype: Any = np.float32) -> NDArray[Any]:
        """Return rows of a cut, shape (n_rows, n_features)."""

    def softmax(self, temperature: float, rows: Any = None) -> NDArray[np.float32]:
        """Return softmax(logits / temperature), shape (n_rows, n_classes)."""


def run_sweep(
    bank: FeatureSource,
    *,
    cuts: Sequence[str] | None = None,
    heads: Sequence[Any] = ("softmax",),
    samples_per_class: str | int | Sequence[Size] = "4..32",
    repeats: int = 5,
    temperatures: Sequence[float] | None = None,
    random_state: int = 0,
    head_params: Mapping[str, Mapping[str, Any]] | None = None,
    save_heads: Literal["best", "all", "none"] = "best",
    n_jobs: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    on_result: Callable[[SweepGroup], None] | None = None,
) -> SweepResult:
    """Fit heads on cuts of a bank for growing numbers of samples per class.

    Each cut is read once. Subsets are drawn from the training rows, nested, class-balanced and seeded, and
    are the same for every cut and head, so that these can be compared repeat by repeat. Validation rows
    decide when training stops and which head is kept; test rows are only scored. Neither ever trains, and
    both are the same for every fit. Rows of no split, without a label, or whose image could not be read are
    not used. Features are standardised once per cut, by the statistics of the whole training split.

    Parameters
    ----------
    bank : featbank.banks.Bank
        Where features come from.
    cuts : sequence of str, optional
        Which cuts; all complete ones by default. ``"softmax"`` is derived from the stored logits.
    heads : sequence of str, estimator, or (str, estimator), default=("softmax",)
        Names as in `featbank.heads.names`; or objects with ``fit(X, y)`` and ``predict(X)``, which get the
        flattened features as they are, on a copy per fit.
    samples_per_class : str, int, or sequence of int or "all", default="4..32"
        See `featbank.sampling.parse_sizes`.
    repeats : int, default=5
        Draws per size.
    temperatures : sequence of float, optional
        Temperatures the cut ``"softmax"`` is read at, each over 0; 1 by default.
    random_state : int, default=0
        Seed of the draws and of the heads.
    head_params : mapping from head name to mapping, optional
        Parameters for `featbank.heads.make`, e.g. ``{"mlp": {"hidden_units": 200}}``.
    save_heads : {"best", "all", "none"}, default="best"
        Fitted heads to keep: for each curve the best by validation accuracy at its largest size (without
        validation rows that of the first repeat; never by test accuracy), all, or none.
    n_jobs : int, optional
        Threads that fit estimators given as objects, one by one; featbank's own heads are trained together.
    progress : callable, optional
        Called as ``progress(fits done, fits in all, what comes next)``.
    on_result : callable, optional
        Called with a `SweepGroup` as soon as a cut, head and temperature is finished.

    Returns
    -------
    SweepResult
        A failed fit is a record with a message, and no part of the curve.

    Raises
    ------
    InvalidInputError
        If a class has too few training samples, there are no training rows or none to score on, or an
        argument is out of range.
    UnknownNameError
        If a cut or head is not known.

    Warns
    -----
    LeakWarning
        If validation or test images are byte for byte training images.
    FitWarning
        If heads have not learned.

    Examples
    --------
    >>> result = run_sweep(bank, cuts=["fc7"], heads=["softmax", "mlp"])  # doctest: +SKIP
    >>> result.curve()[0]["top1_mean"]  # doctest: +SKIP
    0.755
    """
    if save_heads not in ("best", "all", "none"):
        raise InvalidInputError(f"save_heads={save_heads!r} is not one of 'best', 'all', 'none'")
    chosen = _choose_cuts(bank, cuts, temperatures)
    candidates = make_candidates(heads, head_params or {})
    manifest = bank.manifest
    split = {name: _labelled(manifest, name) for name in ("train", "val", "test")}
    notes = _check_splits(split)
    plans = _plan(manifest, split, _sizes(samples_per_class), repeats, random_state)
    notes += _leaks(manifest)

    result = SweepResult(
        cuts=tuple(dict.fromkeys(cut for cut, _ in chosen)), classes=manifest.classes, notes=notes
    )
    total = len(chosen) * len(candidates) * len(plans)
    for cut, temperature in chosen:
        rows = SplitRows(
            features={name: _read(bank, cut, temperature, at) for name, at in split.items() if len(at)},
            labels={name: manifest.labels[at].astype(np.int64) for name, at in split.items()},
            rows=split,
        )
        for candidate in candidates:
            _tell(progress, len(result.fits), total, cut, temperature, candidate)
            group = fit_group(
                candidate, rows, plans, cut, temperature, keep=save_heads, n_jobs=n_jobs, notes=notes
            )
            result.fits.extend(group.fits)
            result.heads.extend(group.kept)
            if on_result is not None:
                on_result(group)
    if progress is not None:
        progress(total, total, "")
    if result.failed:
        notes.append(f"{len(result.failed)} of {total} fits failed: {result.failed[0].message}")
    return result


def _tell(
    progress: Callable[[int, int, str], None] | None,
    done: int,
    total: int,
    cut: str,
    temperature: float | None,
    candidate: Candidate,
) -> None:
    what = f"{cut}{'' if temperature is None else f' at T={temperature:g}'}, {candidate.name}"
    logger.debug("fitting %s (%d of %d fits done)", what, done, total)
    if progress is not None:
        progress(done, total, what)


def _choose_cuts(
    bank: FeatureSource, cuts: Sequence[str] | None, temperatures: Sequence[float] | None
) -> list[tuple[str, float | None]]:
    known = list(bank.cuts)
    asked = list(dict.fromkeys(known if cuts is None else cuts))
    for cut in asked:
        needed = LOGITS if cut == SOFTMAX else cut
        if needed not in known:
            because = " (softmax is derived from logits)" if cut == SOFTMAX else ""
            raise UnknownNameError(f"the bank has no cut {needed!r}{because}; it has {nearest(cut, known)}")
    if not asked:
        raise InvalidInputError(
            "the bank has no complete cut; extract one first, e.g. featbank extract --cut fc7"
        )
    if temperatures is not None and SOFTMAX not in asked:
        raise InvalidInputError(
            f"temperatures={list(temperatures)!r} are for the cut 'softmax', "
            f"got {', '.join(map(repr, asked))}; add --cut softmax"
        )
    values = [1.0] if temperatures is None else [float(one) for one in dict.fromkeys(temperatures)]
    wrong = [one for one in values if not 0 < one < float("inf")]
    if wrong or not values:
        raise InvalidInputError(f"temperature={wrong[0] if wrong else None!r} must be a finite number over 0")
    chosen: list[tuple[str, float | None]] = []
    for cut in by_depth(bank, asked):
        chosen += [(cut, one) for one in values] if cut == SOFTMAX else [(cut, None)]
    return chosen


def by_depth(bank: FeatureSource, cuts: Sequence[str]) -> list[str]:
    """Return `cuts` from shallow to deep by the backbone's cut table; others come last, as given."""
    from featbank import backbones

    key = getattr(bank, "key", None)
    if key is None:
        return list(cuts)
    try:
        order = [cut.name for cut in backbones.get_spec(key.backbone).cuts]
    except UnknownNameError:  # a bank of a backbone this version has not got
        return list(cuts)

    def depth(cut: str) -> int:
        base = cut.partition("@")[0]  # block4_pool@hflip is a view of block4_pool
        if base == SOFTMAX:
            return len(order)
        return order.index(base) if base in order else len(order) + 1

    return sorted(cuts, key=depth)


def _sizes(asked: str | int | Sequence[Size]) -> list[Size]:
    if isinstance(asked, str):
        return parse_sizes(asked)
    return parse_sizes(str(asked) if isinstance(asked, int) else ",".join(str(one) for one in asked))


def _labelled(manifest: Manifest, split: str) -> NDArray[np.int64]:
    rows = manifest.rows(split)
    return rows[manifest.labels[rows] >= 0]


def _check_splits(split: Mapping[str, NDArray[np.int64]]) -> list[str]:
    if not len(split["train"]):
        raise InvalidInputError(
            "the bank has no labelled training rows; extract again with --split, e.g. 0.7,0.1,0.2"
        )
    notes = []
    if not len(split["val"]):
        notes.append(
            "no validation rows: training stopped by the training loss, and the head kept of each curve is "
            "that of the first repeat"
        )
    if not len(split["test"]):
        if not len(split["val"]):
            raise InvalidInputError(
                "the bank has neither test nor validation rows to score on; extract again with --split, "
                "e.g. 0.7,0.1,0.2"
            )
        notes.append(
            "no test rows: accuracies are those on the validation rows, which also chose when to stop, "
            "and flatter"
        )
    return notes


def _plan(
    manifest: Manifest,
    split: Mapping[str, NDArray[np.int64]],
    sizes: Sequence[Size],
    repeats: int,
    random_state: int,
) -> list[Plan]:
    """Draw every subset; rows are positions among the training rows."""
    y = manifest.labels[split["train"]]
    present = {int(code) for rows in split.values() for code in np.unique(manifest.labels[rows])}
    draws = draw_nested(
        y, sizes, repeats=repeats, random_state=random_state, codes=present, class_names=manifest.classes
    )
    plans: dict[tuple[float, int], Plan] = {}
    for repeat, draw in enumerate(draws):
        # Seeds know nothing of sizes and heads, so that neither changes what another one gives.
        state = np.random.SeedSequence(random_state, spawn_key=(repeat,)).generate_state(1)[0]
        for rows in draw.values():
            each = len(rows) / len(present)
            n_per_class = int(each) if each == int(each) else each  # "all" of uneven classes: a mean
            plans[n_per_class, repeat] = Plan(n_per_class, repeat, rows, int(state >> 1))
    return sorted(plans.values(), key=lambda plan: (plan.n_per_class, plan.repeat))


def _leaks(manifest: Manifest) -> list[str]:
    pairs = datasets.duplicates_across_splits(manifest)
    if not pairs:
        return []
    train, other = pairs[0]
    are = (
        "image is byte for byte a training image"
        if len(pairs) == 1
        else "images are byte for byte training images"
    )
    message = (
        f"{len(pairs)} validation or test {are} (first: {printable(manifest.ids[other])} = "
        f"{printable(manifest.ids[train])}); accuracies are flattered, remove the copies and extract again"
    )
    warnings.warn(message, LeakWarning, stacklevel=3)
    return [message]


def _read(bank: FeatureSource, cut: str, temperature: float | None, rows: NDArray[np.int64]) -> NDArray[Any]:
    if temperature is not None:
        return bank.softmax(temperature, rows)
    # float16 stays float16: 200,704 features of 1,000 images are 400 MB instead of 800, and blocks are
    # converted where they are used.
    return bank.features(cut, rows, dtype=None)
