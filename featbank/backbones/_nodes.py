"""Networks without a table, and tables at other image sizes: read off the graph."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from featbank._registry import nearest
from featbank.backbones._spec import BackboneSpec, Cut
from featbank.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NodeSpec", "measure", "tabulated"]


class NodeSpec(BackboneSpec):
    """A network whose cuts are the nodes of its graph, whether its table has them or not."""

    def _cut_outside_table(self, name: str) -> Cut:
        return _node_cut(self, name)


@functools.cache
def _node_cut(spec: NodeSpec, name: str) -> Cut:
    """Make a cut at any node of a backbone; raises `UnknownNameError` with the nearest nodes."""
    from featbank.backbones import _graph
    from featbank.backbones._building import build_on_meta

    module = build_on_meta(spec)
    try:
        graph = _graph.extract(module, {name: name}, spec.name)
    except UnknownNameError:
        known = [*spec.cut_names, *_graph.node_names(module)]
        raise UnknownNameError(
            f"unknown cut {name!r} of backbone {spec.name!r}; known: {nearest(name, known)}"
        ) from None
    facts = _graph.count(graph, spec.default_image_size, spec.name)
    if name not in facts.shapes:
        raise InvalidInputError(f"node {name!r} of backbone {spec.name!r} gives no features")
    return Cut(name, name, facts.shapes[name], (), facts.cut_macs[name])


def measure(spec: BackboneSpec, image_size: int) -> dict[str, tuple[tuple[int, ...], int]]:
    """Count shape and multiply-adds of every cut for one image size; no weights are needed."""
    from featbank.backbones import _graph
    from featbank.backbones._building import build_on_meta

    nodes = {cut.name: cut.node for cut in spec.cuts if cut.derived_from is None}
    graph = _graph.extract(build_on_meta(spec, image_size=image_size), nodes, spec.name)
    facts = _graph.count(graph, image_size, spec.name)
    return {name: (facts.shapes[name], facts.cut_macs[name]) for name in nodes}


def tabulated(spec: NodeSpec, module: nn.Module) -> NodeSpec:
    """Return `spec` with a table: the ends of the module's parts two levels deep, and the logits."""
    from featbank.backbones import _graph

    names = _graph.node_names(module)
    last = names[-1]
    # An end is the last node under a path; a dict keeps the later of two equal paths where it runs.
    ends: dict[str, str] = {}
    for node in names[1:-1]:
        path = ".".join(node.split(".")[:2])
        ends.pop(path, None)
        ends[path] = node
    nodes = {path: path for path in ends} | {"logits": last}
    graph = _graph.extract(module, nodes, spec.name)
    facts = _graph.count(graph, spec.default_image_size, spec.name, strict=False)
    return replace(
        spec,
        cuts=tuple(
            Cut(cut, node, facts.shapes[cut], (), facts.cut_macs[cut])
            for cut, node in nodes.items()
            if cut in facts.shapes
        ),
        n_parameters=sum(one.numel() for one in module.parameters()),
        head_key=f"{last}.weight",
    )
