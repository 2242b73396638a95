"""Our process and those it starts: where they look for modules, what they import, cores and versions."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from types import FunctionType, ModuleType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "child_environment",
    "import_matplotlib",
    "import_path",
    "import_scipy",
    "import_sklearn",
    "import_torchvision",
    "one_core_if",
    "package_versions",
    "pickle_for_child",
    "usable_cores",
    "without_current_folder",
]

# Nothing may be imported here that Python has not loaded by itself, so there is no pathlib.
# ruff: noqa: PTH100, PTH109, PTH117, PTH120

# Where a process that we start looks for modules: where this one does, but not in the current folder -
#
# Images, banks and weights lie in folders of strangers, and a ``json.py`` or a ``numpy/`` beside them must
# not be taken for a module. Python looks into the current folder first in what is started with ``-c`` or
# ``-m``, and an empty entry of ``PYTHONPATH`` means it as well.


def import_path(modules: Iterable[str] = ()) -> list[str]:
    """Return ``sys.path`` as absolute folders, without the current one where nobody asked for it.

    Parameters
    ----------
    modules : iterable of str, default=()
        Names of modules that will be needed, such as that of a user's own class. The folder they were
        imported from stays, also if it is the current one: its code runs in this process already.

    Returns
    -------
    list of str
        The current folder is in it if `modules` or featbank itself were imported from there, if
        ``PYTHONPATH`` names it, or if it stands behind the standard library, as what is installed does.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # it was deleted: nothing can be found by it
        return [entry for entry in map(os.fspath, sys.path) if os.path.isabs(entry)]
    named = os.environ.get("PYTHONPATH", "") if not sys.flags.ignore_environment else ""
    wanted = {os.path.realpath(entry) for entry in named.split(os.pathsep) if entry}
    wanted |= {_found_in(name) for name in ("featbank", *modules)}
    library = os.path.dirname(os.__file__)
    path, in_front = [], True
    for entry in sys.path:
        folder = os.path.abspath(entry)
        in_front = in_front and folder != library
        if not in_front or os.path.realpath(folder) != here or here in wanted:
            path.append(folder)
    return path


def _found_in(module: str) -> str:
    """Return the folder a module, or the package around it, was imported from; empty if from none."""
    top = sys.modules.get(module.partition(".")[0])
    places = [*getattr(top, "__path__", ())] or [getattr(top, "__file__", None)]
    return os.path.realpath(os.path.dirname(places[0])) if places[0] else ""


def child_environment(modules: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment for a Python process that imports as this one does; see `import_path`."""
    path = import_path(modules)
    named = [os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    # What was named since this process began comes first, and what cannot stand there is not handed over.
    path = [one for one in named if one not in path] + [one for one in path if os.pathsep not in one]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


@contextmanager
def without_current_folder(modules: Iterable[str] = ()) -> Iterator[None]:
    """Keep the current folder out of what is imported here and in Python processes that libraries start.

    They hand ``sys.path`` over themselves. The environment is that of every program, other Pythons too, so it
    gets no more than it needs.
    """
    path, before = list(sys.path), {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    sys.path[:] = import_path(modules)
    os.environ["PYTHONSAFEPATH"] = "1"
    if before["PYTHONPATH"] is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, before["PYTHONPATH"].split(os.pathsep)))
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def pickle_for_child(
    value: Any, file: IO[bytes], buffer_callback: Callable[[Any], Any] | None = None
) -> set[str]:
    """Pickle for another process, with the classes of a script or notebook; return what modules it needs.

    Parameters
    ----------
    value : object
    file : file object
        Takes the pickle.
    buffer_callback : callable, optional
        Takes the arrays, as of `pickle.Pickler`; default: they are in the pickle.

    Returns
    -------
    set of str
        Names of modules, for `import_path`.

    Raises
    ------
    Exception
        Of any kind, if `value` cannot be pickled.
    """
    base: Any
    try:
        import cloudpickle

        base = cloudpickle.Pickler
    except ModuleNotFoundError:  # a bare machine: what can be imported by its name is pickled all the same
        import pickle

        base = pickle.Pickler

    modules: set[str] = set()

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, ModuleType):
                modules.add(obj.__name__)
            else:
                modules.add(str((obj if isinstance(obj, type | FunctionType) else type(obj)).__module__))
            inherited = getattr(super(), "reducer_override", None)
            return NotImplemented if inherited is None else inherited(obj)

    Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return modules


# How many cores this process may use, and linear algebra on one of them -----------------------------


def one_core_if(small: bool) -> AbstractContextManager[Any]:
    """Have numpy and scipy multiply and factorise on one thread inside the block, if what they do is `small`.

    Their threads wait for each other in a loop. Beside another program, on the core that it has taken, that
    is twenty times as long as one thread would take (512 rows of 1,280 columns, 32 classes, two cores: 3.1 s
    for a fit, instead of 0.16); alone, several gain nothing where there is little to do.
    """
    return _libraries().limit(limits=1, user_api="blas") if small else nullcontext()


@cache
def _libraries() -> Any:
    import_scipy()
    import scipy.linalg  # noqa: F401 - it has a library of its own, which must be there to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def usable_cores(root: Path | None = None) -> int:
    """Return how many cores this process may keep busy, at least 1.

    Parameters
    ----------
    root : pathlib.Path, optional
        Where ``proc`` and ``sys`` are, instead of ``/``.

    Returns
    -------
    int
        The cores it is bound to, or fewer where its control group, or one around it, has a quota of processor
        time (version 2: ``cpu.max``; version 1: ``cpu.cfs_quota_us``), as containers have; rounded up.
    """
    from pathlib import Path

    root = Path("/") if root is None else root
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _group_folders(root) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *(-int(-quota // 1) for quota in quotas)]))


def _group_folders(root: Path) -> list[Path]:
    """List the folders of the groups this process is in; a container sees its own as the root."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    mounts = root / "sys/fs/cgroup"
    found = [mounts, mounts / "cpu"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = mounts
        elif "cpu" in controllers.split(","):
            base = mounts / "cpu"
        else:
            continue
        parts = [one for one in path.split("/") if one not in ("", "..")]
        found += [base.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    return found


def _quota(folder: Path) -> float | None:
    """Return the cores' worth of time a group may use, None where it has no limit."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return limit / period_us if limit > 0 else None
    return None


# Import big packages without what takes most of the time of importing them and is not used ------------
#
# ``torchvision.ops.roi_align`` takes one function from ``torch._dynamo``, to be asked when boxes are cut out
# on a GPU: that imports TorchDynamo, TorchInductor, sympy and ``torch.distributed``, over a second where
# nothing is compiled. ``sklearn.utils.fixes`` imports ``scipy.stats`` for one function of its own, and
# pandas, where it is installed, for none (half a second); so does ``sklearn.datasets``, by
# ``sklearn.preprocessing``. Both copy all that NumPy has, its tests and a reader of Fortran among it. While
# these are imported, a stand-in is there instead, which becomes the real module as soon as anything is asked
# of it. Matplotlib writes the tables of its docstrings at each start.

_DYNAMO = ["torch._dynamo", "torch._dynamo.utils"]
#: What of NumPy is copied and not used.
_COPIED = ["f2py", "testing"]
#: Whether somebody may read docstrings in this process; the command line says that nobody does.
docstrings_read = True


#: Held while a stand-in is anywhere: another thread would take it for the real module, or take it away.
_importing = threading.RLock()


def import_torchvision() -> None:
    """Import torchvision; call it before each ``import torchvision`` or ``from torchvision import ...``."""
    with _importing:
        if "torchvision" not in sys.modules:
            import_module("torch")  # its own import may want the real modules
            _import_beside("torchvision", [_DYNAMO])


def import_sklearn(wanted: str = "sklearn.base") -> None:
    """Import a module of scikit-learn; call it before ``from sklearn... import ...``."""
    with _importing:
        if wanted not in sys.modules:
            from importlib.util import find_spec

            pandas = ["pandas"] if find_spec("pandas") else []  # a stand-in of nothing would be taken for it
            with _uncopied():
                import_module("scipy")
                _import_beside(wanted, [["scipy.stats"], pandas])


def import_scipy() -> None:
    """Import ``scipy.special``; call it before ``from scipy... import ...``."""
    with _importing:
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
            if isinstance(vars(numpy).get(name), _StandIn):
                delattr(numpy, name)


def import_matplotlib() -> None:
    """Import what draws figures, without tables in its docstrings where nobody reads them."""
    with _importing:
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


# Versions --------------------------------------------------------------------------------------------


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of packages, without importing them; None of one that is not installed.

    Examples
    --------
    >>> package_versions(["featbank", "no-such-package"])
    {'featbank': '0.1.0', 'no-such-package': None}
    """
    from importlib import metadata

    from featbank import __version__

    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
        if name == "featbank":  # it may run from a checkout, whatever is installed
            found[name] = __version__
    return found
