"""A bank in the formats of others, with ids, labels and splits: Parquet, NumPy, safetensors, Zarr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import beside, json_bytes, make_folder, publish, remove_stale_temporaries
from featbank._cache import user_path
from featbank._registry import nearest
from featbank.banks.bank import Bank
from featbank.errors import CacheWriteError, InvalidInputError, MissingPackageError
from featbank.manifest import SPLITS, printable, shown_group

__all__ = ["BANK_FORMATS", "export_bank"]

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 16 * 1024 * 1024
_SAFETENSORS_DTYPES = {"float16": "F16", "float32": "F32", "int64": "I64", "uint8": "U8"}


def export_bank(
    bank: Bank, path: str | os.PathLike[str] | None = None, *, to: str, cuts: Sequence[str] | None = None
) -> Path:
    """Write features, ids, labels and splits of a bank in another format.

    Rows whose images could not be read are left out, with a warning; all others are in the order of the
    bank. Features are never held whole.

    Parameters
    ----------
    bank : Bank
        The bank.
    path : path, optional
        The file (``parquet``, ``safetensors``), replaced if it exists, or the folder (``npy``, ``zarr``),
        which must not exist. Default: named after dataset and backbone, in the current folder.
    to : {"parquet", "npy", "safetensors", "zarr"}
        ``parquet``: columns ``id``, ``label``, ``label_index``, ``split``, ``sha256`` and one of float32
        lists for each cut. ``npy``: a folder with ``CUT.npy``, ``ids.npy``, ``labels.npy``, ``splits.npy``,
        ``sha256.npy`` and ``bank.json``. ``safetensors`` and ``zarr``: ``features/CUT``, ``labels``,
        ``splits`` (numbers, named in the metadata), ``sha256`` and ``ids``, in safetensors as bytes with
        ``id_offsets``. Classes, shapes and the key of the bank are in the metadata.
    cuts : sequence of str, optional
        Which cuts, as ``bank[cut]`` takes them, so also ``softmax`` and poolings; all that are whole by
        default.

    Returns
    -------
    pathlib.Path
        What was written.

    Raises
    ------
    UnknownNameError
        If the bank has no such cut, nor what it is derived from.
    InvalidInputError
        If `to` is unknown, a cut is not whole, or the folder exists.
    MissingPackageError
        If pyarrow or zarr is not installed.
    CacheWriteError
        If it cannot be written; nothing is left of it then.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> folder = export_bank(bank, "digits-npy", to="npy", cuts=["fc7"])
    >>> sorted(one.name for one in folder.iterdir())
    ['bank.json', 'fc7.npy', 'ids.npy', 'labels.npy', 'sha256.npy', 'splits.npy']
    >>> np.load(folder / "fc7.npy", mmap_mode="r").shape
    (300, 256)
    """
    if to not in BANK_FORMATS:
        raise InvalidInputError(f"to={to!r} is unknown; known: {nearest(to, BANK_FORMATS)}")
    write, suffix, is_folder = BANK_FORMATS[to]
    chosen = list(dict.fromkeys(bank.cuts if cuts is None else cuts))
    partly = [cut for cut in chosen if not set(bank.sources(cut)) <= set(bank.cuts)]
    if partly or not chosen:
        asked = f"{partly[0]!r} in part only" if partly else "no cut that is whole"
        known = nearest(partly[0] if partly else "", bank.cuts)
        raise InvalidInputError(f"bank {bank.name!r} has {asked}; it has {known}")
    target = Path(bank.name.replace("/", "-") + suffix) if path is None else user_path(path)
    target = target.absolute()
    if is_folder and (target.exists() or target.is_symlink()):
        shown = printable(str(target))
        raise InvalidInputError(f"{shown!r} exists; give another --output (path=...), or remove it")
    rows = np.flatnonzero(np.logical_and.reduce([bank.rows_ok(cut) for cut in chosen]))
    if len(rows) < len(bank):
        logger.warning(
            "left out %d of %d rows of %s, whose images could not be read",
            len(bank) - len(rows),
            len(bank),
            bank.name,
        )
    make_folder(target.parent)
    remove_stale_temporaries(target.parent)
    try:
        with beside(target) as temporary:
            write(_Part(bank, chosen, rows), temporary)
            publish(temporary, target)
    except OSError as error:
        if isinstance(error, CacheWriteError):
            raise
        said = error.strerror or " ".join(str(error).split())
        raise CacheWriteError(
            f"cannot write {printable(str(target))!r} ({said}); nothing is left of it"
        ) from error
    return target


class _Part:
    """The rows of a bank that leave it, and what is said of them."""

    def __init__(self, bank: Bank, cuts: Sequence[str], rows: NDArray[np.int64]) -> None:
        manifest = bank.manifest
        self.arrays = {cut: bank[cut] for cut in cuts}
        self.rows = rows
        self.ids = [manifest.ids[row] for row in rows.tolist()]
        self.labels = manifest.labels[rows].astype(np.int64)
        self.splits = manifest.splits[rows].astype(np.uint8)
        self.digests = np.ascontiguousarray(manifest.digests[rows])
        self.classes = [printable(one) for one in bank.classes]
        #: Number of each row's group in the names that the facts have, where the bank has groups.
        self.groups = None if manifest.groups is None else manifest.groups[rows].astype(np.int64)
        groups = [printable(shown_group(one)) for one in manifest.group_names]
        grouped = {} if self.groups is None else {"groups": groups}
        self.facts: dict[str, Any] = {
            "dataset": bank.dataset,
            "classes": self.classes,
            "splits": list(SPLITS),
            **grouped,
            "key": bank.key.to_dict(),
            "key_digest": bank.key.digest(),
            "cuts": {
                cut: {"shape": list(one.shape[1:]), "dtype": one.dtype.name}
                for cut, one in self.arrays.items()
            },
        }

    def group_column(self) -> dict[str, NDArray[np.int64]]:
        """Return the number of each row's group, by the name of the array; nothing without groups."""
        return {} if self.groups is None else {"groups": self.groups}

    def blocks(self, cut: str, step: int = 1) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the rows of a cut with the place of the first, some multiple of `step` at once."""
        array = self.arrays[cut]
        row_bytes = max(1, array.n_features * array.dtype.itemsize)
        many = max(1, _BLOCK_BYTES // (row_bytes * step)) * step
        for start in range(0, len(self.rows), many):
            yield start, array.read(self.rows[start : start + many])


def _write_npy(part: _Part, folder: Path) -> None:
    folder.mkdir()
    n = len(part.rows)
    small = {
        "ids": np.array(part.ids, dtype=np.bytes_) if n else np.zeros(0, "S1"),
        "labels": part.labels,
        "splits": np.array(SPLITS)[part.splits],
        "sha256": part.digests,
        **part.group_column(),
    }
    for name, values in small.items():
        with (folder / f"{name}.npy").open("xb") as file:
            np.save(file, values, allow_pickle=False)
    for cut, array in part.arrays.items():
        with (folder / f"{cut}.npy").open("xb") as file:
            descr = np.lib.format.dtype_to_descr(array.dtype)
            header = {"descr": descr, "fortran_order": False, "shape": (n, *array.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
            for _, block in part.blocks(cut):
                file.write(block.data.cast("B"))
    (folder / "bank.json").write_bytes(json_bytes(part.facts))


def _write_safetensors(part: _Part, path: Path) -> None:
    n = len(part.rows)
    lengths = np.array([0, *map(len, part.ids)], np.int64)
    small: dict[str, NDArray[Any]] = {
        **part.group_column(),
        "id_offsets": lengths.cumsum(),
        "labels": part.labels,
        "splits": part.splits,
        "sha256": part.digests,
        "ids": np.frombuffer(b"".join(part.ids), np.uint8),
    }
    shapes = {f"features/{cut}": (n, *one.shape[1:]) for cut, one in part.arrays.items()}
    dtypes = {f"features/{cut}": one.dtype for cut, one in part.arrays.items()}
    # what has wide numbers first, so that every tensor begins where its numbers may
    order = sorted(
        [*small, *shapes], key=lambda name: -dtypes.get(name, small.get(name, part.labels).dtype).itemsize
    )
    header: dict[str, Any] = {"__metadata__": {"featbank": json.dumps(part.facts)}}
    end = 0
    for name in order:
        dtype = dtypes[name] if name in dtypes else small[name].dtype
        shape = shapes[name] if name in shapes else small[name].shape
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[dtype.name],
            "shape": [int(one) for one in shape],
            "data_offsets": [end, end + size],
        }
        end += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("xb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            if name in small:
                file.write(np.ascontiguousarray(small[name]).tobytes())
            else:
                for _, block in part.blocks(name.removeprefix("features/")):
                    file.write(block.data.cast("B"))


def _write_parquet(part: _Part, path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise _missing("parquet", "pyarrow") from error
    texts: list[Any] = list(part.ids)
    kind = pyarrow.binary()
    with contextlib.suppress(UnicodeDecodeError):  # names that are no text stay the bytes they are
        texts, kind = [one.decode() for one in part.ids], pyarrow.string()
    widths = {cut: one.n_features for cut, one in part.arrays.items()}
    names = pyarrow.array(part.classes, pyarrow.string())
    fields = [
        ("id", kind),
        ("label", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        ("label_index", pyarrow.int64()),
        ("split", pyarrow.string()),
        ("sha256", pyarrow.binary(32)),
        *([] if part.groups is None else [("group", pyarrow.string())]),
        *((cut, pyarrow.list_(pyarrow.float32(), width)) for cut, width in widths.items()),
    ]
    schema = pyarrow.schema(fields, metadata={"featbank": json.dumps(part.facts)})
    n = len(part.rows)
    step = max(1, _BLOCK_BYTES // max(1, 4 * sum(widths.values())))
    with parquet.ParquetWriter(str(path), schema) as writer:
        for start in range(0, n, step):
            own = slice(start, min(start + step, n))
            labels = part.labels[own]
            indices = pyarrow.array(labels.astype(np.int32), mask=labels < 0)
            columns = [
                pyarrow.array(texts[own], kind),
                pyarrow.DictionaryArray.from_arrays(indices, names),
                pyarrow.array(labels),
                pyarrow.array([SPLITS[code] for code in part.splits[own].tolist()], pyarrow.string()),
                pyarrow.array([one.tobytes() for one in part.digests[own]], pyarrow.binary(32)),
            ]
            if part.groups is not None:
                whose = [part.facts["groups"][code] for code in part.groups[own].tolist()]
                columns.append(pyarrow.array(whose, pyarrow.string()))
            for cut, array in part.arrays.items():
                block = array.read(part.rows[own], dtype=np.float32)
                columns.append(
                    pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), widths[cut])
                )
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _write_zarr(part: _Part, folder: Path) -> None:
    try:
        import zarr
    except ImportError as error:
        raise _missing("zarr", "zarr") from error
    # the second format of Zarr, which has fixed-length bytes and which every reader reads
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    group.attrs.update(part.facts)
    small: Mapping[str, NDArray[Any]] = {
        "ids": np.array(part.ids, dtype=np.bytes_) if part.ids else np.zeros(0, "S1"),
        "labels": part.labels,
        "splits": part.splits,
        "sha256": part.digests,
        **part.group_column(),
    }
    for name, values in small.items():
        group.create_array(name, data=values)
    features = group.create_group("features")
    for cut, array in part.arrays.items():
        row_bytes = max(1, array.n_features * array.dtype.itemsize)
        rows = max(1, min(len(part.rows), (1 << 20) // row_bytes))
        shape = (len(part.rows), *array.shape[1:])
        made = features.create_array(cut, shape=shape, dtype=array.dtype, chunks=(rows, *shape[1:]))
        for start, block in part.blocks(cut, rows):
            made[start : start + len(block)] = block


def _missing(format: str, package: str) -> MissingPackageError:
    return MissingPackageError(
        f"to={format!r} needs {package}; install it with: pip install 'featbank[{format}]', or take 'npy' or "
        "'safetensors', which need nothing"
    )


#: What writes each format, the suffix of its default name, and whether it is a folder.
BANK_FORMATS: dict[str, tuple[Callable[[_Part, Path], None], str, bool]] = {
    "parquet": (_write_parquet, ".parquet", False),
    "npy": (_write_npy, "", True),
    "safetensors": (_write_safetensors, ".safetensors", False),
    "zarr": (_write_zarr, ".zarr", True),
}
