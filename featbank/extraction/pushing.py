"""Doing what was planned: rows are copied or pushed, and what became of each is settled."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import sha256
from featbank._cuts import CutName
from featbank._registry import Progress
from featbank.backbones import Preprocessing, get_spec
from featbank.banks import Bank, QuarantineRecord
from featbank.banks.bank import CutWriter
from featbank.datasets.building import check_classes
from featbank.errors import FeatbankError, FeatureOverflowError
from featbank.extraction.choosing import open_loader
from featbank.extraction.planning import ExtractionPlan, Planned, refuse_if_full
from featbank.extraction.settings import CLIPPED, stored_dtype
from featbank.extraction.storing import CutOverflowError, LenderError, copy_part, push_slots, slots_to_push
from featbank.manifest import short_repr

if TYPE_CHECKING:
    from featbank.extraction.images import BatchLoader

__all__ = ["ExtractionResult", "push"]

logger = logging.getLogger(__name__)

_UNKNOWN = "unknown"
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class ExtractionResult:
    """What one extraction did.

    Parameters
    ----------
    bank : pathlib.Path
        The bank.
    rows : int
        Rows of the dataset: pushed + skipped + quarantined + left.
    pushed : int
        Images that went through the backbone in this call.
    skipped : int
        Rows whose features were there already, or that are identical to one that was pushed.
    quarantined : int
        Rows whose image cannot be read; ``quarantine.jsonl`` in the bank says why.
    duration_s : float
        Wall time, loading and hashing included.
    cuts : mapping of str to tuple of int
        Shape of one row at each cut that was asked for.
    classes : tuple of str
        Names of the classes that have a readable image.
    splits : mapping of str to int
        Rows of each split.
    copied : int
        Images, of those skipped, whose features at some cut were copied from other banks of the cache.
    left : int
        Rows that other slices have still to store; then the cuts are not finished.

    Examples
    --------
    >>> import featbank
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> result = featbank.extract("digits", backbone="minivgg", cuts=["fc7"], limit=300)
    >>> result.rows, result.pushed, result.skipped, result.quarantined, dict(result.cuts)
    (300, 0, 300, 0, {'fc7': (256,)})
    >>> featbank.open_bank(result.bank).cuts
    ('block3_pool', 'fc7')
    """

    bank: Path
    rows: int
    pushed: int
    skipped: int
    quarantined: int
    duration_s: float
    cuts: Mapping[str, tuple[int, ...]]
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    copied: int = 0
    left: int = 0

    __repr__ = short_repr


def push(plan: ExtractionPlan, *, progress: Progress | None = None) -> ExtractionResult:
    """Do what a plan says: all of an extraction that writes.

    Where the bank has changed since it was planned, what is missing is found out anew.

    Parameters
    ----------
    plan : ExtractionPlan
        From `featbank.extraction.plan`; it is closed, whatever comes of it.
    progress : callable, optional
        Called with (images done, images to push).

    Returns
    -------
    ExtractionResult

    Raises
    ------
    CacheWriteError
        If the disk is full or not writable; what was written before stays and is not pushed again.
    FeatureOverflowError
        If a feature is not finite, or does not fit `dtype` and `on_overflow` is ``"error"``.

    Examples
    --------
    >>> from featbank.extraction import ExtractionSettings, plan
    >>> todo = plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=20))
    >>> todo.to_push
    20
    >>> push(todo).pushed
    20
    """
    work = plan.need_work()
    with plan:  # an exception may be kept, as notebooks do, and with it all that it passed
        work.look_again()  # what another process has stored since this was planned
        refuse_if_full(plan)
        return Pushing(work, progress).run()


class LookAgain(Exception):  # noqa: N818 - no error
    """The bank is not what it was when the extraction was planned."""


class Pushing:
    """An extraction, or a repair, that is being done.

    Parameters
    ----------
    work : Planned
    progress : callable or None
        As of `push`.
    begun : bool, default=False
        Whether the bank is there, with these rows; of a plan that was saved it is.

    Attributes
    ----------
    pushed, copied : set of bytes
        Digests of the images that went through the backbone, or did not have to.
    bad : list of QuarantineRecord
        What could not be read.
    """

    def __init__(self, work: Planned, progress: Progress | None, *, begun: bool = False) -> None:
        self._work, self._progress, self._begun = work, progress, begun or work.saved is not None
        self._token = secrets.token_hex(8) if work.saved is None else work.saved.digest
        self.pushed: set[bytes] = set()
        self.copied: set[bytes] = set()
        self.bad: list[QuarantineRecord] = []

    def run(self) -> ExtractionResult:
        """Store every row that can be had, or those of a slice, and settle what became of each.

        A slice settles all of them if it finds that it was the last.
        """
        work = self._work
        self.store()
        if work.missing.mine is not None:
            work.look_again()  # what the others have stored
            if any(work.missing.shards.values()):
                return self._result(len(self.bad), sum(one.n_images for one in work.missing.tasks()))
        if work.saved is not None:
            work.saved.check_rows(Bank.open(work.path, check="size"))
        bank = work.missing.bank
        for cut, writer in work.missing.writers.items():
            if work.missing.shards[cut] or not writer.finished:
                # of the rows the bank has now, which may be another's
                clip = work.missing.bank.key.dtype == CLIPPED
                clipped = tell_clipped(Bank.open(work.path, check="size"), cut) if clip else {}
                told = {**tell_makers(writer), **clipped}
                writer.finish(partial(cut_facts, work, cut, self._token, told))
            elif not (layout := tell_layout(work, cut)).items() <= bank.facts(cut).items():
                # from before it was recorded
                writer.finish({**bank.facts(cut), **layout})
        with ExitStack() as opened:
            quarantined = settle_quarantine(bank, self.bad, cache(partial(self._loader, opened)))
        bank.touch()
        work.digests.save()
        # All is stored, and nothing will be pushed again once the user has said what is meant.
        manifest, settings = bank.manifest, work.settings
        refuse = not settings.skip_empty_classes and settings.limit is None
        check_classes(manifest, work.dataset.name, refuse=refuse, before=work.manifest)
        return self._result(quarantined)

    def _loader(self, opened: ExitStack) -> BatchLoader:
        """Return what decodes; of a saved plan without what computes, which not every machine may be."""
        work = self._work
        if work.computing is not None or work.saved is None or work.settings.decode != "cpu":
            return work.need_computing().loader
        preprocessing = Preprocessing(**work.missing.bank.key.transform)
        loader = open_loader(work.dataset, work.manifest, preprocessing, 1)
        opened.callback(loader.close)
        return loader

    def _result(self, quarantined: int, left: int = 0) -> ExtractionResult:
        work, manifest = self._work, self._work.missing.bank.manifest
        rows, n_pushed = len(manifest), len(self.pushed)
        return ExtractionResult(
            bank=work.path,
            rows=rows,
            pushed=n_pushed,
            skipped=rows - n_pushed - quarantined - left,
            quarantined=quarantined,
            duration_s=time.perf_counter() - work.started,
            cuts={cut: work.missing.writers[cut].shape for cut in work.cuts},
            classes=manifest.present_classes(),
            splits=manifest.counts(),
            copied=len(self.copied - self.pushed),
            left=left,
        )

    def store(self) -> None:
        """Write what is missing, or of it what is this slice's; again if the bank turns out another."""
        work = self._work
        while True:
            try:
                self.write_missing()
                self.begin()
            except LookAgain:
                continue
            except CutOverflowError as error:
                self._widen(error)
                continue
            except LenderError as error:
                logger.warning(
                    "bank %s is damaged or gone, its images are pushed again instead of copied: %s",
                    error.bank.name,
                    error,
                )
                lenders = [one for one in work.missing.lenders if one.path != error.bank.path]
                work.look_again(lenders=lenders)
                continue
            if work.saved is not None:  # what a slice lacks was gone when its turn came
                return
            gone = {bytes.fromhex(one.digest) for one in self.bad}
            # Another process, with other rows, may have written shards without some of these images.
            absent = {one for writer in work.missing.writers.values() for one in writer.absent()} - gone
            if not absent:
                return
            bank = work.missing.bank
            bank.renew(absent)
            work.look_again(others=sorted({*work.missing.writers, *bank.cuts}.difference(work.cuts)))

    def _widen(self, error: CutOverflowError) -> None:
        """Begin a cut that overflows anew in float32, where that was asked for."""
        work = self._work
        writer = work.missing.writers[error.cut]
        if work.settings.on_overflow != "float32" or writer.dtype != np.float16:
            raise error
        if work.missing.mine is not None:
            raise FeatureOverflowError(
                f"{str(error).partition(';')[0]}; other slices store {error.cut!r} in float16: plan again "
                "with --dtype float32, or --on-overflow clip"
            ) from error
        logger.warning(
            "%s is stored in float32, all of it, what was there in float16 is extracted again: %s",
            repr(error.cut),
            str(error).partition(";")[0],
        )
        if any(writer.folder.glob("*.h5")):
            work.store.remove(work.path, cut=error.cut)
        work.look_again(wide={*work.missing.wide, error.cut})

    def write_missing(self) -> None:
        """Write the missing shards, of what other banks hold and what is pushed.

        Raises
        ------
        LenderError
            If a bank that has features is damaged, or gone; shards that were written stay.
        FeatureOverflowError, CacheWriteError
            As of `push`.
        """
        work = self._work
        if work.made_by is None and len(work.missing.slots()):
            work.need_computing()
            work.look_again()  # for writers that say what makes a shard
        missing = work.missing
        n_to_push, lent = len(missing.slots()), missing.copied()
        for part in missing.to_copy():
            self.begin()
            copy_part(missing, part)
        if n_to_push:
            computing = work.need_computing()
            todo = slots_to_push(missing, computing.made_by)
            went = np.zeros(len(todo.rows), bool)
            clip = missing.bank.key.dtype == CLIPPED
            try:
                self.bad += push_slots(
                    todo, computing.loader, computing.forwards, went, self._progress, self.begin, clip=clip
                )
            except (KeyboardInterrupt, SystemExit):
                self._tell_kept(todo.digests[went])
                raise
            finally:
                self.pushed.update(one.tobytes() for one in todo.digests[went])
        digests, slots = missing.bank.slot_table.digests, missing.bank.row_slots
        for rows in lent.values():
            self.copied.update(one.tobytes() for one in digests[slots[rows]])

    def _tell_kept(self, digests: NDArray[np.uint8]) -> None:
        """Say how many of the images that were pushed when a pass was stopped need not be pushed again."""
        missing = self._work.missing
        left = {one.tobytes() for one in missing.bank.slot_table.digests[missing.refreshed().slots()]}
        kept = sum(one.tobytes() not in left for one in digests)
        if len(digests):
            logger.warning(
                "%d of %d pushed images are kept (a shard takes %d images; --shard-rows makes them smaller)",
                kept,
                len(digests),
                max(one.n_rows for shards in missing.shards.values() for one in shards),
            )

    def begin(self) -> None:
        """Make the bank, or set its rows; `LookAgain` if it is not what it was when planned."""
        if self._begun:
            return
        work, planned = self._work, self._work.missing.bank
        try:
            bank = work.store.create_or_open(work.dataset.name, planned.key, work.provenance)
            bank.set_manifest(work.manifest, renew=work.missing.renewed)
        except (FeatbankError, OSError):
            work.store.remove_unfinished(work.path)
            raise
        bank.set_location(work.dataset.location)
        self._begun = True
        if planned.same_slots(bank):
            for writer in work.missing.writers.values():
                writer.prepare()
            return
        work.look_again(bank)
        raise LookAgain


def cut_facts(
    work: Planned, cut: str, token: str, told: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is recorded of a cut; the time adds up over the runs that extracted it."""
    if cut not in work.cuts:
        return dict(before)
    key, writer = work.missing.bank.key, work.missing.writers[cut]
    # of slices nobody knows how long the others took
    duration_s = before.get("duration_s", 0.0) + time.perf_counter() - work.started
    return {
        "precision": key.precision,
        "precision_error": work.errors.get(cut, before.get("precision_error")),
        **({"on_overflow": "float32"} if writer.dtype != stored_dtype(cut, key.dtype) else {}),
        **({"duration_s": round(duration_s, 3)} if work.missing.mine is None else {}),
        # equal for cuts that came from the same passes, all of them
        "passes": sha256(f"{before.get('passes', '')} {token}".encode())[:16],
        **tell_layout(work, cut),
        **told,
    }


def tell_layout(work: Planned, cut: str) -> dict[str, Any]:
    """Say what a bank has to know of a cut to pool it when it is read."""
    layout = get_spec(work.settings.backbone).cut(CutName.parse(cut).seen).layout
    return {} if layout is None else layout.to_dict()


def tell_makers(writer: CutWriter) -> dict[str, str]:
    """Say when the shards of a cut were made by more than one version of torch, or kind of device.

    Returns
    -------
    dict of str to str
        Facts of the cut: what made it, and under ``mixed`` what differs between its shards.
    """
    made_by = {
        name: sorted(
            {part for value in values for part in value.split(", ")}
        )  # of several banks, in one shard
        for name, values in writer.made_by().items()
    }
    facts = {name: ", ".join(values) for name, values in made_by.items()}
    mixed = "; ".join(f"{name} {' and '.join(values)}" for name, values in made_by.items() if len(values) > 1)
    if mixed:
        logger.warning(
            "cut %r has shards of %s: the last bits of their features may differ, as if each had an error of "
            "its own; `featbank banks rm` and `featbank extract` make all of it in one way",
            writer.cut,
            mixed,
        )
        facts["mixed"] = mixed
    return facts


def tell_clipped(bank: Bank, cut: str) -> dict[str, int]:
    """Count the values of a whole cut that stand at the limit of float16, and say so.

    Returns
    -------
    dict of str to int
        ``n_clipped`` values in ``n_clipped_rows`` rows of the manifest; empty if the cut is not clipped.
    """
    array = bank[cut]
    if bank.key.dtype != CLIPPED or array.dtype != np.float16:
        return {}
    limit = np.finfo(np.float16).max
    good = np.flatnonzero(bank.rows_ok(cut))
    n_values = n_rows = 0
    for start in range(0, len(good), _BLOCK_ROWS):
        block = array.read(good[start : start + _BLOCK_ROWS], dtype=np.float16)
        over = np.abs(block.reshape(len(block), -1)) >= limit
        n_values += int(over.sum())
        n_rows += int(over.any(axis=1).sum())
    if n_values:
        logger.warning(
            "cut %r: %d values in %d of %d images are beyond float16 and were clipped to +-65504; they are "
            "not what the network gave (--on-overflow float32 keeps them)",
            cut,
            n_values,
            n_rows,
            len(good),
        )
    return {"n_clipped": n_values, "n_clipped_rows": n_rows}


def settle_quarantine(bank: Bank, bad: Sequence[QuarantineRecord], loader: Callable[[], BatchLoader]) -> int:
    """Write why each quarantined row is quarantined.

    Parameters
    ----------
    bank : Bank
        The bank, all cuts finished.
    bad : sequence of QuarantineRecord
        What this run could not read.
    loader : callable
        Returns what decodes: to look again at images whose reason was never written down, because an
        interrupted run came to their status.

    Returns
    -------
    int
        How many of this run's rows are quarantined.
    """
    bank.refresh()  # what others came to counts, where there was nothing left for this run
    own = bank.manifest
    mine = np.flatnonzero(own.statuses)
    if not len(mine) and not bank.quarantine():
        return 0
    known = {one.digest: one for one in bad}

    def looked_up(there: Bank) -> list[QuarantineRecord]:
        # another process may have set its own rows, or write down its own, just now
        manifest = there.manifest
        before = {one.digest: one for one in there.quarantine() if one.reason != _UNKNOWN}
        known.update(before | known)
        records = []
        for row in np.flatnonzero(manifest.statuses).tolist():
            digest = manifest.digests[row].tobytes().hex()
            if digest not in known:
                known[digest] = _look_again(loader(), manifest.ids[row], digest)
            records.append(replace(known[digest], id=manifest.ids[row]))
        return records

    bank.write_quarantine(looked_up)
    digests = [own.digests[row].tobytes().hex() for row in mine]
    reasons = Counter(known[one].reason if one in known else _UNKNOWN for one in digests)
    if reasons:
        logger.warning(
            "%d of %d images could not be read (%s); %s says why",
            len(mine),
            len(own),
            ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()),
            bank.path / "quarantine.jsonl",
        )
    return len(mine)


def _look_again(loader: BatchLoader, image_id: bytes, digest: str) -> QuarantineRecord:
    wanted = np.frombuffer(bytes.fromhex(digest), np.uint8)
    rows = np.flatnonzero((loader.manifest.digests == wanted).all(axis=1))
    if not len(rows):
        return QuarantineRecord(image_id, digest, _UNKNOWN, "another extraction came to it")
    bad = loader.load(rows[:1].tolist()).bad
    return bad[0] if bad else QuarantineRecord(image_id, digest, _UNKNOWN, "readable by now")
