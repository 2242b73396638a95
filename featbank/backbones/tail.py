"""The layers behind a cut, as a network of their own that takes what a bank keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

from featbank._cuts import CutName
from featbank.backbones.families import BackboneSpec, Cut
from featbank.backbones.loading import Backbone
from featbank.backbones.network import UntraceableError, extract, private_copy
from featbank.errors import InvalidInputError, WeightsError
from featbank.manifest import short_repr

__all__ = ["Tail", "cut_tail", "map_before"]

#: Layers that ``train=N`` counts.
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
#: A part of the network's work beyond which a map says little of what is computed from it.
_MOST_BETWEEN = 0.25


@dataclass(frozen=True, eq=False)
class Tail:
    """What a backbone computes behind a cut; made by `cut_tail`.

    Parameters
    ----------
    backbone : str
        Its name.
    weights_sha256 : str
        SHA-256 of its weights.
    cut : str
        Where it was cut.
    shape : tuple of int
        Shape of one image's features there.
    graph : torch.fx.GraphModule
        From features (b, *shape) to what the last layer takes, (b, width); shares the backbone's numbers.
    last : torch.nn.Linear
        The backbone's own last layer, from there to its logits.

    Examples
    --------
    >>> from featbank.backbones import load_backbone, truncate
    >>> backbone = load_backbone("minivgg")
    >>> tail = cut_tail(backbone, "block3_pool")
    >>> with torch.inference_mode():
    ...     seen = truncate(backbone, ["block3_pool", "logits"])(torch.ones(1, 3, 32, 32))
    >>> torch.allclose(tail.logits(seen["block3_pool"]), seen["logits"], atol=1e-5)
    True
    """

    backbone: str
    weights_sha256: str
    cut: str
    shape: tuple[int, ...]
    graph: fx.GraphModule
    last: nn.Linear

    __repr__ = short_repr

    @property
    def width(self) -> int:
        """How many numbers the last layer takes."""
        return self.last.in_features

    def body(self) -> nn.Module:
        """Return a copy of what lies between cut and last layer, in eval mode.

        Its parameters are objects of its own that want no gradient, and share the backbone's numbers: give
        those that are to change numbers of their own first.
        """
        return private_copy(self.graph).eval()

    def logits(self, features: Tensor) -> Tensor:
        """Return the backbone's own logits (b, n_classes) of features (b, *shape) or (b, n_features)."""
        with torch.inference_mode():
            given = features.reshape(len(features), *self.shape).to(self.last.weight.dtype)
            logits: Tensor = self.last(self.graph(given))
        return logits

    def trained(self, train: int | Literal["all", "last-conv"], *, batch_norm: bool = False) -> list[str]:
        """List the tensors of `body` that training changes, in the order in which they are used.

        Parameters
        ----------
        train : int, "all" or "last-conv"
            How many layers with weights (convolutions, linear layers, attention), counted from the end and
            without the last one, which is another anyway; or all; or from the last convolution on. What
            stands behind the first of them, such as a norm or a scale, is trained with them.
        batch_norm : bool, default=False
            Whether batch norms are as well, and their running statistics.

        Raises
        ------
        InvalidInputError
            If there are not so many layers, or no convolution.
        """
        parts = list(self._parts())
        layers = [at for at, (_, part) in enumerate(parts) if isinstance(part, _LAYERS)]
        where = f"behind {self.cut!r} of {self.backbone!r}"
        first = 0
        if train == "last-conv":
            convolutions = [at for at in layers if isinstance(parts[at][1], nn.modules.conv._ConvNd)]
            if not convolutions:
                raise InvalidInputError(
                    f"train='last-conv': no convolution lies {where}; give a number of layers, 'all', or a "
                    "cut before the last convolution"
                )
            first = convolutions[-1]
        elif train != "all":
            if train > len(layers):
                allowed = f"1 to {len(layers)}, " if layers else ""
                raise InvalidInputError(
                    f"train={train!r}: {len(layers)} layers with weights lie {where} beside the last one; "
                    f"give {allowed}'all', or an earlier cut"
                )
            first = layers[-train]
        found: dict[str, None] = {}
        for path, part in parts[first:]:
            if part is None:
                found[path] = None
                continue
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                if not batch_norm:
                    continue
                statistics = ("running_mean", "running_var")
                found |= {f"{path}.{name}": None for name in statistics if getattr(part, name) is not None}
            found |= {f"{path}.{name}": None for name, _ in part.named_parameters()}
        return list(found)

    def _parts(self) -> Iterator[tuple[str, nn.Module | None]]:
        """Yield path and module of every layer, and the paths of parameters without one, as they are used."""
        parameters = {name for name, _ in self.graph.named_parameters()}
        for node in self.graph.graph.nodes:
            path = str(node.target)
            if node.op == "get_attr" and path in parameters:
                yield path, None
            elif node.op == "call_module":
                yield from _layers(path, self.graph.get_submodule(path))


def _layers(path: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that a part consists of; some sequences are one node of the graph."""
    children = list(part.named_children())
    if not children or isinstance(part, _LAYERS):
        yield path, part
        return
    for name, child in children:
        yield from _layers(f"{path}.{name}", child)


def cut_tail(backbone: Backbone, cut: str) -> Tail:
    """Take the layers behind a cut of a backbone.

    Parameters
    ----------
    backbone : Backbone
        Stays as it is; its numbers are shared.
    cut : str
        A cut that all paths to the logits pass, or an alias.

    Returns
    -------
    Tail
        ``tail.logits`` of the features at the cut are the logits of the whole network.

    Raises
    ------
    InvalidInputError
        If nothing with weights lies between the cut and the last layer, a path goes around the cut, the
        network does not end in a linear layer, or torch.fx does not trace it.
    UnknownNameError
        If there is no such cut.

    Examples
    --------
    >>> from featbank.backbones import load_backbone
    >>> tail = cut_tail(load_backbone("minivgg", weights="random"), "block3_pool")
    >>> tail.shape, tail.width, tail.trained(1)
    ((128, 4, 4), 256, ['classifier.3.weight', 'classifier.3.bias'])
    """
    spec = backbone.spec
    name = CutName.parse(cut)
    if name.n_last is not None:
        raise InvalidInputError(
            f"cut {cut!r} joins several blocks, and a tail begins at one; take --cut of one"
        )
    if name.pooling is not None:
        raise InvalidInputError(
            f"cut {cut!r} is pooled, and the layers behind {name.base!r} take what it was pooled from: "
            f"extract --cut {name.base} and fit the tail on it, or take another head"
        )
    found = spec.cut(name.base)  # a view of an image goes the same way
    if "logits" not in spec.cut_names:
        raise InvalidInputError(f"{spec.name!r} gives no logits, so no tail leads there; take another head")
    nothing = InvalidInputError(
        f"behind {found.name!r} of {spec.name!r} no layer with weights lies but the last, which any head "
        f"replaces: take --head softmax, or {_earlier(spec, found)}"
    )
    if found.derived_from is not None or found.name == "logits":
        raise nothing
    module, nodes = backbone.module, {"features": found.node, "logits": spec.cut("logits").node}
    try:
        if spec.hooked:
            raise UntraceableError(f"torch.fx cannot trace {spec.name!r}")
        whole = extract(module, nodes, spec.name)
    except UntraceableError as error:
        raise InvalidInputError(
            f"{error}, and a tail is a part of what it traces; take another head, or another backbone"
        ) from error
    (output,) = (node for node in whole.graph.nodes if node.op == "output")
    start, end = output.args[0]["features"], output.args[0]["logits"]
    last = whole.get_submodule(str(end.target)) if end.op == "call_module" else None
    if not isinstance(last, nn.Linear):
        raise InvalidInputError(
            f"{spec.name!r} does not end in a linear layer (but in {end.name!r}), which a tail would "
            "replace; take another head"
        )
    body, around = _between(whole, start, end.all_input_nodes[0])
    if around is not None:
        raise InvalidInputError(
            f"cut {found.name!r} does not separate {spec.name!r}: {around!r} goes around it to the layers "
            "behind; a tail takes a cut that everything passes, such as the end of a block: "
            f"{_earlier(spec, found)}"
        )
    absent = sorted(backbone.absent.intersection(body.state_dict()))
    if absent:
        raise WeightsError(
            f"weights {backbone.weights!r} have no {absent[0]!r}, which lies behind {found.name!r} of "
            f"{spec.name!r}: give weights that have it, or take another head"
        )
    with torch.inference_mode():
        size = backbone.preprocessing.image_size
        shape = tuple(whole(torch.zeros(1, 3, size, size))["features"].shape[1:])
    tail = Tail(spec.name, backbone.weights_sha256, found.name, shape, body, last)
    if not tail.trained("all", batch_norm=True):
        raise nothing
    return tail


def _between(whole: fx.GraphModule, start: fx.Node, end: fx.Node) -> tuple[fx.GraphModule, str | None]:
    """Return what a graph computes from one node to another, and a node around the first that it takes in."""
    behind: set[fx.Node] = {start}
    from_image: set[fx.Node] = set()
    for node in whole.graph.nodes:
        given = [*node.all_input_nodes]
        if node.op == "placeholder" or not from_image.isdisjoint(given):
            from_image.add(node)
        if not behind.isdisjoint(given):
            behind.add(node)
    needed: set[fx.Node] = {start}
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node not in behind and node in from_image:
            return whole, node.name
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    graph = fx.Graph()
    known = {start: graph.placeholder("features")}
    for node in whole.graph.nodes:
        if node in needed and node is not start:
            known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(known[end])
    return fx.GraphModule(whole, graph).eval(), None


def _earlier(spec: BackboneSpec, cut: Cut) -> str:
    """Name the deepest cut of the table before which less is computed."""
    before = [one.name for one in spec.cuts if (one.macs or 0) < (cut.macs or 0)]
    return f"--cut {before[-1]}" if before else "an earlier cut"


def map_before(backbone: Backbone, cut: str) -> tuple[str, nn.Module]:
    """Return the deepest cut at or before another whose features are a map, and the layers between the two.

    Parameters
    ----------
    backbone : Backbone
    cut : str
        Name or alias; ``CUT:gap`` too, for the mean of a map.

    Returns
    -------
    str
        Name of a cut with features (channels, side, side).
    torch.nn.Module
        From these, (b, channels, side, side), to those of `cut`; in eval mode, on the CPU.

    Raises
    ------
    InvalidInputError
        If there is none, or most of the network lies between.
    UnknownNameError
        If there is no such cut.

    Examples
    --------
    >>> from featbank.backbones import load_backbone
    >>> name, layers = map_before(load_backbone("minivgg", weights="random"), "fc7")
    >>> name, tuple(layers(torch.zeros(2, 128, 2, 2)).shape)
    ('block4_pool', (2, 256))
    """
    spec = backbone.spec
    name = CutName.parse(cut)
    if name.n_last is not None:
        raise InvalidInputError(
            f"cut {cut!r} joins several blocks, and is no mean of one map; take another head"
        )
    found = spec.cut(name.base)
    if name.pooling is not None and (name.pooling != "gap" or not _is_map(found)):
        raise InvalidInputError(f"cut {cut!r} is no map and no mean of one; take --head of another cut")
    if _is_map(found):
        gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return found.name, nn.Identity() if name.pooling is None else gap
    before = [one for one in spec.cuts if _is_map(one) and (one.macs or 0) <= (found.macs or 0)]
    between = ((found.macs or 0) - (before[-1].macs or 0)) / max(1, found.macs or 0) if before else 1.0
    if not before or between > _MOST_BETWEEN or found.derived_from is not None or spec.hooked:
        raise InvalidInputError(
            f"no map of {spec.name!r} lies shortly before {found.name!r}, so it cannot be said where the "
            "network looks; 'featbank show occlusion' goes with every cut"
        )
    nodes = {"map": before[-1].node, "features": found.node}
    whole = extract(backbone.module, nodes, spec.name)
    (output,) = (node for node in whole.graph.nodes if node.op == "output")
    layers, around = _between(whole, output.args[0]["map"], output.args[0]["features"])
    if around is not None:
        raise InvalidInputError(
            f"{around!r} goes around {before[-1].name!r} of {spec.name!r}, so it cannot be said where the "
            "network looks; 'featbank show occlusion' goes with every cut"
        )
    return before[-1].name, layers


def _is_map(cut: Cut) -> bool:
    return len(cut.shape) == 3 and cut.shape[1] == cut.shape[2] > 1
