"""One self-contained HTML page of a run, or of trainings."""

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
from featbank._registry import nearest
from featbank.datasets import Dataset
from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.manifest import printable, short_repr
from featbank.metrics.catalogue import percent
from featbank.plots.chart import page_style
from featbank.report._content import Comparison, Content
from featbank.report._run import content_of_run
from featbank.report._source import RunSource
from featbank.report._svg import element, number, shown
from featbank.report._trainings import content_of_trainings
from featbank.runs import Run, open_run
from featbank.training.train import find_training, list_trainings

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Report", "render_report", "write_report"]

#: File in the folder of the run or the training.
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
    """Write one self-contained HTML page about a run, or about a training and the others of its study.

    The page needs no network and no other file: style, script, drawings and small copies of images are in
    it. The same run, bank and images give the same bytes.

    Parameters
    ----------
    run : Run, path, str or None
        The run, its folder, a part of its name, or None for the newest; or the folder of a training, its name
        in the cache, or a part of it that only one has, and no run. The page of a training that belongs to a
        study shows its other trainings too.
    output : path, optional
        The file, ending in ``.html`` or ``.htm``; ``report.html`` in the folder by default.
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
        If there is no such run or training, several have that part in their names, or a file is damaged.
    InvalidInputError
        If `output` is no HTML file, `data_root` is given for what is no torchvision dataset, or `data` for a
        training, whose page shows no images.
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
    found = _meant(run, cache_dir)
    if isinstance(found, Run):
        folder = found.path
    else:
        folder = found
        if data is not None or data_root is not None:
            raise InvalidInputError(
                f"the page of a training shows no images, so data={str(data or data_root)!r} is for nothing; "
                "leave it out"
            )
    path = folder / REPORT_FILE if output is None else user_path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidInputError(f"cannot write a report to {printable(str(path))!r}; end it in .html")
    remarks: list[str] = []
    if isinstance(found, Run):
        source = RunSource(found, data, data_root)
        shown_here = content_of_run(found, source)
        remarks = source.remarks()
    else:
        shown_here = content_of_trainings(found)
    text = _render(shown_here)
    content = text.encode("utf-8")
    _atomic.make_folder(path.parent)
    _atomic.write_file(path, content)
    n_images = len(shown_here.samples) + (shown_here.closely.n_images if shown_here.closely else 0)
    return Report(path, len(content), n_images, tuple(remarks))


def _meant(run: Run | str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None) -> Run | Path:
    """Return the run, or the folder of the training, that somebody means."""
    if isinstance(run, Run):
        return run
    if run is None:
        return open_run(cache_dir=cache_dir)
    training = find_training(run, cache_dir)
    if training is not None:
        return training
    try:
        return open_run(run, cache_dir=cache_dir)
    except RunNotFoundError as error:
        text, known = os.fspath(run), {one.name: one for one in list_trainings(cache_dir)}
        part = [name for name in known if text and text in name]
        if len(part) == 1:
            return known[part[0]]
        if part:
            raise RunError(
                f"run={text!r} is part of the names of {len(part)} trainings: {nearest(text, part)}; "
                "give more of one"
            ) from error
        if not known or text == "last":
            raise
        raise RunNotFoundError(f"{error}; trainings are {nearest(text, known)}") from error


def render_report(run: Run, *, data: str | os.PathLike[str] | None = None) -> str:
    """Return the page of a run as text; see `write_report`.

    Raises
    ------
    RunError
        If a file of the run is damaged.
    """
    return _render(content_of_run(run, RunSource(run, data)))


def _render(content: Content) -> str:
    style = page_style() + _asset("page.css") + _asset("heads.css")
    script = _asset("page.js") + _asset("heads.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            vars(content),
            contents=content.contents,
            style=Markup(style),  # a file of ours
            script=Markup(script),  # a file of ours
            style_hash=_digest(style),
            script_hash=_digest(script),
        )
    )


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
