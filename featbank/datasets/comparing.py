"""Have the images changed since a manifest was made of them? Every file is read and hashed anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featbank.datasets._digests import row_digests, unreadable_digest
from featbank.datasets.building import row_indices
from featbank.datasets.sources import Dataset
from featbank.manifest import Manifest

__all__ = ["SourceFinding", "compare_sources"]

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class SourceFinding:
    """One image that is no longer what a manifest says.

    Parameters
    ----------
    kind : {"changed", "missing", "new"}
        Other bytes than listed; listed, but not there or not readable; there, but not listed.
    id : bytes
        As in the manifest or the dataset; escape it with `featbank.manifest.printable` before showing it.
    detail : str
        What was found, in words.
    """

    kind: Literal["changed", "missing", "new"]
    id: bytes
    detail: str


def compare_sources(dataset: Dataset, manifest: Manifest) -> list[SourceFinding]:
    """Read every image of a manifest again and say what differs.

    The time and size of a file are not asked: a copy that keeps them, or a disk that rots, changes neither.

    Parameters
    ----------
    dataset : Dataset
        The same source, opened anew.
    manifest : Manifest
        Of a bank.

    Returns
    -------
    list of SourceFinding
        In the order of the manifest, then what is new in the order of the dataset; empty if all is as it was.
        An image that could not be read when it was listed, and cannot now, is as it was. A manifest made with
        ``limit`` lists a part of its source: the rest is ``"new"``.

    Examples
    --------
    >>> from featbank.datasets import build_manifest, open_dataset
    >>> digits = open_dataset("digits")
    >>> compare_sources(digits, build_manifest(digits))
    []
    """
    indices = row_indices(dataset, manifest)
    there = np.flatnonzero(indices >= 0)
    found = dict(zip(there.tolist(), row_digests(dataset, indices[there]), strict=True))
    findings = []
    for row, one in enumerate(manifest.ids):
        listed = manifest.digests[row].tobytes()
        if row not in found:
            findings.append(SourceFinding("missing", one, "the source no longer lists it"))
            continue
        digest, problem = found[row]
        if digest == listed:
            continue
        if problem is not None:
            findings.append(SourceFinding("missing", one, f"cannot be read: {problem}"))
        elif listed == unreadable_digest(one):
            findings.append(
                SourceFinding("changed", one, "could not be read when it was listed, and can be now")
            )
        else:
            findings.append(
                SourceFinding(
                    "changed",
                    one,
                    f"its SHA-256 starts with {digest.hex()[:_SHOWN_DIGITS]}, "
                    f"the manifest's with {listed.hex()[:_SHOWN_DIGITS]}",
                )
            )
    return findings + _new(dataset, manifest.ids)


def _new(dataset: Dataset, listed: Sequence[bytes]) -> list[SourceFinding]:
    known = set(listed)
    return [
        SourceFinding("new", one, "the manifest does not list it") for one in dataset.ids if one not in known
    ]
