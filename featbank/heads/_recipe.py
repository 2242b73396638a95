"""What a head is to be trained by, and what came of it; plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Job", "Recipe", "TrainedHead"]


@dataclass(frozen=True)
class Recipe:
    """Settings the heads of one stack share; `hidden_units` 0 means no hidden layer."""

    hidden_units: int
    solver: Literal["adam", "sgd"]
    annealing: str
    annealing_epochs: float
    anneal_per: Literal["epoch", "step"]
    max_epochs: int
    tolerance_epochs: int
    tol: float
    monitor: Literal["accuracy", "loss"]
    batch_size: int
    dropout: float
    restore: Literal["best", "last"]


@dataclass(frozen=True)
class Job:
    """One head of a stack: its rows in the shared matrix, their targets, and what is its own."""

    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    lr: float
    alpha: float
    seed: int


@dataclass(frozen=True)
class TrainedHead:
    """One head after training: weights, then bias (1, width), layer by layer."""

    weights: list[NDArray[np.float32]]
    history: dict[str, NDArray[np.float64]]
    n_epochs: int
    best_epoch: int
    stop_reason: Literal["tolerance", "max_epochs", "not finite"]
    stuck: bool
    initial_loss: float
