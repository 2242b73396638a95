"""L2-regularised linear classifiers to the true optimum, many at once, by Newton's method.

Each problem is ``||W||^2 / 2 + C * sum of losses``: log-losses of a softmax, as in
`sklearn.linear_model.LogisticRegression` (the intercept not penalised), or squared hinges, as in
`sklearn.svm.LinearSVC` (the intercept penalised like a weight). Problems of about as many rows go through the
rows together, block by block: one pass serves all that still run, which makes of many thin products a wide
one. Newton's equations are solved by conjugate gradients in float32, as far as the gradient is worth; the
gradient is summed in float64, and of products in float64 where the rows are few. Once the passes have cost
what the products of the columns with each other do, these are made, and their Cholesky factors precondition.

Before, and where it suffices, steps are those of L-BFGS. Where they cost no more than a few passes, these
begin with such factors, too: the first step is then Newton's. Steps may be of rows in float32, or rounded to
bfloat16, which only costs more of them: what is accepted as the optimum was looked at with the rows
themselves.

Rows much fewer than their columns are first expressed in orthonormal coordinates of their span; of several
problems and to a loose tolerance in such that the first Hessian is a diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank._process import one_core_if

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
#: Largest part of the gradient of the mean loss from which Newton's steps are the better ones, in float64.
NEAR = 1e-4
#: Passes of all columns that are expected at least: what costs no more is made at once.
EXPECTED_PASSES = 10
#: How many times as many rows as columns there are where L-BFGS begins with factors (steps are halved, and
#: each costs up to twice as much), how many times as many their products are made of, and after how many
#: steps at least they are made again; how many times what they cost is spent before Newton's steps make them,
#: and then again.
LIGHT, SAMPLED, RENEWED, MADE, REMADE = 3, 4, 8, 2, 6
#: The same of problems of one column, which take fewer steps; these are made once.
LIGHT_ALONE = 32
#: Rows in a span for each column of problems, beyond which they are not aligned: their eigenvectors would
#: cost more than the steps they save.
ALIGNED_COLUMNS = 24
MAX_NEWTON_STEPS = 100
#: Multiply-adds of a pass from which rows are rounded to bfloat16, too: torch, which multiplies these, is
#: worth the second that importing it takes; and the most values that are rounded. Not fewer where torch is
#: there already: what a fit gives would depend on what the process did before.
MIN_ROUNDED, MAX_ROUNDED = 2**30, 2**29
#: Part of the gradient of the mean loss, and of a Newton step, down to which rounded rows are followed, and
#: after how many steps the gradient is computed exactly.
ROUNDED_ERROR, ROUNDED_RESIDUAL, ROUNDED_STEPS = 1e-5, 0.03, 8
MAX_CG_STEPS = 500
#: What part of the trace the norm of products is from which on these are made in float64.
DOMINANT = 0.3
#: How many rows tell how large a value of them is.
SIZED_ROWS = 32
#: In a span, the gradient is first taken in one of so many columns.
SOME_COLUMNS = 8
#: How much larger than the average the largest part of a gradient at least is, and how much of what it was a
#: step later.
PEAK, PEAK_KEPT = 3.0, 0.8
#: Multiply-adds of all Newton's matrices up to which they are made.
MAX_DIRECT = 2**26
#: Part of the gradient that early steps leave, and squared residual below which float32 gets no nearer.
LOOSE, FLOAT32_RESIDUAL = 0.1, 1e-10
#: What part of the slope at its start a step may climb with in the end, where the objective is as much higher
#: as this part of it at the most.
TURNED, FLAT = 0.5, 1e-5
#: What a step that leads too far is shortened to, at least and at most.
SHORTER = 0.1, 0.5
#: What part of `tol` a step need not fall below.
ENOUGH = 0.3
#: Rows per block at least, and of one column (what one product has read, the next finds near), and values of
#: a block, of its logits at the most; numbers of rows times columns up to which they are taken in float64.
BLOCK_ROWS, ALONE_ROWS, BLOCK_VALUES, FLOAT64_SIZE = 256, 40, 2**21, 2**22
#: Columns below which logits are a product of rows and weights, and turned; from here on they are not turned.
FEW_COLUMNS = 64
#: Rows are expressed in their span up to this part of their length, up to this many, and where the passes
#: expected save more than the products of the rows cost; to a `tol` as loose as that they are fewer, and save
#: so many multiply-adds at least: what an expression costs at any size.
SPAN_PART, MAX_SPAN_ROWS, PASSES = 0.5, 4096, 60
LOOSE_TOLERANCE, LOOSE_PASSES, MIN_LOOSE_SPAN = 1e-6, 10, 2**25
#: How many times as large as what the penalty has of the gradient `tol` is where the penalty does not count.
FAR = 2.5
#: Values of rows from which on the first step is measured by a product, else as long as scikit-learn's.
MIN_MEASURED = 2**20
#: How many times as large as those of their own rows the products of all rows of several problems may be, for
#: these to go together.
JOINED = 1.5
#: And how many times what the passes of each on its own rows cost those on all rows may, outside of spans.
APART = 1.25
#: Widest matrix that is factorised, and bytes of factors that are kept.
MAX_FACTOR_COLUMNS, FACTOR_BYTES = 6144, 512 * 2**20
#: Columns times rows, and times features, of the problems that run together; the rest wait. Several arrays of
#: the first size are held at a time, and `MEMORY` pairs of steps of the second.
MAX_TOGETHER, MAX_UNKNOWNS = 2**23, 2**22
#: Columns times rows up to which steps of L-BFGS are of rounded rows.
MAX_ROUNDED_LOGITS = 2**26
#: Multiply-adds of a pass below which it has one thread.
MIN_SHARED_PASS = 2**27
#: And those of expressing rows in their span, once.
MIN_SHARED_SPAN = 2**31

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Float = NDArray[np.floating[Any]]
Loss = Literal["softmax", "logistic", "hinge"]
#: Solves Hessian x step = gradient, about: of gradients (p, m, n_unknowns).
Metric = Callable[[F32], F32]


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
    for members, in_span in _groups({at: problems[at] for at in rest}, len(Z), width, tol):
        chosen = [problems[at] for at in members]
        begin = None if start is None else [start[at] for at in members]
        solved = _solve_together(Z, chosen, loss, tol, begin, in_span)
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
    """Solve problems in the span of their rows, or in the columns of `Z`."""
    union = _union(problems, len(Z))
    if in_span:
        with one_core_if(len(union) ** 2 * int(Z.shape[1]) < MIN_SHARED_SPAN):
            n_columns = len(problems) * problems[0].n_columns
            aligned = len(problems) > 1 and ALIGNED_COLUMNS * (n_columns + 16) >= len(union)
            span = _Span(Z if len(union) == len(Z) else Z[union], tol >= LOOSE_TOLERANCE, aligned)
        own = [replace(one, rows=np.searchsorted(union, one.rows)) for one in problems]
        coordinates = None if start is None else [span.enter(one) for one in start]
        fit = _Fit(span.A, own, loss, tol, span if tol >= LOOSE_TOLERANCE else None)
        return span.leave(_run(fit, coordinates))
    A = Z
    if 2 * len(union) < len(Z):  # those that nobody asks for are not read again and again
        A = Z[union]
        problems = [replace(one, rows=np.searchsorted(union, one.rows)) for one in problems]
    if isinstance(A, np.ndarray) and A.size <= FLOAT64_SIZE and tol < LOOSE_TOLERANCE:
        A = A.astype(np.float64)
    return _run(_Fit(A, problems, loss, tol), start)


def _union(problems: Sequence[Problem], n: int) -> NDArray[np.int64]:
    """Return which of `n` rows any problem has."""
    any_ = np.zeros(n, dtype=bool)
    for one in problems:
        any_[one.rows] = True
    return np.flatnonzero(any_)


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


def _groups(
    problems: Mapping[int, Problem], n_rows: int, width: int, tol: float
) -> Iterator[tuple[list[int], bool]]:
    """Yield which problems go together, those of about as many rows, and whether in the span of these."""
    alike: dict[tuple[int, int], dict[bytes, list[int]]] = {}
    for at, one in problems.items():
        by_rows = alike.setdefault((one.n_columns, len(one.rows).bit_length()), {})
        by_rows.setdefault(one.rows.tobytes(), []).append(at)
    for (K, _), by_rows in alike.items():
        apart = [*by_rows.values()]
        sizes = [len(problems[members[0]].rows) for members in apart]
        together = [at for members in apart for at in members]
        n = len(_union([problems[at] for at in together], n_rows))
        options = [*zip(apart, sizes, strict=True)]
        if n**2 <= JOINED * np.mean(np.square(sizes)):
            options = [(together, n)]
        spans = [members for members, rows in options if _spans(rows, K * len(members), width, tol)]
        left = {*together}.difference(*spans)
        rest = [(members, size) for members, size in zip(apart, sizes, strict=True) if members[0] in left]
        if rest:
            n = len(_union([problems[at] for at in left], n_rows))
            each = sum(_cost(size, n_rows, width, K * len(members)) for members, size in rest)
            if _cost(n, n_rows, width, K * len(left)) <= APART * each:
                rest = [(sorted(left), n)]
        for members, in_span in [*((one, True) for one in spans), *((one, False) for one, _ in rest)]:
            widest = max(sizes) if in_span else width
            step = max(1, min(MAX_TOGETHER // (max(sizes) * K), MAX_UNKNOWNS // (K * widest)))
            for first in range(0, len(members), step):
                yield members[first : first + step], in_span


def _cost(n: int, n_rows: int, width: int, n_columns: int) -> float:
    """Return what a pass of problems that have `n` of `n_rows` rows costs, in multiply-adds.

    A thin product takes as long as one of some columns more, and each needs some time in Python.
    """
    return float(n if 2 * n < n_rows else n_rows) * width * (n_columns + 8) + 2**20


def _spans(n: int, n_columns: int, width: int, tol: float) -> bool:
    """Say whether problems of so many rows and columns together are solved in the span of the rows."""
    passes, least = (LOOSE_PASSES, MIN_LOOSE_SPAN) if tol >= LOOSE_TOLERANCE else (PASSES, 0)
    # what passes save, in multiply-adds: a thin product takes as long as one of two columns more
    saved = 2.0 * passes * n * (width - n) * (n_columns + 2)
    return n <= min(SPAN_PART * width, MAX_SPAN_ROWS) and saved >= max(0.5 * n * n * width, least)


class _Span:
    """Rows in orthonormal coordinates of what they span: `A` (n_rows, at most n_rows), float64.

    To a loose tolerance float32 is enough. `aligned` coordinates have columns that are orthogonal to each
    other, too: the Hessian at even probabilities is then a diagonal.
    """

    def __init__(self, rows: Any, loose: bool, aligned: bool) -> None:
        from scipy.linalg import LinAlgError, cholesky, eigh

        self.rows = np.asarray(rows)
        dtype: Any = np.float32 if loose else np.float64
        products = self.products(dtype)
        # of rows that have one direction in common float32 would keep little but that
        if loose and np.linalg.norm(products) > DOMINANT * np.trace(products):
            dtype = np.float64
            products = self.products(dtype)
        # what rounding makes of rows that depend on each other: too little to be seen in any logit
        least, apart = (1e-9, 1e-6) if dtype is np.float32 else (1e-13, 1e-13)
        # all rows may be zeros
        jitter = least * float(np.trace(products)) + float(np.finfo(dtype).tiny)
        self.aligned = aligned and loose
        if not self.aligned:
            try:
                self.A = cholesky(products + jitter * np.eye(len(products)), lower=True, check_finite=False)
            except LinAlgError:
                self.aligned = True
        if self.aligned:
            values, vectors = eigh(products, driver="evd", overwrite_a=True, check_finite=False)
            values = np.maximum(values, jitter)
            kept = values > apart * values[-1]
            self.lengths = np.sqrt(values[kept])
            self.A = vectors[:, kept] * self.lengths
        if dtype is np.float32:
            self.A = self.A.astype(np.float32)

    def products(self, dtype: Any) -> F64:
        """Return the products of the rows with each other, made of columns in `dtype`."""
        n, p = self.rows.shape
        products = np.zeros((n, n))
        step = max(64, 2**22 // n)
        for first in range(0, p, step):
            part: Float = self.rows[:, first : first + step].astype(dtype, copy=False)
            products += part @ part.T
        return products

    def largest(self, gW: F64, enough: F64) -> F64:
        """Return the largest part of gradients (p, K, n_coordinates), had they been taken in the columns.

        Or of some columns, where that is more than `enough` (p,) already.
        """
        duals = self.duals(gW)
        found: F64 = np.abs(duals @ self.some).max(axis=(1, 2))
        near = np.flatnonzero(found <= enough)
        if len(near):
            # what float32 makes of it, at the worst
            noise = float(np.finfo(np.float32).eps) * np.abs(duals).sum(axis=2).max(axis=1) * self.highest
            dtype = np.float32 if self.rows.dtype == np.float32 and (noise < enough / 8)[near].all() else None
            found[near] = np.abs(self.in_columns(duals[near], dtype)).max(axis=(1, 2))
        return found

    @cached_property
    def highest(self) -> float:
        """Largest absolute value of the rows."""
        return float(max(self.rows.max(), -self.rows.min()))

    @cached_property
    def some(self) -> F64:
        """Columns here and there, (n_rows, n)."""
        return self.rows[:, ::SOME_COLUMNS].astype(np.float64)

    def leave(self, optima: Sequence[Optimum]) -> list[Optimum]:
        """Return solutions in coordinates as such in the columns of the rows."""
        weights = self.in_columns(self.duals(np.stack([one.weights.T for one in optima])))
        return [
            replace(one, weights=np.ascontiguousarray(found.T))
            for one, found in zip(optima, weights, strict=True)
        ]

    def duals(self, W: F64) -> F64:
        """Return weights (p, K, n_coordinates) as such of rows, (p, K, n_rows)."""
        from scipy.linalg import solve_triangular

        p, K, r = W.shape
        flat = W.reshape(p * K, r).T
        if not self.aligned:
            part = solve_triangular(self.A, flat, lower=True, trans="T", check_finite=False)
        else:
            part = (self.A / self.lengths**2) @ flat
        return np.ascontiguousarray(part.T, dtype=np.float64).reshape(p, K, -1)

    def in_columns(self, duals: F64, dtype: Any = None) -> Float:
        """Return the same as weights of columns, (p, K, n_columns)."""
        p, K, n = duals.shape
        # of rows nearly alike that differ in class, large parts cancel: float32 would keep their rounding
        flat = duals.reshape(p * K, n).astype(dtype or np.float64, copy=False)
        found = np.empty((p * K, self.rows.shape[1]), flat.dtype)
        for columns in _parts(self.rows.shape[1], max(n, p * K)):
            found[:, columns] = flat @ self.rows[:, columns].astype(flat.dtype, copy=False)
        return found.reshape(p, K, -1)

    def enter(self, one: Optimum) -> Optimum:
        """Return a solution in columns as one in coordinates."""
        from scipy.linalg import solve_triangular

        logits = self.rows @ one.weights
        if not self.aligned:
            inside = solve_triangular(self.A, logits, lower=True, check_finite=False)
        else:
            inside = (self.A / self.lengths**2).T @ logits
        return Optimum(inside, one.intercept, one.n_iter, one.converged, one.gradient)


def _positions(numbers: NDArray[np.int64], K: int) -> NDArray[np.int64]:
    """Return where the logits of the classes `numbers` (p, n) stand in logits (p, K, n), flattened."""
    p, n = numbers.shape
    places: NDArray[np.int64] = (np.arange(p)[:, None] * K + numbers) * n + np.arange(n)
    return places


def _softmax_terms(L: Float, targets: NDArray[np.int64]) -> tuple[F64, Float, Float]:
    """Return the loss of each problem and row, its derivative, and the probabilities; `L` is overwritten.

    Logits are (p, K, n): what is summed over classes is then summed over whole rows of memory.
    """
    own = _positions(targets, L.shape[1])
    L -= L.max(axis=1, keepdims=True)
    first = L.reshape(-1)[own].astype(np.float64)
    P = np.exp(L, out=L)
    total = P.sum(axis=1)
    losses = np.log(total.astype(np.float64)) - first
    P /= total[:, None]
    D = P.copy()
    # 1 - p is the sum of the other p: the difference would have no digits left where p is nearly 1
    flat = D.reshape(-1)
    flat[own] = 0.0
    flat[own] = -D.sum(axis=1)
    return losses, D, P


def _hinge_terms(L: Float, signs: F32) -> tuple[F64, Float, Float]:
    """Return the same of squared hinges; in place of probabilities whether a row bends."""
    sign = signs[:, None]
    short = np.maximum(1 - sign * L, 0)
    return (short[:, 0].astype(np.float64)) ** 2, -2 * sign * short, (short > 0).astype(L.dtype)


def _logistic_terms(L: Float, signs: F32) -> tuple[Float, Float, Float]:
    """Return the same of log-losses of two classes with one column; of probabilities the smaller."""
    sign = signs[:, None]
    L *= sign
    P = np.exp(-np.abs(L))
    losses = np.log1p(P[:, 0]) - np.minimum(L[:, 0], 0)
    P /= 1 + P
    return losses, sign * np.where(L > 0, -P, P - 1), P


_TERMS: dict[Loss, Callable[[Float, Any], tuple[Float, Float, Float]]] = {
    "softmax": _softmax_terms,
    "logistic": _logistic_terms,
    "hinge": _hinge_terms,
}


def _bend_softmax(T: Float, P: Float, likeliest: NDArray[np.int64]) -> None:
    """Multiply the change of logits (p, K, n) by the second derivative of the loss, in place."""
    # relative to the likeliest class, products keep their relative precision where p is nearly 0 and 1
    T -= T.reshape(-1)[_positions(likeliest, T.shape[1])][:, None]
    T -= np.einsum("pkn,pkn->pn", P, T)[:, None]
    T *= P


class _Fit:
    """Problems with the same number of columns on the rows of `A`, step by step.

    Unknowns and gradients are (p, n_unknowns): weights (p, K, n_features), row by row, and intercepts (p, K).
    Logits are (p, K, n_rows).
    """

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
        self.n_weights = self.K * int(A.shape[1])
        self.C = np.array([one.C for one in problems])
        self.counts = np.array([len(one.rows) for one in problems])
        #: Class numbers, or -1 and 1.
        self.targets = np.zeros((p, n), dtype=np.int64 if self.softmax else np.float32)
        weighted = any(one.weights is not None for one in problems)
        #: Whether each row counts once in every problem.
        self.whole = bool((self.counts == n).all()) and not weighted
        self.weights = np.zeros((p, 0 if self.whole else n), dtype=np.float64 if weighted else np.float32)
        for at, one in enumerate(problems):
            self.targets[at, one.rows] = one.targets if self.softmax else 2 * one.targets - 1
            if not self.whole:
                self.weights[at, one.rows] = 1.0 if one.weights is None else one.weights[one.targets]
        #: What belongs to the problems of the last call of `own`.
        self.owned: tuple[NDArray[np.int64], F64, F64, Any, Float] | None = None
        self.exact = isinstance(A, np.ndarray) and A.dtype == np.float64
        # few unknowns: Newton's equations are made and solved, from the first step on
        work = n * int(A.shape[1]) ** 2 * p * (1 if loss == "hinge" else 4)  # far from all rows bend a hinge
        self.direct = self.K == 1 and self.exact and work <= MAX_DIRECT
        # steps of L-BFGS, and CG, take rows in float32
        self.A32 = A.astype(np.float32) if self.exact else A
        self.scale = _Preconditioner(self.A32, n, p, self.K)
        #: Whether steps of L-BFGS begin with a metric.
        self.light = self.scale.light or (span is not None and span.aligned)
        self.rounded = _round_rows(self.A32, p * self.K)
        #: Whether steps of L-BFGS, too, are of rounded rows: logits are then held several times.
        self.holds_logits = self.rounded is not None and n * p * self.K <= MAX_ROUNDED_LOGITS
        self.penalty = 1.0 if loss == "hinge" else 0.0  # of intercepts
        #: What the last Newton step gained, and that by the squared length of its gradient, which the
        #: preconditioner tells: it says without a pass that the next one gains nothing.
        self.gains, self.worth = np.full((2, p), np.inf)
        #: What `scaled` returned when `metric` was last renewed.
        self.strength, self.bent = np.empty(p), np.empty((p, self.K))

    def run(self, start: Sequence[Optimum] | None) -> list[Optimum]:
        """Return the optimum of each problem; those that have come there leave the others."""
        p = len(self.C)
        X = np.zeros((p, self.n_weights + self.K))
        for at, one in enumerate(start or ()):
            X[at] = np.append(one.weights.T, one.intercept)
        out: dict[int, Optimum] = {}
        live = np.arange(p)
        gain = gained = before = np.full(p, np.inf)
        past = _Steps(self.n_weights, self.constant)
        # the first steps of a hinge are Newton's: its second derivative is 0 or 2
        n_quasi = (
            (QUASI_STEPS if self.exact else QUASI_STEPS_32) if self.loss != "hinge" and start is None else 0
        )
        if self.direct:
            n_quasi = 0
        objective, P, G, L = self.evaluate(live, X, exactly=not n_quasi)
        rough = np.full(p, self.exact and n_quasi > 0)  # whose gradient is of rounded rows
        for step in range(n_quasi + MAX_NEWTON_STEPS + 1):
            error = self.largest(live, G)
            if self.exact and step < n_quasi and error.max() <= NEAR:
                n_quasi = step
            if rough.any():
                due = (error <= self.tol) | (step >= n_quasi)
                if self.holds_logits:
                    due |= step % ROUNDED_STEPS == 0
                again = np.flatnonzero(rough & due)
                if len(again):
                    found = self.evaluate(live[again], X[again], exactly=True)
                    objective[again], P[again], G[again] = found[:3]
                    if self.holds_logits:
                        L[again] = found[3]
                    error[again] = self.largest(live[again], G[again])
                    rough[again] = False
            reached = done = error <= self.tol + self.rounding(live, X)
            if not self.exact and step > n_quasi:
                C = self.own(live)[0]
                done = done | (gain <= FLOAT32_GAIN * C) | ((gain > gained / 4) & (gain <= FLOAT32_NOISE * C))
            last = step == n_quasi + MAX_NEWTON_STEPS
            if last or done.any():
                # of a tolerance that float32 can keep, that nothing is gained any more is not enough
                reached = reached if self.tol >= LOOSE_TOLERANCE else done
                for at in range(len(live)) if last else np.flatnonzero(done).tolist():
                    W, b = self.parts(X[at : at + 1])
                    out[int(live[at])] = Optimum(
                        W[0].T.copy(), self.centred(b)[0].copy(), step, bool(reached[at]), float(error[at])
                    )
                if last or done.all():
                    break
                on = ~done
                live, error, before, objective = live[on], error[on], before[on], objective[on]
                gain, rough = gain[on], rough[on]
                X, G, P = X[on], G[on], P[on]
                L = L[on] if self.holds_logits else L
                past.keep(on)
            quasi = step < n_quasi
            if quasi:
                plain = step == 0 and not self.light
                D = self.first_step(live, G) if plain else past.next(G, *self.metric(live, P, step))
            else:
                # float32 leads no further where the error does not shrink
                precise = self.exact and bool((error > before).any() and error.max() < 1e-6)
                if self.direct:
                    D = self.direct_step(live, P, G)
                else:
                    D = self.newton_step(live, P, G, error, precise)
                before = error
            P = np.empty(0, np.float32)  # of many classes it is most of the memory, and made anew
            slope = np.vecdot(G, D)
            if not quasi:
                gained, gain = gain, -slope
            here, logits = G, L
            rounded = self.holds_logits and quasi and error.max() > ROUNDED_ERROR
            tried, P, G, L = self.moved(live, X, logits, D, not quasi, rounded)
            # near the optimum the objective is flat to rounding; a full step is right there
            most = objective + (1e-12 if self.exact and not quasi else 1e-7) * np.abs(objective)
            length = np.ones(len(live))
            while len(short := np.flatnonzero(tried > most + 1e-4 * length * slope)) and length.min() > 1e-10:
                # a convex objective whose slope has not turned far is lower, whatever rounding makes of it
                turned = np.vecdot(G[short], D[short]) > -TURNED * length[short] * slope[short]
                short = short[turned | (tried[short] > objective[short] + FLAT * np.abs(objective[short]))]
                if not len(short):
                    break
                # to the lowest point of the parabola through what is known
                fall = length[short] * slope[short]
                part = np.clip(-fall / (2 * (tried[short] - objective[short] - fall)), *SHORTER)
                length[short] *= part
                D[short] *= part[:, None]
                found = self.moved(live[short], X[short], logits[short], D[short], not quasi, rounded)
                tried[short], P[short], G[short] = found[:3]
                if self.holds_logits:
                    L[short] = found[3]
            X, objective = X + D, tried
            if quasi:
                rough[:] = rounded or self.exact
                past.add(D, G - here)
        return [out[at] for at in range(p)]

    def parts(self, X: Float) -> tuple[Float, Float]:
        """Return of unknowns (p, n_unknowns) the weights (p, K, n_features) and the intercepts (p, K)."""
        return X[:, : self.n_weights].reshape(len(X), self.K, -1), X[:, self.n_weights :]

    @cached_property
    def constant(self) -> float:
        """Size of a value of the rows, of some of them: L-BFGS sees an intercept as a column of it."""
        if self.span is None:
            n = len(self.A32)
            part = self.A32[np.arange(0, n, max(1, n // SIZED_ROWS))]
            size = float(np.sqrt(np.vdot(part, part) / part.size))
        else:
            size = float(np.sqrt(self.scale.total / self.span.rows.size))
        # rows that are all alike are zeros, but for rounding: then only intercepts are found
        return size if size > 1e-15 else 1.0

    def own(self, live: NDArray[np.int64]) -> tuple[F64, F64, Any, Float]:
        """Return C, C times the number of rows, targets and weights; mostly of the problems of last time."""
        if self.owned is None or self.owned[0] is not live:
            every = len(live) == len(self.C)
            of_rows = (self.targets, self.weights) if every else (self.targets[live], self.weights[live])
            self.owned = (live, self.C[live], (self.C * self.counts)[live], *of_rows)
        return self.owned[1:]

    def largest(self, live: NDArray[np.int64], G: F64) -> F64:
        """Return the largest part of the gradient of the mean loss."""
        scale = self.own(live)[1]
        largest: F64 = np.abs(G).max(axis=1) / scale
        if self.span is not None:
            # a look at the columns costs half a pass: only when the length says that it may be time
            gW: Any
            gW, gb = self.parts(G)
            size = np.sqrt(_dot(gW, gW) / (self.span.rows.shape[1] * self.K)) / scale
            near = np.flatnonzero((largest > self.tol) & (self.peaks[live] * size <= self.tol))
            if len(near):
                found = self.span.largest(gW[near], self.tol * scale[near]) / scale[near]
                self.peaks[live[near]] = np.maximum(PEAK, PEAK_KEPT * found / np.maximum(size[near], 1e-300))
                largest[near] = np.maximum(found, np.abs(gb[near]).max(axis=1) / scale[near])
        return largest

    def rounding(self, live: NDArray[np.int64], X: F64) -> F64 | float:
        """Return what rounding leaves of the gradient of the mean loss in float64."""
        if not self.exact:
            return 0.0
        C, scale, *_ = self.own(live)
        W = X[:, : self.n_weights]
        size = np.sqrt(np.vecdot(W, W)) + C * np.sqrt(self.scale.total)
        noise: F64 = ROUNDINGS * np.finfo(np.float64).eps * size / scale
        return noise

    def moved(
        self, live: NDArray[np.int64], X: F64, L: F32, D: F64, exactly: bool, rounded: bool
    ) -> tuple[F64, F32, F64, F32]:
        """Return what `evaluate` does, a step from where logits are `L`."""
        if rounded:
            return self.evaluate_rounded(live, X + D, L, D)
        return self.evaluate(live, X + D, exactly=exactly)

    def evaluate_rounded(
        self, live: NDArray[np.int64], X: F64, L: F32, step: F64
    ) -> tuple[F64, F32, F64, F32]:
        """Return what `evaluate` does, a step from the logits `L`, of rounded rows."""
        p, K = len(X), self.K
        rounded: Any = self.rounded
        dW, db = self.parts(step)
        flat, offsets = dW.reshape(p * K, -1), db.astype(np.float32)[:, :, None]
        losses, sums, back = np.zeros(p), np.zeros((p, K)), np.zeros(flat.shape)
        P, logits = np.empty_like(L), np.empty_like(L)
        for rows in _parts(L.shape[2], max(flat.shape[1], p * K)):
            T = rounded.times(flat, rows).reshape(p, K, -1)
            T += offsets
            T += L[:, :, rows]
            logits[:, :, rows] = T
            loss, D, P[:, :, rows] = self.terms(live, T, rows)
            losses += loss.sum(axis=1, dtype=np.float64)
            sums += D.sum(axis=2, dtype=np.float64)
            back += rounded.back(D.reshape(p * K, -1), rows)
        return *self.summed(live, X, P, losses, sums, back), logits

    def terms(self, live: NDArray[np.int64], L: Float, rows: slice) -> tuple[Float, Float, Float]:
        """Return losses, derivatives and probabilities by the logits `L`, which are overwritten."""
        _, _, targets, weights = self.own(live)
        loss, D, P = _TERMS[self.loss](L, targets[:, rows])
        if not self.whole:
            loss *= weights[:, rows]
            D *= weights[:, None, rows]
        return loss, D, P

    def summed(
        self, live: NDArray[np.int64], X: F64, P: F32, losses: F64, sums: F64, back: F64
    ) -> tuple[F64, F32, F64]:
        """Return objective, probabilities and gradient from sums over rows."""
        self.scale.spend(len(back))
        C = self.own(live)[0]
        penalised = X if self.penalty else X[:, : self.n_weights]
        objective = 0.5 * np.vecdot(penalised, penalised) + C * losses
        G = np.concatenate([back.reshape(len(X), -1), sums], axis=1)
        G *= C[:, None]
        G[:, : penalised.shape[1]] += penalised
        return objective, P, G

    def evaluate(self, live: NDArray[np.int64], X: F64, *, exactly: bool) -> tuple[F64, F32, F64, F32]:
        """Return objective, probabilities, gradient and logits.

        The last are of use where steps are of rounded rows, and else empty. In float64 where that is asked
        for and rows are few.
        """
        p, K = len(X), self.K
        A = self.A if exactly else self.A32
        W, b = self.parts(X.astype(np.float64 if self.exact and exactly else np.float32))
        flat, offsets = np.ascontiguousarray(W.reshape(p * K, -1)), b[:, :, None]
        losses, sums, back = np.zeros(p), np.zeros((p, K)), np.zeros(flat.shape)
        n = int(A.shape[0])
        P = np.empty((p, K, n), dtype=np.float32)
        logits = np.empty((p, K, n if self.holds_logits else 0), dtype=np.float32)
        for rows, block in _blocks(A, p * K):
            L = _forward(flat, block).reshape(p, K, len(block))
            L += offsets
            if self.holds_logits:
                logits[:, :, rows] = L
            loss, D, P[:, :, rows] = self.terms(live, L, rows)
            losses += loss.sum(axis=1, dtype=np.float64)
            sums += D.sum(axis=2, dtype=np.float64)
            back += D.reshape(p * K, len(block)) @ block
        return *self.summed(live, X, P, losses, sums, back), logits

    def direct_step(self, live: NDArray[np.int64], P: F32, G: F64) -> F64:
        """Solve Hessian x step = -gradient for problems of one column by a factor each."""
        from scipy.linalg import cho_factor, cho_solve

        r = self.n_weights
        steps = np.empty_like(G)
        ones = np.concatenate([np.ones(r), [self.penalty + 1e-12]])
        for at, number in enumerate(live):
            bend = self.bend(P[at, 0].astype(np.float64)) * self.C[number]
            if not self.whole:
                bend *= self.weights[number]
            used = np.flatnonzero(bend)
            rows = np.empty((len(used), r + 1))
            roots = np.sqrt(bend[used])[:, None]
            np.multiply(self.A[used], roots, out=rows[:, :-1])
            rows[:, -1:] = roots
            matrix = rows.T @ rows
            matrix[np.diag_indices(r + 1)] += ones
            factor = cho_factor(matrix, overwrite_a=True, check_finite=False)
            steps[at] = cho_solve(factor, -G[at], check_finite=False)
        return steps

    def bend(self, P: Float) -> Float:
        """Return second derivatives by the logits one by one."""
        return 2 * P if self.loss == "hinge" else P * (1 - P)

    def spread(self, live: NDArray[np.int64], P: F32) -> tuple[F32, F64]:
        """Return how much each row bends the loss, (p, n_rows), and how much each column is bent, (p, K)."""
        p, K, n = P.shape
        of_rows, of_columns = np.empty((p, n), dtype=np.float32), np.zeros((p, K))
        for rows in _parts(n, p * K):
            part = self.bend(P[:, :, rows])
            if not self.whole:
                part *= self.own(live)[3][:, None, rows].astype(np.float32, copy=False)
            of_rows[:, rows] = part.sum(axis=1)
            of_columns += part.sum(axis=2, dtype=np.float64)
        return of_rows, of_columns

    def scaled(self, live: NDArray[np.int64], V: F64) -> tuple[F64, F64]:
        """Return, of sums of the spread (p, K), strength and diagonal for `_Preconditioner`."""
        C = self.own(live)[0]
        # at even probabilities this is the Hessian itself
        strength = C * V.sum(axis=1) / (max(self.K - 1, 1) * self.targets.shape[1])
        return strength, self.penalty + C[:, None] * V * (1 + 1e-6) + C[:, None] * 1e-12 + 1e-30

    def centred(self, b: Float) -> Float:
        """Return intercepts (p, K) without what all classes of a softmax have in common.

        It moves no probability: nothing bends there, and conjugate gradients would divide by rounding.
        """
        return b - b.mean(axis=1, keepdims=True) if self.softmax else b

    def metric(self, live: NDArray[np.int64], P: F32, step: int) -> tuple[Metric | None, bool]:
        """Return what about solves Hessian x = gradient, where it costs no more than the steps it saves.

        And whether it is another one than before.
        """
        if not self.light:
            return None, False
        new = step == 0 or (
            self.K > 1
            and self.scale.light
            and step % RENEWED == 0
            and self.scale.spent >= self.scale.price_of_sample
        )
        if new:
            of_rows, of_columns = self.spread(live, P)
            self.scale.spent = 0.0
            if self.scale.light:
                self.scale.make(of_rows, sampled=True)
            self.strength[live], self.bent[live] = self.scaled(live, of_columns)
        strength, bent = self.strength[live], self.constant**2 * self.bent[live][:, None]

        def apply(Q: F32) -> F32:
            p, m, _ = Q.shape
            W = Q[:, :, : self.n_weights].reshape(p, m * self.K, -1)
            solved = self.scale.apply(strength, W).reshape(p, m, -1)
            return np.concatenate([solved, Q[:, :, self.n_weights :] / bent], axis=2, dtype=np.float32)

        return apply, new

    def first_step(self, live: NDArray[np.int64], G: F64) -> F64:
        """Return the first step where there is no metric: down the gradient.

        As far as scikit-learn goes, a length of 1 on standardised rows; or to where the Hessian at even
        probabilities has the lowest point, if that is nearer and `tol` is not reached before the penalty
        counts: then far steps get there sooner.
        """
        p, K = len(G), self.K
        gW: Any
        gW, gb = self.parts(G)
        size = np.sqrt(_dot(gW, gW) + self.constant**2 * np.vecdot(gb, gb))
        length: F64 = 1 / np.maximum(self.constant * size, 1e-300)
        C, scale, _, weights = self.own(live)
        n, r = self.A32.shape
        # weights of length 1 are 1 / sqrt(r) each, which is what the penalty has of the gradient
        far = self.tol * self.constant * scale * np.sqrt(r) >= FAR
        if not far.all() and n * r >= MIN_MEASURED:
            flat, offsets = gW.reshape(p * K, r).astype(np.float32), gb.astype(np.float32)[:, :, None]
            curved = np.zeros(p)
            for rows, block in _blocks(self.A32, p * K):
                T = _forward(flat, block).reshape(p, K, -1)
                T += offsets
                T *= T
                if not self.whole:
                    T *= weights[:, None, rows]
                curved += T.sum(axis=(1, 2), dtype=np.float64)
            bend = 0.25 if K == 1 else (K - 1) / K**2
            lowest = np.vecdot(G, G) / (C * bend * curved + _dot(gW, gW) + 1e-300)
            length = np.where(far, length, np.minimum(length, lowest))
        step: F64 = -length[:, None] * G
        step[:, self.n_weights :] *= self.constant**2
        return step

    def newton_step(self, live: NDArray[np.int64], P: F32, G: F64, error: F64, precise: bool) -> F64:
        """Solve Hessian x step = -gradient by preconditioned conjugate gradients, all problems together."""
        dtype: Any = np.float64 if precise else np.float32
        A = self.A if precise else self.A32
        gW, gb = self.parts(G)
        p, K, r = gW.shape
        C, _, _, weights = self.own(live)
        of_rows, of_columns = self.spread(live, P)
        strength, Mb = self.scaled(live, of_columns)
        self.scale.due(of_rows)
        Mb = Mb.astype(dtype)
        likeliest = np.zeros((p, P.shape[2]), dtype=np.int64)
        for rows in _parts(P.shape[2], p * K) if self.softmax else ():
            likeliest[:, rows] = P[:, :, rows].argmax(axis=1)
        P = P.astype(dtype, copy=False) if self.softmax else self.bend(P.astype(dtype))
        size = np.sqrt(np.vecdot(G, G))
        rW, rb = (gW / -size[:, None, None]).astype(dtype), self.centred((gb / -size[:, None]).astype(dtype))
        outW, outb = np.zeros(gW.shape), np.zeros(gb.shape)
        on = np.arange(p)
        dW, db = np.zeros_like(rW), np.zeros_like(rb)
        zW, zb = self.scale.apply(strength, rW), self.centred(rb / Mb)
        pW, pb = zW.copy(), zb.copy()
        rz = _dot(rW, zW) + (rb * zb).sum(axis=1, dtype=np.float64)
        # quadratic convergence asks for a residual that shrinks with the gradient
        part = np.maximum(np.minimum(LOOSE, np.sqrt(error * 50 * max(self.K, 2))), ENOUGH * self.tol / error)
        rounded = None if precise else self.rounded
        if rounded is not None:
            part = np.maximum(part, ROUNDED_RESIDUAL)
        goal = part**2 * rz
        if not precise:
            goal = np.maximum(goal, FLOAT32_RESIDUAL * rz)
        length = rz * size**2
        if not self.exact:
            expected = self.worth[live] * length
            noise = (expected > self.gains[live] / 4) & (expected <= FLOAT32_NOISE * C)
            goal[(expected <= FLOAT32_GAIN * C) | noise] = np.inf
        c32 = C.astype(dtype)[:, None]
        for _ in range(MAX_CG_STEPS):
            open_ = (rz > goal) & (rz > 0)
            if not open_.all():
                for at in np.flatnonzero(~open_):
                    outW[on[at]], outb[on[at]] = dW[at], db[at]
                if not open_.any():
                    on = on[:0]
                    break
                on, rz, goal, c32, Mb, strength = (one[open_] for one in (on, rz, goal, c32, Mb, strength))
                dW, rW, pW, P, likeliest = (one[open_] for one in (dW, rW, pW, P, likeliest))
                db, rb, pb = db[open_], rb[open_], pb[open_]
                weights = weights if self.whole else weights[open_]
            q = len(on)
            back, hb = np.zeros((q * K, r), dtype=dtype), np.zeros((q, K), dtype=dtype)
            flat = pW.reshape(q * K, r)
            for rows, block in _blocks(A, q * K):
                T = _forward(flat, block) if rounded is None else rounded.times(flat, rows)
                T = T.reshape(q, K, -1)
                T += pb[:, :, None]
                if self.softmax:
                    _bend_softmax(T, P[:, :, rows], likeliest[:, rows])
                else:
                    T *= P[:, :, rows]
                if not self.whole:
                    T *= weights[:, None, rows]
                hb += T.sum(axis=2)
                T = T.reshape(q * K, -1)
                back += T @ block if rounded is None else rounded.back(T, rows)
            self.scale.spend(q * K)
            hW = c32[:, :, None] * back.reshape(q, K, r) + pW
            hb = c32 * hb + dtype(self.penalty) * pb
            curvature = _dot(pW, hW) + (pb * hb).sum(axis=1, dtype=np.float64)
            alpha = np.where(curvature > 0, rz / np.where(curvature > 0, curvature, 1), 0).astype(dtype)[
                :, None
            ]
            dW += alpha[:, :, None] * pW
            db += alpha * pb
            rW -= alpha[:, :, None] * hW
            rb = self.centred(rb - alpha * hb)
            if self.scale.products is None and self.scale.due(of_rows):  # another metric: begin again here
                zW, zb = self.scale.apply(strength, rW), self.centred(rb / Mb)
                was, rz = rz, _dot(rW, zW) + (rb * zb).sum(axis=1, dtype=np.float64)
                goal = goal * rz / was
                pW, pb = zW.copy(), zb.copy()
                continue
            zW, zb = self.scale.apply(strength, rW), self.centred(rb / Mb)
            rz, was = _dot(rW, zW) + (rb * zb).sum(axis=1, dtype=np.float64), rz
            rz = np.where(curvature > 0, rz, 0)
            beta = (rz / was).astype(dtype)[:, None]
            pW = zW + beta[:, :, None] * pW
            pb = zb + beta * pb
        for left in range(len(on)):
            outW[on[left]], outb[on[left]] = dW[left], db[left]
        dW, db = outW * size[:, None, None], outb * size[:, None]
        D: F64 = np.concatenate([dW.reshape(p, -1), db], axis=1)
        self.gains[live] = -np.vecdot(G, D)
        self.worth[live] = self.gains[live] / length
        return D


class _Steps:
    """The last steps of each problem and what they changed in its gradient; L-BFGS's next step from these.

    An intercept counts as the weight of a column of `constant`.

    References
    ----------
    Byrd, Nocedal, Schnabel, "Representations of quasi-Newton matrices and their use in limited memory
    methods", 1994: both loops over the steps as two products with all of them at once.
    """

    def __init__(self, n_weights: int, constant: float) -> None:
        self.n_weights, self.constant = n_weights, np.float32(constant)
        self.count = 0
        # (n_problems, MEMORY, n_unknowns), the newest in the place of the oldest; places that are empty are 0
        self.steps: F32 = np.empty((0, 0, 0), dtype=np.float32)
        self.changes: F32 = self.steps
        #: What the metric makes of changes; without one, these themselves.
        self.turned: F32 = self.steps
        #: Products of each step with its own change, and the inverted triangle of those with its own and
        #: later ones; of changes with turned ones. (n_problems, MEMORY) and (n_problems, MEMORY, MEMORY).
        self.curvature: F64 = np.empty((0, 0))
        self.inverse: F64 = np.empty((0, 0, 0))
        self.products: F64 = self.inverse

    def keep(self, on: NDArray[np.bool_]) -> None:
        """Forget the other problems."""
        if self.count:
            alike = self.turned is self.changes
            self.steps, self.changes = self.steps[on], self.changes[on]
            self.turned = self.changes if alike else self.turned[on]
            self.curvature, self.inverse, self.products = (
                one[on] for one in (self.curvature, self.inverse, self.products)
            )

    def add(self, step: F64, change: F64) -> None:
        """Remember a step and the change of the gradient."""
        s, y = step.astype(np.float32), change.astype(np.float32)
        s[:, self.n_weights :] /= self.constant
        y[:, self.n_weights :] *= self.constant
        if not self.count:
            p, n = s.shape
            self.steps, self.changes = np.zeros((2, p, MEMORY, n), dtype=np.float32)
            self.turned = self.changes
            self.curvature = np.zeros((p, MEMORY))
            self.inverse, self.products = np.zeros((2, p, MEMORY, MEMORY))
        at, self.count = self.count % MEMORY, self.count + 1
        curved = np.vecdot(s, y).astype(np.float64)
        over = 1 / np.maximum(curved, np.finfo(np.float32).tiny)
        if curved.min() <= 0:  # where rounding left no curvature the step says nothing
            lost = curved <= 0
            s[lost] = y[lost] = curved[lost] = over[lost] = 0
        self.steps[:, at], self.changes[:, at], self.curvature[:, at] = s, y, curved
        # as a triangle grows by a column
        self.inverse[:, at] = 0
        across = self.inverse @ (self.steps @ y[:, :, None])
        self.inverse[:, :, at] = across[:, :, 0] * -over[:, None]
        self.inverse[:, at, at] = over

    def next(self, G: F64, metric: Metric | None, renewed: bool = False) -> F64:
        """Return the step from gradients (p, n_unknowns); `renewed` says that the metric is another one.

        With no steps to remember there must be one.
        """
        q = G.astype(np.float32)
        q[:, self.n_weights :] *= self.constant
        z = q
        if not self.count and metric is not None:
            z = metric(q[:, None])[:, 0]
        elif self.count:
            at = (self.count - 1) % MEMORY
            if metric is not None:
                # the newest change goes along with the gradient, or all of them
                new = slice(None) if renewed else slice(at, at + 1)
                both = metric(np.concatenate([q[:, None], self.changes[:, new]], axis=1))
                if self.turned is self.changes:
                    self.turned = np.zeros_like(self.changes)
                z, self.turned[:, new] = both[:, 0], both[:, 1:]
            if renewed:
                self.products = (self.turned @ self.changes.transpose(0, 2, 1)).astype(np.float64)
            else:
                of_newest = (self.turned @ self.changes[:, at, :, None])[:, :, 0]
                self.products[:, at] = self.products[:, :, at] = of_newest
            # as long as the last step says: a metric is of probabilities that are even
            length = self.curvature[:, at] / np.maximum(self.products[:, at, at], np.finfo(np.float32).tiny)
            length[length == 0] = 1
            scale = length[:, None, None]
            of_steps = self.inverse @ (self.steps @ q[:, :, None])
            rest = scale * (self.products @ of_steps - self.turned @ q[:, :, None])
            rest += self.curvature[:, :, None] * of_steps
            along = (self.inverse.transpose(0, 2, 1) @ rest).transpose(0, 2, 1).astype(np.float32)
            back = (-scale * of_steps).transpose(0, 2, 1).astype(np.float32)
            z = z * length[:, None].astype(np.float32)
            z += (along @ self.steps)[:, 0]
            z += (back @ self.turned)[:, 0]
        out: F64 = -z.astype(np.float64)
        out[:, self.n_weights :] *= self.constant
        return out


class _RoundedRows:
    """Rows in bfloat16, for products that need three digits: steps, not where they end."""

    def __init__(self, A: F32) -> None:
        import torch

        self.torch = torch
        self.A = torch.from_numpy(A).bfloat16()

    def times(self, W: Float, rows: slice) -> F32:
        """Return W @ rows.T."""
        out: F32 = (self._of(W) @ self.A[rows].T).float().numpy()
        return out

    def back(self, D: Float, rows: slice) -> F32:
        """Return D @ rows."""
        out: F32 = (self._of(D) @ self.A[rows]).float().numpy()
        return out

    def _of(self, values: Float) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).bfloat16()


def _round_rows(A: Any, n_columns: int) -> _RoundedRows | None:
    """Return the rows rounded, where the processor multiplies such faster and there are enough of them."""
    if not isinstance(A, np.ndarray) or A.size > MAX_ROUNDED or A.size * n_columns < MIN_ROUNDED:
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
    """Solves ``(I + c * A.T @ A) x = r``; by the diagonal alone until passes have cost what factors do.

    Of `p` problems of `K` columns: from the first step on where a few passes of them all cost that much.
    """

    def __init__(self, A: Any, n: int, p: int, K: int) -> None:
        self.A, self.r = A, int(A.shape[1])
        self.products: Any = None  # (r, r) float32, once made
        self.factors: dict[int, F32] = {}
        self.spent = 0.0
        self.n = n
        self.part = min(1.0, SAMPLED * self.r / n)
        # the products of columns are half a product of matrices; a factor is at work in every step
        self.price, self.price_of_sample = (n * part * self.r**2 + self.r**3 / 2 for part in (1.0, self.part))
        self.allowed = self.r <= MAX_FACTOR_COLUMNS
        #: Whether to have factors from the first step on, and these cost no more than the passes they save.
        self.light = (
            self.allowed
            and n >= (LIGHT if K > 1 else LIGHT_ALONE) * self.r
            and EXPECTED_PASSES * self.cost(p * K) >= self.price_of_sample
        )

    @cached_property
    def squares(self) -> F64:
        """Squared lengths of the columns."""
        squares = np.zeros(self.r)
        for _, block in _blocks(self.A):
            squares += np.ones(len(block), block.dtype) @ (block * block)
        return squares

    @cached_property
    def total(self) -> float:
        """Their sum, in a fraction of the time."""
        return float(sum(np.vdot(block, block) for _, block in _blocks(self.A)))

    def cost(self, columns: int) -> float:
        """Return what a pass costs, in multiply-adds of a product of matrices."""
        return 4.0 * self.n * self.r * (columns + 4)

    def spend(self, columns: int) -> None:
        self.spent += self.cost(columns)

    def due(self, spread: F32) -> bool:
        """Make the products if it is time; say whether they are new. `spread` (p, n) of rows."""
        if not self.allowed or self.spent < MADE * self.price:
            return False
        self.spent = (MADE - REMADE) * self.price
        self.make(spread)
        return True

    def make(self, spread: F32, sampled: bool = False) -> None:
        """Make the products.

        For steps that know other steps a sample of the rows is good enough, but not for conjugate gradients;
        and half of what the rows bend is that of even probabilities: of a large C few rows bend in the end,
        other ones for each class.
        """
        part = self.part if sampled else 1.0
        self.factors.clear()
        # of each problem as much: one with a large C, which takes most steps, has few rows that bend
        spread = spread / np.maximum(spread.mean(axis=1, keepdims=True), np.float32(1e-30))
        mean = spread.mean(axis=0)
        roots = np.sqrt((mean + 1) / 2 if sampled else mean)[:, None]
        self.products = np.zeros((self.r, self.r), dtype=np.float32)
        random = np.random.default_rng(0)
        for rows, block in _blocks(self.A):
            kept = slice(None) if part == 1 else np.flatnonzero(random.random(len(block)) < part)
            own = block[kept] * roots[rows][kept]
            self.products += own.T @ own
        self.products /= np.float32(part)

    def apply(self, c: F64, R: Float) -> Float:
        """Return the solution for each problem: `c` (p,), `R` (p, K, r)."""
        if self.products is None:
            out: Float = R / (1 + c[:, None, None] * self.squares).astype(R.dtype)
            return out
        from scipy.linalg import blas, lapack

        out = np.empty_like(R)
        keys = np.round(np.log(np.maximum(c, 1e-30)) / np.log(4)).astype(int).tolist()
        for key in set(keys):
            members = [at for at, other in enumerate(keys) if other == key]
            right = R[members].reshape(-1, self.r).astype(np.float32)
            factor = self._factor(key)
            if len(right) == 1:  # of one column, half the time
                solved = blas.strsv(factor, blas.strsv(factor, right[0], trans=1), overwrite_x=True)
            else:
                solved, _ = lapack.spotrs(factor, right.T, overwrite_b=True)
            out[members] = solved.T.reshape(len(members), -1, self.r)
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
    """Return the scalar products of two directions (p, K, r), one per problem."""
    out: F64 = np.vecdot(a.reshape(len(a), -1), b.reshape(len(b), -1)).astype(np.float64)
    return out


def _forward(W: Float, block: Float) -> Float:
    """Return W @ block.T, whose memory is that of the result's rows; by the faster of two ways."""
    if len(W) == 1:
        one: Float = (block @ W[0])[None]
        return one
    if len(W) < FEW_COLUMNS:
        return np.ascontiguousarray((block @ np.ascontiguousarray(W.T)).T)
    out: Float = W @ block.T
    return out


def _blocks(A: Any, n_columns: int = 1) -> Iterator[tuple[slice, Float]]:
    if isinstance(A, np.ndarray):
        for rows in _parts(len(A), max(A.shape[1], n_columns), BLOCK_ROWS if n_columns > 1 else ALONE_ROWS):
            yield rows, A[rows]
    else:
        yield from A.blocks()


def _parts(n: int, width: int, least: int = BLOCK_ROWS) -> Iterator[slice]:
    """Cut `n` rows of so many values."""
    step = max(least, BLOCK_VALUES // width)
    for first in range(0, n, step):
        yield slice(first, min(n, first + step))
