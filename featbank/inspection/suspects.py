"""Labels that are likely wrong, images alike under two labels, and images like no other of a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.datasets.duplicates import NEAR_DUPLICATE_COSINE
from featbank.errors import InvalidInputError
from featbank.inspection._grid import COLUMNS, draw_pictures, picture_axes, wrapped
from featbank.manifest import SPLITS, of_one_origin, printable
from featbank.metrics.catalogue import percent
from featbank.plots.display import Display
from featbank.sampling import deal_folds
from featbank.sweep.leaks import deepest_vector_cut
from featbank.sweep.spec import by_depth

if TYPE_CHECKING:
    from featbank.banks import Bank
    from featbank.inspection.images import RunImages

__all__ = ["Odd", "SuspectLabel", "Suspects", "SuspectsDisplay", "TwoLabels", "find_suspects"]

#: Penalties of the head that is cross-fitted; what fits the labels best by the folds left out is taken.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
#: Rows whose cosines with all others are held at a time, and how many neighbours say how odd an image is.
_BLOCK_ROWS, _NEIGHBOURS = 1024, 10
#: Pairs that are named; the count says how many there are. Over this part of all images, it is not copies
#: that are alike.
_MOST_PAIRS, _ALIKE = 100, 0.2


@dataclass(frozen=True)
class SuspectLabel:
    """One image whose label is likely wrong.

    Parameters
    ----------
    row : int
        Row of the manifest.
    id, split : str
        Its id, fit for a terminal, and its split.
    label, likelier : str
        Class names: its label, and the class that is likelier.
    p_label, p_likelier : float
        Probability of each by heads that have not seen the image, in [0, 1].
    """

    row: int
    id: str
    split: str
    label: str
    likelier: str
    p_label: float
    p_likelier: float


@dataclass(frozen=True)
class TwoLabels:
    """Two images nearly alike, with different labels."""

    rows: tuple[int, int]
    ids: tuple[str, str]
    labels: tuple[str, str]
    cosine: float


@dataclass(frozen=True)
class Odd:
    """One image that is like no other; `cosine` is its mean with the ten images nearest to it."""

    row: int
    id: str
    label: str
    cosine: float


@dataclass(frozen=True, eq=False)
class Suspects:
    """What looks wrong in the labels and images of a bank.

    Parameters
    ----------
    cut : str
        Whose features it was looked at by.
    labels : tuple of SuspectLabel
        Every image that another class is likelier for, the least probable label first.
    n_wrong : int
        How many labels are clearly another class's: the head is as sure of that class as it is, on average,
        of the images that bear its label. Of labels flipped at random this finds three in four.
    pairs : tuple of TwoLabels
        The most alike first, 100 at the most.
    n_pairs : int
        How many there are.
    odd : tuple of Odd
        The loneliest first, one in a hundred at the most.
    rows : ndarray of int64, shape (n_rows,)
        The labelled, readable rows that were looked at.
    p_label : ndarray of float64, shape (n_rows,)
        Probability of each one's own label by heads that have not seen it.

    Examples
    --------
    >>> found = Suspects("fc7", (), 0, (), 0, (), np.array([4, 7, 9]), np.array([0.9, 0.1, 0.8]))
    >>> found.rows[found.p_label < 0.5].tolist()  # rows whose label heads doubt that have not seen them
    [7]
    """

    cut: str
    labels: tuple[SuspectLabel, ...]
    n_wrong: int
    pairs: tuple[TwoLabels, ...]
    n_pairs: int
    odd: tuple[Odd, ...]
    rows: NDArray[np.int64]
    p_label: NDArray[np.float64]

    def __repr__(self) -> str:
        return (
            f"<Suspects of {len(self.rows)} images at {self.cut}: {self.n_wrong} labels clearly wrong, "
            f"{self.n_pairs} pairs, {len(self.odd)} odd>"
        )


def find_suspects(
    bank: Bank,
    cut: str | None = None,
    *,
    folds: int = 5,
    cosine: float = NEAR_DUPLICATE_COSINE,
    random_state: int = 0,
) -> Suspects:
    """Look for wrong labels, images alike under two labels, and odd images, from the features of a bank.

    Exact logistic heads are cross-fitted over all splits: each image is judged by a head that has not seen it
    (nor a copy of it, nor another image of its group). Labels that are confidently another class's are then
    left out of the training, and all are judged again, so that wrong labels do not vouch for each other.

    Parameters
    ----------
    bank : Bank
    cut : str, optional
        The deepest with one vector per image by default.
    folds : int, default=5
        Parts that are left out in turn.
    cosine : float, default=0.9
        From which two images count as nearly alike.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    Suspects

    Raises
    ------
    InvalidInputError
        If an argument is out of range, or fewer than two classes have `folds` images.
    UnknownNameError
        If the bank has no such cut.

    References
    ----------
    Northcutt, Jiang, Chuang: Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021,
    section 3. Kuan, Mueller: Model-agnostic label quality scoring to detect real-world label errors, 2022.

    Examples
    --------
    >>> import featbank
    >>> found = find_suspects(featbank.open_bank("digits"))
    >>> found.cut, len(found.rows), found.labels[0].label != found.labels[0].likelier
    ('fc7', 300, True)
    """
    if not 0 < cosine <= 1:
        raise InvalidInputError(f"cosine={cosine!r} must lie over 0 and up to 1")
    manifest = bank.manifest
    rows = manifest.rows()
    rows = rows[manifest.labels[rows] >= 0]
    classes, y = np.unique(manifest.labels[rows], return_inverse=True)
    if len(classes) < 2 or np.sort(np.bincount(y))[-2] < folds:
        raise InvalidInputError(
            f"{len(rows)} labelled images of {len(classes)} classes are too few to judge each by the others: "
            f"two classes need folds={folds} images"
        )
    if cut is None:
        cut = deepest_vector_cut(by_depth(bank, bank.cuts), {one: bank[one].shape[1:] for one in bank.cuts})
    X = np.asarray(bank.features(cut, rows), dtype=np.float32).reshape(len(rows), -1)
    # neither copies byte for byte nor images of one group vouch for each other
    kin = of_one_origin(manifest, rows)
    fold_of = deal_folds(y, folds, groups=kin, random_state=random_state)
    p, wrong = _out_of_fold(X, y, fold_of)
    at = np.arange(len(y))
    p_label, likelier = p[at, y], p.argmax(axis=1)
    order = np.argsort(p_label, kind="stable")
    order = order[likelier[order] != y[order]]
    pairs, n_pairs, near = _neighbours(X, y, cosine)
    lonely = np.argsort(near, kind="stable")[: max(1, len(rows) // 100)]
    names = [manifest.classes[code] for code in classes.tolist()]

    def name(place: int) -> str:
        return printable(manifest.ids[int(rows[place])])

    return Suspects(
        cut,
        tuple(
            SuspectLabel(
                int(rows[one]),
                name(one),
                SPLITS[int(manifest.splits[rows[one]])],
                names[y[one]],
                names[likelier[one]],
                float(p_label[one]),
                float(p[one, likelier[one]]),
            )
            for one in order.tolist()
        ),
        int(wrong.sum()),
        tuple(
            TwoLabels(
                (int(rows[one]), int(rows[other])),
                (name(one), name(other)),
                (names[y[one]], names[y[other]]),
                min(value, 1.0),
            )
            for value, one, other in pairs
        ),
        n_pairs,
        tuple(Odd(int(rows[one]), name(one), names[y[one]], float(near[one])) for one in lonely.tolist()),
        rows,
        p_label,
    )


def _out_of_fold(
    X: NDArray[np.float32], y: NDArray[np.int64], fold_of: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return probabilities by heads that have not seen a row, and which labels are likely wrong."""
    from featbank.heads import FeatureSpace

    space = FeatureSpace()
    Z = space.fit_transform(X)
    at = np.arange(len(y))
    every = _cross_fitted(Z, y, fold_of, np.ones(len(y), dtype=bool), _PENALTIES, space)
    losses = [-np.log(np.maximum(p[at, y], 1e-12)).mean() for p in every]
    best = int(np.argmin(losses))
    trusted = ~_confidently_wrong(every[best], y)
    # a class of which nothing is left keeps all its rows
    lost = np.bincount(y[trusted], minlength=y.max() + 1) < fold_of.max() + 1
    trusted |= lost[y]
    (p,) = _cross_fitted(Z, y, fold_of, trusted, _PENALTIES[best : best + 1], space)
    return p, _confidently_wrong(p, y)


def _cross_fitted(
    Z: NDArray[np.float32],
    y: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    trusted: NDArray[np.bool_],
    penalties: Sequence[float],
    space: Any,
) -> NDArray[np.float64]:
    """Return probabilities, shape (n_penalties, n_rows, n_classes), each row by heads on the other folds."""
    from featbank.heads import fit_stack, make

    found = np.zeros((len(penalties), len(y), int(y.max()) + 1))
    parts = [(fold, number) for fold in range(int(fold_of.max()) + 1) for number in range(len(penalties))]
    heads = [make("logreg", C=penalties[number], random_state=0) for _, number in parts]
    subsets = [np.flatnonzero((fold_of != fold) & trusted) for fold, _ in parts]
    for (fold, number), head in zip(parts, fit_stack(heads, Z, y, subsets, space=space), strict=True):
        left = np.flatnonzero(fold_of == fold)
        found[number, left[:, None], head.classes_] = head.predict_proba_columns(Z[left])
    return found


def _confidently_wrong(p: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which rows are as sure to be of another class as those that bear its label are on average."""
    n = np.bincount(y)
    usual = np.bincount(y, weights=p[np.arange(len(y)), y]) / n
    sure = np.where(p >= usual, p, 0.0)
    wrong: NDArray[np.bool_] = (sure.max(axis=1) > 0) & (sure.argmax(axis=1) != y)
    return wrong


def _neighbours(
    X: NDArray[np.float32], y: NDArray[np.int64], cosine: float
) -> tuple[list[tuple[float, int, int]], int, NDArray[np.float64]]:
    """Return the pairs most alike under two labels, how many there are, and how near each row has others."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    unit = X / np.where(lengths > 0, lengths, np.float32(1))
    k = min(_NEIGHBOURS, len(X) - 1)
    near = np.empty(len(X))
    pairs: list[tuple[float, int, int]] = []
    n_pairs = 0
    for start in range(0, len(X), _BLOCK_ROWS):
        cosines = unit[start : start + _BLOCK_ROWS] @ unit.T  # (n_block, n_rows)
        here = np.arange(len(cosines))
        cosines[here, start + here] = -np.inf
        near[start + here] = np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
        alike = (
            (cosines >= cosine) & (y[start + here, None] != y) & (start + here[:, None] < np.arange(len(X)))
        )
        n_pairs += (n_here := int(alike.sum()))
        if n_here > _MOST_PAIRS:
            alike &= cosines >= np.partition(cosines[alike], -_MOST_PAIRS)[-_MOST_PAIRS]
        one, other = np.nonzero(alike)
        values = cosines[one, other].tolist()
        pairs += zip(values, (start + one).tolist(), other.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_MOST_PAIRS], n_pairs, near


class SuspectsDisplay(Display):
    r"""Pictures of what `find_suspects` found: likely wrong labels, pairs under two labels, odd images.

    Parameters
    ----------
    suspects : Suspects
    images : sequence of (ndarray of uint8 of shape (h, w, 3), or None)
        One for each of `shown`; None where the image is no longer there.
    shown : sequence of (int, str)
        Row and what is written above it.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there are not as many images as rows.

    Examples
    --------
    >>> found = Suspects("fc7", (), 1, (), 0, (), np.array([4, 7, 9]), np.array([0.9, 0.1, 0.8]))
    >>> picture = np.zeros((9, 16, 3), np.uint8)
    >>> display = SuspectsDisplay(found, [picture], [(7, "cat: 10 %")]).plot()
    >>> display.ax_[0].get_title(loc="left")
    'cat: 10 %'
    """

    def __init__(
        self,
        suspects: Suspects,
        images: Sequence[NDArray[np.uint8] | None],
        shown: Sequence[tuple[int, str]],
        *,
        title: str | None = None,
    ) -> None:
        if len(images) != len(shown):
            raise InvalidInputError(f"{len(shown)} suspects need as many images, got {len(images)}")
        self.suspects, self.images, self.shown = suspects, tuple(images), tuple(shown)
        self.title = title

    @classmethod
    def from_suspects(
        cls, suspects: Suspects, images: RunImages, *, most: int = 24, title: str | None = None
    ) -> SuspectsDisplay:
        """Read the images of the first suspects again.

        Parameters
        ----------
        suspects : Suspects
        images : RunImages
            Of the same bank.
        most : int, default=24
            How many likely wrong labels to show; of pairs and odd images up to six each.
        title : str, optional
            Above the figure.

        Raises
        ------
        InvalidInputError
            If `most` is below 1.
        MissingDataError
            If not one of the images is there.
        """
        if most < 1:
            raise InvalidInputError(f"most={most!r} must be at least 1")
        shown = [
            (one.row, f"{_name(one.label)}\nrather {_name(one.likelier)}: {percent(one.p_likelier, 0)}")
            for one in suspects.labels[:most]
        ]
        for pair in suspects.pairs[: COLUMNS // 2]:
            for row, label in zip(pair.rows, pair.labels, strict=True):
                shown.append((row, f"{_name(label)}\nalike: cosine {pair.cosine:.3f}"))
        shown += [
            (one.row, f"{_name(one.label)}\nodd: cosine {one.cosine:.2f}") for one in suspects.odd[:COLUMNS]
        ]
        return cls(suspects, images.thumbnails([row for row, _ in shown]), shown, title=title)

    _noun = "this page of suspects"

    def _n_axes(self) -> int:
        return max(1, len(self.shown))

    def _new_axes(self) -> Any:
        return picture_axes(self._n_axes())

    def _heading(self) -> str:
        said = self.heading()
        return f"{self.title}\n{said}" if self.title else said

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        draw_pictures(panels, self.images, [text for _, text in self.shown])
        return []

    def heading(self) -> str:
        """Return how many of each kind there are."""
        found = self.suspects
        many = found.n_pairs > _ALIKE * len(found.rows)
        more = "; so many that unrelated images are as alike there: ask for a larger --cosine" if many else ""
        return (
            f"{found.n_wrong} of {len(found.rows)} labels look clearly wrong, {found.n_pairs:,} pairs are "
            f"alike under two labels (by {found.cut}{more})"
        )

    def facts(self) -> dict[str, Any]:
        """Return what was found, and which images are shown."""
        found = self.suspects
        return {
            "cut": found.cut,
            "of": len(found.rows),
            "wrong": found.n_wrong,
            "labels": [asdict(one) for one in found.labels],
            "n_pairs": found.n_pairs,
            "pairs": [asdict(one) for one in found.pairs],
            "odd": [asdict(one) for one in found.odd],
            "shown": [row for row, _ in self.shown],
        }


def _name(label: str) -> str:
    return wrapped(printable(label), 20).partition("\n")[0]
