"""The heads by name, those of other packages too, and how to make one from parameters by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from featbank._registry import Registry
from featbank.errors import InvalidInputError, MissingPackageError
from featbank.heads._parameters import Parameter, faults_of

__all__ = [
    "HeadKind",
    "aliases",
    "allowed",
    "canonical",
    "classes",
    "kind",
    "knows",
    "make",
    "names",
    "parameters",
    "summary",
]

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
