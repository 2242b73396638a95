"""Handing out items to whoever computes, a bounded number at a time, and taking what comes of them.

It knows nothing of Ray: what computes is a `Pool`, and the tests have one with a clock of its own.
"""

from __future__ import annotations

import logging
from bisect import insort
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from featbank._registry import abbreviated

__all__ = ["Engine", "Outcome", "Pool", "map_unordered", "outcomes"]

logger = logging.getLogger(__name__)

I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")

#: Items on their way for each that can be computed at once: enough that nobody waits for the one who hands
#: out, and few enough that a node that dies loses nothing that matters.
PER_SLOT = 4
#: An item is overdue when it takes this many times the median, and as many seconds; told by so many.
OVERDUE, _OVERDUE_S, _ENOUGH = 10, 60.0, 5
#: How often it is looked whether nodes came or went and items are overdue, if nothing else happens.
_LOOK_S = 5.0


@dataclass(frozen=True)
class Outcome(Generic[I, R]):
    """What came of one item: a result or an error.

    Parameters
    ----------
    item : object
    result : object or None
    error : Exception or None
        What the function raised, or `WorkerLostError` if the processes that computed it died.
    duration_s : float
        Seconds in the function.

    Examples
    --------
    >>> good, bad = map_unordered(int, ["2", "three"])
    >>> good.get(), bad.item, bad.error
    (2, 'three', ValueError("invalid literal for int() with base 10: 'three'"))
    >>> bad.get()
    Traceback (most recent call last):
        ...
    ValueError: invalid literal for int() with base 10: 'three'
    """

    item: I
    result: R | None = None
    error: Exception | None = None
    duration_s: float = 0.0

    def get(self) -> R:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class Pool(Protocol):
    """What computes one function on items, several at once."""

    def slots(self) -> int:
        """Return how many items can be computed at once just now."""

    def submit(self, item: Any) -> Any:
        """Let an item be computed some time; return what it is known by until it is done."""

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return those that are done, as soon as there are any, or none when the time is over."""

    def outcome(self, ticket: Any, item: Any) -> Outcome[Any, Any]:
        """Return what came of one that is done."""

    def now(self) -> float:
        """Return the time in seconds."""


class Engine(Protocol):
    """Where a pool comes from, as `featbank.engines.RayEngine`."""

    def open(self, function: Callable[[Any], Any]) -> AbstractContextManager[Pool]:
        """Have a pool for a function as long as a block lasts."""


@dataclass
class _Flight:
    """An item on its way; when it was begun is guessed, see `outcomes`."""

    item: Any
    begun: float | None = None
    told: bool = False


def map_unordered(
    function: Callable[[I], R], items: Iterable[I], engine: Engine | None = None
) -> Generator[Outcome[I, R], None, None]:
    """Yield what a function makes of each item, in the order in which it is ready.

    Parameters
    ----------
    function : callable
        With an engine it is pickled once, and unpickled once in each process that computes: what is heavy is
        made, or opened, when it is unpickled or first called, and kept in it. What fails when it is unpickled
        is the node's fault, and ends everything; what fails when it is called becomes the item's error.
    items : iterable
        Small: names and numbers, never arrays.
    engine : RayEngine, optional
        Who computes; by default this process, one item after the other.

    Yields
    ------
    Outcome
        Of every item, once.

    Raises
    ------
    NodeError
        If a node cannot do its part: weights, bank or packages that are not there, or others.
    MissingPackageError, InvalidInputError
        If there is no Ray, no cluster, or none with so many cores.

    Examples
    --------
    >>> [(one.item, one.result) for one in map_unordered(abs, [-1, 2])]
    [(-1, 1), (2, 2)]
    >>> [type(one.error).__name__ for one in map_unordered(int, ["3", "three"])]
    ['NoneType', 'ValueError']
    """
    if engine is None:
        for item in items:
            try:
                outcome = Outcome(item, function(item))
            except Exception as error:  # noqa: BLE001 - whoever asked decides what to do with it
                outcome = Outcome(item, error=error)
            yield outcome
        return
    with engine.open(function) as pool:
        yield from outcomes(pool, items)


def outcomes(pool: Pool, items: Iterable[I]) -> Generator[Outcome[I, Any], None, None]:
    """Hand out items, `PER_SLOT` for each that can be computed at once, and yield what comes of them.

    When an item is begun is not known here. As many as can be computed at once, the oldest ones, are taken to
    be under way from the moment they are among the oldest; so what waits behind others is not overdue.

    Parameters
    ----------
    pool : Pool
    items : iterable

    Yields
    ------
    Outcome
    """
    left = iter(items)
    flying: dict[Any, _Flight] = {}
    durations: list[float] = []
    while True:
        slots = max(1, pool.slots())
        for item in islice(left, max(0, PER_SLOT * slots - len(flying))):
            flying[pool.submit(item)] = _Flight(item)
        if not flying:
            return
        now = pool.now()
        for flight in islice(flying.values(), slots):
            if flight.begun is None:
                flight.begun = now
        for ticket in pool.wait([*flying], _LOOK_S):
            outcome = pool.outcome(ticket, flying.pop(ticket).item)
            if outcome.error is None:
                insort(durations, outcome.duration_s)
            yield outcome
        _tell_overdue(islice(flying.values(), slots), durations, pool.now())


def _tell_overdue(flights: Iterable[_Flight], durations: Sequence[float], now: float) -> None:
    """Say once of each item when it takes far longer than others did."""
    if len(durations) < _ENOUGH:
        return
    median = durations[len(durations) // 2]
    limit = max(OVERDUE * median, _OVERDUE_S)
    for flight in flights:
        if flight.begun is not None and not flight.told and now - flight.begun > limit:
            flight.told = True
            logger.warning(
                "%s has taken %.0f s, others %.1f s (the median of %d): its node may hang, or be cut off; it "
                "is computed again when the cluster gives that node up",
                abbreviated(flight.item),
                now - flight.begun,
                median,
                len(durations),
            )
