"""One shard file: built in memory, named by its SHA-256, checked against the plan when it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featbank._atomic import canonical_json, sha256
from featbank.banks._hdf5 import READ_ERRORS, as_closed, build_image, end_of_file, read_attribute
from featbank.banks._sealed import opened, wrong_version
from featbank.banks.key import FORMAT_VERSION
from featbank.banks.slots import ShardPlan
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
class ShardFacts:
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

    def features(self) -> NDArray[Any]:
        """Map the features, shape (n_rows, *shape), read-only; raises as `read_facts`."""
        shape = (self.plan.n_rows, *self.layout.shape)
        with opened(self.path, what="shard") as file:
            try:
                mapped = np.memmap(file, self.layout.dtype, mode="r", offset=self.offset, shape=shape)
            except ValueError as error:  # cut short since it was checked
                raise unusable(self.path, f"it cannot be mapped ({error})") from error
        return mapped.view(np.ndarray)


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


def encode_shard(
    layout: CutLayout,
    plan: ShardPlan,
    features: NDArray[Any],
    digests: NDArray[np.uint8],
    statuses: NDArray[np.uint8],
    made_by: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, bytes]:
    """Return the name and the bytes of a shard; equal content, made by the same, gives equal bytes."""
    image = build_image(
        {"features": features, "digests": digests, "statuses": statuses},
        {
            "format_version": FORMAT_VERSION,
            "key": layout.key_digest,
            "cut": layout.cut,
            "shard": plan.number,
            "start": plan.start,
            "stop": plan.stop,
            "shard_rows": layout.shard_rows,
            **asdict(Measures.of(features, statuses)),
            **({"made_by": canonical_json(dict(made_by)).decode()} if made_by else {}),
        },
    )
    return shard_name(plan.number, sha256(image)), image


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
        head = hashlib.sha256(as_closed(file.read(48)))
        digest = hashlib.file_digest(file, lambda: head).hexdigest()
    if path.name != shard_name(shard_number(path.name) or 0, digest):
        return f"its bytes have sha256 {digest[:16]}..., not what its name says"
    return None


def read_facts(path: Path) -> ShardFacts:
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
        size = os.fstat(file.fileno()).st_size
        said = end_of_file(file.read(48))
        if said != size:
            want = "no start of an HDF5 file" if said is None else f"it should have {said}"
            raise unusable(path, f"it has {size} bytes, {want}")
        try:
            return _facts_in(path, file, size)
        except READ_ERRORS as error:
            if isinstance(error, FeatbankError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise unusable(path, str(error)) from error


def _facts_in(path: Path, opened_file: BufferedReader, size: int) -> ShardFacts:
    # A file object, not a path: libhdf5 refuses a file that this process, or another that locks it, has open
    # in another way, and its errors of the system have no number.
    with h5py.File(opened_file, "r") as file:
        version = read_attribute(file, "format_version")
        if version != FORMAT_VERSION:
            if check_hash(path) is not None:
                raise ValueError(f"it has format version {version}, this featbank reads {FORMAT_VERSION}")
            raise wrong_version(path, int(version))
        features = file["features"]
        layout = CutLayout(
            str(read_attribute(file, "key")),
            str(read_attribute(file, "cut")),
            tuple(int(side) for side in features.shape[1:]),
            features.dtype,
            int(read_attribute(file, "shard_rows")),
        )
        plan = ShardPlan(*(int(read_attribute(file, name)) for name in ("shard", "start", "stop")))
        facts = ShardFacts(
            path,
            layout,
            plan,
            file["digests"][()],
            file["statuses"][()],
            Measures(
                float(read_attribute(file, "max_abs")),
                *(int(read_attribute(file, name)) for name in ("n_zero", "n_nonfinite", "n_values")),
            ),
            checked_made_by(json.loads(file.attrs.get("made_by", b"{}"))),
            _contiguous_offset(features, plan.n_rows, size),
        )
    if facts.digests.shape != (plan.n_rows, 32) or facts.statuses.shape != (plan.n_rows,):
        raise ValueError(f"its datasets do not have the {plan.n_rows} rows it says it has")
    if (facts.statuses > max(RowStatus)).any():
        raise ValueError("a row has a status that does not exist")
    return facts


def check_facts(facts: ShardFacts, layout: CutLayout, plan: ShardPlan, digests: NDArray[np.uint8]) -> None:
    """Compare a shard with what must stand in this place; `digests` are those of the plan's slots.

    Raises
    ------
    CorruptBankError
        If it belongs to another bank, cut or place.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("bank key", facts.layout.key_digest[:16], layout.key_digest[:16]),
        ("cut", facts.layout.cut, layout.cut),
        ("shard number", facts.plan.number, plan.number),
        ("slots", (facts.plan.start, facts.plan.stop), (plan.start, plan.stop)),
        ("rows per shard", facts.layout.shard_rows, layout.shard_rows),
        ("row shape", facts.layout.shape, layout.shape),
        ("dtype", str(facts.layout.dtype), str(layout.dtype)),
    ]
    wrong = [f"{name} is {got!r}, not {want!r}" for name, got, want in pairs if got != want]
    if not wrong and not np.array_equal(facts.digests, digests):
        wrong.append("it holds other images than the manifest says")
    if wrong:
        raise misplaced(facts.path, "; ".join(wrong))


def _contiguous_offset(features: Any, n_rows: int, size: int) -> int:
    if features.is_virtual or features.external or features.chunks is not None:
        raise ValueError("its features are not stored in one piece inside it")
    if features.shape[0] != n_rows or features.size == 0:
        raise ValueError(f"its features have shape {features.shape}, it says it has {n_rows} rows")
    offset = features.id.get_offset()
    if offset is None or offset + features.nbytes > size:
        raise ValueError("its features reach beyond its end")
    return int(offset)
