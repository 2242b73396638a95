"""L2-regularised multinomial logistic regression to the true optimum, by Newton's method.

The problem is that of `sklearn.linear_model.LogisticRegression`: ``||W||^2 / 2 + C * sum of log-losses``, the
intercept not penalised (for two classes scikit-learn's single vector is the difference of the two here, which
halves the penalty; `solve_path` allows for it). Rows are first expressed in the eigenvectors of their
products, once for all values of C, where the Hessian is nearly diagonal: each Newton step is solved by
conjugate gradients with the diagonal as preconditioner, in a few products of (n_samples, min(n_samples,
n_columns), n_classes). Objective and gradient are float64; the steps, which only have to lead downhill, are
found in float32, at twice the speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Optimum", "ascend", "solve_path"]

#: The optimum is reached when no logit of a training row can be further from it than this, or than what
#: this many roundings of the gradient's terms make.
LOGIT_TOLERANCE = 1e-6
ROUNDINGS = 64
MAX_NEWTON_STEPS = 100
MAX_CG_STEPS = 500
#: Beyond this many rows and columns the eigenvectors cost more than they save.
MAX_EIGEN_SIZE = 4096
#: Squared residual of a step, as part of the gradient's, below which float32 gets no nearer.
FLOAT32_RESIDUAL = 1e-10

F64 = NDArray[np.float64]
Float = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Optimum:
    """The solution at one C: `weights` (n_columns, n_classes) and `intercept` (n_classes,)."""

    weights: F64
    intercept: F64
    n_iter: int
    converged: bool
    #: No logit of a training row is further from the optimum's than this (intercept aside).
    logit_error: float


def solve_path(
    Z: NDArray[Any], targets: NDArray[np.int64], n_classes: int, penalties: Sequence[float]
) -> list[Optimum]:
    """Return the optima for several C on the same rows, each started from the one before.

    Parameters
    ----------
    Z : ndarray of float, shape (n_samples, n_columns)
        Rows; their number of columns may exceed their number.
    targets : ndarray of int64, shape (n_samples,)
        Class numbers, 0 ... n_classes - 1.
    n_classes : int
    penalties : sequence of float
        Values of C; solved in increasing order, returned in the order given.
    """
    out = dict(ascend(Z, targets, n_classes, penalties))
    return [out[C] for C in penalties]


def ascend(
    Z: NDArray[Any], targets: NDArray[np.int64], n_classes: int, penalties: Iterable[float]
) -> Iterator[tuple[float, Optimum]]:
    """Yield (C, optimum) from the smallest C to the largest, as `solve_path`; each is solved when asked for.

    A large C can cost more than all smaller ones together.
    """
    rows = Z.astype(np.float64)
    A, back = _eigen_rows(rows)
    problem = _Problem(A, targets, n_classes)
    start = (np.zeros((A.shape[1], n_classes)), np.zeros(n_classes))
    for C in sorted(set(penalties)):
        W, b, steps, error = problem.minimise(C / 2 if n_classes == 2 else C, *start)
        start = (W, b)
        weights = W if back is None else back @ W
        yield C, Optimum(weights, b - b.mean(), steps, error <= problem.tolerance(C, W), error)


def _eigen_rows(rows: F64) -> tuple[F64, F64 | None]:
    """Return rows in orthonormal coordinates of their span, and what takes weights back."""
    n, r = rows.shape
    if min(n, r) > MAX_EIGEN_SIZE:
        return rows, None
    if r <= n:
        _, vectors = np.linalg.eigh(rows.T @ rows)
        return rows @ vectors, vectors
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > 1e-13 * values[-1] if values[-1] > 0 else values > 0
    lengths = np.sqrt(values[kept])
    return vectors[:, kept] * lengths, rows.T @ (vectors[:, kept] / lengths)


class _Problem:
    def __init__(self, A: F64, targets: NDArray[np.int64], n_classes: int) -> None:
        self.A = A
        self.hot = np.zeros((len(A), n_classes))
        self.hot[np.arange(len(A)), targets] = 1.0
        squares = A * A
        self.longest = float(np.sqrt(squares.sum(axis=1).max(initial=0.0)))
        self.norm = float(np.sqrt(squares.sum()))
        self.rows: dict[Any, tuple[Float, Float]] = {np.float64: (A, squares)}

    def value(self, C: float, W: F64, b: F64) -> tuple[float, F64]:
        """Return the objective and the probabilities."""
        logits = self.A @ W + b
        logits -= logits.max(axis=1, keepdims=True)
        P = np.exp(logits)
        total = P.sum(axis=1, keepdims=True)
        P /= total
        loss = float(np.log(total).sum() - (self.hot * logits).sum())
        return 0.5 * float((W * W).sum()) + C * loss, P

    def tolerance(self, C: float, W: F64) -> float:
        """Return how near the optimum float64 can tell a logit to be."""
        rounding = float(np.finfo(np.float64).eps) * (float(np.sqrt((W * W).sum())) + C * self.norm)
        return LOGIT_TOLERANCE + ROUNDINGS * rounding * self.longest

    def minimise(self, C: float, W: F64, b: F64) -> tuple[F64, F64, int, float]:
        """Return weights, intercept, Newton steps and the bound on the error of a logit."""
        objective, P = self.value(C, W, b)
        error = np.inf
        precision: Any = np.float32
        for step in range(MAX_NEWTON_STEPS + 1):
            D = P - self.hot
            gW, gb = W + C * (self.A.T @ D), C * D.sum(axis=0)
            # the penalty makes the objective 1-strongly convex in W, so W is within ||gW|| of the optimum
            before, error = (
                error,
                self.longest * float(np.sqrt((gW * gW).sum())) + float(np.abs(gb).max()) / C,
            )
            if error <= self.tolerance(C, W) or step == MAX_NEWTON_STEPS:
                return W, b, step, error
            if error > before and error < 1e-2:  # float32 leads no further here
                precision = np.float64
            dW, db = self.newton_step(C, P, gW, gb, precision)
            slope = float((gW * dW).sum() + gb @ db)
            length = 1.0
            while True:
                trial, P_trial = self.value(C, W + length * dW, b + length * db)
                # near the optimum the objective is flat to rounding; a full step is right there
                if trial <= objective + 1e-4 * length * slope + 1e-12 * abs(objective) or length < 1e-10:
                    break
                length /= 2
            W, b = W + length * dW, b + length * db
            objective, P = trial, P_trial
        return W, b, MAX_NEWTON_STEPS, error

    def rows_in(self, precision: Any) -> tuple[Float, Float]:
        """Return the rows and their squares in float32 or float64."""
        if precision not in self.rows:
            A, squares = self.rows[np.float64]
            self.rows[precision] = (A.astype(precision), squares.astype(precision))
        return self.rows[precision]

    def newton_step(self, C: float, P64: F64, gW: F64, gb: F64, precision: Any) -> tuple[F64, F64]:
        """Solve Hessian x step = -gradient by preconditioned conjugate gradients."""
        A, squares = self.rows_in(precision)
        V = (P64 * (1.0 - P64)).astype(precision)
        P = P64.astype(precision)
        # the likeliest class of each row: with logits relative to it, products keep their relative precision
        # where the probabilities are nearly 0 and 1
        here, likeliest = np.arange(len(P)), P.argmax(axis=1)
        c, tiny = precision(C), precision(np.finfo(precision).tiny)
        MW = 1 + c * (squares.T @ V)
        # the intercept has no penalty: a common shift of all classes is free, so keep its diagonal off zero
        Mb = c * V.sum(axis=0) * precision(1 + 1e-6) + c * precision(1e-12) + tiny
        size = float(np.sqrt((gW * gW).sum() + gb @ gb))
        rW, rb = (gW / -size).astype(precision), (gb / -size).astype(precision)
        dW, db = np.zeros_like(rW), np.zeros_like(rb)
        zW, zb = rW / MW, rb / Mb
        pW, pb = zW.copy(), zb
        rz = float(np.vdot(rW, zW) + rb @ zb)
        # quadratic convergence asks for a residual that shrinks with the gradient
        goal = min(0.1, np.sqrt(size) / 10) ** 2 * rz
        if precision is np.float32:
            goal = max(goal, FLOAT32_RESIDUAL * rz)
        for _ in range(MAX_CG_STEPS):
            if rz <= goal or rz <= 0.0:
                break
            L = A @ pW
            L += pb
            L -= L[here, likeliest][:, None]
            L -= np.einsum("ij,ij->i", P, L)[:, None]
            L *= P
            hW, hb = A.T @ L, c * L.sum(axis=0)
            hW *= c
            hW += pW
            curvature = float(np.vdot(pW, hW) + pb @ hb)
            if curvature <= 0.0:
                break
            alpha = precision(rz / curvature)
            dW += alpha * pW
            db += alpha * pb
            rW -= alpha * hW
            rb -= alpha * hb
            np.divide(rW, MW, out=zW)
            zb = rb / Mb
            rz, before = float(np.vdot(rW, zW) + rb @ zb), rz
            beta = precision(rz / before)
            pW *= beta
            pW += zW
            pb = zb + beta * pb
        return dW.astype(np.float64) * size, db.astype(np.float64) * size
