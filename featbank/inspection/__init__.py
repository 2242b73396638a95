"""Looking inside: filters, activations, dreams, occlusion, class activation maps, mistakes, suspects.

Displays, as in `plots`: a display stores what is shown; ``plot`` draws it, ``save`` writes PNG or SVG.
"""

from __future__ import annotations

from featbank.inspection.activations import ActivationsDisplay
from featbank.inspection.attribution import CamDisplay, OcclusionDisplay
from featbank.inspection.beside import BesideDisplay
from featbank.inspection.dream import DreamDisplay
from featbank.inspection.filters import FiltersDisplay
from featbank.inspection.images import RunImages
from featbank.inspection.mistakes import Mistake, MistakesDisplay, find_mistakes
from featbank.inspection.suspects import Suspects, SuspectsDisplay, find_suspects

__all__ = [
    "ActivationsDisplay",
    "BesideDisplay",
    "CamDisplay",
    "DreamDisplay",
    "FiltersDisplay",
    "Mistake",
    "MistakesDisplay",
    "OcclusionDisplay",
    "RunImages",
    "Suspects",
    "SuspectsDisplay",
    "find_mistakes",
    "find_suspects",
]
