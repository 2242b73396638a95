"""The heads by name, and how to make one from the parameters a command line or a study file gives."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from featbank._registry import Registry
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from featbank.heads._head import Head
    from featbank.heads._parameters import Allowed

__all__ = ["aliases", "allowed", "canonical", "make", "names", "parameters", "summary"]


@dataclass(frozen=True)
class _Entry:
    """Where a head's class is, what is fixed in it, and what may be given."""

    module: str
    kind: str
    summary: str
    parameters: tuple[str, ...]
    fixed: tuple[tuple[str, Any], ...] = ()


_GRADIENT = (
    "solver",
    "lr",
    "annealing",
    "annealing_epochs",
    "anneal_per",
    "max_epochs",
    "tolerance_epochs",
    "monitor",
    "batch_size",
    "alpha",
    "dropout",
    "restore",
    "device",
)
_SPACE = ("standardize", "rotate")

_heads: Registry[_Entry] = Registry("head")
_heads.register(
    "softmax",
    _Entry("softmax", "SoftmaxClassifier", "softmax regression by Adam or SGD", (*_GRADIENT, *_SPACE)),
    aliases=("linear", "softmax-regression"),
)
_heads.register(
    "mlp",
    _Entry("mlp", "MLPClassifier", "one hidden layer, then softmax", ("hidden_units", *_GRADIENT, *_SPACE)),
)
_heads.register(
    "logreg",
    _Entry(
        "softmax",
        "SoftmaxClassifier",
        "softmax regression to the optimum of its L2-regularised problem",
        ("C", *_SPACE),
        (("solver", "lbfgs"),),
    ),
    aliases=("logistic", "logistic-regression"),
)
_heads.register(
    "ncm",
    _Entry("classic", "NearestMeanClassifier", "nearest class mean", _SPACE),
    aliases=("nearest-mean",),
)
_heads.register(
    "knn",
    _Entry("classic", "NeighborsClassifier", "k nearest neighbours by cosine", ("n_neighbors", *_SPACE)),
)
_heads.register(
    "svm",
    _Entry("classic", "LinearSVMClassifier", "linear support vector machine", ("C", *_SPACE)),
)
_heads.register(
    "ridge", _Entry("classic", "RidgeClassifier", "ridge regression on class indicators", ("alpha", *_SPACE))
)


def names() -> list[str]:
    """List the names of the heads.

    Examples
    --------
    >>> names()
    ['softmax', 'mlp', 'logreg', 'ncm', 'knn', 'svm', 'ridge']
    """
    return _heads.names()


def aliases(name: str) -> list[str]:
    """List other names `name` answers to."""
    return _heads.aliases(canonical(name))


def canonical(name: str) -> str:
    """Return the name an alias stands for; raises `UnknownNameError` for a head nobody knows."""
    return _heads.canonical(name)


def summary(name: str) -> str:
    """Return one line on what a head is; raises `UnknownNameError`."""
    return _heads.get(name).summary


def parameters(name: str) -> tuple[str, ...]:
    """Return the parameters `make` takes for this head, `random_state` aside; raises `UnknownNameError`.

    Examples
    --------
    >>> parameters("ridge")
    ('alpha', 'standardize', 'rotate')
    """
    return _heads.get(name).parameters


def allowed(name: str, parameter: str) -> Allowed:
    """Return what values a parameter of a head may take; raises `UnknownNameError` for an unknown head.

    Examples
    --------
    >>> print(allowed("logreg", "C")), allowed("svm", "C").holds("auto")
    a number over 0 or 'auto'
    (None, False)
    """
    return _kind(_heads.get(name))._parameters[parameter]


def make(
    name: str,
    *,
    solver: Literal["adam", "sgd"] | None = None,
    lr: float | Literal["auto"] | None = None,
    annealing: str | None = None,
    annealing_epochs: float | None = None,
    anneal_per: Literal["epoch", "step"] | None = None,
    max_epochs: int | None = None,
    tolerance_epochs: int | None = None,
    monitor: Literal["accuracy", "loss"] | None = None,
    batch_size: int | None = None,
    alpha: float | None = None,
    dropout: float | None = None,
    restore: Literal["best", "last"] | None = None,
    hidden_units: int | None = None,
    C: float | Literal["auto"] | None = None,
    n_neighbors: int | None = None,
    standardize: bool | None = None,
    rotate: bool | Literal["auto"] | None = None,
    device: str | None = None,
    random_state: int | None = None,
) -> Head:
    """Make an unfitted head.

    Parameters
    ----------
    name : str
        One of `names`, or an alias.
    solver, lr, annealing, annealing_epochs, anneal_per, max_epochs, tolerance_epochs, monitor, \
batch_size, alpha, dropout, restore, hidden_units, C, n_neighbors, standardize, rotate, device
        As in the head's class; None leaves its default.
    random_state : int or None, default=None
        Heads without randomness ignore it.

    Returns
    -------
    SoftmaxClassifier, MLPClassifier or one of the classic heads

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
    featbank.errors.InvalidInputError: head 'ncm' has no parameter 'lr'; it has 'standardize', 'rotate'
    >>> make("svm", C="auto")
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: head 'svm' cannot be fitted with C='auto' (allowed: a number over 0)
    """
    given = {
        "solver": solver,
        "lr": lr,
        "annealing": annealing,
        "annealing_epochs": annealing_epochs,
        "anneal_per": anneal_per,
        "max_epochs": max_epochs,
        "tolerance_epochs": tolerance_epochs,
        "monitor": monitor,
        "batch_size": batch_size,
        "alpha": alpha,
        "dropout": dropout,
        "restore": restore,
        "hidden_units": hidden_units,
        "C": C,
        "n_neighbors": n_neighbors,
        "standardize": standardize,
        "rotate": rotate,
        "device": device,
    }
    from featbank.heads._parameters import faults_of

    chosen = {key: value for key, value in given.items() if value is not None}
    entry = _heads.get(name)
    strange = [key for key in chosen if key not in entry.parameters]
    if strange:
        has = ", ".join(repr(key) for key in entry.parameters)
        plural = "parameters" if len(strange) > 1 else "parameter"
        raise InvalidInputError(
            f"head {canonical(name)!r} has no {plural} {', '.join(map(repr, strange))}; it has {has}"
        )
    kind = _kind(entry)
    faults = faults_of(kind._parameters, chosen)
    if faults:
        raise InvalidInputError(f"head {canonical(name)!r} cannot be fitted with {faults}")
    settings: dict[str, Any] = {**dict(entry.fixed), **chosen}
    if random_state is not None and "random_state" in kind().get_params():
        settings["random_state"] = random_state
    head = kind(**settings)
    head._check()  # a device that is not here
    return head


def _kind(entry: _Entry) -> type[Head]:
    kind: type[Head] = getattr(import_module(f"featbank.heads.{entry.module}"), entry.kind)
    return kind
