"""``manifest.h5``: the rows of a bank and the slots that hold their features, as one checked file.

512 bytes with the SHA-256 of all that follows (an HDF5 user block, which HDF5 readers skip), then plain HDF5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import sha256
from featbank.banks._hdf5 import READ_ERRORS, build_image, open_image, read_attribute
from featbank.banks._sealed import read_bytes, wrong_version
from featbank.banks.key import FORMAT_VERSION
from featbank.banks.slots import SlotTable
from featbank.errors import BankReadError, CorruptBankError, FeatbankError
from featbank.manifest import SPLITS, Manifest, RowStatus

MANIFEST_FILE = "manifest.h5"

#: Bytes before the HDF5 file.
USER_BLOCK = 512
_STATUSES = max(RowStatus) + 1
_ADVICE = "copy it again from where it is whole, or remove the bank and run `featbank extract` again"


@dataclass(frozen=True, eq=False)
class StoredManifest:
    """What ``manifest.h5`` holds.

    Parameters
    ----------
    id_bytes, id_offsets : ndarray of uint8 and int64
        All ids one behind the other; id i is ``id_bytes[id_offsets[i]:id_offsets[i + 1]]``.
    labels, splits, digests, given_statuses : ndarray
        As in `featbank.manifest.Manifest`; the statuses are those the dataset gave.
    classes : tuple of str
        Class names.
    table : SlotTable
        The slots.
    row_slots : ndarray of int64, shape (n_samples,)
        Slot of each row.
    """

    id_bytes: NDArray[np.uint8]
    id_offsets: NDArray[np.int64]
    labels: NDArray[np.int32]
    splits: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    given_statuses: NDArray[np.uint8]
    classes: tuple[str, ...]
    table: SlotTable
    row_slots: NDArray[np.int64]

    @classmethod
    def of(cls, manifest: Manifest, table: SlotTable, row_slots: NDArray[np.int64]) -> StoredManifest:
        """Take a manifest apart into arrays."""
        id_bytes, id_offsets = _joined(manifest.ids)
        return cls(
            id_bytes,
            id_offsets,
            manifest.labels.astype(np.int32),
            manifest.splits.astype(np.uint8),
            manifest.digests.astype(np.uint8),
            manifest.statuses.astype(np.uint8),
            tuple(manifest.classes),
            table,
            row_slots,
        )

    def with_table(self, table: SlotTable, row_slots: NDArray[np.int64] | None = None) -> StoredManifest:
        """Return the same rows over another table, in the same slots if no others are given."""
        return replace(self, table=table, row_slots=self.row_slots if row_slots is None else row_slots)

    def same(self, other: StoredManifest) -> bool:
        """Say whether another manifest would be the same file."""
        return self.classes == other.classes and all(
            np.array_equal(one, another) for one, another in zip(self._arrays, other._arrays, strict=True)
        )

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        rows = (self.id_bytes, self.id_offsets, self.labels, self.splits, self.digests, self.given_statuses)
        return (*rows, self.row_slots, self.table.digests, self.table.segments, self.table.statuses)

    @property
    def n_rows(self) -> int:
        """How many rows; no ``len()``, by which a manifest with slots and no rows would be falsy."""
        return len(self.labels)

    @cached_property
    def statuses(self) -> NDArray[np.uint8]:
        """Status of each row, shape (n_samples,): the dataset's, else what extraction found."""
        found = self.table.statuses[self.row_slots]
        return np.where(self.given_statuses != RowStatus.OK, self.given_statuses, found).astype(np.uint8)

    @cached_property
    def manifest(self) -> Manifest:
        """The rows, with `statuses`."""
        return Manifest(
            ids=_parted(self.id_bytes, self.id_offsets),
            labels=self.labels,
            classes=self.classes,
            splits=self.splits,
            digests=self.digests,
            statuses=self.statuses,
        )

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of what the rows are: of everything but their slots, and whether they can be read."""
        found = hashlib.sha256()
        arrays = (self.id_bytes, self.id_offsets, self.labels, self.splits, self.digests)
        for array in (*arrays, *_class_arrays(self.classes)):
            found.update(len(array).to_bytes(8, "little"))
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def id(self, row: int) -> bytes:
        """Return one id without building all of them."""
        return self.id_bytes[self.id_offsets[row] : self.id_offsets[row + 1]].tobytes()

    def encode(self) -> bytes:
        """Return the bytes of the file; equal content gives equal bytes."""
        class_bytes, class_offsets = _class_arrays(self.classes)
        image = build_image(
            {
                "ids": self.id_bytes,
                "id_offsets": self.id_offsets,
                "labels": self.labels,
                "splits": self.splits,
                "digests": self.digests,
                "statuses": self.given_statuses,
                "class_names": class_bytes,
                "class_offsets": class_offsets,
                "slot_digests": self.table.digests,
                "segments": self.table.segments,
                "slot_statuses": self.table.statuses,
                "row_slots": self.row_slots,
            },
            {"format_version": FORMAT_VERSION},
        )
        return seal_of(sha256(image)) + image


def decode_manifest(path: Path, data: bytes) -> StoredManifest:
    """Parse the bytes of a ``manifest.h5``.

    Raises
    ------
    CorruptBankError
        If they are not what was written.
    BankReadError
        If they are, and cannot be read.
    BankFormatError
        If they were written in another version of the format.
    """
    image = data[USER_BLOCK:]
    if data[:USER_BLOCK] != seal_of(sha256(image)):
        raise CorruptBankError(
            f"manifest {str(path)!r} is damaged: its {len(data)} bytes do not match its own sha256; {_ADVICE}"
        )
    try:
        with open_image(image) as file:
            version = read_attribute(file, "format_version")
            if version != FORMAT_VERSION:
                raise wrong_version(path, int(version))
            stored: dict[str, NDArray[Any]] = {name: file[name][()] for name in file}
        return from_arrays(stored)
    except FeatbankError:
        raise
    except (*READ_ERRORS, MemoryError) as error:
        raise BankReadError(
            f"manifest {str(path)!r} cannot be read now ({error}), though its bytes are those that were "
            f"written: free some memory and try again, or use the featbank that wrote it"
        ) from error


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> StoredManifest:
    """Put a manifest together from the arrays of its file; raises `LookupError` or `ValueError`.

    Everything that points somewhere is checked, so that no reader can be led astray by it later.
    """
    rows, slots = len(arrays["labels"]), len(arrays["slot_digests"])
    shapes = {
        "splits": (rows,),
        "digests": (rows, 32),
        "statuses": (rows,),
        "row_slots": (rows,),
        "id_offsets": (rows + 1,),
        "slot_digests": (slots, 32),
        "slot_statuses": (slots,),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    for offsets, end in (
        ("id_offsets", len(arrays["ids"])),
        ("class_offsets", len(arrays["class_names"])),
        ("segments", slots),
    ):
        bounds = arrays[offsets]
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != end or (np.diff(bounds) < 0).any():
            wrong.append(offsets)
    for name, limit in (("splits", len(SPLITS)), ("statuses", _STATUSES), ("slot_statuses", _STATUSES)):
        if (arrays[name] >= limit).any():
            wrong.append(name)
    places = arrays["row_slots"]
    if not wrong and (places.min(initial=0) < 0 or places.max(initial=-1) >= slots):
        wrong.append("row_slots")
    if not wrong and not np.array_equal(arrays["slot_digests"][places], arrays["digests"]):
        wrong.append("digests")
    if wrong:
        raise ValueError(f"its {', '.join(dict.fromkeys(wrong))} do not hold together")
    names = _parted(arrays["class_names"], arrays["class_offsets"])
    return StoredManifest(
        arrays["ids"],
        arrays["id_offsets"],
        arrays["labels"],
        arrays["splits"],
        arrays["digests"],
        arrays["statuses"],
        tuple(name.decode("utf-8", "surrogateescape") for name in names),
        SlotTable(arrays["slot_digests"], arrays["segments"], arrays["slot_statuses"]),
        arrays["row_slots"],
    )


def read_manifest(folder: Path) -> StoredManifest | None:
    """Read the manifest of a bank; None if the bank has none yet."""
    path = folder / MANIFEST_FILE
    try:
        data = read_bytes(path, what="manifest")
    except FileNotFoundError:
        return None
    return decode_manifest(path, data)


def seal_of(digest: str) -> bytes:
    """Return the block that stands before the HDF5 file and carries its SHA-256."""
    return f"featbank manifest; sha256 of the HDF5 file behind this block: {digest}\n".encode().ljust(
        USER_BLOCK, b"\0"
    )


def _joined(parts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def _class_arrays(classes: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return _joined([name.encode("utf-8", "surrogateescape") for name in classes])


def _parted(joined: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[bytes, ...]:
    data, bounds = joined.tobytes(), offsets.tolist()
    return tuple(data[start:stop] for start, stop in pairwise(bounds))
