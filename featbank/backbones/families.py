"""Where backbones come from: what a family of them can do, and which families there are."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featbank._registry import Registry, nearest
from featbank.backbones.preprocessing import Preprocessing
from featbank.backbones.spec import BackboneSpec
from featbank.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from featbank.backbones.loading import Backbone

__all__ = ["FAMILIES", "OWN_FAMILIES", "Family", "Published", "family_of", "get_spec", "unknown_weights"]


@dataclass(frozen=True)
class Published:
    """Weights that somebody published, or what a file that nobody published is taken for.

    Parameters
    ----------
    preprocessing : Preprocessing
        What images go through first.
    label : str, default=""
        How runs and banks call the weights.
    path : pathlib.Path or None
        Their file; a file of the user's own says it itself.
    class_names : tuple of str or None
        What the logits stand for.
    sha256_prefix : str or None
        How the SHA-256 of the published file starts; it is checked.
    trusted : bool, default=False
        True where the file is known, by its digest, to be the published one: it may use the pickle format
        that torch wrote before 2020.

    Examples
    --------
    >>> found = FAMILIES.get("featbank").published("minivgg", None)
    >>> found.path.name, found.label, found.class_names[:3], found.preprocessing.image_size
    ('minivgg-cifar10.safetensors', 'CIFAR10', ('airplane', 'automobile', 'bird'), 32)
    """

    preprocessing: Preprocessing
    label: str = ""
    path: Path | None = None
    class_names: tuple[str, ...] | None = None
    sha256_prefix: str | None = None
    trusted: bool = False


class Family(ABC):
    """Backbones of one origin, found as ``FAMILY:NAME``; its methods get the name without the family.

    Other packages add families by entry points of the group ``featbank.backbones``, which name an instance.
    Weights files of the user's own, random weights, digests, image sizes and cuts are featbank's: a family
    says what there is, and builds it.

    Attributes
    ----------
    packages : tuple of str
        What computes besides torch and torchvision, as it is called when it is installed.

    Examples
    --------
    >>> from torch import nn
    >>> from featbank.backbones import BackboneSpec, Cut, Preprocessing
    >>> class Toys(Family):
    ...     def names(self):
    ...         return ["lenet"]
    ...     def spec(self, name):
    ...         cuts = (Cut("pool", "2", (4, 8, 8)), Cut("logits", "4", (3,)))
    ...         return BackboneSpec(name, "toys", cuts, 16, n_classes=3, head_key="4.weight")
    ...     def build(self, name, *, n_classes, image_size, initialise):
    ...         layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    ...         return nn.Sequential(*layers, nn.Linear(256, n_classes))
    ...     def preprocessing(self, name):
    ...         return Preprocessing(16, 18)
    >>> Toys().spec("lenet").cut("pool").shape
    (4, 8, 8)
    >>> Toys().published("lenet", "IMAGENET1K_V1")  # nobody published weights of it
    Traceback (most recent call last):
        ...
    featbank.errors.UnknownNameError: unknown weights 'IMAGENET1K_V1' of backbone 'lenet'; known: 'random',
    or a file (.safetensors, .pth, .ckpt, ...)
    """

    packages: tuple[str, ...] = ()

    @abstractmethod
    def names(self) -> list[str]:
        """List what there is, without loading weights, and without torch where that can be."""

    def more_names(self) -> list[str]:
        """List what there is besides `names`, and has no cut table until it is asked for."""
        return []

    @abstractmethod
    def spec(self, name: str) -> BackboneSpec | None:
        """Return cuts and input size of a backbone; None where there is none of this name."""

    @abstractmethod
    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        """Build a backbone without trained weights; it may be asked to do so on torch's meta device.

        Parameters
        ----------
        name : str
        n_classes : int
            Number of logits.
        image_size : int
            Side of the square input in pixels, for networks that are built for one size.
        initialise : bool
            Whether weights that nobody will load need their initial values.
        """

    @abstractmethod
    def preprocessing(self, name: str) -> Preprocessing:
        """Return the preprocessing of weights for which nobody published any."""

    def published(self, name: str, entry: str | None) -> Published:
        """Find published weights by the name of their entry, None for the default; get the file if need be.

        Raises
        ------
        UnknownNameError
            If there is no entry of that name.
        MissingWeightsError
            If the file is neither on this machine nor reachable.
        """
        raise unknown_weights(name, entry or "DEFAULT", [])

    def recognise(self, name: str, path: Path, sha256: str) -> Published:
        """Say what a weights file of the user's own is taken for, by its digest."""
        del path, sha256
        return Published(self.preprocessing(name))

    def settings(self, name: str) -> str:
        """Say what, besides the name and the numbers of the weights, decides what is computed."""
        del name
        return ""

    def settings_files(self, name: str) -> tuple[Path, ...]:
        """Return the files that say settings and preprocessing, if there are any."""
        del name
        return ()

    def place(self, name: str) -> Path | None:
        """Return the file or folder that a name means, from the root; None where it is no path's."""
        del name
        return None

    def read(self, name: str, path: Path) -> nn.Module | None:
        """Build a backbone with the weights of a file, in the family's own way; None leaves it to featbank.

        Raises
        ------
        WeightsError
            If the file does not fit, or is damaged.
        """
        del name, path
        return None


#: featbank's and torchvision's backbones need no family before their names.
OWN_FAMILIES = ("torchvision", "featbank")
#: The family that paths, and names of trainings in the cache, go to without being told.
_TRAINED = "trained"
#: Where backbones come from, by name; the entry point ``featbank.backbones`` adds to it.
FAMILIES = Registry[Family]("family of backbones", group="featbank.backbones")
FAMILIES.register_place("torchvision", "featbank.backbones._torchvision:FAMILY")
FAMILIES.register_place("featbank", "featbank.backbones.minivgg:FAMILY")
FAMILIES.register_place("trained", "featbank.backbones.trained:FAMILY")
FAMILIES.register_place("timm", "featbank.backbones._timm:FAMILY")
FAMILIES.register_place("hf", "featbank.backbones._hf:FAMILY")


def family_of(name: str) -> tuple[Family, str]:
    """Return the family of a backbone that there is, and its name there."""
    prefix, bare = _split(name)
    if prefix:
        return FAMILIES.get(prefix), bare
    return _own_families(bare)[0], bare


def _own_families(name: str) -> list[Family]:
    """Return the families that need not be said, first the one that has a table of `name`."""
    return sorted((FAMILIES.get(one) for one in OWN_FAMILIES), key=lambda family: name not in family.names())


def get_spec(name: str | Backbone) -> BackboneSpec:
    """Look a backbone up.

    Parameters
    ----------
    name : str or Backbone
        One of `names`, or the name of another torchvision classifier (``densenet121``, ``vit_b_16``, ...),
        whose table is then made from its graph: its cuts are graph nodes, and making it loads torch.
        Backbones of other families are called ``FAMILY:NAME``; banks write that ``FAMILY+NAME``, which will
        do too. A network that ``featbank train`` left is called by its folder, its file, or the name of its
        folder in the cache. A loaded backbone has its own.

    Returns
    -------
    BackboneSpec
        Its cuts and other facts.

    Raises
    ------
    UnknownNameError
        If no family knows the name; the message lists the nearest names.
    MissingPackageError
        If the family needs a package that is not installed.

    Examples
    --------
    >>> get_spec("vgg16").cut("block4_pool")
    Cut(name='block4_pool', node='features.23', shape=(512, 14, 14), aliases=('pool4', 'conv-4'), ...)
    >>> get_spec("vgg16_bn").cut("pool4").node
    'features.33'
    """
    if isinstance(getattr(name, "spec", None), BackboneSpec):
        return name.spec  # type: ignore[union-attr]
    prefix, bare = _split(os.fspath(name))  # type: ignore[arg-type]
    families = [FAMILIES.get(prefix)] if prefix else _own_families(bare)
    for family in families:
        spec = family.spec(bare)
        if spec is not None:
            full = bare if prefix in ("", *OWN_FAMILIES) else f"{prefix}+{bare.replace('/', '+')}"
            named = spec.name == full or (prefix and spec.name.startswith(f"{prefix}+"))
            return spec if named else replace(spec, name=full)
    known = [one for family in families for one in family.names()]
    known += [one for family in families for one in family.more_names()]
    of = f" of family {prefix!r}" if prefix else ""
    raise UnknownNameError(f"unknown backbone {bare!r}{of}; known: {nearest(bare, known)}")


def _split(name: str) -> tuple[str, str]:
    """Return family and name of ``FAMILY:NAME``, or of what a bank calls it; the first is "" without one."""
    prefix, colon, bare = name.partition(":")
    if colon and "+" in bare:
        raise InvalidInputError(
            f"backbone {name!r} has a '+' in its name, which banks write for '/'; rename it"
        )
    if colon:
        return FAMILIES.canonical(prefix), bare
    # A bank's folder cannot hold ":" or "/".
    prefix, plus, bare = name.partition("+")
    if plus and prefix in FAMILIES:
        return prefix, bare.replace("+", "/")
    return (_TRAINED if _is_trained(name) else ""), name


def _is_trained(name: str) -> bool:
    """Say whether a name without a family is a network of ``featbank train``: its file, folder or name."""
    if any(name in FAMILIES.get(one).names() for one in OWN_FAMILIES):
        return False
    from featbank._cache import networks_folder  # numpy, which tables do without

    if os.sep in name or name.endswith(".safetensors"):
        return True
    try:
        return (networks_folder() / name).is_dir()
    except (OSError, ValueError):  # no name that a folder can have
        return False


def unknown_weights(name: str, weights: str, known: Sequence[str]) -> UnknownNameError:
    """Return the error for weights that are neither a file nor an entry of a backbone's."""
    return UnknownNameError(
        f"unknown weights {weights!r} of backbone {name!r}; known: "
        f"{nearest(weights, [*known, 'random'])}, or a file (.safetensors, .pth, .ckpt, ...)"
    )
