"""``featbank extract``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank._bucket import BucketPath
from featbank.cli._terminal import (
    MANY_MACHINES,
    Address,
    BatchSize,
    CacheDir,
    CpusPerTask,
    Decode,
    Device,
    EngineName,
    GpusPerTask,
    Json,
    Layout,
    Seed,
    SkipEmptyClasses,
    engine_of,
    human_bytes,
    human_time,
    known_backbones,
    known_cuts,
    print_json,
    progress_bar,
    say,
    split_commas,
)
from featbank.errors import InvalidInputError
from featbank.manifest import printable

if TYPE_CHECKING:
    from featbank.extraction import ExtractionPlan, ExtractionResult

__all__ = ["extract"]

#: Panels of the help, behind the everyday options.
_TABLE = "If the images stand in a CSV"
_PREPROCESSING = "How images are prepared, where not as the weights ask"
_COMPUTED = "How it is computed and stored"
#: So many class names are printed; a wrong reading of the folders shows in the first.
_SHOWN = 5


def extract(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of class folders or an archive of one, a CSV (path,label[,split]), a .txt of "
            "paths or addresses, .parquet, hf:NAME, webdataset:FILES, crops:FILE, torchvision:NAME, digits."
        ),
    ] = "digits",
    backbone: Annotated[
        str,
        typer.Option("--backbone", "-b", help="See 'featbank backbones'.", autocompletion=known_backbones),
    ] = "minivgg",
    cut: Annotated[
        list[str] | None,
        typer.Option(
            "--cut",
            "-c",
            help="Where to read, CUT[:POOLING], see 'featbank cuts'; repeat it for more, all come from one "
            "pass.",
            autocompletion=known_cuts,
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="Push each image once more, changed: hflip, vflip, rot10, zoom1.1, hflip+rot10; repeat it "
            "for more. Stored as CUT@VIEW."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A torchvision weights name, a file (state dict or checkpoint; FILE#teacher takes one of "
            "several networks in it), the folder of one or of its shards, or 'random'."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="28,4,8: first n per class to train, val, test. 0.7,0.1,0.2: by digest."),
    ] = None,
    override_split: Annotated[
        bool,
        typer.Option("--override-split", help="Let --split replace the split that the data has itself."),
    ] = False,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Images whose path gives the same text for it, such as 'patient[0-9]+', are one group and "
            "stay on one side of the split.",
        ),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            "--group",
            "--group-column",
            metavar="COLUMN",
            help="CSV: the column of groups.",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    path_column: Annotated[
        str | None,
        typer.Option(
            help="CSV: the column of paths (or images), if it is not called 'path'.", rich_help_panel=_TABLE
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="CSV: the column of classes, if it is not called 'label'.", rich_help_panel=_TABLE),
    ] = None,
    split_column: Annotated[
        str | None,
        typer.Option(
            help="CSV: the column of train, val, test, if it is not called 'split'; or 'none'.",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the input in pixels, instead of the weights' own.", rich_help_panel=_PREPROCESSING
        ),
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(help="weights (their own), squash, or contrast.", rich_help_panel=_PREPROCESSING),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="What weights of your own were trained with, for pixels in 0..1: 0.5,0.5,0.5.",
            rich_help_panel=_PREPROCESSING,
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Likewise.", rich_help_panel=_PREPROCESSING)
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            help="How images are resized: bilinear or bicubic; by default as the weights.",
            rich_help_panel=_PREPROCESSING,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_COMPUTED)
    ] = "auto",
    compile: Annotated[
        str,
        typer.Option(
            "--compile",
            help="Compile the network: auto (if the images to push repay it), on, off.",
            rich_help_panel=_COMPUTED,
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="What is stored: float16 or float32 (logits: always float32).", rich_help_panel=_COMPUTED
        ),
    ] = "float16",
    on_overflow: Annotated[
        str,
        typer.Option(
            "--on-overflow",
            help="Values beyond float16's 65504: error, float32 (for that cut) or clip (and count).",
            rich_help_panel=_COMPUTED,
        ),
    ] = "error",
    batch_size: BatchSize = None,
    decode: Decode = "cpu",
    limit: Annotated[int | None, typer.Option(help="Take N rows only, the classes in turn.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset in the cache.")] = None,
    layout: Layout = None,
    skip_empty_classes: SkipEmptyClasses = False,
    device: Device = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Decoding processes; one per core by default.", rich_help_panel=_COMPUTED),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            help="Batches a CPU computes at once, each on one core; one per core by default.",
            rich_help_panel=_COMPUTED,
        ),
    ] = None,
    random_state: Seed = 0,
    data_root: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where torchvision datasets and copies lie (default: $FEATBANK_DATA, else ./data).",
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is not there.")] = False,
    cache_dir: CacheDir = None,
    rehash: Annotated[
        bool,
        typer.Option("--rehash", help="Read and hash every image again, also files that did not change."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, push nothing.")] = False,
    images: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --dry-run: of N made-up photographs; no data, no weights."),
    ] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Images of a shard at most, of new cuts; by default what 64 MiB hold.",
            rich_help_panel=MANY_MACHINES,
        ),
    ] = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only",
            help="Plan for many machines, once; --shard i/N then pushes a part of it.",
            rich_help_panel=MANY_MACHINES,
        ),
    ] = False,
    slices: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --plan-only: for how many slices.", rich_help_panel=MANY_MACHINES
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/N",
            help="Push slice i of N of what was planned, by the same command.",
            rich_help_panel=MANY_MACHINES,
        ),
    ] = None,
    shards_left: Annotated[
        bool,
        typer.Option(
            "--shards-left", help="Say which slices are to be submitted again.", rich_help_panel=MANY_MACHINES
        ),
    ] = False,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish",
            help="Finish the cuts, if the last slice was killed before it did.",
            rich_help_panel=MANY_MACHINES,
        ),
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
    cpus_per_task: CpusPerTask = None,
    gpus_per_task: GpusPerTask = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when images were quarantined.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Push each image once through a backbone and keep what comes out at the cuts.

    Example: featbank extract photos/ --backbone vgg16 --cut block4_pool --cut fc7 --split 28,4,8
    """
    given = locals()
    from featbank.extraction import (
        ExtractionSettings,
        estimate,
        finish_plan,
        open_plan,
        plan,
        push,
        save_plan,
    )
    from featbank.extraction.extracting import plan_path, push_on

    part = _slice_asked(given)
    cluster = engine_of(engine, address, cpus_per_task, gpus_per_task)
    asked = {one.name: given[one.name] for one in fields(ExtractionSettings) if one.name in given}
    numbers = {"mean": _three("--mean", mean), "std": _three("--std", std)}
    settings = ExtractionSettings(
        **{**asked, **numbers, "cuts": split_commas(cut), "views": split_commas(view)}
    )
    if images is not None:
        if not dry_run:
            raise InvalidInputError(
                f"--images {images} is for --dry-run, which says what so many images would cost"
            )
        _print_plan(estimate(images, settings), as_json)
        return
    if shards_left:
        _print_left(plan_path(data, settings), slices, as_json)
        return
    if finish:
        result = finish_plan(plan_path(data, settings), device=device)
    else:
        with contextlib.ExitStack() as stack:
            if shard is None:
                todo = stack.enter_context(plan(data, settings, measure=dry_run))
            else:
                path, own = plan_path(data, settings), settings.options_of(open_plan)
                todo = stack.enter_context(open_plan(path, **own)).slice(*part)
            if dry_run:
                _print_plan(todo, as_json)
                return
            if slices is not None:
                _print_saved(todo, save_plan(todo, n_slices=slices), slices, as_json)
                return
            say(_said_of_plan(todo))
            with progress_bar("extract", "images") as progress:
                if cluster is None:
                    result = push(todo, progress=progress)
                else:
                    result = push_on(todo, cluster, progress=progress)
    if as_json:
        print_json(asdict(result))
    else:
        _print_result(result)
    if strict and result.quarantined:
        raise typer.Exit(1)


def _three(option: str, text: str | None) -> tuple[float, ...] | None:
    """Return three numbers; one stands for all channels."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 3):
        raise InvalidInputError(f"{option} {text!r} is not three numbers for red, green, blue: 0.5,0.5,0.5")
    return found * 3 if len(found) == 1 else found


def _slice_asked(given: Mapping[str, Any]) -> tuple[int, int]:
    """Check the options for many machines against each other; return what --shard says."""
    modes = [
        f"--{name.replace('_', '-')}"
        for name in ("dry_run", "plan_only", "shard", "shards_left", "finish")
        if given[name]
    ]
    if given["engine"] != "local":
        modes += [f"--engine {given['engine']}"] if modes != ["--dry-run"] else []
    if len(modes) > 1:
        raise InvalidInputError(f"{' and '.join(modes)} are given; each is a run of its own")
    if given["slices"] is not None and given["slices"] < 1:
        raise InvalidInputError(f"--slices {given['slices']} must be at least 1")
    if given["plan_only"] and given["slices"] is None:
        raise InvalidInputError("--plan-only needs --slices N: for how many slices, such as jobs of an array")
    if given["slices"] is not None and not given["plan_only"] and not given["shards_left"]:
        raise InvalidInputError(f"--slices {given['slices']} goes with --plan-only, --shard says it as i/N")
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given["shard"] or "1/1")
    if match is None:
        raise InvalidInputError(f"--shard {given['shard']!r} is not i/N, such as 3/32")
    return int(match[1]), int(match[2])


def _print_saved(plan: ExtractionPlan, path: Path, n_slices: int, as_json: bool) -> None:
    n_tasks = len(plan.tasks())
    if n_tasks < n_slices:
        say(
            f"{n_slices - n_tasks} of {n_slices} slices have nothing to push: there are {n_tasks} shards; "
            "--shard-rows N makes smaller ones, of new cuts"
        )
    if as_json:
        print_json({**plan.to_dict(), "plan": path, "slices": n_slices, "shards": n_tasks})
        return
    typer.echo(_said_of_plan(plan))
    typer.echo(f"plan         {path}")
    typer.echo(f"slices       {n_slices}, of {n_tasks} shards: --shard 1/{n_slices} to {n_slices}/{n_slices}")


def _print_left(path: Path, n_slices: int | None, as_json: bool) -> None:
    from featbank.banks import Bank
    from featbank.extraction import SavedPlan, slices_of, tasks_left

    plan, tasks = SavedPlan.read(path), tasks_left(path)
    n = n_slices if plan.n_slices is None else plan.n_slices
    if n is None:
        raise InvalidInputError("this was planned for any number of slices; say with --slices N for how many")
    plan.check_slices(n if n_slices is None else n_slices)
    left, bank = slices_of(tasks, n), Bank.open(path.parent, check="size")
    finished = not left and set(plan.shapes) <= set(bank.cuts)
    if as_json:
        print_json(
            {
                "plan": path,
                "slices": n,
                "left": left,
                "array": ",".join(one.partition("/")[0] for one in left),
                "shards": len(tasks),
                "images": sum(one.n_images for one in tasks),
                "finished": finished,
            }
        )
        return
    for one in left:
        typer.echo(one)
    if not left:
        say("every shard is there" if finished else "every shard is there; --finish finishes the cuts")


def _print_plan(plan: ExtractionPlan, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_dict())
    else:
        typer.echo(_said_of_plan(plan))


def _said_of_plan(plan: ExtractionPlan) -> str:
    sizes = ", ".join(f"{cut} {human_bytes(size)}" for cut, size in plan.cut_bytes.items())
    time_left = f"; about {human_time(plan.duration_s)}" if plan.duration_s is not None else ""
    copies = "".join(f", {n} to copy from bank {name}" for name, n in plan.to_copy.items())
    if plan.assumed:
        last = f"assumed: {'; '.join(plan.assumed)}"
    else:
        last = f"classes {_said_of_classes(plan.classes)}; splits {_said_of_splits(plan.splits)}"
    free = "" if isinstance(plan.bank, BucketPath) else f"; {human_bytes(plan.disk_free_bytes)} free"
    return f"{plan.to_push} of {plan.rows} images to push{copies}; to write: {sizes}{free}{time_left}\n{last}"


def _said_of_classes(classes: Sequence[str]) -> str:
    first = ", ".join(printable(one) for one in classes[:_SHOWN])
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return f"{len(classes)}: {first}{more}"


def _said_of_splits(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {split}" if split != "none" else f"{n} in no split" for split, n in splits.items())


def _print_result(result: ExtractionResult) -> None:
    typer.echo(f"bank         {result.bank}")
    for cut, shape in result.cuts.items():
        typer.echo(f"cut          {cut} {'x'.join(map(str, shape))}")
    typer.echo(f"classes      {_said_of_classes(result.classes)}")
    typer.echo(f"splits       {_said_of_splits(result.splits)}")
    typer.echo(
        f"rows         {result.rows}: {result.pushed} pushed, {result.skipped} skipped, "
        f"{result.quarantined} quarantined{f', {result.left} left to other slices' if result.left else ''}"
    )
    if result.quarantined:
        typer.echo(f"quarantine   {result.bank / 'quarantine.jsonl'}")
    typer.echo(f"time         {human_time(result.duration_s)}")
