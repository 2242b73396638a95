"""What a fitted head is worth: accuracies, calibration, and its answers row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.metrics import catalogue, fit_temperature, top_k_hits
from featbank.metrics.classification import calibration_error, columns_of
from featbank.sweep.features import CutFeatures, JudgedRows, Projected
from featbank.sweep.records import Fit, Hits, Predictions, history_of, with_val
from featbank.sweep.spec import judged_split

__all__ = ["score"]

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Probabilities that are looked at at once, 256 MB: each row is told by itself.
_BLOCK = 2**25
#: And values of rows, 16 MB, where they are wide: heads take them in float64, too.
_ROWS_BLOCK = 2**22
#: Logarithms of probabilities end here: one of 0 has none.
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class _Answers:
    """What a head says of rows: its answers and, where it has probabilities, what they make of each row."""

    y_pred: Labels
    p_pred: Floats | None = None
    p_true: Floats | None = None
    top5: NDArray[np.bool_] | None = None
    #: The largest probability of each row, and whether it is the true class's; once more at the temperature.
    sure: tuple[Floats, NDArray[np.bool_]] | None = None
    sure_scaled: tuple[Floats, NDArray[np.bool_]] | None = None
    #: All of them, where something asks for them.
    scores: Floats | None = None


def score(fit: Fit, features: CutFeatures, projected: Projected | None, metrics: Sequence[str] = ()) -> Fit:
    """Fill in what a fitted head reached; one whose probabilities are not numbers has failed."""
    if fit.draw is None:
        raise ValueError("a fit without its draw cannot be scored")
    found: dict[str, Any] = {}
    head, ending = fit.estimator, "" if projected is None else "_columns"
    judged = judged_split(features.rows)
    others: dict[str, float] = {}
    temperature: float | None = None
    # the test rows at last: they are looked at through the temperature that the validation rows ask for
    parts = sorted(features.parts(fit.draw, projected), key=lambda part: part[0] == "test")
    has_test = parts[-1][0] == "test"
    for split, X, y in parts:
        tempers = split == "val" and has_test and _has_logits(head)
        keeps = tempers or (bool(metrics) and split in (judged, "val"))
        said = _ask(head, X, y, ending, features.n_averaged, keeps, temperature if split == "test" else None)
        if said is None:
            message = "the head's probabilities are not finite"
            return replace(fit.without_head(), status="failed", message=message)
        prefix = "" if split == "test" else f"{split}_"
        found[f"{prefix}top1"] = float(np.mean(said.y_pred == y))
        if split in (judged, "val"):
            labels = None if said.scores is None else head.classes_
            for name in metrics:
                value = catalogue.evaluate(name, y, said.y_pred, said.scores, labels=labels)
                if value is not None:
                    others[name if split == judged else f"val_{name}"] = value
        if said.top5 is not None:
            found[f"{prefix}top5"] = float(np.mean(said.top5))
        if split == judged:
            rows = features.rows[split]
            found["predictions"] = Predictions(split, rows, y, said.y_pred, said.p_true, said.p_pred)
            found["hits"] = Hits(split, said.y_pred == y, said.top5)
        if tempers and said.scores is not None:
            temperature = _temperature(y, said.scores, head.classes_)
        if split == "test" and said.sure is not None:
            found["ece"] = calibration_error(*said.sure)
            if said.sure_scaled is not None:
                found["ece_scaled"] = calibration_error(*said.sure_scaled)
                found["calibration_temperature"] = temperature
    found["metrics"] = {name: others[name] for name in with_val(metrics) if name in others}
    return replace(fit, **found | _epochs(head))


def _temperature(y: Labels, scores: Floats, classes: Labels) -> float | None:
    """Return the temperature at which validation rows are told best; None where no row's class is known.

    A temperature divides logits: shares of votes, with their zeros, have none, and are left as they are.
    """
    known = np.isin(y, classes)
    if not known.any():
        return None
    columns = np.searchsorted(classes, y[known])
    return fit_temperature(columns, np.log(np.maximum(scores[known], _TINY)))


def _has_logits(head: Any) -> bool:
    from featbank.heads import NeighborsClassifier

    return hasattr(head, "decision_function") and not isinstance(head, NeighborsClassifier)


def _ask(
    head: Any, X: JudgedRows, y: Labels, ending: str, n_views: int, keeps: bool, temperature: float | None
) -> _Answers | None:
    """Return what a head says of rows, None if its probabilities are not numbers.

    It is asked of so many rows at once that their probabilities fit into memory: of 10,000 classes and as
    many rows they would take 800 MB, and wide rows more. Those of several views, which stand in blocks of
    rows, are averaged.
    """
    n_classes, width = max(1, len(getattr(head, "classes_", ()))), max(1, math.prod(X.shape[1:]))
    n_rows = max(1, min(_BLOCK // n_classes, _ROWS_BLOCK // width) // n_views)
    found: list[_Answers] = []
    for start in range(0, max(1, len(y)), n_rows):
        some = slice(start, start + n_rows)
        views = range(0, n_views * len(y), max(1, len(y)))
        parts = [X[view + start : view + min(start + n_rows, len(y))] for view in views]
        rows = parts[0] if n_views == 1 else np.concatenate(parts)
        y_pred, scores = _answers(head, rows, ending, n_views)
        if scores is None:
            found.append(_Answers(y_pred))
            continue
        if not np.isfinite(scores).all():
            return None
        found.append(_told(y[some], y_pred, scores, head.classes_, keeps, temperature))
    if len(found) == 1:
        return found[0]
    return _Answers(
        **{one.name: _joined([getattr(part, one.name) for part in found]) for one in fields(_Answers)}
    )


def _joined(parts: Sequence[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(some) for some in zip(*parts, strict=True))
    return np.concatenate(parts)


def _told(
    y: Labels, y_pred: Labels, scores: Floats, classes: Labels, keeps: bool, temperature: float | None
) -> _Answers:
    at_row = np.arange(len(y))
    column, known = columns_of(y, scores, classes)
    p_true = np.where(known, scores[at_row, column], 0.0)
    p_pred = scores[at_row, columns_of(y_pred, scores, classes)[0]]
    scaled = None
    if temperature is not None:
        logits = np.log(np.maximum(scores, _TINY)) / temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        scaled = _sure(y, raised / raised.sum(axis=1, keepdims=True), classes)
    top5 = top_k_hits(y, scores, k=5, labels=classes)
    return _Answers(
        y_pred, p_pred, p_true, top5, _sure(y, scores, classes), scaled, scores if keeps else None
    )


def _sure(y: Labels, scores: Floats, classes: Labels) -> tuple[Floats, NDArray[np.bool_]]:
    return scores.max(axis=1), np.asarray(classes)[scores.argmax(axis=1)] == y


def _answers(head: Any, X: NDArray[Any], ending: str, n_views: int) -> tuple[Labels, Floats | None]:
    """Return the predicted class of each image, and probabilities where the head has them."""
    predict = getattr(head, f"predict{ending}")
    probabilities = getattr(head, f"predict_proba{ending}", None)
    if ending and n_views == 1 and hasattr(head, "answer_columns"):
        y_pred, scores = head.answer_columns(X)
        return y_pred.astype(np.int64), scores
    # an estimator of others may work in place, as `StandardScaler(copy=False)` does
    own = X if ending else X.copy()
    if probabilities is None or not hasattr(head, "classes_"):
        return np.asarray(predict(own)).astype(np.int64), None
    scores = np.asarray(probabilities(own), dtype=np.float64)
    if n_views > 1:
        scores = scores.reshape(n_views, len(X) // n_views, -1).mean(axis=0)
        return np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64), scores
    best = scores.max(axis=1, keepdims=True)
    y_pred = np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64)
    tied = np.flatnonzero((scores == best).sum(axis=1) > 1)
    if len(tied):  # how ties are broken is the head's affair: neighbours ask which of the classes is nearer
        y_pred[tied] = predict(X[tied])
    return y_pred, scores


def _epochs(head: Any) -> dict[str, Any]:
    """Return the epochs of a head that has them, and its accuracies after the best and the last one."""
    history = history_of(head)
    n_epochs, best = len(history.get("train_loss", ())), getattr(head, "best_epoch_", None)
    if not n_epochs or not isinstance(best, int | np.integer) or not 0 <= best <= n_epochs:
        return {}
    found: dict[str, Any] = {"best_epoch": int(best), "n_epochs": n_epochs}
    for prefix, split in (("", "test"), ("val_", "val")):
        accuracy = history.get(f"{split}_accuracy")
        if accuracy is not None and best and len(accuracy) == n_epochs:
            found[f"best_{prefix}top1"] = float(accuracy[best - 1])
            found[f"final_{prefix}top1"] = float(accuracy[-1])
    return found
