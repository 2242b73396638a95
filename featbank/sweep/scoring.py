"""What a fitted head is worth: accuracies, calibration, and its answers row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.metrics import (
    catalogue,
    expected_calibration_error,
    fit_temperature,
    top_k_accuracy,
    top_k_hits,
)
from featbank.sweep.features import CutFeatures, Projected
from featbank.sweep.records import Fit, Hits, Predictions, history_of, with_val
from featbank.sweep.spec import judged_split

__all__ = ["score"]

Labels = NDArray[np.int64]
#: Logarithms of probabilities end here: one of 0 has none.
_TINY = float(np.finfo(np.float64).tiny)


def score(fit: Fit, features: CutFeatures, projected: Projected | None, metrics: Sequence[str] = ()) -> Fit:
    """Fill in what a fitted head reached; one whose probabilities are not numbers has failed."""
    if fit.draw is None:
        raise ValueError("a fit without its draw cannot be scored")
    found: dict[str, Any] = {}
    head, ending = fit.estimator, "" if projected is None else "_columns"
    judged = judged_split(features.rows)
    others: dict[str, float] = {}
    of_split: dict[str, tuple[Labels, NDArray[np.float64]]] = {}
    for split, X, y in features.parts(fit.draw, projected):
        y_pred, scores = _answers(head, X, ending, features.n_averaged)
        if scores is not None and not np.isfinite(scores).all():
            message = "the head's probabilities are not finite"
            return replace(fit.without_head(), status="failed", message=message)
        prefix = "" if split == "test" else f"{split}_"
        found[f"{prefix}top1"] = float(np.mean(y_pred == y))
        if split in (judged, "val"):
            labels = None if scores is None else head.classes_
            for name in metrics:
                value = catalogue.evaluate(name, y, y_pred, scores, labels=labels)
                if value is not None:
                    others[name if split == judged else f"val_{name}"] = value
        if scores is not None:
            of_split[split] = y, scores
            found[f"{prefix}top5"] = top_k_accuracy(y, scores, k=5, labels=head.classes_)
        if split == judged:
            found["predictions"] = _predictions(split, features.rows[split], y, y_pred, scores, head)
            top5 = None if scores is None else top_k_hits(y, scores, k=5, labels=head.classes_)
            found["hits"] = Hits(split, y_pred == y, top5)
    found["metrics"] = {name: others[name] for name in with_val(metrics) if name in others}
    found |= _calibration(of_split, head) | _epochs(head)
    return replace(fit, **found)


def _calibration(of_split: Mapping[str, tuple[Labels, NDArray[np.float64]]], head: Any) -> dict[str, float]:
    """Return the calibration error on test rows, as it is and at the temperature validation rows ask for.

    A temperature divides logits: shares of votes, with their zeros, have none, and are left as they are.
    """
    if "test" not in of_split:
        return {}
    y, scores = of_split["test"]
    found = {"ece": expected_calibration_error(y, scores, labels=head.classes_)}
    if "val" not in of_split or not _has_logits(head):
        return found
    y_val, val_scores = of_split["val"]
    known = np.isin(y_val, head.classes_)
    if not known.any():
        return found
    columns = np.searchsorted(head.classes_, y_val[known])
    temperature = fit_temperature(columns, np.log(np.maximum(val_scores[known], _TINY)))
    logits = np.log(np.maximum(scores, _TINY)) / temperature
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled = raised / raised.sum(axis=1, keepdims=True)
    error = expected_calibration_error(y, scaled, labels=head.classes_)
    return {**found, "ece_scaled": error, "calibration_temperature": temperature}


def _has_logits(head: Any) -> bool:
    from featbank.heads import NeighborsClassifier

    return hasattr(head, "decision_function") and not isinstance(head, NeighborsClassifier)


def _answers(
    head: Any, X: NDArray[Any], ending: str, n_views: int
) -> tuple[Labels, NDArray[np.float64] | None]:
    """Return the predicted class of each image, and probabilities where the head has them.

    Those of several views, which stand in blocks of rows, are averaged.
    """
    predict = getattr(head, f"predict{ending}")
    probabilities = getattr(head, f"predict_proba{ending}", None)
    if probabilities is None or not hasattr(head, "classes_"):
        return np.asarray(predict(X)).astype(np.int64), None
    scores = np.asarray(probabilities(X), dtype=np.float64)
    if n_views > 1:
        scores = scores.reshape(n_views, len(X) // n_views, -1).mean(axis=0)
        return np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64), scores
    best = scores.max(axis=1, keepdims=True)
    y_pred = np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64)
    tied = np.flatnonzero((scores == best).sum(axis=1) > 1)
    if len(tied):  # how ties are broken is the head's affair: neighbours ask which of the classes is nearer
        y_pred[tied] = predict(X[tied])
    return y_pred, scores


def _predictions(
    split: str, rows: Labels, y: Labels, y_pred: Labels, scores: NDArray[np.float64] | None, head: Any
) -> Predictions:
    if scores is None:
        return Predictions(split, rows, y, y_pred)
    column = {int(code): at for at, code in enumerate(head.classes_)}
    at_row = np.arange(len(y))
    p_pred = scores[at_row, [column[int(code)] for code in y_pred]]
    known = np.array([int(code) in column for code in y])
    p_true = np.where(known, scores[at_row, [column.get(int(code), 0) for code in y]], 0.0)
    return Predictions(split, rows, y, y_pred, p_true, p_pred)


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
