"""The pass itself: batches of slots through the backbone, into the shards that lack them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featbank.extraction.storing import ShardStore
from featbank.extraction.work import Work, steps
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from featbank.banks import Bank, CutWriter, ShardPlan
    from featbank.extraction.device_images import ImageLoader
    from featbank.extraction.forward import Forward
    from featbank.extraction.images import BadImage, Batch

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class _Job:
    """One run of batches, and the cuts it is for."""

    start: int
    stop: int
    cuts: tuple[str, ...]
    batch: Batch

    @property
    def ok(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.batch.statuses == RowStatus.OK
        return found


def _one_cpu(forwards: Sequence[Forward]) -> bool:
    return len(forwards) == 1 and forwards[0].device.type == "cpu"


def in_turns(
    forwards: Sequence[Forward], compute: Callable[[Forward, J], R], jobs: Iterable[J]
) -> Iterator[tuple[J, R]]:
    """Compute jobs on several devices in turns, and hand them over in order.

    One CPU computes while nothing else does. A GPU has a thread of its own, so that the next batch is on its
    way while this one is stored; an error in a thread is raised here, at its job's turn.
    """
    if _one_cpu(forwards):
        for job in jobs:
            yield job, compute(forwards[0], job)
        return
    waiting: deque[tuple[J, Future[R]]] = deque()
    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1, "featbank-forward")) for _ in forwards]
        for number, job in enumerate(jobs):
            device = number % len(forwards)
            waiting.append((job, threads[device].submit(compute, forwards[device], job)))
            if len(waiting) > len(forwards):
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


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
        Push them, one for each device, in turns; what comes out does not depend on how many there are.
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

        `begin` is called once, when the first features have come out and can be stored, before any is.

        Raises
        ------
        FeatureOverflowError
            If a value cannot be stored.
        CacheWriteError
            If a shard cannot be written; those written before stay.
        """
        runs = list(self.work.runs())
        rows, manifest = self.bank.slot_first_rows(), self.bank.manifest
        total = sum(int((rows[start:stop] >= 0).sum()) for start, stop, _ in runs)
        bad: list[BadImage] = []
        done = 0
        for cuts in dict.fromkeys(cuts for _, _, cuts in runs):
            for forward in self.forwards:
                # now, while no other device computes
                forward.ready(cuts)
        shapes: dict[str, tuple[int, ...]] = {cut: one.shape for cut, one in self.writers.items()}
        dtypes: dict[str, Any] = {cut: one.dtype for cut, one in self.writers.items()}
        loaded = self.loader.batches(
            ((start, rows[start:stop].tolist()) for start, stop, _ in runs),
            # a CPU decodes or computes: a network's threads wait for the one whose core a decoder has
            bursts=_one_cpu(self.forwards),
        )
        with (
            ShardStore(self.writers, self.missing, shapes, dtypes, clip=self.clip) as shards,
            contextlib.closing(loaded),
        ):

            def compute(forward: Forward, job: _Job) -> dict[str, NDArray[np.floating]]:
                features = forward(job.batch.images, job.cuts, n_images=int(job.ok.sum()))
                ids = [manifest.ids[row] if row >= 0 else b"" for row in rows[job.start : job.stop].tolist()]
                return shards.stored(job.batch.statuses, features, ids)

            jobs = (
                _Job(start, stop, cuts, batch)
                for (start, stop, cuts), batch in zip(runs, loaded, strict=True)
            )
            for job, features in in_turns(self.forwards, compute, jobs):
                if begin is not None:
                    begin()
                    begin = None
                bad += job.batch.bad
                pushed[job.start : job.stop] |= job.ok
                # batch by batch: a run may reach over the end of a shard
                for start, stop in steps(job.stop - job.start, self._batch_size):
                    parts = {cut: values[start:stop] for cut, values in features.items()}
                    shards.add(job.start + start, job.batch.statuses[start:stop], parts)
                done += int((rows[job.start : job.stop] >= 0).sum())
                if progress is not None:
                    progress(done, total)
        return bad
