"""Truncated networks: every cut asked for from one pass, and nothing computed behind the deepest."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from featbank._cuts import MAP, Layout, pool, pooled_shape
from featbank.backbones import _graph
from featbank.backbones._hooks import OUTPUT, HookedNetwork, count_hooked
from featbank.errors import InvalidInputError, WeightsError

if TYPE_CHECKING:
    from featbank.backbones.loading import Backbone
    from featbank.backbones.spec import Cut

__all__ = ["TruncatedNetwork", "largest_activation", "truncate"]

#: What `largest_activation` found: it is asked in several places.
_largest: weakref.WeakKeyDictionary[Backbone, int] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Tap:
    """An output of a graph, and how it is pooled."""

    output: str
    pooling: str | None = None
    layout: Layout | None = None


def _tapped(taps: Sequence[Tap], outputs: Mapping[str, Tensor]) -> Tensor:
    if len(taps) > 1:
        return torch.cat([_tapped([one], outputs) for one in taps], 1)
    (tap,) = taps
    features = outputs[tap.output]
    if tap.pooling is None or tap.layout is None:
        return features
    # in float32 whatever the network computes in, as a bank pools what it stores
    pooled: Tensor = pool(features.float(), tap.layout, tap.pooling, torch)
    return pooled


def _tapped_shape(taps: Sequence[Tap], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if len(taps) > 1:
        return (sum(_tapped_shape([one], shapes)[0] for one in taps),)
    (tap,) = taps
    shape = shapes[tap.output]
    return shape if tap.pooling is None else pooled_shape(tap.output, shape, tap.layout, tap.pooling)


class TruncatedNetwork(nn.Module):
    """A backbone that ends at its cuts; made by `truncate`.

    Parameters
    ----------
    graph : torch.nn.Module
        Maps a batch to one tensor per cut name, in the order of `nodes`.
    nodes : mapping of str to str
        Cut name -> graph node, in the order the outputs are wanted.
    shapes : mapping of str to tuple of int
        Cut name -> shape of one image's features at `image_size`.
    image_size : int
        Side of the square input, in pixels, for which shapes and multiply-adds are counted.
    owner : str
        The network's name, for messages.
    taps : mapping of str to tuple of Tap, optional
        Cut name -> what is made of outputs of the graph; by default each cut is one of them as it is. With
        it `nodes` and `shapes` are of the graph's outputs.

    Attributes
    ----------
    cuts : tuple of str
        Cut names, in the order asked for.
    nodes, cut_shapes : dict
        As above.
    cut_macs : dict of str to int
        Cut name -> multiply-adds of one image up to that cut, at `image_size`; counted when it is asked for.
    macs : int
        Multiply-adds of one image through the whole truncated network, likewise.
    image_size : int
        As above.

    Examples
    --------
    >>> from featbank.backbones import load_backbone
    >>> network = truncate(load_backbone("minivgg"), ["block3_pool", "fc7"])
    >>> network.cut_shapes
    {'block3_pool': (128, 4, 4), 'fc7': (256,)}
    >>> with torch.inference_mode():
    ...     features = network(torch.zeros(2, 3, 32, 32))
    >>> features["fc7"].shape
    torch.Size([2, 256])
    """

    def __init__(
        self,
        graph: nn.Module,
        *,
        nodes: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        image_size: int,
        owner: str,
        taps: Mapping[str, tuple[Tap, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.nodes = dict(nodes)
        self._shapes = dict(shapes)
        self.taps = {name: (Tap(name),) for name in nodes} if taps is None else dict(taps)
        self.image_size = image_size
        self._owner = owner
        self.eval()

    @functools.cached_property
    def _facts(self) -> _graph.GraphFacts:
        if isinstance(self.graph, HookedNetwork):
            return count_hooked(self.graph, self.image_size, self._owner)
        return _graph.count(self.graph, self.image_size, self._owner)

    @property
    def is_traced(self) -> bool:
        """Whether it is a graph that torch.fx traced, and not the whole module with hooks at its cuts."""
        return not isinstance(self.graph, HookedNetwork)

    @functools.cached_property
    def cut_shapes(self) -> dict[str, tuple[int, ...]]:
        """Cut name -> shape of one image's features, at `image_size`."""
        shapes = self._shapes or self._facts.shapes
        return {cut: _tapped_shape(taps, shapes) for cut, taps in self.taps.items()}

    @property
    def cut_macs(self) -> dict[str, int]:
        """Multiply-adds of one image up to each cut."""
        macs = self._facts.cut_macs
        return {cut: max(macs[one.output] for one in taps) for cut, taps in self.taps.items()}

    @property
    def macs(self) -> int:
        """Multiply-adds of one image for all cuts together."""
        return self._facts.macs

    @property
    def cuts(self) -> tuple[str, ...]:
        """Cut names, in the order asked for."""
        return tuple(self.taps)

    def train(self, mode: bool = True) -> TruncatedNetwork:
        """Stay in eval mode: features of a frozen backbone must not depend on batch statistics or dropout."""
        del mode
        super().train(False)
        return self

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, 3, h, w)
            Normalised images.

        Returns
        -------
        dict of str to Tensor of shape (b, *cut_shape)
            One entry per cut, in the order the cuts were asked for. Two entries may share memory
            (a flattened vector and what it was flattened from); none is overwritten later in the pass.
        """
        return self.tapped(self.graph(batch))

    def tapped(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features of the cuts, pooled where they are, of what the graph gave."""
        return {cut: _tapped(taps, outputs) for cut, taps in self.taps.items()}

    def lowered(self, dtype: torch.dtype) -> TruncatedNetwork:
        """Return a copy whose convolutions and linear layers hold their weights in `dtype`; for autocast.

        Autocast rounds the same weights in the same way, but anew for every batch. All other numbers are
        shared with this network, which stays as it is.
        """
        lowered = _graph.private_copy(self)
        for layer in lowered.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(dtype)
        return lowered  # type: ignore[return-value]  # a copy is of the same class


def largest_activation(backbone: Backbone) -> int:
    """Return how many numbers the largest output of a layer has, for one image; one is pushed, once.

    Parameters
    ----------
    backbone : Backbone
        All of it counts, whichever cuts are read.

    Examples
    --------
    >>> from featbank.backbones import load_backbone
    >>> largest_activation(load_backbone("minivgg", weights="random")) == 32 * 32 * 32
    True
    """
    if backbone not in _largest:
        _largest[backbone] = _graph.largest_output(backbone.module, backbone.preprocessing.image_size)
    return _largest[backbone]


def truncate(
    backbone: Backbone | nn.Module, cuts: Sequence[str], *, image_size: int | None = None
) -> TruncatedNetwork:
    """Cut a backbone open: one pass gives all the cuts, and what lies behind the deepest is gone.

    Parameters
    ----------
    backbone : Backbone or torch.nn.Module
        A loaded backbone, whose cuts go by the names of its table; or any module, whose cuts are nodes of its
        graph (`torchvision.models.feature_extraction.get_graph_node_names`), or, where torch.fx cannot trace
        it, paths of its parts. Neither is changed: its mode, its in-place ReLUs, its hooks and its
        parameters' ``requires_grad`` stay as they are.
    cuts : sequence of str
        ``CUT[:POOLING]``, names or aliases. ``"softmax"`` asks for ``"logits"``, from which it is derived at
        any temperature.
    image_size : int, optional
        Side of the square input, in pixels, for which shapes and multiply-adds are counted; by default the
        backbone's own, or 224 for a bare module. The network itself takes any size the backbone does.

    Returns
    -------
    TruncatedNetwork
        In eval mode, on the backbone's device. It shares the memory of the backbone's weights until it is
        moved or cast, and keeps no weight that its cuts do not need.

    Raises
    ------
    UnknownNameError
        If a cut or node does not exist.
    InvalidInputError
        If no cut is named, one gives no features or runs several times in a pass, or images of `image_size`
        do not pass through the module.
    WeightsError
        If a cut needs a classifier that the weights have not got.

    Examples
    --------
    >>> import torch
    >>> from featbank.backbones import load_backbone
    >>> network = truncate(load_backbone("minivgg", weights="random"), ["fc2", "block3_pool"])
    >>> network.cuts, network.cut_shapes["block3_pool"], network.macs
    (('fc7', 'block3_pool'), (128, 4, 4), 57016320)
    >>> {name: tuple(one.shape) for name, one in network(torch.zeros(2, 3, 32, 32)).items()}
    {'fc7': (2, 256), 'block3_pool': (2, 128, 4, 4)}
    """
    if isinstance(backbone, nn.Module):
        module, owner = backbone, type(backbone).__name__
        if isinstance(cuts, str):
            raise InvalidInputError(f"cuts={cuts!r} is a string; pass a list of nodes, e.g. [{cuts!r}]")
        nodes, taps = {str(cut): str(cut) for cut in cuts}, None
        if not nodes:
            raise InvalidInputError(f"no node of {owner!r} asked for; name at least one")
        size, hooked = 224 if image_size is None else image_size, False
    else:
        module, owner = backbone.module, backbone.spec.name
        nodes, taps = _tap(backbone.spec.resolve(cuts))
        if any("@" in cut for cut in taps):
            raise InvalidInputError(f"cuts={list(cuts)!r}: a view changes the image, not the network")
        size = backbone.preprocessing.image_size if image_size is None else image_size
        hooked = backbone.spec.hooked
    graph: nn.Module | None = None
    if not hooked:
        with contextlib.suppress(_graph.UntraceableError):
            graph = _graph.extract(module, nodes, owner)
    if graph is None:
        graph = HookedNetwork(module, nodes, owner)
    if not isinstance(backbone, nn.Module):
        gone, behind = _behind_absent(backbone, nodes, graph)
        if gone:
            raise WeightsError(
                f"weights {backbone.weights!r} have no {gone!r}, which {', '.join(map(repr, behind))} of "
                f"{owner!r} needs: ask for cuts before the classifier, or give weights that have one"
            )
    shapes = None if isinstance(backbone, nn.Module) else _shapes_in_table(backbone, nodes, size)
    network = TruncatedNetwork(
        graph, nodes=nodes, shapes=shapes or {}, image_size=size, owner=owner, taps=taps
    )
    network.cut_shapes  # noqa: B018 - images of another size may not pass, or leave nothing to pool
    return network


def _tap(cuts: Iterable[Cut]) -> tuple[dict[str, str], dict[str, tuple[Tap, ...]]]:
    """Return what a graph is to give for these cuts, output -> node, and what is made of it."""
    nodes: dict[str, str] = {}
    taps: dict[str, tuple[Tap, ...]] = {}
    for cut in cuts:
        found = []
        for one in cut.joined or (cut,):
            pooling = None if one.pooling == MAP else one.pooling
            output = one.name if pooling is None else one.name.rpartition(":")[0]
            nodes[output] = one.node
            found.append(Tap(output, pooling, one.layout))
        taps[cut.name] = tuple(found)
    return nodes, taps


def _behind_absent(
    backbone: Backbone, nodes: Mapping[str, str], graph: nn.Module
) -> tuple[str | None, list[str]]:
    """Return a tensor that the weights have not got and these cuts need, and the cuts that need one."""
    module, owner = backbone.module, backbone.spec.name
    if not isinstance(graph, HookedNetwork):
        gone = sorted(backbone.absent.intersection(graph.state_dict()))
        if not gone:
            return None, []
        return gone[0], [
            cut
            for cut, node in nodes.items()
            if backbone.absent.intersection(_graph.extract(module, {cut: node}, owner).state_dict())
        ]
    # What is absent is the classifier, and what is in it or around it needs it.
    absent = sorted(backbone.absent)
    holders = {name.rpartition(".")[0] for name in absent}
    behind = [
        cut
        for cut, path in nodes.items()
        if path == OUTPUT
        or any(f"{path}.".startswith(f"{one}.") or one.startswith(f"{path}.") for one in holders)
    ]
    return (absent[0], behind) if absent and behind else (None, [])


def _shapes_in_table(
    backbone: Backbone, cuts: Iterable[str], image_size: int
) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes that the table of a backbone has; None where it was made for something else.

    Counting them computes on torch's meta device, which imports sympy and TorchDynamo: a second or two.
    """
    spec = backbone.spec
    if image_size != spec.default_image_size:
        return None
    if spec.head_key:  # else its classifier is what it is
        head = backbone.module.state_dict().get(spec.head_key)
        if head is None or len(head) != spec.n_classes:
            return None
    return {cut: spec.cut(cut).shape for cut in cuts}
