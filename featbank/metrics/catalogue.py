"""Scores by name that a sweep can be asked for beside accuracy and calibration; other packages add theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from featbank._registry import Registry
from featbank.errors import MissingPackageError

__all__ = ["canonical", "evaluate", "made_by", "names"]

#: Functions of true and predicted class codes that return a number in [0, 1], larger for better. Another
#: package adds one by an entry point of this group.
_metrics: Registry[Callable[[ArrayLike, ArrayLike], float]] = Registry("metric", group="featbank.metrics")
for _name in ("balanced_accuracy", "macro_f1"):
    _metrics.register_place(_name, f"featbank.metrics.accuracy:{_name}")


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


def evaluate(name: str, y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return a score.

    Parameters
    ----------
    name : str
        One of `names`.
    y_true, y_pred : array-like of int, shape (n_samples,)
        Class codes.

    Raises
    ------
    MissingPackageError
        If the function of another package gives no number from 0 to 1.

    Examples
    --------
    >>> evaluate("balanced_accuracy", [0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    found = _metrics.get(name)(y_true, y_pred)
    if not isinstance(found, float | int | np.floating | np.integer) or not 0 <= found <= 1:
        raise MissingPackageError(
            f"metric {name!r} gave {found!r}, which is no number from 0 to 1; mend or uninstall the package "
            "that registers it"
        )
    return float(found)
