"""Names: of datasets (safe as a folder name) and of classes (at least two)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from featbank.errors import DatasetError
from featbank.manifest import printable

__all__ = ["require_two_classes", "safe_name"]

_LONGEST = 100


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
