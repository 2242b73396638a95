"""The order of a pass: runs of whole batches, and the cuts each is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Work", "run_size", "steps"]

#: Images decoded, and features checked and stored, at once: fewer at a time cost more than they give.
_RUN = 32


def run_size(batch_size: int) -> int:
    """Return how many slots are handed from stage to stage at once: whole batches, 32 images or more.

    Examples
    --------
    >>> run_size(4), run_size(5), run_size(64)
    (32, 35, 64)
    """
    return -(-_RUN // batch_size) * batch_size


def steps(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yield where each batch of a run of `n` begins and ends; one empty batch for nothing.

    Examples
    --------
    >>> list(steps(10, 4)), list(steps(0, 4))
    ([(0, 4), (4, 8), (8, 10)], [(0, 0)])
    """
    for start in range(0, max(n, 1), batch_size):
        yield start, min(start + batch_size, n)


@dataclass(frozen=True)
class Work:
    """Runs of slots and the cuts each still needs.

    Parameters
    ----------
    batch_size : int
        Slots per batch; batches start at multiples of it within a segment, so that they never cross a shard.
    segments : ndarray of int64, shape (n_segments + 1,)
        Boundaries of the segments.
    missing : mapping of str to list of (int, int)
        Cut -> slot ranges of the shards that are not there yet.
    """

    batch_size: int
    segments: NDArray[np.int64]
    missing: Mapping[str, list[tuple[int, int]]]

    def batches(self) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Yield (first slot, one past the last, cuts that need them), in slot order."""
        needed = {cut: self._mask(ranges) for cut, ranges in self.missing.items()}
        for first, last in zip(self.segments[:-1].tolist(), self.segments[1:].tolist(), strict=True):
            for start in range(first, last, self.batch_size):
                cuts = tuple(cut for cut, mask in needed.items() if mask[start])
                if cuts:
                    yield start, min(start + self.batch_size, last), cuts

    def runs(self, n_slots: int) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Yield what `batches` yields, neighbours for the same cuts joined to `n_slots`, or a batch less.

        Every batch but the last of a run is full, so that cutting the run up gives the same batches again.
        """
        size = n_slots // self.batch_size * self.batch_size
        run: tuple[int, int, tuple[str, ...]] | None = None
        for start, stop, cuts in self.batches():
            if run is not None:
                first, last, wanted = run
                full = (last - first) % self.batch_size == 0
                if full and last == start and wanted == cuts and last - first < size:
                    run = first, stop, cuts
                    continue
                yield run
            run = start, stop, cuts
        if run is not None:
            yield run

    def _mask(self, ranges: list[tuple[int, int]]) -> NDArray[np.bool_]:
        mask = np.zeros(int(self.segments[-1]) if len(self.segments) else 0, dtype=bool)
        for start, stop in ranges:
            mask[start:stop] = True
        return mask

    def slots(self) -> NDArray[np.int64]:
        """Return every slot that some cut still needs, in order."""
        if not self.missing:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.logical_or.reduce([self._mask(ranges) for ranges in self.missing.values()]))
