"""How a network is trained: together with the data, the plan and the versions it decides the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError

__all__ = ["RECIPES", "Recipe", "recipe_for"]

_CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "lr_schedule": ("cosine", "inverse-time", "step", "constant"),
    "precision": ("float32", "bfloat16"),
}
#: What "step" multiplies the learning rate by, as for heads.
_STEP_FACTOR = 0.1


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are those of minivgg's weights.

    Parameters
    ----------
    epochs : int, default=45
        Passes over the training images.
    batch_size : int, default=128
        Images per step; what is left over at the end of an epoch is a smaller step.
    optimizer : {"sgd", "adam", "adamw"}, default="sgd"
        With `momentum` the first is Nesterov's.
    momentum : float, default=0.9
        Of ``"sgd"``; 0 for none.
    lr : float, default=0.1
        Highest learning rate.
    lr_schedule : {"cosine", "inverse-time", "step", "constant"}, default="cosine"
        How the learning rate falls after the warm-up: half a cosine wave to 0; ``lr / (1 + t/T)``; to a tenth
        every T epochs. It moves with every step.
    lr_schedule_epochs : float, default=10
        T of ``"inverse-time"`` and ``"step"``.
    warmup_epochs : float, default=2
        Epochs over which the learning rate rises linearly from zero.
    weight_decay : float, default=5e-4
        Of every convolution and linear weight. For ``"sgd"`` and ``"adam"`` it is added to the gradient, as
        an L2 penalty of half as much is; for ``"adamw"`` it is apart from it.
    label_smoothing : float, default=0.1
        Share of the target spread over all classes.
    patience : int, default=0
        Stop when the validation accuracy has not been higher for so many epochs, and keep the weights of the
        best; 0 trains all epochs and keeps the last weights.
    flip : bool, default=True
        Mirror half of the images left to right.
    crop_padding : int, default=4
        Pixels of reflection around each image before a random crop of its size; 0 for none.
    rotation : float, default=0
        Most degrees an image is turned by, either way.
    shift : float, default=0
        Largest part of its side an image is moved by, either way, across and down.
    zoom_out, zoom_in : float, default=0
        Largest parts an image is made smaller or larger by.
    channel_shift : float, default=0
        Largest part of the range of pixels that is added to, or taken from, all pixels of an image.
    cutout : int, default=8
        Size of a square painted over with the mean colour at a random place: its side is that many pixels if
        odd, else one less; 0 for none.
    averaged_epochs : int, default=0
        Keep the mean of the weights at the ends of so many last epochs, with the batch-norm statistics taken
        anew, instead of the last weights [1]_; meant for a learning rate that has stopped falling.
    precision : {"float32", "bfloat16"}, default="bfloat16"
        Of the arithmetic; weights are kept in float32.
    initial_weights : str, default=""
        SHA-256 of the weights file that training started from; empty for random weights.
    random_state : int, default=0
        Seed of the initial weights, the order and the augmentation.

    References
    ----------
    .. [1] P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.

    Examples
    --------
    >>> from dataclasses import replace
    >>> recipe = Recipe(epochs=20, optimizer="adam", lr=1e-3)
    >>> replace(recipe, rotation=10).rotation, recipe.lr_schedule
    (10, 'cosine')
    """

    epochs: int = 45
    batch_size: int = 128
    optimizer: str = "sgd"
    momentum: float = 0.9
    lr: float = 0.1
    lr_schedule: str = "cosine"
    lr_schedule_epochs: float = 10.0
    warmup_epochs: float = 2.0
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    patience: int = 0
    flip: bool = True
    crop_padding: int = 4
    rotation: float = 0.0
    shift: float = 0.0
    zoom_out: float = 0.0
    zoom_in: float = 0.0
    channel_shift: float = 0.0
    cutout: int = 8
    averaged_epochs: int = 0
    precision: str = "bfloat16"
    initial_weights: str = ""
    random_state: int = 0

    def __post_init__(self) -> None:
        wrong = {one.name for one in fields(self) if not _is_of_kind(getattr(self, one.name), one.default)}
        if wrong:
            name = sorted(wrong)[0]
            kind = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
            example = next(one.default for one in fields(self) if one.name == name)
            raise InvalidInputError(f"{name}={getattr(self, name)!r} must be {kind[type(example)]}")
        faults = [
            f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}"
            for name, allowed in _CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        faults += [
            f"{name}={getattr(self, name)!r} must be at least 1"
            for name in ("epochs", "batch_size")
            if getattr(self, name) < 1
        ]
        least_0 = ("crop_padding", "cutout", "warmup_epochs", "weight_decay", "patience", "rotation")
        faults += [
            f"{name}={getattr(self, name)!r} must be at least 0"
            for name in (*least_0, "random_state", "zoom_in")
            if getattr(self, name) < 0
        ]
        faults += [
            f"{name}={getattr(self, name)!r} must be from 0 to below 1"
            for name in ("label_smoothing", "momentum", "shift", "zoom_out", "channel_shift")
            if not 0 <= getattr(self, name) < 1
        ]
        if not 0 <= self.averaged_epochs <= self.epochs:
            faults.append(
                f"averaged_epochs={self.averaged_epochs!r} must be from 0 to epochs={self.epochs!r}"
            )
        if self.averaged_epochs and self.patience:
            faults.append("averaged_epochs and patience do not go together: which weights are kept?")
        faults += [
            f"{name}={getattr(self, name)!r} must be over 0"
            for name in ("lr", "lr_schedule_epochs")
            if not getattr(self, name) > 0
        ]
        if faults:
            raise InvalidInputError("; ".join(faults))

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate `epoch` epochs (a fraction within one) after the start.

        Examples
        --------
        >>> [round(Recipe(epochs=10, lr=0.1).learning_rate(t), 3) for t in (0, 1, 2, 6, 10)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
        """
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        after = epoch - self.warmup_epochs
        if self.lr_schedule == "constant":
            return self.lr
        if self.lr_schedule == "inverse-time":
            return self.lr / (1 + after / self.lr_schedule_epochs)
        if self.lr_schedule == "step":
            return float(self.lr * _STEP_FACTOR ** (after // self.lr_schedule_epochs))
        share = after / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _is_of_kind(value: Any, example: Any) -> bool:
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is type(example)


#: Adam as the reports used it: nothing smoothed, nothing painted over.
_ADAM = Recipe(
    epochs=30,
    optimizer="adam",
    lr=1e-3,
    warmup_epochs=1.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    cutout=0,
    batch_size=256,
)
_FOOD = replace(_ADAM, epochs=45, batch_size=64, flip=False, crop_padding=0, lr_schedule="constant")
_IMP1 = replace(_ADAM, epochs=80, batch_size=128, flip=False, crop_padding=0, weight_decay=2e-4)

#: Recipe of each network of `featbank.backbones.own_networks.NETWORKS`, and of backbones trained further.
RECIPES: dict[str, Recipe] = {
    # few epochs, a low rate: what is there already is kept
    "fine-tuning": replace(_ADAM, epochs=10, batch_size=32, lr=1e-4, crop_padding=0),
    "minivgg": Recipe(),
    "own_net": _ADAM,
    "alexnet_small": replace(_ADAM, epochs=40),
    "googlenet_part": replace(_ADAM, epochs=40),
    "food_baseline": _FOOD,
    "food_custom": replace(_FOOD, lr=0.95e-3, flip=True),
    "base": replace(_ADAM, epochs=20, batch_size=128, flip=False, crop_padding=0),
    "imp1": _IMP1,
    "imp2": replace(
        _IMP1, epochs=120, flip=True, rotation=20.0, shift=0.1, zoom_out=0.3, zoom_in=0.2, channel_shift=0.2
    ),
}


def recipe_for(network: str | Recipe, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe of a network, with changes.

    Parameters
    ----------
    network : str or Recipe
        One of `RECIPES`; or the recipe itself.
    changes : mapping, optional
        Fields of `Recipe`, with other values.

    Raises
    ------
    UnknownNameError
        If a recipe has no such field.
    InvalidInputError
        If a value makes no sense.

    Examples
    --------
    >>> recipe_for("imp2", {"epochs": 3}).rotation
    20.0
    """
    known = [one.name for one in fields(Recipe) if one.name != "initial_weights"]
    for key in changes or {}:
        if key not in known:
            raise UnknownNameError(f"a recipe has no {key!r}; known: {nearest(str(key), known)}")
    base = network if isinstance(network, Recipe) else RECIPES[network]
    return replace(base, **(changes or {}))
