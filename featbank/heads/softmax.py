"""The softmax head: multinomial logistic regression, by gradient steps or to the optimum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.heads._exact import Optimum, Problem, solve
from featbank.heads._gradient import GradientHead, fit_gradient_heads
from featbank.heads._head import (
    CodeScore,
    TrainingRows,
    class_weights,
    find_classes,
    measure,
    on_features,
    softmax,
)
from featbank.heads._parameters import Parameter
from featbank.heads.catalogue import HeadKind
from featbank.heads.space import FeatureSpace

__all__ = ["LOGREG", "SOFTMAX", "SoftmaxClassifier"]


#: Learning rate in spaces of `BASE_COLUMNS` columns of variance 1 or more, and the largest taken without
#: asking.
BASE_RATE = 1e-3
BASE_COLUMNS = 1024
LARGEST_RATE = 0.02


#: Features that take more than this, as float32, are not copied for lbfgs, but standardised in every pass.
COPY_BYTES = 2 * 2**30
#: What ``C="auto"`` chooses from unless told: so many values from here to there. On Caltech-101, MobileNetV2,
#: 4 to 28 images per class, the best were 1 to 1,000, the more samples the smaller.
CS, C_MIN, C_MAX = 9, 1e-5, 1e3
#: Parts of the samples that it is chosen on in turn where there are no validation rows; by what factor the
#: loss of a part rises before larger values are left out; and what is taken where there is one sample each.
FOLDS = 5
RISE = 1.2
UNCHOSEN = 1.0
#: Of what has not converged, a larger C is tried smaller: below, that would help nothing.
SMALL_C = 1e-2
#: Rows whose logits are measured at a time, and values of these rows.
MEASURED_ROWS, MEASURED_VALUES = 1024, 2**23


class SoftmaxClassifier(GradientHead):
    """Softmax regression on standardised features.

    ``solver="adam"`` and ``"sgd"`` (momentum 0.9) take mini-batch steps on the cross-entropy from weights of
    zero. With validation rows, training stops once the validation loss (or accuracy, see `monitor`) has not
    improved for `patience`, and the best weights are kept. Without, it stops once the training loss
    has not fallen by the part `tol` for as long. ``solver="lbfgs"`` goes to the optimum of the L2-regularised
    problem that `sklearn.linear_model.LogisticRegression` solves at the same C on the same standardised
    features, in the span of the samples when they are fewer than the features.

    Parameters
    ----------
    solver : {"adam", "sgd", "lbfgs"}, default="adam"
    lr : float, "auto" or None, default=None
        Learning rate at the start. None: 1e-3, and more where there are few columns to move a logit by, in
        proportion to 1,024 / n_columns (for Adam up to 0.02). "auto": the smallest of 3.2e-5 ... 0.32 (half
        decades) that leaves less than 0.3 of an even guess's loss after a short trial on the training rows
        alone (3 epochs or more, 30 steps or more); it costs about what training does. The rate taken is in
        `lr_`. Adam and SGD only, as all below but `C` and the space.
    lr_schedule : {"inverse-time", "cosine", "step", "constant"}, default="inverse-time"
        ``lr / (1 + t/T)`` with t in epochs and T = `lr_schedule_epochs`; half a cosine wave over
        `max_epochs`; a tenth every T epochs; no change.
    lr_schedule_epochs : float, default=10
    lr_schedule_per : {"epoch", "step"}, default="epoch"
        How often the rate changes.
    max_epochs : int, default=100
    patience : int, default=10
    tol : float or None, default=None
        For Adam and SGD, what part of the training loss an improvement must be when there are no validation
        rows; None is 1e-3. For lbfgs, scikit-learn's: the largest absolute part of the gradient of the mean
        loss at which to stop; None goes on to the optimum.
    monitor : {"accuracy", "loss", "metric"}, default="loss"
        What of the validation rows decides when to stop and which epoch is best; "metric" is what
        `fit_stack` is given as `score`, and a sweep by its first metric. With "accuracy", ties go to
        the lower loss. A few validation rows per class give an accuracy in coarse steps, whose peak is mostly
        luck: on 32 classes of Caltech-101 with 4 validation images each, "loss" ends 0.4 points higher at 4
        images per class.
    class_weight : "balanced", mapping of label to float, or None, default=None
        How often the loss of a row counts, on validation rows too; balanced: n_samples / (n_classes *
        n_samples_of_its_class) times, so that rare classes weigh as much as frequent ones.
    batch_size : int, default=32
    alpha : float, default=0.0
        L2 penalty ``alpha / 2 * ||W||^2`` added to the mean loss; not on intercepts.
    C : float or "auto", default=1.0
        Inverse strength of the penalty, as in scikit-learn; lbfgs only. "auto" takes that of 1e-5, 1e-4, ...
        1e3 with the lowest loss on the validation rows, or on the rows of folds where there are none; or with
        the best accuracy or score (see `monitor`), of equals the smallest. The test rows never choose.
    Cs, C_min, C_max : int, float and float, default=9, 1e-5 and 1e3
        How many values "auto" chooses from, in equal ratios, the least and the most.
    validation_fraction : float or None, default=None
        Without validation rows, part of the samples on which "auto" is chosen once, instead of folds of them;
        all train after that.
    dropout : float, default=0.0
        Part of the inputs of the softmax layer set to zero in training; in a rotated space these are columns,
        not features.
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`: with more features than samples, train in the span of the samples.
    restore : {"best", "last"}, default="best"
        Which epoch's weights are kept.
    random_state : int, RandomState or None, default=None
        Draws the mini-batches; equal seeds give equal heads.
    device : str, default="cpu"
        "cpu", "cuda", or "auto". Adam and SGD only.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of float64, shape (n_classes, n_features), or (1, n_features) for two classes
        In units of the original features.
    intercept_ : ndarray of float64, shape (n_classes,) or (1,)
    history_ : dict of str to ndarray of float64, shape (n_epochs_,)
        ``train_loss`` and ``train_accuracy`` over the epoch's mini-batches, while the weights moved;
        ``val_loss``, ``val_accuracy``, ``test_...`` after the epoch, where such rows were given; ``lr``, the
        rate the epoch began with. One entry, at the optimum, for lbfgs.
    n_epochs_, best_epoch_ : int
    converged_ : bool
        For lbfgs, whether the gradient came to `tol`, or as near as rounding lets it: where rows are float32
        (many, or a `tol` from 1e-6), steps that gain nothing more end it, too.
    stop_reason_ : {"tolerance", "max_epochs", "not finite", "optimum"}
    failed_ : str or None
        Why the fit came to nothing.
    lr_ : float
        The learning rate at the start.
    C_ : float
        The penalty; lbfgs only.
    space_ : FeatureSpace

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> head = SoftmaxClassifier(random_state=0).fit(X, y)
    >>> head.score(X, y) > 0.9, head.coef_.shape
    (True, (3, 4))
    """

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        **GradientHead._parameters,
        "solver": Parameter(values=("adam", "sgd", "lbfgs"), help="how steps are taken"),
        "Cs": Parameter(least=2, below=1001, whole=True, help="how many values C=auto chooses from"),
        "C_min": Parameter(over=0, help="the least of them"),
        "C_max": Parameter(over=0, help="the most of them"),
        "validation_fraction": Parameter(
            over=0,
            below=1,
            values=(None,),
            help="part of the draw that C=auto is chosen on, once, instead of folds; then all of it trains",
        ),
        "C": Parameter(
            over=0,
            values=("auto",),
            help="inverse of the regularisation; auto: chosen on the validation rows, or by cross-validation "
            "of the draw",
        ),
        "tol": Parameter(
            least=0,
            values=(None,),
            help="without validation, the part of the training loss that counts as better; of logreg, the "
            "gradient to stop at",
        ),
    }

    _on_features: list[NDArray[Any]]

    def __init__(
        self,
        *,
        solver: Literal["adam", "sgd", "lbfgs"] = "adam",
        lr: float | Literal["auto"] | None = None,
        lr_schedule: Literal["inverse-time", "cosine", "step", "constant"] = "inverse-time",
        lr_schedule_epochs: float = 10,
        lr_schedule_per: Literal["epoch", "step"] = "epoch",
        max_epochs: int = 100,
        patience: int = 10,
        tol: float | None = None,
        monitor: Literal["accuracy", "loss", "metric"] = "loss",
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        batch_size: int = 32,
        alpha: float = 0.0,
        C: float | Literal["auto"] = 1.0,
        Cs: int = CS,
        C_min: float = C_MIN,
        C_max: float = C_MAX,
        validation_fraction: float | None = None,
        dropout: float = 0.0,
        standardize: bool = True,
        rotate: bool | Literal["auto"] = "auto",
        restore: Literal["best", "last"] = "best",
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.solver = solver
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_schedule_epochs = lr_schedule_epochs
        self.lr_schedule_per = lr_schedule_per
        self.max_epochs = max_epochs
        self.patience = patience
        self.tol = tol
        self.monitor = monitor
        self.class_weight = class_weight
        self.batch_size = batch_size
        self.alpha = alpha
        self.C = C
        self.Cs = Cs
        self.C_min = C_min
        self.C_max = C_max
        self.validation_fraction = validation_fraction
        self.dropout = dropout
        self.standardize = standardize
        self.rotate = rotate
        self.restore = restore
        self.random_state = random_state
        self.device = device

    def _check(self) -> None:
        super()._check()
        if self.C_min >= self.C_max:
            raise InvalidInputError(
                f"C_min={self.C_min!r} (--C-min) must be less than C_max={self.C_max!r} (--C-max)"
            )
        usual = {"Cs": CS, "C_min": C_MIN, "C_max": C_MAX, "validation_fraction": None}
        for name, value in usual.items() if self.C != "auto" else ():
            if getattr(self, name) != value:
                option = name.replace("_", "-")
                raise InvalidInputError(
                    f"{name}={getattr(self, name)!r} (--{option}) is for C='auto' (--C auto), and "
                    f"C={self.C!r}: leave one out"
                )

    def _rate(self, n_columns: int) -> float:
        if self.lr is not None and self.lr != "auto":
            return float(self.lr)
        rate = BASE_RATE * max(1.0, BASE_COLUMNS / n_columns)
        return rate if self.solver == "sgd" else min(rate, LARGEST_RATE)

    def _into_space(self, features: Any) -> tuple[FeatureSpace, Any]:
        if self.solver != "lbfgs" or self.rotate is True:
            return super()._into_space(features)
        # the solver goes to the span of the rows by itself where it is worth it
        space = FeatureSpace(standardize=self.standardize, rotate=False).fit(features)
        space.gain_ = 1.0  # the optimum is the same at any
        rows = space.standardized(features)
        return space, rows if 4 * rows.shape[0] * rows.shape[1] > COPY_BYTES else rows[:]

    @classmethod
    def _fit_many(cls, heads: Sequence[Any], rows: TrainingRows) -> None:
        exact = [i for i, head in enumerate(heads) if head.solver == "lbfgs"]
        stochastic = [i for i, head in enumerate(heads) if head.solver != "lbfgs"]
        for head in heads:
            head._on_features = []
        if stochastic:
            fit_gradient_heads([heads[i] for i in stochastic], rows.of(stochastic))
        if exact:
            _fit_exact_heads([heads[i] for i in exact], rows.of(exact))

    def _accept_optimum(
        self,
        C: float,
        optimum: Optimum,
        measured: Mapping[str, float],
        classes: NDArray[Any],
        space: FeatureSpace,
    ) -> None:
        """Take over the solution at `C`, and what it reached on the rows it was measured on."""
        self.classes_, self.space_, self.n_features_in_ = classes, space, space.n_features_
        self.C_ = C
        self.weights_ = [optimum.weights, optimum.intercept]
        self.history_ = {"lr": np.array([np.nan])}
        self.history_ |= {name: np.array([value]) for name, value in measured.items()}
        self.n_epochs_ = self.best_epoch_ = 1
        self.n_iter_, self.converged_ = optimum.n_iter, optimum.converged
        self.stop_reason_ = "optimum" if optimum.converged else "max_epochs"
        self.failed_ = self.warned_ = None
        if not _is_finite(optimum):
            self.stop_reason_ = "not finite"
            self.failed_ = self.warned_ = (
                f"the solution at C={C:g} has weights that are not finite ({space.n_columns_} columns); use "
                "another C, or solver='adam' (the softmax head)"
            )

    def _standardized_weights(self) -> NDArray[Any]:
        """Return weights on standardised features, (n_features, n_classes), in the dtype they had."""
        # when first needed: a sweep fits hundreds of heads and asks few of them for original features
        if not self._on_features:
            weights = self.weights_[0]
            self._on_features.append(self.space_.to_standardized(weights).astype(weights.dtype))
        return self._on_features[0]

    def _logits_from_features(self, X: NDArray[Any]) -> NDArray[np.float64]:
        # no basis is needed: the weights go to feature space once, not every row to the columns
        weights = self._standardized_weights().astype(np.float64)
        logits = np.empty((len(X), weights.shape[1]))
        for rows, block in self.space_.standardized_blocks(X):
            logits[rows] = block.astype(np.float64) @ weights
        logits += self.weights_[1]
        return logits

    @property
    def coef_(self) -> NDArray[np.float64]:
        """Coefficients of the original features, (n_classes, n_features); (1, n_features) for two classes."""
        return self._linear()[0]

    @property
    def intercept_(self) -> NDArray[np.float64]:
        """Intercepts that go with `coef_`, (n_classes,); (1,) for two classes."""
        return self._linear()[1]

    def _linear(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if not hasattr(self, "weights_"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit(X, y) first")
        coefficients = self._standardized_weights().astype(np.float64).T / self.space_.scale_
        intercept = self.weights_[1] - coefficients @ self.space_.mean_
        if len(self.classes_) == 2:
            return coefficients[1:] - coefficients[:1], intercept[1:] - intercept[:1]
        return coefficients, intercept

    def _stored(self) -> tuple[dict[str, NDArray[Any]], FeatureSpace]:
        weights, intercept = self._standardized_weights(), self.weights_[1]
        arrays = {"weights": weights.astype(np.float32), "intercept": intercept.astype(np.float32)}
        return arrays, on_features(self.space_)

    def _take_stored(self, tensors: dict[str, NDArray[Any]]) -> None:
        self.weights_ = [tensors["weights"], tensors["intercept"]]
        self._on_features = []

    def __getstate__(self) -> dict[str, Any]:
        # a copy that travels carries weights on features instead of the basis, which can be 100 times larger
        if "space_" in self.__dict__ and self.space_.rotated_:
            weights = self._standardized_weights()
            state: dict[str, Any] = dict(super().__getstate__())
            space = on_features(self.space_)
            return {
                **state,
                "space_": space,
                "weights_": [weights, self.weights_[1]],
                "_on_features": [weights],
            }
        return dict(super().__getstate__())


def _fit_exact_heads(heads: Sequence[SoftmaxClassifier], rows: TrainingRows) -> None:
    """Fit `heads` in place."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, (head, own) in enumerate(zip(heads, rows.subsets, strict=True)):
        head._check()
        how = (head.monitor, head.Cs, head.C_min, head.C_max, head.validation_fraction)
        groups.setdefault((own.tobytes(), head.tol, repr(head.class_weight), *how), []).append(number)
    plans = [
        _Plan([heads[i] for i in members], rows.subsets[members[0]], rows) for members in groups.values()
    ]
    for tol in dict.fromkeys(head.tol for head in heads):
        chosen = [plan for plan in plans if plan.heads[0].tol == tol]
        problems = [one for plan in chosen for one in plan.problems]
        # of standardised features, whose gradient is 1 / gain_ times that of columns
        optima = iter(solve(rows.Z, problems, tol=(tol or 0.0) * rows.space.gain_))
        for plan in chosen:
            plan.accept([next(optima) for _ in plan.problems], rows.Z)


class _Plan:
    """Heads on the same rows: the problems to be solved for them."""

    def __init__(
        self, heads: Sequence[SoftmaxClassifier], rows: NDArray[np.int64], training: TrainingRows
    ) -> None:
        self.heads, self.rows, self.space = heads, rows, training.space
        first = heads[0]
        self.classes, self.codes = find_classes(training.y[rows])
        self.score: CodeScore | None = None
        if first.monitor == "accuracy":
            self.score = _accuracy
        elif first.monitor == "metric":
            self.score = training.score_of(self.classes)
        self.watched = []
        for one in training.others:
            kept = np.isin(one.y, self.classes)
            self.watched.append((one.name, one.Z[kept], np.searchsorted(self.classes, one.y[kept])))
        automatic = [head for head in heads if head.C == "auto"]
        self.grid = _grid(first.Cs, first.C_min, first.C_max) if automatic else ()
        if automatic and first.monitor == "metric" and self.score is None:
            raise InvalidInputError(
                "monitor='metric' (--monitor) needs the metric; name it with --metric (metrics=)"
            )
        fixed = {float(head.C) for head in heads if head.C != "auto"}
        self.validated = any(name == "val" and len(codes) for name, _, codes in self.watched)
        self.losses: dict[float, float] = {}
        if automatic and not self.validated:
            images = rows[: len(rows) // training.n_views]
            units = images if training.groups is None else training.groups[images]
            self.losses = _cross_validated(
                training, rows, self.codes, self.classes, units, first, self.grid, self.score
            )
            fixed.add(_best(self.losses))
        self.penalties = sorted(fixed | set(self.grid if automatic and self.validated else ()))
        # on columns multiplied by the gain, the same penalty on standardised features is C / gain ** 2
        self.weights = class_weights(heads[0].class_weight, self.classes, self.codes)
        self.problems = [
            Problem(rows, self.codes, len(self.classes), C / self.space.gain_**2, self.weights)
            for C in self.penalties
        ]

    def accept(self, optima: Sequence[Optimum], Z: Any) -> None:
        """Give each head the optimum at its C."""
        measured = _measured("train", Z, self.rows, self.codes, optima, self.weights)
        for name, columns, codes in self.watched:
            if len(codes):
                others = _measured(name, columns, np.arange(len(codes)), codes, optima, self.weights)
                measured = [one | other for one, other in zip(measured, others, strict=True)]
            if name == "val" and len(codes) and self.score is not None:
                for C, one in zip(self.penalties, optima, strict=True):
                    logits = columns @ one.weights.astype(columns.dtype) + one.intercept
                    self.losses[C] = _loss_of(self.score, codes, logits)
        found = dict(zip(self.penalties, zip(optima, measured, strict=True), strict=True))
        if self.validated and self.score is None:
            self.losses = {C: values["val_loss"] for C, (_, values) in found.items()}
        if self.validated:
            self.losses = {C: loss for C, loss in self.losses.items() if C in self.grid}
        for head in self.heads:
            C = _best(self.losses) if head.C == "auto" else float(head.C)
            head._accept_optimum(C, *found[C], self.classes, self.space)
            if head.C == "auto" and not self.losses and head.failed_ is None:
                head.warned_ = (
                    "C='auto' has nothing to choose by, without validation rows and with one sample of each "
                    f"class; C={UNCHOSEN:g} was taken"
                )
            elif not head.converged_ and head.failed_ is None:
                mend = "a smaller C" if C > SMALL_C else "a larger tol"
                mend = mend if head.standardize else "standardize=True"  # an offset takes steps at any C
                head.warned_ = (
                    f"{head.n_iter_} Newton steps did not reach the optimum at C={C:g} "
                    f"({self.space.n_columns_} columns; gradient {found[C][0].gradient:.1e}); use {mend}"
                )


def _grid(n: int, least: float, most: float) -> tuple[float, ...]:
    """Return values in equal ratios, as one would write them.

    Examples
    --------
    >>> _grid(3, 1e-5, 1e3)
    (1e-05, 0.1, 1000.0)
    """
    return tuple(float(f"{one:.12g}") for one in np.geomspace(least, most, n))


def _accuracy(y: NDArray[np.int64], answers: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    return float(np.mean(y == answers))


def _loss_of(score: CodeScore, codes: NDArray[np.int64], logits: NDArray[np.float64]) -> float:
    """Return a score as something of which less is better; what it cannot say is the most."""
    if not np.isfinite(logits).all():
        return math.inf
    found = score(codes, logits.argmax(axis=1), softmax(logits.astype(np.float64)))
    return -found if math.isfinite(found) else math.inf


def _cross_validated(
    training: TrainingRows,
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    classes: NDArray[Any],
    units: NDArray[np.int64],
    head: SoftmaxClassifier,
    grid: Sequence[float],
    score: CodeScore | None,
) -> dict[float, float]:
    """Return the loss at each C of rows that heads fitted to the other folds have not seen.

    Each class is dealt out to `FOLDS` parts, or as many as it has `units` (rows, or groups of them, each in
    the class of its first row); the one unit of a class always trains, and so does one without which a class
    would have no other rows to train on. The views of an image are always in
    one part. With a `validation_fraction` of the head that part of the units is the only fold.
    """
    Z, space, n_views, n_classes = training.Z, training.space, training.n_views, len(classes)
    n_images = len(codes) // n_views
    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    folds = np.full(len(first), -1)
    shuffled = np.random.default_rng(0).permutation(n_images)
    shuffled = unit_of[shuffled[np.isin(shuffled, first)]]
    if head.validation_fraction is not None:
        left = np.bincount(codes[:n_images], minlength=n_classes)
        wanted = int(head.validation_fraction * n_images)
        by_unit = np.argsort(unit_of, kind="stable")
        ends = np.cumsum(np.bincount(unit_of))
        starts = np.append(0, ends[:-1])
        for unit in shuffled.tolist():
            if wanted < 1:
                break
            own = np.bincount(codes[by_unit[starts[unit] : ends[unit]]], minlength=n_classes)
            if own.sum() <= wanted and (left - own > 0).all():  # every class goes on training
                folds[unit], left, wanted = 0, left - own, wanted - int(own.sum())
    for code in range(n_classes if head.validation_fraction is None else 0):
        own = shuffled[codes[first[shuffled]] == code]
        if len(own) > 1:
            folds[own] = np.arange(len(own)) % FOLDS
    for code in range(n_classes):
        has = np.flatnonzero(codes[:n_images] == code)
        in_folds = folds[unit_of[has]]
        if in_folds[0] >= 0 and (in_folds == in_folds[0]).all():
            folds[unit_of[has[0]]] = -1  # units of several classes: else no row of this one would train
    folds = np.tile(folds[unit_of], n_views)
    losses: dict[float, float] = {}
    start = None
    parts = np.unique(folds[folds >= 0]).tolist()
    weights = {fold: class_weights(head.class_weight, classes, codes[folds != fold]) for fold in parts}
    for C in grid if parts else ():
        problems = [
            Problem(rows[folds != fold], codes[folds != fold], n_classes, C / space.gain_**2, weights[fold])
            for fold in parts
        ]
        begun = start if start is not None and all(map(_is_finite, start)) else None
        start = solve(Z, problems, start=begun)
        if score is not None:
            at = [np.flatnonzero(folds == fold) for fold in parts]
            logits = [
                np.asarray(Z[rows[own]]) @ one.weights + one.intercept
                for own, one in zip(at, start, strict=True)
            ]
            losses[C] = _loss_of(score, codes[np.concatenate(at)], np.concatenate(logits))
            continue
        losses[C] = 0.0
        for fold, one in zip(parts, start, strict=True):
            kept = folds == fold
            (measured,) = _measured("val", Z, rows[kept], codes[kept], [one], weights[fold])
            losses[C] += measured["val_loss"] * int(kept.sum())
        if math.isnan(losses[C]):
            losses[C] = math.inf
        if losses[C] > RISE * min(losses.values()):  # the larger ones are worse still, and take longest
            break
    return losses


def _measured(
    name: str,
    Z: Any,
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    optima: Sequence[Optimum],
    weights: NDArray[np.float64] | None = None,
) -> list[dict[str, float]]:
    """Return loss, rows of a class weighted, and accuracy of optima on rows, a block at a time."""
    sums = np.zeros((len(optima), 2))
    total = 0.0
    two = optima[0].weights.shape[1] == 2  # whose difference says it all, at half the cost
    weights_of = [np.diff(one.weights) if two else one.weights for one in optima]
    shifts = [np.diff(one.intercept) if two else one.intercept for one in optima]
    columns = np.concatenate(weights_of, axis=1)
    whole = len(rows) == len(Z) and bool((np.diff(rows) > 0).all())
    step = max(1, min(MEASURED_ROWS // len(optima), MEASURED_VALUES // Z.shape[1]))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        block = np.asarray(Z[part if whole else rows[part]])
        logits = np.split(block @ columns.astype(block.dtype, copy=False), len(optima), axis=1)
        counted = len(block) if weights is None else float(weights[codes[part]].sum())
        for at, shift in enumerate(shifts):
            own = logits[at] + shift
            if two:
                own = np.concatenate([np.zeros_like(own), own], axis=1)
            loss, right = measure(own, codes[part], weights)
            sums[at] += loss * counted, right * len(block)
        total += counted
    return [
        {f"{name}_loss": loss / total, f"{name}_accuracy": right / len(rows)} for loss, right in sums.tolist()
    ]


def _best(losses: Mapping[float, float]) -> float:
    """Return the C of lowest loss: a few rows per class give accuracies in steps.

    One that is no number is the most: it compares with none, and would win where it came first.
    """
    return min(losses, key=lambda C: math.inf if math.isnan(losses[C]) else losses[C], default=UNCHOSEN)


def _is_finite(optimum: Optimum) -> bool:
    return bool(np.isfinite(optimum.weights).all() and np.isfinite(optimum.intercept).all())


SOFTMAX = HeadKind(
    SoftmaxClassifier,
    "softmax regression by Adam or SGD",
    offers=tuple(name for name in GradientHead._parameters if name != "random_state"),
)
LOGREG = HeadKind(
    SoftmaxClassifier,
    "softmax regression to the optimum of its L2-regularised problem",
    fixed={"solver": "lbfgs"},
    offers=(
        "C",
        "Cs",
        "C_min",
        "C_max",
        "validation_fraction",
        "monitor",
        "tol",
        "class_weight",
        "standardize",
        "rotate",
    ),
)
