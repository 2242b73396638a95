"""Networks that featbank trains from scratch: a name, what makes it up, and the variants of the reports.

Each is a plan of a few numbers, which `NETWORKS` has by name and `network_plan` changes: kernels, widths,
pools, activation, initialisation, dropout. `featbank.backbones.minivgg` builds the torch modules.

References
----------
.. [1] A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural
   Networks", NIPS 2012.
.. [2] C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1.
.. [3] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
   AISTATS 2010.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError

__all__ = [
    "NETWORKS",
    "ConvNetPlan",
    "InceptionPlan",
    "MiniVGGPlan",
    "NetworkPlan",
    "network_plan",
    "plan_to_dict",
    "smallest_side",
]

ACTIVATIONS = ("relu", "leaky_relu", "elu")
INITIALISATIONS = ("xavier", "kaiming", "normal", "default")
_MOST_LAYERS = 200
_POOLINGS = ("max", "avg")
_NORMALISED = ("all", "convolutions", "none")


@dataclass(frozen=True)
class ConvNetPlan:
    """Convolutions one after the other, pools between some of them, fully connected layers behind.

    Parameters
    ----------
    widths, kernels : tuple of int
        Channels and side of the kernel (odd, padded to keep the size) of each convolution.
    pools : tuple of int
        Side of the pool behind each convolution; 0 for none.
    pool_stride : int
        Of every pool; 0 for its own side.
    hidden : tuple of int
        Units of the fully connected layers before the logits.
    global_pool : bool
        Whether the last map is averaged to one number a channel.
    pooling : {"max", "avg"}
        What pools take.
    activation : {"relu", "leaky_relu", "elu"}
    initialisation : {"xavier", "kaiming", "normal", "default"}
        Of weights; ``"normal"`` has a standard deviation of 0.05, ``"default"`` is torch's.
    batch_norm : {"all", "convolutions", "none"}
        Which layers before the logits have one, between weights and activation.
    conv_dropout : tuple of float
        Share left out behind each convolution and its pool; empty for none.
    dropout : float
        Share left out behind each hidden layer.
    image_size : int
        Side of the images, in pixels.
    """

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    pools: tuple[int, ...]
    pool_stride: int = 2
    hidden: tuple[int, ...] = ()
    global_pool: bool = False
    pooling: str = "max"
    activation: str = "relu"
    initialisation: str = "xavier"
    batch_norm: str = "all"
    conv_dropout: tuple[float, ...] = ()
    dropout: float = 0.0
    image_size: int = 32

    def faults(self) -> Iterator[str]:
        """Say what cannot be built."""
        depth = len(self.widths)
        for name in ("kernels", "pools", "conv_dropout"):
            found = len(getattr(self, name))
            if found != depth and not (name == "conv_dropout" and found == 0):
                yield f"{name}={getattr(self, name)!r} has {found} entries for {depth} convolutions"
        if any(one % 2 == 0 for one in self.kernels):
            yield f"kernels={self.kernels!r} must be odd"
        yield from _unknown(self, pooling=_POOLINGS, batch_norm=_NORMALISED)
        if not self.pool_stride >= 0 or min((0, *self.pools)) < 0:
            yield f"pools={self.pools!r}, pool_stride={self.pool_stride!r} must not be negative"

    def pool_geometry(self, window: int) -> tuple[int, int]:
        """Return stride and padding of a pool; one whose windows overlap is padded, so as to halve a map."""
        stride = self.pool_stride or window
        return stride, ((window - 1) // 2 if stride < window else 0)

    def side_behind(self, image_size: int) -> int:
        """Return the side of the last map, 0 or less where the pools leave nothing."""
        side = image_size
        for window in self.pools:
            if window:
                stride, padding = self.pool_geometry(window)
                side = (side + 2 * padding - window) // stride + 1
        return side

    def cuts(self) -> dict[str, str]:
        """Return cuts, from shallow to deep, and their nodes."""
        found, n_pools = {}, 0
        for number, window in enumerate(self.pools, 1):
            found[f"conv{number}"] = f"conv{number}.activation"
            if window:
                n_pools += 1
                found[f"pool{n_pools}"] = f"pool{n_pools}"
        if self.global_pool:
            found["avgpool"] = "flatten"
        found |= {f"fc{number}": f"fc{number}.activation" for number in range(1, len(self.hidden) + 1)}
        return found | {"logits": "logits"}


@dataclass(frozen=True)
class InceptionPlan:
    """Inception blocks of GoogLeNet [2]_, six convolutions each, with batch norm and a pool between them.

    Parameters
    ----------
    blocks : tuple of tuples of 6 ints
        Channels of a block: 1x1; 1x1 and 3x3; 1x1 and 5x5; 1x1 behind the pool.
    activation, initialisation, dropout, image_size
        As for `ConvNetPlan`; dropout stands before the logits.
    """

    blocks: tuple[tuple[int, ...], ...]
    activation: str = "relu"
    initialisation: str = "xavier"
    dropout: float = 0.4
    image_size: int = 32

    def faults(self) -> Iterator[str]:
        """Say what cannot be built."""
        if not self.blocks or any(not isinstance(one, tuple) or len(one) != 6 for one in self.blocks):
            yield f"blocks={self.blocks!r} must be lists of six widths each"

    def side_behind(self, image_size: int) -> int:
        """Return the side of the last map, 0 where the pools leave nothing."""
        return image_size >> (len(self.blocks) - 1)

    def cuts(self) -> dict[str, str]:
        """Return cuts, from shallow to deep, and their nodes."""
        found: dict[str, str] = {}
        for number in range(1, len(self.blocks) + 1):
            found[f"inception{number}"] = f"inception{number}.cat"
            if number < len(self.blocks):
                found[f"pool{number}"] = f"pool{number}"
        return found | {"avgpool": "flatten", "logits": "logits"}


@dataclass(frozen=True)
class MiniVGGPlan:
    """minivgg, see `featbank.backbones.minivgg`."""

    blocks: tuple[tuple[int, ...], ...] = ((32, 2), (64, 2), (128, 3), (128, 3), (128, 3))
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.2
    image_size: int = 32

    def faults(self) -> Iterator[str]:
        """Say what cannot be built."""
        if len(self.hidden) != 1 or not self.blocks or any(len(one) != 2 for one in self.blocks):
            yield f"blocks={self.blocks!r} must be pairs (width, depth), hidden={self.hidden!r} one number"

    def side_behind(self, image_size: int) -> int:
        """Return the side of the last map, 0 where the pools leave nothing."""
        return image_size >> len(self.blocks)

    def cuts(self) -> dict[str, str]:
        """Return cuts, from shallow to deep, and their nodes."""
        found, at = {}, 0
        for number, (_, depth) in enumerate(self.blocks, 1):
            at += 3 * depth + 1
            found[f"block{number}_pool"] = f"features.{at - 1}"
        return found | {"fc6": "classifier.1", "fc7": "classifier.4", "logits": "classifier.6"}


NetworkPlan: TypeAlias = ConvNetPlan | InceptionPlan | MiniVGGPlan

_BASE = ConvNetPlan((32,), (3,), (2,), hidden=(512,), batch_norm="convolutions", dropout=0.5)
_IMP = ConvNetPlan(
    (32, 32, 64, 128, 256),
    (3, 3, 3, 3, 3),
    (0, 2, 2, 0, 2),
    hidden=(512,),
    activation="elu",
    conv_dropout=(0.0, 0.1, 0.2, 0.0, 0.3),
    dropout=0.5,
)
_FOOD = ConvNetPlan(
    (32, 64, 64, 128),
    (3, 3, 3, 3),
    (0, 0, 3, 0),
    pool_stride=0,
    hidden=(128,),
    global_pool=True,
    batch_norm="convolutions",
    dropout=0.5,
    image_size=64,
)

#: Networks of the reports by name. What a report does not say (widths, hidden units) is ours.
NETWORKS: dict[str, NetworkPlan] = {
    "minivgg": MiniVGGPlan(),
    "own_net": ConvNetPlan((64, 128, 256), (3, 3, 3), (2, 2, 2), hidden=(512, 256)),
    "alexnet_small": ConvNetPlan(
        (64, 128, 192, 192, 128), (5, 5, 3, 3, 3), (3, 3, 0, 0, 3), hidden=(1024, 512), dropout=0.5
    ),
    "googlenet_part": InceptionPlan(
        ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64))
    ),
    "food_baseline": _FOOD,
    "food_custom": replace(
        _FOOD,
        widths=(64, 128, 168, 168, 168, 128),
        kernels=(3,) * 6,
        pools=(0, 3, 0, 3, 0, 0),
        conv_dropout=(0.0, 0.0, 0.0, 0.0, 0.5, 0.0),
    ),
    "base": _BASE,
    "imp1": _IMP,
    "imp2": _IMP,
}


def network_plan(name: str, params: Mapping[str, Any] | None = None) -> NetworkPlan:
    """Look a network up and change its plan.

    Parameters
    ----------
    name : str
        One of `NETWORKS`.
    params : mapping, optional
        Fields of its plan, with other values; lists will do for tuples.

    Returns
    -------
    NetworkPlan

    Raises
    ------
    UnknownNameError
        If there is no such network, or its plan has no such field.
    InvalidInputError
        If a value makes no sense, or the pools leave nothing of the images.

    Examples
    --------
    >>> network_plan("own_net", {"kernels": [5, 5, 3]}).kernels
    (5, 5, 3)
    >>> network_plan("own_net", {"image_size": 2})
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: image_size=2 is too small for 'own_net': ...; use at least 8
    """
    if name not in NETWORKS:
        raise UnknownNameError(f"unknown network {name!r}; known: {nearest(str(name), list(NETWORKS))}")
    plan = NETWORKS[name]
    known = {one.name: getattr(plan, one.name) for one in fields(plan)}
    changed = {}
    for key, value in (params or {}).items():
        if key not in known:
            raise UnknownNameError(
                f"network {name!r} has no parameter {key!r}; known: {nearest(str(key), list(known))}"
            )
        changed[key] = _as(known[key], value, key)
    plan = replace(plan, **changed)
    found = [*_unknown(plan, activation=ACTIVATIONS, initialisation=INITIALISATIONS), *plan.faults()]
    for key in ("widths", "kernels", "hidden"):
        if min(getattr(plan, key, ()), default=1) < 1:
            found.append(f"{key}={getattr(plan, key)!r} must be at least 1")
    for key in ("widths", "hidden", "blocks"):
        if len(getattr(plan, key, ())) > _MOST_LAYERS:
            found.append(f"{key} has more than {_MOST_LAYERS} entries")
    for key in ("conv_dropout", "dropout"):
        value = getattr(plan, key, 0.0)
        if not all(0 <= one < 1 for one in (value if isinstance(value, tuple) else (value,))):
            found.append(f"{key}={value!r} must be from 0 to below 1")
    if found:
        raise InvalidInputError(f"network {name!r}: {'; '.join(found)}")
    least = smallest_side(plan)
    if plan.image_size < least:
        raise InvalidInputError(
            f"image_size={plan.image_size} is too small for {name!r}: its pools leave nothing; use at least "
            f"{least}"
        )
    return plan


def smallest_side(plan: NetworkPlan) -> int:
    """Return the smallest side of images, in pixels, of which the pools leave something."""
    return next(side for side in range(1, 2**20) if plan.side_behind(side) >= 1)


def plan_to_dict(plan: NetworkPlan) -> dict[str, Any]:
    """Return the fields of a plan as JSON values; `network_plan` takes them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}


def _unknown(plan: NetworkPlan, **allowed: tuple[str, ...]) -> Iterator[str]:
    for key, known in allowed.items():
        value = getattr(plan, key, known[0])
        if value not in known:
            yield f"{key}={value!r} is unknown; known: {nearest(str(value), known)}"


def _as(example: Any, value: Any, key: str) -> Any:
    """Return a value as the type of another."""
    if isinstance(example, tuple):
        listed = value if isinstance(value, (list, tuple)) else (value,)
        if key == "blocks":
            return tuple(
                tuple(_as(1, part, key) for part in one) for one in listed if isinstance(one, (list, tuple))
            )
        return tuple(_as(1.0 if key == "conv_dropout" else 1, one, key) for one in listed)
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(example):
        raise InvalidInputError(f"{key}={value!r} must be {_KINDS[type(example)]}")
    return value


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
