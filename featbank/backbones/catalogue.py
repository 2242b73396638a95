"""The table of backbones: names, cut tables, input sizes; torch is loaded for what the table does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featbank._cuts import MAP, pooled_shape
from featbank._registry import nearest
from featbank.backbones.families import BackboneSpec, Cut, check_image_size, get_spec
from featbank.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from featbank.backbones.network import GraphFacts

__all__ = ["CutRow", "NodeSpec", "cut_table", "measure", "prefix_tokens", "tabulated"]

# Networks without a table, and tables at other image sizes, are read off the graph, or off a pass with hooks.

#: Where torchvision's vision transformers keep their blocks.
_A_LEVEL_DEEPER = "encoder.layers."
#: Name of the cut that is what a network gives itself.
_OUTPUT = "output"


@dataclass(frozen=True)
class NodeSpec(BackboneSpec):
    """A network whose cuts are nodes of its graph, or paths of its parts, whether its table has them or not.

    Parameters
    ----------
    module : torch.nn.Module or None
        The network, where no family builds it.
    """

    module: nn.Module | None = None

    def _cut_outside_table(self, name: str) -> Cut:
        try:
            facts = _facts(self, {name: name}, self.default_image_size)
        except UnknownNameError:
            from featbank.backbones import network

            module = _module(self, self.default_image_size)
            paths = [one for one, _ in module.named_modules() if one]
            nodes = paths if self.hooked else network.node_names(module)
            raise UnknownNameError(
                f"unknown cut {name!r} of backbone {self.name!r}; known: "
                f"{nearest(name, [*self.cut_names, *nodes])}"
            ) from None
        if name not in facts.shapes:
            raise InvalidInputError(f"node {name!r} of backbone {self.name!r} gives no features")
        found = Cut(name, name, facts.shapes[name], (), facts.cut_macs[name])
        return self._index.setdefault(name, self._with_layout(found))


#: What models call the tokens that they put before those of the patches; the first three are class tokens.
_PREFIX_TOKENS = (
    "cls_token",
    "class_token",
    "class_embedding",
    "dist_token",
    "distillation_token",
    "reg_token",
    "register_tokens",
)


def prefix_tokens(module: nn.Module) -> tuple[int, bool]:
    """Say how many tokens a network puts before those of the patches, and whether one is a class token."""
    found = {name.rpartition(".")[2]: one for name, one in module.named_parameters()}
    known = [name for name in _PREFIX_TOKENS if name in found]
    n = sum(found[name].shape[-2] if found[name].ndim > 1 else 1 for name in known)
    return n, bool(set(known) & set(_PREFIX_TOKENS[:3]))


def measure(spec: BackboneSpec, image_size: int) -> dict[str, tuple[tuple[int, ...], int]]:
    """Count shape and multiply-adds of every cut for one image size; no weights are needed."""
    nodes = {cut.name: cut.node for cut in spec.cuts if cut.derived_from is None}
    facts = _facts(spec, nodes, image_size)
    return {name: (facts.shapes[name], facts.cut_macs[name]) for name in nodes}


def _module(spec: BackboneSpec, image_size: int) -> nn.Module:
    from featbank.backbones.families import build_on_meta

    if isinstance(spec, NodeSpec) and spec.module is not None:
        return spec.module
    return build_on_meta(spec, image_size=image_size)


def _facts(spec: BackboneSpec, nodes: dict[str, str], image_size: int) -> GraphFacts:
    from featbank.backbones import network

    module = _module(spec, image_size)
    if spec.hooked:
        return network.count_hooked(network.HookedNetwork(module, nodes, spec.name), image_size, spec.name)
    return network.count(network.extract(module, nodes, spec.name), image_size, spec.name)


def tabulated(spec: NodeSpec, module: nn.Module) -> NodeSpec:
    """Return `spec` with a table: the ends of the module's parts two levels deep, and what it gives itself.

    The last is called ``logits`` where it is a vector for each image, else ``output``.

    Parameters
    ----------
    spec : NodeSpec
        Without cuts.
    module : torch.nn.Module
        The network; it may be on the meta device.

    Raises
    ------
    InvalidInputError
        If images of its size do not pass through.
    """
    found = _hooked_cuts(spec, module) if spec.hooked else _traced_cuts(spec, module)
    if not found:
        raise InvalidInputError(f"no part of {spec.name!r} gives one float tensor per image")
    n_classes = spec.n_classes
    if found[-1].name == _OUTPUT and len(found[-1].shape) == 1:
        n_classes = found[-1].shape[0]
        found = [*(one for one in found[:-1] if one.name != "logits"), replace(found[-1], name="logits")]
    n_prefix, has_cls = prefix_tokens(module)
    return replace(
        spec,
        cuts=tuple(found),
        n_prefix=n_prefix,
        has_cls=has_cls,
        n_classes=n_classes,
        n_parameters=sum(one.numel() for one in module.parameters()),
    )


def _traced_cuts(spec: NodeSpec, module: nn.Module) -> list[Cut]:
    from featbank.backbones import network

    names = network.node_names(module)
    # An end is the last node under a path; a dict keeps the later of two equal paths where it runs.
    ends: dict[str, str] = {}
    for node in names[1:-1]:
        path = ".".join(node.split(".")[: 3 if node.startswith(_A_LEVEL_DEEPER) else 2])
        ends.pop(path, None)
        ends[path] = node
    ends.pop(_OUTPUT, None)
    nodes = {path: path for path in ends} | {_OUTPUT: names[-1]}
    graph = network.extract(module, nodes, spec.name)
    facts = network.count(graph, spec.default_image_size, spec.name, strict=False)
    return [
        Cut(cut, node, facts.shapes[cut], (), facts.cut_macs[cut])
        for cut, node in nodes.items()
        if cut in facts.shapes
    ]


def _hooked_cuts(spec: NodeSpec, module: nn.Module) -> list[Cut]:
    from featbank.backbones.network import OUTPUT, survey

    seen = survey(module, spec.default_image_size, spec.name)
    output = seen[OUTPUT].features
    good = {
        path: Cut(path, path, one.shape, (), one.macs)
        for path, one in seen.items()
        if one.fault is None and path.count(".") <= 1
    }
    whole = good.pop(OUTPUT, None)
    # The part that gives what the whole gives is not named twice.
    cuts = [one for path, one in good.items() if path != _OUTPUT and seen[path].features is not output]
    return cuts if whole is None else [*cuts, replace(whole, name=_OUTPUT)]


@dataclass(frozen=True)
class CutRow:
    """One line of `cut_table`.

    Parameters
    ----------
    name, node : str
        The cut and its graph node; for a derived cut, how it is derived.
    shape : tuple of int
        Shape of one image's features at the image size asked for.
    aliases : tuple of str
        Other names.
    macs : int
        Multiply-adds of one image up to the cut.
    row_bytes : int
        Bytes of one image in a bank: float16, ``logits`` float32, 0 for what is not stored.
    poolings : mapping of str to int
        What its features can be pooled by, ``NAME:POOLING``, and the bytes of one image then.

    Examples
    --------
    >>> row = cut_table("minivgg")[3]
    >>> row.name, row.shape, row.macs, row.row_bytes, dict(row.poolings)
    ('block4_pool', (128, 2, 2), 55148544, 1024, {'gap': 256, 'gmp': 256, 'gem3': 256, 'grid2': 1024})
    """

    name: str
    node: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...]
    macs: int
    row_bytes: int
    poolings: Mapping[str, int]


def cut_table(name: str, image_size: int | None = None) -> list[CutRow]:
    """Tabulate the cuts of a backbone: node, shape, multiply-adds, bytes per image.

    Parameters
    ----------
    name : str
        A backbone.
    image_size : int, optional
        Side of the square input, in pixels; the backbone's own by default, for which nothing is computed.

    Returns
    -------
    list of CutRow
        From shallow to deep.

    Raises
    ------
    UnknownNameError
        If there is no such backbone.
    InvalidInputError
        If `image_size` is too small for the backbone.

    Examples
    --------
    >>> row = cut_table("vgg16")[2]
    >>> row.name, row.shape, round(row.macs / 1e9, 3), row.row_bytes
    ('block3_pool', (256, 28, 28), 9.335, 401408)
    """
    spec = get_spec(name)
    size = check_image_size(spec, image_size)
    measured: dict[str, tuple[tuple[int, ...], int]] = {}
    if size != spec.default_image_size or any(cut.macs is None for cut in spec.cuts):
        measured = measure(spec, size)
    rows = []
    for cut in spec.cuts:
        source = cut.derived_from or cut.name
        shape, macs = measured.get(source, (cut.shape, cut.macs or 0))
        node = f"softmax({source} / T)" if cut.derived_from else cut.node
        sized = replace(cut, shape=shape)
        pooled = {
            one: 2 * math.prod(pooled_shape(cut.name, shape, cut.layout, one))
            for one in spec.poolings(sized)
            if one != MAP
        }
        if MAP in spec.poolings(sized):
            pooled[MAP] = spec.cut(f"{cut.name}:{MAP}").row_bytes
        rows.append(CutRow(cut.name, node, shape, cut.aliases, macs, sized.row_bytes, pooled))
    return rows
