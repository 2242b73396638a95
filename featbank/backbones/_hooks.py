"""Cuts where torch.fx cannot trace: module paths, read by hooks; the pass ends behind the deepest."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from featbank._registry import nearest
from featbank.backbones._graph import GraphFacts, RandomDraws, private_copy
from featbank.errors import InvalidInputError, UnknownNameError, one_line

__all__ = ["OUTPUT", "HookedNetwork", "Seen", "count_hooked", "survey"]

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
    """Count as `featbank.backbones._graph.count` does."""
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
