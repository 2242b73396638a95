"""Which rows may be used, which subsets are drawn of them, and what makes two sweeps see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import Manifest
from featbank.sampling import Size, draw_nested, hold_out, parse_sizes
from featbank.sweep._material import Plan
from featbank.sweep._scoring import judged_split

__all__ = [
    "check_splits",
    "digests_of_draws",
    "held_out",
    "labelled_rows",
    "make_plans",
    "notes_on_splits",
    "read_sizes",
    "read_val",
    "splits_for",
    "usual_sizes",
]

Rows = NDArray[np.int64]


def read_sizes(asked: str | int | Sequence[Size]) -> list[Size]:
    """Return sizes from text, a number or a list."""
    if isinstance(asked, str):
        return parse_sizes(asked)
    if not isinstance(asked, Sequence | np.ndarray):
        return parse_sizes(str(asked))
    return parse_sizes(",".join(str(one) for one in asked))


def labelled_rows(manifest: Manifest, split: str) -> Rows:
    """Return the readable rows of a split that have a label."""
    rows = manifest.rows(split)
    return rows[manifest.labels[rows] >= 0]


def usual_sizes(manifest: Manifest) -> str:
    """Return 4..32, or as far as the class with the fewest training images reaches."""
    counts = np.bincount(manifest.labels[labelled_rows(manifest, "train")])
    smallest = int(counts[counts > 0].min()) if counts.any() else 32  # without images the sweep says so
    return f"4..{min(32, smallest)}" if smallest >= 4 else "all"


def read_val(val: Any) -> float | Literal["none"] | None:
    """Return what decides without the bank's validation rows; anything else is an error."""
    if val is None:
        return None
    if isinstance(val, str) and val == "none":
        return "none"
    if isinstance(val, float | int | np.floating) and not isinstance(val, bool) and 0 < val < 1:
        return float(val)
    raise InvalidInputError(
        f"val={val!r} (--val) is not a part of each draw, over 0 and under 1, such as 0.2, and not 'none'"
    )


def splits_for(split: Mapping[str, Rows], val: float | str | None) -> dict[str, Rows]:
    """Return the rows of each split as they are used: what decides nothing may judge."""
    if val is None:
        return dict(split)
    judged = split["test"] if len(split["test"]) else split["val"]
    return {"train": split["train"], "val": split["val"][:0], "test": judged}


def check_splits(split: Mapping[str, Rows]) -> None:
    """Raise `InvalidInputError` where there are no rows to fit to, or none to score on."""
    if not len(split["train"]):
        raise InvalidInputError(
            "the bank has no labelled training rows; extract again with --split, e.g. 0.7,0.1,0.2"
        )
    if not len(split["test"]) and not len(split["val"]):
        raise InvalidInputError(
            "the bank has neither test nor validation rows to score on; extract again with --split, "
            "e.g. 0.7,0.1,0.2"
        )


def notes_on_splits(split: Mapping[str, Rows], val: float | str | None, plans: Sequence[Plan]) -> list[str]:
    """Say what decides and judges where it is not the validation and the test rows.

    Parameters
    ----------
    split : mapping of str to rows
        As the bank has them.
    val, plans
        What decides, see `read_val`, and the draws.
    """
    notes = []
    if isinstance(val, float):
        sizes = {plan.n_per_class: plan for plan in plans if plan.repeat == 0}
        counts = ", ".join(
            f"{len(one.held)} of {len(one.rows) + len(one.held)}" for _, one in sorted(sizes.items())
        )
        notes.append(
            f"--val {val:g}: part of each draw is held out ({counts} images) to stop training, to choose C "
            "and the head kept; heads are trained on the rest"
        )
        if any(not len(one.held) for one in sizes.values()):
            notes.append(
                "of one image per class none can be held out: there training goes by the training loss"
            )
    elif val == "none" or not len(split["val"]):
        why = "no validation rows" if val is None else "--val none"
        more = "; --val 0.2 would hold a fifth of each draw out for that" if val is None else ""
        notes.append(
            f"{why}: training stops by the training loss, C='auto' goes by cross-validation within each "
            f"draw, and the head kept of each curve is that of the first repeat{more}"
        )
    if not len(split["test"]):
        notes.append(
            "no test rows: accuracies are those on the validation rows, which also chose when to stop, and "
            "flatter"
            if val is None
            else "no test rows: accuracies are those on the validation rows, which decided nothing"
        )
    return notes


def held_out(
    plans: Sequence[Plan], y: NDArray[Any], val: float | str | None, random_state: int
) -> list[Plan]:
    """Take the part of each draw that decides, if any, out of the rows that train."""
    if not isinstance(val, float):
        return list(plans)
    found = []
    for plan in plans:
        held = hold_out(y, plan.rows, val, random_state=random_state, repeat=plan.repeat)
        found.append(replace(plan, rows=np.setdiff1d(plan.rows, held), held=held))
    return found


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
