"""Which rows may be used, which subsets are drawn of them, and what makes two sweeps see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import Manifest
from featbank.sampling import Size, draw_nested, parse_sizes
from featbank.sweep._material import Plan
from featbank.sweep._scoring import judged_split

__all__ = ["digests_of_draws", "labelled_rows", "make_plans", "notes_on_splits", "read_sizes", "usual_sizes"]

Rows = NDArray[np.int64]


def read_sizes(asked: str | int | Sequence[Size]) -> list[Size]:
    """Return sizes from text, a number or a list."""
    if isinstance(asked, str):
        return parse_sizes(asked)
    return parse_sizes(str(asked) if isinstance(asked, int) else ",".join(str(one) for one in asked))


def labelled_rows(manifest: Manifest, split: str) -> Rows:
    """Return the readable rows of a split that have a label."""
    rows = manifest.rows(split)
    return rows[manifest.labels[rows] >= 0]


def usual_sizes(manifest: Manifest) -> str:
    """Return 4..32, or as far as the class with the fewest training images reaches."""
    counts = np.bincount(manifest.labels[labelled_rows(manifest, "train")])
    smallest = int(counts[counts > 0].min()) if counts.any() else 32  # without images the sweep says so
    return f"4..{min(32, smallest)}" if smallest >= 4 else "all"


def notes_on_splits(split: Mapping[str, Rows]) -> list[str]:
    """Say what is missing for lack of rows; too few to fit and score anything is an error."""
    if not len(split["train"]):
        raise InvalidInputError(
            "the bank has no labelled training rows; extract again with --split, e.g. 0.7,0.1,0.2"
        )
    notes = []
    if not len(split["val"]):
        notes.append(
            "no validation rows: training stopped by the training loss, and the head kept of each curve is "
            "that of the first repeat"
        )
    if not len(split["test"]):
        if not len(split["val"]):
            raise InvalidInputError(
                "the bank has neither test nor validation rows to score on; extract again with --split, "
                "e.g. 0.7,0.1,0.2"
            )
        notes.append(
            "no test rows: accuracies are those on the validation rows, which also chose when to stop, "
            "and flatter"
        )
    return notes


def make_plans(
    manifest: Manifest, split: Mapping[str, Rows], sizes: Sequence[Size], repeats: int, random_state: int
) -> list[Plan]:
    """Draw every subset; rows are positions among the training rows."""
    y = manifest.labels[split["train"]]
    present = {int(code) for rows in split.values() for code in np.unique(manifest.labels[rows])}
    draws = draw_nested(
        y, sizes, repeats=repeats, random_state=random_state, codes=present, class_names=manifest.classes
    )
    plans: dict[tuple[float, int], Plan] = {}
    for repeat, draw in enumerate(draws):
        # Seeds know nothing of sizes and heads, so that neither changes what another one gives.
        state = np.random.SeedSequence(random_state, spawn_key=(repeat,)).generate_state(1)[0]
        for rows in draw.values():
            each = len(rows) / len(present)
            n_per_class = int(each) if each == int(each) else each  # "all" of uneven classes: a mean
            plans[n_per_class, repeat] = Plan(n_per_class, repeat, rows, int(state >> 1))
    return sorted(plans.values(), key=lambda plan: (plan.n_per_class, plan.repeat))


def digests_of_draws(manifest: Manifest, split: Mapping[str, Rows], plans: Sequence[Plan]) -> dict[str, Any]:
    """Return digests of what is drawn and judged, by the images themselves and their class names."""
    judged = split[judged_split({name: at for name, at in split.items() if len(at)})]
    subsets: dict[str, list[str]] = {}
    for plan in plans:
        digest = _digest(manifest, split["train"][plan.rows])
        subsets.setdefault(f"{plan.n_per_class:g}", []).append(digest)
    return {"judged": _digest(manifest, judged), "subsets": subsets}


def _digest(manifest: Manifest, rows: Rows) -> str:
    """Return 16 hexadecimal digits that are the same for the same images under the same class names."""
    lines = sorted(
        manifest.digests[row].tobytes()
        + manifest.classes[manifest.labels[row]].encode("utf-8", "surrogateescape")
        for row in rows
    )
    return hashlib.sha256(b"\0".join(lines)).hexdigest()[:16]
