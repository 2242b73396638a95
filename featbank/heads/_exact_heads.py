"""Heads solved to the optimum: those on the same rows share one problem, whatever their penalties."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads._exact import Optimum, solve_path
from featbank.heads._gradient import check_parameters
from featbank.heads._head import Evaluation, find_classes, measure
from featbank.heads.space import FeatureSpace

if TYPE_CHECKING:
    from featbank.heads.softmax import SoftmaxClassifier

__all__ = ["PENALTIES", "check_penalty", "fit_exact_heads"]

#: What ``C="auto"`` chooses from. On Caltech-101, MobileNetV2, 4 to 28 images per class, the best were 1 to
#: 1,000, the more samples the smaller.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


def check_penalty(C: Any) -> None:
    """Raise `InvalidInputError` unless `C` is a positive number or "auto"."""
    if C == "auto" or (isinstance(C, int | float | np.number) and C > 0):
        return
    raise InvalidInputError(
        f"C={C!r} is not a penalty; allowed: more than 0 (a smaller C penalises more), or 'auto'"
    )


def fit_exact_heads(
    heads: Sequence[SoftmaxClassifier],
    Z: NDArray[np.float32],
    y: NDArray[Any],
    subsets: Sequence[NDArray[np.int64]],
    space: FeatureSpace,
    others: Sequence[Evaluation],
) -> None:
    """Fit `heads` in place to their subsets of the rows of `Z`, which are in `space`."""
    for head in heads:
        check_parameters(head)
        check_penalty(head.C)
    groups: dict[bytes, list[int]] = {}
    for number, rows in enumerate(subsets):
        groups.setdefault(rows.tobytes(), []).append(number)
    for members in groups.values():
        rows = subsets[members[0]]
        _fit_on_rows([heads[i] for i in members], Z[rows], y[rows], space, others)
    unfinished = [head for head in heads if not head.converged_]
    if unfinished:
        first = unfinished[0]
        warnings.warn(
            f"{len(unfinished)} of {len(heads)} heads: {first.n_iter_} Newton steps did not reach the "
            f"optimum at C={first.C_:g} ({first.space_.n_columns_} columns); use a smaller C",
            FitWarning,
            stacklevel=5,
        )


def _fit_on_rows(
    heads: Sequence[SoftmaxClassifier],
    Z: NDArray[np.float32],
    y: NDArray[Any],
    space: FeatureSpace,
    others: Sequence[Evaluation],
) -> None:
    classes, codes = find_classes(y)
    watched = [("train", Z, codes)]
    for one in others:
        kept = np.isin(one.y, classes)
        watched.append((one.name, one.Z[kept], np.searchsorted(classes, one.y[kept])))
    asked = {float(C) for head in heads for C in (PENALTIES if head.C == "auto" else (head.C,))}
    # on columns multiplied by the gain, the same penalty on standardised features is C / gain ** 2
    penalties = sorted(asked)
    optima = solve_path(Z, codes, len(classes), [C / space.gain_**2 for C in penalties])
    found = {C: (one, _measured(one, watched)) for C, one in zip(penalties, optima, strict=True)}
    for head in heads:
        C = _best(found) if head.C == "auto" else float(head.C)
        head._accept_optimum(C, *found[C], classes, space)


def _measured(
    optimum: Optimum, watched: Sequence[tuple[str, NDArray[np.float32], NDArray[np.int64]]]
) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, rows, codes in watched:
        if not len(codes):
            continue
        loss, accuracy = measure(rows @ optimum.weights + optimum.intercept, codes)
        values |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
    return values


def _best(found: dict[float, tuple[Optimum, dict[str, float]]]) -> float:
    """Return the C of lowest validation loss: a few validation rows per class give accuracies in steps."""
    if any("val_loss" not in values for _, values in found.values()):
        raise InvalidInputError(
            "C='auto' is chosen on validation rows, but there are none; give X_val and y_val (a bank with a "
            "val split), or a number"
        )
    return min((C for C in PENALTIES if C in found), key=lambda C: found[C][1]["val_loss"])
