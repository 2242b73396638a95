"""One extraction: from names to an open bank, the pass itself, and what became of each row."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import sha256
from featbank._cache import banks_folder
from featbank._cores import usable_cores
from featbank.backbones import get_spec, largest_activation, load_backbone, truncate
from featbank.banks import (
    Bank,
    BankKey,
    BankStore,
    CutWriter,
    lend_bank,
    lend_shards,
    lendable_shards,
)
from featbank.datasets import Dataset, build_manifest, check_classes, decoder_name, open_dataset
from featbank.errors import FeatbankError, InvalidInputError
from featbank.extraction._pass import Pass
from featbank.extraction.batching import choose_batch_size
from featbank.extraction.changes import (
    check_same_source,
    tell_changes,
    tell_makers,
    tell_other_keys,
    tell_other_names,
)
from featbank.extraction.compiling import check_compile
from featbank.extraction.device_images import open_loader
from featbank.extraction.forward import Forward, choose_devices, made_by
from featbank.extraction.images import BadImage
from featbank.extraction.jpeg_decoder import choose_jpeg_decoder
from featbank.extraction.overflow import (
    CLIPPED,
    check_policy,
    cut_dtype,
    key_dtype,
    stored_dtype,
    tell_clipped,
)
from featbank.extraction.precision import check_precision, key_precision, native_precisions
from featbank.extraction.quarantine import settle_quarantine
from featbank.extraction.settling import Settlement, begun_banks, settle
from featbank.extraction.storing import CutOverflowError
from featbank.extraction.work import ExtractionPlan, free_bytes, refuse_if_full, run_size
from featbank.manifest import RowStatus, short_repr

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Extraction", "ExtractionResult", "Progress"]

logger = logging.getLogger(__name__)

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
    classes : tuple of str
        Names of the classes that have a readable image.
    splits : mapping of str to int
        Rows of each split.
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

    __repr__ = short_repr


class Extraction:
    """What `featbank.extract` does, in steps: `plan` says what it costs, `run` does it.

    The parameters are those of `featbank.extract`, which see. Making one loads the weights and hashes the
    images; no image is pushed except the one batch that proves a precision. Nothing is written, locked or
    removed before `run` has features that can be stored: a plan leaves no trace, in a new bank or an old one.
    `lenders` are banks of other names that hold some of the same images: a new bank is given their files.
    The processes that decode end with `run`, whatever comes of it, and with `close`; it is a context manager.
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
        batch_size: int | None,
        limit: int | None,
        name: str | None,
        device: str | None,
        workers: int | None,
        random_state: int,
        data_root: str | os.PathLike[str] | None,
        download: bool,
        cache_dir: str | os.PathLike[str] | None,
        on_overflow: str = "error",
        compile: str = "auto",
        decode: str = "cpu",
        layout: str | None = None,
        skip_empty_classes: bool = False,
        override_split: bool = False,
        path_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        lenders: Sequence[Bank] = (),
        lanes: int | None = None,
    ) -> None:
        self._started, self._token = time.perf_counter(), secrets.token_hex(8)
        #: Name of the bank whose files a new bank is given; None if it begins without any, or is there.
        self.shares: str | None = None
        if dtype not in _DTYPES:
            raise InvalidInputError(f"dtype={dtype!r} is not one of {', '.join(_DTYPES)}")
        check_policy(on_overflow)
        if batch_size is not None and batch_size < 1:
            raise InvalidInputError(
                f"batch_size={batch_size!r} must be at least 1, or None to let memory decide"
            )
        if workers is not None and workers < 1:
            raise InvalidInputError(f"workers={workers!r} must be at least 1")
        if not cuts:
            raise InvalidInputError(f"no cut was asked for; 'featbank cuts {backbone}' lists them")
        self.device, *self._others = choose_devices(device)
        check_precision(precision, self.device)
        check_compile(compile, self.device)
        decoder = choose_jpeg_decoder(decode, self.device)
        self._decoder_name = decoder_name() if decoder is None else decoder.name
        # Names are checked before data and weights are touched: a typo must not cost a minute.
        self.cuts = tuple(cut.name for cut in get_spec(backbone).resolve(cuts))
        self._dtype, self._random_state = key_dtype(dtype, on_overflow), random_state
        self._widen = on_overflow == "float32"
        self.dataset = open_dataset(
            data,
            data_root=data_root,
            download=download,
            name=name,
            layout=layout,
            skip_empty_classes=skip_empty_classes,
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
        )
        self._refuse_empty = not skip_empty_classes and limit is None
        self.backbone = load_backbone(
            backbone, weights=weights, image_size=image_size, transform=transform, random_state=random_state
        )
        network = truncate(self.backbone, self.cuts)
        self.shapes = {cut: tuple(shape) for cut, shape in network.cut_shapes.items()}
        manifest = build_manifest(
            self.dataset,
            split=split,
            limit=limit,
            skip_empty_classes=skip_empty_classes,
            override_split=override_split,
        )
        self._store = store = BankStore(banks_folder(cache_dir))
        options = native_precisions(self.device) if precision == "auto" else (precision,)
        activation = largest_activation(self.backbone)
        sizes = {
            one: batch_size or choose_batch_size(activation, one, self.device)
            for one in (*options, "float32")
        }
        begun = begun_banks(
            [
                *store.banks(self.dataset.name, self.backbone.spec.name),
                *(one for one in lenders if not store.path_for(self.dataset.name, one.key).exists()),
            ],
            self._key(key_precision(options[0], compile == "on"), sizes[options[0]]),
            manifest,
            self.cuts,
            precision=precision,
            compile=compile,
            batch_size=batch_size,
        )
        self._run_size = run_size(max([*sizes.values(), *(one.bank.key.batch_size for one in begun)]))
        self._loader = open_loader(
            self.dataset,
            manifest,
            self.backbone.preprocessing,
            workers or usable_cores(),
            self._run_size,
            decoder=decoder,
        )
        self.forward = Forward(
            self.backbone,
            device=self.device,
            precision="float32",
            batch_size=sizes["float32"],
            network=network,
            lanes=lanes,
        )
        asked = Settlement(precision, compile, -(-len(manifest.rows()) // self._run_size), sizes)
        try:
            self.proof = settle(self.forward, asked, self.cuts, self._proof_images, begun)
            key = self._key(self.forward.arithmetic_name, self.forward.batch_size)
            there = store.planned(self.dataset.name, key, self._provenance())
            self._lender = next((one for one in lenders if one.key == key), None)
            if not there.path.exists() and self._lender is None:
                tell_other_keys(store, self.dataset.name, key)
                if name is None and not lenders:
                    location = self.dataset.location
                    tell_other_names(store, self.dataset.name, key, location, manifest.digests)
            check_same_source(there, self.dataset.location, manifest.digests)
            if len(there):
                tell_changes(there.manifest, manifest)
            self._plan_rows(there)
        except BaseException:
            self.close()
            raise

    @property
    def _is_there(self) -> bool:
        return self._path.exists()

    @property
    def _path(self) -> Path:
        return self._store.path_for(self.dataset.name, self.bank.key)

    def _plan_rows(self, bank: Bank) -> None:
        """Find out what is missing of the rows, from what is on disk now."""
        manifest, self.bank = self._loader.manifest, bank
        if self._lender is not None and not self._is_there:
            bank = self._lender  # the new bank will have its files
            self.shares = bank.name
        self.bank = bank.with_rows(manifest)
        self._open_writers()
        absent = self._absent()
        if absent:
            # A shard never changes: what it lacks gets a slot of its own, at the cuts that are whole as well.
            others = [cut for cut in self.bank.cuts if cut not in self._writers]
            self.bank = bank.with_rows(manifest, renew=absent)
            self._open_writers(others)
        self._renewed = absent

    @property
    def _other_cuts(self) -> list[str]:
        """Cuts that were not asked for, and get their features of the images that need new slots."""
        return [cut for cut in self._writers if cut not in self.cuts]

    def _absent(self) -> set[bytes]:
        found: set[bytes] = set()
        return found.union(*(one.absent() for one in self._writers.values()))

    def _open_writers(self, others: Sequence[str] = ()) -> None:
        self._writers = {cut: self._writer(cut, cut_dtype(self.bank, cut, self._dtype)) for cut in self.cuts}
        for cut in others:
            array = self.bank[cut]
            self._writers[cut] = self._writer(cut, array.dtype, array.shape[1:])
        lent = {} if self._lender is None else lendable_shards(self._lender, self.bank)
        self._missing = {
            cut: [plan for plan in writer.missing() if plan.number not in lent.get(cut, ())]
            for cut, writer in self._writers.items()
        }

    def close(self) -> None:
        """End the processes that decode; what needs them again starts others."""
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writer(self, cut: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None = None) -> CutWriter:
        made = made_by([self.device, *self._others])
        return self.bank.cut_writer(cut, shape or self.shapes[cut], dtype, made_by=made)

    def _pass(self) -> Pass:
        clip = self._dtype == CLIPPED
        return Pass(self.bank, self._loader, self._forwards, self._writers, self._missing, clip)

    @cached_property
    def _forwards(self) -> list[Forward]:
        return [self.forward, *(self.forward.copy_on(device) for device in self._others)]

    def _key(self, precision: str, batch_size: int) -> BankKey:
        return BankKey(
            backbone=self.backbone.spec.name,
            weights_sha256=self.backbone.weights_sha256,
            transform=self.backbone.preprocessing.to_dict(),
            image_size=self.backbone.preprocessing.image_size,
            precision=precision,
            dtype=self._dtype,
            batch_size=batch_size,
            decoder=self._decoder_name,
        )

    def _proof_images(self) -> NDArray[np.uint8] | Tensor:
        """Decode some images spread over the dataset, so that every corner of it has a say."""
        rows = self._loader.manifest.rows()
        spread = rows[np.linspace(0, len(rows) - 1, min(self._run_size, len(rows))).astype(int)]
        loaded = self._loader.load(spread.tolist())
        readable = loaded.statuses == RowStatus.OK
        if not readable.any():
            reasons = ", ".join(sorted({one.reason for one in loaded.bad}))
            raise InvalidInputError(
                f"none of the {len(spread)} images of {self.dataset.name!r} that were tried could be read "
                f"({reasons}); nothing was extracted"
            )
        return loaded.images[readable.nonzero()[0]]

    def _provenance(self) -> dict[str, Any]:
        import torch
        import torchvision

        from featbank import __version__

        return {
            "dataset": self.dataset.name,
            "location": self.dataset.location,
            "layout": getattr(self.dataset, "layout", None),
            # what `open_dataset` needs, besides the place, to open a CSV again
            "columns": getattr(self.dataset, "columns", {}),
            "weights": self.backbone.weights,
            # what a prediction needs to find the same weights again
            "weights_path": self.backbone.weights_path,
            "random_state": self._random_state,
            # what an interrupted extraction need not prove, and say, again
            "precision_errors": {cut: error for cut, error in self.proof.errors.items() if error < np.inf},
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
        to_push = int((self.bank.slot_first_rows()[self._pass().work.slots()] >= 0).sum())
        cut_bytes = {
            cut: sum(one.n_rows for one in plans)
            * int(np.prod(self._writers[cut].shape, dtype=np.int64))
            * self._writers[cut].dtype.itemsize
            for cut, plans in self._missing.items()
        }
        return ExtractionPlan(
            bank=self._path,
            rows=len(self.bank.manifest),
            classes=self.bank.manifest.present_classes(),
            splits=self.bank.manifest.counts(),
            to_push=to_push,
            cuts=self.shapes,
            cut_bytes=cut_bytes,
            disk_free_bytes=free_bytes(self.bank.path),
            duration_s=self._estimate(to_push) if measure and to_push else None,
        )

    def _estimate(self, to_push: int) -> float:
        """Time decoding and pushing of some images, twice: the first time pays for warming up."""
        for _ in range(2):
            started = time.perf_counter()
            images = self._proof_images()
            self.forward.trial(images, self.cuts)
            duration_s = time.perf_counter() - started
        return duration_s * to_push / len(images)

    def run(
        self, progress: Progress | None = None, on_plan: Callable[[ExtractionPlan], None] | None = None
    ) -> ExtractionResult:
        """Push what is missing, write it, and settle what became of each row; see `featbank.extract`."""
        with self:  # an exception may be kept, as notebooks do, and with it all that it passed
            return self._run(progress, on_plan)

    def _run(
        self, progress: Progress | None, on_plan: Callable[[ExtractionPlan], None] | None
    ) -> ExtractionResult:
        self._open_writers(self._other_cuts)  # what another process has stored since this was planned
        plan = self.plan()
        if on_plan is not None:
            on_plan(plan)
        refuse_if_full(plan)
        own = self._loader.manifest
        pushed: set[bytes] = set()
        bad: list[BadImage] = []
        begun = False
        if self.shares is not None:
            with contextlib.suppress(_ChangedError):
                self._begin()
        while True:
            slots = np.zeros(len(self.bank.slot_table), bool)
            try:
                found = self._push(slots, progress, None if begun else self._begin)
                if not begun and not slots.any():
                    self._begin()
            except _ChangedError:
                continue
            begun = True
            bad += found
            pushed.update(one.tobytes() for one in self.bank.slot_table.digests[slots])
            gone = {own.digests[one.row].tobytes() for one in bad}
            # Another process, with other rows, may have written shards without some of these images.
            absent = self._absent() - gone
            if not absent:
                break
            others = {*self._other_cuts, *(cut for cut in self.bank.cuts if cut not in self.cuts)}
            self.bank.renew(absent)
            self._open_writers(sorted(others))
        for cut, writer in self._writers.items():
            if self._missing[cut] or not writer.finished:
                # of the rows the bank has now, which may be another's
                clip = self._dtype == CLIPPED
                clipped = tell_clipped(Bank.open(self.bank.path, check="size"), cut) if clip else {}
                writer.finish(partial(self._facts, cut, {**tell_makers(writer), **clipped}))
        quarantined = settle_quarantine(self.bank, self._loader, bad)
        self.bank.touch()
        # All is stored, and nothing will be pushed again once the user has said what is meant.
        manifest = self.bank.manifest
        check_classes(manifest, self.dataset.name, refuse=self._refuse_empty, before=self._loader.manifest)
        rows, n_pushed = len(manifest), len(pushed)
        return ExtractionResult(
            bank=self.bank.path,
            rows=rows,
            pushed=n_pushed,
            skipped=rows - n_pushed - quarantined,
            quarantined=quarantined,
            duration_s=time.perf_counter() - self._started,
            cuts=self.shapes,
            classes=manifest.present_classes(),
            splits=manifest.counts(),
        )

    def _begin(self) -> None:
        """Make the bank, or set its rows; `_ChangedError` if it is not what it was when this was planned."""
        planned, lender, name = self.bank, self._lender, self.dataset.name
        try:
            if lender is not None and not self._is_there:
                lend_bank(Bank.open(lender.path), self._store, name)
            bank = self._store.create_or_open(name, planned.key, self._provenance())
            bank.set_manifest(self._loader.manifest, renew=self._renewed)
            if lender is not None:
                lend_shards(lender, bank)
        except (FeatbankError, OSError) as error:
            if lender is None:
                self._store.remove_unfinished(self._path)
                raise
            # then the images are pushed: slower, and nothing worse
            logger.info("features of %s cannot be shared: %s", lender.name, error)
            self._lender = self.shares = None
            self._plan_rows(self._store.planned(name, planned.key, self._provenance()))
            raise _ChangedError from error
        bank.set_location(self.dataset.location)
        self._lender = None
        if planned.path == bank.path and planned.same_slots(bank):
            for writer in self._writers.values():
                writer.prepare()
            return
        self._plan_rows(bank)
        raise _ChangedError

    def _push(
        self, pushed: NDArray[np.bool_], progress: Progress | None, begin: Callable[[], None] | None
    ) -> list[BadImage]:
        """Push what is missing; a cut that overflows is begun anew in float32 where that was asked for."""
        while True:
            try:
                return self._pass().push(pushed, progress, begin)
            except CutOverflowError as error:
                if not self._widen or self._writers[error.cut].dtype != np.float16:
                    raise
                logger.warning(
                    "%s is stored in float32, all of it, what was there in float16 is extracted again: %s",
                    repr(error.cut),
                    str(error).partition(";")[0],
                )
                if any(self._writers[error.cut].folder.glob("*.h5")):
                    self._store.remove(self.bank.path, cut=error.cut)
                self._writers[error.cut] = self._writer(error.cut, np.dtype(np.float32))
                self._missing[error.cut] = self._writers[error.cut].missing()

    def _facts(self, cut: str, told: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """What is recorded of a cut; the time adds up over the runs that extracted it."""
        if cut not in self.cuts:
            return dict(before)
        return {
            "precision": self.forward.arithmetic_name,
            "precision_error": self.proof.errors.get(cut, before.get("precision_error")),
            **(
                {"on_overflow": "float32"}
                if self._writers[cut].dtype != stored_dtype(cut, self._dtype)
                else {}
            ),
            "duration_s": round(before.get("duration_s", 0.0) + time.perf_counter() - self._started, 3),
            # equal for cuts that came from the same passes, all of them
            "passes": sha256(f"{before.get('passes', '')} {self._token}".encode())[:16],
            **told,
        }


class _ChangedError(Exception):
    """The bank is not what it was when the extraction was planned."""
