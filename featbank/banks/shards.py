"""One shard file: built in memory, named by its SHA-256, checked against the plan when it is opened."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.banks._files import opened, unreadable, wrong_version
from featbank.banks._format import (
    BLOCK,
    Buffer,
    Contents,
    FormatError,
    VersionError,
    block_of,
    digest_of,
    encode,
    map_rows,
)
from featbank.banks.index import ShardPlan
from featbank.errors import BankReadError, CorruptBankError, FeatbankError
from featbank.manifest import RowStatus

#: Bytes of features looked at together: they and what is derived from them fit a processor's cache.
_MEASURED_BYTES = 1 << 20
_NAME = re.compile(r"(?P<number>\d{5,9})-(?P<sha16>[0-9a-f]{16})\.h5")


@dataclass(frozen=True)
class CutLayout:
    """What all shards of one cut have in common.

    Parameters
    ----------
    key_digest : str
        Digest of the bank's key.
    cut : str
        Name of the cut.
    shape : tuple of int
        Shape of one row.
    dtype : numpy.dtype
        What features are stored as.
    shard_rows : int
        Rows of a full shard.
    """

    key_digest: str
    cut: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard_rows: int

    @property
    def n_features(self) -> int:
        """Numbers in one row."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.n_features * self.dtype.itemsize


@dataclass(frozen=True)
class Measures:
    """What can be said of the numbers of a shard, or of all shards of a cut together.

    Parameters
    ----------
    max_abs : float
        Largest magnitude among the finite values.
    n_zero : int
        How many values are exactly 0, rows without features not counted.
    n_nonfinite : int
        How many are NaN or infinite.
    n_values : int
        How many values there are, rows without features not counted.
    """

    max_abs: float = 0.0
    n_zero: int = 0
    n_nonfinite: int = 0
    n_values: int = 0

    @classmethod
    def of(cls, features: NDArray[Any], statuses: NDArray[np.uint8]) -> Measures:
        """Measure the features (n_rows, *shape), float16 or float32, of rows of these statuses."""
        # Without its sign, the bits of a float grow with its magnitude: whole numbers are fast here.
        kind = np.dtype(f"u{features.dtype.itemsize}")
        no_sign = kind.type(np.iinfo(kind).max >> 1)
        infinite = features.dtype.type(np.inf).view(kind)
        total = cls()
        step = max(1, _MEASURED_BYTES // max(1, features[:1].nbytes))
        for start in range(0, len(features), step):
            block = features[start : start + step]
            usable = statuses[start : start + step] == RowStatus.OK
            bits = np.ascontiguousarray(block if usable.all() else block[usable]).view(kind) & no_sign
            if not bits.size:
                continue
            finite = bits < infinite
            n_nonfinite = bits.size - int(np.count_nonzero(finite))
            largest = (np.where(finite, bits, 0) if n_nonfinite else bits).max()
            total += cls(
                float(largest.view(features.dtype)),
                bits.size - int(np.count_nonzero(bits)),
                n_nonfinite,
                bits.size,
            )
        return total

    def __add__(self, other: Measures) -> Measures:
        return Measures(
            max(self.max_abs, other.max_abs),
            self.n_zero + other.n_zero,
            self.n_nonfinite + other.n_nonfinite,
            self.n_values + other.n_values,
        )


@dataclass(frozen=True, eq=False)
class Shard:
    """What a shard file says about itself; `offset` is where its features begin, in bytes.

    `made_by` is what computed it, as `encode_shard` was told.
    """

    path: Path
    layout: CutLayout
    plan: ShardPlan
    digests: NDArray[np.uint8]
    statuses: NDArray[np.uint8]
    measures: Measures
    made_by: dict[str, str]
    offset: int

    def lean(self) -> Shard:
        """Return the same without the digests and statuses, which a reader has of its own."""
        return replace(self, digests=self.digests[:0].copy(), statuses=self.statuses[:0].copy())

    def features(self) -> NDArray[Any]:
        """Map the features, shape (n_rows, *shape), read-only; raises as `read_shard`."""
        shape = (self.plan.n_rows, *self.layout.shape)
        with opened(self.path, what="shard") as file:
            try:
                return map_rows(file.fileno(), self.layout.dtype, shape, self.offset)
            except ValueError as error:  # cut short since it was checked
                raise unusable(self.path, f"it cannot be mapped ({error})") from error


_REPAIR = "`featbank banks verify --repair` sets it aside and extracts its rows again"


def unusable(path: Path, detail: str) -> FeatbankError:
    """Return the error for a shard that cannot be used: damaged only if its hash says so."""
    if check_hash(path) is not None:
        return damaged(path, detail)
    return BankReadError(
        f"shard {str(path)!r} cannot be used ({detail}), though its bytes are those its name stands for: try "
        f"again, or with the featbank that wrote it; if no featbank did, move it away and extract it again"
    )


def damaged(path: Path, detail: str) -> CorruptBankError:
    """Return the error for a shard whose bytes are not those its name stands for."""
    return CorruptBankError(f"shard {str(path)!r} is damaged: {detail}; {_REPAIR}")


def misplaced(path: Path, detail: str) -> CorruptBankError:
    """Return the error for a shard of another place."""
    return CorruptBankError(
        f"shard {str(path)!r} cannot be used, it does not belong here: {detail}; {_REPAIR}"
    )


def shard_number(name: str) -> int | None:
    """Return the number in a shard's file name, or None if the name is none of a shard.

    Examples
    --------
    >>> shard_number("00012-0123456789abcdef.h5"), shard_number("notes.txt")
    (12, None)
    """
    match = _NAME.fullmatch(name)
    return int(match["number"]) if match else None


def shard_name(number: int, digest: str) -> str:
    """Return the file name of shard `number` whose bytes have this SHA-256."""
    return f"{number:05d}-{digest[:16]}.h5"


def shard_files(folder: Path) -> dict[int, Path]:
    """List the shards of a cut by number.

    Raises
    ------
    BankReadError
        If the folder cannot be listed.
    CorruptBankError
        If two files claim one number.
    """
    found: dict[int, Path] = {}
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names are all it takes
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise unreadable(folder, error, what="cut folder") from error
    for name in names:
        number = shard_number(name)
        if number is None:
            continue
        if number in found:
            raise CorruptBankError(
                f"shard {number} stands twice in {str(folder)!r}: {found[number].name!r} and {name!r}; "
                f"delete the one that `featbank banks verify` calls damaged, or both, and run "
                f"`featbank extract` again"
            )
        found[number] = folder / name
    return found


def encode_shard(
    layout: CutLayout,
    plan: ShardPlan,
    features: NDArray[Any],
    digests: NDArray[np.uint8],
    statuses: NDArray[np.uint8],
    made_by: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, list[Buffer]]:
    """Return the name of a shard and its bytes, in parts; equal content of one maker gives equal bytes."""
    parts = encode(
        "shard",
        {"features": features, "digests": digests, "statuses": statuses},
        {
            "key": layout.key_digest,
            "cut": layout.cut,
            "shard": plan.number,
            "start": plan.start,
            "stop": plan.stop,
            "shard_rows": layout.shard_rows,
            **asdict(Measures.of(features, statuses)),
            **({"made_by": dict(made_by)} if made_by else {}),
        },
        checked=("digests", "statuses"),
    )
    return shard_name(plan.number, digest_of(parts)), parts


def checked_made_by(said: Any) -> dict[str, str]:
    """Return what made a shard, as its file or a pack says; raises `ValueError` if that makes no sense."""
    texts = [*said, *said.values()] if isinstance(said, dict) else [None]
    short = all(isinstance(one, str) and len(one) <= 200 and one.isprintable() for one in texts)
    if not short or len(texts) > 32:
        raise ValueError("what it says of what made it makes no sense")
    return dict(said)


def check_hash(path: Path) -> str | None:
    """Compare a shard's bytes with its name; return what is wrong, or None.

    The mark of a program that has the file open for writing, and may never write, is none of its bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BankReadError
        If it cannot be read.
    """
    with opened(path, what="shard") as file:
        head = file.read(BLOCK)
        block = block_of(head)
        if block:
            head += file.read(block + 48 - len(head))
            head = head[:block] + _as_closed(head[block:])
        start = hashlib.sha256(head)
        digest = hashlib.file_digest(file, lambda: start).hexdigest()
    if path.name != shard_name(shard_number(path.name) or 0, digest):
        return f"its bytes have sha256 {digest[:16]}..., not what its name says"
    return None


def _as_closed(head: bytes) -> bytes:
    """Return the first 48 bytes of an HDF5 file as they are while no program has it open for writing.

    libhdf5 marks a file when it opens it for writing, and takes the mark away when it closes it. A head that
    does not bear a whole mark, with the checksum that goes with it, is returned as it is.
    """
    known = len(head) == 48 and head.startswith(b"\x89HDF\r\n\x1a\n") and head[8] in (2, 3) and head[9] == 8
    if not known or not head[11] or head[44:] != _lookup3(head[:44]):
        return head
    closed = head[:11] + b"\0" + head[12:44]
    return closed + _lookup3(closed)


def _lookup3(data: bytes) -> bytes:
    """Return the checksum of HDF5's metadata (Jenkins' lookup3) of `data`, 4 n bytes, not 12 n."""
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    a = b = c = 0xDEADBEEF + len(data)

    def rotated(value: int, bits: int) -> int:
        value &= 0xFFFFFFFF
        return value << bits | value >> 32 - bits

    while len(words) > 3:
        a, b, c = a + words.pop(0), b + words.pop(0), c + words.pop(0)
        for bits in (4, 6, 8, 16, 19, 4):
            a = (a - c) ^ rotated(c, bits)
            c += b
            a, b, c = b, c, a  # the next of the six does the same with the names moved on
    words += [0] * (3 - len(words))
    a, b, c = a + words[0], b + words[1], c + words[2]
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - rotated(b, bits)
        a, b, c = b, c, a
    return struct.pack("<I", b & 0xFFFFFFFF)


def read_shard(path: Path) -> Shard:
    """Read what a shard says about itself, and check that the file is as long as it must be.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CorruptBankError
        If the file is empty, cut short, too long, or its bytes are otherwise not those of its name.
    BankReadError
        If it cannot be read, or is whole and yet no shard that can be used here.
    BankFormatError
        If it is whole, and of another version of the format.
    """
    with opened(path, what="shard") as file:
        try:
            return shard_in(path, file.fileno())
        except VersionError as error:
            if check_hash(path) is not None:
                raise damaged(path, str(error)) from error
            raise wrong_version(path, error.version) from error
        except (LookupError, TypeError, ValueError) as error:
            raise unusable(path, str(error)) from error


def shard_in(path: Path, descriptor: int) -> Shard:
    """Read an open shard; raises `FormatError`, `LookupError`, `TypeError` or `ValueError`."""
    contents = Contents(descriptor, "shard")
    if set(contents.places) != {"features", "digests", "statuses"}:
        raise FormatError("its arrays are not those of a shard")
    facts, features = contents.facts, contents.places["features"]
    if features.codec or features.dtype.kind != "f" or len(features.shape) < 2 or not features.shape[0]:
        raise FormatError("its features are not stored in one piece inside it")
    numbers = [facts[name] for name in ("shard", "start", "stop", "shard_rows")]
    counts = [facts[name] for name in ("n_zero", "n_nonfinite", "n_values")]
    if not all(type(one) is int for one in (*numbers, *counts)) or type(facts["max_abs"]) is not float:
        raise FormatError("it does not say which shard it is")
    layout = CutLayout(str(facts["key"]), str(facts["cut"]), features.shape[1:], features.dtype, numbers[3])
    shard = Shard(
        path,
        layout,
        ShardPlan(*numbers[:3]),
        contents.read("digests"),
        contents.read("statuses"),
        Measures(facts["max_abs"], *counts),
        checked_made_by(facts.get("made_by", {})),
        features.offset,
    )
    n_rows = shard.plan.n_rows
    shapes = {
        "features": features.shape[:1],
        "digests": shard.digests.shape,
        "statuses": shard.statuses.shape,
    }
    kinds = {contents.places[name].dtype.str for name in ("digests", "statuses")}
    if shapes != {"features": (n_rows,), "digests": (n_rows, 32), "statuses": (n_rows,)} or kinds != {"|u1"}:
        raise FormatError(f"its arrays do not have the {n_rows} rows it says it has")
    if (shard.statuses > max(RowStatus)).any():
        raise FormatError("a row has a status that does not exist")
    return shard


def check_place(shard: Shard, layout: CutLayout, plan: ShardPlan, digests: NDArray[np.uint8]) -> None:
    """Compare a shard with what must stand in this place; `digests` are those of the plan's slots.

    Raises
    ------
    CorruptBankError
        If it belongs to another bank, cut or place.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("bank key", shard.layout.key_digest[:16], layout.key_digest[:16]),
        ("cut", shard.layout.cut, layout.cut),
        ("shard number", shard.plan.number, plan.number),
        ("slots", (shard.plan.start, shard.plan.stop), (plan.start, plan.stop)),
        ("rows per shard", shard.layout.shard_rows, layout.shard_rows),
        ("row shape", shard.layout.shape, layout.shape),
        ("dtype", str(shard.layout.dtype), str(layout.dtype)),
    ]
    wrong = [f"{name} is {got!r}, not {want!r}" for name, got, want in pairs if got != want]
    if not wrong and not np.array_equal(shard.digests, digests):
        wrong.append("it holds other images than the manifest says")
    if wrong:
        raise misplaced(shard.path, "; ".join(wrong))
