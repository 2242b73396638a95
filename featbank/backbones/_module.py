"""Backbones made of modules that nobody but their owner knows."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from featbank._registry import nearest
from featbank.backbones.catalogue import NodeSpec, tabulated
from featbank.backbones.families import FAMILIES, OWN_FAMILIES
from featbank.backbones.network import UntraceableError, described, private_copy, tensor_digest
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import InvalidInputError

__all__ = ["as_preprocessing", "frozen_copy", "module_digest", "module_spec"]

#: How far into values of values it is told: they may hold themselves.
_DEEPEST = 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,79}")


def as_preprocessing(given: Preprocessing | Mapping[str, Any]) -> Preprocessing:
    """Return `Preprocessing` for the fields of one; without `resize_size` nothing is cropped of a square."""
    if isinstance(given, Preprocessing):
        return given
    example = "dict(image_size=32, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])"
    if not isinstance(given, Mapping) or "image_size" not in given:
        raise InvalidInputError(f"preprocessing={given!r} says no image_size; pass {example}")
    known = [one.name for one in fields(Preprocessing)]
    for name in given:
        if name not in known:
            raise InvalidInputError(f"preprocessing has no {name!r}; known: {nearest(str(name), known)}")
    return Preprocessing(**{"resize_size": given["image_size"], **given})


def module_spec(module: nn.Module, name: str, image_size: int) -> NodeSpec:
    """Make the cut table of a module: nodes of its graph where torch.fx traces it, else paths of parts."""
    if not isinstance(module, nn.Module):
        raise InvalidInputError(f"module={module!r} is no torch.nn.Module")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith("."):
        raise InvalidInputError(
            f"name={name!r} cannot name a bank: use 1 to 80 of the characters A-Z a-z 0-9 _ . @ -, starting "
            f"with a letter, a digit or _"
        )
    for one in OWN_FAMILIES:
        family = FAMILIES.get(one)
        if name in family.names() or name in family.more_names():
            raise InvalidInputError(f"name={name!r} is that of a backbone of {one}; choose another")
    bare = NodeSpec(name, "module", (), image_size, module=module)
    try:
        return tabulated(bare, module)
    except InvalidInputError:  # not to be traced, or not to be counted on the meta device
        return tabulated(NodeSpec(name, "module", (), image_size, hooked=True, module=module), module)


def frozen_copy(module: nn.Module) -> nn.Module:
    """Copy a module with its numbers: eval mode, CPU, float32, no gradients; the original stays as it is."""
    copied = private_copy(module).eval().requires_grad_(False)
    for tensor in (*copied.parameters(), *copied.buffers()):
        number = tensor.data.cpu()
        number = number.float() if number.is_floating_point() else number
        # Its owner may train it on.
        tensor.data = number.clone() if number.data_ptr() == tensor.data_ptr() else number
    return copied


def module_digest(module: nn.Module) -> str:
    """SHA-256 of all numbers of a module, and of what it computes with them as far as that can be told.

    What counts of each part: its class, its attributes, the code of its forward with the methods that this
    names, where torch did not write them; and the graph where torch.fx traces one. Two networks may have the
    same tensors, and another activation. Code is that of one minor version of Python.
    """
    digest = hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", _architecture(module)).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor_digest(tensor)}\n".encode())
    return digest.hexdigest()


#: What every module has: mode, hooks, parameters; of these it is told elsewhere.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _architecture(module: nn.Module) -> str:
    lines = []
    for name, part in module.named_modules():
        kind = type(part)
        lines.append(f"{name}: {kind.__module__}.{kind.__qualname__}({part.extra_repr()})")
        own = sorted(set(vars(part)) - _OF_EVERY_MODULE)
        lines += [f"{name}.{one} = {_said(vars(part)[one])}" for one in own]
        if not kind.__module__.startswith("torch."):
            lines += _methods(kind)
    with contextlib.suppress(UntraceableError):
        lines += described(module)
    return "\n".join(lines)


def _methods(kind: type) -> list[str]:
    """Say the code of a class's forward, and of the methods that it names."""
    found: dict[str, str] = {}
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        method = inspect.unwrap(getattr(kind, name, None))  # type: ignore[arg-type]
        if name not in found and isinstance(method, FunctionType):
            found[name] = _said(method)
            waiting += method.__code__.co_names
    return [f"{name}: {found[name]}" for name in sorted(found)]


def _said(value: Any, depth: int = 0) -> str:
    """Say a value in text that is the same in every process; of an object it is the class."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor):
        return tensor_digest(value)
    value = value.__func__ if isinstance(value, MethodType) else value
    deeper = functools.partial(_said, depth=depth + 1)
    if depth < _DEEPEST:
        if isinstance(value, tuple | list):
            return f"({', '.join(map(deeper, value))})"
        if isinstance(value, set | frozenset):
            return f"{{{', '.join(sorted(map(deeper, value)))}}}"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{deeper(key)}: {deeper(one)}' for key, one in value.items())}}}"
        if isinstance(value, functools.partial):
            return f"partial{deeper((value.func, value.args, value.keywords))}"
        if isinstance(value, CodeType):
            return f"{value.co_code.hex()} {value.co_names} {deeper(value.co_consts)}"
        if isinstance(value, FunctionType) and not str(value.__module__).startswith("torch."):
            kept = [one.cell_contents for one in value.__closure__ or () if one != CellType()]
            defaults = (value.__defaults__, value.__kwdefaults__)
            return f"{value.__module__}.{value.__qualname__}{deeper((value.__code__, *defaults, *kept))}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"
