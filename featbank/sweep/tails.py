"""The layers behind the cuts of a bank, for heads that train on from these."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featbank.banks import Bank
from featbank.errors import InvalidInputError
from featbank.sweep.spec import HeadGrid

if TYPE_CHECKING:
    from featbank.backbones import Backbone
    from featbank.heads.tail import Tail

__all__ = ["attached", "open_tails", "wants_tail"]


def wants_tail(grid: HeadGrid) -> bool:
    """Say whether heads of a grid are made of layers of the backbone."""
    return hasattr(grid.members[0].make(0), "attach")


def attached(grid: HeadGrid, tail: Tail) -> HeadGrid:
    """Return a grid whose heads are made with the layers behind the cut."""

    def behind(make: Callable[[int], Any]) -> Callable[[int], Any]:
        return lambda seed: make(seed).attach(tail)

    made = tuple(replace(one, make=behind(one.make)) for one in grid.members)
    for one in made:
        one.make(0)  # layers that are not there are told before any fit
    return replace(grid, members=made)


def open_tails(
    bank: Any,
    cuts: Sequence[str],
    backbone: Backbone | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> dict[str, Tail]:
    """Load the backbone of a bank and take the layers behind each of these cuts.

    Parameters
    ----------
    bank : Bank
    cuts : sequence of str
    backbone : Backbone, optional
        The bank's own, where it was made by ``Backbone.from_module``.
    weights : path, optional
        The weights file, if it is no longer where it was.

    Raises
    ------
    InvalidInputError
        If `bank` is none, or no tail begins at one of the cuts.
    MissingWeightsError, WeightsError
        If the weights are not there any more, or are others.
    """
    from featbank.backbones import cut_tail
    from featbank.backbones.loading import load_recorded

    if not isinstance(bank, Bank):
        raise InvalidInputError(
            f"the tail head is made of the layers of a bank's backbone, and a {type(bank).__name__} has "
            "none; give a Bank, or take another head"
        )
    key, said = bank.key, bank.provenance
    record = {name: getattr(key, name) for name in ("backbone", "image_size", "weights_sha256")}
    record |= {name: said.get(name) for name in ("weights", "weights_path", "random_state")}
    loaded = load_recorded(record, f"bank {bank.name!r}", weights=weights, backbone=backbone)
    return {cut: cut_tail(loaded, cut) for cut in cuts}
