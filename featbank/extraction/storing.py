"""The pass: batches of slots through the backbone, and what comes out into whole shards that lacked it.

Shards are written in threads, while the next batches are computed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import beside, file_digest, sha256
from featbank._bucket import BucketPath
from featbank._registry import Progress
from featbank.banks import Bank
from featbank.banks.bank import CutWriter
from featbank.banks.shards import ShardPlan
from featbank.errors import BankError, FeatureOverflowError
from featbank.extraction.forward import results, steps
from featbank.extraction.images import IN_USE
from featbank.extraction.planning import Missing, Part
from featbank.manifest import RowStatus, printable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.banks import QuarantineRecord
    from featbank.extraction.forward import Forward
    from featbank.extraction.images import Batch, BatchLoader

__all__ = [
    "CutOverflowError",
    "LenderError",
    "ShardStore",
    "SlotsToPush",
    "copy_part",
    "push_slots",
    "runs",
    "slots_to_push",
]

logger = logging.getLogger(__name__)

#: Slots that are pushed together: the first, one past the last, and the cuts that need them.
Run = tuple[int, int, tuple[str, ...]]

#: Features that are no further from each other than this part of their length tell nothing apart, and how
#: many images say so at least.
_ALIKE, _LEAST_ALIKE = 0.01, 3

#: Features larger than this are hardly those of images in the range that a network was trained on.
_EXPLODED = 1e4

#: Threads that hash and write shards, beside the lanes of a CPU and beside a card; as many shards again may
#: wait for them. More would only hide a slow disk in memory.
_CPU_WRITERS, _CARD_WRITERS = 2, 6


# What other banks hold is copied, row by row -------------------------------------------------------


class LenderError(Exception):
    """A bank whose features were to be copied is damaged, or gone.

    Parameters
    ----------
    bank : Bank
    reason : str
    """

    def __init__(self, bank: Bank, reason: str) -> None:
        super().__init__(reason)
        self.bank = bank


class _Lent:
    """What a bank lends of one cut."""

    def __init__(self, lender: Bank, writer: CutWriter) -> None:
        there = lender.cut_writer(writer.cut, writer.shape, writer.dtype)
        self.array = lender[writer.cut]
        self.made_by = {name: ", ".join(values) for name, values in there.made_by().items()}
        self._slots = lender.row_slots
        self._shards = there.plans()
        self._starts = np.array([one.start for one in self._shards], np.int64)
        names = lender.shard_names(writer.cut)
        self._files = {int(name.partition("-")[0]): there.folder / name for name in names}
        self._checked: set[Path] = set()

    def check(self, rows: NDArray[np.int64]) -> list[Path]:
        """Return the files that hold these rows; each must be what its name says, byte for byte."""
        places = np.searchsorted(self._starts, self._slots[rows], side="right") - 1
        used = []
        for place in np.unique(places).tolist():
            path = self._files.get(self._shards[place].number)
            if path is None:
                raise BankError(f"its shard {self._shards[place].number} is gone")
            if path not in self._checked:
                in_bucket = isinstance(path, BucketPath)
                digest = sha256(path.read_bytes()) if in_bucket else file_digest(path)
                if not path.stem.endswith(f"-{digest[:16]}"):
                    raise BankError(f"{str(path)!r} is not what was written")
                self._checked.add(path)
            used.append(path)
        return [path for path in used if not isinstance(path, BucketPath)]


def copy_part(missing: Missing, part: Part) -> None:
    """Write a shard of which nothing has to be pushed."""
    writer, none = missing.writers[part.cut], np.zeros(0, np.int64)
    write_part(missing, part, {}, none, np.zeros((0, *writer.shape), writer.dtype), none.astype(np.uint8))


def write_part(
    missing: Missing,
    part: Part,
    made_by: Mapping[str, str],
    slots: NDArray[np.int64],
    features: NDArray[Any],
    statuses: NDArray[np.uint8],
) -> None:
    """Write a shard of what was computed and what other banks hold.

    Parameters
    ----------
    missing : Missing
    part : Part
        Which one of its shards.
    made_by : mapping of str to str
        What computed the features.
    slots : ndarray of int64, shape (n,)
        Where the computed rows stand.
    features : ndarray, shape (n, *shape)
    statuses : ndarray of uint8, shape (n,)

    Raises
    ------
    LenderError
        If a row cannot be copied.
    """
    shard, writer = part.shard, missing.writers[part.cut]
    if not part.lending and len(slots) == shard.n_rows:
        writer.write(shard, features, statuses)
        return
    whole = np.zeros((shard.n_rows, *writer.shape), writer.dtype)
    found = np.full(shard.n_rows, RowStatus.ABSENT, np.uint8)
    whole[slots - shard.start], found[slots - shard.start] = features, statuses
    makers = [made_by] if len(slots) else []
    twins: list[Path] = []
    for number in part.lending:
        at, lender = np.flatnonzero(part.sources == number), missing.lenders[number]
        try:
            lent = missing.lent.get((part.cut, number)) or _Lent(lender, writer)
            missing.lent[part.cut, number] = lent
            twins += lent.check(part.rows[at])
            whole[at] = lent.array.read(part.rows[at], dtype=writer.dtype)
        except (BankError, OSError) as error:
            raise LenderError(lender, str(error)) from error
        makers.append(lent.made_by)
        found[at] = RowStatus.OK
    path = writer.write(shard, whole, found, _joined(makers))
    for twin in twins:
        if twin.name == path.name:  # and so are the bytes: one file on disk is enough
            _link_over(twin, path)


def _joined(makers: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what made the rows of a shard that come from several banks."""
    names = dict.fromkeys(name for one in makers for name in one)
    parts = {
        name: {part for one in makers for part in one.get(name, "").split(", ") if part} for name in names
    }
    return {name: ", ".join(sorted(values)) for name, values in parts.items()}


def _link_over(source: Path, path: Path) -> None:
    """Give a file the place of one with the same bytes; where that cannot be, there are two files."""
    with contextlib.suppress(OSError), beside(path) as temporary:
        os.link(source, temporary)
        temporary.replace(path)


# What is pushed ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SlotsToPush:
    """The slots of a bank whose images are pushed, close together.

    Parameters
    ----------
    rows : ndarray of int64, shape (n_slots,)
        The first row of each; -1 where the image is gone.
    digests : ndarray of uint8, shape (n_slots, 32)
    bounds : list of int
        Where shards of the bank begin and end: no batch crosses one.
    writers : mapping of str to ShardWriter
    shards : mapping of str to list of ShardPlan
        What each cut lacks, counted in these slots.
    """

    rows: NDArray[np.int64]
    digests: NDArray[np.uint8]
    bounds: list[int]
    writers: Mapping[str, ShardWriter]
    shards: Mapping[str, list[ShardPlan]]


@dataclass(frozen=True, eq=False)
class ShardWriter:
    """Takes the computed rows of a cut's shards; what other banks hold comes beside them."""

    missing: Missing
    cut: str
    parts: Sequence[Part]
    slots: NDArray[np.int64]
    made_by: Mapping[str, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.missing.writers[self.cut].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What features are stored as."""
        return self.missing.writers[self.cut].dtype

    def write(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> None:
        """Write one shard; `plan` counts in the slots to push."""
        slots = self.slots[plan.start : plan.stop]
        write_part(self.missing, self.parts[plan.number], self.made_by, slots, features, statuses)


def slots_to_push(missing: Missing, made_by: Mapping[str, str]) -> SlotsToPush:
    """Return the slots to push, close together: whole shards, or what no other bank holds of them."""
    parts = [part for part in missing.parts if part.unheld.any()]
    needed = np.zeros(len(missing.bank.slot_table), bool)
    for part in parts:
        needed[part.shard.start : part.shard.stop] |= part.unheld if part.lending else True
    slots = np.flatnonzero(needed)
    writers, shards, bounds = {}, {}, set[int]()
    for cut in missing.writers:
        own = [part for part in parts if part.cut == cut]
        ends = np.searchsorted(slots, [(one.shard.start, one.shard.stop) for one in own]).tolist()
        writers[cut] = ShardWriter(missing, cut, own, slots, made_by)
        shards[cut] = [ShardPlan(number, *one) for number, one in enumerate(ends)]
        bounds.update(end for one in ends for end in one)
    rows, digests = missing.bank.slot_first_rows()[slots], missing.bank.slot_table.digests[slots]
    return SlotsToPush(rows, digests, sorted(bounds), writers, shards)


def runs(
    n_slots: int, batch_size: int, bounds: Sequence[int], shards: Mapping[str, Sequence[ShardPlan]]
) -> Iterator[Run]:
    """Yield the slots to push in order, as many neighbours for the same cuts together as `n_slots` allow.

    Parameters
    ----------
    n_slots, batch_size : int
    bounds : sequence of int
        Where shards begin and end, ascending: batches start at multiples of `batch_size` from each of these
        on, so that none crosses a shard. A batch that is short ends its run.
    shards : mapping of str to sequence of ShardPlan
        Those that are not there yet, of each cut.
    """
    size = n_slots // batch_size * batch_size
    starts = {cut: [one.start for one in plans] for cut, plans in shards.items()}
    run: Run | None = None
    for first, last in pairwise(bounds):
        places = {cut: bisect_right(starts[cut], first) - 1 for cut in shards}
        cuts = tuple(cut for cut, at in places.items() if at >= 0 and first < shards[cut][at].stop)
        start = first
        if run is not None:
            if run[1:] == (first, cuts) and (first - run[0]) % batch_size == 0:
                start = run[0]
            else:
                yield run
        while cuts and last - start > size:
            yield start, start + size, cuts
            start += size
        run = (start, last, cuts) if cuts else None
    if run is not None:
        yield run


@dataclass(frozen=True, eq=False)
class _Pushed:
    """A run that is being pushed."""

    start: int
    stop: int
    batch: Batch
    slots: Sequence[Slots]
    #: Of each batch; what each returns is to be called before its features are counted in.
    futures: Sequence[Future[Callable[[], None]]]


def push_slots(
    todo: SlotsToPush,
    loader: BatchLoader,
    forwards: Sequence[Forward],
    pushed: NDArray[np.bool_],
    progress: Progress | None,
    begin: Callable[[], None],
    *,
    clip: bool,
) -> list[QuarantineRecord]:
    """Push the slots that some cut lacks, and write every shard.

    While one run of slots is computed the next is waiting, others are decoded, and shards are written. An
    error, wherever it happens, is raised when it is its run's turn: what came before is stored.

    Parameters
    ----------
    todo : SlotsToPush
    loader : BatchLoader
        Decodes the images of the rows.
    forwards : sequence of Forward
        Push them, one for each device, in turns; what comes out does not depend on how many there are, nor on
        how many lanes they have.
    pushed : ndarray of bool, shape (n_slots,)
        The slots whose image went through are marked.
    progress : callable, optional
        Called with (images done, images to push).
    begin : callable
        Called when the first features have come out and can be stored, before any is; perhaps again.
    clip : bool
        Store what float16 cannot hold as its largest value, instead of refusing it.

    Returns
    -------
    list of QuarantineRecord
        The images that could not be read.

    Raises
    ------
    FeatureOverflowError
        If a value cannot be stored.
    CacheWriteError
        If a shard cannot be written; those written before stay.
    """
    batch_size, rows, ids = forwards[0].batch_size, todo.rows, loader.manifest.ids
    planned = list(runs(loader.run_slots, batch_size, todo.bounds, todo.shards))
    n_images, bad, done = int((rows >= 0).sum()), list["QuarantineRecord"](), 0
    for cuts in dict.fromkeys(cuts for _, _, cuts in planned):
        for forward in forwards:
            # now, while no other device computes
            forward.ready(cuts)
    at_once = IN_USE * len(forwards)
    loaded = loader.batches(((start, rows[start:stop]) for start, stop, _ in planned), held=at_once)
    waiting: deque[_Pushed] = deque()
    with (
        ShardStore(todo.writers, todo.shards, clip=clip, on_card=forwards[0].device.type == "cuda") as shards,
        contextlib.closing(loaded),
        _none_left_running(waiting),
    ):

        def submit(forward: Forward, run: Run, batch: Batch) -> None:
            start, stop, cuts = run
            # batch by batch: a run may reach over the end of a shard
            slots = {
                first: shards.reserve(start + first, batch.statuses[first:last], cuts)
                for first, last in steps(stop - start, batch_size)
            }

            def store(first: int, features: dict[str, Tensor]) -> Callable[[], None]:
                return shards.fill(slots[first], features, lambda at: ids[rows[start + first + at]])

            futures = forward.submit(batch.images, cuts, store)
            waiting.append(_Pushed(start, stop, batch, list(slots.values()), futures))

        def settle() -> None:
            nonlocal done
            run = waiting[0]
            for ready in results(run.futures):
                ready()
            waiting.popleft()
            if not done:
                begin()
            bad.extend(run.batch.bad)
            pushed[run.start : run.stop] |= run.batch.statuses == RowStatus.OK
            for slots in run.slots:
                shards.add(slots)
            first = not done
            done += int((rows[run.start : run.stop] >= 0).sum())
            if first and done < n_images:  # while little is lost by starting again
                shards.tell_odd(f"the first {done}")
            if progress is not None:
                progress(done, n_images)

        for number, (run, batch) in enumerate(zip(planned, loaded, strict=True)):
            submit(forwards[number % len(forwards)], run, batch)
            if len(waiting) == at_once:
                settle()
        while waiting:
            settle()
    return bad


@contextlib.contextmanager
def _none_left_running(waiting: deque[_Pushed]) -> Iterator[None]:
    """Wait, when the pass ends early, for what its lanes have begun: they read memory that is used again."""
    try:
        yield
    finally:
        futures = [future for run in waiting for future in run.futures]
        for future in futures:
            future.cancel()
        wait(futures)


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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.cut)


@dataclass
class _Shard:
    """One shard being filled, in memory that was another's before."""

    plan: ShardPlan
    #: Shape (rows, *shape), in the stored dtype; page-locked beside a card.
    features: Tensor
    statuses: NDArray[np.uint8]
    filled: int = 0
    #: Held by whoever writes it.
    lock: threading.RLock = field(default_factory=threading.RLock)
    written: bool = False


@dataclass(frozen=True)
class Slots:
    """Where the features of one batch go.

    Parameters
    ----------
    statuses : ndarray of uint8, shape (n,)
        `RowStatus` of each slot.
    """

    statuses: NDArray[np.uint8]
    #: Cut -> its shard, and where in it the batch begins.
    _shards: dict[str, tuple[_Shard, int]] = field(default_factory=dict)

    def at(self, cut: str) -> Tensor:
        """The features of the slots at a cut: (n, *shape), in the stored dtype."""
        shard, first = self._shards[cut]
        return shard.features[first : first + len(self.statuses)]


@dataclass
class _Alike:
    """Whether all rows of a cut so far are the same, or nearly."""

    #: The first row; None before it, and once another row has differed from it.
    first: NDArray[np.float64] | None = None
    n_rows: int = 0
    distance: float = 0.0

    def add(self, rows: NDArray[np.floating], ok: NDArray[np.bool_]) -> None:
        if self.n_rows and self.first is None:
            return
        for row in rows[ok]:
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

    For each batch: `reserve` says where its features go, `fill` checks, casts and brings them there, in any
    thread and any order, and `add` counts them in, in slot order again.

    Parameters
    ----------
    writers : mapping of str to ShardWriter
        One for each cut.
    missing : mapping of str to sequence of ShardPlan
        The shards each cut still needs.
    clip : bool, default=False
        Store finite values that float16 cannot hold as the largest it can.
    on_card : bool, default=False
        Whether features come from a card, which does not wait for their copy.

    Raises
    ------
    CacheWriteError
        From `add` or on leaving the block, when a shard could not be written; shards written before stay.
    """

    def __init__(
        self,
        writers: Mapping[str, ShardWriter],
        missing: Mapping[str, Sequence[ShardPlan]],
        *,
        clip: bool = False,
        on_card: bool = False,
    ) -> None:
        self._clip, self._on_card = clip, on_card
        self._writers = writers
        self._plans = {cut: list(plans) for cut, plans in missing.items()}
        self._open: dict[str, _Shard] = {}
        self._alike = {cut: _Alike() for cut in writers}
        self._largest = dict.fromkeys(writers, 0.0)
        #: Cut -> memory of shards that are written.
        self._spare: dict[str, list[Tensor]] = {cut: [] for cut in writers}
        self._n_writers = _CARD_WRITERS if on_card else _CPU_WRITERS
        self._threads = ThreadPoolExecutor(self._n_writers, "featbank-writer")
        self._writing: deque[tuple[str, _Shard]] = deque()
        self._failure: BaseException | None = None
        self._outgoing: dict[torch.device, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whole shards are written even when the pass was interrupted: they are work done.
        try:
            self._settle(0)
        except BaseException:  # interrupted while waiting: no file is left half written; the next one ends it
            self._settle(0)
            raise
        finally:
            self._threads.shutdown(wait=False)
        if kind is None:
            if self._failure is not None:
                raise self._failure
            self.tell_odd("all")

    def reserve(self, start: int, statuses: NDArray[np.uint8], cuts: Sequence[str]) -> Slots:
        """Say where one batch goes; batches come in slot order.

        Parameters
        ----------
        start : int
            First slot.
        statuses : ndarray of uint8, shape (n,)
            `RowStatus` of each slot; rows that are not OK are stored as zeros.
        cuts : sequence of str
            Those the batch is for.
        """
        slots = Slots(statuses)
        for cut in cuts:
            shard = self._open.get(cut)
            if shard is None or start >= shard.plan.stop:
                shard = self._open[cut] = self._begun(cut, start)
            slots._shards[cut] = shard, start - shard.plan.start
        return slots

    def fill(
        self, slots: Slots, features: Mapping[str, Tensor], name: Callable[[int], bytes]
    ) -> Callable[[], None]:
        """Check and cast the features of one batch where they are, and bring them to their shards.

        Parameters
        ----------
        slots : Slots
            From `reserve`.
        features : mapping of str to torch.Tensor, shape (n, *shape)
            What came out at each cut.
        name : callable
            Id of a row of the batch, for the error message.

        Returns
        -------
        callable
            To be called before `add`: waits for a card, whose features are not looked at before.

        Raises
        ------
        FeatureOverflowError
            If a value is not finite, or too large for the stored dtype; from what is returned for a card's.
        """
        import torch

        ok, ready, extremes = slots.statuses == RowStatus.OK, {}, []
        for cut, tensor in features.items():
            tensor = tensor.reshape(slots.at(cut).shape).float()
            if not ok.all():
                kept = torch.from_numpy(ok).to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
                tensor = torch.where(kept, tensor, 0.0)
            ready[cut] = tensor
            # both NaN if any value is
            extremes.append(torch.stack(tensor.aminmax()) if tensor.numel() else tensor.new_zeros(2))
        found = torch.stack(extremes)  # (n_cuts, 2)
        clipped = {
            cut: tensor.clamp(-self._limit(cut), self._limit(cut)) if self._clip else tensor
            for cut, tensor in ready.items()
        }
        if not self._on_card:
            self._check(ready, found, name)
            for cut, tensor in clipped.items():
                slots.at(cut).copy_(tensor)
            return lambda: None
        said = torch.empty(found.shape, pin_memory=True)
        copies = [(said, found)] + [
            (slots.at(cut), one.to(slots.at(cut).dtype).contiguous()) for cut, one in clipped.items()
        ]
        done = self._leave(found.device, copies)

        def settle() -> None:
            done.synchronize()
            self._check(ready, said, name)

        return settle

    def _leave(self, device: torch.device, copies: Sequence[tuple[Tensor, Tensor]]) -> torch.cuda.Event:
        """Copy to page-locked memory while the card computes on; the event says when it is done."""
        import torch

        if device not in self._outgoing:
            self._outgoing[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's
        stream = self._outgoing[device]
        done = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for to, tensor in copies:
                to.copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)
            done.record(stream)
        return done

    def add(self, slots: Slots) -> None:
        """Count one batch in, that `fill` has filled; batches come in slot order."""
        if self._failure is not None:
            raise self._failure
        ok, n = slots.statuses == RowStatus.OK, len(slots.statuses)
        for cut, (shard, first) in slots._shards.items():
            self._alike[cut].add(slots.at(cut).numpy(), ok)
            shard.statuses[first : first + n] = slots.statuses
            shard.filled += n
            if shard.filled == len(shard.statuses):
                self._writing.append((cut, shard))  # before a thread has it: an interrupt may come between
                if self._open.get(cut) is shard:
                    del self._open[cut]
                self._threads.submit(self._write, cut, shard)
        self._settle(2 * self._n_writers)

    def _settle(self, n_waiting: int) -> None:
        """Wait until no more shards than that are waiting or being written; write what no thread has."""
        while len(self._writing) > n_waiting:
            self._write(*self._writing[0])
            self._writing.popleft()

    def _write(self, cut: str, shard: _Shard) -> None:
        with shard.lock:
            if shard.written or self._failure is not None:
                return
            try:
                self._writers[cut].write(shard.plan, shard.features.numpy(), shard.statuses)
            except Exception as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
                self._failure = error
            else:
                shard.written = True
                self._spare[cut].append(shard.features)

    def _begun(self, cut: str, start: int) -> _Shard:
        import torch

        plans = self._plans[cut]
        plan = plans[bisect_right(plans, start, key=lambda one: one.start) - 1]
        n_rows, spare = plan.stop - plan.start, self._spare[cut]
        features = spare.pop() if spare else None
        if features is None or len(features) < n_rows:
            writer = self._writers[cut]
            dtype = torch.float16 if writer.dtype == np.float16 else torch.float32
            features = torch.empty((n_rows, *writer.shape), dtype=dtype, pin_memory=self._on_card)
        return _Shard(plan, features[:n_rows], np.full(n_rows, RowStatus.ABSENT, dtype=np.uint8))

    def _limit(self, cut: str) -> float:
        return float(np.finfo(self._writers[cut].dtype).max)

    def _check(self, features: Mapping[str, Tensor], extremes: Tensor, name: Callable[[int], bytes]) -> None:
        for (cut, tensor), (lowest, highest) in zip(features.items(), extremes.tolist(), strict=True):
            largest, limit = max(-lowest, highest), self._limit(cut)
            self._largest[cut] = max(self._largest[cut], largest)
            if not largest <= limit and not (self._clip and largest < np.inf):
                self._overflow(cut, tensor, limit, name)

    def tell_odd(self, which: str) -> None:
        """Warn of cuts whose features are alike for `which` images, or larger than a network's should be."""
        for cut, largest in self._largest.items():
            if largest > _EXPLODED:
                logger.warning(
                    "the features of %r reach %.4g in %s images pushed: is the range of values that the "
                    "network takes another (mean and std of its preprocessing are for pixels in 0..1)?",
                    cut,
                    largest,
                    which,
                )
        for cut, alike in self._alike.items():
            if alike.n_rows < _LEAST_ALIKE or alike.first is None:
                continue
            if not alike.first.any():
                said, why = "all zero", "the weights may be dead"
            else:
                said = f"nearly the same, at most {alike.distance:.2g} of their length apart,"
                said, why = said if alike.distance else "the same", "the weights may be random"
            logger.warning(
                "the features of %r are %s for %s images pushed, so no head can tell classes apart by "
                "them: %s, or of another range of values, or the images are all alike (such as black)",
                cut,
                said,
                f"{which} {alike.n_rows}" if which == "all" else which,
                why,
            )

    def _overflow(self, cut: str, tensor: Tensor, limit: float, name: Callable[[int], bytes]) -> None:
        flat = tensor.flatten(1)
        bad = ~(flat.abs() <= limit).all(dim=1)  # also true for NaN
        row = int(bad.nonzero()[0])
        worst = float(flat[row].abs().max())
        said = (
            f"{cut!r} of {printable(name(row))!r} reaches {worst:.4g}, {self._writers[cut].dtype} ends at "
            f"{limit:.4g}; this shard was not stored: "
        )
        if not worst < np.inf:
            raise FeatureOverflowError(f"{said}use --precision float32, or other weights: it is not finite")
        raise CutOverflowError(
            f"{said}use --on-overflow float32 (this cut alone), --dtype float32, or --on-overflow clip", cut
        )
