"""Running a sweep: read each cut once, fit everything asked for, score it on rows that never train."""

from __future__ import annotations

import copy
import io
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from itertools import groupby, product
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from featbank._cuts import CutName, with_views
from featbank._process import one_core_if, pickle_for_child, without_current_folder
from featbank._registry import Progress, own_modules, take_modules, takes_settings, with_options
from featbank._validation import short
from featbank.banks import Bank
from featbank.engines import RayEngine, map_unordered
from featbank.errors import FeatbankError, FitWarning, InvalidInputError, WorkerLostError, one_line
from featbank.manifest import tell_copies, tell_groups
from featbank.metrics.catalogue import evaluate, less_is_better
from featbank.sampling import size_order
from featbank.sweep.features import CutFeatures, Projected, read_rows, score
from featbank.sweep.records import Draw, Fit, FitId, Key, rank
from featbank.sweep.results import SweepResult
from featbank.sweep.spec import (
    FeatureSource,
    HeadGrid,
    SweepSettings,
    by_depth,
    check_cut,
    choose_cuts,
    digests_of_draws,
    draw_subsets,
    groups_of_judged,
    held_out,
    labelled_rows,
    notes_on_splits,
    read_sizes,
    splits_for,
    untrained_words,
)

if TYPE_CHECKING:
    from featbank.backbones import Backbone
    from featbank.heads.tail import Tail

__all__ = [
    "FeatureSource",
    "Sweep",
    "keep",
    "run_sweep",
]

#: Test rows times classes up to which heads are measured on test rows after every epoch, for their history.
WATCHED_TEST_LOGITS = 2**21
#: What may go wrong in one fit without putting the others in doubt (numpy's LinAlgError is a ValueError).
_FIT_ERRORS = (ArithmeticError, MemoryError, RuntimeError, ValueError)


@takes_settings(SweepSettings)
def run_sweep(
    bank: FeatureSource,
    settings: SweepSettings | None = None,
    *,
    n_jobs: int | None = None,
    engine: RayEngine | None = None,
    progress: Progress | None = None,
    on_result: Callable[[Sequence[Fit]], None] | None = None,
    check_leaks: bool | float = False,
    resume: SweepResult | None = None,
    backbone: Backbone | None = None,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> SweepResult:
    """Fit heads on cuts of a bank for growing numbers of samples per class.

    Each cut is read once. Subsets are drawn from the training rows, nested, class-balanced and seeded, and
    are the same for every cut and head, so that these can be compared repeat by repeat. Validation rows
    decide when training stops and which head is kept; test rows are only scored. Neither ever trains, and
    both are the same for every fit. Rows of no split, without a label, or whose image could not be read are
    not used. Features are standardised once per cut, by the statistics of the whole training split (of more
    than a million rows, of 65,536 spread over it).

    Parameters
    ----------
    bank : featbank.banks.Bank
        Where features come from.
    settings : SweepSettings, optional
        What is fitted.
    n_jobs : int, optional
        Processes for estimators of others, which are fitted one by one; -1 for one per core. Features never
        travel between them: each reads its rows from the bank on disk. An estimator that cannot be pickled is
        fitted in threads. Heads of featbank are fitted together instead, all of a size at once.
    engine : RayEngine, optional
        A cluster that fits instead of this process, all cuts and heads at once. Each node reads the bank from
        the same path. A fit whose process died four times has failed.
    progress : callable, optional
        Called with (fits done, fits in all).
    on_result : callable, optional
        Called with the fits that were finished together, as soon as they are: all repeats of a cut, head and
        size, or every single one of an estimator of others. Within a cut and head the largest size comes
        first. Those whose heads are kept, as far as is known now, have them.
    check_leaks : bool or float, default=False
        Look for near-identical images across splits before anything is fitted, by the cosine of the deepest
        cut with one vector per image; a number is the cosine from which a pair is told (True: 0.9).
    resume : SweepResult, optional
        What an interrupted sweep with the same arguments on the same bank gave: its fits, failed ones too,
        are not repeated. It does not look whether the arguments are the same; `featbank.fit_heads` does.
    backbone : Backbone, optional
        For the tail head: the bank's backbone, where it was made by ``Backbone.from_module``.
    weights : path, optional
        For the tail head: the bank's weights file, if it is no longer where it was.
    **options
        Fields of `SweepSettings`, such as ``cuts=["fc7"], heads=["softmax", "mlp"]``; with `settings` they
        replace those of its fields.

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
    MissingWeightsError, WeightsError
        If the tail head is asked for, and the bank's weights are not there any more, or are others.
    TypeError
        If an option is no field of `SweepSettings`.

    Warns
    -----
    LeakWarning
        If validation or test images are byte for byte training images.
    FitWarning
        If heads have not learned, or classes have no training rows.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> result = run_sweep(bank, cuts=["fc7"], heads=["ncm", "ridge"], samples_per_class="4,8", repeats=2)
    >>> [(head, len(curve.points())) for (_, head, _), curve in result.curves().items()]
    [('ncm', 2), ('ridge', 2)]
    """
    sweep = Sweep(bank, with_options(SweepSettings, settings, options, "run_sweep"))
    return sweep.run(
        n_jobs=n_jobs,
        engine=engine,
        progress=progress,
        on_result=on_result,
        check_leaks=check_leaks,
        resume=resume,
        backbone=backbone,
        weights=weights,
    )


class Task(NamedTuple):
    """Fits that are made together: cut, temperature, numbers of fold and grid tell them from others."""

    cut: str
    temperature: float | None
    fold: int
    grid: int
    fits: tuple[FitId, ...]

    def __repr__(self) -> str:
        return f"the fits of {self.fits[0][0][1]} on {self.cut}, n={self.fits[0][1]}"


class Sweep:
    """A sweep of a bank, checked and drawn; nothing is read or fitted before `run`.

    Parameters
    ----------
    bank : FeatureSource
        Where features come from.
    settings : SweepSettings
        What is asked for.

    Attributes
    ----------
    settings : SweepSettings
        With the bank's own names of its cuts, and with sizes.
    n_fits : int
        How many fits it has.

    Raises
    ------
    InvalidInputError, UnknownNameError
        See `run_sweep`.
    """

    def __init__(self, bank: FeatureSource, settings: SweepSettings) -> None:
        lacking = [name for name in ("cuts", "manifest", "features", "softmax") if not hasattr(bank, name)]
        if lacking:
            raise InvalidInputError(
                f"{type(bank).__name__} is no source of features: it lacks {', '.join(lacking)}; give a "
                "Bank (featbank.open_bank opens one), or an object with cuts, manifest, features and softmax"
            )
        self.bank, self.manifest = bank, bank.manifest
        self.settings = settings = settings.of_bank(bank)
        self._chosen = choose_cuts(bank, settings.cuts, settings.temperatures)
        for cut in dict.fromkeys(cut for cut, _ in self._chosen):
            if settings.views and CutName.parse(cut).view is not None:
                raise InvalidInputError(
                    f"cut {cut!r} is a view itself; leave out views={list(settings.views)}"
                )
            for viewed in with_views([cut], settings.views)[1:]:
                check_cut(bank, viewed)
        self._splits, self._untrained = splits_for(
            self.manifest,
            settings.untrained_classes,
            **{
                name: getattr(settings, name)
                for name in ("folds", "val", "val_per_class", "draw", "random_state")
            },
        )
        sizes = read_sizes(cast("str", settings.samples_per_class))
        folds = [None] if settings.folds is None else range(settings.folds)
        drawn = [
            draw_subsets(self.manifest, split, sizes, settings, fold)
            for fold, split in zip(folds, self._splits, strict=True)
        ]
        self._digests = digests_of_draws(self.manifest, self._splits, drawn, settings.draw)
        if isinstance(settings.val, float):
            self._digests["held_out"] = settings.val
        self._parts = [self._part(split, draws) for split, draws in zip(self._splits, drawn, strict=True)]
        self._tails: dict[str, Tail] = {}
        self._weights: str | os.PathLike[str] | None = None
        self._open: tuple[tuple[str, float | None, int], CutFeatures] | None = None
        self._elsewhere = False
        self.n_fits = len(self._chosen) * sum(
            len(member.draws(draws))
            for _, draws in self._parts
            for grid in settings.grids
            for member in grid.members
        )

    def _part(self, split: Mapping[str, Any], draws: Sequence[Draw]) -> tuple[Any, list[Draw]]:
        """Return which of the training rows are drawn, and the draws among these, held out rows aside."""
        rows, groups = split["train"], self.manifest.groups
        of_rows = None if groups is None else groups[rows]
        y = self.manifest.labels[rows]
        return _among_drawn(held_out(draws, y, self.settings.val, self.settings.random_state, of_rows))

    def run(
        self,
        *,
        n_jobs: int | None = None,
        engine: RayEngine | None = None,
        progress: Progress | None = None,
        on_result: Callable[[Sequence[Fit]], None] | None = None,
        check_leaks: bool | float = False,
        resume: SweepResult | None = None,
        backbone: Backbone | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> SweepResult:
        """Fit what is not done yet, one cut after the other; parameters as of `run_sweep`."""
        if n_jobs == 0 or not isinstance(n_jobs, int | np.integer | None):
            raise InvalidInputError(
                f"n_jobs={n_jobs!r} leaves nobody to fit; give 1 or more, or -1 for one per core"
            )
        threshold = None
        if check_leaks is not False:  # the room of images is for those who ask
            from featbank.datasets.duplicates import check_threshold

            threshold = check_threshold(check_leaks)
        if threshold is not None and self.settings.folds is not None:
            raise InvalidInputError(
                f"check_leaks={check_leaks!r} (--check-leaks) looks across the bank's splits, which "
                f"folds={self.settings.folds} (--folds) does not go by; leave one of them out"
            )
        if engine is not None:
            self._refuse_what_cannot_travel(n_jobs, backbone)
        done = self._done(resume)
        has_tail = any(map(_wants_tail, self.settings.grids))
        for name, given in (("weights", weights), ("backbone", backbone)):
            if given is not None and not has_tail:
                raise InvalidInputError(
                    f"{name}={short(str(given))} is for the tail head, which is not among the heads; leave "
                    "it out, or add the tail head"
                )
        if len(done) < self.n_fits:
            self._open_tails(backbone, weights)
        result = SweepResult(
            cuts=tuple(dict.fromkeys(cut for cut, _ in self._chosen)),
            classes=self.manifest.classes,
            n_rows=self._n_rows(),
            draws=self._digests,
            untrained=self._untrained,
            judged_groups=groups_of_judged(self.manifest, self._splits),
        )
        settings, draws = self.settings, self._parts[0][1]
        stored = self._splits[0]
        if settings.val is not None and settings.folds is None:
            stored = {name: labelled_rows(self.manifest, name) for name in stored}
        notes = notes_on_splits(self.manifest, stored, settings.val, draws, settings.folds)
        if self._untrained:
            notes.insert(0, untrained_words(self._untrained))
            warnings.warn(notes[0], FitWarning, stacklevel=3)
        if settings.folds is None:
            notes += tell_groups(self.manifest) + tell_copies(self.manifest)
        if threshold is not None:
            told, result.near_duplicates = self._near_copies(threshold)
            notes += told
        best: dict[Key, Fit] = {}
        metric = next(iter(settings.metrics), None)
        keep("best", [*done.values()], best, metric)
        tasks = [*self._tasks(done)]
        _tell(progress, len(done), self.n_fits)
        with closing(self._outcomes(tasks, n_jobs, engine)) as found:
            for made in found:
                kept = keep(settings.save_heads, made, best, metric)
                replaced = {one.replaces for one in kept if one.replaces}
                if replaced:
                    done |= {at: one.without_head() for at, one in done.items() if one.name in replaced}
                done |= {one.id: one for one in kept}
                if on_result is not None:
                    on_result(kept)
                _tell(progress, len(done), self.n_fits)
        self._open = None
        fitted = {(one.cut, one.temperature, one.grid) for one in tasks}
        for cut, temperature in self._chosen:
            for number, grid in enumerate(settings.grids):
                asked = [one for fold in self._folds for one in self._asked(grid, cut, temperature, fold)]
                told = list(_warned([done[one.id] for one in asked], grid))
                for message in told if (cut, temperature, number) in fitted else ():
                    warnings.warn(message, FitWarning, stacklevel=3)
                notes += told
        fits = [done[one.id] for one in self._all_asked()]
        keys = {key: at for at, key in enumerate(dict.fromkeys(one.key for one in fits))}
        order = [(keys[one.key], size_order(one.n_per_class), one.repeat) for one in fits]
        result.fits = [fits[at] for at in sorted(range(len(fits)), key=order.__getitem__)]
        result.notes = [*dict.fromkeys([*notes, *self._stopped_at_the_cap(result)])]
        if result.failed:
            result.notes.append(
                f"{len(result.failed)} of {len(result.fits)} fits failed: {result.failed[0].message}"
            )
        return result

    def _n_rows(self) -> dict[str, int]:
        """Return the rows of each split; of folds each row trains and is judged."""
        if len(self._splits) == 1:
            return {name: len(at) for name, at in self._splits[0].items()}
        n = sum(len(split["test"]) for split in self._splits)
        return {"train": n, "val": 0, "test": n}

    @property
    def _folds(self) -> range:
        """Numbers of the parts that a sweep has, one without folds."""
        return range(len(self._splits))

    def _tasks(self, done: Mapping[FitId, Fit]) -> Iterator[Task]:
        """Yield what is fitted together and not done, cut by cut, the largest subsets first.

        The largest come first because the head to be kept is one of them: it is saved once, not at each size.
        """
        for (cut, temperature), fold in product(self._chosen, self._folds):
            for number, grid in enumerate(self.settings.grids):
                planned = [one for one in self._asked(grid, cut, temperature, fold) if one.id not in done]
                planned.sort(key=lambda one: (-size_order(one.n_per_class), one.repeat))
                if fits_together(grid):
                    sizes = dict.fromkeys(one.n_per_class for one in planned)
                    parts = [[one.id for one in planned if one.n_per_class == size] for size in sizes]
                else:
                    parts = [[one.id] for one in planned]
                for part in parts:
                    yield Task(cut, temperature, fold, number, tuple(part))

    def _outcomes(
        self, tasks: Sequence[Task], n_jobs: int | None, engine: RayEngine | None
    ) -> Generator[list[Fit], None, None]:
        """Do tasks, here or elsewhere; yield their fits as they are ready."""
        if engine is not None:
            with closing(map_unordered(self.fit_task, tasks, engine)) as found:
                for outcome in found:
                    if isinstance(outcome.error, WorkerLostError):
                        message = _one_line(outcome.error)
                        yield [_failed(one, message) for one in self._planned(outcome.item)]
                    else:
                        yield outcome.get()
            return
        for (cut, temperature, fold, number), members in groupby(tasks, key=lambda one: one[:4]):
            grid = self.settings.grids[number]
            if n_jobs in (None, 1) or is_ours(grid):
                yield from map(self.fit_task, members)
            else:
                planned = [one for task in members for one in self._planned(task)]
                features = self._features(cut, temperature, fold)
                make = {member.name: member.make for member in grid.members}
                yield from _fit_in_parallel(planned, make, features, n_jobs, self.settings.metrics)

    def fit_task(self, task: Task) -> list[Fit]:
        """Fit and score what is fitted together; features are read for the first task of a cut.

        Parameters
        ----------
        task : Task

        Returns
        -------
        list of Fit
            Of those fitted elsewhere, heads that cannot be the best of their curve are left out.
        """
        grid = self.settings.grids[task.grid]
        if _wants_tail(grid):
            grid = _attached(grid, self._tails[task.cut])
        features, metrics = self._features(*task[:3]), self.settings.metrics
        make = {member.name: member.make for member in grid.members}
        planned = [_with_head(one, make) for one in self._planned(task)]
        if is_ours(grid):
            made = _fit_together(planned, make, features, metrics)
        else:
            made = [_fit_alone(one, features, metrics) for one in planned]
        if not self._elsewhere:
            return made
        return keep(self.settings.save_heads, made, {}, next(iter(metrics), None))

    def _planned(self, task: Task) -> list[Fit]:
        """Return the fits of a task, in its order."""
        cut, temperature, fold, number, ids = task
        of_id = {one.id: one for one in self._asked(self.settings.grids[number], cut, temperature, fold)}
        n_features = self._features(cut, temperature, fold).n_features
        return [replace(of_id[one], n_features=n_features) for one in ids]

    def _features(self, cut: str, temperature: float | None, fold: int) -> CutFeatures:
        """Return the rows of a cut; those of one cut and fold are held at a time."""
        if self._open is None or self._open[0] != (cut, temperature, fold):
            self._open = None  # before others are read
            views, average = self.settings.views, self.settings.average_views
            split, drawn = self._splits[fold], self._parts[fold][0]
            rows = CutFeatures(self.bank, cut, temperature, split, drawn, views, average)
            self._open = (cut, temperature, fold), rows
        return self._open[1]

    def __reduce__(self) -> tuple[Any, ...]:
        options = {one.name: getattr(self.settings, one.name) for one in fields(self.settings) if one.init}
        options["protocol"] = None  # its heads stand in the options; a node need not find its file
        heads = self.settings.heads
        listed = heads if isinstance(heads, Sequence) and not isinstance(heads, str) else [heads]
        own = own_modules([one for one in [*listed, *self.settings.metrics] if isinstance(one, str)])
        return _elsewhere, (self.bank, options, self._weights, own)

    def _asked(self, grid: HeadGrid, cut: str, temperature: float | None, fold: int) -> list[Fit]:
        """Return the fits of one grid of heads at one cut, with what is known of them before."""
        return [
            Fit(
                cut=cut,
                head=member.name,
                temperature=temperature,
                n_per_class=draw.n_per_class,
                repeat=draw.repeat,
                n_train=len(draw.rows) + len(draw.held),
                n_val=len(self._splits[fold]["val"]),
                n_features=0,
                random_state=draw.seed,
                n_classes=len(draw.per_class),
                fewest_per_class=int(draw.per_class.min()),
                most_per_class=int(draw.per_class.max()),
                draw=draw,
            )
            for member in grid.members
            for draw in member.draws(self._parts[fold][1])
        ]

    def _all_asked(self) -> Iterator[Fit]:
        for cut, temperature in self._chosen:
            for grid in self.settings.grids:
                for fold in self._folds:
                    yield from self._asked(grid, cut, temperature, fold)

    def _done(self, earlier: SweepResult | None) -> dict[FitId, Fit]:
        """Return what an earlier part of this sweep has done."""
        if earlier is None:
            return {}
        asked = {one.id: (one.n_train, one.random_state) for one in self._all_asked()}
        return {one.id: one for one in earlier.fits if asked.get(one.id) == (one.n_train, one.random_state)}

    def _open_tails(self, backbone: Backbone | None, weights: str | os.PathLike[str] | None) -> None:
        """Load the layers behind the cuts, if any head is made of them."""
        grids = [*filter(_wants_tail, self.settings.grids)]
        self._tails, self._weights = {}, weights
        if grids:
            self._tails = _tails_of(self.bank, [cut for cut, _ in self._chosen], backbone, weights)
            for grid in grids:
                for tail in self._tails.values():
                    _attached(grid, tail)

    def _refuse_what_cannot_travel(self, n_jobs: int | None, backbone: Backbone | None) -> None:
        if n_jobs is not None:
            raise InvalidInputError(
                f"n_jobs={n_jobs} (--n-jobs) is for processes of this machine; on a cluster leave it out, "
                "--cpus-per-task says how many cores a task has"
            )
        if backbone is not None or not isinstance(self.bank, Bank):
            what = f"the {type(self.bank).__name__}" if backbone is None else f"backbone={backbone.name!r}"
            raise InvalidInputError(
                f"{what} is in the memory of this process, where nodes of a cluster cannot read it; give a "
                "bank on disk, and weights in a file"
            )

    def _near_copies(self, threshold: float) -> tuple[list[str], dict[str, Any]]:
        from featbank.datasets.duplicates import deepest_vector_cut, tell_near_copies

        bank = self.bank
        shapes = {
            cut: (bank[cut] if isinstance(bank, Bank) else bank.features(cut, np.arange(1))).shape[1:]
            for cut in bank.cuts
        }
        cut = deepest_vector_cut(by_depth(bank, bank.cuts), shapes)
        return tell_near_copies(self.manifest, cut, lambda rows: read_rows(bank, cut, None, rows), threshold)

    def _stopped_at_the_cap(self, result: SweepResult) -> Iterator[str]:
        """Say of which heads the last epoch they were allowed was among the best, so that more might help."""
        by_val = len(self._splits[0]["val"]) or isinstance(self.settings.val, float)
        by = "validation rows" if by_val else "training loss"
        for grid in self.settings.grids:
            made = {one.name: one.make(0) for one in grid.members}
            fits = [one for one in result.fits if one.head in made and one.n_epochs]
            cut_off = [one.n_epochs or 0 for one in fits if _is_cut_off(one, made[one.head])]
            if cut_off:
                yield (
                    f"{grid.name}: {len(cut_off)} of {len(fits)} heads were still getting better, by the "
                    f"{by}, at the last of {max(cut_off)} epochs; max_epochs={2 * max(cut_off)} (fit-head "
                    "--max-epochs, in a study [heads.NAME]) lets them go on"
                )


def keep(
    policy: Literal["best", "all", "none"],
    fits: Sequence[Fit],
    best: dict[Key, Fit],
    metric: str | None = None,
) -> list[Fit]:
    """Return fits, those that are not worth keeping without their heads.

    The best of a curve is that with the best validation accuracy, or other metric, at the largest size; of
    equals the earliest repeat, which is always the first where nothing was validated. It is the same one in
    whatever order fits are finished.

    Parameters
    ----------
    policy : {"best", "all", "none"}
    fits : sequence of Fit
        Those that were finished together.
    best : dict from Key to Fit
        The best of each curve before; brought up to date.
    metric : str, optional
        What the sweep goes by instead of accuracy.
    """
    before = dict(best)
    for one in fits:
        if one.status == "ok" and (one.key not in best or _rank(one, metric) > _rank(best[one.key], metric)):
            best[one.key] = one
    found = []
    for one in fits:
        kept = policy == "all" or (policy == "best" and best.get(one.key) is one)
        if not kept or one.estimator is None:
            found.append(one.without_head())
            continue
        head = one.estimator
        # the copy of a rotated softmax head carries weights on features, not the training rows they span
        light = copy.copy(head) if hasattr(head, "predict_columns") else head
        old = before[one.key].name if policy == "best" and one.key in before else ""
        found.append(replace(one, estimator=light, replaces=old, draw=None))
    best |= {key: one.without_head() for key, one in best.items()}
    return found


def _rank(fit: Fit, metric: str | None) -> tuple[Any, ...]:
    found = rank(metric, fit.validated(metric), fit.val_top1)
    return size_order(fit.n_per_class), *found, -fit.repeat


def _among_drawn(draws: Sequence[Draw]) -> tuple[Any, list[Draw]]:
    """Return which of the training rows are drawn at all, and the draws as positions among these."""
    drawn = np.unique(np.concatenate([rows for one in draws for rows in (one.rows, one.held)]))
    found = [
        replace(one, rows=np.searchsorted(drawn, one.rows), held=np.searchsorted(drawn, one.held))
        for one in draws
    ]
    return drawn, found


def _is_cut_off(fit: Fit, head: Any) -> bool:
    n_epochs, best = fit.n_epochs or 0, fit.best_epoch or 0
    if getattr(head, "solver", "lbfgs") == "lbfgs" or n_epochs != head.max_epochs:
        return False
    return bool(n_epochs - best < head.patience)


def _warned(fits: Sequence[Fit], grid: HeadGrid) -> Iterator[str]:
    """Say what heads of one grid at one cut warned of, once per cause."""
    told = Counter(one.message for one in fits if one.message and not _is_error(one.message))
    for message, n in told.items():
        yield f"{_where(fits[0], grid)}: {n} of {len(fits)} heads: {message}"


def _where(fit: Fit, grid: HeadGrid) -> str:
    at = "" if fit.temperature is None else f" at T={fit.temperature:g}"
    return f"{fit.cut}{at}, {grid.name}"


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def is_ours(grid: HeadGrid) -> bool:
    """Say whether heads of a grid are those of featbank, which are fitted to rows that they share."""
    return hasattr(grid.members[0].make(0), "predict_columns")


def fits_together(grid: HeadGrid) -> bool:
    """Say whether heads of a grid are fitted all of a size at once, which is much faster for most."""
    return is_ours(grid) and not getattr(grid.members[0].make(0), "fits_alone", False)


def _elsewhere(
    bank: Bank,
    options: dict[str, Any],
    weights: str | os.PathLike[str] | None,
    own: Sequence[ModuleType],
) -> Sweep:
    """Make a sweep again in a process of a node, with what is heavy to open."""
    take_modules(own)
    sweep = Sweep(bank, SweepSettings(**options))
    sweep._open_tails(None, weights)
    sweep._elsewhere = True
    return sweep


def _with_head(fit: Fit, make: Mapping[str, Callable[[int], Any]]) -> Fit:
    """Return a fit with the head that is to be fitted."""
    return replace(fit, estimator=make[fit.head](fit.random_state))


def _fit_together(
    fits: Sequence[Fit],
    make: Mapping[str, Callable[[int], Any]],
    features: CutFeatures,
    metrics: Sequence[str],
) -> list[Fit]:
    """Fit heads of featbank on subsets of one size, in as few calls as their feature spaces allow."""
    done: dict[FitId, Fit] = {}
    spaces: dict[tuple[bool, Any], list[Fit]] = {}
    for one in fits:
        spaces.setdefault((one.estimator.standardize, one.estimator.rotate), []).append(one)
    for (standardize, rotate), members in spaces.items():
        try:
            projected = features.project(standardize, rotate)
        except _FIT_ERRORS as error:  # a cut that says nothing, such as one where all rows are equal
            done |= {one.id: _failed(one, _one_line(error)) for one in members}
            continue
        start = time.perf_counter()
        try:
            _fit_in_space(members, features, projected, metrics)
        except InvalidInputError:
            raise  # a parameter out of range is the caller's, and the same for every fit
        except _FIT_ERRORS as error:
            if len(members) == 1:
                done[members[0].id] = _failed(members[0], _one_line(error), time.perf_counter() - start)
                continue
            for one in members:  # one of them is the culprit
                (done[one.id],) = _fit_together([_with_head(one, make)], make, features, metrics)
            continue
        each = (time.perf_counter() - start) / len(members)
        done |= {one.id: _scored(one, features, projected, each, metrics) for one in members}
    return [done[one.id] for one in fits]


def _score_by(metrics: Sequence[str]) -> Callable[..., float] | None:
    """Return the first of the metrics as heads take it, larger for better; None where there is none."""
    if not metrics:
        return None
    name, sign = metrics[0], -1.0 if less_is_better(metrics[0]) else 1.0

    def score(y: Any, answers: Any, probabilities: Any, labels: Any) -> float:
        found = evaluate(name, y, answers, probabilities, labels=labels)
        return float("nan") if found is None else sign * found

    return score


def _fit_in_space(
    fits: Sequence[Fit], features: CutFeatures, projected: Projected, metrics: Sequence[str]
) -> None:
    """Fit those that are watched on the same rows in one call; see `featbank.heads.fit_stack`."""
    from featbank.heads.head import fit_stack

    Z: dict[str, Any] = dict(projected.Z)
    y = features.labels
    if "test" in Z:
        many = len(Z["test"]) * max(one.n_classes or 0 for one in fits) > WATCHED_TEST_LOGITS
        if many or not isinstance(Z["test"], np.ndarray):
            del Z["test"]  # they are scored, once
    together: dict[bytes, list[Fit]] = {}
    for one in fits:
        together.setdefault(_draw(one).held.tobytes(), []).append(one)
    for members in together.values():
        held = _draw(members[0]).held
        split, at = ("train", held) if len(held) else ("val", slice(0, len(y.get("val", ()))))
        with warnings.catch_warnings():  # what heads warn of stands with their fits
            warnings.simplefilter("ignore", FitWarning)
            fit_stack(
                [one.estimator for one in members],
                Z["train"],
                y["train"],
                [_draw(one).rows for one in members],
                space=projected.space,
                Z_val=Z[split][at] if split in Z else None,
                y_val=y[split][at] if split in Z else None,
                Z_test=Z["test"][: len(y["test"])] if "test" in Z else None,
                y_test=y.get("test") if "test" in Z else None,
                n_views=features.n_views,
                groups=features.groups,
                score=_score_by(metrics),
            )


def _draw(fit: Fit) -> Draw:
    if fit.draw is None:
        raise ValueError("a fit that is done is not fitted again")
    return fit.draw


def _fit_alone(
    fit: Fit, features: CutFeatures, metrics: Sequence[str], own: Sequence[ModuleType] = ()
) -> Fit:
    """Fit an estimator of others to a copy of its rows; an error of the kind a fit may end with is told."""
    take_modules(own)
    features.open()  # a bank that has changed is no failure of the estimator
    start = time.perf_counter()
    from featbank.heads.space import in_all_views

    rows, y = _draw(fit).rows, features.labels["train"]
    every = in_all_views(rows, len(y), features.n_views)
    try:
        fit.estimator.fit(
            features.features("train")[every].astype(np.float32), np.tile(y[rows], features.n_views)
        )
    except _FIT_ERRORS as error:
        return _failed(fit, _one_line(error), time.perf_counter() - start)
    return _scored(fit, features, None, time.perf_counter() - start, metrics)


def _fit_in_parallel(
    fits: Sequence[Fit],
    make: Mapping[str, Callable[[int], Any]],
    features: CutFeatures,
    n_jobs: int | None,
    metrics: Sequence[str],
) -> Iterator[list[Fit]]:
    """Fit estimators of others one by one, in processes where they and the bank can go there."""
    own = own_modules(metrics)
    calls = ((_fit_alone, _with_head(one, make), features, metrics, own) for one in fits)
    here_only = any(name.startswith("__main__:") for name in metrics)  # other processes have another main
    travels = features.travels and not here_only
    modules = _modules_of([_with_head(fits[0], make).estimator, own]) if travels else None
    if modules is not None:
        found = _in_parallel(calls, n_jobs, "processes", modules)
    else:
        for split in features.rows:
            features.features(split)  # before the threads ask for it at the same time
        found = _in_parallel(calls, n_jobs, "threads")
    # threads that set the number of those of linear algebra, each for itself, would leave any
    with one_core_if(modules is None and n_jobs not in (None, 1)):
        for one in found:
            yield [one]


def _modules_of(sent: Any) -> set[str] | None:
    """Return the modules that estimators need in another process; None if they cannot be pickled."""
    try:
        return pickle_for_child(sent, io.BytesIO())
    except Exception:  # noqa: BLE001 - pickling runs code of the estimator's own, which may raise anything
        return None


def _in_parallel(
    calls: Iterable[tuple[Any, ...]],
    n_jobs: int | None,
    prefer: Literal["processes", "threads"],
    modules: Iterable[str] = (),
) -> Iterator[Fit]:
    from joblib import Parallel, delayed

    # max_nbytes: what is larger goes to a process as a memory-mapped file
    parallel = Parallel(
        n_jobs=n_jobs, prefer=prefer, return_as="generator_unordered", max_nbytes="64K", mmap_mode="r"
    )
    # the processes are started by the call, before the first outcome is asked for
    with without_current_folder(modules):
        found = parallel(delayed(call)(*arguments) for call, *arguments in calls)
    yield from found


def _scored(
    fit: Fit, features: CutFeatures, projected: Projected | None, duration_s: float, metrics: Sequence[str]
) -> Fit:
    head = fit.estimator
    message = getattr(head, "failed_", None) if projected is not None else None
    if message:
        return _failed(fit, message, duration_s)
    # a value that a head chose itself, or was given, ends in an underscore
    used: dict[str, Any] = {}
    for name in ("C", "lr"):
        value = getattr(head, f"{name}_", None)
        # that of an estimator of others may be anything
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
            used[name] = float(value)
    warned = (getattr(head, "warned_", None) or "") if projected is not None else ""
    try:
        return score(
            replace(fit, duration_s=duration_s, message=warned, **used), features, projected, metrics
        )
    except _FIT_ERRORS as error:
        if projected is not None or isinstance(error, FeatbankError):
            raise  # not what an estimator of others answers
        return _failed(fit, _one_line(error), duration_s)


def _failed(fit: Fit, message: str, duration_s: float = 0.0) -> Fit:
    return replace(fit.without_head(), status="failed", message=message, duration_s=duration_s)


def _one_line(error: BaseException) -> str:
    # what featbank says is said whole; others may print an array
    said = " ".join(str(error).split()) if isinstance(error, FeatbankError) else one_line(error)
    return f"{type(error).__name__}: {said}"


def _is_error(message: str) -> bool:
    """Say whether a message is that of an exception, which `_one_line` begins with its type."""
    return message.partition(":")[0].isidentifier()


def _wants_tail(grid: HeadGrid) -> bool:
    """Say whether heads of a grid are made of layers of the backbone."""
    return hasattr(grid.members[0].make(0), "attach")


def _attached(grid: HeadGrid, tail: Tail) -> HeadGrid:
    """Return a grid whose heads are made with the layers behind the cut."""

    def behind(make: Callable[[int], Any]) -> Callable[[int], Any]:
        return lambda seed: make(seed).attach(tail)

    made = tuple(replace(one, make=behind(one.make)) for one in grid.members)
    for one in made:
        one.make(0)  # layers that are not there are told before any fit
    return replace(grid, members=made)


def _tails_of(
    bank: Any,
    cuts: Sequence[str],
    backbone: Backbone | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> dict[str, Tail]:
    """Load the backbone of a bank and take the layers behind each of these cuts.

    Parameters
    ----------
    bank : Bank
    cuts : sequence of str
    backbone : Backbone, optional
        The bank's own, where it was made by ``Backbone.from_module``.
    weights : path, optional
        The weights file, if it is no longer where it was.

    Raises
    ------
    InvalidInputError
        If `bank` is none, or no tail begins at one of the cuts.
    MissingWeightsError, WeightsError
        If the weights are not there any more, or are others.
    """
    from featbank.backbones import cut_tail
    from featbank.backbones.loading import load_recorded

    if not isinstance(bank, Bank):
        raise InvalidInputError(
            f"the tail head is made of the layers of a bank's backbone, and a {type(bank).__name__} has "
            "none; give a Bank, or take another head"
        )
    key, said = bank.key, bank.provenance
    record = {name: getattr(key, name) for name in ("backbone", "image_size", "weights_sha256")}
    record |= {name: said.get(name) for name in ("weights", "weights_path", "random_state")}
    loaded = load_recorded(record, f"bank {bank.name!r}", weights=weights, backbone=backbone)
    return {cut: cut_tail(loaded, cut) for cut in cuts}
