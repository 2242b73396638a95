"""The pass itself: batches of slots through the backbone, into the shards that lack them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.extraction.storing import ShardStore
from featbank.extraction.work import Work
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from featbank.banks import Bank, CutWriter, ShardPlan
    from featbank.extraction.forward import Forward
    from featbank.extraction.images import BadImage, BatchLoader


@dataclass(frozen=True)
class Pass:
    """One pass over the slots that some cut lacks.

    Parameters
    ----------
    bank : Bank
        Where the features go.
    loader : BatchLoader
        Decodes the images of the bank's rows.
    forward : Forward
        Pushes them.
    writers : mapping of str to CutWriter
        One for each cut.
    missing : mapping of str to sequence of ShardPlan
        The shards each cut needs.
    clip : bool, default=False
        Store what float16 cannot hold as its largest value, instead of refusing it.
    """

    bank: Bank
    loader: BatchLoader
    forward: Forward
    writers: Mapping[str, CutWriter]
    missing: Mapping[str, Sequence[ShardPlan]]
    clip: bool = False

    @property
    def work(self) -> Work:
        """The runs of slots, and the cuts each needs."""
        ranges = {cut: [(one.start, one.stop) for one in plans] for cut, plans in self.missing.items()}
        return Work(self.forward.batch_size, self.bank.slot_table.segments, ranges)

    def push(self, pushed: NDArray[np.bool_], progress: Callable[[int, int], None] | None) -> list[BadImage]:
        """Push everything and write every shard; marks in `pushed` the slots whose image went through.

        Raises
        ------
        FeatureOverflowError
            If a value cannot be stored.
        CacheWriteError
            If a shard cannot be written; those written before stay.
        """
        batches = list(self.work.batches())
        rows = self.bank.slot_first_rows()
        total = sum(int((rows[start:stop] >= 0).sum()) for start, stop, _ in batches)
        bad: list[BadImage] = []
        done = 0
        shapes: dict[str, tuple[int, ...]] = {cut: one.shape for cut, one in self.writers.items()}
        dtypes: dict[str, Any] = {cut: one.dtype for cut, one in self.writers.items()}
        loaded = self.loader.batches((start, rows[start:stop].tolist()) for start, stop, _ in batches)
        with (
            ShardStore(self.writers, self.missing, shapes, dtypes, clip=self.clip) as shards,
            contextlib.closing(loaded),
        ):
            for (start, stop, cuts), batch in zip(batches, loaded, strict=True):
                bad += batch.bad
                ok = batch.statuses == RowStatus.OK
                features = self.forward(batch.images, cuts, n_images=int(ok.sum()))
                pushed[start:stop] |= ok
                ids = [self.bank.manifest.ids[row] if row >= 0 else b"" for row in rows[start:stop].tolist()]
                shards.add(start, batch.statuses, features, ids)
                done += int((rows[start:stop] >= 0).sum())
                if progress is not None:
                    progress(done, total)
        return bad
