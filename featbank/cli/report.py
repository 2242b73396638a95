"""``featbank report``."""

from __future__ import annotations

from typing import Annotated

import typer

from featbank.cli._terminal import DataRoot, Json, RunsDir, counted, human_bytes, known_runs, print_json, say

__all__ = ["report"]


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run's folder, its name or a part of it, or a training's; the newest run by default.",
            autocompletion=known_runs,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            metavar="PATH",
            help="An .html file (default: report.html in the folder).",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where the images are now, if they have moved.")
    ] = None,
    data_root: DataRoot = None,
    cache_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run, or about a training and those of its study.

    Example: featbank report RUN --out report.html
    """
    from featbank.report import write_report

    written = write_report(run, out, data=data, data_root=data_root, cache_dir=cache_dir)
    for remark in written.remarks:
        say(f"note: {remark}")
    if as_json:
        print_json(
            {
                "report": written.path,
                "size_bytes": written.size_bytes,
                "images": written.n_images,
                "notes": list(written.remarks),
            }
        )
    else:
        typer.echo(written.path)
        say(f"{human_bytes(written.size_bytes)}, {counted(written.n_images, 'image')}, opens without network")
