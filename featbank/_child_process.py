"""Where a process that we start looks for modules: where this one does, but not in the current folder.

Images, banks and weights lie in folders of strangers, and a ``json.py`` or a ``numpy/`` beside them must not
be taken for a module. Python looks into the current folder first in what is started with ``-c`` or ``-m``,
and an empty entry of ``PYTHONPATH`` means it as well.
"""

# Nothing may be imported here that Python has not loaded by itself, so there is no pathlib.
# ruff: noqa: PTH100, PTH109, PTH117, PTH120

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import IO, Any

__all__ = ["child_environment", "import_path", "pickle_for_child", "without_current_folder"]


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
