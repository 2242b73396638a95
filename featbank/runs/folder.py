"""One run folder: writing results into it as they arrive, and reading them back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank._registry import nearest
from featbank.errors import RunError, RunNotFoundError
from featbank.manifest import printable
from featbank.metrics import confusion_matrix, per_class_accuracy
from featbank.runs._growing import GrowingTables
from featbank.runs._kept import forget_kept, save_kept, with_null
from featbank.sweep import FitResult, Predictions, SweepGroup, SweepResult
from featbank.sweep.results import fit_id

__all__ = ["FORMAT", "RUN_FILE", "Run"]

FORMAT = 1
RUN_FILE, HISTORIES_FILE = "run.json", "histories.json"
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
        except OSError as error:
            raise RunError(
                f"{printable(str(file))!r} cannot be read ({error.strerror}): check its rights and the disk"
            ) from error
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

        Heads go first, ``run.json`` next, the lines of ``results.csv`` last: a fit that stands there is done,
        with all that belongs to it, and an interrupted sweep goes on behind it.

        Raises
        ------
        CacheWriteError
            If a file cannot be written.
        """
        entries = [save_kept(self.path, kept) for kept in group.kept]
        if any(kept.history for kept in group.kept):
            histories = self.histories() | {kept.name: kept.history for kept in group.kept if kept.history}
            plain = {name: with_null(history) for name, history in histories.items()}
            _atomic.write_json(self.path / HISTORIES_FILE, plain)
        gone = {*group.dropped, *(one["name"] for one in entries)}
        cuts = list(dict.fromkeys([*self.facts["cuts"], *(one.cut for one in group.fits)]))
        if entries or group.notes or cuts != self.facts["cuts"]:
            self.facts["cuts"] = cuts
            self.facts["notes"] = [*self.facts["notes"], *group.notes]
            self.facts["heads"] = [*(one for one in self.facts["heads"] if one["name"] not in gone), *entries]
            self.write()
        self._tables.append(group.fits, group.hits)
        for name in group.dropped:
            forget_kept(self.path, name)

    def take_up(self, now: datetime | None = None) -> SweepResult:
        """Prepare an interrupted run to be gone on with, and return what it has.

        Parameters
        ----------
        now : datetime.datetime, optional
            The time that is noted under ``continued`` in ``run.json``; now by default.

        Returns
        -------
        SweepResult
            Pass it as ``resume`` to `featbank.run_sweep`.

        Raises
        ------
        RunError
            If a file is damaged.
        CacheWriteError
            If a file cannot be written.
        """
        found = self.result()
        self._tables.replace(found.fits, found.hits)  # no new line must follow one that is not whole
        moment = (now or datetime.now()).astimezone().isoformat(timespec="seconds")
        self.facts["continued"] = [*self.facts.get("continued", []), moment]
        self.write()
        return found

    def finish(self, result: SweepResult) -> None:
        """Note that the sweep is done, with what it had to say.

        Raises
        ------
        CacheWriteError
            If ``run.json`` cannot be written.
        """
        order = {fit_id(fit): number for number, fit in enumerate(result.fits)}

        def place(entry: Mapping[str, Any]) -> int:
            key = entry["cut"], entry["head"], entry["temperature"]
            return order.get((key, entry["n_per_class"], entry["repeat"]), len(order))

        self._tables.replace(result.fits, result.hits)
        entries = sorted(self.facts["heads"], key=place)
        names = {entry["name"] for entry in entries}
        histories = {name: one for name, one in self.histories().items() if name in names}
        if histories or (self.path / HISTORIES_FILE).exists():
            in_order = {
                entry["name"]: histories[entry["name"]] for entry in entries if entry["name"] in histories
            }
            plain = {name: with_null(history) for name, history in in_order.items()}
            _atomic.write_json(self.path / HISTORIES_FILE, plain)
        self.facts.update(
            status="finished",
            cuts=list(result.cuts),
            notes=list(result.notes),
            heads=entries,
            rows=dict(result.n_rows),
            draws=dict(result.draws),
        )
        if result.near_duplicates:
            self.facts["near_duplicates"] = dict(result.near_duplicates)
        self.write()

    # reading ---------------------------------------------------------------------------------------

    @property
    def _tables(self) -> GrowingTables:
        return GrowingTables(self.path)

    @property
    def finished(self) -> bool:
        """Whether its sweep has come to its end."""
        return bool(self.facts["status"] == "finished")

    def fits(self) -> list[FitResult]:
        """Return the lines of ``results.csv`` as they stand there; raises `RunError` if it is damaged."""
        return self._tables.read_fits(growing=not self.finished)

    def result(self) -> SweepResult:
        """Return the fits of ``results.csv``, without heads; an interrupted run has those it came to.

        Raises
        ------
        RunError
            If ``results.csv`` or ``hits.csv`` is damaged.
        """
        facts, fits = self.facts, self.fits()
        keys = list(dict.fromkeys(fit.key for fit in fits))
        fits.sort(key=lambda fit: (keys.index(fit.key), fit.n_per_class, fit.repeat))
        # A run that was killed between its two files has fits of a cut that run.json does not name yet.
        cuts = dict.fromkeys([*facts["cuts"], *(fit.cut for fit in fits)])
        return SweepResult(
            fits,
            tuple(cuts),
            self.classes,
            notes=list(facts["notes"]),
            hits=self._tables.read_hits(),
            n_rows=dict(facts.get("rows", {})),
            draws=dict(facts.get("draws", {})),
            near_duplicates=dict(facts.get("near_duplicates", {})),
        )

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
            why = (
                "saved none of its heads, which are estimators of your own; fit one of featbank's as well"
                if self.heads()
                else "kept no head; fit again with --save-heads best"
            )
            raise RunError(f"run {printable(self.name)!r} {why}")
        return max(saved, key=lambda one: one["val_top1"] or 0.0)

    def entry(self, name: str | None = None) -> dict[str, Any]:
        """Return what `heads` says of one kept head.

        Parameters
        ----------
        name : str, optional
            Its name, or a part of it between hyphens that only one has (``"mlp"``); by default the best one,
            see `best_head`.

        Raises
        ------
        RunError
            If there is no such head, or several have that part in their names.
        """
        if name is None:
            return self.best_head()
        heads = self.heads()
        fitting = [one for one in heads if one["name"] == name]
        fitting = fitting or [one for one in heads if f"-{name}-" in f"-{one['name']}-"]
        if len(fitting) == 1:
            return fitting[0]
        known = nearest(name, [one["name"] for one in fitting or heads])
        where = f"'featbank runs info {printable(self.name)}' lists them"
        if fitting:
            raise RunError(
                f"head {name!r} is part of {len(fitting)} names: {known}; give more of one; {where}"
            )
        raise RunError(f"run {printable(self.name)!r} has no head {name!r}; it has {known}; {where}")

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

    def per_class_accuracy(self, name: str | None = None) -> dict[str, float]:
        """Return the share of each class's rows a kept head got right; the best head by default.

        Returns
        -------
        dict of str to float
            By class name, in the order of the classes; those without rows to judge by are left out.
        """
        shares = per_class_accuracy(self.confusion(name))
        return {
            one: float(share) for one, share in zip(self.classes, shares, strict=True) if math.isfinite(share)
        }

    def _json(self, name: str, default: Any) -> Any:
        file = self.path / name
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            return default
        except ValueError as error:
            raise RunError(f"{printable(str(file))!r} is damaged: {error}; run the command again") from error


def _floats(values: Any) -> NDArray[np.float64] | None:
    return None if values is None else np.asarray(values, dtype=np.float64)
