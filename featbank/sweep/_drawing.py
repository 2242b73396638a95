"""Which rows may be used, which subsets are drawn of them, and what makes two sweeps see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import Manifest, printable
from featbank.sampling import Size, draw_nested, hold_out, parse_sizes, size_order
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
    "set_untrained_aside",
    "splits_for",
    "untrained_words",
    "usual_sizes",
]

Rows = NDArray[np.int64]

#: Untrained classes are named up to so many.
_MOST_NAMED = 5


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


def set_untrained_aside(
    manifest: Manifest, split: Mapping[str, Rows], policy: Literal["drop", "keep"]
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Find the classes that no head can answer, for they have no training images.

    Returns
    -------
    dict of str to ndarray
        `split`, with ``"drop"`` without their validation and test rows.
    dict
        ``policy``, and ``classes``: how many ``val`` and ``test`` rows each has; empty if there are none.
    """
    labels = {name: manifest.labels[at] for name, at in split.items()}
    untrained = np.setdiff1d(np.concatenate([labels["val"], labels["test"]]), labels["train"])
    if not len(untrained) or not len(labels["train"]):
        return dict(split), {}
    classes = {
        manifest.classes[code]: {name: int((labels[name] == code).sum()) for name in ("val", "test")}
        for code in untrained
    }
    found = {"policy": policy, "classes": classes}
    if policy == "keep":
        return dict(split), found
    left = {name: at[~np.isin(labels[name], untrained)] for name, at in split.items()}
    if not len(left["val"]) and not len(left["test"]):
        raise InvalidInputError(
            f"{untrained_words(found)}: there is nothing left to score on; check how the splits name their "
            "classes"
        )
    return left, found


def untrained_words(untrained: Mapping[str, Any]) -> str:
    """Say which classes have no training images, and what became of their other images.

    Parameters
    ----------
    untrained : mapping
        As `SweepResult.untrained` has it, not empty.
    """
    classes = untrained["classes"]
    named = ", ".join(printable(name) for name in list(classes)[:_MOST_NAMED])
    named += f" and {len(classes) - _MOST_NAMED} more" if len(classes) > _MOST_NAMED else ""
    counts = {name: sum(one[name] for one in classes.values()) for name in ("val", "test")}
    images = " and ".join(
        f"{n} {'test' if name == 'test' else 'validation'}" for name, n in counts.items() if n
    )
    what = "class without training images" if len(classes) == 1 else "classes without training images"
    became = (
        "are left out (--untrained-classes keep counts them as wrong)"
        if untrained["policy"] == "drop"
        else "count as wrong (--untrained-classes drop leaves them out)"
    )
    return f"{len(classes)} {what}, which no head can answer: {named}; their {images} images {became}"


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


def notes_on_splits(
    manifest: Manifest, split: Mapping[str, Rows], val: float | str | None, plans: Sequence[Plan]
) -> list[str]:
    """Say what decides and judges where it is not the validation and the test rows.

    Parameters
    ----------
    manifest : Manifest
    split : mapping of str to rows
        As the bank has them.
    val, plans
        What decides, see `read_val`, and the draws.
    """
    notes = []
    if isinstance(val, float):
        sizes = {plan.n_per_class: plan for plan in plans if plan.repeat == 0}
        ascending = [sizes[size] for size in sorted(sizes, key=size_order)]
        counts = ", ".join(f"{len(one.held)} of {len(one.rows) + len(one.held)}" for one in ascending)
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
    trained, tested = (np.unique(manifest.labels[split[name]]) for name in ("train", "test"))
    unseen = np.setdiff1d(trained, tested)
    if len(unseen):
        named = ", ".join(printable(manifest.classes[code]) for code in unseen[:_MOST_NAMED])
        more = f" and {len(unseen) - _MOST_NAMED} more" if len(unseen) > _MOST_NAMED else ""
        notes.append(
            f"{len(unseen)} of {len(trained)} classes without test images: {named}{more}; accuracies say "
            "nothing of how well they are recognised"
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
    draws = draw_nested(y, sizes, repeats=repeats, random_state=random_state, class_names=manifest.classes)
    plans: dict[tuple[Size, int], Plan] = {}
    for repeat, draw in enumerate(draws):
        # Seeds know nothing of sizes and heads, so that neither changes what another one gives.
        state = np.random.SeedSequence(random_state, spawn_key=(repeat,)).generate_state(1)[0]
        for rows in draw.values():
            _, per_class = np.unique(y[rows], return_counts=True)
            even = per_class.min() == per_class.max()
            n_per_class: Size = int(per_class[0]) if even else "all"
            plans[n_per_class, repeat] = Plan(
                n_per_class, repeat, rows, int(state >> 1), per_class, whole=len(rows) == len(y)
            )
    return sorted(plans.values(), key=lambda plan: (size_order(plan.n_per_class), plan.repeat))


def digests_of_draws(manifest: Manifest, split: Mapping[str, Rows], plans: Sequence[Plan]) -> dict[str, Any]:
    """Return digests of what is drawn and judged, by the images themselves and their class names."""
    judged = split[judged_split({name: at for name, at in split.items() if len(at)})]
    subsets: dict[str, list[str]] = {}
    for plan in plans:
        digest = _digest(manifest, split["train"][plan.rows])
        subsets.setdefault(f"{plan.n_per_class}", []).append(digest)
    return {"judged": _digest(manifest, judged), "subsets": subsets}


def _digest(manifest: Manifest, rows: Rows) -> str:
    """Return 16 hexadecimal digits that are the same for the same images under the same class names."""
    lines = sorted(
        manifest.digests[row].tobytes()
        + manifest.classes[manifest.labels[row]].encode("utf-8", "surrogateescape")
        for row in rows
    )
    return hashlib.sha256(b"\0".join(lines)).hexdigest()[:16]
