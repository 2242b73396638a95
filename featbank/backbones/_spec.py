"""What is known of a backbone without building it: its cuts, their nodes and shapes, its input size."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

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

    @property
    def n_features(self) -> int:
        """Numbers per image."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes per image in a bank: float16, float32 for ``logits``, 0 for a cut that is derived."""
        if self.derived_from is not None:
            return 0
        return self.n_features * (4 if self.name == "logits" else 2)


#: In every table: read from the stored logits at any temperature, so never a node of its own.
SOFTMAX = "softmax"
_SOFTMAX_ALIASES = ("predictions", "prob")


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
    _index: dict[str, Cut] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        cuts = self.cuts
        if cuts and cuts[-1].name == "logits":
            last = cuts[-1]
            cuts = (*cuts, Cut(SOFTMAX, "", last.shape, _SOFTMAX_ALIASES, last.macs, derived_from="logits"))
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

    @property
    def cut_names(self) -> tuple[str, ...]:
        """Canonical names of the cuts, from shallow to deep."""
        return tuple(cut.name for cut in self.cuts)

    def cut(self, name: str) -> Cut:
        """Look a cut up by its name, an alias, or its node.

        Parameters
        ----------
        name : str
            E.g. ``"fc7"``, ``"fc2"`` or ``"classifier.4"`` for vgg16.

        Returns
        -------
        Cut
            The cut of the table; for a network of torchvision without a table, one made for that graph node.

        Raises
        ------
        UnknownNameError
            If nothing is called that; the message lists the nearest names.
        """
        return self._index[name] if name in self._index else self._cut_outside_table(name)

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

    def _nearest(self, name: str) -> str:
        # A nearly right alias is a better hint than a canonical name that looks nothing like what was typed.
        spelled = [one for cut in self.cuts for one in (cut.name, *cut.aliases)]
        close = difflib.get_close_matches(name, spelled, n=1, cutoff=0.8)
        names = list(self.cut_names)
        return nearest(name, names if not close or close[0] in names else [close[0], *names])
