"""What commands share: options of several, results on standard output, everything else on standard error."""

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
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from featbank import __version__
from featbank.errors import FeatbankError, InvalidInputError

if TYPE_CHECKING:
    from featbank.engines import RayEngine

__all__ = [
    "MANY_MACHINES",
    "Address",
    "CacheDir",
    "CpusPerTask",
    "DataRoot",
    "Device",
    "EngineName",
    "GpusPerTask",
    "Json",
    "Layout",
    "NamingCommand",
    "RunsDir",
    "Seed",
    "SkipEmptyClasses",
    "counted",
    "dashed",
    "engine_of",
    "human_bytes",
    "human_count",
    "human_date",
    "human_time",
    "known_backbones",
    "known_cuts",
    "known_heads",
    "known_runs",
    "known_studies",
    "options",
    "or_ends",
    "print_json",
    "print_table",
    "progress_bar",
    "say",
    "show_log",
    "split_commas",
    "version",
]


def _heads() -> Iterable[str]:
    from featbank.heads.catalogue import names

    return names()


def _metrics() -> Iterable[str]:
    from featbank.metrics import catalogue

    return catalogue.names()


def _figures() -> Iterable[str]:
    from featbank.plots import FIGURES

    return FIGURES


_NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "{heads}": _heads,
    "{metrics}": _metrics,
    "{figures}": _figures,
}


class NamingCommand(TyperCommand):
    """A command in whose help ``{heads}``, ``{metrics}`` and ``{figures}`` stand for the names there are."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options of the command."""
        found: list[Any] = super().get_params(ctx)
        for one in found:
            for word, names in _NAMES.items():
                if word in (getattr(one, "help", None) or ""):
                    one.help = one.help.replace(word, ", ".join(names()))
        return found


# What a shell may put in, see --install-completion; what they need is imported when they are asked.


def known_backbones(incomplete: str) -> list[str]:
    """Return the backbones that begin so."""
    from featbank.backbones import names

    return [one for one in names() if one.startswith(incomplete)]


def known_cuts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the cuts that begin so: of the bank, or of a backbone whose table needs no torch."""
    from featbank._cache import banks_folder
    from featbank.backbones import get_spec, names
    from featbank.banks import Bank, BankStore

    try:
        if "bank" in ctx.params:
            store = BankStore(banks_folder(ctx.params.get("cache_dir")))
            # an option without its value ends the reading of a line before words are dealt out to arguments
            bank = ctx.params["bank"] or next(iter(ctx.args), None)
            found: Sequence[str] = Bank.open(store.resolve(bank)).cuts
        else:
            backbone = ctx.params.get("backbone")
            found = get_spec(backbone).cut_names if backbone in names() else ()
    except (FeatbankError, OSError):
        return []
    return [one for one in found if one.startswith(incomplete)]


def known_heads(incomplete: str) -> list[str]:
    """Return the heads that begin so."""
    return [one for one in _heads() if one.startswith(incomplete)]


def known_studies(incomplete: str) -> list[str]:
    """Return the studies that begin so."""
    from featbank.pipeline import study_names

    return [one for one in study_names() if one.startswith(incomplete)]


def known_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the cache that begin so, newest first; a cache that cannot be read has none."""
    from featbank._cache import runs_folder

    try:
        folders = sorted(runs_folder(ctx.params.get("cache_dir")).glob("*/run.json"), reverse=True)
    except (FeatbankError, OSError):
        return []
    return [one for one in ("last", *(file.parent.name for file in folders)) if one.startswith(incomplete)]


CacheDir = Annotated[
    str | None,
    typer.Option(
        "--cache-dir",
        metavar="PATH",
        help="Where banks and runs live (default: $FEATBANK_CACHE, else ./cache); banks also in s3://bucket/prefix.",
    ),
]
RunsDir = Annotated[
    str | None,
    typer.Option(
        "--cache-dir", metavar="PATH", help="Where runs live (default: $FEATBANK_CACHE, else ./cache)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
DataRoot = Annotated[str | None, typer.Option(metavar="PATH", help="Where torchvision datasets lie.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:N; the best there is by default.")
]
Seed = Annotated[int, typer.Option("--random-state", "--seed", help="Seed of everything random.")]
Layout = Annotated[
    str | None,
    typer.Option(
        help="What a folder's levels are: class, split/class, class/split, any/class ('any' says nothing); "
        "found out by default."
    ),
]
SkipEmptyClasses = Annotated[
    bool, typer.Option("--skip-empty-classes", help="Go on without classes that have no readable image.")
]
BatchSize = Annotated[
    int | None, typer.Option(help="Images that go through the network together; by default memory decides.")
]
Decode = Annotated[
    str, typer.Option(help="Where JPEGs are decoded: cpu (exact pixels), cuda (nvJPEG, a few steps off).")
]
#: Panel of the help: what one machine needs none of.
MANY_MACHINES = "On many machines"
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="local (this process) or ray (featbank\\[ray]).", rich_help_panel=MANY_MACHINES
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="--engine ray: auto (the cluster this machine is a node of; the default), local (this machine "
        "alone), or HOST[:PORT] of the head.",
        rich_help_panel=MANY_MACHINES,
    ),
]
CpusPerTask = Annotated[
    int | None,
    typer.Option(help="--engine ray: cores of one task (default: 1).", rich_help_panel=MANY_MACHINES),
]
GpusPerTask = Annotated[
    float | None,
    typer.Option(
        help="--engine ray: GPUs of one task, or a part of one (default: 0).", rich_help_panel=MANY_MACHINES
    ),
]


def engine_of(name: str, address: str | None, cpus: int | None, gpus: float | None) -> RayEngine | None:
    """Return the cluster that options name, or None for this machine.

    Raises
    ------
    InvalidInputError
        If there is no such engine, or an option is for another.
    """
    if name not in ("local", "ray"):
        raise InvalidInputError(f"--engine {name!r} is not one of local, ray")
    given = {"address": address, "cpus_per_task": cpus, "gpus_per_task": gpus}
    asked = {option: value for option, value in given.items() if value is not None}
    if name == "local":
        for option, value in asked.items():
            raise InvalidInputError(
                f"--{option.replace('_', '-')} {value} is for a cluster; add --engine ray, or leave it out"
            )
        return None
    from featbank.engines import RayEngine

    return RayEngine(**asked)  # type: ignore[arg-type]  # each is of the type its option has


def split_commas(values: list[str] | None) -> list[str]:
    """Flatten ``--cut fc7 --cut block4_pool,block5_pool`` to one list, without repeats.

    Examples
    --------
    >>> split_commas(["fc7", "block4_pool, fc7"])
    ['fc7', 'block4_pool']
    """
    parts = [part.strip() for value in values or [] for part in value.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


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


def dashed(token: str) -> str:
    """Return an option or command as it is spelled, so that others are understood too."""
    return token.replace("_", "-")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Push each image dataset once through a pretrained backbone, answer everything else from the bank."""
    show_log(verbose)


def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)
