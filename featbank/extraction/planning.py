"""What an extraction would do: which rows, into which bank, computed how; nothing is changed.

``plan`` looks, `featbank.extraction.push` does. A bank that says it was asked for with equal settings under
equal versions, and holds every row, is found without torch and without the weights.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

import featbank
from featbank._bucket import BucketPath
from featbank._cache import DigestCache, banks_folder
from featbank.backbones import get_spec
from featbank.backbones.families import family_of
from featbank.banks import Bank, BankKey, BankStore, CutArray
from featbank.banks.bank import CutWriter
from featbank.banks.shards import SHARD_BYTES, ShardPlan, shard_files
from featbank.datasets import Dataset, build_manifest, open_dataset
from featbank.errors import (
    BankError,
    CacheWriteError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.extraction.choosing import (
    Computing,
    answers,
    asked,
    banks_of,
    begun_banks,
    choice,
    cuts_in,
    differs_in_choice,
    proved_errors,
    shapes_of,
)
from featbank.extraction.settings import CLIPPED, ExtractionSettings, stored_dtype
from featbank.manifest import Manifest, printable, short_repr

if TYPE_CHECKING:
    from featbank.extraction.saved_plan import SavedPlan

__all__ = ["ExtractionPlan", "Missing", "Part", "Planned", "Task", "find_missing", "plan"]

logger = logging.getLogger(__name__)

# What a bank lacks of the rows asked for, and which of it other banks of the cache hold -------------
#
# An image is pushed once, whatever dataset it is in: features under an equal key at the same cut are copied
# from any bank that has them, row by row. Banks stay independent: either can be removed. A shard that comes
# out byte for byte as the other bank's is the same file on disk, under two names.


@dataclass(frozen=True, eq=False)
class Part:
    """A shard that a cut lacks: the row of each of its slots, and which lender has it; -1 for none."""

    cut: str
    shard: ShardPlan
    rows: NDArray[np.int64]
    sources: NDArray[np.int16]

    @property
    def unheld(self) -> NDArray[np.bool_]:
        """Which of its slots have to be pushed."""
        return (self.rows >= 0) & (self.sources < 0)

    @property
    def lending(self) -> list[int]:
        """Numbers of the lenders that have some of it."""
        found: list[int] = np.unique(self.sources[self.sources >= 0]).tolist()
        return found


class Task(NamedTuple):
    """What one process pushes at a time: a run of slots, which is a shard of the cut with the smallest rows.

    Parameters
    ----------
    number : int
        Counts the runs of a bank; it stays, whatever is pushed, or added, meanwhile.
    n_images : int
        Images in it that some cut lacks.
    cuts : tuple of str
        Those that lack a shard of it.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import ExtractionSettings, plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     todo.tasks()
    [Task(number=1, n_images=10, cuts=('fc7',))]
    """

    number: int
    n_images: int
    cuts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Missing:
    """The shards a bank lacks, and who holds rows of them; made by `find_missing`.

    Parameters
    ----------
    bank : Bank
        With the rows asked for; its folder need not be there.
    writers : mapping of str to CutWriter
        Of the cuts asked for, and of others that need features of images that got new slots.
    shards : mapping of str to list of ShardPlan
        What each cut lacks.
    lenders : sequence of Bank
        Banks of an equal key, seen through the same rows.
    held : mapping of str to ndarray of int16, shape (n_samples,)
        Cut -> for each row which of the lenders has it, -1 for none.
    renewed : frozenset of bytes
        Digests of images that get new slots.
    wide : frozenset of str
        Cuts that float16 does not hold.
    mine : container of int, or None
        Numbers of the tasks whose shards are written here; None: all.
    """

    bank: Bank
    writers: Mapping[str, CutWriter]
    shards: Mapping[str, list[ShardPlan]]
    lenders: Sequence[Bank]
    held: Mapping[str, NDArray[np.int16]]
    renewed: frozenset[bytes]
    wide: frozenset[str] = frozenset()
    mine: Container[int] | None = None
    #: What was found out of the lenders while it was copied from them, by cut and number.
    lent: dict[tuple[str, int], Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def parts(self) -> list[Part]:
        """The shards to be written here, cut after cut, with who has what of each."""
        first_rows, parts = self.bank.slot_first_rows(), []
        for cut, shards in self.shards.items():
            held = self.held.get(cut, np.full(len(self.bank), -1, np.int16))
            for shard, number in zip(shards, self._tasks_of(shards), strict=True):
                if self.mine is not None and number not in self.mine:
                    continue
                rows = first_rows[shard.start : shard.stop]
                parts.append(Part(cut, shard, rows, np.where(rows >= 0, held[rows], np.int16(-1))))
        return parts

    @cached_property
    def _task_starts(self) -> NDArray[np.int64]:
        """Where tasks begin: shards of other cuts are parts of them, as `shard_rows_for` makes them."""
        most = max(writer.shard_rows for writer in self.writers.values())
        return np.array([one.start for one in self.bank.slot_table.plan(most)], np.int64)

    def _tasks_of(self, shards: Sequence[ShardPlan]) -> list[int]:
        """Return the number of the task of each shard: where it begins, if it reaches into the next."""
        starts = np.array([one.start for one in shards], np.int64)
        found: list[int] = (np.searchsorted(self._task_starts, starts, side="right") - 1).tolist()
        return found

    def tasks(self) -> list[Task]:
        """List what is still to be done, by whomever, in order."""
        first_rows, found = self.bank.slot_first_rows(), dict[int, dict[str, list[ShardPlan]]]()
        for cut, shards in self.shards.items():
            for shard, number in zip(shards, self._tasks_of(shards), strict=True):
                found.setdefault(number, {}).setdefault(cut, []).append(shard)
        tasks = []
        for number, cuts in sorted(found.items()):
            shards = [shard for one in cuts.values() for shard in one]
            slots = np.unique(np.concatenate([np.arange(one.start, one.stop) for one in shards]))
            tasks.append(Task(number, int((first_rows[slots] >= 0).sum()), tuple(cuts)))
        return tasks

    def refreshed(self) -> Missing:
        """Leave out shards that have come since this was found; names alone are looked at."""
        shards = {}
        for cut, writer in self.writers.items():
            there = shard_files(writer.folder)
            shards[cut] = [one for one in self.shards[cut] if one.number not in there]
        return replace(self, shards=shards)

    def slots(self) -> NDArray[np.int64]:
        """Return the slots whose image has to be pushed, in order."""
        needed = np.zeros(len(self.bank.slot_table), bool)
        for part in self.parts:
            needed[part.shard.start : part.shard.stop] |= part.unheld
        return np.flatnonzero(needed)

    def copied(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows whose features are copied at a cut, by the name of the bank they come from."""
        found: dict[str, set[int]] = {}
        for part in self.parts:
            for number in part.lending:
                rows = part.rows[part.sources == number].tolist()
                found.setdefault(self.lenders[number].name, set()).update(rows)
        return {name: np.array(sorted(rows), np.int64) for name, rows in found.items()}

    def size_bytes(self, cut: str) -> int:
        """Return how many bytes of features of a cut are to be written here, those copied included."""
        writer = self.writers[cut]
        n_rows = sum(part.shard.n_rows for part in self.parts if part.cut == cut)
        return n_rows * prod(writer.shape) * writer.dtype.itemsize

    def to_copy(self) -> list[Part]:
        """List the shards of which nothing has to be pushed."""
        return [part for part in self.parts if not part.unheld.any()]


def find_missing(
    bank: Bank,
    manifest: Manifest,
    cuts: Sequence[str],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    lenders: Iterable[Bank] = (),
    made_by: Mapping[str, str] | None = None,
    wide: Collection[str] = (),
    others: Collection[str] = (),
    shard_rows: int | None = None,
    mine: Container[int] | None = None,
    renews: bool = True,
) -> Missing:
    """Find out what a bank lacks, from what is on disk now; nothing is changed.

    Parameters
    ----------
    bank : Bank
        As it is, or as it would be made.
    manifest : Manifest
        The rows asked for.
    cuts : sequence of str
        The cuts asked for.
    shapes : mapping of str to tuple of int
        Shape of a row, of cuts that neither the bank nor a lender has.
    lenders : iterable of Bank
        Other banks of the same key.
    made_by : mapping of str to str, optional
        As of `Bank.cut_writer`.
    wide : collection of str
        Cuts that float16 does not hold.
    others : collection of str
        Cuts to be looked at besides.
    shard_rows : int, optional
        Rows of a shard at most, of cuts that are new.
    mine : container of int, optional
        As of `Missing`.
    renews : bool, default=True
        Give images that a stored shard lacks new slots; without, they count as gone.
    """
    lenders = [one.with_rows(manifest) for one in lenders]

    def looked_at(renewed: AbstractSet[bytes], others: Collection[str]) -> Missing:
        seen = bank.with_rows(manifest, renew=renewed)
        writers = {}
        for cut in dict.fromkeys([*cuts, *others]):
            there = next((one for one in (seen, *lenders) if _array(one, cut) is not None), None)
            array = None if there is None else _array(there, cut)
            kind = np.dtype(np.float32) if cut in wide else _cut_dtype(cut, bank.key.dtype, there, array)
            shape = tuple(shapes[cut] if array is None else array.shape[1:])
            most = SHARD_BYTES if shard_rows is None else shard_rows * prod(shape) * kind.itemsize
            writers[cut] = seen.cut_writer(
                cut, shape, kind, shard_bytes=min(SHARD_BYTES, most), made_by=made_by or {}
            )
        shards = {cut: writer.missing() for cut, writer in writers.items()}
        return Missing(seen, writers, shards, lenders, {}, frozenset(renewed), frozenset(wide), mine)

    found = looked_at(frozenset(), others)
    absent = set[bytes]().union(*(one.absent() for one in found.writers.values() if renews))
    if absent:
        # A shard never changes: what it lacks gets a slot of its own, at the cuts that are whole as well.
        found = looked_at(absent, [*others, *(cut for cut in found.bank.cuts if cut not in cuts)])
    n_rows = len(manifest)
    held = {cut: _held(lenders, writer, n_rows) for cut, writer in found.writers.items() if found.shards[cut]}
    return replace(found, held=held)


def _held(lenders: Sequence[Bank], writer: CutWriter, n_rows: int) -> NDArray[np.int16]:
    found = np.full(n_rows, -1, np.int16)
    for number, lender in enumerate(lenders):
        array = _array(lender, writer.cut)
        if array is None or (array.dtype, array.shape[1:]) != (writer.dtype, writer.shape):
            continue
        try:
            found[lender.rows_ok(writer.cut) & (found < 0)] = number
        except (BankError, OSError) as error:  # `banks verify` is where damage is looked for
            logger.warning(
                "features of bank %s cannot be taken, its images are pushed: %s", lender.name, error
            )
    return found


def _array(bank: Bank, cut: str) -> CutArray | None:
    """Return what a bank stores of a cut; None if it has nothing, or nothing that can be read.

    What another bank could derive is pushed: its last bits would be others.
    """
    with contextlib.suppress(UnknownNameError, BankError, OSError):
        return bank[cut] if bank.sources(cut) == (cut,) else None
    return None


def _cut_dtype(cut: str, dtype: str, there: Bank | None, array: CutArray | None) -> np.dtype[Any]:
    """Return what a cut is stored as: what it is already, if an overflow has made it float32."""
    wanted = stored_dtype(cut, dtype)
    if there is None or array is None or dtype == CLIPPED:
        return wanted
    if wanted == np.float16 and array.dtype == np.float32:
        logger.info("cut %r of bank %s is stored in float32: an earlier run had to", cut, there.name)
        kind: np.dtype[Any] = array.dtype
        return kind
    return wanted


@dataclass(eq=False)
class Planned:
    """What `push` needs of a plan; `missing` and `computing` change where the bank turns out another one.

    Parameters
    ----------
    settings : ExtractionSettings
    dataset : Dataset
    store : BankStore
    digests : DigestCache
        Kept with the bank: what has not changed is not read again.
    cuts : tuple of str
        Names from the backbone's table.
    manifest : Manifest
        The rows asked for.
    missing : Missing
    provenance : dict
        Of the bank, if it has to be made.
    errors : mapping of str to float
        Error of the arithmetic at each cut where it is known.
    computing : Computing or None
        None: the bank says all that is needed.
    started : float
        When planning began, by ``time.perf_counter``.
    data : str, path or Dataset, optional
        What `dataset` was opened from.
    saved : SavedPlan, optional
        What it was opened from: the rows, their slots and the machine are settled.
    """

    settings: ExtractionSettings
    dataset: Dataset
    store: BankStore
    digests: DigestCache
    cuts: tuple[str, ...]
    manifest: Manifest
    missing: Missing
    provenance: dict[str, Any]
    errors: Mapping[str, float]
    computing: Computing | None
    started: float
    data: object = None
    saved: SavedPlan | None = None

    @property
    def made_by(self) -> dict[str, str] | None:
        """What computes the features and is in no key, as far as that is settled."""
        if self.computing is not None:
            return self.computing.made_by
        return (self.saved.made_by or None) if self.saved is not None else None

    @property
    def path(self) -> Path:
        """Where the bank is, or will be."""
        return self.missing.bank.path

    def need_computing(self) -> Computing:
        """Return what computes the features, loaded now if planning could do without."""
        if self.computing is None:
            if self.saved is not None:
                self.saved.check_machine(self.settings)
            computing, key = Computing(self.settings, self.cuts), self.missing.bank.key
            computing.take(key)
            if computing.key != key:
                raise InvalidInputError(
                    f"bank {self.missing.bank.name!r} has another key now than when this was planned, its "
                    f"{_differences(key, computing.key)}; run it again"
                )
            computing.open_images(self.dataset, self.manifest, [key.batch_size])
            self.computing = computing
        return self.computing

    def look_again(self, bank: Bank | None = None, **options: Any) -> None:
        """Find out anew what is missing, in the bank as it is now; `options` are those of `find_missing`."""
        before = self.missing
        known: dict[str, Any] = {
            "shapes": {cut: writer.shape for cut, writer in before.writers.items()},
            "lenders": before.lenders,
            "made_by": self.made_by,
            "wide": before.wide,
            "shard_rows": self.settings.shard_rows,
            "mine": before.mine,
            "renews": self.saved is None,
            "others": [cut for cut in before.writers if cut not in self.cuts],
        }
        self.missing = find_missing(bank or before.bank, self.manifest, self.cuts, **known | options)


@dataclass(frozen=True, eq=False)
class ExtractionPlan:
    """What an extraction would cost, before anything is pushed; `featbank.extraction.push` does it.

    A plan changes nothing, and may be thrown away. Processes that decoded for it end with `close`, with
    `push`, or with the plan; it is a context manager.

    Parameters
    ----------
    bank : pathlib.Path
        Where the features go.
    rows : int
        Rows of the dataset.
    classes : tuple of str
        Names of the classes that have a readable image.
    splits : mapping of str to int
        Rows of each split.
    to_push : int
        Images that have to go through the backbone.
    to_copy : mapping of str to int
        Bank -> images whose features at some cut are copied from there.
    cuts : mapping of str to tuple of int
        Shape of one row at each cut.
    cut_bytes : mapping of str to int
        Bytes still to be written for each cut.
    disk_free_bytes : int
        Free space where the bank is; a bucket has no end of it.
    duration_s : float or None
        Estimated time of the whole extraction, planning included, as `ExtractionResult` counts it: some of
        the images were pushed to tell. None when nothing was measured.
    assumed : tuple of str
        What an estimate without images takes for granted.
    work : Planned or None
        What `push` does; None for an estimate without images.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import ExtractionSettings
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     print(todo.to_push, "images,", todo.size_bytes, "bytes;", todo.bank == bank.path.absolute())
    10 images, 5120 bytes; True
    """

    bank: Path
    rows: int
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    to_push: int
    to_copy: Mapping[str, int]
    cuts: Mapping[str, tuple[int, ...]]
    cut_bytes: Mapping[str, int]
    disk_free_bytes: int
    duration_s: float | None = None
    assumed: tuple[str, ...] = ()
    work: Planned | None = None

    __repr__ = short_repr

    @property
    def size_bytes(self) -> int:
        """Bytes to be written for all cuts together."""
        return sum(self.cut_bytes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, in the order of the signature."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "work"}
        return {**values, "size_bytes": self.size_bytes}

    def need_work(self) -> Planned:
        """Return what `push` does; `InvalidInputError` for an estimate without images."""
        if self.work is None:
            raise InvalidInputError("this plan is an estimate without images; there is nothing to push")
        return self.work

    def slice(self, number: int, n_slices: int) -> ExtractionPlan:
        """Return one of `n_slices` parts of this plan, for `push`: the same shards whatever is there already.

        Parameters
        ----------
        number : int
            Which one, 1 to `n_slices`.
        n_slices : int
            How many there are.

        Returns
        -------
        ExtractionPlan
            Once a slice finds every shard there, its own and those of the others, it writes the facts of the
            cuts; whichever comes last.

        Raises
        ------
        InvalidInputError
            If there is no such slice, or this plan was saved for another number of them.
        """
        work = self.need_work()
        if not 1 <= number <= n_slices:
            raise InvalidInputError(
                f"slice {number}/{n_slices}: there are 1/{max(1, n_slices)} to {max(1, n_slices)}/"
                f"{max(1, n_slices)}"
            )
        if work.saved is not None:
            work.saved.check_slices(n_slices)
        # by what never changes: a shard's number, not its place among what is missing, which moves on a retry
        return self.of_tasks(range(number - 1, sys.maxsize, n_slices))

    def of_tasks(self, numbers: Container[int]) -> ExtractionPlan:
        """Return the part of this plan that is made of these `tasks`."""
        work = self.need_work()
        return said(replace(work, missing=replace(work.missing, mine=numbers)))

    def tasks(self) -> list[Task]:
        """List what was still to be pushed when this was planned, by whomever."""
        return self.need_work().missing.tasks()

    def close(self) -> None:
        """End the processes that decode; what needs them again starts others."""
        if self.work is not None and self.work.computing is not None:
            self.work.computing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plan(
    data: str | os.PathLike[str] | Dataset, settings: ExtractionSettings, *, measure: bool = False
) -> ExtractionPlan:
    """Find out what an extraction would do. Nothing is written, locked or removed.

    Images are hashed. The weights are loaded unless a bank that is there answers for them. A batch is pushed,
    and thrown away, where precision or compiling must be chosen and no bank has made the choice.

    Parameters
    ----------
    data : str, path or Dataset
        As of `featbank.extract`.
    settings : ExtractionSettings
    measure : bool, default=False
        Push some of the images, for seconds, to estimate the time; what comes out is thrown away.

    Returns
    -------
    ExtractionPlan

    Raises
    ------
    FeatbankError
        Whatever `featbank.extract` raises of names, data, weights and banks.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=20, cache_dir=cache)
    ...     with plan("digits", settings) as todo:
    ...         todo.to_push, dict(todo.cut_bytes)
    (20, {'fc7': 10240})
    """
    started = time.perf_counter()
    # Names are checked before data and weights are touched: a typo must not cost a minute.
    spec = get_spec(settings.backbone)
    cuts = tuple(cut.name for cut in spec.to_store(settings.all_cuts))
    dataset = open_dataset(data, **settings.options_of(open_dataset))
    store, digests = BankStore(banks_folder(settings.cache_dir)), DigestCache.of(settings.cache_dir)
    banks = list(banks_of(store, spec.name, dataset.name))
    answering = [one for one in banks if answers(one, settings, digests)]
    computing = None if answering else Computing(settings, cuts)
    manifest = build_manifest(dataset, digests=digests, **settings.options_of(build_manifest))

    def begun(found: Sequence[Bank]) -> list[Bank]:
        return begun_banks(settings, dataset.name, manifest, cuts, found)

    def into(
        key: BankKey,
        provenance: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        computing: Computing | None = None,
    ) -> Planned:
        there = store.planned(dataset.name, key, provenance)
        mine = cuts_in(there, cuts)
        lenders = [one for one in banks if one.key == key and one.path != there.path]
        if computing is not None:
            made_by, errors = computing.made_by, computing.errors
        else:
            made_by = None
            errors = next((found for one in (there, *lenders) if (found := proved_errors(one, mine))), {})
        missing = find_missing(
            there,
            manifest,
            mine,
            shapes=shapes,
            lenders=lenders,
            made_by=made_by,
            shard_rows=settings.shard_rows,
        )
        return Planned(
            settings,
            dataset,
            store,
            digests,
            mine,
            manifest,
            missing,
            provenance,
            errors,
            computing,
            started,
            data,
        )

    work = None
    for bank in begun(answering)[:1]:
        shapes = shapes_of([one for one in banks if one.key == bank.key])
        provenance = {**bank.provenance, **_source_of(dataset)}
        # of the bank that is written, not of the one that answers: that one may derive what this one stores
        if shapes.keys() >= set(cuts_in(store.planned(dataset.name, bank.key, provenance), cuts)):
            work = into(bank.key, provenance, shapes)
    if work is None or len(work.missing.slots()):
        computing = computing or Computing(settings, cuts)
        candidates = begun(
            [one for one in banks if differs_in_choice(one.key, computing.first_key, settings)]
        )
        try:
            computing.open_images(dataset, manifest, [one.key.batch_size for one in candidates])
            computing.choose(candidates)
            provenance = _provenance(settings, dataset, computing, digests)
            work = into(computing.key, provenance, computing.shapes, computing)
        except BaseException:
            computing.close()
            raise
    found = said(work)
    try:
        _tell(work, banks, data)
        if measure and found.to_push:
            computing = work.need_computing()
            planned_s = time.perf_counter() - started
            return replace(found, duration_s=planned_s + computing.pass_s(found.to_push))
        return found
    except BaseException:
        found.close()
        raise


def said(work: Planned) -> ExtractionPlan:
    """Put a plan into figures."""
    missing, seen = work.missing, work.missing.bank.manifest
    return ExtractionPlan(
        bank=work.path,
        rows=len(seen),
        classes=seen.present_classes(),
        splits=seen.counts(),
        to_push=len(missing.slots()),
        to_copy={name: len(rows) for name, rows in missing.copied().items()},
        cuts={cut: missing.writers[cut].shape for cut in work.cuts},
        cut_bytes={cut: missing.size_bytes(cut) for cut in missing.writers},
        disk_free_bytes=free_bytes(work.path),
        work=work,
    )


def free_bytes(folder: Path) -> int:
    """Return the free space of the file system that holds `folder` or its nearest existing parent.

    A bucket is never full.
    """
    if isinstance(folder, BucketPath):
        return sys.maxsize
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(existing).free


def refuse_if_full(plan: ExtractionPlan) -> None:
    """Raise `CacheWriteError` when the disk cannot hold what `plan` would write."""
    if plan.size_bytes > plan.disk_free_bytes:
        raise CacheWriteError(
            f"{plan.to_push} images at {', '.join(plan.cut_bytes)} need {plan.size_bytes / 1e9:.2f} GB, "
            f"{str(plan.bank)!r} has {plan.disk_free_bytes / 1e9:.2f} GB free; take fewer cuts, "
            "a deeper cut, --limit N, or another --cache-dir"
        )


def _source_of(dataset: Dataset) -> dict[str, Any]:
    """Return what `open_dataset` needs to open the images again."""
    return {
        "dataset": dataset.name,
        "location": dataset.location,
        "layout": getattr(dataset, "layout", None),
        "columns": getattr(dataset, "columns", {}),
    }


def _provenance(
    settings: ExtractionSettings, dataset: Dataset, computing: Computing, digests: DigestCache
) -> dict[str, Any]:
    import torch
    import torchvision

    backbone, errors = computing.backbone, computing.errors
    family, name = family_of(backbone.name)
    return {
        **_source_of(dataset),
        "weights": backbone.weights,
        # what a prediction needs to find the same weights again
        "weights_path": backbone.weights_path,
        "random_state": settings.random_state,
        # what an interrupted extraction need not prove, and say, again
        "precision_errors": {cut: error for cut, error in errors.items() if error < np.inf},
        # what `answers` compares
        "asked": {
            **asked(settings),
            "choice": choice(settings),
            "files": dict(backbone.weights_files),
            "settings_files": {str(one): digests.file_digest(one) for one in family.settings_files(name)},
        },
        "versions": {
            "featbank": featbank.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
        },
    }


# What is told --------------------------------------------------------------------------------------


def _tell(work: Planned, banks: Sequence[Bank], data: object) -> None:
    """Say what differs from what was extracted before; refuse other images that only have the same name."""
    there = work.store.planned(work.dataset.name, work.missing.bank.key, work.provenance)
    _check_same_source(there, work.dataset.location, work.manifest.digests)
    if len(there):
        _tell_changes(there.manifest, work.manifest)
    if not there.path.exists():
        _tell_other_keys([one for one in banks if one.dataset == there.dataset], there.key)
        if isinstance(data, (str, os.PathLike)) and work.settings.name is None:
            _tell_other_names(work.missing, banks, work.dataset.location)


def _tell_changes(before: Manifest, after: Manifest) -> None:
    """Say what this extraction changes in a bank's list of rows: which are in it, and in which split."""
    old = dict(zip(before.ids, before.splits.tolist(), strict=True))
    new = dict(zip(after.ids, after.splits.tolist(), strict=True))
    gone = len(old.keys() - new.keys())
    if gone:
        # Whether a file was deleted, or is left out this time, is not to be seen here: both are said.
        logger.warning(
            "%d of the bank's %d rows are not among the %d asked for now (their images are gone, or --limit "
            "or a choice of classes leaves them out): they leave the bank's list, their features stay, and "
            "nothing is pushed when they are asked for again",
            gone,
            len(old),
            len(new),
        )
    moved = sum(old[one] != new[one] for one in old.keys() & new.keys())
    if moved:
        logger.warning(
            "%d images change their split: it was %s, it is %s; the same --split as before keeps it",
            moved,
            _counts(before),
            _counts(after),
        )
    if before.groups is not None and after.groups is None:
        logger.warning(
            "the %d groups of the bank are forgotten: draws, folds and intervals take each image for itself; "
            "the same --group or --group-by as before keeps them",
            len(before.group_names),
        )


def _tell_other_keys(banks: Sequence[Bank], key: BankKey) -> None:
    """Say why no row of the banks of this dataset and backbone that are there can be reused."""
    if banks:  # newest first, which is taken of those that differ in as many fields
        nearest = min(banks, key=lambda bank: len(bank.key.differences(key)))
        logger.warning(
            "a new bank: no row of %s is reused, its %s", nearest.name, _differences(nearest.key, key)
        )


def _tell_other_names(missing: Missing, banks: Sequence[Bank], location: str) -> None:
    """Say when a new bank would hold what one of another name holds: a folder was renamed, or copied."""
    names, here = {one.name: one for one in banks}, len(missing.bank)
    for name, rows in missing.copied().items():
        if 10 * len(rows) >= 9 * max(here, len(names[name])):  # not where it is a part of it
            logger.warning(
                "%d of the %d images of %s are in bank %s already, which was extracted from %s: they are "
                "copied; --name %s continues it instead of making another",
                len(rows),
                here,
                printable(location),
                name,
                printable(str(names[name].provenance.get("location"))),
                printable(names[name].dataset),
            )
            return


def _check_same_source(bank: Bank, location: str, digests: NDArray[np.uint8]) -> None:
    """Say when the images of a bank are elsewhere now; refuse other images that only have the same name.

    Parameters
    ----------
    bank : Bank
        The bank of this name, as it is.
    location : str
        Where the images are that are to be its rows.
    digests : ndarray of uint8, shape (n_samples, 32)
        Theirs.

    Raises
    ------
    InvalidInputError
        If less than half of the fewer images are also among the others.
    """
    before = bank.provenance.get("location")
    if before == location or not len(bank):
        return
    there = {one.tobytes() for one in bank.manifest.digests}
    here = {one.tobytes() for one in digests}
    common = len(there & here)
    if 2 * common < min(len(there), len(here)):
        said = f"only {common} of the {len(here)} images" if common else "not one image"
        raise InvalidInputError(
            f"{str(bank.path)!r} holds the features of {printable(str(before))!r}, and {said} of "
            f"{printable(location)!r} {'are' if common > 1 else 'is'} in it; give this dataset another --name"
        )
    if there == here:
        logger.info("the images of bank %s are in %s now", bank.name, printable(location))
        return
    logger.warning(
        "bank %s was extracted from %s and is that of %s from now on (%d of its %d images are in it); "
        "--name gives one of the two a bank of its own",
        bank.name,
        printable(str(before)),
        printable(location),
        common,
        len(here),
    )


def _differences(old: BankKey, new: BankKey) -> str:
    return "; ".join(_difference(name, *values) for name, values in old.differences(new).items())


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [one for one in {**old, **new} if old.get(one) != new.get(one)]
        return "; ".join(_difference(f"{name}.{one}", old.get(one), new.get(one)) for one in inner)
    return f"{name} was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:16]}..."


def _counts(manifest: Manifest) -> str:
    return ", ".join(f"{count} {split}" for split, count in manifest.counts().items())
