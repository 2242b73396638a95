"""Scores by name that a sweep can be asked for beside accuracy and calibration; other packages add theirs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from featbank._registry import Registry
from featbank.errors import MissingPackageError

__all__ = ["bounds", "canonical", "evaluate", "less_is_better", "made_by", "names", "spelling"]

#: Functions of true and predicted class codes that return a number in [0, 1], larger for better. Another
#: package adds one by an entry point of this group. One whose second parameter is called ``probabilities``
#: gets these, and ``labels=`` the class code of each column.
_metrics: Registry[Callable[..., float]] = Registry("metric", group="featbank.metrics")
for _name in ("balanced_accuracy", "macro_f1", "cohen_kappa", "roc_auc"):
    _metrics.register_place(_name, f"featbank.metrics.accuracy:{_name}")
_metrics.register_place("log_loss", "featbank.metrics.calibration:log_loss")
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
    """Return a name if somebody has registered it; raises `UnknownNameError`."""
    return _metrics.canonical(name)


def made_by(name: str) -> str | None:
    """Return the package and version that a score comes from; None for featbank's own."""
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
    return name.startswith("ece") or bounds(name)[1] > 1


def spelling(name: str) -> tuple[str, float, int]:
    """Return the unit that a score is written in, by what it is multiplied, and its digits.

    Examples
    --------
    >>> spelling("top1"), spelling("log_loss")
    ((' in %', 100.0, 1), ('', 1.0, 3))
    """
    return ("", 1.0, 3) if bounds(name)[1] > 1 else (" in %", 100.0, 1)


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
        One of `names`.
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes.
    probabilities : array-like of float, shape (n_samples, n_classes), optional
        Of each class.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column of `probabilities`; 0, 1, ... by default.

    Raises
    ------
    MissingPackageError
        If the function of another package gives no number within `bounds`.

    Examples
    --------
    >>> evaluate("balanced_accuracy", [0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    function = _metrics.get(name)
    if list(inspect.signature(function).parameters)[1:2] == ["probabilities"]:
        if probabilities is None:
            return None
        found = function(y_true, probabilities, labels=labels)
    else:
        found = function(y_true, y_pred)
    low, high = bounds(name)
    if isinstance(found, float) and math.isnan(found):
        return None
    if not isinstance(found, float | int | np.floating | np.integer) or not low <= found <= high:
        raise MissingPackageError(
            f"metric {name!r} gave {found!r}, which is no number from {low:g} to {high:g}; mend or uninstall "
            "the package that registers it"
        )
    return float(found)
