"""What a sweep is asked for, checked before any fit: cuts, heads, rows, and the subsets drawn of them."""

from __future__ import annotations

import copy
import hashlib
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from featbank._cuts import LOGITS, SOFTMAX, CutName, check_view
from featbank._registry import asked_by, changes_repr, from_place, nearest, own_folders, source_digest
from featbank.banks.arrays import StoredFeatures
from featbank.errors import FeatbankError, InvalidInputError, UnknownNameError, one_line
from featbank.heads import catalogue
from featbank.manifest import Manifest, of_one_origin, printable
from featbank.metrics import catalogue as metrics_catalogue
from featbank.sampling import Size, deal_folds, draw_nested, hold_out, parse_sizes, size_order
from featbank.sweep.protocols import Protocol, find_protocol
from featbank.sweep.records import Draw

__all__ = [
    "FeatureSource",
    "HeadGrid",
    "HeadSpec",
    "SweepSettings",
    "by_depth",
    "check_cut",
    "check_splits",
    "choose_cuts",
    "digests_of_draws",
    "draw_subsets",
    "groups_of_judged",
    "held_out",
    "judged_split",
    "labelled_rows",
    "make_grids",
    "notes_on_splits",
    "plug_ins",
    "read_sizes",
    "read_val",
    "set_untrained_aside",
    "splits_for",
    "untrained_words",
    "usual_sizes",
]

Rows = NDArray[np.int64]

#: The text of an estimator is cut to so many characters.
_SHOWN = 500
#: Untrained classes are named up to so many.
_MOST_NAMED = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class SweepSettings:
    """What decides the results of a sweep.

    Parameters
    ----------
    cuts : sequence of str, optional
        Names or aliases of cuts; all complete ones by default. ``"softmax"`` is derived from the stored
        logits.
    heads : sequence of str, estimator, or (str, estimator), default=("softmax",)
        Names as in `featbank.heads.names`; or objects with ``fit(X, y)`` and ``predict(X)``, which get the
        flattened features as they are, on a copy per fit; ``"module:Class"`` stands for one of those. They
        are fitted, scored and drawn like all others; they are not saved, so they cannot `predict` later.
    samples_per_class : str, int, or sequence of int or "all", optional
        ``"4..32"`` doubles, ``"4..32:4"`` steps by 4, ``"1,5,10"`` lists, ``"all"`` takes every training
        sample, see `featbank.sampling.parse_sizes`; by default ``"4..32"``, or as far as the class with the
        fewest training images reaches; from 1 on where that is less than 8.
    repeats : int, default=5
        Draws per size. All samples are one draw: heads that no seed changes are fitted to it once.
    temperatures : sequence of float, optional
        Temperatures the cut ``"softmax"`` is read at, each over 0; 1 by default.
    random_state : int, default=0
        Seed of the draws and of the heads.
    head_params : mapping from head name to mapping, optional
        Parameters for `featbank.heads.make`, e.g. ``{"mlp": {"hidden_units": 200}}``. A list of values makes
        one head of each, fitted together and named after its values: ``{"logreg": {"C": [0.1, 1]}}`` gives
        ``logreg(C=0.1)`` and ``logreg(C=1)``.
    save_heads : {"best", "all", "none"}, default="best"
        Fitted heads to keep: for each curve the best by validation accuracy at its largest size (without
        validation rows that of the first repeat; never by test accuracy), all, or none.
    untrained_classes : {"drop", "keep"}, default="drop"
        What becomes of validation and test rows of classes that no training row has: left out, or kept, where
        they count as wrong. Either is said in the notes.
    up_to : bool, default=False
        Let a class that has fewer training samples than a size give all it has. The curve has the size that
        was asked for; `fewest_per_class` and `most_per_class` say what it came to.
    draw : {"images", "groups"}, default="images"
        What sizes count: images of a class, or groups of it, such as patients, with all their images. The
        latter takes a bank that was extracted with groups.
    folds : int, optional
        Instead of the bank's split, deal its images out to so many folds: each class evenly, each group, and
        copies byte for byte, whole. Each fold is judged once, by heads drawn from the others, in place of
        `repeats`.
    val : float, "none" or None, default=None
        What stops training, chooses (C, the head kept) and scales. None: the bank's validation rows, or
        "none" where it has no such rows. "none": no rows at all; training stops by the training loss, and
        ``C="auto"`` goes by cross-validation within each draw. A number over 0 and under 1: that part of each
        draw, see `featbank.sampling.hold_out`, whole groups where the bank has such; heads are trained on the
        rest. With either, the bank's validation rows decide nothing, and are what heads are scored on where
        there are no test rows. With `folds` there are no validation rows but these.
    val_per_class : int, optional
        Take so many of the bank's validation rows (or groups, see `draw`) of each class only: that many
        labels more than the draw are spent.
    metrics : sequence of str, default=()
        Other scores of each fit: names as in `featbank.metrics.catalogue.names`, or ``"module:function"`` for
        one's own, of true and predicted class codes and from 0 to 1. The first is what the sweep goes by:
        heads stop by it (``monitor="metric"``, unless `head_params` say another), ``C="auto"`` and the head
        that is kept are chosen by it on validation rows, curves and comparisons are of it.
    views : sequence of str, default=()
        Views of the training images, which the bank holds as ``CUT@VIEW``. Heads trained by Adam or SGD draw
        the image itself or one of its views anew in each epoch; others take all as more rows. Rows are
        counted and split by image.
    average_views : bool, default=False
        Average the probabilities over the image and its views when a head is scored, and when it predicts.
    protocol : str, optional
        An evaluation of the field by name, see `featbank.sweep.protocols`: it says heads, their parameters
        and `val`, and takes all samples where no sizes are given.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If a head or metric is not known, or a value not allowed.

    Examples
    --------
    >>> settings = SweepSettings(heads=["softmax", "knn"], head_params={"knn": {"n_neighbors": [1, 5]}})
    >>> SweepSettings(heads=["ncm"], repeats=3)
    SweepSettings(heads=['ncm'], repeats=3)
    >>> settings.labels
    ('softmax', 'knn(n_neighbors=1)', 'knn(n_neighbors=5)')
    """

    cuts: Sequence[str] | None = None
    heads: Sequence[Any] = ("softmax",)
    samples_per_class: str | int | Sequence[Size] | None = None
    repeats: int = 5
    temperatures: Sequence[float] | None = None
    random_state: int = 0
    head_params: Mapping[str, Mapping[str, Any]] | None = None
    save_heads: Literal["best", "all", "none"] = "best"
    untrained_classes: Literal["drop", "keep"] = "drop"
    up_to: bool = False
    draw: Literal["images", "groups"] = "images"
    folds: int | None = None
    val: float | Literal["none"] | None = None
    val_per_class: int | None = None
    metrics: Sequence[str] = ()
    views: Sequence[str] = ()
    average_views: bool = False
    protocol: str | None = None
    grids: tuple[HeadGrid, ...] = field(init=False, repr=False)

    __repr__ = changes_repr

    def __post_init__(self) -> None:
        for name, allowed in (
            ("save_heads", ("best", "all", "none")),
            ("untrained_classes", ("drop", "keep")),
            ("draw", ("images", "groups")),
        ):
            if getattr(self, name) not in allowed:
                raise InvalidInputError(
                    f"{name}={getattr(self, name)!r} (--{name.replace('_', '-')}) is not one of "
                    f"{', '.join(map(repr, allowed))}"
                )
        # a frozen object is filled in this way
        if self.protocol is not None:
            self._follow(find_protocol(self.protocol))
        object.__setattr__(self, "val", read_val(self.val))
        for name, least in (("folds", 2), ("val_per_class", 1)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise InvalidInputError(
                    f"{name}={value!r} (--{name.replace('_', '-')}) must be a whole number from {least} on"
                )
        if self.val_per_class is not None and (self.val is not None or self.folds is not None):
            other = "folds" if self.val is None else "val"
            raise InvalidInputError(
                f"val_per_class={self.val_per_class} (--val-per-class) counts validation images of the "
                f"bank, of which {other}={getattr(self, other)!r} (--{other}) uses none; leave one out"
            )
        metrics = [self.metrics] if isinstance(self.metrics, str) else self.metrics
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(map(metrics_catalogue.canonical, metrics))))
        usual = {"monitor": "metric"} if self.metrics else {}
        object.__setattr__(self, "grids", tuple(make_grids(self.heads, self.head_params or {}, usual)))
        views = [self.views] if isinstance(self.views, str) else self.views
        object.__setattr__(self, "views", tuple(dict.fromkeys(map(check_view, views))))
        if self.average_views:
            self._check_average()

    def _follow(self, protocol: Protocol) -> None:
        """Take over what a protocol says; what contradicts it is refused."""
        for name, usual in (("heads", ("softmax",)), ("head_params", None), ("val", None)):
            said, own = getattr(protocol, name), getattr(self, name)
            if own and _plain(own) not in (_plain(usual), _plain(said)):
                raise InvalidInputError(protocol.refusal(f"{name}={own!r}"))
            object.__setattr__(self, name, said)
        object.__setattr__(self, "protocol", protocol.name)
        if self.samples_per_class is None:
            object.__setattr__(self, "samples_per_class", "all")

    def _check_average(self) -> None:
        if not self.views:
            raise InvalidInputError(
                "average_views (--average-views) has no views to average; name them, such as --view hflip"
            )
        for grid in self.grids:
            if not hasattr(grid.members[0].make(0), "predict_proba"):
                raise InvalidInputError(
                    f"average_views (--average-views) averages probabilities, and head {grid.name!r} has none"
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """What the fitted heads are called, one of each value that a list of `head_params` gives."""
        return tuple(member.name for grid in self.grids for member in grid.members)

    def of_bank(self, bank: FeatureSource) -> SweepSettings:
        """Return them with the bank's own names of its cuts, and with the sizes that its classes reach.

        Raises
        ------
        UnknownNameError
            If there is no such cut.
        """
        cuts = None
        if self.cuts is not None:
            asked = [self.cuts] if isinstance(self.cuts, str) else self.cuts
            cuts = tuple(dict.fromkeys(_canonical_cut(bank, one) for one in asked))
        sizes = self.samples_per_class
        if sizes is None:
            sizes = usual_sizes(bank.manifest, self.draw, self.folds, self.random_state)
        return replace(self, cuts=cuts, samples_per_class=sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the JSON values that a run records.

        Of heads the names; where there are estimators of others, ``estimators``: class, text and digest of
        each by name. One that cannot be pickled has another digest each time.
        """
        names = [head_of(asked) for asked in _listed(self.heads)]
        objects = {
            name: _identity(grid.members[0].make(0))
            for grid, (name, made) in zip(self.grids, names, strict=True)
            if made is not None
        }
        found = {
            "cuts": _plain(self.cuts),
            "heads": [name for name, _ in names],
            "head_params": _by_head(self.head_params or {}),
            **({"estimators": objects} if objects else {}),
            "samples_per_class": _plain(self.samples_per_class),
            "repeats": _plain(self.repeats),
            "temperatures": _plain(self.temperatures),
            "random_state": _plain(self.random_state),
            "save_heads": self.save_heads,
            "untrained_classes": self.untrained_classes,
            "val": self.val,
        }
        changed = {"protocol": None, "up_to": False, "draw": "images", "folds": None, "val_per_class": None}
        found |= {
            name: _plain(getattr(self, name)) for name in changed if getattr(self, name) != changed[name]
        }
        if self.views:
            found |= {"views": list(self.views), "average_views": self.average_views}
        if self.metrics:
            found["metrics"] = list(self.metrics)
        made_by = plug_ins([name for name, made in names if made is None], self.metrics)
        return found | ({"plug_ins": made_by} if made_by else {})


def plug_ins(heads: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """Return what heads and metrics of others come from: package and version, or source.

    Parameters
    ----------
    heads, metrics : sequence of str
        Their names; a head that is ``module:Class`` stands among the estimators, see `SweepSettings.to_dict`.
    """
    made_by = {
        **{f"head {name}": catalogue.made_by(name) for name in heads if ":" not in name},
        **{f"metric {name}": metrics_catalogue.made_by(name) for name in metrics},
    }
    return {name: package for name, package in made_by.items() if package is not None}


class FeatureSource(Interface):
    """What a sweep needs of a bank."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the complete cuts."""

    @property
    def manifest(self) -> Manifest:
        """The rows."""

    def features(self, cut: str, rows: Any = None, dtype: Any = np.float32) -> NDArray[Any]:
        """Return rows of a cut, shape (n_rows, n_features)."""

    def softmax(self, temperature: float, rows: Any = None) -> NDArray[np.float32]:
        """Return softmax(logits / temperature), shape (n_rows, n_classes)."""


def choose_cuts(
    bank: FeatureSource, cuts: Sequence[str] | None, temperatures: Sequence[float] | None
) -> list[tuple[str, float | None]]:
    """Return (cut, temperature) of what is to be fitted, from shallow to deep; see `run_sweep`."""
    known = list(bank.cuts)
    seen = [cut for cut in known if CutName.parse(cut).view is None]
    asked = list(dict.fromkeys((seen or known) if cuts is None else cuts))
    for cut in asked:
        check_cut(bank, cut)
    if not asked:
        raise InvalidInputError(
            "the bank has no complete cut; extract one first, e.g. featbank extract --cut fc7"
        )
    if temperatures is not None and all(CutName.parse(cut).base != SOFTMAX for cut in asked):
        raise InvalidInputError(
            f"temperatures={list(temperatures)!r} (--temperature) are for the cut 'softmax', "
            f"got {', '.join(map(repr, asked))}; add --cut softmax"
        )
    values = [1.0] if temperatures is None else [float(one) for one in dict.fromkeys(temperatures)]
    wrong = [one for one in values if not 0 < one < float("inf")]
    if wrong or not values:
        raise InvalidInputError(f"temperature={wrong[0] if wrong else None!r} must be a finite number over 0")
    chosen: list[tuple[str, float | None]] = []
    for cut in by_depth(bank, asked):
        is_softmax = CutName.parse(cut).base == SOFTMAX
        chosen += [(cut, one) for one in values] if is_softmax else [(cut, None)]
    return chosen


def check_cut(bank: FeatureSource, cut: str) -> None:
    """Raise `UnknownNameError` if a source has not all of a cut, or of what that is derived from."""
    known = list(bank.cuts)
    is_softmax = CutName.parse(cut).base == SOFTMAX
    needed = cut.replace(SOFTMAX, LOGITS, 1) if is_softmax else cut
    try:
        stored = bank.sources(cut) if isinstance(bank, StoredFeatures) else (needed,)
    except UnknownNameError:
        stored = (needed,)
    missing = [one for one in stored if one not in known]
    if missing:
        because = f" ({cut} is derived from {missing[0]})" if missing[0] != cut else ""
        raise UnknownNameError(
            f"the bank has no cut {missing[0]!r}{because}; it has {nearest(cut, known)}{_how(bank, cut)}"
        )


def _how(bank: FeatureSource, cut: str) -> str:
    """Say what would make a view, which is likelier missing than misspelled."""
    view = CutName.parse(cut).view
    if view is None:
        return ""
    if isinstance(bank, StoredFeatures):
        return f"; extract it with --view {view}"
    return "; these features were given from outside, and a view is made of images: extract them, --view"


def _canonical_cut(bank: FeatureSource, cut: str) -> str:
    """Turn an alias into the cut's name; that the bank does not have it is for `choose_cuts` to say."""
    key = getattr(bank, "key", None)
    if cut in bank.cuts or key is None:
        return cut
    from featbank.backbones import get_spec

    try:
        spec = get_spec(key.backbone)
    except FeatbankError:  # a module of somebody's own, or a family that is not installed here
        return cut
    try:
        return spec.cut(cut).name
    except UnknownNameError:
        if cut.partition("@")[0] == cut:
            raise
        return cut


def by_depth(bank: FeatureSource, cuts: Sequence[str]) -> list[str]:
    """Return `cuts` from shallow to deep by the backbone's cut table; others come last, as given."""
    key = getattr(bank, "key", None)
    if key is None or len(cuts) < 2:
        return list(cuts)
    from featbank.backbones import get_spec

    try:
        order = [cut.name for cut in get_spec(key.backbone).cuts]
    except FeatbankError:  # a backbone that is unknown here, or whose family is not installed
        return list(cuts)

    def depth(cut: str) -> int:
        base = CutName.parse(cut).base
        if base == SOFTMAX:
            return len(order)
        return order.index(base) if base in order else len(order) + 1

    return sorted(cuts, key=depth)


@dataclass(frozen=True)
class HeadSpec:
    """A head to be fitted: its name, and how to make one from a seed."""

    name: str
    make: Callable[[int], Any]

    def draws(self, draws: Sequence[Draw]) -> list[Draw]:
        """Return those it is fitted to; all samples once, if another repeat could give nothing else."""
        # estimators of others may do anything with their seed
        seeded = getattr(self.make(0), "_is_seeded", True)
        return [one for one in draws if seeded or not one.whole or one.repeat == 0]


@dataclass(frozen=True)
class HeadGrid:
    """Heads that differ in values of parameters only."""

    name: str
    members: tuple[HeadSpec, ...]


def make_grids(
    heads: Sequence[Any], params: Mapping[str, Mapping[str, Any]], usual: Mapping[str, Any] | None = None
) -> list[HeadGrid]:
    """Turn names and objects into heads to be fitted; names and parameters are checked before any fit.

    `usual` are parameters of those heads that have such, unless `params` say another value.
    """
    grids: dict[str, HeadGrid] = {}
    given = _by_head(params)
    for asked in _listed(heads):
        name, made = head_of(asked)
        if made is None:
            grid = _named(name, given.pop(name, {}), usual or {})
        else:
            if hasattr(made, "predict_columns"):
                made._check()
            grid = HeadGrid(name, (HeadSpec(name, _cloner(made)),))
        if name in grids:
            raise InvalidInputError(
                f"head {name!r} is asked for twice; give one of them as (name, estimator)"
            )
        grids[name] = grid
    if not grids:
        raise InvalidInputError("no head was asked for; name at least one, e.g. 'softmax'")
    if given:
        strange = next(iter(given))
        raise InvalidInputError(
            f"head_params for {strange!r}, which is not fitted; fitted: {nearest(str(strange), grids)}"
        )
    return list(grids.values())


def _identity(made: Any) -> dict[str, str]:
    kind = type(made)
    try:
        digest = source_digest(kind, pickle.dumps(made))
    except Exception:  # noqa: BLE001 - pickling runs code of the estimator's own, which may raise anything
        digest = secrets.token_hex(32)
    text = " ".join(repr(made).split())[:_SHOWN]
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "text": text, "digest": digest}


def _listed(heads: Any) -> list[Any]:
    """Return heads as a list; one name, estimator or (name, estimator) is a list of one."""
    pair = isinstance(heads, tuple) and len(heads) == 2 and hasattr(heads[1], "fit")
    if isinstance(heads, str) or hasattr(heads, "fit") or pair:
        return [heads]
    if not isinstance(heads, Sequence):
        raise InvalidInputError(f"heads={heads!r} is no list of names, estimators and (name, estimator)")
    return list(heads)


def _by_head(params: Any) -> dict[str, dict[str, Any]]:
    """Return the parameters of each head by its own name, as plain values and lists of them."""
    found: dict[str, dict[str, Any]] = {}
    if not isinstance(params, Mapping) or not all(isinstance(one, Mapping) for one in params.values()):
        raise InvalidInputError(
            f"head_params={params!r} is no mapping of heads to parameters, such as {{'logreg': {{'C': 0.1}}}}"
        )
    for asked, given in params.items():
        try:
            name = catalogue.canonical(str(asked))
        except UnknownNameError:  # the name of an estimator, which has its parameters already
            name = asked
        if name in found:
            raise InvalidInputError(f"head_params for {name!r} and {asked!r}, which are one head; give one")
        found[name] = {key: _plain(value) for key, value in given.items()}
    return found


def _plain(value: Any) -> Any:
    """Return numbers of numpy as those of Python, and tuples, ranges and arrays as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple | range) else value


def head_of(asked: Any) -> tuple[str, Any]:
    """Return the name of a head that is asked for, and the estimator that is not one of the catalogue's."""
    if isinstance(asked, str) and ":" not in asked:
        return catalogue.canonical(asked), None
    if isinstance(asked, str):
        give = f"module:Class of a module {own_folders()} or installed, whose class needs no arguments"
        what, name = f"head {asked!r}{asked_by('--head')}", asked.partition(":")[2]
        made = from_place(asked, what, give)
        try:
            made = made() if isinstance(made, type) else made
        except Exception as error:  # code of the user's, which may raise anything
            said = f"{type(error).__name__}: {one_line(error)}"
            raise InvalidInputError(f"{what} cannot be made ({said}); give {give}") from error
    elif isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], str):
        name, made = asked
    else:
        name, made = type(asked).__name__, asked
    if isinstance(made, type):
        raise InvalidInputError(f"head {made.__name__} is a class; give an estimator: {made.__name__}()")
    missing = [f"no {one}" for one in ("fit", "predict") if not hasattr(made, one)]
    if missing:
        plain = any("__repr__" in vars(kind) for kind in type(made).__mro__[:-1])
        shown = repr(made) if plain else f"of class {type(made).__name__}"  # not by its address
        raise InvalidInputError(
            f"head {shown} has {' and '.join(missing)}; give a name, an estimator or (name, estimator)"
        )
    if hasattr(made, "__sklearn_tags__"):
        from sklearn.utils import get_tags

        kind = get_tags(made).estimator_type
        if kind not in ("classifier", None):
            raise InvalidInputError(f"head {name!r} is a {kind} ({made!r}); give a classifier")
    return name, made


def _named(name: str, given: Mapping[str, Any], usual: Mapping[str, Any]) -> HeadGrid:
    if "random_state" in given:
        raise InvalidInputError(f"head {name!r}: random_state belongs to the sweep, not to head_params")
    has = catalogue.parameters(name)
    for key in given:
        if key not in has:
            raise InvalidInputError(
                f"head {name!r} has no parameter {key!r}; it has {nearest(str(key), has, 20)}"
            )
    # a head of another package may call anything so
    mine = {key: one for key, one in usual.items() if key in has and catalogue.allowed(name, key).holds(one)}
    members = tuple(
        HeadSpec(label, _maker(name, {**mine, **chosen})) for label, chosen in _combinations(name, given)
    )
    for one in members:
        one.make(0)  # a value that is not allowed
    return HeadGrid(name, members)


def _combinations(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the parameters of each head that lists of values stand for."""
    lists = {key: _once(value) for key, value in given.items() if isinstance(value, list)}
    for key, values in lists.items():
        if not values:
            raise InvalidInputError(f"head {name!r}: {key}={given[key]!r} lists no value; give at least one")
    for combination in product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        said = " ".join(f"{key}={_spell(value)}" for key, value in chosen.items())
        yield (f"{name}({said})" if said else name), {**given, **chosen}


def _once(values: Sequence[Any]) -> list[Any]:
    return [one for at, one in enumerate(values) if one not in values[:at]]


def _spell(value: Any) -> str:
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _maker(name: str, params: Mapping[str, Any]) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        return catalogue.make(name, random_state=seed, **params)

    return make


def _cloner(made: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        if not hasattr(made, "get_params"):
            return copy.deepcopy(made)
        from sklearn.base import clone

        fresh = clone(made)
        if "random_state" in fresh.get_params():
            fresh.set_params(random_state=seed)
        return fresh

    return make


def read_sizes(asked: str | int | Sequence[Size]) -> list[Size]:
    """Return sizes from text, a number or a list."""
    if isinstance(asked, str):
        return parse_sizes(asked)
    if not isinstance(asked, Sequence | np.ndarray):
        return parse_sizes(str(asked))
    return parse_sizes(",".join(str(one) for one in asked))


def labelled_rows(manifest: Manifest, split: str) -> Rows:
    """Return the readable rows of a split that have a label."""
    rows = manifest.rows(split)
    return rows[manifest.labels[rows] >= 0]


def usual_sizes(
    manifest: Manifest, draw: str = "images", folds: int | None = None, random_state: int = 0
) -> str:
    """Return 4..32, or as far as the class with the fewest training images (groups) of any fold reaches.

    From 1 on where that is less than 8: one size is no curve.
    """
    pools = [labelled_rows(manifest, "train")]
    if folds is not None:
        splits, _ = splits_for(manifest, folds=folds, random_state=random_state)
        pools = [one["train"] for one in splits]
    smallest = 32  # without images the sweep says so
    for rows in pools:
        units, groups = manifest.labels[rows][:, None], _groups_to_draw(manifest, rows, draw)
        if groups is not None:
            units = np.unique(np.column_stack([units, groups]), axis=0)
        smallest = min([smallest, *np.unique(units[:, 0], return_counts=True)[1].tolist()])
    return f"{4 if smallest >= 8 else 1}..{smallest}" if smallest >= 4 else "all"


def set_untrained_aside(
    manifest: Manifest, split: Mapping[str, Rows], policy: Literal["drop", "keep"]
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Find the classes that no head can answer, for they have no training images.

    Returns
    -------
    dict of str to ndarray
        `split`, with ``"drop"`` without their validation and test rows.
    dict
        ``policy``, and ``classes``: how many ``val`` and ``test`` rows each has; empty if there are none.
    """
    labels = {name: manifest.labels[at] for name, at in split.items()}
    untrained = np.setdiff1d(np.concatenate([labels["val"], labels["test"]]), labels["train"])
    if not len(untrained) or not len(labels["train"]):
        return dict(split), {}
    classes = {
        manifest.classes[code]: {name: int((labels[name] == code).sum()) for name in ("val", "test")}
        for code in untrained
    }
    found = {"policy": policy, "classes": classes}
    if policy == "keep":
        return dict(split), found
    left = {name: at[~np.isin(labels[name], untrained)] for name, at in split.items()}
    if not len(left["val"]) and not len(left["test"]):
        raise InvalidInputError(
            f"{untrained_words(found)}: there is nothing left to score on; check how the splits name their "
            "classes"
        )
    return left, found


def untrained_words(untrained: Mapping[str, Any]) -> str:
    """Say which classes have no training images, and what became of their other images.

    Parameters
    ----------
    untrained : mapping
        As `SweepResult.untrained` has it, not empty.
    """
    classes = untrained["classes"]
    named = ", ".join(printable(name) for name in list(classes)[:_MOST_NAMED])
    named += f" and {len(classes) - _MOST_NAMED} more" if len(classes) > _MOST_NAMED else ""
    counts = {name: sum(one[name] for one in classes.values()) for name in ("val", "test")}
    images = " and ".join(
        f"{n} {'test' if name == 'test' else 'validation'}" for name, n in counts.items() if n
    )
    what = "class without training images" if len(classes) == 1 else "classes without training images"
    became = (
        "are left out (--untrained-classes keep counts them as wrong)"
        if untrained["policy"] == "drop"
        else "count as wrong (--untrained-classes drop leaves them out)"
    )
    return f"{len(classes)} {what}, which no head can answer: {named}; their {images} images {became}"


def read_val(val: Any) -> float | Literal["none"] | None:
    """Return what decides without the bank's validation rows; anything else is an error."""
    if val is None:
        return None
    if isinstance(val, str) and val == "none":
        return "none"
    if isinstance(val, float | int | np.floating) and not isinstance(val, bool) and 0 < val < 1:
        return float(val)
    raise InvalidInputError(
        f"val={val!r} (--val) is not a part of each draw, over 0 and under 1, such as 0.2, and not 'none'"
    )


def splits_for(
    manifest: Manifest,
    untrained_classes: Literal["drop", "keep"] = "drop",
    *,
    folds: int | None = None,
    val: float | str | None = None,
    val_per_class: int | None = None,
    draw: str = "images",
    random_state: int = 0,
) -> tuple[list[dict[str, Rows]], dict[str, Any]]:
    """Return the rows of each split as they are used, one mapping for each fold; and `set_untrained_aside`'s.

    What decides nothing may judge: without validation rows these are test rows where there are no others.

    Raises
    ------
    InvalidInputError
        If there are no rows to fit to, none to score on, or too few for the folds.
    """
    stored = {name: labelled_rows(manifest, name) for name in ("train", "val", "test")}
    if folds is not None:
        pool = np.sort(np.concatenate(list(stored.values())))
        if not len(pool):
            check_splits(stored)
        kin = of_one_origin(manifest, pool)
        fold_of = deal_folds(manifest.labels[pool], folds, groups=kin, random_state=random_state)
        dealt, found = [], dict[str, Any]()
        for fold in range(folds):
            rows = {"train": pool[fold_of != fold], "val": pool[:0], "test": pool[fold_of == fold]}
            left, untrained = set_untrained_aside(manifest, rows, untrained_classes)
            dealt.append(left)
            for name, counts in untrained.get("classes", {}).items():
                before = found.setdefault("classes", {}).setdefault(name, {"val": 0, "test": 0})
                before["test"] += counts["test"]
        return dealt, {"policy": untrained_classes, **found} if found else {}
    check_splits(stored)
    split, untrained = set_untrained_aside(manifest, stored, untrained_classes)
    if val is not None:
        judged = split["test"] if len(split["test"]) else split["val"]
        return [{"train": split["train"], "val": split["val"][:0], "test": judged}], untrained
    if val_per_class is not None:
        own = split["val"]
        if not len(own):
            raise InvalidInputError(
                f"val_per_class={val_per_class} (--val-per-class) counts validation images, and the bank has "
                "none; hold a part of each draw out with --val 0.2, or extract with --split 0.7,0.1,0.2"
            )
        groups = _groups_to_draw(manifest, own, draw)
        drawn = draw_nested(
            manifest.labels[own], [val_per_class], random_state=random_state, groups=groups, up_to=True
        )
        split = {**split, "val": own[drawn[0][val_per_class]]}
    return [split], untrained


def groups_of_judged(
    manifest: Manifest, splits: Sequence[Mapping[str, Rows]]
) -> tuple[NDArray[np.int32], ...]:
    """Return the group of each row that is judged, an array for each fold; nothing without groups."""
    if manifest.groups is None:
        return ()
    judged = [split[judged_split({name: at for name, at in split.items() if len(at)})] for split in splits]
    return tuple(manifest.groups[rows] for rows in judged)


def _groups_to_draw(manifest: Manifest, rows: Rows, draw: str) -> NDArray[np.int32] | None:
    """Return the group of each row where groups are drawn."""
    if draw == "images":
        return None
    if manifest.groups is None:
        raise InvalidInputError(
            "draw='groups' (--draw) needs the group of each image, which the bank has not; extract it again "
            "with --group COLUMN or --group-by REGEX, nothing is pushed for that"
        )
    return manifest.groups[rows]


def check_splits(split: Mapping[str, Rows]) -> None:
    """Raise `InvalidInputError` where there are no rows to fit to, or none to score on."""
    if not len(split["train"]):
        raise InvalidInputError(
            "the bank has no labelled training rows; extract again with --split, e.g. 0.7,0.1,0.2"
        )
    if not len(split["test"]) and not len(split["val"]):
        raise InvalidInputError(
            "the bank has neither test nor validation rows to score on; extract again with --split, "
            "e.g. 0.7,0.1,0.2"
        )


def notes_on_splits(
    manifest: Manifest,
    split: Mapping[str, Rows],
    val: float | str | None,
    draws: Sequence[Draw],
    folds: int | None = None,
) -> list[str]:
    """Say what decides and judges where it is not the validation and the test rows.

    Parameters
    ----------
    manifest : Manifest
    split : mapping of str to rows
        As the bank has them.
    val, draws, folds
        What decides, see `read_val`, what is drawn, and to how many folds rows are dealt.
    """
    notes = []
    grouped = manifest.groups is not None
    if folds is not None:
        n = sum(map(len, split.values()))
        units = f", each of the {len(manifest.group_names)} groups in one" if grouped else ""
        notes.append(
            f"{folds} folds of all {n:,} images{units}, whatever their split: each is judged once, by heads "
            f"drawn from the other {folds - 1}"
        )
    if isinstance(val, float):
        sizes = {one.n_per_class: one for one in draws if one.repeat == 0}
        ascending = [sizes[size] for size in sorted(sizes, key=size_order)]
        counts = ", ".join(f"{len(one.held)} of {len(one.rows) + len(one.held)}" for one in ascending)
        whole = ", whole groups" if grouped else ""
        notes.append(
            f"--val {val:g}: part of each draw is held out ({counts} images{whole}) to stop training, to "
            "choose C and the head kept; heads are trained on the rest"
        )
        if any(not len(one.held) for one in sizes.values()):
            notes.append(
                "of one image per class none can be held out: there training goes by the training loss"
            )
    elif val == "none" or folds is not None or not len(split["val"]):
        why = "no validation rows" if val is None else "--val none"
        more = "; --val 0.2 would hold a fifth of each draw out for that" if val is None else ""
        notes.append(
            f"{why}: training stops by the training loss, C='auto' goes by cross-validation within each "
            f"draw, and the head kept of each curve is that of the first repeat{more}"
        )
    if folds is not None:
        return notes
    if not len(split["test"]):
        notes.append(
            "no test rows: accuracies are those on the validation rows, which also chose when to stop, and "
            "flatter"
            if val is None
            else "no test rows: accuracies are those on the validation rows, which decided nothing"
        )
        return notes
    trained, tested = (np.unique(manifest.labels[split[name]]) for name in ("train", "test"))
    unseen = np.setdiff1d(trained, tested)
    if len(unseen):
        named = ", ".join(printable(manifest.classes[code]) for code in unseen[:_MOST_NAMED])
        more = f" and {len(unseen) - _MOST_NAMED} more" if len(unseen) > _MOST_NAMED else ""
        notes.append(
            f"{len(unseen)} of {len(trained)} classes without test images: {named}{more}; accuracies say "
            "nothing of how well they are recognised"
        )
    return notes


def held_out(
    draws: Sequence[Draw],
    y: NDArray[Any],
    val: float | str | None,
    random_state: int,
    groups: NDArray[Any] | None = None,
) -> list[Draw]:
    """Take the part of each draw that decides, if any, out of the rows that train."""
    if not isinstance(val, float):
        return list(draws)
    found = []
    for one in draws:
        held = hold_out(y, one.rows, val, groups=groups, random_state=random_state, repeat=one.repeat)
        found.append(replace(one, rows=np.setdiff1d(one.rows, held), held=held))
    return found


def draw_subsets(
    manifest: Manifest,
    split: Mapping[str, Rows],
    sizes: Sequence[Size],
    settings: SweepSettings,
    fold: int | None = None,
) -> list[Draw]:
    """Draw every subset of a split, of a fold one per size; rows are positions among the training rows."""
    y, random_state = manifest.labels[split["train"]], settings.random_state
    groups = _groups_to_draw(manifest, split["train"], settings.draw)
    nested = draw_nested(
        y,
        sizes,
        repeats=settings.repeats if fold is None else fold + 1,
        random_state=random_state,
        class_names=manifest.classes,
        groups=groups,
        up_to=settings.up_to,
    )
    draws: dict[tuple[Size, int], Draw] = {}
    for repeat in range(settings.repeats) if fold is None else [fold]:
        # Seeds know nothing of sizes and heads, so that neither changes what another one gives.
        state = np.random.SeedSequence(random_state, spawn_key=(repeat,)).generate_state(1)[0]
        for asked, rows in nested[repeat].items():
            _, per_class = np.unique(y[rows], return_counts=True)
            whole = len(rows) == len(y) and fold is None
            n_per_class: Size = asked
            if fold is None and groups is None:
                even = per_class.min() == per_class.max()
                n_per_class = int(per_class[0]) if even else "all" if whole else asked
            elif whole:
                n_per_class = "all"
            draws[n_per_class, repeat] = Draw(
                n_per_class, repeat, rows, int(state >> 1), per_class, whole=whole
            )
    return sorted(draws.values(), key=lambda one: (size_order(one.n_per_class), one.repeat))


def judged_split(splits: Mapping[str, Any]) -> str:
    """Return the split answers are kept of: validation only where there are no test rows."""
    return "test" if "test" in splits else "val"


def digests_of_draws(
    manifest: Manifest, splits: Sequence[Mapping[str, Rows]], draws: Sequence[Sequence[Draw]], draw: str
) -> dict[str, Any]:
    """Return digests of what is drawn and judged, by the images and their class names, and shares drawn.

    `splits` and `draws` have an entry for each fold. Where there are several, ``folds`` says how many; where
    groups are drawn, ``unit`` is "groups"; ``val`` is the digest of the rows that choose, if there are any;
    ``grouped`` says that the bank has groups.
    """
    subsets: dict[str, list[str]] = {}
    shares: dict[str, list[float]] = {}
    judged, chosen = [], []
    for split, drawn in zip(splits, draws, strict=True):
        judged.append(
            _digest(manifest, split[judged_split({name: at for name, at in split.items() if len(at)})])
        )
        chosen += [_digest(manifest, split["val"])] if len(split["val"]) else []
        _, pool = np.unique(manifest.labels[split["train"]], return_counts=True)
        for one in drawn:
            subsets.setdefault(f"{one.n_per_class}", []).append(_digest(manifest, split["train"][one.rows]))
            shares.setdefault(f"{one.n_per_class}", []).append(float((one.per_class / pool).mean()))
    return {
        "judged": judged[0]
        if len(judged) == 1
        else hashlib.sha256("".join(judged).encode()).hexdigest()[:16],
        "subsets": subsets,
        "shares": {size: values[-1] for size, values in shares.items()},
        **({"val": chosen[0]} if chosen else {}),
        **({"folds": len(splits)} if len(splits) > 1 else {}),
        **({"unit": draw} if draw != "images" else {}),
        **({"grouped": True} if manifest.groups is not None else {}),
    }


def _digest(manifest: Manifest, rows: Rows) -> str:
    """Return 16 hexadecimal digits that are the same for the same images under the same class names."""
    lines = sorted(
        manifest.digests[row].tobytes()
        + manifest.classes[manifest.labels[row]].encode("utf-8", "surrogateescape")
        for row in rows
    )
    return hashlib.sha256(b"\0".join(lines)).hexdigest()[:16]
