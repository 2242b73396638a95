"""Import torchvision without the compiler of torch, which takes most of the time that importing it takes.

``torchvision.ops.roi_align`` takes one function from ``torch._dynamo``, to be asked when boxes are cut out on
a GPU. That imports all of TorchDynamo, TorchInductor, sympy and ``torch.distributed``: over a second, where
nothing is compiled. Here it gets a function that imports them when it is called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["import_torchvision"]

_PACKAGE, _MODULE = "torch._dynamo", "torch._dynamo.utils"


def import_torchvision() -> None:
    """Import torchvision; call it before each ``import torchvision`` or ``from torchvision import ...``."""
    if "torchvision" in sys.modules or _PACKAGE in sys.modules:
        return
    import torch  # noqa: F401 - its own import may want the real modules

    if _PACKAGE in sys.modules:
        return
    stand_ins = {name: _StandIn(name) for name in (_PACKAGE, _MODULE)}
    sys.modules.update(stand_ins)
    try:
        import_module("torchvision")
    finally:
        for name, one in stand_ins.items():
            if sys.modules.get(name) is one:
                del sys.modules[name]


class _StandIn(ModuleType):
    """A module that becomes the real one as soon as anything but that one function is asked of it."""

    __path__: list[str] = []  # noqa: RUF012 - the import system asks for it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ == _MODULE and name == "is_compile_supported":
            return lambda device_type: _real(_MODULE).is_compile_supported(device_type)
        return getattr(_real(self.__name__), name)


def _real(name: str) -> Any:
    for one in (_PACKAGE, _MODULE):
        if isinstance(sys.modules.get(one), _StandIn):
            del sys.modules[one]
    return import_module(name)
