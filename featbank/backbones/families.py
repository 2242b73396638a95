"""What is known of a backbone without its weights: its cuts and sizes, and the family that builds it.

The tables need no torch; what builds a module imports it.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from featbank._cuts import (
    LOGITS,
    MAP,
    SOFTMAX,
    CutName,
    Layout,
    check_view,
    last_blocks,
    pooled_shape,
    poolings,
)
from featbank._registry import Registry, nearest
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FAMILIES",
    "OF_A_MODULE",
    "OWN_FAMILIES",
    "SOFTMAX",
    "BackboneSpec",
    "Cut",
    "Family",
    "Published",
    "build_module",
    "build_on_meta",
    "check_image_size",
    "family_of",
    "get_spec",
    "names",
    "unknown_weights",
]

# Cuts, their nodes and shapes, input size ----------------------------------------------------------

#: What `Backbone.weights` starts with where it was made of a module.
OF_A_MODULE = "module:"


@dataclass(frozen=True)
class Cut:
    """A named point of a backbone where features are read.

    Parameters
    ----------
    name : str
        Canonical name; also the name of the cut's folder in a bank.
    node : str
        Node of torchvision's feature-extraction graph, or path of a module (`BackboneSpec.hooked`). Means
        nothing without its backbone: ``features.23`` is the fourth pool of vgg16 and the third of vgg16_bn.
        Empty for a derived cut.
    shape : tuple of int
        Shape of one image's features at the backbone's default image size, without the batch axis.
    aliases : tuple of str, default=()
        Other names people know it by.
    macs : int or None, default=None
        Multiply-adds of one image up to this cut at the default image size (convolutions and matrix
        products); None where nobody has counted them yet.
    derived_from : str or None, default=None
        Name of the cut it is computed from when it is read; such a cut is never extracted or stored.
    layout : Layout or None
        How the axes of its features are to be read; of a pooled cut, those of what is pooled.
    pooling : str or None, default=None
        What is done with the features of the node before they are stored.
    joined : tuple of Cut, default=()
        The cuts whose vectors this one joins, instead of a node of its own.

    Examples
    --------
    >>> cut = Cut("fc7", "classifier.4", (4096,), ("fc2",))
    >>> cut.n_features, cut.row_bytes
    (4096, 8192)
    """

    name: str
    node: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    macs: int | None = None
    derived_from: str | None = None
    layout: Layout | None = field(default=None, repr=False)
    pooling: str | None = field(default=None, repr=False)
    joined: tuple[Cut, ...] = field(default=(), repr=False)

    @property
    def n_features(self) -> int:
        """Numbers per image."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes per image in a bank: float16, float32 for ``logits``, 0 for a cut that is derived."""
        if self.derived_from is not None:
            return 0
        return self.n_features * (4 if CutName.parse(self.name).base == LOGITS else 2)

    @property
    def source(self) -> str | None:
        """The cut whose features give these by pooling; None where none does."""
        if self.joined or self.pooling in (None, MAP):
            return None
        return str(replace(CutName.parse(self.name), pooling=None))


#: In every table `SOFTMAX`: read from the stored logits at any temperature, so never a node of its own.
_SOFTMAX_ALIASES = ("predictions", "prob")
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class BackboneSpec:
    """The facts of one backbone; printing them needs no torch.

    Parameters
    ----------
    name : str
        What `get_spec` finds it by.
    family : str
        Networks of one design share it: ``"vgg"``, ``"resnet"``, ...
    cuts : tuple of Cut
        From shallow to deep; ``softmax`` is appended when the last one is ``logits``.
    default_image_size : int
        Side of the square input, in pixels, of the weights' own preprocessing.
    min_image_size : int, default=1
        Smallest side, in pixels, that leaves something behind every pool.
    n_classes : int, default=1000
        Number of logits of the published weights.
    n_parameters : int or None, default=None
        Number of weights the inference network has.
    head_key : str, default=""
        Tensor of the state dict whose first axis is the number of classes.
    transform_input : bool, default=False
        True where the network itself maps ImageNet-normalised input to [-1, 1] (GoogLeNet, Inception v3).
    auxiliary : tuple of str, default=()
        Name prefixes of tensors that serve training only; a weights file may hold them or not.
    hooked : bool, default=False
        Whether the nodes of the cuts are paths of modules, read by hooks, instead of nodes of the graph that
        torch.fx traces; ``"<output>"`` is what the network itself gives.
    n_prefix : int, default=0
        Tokens that stand before those of the patches: class, distillation, registers.
    has_cls : bool, default=False
        Whether the first of them is a class token.
    attention_pools : tuple of (str, Cut), default=()
        Names of the cuts that a learned attention pooler reads, and what it gives.

    Examples
    --------
    >>> spec = BackboneSpec("tiny", "demo", (Cut("pool1", "features.2", (8, 4, 4), ("conv-1",)),
    ...                                      Cut("logits", "fc", (10,), ("fc8",))), 8)
    >>> spec.cut("conv-1").name, spec.cut_names
    ('pool1', ('pool1', 'logits', 'softmax'))
    >>> [cut.name for cut in spec.resolve(["prob", "pool1"])]
    ['logits', 'pool1']
    >>> spec.cut("pol1")
    Traceback (most recent call last):
        ...
    featbank.errors.UnknownNameError: unknown cut 'pol1' of backbone 'tiny'; known: 'pool1', 'logits', ...
    """

    name: str
    family: str
    cuts: tuple[Cut, ...]
    default_image_size: int
    min_image_size: int = 1
    n_classes: int = 1000
    n_parameters: int | None = None
    head_key: str = ""
    transform_input: bool = False
    auxiliary: tuple[str, ...] = ()
    hooked: bool = False
    n_prefix: int = 0
    has_cls: bool = False
    attention_pools: tuple[tuple[str, Cut], ...] = ()
    _index: dict[str, Cut] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        cuts = self.cuts
        if cuts and cuts[-1].name == "logits":
            last = cuts[-1]
            cuts = (*cuts, Cut(SOFTMAX, "", last.shape, _SOFTMAX_ALIASES, last.macs, derived_from="logits"))
        cuts = self._with_layouts(cuts)
        object.__setattr__(self, "cuts", cuts)
        index: dict[str, Cut] = {}
        for cut in cuts:
            for one in (cut.name, *cut.aliases):
                if one in index:
                    raise InvalidInputError(f"backbone {self.name!r} has two cuts called {one!r}; rename one")
                index[one] = cut
        # A table's own nodes are names too, unless a cut has the name (ResNet's cut avgpool is node flatten).
        for cut in cuts:
            if cut.node:
                index.setdefault(cut.node, cut)
        object.__setattr__(self, "_index", index)

    def _with_layouts(self, cuts: tuple[Cut, ...]) -> tuple[Cut, ...]:
        """Say of each cut how its axes are to be read, and of the blocks of tokens how many there are."""
        found = [self._with_layout(cut) for cut in cuts]
        groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for at, cut in enumerate(found):
            numbered = _NUMBERED.fullmatch(cut.name)
            if numbered and cut.layout is not None and cut.layout.axes == "NC":
                groups.setdefault((numbered[1], cut.shape), []).append(at)
        places = max(groups.values(), key=lambda group: group[-1], default=[])
        for n_behind, at in enumerate(reversed(places), 1):
            layout = found[at].layout
            if layout is not None:
                found[at] = replace(found[at], layout=replace(layout, from_end=n_behind))
        return tuple(found)

    def _with_layout(self, cut: Cut) -> Cut:
        if cut.layout is not None or cut.derived_from is not None:
            return cut
        return replace(cut, layout=Layout.of(cut.shape, self.n_prefix, has_cls=self.has_cls))

    @property
    def cut_names(self) -> tuple[str, ...]:
        """Canonical names of the cuts, from shallow to deep."""
        return tuple(cut.name for cut in self.cuts)

    def cut(self, name: str) -> Cut:
        """Look a cut up by its name, an alias, or its node.

        Parameters
        ----------
        name : str
            ``CUT[:POOLING][@VIEW]``, e.g. ``"fc7"``, ``"fc2"`` or ``"classifier.4"`` for vgg16.

        Returns
        -------
        Cut
            The cut of the table; for a network of torchvision without a table, one made for that graph node.

        Raises
        ------
        UnknownNameError
            If nothing is called that; the message lists the nearest names.
        InvalidInputError
            If the pooling does not go with the cut.

        Examples
        --------
        >>> spec = BackboneSpec("tiny", "demo", (Cut("pool1", "features.2", (8, 4, 4), ("conv-1",)),), 8)
        >>> spec.cut("conv-1:grid2@hflip").name, spec.cut("pool1:grid2").shape
        ('pool1:grid2@hflip', (8, 2, 2))
        """
        if name in self._index:
            return self._index[name]
        parsed = CutName.parse(name)
        if parsed.view is not None:
            return self._viewed(self.cut(parsed.seen), check_view(parsed.view))
        if parsed.pooling is None:
            return self._cut_outside_table(name)
        if parsed.n_last is not None:
            return self._joined(parsed, parsed.n_last)
        cut, pooled = self.cut(parsed.base), dict(self.attention_pools)
        name = f"{cut.name}:{parsed.pooling}"
        if parsed.pooling == MAP and cut.name in pooled:
            return replace(pooled[cut.name], name=name, aliases=(), pooling=MAP)
        shape = pooled_shape(cut.name, cut.shape, cut.layout, parsed.pooling)
        return replace(cut, name=name, aliases=(), shape=shape, pooling=parsed.pooling)

    @staticmethod
    def _viewed(cut: Cut, view: str) -> Cut:
        source = None if cut.derived_from is None else f"{cut.derived_from}@{view}"
        joined = tuple(replace(one, name=f"{one.name}@{view}") for one in cut.joined)
        return replace(cut, name=f"{cut.name}@{view}", aliases=(), derived_from=source, joined=joined)

    def _joined(self, name: CutName, n: int) -> Cut:
        """Return the cut that joins the last `n` blocks, the deepest last."""
        layouts = {cut.name: cut.layout for cut in self.cuts}
        blocks = last_blocks(layouts, n)
        if blocks is None:
            there = sum(one is not None and one.from_end is not None for one in layouts.values())
            why = f"{there} are in its table" if there else "its table has no blocks of tokens"
            raise InvalidInputError(
                f"cut {str(name)!r} joins {n} blocks of backbone {self.name!r}, and {why}; name cuts of it"
            )
        joined = tuple(self.cut(f"{block}:{name.pooling}") for block in blocks)
        return Cut(str(name), "", (sum(one.shape[0] for one in joined),), macs=joined[-1].macs, joined=joined)

    def poolings(self, cut: Cut) -> tuple[str, ...]:
        """List the poolings a cut of the table has."""
        known = poolings(cut.layout)
        side = 0 if cut.layout is None or cut.layout.axes == "NC" else cut.shape[1]
        known = tuple(one for one in known if one != "grid2" or side >= 2)
        return (*known, MAP) if cut.name in dict(self.attention_pools) else known

    def _cut_outside_table(self, name: str) -> Cut:
        raise UnknownNameError(
            f"unknown cut {name!r} of backbone {self.name!r}; known: {self._nearest(name)}"
        )

    def resolve(self, names: Iterable[str]) -> tuple[Cut, ...]:
        """Turn what a user asked for into the cuts to compute.

        Parameters
        ----------
        names : iterable of str
            Names or aliases, in the user's order.

        Returns
        -------
        tuple of Cut
            In the same order, each once, a derived cut (``softmax``) replaced by what it is derived from.

        Raises
        ------
        UnknownNameError
            For the first name that is not a cut.
        InvalidInputError
            If `names` is empty, or one string instead of a list of them.
        """
        if isinstance(names, str):
            raise InvalidInputError(f"cuts={names!r} is a string; pass a list of names, e.g. [{names!r}]")
        found: dict[str, Cut] = {}
        for name in names:
            cut = self.cut(name)
            if cut.derived_from is not None:
                cut = self.cut(cut.derived_from)
            found.setdefault(cut.name, cut)
        if not found:
            known = ", ".join(repr(one) for one in self.cut_names)
            raise InvalidInputError(
                f"no cut of backbone {self.name!r} asked for; name at least one of {known}"
            )
        return tuple(found.values())

    def to_store(self, names: Iterable[str]) -> tuple[Cut, ...]:
        """Turn what a user asked for into the cuts that have to be stored.

        Parameters
        ----------
        names : iterable of str
            As of `resolve`, whose errors are raised.

        Returns
        -------
        tuple of Cut
            Without poolings of cuts that are asked for too: they are derived when they are read.

        Examples
        --------
        >>> spec = BackboneSpec("tiny", "demo", (Cut("pool1", "features.2", (8, 4, 4), ("conv-1",)),), 8)
        >>> [cut.name for cut in spec.to_store(["pool1:gap", "conv-1", "pool1:gap@hflip"])]
        ['pool1', 'pool1:gap@hflip']
        """
        cuts = self.resolve(names)
        stored = {cut.name for cut in cuts}
        return tuple(cut for cut in cuts if not _is_derived(cut, stored))

    def _nearest(self, name: str) -> str:
        # A nearly right alias is a better hint than a canonical name that looks nothing like what was typed.
        spelled = [one for cut in self.cuts for one in (cut.name, *cut.aliases)]
        close = difflib.get_close_matches(name, spelled, n=1, cutoff=0.8)
        names = list(self.cut_names)
        return nearest(name, names if not close or close[0] in names else [close[0], *names])


def _is_derived(cut: Cut, stored: Set[str]) -> bool:
    """Say whether a cut is computed from others that are stored, when it is read."""
    if cut.joined:
        return all(one.name in stored or _is_derived(one, stored) for one in cut.joined)
    return cut.source in stored


def check_image_size(spec: BackboneSpec, image_size: int | None) -> int:
    """Return `image_size`, or the backbone's own for None; raises `InvalidInputError` if it is too small."""
    if image_size is None:
        return spec.default_image_size
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise InvalidInputError(f"image_size={image_size!r} is not a number of pixels; pass an int, e.g. 224")
    if image_size < spec.min_image_size:
        raise InvalidInputError(
            f"image_size={image_size} is too small for {spec.name!r}: its pools leave nothing of less than "
            f"{spec.min_image_size} pixels; use image_size >= {spec.min_image_size}"
        )
    return image_size


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


def names(family: str | None = None, pattern: str = "*") -> list[str]:
    """List the backbones that have a cut table.

    Parameters
    ----------
    family : str, optional
        List those of a family (``"torchvision"``, ``"featbank"``, that of a plug-in), named ``FAMILY:NAME``
        where that is how they are asked for.
    pattern : str, default="*"
        As for file names: ``"vit_*"``; it is for the name without the family.

    Returns
    -------
    list of str
        By default torchvision's and featbank's own, which `get_spec` knows without torch. It also takes the
        name of any other torchvision classifier.

    Raises
    ------
    UnknownNameError
        If there is no such family.

    Examples
    --------
    >>> names()[:3], names("featbank")
    (['vgg11', 'vgg13', 'vgg16'], ['minivgg'])
    """
    if family is None:
        return [name for one in OWN_FAMILIES for name in names(one, pattern)]
    found = [name for name in FAMILIES.get(family).names() if fnmatchcase(name, pattern)]
    return found if family in OWN_FAMILIES else [f"{family}:{name}" for name in found]


def family_of(name: str) -> tuple[Family, str]:
    """Return the family of a backbone that there is, and its name there."""
    prefix, bare = _split(name)
    if prefix:
        return FAMILIES.get(prefix), bare
    return _own_families(bare)[0], bare


def _own_families(name: str) -> list[Family]:
    """Return the families that need not be said, first the one that has a table of `name`."""
    own = [FAMILIES.get(one) for one in OWN_FAMILIES]
    holder = next((one for one in reversed(own) if name in one.names()), own[0])  # ours are few
    return [holder, *(one for one in own if one is not holder)]


class _Specified(Protocol):
    """What has a table of cuts with it, such as a `Backbone`."""

    @property
    def spec(self) -> BackboneSpec: ...


def get_spec(name: str | _Specified) -> BackboneSpec:
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
    if name in _own_families(name)[0].names():
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


# The module of a backbone, untrained, or as shapes alone on the meta device -------------------------


def build_module(spec: BackboneSpec, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
    """Build a backbone without trained weights, in eval mode.

    Parameters
    ----------
    spec : BackboneSpec
        What to build.
    n_classes : int
        Number of logits.
    image_size : int
        Side of the square input in pixels; only vision transformers are built for one size.
    initialise : bool
        Whether weights that nobody will load need their initial values; skipping them is faster for
        GoogLeNet and Inception v3.

    Returns
    -------
    torch.nn.Module
        In eval mode; without the auxiliary heads, which serve training only.
    """
    family, name = family_of(spec.name)
    module = family.build(name, n_classes=n_classes, image_size=image_size, initialise=initialise)
    return module.eval()


def build_on_meta(
    spec: BackboneSpec, *, n_classes: int | None = None, image_size: int | None = None
) -> nn.Module:
    """Build a backbone whose tensors have shapes but no memory, in a few milliseconds."""
    import torch

    n_classes = spec.n_classes if n_classes is None else n_classes
    image_size = spec.default_image_size if image_size is None else image_size
    options: dict[str, Any] = {"n_classes": n_classes, "image_size": image_size, "initialise": False}
    try:
        with torch.device("meta"), _without_initial_values():
            return build_module(spec, **options)
    except (RuntimeError, NotImplementedError):  # it computes with tensors, as RegNet does its widths
        with _parameters_on_meta(), _without_initial_values():
            return build_module(spec, **options).to("meta")


def _without_initial_values() -> contextlib.AbstractContextManager[Any]:
    """Skip drawing numbers that have no memory: for that torch imports its compiler, over a second."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    drawing = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}

    class WithoutInitialValues(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if function in drawing or getattr(function, "__module__", "") == "torch.nn.init":
                tensor = args[0] if args else (kwargs or {})["tensor"]
                if tensor.is_meta:
                    return tensor
            return function(*args, **(kwargs or {}))

    return WithoutInitialValues()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Put only parameters on the meta device."""
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def without_numbers(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        del module, name
        return nn.Parameter(parameter.detach().to("meta"))

    # torch's annotation forgets that the hook may return another parameter.
    handle = register_module_parameter_registration_hook(without_numbers)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
