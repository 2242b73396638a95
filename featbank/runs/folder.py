"""One run folder: results written into it as they arrive and read back, and what its JSON files may say."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from annotated_types import Ge, Gt, Le, Len, Lt
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, FailFast, Strict, model_validator

from featbank import _atomic
from featbank._cache import banks_folder, user_path
from featbank._registry import nearest
from featbank._validation import (
    CONFIG,
    Count,
    FileName,
    Json,
    Line,
    Natural,
    Positive,
    Share,
    check,
    check_values,
    parse_json,
    plain_file,
    short,
)
from featbank.banks import BankKey
from featbank.banks.documents import MANIFEST_FILE
from featbank.banks.shards import read_manifest
from featbank.errors import (
    BankError,
    BankNotFoundError,
    InvalidInputError,
    RunError,
    RunNotFoundError,
)
from featbank.manifest import Manifest, printable
from featbank.metrics import ClassScores, confusion_matrix
from featbank.metrics.catalogue import scores_of_counts
from featbank.sampling import size_order
from featbank.sweep import Fit, Predictions, SweepResult
from featbank.sweep.records import HITS_FILE, RESULTS_FILE, GrowingTables, Key, damaged, rank, with_val
from featbank.sweep.results import answer_html, ranked
from featbank.sweep.spec import groups_of_judged, splits_for

if TYPE_CHECKING:
    import pandas as pd

    from featbank.banks import Bank

__all__ = ["FORMAT", "RUN_FILE", "STUDY_FILE", "Run"]

FORMAT = 1
RUN_FILE, HISTORIES_FILE = "run.json", "histories.json"
#: Of a run, or a training, that belongs to a study.
STUDY_FILE = "study.json"
#: Folders and files of a run; none of them may be a link, or writing would follow it.
_PARTS = (
    MANIFEST_FILE,
    "heads",
    "predictions",
    "figures",
    RESULTS_FILE,
    HITS_FILE,
    HISTORIES_FILE,
    STUDY_FILE,
    ".lock",
)
_MOST_BYTES, _MOST_HEAD_BYTES = 256 * 2**20, 16 * 2**30

T = TypeVar("T")


class Run:
    """An opened run folder; comes from `create_run`, `Run.open` or `open_run`.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    facts : dict
        What ``run.json`` says.
    cache_dir : path-like or None
        The cache, the only place where its bank is looked for; None for the default one.

    Examples
    --------
    >>> import featbank
    >>> run = featbank.open_run()
    >>> run.finished, len(run.fits()), [(one["cut"], one["head"]) for one in run.heads()][:2]
    (True, 24, [('block3_pool', 'logreg'), ('block3_pool', 'ncm')])
    >>> answers = run.predictions()  # of the best head, on the test rows
    >>> head, cut = run.load_head(run.entry()["name"]), run.entry()["cut"]
    >>> y = head.predict(run.open_bank().features(cut, answers.rows))
    >>> f"{(y == answers.y_pred).mean():.0%}"
    '100%'
    """

    def __init__(
        self, path: Path, facts: dict[str, Any], cache_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.path = path
        self.facts = facts
        self.cache_dir = cache_dir
        self._read: tuple[object, SweepResult] | None = None
        self._best: tuple[SweepResult, Key | None] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> Run:
        """Open the run in a folder.

        Parameters
        ----------
        path : path-like
            The folder; nothing outside of it is read for what it says.
        cache_dir : path-like or None
            The cache, the only place where its bank is looked for; None for the default one.

        Raises
        ------
        RunNotFoundError
            If there is no run.
        RunError
            If ``run.json`` is damaged or of another format.
        """
        folder = user_path(path)
        try:
            facts = _read_json(folder, RUN_FILE)
            if isinstance(facts, dict) and facts.get("format", FORMAT) != FORMAT:
                raise RunError(
                    f"{printable(str(folder / RUN_FILE))!r} has format {short(facts['format'])}, this "
                    f"version reads {FORMAT}; run the command again"
                )
            check(RunFacts, check_values(facts))
            for name in _PARTS:
                if (folder / name).is_symlink():
                    raise ValueError(f"{name} beside it is a link, and a run has its files in its own folder")
        except RunError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFoundError(f"no run at {printable(str(folder))!r}: it has no {RUN_FILE}") from error
        except (ValueError, OSError) as error:
            raise damaged(folder, RUN_FILE, error) from error
        return cls(folder, facts, cache_dir)

    def __repr__(self) -> str:
        return f"<Run {printable(self.name)!r}, {self.facts['status']}, {len(self.facts['heads'])} heads>"

    def _repr_html_(self) -> str:
        """Show the run where the last line of a notebook cell is one: its answer, and its curves by size."""
        source = self.source
        return answer_html(f"{source['dataset']}, {source['backbone']}: run {self.name}", self.result())

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

    @cached_property
    def manifest(self) -> Manifest:
        """The rows of the bank as they were when the run was made; rows of predictions are rows of this.

        Raises
        ------
        RunError
            If its file is missing or damaged.
        """
        try:
            plain_file(self.path, MANIFEST_FILE, _MOST_HEAD_BYTES)
            stored = read_manifest(self.path)
        except FileNotFoundError:
            stored = None
        except (BankError, OSError) as error:
            raise RunError(
                f"the manifest of run {printable(self.name)!r} is damaged; run the command again"
            ) from error
        if stored is None:
            raise RunError(f"run {printable(self.name)!r} lacks its manifest; run the command again")
        return stored.manifest

    @property
    def figures(self) -> Path:
        """Folder of its figures, made when it is asked for."""
        return _atomic.make_folder(self.path / "figures")

    def open_bank(self, *, check: Literal["auto", "size", "sha256"] = "auto") -> Bank:
        """Open the bank its features come from: the one of that name and key in the cache, and no other.

        Parameters
        ----------
        check : {"auto", "size", "sha256"}, default="auto"
            See `featbank.banks.Bank.open`.

        Raises
        ------
        BankNotFoundError
            If the cache has no such bank. A path that a run names is not opened: whoever trusts the bank
            there takes it in first.
        """
        from featbank.banks import Bank

        source = self.source
        said, root = source["bank"], banks_folder(self.cache_dir)
        place = root.joinpath(*Path(said).parts[-2:])
        try:
            there = place.parent.parent == root and ".." not in place.parts[-2:] and place.is_dir()
        except OSError:  # no name that a folder can have
            there = False
        shown = f"the bank of run {printable(self.name)!r}, {printable(said)!r}, is not in the cache"
        if not there:
            raise BankNotFoundError(
                f"{shown} {printable(str(root.parent))!r}; name its cache with --cache-dir, or take the bank "
                f"in with 'featbank banks import {printable(said)}'"
            )
        bank = Bank.open(place, check=check)
        if bank.key.digest() != source["key_digest"]:
            raise BankNotFoundError(f"{shown}: another bank is called {bank.name!r} there now")
        return bank

    def provenance(self) -> dict[str, Any]:
        """Return what its bank says of where the images are and how they were read; {} if it is gone."""
        try:
            return dict(self.open_bank(check="size").provenance)
        except BankError:
            return {}

    # writing ---------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write ``run.json`` as `facts` has it, whole or not at all; raises `CacheWriteError`."""
        _atomic.write_json(self.path / RUN_FILE, self.facts)

    def add(self, fits: Sequence[Fit]) -> None:
        """Write fits that were finished; pass this as ``on_result`` to `featbank.sweep.run_sweep`.

        Heads go first, ``run.json`` next, the lines of ``results.csv`` last: a fit that stands there is done,
        with all that belongs to it, and an interrupted sweep goes on behind it.

        Raises
        ------
        CacheWriteError
            If a file cannot be written.
        """
        kept = [fit for fit in fits if fit.estimator is not None]
        drawn = self.facts["parameters"].get("draw", "images")
        unit = {"unit": drawn} if drawn != "images" else {}
        entries = [_save_kept(self.path, fit, self.classes) | unit for fit in kept]
        for entry, fit in zip(entries, kept, strict=True):
            found = fit.validated(next(iter(self._metrics), None))
            if found is not None:
                entry["val_metric"] = found
        added = {fit.name: fit.history for fit in kept if fit.history}
        if added:
            plain = {name: _with_null(history) for name, history in (self.histories() | added).items()}
            _atomic.write_json(self.path / HISTORIES_FILE, plain)
        dropped = [fit.replaces for fit in kept if fit.replaces]
        gone = {*dropped, *(one["name"] for one in entries)}
        cuts = list(dict.fromkeys([*self.facts["cuts"], *(one.cut for one in fits)]))
        if entries or cuts != self.facts["cuts"]:
            self.facts["cuts"] = cuts
            self.facts["heads"] = [*(one for one in self.facts["heads"] if one["name"] not in gone), *entries]
            self.write()
        self._tables.append(fits, self._metrics)
        for name in dropped:
            _forget_kept(self.path, name)

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
        self._tables.replace(found.fits, self._metrics)  # no new line must follow one that is not whole
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
        order = {fit.id: number for number, fit in enumerate(result.fits)}

        def place(entry: Mapping[str, Any]) -> int:
            return order.get((_key_of(entry), entry["n_per_class"], entry["repeat"]), len(order))

        self._tables.replace(result.fits, self._metrics)
        entries = sorted(self.facts["heads"], key=place)
        names = {entry["name"] for entry in entries}
        histories = {name: one for name, one in self.histories().items() if name in names}
        if histories or (self.path / HISTORIES_FILE).exists():
            in_order = {
                entry["name"]: histories[entry["name"]] for entry in entries if entry["name"] in histories
            }
            plain = {name: _with_null(history) for name, history in in_order.items()}
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
        if result.untrained:
            self.facts["untrained"] = dict(result.untrained)
        self.write()

    # reading ---------------------------------------------------------------------------------------

    @property
    def _tables(self) -> GrowingTables:
        return GrowingTables(self.path)

    @property
    def _metrics(self) -> list[str]:
        """Names of the other scores that its sweep was asked for."""
        return with_val(self.facts["parameters"].get("metrics", []))

    @property
    def finished(self) -> bool:
        """Whether its sweep has come to its end."""
        return bool(self.facts["status"] == "finished")

    def fits(self) -> list[Fit]:
        """Return the lines of ``results.csv`` as they stand there; raises `RunError` if it is damaged."""
        return self._tables.read_fits(growing=not self.finished)

    def result(self) -> SweepResult:
        """Return the fits of ``results.csv``, without heads; an interrupted run has those it came to.

        Read once for as long as the files stay as they are.

        Raises
        ------
        RunError
            If ``results.csv`` or ``hits.jsonl`` is damaged.
        """
        stamp = (self.finished, self._tables.stamp())
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, self._read_result()
        return self._read[1]

    def _read_result(self) -> SweepResult:
        facts, fits, hits = self.facts, self.fits(), self._tables.read_hits()
        fits = [replace(fit, hits=hits.get(fit.id)) for fit in fits]
        folded = "folds" in facts.get("draws", {}) or facts["parameters"].get("folds") is not None
        judged = {((one.split, at[2]) if folded else one.split, len(one.top1)) for at, one in hits.items()}
        if len({of for of, _ in judged}) < len(judged):
            raise damaged(self.path, HITS_FILE, "fits were judged by different numbers of rows")
        keys = list(dict.fromkeys(fit.key for fit in fits))
        fits.sort(key=lambda fit: (keys.index(fit.key), size_order(fit.n_per_class), fit.repeat))
        # A run that was killed between its two files has fits of a cut that run.json does not name yet.
        cuts = dict.fromkeys([*facts["cuts"], *(fit.cut for fit in fits)])
        return SweepResult(
            fits,
            tuple(cuts),
            self.classes,
            notes=list(facts["notes"]),
            n_rows=dict(facts.get("rows", {})),
            draws=dict(facts.get("draws", {})),
            near_duplicates=dict(facts.get("near_duplicates", {})),
            untrained=dict(facts.get("untrained", {})),
            judged_groups=self._judged_groups(),
        )

    def _judged_groups(self) -> tuple[NDArray[np.int32], ...]:
        """Return the group of each row that is judged, by the rows and the settings that were kept."""
        if not self.facts.get("draws", {}).get("grouped"):
            return ()
        given = self.facts["parameters"]
        names = ("untrained_classes", "folds", "val", "val_per_class", "draw", "random_state")
        splits, _ = splits_for(self.manifest, **{name: given[name] for name in names if name in given})
        return groups_of_judged(self.manifest, splits)

    def to_frame(self) -> pd.DataFrame:
        """Return one line per fit as a pandas data frame, columns as in ``results.csv``.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        RunError
            If ``results.csv`` or ``hits.jsonl`` is damaged.
        """
        return self.result().to_frame()

    def heads(self) -> list[dict[str, Any]]:
        """List the kept heads.

        Returns
        -------
        list of dict
            ``name``, ``cut``, ``head``, ``temperature``, ``n_per_class``, ``fewest_per_class``,
            ``most_per_class``, ``repeat``, ``top1``, ``val_top1``, ``best_epoch``, and ``saved``: whether it
            can be loaded.
        """
        return [dict(one) for one in self.facts["heads"]]

    def best_head(self) -> dict[str, Any]:
        """Return the entry of the saved head that answers: of the best curve, at its largest size.

        The best curve is the one that `featbank.answer_of` names: by the mean over draws. Of its draws it
        is the best by the validation rows. Where that curve kept no head, as one of an estimator of your own,
        it is the best of all that were saved; `unkept` says so.

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
        metric, best = next(iter(self._metrics), None), self._best_key()

        def merit(entry: dict[str, Any]) -> tuple[Any, ...]:
            score = rank(metric, entry.get("val_metric"), entry["val_top1"])
            answers = _key_of(entry) == best
            return answers, size_order(entry["n_per_class"]) if answers else (), *score, -entry["repeat"]

        return max(saved, key=merit)

    def unkept(self) -> str:
        """Name the best curve, "svm on fc7", if no head of it was saved; else return ""."""
        best = self._best_key()
        if best is None or any(one["saved"] and _key_of(one) == best for one in self.heads()):
            return ""
        cut, head, temperature = best
        return f"{head} on {cut}" + ("" if temperature is None else f" at T={temperature:g}")

    def _best_key(self) -> Key | None:
        result = self.result()
        if self._best is None or self._best[0] is not result:
            compared = ranked(result)
            self._best = result, None if compared is None else compared.curves[0].key
        return self._best[1]

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
        from featbank.heads.head import load_head

        entry = self.entry(name)
        if not entry["saved"]:
            raise RunError(
                f"head {entry['name']!r} is an estimator of your own, which featbank does not save"
            )
        file = f"heads/{entry['name']}"
        try:
            for suffix in (".json", ".safetensors"):
                plain_file(self.path, f"{file}{suffix}", _MOST_HEAD_BYTES)
        except FileNotFoundError:
            pass  # load_head says which
        except OSError as error:
            raise damaged(self.path, file, error) from error
        head = load_head(self.path / file)[0]
        classes = head.classes_
        if classes.dtype.kind != "i" or not 0 <= classes.min() <= classes.max() < len(self.classes):
            raise damaged(self.path, file, f"its classes are not among the {len(self.classes)} of the run")
        return head

    def histories(self) -> dict[str, dict[str, list[float]]]:
        """Return loss and accuracy per epoch of each kept head that has epochs, by its name.

        A loss that is no number comes back as NaN.
        """
        found = self.checked(HISTORIES_FILE, check_histories)
        if found is None:
            return {}
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
        found = self.checked(file, partial(check, Answers))
        if found is None:
            raise RunError(f"run {printable(self.name)!r} lacks {file}; run the command again")
        if max([*found.y_true, *found.y_pred], default=0) >= len(self.classes):
            raise damaged(self.path, file, f"it has a class beyond the {len(self.classes)} of the run")
        columns = [np.asarray(one, dtype=np.int64) for one in (found.rows, found.y_true, found.y_pred)]
        shares = [None if one is None else np.asarray(one, float) for one in (found.p_true, found.p_pred)]
        return Predictions(found.split, columns[0], columns[1], columns[2], shares[0], shares[1])

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
        scores = self.per_class_scores(name)
        return {one: found.recall for one, found in scores.items() if found.recall is not None}

    def per_class_scores(self, name: str | None = None) -> dict[str, ClassScores]:
        """Return recall with its interval, precision and F1 of each class by a kept head (default: the best).

        Returns
        -------
        dict of str to ClassScores
            By class name, in the order of the classes; see `featbank.metrics.per_class_scores`.
        """
        told, n = self.predictions(name), len(self.classes)
        right = told.y_true[told.y_true == told.y_pred]
        true, answered, both = (np.bincount(one, minlength=n) for one in (told.y_true, told.y_pred, right))
        return dict(zip(self.classes, scores_of_counts(true, answered, both), strict=True))

    def checked(self, name: str, model: Callable[[Any], T]) -> T | None:
        """Read a JSON file of the folder.

        Parameters
        ----------
        name : str
            Relative to the folder.
        model : callable
            Gets what the file says; returns what it is, or raises `ValueError` with its faults.

        Returns
        -------
        object or None
            What `model` returned; None if there is no such file.

        Raises
        ------
        RunError
            If it is damaged, a link, or too large.
        """
        return checked(self.path, name, model)


def _key_of(entry: Mapping[str, Any]) -> Key:
    return entry["cut"], entry["head"], entry["temperature"]


def checked(folder: Path, name: str, model: Callable[[Any], T]) -> T | None:
    """Read a JSON file of a folder; see `Run.checked`."""
    try:
        return model(_read_json(folder, name))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise damaged(folder, name, error) from error


def _read_json(folder: Path, name: str) -> Any:
    return parse_json(plain_file(folder, name, _MOST_BYTES).read_bytes())


def _save_kept(folder: Path, fit: Fit, classes: Sequence[str]) -> dict[str, Any]:
    """Write the head of a fit and its answers into a run folder, and return what ``run.json`` says of it."""
    from featbank.heads.head import save_head

    answers = fit.predictions
    if answers is None:
        raise ValueError("a head without answers cannot be kept")
    entry: dict[str, Any] = {
        "name": fit.name,
        "cut": fit.cut,
        "head": fit.head,
        "temperature": fit.temperature,
        "n_per_class": fit.n_per_class,
        "fewest_per_class": fit.fewest_per_class,
        "most_per_class": fit.most_per_class,
        "repeat": fit.repeat,
        "top1": fit.top1,
        "val_top1": fit.val_top1,
        "best_epoch": fit.best_epoch,
    }
    try:
        # what it answers are numbers; the file says, without the run, what they stand for
        codes = fit.estimator.classes_ if hasattr(fit.estimator, "predict_columns") else ()
        named = {"class_names": [classes[code] for code in codes]}
        save_head(folder / "heads" / fit.name, fit.estimator, facts=entry | named)
        entry["saved"] = True
    except InvalidInputError:  # an estimator of the caller's own, which featbank has no format for
        entry["saved"] = False
    columns = {
        "rows": answers.rows,
        "y_true": answers.y_true,
        "y_pred": answers.y_pred,
        "p_true": answers.p_true,
        "p_pred": answers.p_pred,
    }
    plain = {name: None if one is None else one.tolist() for name, one in columns.items()}
    answered = _atomic.make_folder(folder / "predictions")
    _atomic.write_json(answered / f"{fit.name}.json", {"split": answers.split, **plain})
    return entry


def _forget_kept(folder: Path, name: str) -> None:
    """Remove the files of a head that a better one replaced; `run.json` does not name it any more."""
    for file in (f"heads/{name}.safetensors", f"heads/{name}.json", f"predictions/{name}.json"):
        with contextlib.suppress(OSError):  # a file too many does no harm
            (folder / file).unlink()


def _with_null(history: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """Make a history fit for JSON, which knows neither NaN nor infinity: a loss that is no number is null."""
    return {key: [one if math.isfinite(one) else None for one in values] for key, values in history.items()}


_Size = Annotated[int, Ge(1), Le(65_536)]
#: What estimators of others give may be off by a rounding.
_Probability = Annotated[float, Strict(), Ge(-0.001), Le(1.001)]
_Loss = Annotated[float, Strict(), Ge(-1e38), Le(1e38)]


class _Model(BaseModel):
    model_config = CONFIG


class _Source(_Model):
    """Where features came from: a bank by its name, and the key that says how they were computed."""

    bank: Line
    key_digest: Line
    dataset: FileName
    backbone: FileName
    weights: Line | None
    weights_path: Line | None
    weights_sha256: Line
    random_state: int | None
    transform: Json
    image_size: _Size
    precision: Line
    dtype: Line
    cut_dtypes: dict[str, Literal["float16", "float32"]]
    batch_size: _Size
    decoder: Line
    format_version: Natural
    provenance: Json

    @model_validator(mode="after")
    def _is_a_key(self) -> _Source:
        try:
            key = BankKey(**{one.name: getattr(self, one.name) for one in fields(BankKey)})
        except InvalidInputError as error:
            raise ValueError(str(error)) from None
        if key.digest() != self.key_digest:
            raise ValueError("is not what the key_digest is of")
        if self.transform.get("image_size", self.image_size) != self.image_size:
            raise ValueError("has two sizes of images")
        return self


class _Entry(_Model):
    """A kept head."""

    name: FileName
    cut: Line
    head: Line
    temperature: Positive | None
    n_per_class: Natural | Literal["all"]
    fewest_per_class: Natural | None = None
    most_per_class: Natural | None = None
    unit: Literal["samples", "groups"] = "samples"
    repeat: Count
    top1: Share | None
    val_top1: Share | None
    val_metric: _Loss | None = None
    best_epoch: Natural | None
    saved: bool


class _Sweep(_Model):
    digest: Line | None = None
    n_fits: Count | None = None


class _Parameters(_Model):
    head_params: dict[str, Json] | None = None
    metrics: list[Line] = []
    untrained_classes: Literal["drop", "keep"] = "drop"
    folds: Annotated[int, Ge(2)] | None = None
    val: Annotated[float, Strict(), Ge(0), Le(1)] | Literal["none"] | None = None
    val_per_class: Natural | None = None
    draw: Literal["images", "groups"] = "images"
    random_state: Count = 0


class _Draws(_Model):
    judged: Line
    subsets: dict[str, list[Line]]
    shares: dict[str, Share] = {}
    folds: Annotated[int, Ge(2)] | None = None
    unit: Literal["samples", "groups"] = "samples"
    grouped: bool = False
    held_out: Annotated[float, Strict(), Gt(0), Lt(1)] | None = None


class _Rows(_Model):
    val: Count
    test: Count


class _Untrained(_Model):
    policy: Literal["drop", "keep"] = "drop"
    classes: dict[Line, _Rows] = {}


def _draws(value: dict[str, Any]) -> dict[str, Any]:
    return check(_Draws, value) and value if value else value


class RunFacts(_Model):
    """``run.json``."""

    format: Literal[1]
    name: Line
    created: Line
    status: Literal["running", "finished"]
    command: Line = ""
    parameters: _Parameters
    sweep: _Sweep = _Sweep()
    source: _Source
    classes: Annotated[list[Line], Len(1), FailFast()]
    cuts: list[Line]
    notes: list[Line]
    heads: list[_Entry]
    versions: dict[str, Line] = {}
    rows: dict[str, Count] = {}
    draws: Annotated[Json, AfterValidator(_draws)] = {}
    near_duplicates: Json = {}
    untrained: _Untrained = _Untrained()
    continued: list[Line] = []

    @model_validator(mode="after")
    def _heads_differ(self) -> RunFacts:
        names = [one.name for one in self.heads]
        if len(set(names)) < len(names):
            raise ValueError("has two heads of one name")
        return self


class Answers(_Model):
    """``predictions/NAME.json``: one column for each of these, all of one length."""

    split: Literal["test", "val"]
    rows: Annotated[list[Count], FailFast()]
    y_true: Annotated[list[Count], FailFast()]
    y_pred: Annotated[list[Count], FailFast()]
    p_true: list[_Probability] | None
    p_pred: list[_Probability] | None

    @model_validator(mode="after")
    def _one_length(self) -> Answers:
        columns = (self.rows, self.y_true, self.y_pred, self.p_true, self.p_pred)
        if len({len(one) for one in columns if one is not None}) > 1:
            raise ValueError("has columns of several lengths")
        return self


def check_histories(found: Any) -> dict[str, dict[str, list[float | None]]]:
    """Return ``histories.json``: head -> what was followed -> its value after each epoch, None for no number.

    Raises
    ------
    ValueError
        If it is anything else, an accuracy is not in 0..1, or a head has lines of several lengths.
    """
    histories: dict[str, dict[str, list[float | None]]] = check(
        dict[str, dict[str, Annotated[list[_Loss | None], FailFast()]]], found
    )
    for name, history in histories.items():
        if len({len(values) for values in history.values()}) > 1:
            raise ValueError(f"{name!r} has lines of several lengths")
        for key, values in history.items():
            if key.endswith("accuracy"):
                check(Annotated[list[Share | None], FailFast()], values)
    return histories
