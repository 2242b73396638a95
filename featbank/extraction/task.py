"""One extraction: from names to an open bank, the pass itself, and what became of each row."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import sha256
from featbank._cache import banks_folder
from featbank.backbones import get_spec, largest_activation, load_backbone, truncate
from featbank.banks import Bank, BankKey, BankStore, CutWriter
from featbank.datasets import Dataset, build_manifest, check_classes, decoder_name, open_dataset
from featbank.errors import InvalidInputError
from featbank.extraction._pass import Pass
from featbank.extraction.batching import choose_batch_sizes
from featbank.extraction.changes import tell_changes, tell_makers, tell_other_keys
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
from featbank.extraction.precision import PrecisionProof, check_precision, key_precision, native_precisions
from featbank.extraction.quarantine import settle_quarantine
from featbank.extraction.settling import Settlement, candidates, proved_errors, settle
from featbank.extraction.storing import CutOverflowError
from featbank.extraction.work import ExtractionPlan, free_bytes, refuse_if_full, run_size
from featbank.manifest import Manifest, RowStatus, short_repr

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

    The parameters are those of `featbank.extract`, which see. Making one loads the weights, hashes the
    images and writes the bank's manifest; no image is pushed except the one batch that proves a precision.
    The processes that decode end with `run` and `discard`, whatever comes of them, and with `close`; it is a
    context manager.
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
    ) -> None:
        self._started, self._token = time.perf_counter(), secrets.token_hex(8)
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
        store = BankStore(banks_folder(cache_dir))
        options = candidates(precision, compile, native_precisions(self.device))
        sizes = dict.fromkeys([one for one, _ in options] + ["float32"], batch_size or 0)
        if batch_size is None:
            sizes = choose_batch_sizes(
                options, largest_activation(self.backbone), self.device, store, self.dataset.name, self._key
            )
        self._run_size = run_size(max(sizes.values()))
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
        )
        self._store = store
        try:
            self._open_bank(precision, compile, options, sizes, manifest)
        except BaseException:
            self.close()
            raise

    def _open_bank(
        self,
        precision: str,
        compile: str,
        options: Sequence[tuple[str, bool]],
        sizes: Mapping[str, int],
        manifest: Manifest,
    ) -> None:
        """Settle on the arithmetic, for which a batch is decoded, and open the bank that is for it."""
        store = self._store
        self.proof = self._settle(precision, compile, options, sizes, store)
        key = self._key(self.forward.arithmetic_name, self.forward.batch_size)
        self._is_new = not store.path_for(self.dataset.name, key).exists()
        if self._is_new:
            tell_other_keys(store, self.dataset.name, key)
        self.bank = store.create_or_open(self.dataset.name, key, self._provenance())
        _check_same_source(self.bank, self.dataset, manifest.digests)
        self._before = self.bank.manifest if len(self.bank) else None
        if self._before is not None:
            tell_changes(self._before, manifest)
        # Images that were gone when a cut was extracted, and are back, get a slot of their own.
        self.bank.set_manifest(manifest, renew=self.bank.absent_digests(manifest))
        self._writers = {cut: self._writer(cut, cut_dtype(self.bank, cut, self._dtype)) for cut in self.cuts}
        self._missing = {cut: writer.missing() for cut, writer in self._writers.items()}

    def close(self) -> None:
        """End the processes that decode; what needs them again starts others."""
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writer(self, cut: str, dtype: np.dtype[Any]) -> CutWriter:
        made = made_by([self.device, *self._others])
        return self.bank.cut_writer(cut, self.shapes[cut], dtype, made_by=made)

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

    def _settle(
        self,
        precision: str,
        compile: str,
        options: Sequence[tuple[str, bool]],
        sizes: Mapping[str, int],
        store: BankStore,
    ) -> PrecisionProof:
        """Take what a bank of this dataset was proved at before, else prove it on a batch."""
        forward = self.forward
        begun = []
        for chosen in options:
            batch_size = sizes[chosen[0]]
            key = self._key(key_precision(*chosen), batch_size)
            bank = store.path_for(self.dataset.name, key)
            errors = proved_errors(bank, self.cuts)
            if errors is not None:
                forward.precision, forward.compiled = chosen
                forward.batch_size = batch_size
                return PrecisionProof(forward.precision, errors)
            if bank.is_dir():
                begun.append(chosen)
        n_batches = -(-len(self._loader.manifest.rows()) // self._run_size)
        asked = Settlement(precision, compile, n_batches, tuple(begun), sizes)
        return settle(forward, asked, self.cuts, self._proof_images)

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
        to_push = int((self._first_rows[self._pass().work.slots()] >= 0).sum())
        cut_bytes = {
            cut: sum(one.n_rows for one in plans)
            * int(np.prod(self.shapes[cut], dtype=np.int64))
            * self._writers[cut].dtype.itemsize
            for cut, plans in self._missing.items()
        }
        return ExtractionPlan(
            bank=self.bank.path,
            rows=len(self.bank.manifest),
            classes=self.bank.manifest.present_classes(),
            splits=self.bank.manifest.counts(),
            to_push=to_push,
            cuts=self.shapes,
            cut_bytes=cut_bytes,
            disk_free_bytes=free_bytes(self.bank.path),
            duration_s=self._estimate(to_push) if measure and to_push else None,
        )

    def discard(self) -> None:
        """Give the bank its old rows back, or remove it if it is new: a plan alone leaves nothing behind."""
        self.close()
        if self._is_new:
            self._store.remove(self.bank.path)
        elif self._before is not None:
            self.bank.set_manifest(self._before)

    def _estimate(self, to_push: int) -> float:
        """Time decoding and pushing of some images, twice: the first time pays for warming up."""
        for _ in range(2):
            started = time.perf_counter()
            images = self._proof_images()
            self.forward.trial(images, self.cuts)
            duration_s = time.perf_counter() - started
        return duration_s * to_push / len(images)

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """First manifest row of each slot, -1 where the image is gone."""
        return self.bank.slot_first_rows()

    def run(
        self, progress: Progress | None = None, on_plan: Callable[[ExtractionPlan], None] | None = None
    ) -> ExtractionResult:
        """Push what is missing, write it, and settle what became of each row; see `featbank.extract`."""
        with self:  # an exception may be kept, as notebooks do, and with it all that it passed
            return self._run(progress, on_plan)

    def _run(
        self, progress: Progress | None, on_plan: Callable[[ExtractionPlan], None] | None
    ) -> ExtractionResult:
        plan = self.plan()
        if on_plan is not None:
            on_plan(plan)
        refuse_if_full(plan)
        pushed = np.zeros(len(self.bank.slot_table), bool)
        bad = self._push(pushed, progress)
        for cut, writer in self._writers.items():
            if self._missing[cut] or not writer.finished:
                writer.finish({**self._facts(cut), **tell_makers(writer), **tell_clipped(self.bank, cut)})
        quarantined = settle_quarantine(self.bank, self._loader, bad)
        self.bank.touch()
        # All is stored, and nothing will be pushed again once the user has said what is meant.
        found = self.bank.manifest
        check_classes(found, self.dataset.name, refuse=self._refuse_empty, before=self._loader.manifest)
        rows, n_pushed = len(found), int(pushed.sum())
        return ExtractionResult(
            bank=self.bank.path,
            rows=rows,
            pushed=n_pushed,
            skipped=rows - n_pushed - quarantined,
            quarantined=quarantined,
            duration_s=time.perf_counter() - self._started,
            cuts=self.shapes,
            classes=found.present_classes(),
            splits=found.counts(),
        )

    def _push(self, pushed: NDArray[np.bool_], progress: Progress | None) -> list[BadImage]:
        """Push what is missing; a cut that overflows is begun anew in float32 where that was asked for."""
        while True:
            try:
                return self._pass().push(pushed, progress)
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

    def _facts(self, cut: str) -> dict[str, Any]:
        """What is recorded of a cut; the time adds up over the runs that extracted it."""
        before = self.bank.facts(cut)
        return {
            "precision": self.forward.arithmetic_name,
            "precision_error": self.proof.errors.get(cut),
            **(
                {"on_overflow": "float32"}
                if self._writers[cut].dtype != stored_dtype(cut, self._dtype)
                else {}
            ),
            "duration_s": round(before.get("duration_s", 0.0) + time.perf_counter() - self._started, 3),
            # equal for cuts that came from the same passes, all of them
            "passes": sha256(f"{before.get('passes', '')} {self._token}".encode())[:16],
        }


def usable_cores() -> int:
    """Return how many cores this process may use, which a container or a scheduler may have cut down."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
