"""What an extraction would do: which rows, into which bank, computed how; nothing is changed.

``plan`` looks, `featbank.extraction.push` does. A bank that says it was asked for with equal settings under
equal versions, and holds every row, is found without torch and without the weights.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

import featbank
from featbank._bucket import BucketPath
from featbank._cache import banks_folder
from featbank._stat_cache import DigestCache
from featbank.backbones import get_spec
from featbank.backbones.families import family_of
from featbank.backbones.spec import OF_A_MODULE
from featbank.backbones.weights_files import (
    absolute_weights,
    file_and_key,
    looks_like_file,
    only_file,
    parts_of,
)
from featbank.banks import Bank, BankKey, BankStore
from featbank.datasets import Dataset, build_manifest, open_dataset
from featbank.datasets.decoding import decoder_name
from featbank.errors import BankError, BankFormatError, CacheWriteError, FeatbankError, InvalidInputError
from featbank.extraction.arithmetic import split_precision
from featbank.extraction.choosing import Computing, cuts_in, proved_errors
from featbank.extraction.missing import Missing, Task, find_missing
from featbank.extraction.settings import ExtractionSettings
from featbank.manifest import Manifest, printable, short_repr

if TYPE_CHECKING:
    from featbank.extraction.slices import SavedPlan

__all__ = ["ExtractionPlan", "Planned", "plan"]

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Planned:
    """What `push` needs of a plan; `missing` and `computing` change where the bank turns out another one.

    Parameters
    ----------
    settings : ExtractionSettings
    dataset : Dataset
    store : BankStore
    digests : DigestCache
        Kept with the bank: what has not changed is not read again.
    cuts : tuple of str
        Names from the backbone's table.
    manifest : Manifest
        The rows asked for.
    missing : Missing
    provenance : dict
        Of the bank, if it has to be made.
    errors : mapping of str to float
        Error of the arithmetic at each cut where it is known.
    computing : Computing or None
        None: the bank says all that is needed.
    started : float
        When planning began, by ``time.perf_counter``.
    data : str, path or Dataset, optional
        What `dataset` was opened from.
    saved : SavedPlan, optional
        What it was opened from: the rows, their slots and the machine are settled.
    """

    settings: ExtractionSettings
    dataset: Dataset
    store: BankStore
    digests: DigestCache
    cuts: tuple[str, ...]
    manifest: Manifest
    missing: Missing
    provenance: dict[str, Any]
    errors: Mapping[str, float]
    computing: Computing | None
    started: float
    data: object = None
    saved: SavedPlan | None = None

    @property
    def made_by(self) -> dict[str, str] | None:
        """What computes the features and is in no key, as far as that is settled."""
        if self.computing is not None:
            return self.computing.made_by
        return (self.saved.made_by or None) if self.saved is not None else None

    @property
    def path(self) -> Path:
        """Where the bank is, or will be."""
        return self.missing.bank.path

    def need_computing(self) -> Computing:
        """Return what computes the features, loaded now if planning could do without."""
        if self.computing is None:
            if self.saved is not None:
                self.saved.check_machine(self.settings)
            computing, key = Computing(self.settings, self.cuts), self.missing.bank.key
            computing.take(key)
            if computing.key != key:
                raise InvalidInputError(
                    f"bank {self.missing.bank.name!r} has another key now than when this was planned, its "
                    f"{_differences(key, computing.key)}; run it again"
                )
            computing.open_images(self.dataset, self.manifest, [key.batch_size])
            self.computing = computing
        return self.computing

    def look_again(self, bank: Bank | None = None, **options: Any) -> None:
        """Find out anew what is missing, in the bank as it is now; `options` are those of `find_missing`."""
        before = self.missing
        known: dict[str, Any] = {
            "shapes": {cut: writer.shape for cut, writer in before.writers.items()},
            "lenders": before.lenders,
            "made_by": self.made_by,
            "wide": before.wide,
            "shard_rows": self.settings.shard_rows,
            "mine": before.mine,
            "renews": self.saved is None,
            "others": [cut for cut in before.writers if cut not in self.cuts],
        }
        self.missing = find_missing(bank or before.bank, self.manifest, self.cuts, **known | options)


@dataclass(frozen=True, eq=False)
class ExtractionPlan:
    """What an extraction would cost, before anything is pushed; `featbank.extraction.push` does it.

    A plan changes nothing, and may be thrown away. Processes that decoded for it end with `close`, with
    `push`, or with the plan; it is a context manager.

    Parameters
    ----------
    bank : pathlib.Path
        Where the features go.
    rows : int
        Rows of the dataset.
    classes : tuple of str
        Names of the classes that have a readable image.
    splits : mapping of str to int
        Rows of each split.
    to_push : int
        Images that have to go through the backbone.
    to_copy : mapping of str to int
        Bank -> images whose features at some cut are copied from there.
    cuts : mapping of str to tuple of int
        Shape of one row at each cut.
    cut_bytes : mapping of str to int
        Bytes still to be written for each cut.
    disk_free_bytes : int
        Free space where the bank is; a bucket has no end of it.
    duration_s : float or None
        Estimated time of the whole extraction, planning included, as `ExtractionResult` counts it: some of
        the images were pushed to tell. None when nothing was measured.
    assumed : tuple of str
        What an estimate without images takes for granted.
    work : Planned or None
        What `push` does; None for an estimate without images.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import ExtractionSettings
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     print(todo.to_push, "images,", todo.size_bytes, "bytes;", todo.bank == bank.path.absolute())
    10 images, 5120 bytes; True
    """

    bank: Path
    rows: int
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    to_push: int
    to_copy: Mapping[str, int]
    cuts: Mapping[str, tuple[int, ...]]
    cut_bytes: Mapping[str, int]
    disk_free_bytes: int
    duration_s: float | None = None
    assumed: tuple[str, ...] = ()
    work: Planned | None = None

    __repr__ = short_repr

    @property
    def size_bytes(self) -> int:
        """Bytes to be written for all cuts together."""
        return sum(self.cut_bytes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, in the order of the signature."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "work"}
        return {**values, "size_bytes": self.size_bytes}

    def need_work(self) -> Planned:
        """Return what `push` does; `InvalidInputError` for an estimate without images."""
        if self.work is None:
            raise InvalidInputError("this plan is an estimate without images; there is nothing to push")
        return self.work

    def slice(self, number: int, n_slices: int) -> ExtractionPlan:
        """Return one of `n_slices` parts of this plan, for `push`: the same shards whatever is there already.

        Parameters
        ----------
        number : int
            Which one, 1 to `n_slices`.
        n_slices : int
            How many there are.

        Returns
        -------
        ExtractionPlan
            Once a slice finds every shard there, its own and those of the others, it writes the facts of the
            cuts; whichever comes last.

        Raises
        ------
        InvalidInputError
            If there is no such slice, or this plan was saved for another number of them.
        """
        work = self.need_work()
        if not 1 <= number <= n_slices:
            raise InvalidInputError(
                f"slice {number}/{n_slices}: there are 1/{max(1, n_slices)} to {max(1, n_slices)}/"
                f"{max(1, n_slices)}"
            )
        if work.saved is not None:
            work.saved.check_slices(n_slices)
        # by what never changes: a shard's number, not its place among what is missing, which moves on a retry
        return self.of_tasks(range(number - 1, sys.maxsize, n_slices))

    def of_tasks(self, numbers: Container[int]) -> ExtractionPlan:
        """Return the part of this plan that is made of these `tasks`."""
        work = self.need_work()
        return said(replace(work, missing=replace(work.missing, mine=numbers)))

    def tasks(self) -> list[Task]:
        """List what was still to be pushed when this was planned, by whomever."""
        return self.need_work().missing.tasks()

    def close(self) -> None:
        """End the processes that decode; what needs them again starts others."""
        if self.work is not None and self.work.computing is not None:
            self.work.computing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plan(
    data: str | os.PathLike[str] | Dataset, settings: ExtractionSettings, *, measure: bool = False
) -> ExtractionPlan:
    """Find out what an extraction would do. Nothing is written, locked or removed.

    Images are hashed. The weights are loaded unless a bank that is there answers for them. A batch is pushed,
    and thrown away, where precision or compiling must be chosen and no bank has made the choice.

    Parameters
    ----------
    data : str, path or Dataset
        As of `featbank.extract`.
    settings : ExtractionSettings
    measure : bool, default=False
        Push some of the images, for seconds, to estimate the time; what comes out is thrown away.

    Returns
    -------
    ExtractionPlan

    Raises
    ------
    FeatbankError
        Whatever `featbank.extract` raises of names, data, weights and banks.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=20, cache_dir=cache)
    ...     with plan("digits", settings) as todo:
    ...         todo.to_push, dict(todo.cut_bytes)
    (20, {'fc7': 10240})
    """
    started = time.perf_counter()
    # Names are checked before data and weights are touched: a typo must not cost a minute.
    spec = get_spec(settings.backbone)
    cuts = tuple(cut.name for cut in spec.to_store(settings.all_cuts))
    dataset = open_dataset(data, **settings.options_of(open_dataset))
    store, digests = BankStore(banks_folder(settings.cache_dir)), DigestCache.of(settings.cache_dir)
    banks = list(_banks(store, spec.name, dataset.name))
    answering = [one for one in banks if _answers(one, settings, digests)]
    computing = None if answering else Computing(settings, cuts)
    manifest = build_manifest(dataset, digests=digests, **settings.options_of(build_manifest))

    def begun(found: Sequence[Bank]) -> list[Bank]:
        return _begun(settings, dataset.name, manifest, cuts, found)

    def into(
        key: BankKey,
        provenance: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        computing: Computing | None = None,
    ) -> Planned:
        there = store.planned(dataset.name, key, provenance)
        mine = cuts_in(there, cuts)
        lenders = [one for one in banks if one.key == key and one.path != there.path]
        if computing is not None:
            made_by, errors = computing.made_by, computing.errors
        else:
            made_by = None
            errors = next((found for one in (there, *lenders) if (found := proved_errors(one, mine))), {})
        missing = find_missing(
            there,
            manifest,
            mine,
            shapes=shapes,
            lenders=lenders,
            made_by=made_by,
            shard_rows=settings.shard_rows,
        )
        return Planned(
            settings,
            dataset,
            store,
            digests,
            mine,
            manifest,
            missing,
            provenance,
            errors,
            computing,
            started,
            data,
        )

    work = None
    for bank in begun(answering)[:1]:
        shapes = _shapes_of([one for one in banks if one.key == bank.key])
        provenance = {**bank.provenance, **_source_of(dataset)}
        # of the bank that is written, not of the one that answers: that one may derive what this one stores
        if shapes.keys() >= set(cuts_in(store.planned(dataset.name, bank.key, provenance), cuts)):
            work = into(bank.key, provenance, shapes)
    if work is None or len(work.missing.slots()):
        computing = computing or Computing(settings, cuts)
        candidates = begun(
            [one for one in banks if _differs_in_choice(one.key, computing.first_key, settings)]
        )
        try:
            computing.open_images(dataset, manifest, [one.key.batch_size for one in candidates])
            computing.choose(candidates)
            provenance = _provenance(settings, dataset, computing, digests)
            work = into(computing.key, provenance, computing.shapes, computing)
        except BaseException:
            computing.close()
            raise
    found = said(work)
    try:
        _tell(work, banks, data)
        if measure and found.to_push:
            computing = work.need_computing()
            planned_s = time.perf_counter() - started
            return replace(found, duration_s=planned_s + computing.pass_s(found.to_push))
        return found
    except BaseException:
        found.close()
        raise


def said(work: Planned) -> ExtractionPlan:
    """Put a plan into figures."""
    missing, seen = work.missing, work.missing.bank.manifest
    return ExtractionPlan(
        bank=work.path,
        rows=len(seen),
        classes=seen.present_classes(),
        splits=seen.counts(),
        to_push=len(missing.slots()),
        to_copy={name: len(rows) for name, rows in missing.copied().items()},
        cuts={cut: missing.writers[cut].shape for cut in work.cuts},
        cut_bytes={cut: missing.size_bytes(cut) for cut in missing.writers},
        disk_free_bytes=free_bytes(work.path),
        work=work,
    )


def free_bytes(folder: Path) -> int:
    """Return the free space of the file system that holds `folder` or its nearest existing parent.

    A bucket is never full.
    """
    if isinstance(folder, BucketPath):
        return sys.maxsize
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(existing).free


def refuse_if_full(plan: ExtractionPlan) -> None:
    """Raise `CacheWriteError` when the disk cannot hold what `plan` would write."""
    if plan.size_bytes > plan.disk_free_bytes:
        raise CacheWriteError(
            f"{plan.to_push} images at {', '.join(plan.cut_bytes)} need {plan.size_bytes / 1e9:.2f} GB, "
            f"{str(plan.bank)!r} has {plan.disk_free_bytes / 1e9:.2f} GB free; take fewer cuts, "
            "a deeper cut, --limit N, or another --cache-dir"
        )


# banks that are there ------------------------------------------------------------------------------


def _banks(store: BankStore, backbone: str, dataset: str) -> Iterator[Bank]:
    """Open the banks of a backbone that hold features, of any dataset, newest first.

    Those that cannot be opened are passed over: `featbank banks verify` is where damage is looked for. But
    one of this dataset in another format is an error: `BankFormatError`.
    """
    for path in store.newest_first():
        # of another backbone the name may begin alike
        if path.name.rpartition("-")[0] == backbone:
            try:
                bank = Bank.open(path, check="size")
                if bank.key.backbone == backbone and (bank.cuts or bank.partial_cuts):
                    yield bank
            except BankFormatError:
                # a bank of these very images must not be begun anew beside it without a word
                if path.parent.name == dataset:
                    raise
            except (BankError, OSError):
                pass


def _begun(
    settings: ExtractionSettings, dataset: str, manifest: Manifest, cuts: Sequence[str], banks: Sequence[Bank]
) -> list[Bank]:
    """Return the banks, with these rows, whose choices are gone on with, the most wanted first.

    What was chosen for a bank when it was begun goes with it: on another machine, in another mood of this
    one, or with more images, the automatic choice would be another one, and nothing stored would be reused.
    After those of the dataset come others that hold half of its images: their features are copied.
    """
    found = []
    for bank in banks:
        own, seen = bank.dataset == dataset, bank.with_rows(manifest)
        done, begun = set(seen.cuts), seen.partial_cuts
        mine = cuts_in(seen, cuts)
        n_stored = sum(
            len(seen) if cut in done else begun[cut].rows_stored if cut in begun else 0 for cut in mine
        )
        if own or 2 * n_stored >= len(seen) * len(mine):
            asked = (bank.provenance.get("asked") or {}).get("choice") == _choice(settings)
            rank = (own, sum(cut in done for cut in mine), n_stored, asked, bank.path.stat().st_mtime)
            found.append((rank, seen))
    return [bank for _, bank in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _differs_in_choice(key: BankKey, wanted: BankKey, settings: ExtractionSettings) -> bool:
    """Say whether a bank is the one asked for but for what was left to be chosen."""
    same = replace(key, precision=wanted.precision, batch_size=wanted.batch_size) == wanted
    return same and _chosen(key, settings)


def _chosen(key: BankKey, settings: ExtractionSettings) -> bool:
    """Say whether what was chosen for a bank could have been chosen for these settings."""
    precision, compiled = split_precision(key.precision)
    return (
        settings.precision in ("auto", precision)
        and settings.compile in ("auto", "on" if compiled else "off")
        and settings.batch_size in (None, key.batch_size)
    )


def _shapes_of(banks: Sequence[Bank]) -> dict[str, tuple[int, ...]]:
    return {cut: bank[cut].shape[1:] for bank in banks for cut in (*bank.cuts, *bank.partial_cuts)}


# what a bank says of how it was asked for ----------------------------------------------------------


def _answers(bank: Bank, settings: ExtractionSettings, digests: DigestCache) -> bool:
    """Say whether a bank was asked for as now, by what it says itself: then nothing needs be computed.

    Anything that is in doubt is a no: then weights are loaded, and say what the key is.
    """
    asked = bank.provenance.get("asked")
    if (
        not isinstance(asked, dict)
        or settings.decode != "cpu"
        or settings.device not in (None, "auto", "cpu")
        or not isinstance(settings.backbone, str)
        # a module of somebody's own, that was called so
        or str(bank.provenance.get("weights")).startswith(OF_A_MODULE)
    ):
        return False
    wanted = _asked(settings)
    if any(asked.get(name) != value for name, value in wanted.items()):
        return False
    if (bank.key.dtype, bank.key.decoder) != (settings.key_dtype, decoder_name()):
        return False
    if not _chosen(bank.key, settings):
        return False
    with contextlib.suppress(FeatbankError, OSError, TypeError, KeyError):
        chosen = _weights_files(settings)
        if chosen is not None and chosen != set(asked["files"]):
            return False  # another file of the folder comes first now
        files = {**asked["settings_files"], **asked["files"]}
        return all(digests.file_digest(file) == sha256 for file, sha256 in files.items())
    return False


def _weights_files(settings: ExtractionSettings) -> set[str] | None:
    """Return the files that the weights of a path would be read from now, from the root; None without one."""
    family, name = family_of(str(settings.backbone))
    given = settings.weights
    if given is None:
        path = family.place(name)
    elif given != "random" and (not isinstance(given, str) or looks_like_file(given)):
        path = file_and_key(os.fspath(given))[0]
    else:
        path = None
    if path is None:
        return None
    return {str(one.absolute()) for one in parts_of(only_file(path) if path.is_dir() else path)}


def _asked(settings: ExtractionSettings) -> dict[str, Any]:
    """Return what decides, with the weights' file, what the key is, and can be known without torch."""
    weights = absolute_weights(settings.weights)
    return {
        "weights": weights,
        "random_state": settings.random_state if weights == "random" else None,
        "image_size": settings.image_size,
        "transform": settings.transform,
        "mean": None if settings.mean is None else list(settings.mean),
        "std": None if settings.std is None else list(settings.std),
        "interpolation": settings.interpolation,
        "versions": _installed(settings.backbone),
    }


def _choice(settings: ExtractionSettings) -> list[Any]:
    return [settings.precision, settings.compile, settings.batch_size]


def _installed(backbone: object) -> dict[str, str | None]:
    """Return the versions of what computes, without importing it."""
    others = family_of(backbone)[0].packages if isinstance(backbone, str) else ()
    found: dict[str, str | None] = {"featbank": featbank.__version__}
    for name in ("torch", "torchvision", *others):
        found[name] = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _source_of(dataset: Dataset) -> dict[str, Any]:
    """Return what `open_dataset` needs to open the images again."""
    return {
        "dataset": dataset.name,
        "location": dataset.location,
        "layout": getattr(dataset, "layout", None),
        "columns": getattr(dataset, "columns", {}),
    }


def _provenance(
    settings: ExtractionSettings, dataset: Dataset, computing: Computing, digests: DigestCache
) -> dict[str, Any]:
    import torch
    import torchvision

    backbone, errors = computing.backbone, computing.errors
    family, name = family_of(backbone.name)
    return {
        **_source_of(dataset),
        "weights": backbone.weights,
        # what a prediction needs to find the same weights again
        "weights_path": backbone.weights_path,
        "random_state": settings.random_state,
        # what an interrupted extraction need not prove, and say, again
        "precision_errors": {cut: error for cut, error in errors.items() if error < np.inf},
        # what `_answers` compares
        "asked": {
            **_asked(settings),
            "choice": _choice(settings),
            "files": dict(backbone.weights_files),
            "settings_files": {str(one): digests.file_digest(one) for one in family.settings_files(name)},
        },
        "versions": {
            "featbank": featbank.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
        },
    }


# what is told --------------------------------------------------------------------------------------


def _tell(work: Planned, banks: Sequence[Bank], data: object) -> None:
    """Say what differs from what was extracted before; refuse other images that only have the same name."""
    there = work.store.planned(work.dataset.name, work.missing.bank.key, work.provenance)
    _check_same_source(there, work.dataset.location, work.manifest.digests)
    if len(there):
        _tell_changes(there.manifest, work.manifest)
    if not there.path.exists():
        _tell_other_keys([one for one in banks if one.dataset == there.dataset], there.key)
        if isinstance(data, (str, os.PathLike)) and work.settings.name is None:
            _tell_other_names(work.missing, banks, work.dataset.location)


def _tell_changes(before: Manifest, after: Manifest) -> None:
    """Say what this extraction changes in a bank's list of rows: which are in it, and in which split."""
    old = dict(zip(before.ids, before.splits.tolist(), strict=True))
    new = dict(zip(after.ids, after.splits.tolist(), strict=True))
    gone = len(old.keys() - new.keys())
    if gone:
        # Whether a file was deleted, or is left out this time, is not to be seen here: both are said.
        logger.warning(
            "%d of the bank's %d rows are not among the %d asked for now (their images are gone, or --limit "
            "or a choice of classes leaves them out): they leave the bank's list, their features stay, and "
            "nothing is pushed when they are asked for again",
            gone,
            len(old),
            len(new),
        )
    moved = sum(old[one] != new[one] for one in old.keys() & new.keys())
    if moved:
        logger.warning(
            "%d images change their split: it was %s, it is %s; the same --split as before keeps it",
            moved,
            _counts(before),
            _counts(after),
        )
    if before.groups is not None and after.groups is None:
        logger.warning(
            "the %d groups of the bank are forgotten: draws, folds and intervals take each image for itself; "
            "the same --group or --group-by as before keeps them",
            len(before.group_names),
        )


def _tell_other_keys(banks: Sequence[Bank], key: BankKey) -> None:
    """Say why no row of the banks of this dataset and backbone that are there can be reused."""
    if banks:  # newest first, which is taken of those that differ in as many fields
        nearest = min(banks, key=lambda bank: len(bank.key.differences(key)))
        logger.warning(
            "a new bank: no row of %s is reused, its %s", nearest.name, _differences(nearest.key, key)
        )


def _tell_other_names(missing: Missing, banks: Sequence[Bank], location: str) -> None:
    """Say when a new bank would hold what one of another name holds: a folder was renamed, or copied."""
    names, here = {one.name: one for one in banks}, len(missing.bank)
    for name, rows in missing.copied().items():
        if 10 * len(rows) >= 9 * max(here, len(names[name])):  # not where it is a part of it
            logger.warning(
                "%d of the %d images of %s are in bank %s already, which was extracted from %s: they are "
                "copied; --name %s continues it instead of making another",
                len(rows),
                here,
                printable(location),
                name,
                printable(str(names[name].provenance.get("location"))),
                printable(names[name].dataset),
            )
            return


def _check_same_source(bank: Bank, location: str, digests: NDArray[np.uint8]) -> None:
    """Say when the images of a bank are elsewhere now; refuse other images that only have the same name.

    Parameters
    ----------
    bank : Bank
        The bank of this name, as it is.
    location : str
        Where the images are that are to be its rows.
    digests : ndarray of uint8, shape (n_samples, 32)
        Theirs.

    Raises
    ------
    InvalidInputError
        If less than half of the fewer images are also among the others.
    """
    before = bank.provenance.get("location")
    if before == location or not len(bank):
        return
    there = {one.tobytes() for one in bank.manifest.digests}
    here = {one.tobytes() for one in digests}
    common = len(there & here)
    if 2 * common < min(len(there), len(here)):
        said = f"only {common} of the {len(here)} images" if common else "not one image"
        raise InvalidInputError(
            f"{str(bank.path)!r} holds the features of {printable(str(before))!r}, and {said} of "
            f"{printable(location)!r} {'are' if common > 1 else 'is'} in it; give this dataset another --name"
        )
    if there == here:
        logger.info("the images of bank %s are in %s now", bank.name, printable(location))
        return
    logger.warning(
        "bank %s was extracted from %s and is that of %s from now on (%d of its %d images are in it); "
        "--name gives one of the two a bank of its own",
        bank.name,
        printable(str(before)),
        printable(location),
        common,
        len(here),
    )


def _differences(old: BankKey, new: BankKey) -> str:
    return "; ".join(_difference(name, *values) for name, values in old.differences(new).items())


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [one for one in {**old, **new} if old.get(one) != new.get(one)]
        return "; ".join(_difference(f"{name}.{one}", old.get(one), new.get(one)) for one in inner)
    return f"{name} was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:16]}..."


def _counts(manifest: Manifest) -> str:
    return ", ".join(f"{count} {split}" for split, count in manifest.counts().items())
