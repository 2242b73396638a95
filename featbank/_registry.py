"""Names and what they stand for: plug-ins, fields of settings; a typo is answered with the nearest."""

from __future__ import annotations

import ast
import difflib
import hashlib
import inspect
import reprlib
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import MISSING, fields, replace
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from featbank.errors import InvalidInputError, MissingPackageError, UnknownNameError, one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "Progress",
    "Registry",
    "abbreviated",
    "asked_by",
    "changes_repr",
    "from_place",
    "in_study",
    "nearest",
    "own_folders",
    "own_modules",
    "source_digest",
    "take_modules",
    "takes_settings",
    "with_options",
]

T = TypeVar("T")


def nearest(name: str, names: Iterable[str], limit: int = 5) -> str:
    """Say which known names come nearest to `name`, for the end of an error message.

    Parameters
    ----------
    name : str
        What was asked for.
    names : iterable of str
        What is known.
    limit : int, default=5
        How many to list before a count of the rest.

    Returns
    -------
    str
        ``"'a', 'b' and 12 more"``: close spellings first, the order of `names` after that.

    Examples
    --------
    >>> nearest("blok4_pool", ["block1_pool", "block4_pool", "fc7"], limit=2)
    "'block4_pool', 'block1_pool' and 1 more"
    """
    known = list(dict.fromkeys(names))
    close = difflib.get_close_matches(name, known, n=limit, cutoff=0.4)
    shown = (close + [other for other in known if other not in close])[:limit]
    text = ", ".join(repr(one) for one in shown) or "none"
    rest = len(known) - len(shown)
    return f"{text} and {rest} more" if rest else text


def from_place(place: str, what: str, give: str) -> Any:
    """Return what is found at ``"module:name"``: installed, or the user's own, see `in_study`.

    Parameters
    ----------
    place : str
        Where it is.
    what, give : str
        How messages begin, such as ``"metric 'my_module:worst' (--metric)"``, and what to give instead.

    Raises
    ------
    InvalidInputError
        If there is no such module, it fails when it is imported, or has nothing of that name; or, in a study,
        if another module of that name was loaded before.
    """
    module, _, name = place.partition(":")
    try:
        _find_own(module.partition(".")[0])
        found = getattr(import_module(module), name)
        _send_by_value()
    except (Exception, SystemExit) as error:  # code of the user's, which may raise anything
        said = f"{type(error).__name__}: {one_line(error)}"
        raise InvalidInputError(f"{what} cannot be had ({said}); give {give}") from error
    return found


#: The folder of the study that is read, where there is one.
_study: ContextVar[Path | None] = ContextVar("_study", default=None)
#: The entry points of groups that were looked for while it is read: a look opens the records of all packages.
_looked: ContextVar[dict[str, list[EntryPoint]] | None] = ContextVar("_looked", default=None)


@contextmanager
def in_study(folder: Path) -> Iterator[None]:
    """Have modules of the user's own looked for beside a study, before the current folder."""
    before, looked = _study.set(folder), _looked.set({})
    try:
        yield
    finally:
        _study.reset(before)
        _looked.reset(looked)


def asked_by(option: str) -> str:
    """Return the option that a name was given by, for messages; a study has none."""
    return f" ({option})" if _study.get() is None else ""


def own_folders() -> str:
    """Say where modules of the user's own are looked for, for messages."""
    if _study.get() is None:
        return "in this folder"
    return "in " + " or ".join(dict.fromkeys(repr(str(one)) for one in _folders()))


def _folders() -> list[Path]:
    study = _study.get()
    return [Path.cwd()] if study is None else [study, Path.cwd()]


class _OwnModules(MetaPathFinder):
    """Finds modules of the user's own, after all others: those asked for by name, and what these import.

    A folder on ``sys.path`` would give modules to everybody: whatever a library imports if it is installed
    could lie there.
    """

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self.files.get(fullname)
        if path is not None or file is None:
            return None
        is_package = file.name == "__init__.py"
        folder = file.parent.parent if is_package else file.parent
        for name in _imported(file):
            beside = _file_in(folder, name)
            if beside is not None:
                other = self.files.get(name, beside) if name in sys.modules else beside
                if other != beside:
                    raise ImportError(_two_files(name, other, beside))
                self.files[name] = beside
        return spec_from_file_location(
            fullname, file, submodule_search_locations=[str(file.parent)] if is_package else None
        )


_own_modules = _OwnModules()


def _find_own(top: str) -> None:
    """Let a module be imported from one of `_folders`, where it is not installed."""
    files = (_file_in(folder, top) for folder in _folders())
    file = next((one for one in files if one is not None), None)
    loaded = sys.modules.get(top)
    if _study.get() is not None and top != "__main__":
        before: str | None = None
        if loaded is not None:
            before = getattr(loaded, "__file__", None)
            if file is None and top in _own_modules.files:  # that of another study
                raise ModuleNotFoundError(f"No module named {top!r}")
        elif file is not None:
            found = PathFinder.find_spec(top)
            before = None if found is None else found.origin
        if file is not None and before is not None and file != Path(before).resolve():
            raise ImportError(_two_files(top, Path(before), file))
    if loaded is None:
        _own_modules.files.pop(top, None)
        if file is not None:
            _own_modules.files[top] = file
            if _own_modules not in sys.meta_path:
                sys.meta_path.append(_own_modules)


def _two_files(name: str, one: Path, other: Path) -> str:
    return f"module {name!r} is {str(one)!r} in this process, and {str(other)!r} is another; rename one"


def _file_in(folder: Path, name: str) -> Path | None:
    """Return the file of a module in a folder, links followed; None where there is none."""
    places = (folder / name / "__init__.py", folder / f"{name}.py") if name.isidentifier() else ()
    return next((one.resolve() for one in places if one.is_file()), None)


def _imported(file: Path) -> set[str]:
    """Return the first parts of what a file, or any of a package, imports by its whole name."""
    names: set[str] = set()
    for one in file.parent.rglob("*.py") if file.name == "__init__.py" else [file]:
        with suppress(SyntaxError, ValueError, OSError):  # told when it is imported
            for node in ast.walk(ast.parse(one.read_bytes())):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
    return names


def _send_by_value() -> None:
    """Have modules of the user's own pickled as they are: no other process would find them."""
    for name in ("cloudpickle", "joblib.externals.cloudpickle"):
        for module in _own_modules.files.keys() & sys.modules.keys():
            with suppress(ImportError):
                import_module(name).register_pickle_by_value(sys.modules[module])


def own_modules(names: Iterable[str]) -> list[ModuleType]:
    """Return the modules of the user's own if any of names is ``module:name`` in one, for `take_modules`."""
    if not any(name.partition(":")[0].partition(".")[0] in _own_modules.files for name in names):
        return []
    return [one for name, one in sys.modules.items() if name.partition(".")[0] in _own_modules.files]


def take_modules(modules: Iterable[ModuleType]) -> None:
    """Let modules that another process sent be found here by their names."""
    sys.modules.update({one.__name__: one for one in modules})


def source_digest(thing: Any, more: bytes = b"") -> str:
    """Return the SHA-256 of `more` and the source of a class or function; without one another each time."""
    try:
        return hashlib.sha256(more + inspect.getsource(thing).encode()).hexdigest()
    except (OSError, TypeError):
        return secrets.token_hex(32)


class Registry(Generic[T]):
    """An ordered table from name (and aliases) to value.

    Parameters
    ----------
    kind : str
        The noun used in messages, e.g. ``"backbone"``.
    group : str, optional
        Entry points of other packages that add names, e.g. ``"featbank.backbones"``. They are looked for when
        a name is asked for that is not registered, or all names are; a registered name is never replaced.
    accepts : (str, callable), optional
        What their values must be, in words and as a check.

    Examples
    --------
    >>> heads = Registry[int]("head")
    >>> heads.register("softmax", 1, aliases=("linear",))
    >>> heads.get("linear"), heads.canonical("linear"), heads.names()
    (1, 'softmax', ['softmax'])
    >>> heads.get("sofmax")
    Traceback (most recent call last):
        ...
    featbank.errors.UnknownNameError: unknown head 'sofmax'; known: 'softmax'
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str | None = None,
        accepts: tuple[str, Callable[[Any], bool]] = ("", lambda _: True),
    ) -> None:
        self.kind, self.group = kind, group
        self._must_be, self._accepts = accepts
        self._values: dict[str, T] = {}
        self._loaded: dict[str, T] = {}
        self._places: dict[str, str] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, value: T, aliases: Iterable[str] = ()) -> None:
        """Add `value` under `name`; raises `InvalidInputError` when a name is taken."""
        self._take(name, aliases)
        self._values[name] = value

    def _take(self, name: str, aliases: Iterable[str]) -> None:
        wanted = (name, *aliases)
        for place, one in enumerate(wanted):
            if self._is_registered(one) or one in wanted[:place]:
                raise InvalidInputError(f"{self.kind} {one!r} is registered already; choose another name")
        self._aliases.update(dict.fromkeys(wanted[1:], name))

    def register_place(self, name: str, place: str, aliases: Iterable[str] = ()) -> None:
        """Add what is found at ``"module:attribute"``, which is imported when it is asked for."""
        self._take(name, aliases)
        self._places[name] = place

    def canonical(self, name: str) -> str:
        """Return the name an alias stands for; raises `UnknownNameError` for a name nobody registered."""
        if name in self:
            return self._aliases.get(name, name)
        known = nearest(name, [*self.names(), *self._aliases] if self._close_alias(name) else self.names())
        raise UnknownNameError(f"unknown {self.kind} {name!r}; known: {known}")

    def _close_alias(self, name: str) -> bool:
        return bool(difflib.get_close_matches(name, self._aliases, n=1, cutoff=0.7))

    def get(self, name: str) -> T:
        """Return the value of a name or alias.

        Raises
        ------
        UnknownNameError
            If nobody has registered the name.
        MissingPackageError
            If it is the name of a plug-in that cannot be loaded.
        """
        name = self.canonical(name)
        if name not in self._values:
            if name in self._places:
                module, _, attribute = self._places[name].partition(":")
                self._values[name] = getattr(import_module(module), attribute)
            else:
                if name not in self._loaded:
                    self._loaded[name] = self._load(self._plug_ins()[name])
                return self._loaded[name]
        return self._values[name]

    def working(self) -> dict[str, T]:
        """Return what stands under each name; a plug-in that cannot be had is told when it is asked for."""
        found = {}
        for name in self:
            with suppress(MissingPackageError):
                found[name] = self.get(name)
        return found

    def made_by(self, name: str) -> str | None:
        """Return the package and version that a name comes from; None for featbank itself.

        Raises
        ------
        UnknownNameError
            If nobody has registered the name.
        """
        plug_in = self._plug_ins().get(self.canonical(name))
        if plug_in is None:
            return None
        if plug_in.dist is None:
            return "unknown"
        version = dict(plug_in.dist.metadata.json).get("version", "?")
        return f"{plug_in.dist.name} {version}"

    def _load(self, plug_in: EntryPoint) -> T:
        package = plug_in.dist.name if plug_in.dist is not None else "?"
        try:
            found = plug_in.load()
        except Exception as error:  # code of strangers may raise anything when it is imported
            raise MissingPackageError(
                f"{self.kind} {plug_in.name!r} of the package {package!r} cannot be loaded from "
                f"{plug_in.value!r} ({type(error).__name__}: {one_line(error)}); mend or uninstall that "
                "package"
            ) from error
        if not self._accepts(found):
            raise MissingPackageError(
                f"{self.kind} {plug_in.name!r} of the package {package!r} is {found!r}, which is no "
                f"{self._must_be}; mend or uninstall that package"
            )
        return cast("T", found)

    def _plug_ins(self) -> dict[str, EntryPoint]:
        if self.group is None:
            return {}
        looked = _looked.get()
        found = None if looked is None else looked.get(self.group)
        if found is None:
            from importlib.metadata import entry_points

            found = list(entry_points(group=self.group))
            if looked is not None:
                looked[self.group] = found
        return {one.name: one for one in found if not self._is_registered(one.name)}

    def _is_registered(self, name: object) -> bool:
        return name in self._values or name in self._places or name in self._aliases

    def names(self) -> list[str]:
        """List the names (no aliases): in the order of registration, then those of plug-ins."""
        return list(self)

    def aliases(self, name: str) -> list[str]:
        """List the aliases of `name`."""
        return [alias for alias, target in self._aliases.items() if target == name]

    def __contains__(self, name: object) -> bool:
        return self._is_registered(name) or name in self._plug_ins()

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._places, *self._values])
        yield from sorted(self._plug_ins())  # last: looking for them reads the records of all packages


#: What is told how far long work is: called with (done, in all).
Progress = Callable[[int, int], None]

_Settings = TypeVar("_Settings")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def with_options(
    kind: type[_Settings], settings: _Settings | None, options: Mapping[str, Any], caller: str
) -> _Settings:
    """Return settings made of options, or `settings` with these options instead of theirs.

    Parameters
    ----------
    kind : type
        A dataclass.
    settings : instance of `kind`, or None
    options : mapping
        Fields of `kind`.
    caller : str
        The function whose options they are, for the message.

    Raises
    ------
    TypeError
        If an option is no field of `kind`, one is missing, or `settings` are others; as for any function.

    Examples
    --------
    >>> from featbank.extraction import ExtractionSettings
    >>> with_options(ExtractionSettings, None, {"backbone": "minivgg", "cuts": ["fc7"]}, "extract").dtype
    'float16'
    """
    known = {one.name: one for one in fields(kind) if one.init}  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise TypeError(f"{caller}() got an unexpected option {name!r}; known: {nearest(name, known)}")
    if settings is not None:
        if not isinstance(settings, kind):
            raise TypeError(
                f"{caller}() got settings={settings!r}; give {kind.__name__}, or its fields by name"
            )
        return replace(settings, **options)  # type: ignore[type-var]
    missing = [
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING and name not in options
    ]
    if missing:
        raise TypeError(f"{caller}() misses {' and '.join(map(repr, missing))}")
    return kind(**options)


_SHORT = reprlib.Repr()
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 3
_SHORT.maxstring = _SHORT.maxother = 80


def abbreviated(value: Any) -> str:
    """Return the `repr` of anything on one line, however long it is."""
    return " ".join(_SHORT.repr(value).split())  # arrays come on several lines


def changes_repr(self: Any) -> str:
    """Return a `repr` of settings that says what is not at its default, as scikit-learn's estimators do."""
    said = [
        f"{one.name}={abbreviated(value)}"
        for one in fields(self)
        if one.init
        and one.repr
        and (value := getattr(self, one.name)) is not one.default
        and not (type(value) is type(one.default) and value == one.default)
    ]
    return f"{type(self).__name__}({', '.join(said)})"


def takes_settings(kind: type) -> Callable[[_Function], _Function]:
    """Let the signature of a function show the fields of `kind` in place of its ``**options``."""

    def shown(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
        options = inspect.signature(kind).parameters.values()
        # a default for all: `settings` may say those that have none
        given = [
            one.replace(kind=one.KEYWORD_ONLY, default=None if one.default is one.empty else one.default)
            for one in options
        ]
        function.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]
        return function

    return shown
