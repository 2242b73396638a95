"""One extraction: from names to an open bank, the pass itself, and what became of each row."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank._cache import banks_folder
from featbank.backbones import get_spec, load_backbone, truncate
from featbank.banks import Bank, BankKey, BankStore, QuarantineRecord
from featbank.datasets import Dataset, build_manifest, decoder_name, open_dataset
from featbank.errors import BankNotFoundError, InvalidInputError
from featbank.extraction.changes import tell_changes
from featbank.extraction.compiling import check_compile
from featbank.extraction.forward import Forward, choose_device
from featbank.extraction.images import BadImage, BatchLoader
from featbank.extraction.precision import (
    PrecisionProof,
    check_precision,
    key_precision,
    native_precision,
)
from featbank.extraction.settling import Settlement, candidates, settle
from featbank.extraction.storing import ShardStore, stored_dtype
from featbank.extraction.work import ExtractionPlan, Work, free_bytes, refuse_if_full
from featbank.manifest import RowStatus

__all__ = ["BATCH_SIZE", "Extraction", "ExtractionResult", "Progress"]

logger = logging.getLogger(__name__)

#: Images per forward pass; part of the key, because another batch size may round the last bit differently.
BATCH_SIZE = 32

_DTYPES = ("float16", "float32")

#: Called with (images done, images to push).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExtractionResult:
    """What one extraction did.

    Parameters
    ----------
    bank : pathlib.Path
        The bank.
    rows : int
        Rows of the dataset: pushed + skipped + quarantined.
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
    """

    bank: Path
    rows: int
    pushed: int
    skipped: int
    quarantined: int
    duration_s: float
    cuts: Mapping[str, tuple[int, ...]]


class Extraction:
    """What `featbank.extract` does, in steps: `plan` says what it costs, `run` does it.

    The parameters are those of `featbank.extract`, which see. Making one loads the weights, hashes the
    images and writes the bank's manifest; no image is pushed except the one batch that proves a precision.
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Dataset,
        *,
        backbone: str,
        cuts: Sequence[str],
        weights: str | os.PathLike[str] | None,
        split: str | None,
        image_size: int | None,
        transform: str | None,
        precision: str,
        dtype: str,
        batch_size: int,
        limit: int | None,
        name: str | None,
        device: str | None,
        workers: int | None,
        random_state: int,
        data_root: str | os.PathLike[str] | None,
        download: bool,
        cache_dir: str | os.PathLike[str] | None,
        compile: str = "auto",
    ) -> None:
        self._started = time.perf_counter()
        if dtype not in _DTYPES:
            raise InvalidInputError(f"dtype={dtype!r} is not one of {', '.join(_DTYPES)}")
        if batch_size < 1:
            raise InvalidInputError(f"batch_size={batch_size!r} must be at least 1")
        if workers is not None and workers < 1:
            raise InvalidInputError(f"workers={workers!r} must be at least 1")
        if not cuts:
            raise InvalidInputError(f"no cut was asked for; 'featbank cuts {backbone}' lists them")
        self.device = choose_device(device)
        check_precision(precision, self.device)
        check_compile(compile, self.device)
        # Names are checked before data and weights are touched: a typo must not cost a minute.
        self.cuts = tuple(cut.name for cut in get_spec(backbone).resolve(cuts))
        self._dtype, self._batch_size, self._random_state = dtype, batch_size, random_state
        self.dataset = open_dataset(data, data_root=data_root, download=download, name=name)
        self.backbone = load_backbone(
            backbone, weights=weights, image_size=image_size, transform=transform, random_state=random_state
        )
        is_file = weights is not None and Path(weights).is_file()
        self._weights_path = str(Path(weights).absolute()) if weights is not None and is_file else None
        network = truncate(self.backbone, self.cuts)
        self.shapes = {cut: tuple(shape) for cut, shape in network.cut_shapes.items()}
        manifest = build_manifest(self.dataset, split=split, limit=limit)
        self._loader = BatchLoader(
            self.dataset, manifest, self.backbone.preprocessing, workers or _usable_cores()
        )
        store = BankStore(banks_folder(cache_dir))
        self.forward = Forward(
            self.backbone, device=self.device, precision="float32", batch_size=batch_size, network=network
        )
        self.proof = self._settle(precision, compile, store)
        key = self._key(self.forward.arithmetic_name)
        self._is_new = not store.path_for(self.dataset.name, key).exists()
        self._store = store
        self.bank = store.create_or_open(self.dataset.name, key, self._provenance())
        _check_same_source(self.bank, self.dataset, manifest.digests)
        self._before = self.bank.manifest if len(self.bank) else None
        if self._before is not None:
            tell_changes(self._before, manifest)
        # Images that were gone when a cut was extracted, and are back, get a slot of their own.
        self.bank.set_manifest(manifest, renew=self.bank.absent_digests(manifest))
        self._writers = {
            cut: self.bank.cut_writer(cut, self.shapes[cut], stored_dtype(cut, dtype)) for cut in self.cuts
        }
        self._missing = {cut: writer.missing() for cut, writer in self._writers.items()}
        ranges = {cut: [(one.start, one.stop) for one in plans] for cut, plans in self._missing.items()}
        self._work = Work(batch_size, self.bank.slot_table.segments, ranges)

    def _key(self, precision: str) -> BankKey:
        return BankKey(
            backbone=self.backbone.spec.name,
            weights_sha256=self.backbone.weights_sha256,
            transform=self.backbone.preprocessing.to_dict(),
            image_size=self.backbone.preprocessing.image_size,
            precision=precision,
            dtype=self._dtype,
            batch_size=self._batch_size,
            decoder=decoder_name(),
        )

    def _settle(self, precision: str, compile: str, store: BankStore) -> PrecisionProof:
        """Take what a bank of this dataset was proved at before, else prove it on a batch."""
        forward = self.forward
        begun = []
        for chosen in candidates(precision, compile, native_precision(self.device)):
            bank = store.path_for(self.dataset.name, self._key(key_precision(*chosen)))
            errors = _proved(bank, self.cuts)
            if errors is not None:
                forward.precision, forward.compiled = chosen
                return PrecisionProof(forward.precision, errors)
            if bank.is_dir():
                begun.append(chosen)
        n_batches = -(-len(self._loader.manifest.rows()) // self._batch_size)
        asked = Settlement(precision, compile, n_batches, tuple(begun))
        return settle(forward, asked, self.cuts, self._proof_images)

    def _proof_images(self) -> NDArray[np.uint8]:
        """Decode one batch spread over the dataset, so that every corner of it has a say."""
        rows = self._loader.manifest.rows()
        spread = rows[np.linspace(0, len(rows) - 1, min(self._batch_size, len(rows))).astype(int)]
        loaded = [self._loader.load(int(row)) for row in spread]
        images = [one for one in loaded if not isinstance(one, BadImage)]
        if not images:
            reasons = ", ".join(sorted({one.reason for one in loaded if isinstance(one, BadImage)}))
            raise InvalidInputError(
                f"none of the {len(loaded)} images of {self.dataset.name!r} that were tried could be read "
                f"({reasons}); nothing was extracted"
            )
        return np.stack(images)

    def _provenance(self) -> dict[str, Any]:
        import torch
        import torchvision

        from featbank import __version__

        return {
            "dataset": self.dataset.name,
            "location": self.dataset.location,
            "weights": self.backbone.weights,
            # what a prediction needs to find the same weights again
            "weights_path": self._weights_path,
            "random_state": self._random_state,
            "versions": {
                "featbank": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
            },
        }

    def plan(self, *, measure: bool = False) -> ExtractionPlan:
        """Say what is left to do and what it costs.

        Parameters
        ----------
        measure : bool, default=False
            Push two batches (which are thrown away) to estimate the time.

        Returns
        -------
        ExtractionPlan
        """
        to_push = int((self._first_rows[self._work.slots()] >= 0).sum())
        cut_bytes = {
            cut: sum(one.n_rows for one in plans)
            * int(np.prod(self.shapes[cut], dtype=np.int64))
            * stored_dtype(cut, self._dtype).itemsize
            for cut, plans in self._missing.items()
        }
        return ExtractionPlan(
            bank=self.bank.path,
            rows=len(self.bank.manifest),
            to_push=to_push,
            cuts=self.shapes,
            cut_bytes=cut_bytes,
            disk_free_bytes=free_bytes(self.bank.path),
            duration_s=self._estimate(to_push) if measure and to_push else None,
        )

    def discard(self) -> None:
        """Give the bank its old rows back, or remove it if it is new: a plan alone leaves nothing behind."""
        if self._is_new:
            self._store.remove(self.bank.path)
        elif self._before is not None:
            self.bank.set_manifest(self._before)

    def _estimate(self, to_push: int) -> float:
        """Time decoding and pushing of a batch, the second of two: the first one pays for warming up."""
        for _ in range(2):
            started = time.perf_counter()
            self.forward.trial(self._proof_images(), self.cuts)
            duration_s = time.perf_counter() - started
        return duration_s * to_push / self._batch_size

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """First manifest row of each slot, -1 where the image is gone."""
        return self.bank.slot_first_rows()

    def run(
        self, progress: Progress | None = None, on_plan: Callable[[ExtractionPlan], None] | None = None
    ) -> ExtractionResult:
        """Push what is missing, write it, and settle what became of each row; see `featbank.extract`."""
        plan = self.plan()
        if on_plan is not None:
            on_plan(plan)
        refuse_if_full(plan)
        bad = self._push(plan.to_push, progress)
        for cut, writer in self._writers.items():
            if self._missing[cut] or not writer.finished:
                writer.finish(self._facts(cut))
        quarantined = self._settle_quarantine(bad)
        rows, pushed = len(self.bank.manifest), self.forward.n_pushed
        return ExtractionResult(
            bank=self.bank.path,
            rows=rows,
            pushed=pushed,
            skipped=rows - pushed - quarantined,
            quarantined=quarantined,
            duration_s=time.perf_counter() - self._started,
            cuts=self.shapes,
        )

    def _push(self, total: int, progress: Progress | None) -> list[BadImage]:
        dtypes = {cut: stored_dtype(cut, self._dtype) for cut in self.cuts}
        batches = list(self._work.batches())
        rows = self._first_rows
        bad: list[BadImage] = []
        done = 0
        loaded = self._loader.batches((start, rows[start:stop].tolist()) for start, stop, _ in batches)
        with (
            ShardStore(self._writers, self._missing, self.shapes, dtypes) as shards,
            contextlib.closing(loaded),
        ):
            for (start, stop, cuts), batch in zip(batches, loaded, strict=True):
                bad += batch.bad
                features = self.forward(
                    batch.images, cuts, n_images=int((batch.statuses == RowStatus.OK).sum())
                )
                ids = [self.bank.manifest.ids[row] if row >= 0 else b"" for row in rows[start:stop].tolist()]
                shards.add(start, batch.statuses, features, ids)
                done += int((rows[start:stop] >= 0).sum())
                if progress is not None:
                    progress(done, total)
        return bad

    def _facts(self, cut: str) -> dict[str, Any]:
        """What is recorded of a cut; the time adds up over the runs that extracted it."""
        before = self.bank.facts(cut)
        return {
            "precision": self.forward.arithmetic_name,
            "precision_error": self.proof.errors.get(cut),
            "duration_s": round(before.get("duration_s", 0.0) + time.perf_counter() - self._started, 3),
        }

    def _settle_quarantine(self, bad: Sequence[BadImage]) -> int:
        """Write why each quarantined row is quarantined; returns how many there are."""
        manifest = self.bank.manifest
        digests = {
            row: manifest.digests[row].tobytes().hex() for row in np.flatnonzero(manifest.statuses).tolist()
        }
        known = {record.digest: (record.reason, record.detail) for record in self.bank.quarantine()}
        known |= {digests[one.row]: (one.reason, one.detail) for one in bad if one.row in digests}
        records = []
        for row, digest in digests.items():
            if digest not in known:
                # An interrupted run stored the status but never came to write the reason: look again.
                again = self._loader.load(row)
                said = (
                    (again.reason, again.detail)
                    if isinstance(again, BadImage)
                    else ("unknown", "readable by now")
                )
                known[digest] = said
            records.append(QuarantineRecord(manifest.ids[row], digest, *known[digest]))
        if records or self.bank.quarantine():
            self.bank.write_quarantine(records)
        if records:
            logger.warning(
                "%d of %d images could not be read (%s); %s says why",
                len(records),
                len(manifest),
                ", ".join(
                    f"{n} {reason}" for reason, n in Counter(one.reason for one in records).most_common()
                ),
                self.bank.path / "quarantine.jsonl",
            )
        return len(records)


def _usable_cores() -> int:
    """Return how many cores this process may use, which a container or a scheduler may have cut down."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _proved(bank: Path, cuts: Sequence[str]) -> dict[str, float] | None:
    """Return the errors a bank's cuts were proved at, or None if one of them has not been."""
    if not bank.is_dir():
        return None
    try:
        opened = Bank.open(bank, check="size")
    except BankNotFoundError:
        return None
    if not set(cuts) <= set(opened.cuts):
        return None
    errors = {cut: opened.facts(cut).get("precision_error") for cut in cuts}
    return None if None in errors.values() else {cut: float(error or 0) for cut, error in errors.items()}


def _check_same_source(bank: Bank, dataset: Dataset, digests: NDArray[np.uint8]) -> None:
    """Refuse to turn the bank of one dataset into that of another which has the same name."""
    known = bank.slot_table.slot_of()
    location = bank.provenance.get("location")
    if not known or location == dataset.location or any(digest.tobytes() in known for digest in digests):
        return
    raise InvalidInputError(
        f"{str(bank.path)!r} holds the features of {location!r}, and not one image of {dataset.location!r} "
        f"is in it; give this dataset another --name"
    )
