"""One self-contained HTML page of a run."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from featbank import _atomic
from featbank._cache import user_path
from featbank.datasets import Dataset
from featbank.errors import InvalidInputError
from featbank.manifest import printable, short_repr
from featbank.plots.chart import percent
from featbank.plots.style import page_style
from featbank.report import _facts
from featbank.report._close_up import close_up
from featbank.report._figures import Figure, run_figures, run_histories
from featbank.report._kept import Kept, kept_heads, table_rows
from featbank.report._source import RunSource
from featbank.report._svg import element, number, shown
from featbank.report.study import Comparison, Study, read_study
from featbank.runs import Run, open_run

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Report", "render_report", "write_report"]

#: File in the run folder.
REPORT_FILE = "report.html"
_TEMPLATES = ("page.html", "macros.html", "heads.html")
_SPLITS = {"": "test", "val_": "validation", "train_": "training"}
_EPOCHS = {"": "", "best_": " at the best epoch", "final_": " at the last epoch"}


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    size_bytes : int
        Its size.
    n_images : int
        Images embedded in it.
    remarks : tuple of str
        What could not be shown, and why.

    Examples
    --------
    >>> page = Report(Path("report.html"), size_bytes=312_000, n_images=24, remarks=())
    >>> f"{page.path}: {page.n_images} images, {page.size_bytes / 1000:.0f} kB"
    'report.html: 24 images, 312 kB'
    """

    path: Path
    size_bytes: int
    n_images: int
    remarks: tuple[str, ...]

    __repr__ = short_repr


def write_report(
    run: Run | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | Dataset | None = None,
    data_root: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """Write one self-contained HTML page about a run.

    The page needs no network and no other file: style, script, drawings and small copies of images are in
    it. The same run, bank and images give the same bytes.

    Parameters
    ----------
    run : Run, path, str or None
        The run, its folder, a part of its name, or None for the newest.
    output : path, optional
        The file, ending in ``.html`` or ``.htm``; ``report.html`` in the run folder by default.
    data : path, str or Dataset, optional
        Where the images are now, as `featbank.open_dataset` takes it; by default where they were extracted
        from. An image whose bytes have changed since is not shown.
    data_root : path, optional
        Folder of a torchvision dataset; ``./data`` by default.
    cache_dir : path, optional
        The cache in which to look for the run.

    Returns
    -------
    Report

    Raises
    ------
    RunNotFoundError, RunError
        If there is no such run, or a file of it is damaged.
    InvalidInputError
        If `output` is no HTML file, or `data_root` is given for what is no torchvision dataset.
    MissingDataError, DatasetError
        If the images are not at `data`, or not in `data_root`.
    CacheWriteError
        If the file cannot be written.

    Examples
    --------
    >>> import featbank
    >>> page = write_report(featbank.open_run(), "digits.html")
    >>> page.path.name, page.n_images > 0, page.remarks
    ('digits.html', True, ())
    """
    found = run if isinstance(run, Run) else open_run(run, cache_dir=cache_dir)
    path = found.path / REPORT_FILE if output is None else user_path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidInputError(f"cannot write a report to {printable(str(path))!r}; end it in .html")
    study = read_study(found)
    source = RunSource(found, data, data_root)
    text, n_images = _render(found, study, source)
    content = text.encode("utf-8")
    _atomic.make_folder(path.parent)
    _atomic.write_file(path, content)
    return Report(path, len(content), n_images, tuple(source.remarks()))


def render_report(run: Run, *, data: str | os.PathLike[str] | None = None) -> str:
    """Return the page of a run as text; see `write_report`.

    Raises
    ------
    RunError
        If a file of the run is damaged.
    """
    return _render(run, read_study(run), RunSource(run, data))[0]


def _render(run: Run, study: Study | None, source: RunSource) -> tuple[str, int]:
    heads = kept_heads(run)
    closely = close_up(run, heads, source) if heads else None
    if not heads:
        source.missing.append("No confusion matrix: the run kept no head; fit again with --save-heads best.")
    histories = run_histories(run, heads)
    listed = table_rows(heads, histories.n_epochs)
    drawn = run_figures(run)
    samples = _facts.samples(source)
    answer, further = _facts.answer(run)
    figures, tables = _facts.cost(run, source)
    style = page_style() + _asset("page.css") + _asset("heads.css")
    script = _asset("page.js") + _asset("heads.js")
    text = (
        _environment()
        .get_template("page.html")
        .render(
            run=run,
            study=study,
            title=(study.title if study else "") or f"{run.source['dataset']} · {run.source['backbone']}",
            question=(study.question if study else "") or _facts.question(run),
            answer=answer,
            further=further,
            warnings=_facts.warnings(run),
            contents=_contents(study, drawn, heads),
            first=drawn[:1],
            figures=drawn[1:],
            kept=listed,
            n_kept=len(heads),
            histories=histories,
            closely=closely,
            manifest=source.manifest,
            splits=_facts.splits(source.manifest) if source.manifest is not None else None,
            samples=samples,
            provenance=_facts.provenance(run, source),
            cost_figures=figures,
            cost_tables=tables,
            notes=_facts.notes(run, source),
            style=Markup(style),  # a file of ours
            script=Markup(script),  # a file of ours
            style_hash=_digest(style),
            script_hash=_digest(script),
        )
    )
    return text, len(samples) + (closely.n_images if closely else 0)


def _contents(study: Study | None, drawn: list[Figure], heads: list[Kept]) -> list[tuple[str, str]]:
    """Return names and places of the page's sections, in its order."""
    figures = [(one.title, f"h-{one.key}") for one in drawn]
    published = [("Published and measured", "h-published")]
    kept = [("Kept heads", "heads"), ("One head closely", "closely")]
    return [
        *figures[:1],
        *(published if study and (study.comparisons or study.claims) else []),
        *figures[1:],
        *(kept if heads else []),
        ("Data", "data"),
        ("Cost", "cost"),
        ("Provenance", "provenance"),
        ("Notes", "notes"),
    ]


def _asset(name: str) -> str:
    return (resources.files("featbank.report") / "assets" / name).read_text("utf-8")


def _digest(text: str) -> str:
    """Return the hash by which the page's content policy knows its one style and its one script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader({name: _asset(name) for name in _TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # every value a template prints, so that no name can bring a control character or a broken byte along
        finalize=shown,
    )
    environment.filters.update(comparison=_comparison, gauge=_gauge)
    return environment


def _metric(found: re.Match[str]) -> str:
    epoch, split, k = found.groups()
    return f"{_SPLITS[split]} top-{k}{_EPOCHS[epoch]}"


def _gauge(one: Comparison) -> Markup:
    """Return published and measured on a line from 0 to 100 %; nothing where there is no share."""
    known = [value for value in (one.published, one.measured) if isinstance(value, (int, float))]
    if not one.is_share or not known:
        return Markup("")
    line: dict[str, object] = {"y1": 8, "y2": 8}
    parts = [element("line", {"class": "track", "x1": 0, "x2": 140, **line})]
    if one.low is not None and one.high is not None:
        ends = {"x1": number(140 * one.low), "x2": number(140 * one.high)}
        parts.append(element("line", {"class": "between", **ends, **line}))
    for name, value in (("ours", one.measured), ("theirs", one.published)):
        if isinstance(value, (int, float)):
            parts.append(element("circle", {"class": name, "cx": number(140 * value), "cy": 8, "r": 4.5}))
    return element("svg", {"class": "gauge", "viewBox": "0 0 140 16", "aria-hidden": "true"}, *parts)


def _comparison(one: Comparison) -> dict[str, Any]:
    """Return the texts of one line of the published against the measured figures."""

    def spelt(value: float | str | None) -> str:
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        return percent(float(value), 2) if one.is_share else f"{value:.4g}"

    difference = one.difference
    if difference is None:
        gap = "–"
    else:
        gap = f"{100 * difference:+.2f} points" if one.is_share else f"{difference:+.4g}"
        gap = gap.replace("-", "−")
    metric = re.sub(r"\b(best_|final_|)(val_|train_|)top([15])\b", _metric, one.metric)
    interval = "" if one.low is None or one.high is None else f"{spelt(one.low)} – {spelt(one.high)}"
    return {
        "metric": metric,
        "published": spelt(one.published),
        "measured": spelt(one.measured),
        "interval": interval.replace(" % –", " –"),
        "difference": gap,
    }
