"""Pretrained backbones: their cut tables, their weights and preprocessing, and networks truncated at cuts.

The tables load without torch; what builds or loads a network is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featbank.backbones.catalogue import CutRow, cut_table
from featbank.backbones.families import FAMILIES, BackboneSpec, Cut, Family, Published, get_spec, names
from featbank.backbones.preprocessing import Preprocessing

if TYPE_CHECKING:
    from featbank.backbones.loading import Backbone, load_backbone
    from featbank.backbones.network import TruncatedNetwork, largest_activation, truncate
    from featbank.backbones.tail import Tail, cut_tail

__all__ = [
    "FAMILIES",
    "Backbone",
    "BackboneSpec",
    "Cut",
    "CutRow",
    "Family",
    "Preprocessing",
    "Published",
    "Tail",
    "TruncatedNetwork",
    "cut_table",
    "cut_tail",
    "get_spec",
    "largest_activation",
    "load_backbone",
    "names",
    "truncate",
]

_LAZY = {
    "Backbone": "loading",
    "load_backbone": "loading",
    "TruncatedNetwork": "network",
    "largest_activation": "network",
    "truncate": "network",
    "Tail": "tail",
    "cut_tail": "tail",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
