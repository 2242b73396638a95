"""Heads solved to the optimum: those on the same rows share one problem, whatever their penalties."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import FitWarning
from featbank.heads._exact import Optimum, ascend, solve_path
from featbank.heads._head import Evaluation, find_classes, measure
from featbank.heads.space import FeatureSpace

if TYPE_CHECKING:
    from featbank.heads.softmax import SoftmaxClassifier

__all__ = ["PENALTIES", "fit_exact_heads"]

#: What ``C="auto"`` chooses from. On Caltech-101, MobileNetV2, 4 to 28 images per class, the best were 1 to
#: 1,000, the more samples the smaller.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
#: Parts of the samples that it is chosen on in turn where there are no validation rows; by what factor the
#: loss of a part rises before larger values are left out; and what is taken where there is one sample each.
FOLDS = 5
RISE = 1.2
UNCHOSEN = 1.0


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
        head._check()
    groups: dict[bytes, list[int]] = {}
    for number, rows in enumerate(subsets):
        groups.setdefault(rows.tobytes(), []).append(number)
    unchosen = 0
    for members in groups.values():
        rows = subsets[members[0]]
        unchosen += _fit_on_rows([heads[i] for i in members], Z[rows], y[rows], space, others)
    if unchosen:
        warnings.warn(
            f"{unchosen} of {len(heads)} heads: C='auto' has nothing to choose by, without validation rows "
            f"and with one sample of each class; C={UNCHOSEN:g} was taken",
            FitWarning,
            stacklevel=5,
        )
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
) -> int:
    """Fit to one subset; return of how many heads C was to be chosen and could not."""
    classes, codes = find_classes(y)
    watched = [("train", Z, codes)]
    for one in others:
        kept = np.isin(one.y, classes)
        watched.append((one.name, one.Z[kept], np.searchsorted(classes, one.y[kept])))
    automatic = [head for head in heads if head.C == "auto"]
    fixed = {float(head.C) for head in heads if head.C != "auto"}
    validated = any(name == "val" and len(targets) for name, _, targets in watched)
    losses: dict[float, float] = {}
    if automatic and not validated:
        losses = _cross_validated(Z, codes, len(classes), space)
        fixed.add(_best(losses))
    # on columns multiplied by the gain, the same penalty on standardised features is C / gain ** 2
    penalties = sorted(fixed | set(PENALTIES if automatic and validated else ()))
    optima = solve_path(Z, codes, len(classes), [C / space.gain_**2 for C in penalties])
    found = {C: (one, _measured(one, watched)) for C, one in zip(penalties, optima, strict=True)}
    if automatic and validated:
        losses = {C: values["val_loss"] for C, (_, values) in found.items() if C in PENALTIES}
    for head in heads:
        C = _best(losses) if head.C == "auto" else float(head.C)
        head._accept_optimum(C, *found[C], classes, space)
    return len(automatic) if automatic and not losses else 0


def _cross_validated(
    Z: NDArray[np.float32], codes: NDArray[np.int64], n_classes: int, space: FeatureSpace
) -> dict[float, float]:
    """Return the loss at each C of rows that heads fitted to the other folds have not seen.

    Each class is dealt out to `FOLDS` parts, or as many as it has rows; the one row of a class always trains.
    """
    folds = np.full(len(codes), -1)
    shuffled = np.random.default_rng(0).permutation(len(codes))
    for code in range(n_classes):
        rows = shuffled[codes[shuffled] == code]
        if len(rows) > 1:
            folds[rows] = np.arange(len(rows)) % FOLDS
    losses = dict.fromkeys(PENALTIES if folds.max() >= 0 else (), 0.0)
    for fold in range(folds.max() + 1):
        seen, kept = folds != fold, folds == fold
        scaled = [C / space.gain_**2 for C in PENALTIES]
        found: dict[float, float] = {}
        for C, (_, one) in zip(PENALTIES, ascend(Z[seen], codes[seen], n_classes, scaled), strict=False):
            found[C], _ = measure(Z[kept] @ one.weights + one.intercept, codes[kept])
            if found[C] > RISE * min(found.values()):  # the larger ones are worse still, and take longest
                break
        losses = {C: loss + found[C] * int(kept.sum()) for C, loss in losses.items() if C in found}
    return losses


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


def _best(losses: Mapping[float, float]) -> float:
    """Return the C of lowest loss: a few rows per class give accuracies in steps."""
    return min(losses, key=lambda C: losses[C]) if losses else UNCHOSEN
