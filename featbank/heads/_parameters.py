"""What the parameters of a head are: one table per class, read by fits, studies and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Parameter", "faults_of"]

#: A value in a message is cut to so many characters.
_SHOWN = 60
_WORDS = {"none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Parameter:
    """One parameter: what it is, and the values it may take, numbers within bounds, `values`, `kinds`.

    Parameters
    ----------
    over, least, below : float or None
        Bounds of a number; without any, no number is allowed.
    whole : bool
        Whether numbers must be whole (``int``, not 3.0).
    values : tuple
        Words, True, False, None.
    kinds : tuple of type
        Objects of these types are allowed as well.
    help : str
        A few words for the command line, which has an option for each parameter that is told so.

    Examples
    --------
    >>> C = Parameter(over=0, values=("auto",))
    >>> print(C), C.holds(0.1), C.holds("auto"), C.holds("best"), C.holds(True), C.holds(float("nan"))
    a number over 0 or 'auto'
    (None, True, True, False, False, False)
    """

    over: float | None = None
    least: float | None = None
    below: float | None = None
    whole: bool = False
    values: tuple[str | bool | None, ...] = ()
    kinds: tuple[type, ...] = ()
    help: str = ""

    def holds(self, value: Any) -> bool:
        """Say whether a value is allowed."""
        plain = value.item() if isinstance(value, np.generic) else value
        # by type, too: 1 == True
        if any(type(plain) is type(one) and plain == one for one in self.values):
            return True
        if self.kinds and isinstance(plain, self.kinds):
            return True
        numbers = int if self.whole else (int, float)
        unbounded = self.over is None and self.least is None and self.below is None
        if unbounded or isinstance(plain, bool) or not isinstance(plain, numbers):
            return False
        try:
            number = float(plain)
        except OverflowError:  # a whole number of hundreds of digits
            return False
        return math.isfinite(number) and all(
            (
                self.over is None or number > self.over,
                self.least is None or number >= self.least,
                self.below is None or number < self.below,
            )
        )

    def read(self, text: str) -> Any:
        """Return the value that a word on the command line stands for; `holds` says whether it is allowed.

        Raises
        ------
        ValueError
            If numbers are allowed, and it is neither a number nor one of the words.

        Examples
        --------
        >>> C = Parameter(over=0, values=("auto",))
        >>> C.read("0.1"), C.read("auto"), Parameter(values=(True, False)).read("false")
        (0.1, 'auto', False)
        """
        for word in (text, _WORDS.get(text.lower(), text)):
            if any(type(word) is type(one) and word == one for one in self.values):
                return word
        if not self._bounds:
            return text
        return int(text) if self.whole else float(text)

    @property
    def _bounds(self) -> str:
        """Return the bounds in words; empty where no number is allowed."""
        said = (("over", self.over), ("from", self.least), ("below", self.below))
        return " ".join(f"{word} {bound:g}" for word, bound in said if bound is not None)

    def __str__(self) -> str:
        number = [f"a {'whole ' if self.whole else ''}number {self._bounds}"] if self._bounds else []
        kinds = [f"a {kind.__name__}" for kind in self.kinds]
        said = [*number, *kinds, *map(repr, self.values)]
        return f"{', '.join(said[:-1])} or {said[-1]}" if len(said) > 1 else said[0]


def faults_of(table: Mapping[str, Parameter], given: Mapping[str, Any]) -> str:
    """Say which values are not allowed, e.g. ``"C=-1 (allowed: a number over 0)"``; empty where all are."""
    return "; ".join(
        f"{name}={_shown(given[name])} (allowed: {allowed})"
        for name, allowed in table.items()
        if name in given and not allowed.holds(given[name])
    )


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
