"""The MLP head: one hidden layer of rectified units under the softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featbank.heads._gradient import GradientHead, fit_gradient_heads
from featbank.heads.catalogue import HeadKind, Parameter
from featbank.heads.head import TrainingRows, on_features
from featbank.heads.space import FeatureSpace

__all__ = ["MLP", "MLPClassifier"]


class MLPClassifier(GradientHead):
    """One hidden layer of rectified linear units, then softmax, on standardised features.

    Trained by mini-batch steps on the cross-entropy; stopping, lr_schedule and the feature space are those of
    `SoftmaxClassifier`. The hidden layer starts from He's uniform law, drawn by `random_state`, the softmax
    layer from zero: on few samples a random start of that layer costs several points of accuracy.

    Parameters
    ----------
    hidden_units : int, default=1000
    solver : {"adam", "sgd"}, default="adam"
    lr : float, "auto" or None, default=None
        Learning rate at the start; None is 1e-3, "auto" as in `SoftmaxClassifier`.
    lr_schedule : {"inverse-time", "cosine", "step", "constant"}, default="inverse-time"
    lr_schedule_epochs : float, default=10
    lr_schedule_per : {"epoch", "step"}, default="epoch"
    max_epochs : int, default=100
    patience : int, default=10
    tol : float, default=1e-3
    monitor : {"accuracy", "loss", "metric"}, default="accuracy"
        What of the validation rows decides when to stop and which epoch is best; ties go to the other. Not
        the loss, as for `SoftmaxClassifier`: a hidden layer grows sure of itself, so that its loss may rise
        from the first epoch on while it goes on learning (seen on digits at 32 images per class: 0.87 at the
        lowest loss, 0.93 at the end).
    class_weight : "balanced" or None, default=None
        As for `SoftmaxClassifier`.
    batch_size : int, default=32
    alpha : float, default=0.0
        L2 penalty ``alpha / 2 * ||W||^2`` over both layers, added to the mean loss; not on biases.
    dropout : float, default=0.0
        Part of the hidden units set to zero in training.
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`. In a rotated space the first layer starts and stays in the span of the samples.
    restore : {"best", "last"}, default="best"
    random_state : int, RandomState or None, default=None
        Draws the first weights and the mini-batches.
    device : str, default="cpu"

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coefs_ : list of ndarray of float64, shapes (n_features, hidden_units) and (hidden_units, n_classes)
        In units of the original features.
    intercepts_ : list of ndarray of float64, shapes (hidden_units,) and (n_classes,)
    history_, n_epochs_, best_epoch_, converged_, stop_reason_, failed_, space_
        As for `SoftmaxClassifier`.

    References
    ----------
    He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 8, dtype=float)
    >>> y = X[:, 0] != X[:, 1]
    >>> float(MLPClassifier(hidden_units=32, lr=0.01, random_state=0).fit(X, y).score(X, y))
    1.0
    """

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "hidden_units": Parameter(least=1, whole=True, help="width of the hidden layer"),
        **GradientHead._parameters,
    }

    def __init__(
        self,
        *,
        hidden_units: int = 1000,
        solver: Literal["adam", "sgd"] = "adam",
        lr: float | Literal["auto"] | None = None,
        lr_schedule: Literal["inverse-time", "cosine", "step", "constant"] = "inverse-time",
        lr_schedule_epochs: float = 10,
        lr_schedule_per: Literal["epoch", "step"] = "epoch",
        max_epochs: int = 100,
        patience: int = 10,
        tol: float = 1e-3,
        monitor: Literal["accuracy", "loss", "metric"] = "accuracy",
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        batch_size: int = 32,
        alpha: float = 0.0,
        dropout: float = 0.0,
        standardize: bool = True,
        rotate: bool | Literal["auto"] = "auto",
        restore: Literal["best", "last"] = "best",
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.hidden_units = hidden_units
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
        self.dropout = dropout
        self.standardize = standardize
        self.rotate = rotate
        self.restore = restore
        self.random_state = random_state
        self.device = device

    @classmethod
    def _fit_many(cls, heads: Sequence[Any], rows: TrainingRows) -> None:
        fit_gradient_heads(heads, rows)

    @property
    def coefs_(self) -> list[NDArray[np.float64]]:
        """Weights of both layers, the first on the original features."""
        return self._layers()[0]

    @property
    def intercepts_(self) -> list[NDArray[np.float64]]:
        """Biases of both layers."""
        return self._layers()[1]

    def _layers(self) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        if not hasattr(self, "weights_"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit(X, y) first")
        first, shift = self.space_.to_feature_space(self.weights_[0])
        second = self.weights_[2].astype(np.float64)
        return [first, second], [self.weights_[1] + shift, self.weights_[3].astype(np.float64)]

    def _stored(self) -> tuple[dict[str, NDArray[Any]], FeatureSpace]:
        arrays = {f"weights_{i}": weights.astype(np.float32) for i, weights in enumerate(self.weights_)}
        if not self.space_.rotated_ or self.space_.n_columns_ < self.hidden_units:
            return arrays, self.space_
        # the first layer on features is smaller than the basis it would need
        arrays["weights_0"] = self.space_.to_standardized(self.weights_[0]).astype(np.float32)
        return arrays, on_features(self.space_)

    def _take_stored(self, tensors: dict[str, NDArray[Any]]) -> None:
        self.weights_ = [tensors[f"weights_{i}"] for i in range(4)]


MLP = HeadKind(MLPClassifier, "one hidden layer, then softmax")
