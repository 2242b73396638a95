"""Cutting a network open: every cut asked for from one pass, and nothing computed behind the deepest."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import operator
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from featbank._cuts import MAP, Layout, pool, pooled_shape
from featbank._process import import_torchvision
from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError, WeightsError, one_line

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

    from featbank.backbones.families import BackboneSpec, Cut
    from featbank.backbones.preprocessing import Preprocessing

__all__ = [
    "OUTPUT",
    "GraphFacts",
    "HookedNetwork",
    "RandomDraws",
    "Seen",
    "TruncatedNetwork",
    "UntraceableError",
    "count",
    "count_hooked",
    "extract",
    "largest_activation",
    "largest_output",
    "node_names",
    "private_copy",
    "survey",
    "tensor_digest",
    "truncate",
]

# Cut a module's graph at named nodes, and count what is left of it without computing anything -------

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


# Cuts where torch.fx cannot trace: module paths, read by hooks; the pass ends behind the deepest ----

#: Stands for what the module itself gives, where a path would stand.
OUTPUT = "<output>"
#: The pass of each thread: lanes push several batches through one network at once.
_PASSES = threading.local()


class _FinishedError(BaseException):
    """All is read; a forward may catch exceptions, but hardly this."""


@dataclass
class _Pass:
    waiting: set[str]
    found: dict[str, Any]


class _Keep:
    """A hook of one module; an object and not a closure, so that it survives copying the network."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, module: nn.Module, given: Any, made: Any) -> None:
        current: _Pass | None = getattr(_PASSES, "current", None)
        if current is None or self.path not in current.waiting:
            return
        current.waiting.remove(self.path)
        features = _tensor_in(made)
        # torch.export follows a module to its end; what nobody asks for it leaves out itself.
        if not current.waiting and not torch.compiler.is_exporting():
            current.found[self.path] = features
            raise _FinishedError
        # What comes later may work in place.
        current.found[self.path] = features.clone() if features is not None else None


class HookedNetwork(nn.Module):
    """A module that is read at paths of its parts, and left behind the last of them.

    Parameters
    ----------
    module : torch.nn.Module
        What to cut; not changed, and its numbers are shared.
    paths : mapping of str to str
        Output name -> path of a part, or `OUTPUT`.
    owner : str
        The module's name, for messages.

    Raises
    ------
    UnknownNameError
        If there is no part of that path.
    """

    def __init__(self, module: nn.Module, paths: Mapping[str, str], owner: str) -> None:
        super().__init__()
        self.inner = private_copy(module, out_of_place=True).eval()
        self.paths = dict(paths)
        self._owner = owner
        parts = dict(self.inner.named_modules(remove_duplicate=False))
        for path in sorted({*self.paths.values()} - {OUTPUT}):
            if path not in parts or not path:
                known = [*filter(None, parts)]
                raise UnknownNameError(
                    f"unknown module path {path!r} of {owner!r}; known: {nearest(path, known)}"
                )
            parts[path].register_forward_hook(_Keep(path))
        # Lanes run at once, and a forward may keep tensors in its module: each takes a copy.
        self._free: list[nn.Module] = []

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._free = []  # the numbers of the copies are the old ones
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Map a batch to one tensor per output name."""
        current = _Pass({*self.paths.values()}, {})
        inner = self._taken()
        before = getattr(_PASSES, "current", None)
        _PASSES.current = current
        try:
            current.found[OUTPUT] = _tensor_in(inner(batch))
            current.waiting.discard(OUTPUT)
        except _FinishedError:
            pass
        finally:
            _PASSES.current = before
            self._free.append(inner)
        if current.waiting:
            raise InvalidInputError(
                f"{sorted(current.waiting)[0]!r} of {self._owner!r} did not run; choose another cut"
            )
        return {name: current.found[path] for name, path in self.paths.items()}

    def _taken(self) -> nn.Module:
        if torch.compiler.is_exporting():
            return self.inner  # a copy would be made of numbers that are no parameters of what is exported
        try:
            return self._free.pop()
        except IndexError:
            with torch.inference_mode(False):
                return private_copy(self.inner)


@dataclass
class Seen:
    """What one part of a module did with three images.

    Parameters
    ----------
    features : Tensor or None
        What it gave when it first ran; None where that is no tensor.
    macs : int
        Multiply-adds of one image until then.
    given : Tensor or None
        What it was given first.
    calls : int, default=1
        How often it ran.
    """

    features: Tensor | None
    macs: int
    given: Tensor | None = None
    calls: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return () if self.features is None else tuple(self.features.shape[1:])

    @property
    def fault(self) -> str | None:
        """Why it cannot be a cut; None where it can."""
        if self.calls > 1:
            return f"runs {self.calls} times in one pass"
        one = self.features
        if one is None or not one.is_floating_point() or one.ndim < 2 or one.shape[0] != 3:
            return "does not give one float tensor per image"
        return None


def survey(module: nn.Module, image_size: int, owner: str) -> dict[str, Seen]:
    """Push three black images and note what each part gives, in the order in which they end.

    Parameters
    ----------
    module : torch.nn.Module
        Not changed; on the meta device nothing is computed.
    image_size : int
        Side of the square input, in pixels.
    owner : str
        The module's name, for messages.

    Returns
    -------
    dict of str to Seen
        By path; `OUTPUT`, the last, is the module itself.

    Raises
    ------
    InvalidInputError
        If such images do not pass through, or random numbers are drawn on the way, as ViT-MAE does to hide
        patches.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, where that is installed

    private = private_copy(module, out_of_place=True).eval()
    flops = FlopCounterMode(display=False)
    draws = RandomDraws()  # type: ignore[no-untyped-call]
    seen: dict[str, Seen] = {}

    def note(path: str, made: Any, given: Any = None) -> None:
        if path in seen:
            seen[path].calls += 1
        else:
            # The counter takes a multiply-add for two operations, and there are three images.
            seen[path] = Seen(_tensor_in(made), flops.get_total_flops() // 6, _tensor_in(given))

    for path, part in private.named_modules():
        if path:
            part.register_forward_hook(lambda _, given, made, path=path: note(path, made, given))
    device = next((one.device for one in (*private.parameters(), *private.buffers())), None)
    try:
        with torch.no_grad(), flops, draws:
            made = private(torch.zeros(3, 3, image_size, image_size, device=device))
            note(OUTPUT, made)
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError) as error:
        raise InvalidInputError(
            f"images of {image_size}x{image_size} pixels do not pass through {owner!r} "
            f"({one_line(error, first=True)}); pass another image_size"
        ) from error
    draws.refuse(owner)
    return seen


def count_hooked(network: HookedNetwork, image_size: int, owner: str) -> GraphFacts:
    """Count as `featbank.backbones.network.count` does."""
    seen = survey(network.inner, image_size, owner)
    shapes, cut_macs = {}, {}
    for name, path in network.paths.items():
        found = seen.get(path)
        fault = "does not run" if found is None else found.fault
        if found is None or fault is not None:
            raise InvalidInputError(f"cut {name!r} of {owner!r} {fault}; choose another module")
        shapes[name] = found.shape
        cut_macs[name] = found.macs
    return GraphFacts(shapes, cut_macs, max(cut_macs.values()))


def _tensor_in(made: Any) -> Tensor | None:
    """Return the features in what a module gave: a tensor, the first of several, a record's usual field."""
    for name in ("logits", "last_hidden_state"):
        if not isinstance(made, Tensor) and isinstance(getattr(made, name, None), Tensor):
            made = getattr(made, name)
    if isinstance(made, tuple | list) and made:
        made = made[0]
    return made if isinstance(made, Tensor) else None


# One pass for all cuts -------------------------------------------------------------------------------


class Loaded(Protocol):
    """What is asked of a `Backbone` here; whatever loads it knows how it is cut."""

    @property
    def spec(self) -> BackboneSpec: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def weights(self) -> str: ...
    @property
    def absent(self) -> frozenset[str]: ...


#: What `largest_activation` found: it is asked in several places.
_largest: weakref.WeakKeyDictionary[Loaded, int] = weakref.WeakKeyDictionary()


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
    def _facts(self) -> GraphFacts:
        if isinstance(self.graph, HookedNetwork):
            return count_hooked(self.graph, self.image_size, self._owner)
        return count(self.graph, self.image_size, self._owner)

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
        lowered = private_copy(self)
        for layer in lowered.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(dtype)
        return lowered  # type: ignore[return-value]  # a copy is of the same class


def largest_activation(backbone: Loaded) -> int:
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
        _largest[backbone] = largest_output(backbone.module, backbone.preprocessing.image_size)
    return _largest[backbone]


def truncate(
    backbone: Loaded | nn.Module, cuts: Sequence[str], *, image_size: int | None = None
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
        with contextlib.suppress(UntraceableError):
            graph = extract(module, nodes, owner)
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
    backbone: Loaded, nodes: Mapping[str, str], graph: nn.Module
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
            if backbone.absent.intersection(extract(module, {cut: node}, owner).state_dict())
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
    backbone: Loaded, cuts: Iterable[str], image_size: int
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
