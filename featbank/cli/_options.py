"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["CacheDir", "DataRoot", "Device", "Json", "Layout", "Seed", "SkipEmptyClasses", "split_commas"]

CacheDir = Annotated[
    str | None,
    typer.Option(
        "--cache-dir",
        metavar="PATH",
        help="Where banks and runs live (default: $FEATBANK_CACHE, else ./cache); banks also in s3://bucket/prefix.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
DataRoot = Annotated[str | None, typer.Option(metavar="PATH", help="Where torchvision datasets lie.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:N; the best there is by default.")
]
Seed = Annotated[int, typer.Option("--random-state", "--seed", help="Seed of everything random.")]
Layout = Annotated[
    str | None,
    typer.Option(
        help="What a folder's levels are: class, split/class, class/split, any/class ('any' says nothing); "
        "found out by default."
    ),
]
SkipEmptyClasses = Annotated[
    bool, typer.Option("--skip-empty-classes", help="Go on without classes that have no readable image.")
]
BatchSize = Annotated[
    int | None, typer.Option(help="Images that go through the network together; by default memory decides.")
]
Decode = Annotated[
    str, typer.Option(help="Where JPEGs are decoded: cpu (exact pixels), cuda (nvJPEG, a few steps off).")
]


def split_commas(values: list[str] | None) -> list[str]:
    """Flatten ``--cut fc7 --cut block4_pool,block5_pool`` to one list, without repeats.

    Examples
    --------
    >>> split_commas(["fc7", "block4_pool, fc7"])
    ['fc7', 'block4_pool']
    """
    parts = [part.strip() for value in values or [] for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))
