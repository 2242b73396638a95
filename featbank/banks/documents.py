"""What a bank says of itself in small files: its key, where it came from, its cuts, what could not be read.

Each is JSON that carries the SHA-256 of its own content. Errors of reading any file of a bank are made here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featbank._atomic import canonical_json, change_file, json_bytes, locked, sha256, write_file, write_json
from featbank._bucket import BucketPath
from featbank._cuts import LOGITS, SOFTMAX
from featbank.errors import (
    BankFormatError,
    BankNotFoundError,
    BankReadError,
    CacheWriteError,
    CorruptBankError,
    InvalidInputError,
)
from featbank.manifest import printable

#: Version of the bank format this featbank writes, and the only one it reads.
FORMAT_VERSION = 2

BANK_FILE = "bank.json"
#: Name of the file of facts in the folder of a cut.
CUT_FILE = "cut.json"
LOCK_FILE = ".lock"
#: Name of the file of rows in the folder of a bank.
MANIFEST_FILE = "manifest.h5"
QUARANTINE_FILE = "quarantine.jsonl"
SOURCE_FILE = "source.json"
VERIFIED_FILE = ".verified.json"
#: Of an extraction that several processes share; the digits say of what it is the plan.
PLAN_FILE = re.compile(r"plan-[0-9a-f]{16}\.json")
#: A folder of this beginning holds what a repair has set aside; nothing looks into it.
ASIDE_PREFIX = "damaged-"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")
#: A cut's has a ":" before its pooling.
_CUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,99}")
_DTYPES = ("float16", "float32", "float16-clip")
_SEAL = "sha256"
#: More than fit the largest disk; a list that claims more would only fill the memory.
_MOST_SHARDS = 10_000_000
_MOST_PLAN_BYTES = 1 << 20
#: Marks of a checked copy that are kept, the last ones.
_MOST_MARKS = 64
#: Of read-only banks that this process has checked.
_checked_here: list[list[int]] = []
#: What keeps a file from being read that may well be whole.
_OF_THE_SYSTEM = (
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.EAGAIN,
)


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is safe as the name of a folder on every system; raises `InvalidInputError`."""
    pattern = _CUT_NAME if kind == "cut" else _NAME
    if not isinstance(name, str) or not pattern.fullmatch(name) or name.endswith("."):
        marks = "_ . @ : + -" if kind == "cut" else "_ . @ + -"
        raise InvalidInputError(
            f"{kind}={name!r} cannot name a folder: use 1 to 100 of the characters A-Z a-z 0-9 {marks}, "
            f"starting with a letter, a digit or _"
        )
    return name


@dataclass(frozen=True, eq=False)
class BankKey:
    """What decides every number of a bank; two banks with equal digests hold equal features.

    Keys are equal when their digests are, and can stand in sets and dicts.

    Parameters
    ----------
    backbone : str
        Registered name of the network, e.g. ``"vgg16"``.
    weights_sha256 : str
        SHA-256 of the weights, 64 lower-case hexadecimal digits.
    transform : mapping of str to JSON values
        The preprocessing, as its ``to_dict()`` gives it; nested lists and mappings are allowed.
    image_size : int
        Side of the square input in pixels, at least 1.
    precision : str
        How the forward pass computes, e.g. ``"float32"`` or ``"bfloat16"``.
    dtype : {"float16", "float32", "float16-clip"}
        What features are stored as (``logits`` are float32 always; a cut that float16 cannot hold may be
        float32 too, as its ``cut.json`` and each shard say). The last: values beyond 65504 are clipped to it.
    batch_size : int
        Rows pushed at once, at least 1; part of the key because networks do not give bit-equal
        results in batches of another size.
    decoder : str
        Name and version of what turns bytes into pixels, e.g. ``"pillow-12.3.0"``.
    format_version : int, default=2
        Version of the bank format.

    Raises
    ------
    InvalidInputError
        If a field cannot be part of a key; all faults are named at once.

    Examples
    --------
    >>> key = BankKey(
    ...     backbone="minivgg", weights_sha256="0" * 64, transform={"resize": 32}, image_size=32,
    ...     precision="float32", dtype="float16", batch_size=64, decoder="pillow-12.3.0",
    ... )
    >>> key.digest8
    '2dc65eb5'
    """

    backbone: str
    weights_sha256: str
    transform: Mapping[str, Any]
    image_size: int
    precision: str
    dtype: str
    batch_size: int
    decoder: str
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        faults = []
        for name in ("image_size", "batch_size", "format_version"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                faults.append(f"{name}={value!r} is not an integer of at least 1")
        for name in ("backbone", "precision", "decoder"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                faults.append(f"{name}={getattr(self, name)!r} is not a name")
        if not isinstance(self.weights_sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", self.weights_sha256):
            faults.append(f"weights_sha256={self.weights_sha256!r} is not 64 hexadecimal digits")
        if self.dtype not in _DTYPES:
            faults.append(f"dtype={self.dtype!r} is not one of {', '.join(_DTYPES)}")
        try:  # an own copy in plain JSON types: tuples become lists, nobody can change it from outside
            object.__setattr__(self, "transform", _json_copy(self.transform))
        except (TypeError, ValueError) as error:
            faults.append(f"transform={self.transform!r} is not made of JSON values ({error})")
        if faults:
            raise InvalidInputError(f"not a bank key: {'; '.join(faults)}")
        check_name("backbone", self.backbone)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, in the order of the signature."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BankKey:
        """Build a key from what `to_dict` gave; raises `InvalidInputError` for missing or extra fields."""
        known = {one.name for one in fields(cls)}
        if set(values) != known:
            differing = ", ".join(sorted(known.symmetric_difference(values)))
            raise InvalidInputError(f"not a bank key: fields missing or unknown: {differing}")
        return cls(**dict(values))

    @cached_property
    def _digest(self) -> str:
        return sha256(canonical_json(self.to_dict()))

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of all fields, 64 hexadecimal digits."""
        return self._digest

    @property
    def digest8(self) -> str:
        """First eight digits of the digest, as they stand in the folder's name."""
        return self._digest[:8]

    def differences(self, other: BankKey) -> dict[str, tuple[Any, Any]]:
        """Say which fields differ.

        Parameters
        ----------
        other : BankKey
            The key to compare with.

        Returns
        -------
        dict of str to tuple
            Field name to (value here, value there); empty when the keys are equal.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if canonical_json(mine[name]) != canonical_json(theirs[name])
        }

    def __eq__(self, other: object) -> bool:
        return self._digest == other._digest if isinstance(other, BankKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._digest)


def _json_copy(value: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("it is no mapping")
    _check_keys(value)
    copy: dict[str, Any] = json.loads(canonical_json(dict(value)))
    return copy


def _check_keys(value: Any) -> None:
    # json turns the key 1 into "1" without a word; two different transforms must not become one
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the key {name!r} is no string")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


# files, and what keeps them from being read ----------------------------------------------------------


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """Return `document` with its seal as the last entry; raises `InvalidInputError` if it is not JSON."""
    if _SEAL in document:
        raise InvalidInputError(f"a stored document must not have an entry {_SEAL!r} of its own")
    try:
        content = canonical_json(document)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"cannot be stored as JSON ({error}): use text, finite Python numbers, lists and mappings"
        ) from error
    return {**document, _SEAL: sha256(content)}


def _unsealed(path: Path, data: bytes, *, what: str) -> dict[str, Any]:
    """Parse sealed JSON; raises `BankFormatError` for another version, `CorruptBankError` for other bytes."""
    advice = "copy it again from where it is whole, or remove it and run `featbank extract` again"
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        seal = document.pop(_SEAL, None)
        content = canonical_json(document)
    except (ValueError, RecursionError) as error:  # the latter: lists in lists in lists
        raise CorruptBankError(
            f"{what} {str(path)!r} is damaged: no JSON object ({error}); {advice}"
        ) from error
    version = document.get("format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise wrong_version(path, version, document)
    if seal != sha256(content):
        raise CorruptBankError(
            f"{what} {str(path)!r} is damaged: its content does not match its own sha256; {advice}"
        )
    return document


@contextlib.contextmanager
def _making_sense(path: Path, what: str, advice: str) -> Iterator[None]:
    """Say of which file a value makes no sense."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CorruptBankError(f"{what} {str(path)!r} is damaged ({error}); {advice}") from error


def wrong_version(path: Path, version: int, document: Mapping[str, Any] | None = None) -> BankFormatError:
    """Return the error for a file of another format version; a ``bank.json`` says what extracts it again."""
    return BankFormatError(
        f"{str(path)!r} has format version {version}, this featbank reads version {FORMAT_VERSION}: "
        f"install the featbank that wrote it, or extract the bank again with this one, "
        f"`{_extract_command(document or {})}` (another --cache-dir keeps the old one)"
    )


def _extract_command(document: Mapping[str, Any], cut: str | None = None) -> str:
    """Return what extracts a bank (again), by what its ``bank.json`` says, whatever that is."""
    key, provenance = (
        said if isinstance(said := document.get(name), dict) else {} for name in ("key", "provenance")
    )
    words = ["featbank", "extract"]
    location = provenance.get("location") or document.get("dataset")
    if location:
        words.append(printable(str(location)))
    for option, value in (("--backbone", key.get("backbone")), ("--layout", provenance.get("layout"))):
        words += [option, printable(str(value))] if value else []
    if cut:
        base, at, view = cut.partition("@")
        words += ["--cut", f"{LOGITS if base == SOFTMAX else base}{at}{view}"]
    return shlex.join(words)


@contextlib.contextmanager
def opened(path: Path, *, what: str) -> Iterator[BufferedReader]:
    """Open a file of a bank for reading; what is in a bucket is in memory then, all of it.

    Raises `FileNotFoundError`, or `BankReadError` if it cannot be opened, or not be read inside the block.
    """
    if isinstance(path, BucketPath):
        yield BufferedReader(BytesIO(path.read_bytes()))
        return
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            yield file
    except (FileNotFoundError, BankReadError, CorruptBankError):
        raise
    except (OSError, MemoryError) as error:
        raise unreadable(path, error, what=what) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a fifo would be waited for


def _read_bytes(path: Path, *, what: str) -> bytes | None:
    """Read a file whole; None if there is none. Raises `BankReadError`."""
    try:
        with opened(path, what=what) as file:
            return file.read()
    except FileNotFoundError:
        return None


def is_of_the_system(error: Exception) -> bool:
    """Say whether it was the system that could not open or read something, whatever stands in it."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM)


def unreadable(path: Path, error: OSError | MemoryError, *, what: str) -> BankReadError:
    """Return the error for a file or folder that cannot be read at the moment."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno or 0
    advice = {
        errno.EACCES: "check its permissions and those of the folders above it",
        errno.EPERM: "check its permissions and those of the folders above it",
        errno.EMFILE: "close some files of this process, or raise its limit (ulimit -n)",
        errno.ENFILE: "the system has too many files open: try again when some are closed",
        errno.ENOMEM: "free some memory",
        errno.EISDIR: "a folder has the name of a file: move it away",
        errno.EINVAL: "move away what has its name",
        errno.ELOOP: "a link points in a circle: remove it",
        errno.EIO: "the disk, or the way to it, fails: if it stays so, delete the file and extract it again",
    }.get(number, "try again once the cause is gone")
    said = getattr(error, "strerror", None) or os.strerror(number)
    return BankReadError(
        f"{what} {str(path)!r} cannot be read now ({said}), which says nothing of its bytes: {advice}"
    )


class Listed(Protocol):
    """What stands in a folder."""

    @property
    def name(self) -> str:
        """Its name."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""


def listed(folder: Path) -> Sequence[Listed]:
    """List a folder by name; raises `FileNotFoundError`, or `BankReadError` if it cannot be listed."""
    if isinstance(folder, BucketPath):
        found = folder.entries()
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        return found
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(folder, error, what="folder") from error


def holds_cut(folder: Path) -> bool:
    """Say whether a folder of a bank is one of a cut, finished or begun; raises as `listed`."""
    return any(entry.name == CUT_FILE or entry.name.endswith(".h5") for entry in listed(folder))


def cut_folders(folder: Path) -> list[Path]:
    """List the folders of a bank that hold a cut, finished or begun; `BankNotFoundError`, or as `listed`."""
    try:
        return [
            folder / entry.name
            for entry in listed(folder)
            if not entry.name.startswith(".") and entry.is_dir() and holds_cut(folder / entry.name)
        ]
    except FileNotFoundError as error:
        raise _no_bank(folder) from error


def _no_bank(folder: Path) -> BankNotFoundError:
    return BankNotFoundError(
        f"no bank in {str(folder)!r} (it has no {BANK_FILE}): `featbank banks ls` lists the banks "
        f"there are, `featbank extract` makes one"
    )


def changed(folder: Path) -> float:
    """Return when a bank was last extracted to, in seconds since 1970; 0 if it has none of its files."""
    times = [0.0]
    for name in (BANK_FILE, MANIFEST_FILE, LOCK_FILE):  # see `Bank.touch`
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def folder_bytes(folder: Path, *, shared: bool = False) -> int:
    """Return the bytes of all files below a folder, or of those that have another name too: banks share them.

    Files that vanish meanwhile count 0.
    """
    if isinstance(folder, BucketPath):
        return 0 if shared else folder.total_bytes()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.stat(os.path.join(parent, name), follow_symlinks=False)  # noqa: PTH116, PTH118 - fast
                if not shared or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
                    total += found.st_size
    return total


# bank.json, source.json ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BankDocument:
    """What ``bank.json`` says: dataset name, key, and where the bank came from."""

    dataset: str
    key: BankKey
    provenance: dict[str, Any]

    @classmethod
    def new(cls, dataset: str, key: BankKey, provenance: Mapping[str, Any]) -> BankDocument:
        """Return what a bank will say; raises `InvalidInputError` if the provenance is not JSON."""
        if not isinstance(provenance, Mapping):
            raise InvalidInputError(f"provenance={provenance!r} is no mapping; give at least {{}}")
        stored = dict(provenance)
        sealed(stored)
        return cls(dataset, key, stored)

    @classmethod
    def read(cls, folder: Path, *, source: bool = True) -> BankDocument:
        """Read ``bank.json``, and from ``source.json`` where the images are now, unless that is left out.

        Raises `BankNotFoundError`; `BankFormatError` for another version; `CorruptBankError`.
        """
        data = _read_bytes(folder / BANK_FILE, what="bank file")
        if data is None:
            raise _no_bank(folder)
        document = cls.parse(folder / BANK_FILE, data)
        moved = read_source(folder) if source else None
        return document if moved is None else document.moved_to(moved)

    @classmethod
    def parse(cls, path: Path, data: bytes) -> BankDocument:
        """Parse the bytes of a ``bank.json``; errors name `path` and are those of `read`."""
        document = _unsealed(path, data, what="bank file")
        advice = "copy it again from where it is whole, or remove the bank and run `featbank extract` again"
        with _making_sense(path, "bank file", advice):
            key = BankKey.from_dict(document["key"])
            if key.digest() != document["key_digest"]:
                raise ValueError("the digest of its key is another")
            return cls(str(document["dataset"]), key, dict(document["provenance"]))

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
        return _extract_command(self.to_dict(), cut)

    def write(self, folder: Path) -> None:
        """Write it into a bank's folder; in a bucket only if there is none."""
        if isinstance(folder, BucketPath):
            (folder / BANK_FILE).put_if_absent(json_bytes(sealed(self.to_dict())))
        else:
            write_json(folder / BANK_FILE, sealed(self.to_dict()))


def read_source(folder: Path) -> str | None:
    """Read ``source.json``; None if there is none. Raises `CorruptBankError` if it is damaged."""
    data = _read_bytes(folder / SOURCE_FILE, what="source file")
    return None if data is None else parse_source(folder / SOURCE_FILE, data)


def parse_source(path: Path, data: bytes) -> str:
    """Parse the bytes of a ``source.json``; raises `CorruptBankError` if it is damaged."""
    location = _unsealed(path, data, what="source file").get("location")
    with _making_sense(path, "source file", "delete it and run `featbank extract` again"):
        if not isinstance(location, str):
            raise ValueError("it names no place")
        return location


def write_source(folder: Path, location: str) -> None:
    """Write ``source.json``: where the images are now, if that is not where ``bank.json`` says."""
    said = json_bytes(sealed({"format_version": FORMAT_VERSION, "location": location}))
    change_file(folder / SOURCE_FILE, lambda: said, folder / LOCK_FILE)


# plan-*.json -----------------------------------------------------------------------------------------


def read_plan(path: Path) -> dict[str, Any] | None:
    """Read what a saved plan says; None if there is none. What its entries mean is for extraction to check.

    Raises `BankFormatError` for another version; `CorruptBankError` if it is damaged.
    """
    try:
        with opened(path, what="plan") as file:
            data = file.read(_MOST_PLAN_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > _MOST_PLAN_BYTES:
        raise CorruptBankError(
            f"plan {str(path)!r} is damaged: it is larger than any; delete it and plan again"
        )
    return _unsealed(path, data, what="plan")


def write_plan(path: Path, document: dict[str, Any]) -> None:
    """Write a plan, whole or not at all."""
    data = json_bytes(sealed({"format_version": FORMAT_VERSION, **document}))
    change_file(path, lambda: data)


# cut.json --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CutLayout:
    """What all shards of one cut have in common; `shape` is that of one row."""

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

    def stranger(self, key_digest: str, cut: str) -> str | None:
        """Say to what it belongs, if that is not this cut of this bank."""
        if (self.key_digest, self.cut) == (key_digest, cut):
            return None
        return f"it belongs to cut {self.cut!r} of the bank with key {self.key_digest[:8]}"


@dataclass(frozen=True, eq=False)
class CutDocument:
    """What ``cut.json`` says: the layout, the shards that were there when it was written, and the facts.

    `absent` are the slots whose image these shards do not have: it was gone, or not among the rows then.
    """

    layout: CutLayout
    shards: frozenset[int]
    facts: dict[str, Any]
    absent: frozenset[int] = frozenset()

    @classmethod
    def read(cls, folder: Path, key_digest: str) -> CutDocument | None:
        """Read the ``cut.json`` of the bank with this key; None if there is none.

        Raises `CorruptBankError` if it is damaged or belongs to another bank or cut.
        """
        data = _read_bytes(folder / CUT_FILE, what="cut file")
        return None if data is None else cls.parse(folder / CUT_FILE, data, folder.name, key_digest)

    @classmethod
    def parse(cls, path: Path, data: bytes, cut: str, key_digest: str) -> CutDocument:
        """Parse the bytes of a ``cut.json``; errors name `path` and are those of `read`."""
        document = _unsealed(path, data, what="cut file")
        advice = "delete the folder of this cut and run `featbank extract` again"
        with _making_sense(path, "cut file", advice):
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
            found = cls(layout, _numbers(document["shards"]), dict(document["facts"]), absent)
            fault = layout.stranger(key_digest, cut)
            if fault is not None:
                raise ValueError(fault)
        return found

    def write(self, folder: Path) -> None:
        """Write it into a cut's folder."""
        write_file(folder / CUT_FILE, self.encode())

    def encode(self) -> bytes:
        """Return the bytes of the file."""
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
        return json_bytes(sealed(document))


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


# quarantine.jsonl ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuarantineRecord:
    r"""One image that could not be read.

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

    Examples
    --------
    >>> import featbank
    >>> featbank.open_bank("digits").quarantine()  # every image could be read
    []
    >>> one = QuarantineRecord(b"cat/caf\xe9.jpg", "0" * 64, "truncated", "the file ends too early")
    >>> one.printable_id, one.reason
    ('cat/caf\\xe9.jpg', 'truncated')
    """

    id: bytes
    digest: str
    reason: str
    detail: str = ""

    @property
    def printable_id(self) -> str:
        """The id as it can be shown."""
        return printable(self.id)


def write_quarantine(folder: Path, records: Callable[[], Iterable[QuarantineRecord]]) -> None:
    """Write ``quarantine.jsonl`` anew, whole, as `records` says; the bank's lock is held."""
    path = folder / QUARANTINE_FILE

    def make() -> bytes | None:
        lines = []
        for one in records():
            said = {"digest": one.digest, "reason": one.reason, "detail": one.detail}
            lines.append(json.dumps(sealed({"id": one.printable_id, "id_hex": one.id.hex(), **said})) + "\n")
        data = "".join(lines).encode()
        before = path.read_bytes() if path.exists() else b""
        return None if data == before else data

    change_file(path, make)


def read_quarantine(folder: Path) -> list[QuarantineRecord]:
    """Read ``quarantine.jsonl``; raises `CorruptBankError` if a line is damaged."""
    data = _read_bytes(folder / QUARANTINE_FILE, what="quarantine file")
    return [] if data is None else parse_quarantine(folder / QUARANTINE_FILE, data)


def parse_quarantine(path: Path, data: bytes) -> list[QuarantineRecord]:
    """Parse the bytes of a ``quarantine.jsonl``; errors name `path`."""
    entries = [_unsealed(path, line, what="quarantine file") for line in data.split(b"\n")[:-1]]
    if data and not data.endswith(b"\n"):
        raise CorruptBankError(
            f"quarantine file {str(path)!r} is damaged: its last line is cut short; delete it and run "
            f"`featbank extract` again"
        )
    with _making_sense(path, "quarantine file", "delete it and run `featbank extract` again"):
        return [
            QuarantineRecord(bytes.fromhex(one["id_hex"]), one["digest"], one["reason"], one["detail"])
            for one in entries
        ]


# .verified.json --------------------------------------------------------------------------------------


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
    each. What is in a bucket is checked when it comes from there, shard by shard.
    """
    if isinstance(folder, BucketPath):
        return True
    identity = _identity(folder)
    return identity in _checked_here or identity in _checked(folder)


def mark_verified(folder: Path) -> None:
    """Remember that this folder was checked; where it is read-only, this process alone remembers it."""
    if isinstance(folder, BucketPath):
        return
    identity = _identity(folder)
    try:
        with locked(folder / LOCK_FILE):
            others = [one for one in _checked(folder) if one != identity]
            write_json(folder / VERIFIED_FILE, [*others, identity][-_MOST_MARKS:])
    except CacheWriteError:
        _checked_here.append(identity)
