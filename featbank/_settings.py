"""Arguments that functions share: a frozen settings object, or its fields as options, written down once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

from featbank._registry import nearest
from featbank.manifest import abbreviated

__all__ = ["Progress", "changes_repr", "takes_settings", "with_options"]

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
