"""How many threads a training step is worth, and several trainings at once where it is worth one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["THREADED_STEP", "each_on_a_thread", "threads_for", "workers_for"]

R = TypeVar("R")

#: Multiply-adds of a step below which one thread trains as fast as two: on two free cores 8.0 s against 8.4 s
#: for 32 heads, and on two busy ones 33 s against more than 60 s, which threads spend waiting for each other.
THREADED_STEP = 200_000_000

# The number torch is told is that of the calling thread and of all threads begun later. Read while another
# training has set it to 1, the 1 would be what is put back, for good; so the first one in remembers it.
_lock = threading.Lock()
_inside = 0
_usual = 1


@contextlib.contextmanager
def threads_for(step: int, device: torch.device) -> Iterator[None]:
    """Use one thread for steps of so few multiply-adds that several only wait, and put the number back."""
    global _inside, _usual
    if device.type != "cpu" or step >= THREADED_STEP:
        yield
        return
    with _lock:
        if not _inside:
            _usual = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_usual)


def workers_for(step: int, device: torch.device) -> int:
    """Return how many trainings of steps of so many multiply-adds are worth running at once."""
    return torch.get_num_threads() if device.type == "cpu" and step < THREADED_STEP else 1


def each_on_a_thread(tasks: Sequence[Callable[[], R]], n_workers: int) -> list[R]:
    """Call all `tasks`, `n_workers` at a time, and return what they return, in order.

    The operations of a step release the interpreter's lock, and are long enough to keep two cores busy.
    """
    if n_workers == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(n_workers) as pool:
        return list(pool.map(lambda task: task(), tasks))
