"""Dates for people."""

from __future__ import annotations

from datetime import datetime

__all__ = ["human_date"]


def human_date(moment: float | str) -> str:
    """Return a time as the clock on the wall shows it; what is no time comes back as it is.

    Parameters
    ----------
    moment : float or str
        Seconds since 1970 (0 means nobody knows), or a time as ISO 8601 has it.

    Examples
    --------
    >>> human_date(0), human_date("yesterday"), len(human_date(1.7e9))
    ('', 'yesterday', 16)
    """
    if not moment:
        return ""
    try:
        at = datetime.fromisoformat(moment) if isinstance(moment, str) else datetime.fromtimestamp(moment)
    except (OverflowError, OSError, ValueError):
        return str(moment)
    return f"{at.astimezone():%Y-%m-%d %H:%M}"
