"""What values the parameters of a head may take: one table per class, read by fits, names and study files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FLAG", "FRACTION", "NOT_NEGATIVE", "POSITIVE", "WHOLE", "Allowed", "faults_of"]

#: A value in a message is cut to so many characters.
_SHOWN = 60


@dataclass(frozen=True)
class Allowed:
    """The values one parameter may take: numbers within bounds (where there is one), `values`, `kinds`.

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

    Examples
    --------
    >>> C = Allowed(over=0, values=("auto",))
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

    def holds(self, value: Any) -> bool:
        """Say whether a value is allowed."""
        plain = value.item() if isinstance(value, np.generic) else value
        # by type, too: 1 == True
        if any(type(plain) is type(one) and plain == one for one in self.values):
            return True
        if self.kinds and isinstance(plain, self.kinds):
            return True
        numbers = int if self.whole else (int, float)
        if isinstance(plain, bool) or not isinstance(plain, numbers) or not self._bounds:
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


FLAG = Allowed(values=(True, False))
WHOLE = Allowed(least=1, whole=True)
POSITIVE = Allowed(over=0)
NOT_NEGATIVE = Allowed(least=0)
FRACTION = Allowed(least=0, below=1)


def faults_of(table: Mapping[str, Allowed], given: Mapping[str, Any]) -> str:
    """Say which values are not allowed, e.g. ``"C=-1 (allowed: a number over 0)"``; empty where all are."""
    return "; ".join(
        f"{name}={_shown(given[name])} (allowed: {allowed})"
        for name, allowed in table.items()
        if name in given and not allowed.holds(given[name])
    )


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
