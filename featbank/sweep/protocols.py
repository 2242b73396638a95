"""Evaluations of the field by name: their heads, grids and what chooses, each a TOML file beside the studies.

``featbank fit-head --protocol dino-knn`` and ``fit_heads(bank, protocol="dino-knn")`` follow one. The steps
of each, and where it departs from the publication, stand in ``docs/protocols.md``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from featbank._registry import nearest
from featbank._validation import check_values, plain_file, short
from featbank.errors import InvalidInputError, UnknownNameError, one_line

__all__ = ["Protocol", "find_protocol", "protocol_names"]

_MOST_BYTES = 100_000


@dataclass(frozen=True)
class Protocol:
    """One evaluation.

    Parameters
    ----------
    name : str
        Its file's, without the suffix.
    title, reference : str
        What it is, and where it was published.
    steps : tuple of str
        What is done, in order.
    heads : tuple of str
    head_params : mapping of head name to mapping
    val : float, "none" or None
        As of `featbank.sweep.SweepSettings`, as those before.

    Examples
    --------
    >>> protocol = find_protocol("simpleshot")
    >>> protocol.heads, protocol.head_params["ncm"]["standardize"]
    (('ncm',), 'center')
    """

    name: str
    title: str
    reference: str
    steps: tuple[str, ...]
    heads: tuple[str, ...]
    head_params: Mapping[str, Mapping[str, Any]]
    val: Any

    def refusal(self, given: str) -> str:
        """Return what is wrong with `given`, which says heads, parameters or `val` beside the protocol."""
        return (
            f"protocol {self.name!r} (--protocol) says heads, their parameters and val itself; leave {given} "
            "out, or the protocol"
        )


def _files() -> dict[str, Path]:
    """Return the files there are, by name: a wheel has them inside the package, a checkout beside it."""
    package = Path(__file__).parents[1]
    folders = (package.parent / "pipelines", package / "pipelines", Path("pipelines"))
    return {file.stem: file for folder in folders for file in sorted((folder / "protocols").glob("*.toml"))}


def protocol_names() -> list[str]:
    """List the names of the protocols there are: those of featbank, and those in ``./pipelines/protocols``.

    Examples
    --------
    >>> protocol_names()
    ['dino-knn', 'dinov3-logreg', 'simpleshot']
    """
    return sorted(_files())


def find_protocol(name: str) -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    name : str
        One of `protocol_names`.

    Returns
    -------
    Protocol

    Raises
    ------
    UnknownNameError
        If there is none of this name.
    InvalidInputError
        If its file is no protocol.
    """
    files = _files()
    if name not in files:
        raise UnknownNameError(
            f"unknown protocol {short(str(name))} (--protocol); known: {nearest(str(name)[:100], files)}"
        )
    path = files[name].resolve()
    wanted = {one.name for one in fields(Protocol)} - {"name"}
    try:
        text = plain_file(path.parent, path.name, _MOST_BYTES).read_bytes().decode("utf-8")
        values = check_values(tomllib.loads(text))
        if set(values) != wanted:
            odd = ", ".join(sorted(wanted.symmetric_difference(values)))
            raise ValueError(f"keys missing or unknown: {odd}")
        return Protocol(
            name=name,
            title=str(values["title"]),
            reference=str(values["reference"]),
            steps=tuple(map(str, values["steps"])),
            heads=tuple(map(str, values["heads"])),
            head_params={str(head): dict(given) for head, given in values["head_params"].items()},
            val=values["val"],
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"{str(path)!r} is no protocol: {one_line(error)}") from error
