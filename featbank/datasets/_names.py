"""Names: of datasets (safe as a folder name) and of classes (at least two, which can be told apart)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from featbank.errors import DatasetError
from featbank.manifest import printable

__all__ = ["look_alikes", "require_two_classes", "safe_name", "told_apart"]

_LONGEST = 100
#: Characters without ink that are no format characters: joiners, selectors, fillers, the blank of Braille.
_INKLESS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def safe_name(text: str) -> str:
    """Return `text` as a folder name of letters, digits, ``.``, ``_`` and ``-``.

    Examples
    --------
    >>> safe_name("my photos (2024)"), safe_name(".."), safe_name("café")
    ('my-photos-2024', 'dataset', 'caf')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST].strip("-.") or "dataset"


def require_two_classes(labels: Iterable[str | None], where: str) -> None:
    """Raise `DatasetError` unless `labels` name at least two classes."""
    present = sorted({label for label in labels if label is not None})
    if not present:
        raise DatasetError(f"{where} has no labelled image; a classifier needs at least two classes")
    if len(present) == 1:
        raise DatasetError(
            f"{where} has only one class, '{printable(present[0])}'; a classifier needs at least two"
        )


def look_alikes(labels: Iterable[str]) -> list[tuple[str, ...]]:
    r"""Return the groups of labels that a person cannot tell apart, or only by upper and lower case.

    Examples
    --------
    >>> look_alikes(["Cat", "dog", "cat ", "bird", "dog\u200b"])
    [('Cat', 'cat '), ('dog', 'dog\u200b')]
    """
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(_seen(label), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def told_apart(labels: Sequence[str]) -> list[str]:
    """Return labels in quotes, with the codes of their characters where the eye sees no difference."""
    shown = [f"'{printable(one)}'" for one in labels]
    visible = {unicodedata.normalize("NFC", _INKLESS.sub("", one)) for one in shown}
    return shown if len(visible) == len(shown) else [ascii(one) for one in labels]


def _seen(label: str) -> str:
    """Return what is left of a label without case, form and characters that show nothing."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    inked = "".join(" " if char.isspace() else char for char in _INKLESS.sub("", text))
    return " ".join("".join(char for char in inked if unicodedata.category(char) not in ("Cf", "Cc")).split())
