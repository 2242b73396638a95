"""Nodes that are none: what hands out items is tried without Ray, and without waiting."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from featbank.engines import Outcome


class SimulatedPool:
    """Nodes with a clock that jumps; each takes the item that waits longest.

    That is what Ray was seen to do: of three nodes, one ten times as slow, that one took 5 of 100 items, and
    none waited for it.

    Parameters
    ----------
    n_nodes : int
        One item at a time each.
    takes : callable
        Seconds that an item takes.
    """

    def __init__(self, n_nodes: int, takes: Callable[[Any], float]) -> None:
        self.n_nodes, self.takes = n_nodes, takes
        self.time = self.busy_s = 0.0
        self.waiting: deque[Any] = deque()
        self.running: list[tuple[float, Any]] = []
        self.most = 0

    def slots(self) -> int:
        return self.n_nodes

    def now(self) -> float:
        return self.time

    def submit(self, item: Any) -> Any:
        self.waiting.append(item)
        self._begin()
        self.most = max(self.most, len(self.waiting) + len(self.running))
        return item

    def _begin(self) -> None:
        while self.waiting and len(self.running) < self.n_nodes:
            item = self.waiting.popleft()
            heapq.heappush(self.running, (self.time + self.takes(item), item))
            self.busy_s += self.takes(item)

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> list[Any]:
        until, item = self.running[0]
        if until > self.time + timeout_s:
            self.time += timeout_s
            return []
        heapq.heappop(self.running)
        self.time = until
        self._begin()
        return [item]

    def outcome(self, ticket: Any, item: Any) -> Outcome[Any, Any]:
        return Outcome(item, item, duration_s=self.takes(item))
