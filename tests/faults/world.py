"""One small extraction that costs a tenth of a second, and what its bank must look like afterwards.

The network is built once for all children of this process: building it writes nothing, and costs ten times
what the extraction does. The clock that measures stands still, so that whole trees can be compared.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZE = 4
CUTS = ("block4_pool", "block5_pool")

#: Not part of what a bank says: a lock has no content, the mark of a checked copy names an inode, and the
#: order of the banks is not kept where the disk is full.
UNIMPORTANT = (".lock", ".verified.json", ".order.json", ".digests", ".digests.lock")


def _built_once(build: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[Any, Any] = {}

    @functools.wraps(build)
    def cached(first: Any, *others: Any, **options: Any) -> Any:
        name = first if isinstance(first, str) else id(first)
        key = (name, *map(str, others), *((one, str(value)) for one, value in sorted(options.items())))
        if key not in made:
            made[key] = build(first, *others, **options)
        return made[key]

    return cached


def few_rows(row_bytes: int, batch_size: int, shard_bytes: int) -> int:
    """Take the place of `shard_rows_for`: one batch in a shard, two where rows are large."""
    return batch_size * (2 if row_bytes > 300 else 1)


class World:
    """A folder of made images, the tree an uninterrupted extraction leaves, and room for broken ones.

    Parameters
    ----------
    n_images : int
        Pictures in two classes; one of them stands twice, and one more file is no image at all.
    """

    def __init__(self, n_images: int = 16) -> None:
        import torch

        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        time.perf_counter = lambda: 0.0  # cut.json holds a duration
        from featbank.backbones import loading, network

        loading.load_backbone = _built_once(loading.load_backbone)  # type: ignore[assignment]
        network.truncate = _built_once(network.truncate)  # type: ignore[assignment]
        import featbank.banks.bank
        import featbank.cli.app  # children must not pay for imports
        from featbank.extraction import pushing

        facts = pushing.cut_facts
        # which cuts shared their passes is told by random numbers
        pushing.cut_facts = lambda *of: {**facts(*of), "passes": ""}
        featbank.banks.bank.shard_rows_for = few_rows
        # a run of one batch: more moments to be killed at
        featbank.extraction.forward._RUN = featbank.extraction.images._RUN = BATCH_SIZE
        self.root = Path(tempfile.mkdtemp(prefix="featbank-faults-"))
        # What is only compared, and never timed, needs no disk.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.memory = Path(tempfile.mkdtemp(prefix="featbank-faults-", dir=memory))
        atexit.register(self.remove)  # children leave by os._exit
        self.data = self.root / "images"
        make_images(self.data, n_images)
        self.extract(self.root / "whole")
        self.whole = tree(self.root / "whole")
        self._pool = decode_here()
        self.extract(self.memory / "here")
        if difference(tree(self.memory / "here"), self.whole):
            sys.stderr.write("decoding here gives other bytes: every extraction starts processes, slowly\n")
            self.decode_elsewhere()
        bank = next((self.root / "whole" / "banks" / "images").iterdir())
        self.bank_path = bank.relative_to(self.root / "whole")
        self.n_rows = n_images + 2

    def extract(self, cache: Path, *, workers: int = 1, data: Path | None = None, **options: Any) -> Any:
        """Extract the images, or those of another folder as theirs, into a cache."""
        from featbank.extraction import extract

        settings = {
            "backbone": "minivgg",
            "cuts": CUTS,
            "precision": "float32",
            "compile": "off",
            "batch_size": BATCH_SIZE,
            "name": self.data.name,
        }
        return extract(data or self.data, workers=workers, cache_dir=cache, **{**settings, **options})

    def decode_elsewhere(self) -> None:
        """Let processes decode, as users have it; else this process does, to spare the start of them."""
        for name, function in self._pool.items():
            setattr(_pool_class(), name, function)

    @functools.cached_property
    def others(self) -> dict[str, Path]:
        """Folders of images of which some are also in others: made once."""
        places = {name: self.root / name / "images" for name in ("few", "more", "changed", "apart")}
        for name in ("few", "more", "changed"):
            shutil.copytree(self.data, places[name])
        for path in places["few"].glob("*/*[4567].png"):
            path.unlink()
        make_images(places["apart"], 9, first=900)
        for path in places["apart"].glob("*/90[1-4].png"):
            shutil.copy(path, places["more"] / path.parent.name / path.name)
            shutil.copy(path, places["changed"] / path.parent.name / path.name.replace("90", "00"))
        return {"whole": self.data, **places}

    def command(self, cache: Path) -> list[str]:
        """Return the same extraction as words of the command line."""
        cuts = [word for cut in CUTS for word in ("--cut", cut)]
        words = [
            "extract",
            str(self.data),
            "--backbone",
            "minivgg",
            *cuts,
            "--precision",
            "float32",
            "--compile",
            "off",
        ]
        return [*words, "--batch-size", str(BATCH_SIZE), "--cache-dir", str(cache), "--workers", "1"]

    def shard_rows(self, name: str) -> int:
        """Return how many rows the shard of this relative name holds."""
        from featbank.banks.shards import read_shard

        return read_shard(self.root / "whole" / name).plan.n_rows

    def fresh(self, *, on_disk: bool = False) -> Path:
        """Return an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.root if on_disk else self.memory))

    def remove(self) -> None:
        """Remove everything that was made."""
        for folder in (self.root, self.memory):
            shutil.rmtree(folder, ignore_errors=True)

    def faults(self, cache: Path, acknowledged: set[str]) -> dict[str, Any]:
        """Say what is wrong with a cache that was left in the middle.

        Parameters
        ----------
        cache : pathlib.Path
            The cache.
        acknowledged : set of str
            Relative names of shards whose `write` had returned.

        Returns
        -------
        dict
            ``rows_lost`` and ``rows_duplicated`` (int), ``silent`` (damaged or foreign files that nothing
            names), ``named`` (damaged files that `verify` names) and ``unopened`` (why a bank that is there
            cannot be opened).
        """
        from featbank.banks import Bank, verify_bank
        from featbank.errors import BankNotFoundError, FeatbankError

        there = tree(cache)
        lost = {name for name in acknowledged if there.get(name) != self.whole[name]}
        shards = [name.rsplit("-", 1)[0] for name in there if name.endswith(".h5") and "pool/" in name]
        doubled = [name for name in set(shards) if shards.count(name) > 1]
        named: set[str] = set()
        unopened = []
        bank = cache / self.bank_path
        with contextlib.suppress(BankNotFoundError):
            named = {str(one.path.relative_to(cache)) for one in verify_bank(bank).findings}
        if (bank / "bank.json").exists():
            try:
                opened = Bank.open(bank, check="sha256")
                _ = opened.cuts, opened.partial_cuts
                for cut in {*opened.cuts, *opened.partial_cuts}:
                    opened[cut].read(opened.rows_ok(cut))
            except FeatbankError as error:
                unopened.append(str(error))
        # The small files change as an extraction goes on; shards never do.
        wrong = {name for name in there if name.endswith(".h5") and "pool/" in name and ".tmp-" not in name}
        wrong = {name for name in wrong if there[name] != self.whole.get(name)}
        return {
            "rows_lost": sum(map(self.shard_rows, lost)),
            "rows_duplicated": sum(self.shard_rows(_any_of(self.whole, name)) for name in doubled),
            "silent": sorted(wrong - named),
            "named": sorted(name for name in wrong & named),
            "unopened": unopened,
        }


def _pool_class() -> Any:
    from featbank.datasets.decode_pool import DecodePool

    return DecodePool


def _decoded_to(to_pixels: Any) -> Any:
    from featbank.datasets import decode_image

    return lambda data: to_pixels(decode_image(data))


def decode_here() -> dict[str, Any]:
    """Let `DecodePool` decode in this process; return what its methods were."""
    from featbank.datasets.decode_pool import DecodedBatch, DecodeFailure
    from featbank.errors import ImageDecodeError

    def begin(self: Any, dataset: Any, to_pixels: Any, *, shape: Any, **others: Any) -> None:
        decodes = others.get("max_pixels", 1) is not None
        self.here = dataset, _decoded_to(to_pixels) if decodes else to_pixels, shape

    def decoded(self: Any, index: int, digest: Any) -> Any:
        dataset, to_pixels, _ = self.here
        try:
            data = dataset.read(index)
            if digest is not None and hashlib.sha256(data).digest() != digest.tobytes():
                raise ImageDecodeError("changed", "it is not the file that was listed")
            return to_pixels(data)
        except ImageDecodeError as error:
            return error.reason, error.detail
        except OSError as error:
            return "unreadable", error.strerror or str(error)

    def batches(self: Any, requests: Any, *, held: int = 1) -> Iterator[Any]:
        for request in requests:
            n = len(request.indices)
            images, ok = np.zeros((n, *self.here[2]), np.uint8), np.zeros(n, bool)
            failures = []
            for position, index in enumerate(request.indices):
                if index < 0:
                    continue
                digest = None if request.digests is None else request.digests[position]
                pixels = decoded(self, int(index), digest)
                if isinstance(pixels, tuple):
                    failures.append(DecodeFailure(position, *pixels))
                else:
                    images[position], ok[position] = pixels, True
            yield DecodedBatch(images, ok, failures)

    own = {"__init__": begin, "batches": batches, "close": lambda self: None}
    real = {name: getattr(_pool_class(), name) for name in own}
    for name, function in own.items():
        setattr(_pool_class(), name, function)
    return real


def _any_of(names: dict[str, bytes], start: str) -> str:
    return next(name for name in names if name.startswith(start))


def make_images(folder: Path, n_images: int, first: int = 0) -> None:
    """Write small noisy pictures in two class folders, one of them twice, and a file that is no picture."""
    from PIL import Image

    for index in range(first, first + n_images):
        random = np.random.default_rng(index)
        pixels = random.integers(0, 120, size=(32, 32, 3), dtype=np.uint8)
        pixels[..., index % 2] += 120
        path = folder / ("blue", "red")[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    shutil.copy(folder / "blue" / f"{first:03d}.png", folder / "red" / "twin.png")
    (folder / "blue" / "broken.png").write_bytes(b"no picture")


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder that says something: relative name -> bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNIMPORTANT
    }


def difference(got: dict[str, bytes], want: dict[str, bytes]) -> list[str]:
    """Name what two trees differ in."""
    return [
        f"{name}: {'missing' if name not in got else 'too much' if name not in want else 'other bytes'}"
        for name in sorted({*got, *want})
        if got.get(name) != want.get(name)
    ]
