"""The pass itself: batches of slots through the backbone, into the shards that lack them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank.extraction.forward import results
from featbank.extraction.storing import ShardStore, Slots
from featbank.extraction.work import Work, steps
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from torch import Tensor

    from featbank.banks import Bank, CutWriter, ShardPlan
    from featbank.extraction.device_images import ImageLoader
    from featbank.extraction.forward import Forward
    from featbank.extraction.images import BadImage, Batch


@dataclass(frozen=True, eq=False)
class _Run:
    """Some batches that are being pushed."""

    start: int
    stop: int
    batch: Batch
    slots: Sequence[Slots]
    #: Of each batch; what each returns is to be called before its features are counted in.
    futures: Sequence[Future[Callable[[], None]]]


@dataclass(frozen=True)
class Pass:
    """One pass over the slots that some cut lacks.

    Parameters
    ----------
    bank : Bank
        Where the features go.
    loader : BatchLoader or DeviceBatchLoader
        Decodes the images of the bank's rows.
    forwards : sequence of Forward
        Push them, one for each device, in turns; what comes out does not depend on how many there are, nor on
        how many lanes they have.
    writers : mapping of str to CutWriter
        One for each cut.
    missing : mapping of str to sequence of ShardPlan
        The shards each cut needs.
    clip : bool, default=False
        Store what float16 cannot hold as its largest value, instead of refusing it.
    """

    bank: Bank
    loader: ImageLoader
    forwards: Sequence[Forward]
    writers: Mapping[str, CutWriter]
    missing: Mapping[str, Sequence[ShardPlan]]
    clip: bool = False

    @property
    def work(self) -> Work:
        """The runs of slots, and the cuts each needs."""
        ranges = {cut: [(one.start, one.stop) for one in plans] for cut, plans in self.missing.items()}
        return Work(self._batch_size, self.bank.slot_table.segments, ranges)

    @property
    def _batch_size(self) -> int:
        return self.forwards[0].batch_size

    def push(
        self,
        pushed: NDArray[np.bool_],
        progress: Callable[[int, int], None] | None,
        begin: Callable[[], None] | None = None,
    ) -> list[BadImage]:
        """Push everything and write every shard; marks in `pushed` the slots whose image went through.

        While one run of slots is computed the next is waiting, others are decoded, and shards are written. An
        error, wherever it happens, is raised when it is its run's turn: what came before is stored.

        `begin` is called once, when the first features have come out and can be stored, before any is.

        Raises
        ------
        FeatureOverflowError
            If a value cannot be stored.
        CacheWriteError
            If a shard cannot be written; those written before stay.
        """
        runs = list(self.work.runs(self.loader.run_slots))
        rows = self.bank.slot_first_rows()
        total = sum(int((rows[start:stop] >= 0).sum()) for start, stop, _ in runs)
        bad: list[BadImage] = []
        done = 0
        for cuts in dict.fromkeys(cuts for _, _, cuts in runs):
            for forward in self.forwards:
                # now, while no other device computes
                forward.ready(cuts)
        at_once = 2 * len(self.forwards)
        loaded = self.loader.batches(((start, rows[start:stop]) for start, stop, _ in runs), held=at_once)
        on_card = self.forwards[0].device.type == "cuda"
        waiting: deque[_Run] = deque()
        with (
            ShardStore(self.writers, self.missing, clip=self.clip, on_card=on_card) as shards,
            contextlib.closing(loaded),
            _none_left_running(waiting),
        ):

            def settle() -> None:
                nonlocal begin, done
                run = waiting[0]
                for ready in results(run.futures):
                    ready()
                waiting.popleft()
                if begin is not None:
                    begin()
                    begin = None
                bad.extend(run.batch.bad)
                pushed[run.start : run.stop] |= run.batch.statuses == RowStatus.OK
                for slots in run.slots:
                    shards.add(slots)
                done += int((rows[run.start : run.stop] >= 0).sum())
                if progress is not None:
                    progress(done, total)

            for number, ((start, stop, cuts), batch) in enumerate(zip(runs, loaded, strict=True)):
                forward = self.forwards[number % len(self.forwards)]
                waiting.append(self._submitted(forward, shards, rows, start, stop, cuts, batch))
                if len(waiting) == at_once:
                    settle()
            while waiting:
                settle()
        return bad

    def _submitted(
        self,
        forward: Forward,
        shards: ShardStore,
        rows: NDArray[np.int64],
        start: int,
        stop: int,
        cuts: tuple[str, ...],
        batch: Batch,
    ) -> _Run:
        ids = self.bank.manifest.ids
        # batch by batch: a run may reach over the end of a shard
        slots = {
            first: shards.reserve(start + first, batch.statuses[first:last], cuts)
            for first, last in steps(stop - start, self._batch_size)
        }

        def store(first: int, features: dict[str, Tensor]) -> Callable[[], None]:
            return shards.fill(slots[first], features, lambda at: ids[rows[start + first + at]])

        n_images = int((batch.statuses == RowStatus.OK).sum())
        futures = forward.submit(batch.images, cuts, store, n_images=n_images)
        return _Run(start, stop, batch, list(slots.values()), futures)


@contextlib.contextmanager
def _none_left_running(waiting: deque[_Run]) -> Iterator[None]:
    """Wait, when the pass ends early, for what its lanes have begun: they read memory that is used again."""
    try:
        yield
    finally:
        futures = [future for run in waiting for future in run.futures]
        for future in futures:
            future.cancel()
        wait(futures)
