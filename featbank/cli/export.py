"""``featbank export``."""

from __future__ import annotations

from typing import Annotated

import typer

from featbank.cli._terminal import CacheDir, Json, human_bytes, print_json, say
from featbank.manifest import printable

__all__ = ["export"]


def export(
    run: Annotated[
        str, typer.Argument(help="A run's folder, its name or a part of it, or 'last' for the newest.")
    ] = "last",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="The file; by default named after run and head, here."
        ),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="onnx (for ONNX Runtime) or exported-program (for torch alone).")
    ] = "onnx",
    head: Annotated[
        str | None,
        typer.Option(
            help="A kept head, or a unique part of its name ('featbank runs info' lists them); the best by "
            "validation accuracy by default."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="PATH", help="The weights file, if it has moved.")
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Write backbone and head as one file that needs no featbank, with a card: images in, probabilities out.

    Example: featbank export last --format onnx --output pets.onnx
    """
    from featbank.exporting import export_run

    card = export_run(run, output, format=format, head=head, weights=weights, cache_dir=cache_dir)
    if as_json:
        print_json(card)
        return
    size = card["input"]["shape"][1]
    typer.echo(f"{printable(str(card['path']))}  {human_bytes(card['size_bytes'])}")
    typer.echo(
        f"in          images, uint8, n x {size} x {size} x 3, RGB, after: {card['input']['before'][1]}"
    )
    typer.echo(f"out         {card['output']['what']}, float32, n x {len(card['classes'])}")
    typer.echo(f"card        {printable(str(card['path']))}.json")
    if "check" in card:
        typer.echo(f"checked     within {card['check']['largest_difference']:.1g} of 'featbank predict'")
    else:
        say("not checked against 'featbank predict': that needs onnxruntime (pip install 'featbank[export]')")
