"""Pretrained backbones: their cut tables, their weights and preprocessing, and networks truncated at cuts.

The tables load without torch; what builds or loads a network is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featbank.backbones._family import FAMILIES, OWN_FAMILIES, Family, Published, family_of, get_spec
from featbank.backbones._spec import OF_A_MODULE, BackboneSpec, Cut
from featbank.backbones.catalogue import CutRow, cut_table, names
from featbank.backbones.preprocessing import TRANSFORMS, Preprocessing

if TYPE_CHECKING:
    from featbank.backbones._trained import NETWORK_FILE, write_network
    from featbank.backbones.loading import Backbone, load_backbone, load_recorded
    from featbank.backbones.network import TruncatedNetwork, largest_activation, truncate
    from featbank.backbones.tail import Tail, cut_tail, map_before

__all__ = [
    "FAMILIES",
    "NETWORK_FILE",
    "OF_A_MODULE",
    "OWN_FAMILIES",
    "TRANSFORMS",
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
    "family_of",
    "get_spec",
    "largest_activation",
    "load_backbone",
    "load_recorded",
    "map_before",
    "names",
    "truncate",
    "write_network",
]

_LAZY = {
    "Backbone": "loading",
    "load_backbone": "loading",
    "load_recorded": "loading",
    "TruncatedNetwork": "network",
    "largest_activation": "network",
    "truncate": "network",
    "Tail": "tail",
    "cut_tail": "tail",
    "map_before": "tail",
    "NETWORK_FILE": "_trained",
    "write_network": "_trained",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
