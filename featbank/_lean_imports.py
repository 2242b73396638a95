"""Import big packages without what takes most of the time of importing them and is not used.

``torchvision.ops.roi_align`` takes one function from ``torch._dynamo``, to be asked when boxes are cut out on
a GPU: that imports TorchDynamo, TorchInductor, sympy and ``torch.distributed``, over a second where nothing
is compiled. ``sklearn.utils.fixes`` imports ``scipy.stats`` for one function of its own, and pandas, where it
is installed, for none (half a second); so does ``sklearn.datasets``, by ``sklearn.preprocessing``. Both
copy all that NumPy has, its tests and a reader of Fortran among it. While these are imported, a stand-in is
there instead, which becomes the real module as soon as anything is asked of it. Matplotlib writes the tables
of its docstrings at each start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["import_matplotlib", "import_scipy", "import_sklearn", "import_torchvision"]

_DYNAMO = ["torch._dynamo", "torch._dynamo.utils"]
#: What of NumPy is copied and not used.
_COPIED = ["f2py", "testing"]
#: Whether somebody may read docstrings in this process; the command line says that nobody does.
docstrings_read = True


def import_torchvision() -> None:
    """Import torchvision; call it before each ``import torchvision`` or ``from torchvision import ...``."""
    if "torchvision" not in sys.modules:
        import_module("torch")  # its own import may want the real modules
        _import_beside("torchvision", [_DYNAMO])


def import_sklearn(wanted: str = "sklearn.base") -> None:
    """Import a module of scikit-learn; call it before ``from sklearn... import ...``."""
    if wanted not in sys.modules:
        pandas = ["pandas"] if find_spec("pandas") else []  # a stand-in of nothing would be taken for it
        with _uncopied():
            import_module("scipy")
            _import_beside(wanted, [["scipy.stats"], pandas])


def import_scipy() -> None:
    """Import ``scipy.special``; call it before ``from scipy... import ...``."""
    if "scipy.special" not in sys.modules:
        with _uncopied():
            import_module("scipy.special")


@contextmanager
def _uncopied() -> Iterator[None]:
    """Have stand-ins copied in the place of what NumPy has and has not imported yet."""
    numpy: Any = import_module("numpy")
    lent = [name for name in _COPIED if f"numpy.{name}" not in sys.modules]
    for name in lent:
        setattr(numpy, name, _StandIn(f"numpy.{name}", [f"numpy.{name}"]))
    try:
        yield
    finally:
        for name in lent:
            if isinstance(vars(numpy)[name], _StandIn):
                delattr(numpy, name)


def import_matplotlib() -> None:
    """Import what draws figures, without tables in its docstrings where nobody reads them."""
    if docstrings_read or "matplotlib.figure" in sys.modules:
        return
    artist: Any = import_module("matplotlib.artist")
    table = artist.kwdoc
    artist.kwdoc = lambda of: ""
    try:
        import_module("matplotlib.figure")
        import_module("matplotlib.backends.backend_agg")
    finally:
        artist.kwdoc = table


def _import_beside(wanted: str, groups: list[list[str]]) -> None:
    """Import a module beside stand-ins for those of groups of modules that are not imported yet."""
    stand_ins = {
        name: _StandIn(name, group) for group in groups for name in group if group[0] not in sys.modules
    }
    sys.modules.update(stand_ins)
    try:
        import_module(wanted)
    finally:
        for name, one in stand_ins.items():
            if sys.modules.get(name) is one:
                del sys.modules[name]


class _StandIn(ModuleType):
    """A module that becomes the real one when anything is asked of it but the one function not called yet."""

    __path__: list[str] = []  # noqa: RUF012 - the import system asks for it

    def __init__(self, name: str, group: list[str]) -> None:
        super().__init__(name)
        self._group = group

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ == "torch._dynamo.utils" and name == "is_compile_supported":
            return lambda device_type: self._real().is_compile_supported(device_type)
        return getattr(self._real(), name)

    def _real(self) -> Any:
        for one in self._group:
            if isinstance(sys.modules.get(one), _StandIn):
                del sys.modules[one]
        return import_module(self.__name__)
