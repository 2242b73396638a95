"""``featbank show ...``: pictures of what a backbone and a head do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank._cache import cache_folder, user_path
from featbank.cli._terminal import (
    CacheDir,
    DataRoot,
    Device,
    Json,
    Seed,
    known_cuts,
    print_json,
    progress_bar,
    split_commas,
)
from featbank.errors import InvalidInputError
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.backbones import Backbone

__all__ = ["app"]

app = typer.Typer(
    name="show",
    help="Draw what a backbone and a head do: filters, activations, dream, occlusion, cam, mistakes.",
    no_args_is_help=True,
)

BackboneName = Annotated[str, typer.Option("--backbone", "-b", help="See 'featbank backbones'.")]
Weights = Annotated[
    str | None, typer.Option(help="A torchvision weights name, a .safetensors or .pth file, or 'random'.")
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the input in pixels, instead of the weights' own.")
]
Cuts = Annotated[
    list[str] | None,
    typer.Option(
        "--cut",
        "-c",
        help="Which cuts; all of the backbone's table by default.",
        autocompletion=known_cuts,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "--output",
        "-o",
        metavar="PATH",
        help="A .png, .svg, .pdf or .eps file (default: figures/BACKBONE-KIND.png in the cache, or "
        "figures/KIND.png in the run).",
    ),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BACKBONE[=WEIGHTS]",
        help="Another network, or the same with other weights, drawn to the right; repeat it for more.",
    ),
]
RunName = Annotated[
    str, typer.Argument(help="A run's folder, its name or a part of it; the newest by default.")
]
Data = Annotated[str | None, typer.Option(help="Where the run's images are now, if they have moved.")]
Head = Annotated[str | None, typer.Option(help="A kept head; the best by validation accuracy by default.")]
Image = Annotated[
    str | None,
    typer.Argument(
        help="An image file, or the id of an image of the run's bank; the first test image the head gets "
        "right by default."
    ),
]
MovedWeights = Annotated[str | None, typer.Option(metavar="PATH", help="The weights file, if it has moved.")]


@app.command("filters")
def filters(
    backbone: BackboneName = "minivgg",
    weights: Weights = None,
    scaling: Annotated[
        str, typer.Option(help="shared (one scale), per-filter (each its own), or both.")
    ] = "both",
    most: Annotated[int, typer.Option(help="Filters at most.")] = 64,
    beside: Beside = None,
    random_state: Seed = 0,
    cache_dir: CacheDir = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Filters of the first convolution as RGB pictures.

    Example: featbank show filters --backbone my_training --beside alexnet --out filters.svg
    """
    from featbank.inspection import FiltersDisplay

    def draw(name: str, weights: str | None) -> tuple[Any, dict[str, Any]]:
        loaded = _load(name, weights, random_state)
        display = FiltersDisplay.from_backbone(loaded, scaling=scaling, most=most)  # type: ignore[arg-type]  # checked there
        return display, {"filters": display.n_filters, "shown": len(display.weights)}

    to = _check(out) or _picture(cache_dir, backbone, "filters")
    _finish(*_row(draw, backbone, weights, beside), to, as_json=as_json)


@app.command("activations")
def activations(
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="An image file; a handwritten digit of scikit-learn's by default."
        ),
    ] = None,
    backbone: BackboneName = "minivgg",
    weights: Weights = None,
    cut: Cuts = None,
    maps: Annotated[int, typer.Option(help="Maps per cut, strongest first.")] = 12,
    with_filters: Annotated[
        bool,
        typer.Option(
            "--filters/--no-filters", help="Show filters of the first convolution beside their maps."
        ),
    ] = True,
    image_size: ImageSize = None,
    transform: Annotated[str | None, typer.Option(help="weights (their own), squash, or contrast.")] = None,
    beside: Beside = None,
    random_state: Seed = 0,
    device: Device = None,
    cache_dir: CacheDir = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Feature maps of one image at the cuts, from input to output, and how many stay dark.

    Example: featbank show activations photo.jpg --cut block1_pool --cut block5_pool
    """
    from featbank.datasets import decode_image, list_images, open_dataset, read_image_file
    from featbank.errors import ImageDecodeError
    from featbank.inspection import ActivationsDisplay

    to = _check(out) or _picture(cache_dir, backbone, "activations")
    if image is None:
        digits = open_dataset("digits")
        data, name = digits.read(0), f"digits {printable(digits.ids[0])}"
    else:
        (file, *others) = list_images(image)
        if others:
            raise InvalidInputError(f"{printable(str(image))!r} is a folder; name one image")
        data, name = read_image_file(file), printable(user_path(image).name)
    try:
        decoded = decode_image(data)
    except ImageDecodeError as error:
        raise InvalidInputError(f"image {name!r} cannot be read: {error}") from error

    def draw(backbone: str, weights: str | None) -> tuple[Any, dict[str, Any]]:
        loaded = _load(backbone, weights, random_state, image_size, transform)
        display = ActivationsDisplay.from_image(
            loaded,
            loaded.preprocessing.apply_geometry(decoded),
            split_commas(cut) or None,
            filters=with_filters,
            maps=maps,
            device=device,
            title=f"{name} in {backbone} ({printable(loaded.weights)})",
        )
        return display, {"image": name if image is None else image, "cuts": display.facts()}

    _finish(*_row(draw, backbone, weights, beside), to, as_json=as_json)


@app.command("dream")
def dream(
    backbone: BackboneName = "minivgg",
    weights: Weights = None,
    cut: Cuts = None,
    channel: Annotated[
        list[int] | None,
        typer.Option(help="These channels of each cut; by default those of the highest gain."),
    ] = None,
    n: Annotated[int, typer.Option("--channels", "-n", help="Channels per cut.")] = 8,
    candidates: Annotated[int, typer.Option(help="How many channels of a cut are tried.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps of the gradient ascent.")] = 96,
    lr: Annotated[float, typer.Option(help="Length of a step, in units of the pixel range.")] = 0.06,
    jitter: Annotated[
        int | None, typer.Option(help="Largest random shift in pixels (default: size / 16).")
    ] = None,
    blur: Annotated[float, typer.Option(help="Standard deviation of the first blur in pixels.")] = 0.5,
    decay: Annotated[float, typer.Option(help="Share of the colour a step takes away.")] = 0.01,
    image_size: ImageSize = None,
    beside: Beside = None,
    random_state: Seed = 0,
    device: Device = None,
    cache_dir: CacheDir = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Inputs that excite a channel most, by gradient ascent from noise.

    Example: featbank show dream --cut block3_pool --cut logits --steps 200
    """
    from featbank.inspection import DreamDisplay

    to = _check(out) or _picture(cache_dir, backbone, "dream")

    def draw(backbone: str, weights: str | None) -> tuple[Any, dict[str, Any]]:
        loaded = _load(backbone, weights, random_state)
        with progress_bar("dream", "cuts") as progress:
            display = DreamDisplay.from_backbone(
                loaded,
                split_commas(cut) or None,
                channels=channel or None,
                n=n,
                candidates=candidates,
                steps=steps,
                lr=lr,
                jitter=jitter,
                blur=blur,
                decay=decay,
                image_size=image_size,
                random_state=random_state,
                device=device,
                progress=progress,
            )
        return display, {"cuts": display.facts()}

    _finish(*_row(draw, backbone, weights, beside), to, as_json=as_json)


@app.command("occlusion")
def occlusion(
    run: RunName = "last",
    image: Image = None,
    head: Head = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="The true class, where neither bank nor folder says it.")
    ] = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of the patch in pixels (default: size / 4).")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Pixels from place to place (default: patch / 3).")
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    weights: MovedWeights = None,
    device: Device = None,
    cache_dir: CacheDir = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """How the true class's probability changes as a patch slides over an image.

    Example: featbank show occlusion last photo.jpg --class cat
    """
    given = locals()
    from featbank.prediction import occlude

    _explain(occlude, "occlusion", given, {"patch": patch, "stride": stride})


@app.command("cam")
def cam(
    run: RunName = "last",
    image: Image = None,
    head: Head = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Evidence for this class; the one predicted by default.")
    ] = None,
    with_occlusion: Annotated[
        bool, typer.Option("--occlusion/--no-occlusion", help="Draw the occlusion map beside it.")
    ] = True,
    data: Data = None,
    data_root: DataRoot = None,
    weights: MovedWeights = None,
    device: Device = None,
    cache_dir: CacheDir = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Where the network looks: the last map before the head, weighted by the head (class activation map).

    Example: featbank show cam last photo.jpg --class cat
    """
    given = locals()
    from featbank.prediction import activation_map

    _explain(activation_map, "cam", given, {"occlusion": with_occlusion})


#: Options of `occlusion` and `cam` alike, that the functions behind them take.
_SHARED = ("head", "class_name", "data", "data_root", "weights", "device")


def _explain(draw: Callable[..., Any], kind: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Draw what a prediction on an image hangs on, by a function of `featbank.prediction`."""
    from featbank.runs import open_run

    to = _check(given["out"])
    opened = open_run(given["run"], cache_dir=given["cache_dir"])
    shared = {name: given[name] for name in _SHARED}
    with progress_bar("occlusion", "places") as progress:
        display = draw(opened, given["image"], **shared, **own, progress=progress)
    _finish(display, display.facts(), to or opened.figures / f"{kind}.png", as_json=given["as_json"])


@app.command("mistakes")
def mistakes(
    run: RunName = "last",
    head: Head = None,
    most: Annotated[int, typer.Option(help="How many images at most.")] = 24,
    data: Data = None,
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The test images a head gets wrong, with true and predicted class, worst first.

    Example: featbank show mistakes last --most 12 --out mistakes.svg
    """
    from featbank.inspection import MistakesDisplay
    from featbank.runs import open_run

    to = _check(out)
    opened = open_run(run, cache_dir=cache_dir)
    display = MistakesDisplay.from_run(opened, head=head, most=most, data=data, data_root=data_root)
    _finish(display, display.facts(), to or opened.figures / "mistakes.png", as_json=as_json)


def _picture(cache_dir: str | None, backbone: str, kind: str) -> Path:
    """Where the picture of a backbone goes, which belongs to no run: beside the runs, in the cache."""
    return cache_folder(cache_dir) / "figures" / f"{backbone}-{kind}.png"


def _check(out: str | None) -> Path | None:
    """Refuse a file that cannot be written before minutes are spent on what goes into it."""
    from featbank.plots.display import check_format

    path = None if out is None else user_path(out)
    if path is not None:
        check_format(path)
    return path


def _load(
    name: str,
    weights: str | None,
    random_state: int,
    image_size: int | None = None,
    transform: str | None = None,
) -> Backbone:
    from featbank.backbones import load_backbone

    return load_backbone(
        name, weights=weights, image_size=image_size, transform=transform, random_state=random_state
    )


def _row(
    draw: Callable[[str, str | None], tuple[Any, dict[str, Any]]],
    backbone: str,
    weights: str | None,
    beside: list[str] | None,
) -> tuple[Any, dict[str, Any]]:
    """Draw a network, and others beside it; return the display and what it says of itself."""
    from featbank.backbones import get_spec
    from featbank.inspection import BesideDisplay

    others = [
        (name, its_weights or None) for name, _, its_weights in (one.partition("=") for one in beside or [])
    ]
    for name, _ in others:
        get_spec(name)  # told before minutes are spent on the first
    display, facts = draw(backbone, weights)
    if not others:
        return display, facts
    drawn = [draw(*one) for one in others]
    told = [{"backbone": one, **its_facts} for one, (_, its_facts) in zip(beside or [], drawn, strict=True)]
    return BesideDisplay([display, *(other for other, _ in drawn)]), {**facts, "beside": told}


def _finish(display: Any, facts: dict[str, Any], path: Path, *, as_json: bool) -> None:
    """Draw, write, and say where."""
    written = display.plot().save(path)
    if as_json:
        print_json({"figure": written, **facts})
    else:
        typer.echo(written)
