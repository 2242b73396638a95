"""``featbank predict``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank._cache import networks_folder, user_path
from featbank.cli._terminal import Device, Json, RunsDir, known_runs, print_json, say
from featbank.errors import InvalidInputError
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.backbones import Backbone
    from featbank.runs import Run

__all__ = ["predict"]

#: How many classes of the run are named.
_SHOWN = 5


def predict(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder, its name or a part of it, or 'last' for the newest; or a network that "
            "'featbank train' left.",
            autocompletion=known_runs,
        ),
    ],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="Image files, and folders of them.")
    ] = None,
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
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Classify images with a fitted head, or a trained network.

    Top classes with probabilities, or the class where the head has none.

    Example: featbank predict last photo.jpg more-photos/
    """
    from featbank.backbones import load_backbone
    from featbank.prediction import predict as run_prediction
    from featbank.runs import open_run

    if not images:
        how = f"featbank predict last {shlex.quote(run)}" if user_path(run).exists() else "... RUN PATH"
        raise InvalidInputError(
            f"no image to classify beside {run!r}: put the run, or 'last', before the image: {how}"
        )
    by: Run | Backbone
    which: dict[str, Any]
    trained = _trained(run, cache_dir)
    if trained is not None:
        by = load_backbone(trained)
        answers = run_prediction(by, images, head=head, top=top, weights=weights, device=device)
        names, which = by.class_names or (), {"network": by.name}
        said = f"network {printable(by.name)}"
    else:
        by = open_run(run, cache_dir=cache_dir)
        chosen = by.entry(head)["name"]
        answers = run_prediction(by, images, head=chosen, top=top, weights=weights, device=device)
        names, which = by.classes, {"run": by.path, "head": chosen}
        said = f"run {printable(by.name)}, head {printable(chosen)}"
        if head is None and (unkept := by.unkept()):
            said += f" (the best, {printable(unkept)}, was not kept)"
    listed = ", ".join(map(printable, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    say(f"{said}, {len(names)} classes: {listed}")
    if top > 1 and any(one.error is None and one.probabilities is None for one in answers):
        say(f"this head has no probabilities: one class for each image, --top {top} does nothing")
    if as_json:
        print_json({**which, "classes": names, "predictions": [asdict(answer) for answer in answers]})
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


def _trained(name: str, cache_dir: str | None) -> str | None:
    """Return the folder of a training that is meant; None where a run is."""
    from featbank.backbones.trained import NETWORK_FILE

    for folder in (user_path(name), networks_folder(cache_dir) / name):
        if (folder / NETWORK_FILE).is_file():
            return f"{folder}/"  # which makes a path of it, and no name of a backbone
    return None
