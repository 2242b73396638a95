"""The list of hostile banks: a name, how it is made from a good one, and what its refusal must say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

LIBVER = ("v110", "v110")

#: name -> (makes a bank at a path from a good pack and a good folder; what the refusal must say)
CASES: dict[str, tuple[Callable[[Path, Path, Path], Path], str]] = {}


def case(says: str) -> Callable[[Callable[[Path, Path, Path], Path]], Callable[[Path, Path, Path], Path]]:
    def register(make: Callable[[Path, Path, Path], Path]) -> Callable[[Path, Path, Path], Path]:
        CASES[make.__name__] = (make, says)
        return make

    return register


def in_pack(says: str) -> Callable[[Callable[[h5py.File, Path], None]], None]:
    """Register a change to an open pack; the second argument is the folder with the secret."""

    def register(change: Callable[[h5py.File, Path], None]) -> None:
        def make(place: Path, pack: Path, folder: Path) -> Path:
            target = Path(shutil.copy(pack, place / "bank.h5"))
            with h5py.File(target, "r+", libver=LIBVER) as file:
                change(file, place)
            return target

        CASES[change.__name__] = (make, says)

    return register


def replace(file: h5py.File, name: str, **options: Any) -> Any:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    options = {"shape": shape, "dtype": dtype, **options}
    return file.create_dataset(name, **options)
