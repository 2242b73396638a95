"""The key of a bank: everything that decides its numbers, and the digest that names it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from featbank._atomic import canonical_json, sha256
from featbank.errors import InvalidInputError

__all__ = ["FORMAT_VERSION", "BankKey"]

#: Version of the bank format this featbank writes, and the only one it reads.
FORMAT_VERSION = 2

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")
_DTYPES = ("float16", "float32", "float16-clip")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is safe as the name of a folder on every system; raises `InvalidInputError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith("."):
        raise InvalidInputError(
            f"{kind}={name!r} cannot name a folder: use 1 to 100 of the characters A-Z a-z 0-9 _ . @ + -, "
            f"starting with a letter, a digit or _"
        )
    return name


@dataclass(frozen=True, eq=False)
class BankKey:
    """What decides every number of a bank; two banks with equal digests hold equal features.

    Keys are equal when their digests are, and can stand in sets and dicts.

    Parameters
    ----------
    backbone : str
        Registered name of the network, e.g. ``"vgg16"``.
    weights_sha256 : str
        SHA-256 of the weights, 64 lower-case hexadecimal digits.
    transform : mapping of str to JSON values
        The preprocessing, as its ``to_dict()`` gives it; nested lists and mappings are allowed.
    image_size : int
        Side of the square input in pixels, at least 1.
    precision : str
        How the forward pass computes, e.g. ``"float32"`` or ``"bfloat16"``.
    dtype : {"float16", "float32", "float16-clip"}
        What features are stored as (``logits`` are float32 always; a cut that float16 cannot hold may be
        float32 too, as its ``cut.json`` and each shard say). The last: values beyond 65504 are clipped to it.
    batch_size : int
        Rows pushed at once, at least 1; part of the key because networks do not give bit-equal
        results in batches of another size.
    decoder : str
        Name and version of what turns bytes into pixels, e.g. ``"pillow-12.3.0"``.
    format_version : int, default=2
        Version of the bank format.

    Raises
    ------
    InvalidInputError
        If a field cannot be part of a key; all faults are named at once.

    Examples
    --------
    >>> key = BankKey(
    ...     backbone="minivgg", weights_sha256="0" * 64, transform={"resize": 32}, image_size=32,
    ...     precision="float32", dtype="float16", batch_size=64, decoder="pillow-12.3.0",
    ... )
    >>> key.digest8
    '2dc65eb5'
    """

    backbone: str
    weights_sha256: str
    transform: Mapping[str, Any]
    image_size: int
    precision: str
    dtype: str
    batch_size: int
    decoder: str
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        faults = []
        for name in ("image_size", "batch_size", "format_version"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                faults.append(f"{name}={value!r} is not an integer of at least 1")
        for name in ("backbone", "precision", "decoder"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                faults.append(f"{name}={getattr(self, name)!r} is not a name")
        if not isinstance(self.weights_sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", self.weights_sha256):
            faults.append(f"weights_sha256={self.weights_sha256!r} is not 64 hexadecimal digits")
        if self.dtype not in _DTYPES:
            faults.append(f"dtype={self.dtype!r} is not one of {', '.join(_DTYPES)}")
        try:  # an own copy in plain JSON types: tuples become lists, nobody can change it from outside
            object.__setattr__(self, "transform", _json_copy(self.transform))
        except (TypeError, ValueError) as error:
            faults.append(f"transform={self.transform!r} is not made of JSON values ({error})")
        if faults:
            raise InvalidInputError(f"not a bank key: {'; '.join(faults)}")
        check_name("backbone", self.backbone)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, in the order of the signature."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BankKey:
        """Build a key from what `to_dict` gave; raises `InvalidInputError` for missing or extra fields."""
        known = {one.name for one in fields(cls)}
        if set(values) != known:
            differing = ", ".join(sorted(known.symmetric_difference(values)))
            raise InvalidInputError(f"not a bank key: fields missing or unknown: {differing}")
        return cls(**dict(values))

    @cached_property
    def _digest(self) -> str:
        return sha256(canonical_json(self.to_dict()))

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of all fields, 64 hexadecimal digits."""
        return self._digest

    @property
    def digest8(self) -> str:
        """First eight digits of the digest, as they stand in the folder's name."""
        return self._digest[:8]

    def differences(self, other: BankKey) -> dict[str, tuple[Any, Any]]:
        """Say which fields differ.

        Parameters
        ----------
        other : BankKey
            The key to compare with.

        Returns
        -------
        dict of str to tuple
            Field name to (value here, value there); empty when the keys are equal.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if canonical_json(mine[name]) != canonical_json(theirs[name])
        }

    def __eq__(self, other: object) -> bool:
        return self._digest == other._digest if isinstance(other, BankKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._digest)


def _json_copy(value: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("it is no mapping")
    _check_keys(value)
    copy: dict[str, Any] = json.loads(canonical_json(dict(value)))
    return copy


def _check_keys(value: Any) -> None:
    # json turns the key 1 into "1" without a word; two different transforms must not become one
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the key {name!r} is no string")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)
