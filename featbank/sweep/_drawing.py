"""Which rows may be used, which subsets are drawn of them, and what makes two sweeps see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import Manifest, printable
from featbank.sampling import Size, draw_nested, parse_sizes, size_order
from featbank.sweep._material import Plan
from featbank.sweep._scoring import judged_split

__all__ = [
    "digests_of_draws",
    "labelled_rows",
    "make_plans",
    "notes_on_splits",
    "read_sizes",
    "set_untrained_aside",
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


def notes_on_splits(manifest: Manifest, split: Mapping[str, Rows]) -> list[str]:
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
