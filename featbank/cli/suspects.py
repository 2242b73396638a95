"""``featbank suspects``."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, fields
from typing import Annotated

import typer

from featbank._atomic import make_folder, write_file
from featbank._cache import cache_folder, user_path
from featbank.cli._terminal import CacheDir, DataRoot, Json, print_json, print_table, say
from featbank.errors import BankNotFoundError, MissingDataError

__all__ = ["suspects"]


def suspects(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[BANK|RUN]",
            help="A bank, or a run (its bank, and the cut of its best head), by folder or part of the name; "
            "the newest bank by default.",
        ),
    ] = None,
    cut: Annotated[
        str | None, typer.Option("--cut", "-c", help="Whose features (default: the deepest vector).")
    ] = None,
    folds: Annotated[int, typer.Option(help="Parts left out in turn.")] = 5,
    cosine: Annotated[float, typer.Option(help="From which two images are nearly alike.")] = 0.9,
    most: Annotated[int, typer.Option(help="Likely wrong labels to show.")] = 24,
    data: Annotated[str | None, typer.Option(help="Where the images are now, if they have moved.")] = None,
    data_root: DataRoot = None,
    random_state: Annotated[int, typer.Option("--random-state", "--seed", help="Seed of the folds.")] = 0,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="PATH", help="Write every image that another class is likelier for."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="PATH", help="A .png, .svg, .pdf or .eps file for the pictures."),
    ] = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Likely wrong labels with their pictures, images alike under two labels, odd images.

    Example: featbank suspects photos --csv relabel.csv
    """
    from featbank.banks import open_bank
    from featbank.inspection import RunImages, SuspectsDisplay, find_suspects
    from featbank.inspection.suspects import SuspectLabel
    from featbank.plots.display import check_format
    from featbank.runs import open_run

    picture = None if out is None else user_path(out)
    if picture is not None:
        check_format(picture)
    try:
        bank = open_bank(target, cache_dir=cache_dir)
    except BankNotFoundError:
        if target is None:
            raise
        run = open_run(target, cache_dir=cache_dir)
        bank = run.open_bank()
        if cut is None:
            cut = run.entry(None)["cut"]
    found = find_suspects(bank, cut, folds=folds, cosine=cosine, random_state=random_state)
    if csv_file is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([one.name for one in fields(SuspectLabel)])
        writer.writerows(astuple(one) for one in found.labels)
        make_folder(user_path(csv_file).parent)
        write_file(user_path(csv_file), text.getvalue().encode())
    picture = picture or cache_folder(cache_dir) / "figures" / f"{bank.path.parent.name}-suspects.png"
    try:
        images = RunImages(bank.manifest, bank.provenance, data, data_root=data_root)
        display = SuspectsDisplay.from_suspects(found, images, most=most, title=bank.path.parent.name)
    except MissingDataError as error:  # the answers are as good without pictures
        if data is not None:
            raise
        say(f"no pictures: {error}")
        display, written = SuspectsDisplay(found, [], []), None
    else:
        written = display.plot().save(picture)
    if as_json:
        print_json({"figure": written, **display.facts()})
        return
    typer.echo(f"\n{display.heading()}; the least probable label first\n")
    print_table(
        ("image", "split", "label", "likelier", "p(label)", "p(likelier)"),
        [
            (*names, f"{100 * p_label:.1f}", f"{100 * p_likelier:.1f}")
            for _, *names, p_label, p_likelier in map(astuple, found.labels[:most])
        ],
        numeric=("p(label)", "p(likelier)"),
    )
    for pair in found.pairs[:most]:
        one, other = (f"{name} ({label})" for name, label in zip(pair.ids, pair.labels, strict=True))
        typer.echo(f"alike       {one} ~ {other}: {pair.cosine:.3f}")
    for odd in found.odd[:6]:
        typer.echo(f"odd         {odd.id} ({odd.label}): mean cosine to the nearest {odd.cosine:.2f}")
    if written is not None:
        typer.echo(f"pictures    {written}")
