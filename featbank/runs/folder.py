"""One run folder: writing results into it as they arrive, and reading them back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank._registry import nearest
from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.manifest import printable
from featbank.metrics import confusion_matrix
from featbank.sweep import FitResult, KeptHead, Predictions, SweepGroup, SweepResult
from featbank.sweep.records import fits_from_csv, fits_to_csv

__all__ = ["FORMAT", "RUN_FILE", "Run"]

FORMAT = 1
RUN_FILE, RESULTS_FILE, HISTORIES_FILE = "run.json", "results.csv", "histories.json"
_REQUIRED = (
    "format",
    "name",
    "created",
    "status",
    "classes",
    "cuts",
    "heads",
    "parameters",
    "source",
    "notes",
)


class Run:
    """An opened run folder; comes from `create_run`, `Run.open` or `resolve_run`.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    facts : dict
        What ``run.json`` says.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self.facts = facts

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open the run in a folder.

        Raises
        ------
        RunNotFoundError
            If there is no run.
        RunError
            If ``run.json`` is damaged or of another format.
        """
        folder = Path(path)
        file = folder / RUN_FILE
        try:
            facts = json.loads(file.read_bytes().decode("utf-8", "surrogateescape"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFoundError(f"no run at {printable(str(folder))!r}: it has no {RUN_FILE}") from error
        except ValueError as error:
            raise RunError(f"{printable(str(file))!r} is damaged: {error}; run the command again") from error
        missing = [key for key in _REQUIRED if not isinstance(facts, dict) or key not in facts]
        if missing:
            raise RunError(
                f"{printable(str(file))!r} is damaged: it lacks {', '.join(missing)}; run the command again"
            )
        if facts["format"] != FORMAT:
            raise RunError(
                f"{printable(str(file))!r} has format {facts['format']!r}, this version reads {FORMAT}; "
                "run the command again"
            )
        return cls(folder, facts)

    def __repr__(self) -> str:
        return f"<Run {printable(self.name)!r}, {self.facts['status']}, {len(self.facts['heads'])} heads>"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self.facts["classes"])

    @property
    def source(self) -> dict[str, Any]:
        """Where its features come from, as JSON values.

        ``bank``, ``key_digest``, ``dataset``, ``backbone``, ``weights``, ``weights_path``,
        ``weights_sha256``, ``random_state``, ``transform``, ``image_size``, ``precision``, ``dtype``,
        ``batch_size``, ``provenance``.
        """
        return dict(self.facts["source"])

    @property
    def figures(self) -> Path:
        """Folder of its figures, made when it is asked for."""
        return _atomic.make_folder(self.path / "figures")

    # writing ---------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write ``run.json`` as `facts` has it, whole or not at all; raises `CacheWriteError`."""
        _atomic.write_json(self.path / RUN_FILE, self.facts)

    def add(self, group: SweepGroup) -> None:
        """Write what one group of a sweep gave; pass this as ``on_result`` to `featbank.sweep.run_sweep`.

        Heads go first, ``results.csv`` next, ``run.json`` last: what it names is there.

        Raises
        ------
        CacheWriteError
            If a file cannot be written.
        """
        entries = [self._save(kept) for kept in group.kept]
        fits = [*self._fits(), *group.fits]
        _atomic.write_file(self.path / RESULTS_FILE, fits_to_csv(fits).encode("utf-8", "surrogateescape"))
        histories = self.histories() | {kept.name: kept.history for kept in group.kept if kept.history}
        plain = {name: _with_null(history) for name, history in histories.items()}
        _atomic.write_json(self.path / HISTORIES_FILE, plain)
        self.facts["cuts"] = list(dict.fromkeys([*self.facts["cuts"], *(one.cut for one in group.fits)]))
        self.facts["heads"] = [*self.facts["heads"], *entries]
        self.write()

    def _save(self, kept: KeptHead) -> dict[str, Any]:
        from featbank.heads import save_head

        fit = kept.fit
        entry: dict[str, Any] = {
            "name": kept.name,
            "cut": fit.cut,
            "head": fit.head,
            "temperature": fit.temperature,
            "n_per_class": fit.n_per_class,
            "repeat": fit.repeat,
            "top1": fit.top1,
            "val_top1": fit.val_top1,
            "best_epoch": fit.best_epoch,
        }
        try:
            save_head(self.path / "heads" / kept.name, kept.estimator, facts=entry)
            entry["saved"] = True
        except InvalidInputError:  # an estimator of the caller's own, which featbank has no format for
            entry["saved"] = False
        answers = kept.predictions
        columns = {
            "rows": answers.rows,
            "y_true": answers.y_true,
            "y_pred": answers.y_pred,
            "p_true": answers.p_true,
            "p_pred": answers.p_pred,
        }
        plain = {name: None if one is None else one.tolist() for name, one in columns.items()}
        folder = _atomic.make_folder(self.path / "predictions")
        _atomic.write_json(folder / f"{kept.name}.json", {"split": answers.split, **plain})
        return entry

    def finish(self, result: SweepResult) -> None:
        """Note that the sweep is done, with what it had to say.

        Raises
        ------
        CacheWriteError
            If ``run.json`` cannot be written.
        """
        self.facts.update(status="finished", cuts=list(result.cuts), notes=list(result.notes))
        self.write()

    # reading ---------------------------------------------------------------------------------------

    def _fits(self) -> list[FitResult]:
        file = self.path / RESULTS_FILE
        try:
            return fits_from_csv(file.read_bytes().decode("utf-8", "surrogateescape"))
        except FileNotFoundError:
            return []
        except InvalidInputError as error:
            raise RunError(f"{printable(str(file))!r} is damaged: {error}; run the command again") from error

    def result(self) -> SweepResult:
        """Return the fits of ``results.csv``, without heads; an interrupted run has those it came to.

        Raises
        ------
        RunError
            If ``results.csv`` is damaged.
        """
        facts, fits = self.facts, self._fits()
        # A run that was killed between its two files has fits of a cut that run.json does not name yet.
        cuts = dict.fromkeys([*facts["cuts"], *(fit.cut for fit in fits)])
        return SweepResult(fits, tuple(cuts), self.classes, notes=list(facts["notes"]))

    def heads(self) -> list[dict[str, Any]]:
        """List the kept heads.

        Returns
        -------
        list of dict
            ``name``, ``cut``, ``head``, ``temperature``, ``n_per_class``, ``repeat``, ``top1``, ``val_top1``,
            ``best_epoch``, and ``saved``: whether it can be loaded.
        """
        return [dict(one) for one in self.facts["heads"]]

    def best_head(self) -> dict[str, Any]:
        """Return the entry of the saved head with the best validation accuracy; the first one without any.

        Raises
        ------
        RunError
            If no head was saved.
        """
        saved = [one for one in self.heads() if one["saved"]]
        if not saved:
            raise RunError(f"run {printable(self.name)!r} kept no head; fit again with --save-heads best")
        return max(saved, key=lambda one: one["val_top1"] or 0.0)

    def entry(self, name: str | None = None) -> dict[str, Any]:
        """Return what `heads` says of one kept head.

        Parameters
        ----------
        name : str, optional
            Its name; by default the best one, see `best_head`.

        Raises
        ------
        RunError
            If there is no such head.
        """
        if name is None:
            return self.best_head()
        for one in self.heads():
            if one["name"] == name:
                return one
        known = nearest(name, [one["name"] for one in self.facts["heads"]])
        raise RunError(f"run {printable(self.name)!r} has no head {name!r}; it has {known}")

    def load_head(self, name: str | None = None) -> Any:
        """Load a kept head; ``predict`` of it takes the flattened features of its cut.

        Parameters
        ----------
        name : str, optional
            Its name in `heads`; the best by default.

        Raises
        ------
        RunError
            If there is no such head, it was not saved, or its files are damaged.
        """
        from featbank.heads import load_head

        entry = self.entry(name)
        if not entry["saved"]:
            raise RunError(
                f"head {entry['name']!r} is an estimator of your own, which featbank does not save"
            )
        return load_head(self.path / "heads" / entry["name"])[0]

    def histories(self) -> dict[str, dict[str, list[float]]]:
        """Return loss and accuracy per epoch of each kept head that has epochs, by its name.

        A loss that is no number comes back as NaN.
        """
        found: dict[str, dict[str, list[float | None]]] = self._json(HISTORIES_FILE, {})
        return {
            name: {
                key: [math.nan if one is None else one for one in values] for key, values in history.items()
            }
            for name, history in found.items()
        }

    def predictions(self, name: str | None = None) -> Predictions:
        """Return what a kept head answered on the test rows; the best head by default.

        Raises
        ------
        RunError
            If there is no such head, or its file is missing or damaged.
        """
        entry = self.entry(name)
        file = f"predictions/{entry['name']}.json"
        found = self._json(file, None)
        if found is None:
            raise RunError(f"run {printable(self.name)!r} lacks {file}; run the command again")
        try:
            codes = [np.asarray(found[key], dtype=np.int64) for key in ("rows", "y_true", "y_pred")]
            shares = [_floats(found[key]) for key in ("p_true", "p_pred")]
            return Predictions(found["split"], codes[0], codes[1], codes[2], shares[0], shares[1])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{printable(str(self.path / file))!r} is damaged; run the command again"
            ) from error

    def confusion(self, name: str | None = None) -> NDArray[np.int64]:
        """Return the confusion matrix of a kept head, (n_classes, n_classes); the best by default."""
        answers = self.predictions(name)
        return confusion_matrix(answers.y_true, answers.y_pred, len(self.classes))

    def _json(self, name: str, default: Any) -> Any:
        file = self.path / name
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            return default
        except ValueError as error:
            raise RunError(f"{printable(str(file))!r} is damaged: {error}; run the command again") from error


def _with_null(history: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """Make a history fit for JSON, which knows neither NaN nor infinity: a loss that is no number is null."""
    return {key: [one if math.isfinite(one) else None for one in values] for key, values in history.items()}


def _floats(values: Any) -> NDArray[np.float64] | None:
    return None if values is None else np.asarray(values, dtype=np.float64)
