"""Products of rows that were computed before: the part of a sweep that reads every feature, done once.

A file holds what `featbank.heads.RowProducts` needs of the rows of one cut, named by a digest of everything
that decides it: the key of the bank, the shards of the cut (whose names carry the SHA-256 of their bytes),
the rows of each split and their order. It ends in the SHA-256 of its own bytes; one that does not is made
again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import canonical_json, make_folder, sha256, write_file
from featbank.errors import CacheWriteError

if TYPE_CHECKING:
    from featbank.banks import Bank
    from featbank.heads import RowProducts

__all__ = ["ProductCache"]

logger = logging.getLogger(__name__)

FORMAT = 2
#: Bank, cut and digest: what `ProductCache` calls its files.
_NAME = re.compile(r".+-[0-9a-f]{8}-.+-[0-9a-f]{16}\.safetensors")
_TRAIN = "train"
_DIGEST_LENGTH = 64
#: Multiply-adds below which the products are made sooner than a file is read and checked.
_LEAST_WORK = 2_000_000_000
#: Larger ones are not kept, and the oldest go when all together are larger than the second.
_MOST_BYTES, _MOST_BYTES_TOGETHER = 512 * 2**20, 2 * 2**30


class ProductCache:
    """Where the products of one cut of a bank are kept: beside the folder of banks, in ``products/``.

    Parameters
    ----------
    bank : Bank
        The bank.
    cut : str
        The cut.
    rows : mapping of str to ndarray of int64
        Split -> rows of the manifest.
    """

    def __init__(self, bank: Bank, cut: str, rows: Mapping[str, NDArray[np.int64]]) -> None:
        self._bank, self._cut, self._rows = bank, cut, rows

    def get(
        self, shape: tuple[int, int], standardize: bool, compute: Callable[[], RowProducts]
    ) -> RowProducts:
        """Return the products, from a file if there is one, else computed, and kept for the next time.

        Parameters
        ----------
        shape : tuple of int
            Training rows and features.
        standardize : bool
            Of the space.
        compute : callable
            Makes them.
        """
        n, p = shape
        n_all = sum(len(at) for at in self._rows.values())
        folder = self._folder()
        if folder is None or n * n_all * p < _LEAST_WORK or 8 * n * n_all > _MOST_BYTES:
            return compute()
        path = folder / f"{self._bank.path.name}-{self._cut}-{self._digest(standardize)[:16]}.safetensors"
        known = _read(path, standardize)
        if known is None:
            known = compute()
            try:
                make_folder(folder)
                _write(path, known)
                _make_room(folder, path)
            except CacheWriteError as error:  # a cache that can only be read serves as well, a little slower
                logger.info("the products of %s are not kept: %s", self._cut, error)
        return known

    def _folder(self) -> Path | None:
        banks = self._bank.path.absolute().parent.parent
        return banks.parent / "products" if banks.name == "banks" else None  # a bank that is nobody's cache

    def _digest(self, standardize: bool) -> str:
        manifest = self._bank.manifest
        rows = {name: sha256(manifest.digests[at].tobytes()) for name, at in self._rows.items()}
        slots = {name: sha256(self._bank.row_slots[at].tobytes()) for name, at in self._rows.items()}
        identity = {
            "format": FORMAT,
            "key": self._bank.key.digest(),
            "cut": self._cut,
            "shards": self._bank.shard_names(self._cut),
            "rows": rows,
            "slots": slots,
            "standardize": standardize,
        }
        return sha256(canonical_json(identity))


def _write(path: Path, products: RowProducts) -> None:
    from safetensors.numpy import save

    arrays = {"mean": products.mean, "scale": products.scale, _TRAIN: products.train}
    arrays |= {f"other:{name}": values for name, values in products.others.items()}
    data = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    write_file(path, data + sha256(data).encode())


def _read(path: Path, standardize: bool) -> RowProducts | None:
    from safetensors.numpy import load

    from featbank.heads import RowProducts

    try:
        data = path.read_bytes()
    except OSError:
        return None
    data, ending = data[:-_DIGEST_LENGTH], data[-_DIGEST_LENGTH:]
    if sha256(data).encode() != ending:
        logger.warning("%s is damaged; it is made again", path)
        return None
    arrays = load(data)
    others = {name.partition(":")[2]: values for name, values in arrays.items() if name.startswith("other:")}
    return RowProducts(standardize, arrays["mean"], arrays["scale"], arrays[_TRAIN], others)


def _make_room(folder: Path, newest: Path) -> None:
    files = []
    # a folder beside the banks may hold weights of the user's, which are nobody's to remove
    for path in (one for one in folder.iterdir() if _NAME.fullmatch(one.name)):
        with suppress(OSError):  # another process makes room too
            found = path.lstat()
            files.append((path == newest, found.st_mtime, found.st_size, path))
    total = sum(size for _, _, size, _ in files)
    for _, _, size, path in sorted(files):
        if total <= _MOST_BYTES_TOGETHER:
            break
        with suppress(OSError):
            path.unlink()
        total -= size
