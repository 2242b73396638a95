"""The recipe of a pretraining: together with the data and the versions it decides the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from featbank.errors import InvalidInputError

__all__ = ["PretrainSettings"]

_OPTIMIZERS = ("sgd", "adam")
_ANNEALINGS = ("cosine", "inverse-time", "constant")
_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class PretrainSettings:
    """The recipe; together with the data and the versions it decides the weights.

    Parameters
    ----------
    epochs : int, default=45
        Passes over the training images.
    batch_size : int, default=128
        Images per step.
    optimizer : {"sgd", "adam"}, default="sgd"
        SGD with Nesterov momentum 0.9, or AdamW.
    lr : float, default=0.1
        Highest learning rate.
    annealing : {"cosine", "inverse-time", "constant"}, default="cosine"
        How the learning rate falls after the warm-up; inverse-time is ``lr / (1 + t / 10)``, t in epochs.
    warmup_epochs : float, default=2
        Epochs over which the learning rate rises linearly from zero.
    weight_decay : float, default=5e-4
        Of every convolution and linear weight.
    label_smoothing : float, default=0.1
        Share of the target spread over all classes.
    flip : bool, default=True
        Mirror half of the images left to right.
    crop_padding : int, default=4
        Pixels of reflection around each image before a random crop of its size; 0 for none.
    cutout : int, default=8
        Side in pixels of a square painted over with the mean colour at a random place; 0 for none.
    averaged_epochs : int, default=0
        Keep the mean of the weights at the ends of so many last epochs, with the batch-norm statistics taken
        anew, instead of the last weights [1]_; meant for a learning rate that has stopped falling. 0 keeps
        the last weights.
    initial_weights : str, default=""
        SHA-256 of the weights file that training started from; empty for random weights.
    precision : {"float32", "bfloat16"}, default="bfloat16"
        Of the arithmetic; weights are kept in float32.
    random_state : int, default=0
        Seed of the initial weights, the order and the augmentation.

    References
    ----------
    .. [1] P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
    """

    epochs: int = 45
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    annealing: str = "cosine"
    warmup_epochs: float = 2.0
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    flip: bool = True
    crop_padding: int = 4
    cutout: int = 8
    averaged_epochs: int = 0
    initial_weights: str = ""
    precision: str = "bfloat16"
    random_state: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}"
            for name, allowed in (
                ("optimizer", _OPTIMIZERS),
                ("annealing", _ANNEALINGS),
                ("precision", _PRECISIONS),
            )
            if getattr(self, name) not in allowed
        ]
        faults += [
            f"{name}={getattr(self, name)!r} must be at least 1"
            for name in ("epochs", "batch_size")
            if getattr(self, name) < 1
        ]
        faults += [
            f"{name}={getattr(self, name)!r} must be at least 0"
            for name in ("crop_padding", "cutout", "warmup_epochs", "weight_decay", "label_smoothing")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.averaged_epochs <= self.epochs:
            faults.append(
                f"averaged_epochs={self.averaged_epochs!r} must be from 0 to epochs={self.epochs!r}"
            )
        if not self.lr > 0:
            faults.append(f"lr={self.lr!r} must be over 0")
        if faults:
            raise InvalidInputError("; ".join(faults))

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate `epoch` epochs (a fraction within one) after the start.

        Examples
        --------
        >>> [round(PretrainSettings(epochs=10, lr=0.1).learning_rate(t), 3) for t in (0, 1, 2, 6, 10)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
        """
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        if self.annealing == "constant":
            return self.lr
        after = epoch - self.warmup_epochs
        if self.annealing == "inverse-time":
            return self.lr / (1 + after / 10)
        share = after / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
