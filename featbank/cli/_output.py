"""How commands talk: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = [
    "counted",
    "human_bytes",
    "human_count",
    "human_date",
    "human_time",
    "or_ends",
    "print_json",
    "print_table",
    "progress_bar",
    "say",
    "show_log",
]


_HALF_PAIR = re.compile("[\ud800-\udfff]")
#: What `warnings.formatwarning` puts around a message: place and category before, the source line after.
_WARNING = re.compile(r"^.*?:\d+: \w+: (.*?)\n(?:  [^\n]*\n)?$", re.DOTALL)


def say(text: str) -> None:
    """Write one line on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """Write one JSON object on standard output; NaN and infinities become null."""
    # In a path, a byte that is not UTF-8 stands as half a surrogate pair, which only an escape can carry.
    in_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_plain(value), ensure_ascii=not in_unicode, allow_nan=False)
    sys.stdout.write(_HALF_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: Sequence[str] = (),
    dispensable: Sequence[str] = (),
) -> None:
    """Print a table on standard output; columns named in `numeric` are aligned right.

    On a terminal that is too narrow those in `dispensable` are left out, the first of them first.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    def made(shown: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in shown:
            table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell for column, cell in zip(columns, row, strict=True) if column in shown))
        return table

    # A pipe has no width: let every line be as long as it needs, so that grep and cut work on it.
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False)
    shown, left = list(columns), list(dispensable)
    endless = Console(width=10_000)  # what a console measures is never wider than itself
    while left and endless.measure(made(shown)).maximum > console.width:
        shown.remove(left.pop(0))
    console.print(made(shown))
    if gone := [column for column in columns if column not in shown]:
        say(f"left out, for want of width: {', '.join(gone)}; a wider terminal, a pipe and --json have them")


def or_ends(cells: Iterable[str]) -> str:
    """Say what ends in cells are, where the heading speaks of half widths; see `mean_text`."""
    return " ([ends] where 0 or 100 % cuts it off)" if any(" [" in cell for cell in cells) else ""


def human_bytes(size_bytes: float) -> str:
    """Return a size for people.

    Examples
    --------
    >>> human_bytes(0), human_bytes(401_408), human_bytes(3.7e9)
    ('0 B', '401 kB', '3.70 GB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return (
                f"{size_bytes / factor:.3g} {unit}" if unit != "GB" else f"{size_bytes / factor:.2f} {unit}"
            )
    return f"{size_bytes:.0f} B"


def human_count(count: float) -> str:
    """Return a large number for people.

    Examples
    --------
    >>> human_count(15_470_000_000), human_count(512)
    ('15.5 G', '512')
    """
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f}"


def counted(n: int, noun: str) -> str:
    """Return a number of things for people.

    Examples
    --------
    >>> counted(1, "image"), counted(0, "image"), counted(1200, "shard")
    ('1 image', '0 images', '1200 shards')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


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


def human_time(duration_s: float) -> str:
    """Return a duration for people.

    Examples
    --------
    >>> human_time(0.52), human_time(75), human_time(7300)
    ('0.5 s', '1 min 15 s', '2 h 1 min')
    """
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def progress_bar(what: str, unit: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show progress on standard error: a bar on a terminal, elsewhere a line now and then.

    Yields
    ------
    callable
        Takes (done, total).
    """
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _rich_bar(what, unit) as update:
            yield update
    else:
        yield _PlainLines(what, unit)


class _PlainLines:
    """A line at the start, every ten seconds, and at the end."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._last < 10:
            return
        self._last = now
        elapsed = max(now - self._started, 1e-9)
        rate = done / elapsed
        left = (
            f", {human_time((total - done) / rate)} left"
            if 0 < done < total
            else f" in {human_time(elapsed)}"
        )
        say(f"{self._what}: {done} of {total} {self._unit}, {rate:.3g} {self._unit}/s{left}")


@contextlib.contextmanager
def _rich_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, rate="")
        started = time.monotonic()

        def update(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:.3g} {unit}/s")

        yield update


def show_log(verbose: bool) -> None:
    """Send the library's warnings (with `verbose`, also what it tells in passing) to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("featbank: %(message)s"))
    root = logging.getLogger("featbank")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.captureWarnings(True)
    warnings_log = logging.getLogger("py.warnings")
    warnings_handler = logging.StreamHandler(sys.stderr)
    warnings_handler.setFormatter(_OneLine())
    warnings_log.handlers[:] = [warnings_handler]
    warnings_log.propagate = False


class _OneLine(logging.Formatter):
    """A warning as one line, without the place in the source it came from."""

    def format(self, record: logging.LogRecord) -> str:
        said = _WARNING.sub(r"\1", record.getMessage())
        return f"featbank: {' '.join(said.split())}"
