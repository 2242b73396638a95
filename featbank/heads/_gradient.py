"""Heads trained by gradient steps: from parameters to a recipe, from trained weights to a fitted head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.heads._head import (
    Evaluation,
    Head,
    ProbabilisticHead,
    check_random_state,
    encode_labels,
    find_classes,
)
from featbank.heads._parameters import FRACTION, NOT_NEGATIVE, POSITIVE, WHOLE, Allowed
from featbank.heads._recipe import Recipe, TrainedHead
from featbank.heads._schedule import Annealing
from featbank.heads.space import FeatureSpace

__all__ = ["GradientHead", "torch_device"]


#: What part of the training loss an improvement is, where a head leaves that open.
TRAINING_TOLERANCE = 1e-3


class GradientHead(ProbabilisticHead):
    """Base of `SoftmaxClassifier` and `MLPClassifier`.

    Attributes
    ----------
    history_ : dict of str to ndarray of float64, shape (n_epochs_,)
        ``train_loss`` and ``train_accuracy`` over the epoch's mini-batches, while the weights moved; where
        such rows were given, ``val_...`` and ``test_...`` after the epoch; ``lr``, the rate the epoch began
        with.
    n_epochs_, best_epoch_ : int
        Epochs trained; the epoch, counted from 1, that was best (0 if none).
    converged_ : bool
        Whether training stopped because nothing improved any more.
    stop_reason_ : {"tolerance", "max_epochs", "not finite", "optimum"}
    """

    _parameters: ClassVar[Mapping[str, Allowed]] = {
        "solver": Allowed(values=("adam", "sgd")),
        "lr": Allowed(over=0, values=("auto", None)),
        "annealing": Allowed(values=get_args(Annealing)),
        "annealing_epochs": POSITIVE,
        "anneal_per": Allowed(values=("epoch", "step")),
        "max_epochs": WHOLE,
        "tolerance_epochs": WHOLE,
        "tol": NOT_NEGATIVE,
        "monitor": Allowed(values=("accuracy", "loss")),
        "batch_size": WHOLE,
        "alpha": NOT_NEGATIVE,
        "dropout": FRACTION,
        "restore": Allowed(values=("best", "last")),
        "device": Allowed(kinds=(str,)),
        **Head._parameters,
    }

    solver: str
    lr: float | Literal["auto"] | None
    annealing: str
    annealing_epochs: float
    anneal_per: Literal["epoch", "step"]
    max_epochs: int
    tolerance_epochs: int
    tol: float | None
    monitor: Literal["accuracy", "loss"]
    batch_size: int
    alpha: float
    dropout: float
    restore: Literal["best", "last"]
    random_state: Any
    device: str
    lr_: float
    weights_: list[NDArray[Any]]
    history_: dict[str, NDArray[np.float64]]
    n_epochs_: int
    best_epoch_: int
    converged_: bool
    stop_reason_: str

    def _hidden(self) -> int:
        return 0

    def _check(self) -> None:
        super()._check()
        if self.device != "cpu":
            torch_device(self.device)

    def _recipe(self) -> Recipe:
        self._check()
        return Recipe(
            hidden_units=self._hidden(),
            solver="sgd" if self.solver == "sgd" else "adam",
            annealing=self.annealing,
            annealing_epochs=self.annealing_epochs,
            anneal_per=self.anneal_per,
            max_epochs=self.max_epochs,
            tolerance_epochs=self.tolerance_epochs,
            tol=TRAINING_TOLERANCE if self.tol is None else self.tol,
            monitor=self.monitor,
            batch_size=self.batch_size,
            dropout=self.dropout,
            restore=self.restore,
        )

    def _rate(self, n_columns: int) -> float:
        """Return the learning rate to start with in a space of so many columns."""
        return 1e-3 if self.lr is None or self.lr == "auto" else float(self.lr)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        X_test: ArrayLike | None = None,
        y_test: ArrayLike | None = None,
    ) -> Any:
        """Fit to `X`, `y`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features; float16 and float32 are not copied to float64 as a whole.
        y : array-like of shape (n_samples,)
            Labels, numbers or strings, of at least two classes.
        X_val, y_val : array-like, optional
            Decide when training stops and which weights are kept; never trained on.
        X_test, y_test : array-like, optional
            Only measured after each epoch, for `history_`; decide nothing.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If a parameter is out of range, `y` has one class, or validation or test labels are not among
            those of `y`.

        Warns
        -----
        FitWarning
            If the training loss is not finite or has not moved after three epochs.
        """
        features, labels = self._read_training(X, y)
        self._check()
        classes, _ = find_classes(labels)
        space, Z = self._into_space(features)
        others: list[Evaluation] = []
        for name, rows, names in (("val", X_val, y_val), ("test", X_test, y_test)):
            if (rows is None) != (names is None):
                raise InvalidInputError(f"only one of X_{name} and y_{name} was given; give both, or neither")
            if rows is not None and names is not None:
                encode_labels(names, classes, f"y_{name}")
                others.append(Evaluation(name, space.transform(rows), np.asarray(names)))
        type(self)._fit_many([self], Z, labels, [np.arange(len(labels))], space, others)
        return self

    def _into_space(self, features: Any) -> tuple[FeatureSpace, Any]:
        """Return a space fitted to features, and them in it."""
        space = FeatureSpace(standardize=self.standardize, rotate=self.rotate)
        return space, space.fit_transform(features)

    def _accept(self, trained: TrainedHead, classes: NDArray[Any], space: FeatureSpace) -> str | None:
        """Take over what was trained; return what there is to warn of."""
        self.classes_, self.space_, self.n_features_in_ = classes, space, space.n_features_
        self.weights_ = [
            weight.reshape(weight.shape[-1]) if i % 2 else weight for i, weight in enumerate(trained.weights)
        ]
        self.history_ = trained.history
        self.n_epochs_, self.best_epoch_ = trained.n_epochs, trained.best_epoch
        self.stop_reason_, self.converged_ = (
            trained.stop_reason,
            trained.stop_reason == "tolerance" and not trained.stuck,
        )
        self.failed_ = None
        losses = trained.history["train_loss"]
        settings = f"lr={self.lr_:.4g}, solver={self.solver!r}, {space.n_columns_} columns"
        if trained.stop_reason == "not finite":
            kept = (
                f"the weights kept are those of epoch {trained.best_epoch}"
                if trained.best_epoch
                else "nothing was learned"
            )
            self.failed_ = (
                f"training loss became {losses[-1]} in epoch {trained.n_epochs} ({settings}): the learning "
                f"rate is too large for these features; use a smaller lr, or standardize=True; {kept}"
            )
            return self.failed_
        if not trained.stuck:
            return None
        moved = (
            f"training loss has not moved after three epochs ({trained.initial_loss:.4g} -> {losses[2]:.4g}; "
            f"{settings})"
        )
        if losses[2] > trained.initial_loss * 1.01:
            return (
                f"{moved}: the learning rate is too large for these features; use a smaller lr, or "
                "standardize=True"
            )
        return (
            f"{moved}: the learning rate is too small, or the features say nothing about the classes to a "
            "head of this kind; use a larger lr, a deeper cut, or the mlp head"
        )

    def _fitted_facts(self) -> dict[str, Any]:
        names = ("failed_", "n_epochs_", "best_epoch_", "converged_", "stop_reason_", "n_iter_", "lr_", "C_")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _logits(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        values = np.asarray(Z, dtype=np.float64)
        for layer in range(0, len(self.weights_), 2):
            values = values @ self.weights_[layer] + self.weights_[layer + 1]
            if layer < len(self.weights_) - 2:
                values = np.maximum(values, 0.0)
        return values


def torch_device(name: str) -> Any:
    """Return a device to train on; raises `InvalidInputError` for one that is not here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(
            f"device={name!r} cannot be used here; allowed: 'cpu', 'auto'"
            + (", 'cuda'" if torch.cuda.is_available() else "")
        ) from error
    return device
