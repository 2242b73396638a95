"""L2-regularised linear classifiers to the true optimum, many at once, by Newton's method.

Each problem is ``||W||^2 / 2 + C * sum of losses``: log-losses of a softmax, as in
`sklearn.linear_model.LogisticRegression` (the intercept not penalised), or squared hinges, as in
`sklearn.svm.LinearSVC` (the intercept penalised like a weight). Problems of about as many rows go through the
rows together, block by block: one pass serves all that still run, which makes of many thin products a wide
one. Newton's equations are solved by conjugate gradients in float32, as far as the gradient is worth; the
gradient is summed in float64, and of products in float64 where the rows are few. Once the passes have cost
what the products of the columns with each other do, these are made, and their Cholesky factors precondition.

Before, and where it suffices, steps are those of L-BFGS. Steps may be of rows rounded to bfloat16, which only
costs more of them: what is accepted as the optimum was looked at with the rows themselves.

Rows much fewer than their columns are first expressed in orthonormal coordinates of their span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank._cores import one_core_if

__all__ = ["Optimum", "Problem", "solve"]

#: Where `tol` asks for less, this is the optimum: largest part of the gradient of the mean loss.
TOLERANCE = 1e-10
#: In float32, gradients end in noise before that. A step that is expected to gain less than this part of C
#: moves no probability of a training row by more than half the root of it.
FLOAT32_GAIN = 1e-12
#: A step that gains no more than this, and as much as a quarter of the one before, follows noise.
FLOAT32_NOISE = 1e-6
#: How many roundings of the gradient's terms are forgiven.
ROUNDINGS = 64
#: Steps of L-BFGS before Newton's, in float64 and float32: far from the optimum, a Newton step is not worth
#: its many passes. How many steps L-BFGS remembers.
QUASI_STEPS, QUASI_STEPS_32, MEMORY = 20, 40, 8
MAX_NEWTON_STEPS = 100
#: Multiply-adds of a pass from which rows are rounded to bfloat16, too: torch, which multiplies these, is
#: worth the second that importing it takes; and the most values that are rounded. Not fewer where torch is
#: there already: what a fit gives would depend on what the process did before.
MIN_ROUNDED, MAX_ROUNDED = 2**30, 2**29
#: Part of the gradient of the mean loss, and of a Newton step, down to which rounded rows are followed, and
#: after how many steps the gradient is computed exactly.
ROUNDED_ERROR, ROUNDED_RESIDUAL, ROUNDED_STEPS = 1e-5, 0.03, 8
MAX_CG_STEPS = 500
#: How much larger than the average the largest part of a gradient at least is, and how much of what it was a
#: step later.
PEAK, PEAK_KEPT = 3.0, 0.8
#: Multiply-adds of all Newton's matrices up to which they are made.
MAX_DIRECT = 2**26
#: Part of the gradient that early steps leave, and squared residual below which float32 gets no nearer.
LOOSE, FLOAT32_RESIDUAL = 0.5, 1e-10
#: What part of `tol` a step need not fall below.
ENOUGH = 0.3
#: Rows per block, and numbers of rows times columns up to which they are taken in float64.
BLOCK_ROWS, FLOAT64_SIZE = 1024, 2**22
#: Rows are expressed in their span up to this part of their length, up to this many, and where the passes
#: expected, to a `tol` as loose as the second or not, cost more than the products of the rows.
SPAN_PART, MAX_SPAN_ROWS, PASSES, LOOSE_PASSES, LOOSE_TOLERANCE = 0.5, 4096, 200, 25, 1e-6
#: Widest matrix that is factorised, and bytes of factors that are kept.
MAX_FACTOR_COLUMNS, FACTOR_BYTES = 6144, 512 * 2**20
#: Columns times rows of the problems that run together; the rest wait.
MAX_TOGETHER = 2**26
#: Multiply-adds of a pass below which it has one thread.
MIN_SHARED_PASS = 2**27
#: And those of expressing rows in their span, once.
MIN_SHARED_SPAN = 2**31

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Float = NDArray[np.floating[Any]]
Loss = Literal["softmax", "logistic", "hinge"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows of the common matrix, their targets, and C.

    `targets` are class numbers, 0 ... n_columns - 1; 0 and 1 where there is one column. `weights` are what
    the loss of a row of each is multiplied by.
    """

    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    n_columns: int
    C: float
    weights: F64 | None = None


@dataclass(frozen=True, eq=False)
class Optimum:
    """The solution of one problem: `weights` (n_features, n_columns) and `intercept` (n_columns,)."""

    weights: F64
    intercept: F64
    n_iter: int
    converged: bool
    #: Largest part of the gradient of the mean loss; what `tol` is compared with.
    gradient: float


def solve(
    Z: Any,
    problems: Sequence[Problem],
    *,
    loss: Loss = "softmax",
    tol: float = 0.0,
    start: Sequence[Optimum] | None = None,
) -> list[Optimum]:
    """Return the optimum of each problem, in their order.

    Parameters
    ----------
    Z : ndarray of float32 or float64, or `featbank.heads.space.Standardized`, shape (n_samples, n_features)
        Common rows; read in blocks.
    problems : sequence of Problem
    loss : {"softmax", "logistic", "hinge"}
        The last two have one column, for two classes. A softmax over two is solved as "logistic".
    tol : float, default=0.0
        scikit-learn's: largest absolute part of the gradient of the mean loss. Where it is less than
        `TOLERANCE`, that counts, or as near as rounding lets it come.
    start : sequence of Optimum, optional
        One per problem: where to begin, instead of at 0.
    """
    found: dict[int, Optimum] = {}
    two = [at for at, one in enumerate(problems) if loss == "softmax" and one.n_columns == 2]
    if two:
        single = [replace(problems[at], n_columns=1) for at in two]
        begun = None if start is None else [_joined(start[at]) for at in two]
        solved = solve(Z, single, loss="logistic", tol=tol, start=begun)
        found |= {at: _split(one) for at, one in zip(two, solved, strict=True)}
    width = int(Z.shape[1])
    rest = [at for at in range(len(problems)) if at not in found]
    spans = _sizes_in_span([problems[at] for at in rest], width, tol)
    for members in _groups({at: problems[at] for at in rest}, spans):
        chosen = [problems[at] for at in members]
        begin = None if start is None else [start[at] for at in members]
        solved = _solve_together(Z, chosen, loss, tol, begin, len(chosen[0].rows) in spans)
        found |= dict(zip(members, solved, strict=True))
    return [found[at] for at in range(len(problems))]


def _solve_together(
    Z: Any,
    problems: Sequence[Problem],
    loss: Loss,
    tol: float,
    start: Sequence[Optimum] | None,
    in_span: bool,
) -> list[Optimum]:
    """Solve problems on the same rows in their span, or on any rows in the columns of `Z`."""
    if in_span:
        rows = problems[0].rows
        with one_core_if(len(rows) ** 2 * int(Z.shape[1]) < MIN_SHARED_SPAN):
            span = _Span(Z[rows], tol >= LOOSE_TOLERANCE)
        own = [replace(one, rows=np.arange(len(rows))) for one in problems]
        coordinates = None if start is None else [span.enter(one) for one in start]
        fit = _Fit(span.A, own, loss, tol, span if tol >= LOOSE_TOLERANCE else None)
        return [span.leave(one) for one in _run(fit, coordinates)]
    union = np.unique(np.concatenate([one.rows for one in problems]))
    A = Z
    if 2 * len(union) < len(Z):  # those that nobody asks for are not read again and again
        A = Z[union]
        problems = [replace(one, rows=np.searchsorted(union, one.rows)) for one in problems]
    if isinstance(A, np.ndarray) and A.size <= FLOAT64_SIZE and tol < LOOSE_TOLERANCE:
        A = A.astype(np.float64)
    return _run(_Fit(A, problems, loss, tol), start)


def _run(fit: _Fit, start: Sequence[Optimum] | None) -> list[Optimum]:
    # each problem's own rows count, not those of all
    work = int(fit.counts.max()) * int(fit.A.shape[1]) * len(fit.C) * fit.K
    with one_core_if(work < MIN_SHARED_PASS):
        return fit.run(start)


def _split(one: Optimum) -> Optimum:
    """Return scikit-learn's one vector for two classes as two of opposite sign."""
    halves = np.array([-0.5, 0.5])
    return replace(one, weights=one.weights * halves, intercept=one.intercept * halves)


def _joined(one: Optimum) -> Optimum:
    return replace(
        one, weights=one.weights[:, 1:] - one.weights[:, :1], intercept=one.intercept[1:] - one.intercept[:1]
    )


def _sizes_in_span(problems: Sequence[Problem], width: int, tol: float) -> set[int]:
    """Return the numbers of rows that are expressed in their span."""
    passes = LOOSE_PASSES if tol >= LOOSE_TOLERANCE else PASSES
    columns: dict[bytes, int] = {}
    for one in problems:
        columns[one.rows.tobytes()] = columns.get(one.rows.tobytes(), 0) + one.n_columns
    # a few columns cost as much as eight
    most = min(SPAN_PART * width, MAX_SPAN_ROWS)
    return {
        len(one.rows)
        for one in problems
        if len(one.rows) <= min(most, passes * (columns[one.rows.tobytes()] + 8))
    }


def _groups(problems: Mapping[int, Problem], spans: set[int]) -> Iterator[list[int]]:
    """Yield which problems go together: on the same rows in their span, else of about as many rows."""
    groups: dict[Any, list[int]] = {}
    for at, one in problems.items():
        n = len(one.rows)
        groups.setdefault((one.n_columns, one.rows.tobytes() if n in spans else n.bit_length()), []).append(
            at
        )
    for members in groups.values():
        size = max(len(problems[at].rows) for at in members) * problems[members[0]].n_columns
        step = max(1, MAX_TOGETHER // size)
        for first in range(0, len(members), step):
            yield members[first : first + step]


class _Span:
    """Rows in orthonormal coordinates of what they span: `A` (n_rows, at most n_rows), float64.

    To a loose tolerance float32 is enough.
    """

    def __init__(self, rows: Any, loose: bool) -> None:
        from scipy.linalg import LinAlgError, cholesky

        self.rows = np.asarray(rows)
        n, p = self.rows.shape
        products = np.zeros((n, n))
        step = max(64, 2**22 // n)
        for first in range(0, p, step):
            part: Float = self.rows[:, first : first + step].astype(
                np.float32 if loose else np.float64, copy=False
            )
            products += part @ part.T
        # what rounding makes of rows that depend on each other: too little to be seen in any logit
        least = 1e-9 if loose else 1e-13
        jitter = least * float(np.trace(products)) + float(
            np.finfo(np.float32 if loose else np.float64).tiny  # its root, where all rows are zeros
        )
        try:
            self.A = cholesky(products + jitter * np.eye(n), lower=True, check_finite=False)
            self.triangular = True
        except LinAlgError:
            values, vectors = np.linalg.eigh(products)
            kept = values > (1e-6 if loose else 1e-13) * values[-1]
            self.lengths = np.sqrt(values[kept])
            self.A = vectors[:, kept] * self.lengths
            self.triangular = False
        if loose:
            self.A = self.A.astype(np.float32)

    def largest(self, gW: F64) -> F64:
        """Return the largest part of gradients (n_columns, p, K), had they been taken in the columns."""
        weights = self.leave(Optimum(gW.reshape(len(gW), -1), np.zeros(0), 0, True, 0.0)).weights
        out: F64 = np.abs(weights).reshape(len(weights), *gW.shape[1:]).max(axis=(0, 2))
        return out

    def leave(self, one: Optimum) -> Optimum:
        """Return a solution in coordinates as one in the columns of the rows."""
        from scipy.linalg import solve_triangular

        if self.triangular:
            part = solve_triangular(self.A, one.weights, lower=True, trans="T", check_finite=False)
        else:
            part = (self.A / self.lengths**2) @ one.weights
        weights = self.rows.T @ part.astype(self.rows.dtype)
        return Optimum(weights.astype(np.float64), one.intercept, one.n_iter, one.converged, one.gradient)

    def enter(self, one: Optimum) -> Optimum:
        """Return a solution in columns as one in coordinates."""
        from scipy.linalg import solve_triangular

        logits = self.rows @ one.weights
        if self.triangular:
            inside = solve_triangular(self.A, logits, lower=True, check_finite=False)
        else:
            inside = (self.A / self.lengths**2).T @ logits
        return Optimum(inside, one.intercept, one.n_iter, one.converged, one.gradient)


def _softmax_terms(L: Float, targets: NDArray[np.int64]) -> tuple[F64, Float, Float]:
    """Return the loss of each row and problem, its derivative, and the probabilities; `L` is overwritten."""
    at = targets[:, :, None]
    L -= L.max(axis=2, keepdims=True)
    own = np.take_along_axis(L, at, axis=2)[:, :, 0].astype(np.float64)
    P = np.exp(L, out=L)
    total = P.sum(axis=2)
    losses = np.log(total.astype(np.float64)) - own
    P /= total[:, :, None]
    D = P.copy()
    # 1 - p is the sum of the other p: the difference would have no digits left where p is nearly 1
    np.put_along_axis(D, at, 0.0, axis=2)
    np.put_along_axis(D, at, -D.sum(axis=2, keepdims=True), axis=2)
    return losses, D, P


def _hinge_terms(L: Float, targets: NDArray[np.int64]) -> tuple[F64, Float, Float]:
    """Return the same of squared hinges; in place of probabilities the second derivative."""
    sign = (2 * targets - 1).astype(L.dtype)[:, :, None]
    short = np.maximum(1 - sign * L, 0)
    return (short[:, :, 0].astype(np.float64)) ** 2, -2 * sign * short, 2 * (short > 0).astype(L.dtype)


def _logistic_terms(L: Float, targets: NDArray[np.int64]) -> tuple[F64, Float, Float]:
    """Return the same of log-losses of two classes with one column."""
    sign = (2 * targets - 1).astype(L.dtype)[:, :, None]
    margin = sign * L
    losses = np.logaddexp(0, -margin[:, :, 0].astype(np.float64))
    wrong = np.exp(-np.logaddexp(0, margin))
    return losses, -sign * wrong, wrong * (1 - wrong)


_TERMS: dict[Loss, Callable[[Float, NDArray[np.int64]], tuple[F64, Float, Float]]] = {
    "softmax": _softmax_terms,
    "logistic": _logistic_terms,
    "hinge": _hinge_terms,
}


def _bend_softmax(T: Float, P: Float) -> None:
    """Multiply the change of logits by the second derivative of the loss, in place."""
    # relative to the likeliest class, products keep their relative precision where p is nearly 0 and 1
    T -= np.take_along_axis(T, P.argmax(axis=2)[:, :, None], axis=2)
    T -= np.einsum("npk,npk->np", P, T)[:, :, None]
    T *= P


class _Fit:
    """Problems with the same number of columns on the rows of `A`, step by step."""

    def __init__(
        self, A: Any, problems: Sequence[Problem], loss: Loss, tol: float, span: _Span | None = None
    ) -> None:
        n, p = int(A.shape[0]), len(problems)
        self.span = span  # whose columns `tol` is about
        #: How much larger than the average part of a gradient its largest was, last time.
        self.peaks = np.full(p, PEAK)
        self.A, self.loss, self.softmax = A, loss, loss == "softmax"
        self.tol = max(tol, TOLERANCE)
        self.K = problems[0].n_columns
        self.C = np.array([one.C for one in problems])
        self.counts = np.array([len(one.rows) for one in problems])
        self.targets = np.zeros((n, p), dtype=np.int64)
        weighted = any(one.weights is not None for one in problems)
        self.weights = np.zeros((n, p), dtype=np.float64 if weighted else np.float32)
        for at, one in enumerate(problems):
            self.targets[one.rows, at] = one.targets
            self.weights[one.rows, at] = 1.0 if one.weights is None else one.weights[one.targets]
        #: Whether each row counts once in every problem.
        self.whole = bool((self.counts == n).all()) and not weighted
        self.exact = isinstance(A, np.ndarray) and A.dtype == np.float64
        self.scale = _Preconditioner(A, n)
        # few unknowns: Newton's equations are made and solved, from the first step on
        work = n * int(A.shape[1]) ** 2 * p * (1 if loss == "hinge" else 4)  # far from all rows bend a hinge
        self.direct = self.K == 1 and self.exact and work <= MAX_DIRECT
        # CG takes rows in float32
        self.A32 = A.astype(np.float32) if self.exact else A
        self.rounded = _round_rows(self.A32, p * self.K)
        self.penalty = 1.0 if loss == "hinge" else 0.0  # of intercepts

    def run(self, start: Sequence[Optimum] | None) -> list[Optimum]:
        """Return the optimum of each problem; those that have come there leave the others."""
        p, r = len(self.C), int(self.A.shape[1])
        W = np.zeros((r, p, self.K))
        b = np.zeros((p, self.K))
        for at, one in enumerate(start or ()):
            W[:, at], b[at] = one.weights, one.intercept
        out: dict[int, Optimum] = {}
        live = np.arange(p)
        gain = gained = before = np.full(p, np.inf)
        width = int(self.A.shape[1] if self.span is None else self.span.rows.shape[1])
        constant = float(np.sqrt(self.scale.squares.sum() / (len(self.targets) * width)))
        # rows that are all alike are zeros, but for rounding: then only intercepts are found
        past = _Steps(constant if constant > 1e-15 else 1.0)
        objective, P, gW, gb, L = self.evaluate(live, W, b)
        rough = np.zeros(p, dtype=bool)  # whose gradient is of rounded rows
        # the first steps of a hinge are Newton's: its second derivative is 0 or 2
        n_quasi = (
            (QUASI_STEPS if self.exact else QUASI_STEPS_32) if self.loss != "hinge" and start is None else 0
        )
        if self.direct:
            n_quasi = 0
        for step in range(n_quasi + MAX_NEWTON_STEPS + 1):
            C = self.C[live]
            error = self.largest(live, gW, gb)
            due = (error <= self.tol) | (step % ROUNDED_STEPS == 0) | (step >= n_quasi)
            again = np.flatnonzero(rough & due)
            if len(again):
                found = self.evaluate(live[again], W[:, again], b[again])
                objective[again], P[:, again], gW[:, again], gb[again], L[:, again] = found
                error[again] = self.largest(live[again], gW[:, again], gb[again])
                rough[again] = False
            done = error <= self.tol + self.rounding(live, W)
            if not self.exact:
                done |= (gain <= FLOAT32_GAIN * C) | ((gain > gained / 4) & (gain <= FLOAT32_NOISE * C))
            last = step == n_quasi + MAX_NEWTON_STEPS
            for at in range(len(live)) if last else np.flatnonzero(done).tolist():
                shift = b[at].mean() if self.softmax else 0.0
                out[int(live[at])] = Optimum(
                    W[:, at].copy(), b[at] - shift, step, bool(done[at]), float(error[at])
                )
            if done.all() or last:
                break
            if done.any():
                on = ~done
                live, C, error, before, objective = live[on], C[on], error[on], before[on], objective[on]
                gain, rough, L = gain[on], rough[on], L[:, on]
                W, b, gW, gb, P = W[:, on], b[on], gW[:, on], gb[on], P[:, on]
                past.keep(on)
            if step < n_quasi:
                dW, db = past.next(gW, gb)
            else:
                # float32 leads no further where the error does not shrink
                precise = self.exact and bool((error > before).any() and error.max() < 1e-6)
                if self.direct:
                    dW, db = self.direct_step(live, P, gW, gb)
                else:
                    dW, db = self.newton_step(live, P, gW, gb, error, precise)
                before = error
            slope = (gW * dW).sum(axis=(0, 2)) + (gb * db).sum(axis=1)
            gained = gain
            gain = -slope if step >= n_quasi else np.full(len(live), np.inf)
            length = np.ones(len(live))
            here = gW, gb
            rounded = self.rounded is not None and step < n_quasi and error.max() > ROUNDED_ERROR
            if rounded:
                T = self.change(dW, db)
                tried, P, D = self.terms(live, W + dW, b + db, L + T)
            else:
                tried, P, gW, gb, L = self.evaluate(live, W + dW, b + db)
            while True:
                # near the optimum the objective is flat to rounding; a full step is right there
                flat = (1e-12 if self.exact else 1e-7) * np.abs(objective)
                short = np.flatnonzero((tried > objective + 1e-4 * length * slope + flat) & (length > 1e-10))
                if not len(short):
                    break
                length[short] /= 2
                by = length[short, None]
                W_short, b_short = W[:, short] + by * dW[:, short], b[short] + by * db[short]
                if rounded:
                    L_short = L[:, short] + by.astype(np.float32) * T[:, short]
                    moved = self.terms(live[short], W_short, b_short, L_short)
                    tried[short], P[:, short], D[:, short] = moved
                else:
                    found = self.evaluate(live[short], W_short, b_short)
                    tried[short], P[:, short], gW[:, short], gb[short], L[:, short] = found
            dW, db = length[:, None] * dW, length[:, None] * db
            W, b, objective = W + dW, b + db, tried
            if rounded:
                T *= length.astype(np.float32)[:, None]
                L += T
                gW, gb = self.gradient(live, W, b, D)
                rough[:] = True
            if step < n_quasi:
                past.add(dW, db, gW - here[0], gb - here[1])
        return [out[at] for at in range(p)]

    def largest(self, live: NDArray[np.int64], gW: F64, gb: F64) -> F64:
        """Return the largest part of the gradient of the mean loss."""
        scale = self.C[live] * self.counts[live]
        largest: F64 = np.maximum(np.abs(gW).max(axis=(0, 2)), np.abs(gb).max(axis=1)) / scale
        if self.span is not None:
            # a look at the columns costs half a pass: only when the length says that it may be time
            size = np.sqrt((gW * gW).sum(axis=(0, 2)) / (self.span.rows.shape[1] * self.K)) / scale
            near = np.flatnonzero((largest > self.tol) & (self.peaks[live] * size <= self.tol))
            if len(near):
                found = self.span.largest(gW[:, near]) / scale[near]
                self.peaks[live[near]] = np.maximum(PEAK, PEAK_KEPT * found / size[near])
                largest[near] = np.maximum(found, np.abs(gb[near]).max(axis=1) / scale[near])
        return largest

    def rounding(self, live: NDArray[np.int64], W: F64) -> F64 | float:
        """Return what rounding leaves of the gradient of the mean loss in float64."""
        if not self.exact:
            return 0.0
        C = self.C[live]
        size = np.sqrt((W * W).sum(axis=(0, 2))) + C * np.sqrt(self.scale.squares.sum())
        noise: F64 = ROUNDINGS * np.finfo(np.float64).eps * size / (C * self.counts[live])
        return noise

    def change(self, dW: F64, db: F64) -> F32:
        """Return the change of the logits, of rounded rows."""
        r, p, K = dW.shape
        rounded: Any = self.rounded
        T: F32 = rounded.times(dW.reshape(r, p * K)).reshape(-1, p, K)
        T += db.astype(np.float32)
        return T

    def terms(self, live: NDArray[np.int64], W: F64, b: F64, L: F32) -> tuple[F64, F32, F32]:
        """Return objective, second derivatives and derivatives by the logits `L`, which are overwritten."""
        loss, D, P = _TERMS[self.loss](L, self.targets[:, live])
        if not self.whole:
            weights = self.weights[:, live]
            loss *= weights
            D *= weights[:, :, None]
        return self.penalised(live, W, b, loss.sum(axis=0)), P, D

    def penalised(self, live: NDArray[np.int64], W: F64, b: F64, losses: F64) -> F64:
        """Return the objective."""
        squares: F64 = (W * W).sum(axis=(0, 2)) + self.penalty * (b * b).sum(axis=1)
        return 0.5 * squares + self.C[live] * losses

    def gradient(self, live: NDArray[np.int64], W: F64, b: F64, D: F32) -> tuple[F64, F64]:
        """Return the gradients, of rounded rows."""
        C = self.C[live][:, None]
        rounded: Any = self.rounded
        back = rounded.back(D.reshape(len(D), -1))
        gW = W + C * back.T.reshape(W.shape)
        return gW, self.penalty * b + C * D.sum(axis=0, dtype=np.float64)

    def evaluate(self, live: NDArray[np.int64], W: F64, b: F64) -> tuple[F64, F32, F64, F64, F32]:
        """Return objective, second derivatives, gradients (n_features, p, K) and (p, K), and logits.

        The last are of use with rounded rows, and without such empty.
        """
        r, p, K = W.shape
        dtype: Any = np.float64 if self.exact else np.float32
        flat, offsets = W.reshape(r, p * K).astype(dtype), b.astype(dtype)
        every = len(live) == len(self.C)
        losses, sums, back = np.zeros(p), np.zeros((p, K)), np.zeros((p * K, r))
        P = np.empty((int(self.A.shape[0]), p, K), dtype=np.float32)
        logits = np.empty((0 if self.rounded is None else len(P), p, K), dtype=np.float32)
        for rows, block in _blocks(self.A):
            L = (block @ flat).reshape(len(block), p, K) + offsets
            if self.rounded is not None:
                logits[rows] = L
            targets = self.targets[rows] if every else self.targets[rows][:, live]
            loss, D, P[rows] = _TERMS[self.loss](L, targets)
            if not self.whole:
                weights = self.weights[rows][:, live]
                loss *= weights
                D *= weights[:, :, None]
            losses += loss.sum(axis=0)
            sums += D.sum(axis=0, dtype=np.float64)
            back += D.reshape(len(block), p * K).T @ block
        C = self.C[live]
        gW = W + C[:, None] * back.T.reshape(r, p, K)
        return self.penalised(live, W, b, losses), P, gW, self.penalty * b + C[:, None] * sums, logits

    def direct_step(self, live: NDArray[np.int64], P: F32, gW: F64, gb: F64) -> tuple[F64, F64]:
        """Solve Hessian x step = -gradient for problems of one column by a factor each."""
        from scipy.linalg import cho_factor, cho_solve

        r, p, _ = gW.shape
        steps = np.empty((r + 1, p))
        ones = np.concatenate([np.ones(r), [self.penalty + 1e-12]])
        for at, number in enumerate(live):
            bend = P[:, at, 0].astype(np.float64) * self.weights[:, number] * self.C[number]
            used = np.flatnonzero(bend)
            rows = np.empty((len(used), r + 1))
            roots = np.sqrt(bend[used])[:, None]
            np.multiply(self.A[used], roots, out=rows[:, :-1])
            rows[:, -1:] = roots
            matrix = rows.T @ rows
            matrix[np.diag_indices(r + 1)] += ones
            factor = cho_factor(matrix, overwrite_a=True, check_finite=False)
            steps[:, at] = cho_solve(factor, -np.append(gW[:, at, 0], gb[at]), check_finite=False)
        return steps[:-1, :, None], steps[-1][:, None]

    def newton_step(
        self, live: NDArray[np.int64], P: F32, gW: F64, gb: F64, error: F64, precise: bool
    ) -> tuple[F64, F64]:
        """Solve Hessian x step = -gradient by preconditioned conjugate gradients, all problems together."""
        dtype: Any = np.float64 if precise else np.float32
        A = self.A if precise else self.A32
        (r, p, K), n = gW.shape, len(P)
        weights = None if self.whole else self.weights[:, live]
        spread = P * (1 - P) if self.softmax else P
        if weights is not None:
            spread = spread * weights[:, :, None]
        V = spread.sum(axis=0, dtype=np.float64)
        C = self.C[live]
        self.scale.due(spread.sum(axis=(1, 2), dtype=np.float64))
        # at even probabilities this is the Hessian itself
        strength = C * V.sum(axis=1) / (max(K - 1, 1) * n)
        Mb = (self.penalty + C[:, None] * V * (1 + 1e-6) + C[:, None] * 1e-12 + 1e-30).astype(dtype)
        P = P.astype(dtype, copy=False)
        size = np.sqrt((gW * gW).sum(axis=(0, 2)) + (gb * gb).sum(axis=1))
        rW, rb = (gW / -size[:, None]).astype(dtype), (gb / -size[:, None]).astype(dtype)
        outW, outb = np.zeros(gW.shape), np.zeros(gb.shape)
        on = np.arange(p)
        dW, db = np.zeros_like(rW), np.zeros_like(rb)
        zW, zb = self.scale.apply(strength, rW), rb / Mb
        pW, pb = zW.copy(), zb.copy()
        rz = _dot(rW, zW) + (rb * zb).sum(axis=1, dtype=np.float64)
        # quadratic convergence asks for a residual that shrinks with the gradient
        part = np.maximum(np.minimum(LOOSE, np.sqrt(error * 100)), ENOUGH * self.tol / error)
        rounded = None if precise else self.rounded
        if rounded is not None:
            part = np.maximum(part, ROUNDED_RESIDUAL)
        goal = part**2 * rz
        if not precise:
            goal = np.maximum(goal, FLOAT32_RESIDUAL * rz)
        c32 = C.astype(dtype)[:, None]
        for _ in range(MAX_CG_STEPS):
            open_ = (rz > goal) & (rz > 0)
            if not open_.all():
                for at in np.flatnonzero(~open_):
                    outW[:, on[at]], outb[on[at]] = dW[:, at], db[at]
                if not open_.any():
                    on = on[:0]
                    break
                on, rz, goal, c32, Mb, strength = (one[open_] for one in (on, rz, goal, c32, Mb, strength))
                dW, rW, pW, P = dW[:, open_], rW[:, open_], pW[:, open_], P[:, open_]
                db, rb, pb = db[open_], rb[open_], pb[open_]
                weights = None if weights is None else weights[:, open_]
            q = len(on)
            back, hb = np.zeros((q * K, r), dtype=dtype), np.zeros((q, K), dtype=dtype)
            flat = pW.reshape(r, q * K)
            every: Any = slice(None)
            for rows, block in _blocks(A) if rounded is None else [(every, A)]:
                T = (block @ flat if rounded is None else rounded.times(flat)).reshape(len(block), q, K)
                T += pb
                if self.softmax:
                    _bend_softmax(T, P[rows])
                else:
                    T *= P[rows]
                if weights is not None:
                    T *= weights[rows][:, :, None]
                hb += T.sum(axis=0)
                T = T.reshape(len(block), q * K)
                back += T.T @ block if rounded is None else rounded.back(T)
            self.scale.spend(q * K)
            hW = back.T.reshape(r, q, K)
            hW = c32 * hW + pW
            hb = c32 * hb + dtype(self.penalty) * pb
            curvature = _dot(pW, hW) + (pb * hb).sum(axis=1, dtype=np.float64)
            alpha = np.where(curvature > 0, rz / np.where(curvature > 0, curvature, 1), 0).astype(dtype)[
                :, None
            ]
            dW += alpha * pW
            db += alpha * pb
            rW -= alpha * hW
            rb -= alpha * hb
            if self.scale.products is None and self.scale.due(
                spread.sum(axis=(1, 2), dtype=np.float64)
            ):  # another metric: begin again from here
                zW, zb = self.scale.apply(strength, rW), rb / Mb
                was, rz = rz, _dot(rW, zW) + (rb * zb).sum(axis=1, dtype=np.float64)
                goal = goal * rz / was
                pW, pb = zW.copy(), zb.copy()
                continue
            zW, zb = self.scale.apply(strength, rW), rb / Mb
            rz, was = _dot(rW, zW) + (rb * zb).sum(axis=1, dtype=np.float64), rz
            rz = np.where(curvature > 0, rz, 0)
            beta = (rz / was).astype(dtype)[:, None]
            pW = zW + beta * pW
            pb = zb + beta * pb
        for left in range(len(on)):
            outW[:, on[left]], outb[on[left]] = dW[:, left], db[left]
        return outW * size[:, None], outb * size[:, None]


class _Steps:
    """The last steps of each problem and what they changed in its gradient; L-BFGS's next step from these.

    The first is of length 1, as in scikit-learn. An intercept counts as the weight of a column of `constant`.

    References
    ----------
    Chen, Wang, Zhou, "Large-scale L-BFGS using MapReduce", 2014, algorithm 3: all scalar products at once.
    """

    def __init__(self, constant: float) -> None:
        self.constant = constant
        self.order: list[int] = []  # places, the oldest first
        #: (n_problems, 2 * MEMORY, n_unknowns): steps, then changes.
        self.rows: F32 = np.empty((0, 0, 0), dtype=np.float32)
        self.products: F64 = np.empty((0, 0, 0))

    def keep(self, on: NDArray[np.bool_]) -> None:
        """Forget the other problems."""
        if self.order:
            self.rows, self.products = self.rows[on], self.products[on]

    def add(self, dW: F64, db: F64, yW: F64, yb: F64) -> None:
        """Remember a step and the change of the gradient."""
        step, change = _in_rows(dW, db / self.constant), _in_rows(yW, yb * self.constant)
        if not self.order:
            p, n = step.shape
            self.rows = np.zeros((p, 2 * MEMORY, n), dtype=np.float32)
            self.products = np.zeros((p, 2 * MEMORY, 2 * MEMORY))
        at = len(self.order) if len(self.order) < MEMORY else self.order.pop(0)
        self.order.append(at)
        self.rows[:, at], self.rows[:, MEMORY + at] = step, change
        places = [at, MEMORY + at]
        across = self.rows @ self.rows[:, places].transpose(0, 2, 1)
        self.products[:, :, places], self.products[:, places] = across, across.transpose(0, 2, 1)

    def next(self, gW: F64, gb: F64) -> tuple[F64, F64]:
        """Return the step from gradients."""
        r, p, K = gW.shape
        g = _in_rows(gW, gb * self.constant)
        if self.order:
            along = (self.rows @ g[:, :, None])[:, :, 0].astype(np.float64)
            shares = self._shares(along)
            step = (shares[:, :-1].astype(np.float32)[:, None] @ self.rows)[:, 0]
            step += shares[:, -1:].astype(np.float32) * g
        else:
            step = g / -np.sqrt(np.vecdot(g, g))[:, None]
        out = step.reshape(p, r + 1, K).transpose(1, 0, 2).astype(np.float64)
        return out[:-1], out[-1] * self.constant

    def _shares(self, along: F64) -> F64:
        """Return what part of each row, and last of the gradient, the step is made of."""
        B, order = self.products, np.array(self.order)
        curvature = B[:, order, MEMORY + order]
        inverse = np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1), 0.0)
        shares = np.zeros((len(B), 2 * MEMORY + 1))
        rows, taken = shares[:, :-1], np.zeros_like(inverse)
        for j in reversed(range(len(order))):
            taken[:, j] = (np.vecdot(B[:, order[j]], rows) - along[:, order[j]]) * inverse[:, j]
            rows[:, MEMORY + order[j]] -= taken[:, j]
        newest = MEMORY + order[-1]
        shares[:, -1] = -1.0
        # where rounding left no curvature, downhill as it is
        shares *= np.where(curvature[:, -1] > 0, curvature[:, -1] / B[:, newest, newest], 1.0)[:, None]
        for j, at in enumerate(order):
            change = np.vecdot(B[:, MEMORY + at], rows) + along[:, MEMORY + at] * shares[:, -1]
            rows[:, at] += taken[:, j] - change * inverse[:, j]
        return shares


def _in_rows(W: F64, b: F64) -> F32:
    """Return weights (r, p, K) and intercepts (p, K) as one row for each problem."""
    out = np.empty((len(b), len(W) + 1, b.shape[1]), dtype=np.float32)
    out[:, :-1], out[:, -1] = W.transpose(1, 0, 2), b
    return out.reshape(len(b), -1)


class _RoundedRows:
    """Rows in bfloat16, for products that need three digits: steps, not where they end."""

    def __init__(self, A: F32) -> None:
        import torch

        self.torch = torch
        self.A = torch.from_numpy(A).bfloat16()

    def times(self, W: Float) -> F32:
        """Return rows @ W."""
        out: F32 = (self.A @ self._of(W)).float().numpy()
        return out

    def back(self, D: Float) -> F32:
        """Return D.T @ rows."""
        out: F32 = (self._of(D).T @ self.A).float().numpy()
        return out

    def _of(self, values: Float) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).bfloat16()


def _round_rows(A: Any, n_columns: int) -> _RoundedRows | None:
    """Return the rows rounded, where the processor multiplies such faster and there are enough of them."""
    if not isinstance(A, np.ndarray) or A.size > MAX_ROUNDED or A.size * n_columns < MIN_ROUNDED:
        return None
    if len(A) * n_columns > MAX_TOGETHER:  # all logits would be held several times
        return None
    return _RoundedRows(A) if _multiplies_rounded() else None


@cache
def _multiplies_rounded() -> bool:
    """Say whether the processor multiplies bfloat16; by its flags, as clocks change their mind."""
    try:
        words = set(Path("/proc/cpuinfo").read_text("utf-8", "replace").split())
    except OSError:  # not Linux
        return False
    return not words.isdisjoint(("amx_bf16", "avx512_bf16"))


class _Preconditioner:
    """Solves ``(I + c * A.T @ A) x = r``; by the diagonal alone until passes have cost what factors do."""

    def __init__(self, A: Any, n: int) -> None:
        self.A, self.r = A, int(A.shape[1])
        self.squares = np.zeros(self.r)
        for _, block in _blocks(A):
            self.squares += np.ones(len(block), block.dtype) @ (block * block)
        self.products: Any = None  # (r, r) float32, once made
        self.factors: dict[int, F32] = {}
        self.spent = 0.0
        self.n = n
        # the products of columns are half a product of matrices; a factor is at work in every step
        self.price = n * self.r**2 + self.r**3 / 2
        self.allowed = self.r <= MAX_FACTOR_COLUMNS

    def spend(self, columns: int) -> None:
        self.spent += 4.0 * self.n * self.r * (columns + 16)

    def due(self, spread: F64) -> bool:
        """Make the products if it is time; say whether they are new."""
        if not self.allowed or self.spent < self.price:
            return False
        self.spent = 0.0
        self.factors.clear()
        roots = np.sqrt(spread / spread.mean()).astype(np.float32)[:, None]
        self.products = np.zeros((self.r, self.r), dtype=np.float32)
        for rows, block in _blocks(self.A):
            part = block * roots[rows]
            self.products += part.T @ part
        return True

    def apply(self, c: F64, R: Float) -> Float:
        """Return the solution for each problem: `c` (p,), `R` (r, p, K)."""
        if self.products is None:
            out: Float = R / (1 + c[:, None] * self.squares[:, None, None]).astype(R.dtype)
            return out
        from scipy.linalg import lapack

        out = np.empty_like(R)
        keys = np.round(np.log(np.maximum(c, 1e-30)) / np.log(4)).astype(int)
        for key in np.unique(keys):
            members = np.flatnonzero(keys == key)
            right = R[:, members].reshape(self.r, -1).astype(np.float32)
            solved, _ = lapack.spotrs(self._factor(int(key)), right)
            out[:, members] = solved.reshape(self.r, len(members), -1)
        return out

    def _factor(self, key: int) -> F32:
        from scipy.linalg import lapack

        if key not in self.factors:
            if (len(self.factors) + 1) * self.products.nbytes > FACTOR_BYTES:
                self.factors.clear()
            matrix = self.products * np.float32(4.0**key)
            at = np.arange(self.r)
            # float32 has seven digits
            ridge = max(1.0, 1e-6 * float(matrix[at, at].max()))
            while True:
                tried = matrix.copy()
                tried[at, at] += np.float32(ridge)
                factor, info = lapack.spotrf(tried.T, overwrite_a=True)
                if info == 0:
                    break
                ridge *= 10
            self.factors[key] = factor
        return self.factors[key]


def _dot(a: Float, b: Float) -> F64:
    """Return the scalar products of two directions (r, p, K), one per problem."""
    out: F64 = np.einsum("rpk,rpk->p", a, b).astype(np.float64)
    return out


def _blocks(A: Any) -> Iterator[tuple[slice, Float]]:
    if isinstance(A, np.ndarray):
        for first in range(0, len(A), BLOCK_ROWS):
            rows = slice(first, min(len(A), first + BLOCK_ROWS))
            yield rows, A[rows]
    else:
        yield from A.blocks()
