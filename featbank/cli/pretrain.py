"""``featbank pretrain``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from featbank.cli._options import Json, Layout, Seed, SkipEmptyClasses
from featbank.cli._output import human_time, print_json, progress_bar, say

__all__ = ["pretrain"]


def pretrain(
    data: Annotated[
        str, typer.Argument(help="A dataset with train and test images, e.g. CIFAR-10 as folders.")
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="PATH", help="Folder for weights, model card and checkpoint."),
    ],
    split: Annotated[
        str | None, typer.Option(help="As for extract; needed if the data has no train/test of its own.")
    ] = None,
    layout: Layout = None,
    skip_empty_classes: SkipEmptyClasses = False,
    override_split: Annotated[
        bool,
        typer.Option("--override-split", help="Let --split replace the split that the data has itself."),
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 45,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd (momentum 0.9) or adam.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.1,
    annealing: Annotated[str, typer.Option(help="cosine, inverse-time or constant.")] = "cosine",
    warmup_epochs: Annotated[float, typer.Option(help="Epochs over which the learning rate rises.")] = 2.0,
    weight_decay: Annotated[float, typer.Option(help="Of the convolution and linear weights.")] = 5e-4,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target spread over all classes.")
    ] = 0.1,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    crop_padding: Annotated[int, typer.Option(help="Pixels around an image before a random crop.")] = 4,
    cutout: Annotated[int, typer.Option(help="Side in pixels of a square painted over; 0 for none.")] = 8,
    averaged_epochs: Annotated[
        int, typer.Option(help="Keep the mean of the weights after so many last epochs; 0 for the last.")
    ] = 0,
    initial_weights: Annotated[
        str | None, typer.Option(metavar="PATH", help="A minivgg .safetensors file to start from.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    random_state: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train minivgg from scratch; an interrupted training goes on from its checkpoint.

    Example: featbank pretrain cifar10/ --output weights/
    """
    from featbank.pretraining import PretrainSettings
    from featbank.pretraining import pretrain as run

    settings = PretrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        annealing=annealing,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        flip=flip,
        crop_padding=crop_padding,
        cutout=cutout,
        averaged_epochs=averaged_epochs,
        precision=precision,
        random_state=random_state,
    )

    finished = 0

    def told(entry: dict[str, float]) -> None:
        nonlocal finished
        finished = int(entry["epoch"])
        say(
            f"epoch {entry['epoch']:.0f} of {epochs}: loss {entry['train_loss']:.3f}, "
            f"train {entry['train_accuracy']:.4f}, test {entry['test_accuracy']:.4f}, "
            f"{human_time(entry['duration_s'])}"
        )

    with progress_bar("pretrain", "steps") as progress:
        result = run(
            data,
            output=output,
            settings=settings,
            initial_weights=initial_weights,
            split=split,
            layout=layout,
            skip_empty_classes=skip_empty_classes,
            override_split=override_split,
            device=device,
            on_step=lambda step, steps: progress(finished * steps + step, epochs * steps),
            on_epoch=told,
        )
    if as_json:
        print_json(asdict(result))
    else:
        typer.echo(f"weights        {result.weights}")
        typer.echo(f"model card     {result.card}")
        typer.echo(f"test accuracy  {result.test_accuracy:.4f}")
