"""The rows of one cut that a sweep uses: read once, projected once per feature space, products kept on disk.

A file of products holds what `RowProducts` needs of the rows of one cut, named by a digest of everything that
decides it: the key of the bank, the shards of the cut (whose names carry the SHA-256 of their bytes), the
rows of each split and their order. It ends in the SHA-256 of its own bytes; one that does not is made again.
"""

from __future__ import annotations

import logging
import math
import pickle
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import canonical_json, make_folder, sha256, write_file
from featbank._cache import cache_folder
from featbank._cuts import CutName, with_views
from featbank.banks import Bank
from featbank.errors import CacheWriteError, InvalidInputError
from featbank.manifest import printable
from featbank.sweep.records import Draw

if TYPE_CHECKING:
    from featbank.heads import FeatureSpace
    from featbank.heads.space import RowProducts, Standardized

__all__ = ["CutFeatures", "JudgedRows", "Projected", "read_rows", "rows_for_statistics"]

logger = logging.getLogger(__name__)

FORMAT = 2
#: Bank, cut and digest: what files of products are called.
_NAME = re.compile(r".+-[0-9a-f]{8}-.+-[0-9a-f]{16}\.safetensors")
_TRAIN = "train"
_DIGEST_LENGTH = 64
#: Multiply-adds below which the products are made sooner than a file is read and checked.
_LEAST_WORK = 2_000_000_000
#: Larger ones are not kept, and the oldest go when all together are larger than the second.
_MOST_BYTES, _MOST_BYTES_TOGETHER = 512 * 2**20, 2 * 2**30
#: Features of all training rows are held up to this many bytes, and beyond read whenever they are needed.
_HELD_BYTES = 256 * 2**20
#: And arrays larger than this are let go of once they are projected; an estimator of others reads them anew.
_KEPT_BYTES = 32 * 2**20
#: Of more training rows than the first, runs of neighbours, so many rows together, say the statistics.
_MOST_POOL, _STATISTICS_ROWS, _STATISTICS_RUN = 2**20, 2**16, 64
#: How many images are named in a message.
_SHOWN = 5

Rows = NDArray[np.int64]


def rows_for_statistics(n_rows: int) -> Rows:
    """Return the training rows, of `n_rows`, by whose statistics features are standardised, in order.

    All of them up to a million; of more, 65,536 that are spread evenly: the mean of a feature is then off by
    less than half a hundredth of its spread, and a bank that takes hours to read need not be read for it.

    Examples
    --------
    >>> len(rows_for_statistics(1000)), len(rows_for_statistics(10_000_000))
    (1000, 65536)
    """
    if n_rows <= _MOST_POOL:
        return np.arange(n_rows)
    n_runs = _STATISTICS_ROWS // _STATISTICS_RUN
    starts = np.linspace(0, n_rows - _STATISTICS_RUN, n_runs).astype(np.int64)
    return (starts[:, None] + np.arange(_STATISTICS_RUN)).reshape(-1)


@dataclass(frozen=True, eq=False)
class Projected:
    """Rows of each split in a feature space that many heads share; of the training rows those drawn.

    Many wide rows are standardised whenever they are asked for; those that are judged are read then, too.
    """

    Z: Mapping[str, NDArray[np.float32] | Standardized]
    space: FeatureSpace


class CutFeatures:
    """The labelled rows of each split at one cut; travels to other processes without its features.

    Parameters
    ----------
    bank : FeatureSource
        Where features are read, when they are first asked for, once.
    cut : str
    temperature : float or None
        Of softmax features.
    rows : mapping of str to ndarray of int64
        Split -> rows of the manifest; all training rows, by whose statistics features are standardised.
    drawn : ndarray of int64
        Positions of the training rows that any fit is fitted to; draws count among these.
    views : sequence of str, default=()
        Views of the training rows: with that of the images themselves each has a block of rows of its own.
    average : bool, default=False
        Whether rows that are judged have blocks of all views, too.

    Attributes
    ----------
    n_views, n_averaged : int
        Blocks of training rows; of rows that are judged.
    """

    def __init__(
        self,
        bank: Any,
        cut: str,
        temperature: float | None,
        rows: Mapping[str, Rows],
        drawn: Rows,
        views: Sequence[str] = (),
        average: bool = False,
    ) -> None:
        self._bank, self._cut, self._temperature = bank, cut, temperature
        self._cuts = with_views([cut], views)
        self.n_views = len(self._cuts)
        self.n_averaged = self.n_views if average else 1
        self._pool, self._drawn = rows["train"], drawn
        used = {**rows, "train": rows["train"][drawn]}
        self.rows = {name: at for name, at in used.items() if len(at)}
        self.labels = {name: bank.manifest.labels[at].astype(np.int64) for name, at in self.rows.items()}
        groups = bank.manifest.groups
        #: Of the training rows, where the bank has groups.
        self.groups = None if groups is None else groups[self.rows["train"]].astype(np.int64)
        self._features: dict[str, NDArray[Any]] = {}
        self._projected: dict[tuple[Any, Any], Projected] = {}
        # a process outlives a sweep, and the bank may have changed before the next one
        self._token = secrets.token_hex(8)

    @property
    def travels(self) -> bool:
        """Whether another process can read the features from the bank."""
        return isinstance(self._bank, Bank)

    def __getstate__(self) -> dict[str, Any]:
        # the bank is reopened with the rows that these count, or not at all, when features are asked for
        kept = ("_cut", "_cuts", "_temperature", "n_views", "n_averaged", "rows", "labels", "_token")
        state = {name: vars(self)[name] for name in kept}
        return {**state, "_bank": pickle.dumps(self._bank)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._token not in _read_here:
            _read_here.clear()
        self._features = _read_here.setdefault(self._token, {"features": {}})["features"]

    def open(self) -> None:
        """Open the bank, in another process; raises `BankChangedError` if it has other rows by now."""
        if isinstance(self._bank, bytes):
            here = _read_here[self._token]
            if "bank" not in here:
                here["bank"] = pickle.loads(self._bank)
            self._bank = here["bank"]

    def features(self, split: str) -> NDArray[Any]:
        """Return the features of a split, (n_views * n_rows, n_features), in their stored dtype."""
        if split not in self._features:
            pool = self._features.get("pool")
            if split == "pool":
                rows = self._pool
            elif split == "train" and pool is not None:
                whole = len(self._drawn) == len(self._pool)
                self._features[split] = pool if whole else pool[self._drawn_in_all]
                return self._features[split]
            else:
                rows = self.rows[split]
            n_views = self.n_views if split in ("pool", "train") else self.n_averaged
            found = [read_rows(self._bank, cut, self._temperature, rows) for cut in self._cuts[:n_views]]
            self._features[split] = found[0] if n_views == 1 else np.concatenate(found)
        return self._features[split]

    @property
    def _drawn_in_all(self) -> Rows:
        from featbank.heads.space import in_all_views

        return in_all_views(self._drawn, len(self._pool), self.n_views)

    @cached_property
    def row(self) -> tuple[int, np.dtype[Any]]:
        """Length and dtype of a row; nothing is read for it where the bank says it."""
        if isinstance(self._bank, Bank):
            array = self._bank[self._cut]
            return math.prod(array.shape[1:]), array.dtype
        first = read_rows(self._bank, self._cut, self._temperature, self._pool[:1])
        return math.prod(first.shape[1:]), first.dtype

    @property
    def n_features(self) -> int:
        """Length of a row."""
        return self.row[0]

    def _stored(self, split: str, most: int | None = None) -> Any:
        """Return rows of a split as stored: an array up to `most` bytes, else what reads runs of rows."""
        n_views = self.n_views if split == "train" else self.n_averaged
        p, dtype = self.row
        known = split in self._features or (split == "train" and "pool" in self._features)
        if known or len(self.rows[split]) * n_views * p * dtype.itemsize <= (
            _KEPT_BYTES if most is None else most
        ):
            return self.features(split)
        return _StoredRows(self, self.rows[split], n_views)

    def parts(self, draw: Draw, projected: Projected | None = None) -> Iterator[tuple[str, JudgedRows, Rows]]:
        """Yield (what rows are to a head, the rows, their labels); without a space, features as float32.

        Of the training rows those of the draw; rows held out of it are its validation rows. There are
        `n_averaged` blocks of rows, the labels are those of one. The rows can only be read.
        """
        from featbank.heads.space import in_all_views

        parts: list[tuple[str, str, Any]] = [
            (split, split, draw.rows if split == "train" else slice(None)) for split in self.rows
        ]
        if len(draw.held):
            parts.append(("val", "train", draw.held))
        for name, split, at in parts:
            rows = self._stored(split, _HELD_BYTES) if projected is None else projected.Z[split]
            y = self.labels[split]
            if isinstance(at, slice) or (len(at) == len(y) and (np.diff(at) == 1).all()):
                every = None  # no copy of all that is drawn
            else:
                every = in_all_views(at, len(y), self.n_averaged)
            yield name, JudgedRows(rows, every), y[at]

    def project(self, standardize: Any, rotate: Any) -> Projected:
        """Return the rows in a feature space, made once for all heads that agree on it."""
        from featbank.heads import FeatureSpace

        known = self._projected.get((standardize, rotate))
        if known is None:
            try:
                known = self._made(FeatureSpace(standardize=standardize, rotate=rotate))
            except InvalidInputError as error:
                self._tell_rows(error)
                raise
            self._projected[standardize, rotate] = known
        return known

    def _made(self, space: FeatureSpace) -> Projected:
        n, p = len(self._pool) * self.n_views, self.n_features
        others = [name for name in self.rows if name != "train"]
        if space.rotates(n, p):
            products = self._products(space.standardize, n, p)
            if products is not None:
                self._let_go()
            source = self._source() if products is None else self._reread()
            Z: dict[str, Any] = {"train": space.fit_transform(source, products=products)[self._drawn_in_all]}
            if products is None:
                Z |= {name: space.transform(self._stored(name)) for name in others}
            else:
                Z |= {name: space.transform_products(products, name) for name in others}
        else:
            from featbank.heads.space import check_finite

            space.fit(self._measured()[1])
            Z = {}
            for name in self.rows:
                source = self._stored(name)
                self._let_go()
                n, p = source.shape[0], self.n_features
                # training rows that are wide are few, and heads take their products; of others they need
                # passes, which are slower where each standardises them anew
                if 4 * n * p > _HELD_BYTES and (name != "train" or n < p):
                    if name == "train":  # as they are stored, not read from the bank again and again
                        source = source[:]
                    check_finite(source)
                    Z[name] = space.standardized(source)
                else:
                    Z[name] = space.transform(source)
                del source  # before those of the next split are read
        self._let_go()
        return Projected(Z, space)

    def _let_go(self) -> None:
        """Forget large arrays of features as they are stored."""
        for name in [name for name, rows in self._features.items() if rows.nbytes > _KEPT_BYTES]:
            del self._features[name]

    def _reread(self) -> Any:
        """Return all training rows, of an array that was let go of as something that is read again."""
        return self._features.get("pool", _StoredRows(self))

    def _source(self) -> Any:
        """Return all training rows, as an array or as something that is read in runs of rows."""
        p, dtype = self.row
        if len(self._pool) * self.n_views * p * dtype.itemsize > _HELD_BYTES:
            return _StoredRows(self)
        return self.features("pool")

    def _measured(self) -> tuple[Rows, Any]:
        """Return the training rows whose statistics count, and their features as `_source` does."""
        at = rows_for_statistics(len(self._pool))
        if len(at) == len(self._pool):
            return self._pool, self._source()
        return self._pool[at], _StoredRows(self, self._pool[at])

    def _tell_rows(self, error: InvalidInputError) -> None:
        """Raise an error with the names of the images, where the reason is that rows are not finite."""
        measured = self._measured()
        known = [(name, at, self._stored(name)) for name, at in self.rows.items()]
        for split, at, X in [("train", *measured), *known]:
            bad = [row for number, row in enumerate(at) if not np.isfinite(X[number : number + 1]).all()]
            if bad:
                ids = self._bank.manifest.ids
                shown = ", ".join(printable(ids[row]) for row in bad[:_SHOWN])
                rest = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
                raise InvalidInputError(
                    f"{len(bad)} of {len(at)} {split} images hold NaN or infinity: {shown}{rest}; drop or "
                    "replace them"
                ) from error

    def _products(self, standardize: Any, n: int, p: int) -> RowProducts | None:
        """Return the products of all rows, from a file if there is one, else computed, and kept in one.

        None for features that no bank keeps.
        """
        if self._temperature is not None or not isinstance(self._bank, Bank):
            return None
        n_all = n + self.n_averaged * sum(len(at) for name, at in self.rows.items() if name != "train")
        banks = self._bank.path.absolute().parent.parent
        in_cache = banks.name == "banks"  # a bank elsewhere is in nobody's cache
        if not in_cache or n * n_all * p < _LEAST_WORK or 8 * n * n_all > _MOST_BYTES:
            return self._compute_products(standardize)
        folder = cache_folder(banks.parent) / "products"
        path = folder / f"{self._bank.path.name}-{self._cut}-{self._digest(standardize)[:16]}.safetensors"
        known = _read(path, standardize)
        if known is None:
            known = self._compute_products(standardize)
            try:
                make_folder(folder)
                _write(path, known)
                _make_room(folder, path)
            except CacheWriteError as error:  # a cache that can only be read serves as well, a little slower
                logger.info("the products of %s are not kept: %s", self._cut, error)
        return known

    def _compute_products(self, standardize: Any) -> RowProducts:
        from featbank.heads.space import RowProducts

        others = {name: self._stored(name) for name in self.rows if name != "train"}
        return RowProducts.of(self._source(), others, standardize=standardize)

    def _digest(self, standardize: Any) -> str:
        manifest = self._bank.manifest
        everything = {**self.rows, "train": self._pool}
        rows = {name: sha256(manifest.digests[at].tobytes()) for name, at in everything.items()}
        slots = {name: sha256(self._bank.row_slots[at].tobytes()) for name, at in everything.items()}
        identity = {
            "format": FORMAT,
            "key": self._bank.key.digest(),
            "cut": self._cut,
            "shards": [
                name
                for cut in self._cuts
                for stored in self._bank.sources(cut)
                for name in self._bank.shard_names(stored)
            ],
            **({"views": self._cuts, "n_averaged": self.n_averaged} if self.n_views > 1 else {}),
            "rows": rows,
            "slots": slots,
            "standardize": standardize,
        }
        return sha256(canonical_json(identity))


#: The bank, and what was read of one cut, in a process that is not the sweep's own: one entry at most.
_read_here: dict[str, dict[str, Any]] = {}


class JudgedRows:
    """Rows that a head is asked of, some at a time: float32, which can only be read.

    All of the source, or those that `at` says.
    """

    def __init__(self, source: Any, at: Rows | None) -> None:
        self._source, self._at = source, at
        self.shape = (len(source) if at is None else len(at), *source.shape[1:])

    def __getitem__(self, some: slice) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._source[some if self._at is None else self._at[some]]
        found = found.astype(np.float32, copy=False).view()
        found.flags.writeable = False  # they are those of the fits that follow, too
        return found


class _StoredRows:
    """Rows of a cut, all training rows unless `pool` says which, read from the bank when they are asked for.

    They stand in blocks, one for each view, as many as training rows have unless `n_views` says.
    """

    def __init__(self, features: CutFeatures, pool: Rows | None = None, n_views: int | None = None) -> None:
        # not the features themselves: a head that is kept, and keeps this, would keep all that they have read
        self._read = partial(read_rows, features._bank)
        self._cuts, self._temperature = features._cuts, features._temperature
        self._pool = features._pool if pool is None else pool
        self.shape = (len(self._pool) * (n_views or features.n_views), features.n_features)
        self.dtype = features.row[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice | Rows) -> NDArray[Any]:
        views, rows = np.divmod(np.arange(len(self))[at], len(self._pool))
        several = np.unique(views).tolist()
        if len(several) == 1:
            return self._read(self._cuts[several[0]], self._temperature, self._pool[rows])
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for view in several:
            of_view = views == view
            found[of_view] = self._read(self._cuts[view], self._temperature, self._pool[rows[of_view]])
        return found


def read_rows(bank: Any, cut: str, temperature: float | None, rows: Rows) -> NDArray[Any]:
    """Return rows of a cut as the bank stores them, or softmax features at a temperature."""
    if temperature is not None:
        view = CutName.parse(cut).view
        named = {} if view is None else {"view": view}  # which another source of features need not know
        softmax: NDArray[np.float32] = bank.softmax(temperature, rows, **named)
        return softmax
    # float16 stays float16: 200,704 features of 1,000 images are 400 MB instead of 800, and blocks are
    # converted where they are used.
    features: NDArray[Any] = bank.features(cut, rows, dtype=None)
    return features


def _write(path: Path, products: RowProducts) -> None:
    from safetensors.numpy import save

    arrays = {"mean": products.mean, "scale": products.scale, _TRAIN: products.train}
    arrays |= {f"other:{name}": values for name, values in products.others.items()}
    data = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    write_file(path, data + sha256(data).encode())


def _read(path: Path, standardize: Any) -> RowProducts | None:
    from safetensors.numpy import load

    from featbank.heads.space import RowProducts

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
