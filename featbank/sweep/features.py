"""The rows of one cut that a sweep uses: read and projected once, products kept on disk; what heads answer.

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
from dataclasses import dataclass, fields, replace
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
from featbank.metrics import catalogue, fit_temperature, top_k_hits
from featbank.metrics.catalogue import calibration_error, columns_of
from featbank.sweep.records import Draw, Fit, Hits, Predictions, history_of, with_val
from featbank.sweep.spec import judged_split

if TYPE_CHECKING:
    from featbank.heads.space import FeatureSpace, RowProducts, Standardized

__all__ = [
    "CutFeatures",
    "Projected",
    "read_rows",
    "rows_for_statistics",
    "score",
]

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
#: Probabilities that are looked at at once, 256 MB: each row is told by itself.
_BLOCK = 2**25
#: And values of rows, 16 MB, where they are wide: heads take them in float64, too.
_ROWS_BLOCK = 2**22
#: Logarithms of probabilities end here: one of 0 has none.
_TINY = float(np.finfo(np.float64).tiny)

Rows = NDArray[np.int64]
Labels = NDArray[np.int64]
Floats = NDArray[np.float64]


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
        from featbank.heads.space import FeatureSpace

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


@dataclass(frozen=True)
class _Answers:
    """What a head says of rows: its answers and, where it has probabilities, what they make of each row."""

    y_pred: Labels
    p_pred: Floats | None = None
    p_true: Floats | None = None
    top5: NDArray[np.bool_] | None = None
    #: The largest probability of each row, and whether it is the true class's; once more at the temperature.
    sure: tuple[Floats, NDArray[np.bool_]] | None = None
    sure_scaled: tuple[Floats, NDArray[np.bool_]] | None = None
    #: All of them, where something asks for them.
    scores: Floats | None = None


def score(fit: Fit, features: CutFeatures, projected: Projected | None, metrics: Sequence[str] = ()) -> Fit:
    """Fill in what a fitted head reached; one whose probabilities are not numbers has failed."""
    if fit.draw is None:
        raise ValueError("a fit without its draw cannot be scored")
    found: dict[str, Any] = {}
    head, ending = fit.estimator, "" if projected is None else "_columns"
    judged = judged_split(features.rows)
    others: dict[str, float] = {}
    temperature: float | None = None
    # the test rows at last: they are looked at through the temperature that the validation rows ask for
    parts = sorted(features.parts(fit.draw, projected), key=lambda part: part[0] == "test")
    has_test = parts[-1][0] == "test"
    for split, X, y in parts:
        tempers = split == "val" and has_test and _has_logits(head)
        keeps = tempers or (bool(metrics) and split in (judged, "val"))
        said = _ask(head, X, y, ending, features.n_averaged, keeps, temperature if split == "test" else None)
        if said is None:
            message = "the head's probabilities are not finite"
            return replace(fit.without_head(), status="failed", message=message)
        prefix = "" if split == "test" else f"{split}_"
        found[f"{prefix}top1"] = float(np.mean(said.y_pred == y))
        if split in (judged, "val"):
            labels = None if said.scores is None else head.classes_
            for name in metrics:
                value = catalogue.evaluate(name, y, said.y_pred, said.scores, labels=labels)
                if value is not None:
                    others[name if split == judged else f"val_{name}"] = value
        if said.top5 is not None:
            found[f"{prefix}top5"] = float(np.mean(said.top5))
        if split == judged:
            rows = features.rows[split]
            found["predictions"] = Predictions(split, rows, y, said.y_pred, said.p_true, said.p_pred)
            found["hits"] = Hits(split, said.y_pred == y, said.top5)
        if tempers and said.scores is not None:
            temperature = _temperature(y, said.scores, head.classes_)
        if split == "test" and said.sure is not None:
            found["ece"] = calibration_error(*said.sure)
            if said.sure_scaled is not None:
                found["ece_scaled"] = calibration_error(*said.sure_scaled)
                found["calibration_temperature"] = temperature
    found["metrics"] = {name: others[name] for name in with_val(metrics) if name in others}
    return replace(fit, **found | _epochs(head))


def _temperature(y: Labels, scores: Floats, classes: Labels) -> float | None:
    """Return the temperature at which validation rows are told best; None where no row's class is known.

    A temperature divides logits: shares of votes, with their zeros, have none, and are left as they are.
    """
    known = np.isin(y, classes)
    if not known.any():
        return None
    columns = np.searchsorted(classes, y[known])
    return fit_temperature(columns, np.log(np.maximum(scores[known], _TINY)))


def _has_logits(head: Any) -> bool:
    from featbank.heads.classic import NeighborsClassifier

    return hasattr(head, "decision_function") and not isinstance(head, NeighborsClassifier)


def _ask(
    head: Any, X: JudgedRows, y: Labels, ending: str, n_views: int, keeps: bool, temperature: float | None
) -> _Answers | None:
    """Return what a head says of rows, None if its probabilities are not numbers.

    It is asked of so many rows at once that their probabilities fit into memory: of 10,000 classes and as
    many rows they would take 800 MB, and wide rows more. Those of several views, which stand in blocks of
    rows, are averaged.
    """
    n_classes, width = max(1, len(getattr(head, "classes_", ()))), max(1, math.prod(X.shape[1:]))
    n_rows = max(1, min(_BLOCK // n_classes, _ROWS_BLOCK // width) // n_views)
    found: list[_Answers] = []
    for start in range(0, max(1, len(y)), n_rows):
        some = slice(start, start + n_rows)
        views = range(0, n_views * len(y), max(1, len(y)))
        parts = [X[view + start : view + min(start + n_rows, len(y))] for view in views]
        rows = parts[0] if n_views == 1 else np.concatenate(parts)
        y_pred, scores = _answers(head, rows, ending, n_views)
        if scores is None:
            found.append(_Answers(y_pred))
            continue
        if not np.isfinite(scores).all():
            return None
        found.append(_told(y[some], y_pred, scores, head.classes_, keeps, temperature))
    if len(found) == 1:
        return found[0]
    return _Answers(
        **{one.name: _joined([getattr(part, one.name) for part in found]) for one in fields(_Answers)}
    )


def _joined(parts: Sequence[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(some) for some in zip(*parts, strict=True))
    return np.concatenate(parts)


def _told(
    y: Labels, y_pred: Labels, scores: Floats, classes: Labels, keeps: bool, temperature: float | None
) -> _Answers:
    at_row = np.arange(len(y))
    column, known = columns_of(y, scores, classes)
    p_true = np.where(known, scores[at_row, column], 0.0)
    p_pred = scores[at_row, columns_of(y_pred, scores, classes)[0]]
    scaled = None
    if temperature is not None:
        logits = np.log(np.maximum(scores, _TINY)) / temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        scaled = _sure(y, raised / raised.sum(axis=1, keepdims=True), classes)
    top5 = top_k_hits(y, scores, k=5, labels=classes)
    return _Answers(
        y_pred, p_pred, p_true, top5, _sure(y, scores, classes), scaled, scores if keeps else None
    )


def _sure(y: Labels, scores: Floats, classes: Labels) -> tuple[Floats, NDArray[np.bool_]]:
    return scores.max(axis=1), np.asarray(classes)[scores.argmax(axis=1)] == y


def _answers(head: Any, X: NDArray[Any], ending: str, n_views: int) -> tuple[Labels, Floats | None]:
    """Return the predicted class of each image, and probabilities where the head has them."""
    predict = getattr(head, f"predict{ending}")
    probabilities = getattr(head, f"predict_proba{ending}", None)
    if ending and n_views == 1 and hasattr(head, "answer_columns"):
        y_pred, scores = head.answer_columns(X)
        return y_pred.astype(np.int64), scores
    # an estimator of others may work in place, as `StandardScaler(copy=False)` does
    own = X if ending else X.copy()
    if probabilities is None or not hasattr(head, "classes_"):
        return _class_numbers(predict(own), len(X)), None
    scores = np.asarray(probabilities(own), dtype=np.float64)
    if scores.shape != (len(X), len(head.classes_)):
        raise ValueError(
            f"predict_proba returned an array of shape {scores.shape} for {len(X)} rows; return "
            f"{(len(X), len(head.classes_))}: a row for each, a column for each of classes_"
        )
    if n_views > 1:
        scores = scores.reshape(n_views, len(X) // n_views, -1).mean(axis=0)
        return np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64), scores
    best = scores.max(axis=1, keepdims=True)
    y_pred = np.asarray(head.classes_)[scores.argmax(axis=1)].astype(np.int64)
    tied = np.flatnonzero((scores == best).sum(axis=1) > 1)
    if len(tied):  # how ties are broken is the head's affair: neighbours ask which of the classes is nearer
        y_pred[tied] = _class_numbers(predict(X[tied]), len(tied))
    return y_pred, scores


def _class_numbers(answers: Any, n: int) -> Labels:
    """Return what `predict` gave for `n` rows; `ValueError` where it is no class number for each."""
    found = np.asarray(answers)
    if found.shape != (n,):
        raise ValueError(
            f"predict returned an array of shape {found.shape} for {n} rows; return one class for each, of "
            f"shape {(n,)}"
        )
    whole = found.dtype.kind in "biu" or (found.dtype.kind == "f" and bool((found == np.floor(found)).all()))
    if not whole or not np.isfinite(found).all():
        raise ValueError(
            f"predict returned {found.dtype} such as {found[0]!r}; return class numbers, as in the y that "
            "fit was given"
        )
    return found.astype(np.int64)


def _epochs(head: Any) -> dict[str, Any]:
    """Return the epochs of a head that has them, and its accuracies after the best and the last one."""
    history = history_of(head)
    n_epochs, best = len(history.get("train_loss", ())), getattr(head, "best_epoch_", None)
    if not n_epochs or not isinstance(best, int | np.integer) or not 0 <= best <= n_epochs:
        return {}
    found: dict[str, Any] = {"best_epoch": int(best), "n_epochs": n_epochs}
    for prefix, split in (("", "test"), ("val_", "val")):
        accuracy = history.get(f"{split}_accuracy")
        if accuracy is not None and best and len(accuracy) == n_epochs:
            found[f"best_{prefix}top1"] = float(accuracy[best - 1])
            found[f"final_{prefix}top1"] = float(accuracy[-1])
    return found
