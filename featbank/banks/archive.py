"""A packed file read as it is: cuts as arrays, nothing unpacked; whoever made it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._cache import user_path
from featbank._registry import nearest
from featbank.banks import _documents as files
from featbank.banks._files import is_of_the_system, unreadable, wrong_version
from featbank.banks._format import Contents, FormatError, VersionError
from featbank.banks.features import StoredFeatures
from featbank.banks.index import ShardPlan, StoredManifest, decode_manifest
from featbank.banks.key import check_name
from featbank.banks.reader import ChunkedRows, MappedRows
from featbank.banks.shards import CutLayout, Measures, checked_made_by
from featbank.errors import (
    BankError,
    BankFormatError,
    BankNotFoundError,
    BankReadError,
    CorruptBankError,
    FeatbankError,
    InvalidInputError,
    MissingPackageError,
    UnknownNameError,
)
from featbank.manifest import SPLITS, Manifest, RowStatus, printable

__all__ = ["Archive", "open_archive"]

#: Longest ``bank.json`` and ``cut.json``, longest ``quarantine.jsonl``, longest text that anybody is shown.
JSON_BYTES, ROWS_BYTES, LONGEST_TEXT = 1024 * 1024, 64 * 1024 * 1024, 2000
#: A shard is put together in memory; an extraction makes them of 64 MiB, or of one batch.
_MOST_SHARD_BYTES = 4 * 1024**3
#: Longest text on what made one shard.
_MAKER_BYTES = 1000
_FACT = re.compile(r"[a-z0-9_]{1,40}")
_MOST_FACTS = 64
_NUMBERS = frozenset({"precision_error", "duration_s", *asdict(Measures())})

#: Plan, features, statuses, and what made it.
ShardContent = tuple[ShardPlan, NDArray[Any], NDArray[np.uint8], dict[str, str]]


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
        self._closer = weakref.finalize(self, os.close, descriptor)
        try:
            with self._named():
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FormatError("it is no file")
                self._pack = Pack(path, descriptor)
                self._document, self._state = self._pack.document, self._pack.stored
                check_name("dataset", self.dataset)
                first_rows = self.slot_first_rows()
                self._readers = {}
                for cut, document in self._pack.documents.items():
                    check_facts(cut, document.facts)
                    self._readers[cut] = _PackReader(document.layout, self._pack, first_rows, self)
        except BaseException:
            self.close()
            raise
        #: How the features are compressed: ``"zstd"``, ``"gzip"``, or None.
        self.compression: str | None = self._pack.compression

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; its arrays can no longer be read."""
        self._closer()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, *self._pin)

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
            for cut, document in self._pack.documents.items():
                for _ in checked_shards(self._pack.shards(cut), cut, document, self._stored):
                    pass

    def _reader(self, cut: str) -> _PackReader:
        if cut not in self._readers:
            raise UnknownNameError(
                f"archive {printable(str(self.path))!r} holds no cut {cut!r}, it holds "
                f"{nearest(str(cut), self._readers)}; the others stayed with the bank it was packed from"
            )
        return self._readers[cut]

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors about the file say which file, and what to do."""
        try:
            yield
        except VersionError as error:
            raise wrong_version(self.path, error.version) from error
        except (BankFormatError, BankReadError, MissingPackageError):
            raise
        except (FeatbankError, OSError, LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise _unreadable(self.path, error) from error
        except MemoryError as error:
            raise unreadable(self.path, error, what="packed bank") from error


def _reopen(path: Path, key: str, rows: str | None) -> Archive:
    archive = open_archive(path)
    archive._refuse_other_rows(rows, key)
    return archive


def _unreadable(path: Path, error: Exception) -> BankError:
    if isinstance(error, OSError) and is_of_the_system(error):
        return unreadable(path, error, what="packed bank")
    return CorruptBankError(
        f"packed bank {printable(str(path))!r} cannot be read ({printable(str(error)[:500])}): get it again "
        f"from where it is whole, from somebody you trust"
    )


class _PackReader:
    """The slots of one cut in a packed file, where they stand in the order of the rows."""

    def __init__(
        self, layout: CutLayout, pack: Pack, first_rows: NDArray[np.int64], archive: Archive
    ) -> None:
        self.layout = layout
        self._rows, self._first_rows = pack.rows(f"features/{layout.cut}"), first_rows
        self._statuses = pack.read(f"statuses/{layout.cut}")
        self._archive = weakref.ref(archive)

    def statuses(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._statuses[self._first_rows[slots]]

    def usable(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(self.statuses(slots) == RowStatus.OK)

    def gather(self, slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        archive = self._archive()
        if archive is None or not archive._closer.alive:
            raise InvalidInputError(
                f"the archive of cut {self.layout.cut!r} is closed; open it again with open_archive"
            )
        try:
            self._rows.gather(self._first_rows[slots], out)
        except (ValueError, OSError) as error:
            raise _unreadable(archive.path, error) from error


# what a packed file is made of -----------------------------------------------------------------------


def columns(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the rows as readers of plain HDF5 see them; featbank goes by the manifest."""
    lengths = np.diff(manifest.ids.offsets)  # type: ignore[attr-defined]
    width = max(1, int(lengths.max(initial=1)))
    ids = np.zeros((len(manifest), width), np.uint8)
    ids[np.arange(width) < lengths[:, None]] = manifest.ids.data  # type: ignore[attr-defined]
    classes = [name.encode("utf-8", "surrogateescape") for name in manifest.classes]
    return {
        "ids": ids.view(f"S{width}").reshape(-1),
        "labels": manifest.labels,
        "split": np.array(SPLITS, np.bytes_)[manifest.splits],
        "classes": np.array(classes or [b""], np.bytes_)[: len(classes)],
    }


def facts_of(document: files.BankDocument) -> dict[str, Any]:
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


class Pack:
    """The parts of a packed file, each checked; raises `FormatError` and errors of what is damaged.

    Parameters
    ----------
    path : pathlib.Path
        For messages.
    descriptor : int
        The file, open for reading.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        contents = self._contents = Contents(descriptor, "pack")
        self._descriptor = descriptor
        self.size_bytes = sum(one.n_bytes for one in contents.places.values())
        cuts = sorted(name.split("/")[1] for name in contents.places if name.startswith("features/"))
        self._check_names(cuts)
        codecs = {one.codec.name for one in contents.places.values() if one.codec is not None}
        self.compression = next(iter(codecs), None)
        if codecs - {contents.facts.get("compression")}:
            raise FormatError("its chunks are compressed otherwise than it says")
        self.document = files.parse_bank_document(path, self._bytes("bank/bank_json", JSON_BYTES))
        said = facts_of(self.document)
        wrong = [name for name, value in said.items() if contents.facts.get(name, value) != value]
        if wrong:
            raise FormatError(f"it says of itself what is not so: {', '.join(wrong)}")
        self.stored = decode_manifest(path, self._bytes("bank/manifest", contents.size))
        self.quarantine = self._bytes("bank/quarantine", ROWS_BYTES)
        for name, wanted in columns(self.stored.manifest).items():
            found = self.read(name)
            if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
                raise FormatError(f"its {name!r} are not those of its manifest")
        self.documents: dict[str, files.CutDocument] = {}
        for cut in cuts:
            data = self._bytes(f"bank/cuts/{cut}/cut_json", JSON_BYTES)
            self.documents[cut] = files.parse_cut_document(
                path / cut / files.CUT_FILE, data, cut, self.document.key.digest()
            )
            self._check_cut(cut, self.documents[cut].layout)

    def _check_names(self, cuts: list[str]) -> None:
        places = self._contents.places
        wanted = {"ids", "labels", "split", "classes", "bank/bank_json", "bank/manifest", "bank/quarantine"}
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
        places, n_rows = self._contents.places, self.stored.n_rows
        for name in (f"features/{cut}", f"bank/cuts/{cut}/extra_features"):
            if places[name].shape[1:] != layout.shape or places[name].dtype != layout.dtype:
                raise FormatError(f"the features of cut {cut!r} are not what its cut.json says")
        statuses = places[f"statuses/{cut}"]
        if places[f"features/{cut}"].shape[0] != n_rows or statuses[:2] != (np.dtype(np.uint8), (n_rows,)):
            raise FormatError(f"the rows of cut {cut!r} do not hold together")

    def read(self, name: str) -> NDArray[Any]:
        """Return one of its small arrays."""
        return self._contents.read(name)

    def _bytes(self, name: str, most: int) -> bytes:
        place = self._contents.places[name]
        if place.dtype != np.uint8 or len(place.shape) != 1 or place.n_bytes > most:
            raise FormatError(f"{name!r} has {place.n_bytes} bytes, more than {most}, or is no text")
        return self.read(name).tobytes()

    def rows(self, name: str) -> MappedRows | ChunkedRows:
        """Return one of its arrays of features."""
        place = self._contents.places[name]
        if place.codec is None:
            return MappedRows(self._contents.map(name))
        chunks = self._contents.chunks[name]
        return ChunkedRows(self._descriptor, place.codec, place.shape, place.dtype, chunks)

    def shards(self, cut: str) -> Iterator[ShardContent]:
        """Yield the shards of a cut, each compared with its digest."""
        stored, layout, inner = self.stored, self.documents[cut].layout, f"bank/cuts/{cut}/"
        rows, extra = self.rows(f"features/{cut}"), self.rows(inner + "extra_features")
        plans = stored.table.plan(layout.shard_rows)
        if max((plan.n_rows for plan in plans), default=0) * layout.row_bytes > _MOST_SHARD_BYTES:
            raise FormatError(f"cut {cut!r} has shards of more than {_MOST_SHARD_BYTES} bytes")
        numbers = self.read(inner + "shards").tolist()
        if numbers != sorted(set(numbers)) or not set(numbers) <= set(range(len(plans))):
            raise FormatError(f"the shards of cut {cut!r} are none the manifest plans")
        extra_slots, statuses = self.read(inner + "extra_slots"), self.read(inner + "slot_statuses")
        digests = self.read(inner + "shard_sha256")
        kinds = (
            extra_slots.dtype.str,
            extra_slots.ndim,
            statuses.dtype.str,
            statuses.ndim,
            digests.dtype.str,
        )
        if (
            kinds != ("<i8", 1, "|u1", 1, "|u1")
            or (np.diff(extra_slots) <= 0).any()
            or extra_slots.min(initial=0) < 0
            or extra_slots.max(initial=-1) >= len(stored.table)
            or len(extra) != len(extra_slots)
            or len(statuses) != sum(plans[number].n_rows for number in numbers)
            or digests.shape != (len(numbers), 32)
        ):
            raise FormatError(f"the rows of cut {cut!r} do not hold together")
        # where the features of each slot stand: in a row of the manifest, or among the extra ones
        places = stored.table.first_rows(stored.row_slots)
        extra_places = np.full(len(stored.table), -1, np.int64)
        extra_places[extra_slots] = np.arange(len(extra_slots))
        shown, begin = np.full(len(stored.table), 255, np.uint8), 0
        makers = self._made_by(inner + "made_by", len(numbers))
        for number, digest, made_by in zip(numbers, digests, makers, strict=True):
            plan = plans[number]
            slots = np.arange(plan.start, plan.stop)
            if ((places[slots] < 0) & (extra_places[slots] < 0)).any():
                raise FormatError(f"shard {number} of cut {cut!r} has rows without features")
            features = np.zeros((plan.n_rows, *layout.shape), layout.dtype)
            _take(rows, places[slots], features)
            _take(extra, extra_places[slots], features)
            found = statuses[begin : begin + plan.n_rows]
            shown[slots] = found
            begin += plan.n_rows
            if content_digest(features, stored.table.digests, plan, found) != digest.tobytes():
                raise FormatError(f"shard {number} of cut {cut!r} is not what was packed")
            yield plan, features, found, made_by
        if not np.array_equal(self.read(f"statuses/{cut}"), shown[stored.row_slots]):
            raise FormatError(f"its statuses of cut {cut!r} are not those of its shards")

    def _made_by(self, name: str, n_shards: int) -> list[dict[str, str]]:
        if name not in self._contents.places:
            return [{}] * n_shards
        try:
            said = json.loads(self._bytes(name, _MAKER_BYTES * (n_shards + 1)))
            found = [checked_made_by(one) for one in said]
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"what made its shards cannot be read ({error})") from error
        if len(found) != n_shards:
            raise FormatError(f"it says of {len(found)} shards what made them, it has {n_shards}")
        return found


def _take(source: MappedRows | ChunkedRows, places: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Fill the rows of `out` whose place in `source` is known; each chunk is decoded once."""
    wanted = np.flatnonzero(places >= 0)
    if len(wanted) == len(out):
        source.gather(places, out)
    elif len(wanted):
        block = np.empty((len(wanted), *out.shape[1:]), out.dtype)
        source.gather(places[wanted], block)
        out[wanted] = block


def checked_shards(
    shards: Iterable[ShardContent], cut: str, document: files.CutDocument, stored: StoredManifest
) -> Iterator[ShardContent]:
    """Pass the shards of a cut on, one by one, if they can be what an extraction writes; `FormatError`."""
    check_facts(cut, document.facts)
    measures, present = Measures(), set()
    for plan, features, statuses, made_by in shards:
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
    wrong = [
        name
        for name, value in asdict(measures).items()
        if present == document.shards and document.facts.get(name, value) != value
    ]
    if wrong:
        raise FormatError(f"cut {cut!r} says of itself what is not so: {', '.join(wrong)}")


def check_facts(cut: str, facts: Mapping[str, Any]) -> None:
    """Let in only facts of the kinds an extraction records; commands show them as numbers."""
    for name, value in facts.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = value is None or isinstance(value, (bool, str)) or (is_number and math.isfinite(value))
        if name in _NUMBERS:
            good = value is None or (is_number and math.isfinite(value))
        if isinstance(value, str):
            good = good and len(value) <= LONGEST_TEXT and value.isprintable()
        if not good or not _FACT.fullmatch(name):
            raise FormatError(f"cut {cut!r} has a fact {name[:80]!r} that featbank does not write")
    if len(facts) > _MOST_FACTS:
        raise FormatError(f"cut {cut!r} has {len(facts)} facts")
