"""Repairs a bank: damaged shards are set aside, and their rows alone are extracted again."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank._cache import DigestCache, user_path
from featbank._registry import Progress
from featbank.backbones import Preprocessing, get_spec
from featbank.banks import Bank, BankStore, VerifyReport, verify_bank
from featbank.banks.documents import CUT_FILE
from featbank.banks.verification import damaged_files, set_damaged_aside
from featbank.datasets import Dataset, compare_sources
from featbank.datasets.sources import reopen_dataset
from featbank.errors import FeatbankError, InvalidInputError, MissingDataError
from featbank.extraction.choosing import Computing
from featbank.extraction.forward import choose_devices, split_precision
from featbank.extraction.jpeg_decoder import decode_of
from featbank.extraction.planning import Missing, Planned
from featbank.extraction.pushing import Pushing, settle_quarantine, tell_clipped, tell_layout, tell_makers
from featbank.extraction.settings import CLIPPED, ExtractionSettings, stored_dtype
from featbank.manifest import RowStatus, printable, short_repr

if TYPE_CHECKING:
    from featbank.backbones import Backbone

__all__ = ["RepairResult", "repair_bank", "source_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairResult:
    """What one repair did.

    Parameters
    ----------
    bank : pathlib.Path
        The bank.
    folder : pathlib.Path or None
        Where the damaged files are now; None if none had to be moved.
    set_aside : tuple of pathlib.Path
        Where they stood.
    shards : int
        Shards that were extracted again.
    pushed : int
        Images that went through the backbone for them.
    differing : tuple of pathlib.Path
        Shards that are whole again but have other bytes than those they replace had: another machine, or
        other versions of torch or the decoder, than the ones that extracted the bank.
    report : VerifyReport
        What `verify_bank` finds now.

    Examples
    --------
    >>> import featbank
    >>> done = repair_bank(featbank.open_bank("digits").path)
    >>> done.shards, done.set_aside, done.report.ok  # nothing was damaged
    (0, (), True)
    """

    bank: Path
    folder: Path | None
    set_aside: tuple[Path, ...]
    shards: int
    pushed: int
    differing: tuple[Path, ...]
    report: VerifyReport

    __repr__ = short_repr


def repair_bank(
    bank: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | Dataset | None = None,
    data_root: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    backbone: Backbone | None = None,
    device: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> RepairResult:
    """Set damaged and foreign shards of a bank aside and extract the rows they held again.

    Everything that can be wrong is looked for first; a bank that cannot be repaired is left as it is. No
    file is deleted: damaged ones are moved to ``damaged-<time>/`` inside the bank.

    Parameters
    ----------
    bank : str or path-like
        The bank's folder.
    data : str, path or Dataset, optional
        The images, if they are no longer where they were extracted from.
    data_root : path, optional
        Where torchvision datasets lie.
    weights : str or path, optional
        The weights, if they are no longer where they were.
    backbone : Backbone, optional
        The backbone of a bank of ``Backbone.from_module``, which featbank cannot build again.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ...; the bytes are the same only on the kind of device that was used.
    workers : int, optional
        Decoding processes.
    progress : callable, optional
        Called with (images done, images to push).

    Returns
    -------
    RepairResult

    Raises
    ------
    BankNotFoundError
        If there is no bank.
    CorruptBankError
        If ``bank.json`` or the manifest is damaged.
    InvalidInputError
        If the key differs: other weights, or another decoder; the message has the differing fields.
    MissingDataError, MissingWeightsError
        If the images of the damaged rows, or the weights, are not there, or are others than they were; if the
        bank is of a module and no `backbone` is given.
    CacheWriteError
        If the bank cannot be written.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")
    >>> (shard,) = bank.path.glob("fc7/*.h5")
    >>> size = shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    >>> done = repair_bank(bank.path)
    >>> done.shards, done.pushed, done.report.ok
    (1, 300, True)
    """
    folder = user_path(bank)
    report = verify_bank(folder)
    damaged_files(report)  # a bank without its key or its rows ends here
    if report.ok:
        return RepairResult(folder, None, (), 0, 0, (), report)
    opened = Bank.open(folder, check="size")
    dataset = source_of(opened, data, data_root)
    _check_images(opened, report, dataset)
    computing = _open(opened, report, dataset, weights, backbone, device, workers)
    aside = set_damaged_aside(report)
    with contextlib.closing(computing):
        opened = Bank.open(folder, check="size")
        work = _planned(opened, report, dataset, computing)
        run = Pushing(work, progress, begun=True)
        run.write_missing()
        for path in aside.moved:
            if path.name == CUT_FILE:
                _finish(work, path.parent.name)
            elif path.parent == folder:  # quarantine.jsonl
                settle_quarantine(opened, run.bad, lambda: work.need_computing().loader)
    return RepairResult(
        folder,
        aside.folder,
        aside.moved,
        sum(map(len, work.missing.shards.values())),
        len(run.pushed),
        _differing(report, work.missing),
        verify_bank(folder),
    )


def source_of(
    bank: Bank, data: str | os.PathLike[str] | Dataset | None, data_root: str | os.PathLike[str] | None = None
) -> Dataset:
    """Open the images a bank was extracted from; `MissingDataError` if they are not there any more."""
    location = bank.provenance.get("location")
    try:
        return reopen_dataset(bank.provenance, data, data_root=data_root)
    except FeatbankError as error:
        if data is not None:
            raise
        raise MissingDataError(
            f"bank {bank.name!r} was extracted from {printable(str(location))!r}, which cannot be opened "
            f"({error}); say where the images are now with --data"
        ) from error


def settings_of(bank: Bank, cuts: Sequence[str], **changes: Any) -> ExtractionSettings:
    """Return the settings that extract cuts of a bank again: as it was asked for and as was chosen for it."""
    key, said = bank.key, bank.provenance
    precision, compiled = split_precision(key.precision)
    stored: dict[str, Any] = {
        "backbone": key.backbone,
        "cuts": cuts,
        "weights": said.get("weights_path") or said.get("weights"),
        "image_size": key.image_size,
        "precision": precision,
        "compile": "on" if compiled else "off",
        "dtype": key.dtype.removesuffix("-clip"),
        "on_overflow": "clip" if key.dtype == CLIPPED else "error",
        "batch_size": key.batch_size,
        "decode": decode_of(key.decoder),
        "random_state": said.get("random_state") or 0,
    }
    return ExtractionSettings(**stored | changes)


def _open(
    bank: Bank,
    report: VerifyReport,
    dataset: Dataset,
    weights: str | os.PathLike[str] | None,
    backbone: Backbone | None,
    device: str | None,
    workers: int | None,
) -> Computing:
    """Load what computes a bank's rows, and refuse where they would not fit the others."""
    changes: dict[str, Any] = {"device": device, "workers": workers}
    if backbone is not None:
        changes |= {"backbone": backbone, "weights": None}
    if weights is not None:
        changes["weights"] = weights
    if choose_devices(device)[0].type != "cuda":
        changes["decode"] = (
            "cpu"  # a decoder that is not to be had here is told below, with what else differs
        )
    try:
        preprocessing = Preprocessing(**bank.key.transform)
    except TypeError as error:
        raise InvalidInputError(
            f"bank {bank.name!r} cannot be repaired by this featbank: it does not know the preprocessing "
            f"{bank.key.transform!r}; use the one that extracted it"
        ) from error
    settings = settings_of(bank, tuple(report.lost) or ("any",), **changes)
    # where no shard is lost any cut will do: nothing is pushed
    cuts = tuple(report.lost) or (get_spec(settings.backbone).cuts[0].name,)
    computing = Computing(settings, cuts, preprocessing)
    computing.take(bank.key)
    if computing.key != bank.key:
        differing = ", ".join(
            f"{name} was {was!r}, is {would!r}"
            for name, (was, would) in bank.key.differences(computing.key).items()
        )
        raise InvalidInputError(
            f"bank {bank.name!r} cannot be repaired here, its rows would not fit the others: {differing}; "
            f"nothing was changed: give the same weights with --weights and install the same decoder, or run "
            f"`featbank extract`, which makes another bank"
        )
    before, now = (bank.provenance.get("versions") or {}).get("torch"), computing.made_by["torch"]
    if before != now:
        logger.warning(
            "bank %s was extracted with torch %s, this is %s: the last bit of its new rows may be another",
            bank.name,
            before,
            now,
        )
    return computing


def _planned(bank: Bank, report: VerifyReport, dataset: Dataset, computing: Computing) -> Planned:
    """Plan to extract what a report says is lost, into the slots where it was."""
    computing.open_images(dataset, bank.manifest, [bank.key.batch_size])
    writers, shards = {}, {}
    for cut, lost in report.lost.items():
        known = cut in bank.cuts or cut in bank.partial_cuts
        dtype = bank[cut].dtype if known else stored_dtype(cut, bank.key.dtype)
        writers[cut] = bank.cut_writer(cut, computing.shapes[cut], dtype, made_by=computing.made_by)
        missing = writers[cut].missing()
        shards[cut] = missing if lost is None else sorted({*missing} & {*lost})
    return Planned(
        settings=computing.settings,
        dataset=dataset,
        store=BankStore(bank.path.parent.parent),
        digests=DigestCache(None),
        cuts=tuple(report.lost),
        manifest=bank.manifest,
        missing=Missing(bank, writers, shards, (), {}, frozenset()),
        provenance=bank.provenance,
        errors={},
        computing=computing,
        started=time.perf_counter(),
    )


def _finish(work: Planned, cut: str) -> None:
    """Write ``cut.json`` anew; what only the first extraction knew (its time) is lost."""
    bank, writer = work.missing.bank, work.missing.writers[cut]
    if not writer.missing():
        precision = bank.key.precision
        proved = {"precision_error": 0.0} if precision == "float32" else {}
        told = {**tell_layout(work, cut), **tell_makers(writer), **tell_clipped(bank, cut)}
        writer.finish({"precision": precision, **proved, **told})


def _check_images(bank: Bank, report: VerifyReport, dataset: Dataset) -> None:
    """Refuse if an image whose features are lost is not what it was."""
    first_rows = bank.slot_first_rows()
    slots: set[int] = set()
    for plans in report.lost.values():
        if plans is None:
            slots |= set(range(len(first_rows)))
        else:
            slots |= {slot for plan in plans for slot in range(plan.start, plan.stop)}
    rows = np.array(sorted(int(first_rows[slot]) for slot in slots), np.int64)
    left, rows = int((rows < 0).sum()), rows[rows >= 0]
    if left:
        logger.warning(
            "%d of the damaged rows are of images that have left the dataset: no row of the bank needs them, "
            "they are not extracted again",
            left,
        )
    whole = bank.manifest
    part = whole.replaced(
        ids=tuple(whole.ids[row] for row in rows.tolist()),
        labels=whole.labels[rows],
        splits=whole.splits[rows],
        digests=whole.digests[rows],
        statuses=whole.statuses[rows],
        groups=None if whole.groups is None else whole.groups[rows],
    )
    unusable = {
        one for one, status in zip(part.ids, part.statuses.tolist(), strict=True) if status != RowStatus.OK
    }
    gone = [one for one in compare_sources(dataset, part) if one.kind != "new" and one.id not in unusable]
    if gone:
        raise MissingDataError(
            f"{len(gone)} of the {len(part)} images whose features are damaged are not what they were, first "
            f"{printable(gone[0].id)!r} ({gone[0].detail}); nothing was changed: put them back, say where "
            f"they are with --data, or run `featbank extract`, which takes the images as they are now"
        )


def _differing(report: VerifyReport, missing: Missing) -> tuple[Path, ...]:
    """Return the new shards whose bytes are not those of the files they replace (which their names tell)."""
    before = {(one.path.parent.name, one.path.name) for one in report.faults if one.kind == "corrupt"}
    replaced = {(cut, name[:5]) for cut, name in before}
    names = {(cut, name[6:]) for cut, name in before}
    found = []
    for cut, writer in missing.writers.items():
        numbers = {f"{plan.number:05d}" for plan in missing.shards[cut]}
        for path in sorted(writer.folder.glob("*.h5")):
            number, digest = path.name[:5], path.name[6:]
            if number in numbers and (cut, number) in replaced and (cut, digest) not in names:
                found.append(path)
    return tuple(found)
