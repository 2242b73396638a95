"""Reading a table of a TOML file key by key, gathering what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from featbank._registry import nearest

__all__ = ["Faults", "Table"]

#: What a TOML value is called, for people.
_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}


class Faults:
    """What is wrong with a file, each fault once, in the order they were found."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def add(self, fault: str) -> None:
        """Note a fault."""
        self._found.setdefault(fault)

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Table:
    """One table: each ``take`` removes a key; what is left at the end is unknown.

    Parameters
    ----------
    values : object
        What stands in the file; anything but a table is a fault.
    where : str
        What the table is called in messages, e.g. ``"[data]"``.
    faults : Faults
        Where faults go.
    over : mapping, optional
        Values that replace those of `values`, from a place called `over_where`.
    """

    def __init__(
        self,
        values: Any,
        where: str,
        faults: Faults,
        over: Any = None,
        over_where: str = "",
    ) -> None:
        self.where, self.faults = where, faults
        self._values: dict[str, tuple[Any, str]] = {}
        self._asked: list[str] = []
        for given, place in ((values, where), (over, over_where)):
            if given is None:
                continue
            if not isinstance(given, Mapping):
                faults.add(f"{place} must be a table, got {given!r}")
                continue
            self._values |= {key: (value, place) for key, value in given.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def peek(self, key: str) -> Any:
        """Return a key's value, or None, and leave it where it is."""
        return self._values.get(key, (None, ""))[0]

    def take(self, key: str, default: Any = None) -> tuple[Any, str]:
        """Remove a key; returns its value, or the default, and where it stands in words."""
        self._asked.append(key)
        value, place = self._values.pop(key, (default, self.where))
        return value, f"{place} {key}".strip()

    def _typed(self, key: str, kinds: tuple[type, ...], default: Any, required: bool) -> tuple[Any, str]:
        """Take a value of some kind; returns it, or the default, and where it stands in words."""
        there = key in self
        value, where = self.take(key, default)
        if not there:
            if required:
                self.faults.add(f"{self.where} lacks {key!r}".strip())
            return default, where
        # bool is an int to Python, and not to people
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.faults.add(f"{where} = {value!r} is not {_NAMES[kinds[0]]}")
            return default, where
        return value, where

    def text(self, key: str, default: str | None = None, *, required: bool = False) -> Any:
        """Take a text that is not empty."""
        value, where = self._typed(key, (str,), default, required)
        if isinstance(value, str) and not value.strip() and value is not default:
            self.faults.add(f"{where} is empty")
        return value

    def flag(self, key: str, default: bool | None = None) -> Any:
        """Take true or false."""
        return self._typed(key, (bool,), default, False)[0]

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> Any:
        """Take a text that is one of a few."""
        there = key in self
        value, where = self._typed(key, (str,), default, False)
        if there and value is not None and value not in allowed:
            self.faults.add(f"{where} = {value!r} is unknown; known: {nearest(value, allowed)}")
            return default
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> Any:
        """Take a whole number of at least `least`."""
        value, where = self._typed(key, (int,), default, False)
        if value is not None and value < least:
            self.faults.add(f"{where} = {value!r} must be at least {least}")
            return default
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        required: bool = False,
        over: float | None = None,
        least: float | None = None,
        below: float | None = None,
    ) -> Any:
        """Take a finite number, over one bound or at least another, and below a third."""
        value, where = self._typed(key, (float, int), default, required)
        if value is None:
            return default
        if not math.isfinite(value):
            self.faults.add(f"{where} = {value!r} is not finite")
            return default
        bounds = [
            f"{word} {bound:g}"
            for word, bound, holds in (
                ("over", over, over is None or value > over),
                ("at least", least, least is None or value >= least),
                ("below", below, below is None or value < below),
            )
            if bound is not None and not holds
        ]
        if bounds:
            self.faults.add(f"{where} = {value!r} must be {' and '.join(bounds)}")
            return default
        return value

    def texts(self, key: str, default: tuple[str, ...] = (), *, required: bool = False) -> Any:
        """Take a list of texts, or one text, which is a list of one."""
        there = key in self
        value, where = self.take(key, default)
        if not there:
            if required:
                self.faults.add(f"{self.where} lacks {key!r}".strip())
            return default
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
            self.faults.add(f"{where} = {value!r} is not a list of texts")
            return default
        return tuple(listed)

    def close(self) -> None:
        """Note every key that nobody took."""
        for key, (_, place) in self._values.items():
            self.faults.add(f"{place or 'the file'} has no key {key!r}; known: {nearest(key, self._asked)}")
        self._values.clear()
