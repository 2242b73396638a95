"""A packed file of a stranger, as the parts a bank is made of."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank.banks import _bank_files as files
from featbank.banks._guest import GuestArray, GuestError, GuestReader, GuestServer
from featbank.banks._guest_checks import Shard
from featbank.banks._guest_parts import JSON_BYTES, ROWS_BYTES, manifest_in, small
from featbank.banks._manifest_file import StoredManifest
from featbank.banks._pack_file import FORMAT, PACK_VERSION, content_digest
from featbank.banks._shard_file import checked_made_by
from featbank.errors import BankFormatError
from featbank.manifest import SPLITS

#: Rows of the columns for other readers that are compared at once.
_BLOCK_ROWS = 4096
#: A shard is put together in memory; an extraction makes them of 64 MiB, or of one batch.
_MOST_SHARD_BYTES = 4 * 1024**3
#: Longest text on what made one shard.
_MAKER_BYTES = 1000


class Rows(Protocol):
    """An array that gives slices of its rows: in the reading process, in this one, or in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> NDArray[Any]: ...


def decoded_bytes(server: GuestServer, descriptor: int) -> int:
    """Have a packed file checked, and return how many bytes of arrays are in it; `GuestError` if it fails."""
    with server.reader(os.fstat(descriptor).st_size) as reader:
        arrays = reader.open(descriptor, "pack").arrays.values()
        return sum(one.row_bytes * len(one) for one in arrays)


class PackSource:
    """The parts of a packed file.

    Parameters
    ----------
    path : pathlib.Path
        For messages.
    reader : GuestReader
        Reads it.
    descriptor : int
        The file, open for reading.
    """

    def __init__(self, path: Path, reader: GuestReader, descriptor: int) -> None:
        opened = reader.open(descriptor, "pack")
        self._arrays, said = opened.arrays, opened.attributes
        if said["format"] != FORMAT:
            raise GuestError("it is HDF5, but no packed bank")
        if said["pack_version"] != PACK_VERSION:
            raise BankFormatError(
                f"{str(path)!r} has pack version {said['pack_version']}, this featbank reads version "
                f"{PACK_VERSION}: unpack it with the featbank that packed it"
            )
        self.document = files.parse_bank_document(path, self._bytes("bank/bank_json", JSON_BYTES))
        manifest = self._bytes("bank/manifest", os.fstat(descriptor).st_size)
        self.quarantine = self._bytes("bank/quarantine", ROWS_BYTES)
        self._cut_json = {cut: self._bytes(f"bank/cuts/{cut}/cut_json", JSON_BYTES) for cut in self.cuts()}
        with tempfile.TemporaryFile() as file:
            file.write(manifest)
            file.flush()
            self.stored = manifest_in(reader, file.fileno())
        # a process reads one file at a time: back to the pack
        self._arrays = reader.open(descriptor, "pack").arrays
        codecs = {one.codec.name for one in self._arrays.values() if one.codec is not None}
        self.compression = next(iter(codecs), None)
        if codecs - {said.get("compression")}:
            raise GuestError("its chunks are compressed otherwise than it says")
        self._check_columns()
        self.size_bytes = sum(one.row_bytes * len(one) for one in self._arrays.values())

    def _bytes(self, name: str, most: int) -> bytes:
        return small(self._arrays[name], name, most)

    def cuts(self) -> list[str]:
        """Names of the cuts."""
        return sorted(name.split("/")[1] for name in self._arrays if name.startswith("features/"))

    def unfinished(self) -> list[str]:
        """Names of the cuts that were begun: `pack` leaves them out."""
        return []

    def cut_json(self, cut: str) -> bytes:
        """Return the bytes of a cut's ``cut.json``."""
        return self._cut_json[cut]

    def _check_columns(self) -> None:
        """Compare what other HDF5 readers see of the rows with the manifest, which featbank goes by."""
        manifest = self.stored.manifest
        columns: dict[str, Any] = {
            "ids": manifest.ids,
            "labels": manifest.labels,
            "split": np.array(SPLITS, np.bytes_)[manifest.splits],
        }
        for name, wanted in columns.items():
            column = self._arrays[name]
            same = len(column) == len(wanted)
            for start in range(0, len(wanted) if same else 0, _BLOCK_ROWS):
                part = wanted[start : start + _BLOCK_ROWS]
                same = same and column[start : start + _BLOCK_ROWS].tolist() == list(part)
            if not same:
                raise GuestError(f"its {name!r} are not those of its manifest")
        classes = [name.encode("utf-8", "surrogateescape") for name in manifest.classes]
        if self._arrays["classes"].all().tolist() != classes:
            raise GuestError("its 'classes' are not those of its manifest")

    def detached(self, cut: str, local: Callable[[GuestArray], Rows]) -> dict[str, Rows]:
        """Return what `shards` needs of a cut without the process: its features by `local`, the rest read."""
        inner = f"bank/cuts/{cut}/"
        small_ones = ("shards", "extra_slots", "slot_statuses", "shard_sha256", "made_by")
        return {name: local(self._arrays[name]) for name in (f"features/{cut}", inner + "extra_features")} | {
            name: self._arrays[name].all()
            for name in (f"statuses/{cut}", *(inner + x for x in small_ones))
            if name in self._arrays
        }

    def shards(self, cut: str, document: files.CutDocument) -> Iterator[Shard]:
        """Yield the shards of a cut: plan, features and statuses of its slots, and what made it."""
        return shards_in(self._arrays, self.stored, cut, document)


def check_cut(
    arrays: Mapping[str, Rows], stored: StoredManifest, cut: str, document: files.CutDocument
) -> None:
    """Compare the features of a cut with its ``cut.json`` and the manifest; reads none of them."""
    layout = document.layout
    rows, extra = arrays[f"features/{cut}"], arrays[f"bank/cuts/{cut}/extra_features"]
    for array in (rows, extra):
        if array.shape[1:] != layout.shape or array.dtype != layout.dtype:
            raise GuestError(f"the features of cut {cut!r} are not what its cut.json says")
    if len(rows) != stored.n_rows or len(arrays[f"statuses/{cut}"]) != stored.n_rows:
        raise GuestError(f"the rows of cut {cut!r} do not hold together")


def shards_in(
    arrays: Mapping[str, Rows], stored: StoredManifest, cut: str, document: files.CutDocument
) -> Iterator[Shard]:
    """Yield the shards of a cut, each compared with its digest, and what made it."""
    check_cut(arrays, stored, cut, document)
    layout, inner = document.layout, f"bank/cuts/{cut}/"
    rows, extra = arrays[f"features/{cut}"], arrays[inner + "extra_features"]
    plans = stored.table.plan(layout.shard_rows)
    if max((plan.n_rows for plan in plans), default=0) * layout.row_bytes > _MOST_SHARD_BYTES:
        raise GuestError(f"cut {cut!r} has shards of more than {_MOST_SHARD_BYTES} bytes")
    numbers = arrays[inner + "shards"][:].tolist()
    if numbers != sorted(set(numbers)) or not set(numbers) <= set(range(len(plans))):
        raise GuestError(f"the shards of cut {cut!r} are none the manifest plans")
    extra_slots = arrays[inner + "extra_slots"][:]
    statuses = arrays[inner + "slot_statuses"][:]
    digests = arrays[inner + "shard_sha256"][:]
    in_order = bool((np.diff(extra_slots) > 0).all()) and extra_slots.min(initial=0) >= 0
    if (
        not in_order
        or extra_slots.max(initial=-1) >= len(stored.table)
        or len(extra) != len(extra_slots)
        or len(statuses) != sum(plans[number].n_rows for number in numbers)
        or digests.shape != (len(numbers), 32)
    ):
        raise GuestError(f"the rows of cut {cut!r} do not hold together")
    # where the features of each slot stand: in a row of the manifest, or among the extra ones
    places = stored.table.first_rows(stored.row_slots)
    extra_places = np.full(len(stored.table), -1, np.int64)
    extra_places[extra_slots] = np.arange(len(extra_slots))
    shown, begin = np.full(len(stored.table), 255, np.uint8), 0
    makers = _made_by(arrays.get(inner + "made_by"), len(numbers))
    for number, digest, made_by in zip(numbers, digests, makers, strict=True):
        plan = plans[number]
        slots = np.arange(plan.start, plan.stop)
        if ((places[slots] < 0) & (extra_places[slots] < 0)).any():
            raise GuestError(f"shard {number} of cut {cut!r} has rows without features")
        features = np.zeros((plan.n_rows, *layout.shape), layout.dtype)
        _take(rows, places[slots], features)
        _take(extra, extra_places[slots], features)
        found = statuses[begin : begin + plan.n_rows]
        shown[slots] = found
        begin += plan.n_rows
        if content_digest(features, stored.table.digests, plan, found) != digest.tobytes():
            raise GuestError(f"shard {number} of cut {cut!r} is not what was packed")
        yield plan, features, found, made_by
    if not np.array_equal(arrays[f"statuses/{cut}"][:], shown[stored.row_slots]):
        raise GuestError(f"its statuses of cut {cut!r} are not those of its shards")


def _made_by(array: Rows | None, n_shards: int) -> list[dict[str, str]]:
    if array is None:
        return [{}] * n_shards
    if len(array) > _MAKER_BYTES * (n_shards + 1):
        raise GuestError(f"what made its shards takes {len(array)} bytes")
    try:
        found = [checked_made_by(one) for one in json.loads(array[:].tobytes())]
    except (TypeError, ValueError, RecursionError) as error:
        raise GuestError(f"what made its shards cannot be read ({error})") from error
    if len(found) != n_shards:
        raise GuestError(f"it says of {len(found)} shards what made them, it has {n_shards}")
    return found


def _take(source: Rows, places: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Fill the rows of `out` whose place in `source` is known, run by run; upwards, each chunk once."""
    wanted = np.flatnonzero(places >= 0)
    wanted = wanted[np.argsort(places[wanted], kind="stable")]
    for run in np.split(wanted, np.flatnonzero((np.diff(places[wanted]) != 1) | (np.diff(wanted) != 1)) + 1):
        if len(run):
            first, begin = int(run[0]), int(places[run[0]])
            out[first : first + len(run)] = source[begin : begin + len(run)]
