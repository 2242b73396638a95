"""Fitting and scoring all sizes and repeats of one head at one cut."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank import heads as head_catalogue
from featbank._registry import nearest
from featbank.errors import FitWarning, InvalidInputError
from featbank.metrics import expected_calibration_error, top_k_accuracy
from featbank.sweep.records import FitResult
from featbank.sweep.results import KeptHead, Predictions, SweepGroup

if TYPE_CHECKING:
    from featbank.heads import FeatureSpace

__all__ = ["Candidate", "Plan", "SplitRows", "fit_group", "make_candidates"]

#: What may go wrong in one fit without putting the others in doubt (numpy's LinAlgError is a ValueError).
_FIT_ERRORS = (ArithmeticError, MemoryError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Candidate:
    """A head to be fitted: its name, how to make one from a seed, whether it is trained in stacks."""

    name: str
    make: Callable[[int], Any]
    stacked: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """One fit to be done: `rows` are positions among the training rows."""

    n_per_class: float
    repeat: int
    rows: NDArray[np.int64]
    seed: int


@dataclass(frozen=True, eq=False)
class Columns:
    """A feature space fitted on the whole training split, and each split's rows in it."""

    space: FeatureSpace
    Z: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The labelled rows of each split at one cut; `rows` are their numbers in the manifest."""

    features: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[np.int64]]
    rows: Mapping[str, NDArray[np.int64]]
    _columns: dict[tuple[bool, Any], Columns] = field(default_factory=dict)

    def columns(self, standardize: bool, rotate: Any) -> Columns:
        """Return the rows in a feature space, made once for all heads that agree on it."""
        from featbank.heads import FeatureSpace

        known = self._columns.get((standardize, rotate))
        if known is None:
            space = FeatureSpace(standardize=standardize, rotate=rotate)
            Z = {"train": space.fit_transform(self.features["train"])}
            Z |= {name: space.transform(X) for name, X in self.features.items() if name != "train"}
            known = self._columns[standardize, rotate] = Columns(space, Z)
        return known

    @property
    def judged(self) -> str:
        """The split predictions are kept of."""
        return "test" if "test" in self.features else "val"


@dataclass(frozen=True, eq=False)
class Attempt:
    """What became of one fit: an estimator, or why there is none."""

    estimator: Any
    message: str
    duration_s: float


def make_candidates(heads: Sequence[Any], params: Mapping[str, Mapping[str, Any]]) -> list[Candidate]:
    """Turn names and objects into candidates; names and parameters are checked before any fit."""
    candidates: dict[str, Candidate] = {}
    for asked in heads:
        name, made = _name_of(asked)
        if made is None:
            from featbank.heads.catalogue import canonical

            name = canonical(name)
            given = dict(params.get(name, params.get(str(asked), {})))
            if "random_state" in given:
                raise InvalidInputError(
                    f"head {name!r}: random_state belongs to the sweep, not to head_params"
                )
            candidate = Candidate(name, _maker(name, given), stacked=True)
            candidate.make(0)
        else:
            candidate = Candidate(name, _cloner(made), stacked=hasattr(made, "predict_columns"))
        if name in candidates:
            raise InvalidInputError(
                f"head {name!r} is asked for twice; give one of them as (name, estimator)"
            )
        candidates[name] = candidate
    if not candidates:
        raise InvalidInputError("no head was asked for; name at least one, e.g. 'softmax'")
    known = [*candidates, *(one for one in heads if isinstance(one, str))]
    strange = [one for one in params if one not in known]
    if strange:
        raise InvalidInputError(
            f"head_params for {strange[0]!r}, which is not fitted; fitted: {nearest(strange[0], known)}"
        )
    return list(candidates.values())


def _name_of(asked: Any) -> tuple[str, Any]:
    if isinstance(asked, str):
        return asked, None
    if isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], str):
        name, made = asked
    else:
        name, made = type(asked).__name__, asked
    if not (hasattr(made, "fit") and hasattr(made, "predict")):
        raise InvalidInputError(
            f"head {made!r} has no fit and predict; give a name, an estimator or (name, estimator)"
        )
    return name, made


def _maker(name: str, params: Mapping[str, Any]) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        return head_catalogue.make(name, random_state=seed, **params)

    return make


def _cloner(made: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        if not hasattr(made, "get_params"):
            return copy.deepcopy(made)
        from sklearn.base import clone

        fresh = clone(made)
        if "random_state" in fresh.get_params():
            fresh.set_params(random_state=seed)
        return fresh

    return make


def fit_group(
    candidate: Candidate,
    rows: SplitRows,
    plans: Sequence[Plan],
    cut: str,
    temperature: float | None,
    *,
    keep: Literal["best", "all", "none"],
    n_jobs: int | None,
    notes: list[str],
) -> SweepGroup:
    """Fit and score a head for every plan; what it warns of is passed on and noted."""
    where = f"{cut}{'' if temperature is None else f' at T={temperature:g}'}, {candidate.name}"
    with _told(where, notes):
        attempts = (
            _fit_stacked(candidate, rows, plans)
            if candidate.stacked
            else _fit_objects(candidate, rows, plans, n_jobs)
        )
    n_features = int(np.prod(rows.features["train"].shape[1:]))
    fits, fitted = [], []
    for plan, attempt in zip(plans, attempts, strict=True):
        record = FitResult(
            cut=cut,
            head=candidate.name,
            temperature=temperature,
            n_per_class=plan.n_per_class,
            repeat=plan.repeat,
            n_train=len(plan.rows),
            n_features=n_features,
            random_state=plan.seed,
            duration_s=attempt.duration_s,
        )
        record, predictions = _score(record, attempt, rows, plan, stacked=candidate.stacked)
        fits.append(record)
        if predictions is not None:
            fitted.append((record, attempt.estimator, predictions))
    kept = []
    for record, estimator, predictions in _chosen(fitted, keep):
        # The copy of a rotated softmax head carries weights on features, not the training rows they span.
        light = copy.copy(estimator) if candidate.stacked else estimator
        kept.append(KeptHead(record, light, _history(estimator), predictions))
    return SweepGroup(fits, kept)


@contextmanager
def _told(where: str, notes: list[str]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        yield
    for one in caught:
        if issubclass(one.category, FitWarning):
            message = f"{where}: {one.message}"
            notes.append(message)
            warnings.warn(message, one.category, stacklevel=5)
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _fit_stacked(candidate: Candidate, rows: SplitRows, plans: Sequence[Plan]) -> list[Attempt]:
    estimators = [candidate.make(plan.seed) for plan in plans]
    start = time.perf_counter()
    try:
        columns = rows.columns(estimators[0].standardize, estimators[0].rotate)
    except _FIT_ERRORS as error:  # a cut that says nothing, such as one where all rows are equal
        return [Attempt(None, _one_line(error), 0.0) for _ in plans]
    try:
        _stack(estimators, rows, plans, columns)
    except InvalidInputError:
        raise  # a parameter out of range is the caller's, and the same for every fit
    except _FIT_ERRORS:
        return [_fit_alone(candidate, rows, plan, columns) for plan in plans]
    each = (time.perf_counter() - start) / len(plans)
    return [Attempt(one, getattr(one, "failed_", None) or "", each) for one in estimators]


def _stack(estimators: Sequence[Any], rows: SplitRows, plans: Sequence[Plan], columns: Columns) -> None:
    from featbank.heads import fit_stack

    fit_stack(
        estimators,
        columns.Z["train"],
        rows.labels["train"],
        [plan.rows for plan in plans],
        space=columns.space,
        Z_val=columns.Z.get("val"),
        y_val=rows.labels["val"] if "val" in columns.Z else None,
        Z_test=columns.Z.get("test"),
        y_test=rows.labels["test"] if "test" in columns.Z else None,
    )


def _fit_alone(candidate: Candidate, rows: SplitRows, plan: Plan, columns: Columns) -> Attempt:
    estimator = candidate.make(plan.seed)
    start = time.perf_counter()
    try:
        _stack([estimator], rows, [plan], columns)
    except _FIT_ERRORS as error:
        return Attempt(None, _one_line(error), time.perf_counter() - start)
    return Attempt(estimator, getattr(estimator, "failed_", None) or "", time.perf_counter() - start)


def _fit_objects(
    candidate: Candidate, rows: SplitRows, plans: Sequence[Plan], n_jobs: int | None
) -> list[Attempt]:
    X = rows.features["train"]
    y = rows.labels["train"]

    def fit(plan: Plan) -> Attempt:
        estimator = candidate.make(plan.seed)
        start = time.perf_counter()
        try:
            estimator.fit(X[plan.rows].astype(np.float32), y[plan.rows])
        except _FIT_ERRORS as error:
            return Attempt(None, _one_line(error), time.perf_counter() - start)
        return Attempt(estimator, "", time.perf_counter() - start)

    if n_jobs is None or n_jobs == 1:
        return [fit(plan) for plan in plans]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=n_jobs, prefer="threads")(delayed(fit)(plan) for plan in plans))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _score(
    record: FitResult, attempt: Attempt, rows: SplitRows, plan: Plan, *, stacked: bool
) -> tuple[FitResult, Predictions | None]:
    """Fill in what a fit reached; a head whose probabilities are not numbers has failed."""
    if attempt.message:
        return replace(record, status="failed", message=attempt.message), None
    head = attempt.estimator
    inputs = rows.columns(head.standardize, head.rotate).Z if stacked else rows.features
    found: dict[str, Any] = {}
    predictions = None
    for split, given in inputs.items():
        X, y = (
            (given[plan.rows], rows.labels[split][plan.rows])
            if split == "train"
            else (given, rows.labels[split])
        )
        y_pred, scores = _answers(head, X if stacked else X.astype(np.float32), stacked=stacked)
        if scores is not None and not np.isfinite(scores).all():
            return replace(record, status="failed", message="the head's probabilities are not finite"), None
        prefix = "" if split == "test" else f"{split}_"
        found[f"{prefix}top1"] = float(np.mean(y_pred == y))
        if scores is not None:
            found[f"{prefix}top5"] = top_k_accuracy(y, scores, k=5, labels=head.classes_)
            if split == "test":
                found["ece"] = expected_calibration_error(y, scores, labels=head.classes_)
        if split == rows.judged:
            predictions = _predictions(split, rows.rows[split], y, y_pred, scores, head)
    return replace(record, **found, **_epochs(head)), predictions


def _answers(
    head: Any, X: NDArray[Any], *, stacked: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Return the predicted class of each row, and probabilities where the head has them."""
    ending = "_columns" if stacked else ""
    predict = getattr(head, f"predict{ending}")
    probabilities = getattr(head, f"predict_proba{ending}", None)
    if probabilities is None or not hasattr(head, "classes_"):
        return np.asarray(predict(X)).astype(np.int64), None
    scores = np.asarray(probabilities(X), dtype=np.float64)
    best = scores.max(axis=1, keepdims=True)
    y_pred = np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64)
    tied = np.flatnonzero((scores == best).sum(axis=1) > 1)
    if len(tied):  # how ties are broken is the head's affair: neighbours ask which of the classes is nearer
        y_pred[tied] = predict(X[tied])
    return y_pred, scores


def _predictions(
    split: str,
    rows: NDArray[np.int64],
    y: NDArray[np.int64],
    y_pred: NDArray[np.int64],
    scores: NDArray[np.float64] | None,
    head: Any,
) -> Predictions:
    if scores is None:
        return Predictions(split, rows, y, y_pred)
    column = {int(code): at for at, code in enumerate(head.classes_)}
    at_row = np.arange(len(y))
    p_pred = scores[at_row, [column[int(code)] for code in y_pred]]
    known = np.array([int(code) in column for code in y])
    p_true = np.where(known, scores[at_row, [column.get(int(code), 0) for code in y]], 0.0)
    return Predictions(split, rows, y, y_pred, p_true, p_pred)


def _history(head: Any) -> dict[str, list[float]]:
    return {name: np.asarray(values).tolist() for name, values in getattr(head, "history_", {}).items()}


def _epochs(head: Any) -> dict[str, Any]:
    """Return the epochs of a head that has them, and its accuracies after the best and the last one."""
    history = _history(head)
    if not history.get("train_loss"):
        return {}
    best = int(head.best_epoch_)
    found: dict[str, Any] = {"best_epoch": best, "n_epochs": len(history["train_loss"])}
    for prefix, split in (("", "test"), ("val_", "val")):
        accuracy = history.get(f"{split}_accuracy")
        if accuracy and best:
            found[f"best_{prefix}top1"] = accuracy[best - 1]
            found[f"final_{prefix}top1"] = accuracy[-1]
    return found


def _chosen(fitted: list[Any], keep: Literal["best", "all", "none"]) -> list[Any]:
    if keep == "all" or not fitted or keep == "none":
        return fitted if keep == "all" else []
    largest = max(record.n_per_class for record, _, _ in fitted)
    at_largest = [one for one in fitted if one[0].n_per_class == largest]
    # max takes the first of equals: the earliest repeat, and so always where nothing was validated.
    return [max(at_largest, key=lambda one: one[0].val_top1 or 0.0)]
