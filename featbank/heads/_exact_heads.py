"""Heads solved to the optimum: those on the same rows share one problem, whatever their penalties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.heads._exact import Optimum, Problem, solve
from featbank.heads._head import TrainingRows, find_classes, measure
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
#: Rows whose logits are measured at a time.
MEASURED_ROWS = 1024


def fit_exact_heads(heads: Sequence[SoftmaxClassifier], rows: TrainingRows) -> None:
    """Fit `heads` in place."""
    groups: dict[tuple[bytes, float | None], list[int]] = {}
    for number, (head, own) in enumerate(zip(heads, rows.subsets, strict=True)):
        head._check()
        groups.setdefault((own.tobytes(), head.tol), []).append(number)
    plans = [
        _Plan([heads[i] for i in members], rows.subsets[members[0]], rows) for members in groups.values()
    ]
    for tol in dict.fromkeys(head.tol for head in heads):
        chosen = [plan for plan in plans if plan.heads[0].tol == tol]
        problems = [one for plan in chosen for one in plan.problems]
        optima = iter(solve(rows.Z, problems, tol=tol or 0.0))
        for plan in chosen:
            plan.accept([next(optima) for _ in plan.problems], rows.Z)


class _Plan:
    """Heads on the same rows: the problems to be solved for them."""

    def __init__(
        self, heads: Sequence[SoftmaxClassifier], rows: NDArray[np.int64], training: TrainingRows
    ) -> None:
        self.heads, self.rows, self.space = heads, rows, training.space
        self.classes, self.codes = find_classes(training.y[rows])
        self.watched = []
        for one in training.others:
            kept = np.isin(one.y, self.classes)
            self.watched.append((one.name, one.Z[kept], np.searchsorted(self.classes, one.y[kept])))
        automatic = [head for head in heads if head.C == "auto"]
        fixed = {float(head.C) for head in heads if head.C != "auto"}
        self.validated = any(name == "val" and len(codes) for name, _, codes in self.watched)
        self.losses: dict[float, float] = {}
        if automatic and not self.validated:
            self.losses = _cross_validated(
                training.Z, rows, self.codes, len(self.classes), self.space, training.n_views
            )
            fixed.add(_best(self.losses))
        self.penalties = sorted(fixed | set(PENALTIES if automatic and self.validated else ()))
        # on columns multiplied by the gain, the same penalty on standardised features is C / gain ** 2
        self.problems = [
            Problem(rows, self.codes, len(self.classes), C / self.space.gain_**2) for C in self.penalties
        ]

    def accept(self, optima: Sequence[Optimum], Z: Any) -> None:
        """Give each head the optimum at its C."""
        found = {}
        for C, one in zip(self.penalties, optima, strict=True):
            measured = _measured("train", Z, self.rows, self.codes, one)
            for name, columns, codes in self.watched:
                if len(codes):
                    measured |= _measured(name, columns, np.arange(len(codes)), codes, one)
            found[C] = one, measured
        if self.validated:
            self.losses = {C: values["val_loss"] for C, (_, values) in found.items() if C in PENALTIES}
        for head in self.heads:
            C = _best(self.losses) if head.C == "auto" else float(head.C)
            head._accept_optimum(C, *found[C], self.classes, self.space)
            if head.C == "auto" and not self.losses:
                head.warned_ = (
                    "C='auto' has nothing to choose by, without validation rows and with one sample of each "
                    f"class; C={UNCHOSEN:g} was taken"
                )
            elif not head.converged_:
                head.warned_ = (
                    f"{head.n_iter_} Newton steps did not reach the optimum at C={C:g} "
                    f"({self.space.n_columns_} columns); use a smaller C"
                )


def _cross_validated(
    Z: Any,
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    n_classes: int,
    space: FeatureSpace,
    n_views: int,
) -> dict[float, float]:
    """Return the loss at each C of rows that heads fitted to the other folds have not seen.

    Each class is dealt out to `FOLDS` parts, or as many as it has rows; the one row of a class always trains.
    The views of an image are always in one part.
    """
    n_images = len(codes) // n_views
    folds = np.full(n_images, -1)
    shuffled = np.random.default_rng(0).permutation(n_images)
    for code in range(n_classes):
        own = shuffled[codes[shuffled] == code]
        if len(own) > 1:
            folds[own] = np.arange(len(own)) % FOLDS
    folds = np.tile(folds, n_views)
    losses: dict[float, float] = {}
    start = None
    for C in PENALTIES if folds.max() >= 0 else ():
        problems = [
            Problem(rows[folds != fold], codes[folds != fold], n_classes, C / space.gain_**2)
            for fold in range(folds.max() + 1)
        ]
        start = solve(Z, problems, start=start)
        losses[C] = 0.0
        for fold, one in enumerate(start):
            kept = folds == fold
            measured = _measured("val", Z, rows[kept], codes[kept], one)
            losses[C] += measured["val_loss"] * int(kept.sum())
        if losses[C] > RISE * min(losses.values()):  # the larger ones are worse still, and take longest
            break
    return losses


def _measured(
    name: str, Z: Any, rows: NDArray[np.int64], codes: NDArray[np.int64], optimum: Optimum
) -> dict[str, float]:
    """Return loss and accuracy of an optimum on rows, a block at a time."""
    loss = accuracy = 0.0
    for first in range(0, len(rows), MEASURED_ROWS):
        part = slice(first, first + MEASURED_ROWS)
        block = np.asarray(Z[rows[part]])
        logits = block @ optimum.weights.astype(block.dtype) + optimum.intercept
        each, right = measure(logits, codes[part])
        loss, accuracy = loss + each * len(logits), accuracy + right * len(logits)
    return {f"{name}_loss": loss / len(rows), f"{name}_accuracy": accuracy / len(rows)}


def _best(losses: Mapping[float, float]) -> float:
    """Return the C of lowest loss: a few rows per class give accuracies in steps."""
    return min(losses, key=lambda C: losses[C]) if losses else UNCHOSEN
