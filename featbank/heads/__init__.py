"""Heads: classifiers on features, trained alone or many at once. They take `X, y`, never a bank."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featbank.heads.catalogue import HeadKind, Parameter, make, names
    from featbank.heads.classic import (
        LinearSVMClassifier,
        NearestMeanClassifier,
        NeighborsClassifier,
        RidgeClassifier,
    )
    from featbank.heads.head import Head, TrainingRows, fit_stack, load_head, save_head
    from featbank.heads.mlp import MLPClassifier
    from featbank.heads.softmax import SoftmaxClassifier
    from featbank.heads.space import FeatureSpace
    from featbank.heads.tail import TailClassifier

__all__ = [
    "FeatureSpace",
    "Head",
    "HeadKind",
    "LinearSVMClassifier",
    "MLPClassifier",
    "NearestMeanClassifier",
    "NeighborsClassifier",
    "Parameter",
    "RidgeClassifier",
    "SoftmaxClassifier",
    "TailClassifier",
    "TrainingRows",
    "fit_stack",
    "load_head",
    "make",
    "names",
    "save_head",
]

# scikit-learn and torch take seconds to import; a name is looked up where it lives when it is first used
_HOMES = {
    "FeatureSpace": "space",
    "Head": "head",
    "HeadKind": "catalogue",
    "LinearSVMClassifier": "classic",
    "MLPClassifier": "mlp",
    "NearestMeanClassifier": "classic",
    "NeighborsClassifier": "classic",
    "Parameter": "catalogue",
    "RidgeClassifier": "classic",
    "SoftmaxClassifier": "softmax",
    "TailClassifier": "tail",
    "TrainingRows": "head",
    "fit_stack": "head",
    "load_head": "head",
    "make": "catalogue",
    "names": "catalogue",
    "save_head": "head",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
