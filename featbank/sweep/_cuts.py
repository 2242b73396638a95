"""What a sweep needs of a bank, and which of its cuts are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank._registry import nearest
from featbank.errors import FeatbankError, InvalidInputError, UnknownNameError
from featbank.manifest import Manifest

__all__ = ["FeatureSource", "by_depth", "choose_cuts"]

SOFTMAX, LOGITS = "softmax", "logits"


class FeatureSource(Protocol):
    """What a sweep needs of a bank."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the complete cuts."""

    @property
    def manifest(self) -> Manifest:
        """The rows."""

    def features(self, cut: str, rows: Any = None, dtype: Any = np.float32) -> NDArray[Any]:
        """Return rows of a cut, shape (n_rows, n_features)."""

    def softmax(self, temperature: float, rows: Any = None) -> NDArray[np.float32]:
        """Return softmax(logits / temperature), shape (n_rows, n_classes)."""


def choose_cuts(
    bank: FeatureSource, cuts: Sequence[str] | None, temperatures: Sequence[float] | None
) -> list[tuple[str, float | None]]:
    """Return (cut, temperature) of what is to be fitted, from shallow to deep; see `run_sweep`."""
    known = list(bank.cuts)
    asked = list(dict.fromkeys(known if cuts is None else cuts))
    for cut in asked:
        needed = LOGITS if cut == SOFTMAX else cut
        if needed not in known:
            because = " (softmax is derived from logits)" if cut == SOFTMAX else ""
            raise UnknownNameError(f"the bank has no cut {needed!r}{because}; it has {nearest(cut, known)}")
    if not asked:
        raise InvalidInputError(
            "the bank has no complete cut; extract one first, e.g. featbank extract --cut fc7"
        )
    if temperatures is not None and SOFTMAX not in asked:
        raise InvalidInputError(
            f"temperatures={list(temperatures)!r} (--temperature) are for the cut 'softmax', "
            f"got {', '.join(map(repr, asked))}; add --cut softmax"
        )
    values = [1.0] if temperatures is None else [float(one) for one in dict.fromkeys(temperatures)]
    wrong = [one for one in values if not 0 < one < float("inf")]
    if wrong or not values:
        raise InvalidInputError(f"temperature={wrong[0] if wrong else None!r} must be a finite number over 0")
    chosen: list[tuple[str, float | None]] = []
    for cut in by_depth(bank, asked):
        chosen += [(cut, one) for one in values] if cut == SOFTMAX else [(cut, None)]
    return chosen


def by_depth(bank: FeatureSource, cuts: Sequence[str]) -> list[str]:
    """Return `cuts` from shallow to deep by the backbone's cut table; others come last, as given."""
    from featbank import backbones

    key = getattr(bank, "key", None)
    if key is None:
        return list(cuts)
    try:
        order = [cut.name for cut in backbones.get_spec(key.backbone).cuts]
    except FeatbankError:  # a backbone that is unknown here, or whose family is not installed
        return list(cuts)

    def depth(cut: str) -> int:
        base = cut.partition("@")[0]  # block4_pool@hflip is a view of block4_pool
        if base == SOFTMAX:
            return len(order)
        return order.index(base) if base in order else len(order) + 1

    return sorted(cuts, key=depth)
