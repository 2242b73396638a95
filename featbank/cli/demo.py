"""``featbank demo``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from featbank.cli._terminal import CacheDir, Json, counted, human_time, print_json, progress_bar, say
from featbank.cli.fit import noted_not_warned, print_curve, print_notes

if TYPE_CHECKING:
    from featbank.banks import Bank
    from featbank.fitting import FittedRun

__all__ = ["demo"]

_CUTS = ("block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_pool")
_TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 4.0)


def demo(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Handwritten digits through minivgg at five cuts, softmax and MLP heads, 4 to 32 samples per class.

    Needs no network: the images come with scikit-learn, the weights with featbank. A second demo pushes and
    fits nothing again.

    Example: featbank demo --cache-dir somewhere
    """
    from featbank.banks import open_bank
    from featbank.extraction import extract

    started = time.perf_counter()
    say("1 of 3: push 1,797 digits once through minivgg and keep what comes out at five pools and the logits")
    with progress_bar("extract", "images") as progress:
        extracted = extract(
            "digits", backbone="minivgg", cuts=[*_CUTS, "logits"], cache_dir=cache_dir, progress=progress
        )
    say(f"       {extracted.pushed} pushed, {extracted.skipped} were there already")
    bank = open_bank(extracted.bank)
    say("2 of 3: softmax and MLP heads on each pool, 4 to 32 samples per class, five draws each")
    depth = _fitted(bank, "demo-depth", cache_dir, {"cuts": _CUTS, "heads": ("softmax", "mlp")})
    say("3 of 3: a softmax head on the network's own softmax, at five temperatures, from the stored logits")
    options = {"cuts": ("softmax",), "heads": ("softmax",), "temperatures": _TEMPERATURES}
    warm = _fitted(bank, "demo-temperature", cache_dir, options)
    duration_s = time.perf_counter() - started
    if as_json:
        print_notes(depth)
        print_notes(warm)
        print_json(
            {
                "bank": extracted.bank,
                "pushed": extracted.pushed,
                "runs": [depth.run.path, warm.run.path],
                "curve": [one.to_dict() for result in (depth.result, warm.result) for one in result.points()],
                "figures": {**depth.figures, "temperature": warm.figures.get("temperature")},
                "duration_s": duration_s,
            }
        )
        return
    print_curve(depth)
    print_curve(warm)
    fits = sum(len(one.result.fits) - one.n_resumed for one in (depth, warm))
    said = f"{counted(extracted.pushed, 'image')} pushed, {counted(fits, 'head')} fitted"
    typer.echo(f"\n{said} in {human_time(duration_s)}")
    if any("still getting better" in note for one in (depth, warm) for note in one.result.notes):
        typer.echo("heads that were still getting better stop at 100 epochs: enough to see which cut is best")
    where = "" if cache_dir is None else f" --cache-dir {shlex.quote(cache_dir)}"
    typer.echo(f"the curve: {depth.figures['curve']}")
    typer.echo(f"next: featbank report {depth.run.name}{where}")


def _fitted(bank: Bank, name: str, cache_dir: str | None, options: Mapping[str, Any]) -> FittedRun:
    """Fit what the demo fits, unless a finished run of the very same is there."""
    from featbank.fitting import FittedRun, fit_heads
    from featbank.runs.store import runs_of_sweep, sweep_digest
    from featbank.sweep import SweepSettings
    from featbank.sweep.fitting import Sweep

    asked = {**options, "samples_per_class": "4..32", "repeats": 5}
    digest = sweep_digest(bank, name, Sweep(bank, SweepSettings(**asked)).settings.to_dict())
    run = next((one for one in runs_of_sweep(cache_dir, digest) if one.finished), None)
    if run is not None:
        say(f"       fitted before, in run {run.name}; 'featbank runs rm {run.name}' to fit them anew")
        result = run.result()
        figures = {one.stem: one for one in sorted((run.path / "figures").glob("*.png"))}
        return FittedRun(run, result, figures, len(result.fits))
    with noted_not_warned(), progress_bar("fit", "heads") as progress:
        return fit_heads(bank, name=name, command=sys.argv, cache_dir=cache_dir, progress=progress, **asked)
