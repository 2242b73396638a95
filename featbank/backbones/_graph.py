"""Cut a module's graph at named nodes, and count what is left of it without computing anything."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from featbank._lean_imports import import_torchvision
from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError, one_line

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "GraphFacts",
    "RandomDraws",
    "UntraceableError",
    "count",
    "extract",
    "largest_output",
    "node_names",
    "private_copy",
    "tensor_digest",
]

#: What tracing raises when a forward does something torch.fx cannot follow.
_TRACING_ERRORS = (ValueError, TypeError, RuntimeError, AttributeError, LookupError)


class UntraceableError(InvalidInputError):
    """torch.fx cannot follow a forward; it is cut by hooks."""


def private_copy(module: nn.Module, *, device: str | None = None, out_of_place: bool = False) -> nn.Module:
    """Copy a module but not its numbers.

    Parameters
    ----------
    module : torch.nn.Module
        Stays as it is.
    device : str, optional
        ``"meta"`` for shapes without numbers; by default the copy shares the memory of the original.
    out_of_place : bool, default=False
        Switch off the in-place work of its layers: an in-place ReLU would overwrite the output of the layer
        before it, which may be a cut.

    Returns
    -------
    torch.nn.Module
        Its parameters are objects of its own that want no gradient, so that moving, casting or switching
        the copy never reaches the original.
    """

    def shared(tensor: Tensor) -> Tensor:
        return tensor.detach() if device is None else torch.empty_like(tensor, device=device)

    memo: dict[int, Any] = {
        id(one): nn.Parameter(shared(one), requires_grad=False) for one in module.parameters()
    }
    memo |= {id(one): shared(one) for one in module.buffers()}
    copied = copy.deepcopy(module, memo)
    if out_of_place:
        for part in copied.modules():
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]
    return copied


def node_names(module: nn.Module) -> list[str]:
    """List the graph nodes of a module in eval mode, in the order they run; the module stays as it is.

    Raises
    ------
    UntraceableError
        If there is no graph.
    """
    try:
        _, names = _tracing().get_graph_node_names(private_copy(module).eval(), suppress_diff_warning=True)
    except _TRACING_ERRORS as error:
        raise UntraceableError(f"torch.fx cannot trace the module ({one_line(error, first=True)})") from error
    return list(names)


def described(module: nn.Module) -> list[str]:
    """Return the operations of a module's graph, one a line, and its tensors; raises `UntraceableError`."""
    try:
        traced = fx.symbolic_trace(private_copy(module).eval())
    except _TRACING_ERRORS as error:
        raise UntraceableError(f"torch.fx cannot trace the module ({one_line(error, first=True)})") from error
    lines = []
    for node in traced.graph.nodes:
        target = node.target
        if node.op == "get_attr" and isinstance(held := operator.attrgetter(target)(traced), Tensor):
            lines.append(tensor_digest(held))
        if not isinstance(target, str):
            target = f"{target.__module__}.{getattr(target, '__qualname__', target)}"
        lines.append(f"{node.name} = {node.op} {target} {node.args} {node.kwargs}")
    return lines


def tensor_digest(tensor: Tensor) -> str:
    """Return SHA-256 over type, shape and numbers of a tensor."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    dense = tensor.detach().cpu().to_dense() if tensor.layout is not torch.strided else tensor.detach().cpu()
    digest.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tracing() -> Any:
    import_torchvision()
    from torchvision.models import feature_extraction

    return feature_extraction


def extract(module: nn.Module, nodes: Mapping[str, str], owner: str) -> fx.GraphModule:
    """Build the network that ends at `nodes`.

    Parameters
    ----------
    module : torch.nn.Module
        What to cut; not changed, not even when tracing fails.
    nodes : mapping of str to str
        Output name -> node.
    owner : str
        The module's name, for messages.

    Returns
    -------
    torch.fx.GraphModule
        Maps a batch to a dict; holds only what its outputs need; nothing in it works in place.

    Raises
    ------
    UnknownNameError
        If a node does not exist.
    UntraceableError
        If the module cannot be traced.
    """
    # All that follows happens to the copy: a failed trace or a switched flag cannot leak.
    private = private_copy(module, out_of_place=True).eval()
    try:
        # Two cuts may stand for one node; torchvision returns each node once.
        unique = {node: node for node in nodes.values()}
        extractor = _tracing().create_feature_extractor(private, unique, suppress_diff_warning=True)
    except _TRACING_ERRORS as error:
        unknown = _unknown_node(private, nodes, owner)  # the likelier fault; it takes two more traces to say
        if unknown is not None:
            raise unknown from None
        raise UntraceableError(f"torch.fx cannot trace {owner!r} ({one_line(error, first=True)})") from error
    graph: fx.Graph = extractor.eval_graph
    output = next(node for node in graph.nodes if node.op == "output")
    found = output.args[0]
    output.args = ({name: found[node] for name, node in nodes.items()},)
    for node in graph.nodes:
        _out_of_place(node)
    # A module of the eval graph alone: the train graph would keep what only training needs.
    return fx.GraphModule(extractor, graph).eval()


def _unknown_node(private: nn.Module, nodes: Mapping[str, str], owner: str) -> UnknownNameError | None:
    names: list[str] = []
    with contextlib.suppress(*_TRACING_ERRORS):
        _, names = _tracing().get_graph_node_names(private, suppress_diff_warning=True)
    known = dict.fromkeys(prefix for name in names for prefix in _prefixes(name))
    for node in nodes.values():
        if known and node not in known:
            return UnknownNameError(f"unknown node {node!r} of {owner!r}; known: {nearest(node, known)}")
    return None


def _prefixes(name: str) -> list[str]:
    # Half a path stands for the last node under it: layer4 for layer4.2.relu_2.
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _out_of_place(node: fx.Node) -> None:
    """Rewrite a call that would overwrite its input."""
    if (
        node.op == "call_method"
        and isinstance(node.target, str)
        and re.fullmatch(r"[a-z]\w*[a-z0-9]_", node.target)
    ):
        if hasattr(Tensor, node.target[:-1]):
            node.target = node.target[:-1]
    elif node.op == "call_function" and callable(node.target):
        # torch.nn.functional hands the flag over by keyword, however it was called.
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
        node.target = _FUNCTIONS.get(node.target, node.target)


#: Functions without an `inplace` argument that overwrite their input, and what computes the same beside it.
_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.relu_: torch.relu,
    nn.functional.relu_: nn.functional.relu,
    nn.functional.elu_: nn.functional.elu,
    nn.functional.leaky_relu_: nn.functional.leaky_relu,
    nn.functional.hardtanh_: nn.functional.hardtanh,
}


@dataclass(frozen=True)
class GraphFacts:
    """What `count` found.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Output name -> shape without the batch axis; lacks outputs that are no per-image features.
    cut_macs : dict of str to int
        Output name -> multiply-adds of one image up to it.
    macs : int
        Multiply-adds of one image for all outputs together.
    """

    shapes: dict[str, tuple[int, ...]]
    cut_macs: dict[str, int]
    macs: int


class _Counter(fx.Interpreter):
    """Runs a graph and notes the multiply-adds of each node."""

    def __init__(self, graph: fx.GraphModule, flops: FlopCounterMode) -> None:
        super().__init__(graph)
        self.flops = flops
        self.macs: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self.flops.get_total_flops()
        result = super().run_node(n)
        # The counter takes a multiply-add for two operations.
        self.macs[n] = (self.flops.get_total_flops() - before) // 2
        return result


class RandomDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first operation that draws random numbers, also where nothing is computed."""

    thrown: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.thrown is None and torch.Tag.nondeterministic_seeded in func.tags:
            given = {one.name: one.default_value for one in func._schema.arguments}
            given |= dict(zip(given, args, strict=False)) | kwargs
            # Dropout, alone or in attention, draws unless it is switched off.
            if all(given.get(name) != 0 for name in ("dropout_p", "dropout", "train", "training")):
                self.thrown = str(func)
        return func(*args, **kwargs)

    def refuse(self, owner: str) -> None:
        """Raise `InvalidInputError` if one was noted."""
        if self.thrown is not None:
            raise InvalidInputError(
                f"{owner!r} draws random numbers ({self.thrown}) in eval mode too, so that an image has "
                "other features each time; choose another backbone"
            )


def count(graph: nn.Module, image_size: int, owner: str, *, strict: bool = True) -> GraphFacts:
    """Count multiply-adds and shapes, on the meta device.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        From `extract`; not changed.
    image_size : int
        Side of the square input, in pixels.
    owner : str
        The network's name, for messages.
    strict : bool, default=True
        Whether an output that is not one float tensor per image is an error; otherwise it is left out.

    Returns
    -------
    GraphFacts
        Convolutions and matrix products count; normalisation, activations and pooling do not.

    Raises
    ------
    InvalidInputError
        If images of that size do not pass through, an output is no tensor of features, or random numbers are
        drawn on the way.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, where that is installed

    meta = private_copy(graph, device="meta")
    if not isinstance(meta, fx.GraphModule):
        raise TypeError(f"a copy of a GraphModule is a {type(meta).__name__}")
    for node in meta.graph.nodes:
        # Tensors the forward made itself hang on the module as plain attributes.
        if node.op == "get_attr" and isinstance(getattr(meta, str(node.target), None), Tensor):
            setattr(meta, node.target, getattr(meta, node.target).to("meta"))
    flops = FlopCounterMode(display=False)
    counter = _Counter(meta, flops)
    draws = RandomDraws()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad(), flops, draws:
            one = counter.run(torch.empty(1, 3, image_size, image_size, device="meta"))
        with torch.no_grad():
            three = meta(torch.empty(3, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InvalidInputError(
            f"images of {image_size}x{image_size} pixels do not pass through {owner!r} "
            f"({one_line(error, first=True)}); pass another image_size"
        ) from error
    draws.refuse(owner)
    shapes = {}
    for name, features in three.items():
        if _per_image(one[name], features):
            shapes[name] = tuple(features.shape[1:])
        elif strict:
            raise InvalidInputError(
                f"cut {name!r} of {owner!r} is not one float tensor per image; choose a node whose "
                "output has the batch as its first axis"
            )
    outputs = next(node for node in meta.graph.nodes if node.op == "output").args[0]
    cut_macs = {name: _macs_before([outputs[name]], counter.macs) for name in outputs}
    return GraphFacts(shapes, cut_macs, _macs_before(list(outputs.values()), counter.macs))


def largest_output(module: nn.Module, image_size: int) -> int:
    """Return how many numbers the largest tensor has that a layer of `module` makes of one image.

    One black image is pushed: on the meta device nothing would be computed, but torch imports its compiler
    for that, which takes longer.
    """
    largest = 0

    def note(layer: nn.Module, given: Any, made: Any) -> None:
        nonlocal largest
        if isinstance(made, Tensor):
            largest = max(largest, made.numel())

    copied = private_copy(module).eval()
    for layer in copied.modules():
        layer.register_forward_hook(note)
    device = next((one.device for one in module.parameters()), None)
    with torch.inference_mode():
        copied(torch.zeros(1, 3, image_size, image_size, device=device))
    return largest


def _per_image(one: Any, three: Any) -> bool:
    return (
        isinstance(three, Tensor)
        and three.is_floating_point()
        and three.ndim >= 2
        and three.shape[0] == 3
        and one.shape[0] == 1
        and one.shape[1:] == three.shape[1:]
    )


def _macs_before(ends: list[fx.Node], macs: Mapping[fx.Node, int]) -> int:
    seen: set[fx.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return sum(macs[node] for node in seen)
