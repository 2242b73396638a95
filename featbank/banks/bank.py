"""A bank: the features of one dataset under one key, one array per cut; read, written, described."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featbank._atomic import (
    READ_ONLY,
    beside,
    change_file,
    fill,
    locked,
    make_folder,
    move_file,
    remove_file,
    remove_stale_temporaries,
    write_file,
)
from featbank._bucket import BucketPath
from featbank._cache import make_newest, user_path
from featbank._cuts import SOFTMAX, CutName
from featbank._registry import nearest
from featbank.banks import documents as files
from featbank.banks.arrays import CutReader, StoredFeatures
from featbank.banks.documents import MANIFEST_FILE, CutDocument, CutLayout, QuarantineRecord, check_name
from featbank.banks.shards import (
    SHARD_BYTES,
    Measures,
    ShardPlan,
    SlotTable,
    StoredManifest,
    check_all_hashes,
    check_hash,
    check_place,
    encode_shard,
    layout_of,
    manifest_parts,
    read_manifest,
    read_shard,
    shard_files,
    shard_rows_for,
)
from featbank.banks.verification import VerifyReport, verify_bank
from featbank.errors import (
    BankChangedError,
    BankError,
    BankNotFoundError,
    CacheWriteError,
    CorruptBankError,
    FeatbankError,
    IncompleteBankError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.manifest import SPLITS, Manifest, RowStatus, as_frame, as_html, printable, short_repr

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: Tries to put a shard of which a store says that it is there, and that it is not.
_PUTS = 5


class CutProgress(NamedTuple):
    """How far a cut is extracted: rows of the manifest stored, and rows of the manifest.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> (shard,) = bank.path.glob("fc7/*.h5")
    >>> shard.unlink()  # as if the extraction had been killed before it
    >>> featbank.open_bank("digits").partial_cuts
    {'fc7': CutProgress(rows_stored=0, rows_needed=300)}
    """

    rows_stored: int
    rows_needed: int


@dataclass(frozen=True)
class CutInfo:
    """One cut of a bank.

    Parameters
    ----------
    name : str
        Its name.
    shape : tuple of int
        Shape of one row.
    dtype : str
        What is stored.
    rows_stored, rows_needed : int
        Rows of the manifest that are stored, and that there are.
    complete : bool
        Whether everything is stored and recorded.
    size_bytes : int
        Bytes of its files.
    facts : mapping of str to JSON values
        What extraction recorded; empty while it is not complete.

    Examples
    --------
    >>> import featbank
    >>> one = featbank.open_bank("digits").info().cuts[1]
    >>> one.name, one.shape, one.dtype, one.complete
    ('fc7', (256,), 'float16', True)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows_stored: int
    rows_needed: int
    complete: bool
    size_bytes: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class BankInfo:
    """One bank.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    dataset, backbone, digest8 : str
        The parts of its name ``<dataset>/<backbone>-<digest8>``.
    rows : int
        Rows of the manifest.
    classes : tuple of str
        Class names.
    splits : mapping of str to int
        Rows per split.
    cuts : tuple of CutInfo
        Its cuts, complete or not.
    quarantined : int
        Rows that have no features in at least one cut.
    created : str
        When it was made, as its provenance says; "" if it does not.
    changed : float
        When ``manifest.h5`` or ``bank.json`` last changed, in seconds since 1970.
    size_bytes : int
        Bytes of all its files.
    error : str or None
        Why the bank cannot be opened; the fields that would need it are empty then.

    Examples
    --------
    >>> import featbank
    >>> info = featbank.open_bank("digits").info()
    >>> info.dataset, info.backbone, info.rows, info.splits
    ('digits', 'minivgg', 300, {'train': 214, 'val': 22, 'test': 64})
    >>> [one.name for one in info.cuts], info.quarantined
    (['block3_pool', 'fc7'], 0)
    """

    path: Path
    dataset: str
    backbone: str
    digest8: str
    rows: int = 0
    classes: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    cuts: tuple[CutInfo, ...] = ()
    quarantined: int = 0
    created: str = ""
    changed: float = 0.0
    size_bytes: int = 0
    error: str | None = None

    __repr__ = short_repr

    @property
    def name(self) -> str:
        """``<dataset>/<backbone>-<digest8>``."""
        return f"{self.dataset}/{self.backbone}-{self.digest8}"


class Bank(StoredFeatures):
    """An opened bank; comes from `Bank.open` or `BankStore.create_or_open`.

    ``bank["fc7"]`` is an array of features, rows in the order of ``bank.manifest``: those it was opened with,
    whatever another process makes of the bank meanwhile. Pickles as its path and the digest of its rows;
    unpickling it raises `BankChangedError` once the bank has other rows.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    document : BankDocument
        What ``bank.json`` says.
    stored : StoredManifest or None
        What ``manifest.h5`` says; None while it has not been written.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> bank, bank.manifest.counts()
    (<Bank 'digits/minivgg-...', 300 rows>, {'train': 214, 'val': 22, 'test': 64})
    >>> X, y = bank.load("fc7", split="train")
    >>> X.shape, X.dtype, y[:5]
    ((214, 256), dtype('float32'), array([0, 0, 0, 0, 0]))
    >>> bank.load("block3_pool:gap", split="test")[0].shape  # pooled when it is read
    (64, 128)
    """

    def __init__(self, path: Path, document: files.BankDocument, stored: StoredManifest | None) -> None:
        self.path = path
        self._document = document
        self._state = stored
        #: Whether this is what a bank would be: its folder need not be there.
        self._is_planned = False
        self._readers: dict[str, CutReader] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: Literal["auto", "size", "sha256"] = "auto") -> Bank:
        """Open the bank in a folder.

        Parameters
        ----------
        path : str or path-like
            The bank's folder.
        check : {"auto", "size", "sha256"}, default="auto"
            Which checks to make at once: every shard's SHA-256, only sizes and embedded facts (made for each
            shard when it is first read, always), or hashes only when the folder was copied here since.

        Returns
        -------
        Bank

        Raises
        ------
        BankNotFoundError
            If there is no bank.
        BankFormatError
            If it was written in another version of the format.
        CorruptBankError
            If one of its files is damaged.
        BankReadError
            If one of them cannot be read now.
        InvalidInputError
            If `check` is none of the three.
        """
        if check not in ("auto", "size", "sha256"):
            raise InvalidInputError(f"check={check!r} is not one of 'auto', 'size', 'sha256'")
        folder = user_path(path)
        document = files.BankDocument.read(folder)
        stored = read_manifest(folder)
        if check == "sha256" or (check == "auto" and not files.is_verified_copy(folder)):
            check_all_hashes(folder)
            files.mark_verified(folder)
        return cls(folder, document, stored)

    @classmethod
    def _again(cls, path: Path) -> Bank:
        if not path.exists():
            raise BankNotFoundError(
                f"the bank this array came from is gone: {str(path)!r}; open it again where it is now"
            )
        return cls.open(path, check="size")

    def __repr__(self) -> str:
        return f"<Bank {self.name!r}, {len(self)} rows>"  # says nothing that must be looked for on the disk

    def _repr_html_(self) -> str:
        """Show the bank in a notebook: its cuts, splits and classes, or why they cannot be read."""
        try:
            found = self.info()
        except (FeatbankError, OSError) as error:
            return as_html(f"Bank {self.name}", ["rows"], [[f"{len(self)}"]], str(error))
        rows = [
            [
                one.name,
                "x".join(map(str, one.shape)),
                one.dtype,
                f"{one.rows_stored}"
                if one.complete
                else f"{one.rows_stored} of {one.rows_needed}: unfinished",
                f"{one.size_bytes / 1e6:,.1f} MB",
            ]
            for one in found.cuts
        ]
        splits = ", ".join(f"{n:,} {split}" for split, n in found.splits.items() if n)
        classes = ", ".join(found.classes[:5]) + (", ..." if len(found.classes) > 5 else "")
        said = f"{found.rows:,} images ({splits}); {len(found.classes)} classes: {classes}"
        unread = f"{found.quarantined} could not be read" if found.quarantined else ""
        return as_html(f"Bank {self.name}", ["cut", "shape", "stored as", "rows", "size"], rows, said, unread)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of the manifest as a pandas data frame, in order.

        Returns
        -------
        pandas.DataFrame
            Columns ``id``, ``label`` (-1: none), ``class`` (empty: none), ``split``, ``readable``, and
            ``group`` where groups were named.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        rows = self.manifest
        classes = (*rows.classes, "")  # -1 is the last
        return as_frame(
            {
                "id": printable(one),
                "label": int(label),
                "class": printable(classes[label]),
                "split": SPLITS[split],
                "readable": status == RowStatus.OK,
            }
            | ({} if rows.groups is None else {"group": rows.group(at)})
            for at, (one, label, split, status) in enumerate(
                zip(rows.ids, rows.labels, rows.splits, rows.statuses, strict=True)
            )
        )

    # rows ------------------------------------------------------------------------------------------

    def with_rows(self, manifest: Manifest, *, renew: AbstractSet[bytes] = frozenset()) -> Self:
        """Return what this bank would be after `set_manifest`, from what is on disk now; writes nothing.

        Parameters
        ----------
        manifest, renew
            As of `set_manifest`.

        Returns
        -------
        Bank
            Its folder need not be there.
        """
        there = read_manifest(self.path, self._state) if self.path.is_dir() else None
        state = StoredManifest.planned(there, manifest, renew)
        if there is not None and there.same(state):
            state = there  # known by its seal, it need not be read again
        planned = type(self)(self.path, self._document, state)
        planned._is_planned = True
        return planned

    def same_slots(self, other: Bank) -> bool:
        """Say whether another bank's rows stand in the same slots, of equally many."""
        return np.array_equal(self.row_slots, other.row_slots) and np.array_equal(
            self.slot_table.segments, other.slot_table.segments
        )

    def set_manifest(self, manifest: Manifest, *, renew: AbstractSet[bytes] = frozenset()) -> None:
        """Set the rows; images that have no slot yet get one, nothing stored is moved or lost.

        Other processes that are extracting into this bank keep the rows they have set themselves.

        Parameters
        ----------
        manifest : Manifest
            The rows. Nothing is touched, not even the lock, if nothing changes.
        renew : set of bytes, default=frozenset()
            Digests of images to be pushed again, in all cuts; see `CutWriter.absent`.

        Raises
        ------
        CacheWriteError
            If the manifest cannot be written.
        """
        there = read_manifest(self.path, self._state)
        self._state = StoredManifest.planned(there, manifest, renew)
        if there is not None and there.same(self._state):  # also where nothing can be written
            return

        def planned(there: StoredManifest | None) -> StoredManifest:
            self._state = StoredManifest.planned(there, manifest, renew)
            return self._state

        self._change_rows(planned, there)

    def renew(self, digests: AbstractSet[bytes]) -> None:
        """Give images of these rows new slots, without setting the rows of the bank anew.

        Another process may have set its own rows since: they stay, and the renewed images among them are
        found in the new slots as well.

        Parameters
        ----------
        digests : set of bytes
            As of `CutWriter.absent`.

        Raises
        ------
        CacheWriteError
            If the manifest cannot be written.
        """
        own = self._stored

        def renewed(there: StoredManifest | None) -> StoredManifest:
            there = there or own
            table, row_slots = there.table.with_digests(own.digests, digests)
            self._state = own.with_table(table, row_slots)
            return there.renewed(digests, table)

        self._change_rows(renewed, own)

    @property
    def places_digest(self) -> str:
        """SHA-256 of what its rows are, and in which slots they stand; another once either changes."""
        return self._stored.places_digest

    def set_location(self, location: str) -> None:
        """Remember where the images of this bank are now, in ``source.json``; ``bank.json`` never changes.

        Parameters
        ----------
        location : str
            As of `featbank.datasets.Dataset`; ``bank.provenance["location"]`` is this from now on.

        Raises
        ------
        CacheWriteError
            If it cannot be written.
        """
        if location != self.provenance.get("location"):
            files.write_source(self.path, location)
            self._document = self._document.moved_to(location)

    def touch(self) -> None:
        """Make this the newest bank of its cache: it was asked for last."""
        make_newest(self.path.parent.parent, self.path)
        if not isinstance(self.path, BucketPath):
            with suppress(OSError):  # a read-only bank stays where it is in the list
                os.utime(self.path / files.LOCK_FILE)

    def copy_manifest(self, folder: Path) -> None:
        """Write the rows as this bank has them now into another folder, where `read_manifest` finds them.

        Raises
        ------
        CacheWriteError
            If the file cannot be written.
        """
        write_file(folder / MANIFEST_FILE, manifest_parts(self.path, self._stored))

    def refresh(self) -> None:
        """Learn what other processes have found out of the images of these rows since."""
        there = read_manifest(self.path, self._state)
        if there is not None:
            self._state = self._stored.with_table(there.table)

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Hold the bank's lock, so that nobody changes its rows, and hand over the bank as it is on disk.

        A bank that may not be written is read without the lock, and so is one in a bucket.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked())
            except CacheWriteError as error:
                if error.errno not in READ_ONLY:
                    raise
            yield self._now()

    def _looked_at(self, held: Self) -> Callable[[], Self]:
        """Return what gives the bank as it is: the one that is held; in a bucket, where none is, a new look.

        There the rows must be read after the version of the file that is to be swapped.
        """
        return self._now if isinstance(self.path, BucketPath) else lambda: held

    def _now(self) -> Self:
        """Return the bank with the rows on disk, which another process may have set."""
        there = read_manifest(self.path, self._state) or self._stored
        return type(self)(self.path, self._document, there)

    def _locked(self) -> AbstractContextManager[object]:
        return nullcontext() if isinstance(self.path, BucketPath) else locked(self.path / files.LOCK_FILE)

    def _change_rows(
        self,
        change: Callable[[StoredManifest | None], StoredManifest],
        known: StoredManifest | None,
        *,
        is_held: bool = False,
    ) -> None:
        """Write what `change` makes of the rows that are there, under the lock if it is not held already."""

        def make() -> list[bytes | memoryview] | None:
            there = read_manifest(self.path, known)
            state = change(there)
            return None if there is not None and there.same(state) else state.encode()

        change_file(self.path / MANIFEST_FILE, make, None if is_held else self.path / files.LOCK_FILE)

    def _fold_statuses(self, found: NDArray[np.uint8]) -> None:
        """Fold in what a cut found of the images of these rows; the bank's lock is held.

        Of an image that is not among them nothing was found out, whatever its slot holds.
        """
        own = self._stored

        def folded(there: StoredManifest | None) -> StoredManifest:
            there = there or own
            grown = np.zeros(len(there.table), np.uint8)
            grown[own.row_slots] = found[own.row_slots]
            table = there.table.with_statuses(grown)
            self._state = own.with_table(table)
            return there.with_table(table)

        self._change_rows(folded, own, is_held=True)

    # cuts ------------------------------------------------------------------------------------------

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the cuts that are complete for every row of the manifest, sorted."""
        return tuple(one.name for one in self._states() if one.complete)

    @property
    def partial_cuts(self) -> dict[str, CutProgress]:
        """Cuts that were begun, with how many rows are stored of how many needed."""
        states = [one for one in self._states() if not one.complete]
        return {one.name: CutProgress(one.rows_stored, one.rows_needed) for one in states}

    def shard_names(self, cut: str) -> list[str]:
        """Return the file names of a cut's shards, which carry the SHA-256 of their bytes, sorted."""
        return sorted(path.name for path in (self.path / cut).glob("[0-9]*.h5"))

    def _cut_folders(self) -> list[Path]:
        return [] if self._is_planned and not self.path.is_dir() else files.cut_folders(self.path)

    def _states(self) -> list[CutInfo]:
        """Look at every cut once."""
        if self._state is None:
            return []
        states = (self._state_of(folder) for folder in self._cut_folders())
        return [one for one in states if one is not None]

    def _look(self, folder: Path) -> tuple[CutLayout | None, CutDocument | None]:
        document = CutDocument.read(folder, self.key.digest())
        return layout_of(folder, document, self.key.digest()), document

    def _state_of(self, folder: Path) -> CutInfo | None:
        """Look at one cut, its size apart; None if there is nothing of it."""
        layout, document = self._look(folder)
        stored = self._state
        if layout is None or stored is None:
            return None
        reader = self._reader_of(layout)
        rows, present = stored.rows_in(reader.plans), reader.present()
        n_stored = int(rows[present].sum())
        if document and document.absent:  # of what is gone the table knows; the others can be had
            slots = np.array([slot for slot in document.absent if slot < len(stored.table)], np.int64)
            slots = slots[stored.table.statuses[slots] == RowStatus.OK]
            slots = slots[present[reader.numbers_of(slots)]]
            n_stored -= int((stored.rows_before[slots + 1] - stored.rows_before[slots]).sum())
        needed = set(np.flatnonzero(rows).tolist())
        whole = document is not None and needed <= document.shards and n_stored == stored.n_rows
        facts = document.facts if document else {}
        shape, dtype = layout.shape, layout.dtype.name
        return CutInfo(layout.cut, shape, dtype, n_stored, stored.n_rows, whole, size_bytes=0, facts=facts)

    def facts(self, cut: str) -> dict[str, Any]:
        """Return what extraction recorded about a cut; {} while it is not finished."""
        document = self._found(cut)[1]
        return document.facts if document else {}

    def __contains__(self, cut: object) -> bool:
        state = self._state_of(self.path / cut) if self._may_be_cut(cut) else None
        return state is not None and state.complete

    def _may_be_cut(self, cut: object) -> TypeGuard[str]:
        name = isinstance(cut, str) and cut == Path(cut).name and not cut.startswith(".")
        return name and (self.path / str(cut)).is_dir()

    def _reader(self, cut: str) -> CutReader:
        return self._reader_of(self._found(cut)[0])

    def _stored_cuts(self) -> tuple[str, ...]:
        return tuple(one.name for one in self._cut_folders())

    def _found(self, cut: str) -> tuple[CutLayout, CutDocument | None]:
        layout, document = self._look(self.path / cut) if self._may_be_cut(cut) else (None, None)
        if layout is None:
            known = [one.name for one in self._cut_folders()]
            raise UnknownNameError(
                f"bank {self.name!r} holds no cut {cut!r}, it holds {nearest(str(cut), known)}; "
                f"`{self._document.command(str(cut))}` adds it"
            )
        return layout, document

    def _reader_of(self, layout: CutLayout) -> CutReader:
        reader = self._readers.get(layout.cut)
        if reader is None or reader.layout != layout or reader.table.digests is not self.slot_table.digests:
            reader = CutReader(
                self.path / layout.cut, layout, self.slot_table, lambda plan: self._lacks(layout.cut, plan)
            )
            self._readers[layout.cut] = reader
        return reader

    def _lacks(self, cut: str, plan: ShardPlan) -> str:
        return (
            f"cut {cut!r} of bank {self.name!r} lacks shard {plan.number} "
            f"(slots {plan.start} to {plan.stop - 1}); `{self._document.command(cut)}` again extracts it"
        )

    # writing ---------------------------------------------------------------------------------------

    def cut_writer(
        self,
        cut: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        shard_bytes: int = SHARD_BYTES,
        made_by: Mapping[str, str] = MappingProxyType({}),
    ) -> CutWriter:
        """Begin or resume writing a cut.

        Parameters
        ----------
        cut : str
            Its name, ``CUT[:POOLING][@VIEW]``.
        shape : tuple of int
            Shape of one row, each side at least 1.
        dtype : {"float16", "float32"}
            What is stored.
        shard_bytes : int, default=SHARD_BYTES
            About how large a shard is; only used when the cut is new.
        made_by : mapping of str to str, optional
            What computes the features and is not in the key, such as ``torch`` and ``device``; recorded in
            each shard that is written.

        Returns
        -------
        CutWriter

        Raises
        ------
        InvalidInputError
            If the name cannot be used, or the cut exists with another shape or dtype.
        IncompleteBankError
            If the manifest has not been set.
        """
        check_name("cut", cut)
        kind, sides = np.dtype(dtype), tuple(int(side) for side in shape)
        if CutName.parse(cut).base == SOFTMAX:
            raise InvalidInputError(
                f"cut={cut!r} is never stored: store 'logits', bank.softmax(temperature) derives it"
            )
        if kind.name not in ("float16", "float32") or not sides or min(sides) < 1:
            raise InvalidInputError(
                f"cut {cut!r}: shape={shape!r} and dtype={dtype!r} cannot be stored; "
                f"one or more sides of at least 1, and float16 or float32"
            )
        if self._state is None:
            raise IncompleteBankError(
                f"bank {self.name!r} has no rows yet; set_manifest comes before cut_writer"
            )
        existing = self._look(self.path / cut)[0] if (self.path / cut).is_dir() else None
        if existing is None:
            layout = CutLayout(self.key.digest(), cut, sides, kind, 1)
            rows = shard_rows_for(layout.row_bytes, self.key.batch_size, shard_bytes)
            existing = replace(layout, shard_rows=rows)
        elif (existing.shape, existing.dtype) != (sides, kind):
            raise InvalidInputError(
                f"cut {cut!r} of bank {self.name!r} stores {existing.dtype} {existing.shape}, "
                f"not {kind} {sides}; `featbank banks rm` removes it if it is to be extracted anew"
            )
        return CutWriter(self, existing, made_by)

    def write_quarantine(
        self, records: Iterable[QuarantineRecord] | Callable[[Self], Iterable[QuarantineRecord]]
    ) -> None:
        """Replace ``quarantine.jsonl``, whole, by these records, or by what a function makes of the bank.

        The function is given the bank as it is now, which is held; in a bucket it is called again where
        another process wrote the file meanwhile.
        """
        if not callable(records):
            known = list(records)
            files.write_quarantine(self.path, lambda: known)
            return
        with self.held() as there:
            now = self._looked_at(there)
            files.write_quarantine(self.path, lambda: records(now()))

    def quarantine(self) -> list[QuarantineRecord]:
        """Read ``quarantine.jsonl``; empty if there is none."""
        return files.read_quarantine(self.path)

    # looking ---------------------------------------------------------------------------------------

    def info(self) -> BankInfo:
        """Describe the bank in plain values; reads no features."""
        stored = self._state
        counts = np.bincount(stored.splits if stored else np.zeros(0, np.uint8), minlength=len(SPLITS))
        return BankInfo(
            path=self.path,
            dataset=self.dataset,
            backbone=self.key.backbone,
            digest8=self.key.digest8,
            rows=len(self),
            classes=stored.classes if stored else (),
            splits={name: int(n) for name, n in zip(SPLITS, counts, strict=True) if n},
            cuts=tuple(
                replace(one, size_bytes=files.folder_bytes(self.path / one.name)) for one in self._states()
            ),
            quarantined=int((stored.row_statuses != RowStatus.OK).sum()) if stored else 0,
            created=str(self.provenance.get("created", "")),
            changed=files.changed(self.path),
            size_bytes=files.folder_bytes(self.path),
        )

    def verify(self) -> VerifyReport:
        """Hash and check every file; see `featbank.banks.verify_bank`."""
        return verify_bank(self.path)


class CutWriter:
    """Writes one cut; comes from ``bank.cut_writer(cut, shape, dtype)``.

    ``for plan in writer.missing(): writer.write(plan, features, statuses)``, then ``writer.finish(facts)``
    (also when nothing was missing but `finished` is False: the last run died just before it).
    Several threads and several processes may write one cut at once; each shard ends up once.

    Parameters
    ----------
    bank : Bank
        The bank, its manifest set.
    layout : CutLayout
        What the shards look like.
    made_by : mapping of str to str
        What computes the features.
    """

    def __init__(self, bank: Bank, layout: CutLayout, made_by: Mapping[str, str]) -> None:
        self._made_by = dict(made_by)
        self._bank = bank
        self._layout = layout
        self._name = secrets.token_hex(8)
        self._present: dict[int, Path] = {}
        #: Whether the shards that are there are known to be of this layout.
        self._ours = False
        self.folder: Path = bank.path / layout.cut
        self._ready = isinstance(self.folder, BucketPath)

    def prepare(self) -> None:
        """Make the cut's folder, and remove what killed processes left in it; `write` does so too."""
        if not self._ready:
            make_folder(self.folder)
            remove_stale_temporaries(self.folder)
            remove_stale_temporaries(self._bank.path)
            self._ready = True

    @property
    def cut(self) -> str:
        """Name of the cut."""
        return self._layout.cut

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What features are stored as."""
        return self._layout.dtype

    @property
    def shard_rows(self) -> int:
        """Rows of a full shard, a multiple of the key's batch size."""
        return self._layout.shard_rows

    def plans(self) -> list[ShardPlan]:
        """List the planned shards that hold a row of the manifest, in order."""
        plans = self._reader().plans
        return [plans[number] for number in np.flatnonzero(self._bank._stored.rows_in(plans)).tolist()]

    def missing(self) -> list[ShardPlan]:
        """List the planned shards that have no file and hold a row of the manifest, in order.

        Returns
        -------
        list of ShardPlan

        Raises
        ------
        CorruptBankError
            If a shard that is there is damaged; the message says what to do.
        """
        reader = self._reader()
        present = shard_files(self.folder)
        reader.look_ahead(present)
        missing = []
        for plan in self.plans():
            try:
                if plan.number in present:
                    reader.shard(plan.number)
                    continue
            except IncompleteBankError:  # gone since the folder was listed, or a link to nothing
                pass
            missing.append(plan)
        return missing

    def absent(self) -> set[bytes]:
        """Return the digests of images of the manifest that a stored shard was to hold, and does not.

        They were gone when it was written, or not among the rows of who wrote it; a shard is never changed,
        so they need a new slot (`Bank.set_manifest`, `Bank.renew`) to be pushed after all.

        Returns
        -------
        set of bytes
        """
        reader, slots = self._reader(), self._bank._stored.row_slots
        slots = slots[reader.present()[reader.numbers_of(slots)]]
        gone = np.unique(slots[reader.statuses(slots) == RowStatus.ABSENT])
        return {reader.table.digests[slot].tobytes() for slot in gone.tolist()}

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and `finish` has recorded it."""
        return self.cut in self._bank.cuts

    def write(
        self,
        plan: ShardPlan,
        features: NDArray[Any],
        statuses: NDArray[np.uint8],
        made_by: Mapping[str, str] | None = None,
    ) -> Path:
        """Write one shard; when this returns it survives power loss. Threads may write several at once.

        Parameters
        ----------
        plan : ShardPlan
            Which one, from `missing`.
        features : ndarray, shape (plan.n_rows, *shape)
            Rows in slot order, in exactly the stored dtype; zeros where the status is not OK. Written from
            where they are, without a copy, if they are contiguous.
        statuses : ndarray of uint8, shape (plan.n_rows,)
            `RowStatus` of each row.
        made_by : mapping of str to str, optional
            What made this one, where that is not what the writer was made with.

        Returns
        -------
        pathlib.Path
            The shard's file: the one written, or an intact one that another process finished first.

        Raises
        ------
        InvalidInputError
            If the arrays do not fit the plan, or the plan is none of this cut.
        BankChangedError
            If another process began this cut with other shards; theirs stay.
        CacheWriteError
            If the file cannot be written; shards written before are not touched.
        """
        self._check_input(plan, features, statuses)
        self.prepare()
        table = self._reader().table
        made = self._made_by if made_by is None else made_by
        name, parts = encode_shard(self._layout, plan, features, table, statuses, made)
        path = self.folder / name
        if isinstance(path, BucketPath):
            return self._put(path, plan, parts, statuses)
        with locked(self.folder / files.LOCK_FILE, self._name) as again:
            there, fault = self._standing(plan, table, again)
        if there is None or fault is not None:
            with beside(path) as temporary:
                fill(temporary, parts, path)  # without the lock: others write, and wait for the disk, too
                with locked(self.folder / files.LOCK_FILE, self._name) as again:
                    there, fault = self._standing(plan, table, again)
                    if there is None or fault is not None:
                        if there is not None:
                            logger.warning("shard %s is replaced: %s", there, fault)
                            # first, and durably: whenever the power goes, no two files claim one number
                            remove_file(there)
                        move_file(temporary, path)
                        self._present[plan.number] = path
                        return path
        if there.name != name and (read_shard(there).statuses == statuses).all():
            logger.warning("shard %s was written by another process with other bytes; kept", there)
        return there

    def _put(
        self,
        path: BucketPath,
        plan: ShardPlan,
        parts: list[bytes | memoryview],
        statuses: NDArray[np.uint8],
    ) -> Path:
        """Put a shard into a bucket, unless one of its number is there, under whatever name."""
        start = path.name.partition("-")[0] + "-"
        if not self._ours:
            self._refuse_others(shard_files(self.folder))
        there = path.parent.names_from(start)
        for _ in range(_PUTS):  # more than one: a store may tell of a shard that another was about to put
            if there:
                break
            path.put_if_absent(parts)
            there = path.parent.names_from(start)
        if not there:
            raise CacheWriteError(
                f"cannot write {str(path)!r}: the store says that it is there, and does not list it; run the "
                f"same command again, it resumes"
            )
        if not self._ours:
            try:
                self._refuse_others(shard_files(self.folder))
            except BankChangedError:  # who began the cut at the same time sees this one's, or takes theirs
                path.unlink()
                raise
            self._ours = True
        first = path.with_name(there[0])
        if first.name != path.name:
            found = read_shard(first)
            check_place(found, self._layout, plan, self._reader().table)
            if (found.statuses == statuses).all():
                logger.warning("shard %s was written by another process with other bytes; kept", first)
        for name in there[1:]:  # two put theirs at once: all go by the first name, see `shard_files`
            path.with_name(name).unlink()
        return first

    def _standing(self, plan: ShardPlan, table: SlotTable, again: bool) -> tuple[Path | None, str | None]:
        """Return the file that is there for a shard, and what is wrong with it."""
        if not again:  # else nobody has written here since this one did: a long folder is listed once
            self._present, self._ours = shard_files(self.folder), False
        if not self._ours:
            self._refuse_others(self._present)
            self._ours = True
        there = self._present.get(plan.number)
        if there is None or not os.path.lexists(there):
            return None, None
        try:
            fault = check_hash(there)
            if fault is None:
                check_place(read_shard(there), self._layout, plan, table)
        except (CorruptBankError, FileNotFoundError) as error:  # one that cannot be read now is not replaced
            fault = str(error)
        return there, fault

    def _refuse_others(self, present: Mapping[int, Path]) -> None:
        """Raise `BankChangedError` if another process began the cut with shards of another layout.

        All shards of a cut have one layout, so one intact file tells: the first.
        """
        for _, path in sorted(present.items()):
            try:
                found = read_shard(path).layout
                same = found == self._layout
                if not same and check_hash(path) is not None:  # damaged: it may say anything
                    continue
            except (BankError, OSError):  # who needs that one is told
                continue
            if same or (found.key_digest, found.cut) != (self._layout.key_digest, self._layout.cut):
                return
            raise BankChangedError(
                f"another process began cut {self.cut!r} of bank {self._bank.name!r} with {found.shard_rows} "
                f"rows of {found.dtype} {found.shape} a shard, not {self.shard_rows} of {self.dtype} "
                f"{self.shape}; its shards stay: run the same command again, or plan again"
            )

    def finish(self, facts: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Record that the cut is complete for the rows of this bank, with what there is to say about it.

        Rows whose features could not be had get their status in the manifest. Where another process has set
        other rows since, theirs stay, and shards that others wrote are recorded as well.

        Parameters
        ----------
        facts : mapping of str to JSON values, or callable
            E.g. ``precision_error``, ``duration_s``; replaces earlier facts. A function is given those (as
            `Bank.facts` gives them) and returns the new ones. What the shards say of their numbers is added:
            ``max_abs``, ``n_zero``, ``n_nonfinite`` and ``n_values``.

        Raises
        ------
        IncompleteBankError
            If a shard is missing.
        InvalidInputError
            If the facts cannot be stored as JSON.
        """
        missing = self.missing()
        if missing:
            raise IncompleteBankError(self._bank._lacks(self.cut, missing[0]))
        self.prepare()

        with self._bank.held() as there:
            now = self._bank._looked_at(there)
            change_file(self.folder / files.CUT_FILE, lambda: self._document(now(), facts).encode())

    def _document(
        self, there: Bank, facts: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> CutDocument:
        """Say what is in the cut now, and in the manifest which rows cannot be read."""
        reader = there._reader_of(self._layout)  # with the slots others have added
        present = np.flatnonzero(reader.present()).tolist()
        reader.look_ahead(present)
        found = np.zeros(len(reader.table), np.uint8)
        measures = Measures()
        for number in present:
            plan = reader.plans[number]
            measures += reader.shard(number).measures
            found[plan.start : plan.stop] = reader.statuses(np.arange(plan.start, plan.stop))
        self._bank._fold_statuses(found)
        said = facts(there.facts(self.cut) if present else {}) if callable(facts) else facts
        absent = np.flatnonzero(found == RowStatus.ABSENT).tolist()
        return CutDocument(self._layout, frozenset(present), {**said, **asdict(measures)}, frozenset(absent))

    def made_by(self) -> dict[str, tuple[str, ...]]:
        """Return what made the shards that are there, e.g. ``{"torch": ("2.11.0",), "device": ("cpu",)}``.

        More than one value of a name: the last bits of some rows may be others than one machine would give.
        """
        reader, found = self._reader(), dict[str, set[str]]()
        for number in np.flatnonzero(reader.present()).tolist():
            for name, value in reader.shard(number).made_by.items():
                found.setdefault(name, set()).add(value)
        return {name: tuple(sorted(values)) for name, values in sorted(found.items())}

    def _reader(self) -> CutReader:
        return self._bank._reader_of(self._layout)

    def _check_input(self, plan: ShardPlan, features: NDArray[Any], statuses: NDArray[np.uint8]) -> None:
        plans = self._reader().plans
        if not (0 <= plan.number < len(plans)) or plans[plan.number] != plan:
            raise InvalidInputError(f"{plan} is no shard of cut {self.cut!r}; take plans from missing()")
        want = (plan.n_rows, *self.shape)
        faults = []
        if features.shape != want:
            faults.append(f"features have shape {features.shape}, not {want}")
        if features.dtype != self.dtype:  # a silent cast could overflow to inf
            faults.append(f"features have dtype {features.dtype}, not {self.dtype}")
        if statuses.shape != (plan.n_rows,) or statuses.dtype != np.uint8:
            faults.append(f"statuses are {statuses.dtype} {statuses.shape}, not uint8 ({plan.n_rows},)")
        elif (statuses > max(RowStatus)).any():
            faults.append(f"statuses have {int(statuses.max())}, the largest is {int(max(RowStatus))}")
        elif not faults and features[statuses != RowStatus.OK].any():
            faults.append("rows that are not OK have features, they must be zeros")
        if faults:
            raise InvalidInputError(f"shard {plan.number} of cut {self.cut!r}: {'; '.join(faults)}")
