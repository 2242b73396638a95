"""Heads on disk: `NAME.safetensors` holds the numbers, `NAME.json` the rest. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, StringConstraints

from featbank._atomic import canonical_json, file_digest, sha256, write_file, write_json
from featbank._cache import user_path
from featbank._registry import nearest
from featbank._validation import CONFIG, Json, Line, check, check_values, parse_json, short
from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.heads import catalogue
from featbank.heads.classic import ClassicHead
from featbank.heads.head import Head
from featbank.heads.space import FeatureSpace

__all__ = ["load_head", "save_head"]

FORMAT = 2
_METADATA = "featbank"


class _Classes(BaseModel):
    model_config = CONFIG

    #: Numbers, or text that is not endless.
    dtype: Annotated[str, StringConstraints(pattern=r"^[<>|]([iufb][1248]|U[0-9]{1,4}|O)$")]
    values: list[bool | int | float | Line]


class _Space(BaseModel):
    model_config = CONFIG

    gain: float
    standardize: bool | Literal["center"]


class _Record(BaseModel):
    """What ``NAME.json`` says of a head."""

    model_config = CONFIG

    format: int
    kind: Line = Field(alias="class")
    params: Json
    classes: _Classes
    #: Attributes by which scikit-learn tells what a fit found.
    fitted: dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z_]*_$")], bool | int | float | Line | None
    ]
    space: _Space
    history: dict[Line, list[float | None]]
    facts: Json
    weights_sha256: Line


def save_head(
    path_without_suffix: str | os.PathLike[str], estimator: Head, *, facts: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write a fitted head; killed at any moment, it leaves the head that was there before, or the new one.

    Each file appears whole or not at all, the JSON last. Until then the safetensors file says for itself what
    the head is, and which JSON file is out of date.

    Parameters
    ----------
    path_without_suffix : str or path-like
        ``.safetensors`` and ``.json`` are appended; the folder must exist.
    estimator : head of this package
        Fitted.
    facts : mapping of str to JSON value, optional
        What else should be known of it (cut, samples per class, ...); `load_head` returns it.

    Returns
    -------
    tuple of pathlib.Path
        The safetensors file and the JSON file.

    Raises
    ------
    InvalidInputError
        If `estimator` is not fitted or no head of this package, or `facts` are no JSON values.
    CacheWriteError
        If a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from featbank.heads import make
    >>> X, y = load_iris(return_X_y=True)
    >>> head = make("ncm").fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_head(f"{folder}/iris", head, facts={"cut": "petals"})
    ...     again, facts = load_head(f"{folder}/iris")
    >>> facts, bool((again.predict(X) == head.predict(X)).all())
    ({'cut': 'petals'}, True)
    """
    from safetensors.numpy import save

    kind = type(estimator).__name__
    if _class_named(kind) is not type(estimator) or not hasattr(estimator, "classes_"):
        raise InvalidInputError(f"{estimator!r} cannot be saved; give a fitted head of featbank.heads")
    arrays, space = estimator._stored()
    tensors = {"mean": space.mean_, "scale": space.scale_, **arrays}
    basis = space.basis()
    if basis is not None:
        tensors["basis"] = basis
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    weights_path, json_path = _paths(path_without_suffix)
    params = estimator.get_params(deep=False)
    if not isinstance(params.get("random_state", 0), int | np.integer | None):
        params["random_state"] = None  # a generator's state is not what the head was fitted with
    record = {
        "format": FORMAT,
        "class": kind,
        "params": {key: _plain(value) for key, value in params.items()},
        "classes": {"dtype": estimator.classes_.dtype.str, "values": estimator.classes_.tolist()},
        "fitted": {key: _plain(value) for key, value in estimator._fitted_facts().items()},
        "space": {"gain": space.gain_, "standardize": space.standardize},
        "history": {
            key: [_plain(value) for value in values]
            for key, values in getattr(estimator, "history_", {}).items()
        },
        "facts": dict(facts or {}),
    }
    try:
        json.dumps(record["facts"], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"facts cannot be written to JSON ({error}); give numbers, strings, lists, dicts"
        ) from error
    inside = {"record": record, "replaces": _digest_of(json_path)}
    inside["sha256"] = _seal(tensors, inside)
    data = save(tensors, metadata={_METADATA: json.dumps(inside)})
    write_file(weights_path, data)
    write_json(json_path, {**record, "weights_sha256": sha256(data)})
    return weights_path, json_path


def load_head(path_without_suffix: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Read what `save_head` wrote.

    Parameters
    ----------
    path_without_suffix : str or path-like
        As given to `save_head`; a path that ends in ``.json`` or ``.safetensors`` does as well.

    Returns
    -------
    estimator : head
        Predicts as the one that was saved, to 1e-6. A linear head comes back in the space of the standardised
        features (not rotated).
    facts : dict

    Raises
    ------
    RunNotFoundError
        If one of the two files is missing.
    RunError
        If a file is damaged, of another format, or not of the same head as the other.

    Examples
    --------
    >>> import tempfile
    >>> from featbank.heads import NearestMeanClassifier
    >>> head = NearestMeanClassifier().fit([[0.0], [1.0], [5.0]], ["low", "low", "high"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = save_head(f"{folder}/mine", head, facts={"of": "three rows"})
    ...     again, facts = load_head(f"{folder}/mine")
    >>> again.predict([[4.0]]).tolist(), facts["of"]
    (['high'], 'three rows')
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    weights_path, json_path = _paths(path_without_suffix)
    record = _read_record(json_path)
    data = _read(weights_path)
    if sha256(data) != record["weights_sha256"]:
        later = _later_record(data, json_path)
        if later is None:
            raise RunError(
                f"{str(weights_path)!r} is not the file {json_path.name!r} was written with (its SHA-256 "
                "differs); fit the head again, or restore both files"
            )
        record = later
    try:
        tensors = load(data)
        said = record["classes"]
        classes = np.asarray(said["values"], dtype=np.dtype(said["dtype"]))
        if classes.ndim != 1 or len(classes) < 2 or len(np.unique(classes)) < len(classes):
            raise ValueError("its classes are not two or more that differ")
        kind = _class_named(record["class"])
        if kind is None:
            raise LookupError(record["class"])
        head = kind(**record["params"])
        for key, value in record["fitted"].items():
            setattr(head, key, value)
        space = FeatureSpace.from_arrays(
            tensors.pop("mean"),
            tensors.pop("scale"),
            gain=float(record["space"]["gain"]),
            basis=tensors.pop("basis", None),
            standardize=record["space"]["standardize"],
        )
        head.classes_, head.space_, head.n_features_in_ = classes, space, space.n_features_
        if record["history"]:
            head.history_ = {
                key: np.array(values, dtype=np.float64) for key, values in record["history"].items()
            }
        head._take_stored(tensors)
        _try(head)
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RunError(
            f"{str(json_path)!r} and {weights_path.name!r} do not make a head ({type(error).__name__}: "
            f"{error}); fit it again"
        ) from error
    return head, dict(record["facts"])


def _class_named(name: str) -> type[Head] | None:
    """Return the head of this name: one of featbank's, else of a package that is installed, and no other."""
    return next((one for one in catalogue.classes() if one.__name__ == name and issubclass(one, Head)), None)


def _try(head: Any) -> None:
    """Answer one row: files that do not belong together raise `ValueError`, here and not in the middle."""
    if isinstance(head, ClassicHead):
        head._check()
    with np.errstate(all="ignore"):
        scores = head._try()
    n_classes = len(head.classes_)
    if scores.shape != ((1,) if n_classes == 2 else (1, n_classes)):
        raise ValueError(f"it scores {scores.shape} for {n_classes} classes")


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    base = user_path(path)
    if base.suffix in (".json", ".safetensors"):
        base = base.with_suffix("")
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RunNotFoundError(
            f"there is no head at {str(path)!r}; fit one and save it with save_head"
        ) from error
    except OSError as error:
        raise RunError(
            f"{str(path)!r} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _digest_of(path: Path) -> str | None:
    return file_digest(path) if path.is_file() else None


def _seal(tensors: Mapping[str, Any], inside: Mapping[str, Any]) -> str:
    from safetensors.numpy import save

    said = {key: inside[key] for key in ("record", "replaces")}
    return sha256(save(dict(tensors)) + canonical_json(said))


def _later_record(data: bytes, json_path: Path) -> dict[str, Any] | None:
    """Return what a safetensors file says of its head, if the JSON beside it is the one it was to replace."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        inside = parse_json(header["__metadata__"][_METADATA].encode("utf-8", "surrogateescape"))
        check(_Record, {**inside["record"], "weights_sha256": ""})
        whole = inside["sha256"] == _seal(load(data), inside)
        if not whole or inside["replaces"] != _digest_of(json_path):
            return None
        return dict(inside["record"])
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _read_record(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        record: Any = parse_json(data)
    except ValueError as error:
        raise RunError(f"{str(path)!r} is not JSON ({error}); restore it or fit the head again") from error
    if isinstance(record, dict) and record.get("format", FORMAT) != FORMAT:
        raise RunError(
            f"{str(path)!r} is of head format {short(record['format'])}; this version reads {FORMAT}; use "
            "the version that wrote it, or fit the head again"
        )
    try:
        check(_Record, check_values(record))
    except ValueError as error:
        raise RunError(f"{str(path)!r} is not the description of a head: {error}; fit it again") from error
    if _class_named(record["class"]) is None:
        known = nearest(record["class"], [one.__name__ for one in catalogue.classes()], 20)
        raise RunError(
            f"{str(path)!r} is not the description of a head: class = {short(record['class'])} is unknown; "
            f"known: {known}; fit it again"
        )
    return dict(record)


def _plain(value: Any) -> Any:
    """Return a JSON value for a parameter or a number; not-finite numbers become null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInputError(
        f"{value!r} cannot be written to JSON; give numbers, strings, True, False or None"
    )
