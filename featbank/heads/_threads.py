"""How many threads a training step is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["THREADED_STEP", "threads_for"]

#: Multiply-adds of a step below which one thread trains as fast as two: on two free cores 8.0 s against 8.4 s
#: for 32 heads, and on two busy ones 33 s against more than 60 s, which threads spend waiting for each other.
THREADED_STEP = 200_000_000


@contextlib.contextmanager
def threads_for(step: int, device: torch.device) -> Iterator[None]:
    """Use one thread for steps of so few multiply-adds that several only wait, and put the number back."""
    before = torch.get_num_threads()
    small = device.type == "cpu" and step < THREADED_STEP
    try:
        if small:
            torch.set_num_threads(1)
        yield
    finally:
        if small:
            torch.set_num_threads(before)
