"""Fitting what is still to be done of one family at one cut; parts are handed on as they are ready."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from featbank._child_process import pickle_for_child, without_current_folder
from featbank.errors import FitWarning, InvalidInputError
from featbank.sampling import size_order
from featbank.sweep._candidates import Candidate, Family
from featbank.sweep._material import (
    ColumnMaterial,
    FeatureMaterial,
    Material,
    Plan,
    SplitRows,
    StoredRows,
)
from featbank.sweep._scoring import score
from featbank.sweep.records import FitResult
from featbank.sweep.results import Hits, Predictions

__all__ = ["Outcome", "Task", "fit_family"]

#: What may go wrong in one fit without putting the others in doubt (numpy's LinAlgError is a ValueError).
_FIT_ERRORS = (ArithmeticError, MemoryError, RuntimeError, ValueError)


@dataclass(frozen=True, eq=False)
class Task:
    """One fit to be done; `record` holds what is known before."""

    candidate: Candidate
    plan: Plan
    record: FitResult


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one fit. `told` are its warnings; those of fits made together stand at the first."""

    record: FitResult
    estimator: Any = None
    predictions: Predictions | None = None
    hits: Hits | None = None
    told: list[str] = field(default_factory=list)


def fit_family(
    family: Family,
    tasks: Sequence[Task],
    rows: SplitRows,
    *,
    stored: Callable[[], StoredRows] | None,
    n_jobs: int | None,
) -> Iterator[list[Outcome]]:
    """Fit and score every task; yield those that are ready together, the largest subsets first.

    The largest come first because the head to be kept is one of them: it is saved once, not at each size.

    Parameters
    ----------
    stored : callable, optional
        Says where the rows are on disk; None for a bank that is nowhere.
    n_jobs : int, optional
        How many fit at the same time, for heads that are fitted one by one.
    """
    tasks = sorted(tasks, key=lambda task: (-size_order(task.plan.n_per_class), task.plan.repeat))
    if family.how == "stack":
        for size in dict.fromkeys(task.plan.n_per_class for task in tasks):
            yield _fit_stacked([task for task in tasks if task.plan.n_per_class == size], rows)
    elif family.how == "columns":
        yield from _fit_in_columns(tasks, rows, n_jobs)
    else:
        yield from _fit_objects(tasks, rows, stored, n_jobs)


def _fit_stacked(tasks: Sequence[Task], rows: SplitRows) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    estimators = [task.candidate.make(task.plan.seed) for task in tasks]
    spaces: dict[tuple[bool, Any], list[int]] = {}
    for at, one in enumerate(estimators):
        spaces.setdefault((one.standardize, one.rotate), []).append(at)
    for (standardize, rotate), members in spaces.items():
        chosen = [tasks[at] for at in members]
        try:
            material = rows.columns(standardize, rotate)
        except _FIT_ERRORS as error:  # a cut that says nothing, such as one where all rows are equal
            for at in members:
                outcomes[at] = _failed(tasks[at].record, _one_line(error))
            continue
        with _listening() as told:
            start = time.perf_counter()
            try:
                material.fit([estimators[at] for at in members], [task.plan for task in chosen])
            except InvalidInputError:
                raise  # a parameter out of range is the caller's, and the same for every fit
            except _FIT_ERRORS:
                for at in members:  # one of them is the culprit
                    outcomes[at] = _attempt(
                        tasks[at].candidate.make(tasks[at].plan.seed), tasks[at], material
                    )
                continue
            each = (time.perf_counter() - start) / len(members)
        for at in members:
            outcomes[at] = _scored(estimators[at], tasks[at], material, each)
        outcomes[members[0]].told.extend(told)
    return [outcomes[at] for at in range(len(tasks))]


def _fit_in_columns(tasks: Sequence[Task], rows: SplitRows, n_jobs: int | None) -> Iterator[list[Outcome]]:
    made = [(task.candidate.make(task.plan.seed), task) for task in tasks]
    for space in dict.fromkeys((one.standardize, one.rotate) for one, _ in made):
        members = [(one, task) for one, task in made if (one.standardize, one.rotate) == space]
        try:
            material = rows.columns(*space)
        except _FIT_ERRORS as error:
            yield [_failed(task.record, _one_line(error)) for _, task in members]
            continue
        if n_jobs in (None, 1):
            for one, task in members:
                yield [_attempt(one, task, material)]
            continue
        # The columns are one array per split, which joblib hands to the processes as a memory-mapped file.
        light = material.without_space()
        calls = ((_attempt, one, _travelling(task), light) for one, task in members)
        for outcome in _in_parallel(calls, n_jobs, "processes"):
            if outcome.estimator is not None:
                material.adopt(outcome.estimator)
            yield [outcome]


def _fit_objects(
    tasks: Sequence[Task], rows: SplitRows, stored: Callable[[], StoredRows] | None, n_jobs: int | None
) -> Iterator[list[Outcome]]:
    material = FeatureMaterial(rows)
    if n_jobs in (None, 1):
        for task in tasks:
            yield [_attempt(task.candidate.make(task.plan.seed), task, material)]
        return
    calls: Iterable[tuple[Any, ...]]
    modules = _modules_of(tasks[0])
    if stored is not None and modules is not None:
        place = stored()
        calls = (
            (_attempt_stored, task.candidate.make(task.plan.seed), _travelling(task), place) for task in tasks
        )
        found = _in_parallel(calls, n_jobs, "processes", modules)
    else:
        for split in rows.rows:
            rows.features(split)  # before the threads ask for it at the same time
        # Not _attempt: what it does to the warnings is done to all threads.
        calls = ((_try, task.candidate.make(task.plan.seed), task, material) for task in tasks)
        found = _in_parallel(calls, n_jobs, "threads")
    for outcome in found:
        yield [outcome]


def _modules_of(task: Task) -> set[str] | None:
    """Return the modules that an estimator needs in another process; None if it cannot be pickled."""
    try:
        return pickle_for_child(task.candidate.make(task.plan.seed), io.BytesIO())
    except Exception:  # noqa: BLE001 - pickling runs code of the estimator's own, which may raise anything
        return None


def _in_parallel(
    calls: Iterable[tuple[Any, ...]],
    n_jobs: int | None,
    prefer: Literal["processes", "threads"],
    modules: Iterable[str] = (),
) -> Iterator[Outcome]:
    from joblib import Parallel, delayed

    # max_nbytes: what is larger goes to a process as a memory-mapped file, so features are never pickled
    parallel = Parallel(
        n_jobs=n_jobs, prefer=prefer, return_as="generator_unordered", max_nbytes="64K", mmap_mode="r"
    )
    # the processes are started by the call, before the first outcome is asked for
    with without_current_folder(modules):
        outcomes = parallel(delayed(call)(*arguments) for call, *arguments in calls)
    yield from outcomes


def _travelling(task: Task) -> Task:
    """Leave the way to make heads behind, which may hold anything; the head itself is made already."""
    return replace(task, candidate=replace(task.candidate, make=str))


def _attempt_stored(estimator: Any, task: Task, stored: StoredRows) -> Outcome:
    return _attempt(estimator, task, stored.open())


def _attempt(estimator: Any, task: Task, material: Material) -> Outcome:
    """Fit and score one head, and say what it warned of."""
    with _listening() as told:
        outcome = _try(estimator, task, material)
    outcome.told.extend(told)
    return outcome


def _try(estimator: Any, task: Task, material: Material) -> Outcome:
    """Fit and score one head; an error of the kind a fit may end with is its outcome."""
    start = time.perf_counter()
    try:
        material.fit([estimator], [task.plan])
    except _FIT_ERRORS as error:
        if isinstance(error, InvalidInputError) and isinstance(material, ColumnMaterial):
            raise  # a parameter out of range is the caller's, and the same for every fit
        return _failed(task.record, _one_line(error), time.perf_counter() - start)
    return _scored(estimator, task, material, time.perf_counter() - start)


def _scored(estimator: Any, task: Task, material: Material, duration_s: float) -> Outcome:
    message = getattr(estimator, "failed_", None) or ""
    if message:
        return _failed(task.record, message, duration_s)
    record = replace(task.record, duration_s=duration_s, **_used(estimator, task.candidate))
    record, predictions, hits = score(record, estimator, material, task.plan)
    return Outcome(record, estimator if predictions else None, predictions, hits)


def _used(estimator: Any, candidate: Candidate) -> dict[str, Any]:
    """Return the values of recorded parameters a head was fitted with; one it chose itself ends in ``_``."""
    found: dict[str, Any] = {}
    for name in candidate.recorded:
        value = getattr(estimator, f"{name}_", getattr(estimator, name, None))
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _failed(record: FitResult, message: str, duration_s: float = 0.0) -> Outcome:
    return Outcome(replace(record, status="failed", message=message, duration_s=duration_s))


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what fits warn of; warnings of another kind are passed on."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        yield told
    for one in caught:
        if issubclass(one.category, FitWarning):
            told.append(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
