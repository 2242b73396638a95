"""Scores by name that a sweep can be asked for beside accuracy and calibration; others add theirs.

A package does so by an entry point; one's own needs none, ``"my_module:worst_class"`` is its name.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from featbank._registry import Registry, asked_by, from_place, own_folders, source_digest
from featbank.errors import InvalidInputError, MissingPackageError, one_line

__all__ = [
    "bounds",
    "canonical",
    "evaluate",
    "less_is_better",
    "made_by",
    "mean_text",
    "names",
    "percent",
    "score_text",
    "spelling",
]

#: Functions of true and predicted class codes that return a number in [0, 1], larger for better. Another
#: package adds one by an entry point of this group. One whose second parameter is called ``probabilities``
#: gets these, and ``labels=`` the class code of each column.
_metrics: Registry[Callable[..., float]] = Registry("metric", group="featbank.metrics")
for _name in ("balanced_accuracy", "macro_f1", "cohen_kappa", "roc_auc", "log_loss"):
    _metrics.register_place(_name, f"featbank.metrics.classification:{_name}")
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
