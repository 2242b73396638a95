"""How the learning rate falls while a head trains."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Annealing", "annealed"]

Annealing = Literal["inverse-time", "cosine", "step", "constant"]

#: What "step" multiplies the rate by every `annealing_epochs`.
STEP_FACTOR = 0.1


def annealed(annealing: str, t: float, annealing_epochs: float, max_epochs: int) -> float:
    """Return what the learning rate is multiplied by after `t` epochs.

    Parameters
    ----------
    annealing : {"inverse-time", "cosine", "step", "constant"}
        ``1 / (1 + t/T)``; half a cosine wave from 1 at the start to 0 at `max_epochs`; a tenth every T
        epochs; 1.
    t : float
        Epochs done, with a fraction when the rate changes at every step.
    annealing_epochs : float
        T of the first and third.
    max_epochs : int
        Where the cosine ends.

    Examples
    --------
    >>> [round(annealed("inverse-time", t, 10.0, 100), 3) for t in (0, 10, 30)]
    [1.0, 0.5, 0.25]
    """
    if annealing == "inverse-time":
        return 1.0 / (1.0 + t / annealing_epochs)
    if annealing == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(t / max_epochs, 1.0)))
    if annealing == "step":
        return float(STEP_FACTOR ** math.floor(t / annealing_epochs))
    return 1.0
