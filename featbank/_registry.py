"""Names and what they stand for: register, get, names; a typo is answered with the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from featbank.errors import InvalidInputError, UnknownNameError

__all__ = ["Registry", "nearest"]

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


class Registry(Generic[T]):
    """An ordered table from name (and aliases) to value.

    Parameters
    ----------
    kind : str
        The noun used in messages, e.g. ``"backbone"``.

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

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, value: T, aliases: Iterable[str] = ()) -> None:
        """Add `value` under `name`; raises `InvalidInputError` when a name is taken."""
        wanted = (name, *aliases)
        for place, one in enumerate(wanted):
            if one in self._values or one in self._aliases or one in wanted[:place]:
                raise InvalidInputError(f"{self.kind} {one!r} is registered already; choose another name")
        self._values[name] = value
        self._aliases.update(dict.fromkeys(wanted[1:], name))

    def canonical(self, name: str) -> str:
        """Return the name an alias stands for; raises `UnknownNameError` for a name nobody registered."""
        if name in self._values:
            return name
        if name in self._aliases:
            return self._aliases[name]
        known = nearest(name, [*self._values, *self._aliases] if self._close_alias(name) else self._values)
        raise UnknownNameError(f"unknown {self.kind} {name!r}; known: {known}")

    def _close_alias(self, name: str) -> bool:
        return bool(difflib.get_close_matches(name, self._aliases, n=1, cutoff=0.7))

    def get(self, name: str) -> T:
        """Return the value of a name or alias; raises `UnknownNameError` for any other."""
        return self._values[self.canonical(name)]

    def names(self) -> list[str]:
        """List the names (no aliases), in the order of registration."""
        return list(self._values)

    def aliases(self, name: str) -> list[str]:
        """List the aliases of `name`."""
        return [alias for alias, target in self._aliases.items() if target == name]

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)
