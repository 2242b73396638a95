"""``featbank demo``."""

from __future__ import annotations

import sys
import time

import typer

from featbank.cli._options import CacheDir, Json
from featbank.cli._output import human_time, print_json, progress_bar, say
from featbank.cli.fit import noted_not_warned, print_curve, print_notes

__all__ = ["demo"]

_CUTS = ("block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_pool")
_TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 4.0)


def demo(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Handwritten digits through minivgg at five cuts, softmax and MLP heads, 4 to 32 samples per class.

    Needs no network: the images come with scikit-learn, the weights with featbank.

    Example: featbank demo --cache-dir somewhere
    """
    from featbank.extraction import extract
    from featbank.fitting import fit_heads

    started = time.perf_counter()
    say("1 of 3: push 1,797 digits once through minivgg and keep what comes out at five pools and the logits")
    with progress_bar("extract", "images") as progress:
        extracted = extract(
            "digits", backbone="minivgg", cuts=[*_CUTS, "logits"], cache_dir=cache_dir, progress=progress
        )
    say(f"       {extracted.pushed} pushed, {extracted.skipped} were there already")
    say("2 of 3: softmax and MLP heads on each pool, 4 to 32 samples per class, five draws each")
    with noted_not_warned(), progress_bar("fit", "heads") as progress:
        depth = fit_heads(
            extracted.bank,
            cuts=_CUTS,
            heads=("softmax", "mlp"),
            samples_per_class="4..32",
            repeats=5,
            name="demo-depth",
            command=sys.argv,
            cache_dir=cache_dir,
            progress=progress,
        )
    say("3 of 3: a softmax head on the network's own softmax, at five temperatures, from the stored logits")
    with noted_not_warned(), progress_bar("fit", "heads") as progress:
        warm = fit_heads(
            extracted.bank,
            cuts=("softmax",),
            heads=("softmax",),
            temperatures=_TEMPERATURES,
            samples_per_class="4..32",
            repeats=5,
            name="demo-temperature",
            command=sys.argv,
            cache_dir=cache_dir,
            progress=progress,
        )
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
    fits = len(depth.result.fits) + len(warm.result.fits)
    typer.echo(f"\n{extracted.pushed} images pushed, {fits} heads fitted in {human_time(duration_s)}")
    typer.echo(f"the curve: {depth.figures['curve']}")
