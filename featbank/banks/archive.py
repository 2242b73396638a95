"""Banks that somebody else made: packed files read as they are, packed files and folders taken in.

Every file is checked as if it meant harm. `packing` writes packed files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import beside, make_folder, publish, remove_stale_temporaries, write_file
from featbank._cache import user_path
from featbank._registry import nearest
from featbank.banks import documents as files
from featbank.banks._format import Contents, FormatError, VersionError, decode, map_rows
from featbank.banks.arrays import BlockRows, StoredFeatures
from featbank.banks.bank import Bank
from featbank.banks.documents import (
    MANIFEST_FILE,
    BankDocument,
    CutDocument,
    CutLayout,
    check_name,
    is_of_the_system,
    unreadable,
    wrong_version,
)
from featbank.banks.shards import (
    Measures,
    ShardPlan,
    check_place,
    checked_made_by,
    decode_manifest,
    encode_shard,
    shard_in,
    shard_name,
    shard_number,
)
from featbank.banks.store import BankStore
from featbank.errors import (
    BankFormatError,
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    FeatbankError,
    InvalidInputError,
    MissingPackageError,
    UnknownNameError,
)
from featbank.manifest import SPLITS, Ids, Manifest, RowStatus, printable, shown_group

logger = logging.getLogger(__name__)

#: Longest ``bank.json`` and ``cut.json``, longest ``quarantine.jsonl``, longest text that anybody is shown.
_JSON_BYTES, _ROWS_BYTES, _LONGEST_TEXT = 1024 * 1024, 64 * 1024 * 1024, 2000
#: A shard is put together in memory; an extraction makes them of 64 MiB, or of one batch.
_MOST_SHARD_BYTES = 4 * 1024**3
#: Longest text on what made one shard.
_MAKER_BYTES = 1000
#: Decoded chunks kept for the next reading, in bytes (one at least): rows come back in small batches.
_KEPT_BYTES = 16 * 1024 * 1024
#: More entries than a folder of a bank has.
_MOST_ENTRIES = 100_000
#: What a shard has besides its rows; longest manifest: that of some forty million images.
_OVERHEAD_BYTES, _MANIFEST_BYTES = 128 * 1024, 4 * 1024**3
_FACT = re.compile(r"[a-z0-9_]{1,40}")
_MOST_FACTS = 64
_NUMBERS = frozenset({"precision_error", "duration_s", *asdict(Measures())})
_REASON = re.compile(r"[a-z0-9-]{1,40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KNOWN = frozenset({files.BANK_FILE, MANIFEST_FILE, files.QUARANTINE_FILE, files.SOURCE_FILE})

#: Plan, features, statuses, and what made it.
ShardContent = tuple[ShardPlan, NDArray[Any], NDArray[np.uint8], dict[str, str]]


class _ExistsError(InvalidInputError):
    """The store has the bank; no fault of the one that is taken in."""


@contextlib.contextmanager
def _blaming(path: Path, what: str, fate: str) -> Iterator[None]:
    """Errors about a stranger's bank say which it is, and what to do."""
    try:
        yield
    except VersionError as error:
        raise wrong_version(path, error.version) from error
    except (BankFormatError, BankReadError, CacheWriteError, MissingPackageError, _ExistsError):
        raise
    except (
        FeatbankError,
        OSError,
        MemoryError,
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,
    ) as error:
        if isinstance(error, OSError | MemoryError) and is_of_the_system(error):
            raise unreadable(path, error, what=what) from error
        raise CorruptBankError(
            f"{what} {printable(str(path))!r} {fate.format(printable(str(error)[:500]))} get it again from "
            f"where it is whole, from somebody you trust"
        ) from error


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open a file that `pack` wrote, compressed or not, and read its features without unpacking it.

    The file may come from anybody. Its header is JSON of limited length; whatever `import_bank` would refuse
    in the structure of the file is refused: arrays or chunks outside it or on each other, other types, more
    bytes than a file of its size can hold. libhdf5 never sees it. Rows are read by their position: plain
    ones are mapped, compressed ones decoded with a limit on what comes out. Key, manifest and their digests
    are checked. The features are not, as that means reading all of
    them: `Archive.verify` compares every shard with its SHA-256. (A chunk also carries a checksum of its
    own, which finds accidents, not forgeries.) Whether the features are those of the images they claim to
    be of cannot be found out. A file that is changed while it is open gives other features, or errors; one
    that is cut short while its plain rows are mapped ends the process, as with every memory map.

    Parameters
    ----------
    path : str or path-like
        The packed file.

    Returns
    -------
    Archive
        Also a context manager; it holds the file open.

    Raises
    ------
    BankNotFoundError
        If there is no such file.
    BankReadError
        If it cannot be read now.
    BankFormatError
        If it was written in another version of the format.
    CorruptBankError
        If it is no packed bank, is damaged, or has anything in it that featbank does not write.
    MissingPackageError
        If its features are compressed, and the package for that is not installed.

    Examples
    --------
    >>> import featbank
    >>> from featbank.banks import pack
    >>> path = pack(featbank.open_bank("digits"), "digits.h5")
    >>> with open_archive(path) as archive:
    ...     X, y = archive.load("fc7", split="train")
    >>> X.shape
    (214, 256)
    """
    return Archive(user_path(path))


class Archive(StoredFeatures):
    """A packed bank, opened for reading; comes from `open_archive`.

    ``archive["fc7"]`` is an array of features as ``bank["fc7"]`` is, rows in the order of
    ``archive.manifest``. Pickles as its path and the digest of its rows, as `Bank` does.

    Parameters
    ----------
    path : pathlib.Path
        The packed file.

    Examples
    --------
    >>> import featbank
    >>> from featbank.banks import pack
    >>> path = pack(featbank.open_bank("digits"), "digits.h5", compression="gzip")
    >>> with featbank.open_archive(path) as archive:
    ...     print(archive.cuts, len(archive), archive.compression, archive["fc7"][:2].shape)
    ...     archive.verify()  # reads all of it
    ('block3_pool', 'fc7') 300 gzip (2, 256)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if is_of_the_system(error):
                raise unreadable(path, error, what="packed bank") from error
            raise BankNotFoundError(
                f"no packed bank {printable(str(path))!r} ({error.strerror}); `featbank banks pack` makes one"
            ) from error
        with self._named():
            self._pack = Pack(path, descriptor)
            self._document, self._state = self._pack.document, self._pack.stored
            first_rows = self.slot_first_rows()
            self._readers = {cut: _PackReader(self._pack, cut, first_rows) for cut in self._pack.documents}
        #: How the features are compressed: ``"zstd"``, ``"gzip"``, or None.
        self.compression: str | None = self._pack.compression

    @classmethod
    def _again(cls, path: Path) -> Archive:
        return open_archive(path)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; its arrays can no longer be read."""
        self._pack.close()

    def __repr__(self) -> str:
        how = self.compression or "not compressed"
        return f"<Archive of {self.name!r}, {len(self)} rows, {how}, cuts: {', '.join(self.cuts) or 'none'}>"

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of its cuts, sorted."""
        return tuple(self._readers)

    def facts(self, cut: str) -> dict[str, Any]:
        """Return what extraction recorded about a cut."""
        self._reader(cut)
        return dict(self._pack.documents[cut].facts)

    def __contains__(self, cut: object) -> bool:
        return cut in self._readers

    def verify(self) -> None:
        """Read everything, and check it as `import_bank` does, every shard against its SHA-256 in the file.

        Raises
        ------
        CorruptBankError
            If anything is not what was packed.
        """
        with self._named():
            for cut in self._pack.documents:
                for _ in _checked_shards(self._pack, cut):
                    pass

    def _stored_cuts(self) -> tuple[str, ...]:
        return tuple(self._readers)

    def _reader(self, cut: str) -> _PackReader:
        if cut not in self._readers:
            raise UnknownNameError(
                f"archive {printable(str(self.path))!r} holds no cut {cut!r}, it holds "
                f"{nearest(str(cut), self._readers)}; the others stayed with the bank it was packed from"
            )
        return self._readers[cut]

    def _named(self) -> contextlib.AbstractContextManager[None]:
        return _blaming(self.path, "packed bank", "cannot be read ({}):")


class PackRows(BlockRows):
    """The rows of arrays of a pack, one behind the other: each is one mapped block, or compressed chunks."""

    def __init__(self, pack: Pack, *names: str) -> None:
        self._pack, self._largest = pack, 1
        starts, self._blocks, end = list[int](), list[tuple[str, int]](), 0
        for name in names:
            place = pack.places[name]
            step = place.chunk_rows if place.codec else max(1, place.shape[0])
            blocks = range(0, place.shape[0], step)
            starts += [end + start for start in blocks]
            self._blocks += [(name, number) for number in range(len(blocks))]
            self._largest = max(self._largest, step * place.row_bytes)
            end += place.shape[0]
        super().__init__(np.array(starts, np.int64))

    def _most_kept(self) -> int:
        return max(1, _KEPT_BYTES // self._largest)

    def _load(self, number: int) -> NDArray[Any]:
        name, chunk = self._blocks[number]
        place = self._pack.places[name]
        if place.codec is None:
            return self._pack.map(name)
        offset, size = self._pack.chunks[name][chunk].tolist()
        data = os.pread(self._pack.descriptor, size, offset)
        if len(data) != size:
            raise ValueError(f"chunk {chunk} is not all in the file")
        try:
            values = decode(place.codec, data, place.chunk_rows * place.row_bytes, place.dtype)
        except ValueError as error:
            raise ValueError(f"chunk {chunk} is damaged: {error}") from error
        return values.reshape(place.chunk_rows, *place.shape[1:])


class _PackReader(PackRows):
    """The slots of one cut in a packed file, where they stand in the order of the rows."""

    def __init__(self, pack: Pack, cut: str, first_rows: NDArray[np.int64]) -> None:
        super().__init__(pack, f"features/{cut}")
        self.layout, self._first_rows = pack.documents[cut].layout, first_rows
        self._statuses = pack.read(f"statuses/{cut}")

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._statuses[self._first_rows[slots]]

    def usable(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(self.statuses(slots) == RowStatus.OK)

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        if not self._pack.close.alive:
            raise InvalidInputError(
                f"the archive of cut {self.layout.cut!r} is closed; open it again with open_archive"
            )
        with _blaming(self._pack.path, "packed bank", "cannot be read ({}):"):
            super().gather(self._first_rows[slots], out)


# what a packed file is made of -----------------------------------------------------------------------


def columns(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the rows as readers of plain HDF5 see them; featbank goes by the manifest."""
    classes = [name.encode("utf-8", "surrogateescape") for name in manifest.classes]
    found = {
        "ids": _of_one_width(Ids.of(manifest.ids)),
        "labels": manifest.labels,
        "split": np.array(SPLITS, np.bytes_)[manifest.splits],
        "classes": np.array(classes or [b""], np.bytes_)[: len(classes)],
    }
    if manifest.groups is not None:
        found["group"] = _of_one_width(Ids.of(list(map(shown_group, manifest.group_names))))[manifest.groups]
    return found


def _of_one_width(names: Ids) -> NDArray[np.bytes_]:
    lengths = np.diff(names.offsets)
    width = max(1, int(lengths.max(initial=1)))
    found = np.zeros((len(names), width), np.uint8)
    found[np.arange(width) < lengths[:, None]] = names.data
    return found.view(f"S{width}").reshape(-1)


def facts_of(document: BankDocument) -> dict[str, Any]:
    """Return what a pack says of itself to readers of plain HDF5, beside how it is compressed."""
    return {
        "dataset": document.dataset,
        "backbone": document.key.backbone,
        "key_digest": document.key.digest(),
        "key": document.key.to_dict(),
        "provenance": document.provenance,
    }


def content_digest(
    features: NDArray[Any], table: NDArray[np.uint8], plan: ShardPlan, statuses: NDArray[np.uint8]
) -> bytes:
    """Return the SHA-256 of a shard's content (another HDF5 release may lay it out otherwise in its file)."""
    digest = hashlib.sha256()
    for part in (features, table[plan.start : plan.stop], statuses):
        digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


class Pack(Contents):
    """The parts of a packed file, each checked; raises `FormatError` and errors of what is damaged.

    It owns the descriptor: `close` closes it, and so does its end.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.close = weakref.finalize(self, os.close, descriptor)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            raise FormatError("it is no file")
        super().__init__(self.descriptor, "pack")
        self.size_bytes = sum(one.n_bytes for one in self.places.values())
        cuts = sorted(name.split("/")[1] for name in self.places if name.startswith("features/"))
        self._check_names(cuts)
        codecs = {one.codec.name for one in self.places.values() if one.codec is not None}
        self.compression = next(iter(codecs), None)
        if codecs - {self.facts.get("compression")}:
            raise FormatError("its chunks are compressed otherwise than it says")
        self.document = BankDocument.parse(self.path, self._bytes("bank/bank_json", _JSON_BYTES))
        check_name("dataset", self.document.dataset)
        _refuse_lies("it", facts_of(self.document), self.facts)
        self.stored = decode_manifest(self.path, self._bytes("bank/manifest", self.size))
        self.quarantine = self._bytes("bank/quarantine", _ROWS_BYTES)
        plain = columns(self.stored.manifest)
        if "group" in self.places and "group" not in plain:
            raise FormatError("it has groups, and its manifest has none")
        for name, wanted in plain.items():
            found = self.read(name)
            if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
                raise FormatError(f"its {name!r} are not those of its manifest")
        self.documents: dict[str, CutDocument] = {}
        for cut in cuts:
            data = self._bytes(f"bank/cuts/{cut}/cut_json", _JSON_BYTES)
            self.documents[cut] = _cut_document(self.path, data, cut, self.document)
            self._check_cut(cut, self.documents[cut].layout)

    def _check_names(self, cuts: list[str]) -> None:
        places = self.places
        wanted = {"ids", "labels", "split", "classes", "bank/bank_json", "bank/manifest", "bank/quarantine"}
        wanted |= {"group"} & set(places)
        for cut in cuts:
            inner = f"bank/cuts/{cut}/"
            wanted |= {f"features/{cut}", f"statuses/{cut}"}
            parts = ("cut_json", "shards", "slot_statuses", "extra_slots", "extra_features", "shard_sha256")
            wanted |= {inner + part for part in parts}
            wanted |= {inner + "made_by"} & set(places)
            for name, table in ((f"features/{cut}", "chunks"), (inner + "extra_features", "extra_chunks")):
                if name in places and places[name].codec is not None:
                    wanted.add(inner + table)
        if wanted != set(places):
            odd = min(wanted.symmetric_difference(places))
            raise FormatError(f"it lacks or has too much of {odd[:100]!r}")

    def _check_cut(self, cut: str, layout: CutLayout) -> None:
        """Compare types and shapes of the arrays of a cut with each other, and with the manifest."""
        inner = f"bank/cuts/{cut}/"
        n_rows, n_extra = self.stored.n_rows, self.places[inner + "extra_slots"].shape[0]
        n_shards = self.places[inner + "shards"].shape[0]
        features = {f"features/{cut}": (n_rows,), inner + "extra_features": (n_extra,)}
        for name in features:
            if self.places[name].shape[1:] != layout.shape or self.places[name].dtype != layout.dtype:
                raise FormatError(f"the features of cut {cut!r} are not what its cut.json says")
        wanted = {
            f"statuses/{cut}": ("|u1", (n_rows,)),
            inner + "shards": ("<i8", (n_shards,)),
            inner + "shard_sha256": ("|u1", (n_shards, 32)),
            inner + "extra_slots": ("<i8", (n_extra,)),
            **{name: (layout.dtype.str, (*rows, *layout.shape)) for name, rows in features.items()},
        }
        if any((self.places[name].dtype.str, self.places[name].shape) != one for name, one in wanted.items()):
            raise FormatError(f"the rows of cut {cut!r} do not hold together")

    def _bytes(self, name: str, most: int) -> bytes:
        place = self.places[name]
        if place.dtype != np.uint8 or len(place.shape) != 1 or place.n_bytes > most:
            raise FormatError(f"{name!r} has {place.n_bytes} bytes, more than {most}, or is no text")
        return self.read(name).tobytes()

    def shards(self, cut: str) -> Iterator[ShardContent]:
        """Yield the shards of a cut, each compared with its digest."""
        stored, layout, inner = self.stored, self.documents[cut].layout, f"bank/cuts/{cut}/"
        plans = stored.table.plan(layout.shard_rows)
        if max((plan.n_rows for plan in plans), default=0) * layout.row_bytes > _MOST_SHARD_BYTES:
            raise FormatError(f"cut {cut!r} has shards of more than {_MOST_SHARD_BYTES} bytes")
        numbers, extra_slots = self.read(inner + "shards").tolist(), self.read(inner + "extra_slots")
        if numbers != sorted(set(numbers)) or not set(numbers) <= set(range(len(plans))):
            raise FormatError(f"the shards of cut {cut!r} are none the manifest plans")
        statuses = self.read(inner + "slot_statuses")
        if (
            (statuses.dtype.str, statuses.shape)
            != ("|u1", (sum(plans[number].n_rows for number in numbers),))
            or (np.diff(extra_slots) <= 0).any()
            or extra_slots.min(initial=0) < 0
            or extra_slots.max(initial=-1) >= len(stored.table)
        ):
            raise FormatError(f"the rows of cut {cut!r} do not hold together")
        # where the features of each slot stand: in a row of the manifest, or among the extra ones behind them
        rows = PackRows(self, f"features/{cut}", inner + "extra_features")
        places = stored.table.first_rows(stored.row_slots)
        places[extra_slots] = stored.n_rows + np.arange(len(extra_slots))
        shown, begin = np.full(len(stored.table), 255, np.uint8), 0
        makers, digests = self._made_by(inner + "made_by", len(numbers)), self.read(inner + "shard_sha256")
        for number, digest, made_by in zip(numbers, digests, makers, strict=True):
            plan = plans[number]
            if (places[plan.start : plan.stop] < 0).any():
                raise FormatError(f"shard {number} of cut {cut!r} has rows without features")
            features = np.empty((plan.n_rows, *layout.shape), layout.dtype)
            rows.gather(places[plan.start : plan.stop], features)
            found = statuses[begin : begin + plan.n_rows]
            shown[plan.start : plan.stop] = found
            begin += plan.n_rows
            if content_digest(features, stored.table.digests, plan, found) != digest.tobytes():
                raise FormatError(f"shard {number} of cut {cut!r} is not what was packed")
            yield plan, features, found, made_by
        if not np.array_equal(self.read(f"statuses/{cut}"), shown[stored.row_slots]):
            raise FormatError(f"its statuses of cut {cut!r} are not those of its shards")

    def _made_by(self, name: str, n_shards: int) -> list[dict[str, str]]:
        if name not in self.places:
            return [{}] * n_shards
        try:
            said = json.loads(self._bytes(name, _MAKER_BYTES * (n_shards + 1)))
            found = [checked_made_by(one) for one in said]
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"what made its shards cannot be read ({error})") from error
        if len(found) != n_shards:
            raise FormatError(f"it says of {len(found)} shards what made them, it has {n_shards}")
        return found


def _checked_shards(source: Pack | _Folder, cut: str) -> Iterator[ShardContent]:
    """Pass the shards of a cut on, one by one, if they can be what an extraction writes; `FormatError`."""
    document, stored = source.documents[cut], source.stored
    measures, present = Measures(), set()
    for plan, features, statuses, made_by in source.shards(cut):
        shard = f"shard {plan.number} of cut {cut!r}"
        if (statuses > max(RowStatus)).any() or features[statuses != RowStatus.OK].any():
            raise FormatError(f"{shard} has rows that cannot be")
        found = Measures.of(features, statuses)
        if found.n_nonfinite:
            raise FormatError(f"{shard} has {found.n_nonfinite} values that are no finite numbers")
        measures += found
        present.add(plan.number)
        yield plan, features, statuses, made_by
    needed = np.flatnonzero(stored.rows_in(stored.table.plan(document.layout.shard_rows)))
    if not set(needed.tolist()) <= present & document.shards:
        raise FormatError(f"cut {cut!r} lacks shards")
    if present == document.shards:
        _refuse_lies(f"cut {cut!r}", asdict(measures), document.facts)


def _refuse_lies(what: str, true: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    wrong = [name for name, value in true.items() if said.get(name, value) != value]
    if wrong:
        raise FormatError(f"{what} says of itself what is not so: {', '.join(wrong)}")


def _cut_document(path: Path, data: bytes, cut: str, bank: BankDocument) -> CutDocument:
    """Parse a ``cut.json`` and let in only facts of the kinds an extraction records: commands show them."""
    document = CutDocument.parse(path / cut / files.CUT_FILE, data, cut, bank.key.digest())
    for name, value in document.facts.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        is_text = isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()
        good = value is None or is_number
        if name not in _NUMBERS:
            good = good or is_text or isinstance(value, bool)
        if not good or not _FACT.fullmatch(name):
            raise FormatError(f"cut {cut!r} has a fact {name[:80]!r} that featbank does not write")
    if len(document.facts) > _MOST_FACTS:
        raise FormatError(f"cut {cut!r} has {len(document.facts)} facts")
    return document


# taking in ------------------------------------------------------------------------------------------


def unpack(path: str | os.PathLike[str], store: BankStore) -> Bank:
    """Make a bank from a file that `pack` wrote: the same manifest, cuts and shards again.

    The file may come from anybody: see `import_bank`, which does this and whose errors these are.

    Parameters
    ----------
    path : str or path-like
        The packed file.
    store : BankStore
        Where the bank goes, under its own name.

    Returns
    -------
    Bank

    Raises
    ------
    BankNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import featbank
    >>> from featbank.banks import BankStore, pack
    >>> path = pack(featbank.open_bank("digits"), "digits.h5")
    >>> bank = unpack(path, BankStore("another-cache/banks"))
    >>> bank.cuts, len(bank)
    (('block3_pool', 'fc7'), 300)
    """
    if not user_path(path).is_file():
        raise BankNotFoundError(f"no packed bank {printable(str(path))!r}; `featbank banks pack` makes one")
    return import_bank(path, store)


def import_bank(path: str | os.PathLike[str], store: BankStore) -> Bank:
    """Make a bank from one that this user did not write: a packed file, or the folder of a bank.

    Each file is a header of limited length, JSON that must be exactly as featbank writes it, and numbers at
    places that lie inside the file and not on each other; these are checked against each other and written
    anew. No file of the stranger's is opened with HDF5.
    What cannot be found out is whether the features are those of the images they claim to be of.

    Parameters
    ----------
    path : str or path-like
        The packed file, or the bank's folder. Links inside it are refused.
    store : BankStore
        Where the bank goes, under its own name.

    Returns
    -------
    Bank
        With the same rows, cuts and numbers; cuts that were not finished are left out, with a warning.

    Raises
    ------
    BankNotFoundError
        If there is nothing at `path`.
    BankFormatError
        If it was written in another version of the format.
    CorruptBankError
        If it is no bank, is damaged, or has anything in it that featbank does not write; nothing is left
        behind.
    BankReadError
        If it cannot be read now.
    InvalidInputError
        If the store has this bank already.
    CacheWriteError
        If the bank cannot be written.
    MissingPackageError
        If its features are compressed, and the package for that is not installed.

    Examples
    --------
    >>> import featbank
    >>> theirs = featbank.open_bank("digits").path  # say, on a disk that came by post
    >>> bank = import_bank(theirs, featbank.BankStore("another-cache/banks"))
    >>> bank.cuts, len(bank)
    (('block3_pool', 'fc7'), 300)
    """
    source = user_path(path)
    os.fspath(store.root)  # a bucket is refused: what comes from a stranger is checked in a folder first
    try:
        mode = source.stat().st_mode
    except OSError as error:
        if is_of_the_system(error):
            raise unreadable(source, error, what="bank") from error
        raise BankNotFoundError(
            f"no bank {printable(str(source))!r} to take in ({error.strerror}); name a packed file, or the "
            f"folder of a bank"
        ) from error
    with _blaming(source, "bank", "cannot be taken in ({}); nothing of it was kept:"):
        if stat.S_ISDIR(mode):
            return _take_in(source, _Folder(source), store)
        if not stat.S_ISREG(mode):
            raise FormatError("it is neither a file nor a folder")
        pack = Pack(source, os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            return _take_in(source, pack, store)
        finally:
            pack.close()


def _take_in(path: Path, source: Pack | _Folder, store: BankStore) -> Bank:
    """Write a bank aside, anew from the parts of another, and give it its name."""
    target = store.path_for(source.document.dataset, source.document.key)
    if target.exists():
        raise _ExistsError(
            f"{str(target)!r} exists already; remove it with `featbank banks rm`, or unpack into another "
            f"cache"
        )
    existing = next(one for one in target.parents if one.exists())
    free = shutil.disk_usage(existing).free
    if source.size_bytes > free:
        raise CacheWriteError(
            f"bank {printable(str(path))!r} has {source.size_bytes / 1e9:.2f} GB, {str(existing)!r} has "
            f"{free / 1e9:.2f} GB free; free some space, or take it into another cache"
        )
    make_folder(target.parent)
    remove_stale_temporaries(target.parent)
    try:
        with beside(target) as temporary:
            _write(make_folder(temporary), source)
            publish(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # there is no bank of this dataset
            target.parent.rmdir()
    bank = Bank.open(target)
    bank.touch()
    return bank


def _write(folder: Path, source: Pack | _Folder) -> None:
    for cut, document in source.documents.items():
        cut_folder = make_folder(folder / check_name("cut", cut))
        for plan, features, statuses, made_by in _checked_shards(source, cut):
            table = source.stored.table
            name, parts = encode_shard(document.layout, plan, features, table, statuses, made_by)
            write_file(cut_folder / name, parts)
        document.write(cut_folder)
    records = files.parse_quarantine(folder / files.QUARANTINE_FILE, source.quarantine)
    for record in records:
        texts = (record.reason, record.detail, record.digest)
        if not all(isinstance(one, str) and len(one) <= _LONGEST_TEXT for one in texts) or not (
            _REASON.fullmatch(record.reason) and _DIGEST.fullmatch(record.digest)
        ):
            raise FormatError("its quarantine has entries featbank does not write")
    if source.quarantine:
        files.write_quarantine(folder, lambda: records)
    write_file(folder / MANIFEST_FILE, source.stored.encode())
    source.document.write(folder)
    files.mark_verified(folder)


class _Folder:
    """The parts of a stranger's bank folder; nothing in it is followed anywhere."""

    def __init__(self, path: Path) -> None:
        self._path, self.size_bytes = path, files.folder_bytes(path)
        self._names: dict[str, list[str]] = {}
        top = []
        for name, is_folder in _entries(path):
            if is_folder:
                self._names[check_name("cut", name)] = self._cut_entries(name)
            elif name in _KNOWN:
                top.append(name)
            elif not files.PLAN_FILE.fullmatch(name):  # a plan is of machines, and stays with them
                raise FormatError(f"{printable(name)!r} in it is nothing featbank writes")
        self.document = BankDocument.parse(path / files.BANK_FILE, self._bytes(_JSON_BYTES, files.BANK_FILE))
        if files.SOURCE_FILE in top:
            data = self._bytes(_JSON_BYTES, files.SOURCE_FILE)
            self.document = self.document.moved_to(files.parse_source(path / files.SOURCE_FILE, data))
        is_quarantine = files.QUARANTINE_FILE in top
        self.quarantine = self._bytes(_ROWS_BYTES, files.QUARANTINE_FILE) if is_quarantine else b""
        self.stored = decode_manifest(path / MANIFEST_FILE, self._bytes(_MANIFEST_BYTES, MANIFEST_FILE))
        len(self.stored.manifest)  # which checks that no id stands twice
        self.documents: dict[str, CutDocument] = {}
        for cut, names in sorted(self._names.items()):
            if files.CUT_FILE not in names:
                logger.warning("cut %r was not finished and is left out", cut)
                continue
            data = self._bytes(_JSON_BYTES, cut, files.CUT_FILE)
            self.documents[cut] = _cut_document(path, data, cut, self.document)

    def _cut_entries(self, cut: str) -> list[str]:
        names = []
        for name, is_folder in _entries(self._path / cut):
            if is_folder or (name != files.CUT_FILE and shard_number(name) is None):
                raise FormatError(f"{printable(f'{cut}/{name}')!r} in it is nothing featbank writes")
            names.append(name)
        return names

    @contextlib.contextmanager
    def _open(self, *names: str) -> Iterator[BufferedReader]:
        """Open a regular file, following no link on the way; O_NONBLOCK, because a fifo would wait."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.ExitStack() as folders:
            inside = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            folders.callback(os.close, inside)
            for name in names[:-1]:
                inside = os.open(name, flags | os.O_DIRECTORY, dir_fd=inside)
                folders.callback(os.close, inside)
            descriptor = os.open(names[-1], flags | os.O_NONBLOCK, dir_fd=inside)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FormatError(f"{printable(names[-1])!r} in it is no file")
            yield file

    def _bytes(self, most: int, *names: str) -> bytes:
        with self._open(*names) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise FormatError(f"{names[-1]!r} has {size} bytes, more than {most}")
            return file.read(size)

    def shards(self, cut: str) -> Iterator[ShardContent]:
        """Yield the shards of a cut, each compared with its name."""
        layout = self.documents[cut].layout
        plans = self.stored.table.plan(layout.shard_rows)
        numbers: set[int] = set()
        for name in sorted(self._names[cut]):
            number = shard_number(name)
            if number is None:
                continue
            if number in numbers or number >= len(plans):
                raise FormatError(f"{cut}/{name} is one shard too many")
            numbers.add(number)
            with self._open(cut, name) as file:
                yield self._shard(file, name, layout, plans[number])

    def _shard(self, file: BufferedReader, name: str, layout: CutLayout, plan: ShardPlan) -> ShardContent:
        shown, size = f"{layout.cut}/{name}", os.fstat(file.fileno()).st_size
        if size > plan.n_rows * (layout.row_bytes + 64) + _OVERHEAD_BYTES:
            # before it is hashed: a hole of a terabyte takes an hour
            raise FormatError(f"{shown} has {size} bytes, its rows take less")
        if name != shard_name(plan.number, hashlib.file_digest(file, "sha256").hexdigest()):
            raise FormatError(f"the bytes of {shown} are not what its name says")
        shard = shard_in(self._path / layout.cut / name, file.fileno())
        check_place(shard, layout, plan, self.stored.table)
        features = map_rows(file.fileno(), layout.dtype, (plan.n_rows, *layout.shape), shard.offset).copy()
        _refuse_lies(shown, asdict(Measures.of(features, shard.statuses)), asdict(shard.measures))
        return plan, features, shard.statuses, shard.made_by


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield what is in a folder, and whether it is a folder; refuse all but files and folders."""
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= _MOST_ENTRIES:
                raise FormatError(f"{printable(folder.name)!r} has more than {_MOST_ENTRIES} entries")
            mode = entry.stat(follow_symlinks=False).st_mode
            is_folder = stat.S_ISDIR(mode)
            if not is_folder and not stat.S_ISREG(mode):
                raise FormatError(f"{printable(entry.name)!r} in it is neither a file nor a folder")
            passed_over = entry.name.startswith((".tmp-", files.ASIDE_PREFIX)) or entry.name in (
                files.LOCK_FILE,
                files.VERIFIED_FILE,
            )
            if not passed_over:  # locks, marks, leavings: never read, never copied
                yield entry.name, is_folder
