"""How to compute: as a bank says that is there, or the fastest that a batch proves close to float32.

Chosen once for each bank, which keeps the choice in its key. A bank that was asked for with equal settings
under equal versions answers without torch and without the weights.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._cache import DigestCache
from featbank._cuts import CutName
from featbank._process import package_versions, usable_cores
from featbank.backbones.families import OF_A_MODULE, family_of
from featbank.backbones.loading import absolute_weights, file_and_key, looks_like_file, only_file, parts_of
from featbank.banks import Bank, BankKey, BankStore
from featbank.datasets import Dataset
from featbank.datasets.decode_pool import decoder_name
from featbank.errors import (
    BankError,
    BankFormatError,
    FeatbankError,
    InvalidInputError,
    UnknownNameError,
    one_line,
)
from featbank.extraction.forward import (
    COMPILED_LIMIT,
    ERROR_LIMIT,
    MOST_NUMBERS,
    Forward,
    cannot_compile,
    check_arithmetic,
    choose_devices,
    key_precision,
    made_by,
    native_precisions,
    run_size,
    split_precision,
    tell_error,
    without_views,
)
from featbank.extraction.images import BatchLoader, DeviceBatchLoader
from featbank.extraction.jpeg_decoder import JpegDecoder, open_jpeg_decoder
from featbank.extraction.settings import ExtractionSettings
from featbank.manifest import Manifest, RowStatus

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import Backbone, Preprocessing

__all__ = [
    "Chooser",
    "Computing",
    "answers",
    "asked",
    "banks_of",
    "begun_banks",
    "choice",
    "choose_batch_size",
    "choose_jpeg_decoder",
    "cuts_in",
    "differs_in_choice",
    "open_loader",
    "proved_errors",
    "shapes_of",
]

logger = logging.getLogger(__name__)

#: A decoding process takes as long to start as so many photographs take to decode.
_LEAST_FOR_A_WORKER = 48

#: With fewer batches than this nothing is timed: compiling has never repaid so soon.
_LEAST_BATCHES = 4

#: So long images are pushed, once all is warm, to tell what each takes.
_MEASURED_S = 1.0

#: Bytes that the largest layer's output may take on a CPU. From layer to layer the numbers then stay in the
#: last cache instead of going through the memory. Measured on two cores with 32 MiB of it, images/s of 32,
#: 8, 4 and 2 at a time: MobileNetV2 compiled, float32 161, 277, 361, 285, bfloat16 405, 674, 569, 496;
#: ResNet-18 the same way 105, 125, 123, 107 and 209, 240, 216, 198; VGG16 to `block4_pool` 13.7, 14.2, 15.0,
#: 15.3 and 28.5, 29.8, 30.5, 33.0.
_CACHE_BYTES = 20 * 1024 * 1024
#: One image at a time leaves nothing to share between cores; over 32 nothing is gained.
_CPU_SIZES = (2, 4, 8, 16, 32)

#: What part of a card's memory the largest layers may take, and how many tensors of the largest one's size
#: are alive at once (inputs, outputs, what a convolution works in, copies in the other precision).
_DEVICE_PART, _ALIVE = 0.25, 8
_CUDA_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Where the memory is not known.
_ELSEWHERE = 32


def choose_batch_size(activation: int, precision: str, device: torch.device) -> int:
    """Return how many images to push together; the same on every machine but for a card's memory.

    Parameters
    ----------
    activation : int
        Numbers in the largest output of a layer, for one image; see `featbank.backbones.largest_activation`.
    precision : {"float32", "bfloat16", "float16"}
        Of the arithmetic.
    device : torch.device
        On a CPU the batch is small enough for the cache. On a CUDA device it is as large as a quarter of
        its memory allows, 256 at most.

    Examples
    --------
    >>> import torch
    >>> [choose_batch_size(96 * 112 * 112, one, torch.device("cpu")) for one in ("float32", "bfloat16")]
    [4, 8]
    """
    image_bytes = activation * (4 if precision == "float32" else 2)
    if device.type == "cpu":
        return _largest(_CPU_SIZES, _CACHE_BYTES / image_bytes)
    if device.type == "cuda":
        import torch

        total = torch.cuda.get_device_properties(device).total_memory
        limit = min(_DEVICE_PART * total / (_ALIVE * image_bytes), MOST_NUMBERS / activation)
        return _largest(_CUDA_SIZES, limit)
    return _ELSEWHERE


def _largest(sizes: tuple[int, ...], limit: float) -> int:
    return max((one for one in sizes if one <= limit), default=sizes[0])


def choose_jpeg_decoder(decode: str, device: torch.device) -> JpegDecoder | None:
    """Return the decoder that an option stands for: None for ``"cpu"``, which is Pillow alone.

    Raises
    ------
    InvalidInputError
        For ``"cuda"`` with another device, or where nothing installed can do it.

    Examples
    --------
    >>> import torch
    >>> choose_jpeg_decoder("cuda", torch.device("cpu"))
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: decode='cuda' needs a CUDA device, and the device is 'cpu'; ...
    """
    if decode == "cpu":
        return None
    if device.type != "cuda":
        raise InvalidInputError(
            f"decode={decode!r} needs a CUDA device, and the device is {str(device)!r}; use decode='cpu'"
        )
    return open_jpeg_decoder(device)


def open_loader(
    dataset: Dataset,
    manifest: Manifest,
    preprocessing: Preprocessing,
    workers: int,
    batch_size: int = 32,
    *,
    decoder: JpegDecoder | None = None,
    n_devices: int = 1,
) -> BatchLoader:
    """Return what loads the images of a dataset: with a device's decoder, or without one."""
    if decoder is None:
        return BatchLoader(dataset, manifest, preprocessing, workers, batch_size, n_devices)
    return DeviceBatchLoader(dataset, manifest, preprocessing, workers, batch_size, decoder=decoder)


class Computing:
    """What computes the features of one extraction: the weights, the devices, what decodes. Loads torch.

    Parameters
    ----------
    settings : ExtractionSettings
    cuts : sequence of str
        Names from the backbone's table.
    preprocessing : Preprocessing, optional
        Instead of what `settings` say.

    Attributes
    ----------
    backbone : Backbone
    devices : list of torch.device
    shapes : dict of str to tuple of int
        Shape of one row at each cut.
    forward : Forward
        On the first device; in eager float32 until `choose` or `take` has been called.
    errors : dict of str to float
        Cut -> relative L2 error of the arithmetic chosen against float32, as one batch said; 0 for float32.
    """

    def __init__(
        self, settings: ExtractionSettings, cuts: Sequence[str], preprocessing: Preprocessing | None = None
    ) -> None:
        from featbank.backbones.loading import load_backbone
        from featbank.backbones.network import largest_activation, truncate

        self.settings, self.cuts = settings, tuple(cuts)
        self.devices = choose_devices(settings.device)
        device = self.devices[0]
        check_arithmetic(settings.precision, settings.compile, device)
        self._decoder = choose_jpeg_decoder(settings.decode, device)
        self.decoder_name = decoder_name() if self._decoder is None else self._decoder.name
        self.backbone: Backbone = load_backbone(
            settings.backbone,
            weights=settings.weights,
            image_size=settings.image_size,
            transform=settings.transform,
            mean=settings.mean,
            std=settings.std,
            interpolation=settings.interpolation,
            random_state=settings.random_state,
        )
        if preprocessing is not None:
            self.backbone = replace(self.backbone, preprocessing=preprocessing)
        network = truncate(self.backbone, without_views(self.cuts))
        self.shapes = {cut: tuple(network.cut_shapes[CutName.parse(cut).seen]) for cut in self.cuts}
        options = native_precisions(device) if settings.precision == "auto" else (settings.precision,)
        activation = largest_activation(self.backbone)
        self._sizes = {
            one: settings.batch_size or choose_batch_size(activation, one, device)
            for one in (*options, "float32")
        }
        self.forward = Forward(
            self.backbone,
            device=device,
            precision="float32",
            batch_size=self._sizes["float32"],
            network=network,
            lanes=settings.lanes,
        )
        #: As this machine would choose first; the key of a bank asked for differs in the choice alone.
        self.first_key = self._key(
            key_precision(options[0], settings.compile == "on"), self._sizes[options[0]]
        )
        self.errors: dict[str, float] = {}
        self._loader: BatchLoader | None = None

    def open_images(
        self,
        dataset: Dataset,
        manifest: Manifest,
        batch_sizes: Sequence[int] = (),
        n_rows: int | None = None,
    ) -> None:
        """Say which images there are; `batch_sizes` are those that others than this machine would choose."""
        self._n_rows = len(manifest.rows()) if n_rows is None else n_rows
        self._name = dataset.name
        self._run_size = run_size(max([*self._sizes.values(), *batch_sizes]))
        self._loader = open_loader(
            dataset,
            manifest,
            self.backbone.preprocessing,
            self.settings.workers or min(usable_cores(), max(1, self._n_rows // _LEAST_FOR_A_WORKER)),
            self._run_size,
            decoder=self._decoder,
            n_devices=len(self.devices),
        )

    def choose(self, begun: Sequence[Bank]) -> None:
        """Set how to compute: as the first of these banks that can be gone on with here, else the fastest."""
        chooser = Chooser(
            self.forward,
            self.cuts,
            self.some_images,
            precision=self.settings.precision,
            compile=self.settings.compile,
            n_batches=-(-self._n_rows // self._run_size),
            batch_sizes=self._sizes,
        )
        found = (errors for bank in begun if (errors := chooser.as_begun(bank)) is not None)
        errors = next(found, None)
        self.errors = chooser.choose() if errors is None else errors

    def take(self, key: BankKey) -> None:
        """Compute as a bank says, whatever this machine would choose."""
        self.forward.precision, self.forward.compiled = split_precision(key.precision)
        self.forward.batch_size = key.batch_size

    @property
    def key(self) -> BankKey:
        """The key of what is computed."""
        return self._key(self.forward.arithmetic_name, self.forward.batch_size)

    @property
    def loader(self) -> BatchLoader:
        """Decodes the images of `open_images`."""
        if self._loader is None:
            raise RuntimeError("open_images comes first")
        return self._loader

    @cached_property
    def forwards(self) -> list[Forward]:
        """One for each device."""
        return [self.forward, *(self.forward.copy_on(device) for device in self.devices[1:])]

    @property
    def made_by(self) -> dict[str, str]:
        """What decides the last bits of features and is in no key."""
        return made_by(self.devices)

    def close(self) -> None:
        """End the processes that decode; what needs them again starts others."""
        if self._loader is not None:
            self._loader.close()

    def some_images(self) -> NDArray[np.uint8] | Tensor:
        """Decode some images spread over the dataset, so that every corner of it has a say."""
        manifest = self.loader.manifest
        rows = manifest.rows()
        spread = rows[np.linspace(0, len(rows) - 1, min(self._run_size, len(rows))).astype(int)]
        loaded = self.loader.load(spread.tolist())
        readable = loaded.statuses == RowStatus.OK
        if not readable.any():
            reasons = ", ".join(sorted({one.reason for one in loaded.bad}))
            raise InvalidInputError(
                f"none of the {len(spread)} images of {self._name!r} that were tried could be read "
                f"({reasons}); nothing was extracted"
            )
        return loaded.images[readable.nonzero()[0]]

    def pass_s(self, n_images: int) -> float:
        """Estimate how long pushing so many of the images takes, from some that are pushed now.

        They go the way of all: in runs as long, through processes that decode ahead, on all lanes.
        The first runs, which start processes and warm everything up, count once; what each further image
        takes is said by those behind them, for a second or more. Where there are few it is all of them.
        """
        order = np.random.default_rng(0).permutation(self.loader.manifest.rows())
        size, n_devices = self.loader.run_slots, len(self.forwards)
        runs = (
            (start, order[np.arange(start, min(start + size, n_images)) % len(order)])
            for start in range(0, n_images, size)
        )
        first_s, done, n_first, started = 0.0, 0, 0, time.perf_counter()
        for forward in self.forwards:  # while no other device computes
            forward.ready(self.cuts)
        with (
            ThreadPoolExecutor(n_devices) as threads,
            contextlib.closing(self.loader.batches(runs, held=n_devices)) as loaded,
        ):
            while batches := [one.images for one in islice(loaded, n_devices)]:
                list(
                    threads.map(
                        lambda forward, images: forward.trial(images, self.cuts), self.forwards, batches
                    )
                )
                done, passed_s = done + sum(map(len, batches)), time.perf_counter() - started
                if not n_first:
                    first_s, n_first = passed_s, done
                elif passed_s - first_s > _MEASURED_S:
                    break
        left = n_images - done
        return passed_s + (left * (passed_s - first_s) / (done - n_first) if left else 0.0)

    def _key(self, precision: str, batch_size: int) -> BankKey:
        return BankKey(
            backbone=self.backbone.spec.name,
            weights_sha256=self.backbone.weights_sha256,
            transform=self.backbone.preprocessing.to_dict(),
            image_size=self.backbone.preprocessing.image_size,
            precision=precision,
            dtype=self.settings.key_dtype,
            batch_size=batch_size,
            decoder=self.decoder_name,
        )


@dataclass(eq=False)
class Chooser:
    """Sets precision, compiling and batch size of a `Forward`, by what is asked and what one batch says.

    Parameters
    ----------
    forward : Forward
        Its `precision`, `compiled` and `batch_size` are set.
    cuts : tuple of str
        What is compared with float32.
    first_batch : callable
        Gives the images to compare on; called once at most, and only if there is something to compare.
    precision : {"auto", "float32", "bfloat16", "float16"}
        ``auto`` takes the fastest native one if a batch proves it close to float32.
    compile : {"auto", "on", "off"}
        ``auto`` compiles where the images to push repay it.
    n_batches : int
        Batches to push, at most, each of as many images as are compared.
    batch_sizes : mapping of str to int, optional
        Precision -> images to push together; the forward pass keeps its own where nothing is said.
    """

    forward: Forward
    cuts: tuple[str, ...]
    first_batch: Callable[[], NDArray[np.uint8] | Tensor]
    _: KW_ONLY
    precision: str
    compile: str
    n_batches: int
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def as_begun(self, bank: Bank) -> dict[str, float] | None:
        """Take what a bank was begun with, so that it is gone on with.

        Parameters
        ----------
        bank : Bank
            With the rows asked for, as `Bank.with_rows` gives it.

        Returns
        -------
        dict of str to float, or None
            The error of its arithmetic at each cut. None, with the reason in the log, if it cannot be had
            here, or, where the precision is left to ``auto``, is too far off float32 at a cut that it was
            never proved at.
        """
        forward, (precision, compiled) = self.forward, split_precision(bank.key.precision)
        cuts = cuts_in(bank, self.cuts)
        complete = set(bank.cuts).issuperset(cuts)
        if not complete:
            cannot = cannot_compile(forward.device) if compiled else None
            if precision == "float16" and forward.device.type != "cuda":
                cannot = "float16 needs a CUDA device"
            if cannot is not None:
                self._not_continued(bank, cannot)
                return None
        self._take(precision)
        forward.compiled, forward.batch_size = compiled, bank.key.batch_size
        known = proved_errors(bank, cuts)
        if complete or (known is not None and not compiled):  # else: does it compile here?
            return known or {}
        try:
            errors = self._prove()
        except FeatbankError:
            raise
        except Exception as error:
            if not compiled:
                raise
            self._not_continued(bank, self._failed_to_compile(error))
            return None
        worst = max(errors, key=errors.__getitem__)
        if errors[worst] <= self._limit or self.precision != "auto":
            if errors[worst] > ERROR_LIMIT:
                self._tell(worst, errors[worst], "it was asked for, so it is used")
            return errors
        self._tell(worst, errors[worst], f"bank {bank.name} is not continued")
        return None

    def choose(self) -> dict[str, float]:
        """Choose for a bank that is new; returns the error of the arithmetic at each cut.

        Raises
        ------
        InvalidInputError
            If the network was to be compiled and cannot be.
        """
        eager = self._choose_precision()
        if not self._compiles():
            return eager
        self.forward.compiled = True
        try:
            errors = self._prove()
        except Exception as error:  # noqa: BLE001 - whatever a compiler may raise; eager goes on
            because = self._failed_to_compile(error)
        else:
            worst = max(errors, key=errors.__getitem__)
            if self.compile == "on":
                return errors
            if errors[worst] <= self._limit:
                compiled_s, eager_s = self._timed_s(True), self._timed_s(False)
                self.forward.compiled = True
                if compiled_s < eager_s:
                    return errors
                because = f"compiled, {compiled_s:.2g} s for what takes {eager_s:.2g} s as it is"
            else:
                off = f"the compiled network is {errors[worst]:.2g} off float32 at {worst!r}"
                because = f"{off} (limit {self._limit:g})"
        logger.warning("%s; going on without compiling", because)
        self.forward.compiled, self.forward.compile_s = False, None
        return eager

    @cached_property
    def images(self) -> NDArray[np.uint8] | Tensor:
        """What is compared on."""
        return self.first_batch()

    @cached_property
    def _exact(self) -> dict[str, Tensor]:
        return self.forward.exact(self.images, self.cuts)

    def _timed_s(self, compiled: bool) -> float:
        """Return the seconds that the images to compare on take, the better of two; once they are warm.

        The estimate trusts a compiler to be no slower at anything. It may be: torch copies the weights of
        attention once for each image where it compiles torchvision's ViT, which takes four times as long.
        """
        self.forward.compiled, times = compiled, []
        for _ in range(2):
            started = time.perf_counter()
            self.forward.trial(self.images, self.cuts)
            times.append(time.perf_counter() - started)
        return min(times)

    @property
    def _limit(self) -> float:
        """Largest error of what `forward` is set to."""
        return COMPILED_LIMIT if self.forward.precision == "float32" else ERROR_LIMIT

    def _prove(self) -> dict[str, float]:
        """Return the error at each cut of what `forward` is set to."""
        if self.forward.precision == "float32" and not self.forward.compiled:
            return dict.fromkeys(self.cuts, 0.0)
        return self.forward.errors(self.images, self.cuts, self._exact)

    def _take(self, precision: str) -> None:
        forward = self.forward
        forward.precision, forward.compiled = precision, False
        forward.batch_size = self.batch_sizes.get(precision, forward.batch_size)

    def _tell(self, cut: str, error: float, consequence: str) -> None:
        """Say once how far off the precision is."""
        precision = self.forward.precision
        if precision not in self._told:
            self._told.add(precision)
            tell_error(precision, cut, error, ERROR_LIMIT, consequence)

    def _not_continued(self, bank: Bank, because: str) -> None:
        logger.warning("bank %s cannot be continued here: %s", bank.name, because)

    def _failed_to_compile(self, error: Exception) -> str:
        reason = f"{type(error).__name__}: {one_line(error)}"
        said = f"the network could not be compiled ({reason})"
        if self.compile == "on":
            raise InvalidInputError(f"compile='on': {said}; use auto or off") from error
        return said

    def _choose_precision(self) -> dict[str, float]:
        asked = self.precision
        wanted = native_precisions(self.forward.device) if asked == "auto" else (asked,)
        errors: dict[str, float] = {}
        for number, precision in enumerate(wanted, 1):
            self._take(precision)
            errors = self._prove()
            over = {cut: error for cut, error in errors.items() if not error <= ERROR_LIMIT}
            if not over:
                break
            worst = max(over, key=over.__getitem__)
            others = " or ".join(wanted[number:])
            self._tell(worst, over[worst], f"using {others}" if others else "it was asked for, so it is used")
        return errors

    def _compiles(self) -> bool:
        forward, n_batches = self.forward, self.n_batches
        if self.compile != "auto":
            return self.compile == "on"
        if n_batches < _LEAST_BATCHES:
            return False
        if cannot_compile(forward.device) is not None or not forward.network(self.cuts).is_traced:
            return False
        estimate = forward.estimate_compile(self.images, self.cuts)
        repays = estimate.repays(n_batches)
        logger.info(
            "%s: %.2f s per batch, compiled about %.2f s after %.0f s of compiling; %d batches to push",
            "compiling" if repays else "not compiling",
            estimate.eager_s,
            estimate.compiled_s,
            estimate.compile_s,
            n_batches,
        )
        return repays


def cuts_in(bank: Bank, cuts: Sequence[str]) -> tuple[str, ...]:
    """Return what a bank stores for cuts: what it derives one of them from is completed instead."""
    found: dict[str, None] = {}
    for cut in cuts:
        try:
            found |= dict.fromkeys(bank.sources(cut))
        except (UnknownNameError, BankError):
            found[cut] = None
    return tuple(found)


def proved_errors(bank: Bank, cuts: Sequence[str]) -> dict[str, float] | None:
    """Return the errors a bank's arithmetic was proved at, or None if it has not been at one of the cuts."""
    if bank.key.precision == "float32":
        return dict.fromkeys(cuts, 0.0)
    known = dict(bank.provenance.get("precision_errors") or {})
    for cut in {*bank.cuts, *bank.partial_cuts}.intersection(cuts):
        known[cut] = bank.facts(cut).get("precision_error", known.get(cut))
    errors = {cut: known.get(cut) for cut in cuts}
    return None if None in errors.values() else {cut: float(error or 0) for cut, error in errors.items()}


# Banks that are there ------------------------------------------------------------------------------


def banks_of(store: BankStore, backbone: str, dataset: str) -> Iterator[Bank]:
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


def begun_banks(
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
            alike = (bank.provenance.get("asked") or {}).get("choice") == choice(settings)
            rank = (own, sum(cut in done for cut in mine), n_stored, alike, bank.path.stat().st_mtime)
            found.append((rank, seen))
    return [bank for _, bank in sorted(found, key=lambda pair: pair[0], reverse=True)]


def differs_in_choice(key: BankKey, wanted: BankKey, settings: ExtractionSettings) -> bool:
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


def shapes_of(banks: Sequence[Bank]) -> dict[str, tuple[int, ...]]:
    """Return the shape of a row of every cut that one of the banks has."""
    return {cut: bank[cut].shape[1:] for bank in banks for cut in (*bank.cuts, *bank.partial_cuts)}


# What a bank says of how it was asked for ----------------------------------------------------------


def answers(bank: Bank, settings: ExtractionSettings, digests: DigestCache) -> bool:
    """Say whether a bank was asked for as now, by what it says itself: then nothing needs be computed.

    Anything that is in doubt is a no: then weights are loaded, and say what the key is.
    """
    said = bank.provenance.get("asked")
    if (
        not isinstance(said, dict)
        or settings.decode != "cpu"
        or settings.device not in (None, "auto", "cpu")
        or not isinstance(settings.backbone, str)
        # a module of somebody's own, that was called so
        or str(bank.provenance.get("weights")).startswith(OF_A_MODULE)
    ):
        return False
    wanted = asked(settings)
    if any(said.get(name) != value for name, value in wanted.items()):
        return False
    if (bank.key.dtype, bank.key.decoder) != (settings.key_dtype, decoder_name()):
        return False
    if not _chosen(bank.key, settings):
        return False
    with contextlib.suppress(FeatbankError, OSError, TypeError, KeyError):
        chosen = _weights_files(settings)
        if chosen is not None and chosen != set(said["files"]):
            return False  # another file of the folder comes first now
        files = {**said["settings_files"], **said["files"]}
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


def asked(settings: ExtractionSettings) -> dict[str, Any]:
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


def choice(settings: ExtractionSettings) -> list[Any]:
    """Return what was said of that which is chosen for a bank, once."""
    return [settings.precision, settings.compile, settings.batch_size]


def _installed(backbone: object) -> dict[str, str | None]:
    """Return the versions of what computes, without importing it."""
    others = family_of(backbone)[0].packages if isinstance(backbone, str) else ()
    return package_versions(("featbank", "torch", "torchvision", *others))
