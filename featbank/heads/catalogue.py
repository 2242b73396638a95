"""The heads by name, those of other packages too, what their parameters are, and how to make one of these."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featbank._registry import Registry
from featbank.errors import InvalidInputError, MissingPackageError

__all__ = [
    "HeadKind",
    "Parameter",
    "aliases",
    "allowed",
    "canonical",
    "classes",
    "faults_of",
    "kind",
    "knows",
    "make",
    "names",
    "parameters",
    "summary",
]

#: A value in a message is cut to so many characters.
_SHOWN = 60
_WORDS = {"none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Parameter:
    """One parameter: what it is, and the values it may take, numbers within bounds, `values`, `kinds`.

    Parameters
    ----------
    over, least, below : float or None
        Bounds of a number; without any, no number is allowed.
    whole : bool
        Whether numbers must be whole (``int``, not 3.0).
    values : tuple
        Words, True, False, None.
    kinds : tuple of type
        Objects of these types are allowed as well.
    help : str
        A few words for the command line, which has an option for each parameter that is told so.

    Examples
    --------
    >>> C = Parameter(over=0, values=("auto",))
    >>> print(C), C.holds(0.1), C.holds("auto"), C.holds("best"), C.holds(True), C.holds(float("nan"))
    a number over 0 or 'auto'
    (None, True, True, False, False, False)
    """

    over: float | None = None
    least: float | None = None
    below: float | None = None
    whole: bool = False
    values: tuple[str | bool | None, ...] = ()
    kinds: tuple[type, ...] = ()
    help: str = ""

    def holds(self, value: Any) -> bool:
        """Say whether a value is allowed."""
        plain = value.item() if isinstance(value, np.generic) else value
        # by type, too: 1 == True
        if any(type(plain) is type(one) and plain == one for one in self.values):
            return True
        if self.kinds and isinstance(plain, self.kinds):
            return True
        numbers = int if self.whole else (int, float)
        unbounded = self.over is None and self.least is None and self.below is None
        if unbounded or isinstance(plain, bool) or not isinstance(plain, numbers):
            return False
        try:
            number = float(plain)
        except OverflowError:  # a whole number of hundreds of digits
            return False
        return math.isfinite(number) and all(
            (
                self.over is None or number > self.over,
                self.least is None or number >= self.least,
                self.below is None or number < self.below,
            )
        )

    def read(self, text: str) -> Any:
        """Return the value that a word on the command line stands for; `holds` says whether it is allowed.

        Raises
        ------
        ValueError
            If numbers are allowed, and it is neither a number nor one of the words.

        Examples
        --------
        >>> C = Parameter(over=0, values=("auto",))
        >>> C.read("0.1"), C.read("auto"), Parameter(values=(True, False)).read("false")
        (0.1, 'auto', False)
        """
        for word in (text, _WORDS.get(text.lower(), text)):
            if any(type(word) is type(one) and word == one for one in self.values):
                return word
        if not self._bounds:
            return text
        return int(text) if self.whole else float(text)

    @property
    def _bounds(self) -> str:
        """Return the bounds in words; empty where no number is allowed."""
        said = (("over", self.over), ("from", self.least), ("below", self.below))
        return " ".join(f"{word} {bound:g}" for word, bound in said if bound is not None)

    def __str__(self) -> str:
        number = [f"a {'whole ' if self.whole else ''}number {self._bounds}"] if self._bounds else []
        kinds = [f"a {kind.__name__}" for kind in self.kinds]
        said = [*number, *kinds, *map(repr, self.values)]
        return f"{', '.join(said[:-1])} or {said[-1]}" if len(said) > 1 else said[0]


def faults_of(table: Mapping[str, Parameter], given: Mapping[str, Any]) -> str:
    """Say which values are not allowed, e.g. ``"C=-1 (allowed: a number over 0)"``; empty where all are."""
    return "; ".join(
        f"{name}={_shown(given[name])} (allowed: {allowed})"
        for name, allowed in table.items()
        if name in given and not allowed.holds(given[name])
    )


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_ANYTHING = Parameter(kinds=(object,))


@dataclass(frozen=True, eq=False)
class HeadKind:
    """What the name of a head stands for.

    Parameters
    ----------
    cls : type
        A `featbank.heads.Head`, or any class with ``fit(X, y)`` and ``predict(X)``.
    summary : str
        One line on what it is; the first of the class's own by default.
    fixed : mapping of str to object
        Parameters that are not for the user.
    offers : tuple of str, optional
        Parameters that are; all but these and `random_state` by default.

    Examples
    --------
    >>> from featbank.heads import NeighborsClassifier
    >>> nearest = HeadKind(NeighborsClassifier, "the class of the nearest image", fixed={"n_neighbors": 1})
    >>> "n_neighbors" in nearest.parameters, nearest.summary
    (False, 'the class of the nearest image')
    """

    cls: type
    summary: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    offers: tuple[str, ...] | None = None

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What may be given, and which values."""
        table = getattr(self.cls, "_parameters", None)
        if table is None:  # a class of others says only what its parameters are called
            table = {
                name: _ANYTHING
                for name, one in inspect.signature(self.cls).parameters.items()
                if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            }
        offered = table if self.offers is None else self.offers
        # a mapping of labels is for those who have these: of a sweep they are numbers
        return {
            name: replace(table[name], kinds=tuple(one for one in table[name].kinds if one is not dict))
            for name in offered
            if name not in ("random_state", *self.fixed)
        }


#: A name of featbank's own, and where its `HeadKind` is. Other packages register a `HeadKind`, or a class.
_heads: Registry[Any] = Registry("head", group="featbank.heads")
_heads.register_place("softmax", "featbank.heads.softmax:SOFTMAX", aliases=("linear", "softmax-regression"))
_heads.register_place("mlp", "featbank.heads.mlp:MLP")
_heads.register_place("logreg", "featbank.heads.softmax:LOGREG", aliases=("logistic", "logistic-regression"))
_heads.register_place("ncm", "featbank.heads.classic:NCM", aliases=("nearest-mean",))
_heads.register_place("knn", "featbank.heads.classic:KNN")
_heads.register_place("svm", "featbank.heads.classic:SVM")
_heads.register_place("ridge", "featbank.heads.classic:RIDGE")
_heads.register_place("tail", "featbank.heads.tail:TAIL")


def names() -> list[str]:
    """List the names of the heads, then those of other packages.

    Examples
    --------
    >>> names()[:8]
    ['softmax', 'mlp', 'logreg', 'ncm', 'knn', 'svm', 'ridge', 'tail']
    """
    return _heads.names()


def aliases(name: str) -> list[str]:
    """List other names `name` answers to."""
    return _heads.aliases(canonical(name))


def canonical(name: str) -> str:
    """Return the name an alias stands for; raises `UnknownNameError` for a head nobody knows."""
    return _heads.canonical(name)


def knows(name: str) -> bool:
    """Say whether there is a head of this name, or alias."""
    return name in _heads


def kind(name: str) -> HeadKind:
    """Return what a name stands for; raises `UnknownNameError`, `MissingPackageError` for a bad plug-in."""
    found = _heads.get(name)
    if isinstance(found, HeadKind):
        return found
    if not (isinstance(found, type) and hasattr(found, "fit") and hasattr(found, "predict")):
        raise MissingPackageError(
            f"head {name!r} is {found!r}, which is no class with fit and predict; mend or uninstall the "
            "package that registers it"
        )
    return HeadKind(found)


def classes() -> Iterator[type]:
    """Yield the classes of the heads, those of other packages last; what cannot be loaded is left out."""
    for name in _heads:
        with suppress(MissingPackageError):
            yield kind(name).cls


def made_by(name: str) -> str | None:
    """Return the package and version that a head comes from; None for featbank's own."""
    return _heads.made_by(name)


def summary(name: str) -> str:
    """Return one line on what a head is; raises `UnknownNameError`."""
    found = kind(name)
    return found.summary or (inspect.getdoc(found.cls) or "").partition("\n")[0]


def parameters(name: str) -> tuple[str, ...]:
    """Return the parameters `make` takes for this head, `random_state` aside; raises `UnknownNameError`.

    Examples
    --------
    >>> parameters("ridge")
    ('alpha', 'class_weight', 'standardize', 'rotate')
    """
    return tuple(kind(name).parameters)


def allowed(name: str, parameter: str) -> Parameter:
    """Return what values a parameter of a head may take; raises `UnknownNameError` for an unknown head.

    Examples
    --------
    >>> print(allowed("logreg", "C")), allowed("svm", "C").holds("auto")
    a number over 0 or 'auto'
    (None, False)
    """
    return kind(name).parameters[parameter]


def make(name: str, *, random_state: int | None = None, **given: Any) -> Any:
    """Make an unfitted head.

    Parameters
    ----------
    name : str
        One of `names`, or an alias.
    random_state : int or None, default=None
        Heads without randomness ignore it.
    **given
        As in the head's class; None leaves its default.

    Returns
    -------
    SoftmaxClassifier, MLPClassifier, one of the classic heads, or a head of another package

    Raises
    ------
    UnknownNameError
        If there is no such head.
    InvalidInputError
        If the head has no such parameter, or a value is not allowed.

    Examples
    --------
    >>> make("linear", lr=0.01, random_state=0)
    SoftmaxClassifier(lr=0.01, random_state=0)
    >>> make("ncm", lr=1.0)
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: head 'ncm' has no parameter 'lr'; it has 'normalize',
    'standardize', 'rotate'
    >>> make("svm", C="auto")
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: head 'svm' cannot be fitted with C='auto' (allowed: a number over 0)
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    found = kind(name)
    table = found.parameters
    strange = [key for key in chosen if key not in table]
    if strange:
        has = ", ".join(repr(key) for key in table)
        plural = "parameters" if len(strange) > 1 else "parameter"
        raise InvalidInputError(
            f"head {canonical(name)!r} has no {plural} {', '.join(map(repr, strange))}; it has {has}"
        )
    faults = faults_of(table, chosen)
    if faults:
        raise InvalidInputError(f"head {canonical(name)!r} cannot be fitted with {faults}")
    settings: dict[str, Any] = {**found.fixed, **chosen}
    if random_state is not None and "random_state" in inspect.signature(found.cls).parameters:
        settings["random_state"] = random_state
    head = found.cls(**settings)
    if hasattr(head, "predict_columns"):
        head._check()  # a device that is not here
    return head
