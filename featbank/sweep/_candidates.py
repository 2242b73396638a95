"""Heads to be fitted: from names, objects and parameters to families whose members are fitted together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from featbank import heads as head_catalogue
from featbank._registry import nearest
from featbank.errors import InvalidInputError

__all__ = ["Candidate", "Family", "make_families"]


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
    for asked in heads:
        name, made = _name_of(asked)
        if made is None:
            from featbank.heads.catalogue import canonical

            name = canonical(name)
            family = _named(name, dict(params.get(name, params.get(str(asked), {}))))
        else:
            ours = hasattr(made, "predict_columns")
            candidate = Candidate(name, _cloner(made), seeded=_is_seeded(made) if ours else True)
            family = Family(name, (candidate,), _how(made) if ours else "objects")
        if name in families:
            raise InvalidInputError(
                f"head {name!r} is asked for twice; give one of them as (name, estimator)"
            )
        families[name] = family
    if not families:
        raise InvalidInputError("no head was asked for; name at least one, e.g. 'softmax'")
    known = [*families, *(one for one in heads if isinstance(one, str))]
    strange = [one for one in params if one not in known]
    if strange:
        raise InvalidInputError(
            f"head_params for {strange[0]!r}, which is not fitted; fitted: {nearest(strange[0], known)}"
        )
    return list(families.values())


def _name_of(asked: Any) -> tuple[str, Any]:
    if isinstance(asked, str):
        return asked, None
    if isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], str):
        name, made = asked
    else:
        name, made = type(asked).__name__, asked
    if not (hasattr(made, "fit") and hasattr(made, "predict")):
        raise InvalidInputError(
            f"head {made!r} has no fit and predict; give a name, an estimator or (name, estimator)"
        )
    return name, made


def _named(name: str, given: Mapping[str, Any]) -> Family:
    from featbank.heads.catalogue import parameters

    if "random_state" in given:
        raise InvalidInputError(f"head {name!r}: random_state belongs to the sweep, not to head_params")
    recorded = tuple(one for one in ("C", "lr") if one in parameters(name))
    members = tuple(
        Candidate(label, make, recorded, _is_seeded(make(0)))
        for label, chosen in _combinations(name, given)
        for make in (_maker(name, chosen),)
    )
    return Family(name, members, _how(members[0].make(0)))


def _combinations(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the parameters of each head that lists of values stand for."""
    lists = {
        key: list(dict.fromkeys(value)) for key, value in given.items() if isinstance(value, list | tuple)
    }
    for key, values in lists.items():
        if not values:
            raise InvalidInputError(f"head {name!r}: {key}={given[key]!r} lists no value; give at least one")
    for combination in product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        said = " ".join(f"{key}={_spell(value)}" for key, value in chosen.items())
        yield (f"{name}({said})" if said else name), {**given, **chosen}


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
