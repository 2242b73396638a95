"""The small files of a bank: ``bank.json``, ``source.json``, ``cut.json``, ``quarantine.jsonl``, ..."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featbank._atomic import locked, write_file, write_json
from featbank.banks._files import extract_command, read_bytes, sealed, unreadable, unsealed
from featbank.banks.key import FORMAT_VERSION, BankKey
from featbank.banks.shards import CutLayout, check_hash, damaged, misplaced, read_shard, shard_files
from featbank.errors import BankNotFoundError, CacheWriteError, CorruptBankError, InvalidInputError
from featbank.manifest import printable

BANK_FILE = "bank.json"
CUT_FILE = "cut.json"
LOCK_FILE = ".lock"
QUARANTINE_FILE = "quarantine.jsonl"
SOURCE_FILE = "source.json"
VERIFIED_FILE = ".verified.json"

#: More than fit the largest disk; a list that claims more would only fill the memory.
_MOST_SHARDS = 10_000_000
#: Marks of a checked copy that are kept, the last ones.
_MOST_MARKS = 64
#: Of read-only banks that this process has checked.
_checked_here: list[list[int]] = []

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class BankDocument:
    """What ``bank.json`` says: dataset name, key, and where the bank came from."""

    dataset: str
    key: BankKey
    provenance: dict[str, Any]

    def moved_to(self, location: str) -> BankDocument:
        """Return the same for images that are elsewhere now."""
        return BankDocument(self.dataset, self.key, {**self.provenance, "location": location})

    def to_dict(self) -> dict[str, Any]:
        """Return what it says."""
        return {
            "format_version": self.key.format_version,
            "dataset": self.dataset,
            "key": self.key.to_dict(),
            "key_digest": self.key.digest(),
            "provenance": self.provenance,
        }

    def command(self, cut: str | None = None) -> str:
        """Return what extracts this bank, or one of its cuts, again."""
        return extract_command(self.to_dict(), cut)

    def write(self, folder: Path) -> None:
        """Write it into a bank's folder."""
        write_json(folder / BANK_FILE, sealed(self.to_dict()))


def read_bank_document(folder: Path, *, source: bool = True) -> BankDocument:
    """Read ``bank.json``, and from ``source.json`` where the images are now, unless that is left out.

    Raises
    ------
    BankNotFoundError
        If there is none.
    BankFormatError
        If it has another format version.
    CorruptBankError
        If it is damaged.
    """
    path = folder / BANK_FILE
    try:
        data = read_bytes(path, what="bank file")
    except FileNotFoundError as error:
        raise _no_bank(folder) from error
    document = parse_bank_document(path, data)
    moved = read_source(folder) if source else None
    return document if moved is None else document.moved_to(moved)


def read_source(folder: Path) -> str | None:
    """Read ``source.json``; None if there is none. Raises `CorruptBankError` if it is damaged."""
    try:
        data = read_bytes(folder / SOURCE_FILE, what="source file")
    except FileNotFoundError:
        return None
    return parse_source(folder / SOURCE_FILE, data)


def write_source(folder: Path, location: str) -> None:
    """Write ``source.json``: where the images are now, if that is not where ``bank.json`` says."""
    write_json(folder / SOURCE_FILE, sealed({"format_version": FORMAT_VERSION, "location": location}))


def parse_source(path: Path, data: bytes) -> str:
    """Parse the bytes of a ``source.json``; raises `CorruptBankError` if it is damaged."""
    location = unsealed(path, data, what="source file").get("location")
    if not isinstance(location, str):
        raise CorruptBankError(
            f"source file {str(path)!r} is damaged (it names no place); delete it and run `featbank extract` "
            f"again"
        )
    return location


def _no_bank(folder: Path) -> BankNotFoundError:
    return BankNotFoundError(
        f"no bank in {str(folder)!r} (it has no {BANK_FILE}): `featbank banks ls` lists the banks "
        f"there are, `featbank extract` makes one"
    )


def parse_bank_document(path: Path, data: bytes) -> BankDocument:
    """Parse the bytes of a ``bank.json``; errors name `path` and are those of `read_bank_document`."""
    document = unsealed(path, data, what="bank file")
    try:
        key = BankKey.from_dict(document["key"])
        if key.digest() != document["key_digest"]:
            raise ValueError("the digest of its key is another")
        return BankDocument(str(document["dataset"]), key, dict(document["provenance"]))
    except (LookupError, TypeError, ValueError) as error:
        raise CorruptBankError(
            f"bank file {str(path)!r} is damaged ({error}); copy it again from where it is whole, or remove "
            f"the bank and run `featbank extract` again"
        ) from error


@dataclass(frozen=True, eq=False)
class CutDocument:
    """What ``cut.json`` says: the layout, the shards that were there when it was written, and the facts.

    `absent` are the slots whose image these shards do not have: it was gone, or not among the rows then.
    """

    layout: CutLayout
    shards: frozenset[int]
    facts: dict[str, Any]
    absent: frozenset[int] = frozenset()

    def write(self, folder: Path) -> None:
        """Write it into a cut's folder."""
        document = {
            "format_version": FORMAT_VERSION,
            "key_digest": self.layout.key_digest,
            "cut": self.layout.cut,
            "shape": list(self.layout.shape),
            "dtype": self.layout.dtype.name,
            "shard_rows": self.layout.shard_rows,
            "shards": _ranges(self.shards),
            **({"absent": _ranges(self.absent)} if self.absent else {}),
            "facts": self.facts,
        }
        write_json(folder / CUT_FILE, sealed(document))


def read_cut_document(folder: Path, key_digest: str) -> CutDocument | None:
    """Read the ``cut.json`` of the bank with this key; None if there is none.

    Raises
    ------
    CorruptBankError
        If it is damaged or belongs to another bank or cut.
    """
    path = folder / CUT_FILE
    try:
        data = read_bytes(path, what="cut file")
    except FileNotFoundError:
        return None
    return parse_cut_document(path, data, folder.name, key_digest)


def parse_cut_document(path: Path, data: bytes, cut: str, key_digest: str) -> CutDocument:
    """Parse the bytes of a ``cut.json``; errors name `path` and are those of `read_cut_document`."""
    document = unsealed(path, data, what="cut file")
    try:
        layout = CutLayout(
            str(document["key_digest"]),
            str(document["cut"]),
            tuple(int(side) for side in document["shape"]),
            np.dtype(document["dtype"]),
            int(document["shard_rows"]),
        )
        if layout.dtype.name not in ("float16", "float32") or min(layout.shape, default=0) < 1:
            raise ValueError(f"rows of {layout.dtype} {layout.shape} are none of features")
        if layout.shard_rows < 1:
            raise ValueError(f"{layout.shard_rows} rows per shard")
        absent = _numbers(document.get("absent", ()))
        found = CutDocument(layout, _numbers(document["shards"]), dict(document["facts"]), absent)
        if (layout.key_digest, layout.cut) != (key_digest, cut):
            raise ValueError(f"it belongs to cut {layout.cut!r} of the bank with key {layout.key_digest[:8]}")
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CorruptBankError(
            f"cut file {str(path)!r} is damaged ({error}); delete the folder of this cut and run "
            f"`featbank extract` again"
        ) from error
    return found


def _numbers(ranges: Iterable[tuple[int, int]]) -> frozenset[int]:
    pairs = [(int(first), int(last)) for first, last in ranges]
    if any(not 0 <= first <= last for first, last in pairs) or sum(b - a for a, b in pairs) >= _MOST_SHARDS:
        raise ValueError("the numbers of its shards make no sense")
    return frozenset(number for first, last in pairs for number in range(first, last + 1))


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Write numbers as first-last pairs.

    >>> _ranges([0, 1, 2, 5])
    [[0, 2], [5, 5]]
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def cut_folders(folder: Path) -> list[Path]:
    """List the folders of a bank that hold a cut, finished or begun, by name.

    Raises
    ------
    BankNotFoundError
        If the bank's folder is gone.
    BankReadError
        If it, or one in it, cannot be listed.
    """
    try:
        return [
            folder / entry.name
            for entry in listed(folder)
            if not entry.name.startswith(".") and entry.is_dir() and holds_cut(folder / entry.name)
        ]
    except FileNotFoundError as error:
        raise _no_bank(folder) from error


def holds_cut(folder: Path) -> bool:
    """Say whether a folder of a bank is one of a cut, finished or begun; raises as `listed`."""
    return any(entry.name == CUT_FILE or entry.name.endswith(".h5") for entry in listed(folder))


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder by name; raises `FileNotFoundError`, or `BankReadError` if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(folder, error, what="folder") from error


def layout_of(folder: Path, key_digest: str) -> CutLayout | None:
    """Say what the shards of a cut look like, from ``cut.json`` or the first shard; None without them."""
    document = read_cut_document(folder, key_digest)
    if document is not None:
        return document.layout
    for _, path in sorted(shard_files(folder).items()):
        try:
            layout = read_shard(path).layout
        except FileNotFoundError:  # removed since the folder was listed
            continue
        if (layout.key_digest, layout.cut) != (key_digest, folder.name):
            raise misplaced(
                path, f"it belongs to cut {layout.cut!r} of the bank with key {layout.key_digest[:8]}"
            )
        return layout
    return None


@dataclass(frozen=True)
class QuarantineRecord:
    """One image that could not be read.

    Parameters
    ----------
    id : bytes
        Its id, as in the manifest.
    digest : str
        SHA-256 of its bytes, 64 hexadecimal digits.
    reason : str
        Short machine-readable cause, e.g. ``"truncated"``.
    detail : str, default=""
        What the decoder said.
    """

    id: bytes
    digest: str
    reason: str
    detail: str = ""

    @property
    def printable_id(self) -> str:
        """The id as it can be shown."""
        return printable(self.id)


def write_quarantine(folder: Path, records: Iterable[QuarantineRecord]) -> None:
    """Write ``quarantine.jsonl`` anew, whole."""
    lines = []
    for record in records:
        document = sealed(
            {
                "id": record.printable_id,
                "id_hex": record.id.hex(),
                "digest": record.digest,
                "reason": record.reason,
                "detail": record.detail,
            }
        )
        lines.append(json.dumps(document) + "\n")
    path, data = folder / QUARANTINE_FILE, "".join(lines).encode()
    before = path.read_bytes() if path.exists() else b""
    if data != before:
        write_file(path, data)


def read_quarantine(folder: Path) -> list[QuarantineRecord]:
    """Read ``quarantine.jsonl``; raises `CorruptBankError` if a line is damaged."""
    path = folder / QUARANTINE_FILE
    try:
        data = read_bytes(path, what="quarantine file")
    except FileNotFoundError:
        return []
    return parse_quarantine(path, data)


def parse_quarantine(path: Path, data: bytes) -> list[QuarantineRecord]:
    """Parse the bytes of a ``quarantine.jsonl``; errors name `path`."""
    records = []
    for line in data.split(b"\n")[:-1]:
        entry = unsealed(path, line, what="quarantine file")
        records.append(
            QuarantineRecord(
                bytes.fromhex(entry["id_hex"]), entry["digest"], entry["reason"], entry["detail"]
            )
        )
    if data and not data.endswith(b"\n"):
        raise CorruptBankError(
            f"quarantine file {str(path)!r} is damaged: its last line is cut short; delete it and run "
            f"`featbank extract` again"
        )
    return records


def _identity(folder: Path) -> list[int]:
    """What every copy has of its own, on whatever host: inode and time of change of a file written once."""
    status = (folder / BANK_FILE).stat()
    return [status.st_ino, status.st_ctime_ns]


def _checked(folder: Path) -> list[Any]:
    try:
        found = json.loads((folder / VERIFIED_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def is_verified_copy(folder: Path) -> bool:
    """Say whether this folder was checked, or made, where it is; a copy of it was not.

    Hosts that see one folder share its mark; a file system that shows each host another inode has one for
    each.
    """
    identity = _identity(folder)
    return identity in _checked_here or identity in _checked(folder)


def mark_verified(folder: Path) -> None:
    """Remember that this folder was checked; where it is read-only, this process alone remembers it."""
    identity = _identity(folder)
    try:
        with locked(folder / LOCK_FILE):
            others = [one for one in _checked(folder) if one != identity]
            write_json(folder / VERIFIED_FILE, [*others, identity][-_MOST_MARKS:])
    except CacheWriteError:
        _checked_here.append(identity)


def check_all_hashes(folder: Path) -> None:
    """Hash every shard of a bank; raises `CorruptBankError` for the first that is not what its name says."""
    logger.info("hashing the shards of %s: it has been copied or moved", folder)
    for cut in cut_folders(folder):
        for path in shard_files(cut).values():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile, or a link to nothing
                fault = check_hash(path)
                if fault is not None:
                    raise damaged(path, fault)


def checked_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance as it will be stored; raises `InvalidInputError` if it is not JSON."""
    if not isinstance(provenance, Mapping):
        raise InvalidInputError(f"provenance={provenance!r} is no mapping; give at least {{}}")
    stored = dict(provenance)
    sealed(stored)
    return stored
