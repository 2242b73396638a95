"""Gathers features into whole shards and writes them on one thread, while the next batch is computed."""

from __future__ import annotations

import logging
import queue
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from featbank.errors import FeatureOverflowError
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    from torch import Tensor

    from featbank.banks import CutWriter, ShardPlan

__all__ = ["CutOverflowError", "ShardStore"]

logger = logging.getLogger(__name__)

#: Features that are no further from each other than this part of their length tell nothing apart, and how
#: many images say so at least.
_ALIKE, _LEAST_ALIKE = 0.01, 3

#: Shards waiting for the disk, all cuts together; more would only hide a slow disk in memory.
_WAITING = 2


class CutOverflowError(FeatureOverflowError):
    """A finite feature of one cut is too large for what the cut is stored as.

    Parameters
    ----------
    message : str
        The text.
    cut : str
        The cut.
    """

    def __init__(self, message: str, cut: str) -> None:
        super().__init__(message)
        self.cut = cut


class _Shard:
    """One shard being filled."""

    def __init__(self, plan: ShardPlan, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> None:
        self.plan = plan
        self.features = np.zeros((plan.stop - plan.start, *shape), dtype=dtype)
        self.statuses = np.full(plan.stop - plan.start, RowStatus.ABSENT, dtype=np.uint8)
        self.filled = 0


@dataclass
class _Alike:
    """Whether all rows of a cut so far are the same, or nearly."""

    #: The first row; None before it, and once another row has differed from it.
    first: NDArray[np.float64] | None = None
    n_rows: int = 0
    distance: float = 0.0

    def add(self, rows: NDArray[np.floating]) -> None:
        if self.n_rows and self.first is None:
            return
        for row in rows:
            flat = row.ravel().astype(np.float64)
            self.n_rows += 1
            if self.n_rows == 1:
                self.first = flat
            elif self.first is not None:
                scale = max(float(np.linalg.norm(self.first)), float(np.linalg.norm(flat)))
                off = float(np.linalg.norm(flat - self.first)) / scale if scale else 0.0
                self.distance = max(self.distance, off)
                if off > _ALIKE:
                    self.first = None
                    return


class ShardStore:
    """Takes batches in slot order and writes a shard as soon as it is whole.

    Parameters
    ----------
    writers : mapping of str to CutWriter
        One for each cut.
    missing : mapping of str to sequence of ShardPlan
        The shards each cut still needs.
    shapes : mapping of str to tuple of int
        Shape of one row.
    dtypes : mapping of str to numpy.dtype
        Stored dtype.
    clip : bool, default=False
        Store finite values that float16 cannot hold as the largest it can.

    Raises
    ------
    CacheWriteError
        From `add` or on leaving the block, when a shard could not be written; shards written before stay.
    """

    def __init__(
        self,
        writers: Mapping[str, CutWriter],
        missing: Mapping[str, Sequence[ShardPlan]],
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype[np.floating]],
        *,
        clip: bool = False,
    ) -> None:
        self._clip = clip
        self._writers = writers
        self._plans = {cut: list(plans) for cut, plans in missing.items()}
        self._shapes = shapes
        self._dtypes = dtypes
        self._open: dict[str, _Shard] = {}
        self._alike = {cut: _Alike() for cut in writers}
        self._queue: queue.Queue[tuple[str, _Shard] | None] = queue.Queue(_WAITING)
        self._failure: BaseException | None = None
        self._ending = False
        self._written = threading.Event()
        self._thread = threading.Thread(target=self._write, name="featbank-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whole shards are written even when the pass was interrupted: they are work done.
        try:
            self._finish_writing()
        except BaseException:  # interrupted while waiting: no file is left half written; the next one ends it
            self._finish_writing()
            raise
        if self._failure is not None and kind is None:
            raise self._failure
        if kind is None:
            self._tell_constant()

    def _finish_writing(self) -> None:
        if not self._ending:
            self._queue.put(None)
            self._ending = True
        # not join(): Python 3.11 takes a thread for ended when Ctrl-C comes while it waits for it
        self._written.wait()

    def _write(self) -> None:
        try:
            self._write_shards()
        finally:
            self._written.set()

    def _write_shards(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # keep emptying the queue, or the forward pass would wait for ever
            cut, shard = item
            try:
                self._writers[cut].write(shard.plan, shard.features, shard.statuses)
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
                self._failure = error

    def stored(
        self, statuses: NDArray[np.uint8], features: Mapping[str, Tensor], ids: Sequence[bytes]
    ) -> dict[str, NDArray[np.floating]]:
        """Check and cast the features of one batch where they are, and bring them to this side's memory.

        Changes nothing here, so that several threads may do it at once.

        Parameters
        ----------
        statuses : ndarray of uint8, shape (n,)
            `RowStatus` of each slot; rows that are not OK are stored as zeros.
        features : mapping of str to torch.Tensor, shape (n, *shape)
            What came out at each cut.
        ids : sequence of bytes, length n
            For the error message.

        Returns
        -------
        dict of str to ndarray, shape (n, *shape)
            In the stored dtype.

        Raises
        ------
        FeatureOverflowError
            If a value is not finite, or too large for the stored dtype.
        """
        return {cut: self._cast(cut, tensor, statuses, ids) for cut, tensor in features.items()}

    def add(
        self, start: int, statuses: NDArray[np.uint8], features: Mapping[str, NDArray[np.floating]]
    ) -> None:
        """Take one batch, as `stored` gave it; batches come in slot order.

        Parameters
        ----------
        start : int
            First slot.
        statuses : ndarray of uint8, shape (n,)
            `RowStatus` of each slot.
        features : mapping of str to ndarray, shape (n, *shape)
            One for each cut the batch is for.
        """
        if self._failure is not None:
            raise self._failure
        for cut, values in features.items():
            self._alike[cut].add(values[statuses == RowStatus.OK])
            shard = self._shard(cut, start)
            offset = start - shard.plan.start
            shard.features[offset : offset + len(values)] = values
            shard.statuses[offset : offset + len(values)] = statuses
            shard.filled += len(values)
            if shard.filled == len(shard.statuses):
                del self._open[cut]
                self._queue.put((cut, shard))

    def _tell_constant(self) -> None:
        for cut, alike in self._alike.items():
            if alike.n_rows < _LEAST_ALIKE or alike.first is None:
                continue
            if not alike.first.any():
                said, why = "all zero", "the weights may be dead"
            else:
                said = f"nearly the same, at most {alike.distance:.2g} of their length apart,"
                said, why = said if alike.distance else "the same", "the weights may be random"
            logger.warning(
                "the features of %r are %s for all %d images pushed, so no head can tell classes apart by "
                "them: %s, or of another range of values, or the images are all alike (such as black)",
                cut,
                said,
                alike.n_rows,
                why,
            )

    def _shard(self, cut: str, start: int) -> _Shard:
        if cut not in self._open:
            plans = self._plans[cut]
            plan = plans[bisect_right(plans, start, key=lambda one: one.start) - 1]
            self._open[cut] = _Shard(plan, self._shapes[cut], self._dtypes[cut])
        return self._open[cut]

    def _cast(
        self, cut: str, tensor: Tensor, statuses: NDArray[np.uint8], ids: Sequence[bytes]
    ) -> NDArray[np.floating]:
        """Check and cast on the device, then copy; (n, *shape) in the stored dtype."""
        import torch

        ok = statuses == RowStatus.OK
        tensor = tensor.reshape(len(statuses), *self._shapes[cut]).float()
        if not ok.all():
            kept = torch.from_numpy(ok).to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            tensor = torch.where(kept, tensor, 0.0)
        # one copy, for which a card is waited for; both NaN if any value is
        lowest, highest = torch.stack(tensor.aminmax()).tolist() if tensor.numel() else (0.0, 0.0)
        largest = max(-lowest, highest)
        limit = float(np.finfo(self._dtypes[cut]).max)
        if not largest <= limit:
            if not self._clip or not largest < np.inf:
                self._overflow(cut, tensor, limit, ids)
            tensor = tensor.clamp(-limit, limit)
        dtype = torch.float16 if self._dtypes[cut] == np.float16 else torch.float32
        stored: NDArray[np.floating] = tensor.to(dtype).contiguous().cpu().numpy()
        return stored

    def _overflow(self, cut: str, tensor: Tensor, limit: float, ids: Sequence[bytes]) -> None:
        from featbank.manifest import printable

        flat = tensor.flatten(1)
        bad = ~(flat.abs() <= limit).all(dim=1)  # also true for NaN
        row = int(bad.nonzero()[0])
        worst = float(flat[row].abs().max())
        said = (
            f"{cut!r} of {printable(ids[row])!r} reaches {worst:.4g}, {self._dtypes[cut]} ends at "
            f"{limit:.4g}; this shard was not stored: "
        )
        if not worst < np.inf:
            raise FeatureOverflowError(f"{said}use --precision float32, or other weights: it is not finite")
        raise CutOverflowError(
            f"{said}use --on-overflow float32 (this cut alone), --dtype float32, or --on-overflow clip", cut
        )
