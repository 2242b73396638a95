"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

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
    "engine_of",
    "known_backbones",
    "known_cuts",
    "known_heads",
    "known_runs",
    "known_studies",
    "split_commas",
]


def _heads() -> Iterable[str]:
    from featbank.heads import catalogue

    return catalogue.names()


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
