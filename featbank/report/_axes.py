"""Axes of a chart: where a value stands, and which values are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "category_axis", "linear_axis", "log_axis", "percent_axis", "size_axis"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """One axis.

    Parameters
    ----------
    label : str
        Its name and unit.
    low, high : float
        Values at its two ends; positive and different if `log`.
    ticks : tuple of (float, str)
        What is written where.
    log : bool
        Whether equal ratios are equally long.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value stands, 0..1 within it.

        Examples
        --------
        >>> round(Axis("n", 4, 16, (), log=True).share(8), 6)
        0.5
        """
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def ticks_within(self, length: float, *, room: float) -> list[tuple[float, str]]:
        """Return the ticks that fit on `length` pixels; a tick is left out where its label would touch."""
        kept: list[tuple[float, str]] = []
        end = -math.inf
        for value, text in self.ticks:
            at = self.share(value) * length
            half = max(room, 7.0 * len(text)) / 2
            if at - half >= end:
                kept.append((value, text))
                end = at + half
        return kept


def linear_axis(label: str, values: Iterable[float], *, floor: float | None = None) -> Axis:
    """Return an axis with round ticks around all finite values; it starts at `floor` if that is given.

    Examples
    --------
    >>> [text for _, text in linear_axis("s", [0.2, 3.9], floor=0).ticks]
    ['0', '1', '2', '3', '4']
    """
    finite = [one for one in values if math.isfinite(one)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    low = low if floor is None else min(floor, low)
    span = (high - low) or max(abs(high), 1.0)
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in _STEPS if one * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple((one * step, f"{one * step:.6g}") for one in range(first, last + 1))
    return Axis(label, first * step, last * step, ticks)


def percent_axis(label: str, values: Iterable[float]) -> Axis:
    """Return an axis of percentages with a little room, but none beyond 0 and 100.

    Examples
    --------
    >>> axis = percent_axis("accuracy (%)", [61.0, 99.5])
    >>> axis.low, axis.high
    (60.0, 100.0)
    """
    finite = [one for one in values if math.isfinite(one)] or [0.0, 100.0]
    low, high = min(finite), max(finite)
    if high - low < 5:  # a flat line must look flat
        low, high = low - 2.5, high + 2.5
    found = linear_axis(label, [max(low, 0.0), min(high, 100.0)])
    return Axis(label, max(found.low, 0.0), min(found.high, 100.0), found.ticks)


def log_axis(label: str, values: Iterable[float]) -> Axis:
    """Return a logarithmic axis with powers of ten written, for positive values.

    Examples
    --------
    >>> [text for _, text in log_axis("loss (nats)", [0.004, 2.3]).ticks]
    ['0.001', '0.01', '0.1', '1', '10']
    """
    finite = [one for one in values if math.isfinite(one) and one > 0] or [0.1, 1.0]
    first = math.floor(math.log10(min(finite)))
    last = max(math.ceil(math.log10(max(finite))), first + 1)
    ticks = tuple((10.0**one, f"{10.0**one:g}") for one in range(first, last + 1))
    return Axis(label, 10.0**first, 10.0**last, ticks, log=True)


def size_axis(label: str, sizes: Mapping[float, str]) -> Axis:
    """Return an axis that doubles, with what is to be written at each value, and a little room at both ends.

    Examples
    --------
    >>> size_axis("samples per class (images)", {8: "8", 4: "4"}).ticks
    ((4, '4'), (8, '8'))
    """
    low, high = min(sizes), max(sizes)
    room = (high / low) ** 0.04 if high > low else 2.0
    ticks = tuple(sorted(sizes.items()))
    return Axis(label, low / room, high * room, ticks, log=True)


def category_axis(label: str, names: Sequence[str]) -> Axis:
    """Return an axis of names at 0, 1, 2, ..."""
    return Axis(label, -0.4, len(names) - 0.6, tuple((float(at), name) for at, name in enumerate(names)))
