"""Backbones made of modules that nobody but their owner knows."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from featbank._registry import nearest
from featbank.backbones import _graph
from featbank.backbones._family import FAMILIES, OWN_FAMILIES
from featbank.backbones._nodes import NodeSpec, tabulated
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import InvalidInputError

__all__ = ["as_preprocessing", "frozen_copy", "module_digest", "module_spec"]

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
    copied = _graph.private_copy(module).eval().requires_grad_(False)
    for tensor in (*copied.parameters(), *copied.buffers()):
        number = tensor.data.cpu()
        number = number.float() if number.is_floating_point() else number
        # Its owner may train it on.
        tensor.data = number.clone() if number.data_ptr() == tensor.data_ptr() else number
    return copied


def module_digest(module: nn.Module) -> str:
    """SHA-256 of all numbers of a module, and of what it computes with them as far as that can be told.

    The classes and settings of its parts count, and the graph where torch.fx traces one: two networks may
    have the same tensors, and another activation.
    """
    digest = hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", _architecture(module)).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(module: nn.Module) -> str:
    lines = []
    for name, part in module.named_modules():
        kind = type(part)
        lines.append(f"{name}: {kind.__module__}.{kind.__qualname__}({part.extra_repr()})")
    with contextlib.suppress(_graph.UntraceableError):
        lines += _graph.described(module)
    return "\n".join(lines)
