"""``featbank bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featbank.cli._terminal import (
    BatchSize,
    Decode,
    Device,
    Json,
    Layout,
    Seed,
    human_bytes,
    human_count,
    human_time,
    print_json,
    print_table,
    progress_bar,
    split_commas,
)

if TYPE_CHECKING:
    from featbank.benchmark import BenchmarkResult, Spread

__all__ = ["bench", "print_benchmark"]


def bench(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of class folders, a CSV (path,label[,split]), torchvision:NAME, or digits."
        ),
    ] = "digits",
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="See 'featbank backbones'.")] = "minivgg",
    cut: Annotated[
        list[str] | None,
        typer.Option("--cut", "-c", help="Where to read; repeat it for more (default: before the logits)."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A torchvision weights name, a .safetensors or .pth file, or 'random'.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    compile: Annotated[
        str, typer.Option("--compile", help="Compile the network: auto (if these images repay it), on, off.")
    ] = "auto",
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Also run a plain script (eager, float32, whole network, hooks)."),
    ] = False,
    plain_workers: Annotated[int, typer.Option(help="Loading processes of the plain script.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds; each measures everything once.")] = 3,
    neighbours: Annotated[
        int, typer.Option(help="Busy loops that run beside everything that is measured.")
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Take N rows only, the classes in turn; 0 takes all (default: 512, on a card 8,192)."
        ),
    ] = None,
    layout: Layout = None,
    batch_size: BatchSize = None,
    device: Device = None,
    decode: Decode = "cpu",
    workers: Annotated[int | None, typer.Option(help="Decoding processes; one per core by default.")] = None,
    random_state: Seed = 0,
    data_root: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where torchvision datasets lie.")
    ] = None,
    cache_dir: Annotated[
        str | None,
        typer.Option(
            "--cache-dir",
            metavar="PATH",
            help="Whose disk to measure (default: $FEATBANK_CACHE, else ./cache, else temporary files).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure decoding, forward, writing and reading alone, the whole extraction, and the floor that follows.

    Example: featbank bench photos/ --backbone resnet18 --cut layer4 --baseline
    """
    from featbank._cache import cache_folder
    from featbank.benchmark import run_benchmark

    place = cache_folder(cache_dir)
    with progress_bar("bench", "measurements") as progress:
        result = run_benchmark(
            data,
            backbone=backbone,
            cuts=split_commas(cut) or _before_logits(backbone),
            weights=weights,
            precision=precision,
            compile=compile,
            limit=limit,
            repeats=repeats,
            batch_size=batch_size,
            workers=workers,
            device=device,
            decode=decode,
            baseline=baseline,
            plain_workers=plain_workers,
            neighbours=neighbours,
            random_state=random_state,
            data_root=data_root,
            layout=layout,
            # a cache that is not there yet is not made for a benchmark
            cache_dir=place if cache_dir is not None or place.is_dir() else None,
            progress=progress,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        print_benchmark(result)


def _before_logits(backbone: str) -> list[str]:
    from featbank.backbones import get_spec

    cuts = [cut.name for cut in get_spec(backbone).cuts if cut.derived_from is None and cut.name != "logits"]
    return cuts[-1:]


def print_benchmark(result: BenchmarkResult) -> None:
    """Print what was measured on, the rates, and the ratios, for people."""
    shapes = ", ".join(f"{cut} {'x'.join(map(str, shape))}" for cut, shape in result.cuts.items())
    typer.echo(
        f"{result.backbone} ({result.weights}), {human_count(result.macs)} multiply-adds to {shapes}, "
        f"{human_bytes(result.row_bytes)}/image"
    )
    unreadable = f" ({result.n_unreadable} more cannot be read)" if result.n_unreadable else ""
    typer.echo(
        f"{result.n_images} images of {result.data}{unreadable}, {result.image_size} pixels, batches of "
        f"{result.batch_size}, {len(result.rounds)} rounds"
    )
    typer.echo(
        f"{result.device_name} ({result.device}), {result.precision}, {result.threads} threads, "
        f"{result.workers} decoding; torch {result.versions['torch']}, {result.versions['decoder']}"
    )
    if result.neighbours:
        typer.echo(f"beside {result.neighbours} busy loops, the plain script too")
    typer.echo("")
    floor = (
        f"1 / (1/forward + 1/decode), forward by {result.forward_configuration}: they share the cores"
        if result.shared_cores
        else "the slowest of decode, forward, write"
    )
    rows = [
        _row("decode", result.decode_ips, "all workers, alone"),
        *(
            _row("forward", rate, f"{name}, batches in memory, alone")
            for name, rate in result.forward_configurations_ips.items()
        ),
        _row("write", result.write_ips, "shards, fsynced"),
        _row("read", result.read_ips, "random rows, warm"),
        _row("numpy.memmap", result.memmap_ips, "the same rows of the same files"),
        _row("end to end", result.end_to_end_ips, "a whole extraction, preparation and compiling apart"),
        _row("floor", result.floor_ips, floor),
    ]
    if result.plain_ips is not None:
        note = f"eager float32, whole network, {result.plain_workers} loading processes"
        rows.append(_row("plain script", result.plain_ips, note))
    print_table(("stage", "images/s", "min", "max", ""), rows, numeric=("images/s", "min", "max"))
    typer.echo("")
    typer.echo(f"end to end / floor     {_ratio(result.ratio_to_floor)}")
    if result.ratio_to_plain is not None:
        typer.echo(
            f"end to end / plain     {_ratio(result.ratio_to_plain)}; their features differ by "
            f"{result.plain_error:.1e} (relative L2)"
        )
    typer.echo(f"read / numpy.memmap    {_ratio(result.read_ratio_to_memmap)}")
    compiled = "nothing" if result.compile_s is None else human_time(result.compile_s)
    typer.echo(
        f"one extraction         {human_time(result.wait_s.median)}, of which preparation (weights, hashing, "
        f"proof of the precision) {human_time(result.setup_s.median)}, compiling {compiled}"
    )
    if result.eager_wait_s is not None:
        typer.echo(f"without compiling      {human_time(result.eager_wait_s.median)}")


def _row(stage: str, spread: Spread, note: str) -> tuple[str, ...]:
    return stage, *(_rate(value) for value in (spread.median, spread.min, spread.max)), note


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.min:.2f} to {spread.max:.2f})"
