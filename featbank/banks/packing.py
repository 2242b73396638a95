"""One bank written as one plain HDF5 file that any reader opens; `archive` makes it a bank again."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import (
    beside,
    canonical_json,
    json_bytes,
    make_folder,
    publish,
    remove_stale_temporaries,
    sha256,
)
from featbank._cache import user_path
from featbank._process import child_environment
from featbank.banks import documents as files
from featbank.banks._format import (
    LARGEST_ROW_BYTES,
    Codec,
    Draft,
    Place,
    codec_named,
    encoder,
    library,
    most_decoded,
)
from featbank.banks.archive import columns, content_digest, facts_of
from featbank.banks.arrays import CutReader
from featbank.banks.bank import Bank
from featbank.errors import BankReadError, CacheWriteError, CorruptBankError, InvalidInputError

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 16 * 1024 * 1024
#: Provenance longer than this stands in ``bank/bank_json`` alone.
_LONGEST_FACT = 60_000


def pack(bank: Bank, path: str | os.PathLike[str], *, compression: str | None = None) -> Path:
    """Write a bank as one HDF5 file that any HDF5 reader opens; verifies it first.

    ``/features/<cut>`` (n_samples, *shape) and ``/statuses/<cut>`` in the order of ``/ids``, ``/labels``,
    ``/split``; ``/classes``; key and provenance as attributes; under ``/bank`` what `unpack` needs beside.
    Rows whose status is not 0 hold zeros. Cuts that are only partly extracted are left out, with a warning.
    Equal banks give equal bytes; compressed, equal versions of the compressing library are needed too, and
    the attribute ``compression_library`` names it.

    Parameters
    ----------
    bank : Bank
        The bank.
    path : str or path-like
        The file to write; replaced if it exists.
    compression : {"zstd", "gzip"}, optional
        Compress the features, without loss, in chunks of whole rows of about 1 MiB: ``zstd`` is smaller and
        several times as fast, other readers need hdf5plugin for it; ``gzip`` is read by every HDF5. Rows of
        more than 32 MiB stay as they are. None stores all in one piece, to be memory-mapped.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    CorruptBankError
        If `Bank.verify` finds a fault; nothing is written.
    BankReadError
        If all it finds is files that cannot be read now.
    IncompleteBankError
        If the bank has no rows yet.
    InvalidInputError
        If there is no such compression, or the features shrink so far that no import would believe it.
    MissingPackageError
        If the package this compression needs is not installed.
    CacheWriteError
        If the file cannot be written; a file that was there stays.

    Examples
    --------
    >>> import featbank, h5py
    >>> path = pack(featbank.open_bank("digits"), "digits.h5")
    >>> with h5py.File(path) as file:  # or whatever else reads HDF5
    ...     file["features/fc7"].shape, file["labels"][:5], file["classes"].asstr()[:3]
    ((300, 256), array([0, 0, 0, 0, 0], dtype=int32), array(['0', '1', '2'], dtype=object))
    """
    target = user_path(path)
    codec = None if compression is None else codec_named(compression)
    report = bank.verify()
    if not report.ok:
        faults = report.faults
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        kind = BankReadError if faults == report.unreadable else CorruptBankError
        raise kind(f"bank {bank.name!r} is not packed, it has a fault: {faults[0]}{more}")
    for cut, progress in bank.partial_cuts.items():
        logger.warning("cut %r is not packed: %d of %d rows are extracted", cut, *progress)
    make_folder(target.parent)
    remove_stale_temporaries(target.parent)
    with beside(target) as temporary:
        if codec is None:
            _write(bank, temporary)
        else:
            _write_in_child(bank.path, temporary, codec)
        size, holds = temporary.stat().st_size, _pack_bytes(bank)
        if codec is not None and most_decoded(size) < 2 * holds:
            raise InvalidInputError(
                f"compression={compression!r}: bank {bank.name!r} shrinks from {holds} bytes to {size}, "
                f"which no import takes for features; pack it without compression"
            )
        publish(temporary, target)
    return target


def _pack_bytes(bank: Bank) -> int:
    rows = max(len(bank), len(bank.slot_table))
    return sum(rows * bank[cut].nbytes // max(1, len(bank)) for cut in bank.cuts) + 1000 * rows


def _write_in_child(bank: Path, temporary: Path, codec: Codec) -> None:
    # what libhdf5 writes of a filter depends on whether the caller has imported hdf5plugin, and it looks for
    # one that it does not know in folders
    environment = {**child_environment(), "HDF5_PLUGIN_PRELOAD": "::"}
    # -P: nothing is imported from the current folder
    command = [sys.executable, "-P", "-m", "featbank.banks.packing"]
    command += [str(bank.absolute()), str(temporary.absolute()), codec.name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _not_written(
            temporary, (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        )


def _not_written(temporary: Path, said: str) -> CacheWriteError:
    return CacheWriteError(
        f"cannot write {str(temporary.parent)!r} ({said}): the disk may be full; "
        f"free some space and pack again"
    )


def _write(bank: Bank, path: Path, codec: Codec | None = None) -> None:
    small, features = _parts(bank)
    places = {name: Place(one.dtype, one.shape) for name, one in small.items()}
    for name, (reader, slots) in features.items():
        layout = reader.layout
        place = places[name] = Place(layout.dtype, (len(slots), *layout.shape))
        if codec is not None and len(slots) and layout.row_bytes <= LARGEST_ROW_BYTES:
            extra = "extra_" if name.endswith("/extra_features") else ""
            table = f"bank/cuts/{layout.cut}/{extra}chunks"
            places[name] = place._replace(codec=codec, table=table)
            places[table] = Place(np.dtype(np.int64), (-(-len(slots) // place.chunk_rows), 2))
    checked = [name for name in places if name not in features]
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            draft = Draft("pack", places, _facts(bank, codec), checked=checked, descriptor=descriptor)
            try:
                for name, (reader, slots) in features.items():
                    _write_features(draft, name, reader, slots)
            finally:
                small |= draft.close() if codec is not None else {}
            for name in checked:
                data = np.ascontiguousarray(small[name])
                draft.write_at(draft.places[name].offset, data.data.cast("B") if data.size else b"")
            sums = {name: sha256(np.ascontiguousarray(small[name]).tobytes()) for name in checked}
            draft.write_at(0, draft.head(sums))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error


def _facts(bank: Bank, codec: Codec | None) -> dict[str, Any]:
    facts = facts_of(bank._document)
    if codec is not None:
        facts |= {"compression": codec.name, "compression_library": library(codec)}
    return {name: value for name, value in facts.items() if len(canonical_json(value)) <= _LONGEST_FACT}


def _parts(bank: Bank) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[CutReader, NDArray[np.int64]]]]:
    """Return the small arrays of a pack, and where its features come from."""
    quarantine = bank.path / files.QUARANTINE_FILE
    small = {
        **columns(bank.manifest),
        "bank/bank_json": _blob(json_bytes(files.sealed(bank._document.to_dict()))),
        "bank/manifest": _blob(b"".join(bank._stored.encode())),
        "bank/quarantine": _blob(quarantine.read_bytes() if quarantine.exists() else b""),
    }
    features = {}
    for cut in bank.cuts:
        reader, inner = bank._reader(cut), f"bank/cuts/{cut}/"
        numbers = np.flatnonzero(reader.present())
        plans = [reader.plans[number] for number in numbers.tolist()]
        runs = [np.arange(plan.start, plan.stop) for plan in plans]
        slots = np.concatenate([*runs, np.zeros(0, np.int64)])
        extra = np.setdiff1d(slots, bank.row_slots)  # images that left the dataset
        features[f"features/{cut}"] = reader, bank.row_slots
        features[inner + "extra_features"] = reader, extra
        digests = [
            content_digest(
                reader.shard(plan.number).features(), bank.slot_table.digests, plan, reader.statuses(run)
            )
            for plan, run in zip(plans, runs, strict=True)
        ]
        made_by = [reader.shard(plan.number).made_by for plan in plans]
        small |= {
            f"statuses/{cut}": reader.statuses(bank.row_slots),
            inner + "cut_json": _blob((reader.folder / files.CUT_FILE).read_bytes()),
            inner + "shards": numbers.astype(np.int64),
            inner + "slot_statuses": reader.statuses(slots),
            inner + "extra_slots": extra.astype(np.int64),
            inner + "shard_sha256": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            **({inner + "made_by": _blob(canonical_json(made_by))} if any(made_by) else {}),
        }
    return small, features


def _blob(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _write_features(draft: Draft, name: str, reader: CutReader, slots: NDArray[np.int64]) -> None:
    layout, place = reader.layout, draft.places[name]
    encode = None if place.codec is None else encoder(place.codec)
    step = place.chunk_rows if encode else max(1, _BLOCK_BYTES // layout.row_bytes)
    for start in range(0, len(slots), step):
        part = slots[start : start + step]
        # the last chunk is as long as the others
        block = np.zeros((step if encode else len(part), *layout.shape), layout.dtype)
        reader.gather(part, block[: len(part)])
        if encode:
            draft.add_chunk(name, start, encode(block))
        else:
            draft.write_at(place.offset + start * layout.row_bytes, block.data.cast("B"))


if __name__ == "__main__":
    _write(Bank.open(sys.argv[1], check="size"), Path(sys.argv[2]), codec_named(sys.argv[3]))
