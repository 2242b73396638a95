"""Heads to be fitted: from names, objects and parameters to families whose members are fitted together."""

from __future__ import annotations

import copy
import hashlib
import inspect
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from featbank import heads as head_catalogue
from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError

__all__ = ["Candidate", "Family", "heads_as_parameters", "make_families", "plain_value"]

#: The text of an estimator is cut to so many characters.
_SHOWN = 500


@dataclass(frozen=True)
class Candidate:
    """A head to be fitted: its name, how to make one from a seed, and what of it is worth recording.

    `seeded`: whether another seed may give another head from the same rows.
    """

    name: str
    make: Callable[[int], Any]
    recorded: tuple[str, ...] = ()
    seeded: bool = True


@dataclass(frozen=True)
class Family:
    """Heads that differ in values of parameters only.

    `how` they are fitted: ``"stack"``, all those of one size in one call of `fit_stack`; ``"columns"``, one
    by one in the columns of a common feature space; ``"objects"``, one by one on features as they are.
    """

    name: str
    members: tuple[Candidate, ...]
    how: Literal["stack", "columns", "objects"]


def make_families(heads: Sequence[Any], params: Mapping[str, Mapping[str, Any]]) -> list[Family]:
    """Turn names and objects into families; names and parameters are checked before any fit."""
    families: dict[str, Family] = {}
    given = _by_head(params)
    for asked in _listed(heads):
        name, made = _name_of(asked)
        if made is None:
            family = _named(name, given.pop(name, {}))
        else:
            how = _how(made) if hasattr(made, "predict_columns") else "objects"
            if how != "objects":
                made._check()
            seeded = _is_seeded(made) if how != "objects" else True
            family = Family(name, (Candidate(name, _cloner(made), seeded=seeded),), how)
        if name in families:
            raise InvalidInputError(
                f"head {name!r} is asked for twice; give one of them as (name, estimator)"
            )
        families[name] = family
    if not families:
        raise InvalidInputError("no head was asked for; name at least one, e.g. 'softmax'")
    if given:
        strange = next(iter(given))
        raise InvalidInputError(
            f"head_params for {strange!r}, which is not fitted; fitted: {nearest(str(strange), families)}"
        )
    return list(families.values())


def heads_as_parameters(heads: Sequence[Any], params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Check heads and their parameters, and return them as a run records them.

    Parameters
    ----------
    heads, params
        As `featbank.run_sweep` takes them.

    Returns
    -------
    dict of JSON values
        ``heads``, their names; ``head_params``; where there are estimators of others, ``estimators``: class,
        text and digest of each by name. An estimator that cannot be pickled has another digest each time.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If a head is not known, or a value not allowed.
    """
    families = make_families(heads, params)
    names = [_name_of(asked) for asked in _listed(heads)]
    objects = {
        name: _identity(family.members[0].make(0))
        for family, (name, made) in zip(families, names, strict=True)
        if made is not None
    }
    found: dict[str, Any] = {"heads": [name for name, _ in names], "head_params": _by_head(params)}
    return found | ({"estimators": objects} if objects else {})


def _identity(made: Any) -> dict[str, str]:
    kind = type(made)
    try:
        code = inspect.getsource(kind).encode()
        digest = hashlib.sha256(pickle.dumps(made) + code).hexdigest()
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
    from featbank.heads.catalogue import canonical

    found: dict[str, dict[str, Any]] = {}
    if not isinstance(params, Mapping) or not all(isinstance(one, Mapping) for one in params.values()):
        raise InvalidInputError(
            f"head_params={params!r} is no mapping of heads to parameters, such as {{'logreg': {{'C': 0.1}}}}"
        )
    for asked, given in params.items():
        try:
            name = canonical(str(asked))
        except UnknownNameError:  # the name of an estimator, which has its parameters already
            name = asked
        if name in found:
            raise InvalidInputError(f"head_params for {name!r} and {asked!r}, which are one head; give one")
        found[name] = {key: plain_value(value) for key, value in given.items()}
    return found


def plain_value(value: Any) -> Any:
    """Return numbers of numpy as those of Python, and tuples, ranges and arrays as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain_value(one) for one in value] if isinstance(value, list | tuple | range) else value


def _name_of(asked: Any) -> tuple[str, Any]:
    if isinstance(asked, str):
        from featbank.heads.catalogue import canonical

        return canonical(asked), None
    if isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], str):
        name, made = asked
    else:
        name, made = type(asked).__name__, asked
    if isinstance(made, type):
        raise InvalidInputError(f"head {made.__name__} is a class; give an estimator: {made.__name__}()")
    if not (hasattr(made, "fit") and hasattr(made, "predict")):
        raise InvalidInputError(
            f"head {made!r} has no fit and predict; give a name, an estimator or (name, estimator)"
        )
    if hasattr(made, "__sklearn_tags__"):
        from sklearn.utils import get_tags

        kind = get_tags(made).estimator_type
        if kind not in ("classifier", None):
            raise InvalidInputError(f"head {name!r} is a {kind} ({made!r}); give a classifier")
    return name, made


def _named(name: str, given: Mapping[str, Any]) -> Family:
    from featbank.heads.catalogue import parameters

    if "random_state" in given:
        raise InvalidInputError(f"head {name!r}: random_state belongs to the sweep, not to head_params")
    has = parameters(name)
    for key in given:
        if key not in has:
            raise InvalidInputError(
                f"head {name!r} has no parameter {key!r}; it has {nearest(str(key), has, 20)}"
            )
    recorded = tuple(one for one in ("C", "lr") if one in has)
    members = tuple(
        Candidate(label, make, recorded, _is_seeded(make(0)))
        for label, chosen in _combinations(name, given)
        for make in (_maker(name, chosen),)
    )
    return Family(name, members, _how(members[0].make(0)))


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


def _how(head: Any) -> Literal["stack", "columns"]:
    from featbank.heads import MLPClassifier, SoftmaxClassifier

    return "stack" if isinstance(head, MLPClassifier | SoftmaxClassifier) else "columns"


def _is_seeded(head: Any) -> bool:
    """Say whether a head of featbank begins at random weights or takes its rows in a random order.

    The support vector machine does so too, but ends at the one optimum of its problem.
    """
    return getattr(head, "solver", "lbfgs") != "lbfgs"


def _maker(name: str, params: Mapping[str, Any]) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        return head_catalogue.make(name, random_state=seed, **params)

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
