"""``featbank predict``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from featbank.cli._options import CacheDir, Device, Json
from featbank.cli._output import print_json, say
from featbank.manifest import printable

__all__ = ["predict"]

#: How many classes of the run are named.
_SHOWN = 5


def predict(
    run: Annotated[
        str, typer.Argument(help="A run's folder, its name or a part of it, or 'last' for the newest.")
    ],
    images: Annotated[list[str], typer.Argument(metavar="PATH", help="Image files, and folders of them.")],
    head: Annotated[
        str | None,
        typer.Option(
            help="A kept head, or a unique part of its name ('featbank runs info' lists them); the best by "
            "validation accuracy by default."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to give.")] = 5,
    weights: Annotated[
        str | None, typer.Option(metavar="PATH", help="The weights file, if it has moved.")
    ] = None,
    device: Device = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Classify images with a fitted head: top classes with probabilities, or the class where it has none.

    Example: featbank predict last photo.jpg more-photos/
    """
    from featbank.prediction import predict as run_prediction
    from featbank.runs import open_run

    opened = open_run(run, cache_dir=cache_dir)
    chosen = opened.entry(head)["name"]
    answers = run_prediction(
        opened,
        images,
        head=chosen,
        top=top,
        weights=weights,
        device=device,
    )
    names = opened.classes
    listed = ", ".join(map(printable, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    say(f"run {printable(opened.name)}, head {printable(chosen)}, {len(names)} classes: {listed}")
    if as_json:
        print_json(
            {
                "run": opened.path,
                "head": chosen,
                "classes": names,
                "predictions": [asdict(answer) for answer in answers],
            }
        )
    else:
        for answer in answers:
            if answer.error is not None:
                said = f"cannot be read: {answer.error}"
            elif answer.probabilities is None:
                said = printable(answer.classes[0])
            else:
                pairs = zip(answer.classes, answer.probabilities, strict=True)
                said = "  ".join(f"{printable(name)} {100 * share:.1f}%" for name, share in pairs)
            typer.echo(f"{printable(str(answer.path))}  {said}")
    if any(answer.error is not None for answer in answers):
        raise typer.Exit(1)
