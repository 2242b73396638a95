"""From a TOML file to a study: every fault of the file is found before anything is run."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featbank._cache import user_path
from featbank._registry import nearest
from featbank.errors import InvalidInputError, MissingDataError
from featbank.manifest import printable
from featbank.pipeline._experiment import TABLES, read_experiment, unused_heads
from featbank.pipeline._parameters import figure_faults
from featbank.pipeline._table import Faults, Table
from featbank.pipeline.claims import CHECKS
from featbank.pipeline.study import Claim, Experiment, Figure, Study
from featbank.sweep.records import CURVE_METRICS

__all__ = ["find_study", "load_study", "study_names"]


def study_folders() -> list[Path]:
    """List the folders that hold studies: ``./pipelines``, and those that came with featbank."""
    package = Path(__file__).parents[1]
    # An installed wheel has them inside the package, a checkout beside it.
    found = [Path("pipelines"), package / "pipelines", package.parent / "pipelines"]
    return [one for one in found if one.is_dir()]


def study_names() -> list[str]:
    """List the names of the studies there are.

    Returns
    -------
    list of str
        Sorted; ``featbank run NAME`` runs one.
    """
    return sorted({file.stem for folder in study_folders() for file in folder.glob("*.toml")})


def find_study(study: str | os.PathLike[str]) -> Path:
    """Return the file of a study.

    Parameters
    ----------
    study : str or path
        A TOML file, or the name of one in ``./pipelines`` or among those that came with featbank.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    MissingDataError
        If there is none.
    """
    path = user_path(study)
    if path.is_file():
        return path
    text = os.fspath(study)
    for folder in study_folders():
        file = folder / f"{text.removesuffix('.toml')}.toml"
        if "/" not in text and file.is_file():
            return file
    raise MissingDataError(
        f"no study {printable(text)!r}; give a TOML file, or one of {nearest(Path(text).stem, study_names())}"
    )


def load_study(study: str | os.PathLike[str]) -> Study:
    """Read a study.

    Parameters
    ----------
    study : str or path
        See `find_study`.

    Returns
    -------
    Study

    Raises
    ------
    MissingDataError
        If there is no such file.
    InvalidInputError
        If the file is no TOML, or has faults: unknown keys, values of the wrong kind, names nobody knows. All
        are in one message.
    """
    path = find_study(study)
    shown = printable(str(path))
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{shown!r} is not TOML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise MissingDataError(f"cannot read {shown!r}: {error.strerror}") from error
    faults = Faults()
    found = _study(path, Table(values, "", faults), faults)
    if found is None or len(faults):
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InvalidInputError(f"{shown!r} has {count}: {'; '.join(faults)}")
    return found


def _study(path: Path, top: Table, faults: Faults) -> Study | None:
    title = top.text("title", "", required=True)
    question = top.text("question", "", required=True)
    differs = top.texts("differs")
    base = {name: top.take(name)[0] for name in TABLES}
    listed, _ = top.take("experiment")
    published, _ = top.take("published")
    top.close()
    if listed is None:
        listed = [{"name": path.stem}]
    if not isinstance(listed, list) or not listed:
        faults.add("experiment must be a list of tables, each under [[experiment]]")
        return None
    experiments = [
        read_experiment(one, number, base, path.stem, faults) for number, one in enumerate(listed, 1)
    ]
    known = [one for one in experiments if one is not None]
    if len(known) == len(experiments):
        unused_heads(base["heads"], known, faults)
    names = [one.name for one in known]
    for name in sorted({one for one in names if names.count(one) > 1}):
        faults.add(f"two experiments are called {name!r}")
    table = Table(published if published is not None else {}, "[published]", faults)
    report = table.text("report", "", required=True)
    # An experiment that could not be read has no lines to choose from: its own faults are enough.
    figures = _each(table, "figures", faults, lambda one: _figure(one, known, faults))
    claims = _each(table, "claims", faults, lambda one: _claim(one, known, faults))
    table.close()
    if len(faults):
        return None
    return Study(
        path.stem, path, title, question, tuple(known), report, tuple(figures), tuple(claims), differs
    )


def _each(table: Table, key: str, faults: Faults, read: Callable[[Table], Any]) -> list[Any]:
    listed, where = table.take(key, [])
    if not isinstance(listed, list):
        faults.add(f"{where} must be a list of tables, each under [[published.{key}]]")
        return []
    return [read(Table(one, f"{key} {number}:", faults)) for number, one in enumerate(listed, 1)]


def _figure(table: Table, experiments: list[Experiment], faults: Faults) -> Figure:
    experiment = _one_of(table, experiments, faults)
    found = Figure(
        label=table.text("label", "", required=True),
        value=table.number("value", 0.0, required=True),
        metric=table.choice("metric", CURVE_METRICS, "top1"),
        experiment=experiment.name if experiment else "",
        cut=_line(table, "cut", experiment.sweep.cuts if experiment else (), experiment, faults),
        head=_line(table, "head", experiment.sweep.heads if experiment else (), experiment, faults),
        n_per_class=_size(table),
        temperature=table.number("temperature"),
        what=table.choice("what", ("accuracy", "temperature"), "accuracy"),
    )
    if experiment is not None:
        figure_faults(found, experiment, table.where, faults)
    table.close()
    return found


def _size(table: Table) -> Any:
    """Take the size a figure or claim is of."""
    if isinstance(table.peek("n_per_class"), str):
        return table.choice("n_per_class", ("all",))
    return table.number("n_per_class")


def _one_of(table: Table, experiments: list[Experiment], faults: Faults) -> Experiment | None:
    """Take the experiment a figure is of; it goes without saying where there is one only."""
    names = [one.name for one in experiments]
    if "experiment" not in table:
        table.take("experiment")
        if len(experiments) > 1:
            faults.add(f"{table.where} lacks 'experiment'; known: {nearest('', names)}")
        return experiments[0] if len(experiments) == 1 else None
    name = table.choice("experiment", names)
    return next((one for one in experiments if one.name == name), None)


def _line(
    table: Table, key: str, known: tuple[str, ...], experiment: Experiment | None, faults: Faults
) -> str | None:
    """Take the cut or head a figure is of; it goes without saying where there is one only."""
    if experiment is None:
        table.take(key)
        return None
    if key not in table and len(known) > 1:
        table.take(key)
        faults.add(f"{table.where} lacks {key!r}; known: {nearest('', known)}")
        return None
    value: str | None = table.choice(key, known, known[0] if known else None)
    return value


def _claim(table: Table, experiments: list[Experiment], faults: Faults) -> Claim:
    names = [one.name for one in experiments]
    asked = table.texts("experiments", tuple(names))
    for name in asked:
        if names and name not in names:
            faults.add(f"{table.where} experiments: unknown {name!r}; known: {nearest(name, names)}")
    cuts = tuple(dict.fromkeys(cut for one in experiments for cut in one.sweep.cuts))
    heads = tuple(dict.fromkeys(head for one in experiments for head in one.sweep.heads))
    found = Claim(
        text=table.text("text", "", required=True),
        check=table.choice("check", tuple(CHECKS), "") or "",
        experiments=asked,
        metric=table.choice("metric", CURVE_METRICS, "top1"),
        cut=table.choice("cut", cuts) if experiments else table.take("cut")[0],
        head=table.choice("head", heads) if experiments else table.take("head")[0],
        n_per_class=_size(table),
    )
    if not found.check:
        faults.add(f"{table.where} lacks a check; known: {nearest('', CHECKS)}")
    table.close()
    return found
