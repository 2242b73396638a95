"""What one fit needs of a cut: its training rows, and the rows it is scored on."""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.sampling import Size

if TYPE_CHECKING:
    from featbank.heads import FeatureSpace, RowProducts
    from featbank.sweep._products import ProductCache

__all__ = ["ColumnMaterial", "FeatureMaterial", "Material", "Plan", "SplitRows", "StoredRows"]

#: How many images are named in a message.
_SHOWN = 5

Read = Callable[[NDArray[np.int64]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Plan:
    """One draw, as positions among the training rows.

    `rows` are trained on, those `held` out of the draw choose; `per_class` counts what was drawn of each
    class.
    """

    n_per_class: Size
    repeat: int
    rows: NDArray[np.int64]
    seed: int
    per_class: NDArray[np.int64]
    #: Whether these are all training rows there are, so that every repeat draws the same.
    whole: bool
    held: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def parts(self, splits: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
        """Yield (what the rows are to the head, split they stand in, which of its rows)."""
        for split in splits:
            yield split, split, self.rows if split == "train" else slice(None)
        if len(self.held):
            yield "val", "train", self.held


class SplitRows:
    """The labelled rows of each split at one cut; `rows` are their numbers in the manifest.

    Features are read when they are first asked for, once per split.
    """

    def __init__(
        self,
        read: Read,
        labels: Mapping[str, NDArray[np.int64]],
        rows: Mapping[str, NDArray[np.int64]],
        products: ProductCache | None = None,
        *,
        n_features: int | None = None,
        name_of: Callable[[int], str] = str,
    ) -> None:
        self._read = read
        self._n_features = n_features
        self._name_of = name_of
        self._products = products
        self.rows = {name: at for name, at in rows.items() if len(at)}
        self.labels = {name: labels[name] for name in self.rows}
        self._features: dict[str, NDArray[Any]] = {}
        self._columns: dict[tuple[bool, Any], ColumnMaterial] = {}

    def features(self, split: str) -> NDArray[Any]:
        """Return the features of a split, (n_rows, n_features), in their stored dtype."""
        if split not in self._features:
            self._features[split] = self._read(self.rows[split])
        return self._features[split]

    @property
    def n_features(self) -> int:
        """Length of a row; nothing is read for it where the cut says it."""
        if self._n_features is None:
            self._n_features = int(np.prod(self._read(self.rows["train"][:1]).shape[1:]))
        return self._n_features

    def columns(self, standardize: bool, rotate: Any) -> ColumnMaterial:
        """Return the rows in a feature space, made once for all heads that agree on it."""
        from featbank.heads import FeatureSpace

        known = self._columns.get((standardize, rotate))
        if known is None:
            try:
                known = self._made(FeatureSpace(standardize=standardize, rotate=rotate))
            except InvalidInputError as error:
                self._tell_rows(error)
                raise
            self._columns[standardize, rotate] = known
        return known

    def _made(self, space: FeatureSpace) -> ColumnMaterial:
        X, others = self.features("train"), [name for name in self.rows if name != "train"]
        if self._products is not None and space.rotates(len(X), self.n_features):
            products = self._products.get(
                (len(X), self.n_features),
                space.standardize,
                lambda: self._compute_products(space.standardize),
            )
            Z = {"train": space.fit_transform(X, products=products)}
            Z |= {name: space.transform_products(products, name) for name in others}
        else:
            Z = {"train": space.fit_transform(X)}
            Z |= {name: space.transform(self.features(name)) for name in others}
        return ColumnMaterial(Z, self.labels, self.rows, space)

    def _tell_rows(self, error: InvalidInputError) -> None:
        """Raise an error with the names of the images, where the reason is that rows are not finite."""
        for split, at in self.rows.items():
            bad = [row for row, x in zip(at, self.features(split), strict=True) if not np.isfinite(x).all()]
            if bad:
                shown = ", ".join(self._name_of(int(row)) for row in bad[:_SHOWN])
                rest = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
                raise InvalidInputError(
                    f"{len(bad)} of {len(at)} {split} images hold NaN or infinity: {shown}{rest}; drop or "
                    "replace them"
                ) from error

    def _compute_products(self, standardize: bool) -> RowProducts:
        from featbank.heads import RowProducts

        others = {name: self.features(name) for name in self.rows if name != "train"}
        return RowProducts.of(self.features("train"), others, standardize=standardize)


class Material(Protocol):
    """Rows a head is fitted to and scored on; travels to other processes without its features."""

    @property
    def rows(self) -> Mapping[str, NDArray[np.int64]]:
        """Manifest rows of each split."""

    def fit(self, estimators: Sequence[Any], plans: Sequence[Plan]) -> None:
        """Fit each estimator to the rows of its plan."""

    def inputs(self, plan: Plan) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
        """Yield (split, rows as the head takes them, labels); of the training rows those of the plan.

        Rows held out of the draw are its validation rows.
        """

    @property
    def ending(self) -> str:
        """End of the names of the methods that predict from these rows."""


@dataclass(frozen=True, eq=False)
class ColumnMaterial:
    """Rows in a feature space that many heads share."""

    Z: dict[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.int64]]
    rows: Mapping[str, NDArray[np.int64]]
    space: FeatureSpace
    ending: str = "_columns"

    def fit(self, estimators: Sequence[Any], plans: Sequence[Plan]) -> None:
        """Fit those that are watched on the same rows in one call; see `featbank.heads.fit_stack`."""
        from featbank.heads import fit_stack

        together: dict[bytes, list[int]] = {}
        for number, plan in enumerate(plans):
            together.setdefault(plan.held.tobytes(), []).append(number)
        for members in together.values():
            held = plans[members[0]].held
            split, at = ("train", held) if len(held) else ("val", slice(None))
            watched = split in self.Z
            fit_stack(
                [estimators[number] for number in members],
                self.Z["train"],
                self.labels["train"],
                [plans[number].rows for number in members],
                space=self.space,
                Z_val=self.Z[split][at] if watched else None,
                y_val=self.labels[split][at] if watched else None,
                Z_test=self.Z.get("test"),
                y_test=self.labels.get("test"),
            )

    def inputs(self, plan: Plan) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
        """Yield (split, columns, labels)."""
        for name, split, at in plan.parts(self.Z):
            yield name, self.Z[split][at], self.labels[split][at]

    def without_space(self) -> ColumnMaterial:
        """Return a copy that travels: its space has the columns and the gain, but no way from features."""
        from featbank.heads import FeatureSpace

        n = self.space.n_columns_
        stand_in = FeatureSpace.from_arrays(np.zeros(n), np.ones(n), gain=self.space.gain_)
        return ColumnMaterial(self.Z, self.labels, self.rows, stand_in)

    def adopt(self, estimator: Any) -> Any:
        """Give a head that was fitted in a copy `without_space` its real space."""
        estimator.space_, estimator.n_features_in_ = self.space, self.space.n_features_
        return estimator


@dataclass(frozen=True, eq=False)
class FeatureMaterial:
    """Rows as they are stored, for estimators of others."""

    split_rows: SplitRows
    ending: str = ""

    @property
    def labels(self) -> Mapping[str, NDArray[np.int64]]:
        """Labels of each split."""
        return self.split_rows.labels

    @property
    def rows(self) -> Mapping[str, NDArray[np.int64]]:
        """Manifest rows of each split."""
        return self.split_rows.rows

    def fit(self, estimators: Sequence[Any], plans: Sequence[Plan]) -> None:
        """Fit each to a copy of its rows."""
        for estimator, plan in zip(estimators, plans, strict=True):
            X = self.split_rows.features("train")[plan.rows].astype(np.float32)
            estimator.fit(X, self.labels["train"][plan.rows])

    def inputs(self, plan: Plan) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
        """Yield (split, features, labels)."""
        for name, split, at in plan.parts(self.rows):
            X = self.split_rows.features(split)[at]
            yield name, X.astype(np.float32), self.labels[split][at]


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Where the rows of a cut are on disk: what another process gets instead of the features."""

    #: The pickled bank: it is reopened with the rows that `rows` counts, or not at all.
    bank: bytes = field(repr=False)
    cut: str
    temperature: float | None
    labels: Mapping[str, NDArray[np.int64]] = field(repr=False)
    rows: Mapping[str, NDArray[np.int64]] = field(repr=False)
    #: Tells sweeps apart: a worker outlives a sweep, and the bank may have changed before the next one.
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def open(self) -> FeatureMaterial:
        """Open the bank and return its rows; the process keeps those it opened last.

        Raises
        ------
        BankChangedError
            If the bank has other rows by now.
        """
        if self.token not in _opened:
            _opened.clear()
            read = reader(pickle.loads(self.bank), self.cut, self.temperature)
            _opened[self.token] = SplitRows(read, self.labels, self.rows)
        return FeatureMaterial(_opened[self.token])


#: Of this process: one entry at most.
_opened: dict[str, SplitRows] = {}


def reader(bank: Any, cut: str, temperature: float | None) -> Read:
    """Return what reads rows of a cut from a bank."""

    def read(rows: NDArray[np.int64]) -> NDArray[Any]:
        if temperature is not None:
            softmax: NDArray[np.float32] = bank.softmax(temperature, rows)
            return softmax
        # float16 stays float16: 200,704 features of 1,000 images are 400 MB instead of 800, and blocks are
        # converted where they are used.
        features: NDArray[Any] = bank.features(cut, rows, dtype=None)
        return features

    return read
