"""Scores: how good answers are by class and by rank, confusion, calibration; by name for a sweep.

Another package adds one by an entry point; one's own needs none, ``"my_module:worst_class"`` is its name.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._process import import_scipy
from featbank._registry import Registry, asked_by, from_place, own_folders, source_digest
from featbank.errors import InvalidInputError, MissingPackageError, one_line
from featbank.metrics.learning_curve import Floats, check_confidence

__all__ = [
    "ClassScores",
    "balanced_accuracy",
    "bounds",
    "canonical",
    "check_columns",
    "check_scores",
    "cohen_kappa",
    "columns_of",
    "confusion_cells",
    "confusion_matrix",
    "evaluate",
    "expected_calibration_error",
    "fit_temperature",
    "less_is_better",
    "log_loss",
    "macro_f1",
    "made_by",
    "mean_text",
    "most_confused",
    "names",
    "per_class_accuracy",
    "per_class_scores",
    "percent",
    "roc_auc",
    "score_text",
    "scores_of_counts",
    "spelling",
    "top_k_accuracy",
    "top_k_hits",
    "worst_cells",
]

#: Functions of true and predicted class codes that return a number in [0, 1], larger for better. Another
#: package adds one by an entry point of this group. One whose second parameter is called ``probabilities``
#: gets these, and ``labels=`` the class code of each column.
_metrics: Registry[Callable[..., float]] = Registry("metric", group="featbank.metrics")
for _name in ("balanced_accuracy", "macro_f1", "cohen_kappa", "roc_auc", "log_loss"):
    _metrics.register_place(_name, f"featbank.metrics.catalogue:{_name}")
#: Calibration errors, which fits have beside their accuracies.
_CALIBRATION = ("ece", "ece_scaled")
#: An interval whose sides differ by no more than this is even.
_EVEN = 1e-9
#: What is no share: from where to where it goes. Of a loss less is better.
_RANGES = {"cohen_kappa": (-1.0, 1.0), "log_loss": (0.0, math.inf)}


def names() -> list[str]:
    """List the names of the scores, those of other packages last.

    Examples
    --------
    >>> names()[:2]
    ['balanced_accuracy', 'macro_f1']
    """
    return _metrics.names()


def canonical(name: str) -> str:
    """Return the name of a score.

    Raises
    ------
    UnknownNameError
        If nobody has registered it.
    InvalidInputError
        If there is no function at ``"module:function"``, or it takes something else, or the name is what
        another score is called.
    """
    if not _is_own(name):
        name = _metrics.canonical(name)
    if name.startswith("val_") or name in _CALIBRATION:
        whose = "module" if _is_own(name) else "plug-in"
        raise InvalidInputError(
            f"{_asked(name)} has a name that featbank gives itself: 'val_' begins scores of "
            f"validation rows, and ece and ece_scaled are calibration errors; rename the {whose}"
        )
    if not _is_own(name):
        return name
    function = _function(name)
    if not callable(function):
        raise InvalidInputError(
            f"{_asked(name)} is {reprlib.repr(function)}, which is no function; give {_give()}"
        )
    try:
        inspect.signature(function).bind(None, None, **({"labels": None} if _wants_shares(function) else {}))
    except TypeError as error:
        raise InvalidInputError(
            f"{_asked(name)} takes {inspect.signature(function)}, and is called with (y_true, "
            "y_pred), or (y_true, probabilities, labels=...) if its second is called probabilities"
        ) from error
    except ValueError:  # one of compiled code, which does not say what it takes
        pass
    return name


def _asked(name: str) -> str:
    return f"metric {name!r}{asked_by('--metric')}"


def _give() -> str:
    return f"module:function of a module {own_folders()} or installed, such as my_module:worst_class"


def _is_own(name: str) -> bool:
    return ":" in name


def _function(name: str) -> Callable[..., float]:
    if _is_own(name):
        found: Callable[..., float] = from_place(name, _asked(name), _give())
        return found
    return _metrics.get(name)


def _wants_shares(function: Callable[..., float]) -> bool:
    try:
        return list(inspect.signature(function).parameters)[1:2] == ["probabilities"]
    except ValueError:
        return False


def made_by(name: str) -> str | None:
    """Return the package and version that a score comes from, or the source; None for featbank's own."""
    if _is_own(name):
        return f"source {source_digest(_function(name))}"
    return _metrics.made_by(name)


def bounds(name: str) -> tuple[float, float]:
    """Return the least and the most that a score can be; what may be more than 1 is a loss, and no share.

    ``"val_"`` before a name is the same score of validation rows.

    Examples
    --------
    >>> bounds("macro_f1"), bounds("log_loss")
    ((0.0, 1.0), (0.0, inf))
    """
    return _RANGES.get(name.removeprefix("val_"), (0.0, 1.0))


def less_is_better(name: str) -> bool:
    """Say whether the best has least of a score, which is so of losses and of calibration errors.

    Examples
    --------
    >>> less_is_better("log_loss"), less_is_better("ece"), less_is_better("val_top1")
    (True, True, False)
    """
    return name in _CALIBRATION or bounds(name)[1] > 1


def spelling(name: str) -> tuple[str, float, int]:
    """Return the unit that a score is written in, by what it is multiplied, and its digits.

    Examples
    --------
    >>> spelling("top1"), spelling("log_loss")
    ((' in %', 100.0, 1), ('', 1.0, 3))
    """
    return ("", 1.0, 3) if bounds(name)[1] > 1 else (" in %", 100.0, 1)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, ``"–"`` where it is not known.

    Examples
    --------
    >>> percent(0.9574), percent(0.9574, 2), percent(None)
    ('95.7 %', '95.74 %', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def score_text(value: float | None, name: str) -> str:
    """Return a score as it is written, a share in percent; ``"–"`` where it is not known.

    Examples
    --------
    >>> score_text(0.9574, "macro_f1"), score_text(0.31, "log_loss"), score_text(None, "top1")
    ('95.7 %', '0.310', '–')
    """
    unit, _, digits = spelling(name)
    if unit or value is None:
        return percent(value, digits)
    return f"{value:.{digits}f}"


def mean_text(mean: float, ends: tuple[float, float] | None, name: str, *, digits: int | None = None) -> str:
    """Return a mean as it stands in a table, with the half width of its interval, or its ends.

    Ends are told of an interval that is uneven, as one that 0 or 100 % cuts off: ± would promise more than
    there is.

    Examples
    --------
    >>> mean_text(0.958, (0.948, 0.968), "top1"), mean_text(0.958, (0.779, 1.0), "top1")
    ('95.8 ±1.0', '95.8 [77.9, 100.0]')
    >>> mean_text(0.958, None, "macro_f1"), mean_text(0.31, (0.3, 0.32), "log_loss")
    ('95.8', '0.310 ±0.010')
    """
    _, factor, usual = spelling(name)
    n = usual if digits is None else digits
    said = f"{factor * mean:.{n}f}"
    if ends is None:
        return said
    low, high = ends
    if abs(high + low - 2 * mean) > _EVEN:
        return f"{said} [{factor * low:.{n}f}, {factor * high:.{n}f}]"
    return f"{said} ±{factor * (high - mean):.{n}f}"


def evaluate(
    name: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    probabilities: ArrayLike | None = None,
    *,
    labels: ArrayLike | None = None,
) -> float | None:
    """Return a score; None where it needs probabilities and there are none, or where it is not defined.

    Parameters
    ----------
    name : str
        One of `names`, or ``"module:function"``.
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes.
    probabilities : array-like of float, shape (n_samples, n_classes), optional
        Of each class.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column of `probabilities`; 0, 1, ... by default.

    Raises
    ------
    InvalidInputError, MissingPackageError
        If a function of one's own, or of another package, fails or gives no number within `bounds`.

    Examples
    --------
    >>> evaluate("balanced_accuracy", [0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    function, found = _function(name), float("nan")
    mend = "mend the function" if _is_own(name) else "mend or uninstall the package that registers it"
    kind = InvalidInputError if _is_own(name) else MissingPackageError
    try:
        if not _wants_shares(function):
            found = function(y_true, y_pred)
        elif probabilities is not None:
            found = function(y_true, probabilities, labels=labels)
    except (Exception, SystemExit) as error:  # code of the user's, which may raise anything
        if made_by(name) is None:
            raise
        said = f"{type(error).__name__}: {one_line(error)}"
        raise kind(f"metric {name!r} failed on {len(np.asarray(y_true))} rows ({said}); {mend}") from error
    low, high = bounds(name)
    if isinstance(found, float) and math.isnan(found):
        return None
    if not isinstance(found, float | int | np.floating | np.integer) or not low <= found <= high:
        shape = getattr(found, "shape", ())
        gave = f"an array of shape {shape}" if shape else reprlib.repr(found)
        raise kind(f"metric {name!r} gave {gave}, which is no number from {low:g} to {high:g}; {mend}")
    return float(found)


def check_scores(y_true: ArrayLike, scores: ArrayLike, name: str) -> tuple[NDArray[np.int64], Floats]:
    """Check that labels and scores fit; labels without a column are the caller's affair."""
    y = np.asarray(y_true)
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or y.shape != (matrix.shape[0],):
        raise InvalidInputError(
            f"{name} must have shape (n_samples, n_classes) and y_true (n_samples,), "
            f"got {matrix.shape} and {y.shape}"
        )
    if not len(y) or not matrix.shape[1]:
        raise InvalidInputError(f"{name} of shape {matrix.shape} holds nothing to score")
    if np.isnan(matrix).any():
        raise InvalidInputError(f"{name} holds NaN; the head that gave it has not learned")
    return y.astype(np.int64), matrix


def check_columns(y_true: ArrayLike, scores: ArrayLike, name: str) -> tuple[NDArray[np.int64], Floats]:
    """Return both as arrays, checked: y must be columns of the scores."""
    y, matrix = check_scores(y_true, scores, name)
    if y.min() < 0 or y.max() >= matrix.shape[1]:
        raise InvalidInputError(
            f"y_true holds a class outside 0..{matrix.shape[1] - 1}, the columns of {name}"
        )
    return y, matrix


def columns_of(
    y: NDArray[np.int64], matrix: Floats, labels: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the column of each row's class, and whether it has one."""
    codes = np.arange(matrix.shape[1]) if labels is None else np.asarray(labels)
    if codes.shape != (matrix.shape[1],):
        raise InvalidInputError(
            f"labels must have one entry for each of {matrix.shape[1]} columns, got {codes.shape}"
        )
    order = np.argsort(codes)
    column = order[np.searchsorted(codes, y, sorter=order).clip(max=len(codes) - 1)]
    return column, codes[column] == y


def top_k_accuracy(
    y_true: ArrayLike, scores: ArrayLike, *, k: int = 1, labels: ArrayLike | None = None
) -> float:
    """Return the share of rows whose true class is among the `k` best scores.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        True class codes.
    scores : array-like of float, shape (n_samples, n_classes)
        Probabilities, logits or distances' negatives; larger is better. Of equal scores the earlier column
        counts as better, as `numpy.argmax` has it, so a head that gives every class the same score does
        not score 1.
    k : int, default=1
        How many guesses are allowed; with ``k >= n_classes`` every known class is a hit.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column (a head's ``classes_``); 0, 1, ... by default. A row whose class has no
        column is a miss.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InvalidInputError
        If shapes do not fit, `k` is below 1, or a score is NaN.

    Examples
    --------
    >>> scores = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]]
    >>> top_k_accuracy([0, 2], scores), top_k_accuracy([0, 2], scores, k=3)
    (0.5, 1.0)
    """
    return float(np.mean(top_k_hits(y_true, scores, k=k, labels=labels)))


def top_k_hits(
    y_true: ArrayLike, scores: ArrayLike, *, k: int = 1, labels: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Say of each row whether its true class is among the `k` best scores; see `top_k_accuracy`.

    Returns
    -------
    ndarray of bool, shape (n_samples,)

    Examples
    --------
    >>> top_k_hits([0, 2], [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]]).tolist()
    [True, False]
    """
    y, matrix = check_scores(y_true, scores, "scores")
    if k < 1:
        raise InvalidInputError(f"k={k!r} must be at least 1")
    column, known = columns_of(y, matrix, labels)
    own = np.take_along_axis(matrix, column[:, None], axis=1)  # (n_samples, 1)
    earlier = np.arange(matrix.shape[1])[None, :] < column[:, None]
    better = np.sum((matrix > own) | ((matrix == own) & earlier), axis=1)
    hits: NDArray[np.bool_] = known & (better < k)
    return hits


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Count the rows of each true class by predicted class.

    Parameters
    ----------
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes in 0..n_classes-1.
    n_classes : int
        Number of classes.

    Returns
    -------
    ndarray of int64, shape (n_classes, n_classes)
        Row = true class, column = predicted class.

    Raises
    ------
    InvalidInputError
        If the lengths differ or a code is out of range.

    Examples
    --------
    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    matrix = np.zeros((n_classes, n_classes), dtype=np.int64)
    true, pred, counts = confusion_cells(y_true, y_pred, n_classes)
    matrix[true, pred] = counts
    return matrix


def confusion_cells(
    y_true: ArrayLike, y_pred: ArrayLike, n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return what `confusion_matrix` holds beside zeros: true class, predicted class and count of each cell.

    In the order of rows and columns. Of 10,000 classes the matrix takes 800 MB.

    Raises
    ------
    InvalidInputError
        As `confusion_matrix`.

    Examples
    --------
    >>> [one.tolist() for one in confusion_cells([0, 0, 1], [0, 1, 1], 2)]
    [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    true, pred = np.asarray(y_true), np.asarray(y_pred)
    if true.ndim != 1 or true.shape != pred.shape:
        raise InvalidInputError(f"y_true and y_pred must be equally long, got {true.shape} and {pred.shape}")
    for name, codes in (("y_true", true), ("y_pred", pred)):
        if codes.size and not (codes.min() >= 0 and codes.max() < n_classes):
            raise InvalidInputError(f"{name} holds a class outside 0..{n_classes - 1}")
    flat, counts = np.unique(true.astype(np.int64) * n_classes + pred.astype(np.int64), return_counts=True)
    return *np.divmod(flat, n_classes), counts.astype(np.int64)


def per_class_accuracy(confusion: ArrayLike) -> Floats:
    """Return the share of each true class that was recognised.

    Parameters
    ----------
    confusion : array-like of int, shape (n_classes, n_classes)
        As `confusion_matrix` gives it.

    Returns
    -------
    ndarray of float64, shape (n_classes,)
        In [0, 1]; NaN for a class without rows, which has no accuracy.

    Examples
    --------
    >>> per_class_accuracy([[3, 1], [0, 2]]).tolist()
    [0.75, 1.0]
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    total = matrix.sum(axis=1)
    accuracy: Floats = np.full(len(matrix), np.nan)
    np.divide(np.diag(matrix), total, out=accuracy, where=total > 0)
    return accuracy


def most_confused(confusion: ArrayLike, limit: int = 10) -> list[tuple[int, int, int]]:
    """List the pairs of classes that are most often taken for another, worst first.

    Parameters
    ----------
    confusion : array-like of int, shape (n_classes, n_classes)
        As `confusion_matrix` gives it.
    limit : int, default=10
        How many pairs at most.

    Returns
    -------
    list of (true class, predicted class, count)
        Only pairs with a count over 0; equal counts in the order of the classes.

    Examples
    --------
    >>> most_confused([[3, 1, 0], [0, 2, 4], [0, 0, 5]])
    [(1, 2, 4), (0, 1, 1)]
    """
    matrix = np.asarray(confusion, dtype=np.int64)
    true, pred = np.nonzero(matrix)
    return worst_cells(true, pred, matrix[true, pred], limit)


def worst_cells(
    true: NDArray[np.int64], pred: NDArray[np.int64], counts: NDArray[np.int64], limit: int
) -> list[tuple[int, int, int]]:
    """Return what `most_confused` does, of the cells of a matrix that are not zero, in their order."""
    wrong = np.flatnonzero(true != pred)
    worst = wrong[np.argsort(-counts[wrong], kind="stable")[:limit]]
    return list(zip(true[worst].tolist(), pred[worst].tolist(), counts[worst].tolist(), strict=True))


def _counted(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return how many rows each class has, was answered for, and was rightly answered for.

    Classes are those that have rows or were answered, in order.
    """
    y, answers = np.asarray(y_true), np.asarray(y_pred)
    if y.ndim != 1 or not y.size or y.shape != answers.shape:
        raise InvalidInputError(
            f"y_true and y_pred must be equally long, and not empty; got {y.shape} and {answers.shape}"
        )
    codes, at = np.unique(np.concatenate([y, answers]), return_inverse=True)
    true, answered = np.split(at, [len(y)])
    n_true, n_answered, n_right = (
        np.bincount(one, minlength=len(codes)).astype(np.float64)
        for one in (true, answered, true[true == answered])
    )
    return n_true, n_answered, n_right


def balanced_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the mean of the accuracies of all classes that have rows.

    Parameters
    ----------
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes.

    Returns
    -------
    float
        In [0, 1]; of even classes it is the accuracy.

    Examples
    --------
    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    n_true, _, n_right = _counted(y_true, y_pred)
    return float(np.mean(n_right[n_true > 0] / n_true[n_true > 0]))


def macro_f1(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the mean over all classes that have rows, or were answered, of 2 TP / (2 TP + FP + FN).

    Parameters
    ----------
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes.

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> round(macro_f1([0, 0, 0, 1], [0, 0, 0, 0]), 3)
    0.429
    """
    n_true, n_answered, n_right = _counted(y_true, y_pred)
    return float(np.mean(2 * n_right / (n_true + n_answered)))


def cohen_kappa(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return how far true and predicted classes agree beyond what chance would have them agree.

    Parameters
    ----------
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes.

    Returns
    -------
    float
        In [-1, 1]; 0 is chance. NaN where all are of one class and were answered so.

    References
    ----------
    Cohen: A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20, 1960.

    Examples
    --------
    >>> cohen_kappa([0, 0, 1, 1], [0, 0, 1, 0])
    0.5
    """
    n_true, n_answered, n_right = _counted(y_true, y_pred)
    n = float(n_true.sum())
    chance = float(n_true @ n_answered) / n**2
    return float("nan") if chance == 1 else float((n_right.sum() / n - chance) / (1 - chance))


@dataclass(frozen=True)
class ClassScores:
    """What one class came to.

    Parameters
    ----------
    n_true, n_answered, n_right : int
        Rows of the class, rows that were answered so, and those of both.
    recall, precision, f1 : float or None
        ``n_right / n_true``, ``n_right / n_answered``, and ``2 n_right / (n_true + n_answered)``, in [0, 1];
        None where that is nothing by nothing.
    recall_low, recall_high : float or None
        Wilson's interval of the recall, for other test images of this class.

    Examples
    --------
    >>> cat, dog = per_class_scores([[8, 2], [1, 9]])
    >>> cat.recall, round(cat.precision, 2), f"{cat.recall_low:.2f} to {cat.recall_high:.2f}"
    (0.8, 0.89, '0.49 to 0.94')
    """

    n_true: int
    n_answered: int
    n_right: int
    recall: float | None
    precision: float | None
    f1: float | None
    recall_low: float | None
    recall_high: float | None


def per_class_scores(confusion: ArrayLike, confidence: float = 0.95) -> list[ClassScores]:
    """Return recall with its interval, precision and F1 of each class.

    Parameters
    ----------
    confusion : array-like of int, shape (n_classes, n_classes)
        As `confusion_matrix` gives it.
    confidence : float, default=0.95
        Level of the intervals.

    Returns
    -------
    list of ClassScores

    References
    ----------
    Wilson: Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927.

    Examples
    --------
    >>> one, other = per_class_scores([[3, 1], [0, 0]])
    >>> one.recall, round(one.recall_low, 2), round(one.recall_high, 2), one.precision, other.recall
    (0.75, 0.3, 0.95, 1.0, None)
    """
    matrix = np.asarray(confusion, dtype=np.int64)
    return scores_of_counts(matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix), confidence)


def scores_of_counts(
    n_true: NDArray[np.int64],
    n_answered: NDArray[np.int64],
    n_right: NDArray[np.int64],
    confidence: float = 0.95,
) -> list[ClassScores]:
    """Return what `per_class_scores` does, of the counts of each class."""
    import_scipy()
    from scipy.special import ndtri

    check_confidence(confidence)
    z = float(ndtri(0.5 + confidence / 2))
    found = []
    for own, answered, right in zip(n_true.tolist(), n_answered.tolist(), n_right.tolist(), strict=True):
        low = high = None
        if own:
            share, weight = right / own, z * z / own
            middle = (share + weight / 2) / (1 + weight)
            half = z * (share * (1 - share) / own + weight / (4 * own)) ** 0.5 / (1 + weight)
            low, high = max(middle - half, 0.0), min(middle + half, 1.0)
        found.append(
            ClassScores(
                own,
                answered,
                right,
                right / own if own else None,
                right / answered if answered else None,
                2 * right / (own + answered) if own + answered else None,
                low,
                high,
            )
        )
    return found


def roc_auc(y_true: ArrayLike, probabilities: ArrayLike, *, labels: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: of the second of two classes, else the mean, one against rest.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        Class codes.
    probabilities : array-like of float, shape (n_samples, n_classes)
        Rows that sum to 1.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column; 0, 1, ... by default.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance. Classes that no row, or every row, is of have no curve and are left out; NaN
        where none is left.

    References
    ----------
    Hand, Till: A Simple Generalisation of the Area Under the ROC Curve, Machine Learning 45, 2001, section 2.

    Examples
    --------
    >>> roc_auc([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    0.75
    """
    y, matrix = check_scores(y_true, probabilities, "probabilities")
    column, known = columns_of(y, matrix, labels)
    found = []
    for at in range(1 if matrix.shape[1] == 2 else 0, matrix.shape[1]):
        own = known & (column == at)
        n_own = int(own.sum())
        if 0 < n_own < len(y):
            _, place, counts = np.unique(matrix[:, at], return_inverse=True, return_counts=True)
            ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal ones the mean
            above = ranks[place[own]].sum() - n_own * (n_own + 1) / 2
            found.append(above / (n_own * (len(y) - n_own)))
    return float(np.mean(found)) if found else float("nan")


def log_loss(y_true: ArrayLike, probabilities: ArrayLike, *, labels: ArrayLike | None = None) -> float:
    """Return the mean negative log-probability of the true class.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        True class codes.
    probabilities : array-like of float, shape (n_samples, n_classes)
        Rows that sum to 1.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column; 0, 1, ... by default.

    Returns
    -------
    float
        In nats, at least 0; a probability below 2.2e-16 (and that of a class without a column) counts as
        that, as scikit-learn has it, so the result is finite.

    Examples
    --------
    >>> round(log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 4)
    0.6931
    """
    check = check_columns if labels is None else check_scores
    y, matrix = check(y_true, probabilities, "probabilities")
    column, known = columns_of(y, matrix, labels)
    own = np.where(known, matrix[np.arange(len(y)), column], 0.0)
    return float(-np.mean(np.log(np.maximum(own, np.finfo(np.float64).eps))))


def expected_calibration_error(
    y_true: ArrayLike, probabilities: ArrayLike, *, labels: ArrayLike | None = None, n_bins: int = 15
) -> float:
    """Return how far confidence and accuracy lie apart, on average over bins of equal width.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        True class codes.
    probabilities : array-like of float, shape (n_samples, n_classes)
        Rows that sum to 1.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column; 0, 1, ... by default.
    n_bins : int, default=15
        Bins of the confidence; the value depends on it, so compare only equal ones.

    Returns
    -------
    float
        In [0, 1]; 0 when of the answers given with confidence p a share p is right.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 2.

    Examples
    --------
    >>> expected_calibration_error([0, 0, 1, 1], [[1, 0], [1, 0], [1, 0], [1, 0]])
    0.5
    """
    y, matrix = check_scores(y_true, probabilities, "probabilities")
    if n_bins < 1:
        raise InvalidInputError(f"n_bins={n_bins!r} must be at least 1")
    codes = np.arange(matrix.shape[1]) if labels is None else np.asarray(labels)
    right = codes[matrix.argmax(axis=1)] == y
    return calibration_error(matrix.max(axis=1), right, n_bins=n_bins)


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], *, n_bins: int = 15
) -> float:
    """Return `expected_calibration_error` of answers: how sure of each, and whether it is right."""
    # Bins are open to the left, (0, 1/15], as in the paper; rounding must not push 1.0 into a bin of its own.
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gap).sum() / len(right))


def fit_temperature(y_true: ArrayLike, logits: ArrayLike) -> float:
    """Find the temperature T at which softmax(logits / T) has the least log loss.

    Fit it on validation rows: on training rows a head looks surer than it is, and on test rows the
    calibration reported afterwards would be flattered.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        Column of the true class of each row.
    logits : array-like of float, shape (n_samples, n_classes)
        Scores before softmax; the logarithm of probabilities does as well.

    Returns
    -------
    float
        In [0.01, 100]; over 1 for an over-confident head. The loss has one minimum, so the search is safe.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> logits = [[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]]  # sure, but right three times in four
    >>> round(fit_temperature([0, 0, 1, 1], logits), 2)
    3.64
    """
    y, matrix = check_columns(y_true, logits, "logits")
    if not np.isfinite(matrix).all():
        raise InvalidInputError(
            "logits are not finite; clip probabilities away from 0 before taking logarithms"
        )
    matrix = matrix - matrix.max(axis=1, keepdims=True)
    own = np.take_along_axis(matrix, y[:, None], axis=1)[:, 0]

    # The loss is convex in 1 / T: Newton's steps where they stay between the ends, else half of what is left.
    low, high, beta = 0.01, 100.0, 1.0
    for _ in range(100):
        p = np.exp(beta * matrix)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * matrix).sum(axis=1)
        slope = float((mean - own).mean())
        if slope == 0:
            break
        bend = float(((p * matrix**2).sum(axis=1) - mean**2).mean())
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / bend if bend > 0 else np.inf
        last, beta = beta, step if low < step < high else float(np.sqrt(low * high))
        if abs(beta - last) <= 1e-10 * beta:
            break
    return 1 / beta
