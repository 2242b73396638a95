"""The list of hostile banks: a name, how it is made from a good one, and what its refusal must say."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import headers
import made_bank

from featbank.banks import Bank

#: name -> (makes a bank at a path from a good pack and a good folder; what the refusal must say)
CASES: dict[str, tuple[Callable[[Path, Path, Path], Path], str]] = {}


def case(says: str) -> Callable[[Callable[[Path, Path, Path], Path]], Callable[[Path, Path, Path], Path]]:
    def register(make: Callable[[Path, Path, Path], Path]) -> Callable[[Path, Path, Path], Path]:
        add(make.__name__, says, make)
        return make

    return register


def add(name: str, says: str, make: Callable[[Path, Path, Path], Path]) -> None:
    if name in CASES:
        raise KeyError(name)
    CASES[name] = (make, says)


@lru_cache
def compressed(folder: Path, compression: str) -> bytes:
    """The good bank as a compressed pack."""
    target = folder.parents[2] / f"good-{compression}.h5"
    return made_bank.packed(Bank.open(folder), target, compression=compression).read_bytes()


def in_pack(
    says: str, compression: str | None = None
) -> Callable[[Callable[[bytes], bytes]], Callable[[bytes], bytes]]:
    """Register a change to the bytes of a pack."""

    def register(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def make(place: Path, pack: Path, folder: Path) -> Path:
            data = pack.read_bytes() if compression is None else compressed(folder, compression)
            (place / "bank.h5").write_bytes(change(data))
            return place / "bank.h5"

        add(change.__name__, says, make)
        return change

    return register


def in_header(
    name: str, says: str, change: Callable[[dict[str, Any]], Any], compression: str | None = None
) -> None:
    """Register a change to what the header of a pack says, sealed again."""

    def forge(data: bytes) -> bytes:
        def changed(document: dict[str, Any]) -> Any:
            found = change(document)
            return found if isinstance(found, (dict, list)) and found is not document else None

        return headers.forged(data, changed)

    forge.__name__ = name
    in_pack(says, compression)(forge)
