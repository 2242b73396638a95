"""One function on many items: here, one after the other, or on the nodes of a Ray cluster."""

from featbank.engines._ray import RayEngine
from featbank.engines.mapping import Outcome, map_unordered

__all__ = ["Outcome", "RayEngine", "map_unordered"]
