"""Running a sweep: read each cut once, fit everything asked for, score it on rows that never train."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from featbank.banks import Bank
from featbank.errors import FitWarning, InvalidInputError
from featbank.manifest import Manifest
from featbank.sampling import Size
from featbank.sweep._candidates import make_families
from featbank.sweep._course import Course
from featbank.sweep._cuts import FeatureSource, by_depth, choose_cuts
from featbank.sweep._drawing import (
    digests_of_draws,
    labelled_rows,
    make_plans,
    notes_on_splits,
    read_sizes,
    set_untrained_aside,
    untrained_words,
)
from featbank.sweep._keeping import Keeper
from featbank.sweep._leaks import check_threshold, deepest_vector_cut, tell_copies, tell_near_copies
from featbank.sweep._material import reader
from featbank.sweep.results import SweepGroup, SweepResult

__all__ = ["FeatureSource", "run_sweep"]


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
    check_leaks: bool | float = False,
    untrained_classes: Literal["drop", "keep"] = "drop",
    resume: SweepResult | None = None,
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
        Draws per size. All samples are one draw: heads that no seed changes are fitted to it once.
    temperatures : sequence of float, optional
        Temperatures the cut ``"softmax"`` is read at, each over 0; 1 by default.
    random_state : int, default=0
        Seed of the draws and of the heads.
    head_params : mapping from head name to mapping, optional
        Parameters for `featbank.heads.make`, e.g. ``{"mlp": {"hidden_units": 200}}``. A list of values makes
        one head of each, fitted together and named after its values: ``{"logreg": {"C": [0.1, 1]}}`` gives
        ``logreg(C=0.1)`` and ``logreg(C=1)``.
    save_heads : {"best", "all", "none"}, default="best"
        Fitted heads to keep: for each curve the best by validation accuracy at its largest size (without
        validation rows that of the first repeat; never by test accuracy), all, or none.
    n_jobs : int, optional
        Processes for heads that are fitted one by one (``ncm``, ``knn``, ``svm``, ``ridge``, estimators of
        others); -1 for one per core. Features never travel between them: the columns of a space are memory-
        mapped, estimators of others read their rows from the bank on disk. An estimator that cannot be
        pickled is fitted in threads. ``softmax``, ``mlp`` and ``logreg`` heads are trained together instead.
    progress : callable, optional
        Called as ``progress(fits done, fits in all, what comes next)``.
    on_result : callable, optional
        Called with a `SweepGroup` as soon as fits are finished: all repeats of a cut, head and size where
        these are trained together, else every single fit. Within a cut and head the largest size comes first.
    check_leaks : bool or float, default=False
        Look for near-identical images across splits before anything is fitted, by the cosine of the deepest
        cut with one vector per image; a number is the cosine from which a pair is told (True: 0.9).
    untrained_classes : {"drop", "keep"}, default="drop"
        What becomes of validation and test rows of classes that no training row has: left out, or kept, where
        they count as wrong. Either is said in the notes.
    resume : SweepResult, optional
        What an interrupted sweep with the same arguments on the same bank gave: its fits, failed ones too,
        are not repeated. It does not look whether the arguments are the same; `featbank.fit_heads` does.

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
        If heads have not learned, or classes have no training rows.

    Examples
    --------
    >>> result = run_sweep(bank, cuts=["fc7"], heads=["softmax", "mlp"])  # doctest: +SKIP
    >>> result.curve()[0]["top1_mean"]  # doctest: +SKIP
    0.755
    """
    if save_heads not in ("best", "all", "none"):
        raise InvalidInputError(f"save_heads={save_heads!r} is not one of 'best', 'all', 'none'")
    if n_jobs == 0:
        raise InvalidInputError("n_jobs=0 leaves nobody to fit; give 1 or more, or -1 for one per core")
    if untrained_classes not in ("drop", "keep"):
        raise InvalidInputError(f"untrained_classes={untrained_classes!r} is not one of 'drop', 'keep'")
    threshold = check_threshold(check_leaks)
    chosen = choose_cuts(bank, cuts, temperatures)
    families = make_families(heads, head_params or {})
    manifest = bank.manifest
    split = {name: labelled_rows(manifest, name) for name in ("train", "val", "test")}
    split, untrained = set_untrained_aside(manifest, split, untrained_classes)
    notes = notes_on_splits(manifest, split)
    if untrained:
        notes.insert(0, untrained_words(untrained))
        warnings.warn(notes[0], FitWarning, stacklevel=2)
    plans = make_plans(manifest, split, read_sizes(samples_per_class), repeats, random_state)
    result = SweepResult(
        cuts=tuple(dict.fromkeys(cut for cut, _ in chosen)),
        classes=manifest.classes,
        n_rows={name: len(at) for name, at in split.items()},
        draws=digests_of_draws(manifest, split, plans),
        untrained=untrained,
    )
    notes += tell_copies(manifest)
    if threshold is not None:
        told, result.near_duplicates = _near_copies(bank, manifest, threshold)
        notes += told
    course = Course(
        bank,
        families,
        plans,
        chosen,
        split,
        manifest,
        result,
        Keeper(save_heads, resume.fits if resume else ()),
    )
    course.take_up(resume or SweepResult())
    course.run(n_jobs, progress, on_result)
    result.notes = [*dict.fromkeys([*notes, *course.told()])]
    if result.failed:
        result.notes.append(
            f"{len(result.failed)} of {len(result.fits)} fits failed: {result.failed[0].message}"
        )
    return result


def _near_copies(
    bank: FeatureSource, manifest: Manifest, threshold: float
) -> tuple[list[str], dict[str, Any]]:
    shapes = {cut: _row_shape(bank, cut) for cut in bank.cuts}
    cut = deepest_vector_cut(by_depth(bank, bank.cuts), shapes)
    return tell_near_copies(manifest, cut, reader(bank, cut, None), threshold)


def _row_shape(bank: FeatureSource, cut: str) -> tuple[int, ...]:
    if isinstance(bank, Bank):
        return bank[cut].shape[1:]
    return bank.features(cut, np.arange(1)).shape[1:]
