"""Repairs a bank: damaged shards are set aside, and their rows alone are extracted again."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featbank._cache import user_path
from featbank._cores import usable_cores
from featbank.backbones import Backbone, Preprocessing, load_backbone, truncate
from featbank.banks import (
    CUT_FILE,
    Bank,
    CutWriter,
    SetAside,
    ShardPlan,
    VerifyReport,
    damaged_files,
    set_damaged_aside,
    verify_bank,
)
from featbank.datasets import Dataset, compare_sources, decoder_name, reopen_dataset
from featbank.errors import FeatbankError, InvalidInputError, MissingDataError
from featbank.extraction._pass import Pass
from featbank.extraction.changes import tell_makers
from featbank.extraction.compiling import check_compile
from featbank.extraction.device_images import ImageLoader, open_loader
from featbank.extraction.forward import Forward, choose_device, made_by
from featbank.extraction.jpeg_decoder import JpegDecoder, choose_jpeg_decoder, decode_of
from featbank.extraction.overflow import CLIPPED, stored_dtype, tell_clipped
from featbank.extraction.precision import check_precision, split_precision
from featbank.extraction.quarantine import settle_quarantine
from featbank.extraction.work import run_size
from featbank.manifest import RowStatus, printable, short_repr

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
    device: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        If the images of the damaged rows, or the weights, are not there, or are others than they were.
    CacheWriteError
        If the bank cannot be written.
    """
    folder = user_path(bank)
    report = verify_bank(folder)
    damaged_files(report)  # a bank without its key or its rows ends here
    if report.ok:
        return RepairResult(folder, None, (), 0, 0, (), report)
    return _Repair(folder, report, data, data_root, weights, device, workers).run(progress)


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


class _Repair:
    """Everything a repair needs, found and checked before anything is moved."""

    def __init__(
        self,
        folder: Path,
        report: VerifyReport,
        data: str | os.PathLike[str] | Dataset | None,
        data_root: str | os.PathLike[str] | None,
        weights: str | os.PathLike[str] | None,
        device: str | None,
        workers: int | None,
    ) -> None:
        self._report = report
        self._bank = bank = Bank.open(folder, check="size")
        self._dataset = source_of(bank, data, data_root)
        self._workers = workers or usable_cores()
        _check_images(bank, report, self._dataset)
        chosen = choose_device(device)
        precision, compiled = split_precision(bank.key.precision)
        check_precision(precision, chosen)
        check_compile("on" if compiled else "off", chosen)
        # a decoder that is not to be had here is told below, with whatever else differs
        decode = decode_of(bank.key.decoder) if chosen.type == "cuda" else "cpu"
        self._decoder = choose_jpeg_decoder(decode, chosen)
        self._backbone = _backbone_of(bank, weights, self._decoder)
        self._forward = Forward(
            self._backbone,
            device=chosen,
            precision=precision,
            batch_size=bank.key.batch_size,
            compiled=compiled,
        )
        cuts = list(report.lost)
        self._shapes = truncate(self._backbone, cuts).cut_shapes if cuts else {}

    def run(self, progress: Callable[[int, int], None] | None) -> RepairResult:
        aside = set_damaged_aside(self._report)
        bank = Bank.open(self._bank.path, check="size")
        with contextlib.closing(
            open_loader(
                self._dataset,
                bank.manifest,
                self._backbone.preprocessing,
                self._workers,
                run_size(bank.key.batch_size),
                decoder=self._decoder,
            )
        ) as loader:
            return self._push(aside, bank, loader, progress)

    def _push(
        self, aside: SetAside, bank: Bank, loader: ImageLoader, progress: Callable[[int, int], None] | None
    ) -> RepairResult:
        writers = {cut: self._writer(bank, cut) for cut in self._report.lost}
        missing = {cut: self._wanted(cut, writer) for cut, writer in writers.items()}
        pushed = np.zeros(len(bank.slot_table), bool)
        clip = bank.key.dtype == CLIPPED
        bad = Pass(bank, loader, [self._forward], writers, missing, clip).push(pushed, progress)
        for path in aside.moved:
            if path.name == CUT_FILE:
                self._finish(bank, path.parent.name)
            elif path.parent == bank.path:  # quarantine.jsonl
                settle_quarantine(bank, loader, bad)
        return RepairResult(
            bank.path,
            aside.folder,
            aside.moved,
            sum(map(len, missing.values())),
            int(pushed.sum()),
            _differing(self._report, writers, missing),
            verify_bank(bank.path),
        )

    def _writer(self, bank: Bank, cut: str) -> CutWriter:
        known = cut in bank.cuts or cut in bank.partial_cuts
        dtype = bank[cut].dtype if known else stored_dtype(cut, bank.key.dtype)
        return bank.cut_writer(cut, tuple(self._shapes[cut]), dtype, made_by=made_by([self._forward.device]))

    def _wanted(self, cut: str, writer: CutWriter) -> list[ShardPlan]:
        missing, lost = writer.missing(), self._report.lost[cut]
        return missing if lost is None else sorted({*missing} & {*lost})

    def _finish(self, bank: Bank, cut: str) -> None:
        """Write ``cut.json`` anew; what only the first extraction knew (its time) is lost."""
        writer = self._writer(bank, cut)
        if not writer.missing():
            precision = bank.key.precision
            proved = {"precision_error": 0.0} if precision == "float32" else {}
            writer.finish(
                {"precision": precision, **proved, **tell_makers(writer), **tell_clipped(bank, cut)}
            )


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


def _backbone_of(bank: Bank, weights: str | os.PathLike[str] | None, decoder: JpegDecoder | None) -> Backbone:
    """Load what a bank was extracted with; `InvalidInputError` if its key would be another one now."""
    key, said = bank.key, bank.provenance
    backbone = load_backbone(
        key.backbone,
        weights=weights or said.get("weights_path") or said.get("weights"),
        image_size=key.image_size,
        random_state=said.get("random_state") or 0,
    )
    try:
        backbone = replace(backbone, preprocessing=Preprocessing(**key.transform))
    except TypeError as error:
        raise InvalidInputError(
            f"bank {bank.name!r} cannot be repaired by this featbank: it does not know the preprocessing "
            f"{key.transform!r}; use the one that extracted it"
        ) from error
    name = decoder_name() if decoder is None else decoder.name
    now = replace(key, weights_sha256=backbone.weights_sha256, decoder=name)
    if now != key:
        differing = ", ".join(
            f"{name} was {was!r}, is {would!r}" for name, (was, would) in key.differences(now).items()
        )
        raise InvalidInputError(
            f"bank {bank.name!r} cannot be repaired here, its rows would not fit the others: {differing}; "
            f"nothing was changed: give the same weights with --weights and install the same decoder, or run "
            f"`featbank extract`, which makes another bank"
        )
    _tell_versions(bank)
    return backbone


def _tell_versions(bank: Bank) -> None:
    import torch

    before = (bank.provenance.get("versions") or {}).get("torch")
    if before != torch.__version__:
        logger.warning(
            "bank %s was extracted with torch %s, this is %s: the last bit of its new rows may be another",
            bank.name,
            before,
            torch.__version__,
        )


def _differing(
    report: VerifyReport, writers: Mapping[str, CutWriter], missing: Mapping[str, Sequence[ShardPlan]]
) -> tuple[Path, ...]:
    """Return the new shards whose bytes are not those of the files they replace (which their names tell)."""
    before = {(one.path.parent.name, one.path.name) for one in report.faults if one.kind == "corrupt"}
    replaced = {(cut, name[:5]) for cut, name in before}
    names = {(cut, name[6:]) for cut, name in before}
    found = []
    for cut, writer in writers.items():
        numbers = {f"{plan.number:05d}" for plan in missing[cut]}
        for path in sorted(writer.folder.glob("*.h5")):
            number, digest = path.name[:5], path.name[6:]
            if number in numbers and (cut, number) in replaced and (cut, digest) not in names:
                found.append(path)
    return tuple(found)
