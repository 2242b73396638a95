"""``featbank train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._options import CacheDir, Device, Json, Layout, SkipEmptyClasses
from featbank.cli._output import human_time, print_json, progress_bar, say
from featbank.errors import InvalidInputError
from featbank.metrics.catalogue import percent

if TYPE_CHECKING:
    from featbank.training import TrainResult

__all__ = ["train"]


def train(
    data: Annotated[
        str, typer.Argument(help="A dataset with train and test images, e.g. CIFAR-10 as folders.")
    ],
    network: Annotated[
        str | None,
        typer.Option("--network", help="A network to train from scratch; minivgg by default."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Another plan: --param kernels=5,5,3; repeat it for more."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", "-b", help="Instead: a backbone whose weights are trained further."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="The backbone's, as for extract.")
    ] = None,
    unfreeze: Annotated[
        str | None,
        typer.Option(help="Which of its layers move: every:N, N (the last N), none, all (the default)."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Any field of the recipe: --recipe rotation=20; repeat it for more."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd (momentum 0.9), adam or adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    lr_schedule: Annotated[str | None, typer.Option(help="cosine, inverse-time, step or constant.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the convolution and linear weights.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation accuracy.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images, in pixels.")] = None,
    initial_weights: Annotated[
        str | None, typer.Option(metavar="PATH", help="A .safetensors file of the network to start from.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Folder for what is left; by default one in the cache."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="As for extract; needed if the data has no train/test of its own.")
    ] = None,
    layout: Layout = None,
    skip_empty_classes: SkipEmptyClasses = False,
    override_split: Annotated[
        bool,
        typer.Option("--override-split", help="Let --split replace the split that the data has itself."),
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Take N images only, the classes in turn.")] = None,
    val: Annotated[
        float | None, typer.Option(help="Part of the training images to hold out for validation.")
    ] = None,
    train_on_val: Annotated[
        bool, typer.Option("--train-on-val", help="Train on the validation images too.")
    ] = False,
    random_state: Annotated[
        int | None,
        typer.Option("--random-state", "--seed", help="Seed of everything random; 0 by default."),
    ] = None,
    device: Device = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Train a network from scratch, or a backbone further; what is left is a backbone.

    A training that was interrupted goes on when the command is repeated.

    Example: featbank train cifar10/ --network own_net --epochs 20
    """
    from featbank.training import train as run

    changes: dict[str, Any] = _pairs(recipe, "--recipe")
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "lr_schedule": lr_schedule,
        "weight_decay": weight_decay,
        "patience": patience,
        "precision": precision,
        "random_state": random_state,
    }
    for name, value in given.items():
        if value is None:
            continue
        if name in changes:
            option = f"--{name.replace('_', '-')}"
            raise InvalidInputError(
                f"{option} {value} and --recipe {name}={changes[name]} say the same field; give one"
            )
        changes[name] = value

    def told(entry: dict[str, float]) -> None:
        scores = ", ".join(
            f"{name.removesuffix('_top1')} {value:.4f}"
            for name, value in entry.items()
            if name.endswith("_top1")
        )
        say(
            f"epoch {entry['epoch']:.0f}: loss {entry['train_loss']:.3f}, {scores}, "
            f"{human_time(entry['duration_s'])}"
        )

    with progress_bar("train", "steps") as progress:
        result = run(
            data,
            network=network,
            params=_pairs(param, "--param"),
            backbone=backbone,
            weights=weights,
            unfreeze=unfreeze,
            recipe=changes,
            image_size=image_size,
            initial_weights=initial_weights,
            output=output,
            split=split,
            layout=layout,
            skip_empty_classes=skip_empty_classes,
            override_split=override_split,
            limit=limit,
            val=val,
            train_on_val=train_on_val,
            device=device,
            cache_dir=cache_dir,
            say=say,
            on_step=progress,
            on_epoch=told,
        )
    drawn = _draw(result)
    if as_json:
        print_json(
            {
                "folder": result.folder,
                "weights": result.weights,
                "card": result.card,
                "figures": drawn,
                "sha256": result.sha256,
                "classes": result.classes,
                "scores": result.scores,
                "confusion": result.confusion.tolist(),
                "history": result.history,
                "epochs": len(result.history),
                "best_epoch": result.best_epoch,
                "stopped_early": result.stopped_early,
                "duration_s": result.duration_s,
                "reused": result.reused,
            }
        )
        return
    if result.reused:
        say("trained before")
    typer.echo(f"{'network':<14}{result.folder}")
    typer.echo(f"{'model card':<14}{result.card}")
    for name, file in drawn.items():
        typer.echo(f"{name:<14}{file}")
    for name, value in result.scores.items():
        if not name.endswith("loss"):
            typer.echo(f"{name.replace('_', ' '):<14}{percent(value, 2)}")
    typer.echo(f"\nit is a backbone: featbank extract DATA --backbone {result.folder}")
    typer.echo(f"its page: featbank report {result.folder}")


def _draw(result: TrainResult) -> dict[str, Path]:
    """Draw the course of a training, and which classes are taken for which, into its folder."""
    from featbank.plots import ConfusionDisplay, HistoryDisplay

    displays: dict[str, HistoryDisplay | ConfusionDisplay] = {"history": HistoryDisplay.from_training(result)}
    if result.confusion.size:  # else there are images of train alone
        displays["confusion"] = ConfusionDisplay(result.confusion, result.classes, title=result.folder.name)
    return {name: one.save(result.folder / f"{name}.png") for name, one in displays.items()}


def _pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    """Read NAME=VALUE; values are numbers, lists of numbers, true or false, else text."""
    found: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise InvalidInputError(f"{option} {text!r} is no NAME=VALUE")
        found[name.replace("-", "_")] = _value(value)
    return found


def _value(text: str) -> Any:
    """Return what a text means.

    Examples
    --------
    >>> _value("5,5,3"), _value("1e-3"), _value("true"), _value("elu"), _value("[[8, 1], [16, 2]]")
    ([5, 5, 3], 0.001, True, 'elu', [[8, 1], [16, 2]])
    """
    try:
        return json.loads(text if "," not in text or "[" in text else f"[{text}]")
    except ValueError:
        return text
