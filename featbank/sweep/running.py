"""Running a sweep: read each cut once, fit everything asked for, score it on rows that never train."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from featbank.banks import Bank
from featbank.errors import FitWarning, InvalidInputError
from featbank.manifest import Manifest
from featbank.sampling import Size
from featbank.sweep._candidates import Family, heads_as_parameters, make_families, plain_value
from featbank.sweep._course import Course
from featbank.sweep._cuts import FeatureSource, by_depth, choose_cuts
from featbank.sweep._drawing import (
    check_splits,
    digests_of_draws,
    held_out,
    labelled_rows,
    make_plans,
    notes_on_splits,
    read_sizes,
    read_val,
    set_untrained_aside,
    splits_for,
    untrained_words,
)
from featbank.sweep._keeping import Keeper
from featbank.sweep._leaks import check_threshold, deepest_vector_cut, tell_copies, tell_near_copies
from featbank.sweep._material import reader
from featbank.sweep.records import FitResult
from featbank.sweep.results import SweepGroup, SweepResult

__all__ = ["FeatureSource", "run_sweep", "sweep_parameters"]


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
    val: float | Literal["none"] | None = None,
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
    val : float, "none" or None, default=None
        What stops training, chooses (C, the head kept) and scales. None: the bank's validation rows, or
        "none" where it has no such rows. "none": no rows at all; training stops by the training loss, and
        ``C="auto"`` goes by cross-validation within each draw. A number over 0 and under 1: that part of each
        draw, see `featbank.sampling.hold_out`; heads are trained on the rest. With either, the bank's
        validation rows decide nothing, and are what heads are scored on where there are no test rows.

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
    >>> result.points()[0].mean("top1")  # doctest: +SKIP
    0.755
    """
    if save_heads not in ("best", "all", "none"):
        raise InvalidInputError(f"save_heads={save_heads!r} is not one of 'best', 'all', 'none'")
    if n_jobs == 0 or not isinstance(n_jobs, int | np.integer | None):
        raise InvalidInputError(
            f"n_jobs={n_jobs!r} leaves nobody to fit; give 1 or more, or -1 for one per core"
        )
    if untrained_classes not in ("drop", "keep"):
        raise InvalidInputError(f"untrained_classes={untrained_classes!r} is not one of 'drop', 'keep'")
    lacking = [name for name in ("cuts", "manifest", "features", "softmax") if not hasattr(bank, name)]
    if lacking:
        raise InvalidInputError(
            f"a {type(bank).__name__} is no source of features: it lacks {', '.join(lacking)}; give a Bank "
            "(featbank.open_bank opens one), or an object with cuts, manifest, features and softmax"
        )
    threshold = check_threshold(check_leaks)
    val = read_val(val)
    chosen = choose_cuts(bank, cuts, temperatures)
    families = make_families(heads, head_params or {})
    manifest = bank.manifest
    stored = {name: labelled_rows(manifest, name) for name in ("train", "val", "test")}
    check_splits(stored)
    stored, untrained = set_untrained_aside(manifest, stored, untrained_classes)
    split = splits_for(stored, val)
    plans = make_plans(manifest, split, read_sizes(samples_per_class), repeats, random_state)
    result = SweepResult(
        cuts=tuple(dict.fromkeys(cut for cut, _ in chosen)),
        classes=manifest.classes,
        n_rows={name: len(at) for name, at in split.items()},
        draws=digests_of_draws(manifest, split, plans),
        untrained=untrained,
    )
    plans = held_out(plans, manifest.labels[split["train"]], val, random_state)
    notes = notes_on_splits(manifest, stored, val, plans)
    if untrained:
        notes.insert(0, untrained_words(untrained))
        warnings.warn(notes[0], FitWarning, stacklevel=2)
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
    by = "training loss" if not len(split["val"]) and not isinstance(val, float) else "validation rows"
    result.notes = [*dict.fromkeys([*notes, *course.told(), *_stopped_at_the_cap(families, result, by)])]
    if result.failed:
        result.notes.append(
            f"{len(result.failed)} of {len(result.fits)} fits failed: {result.failed[0].message}"
        )
    return result


def sweep_parameters(
    bank: FeatureSource,
    *,
    cuts: Sequence[str] | None,
    heads: Sequence[Any],
    samples_per_class: str | int | Sequence[Size],
    repeats: int,
    temperatures: Sequence[float] | None,
    random_state: int,
    head_params: Mapping[str, Mapping[str, Any]] | None,
    save_heads: str,
    untrained_classes: str,
    val: float | Literal["none"] | None,
) -> dict[str, Any]:
    """Check what a sweep is asked for, and return it as the JSON values that a run records.

    Parameters
    ----------
    bank, cuts, heads, samples_per_class, repeats, temperatures, random_state, head_params, save_heads
    untrained_classes, val
        As `run_sweep` takes them.

    Raises
    ------
    UnknownNameError, InvalidInputError
        As `run_sweep` does.
    """
    choose_cuts(bank, cuts, temperatures)
    read_sizes(samples_per_class)
    return {
        "cuts": plain_value(cuts),
        **heads_as_parameters(heads, head_params or {}),
        "samples_per_class": plain_value(samples_per_class),
        "repeats": plain_value(repeats),
        "temperatures": plain_value(temperatures),
        "random_state": plain_value(random_state),
        "save_heads": save_heads,
        "untrained_classes": untrained_classes,
        "val": read_val(val),
    }


def _stopped_at_the_cap(families: Sequence[Family], result: SweepResult, by: str) -> Iterator[str]:
    """Say of which heads the last epoch they were allowed was among the best, so that more might help."""
    for family in families:
        if family.how != "stack":  # no epochs
            continue
        made = {one.name: one.make(0) for one in family.members}
        fits = [one for one in result.fits if one.head in made and one.n_epochs]
        cut_off = [one.n_epochs or 0 for one in fits if _is_cut_off(one, made[one.head])]
        if cut_off:
            yield (
                f"{family.name}: {len(cut_off)} of {len(fits)} heads were still getting better, by the {by}, "
                f"at the last of {max(cut_off)} epochs; --max-epochs {2 * max(cut_off)} lets them go on"
            )


def _is_cut_off(fit: FitResult, head: Any) -> bool:
    n_epochs, best = fit.n_epochs or 0, fit.best_epoch or 0
    if head.solver == "lbfgs" or n_epochs != head.max_epochs:
        return False
    return bool(n_epochs - best < head.tolerance_epochs)


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
