"""What is known of a backbone without building it: its cuts, their nodes and shapes, its input size."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace

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
from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError

__all__ = ["OF_A_MODULE", "SOFTMAX", "BackboneSpec", "Cut"]

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
