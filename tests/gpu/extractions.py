"""Steps about featbank itself: is it right on the card, and how fast are its stages and the whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import photographs
from bench import Bench, MissingError
from PIL import Image

#: What the checks of step 2 extract with, unless they say otherwise.
_EXACT = {
    "backbone": "minivgg",
    "cuts": ["block1_pool", "fc7"],
    "weights": "random",
    "precision": "float32",
    "compile": "off",
    "dtype": "float32",
    "batch_size": 16,
    "workers": 1,
}


def correctness(bench: Bench) -> None:
    """The card gives the CPU's features, a bad file costs its row alone, what was cut short goes on."""
    import featbank

    few, many, n_many = bench.work / "few", bench.work / "many", bench.size(700, 200)
    pictures = photographs.originals(bench.images, (120, 90), 5)
    photographs.fill(few, pictures, 37, n_classes=2)
    photographs.fill(many, pictures, n_many, n_classes=4)
    (few / "class0" / "bad.jpg").write_bytes(b"no image")

    def extract(data: Path, cache: str, **options: Any) -> Any:
        given = {**_EXACT, "device": str(bench.device), "cache_dir": bench.work / "caches" / cache, **options}
        return featbank.extract(data, **given)

    exact: dict[str, Any] = {}
    with bench.part("rows, pushed and bad ones of 38 files, one of them no image") as note:
        done = extract(few, "cpu", device="cpu")
        exact = _features(done.bank)
        found = [done.rows, done.pushed, done.quarantined]
        note(found, ok=found == [38, 37, 1])
    for name, limit, options in (
        ("float32", 1e-5, {}),
        ("batches of 7, the last one short", 1e-5, {"batch_size": 7}),
        ("bfloat16", 0.03, {"precision": "bfloat16", "dtype": "float16"}),
        ("compiled", 1e-5, {"compile": "on"}),
    ):
        with bench.part(f"relative error against the CPU in float32: {name}") as note:
            if "compile" in options:
                bench.need_compiler()
                if bench.toy:
                    raise MissingError("the toy compiles in step 3")
            found = _features(extract(few, name.split()[0], **options).bank)
            error = max(_distance(found[cut], rows) for cut, rows in exact.items())
            # rows in another order would be seen
            told_apart = _distance(np.roll(exact["block1_pool"], 1, axis=0), exact["block1_pool"]) > 0.1
            note(error, f"at most {limit}", ok=error <= limit and told_apart)
    # 32 x 64 x 64 numbers a row: 128 are 64 MiB
    large = {"cuts": ["block1_pool"], "image_size": 128, "shard_rows": bench.size(128, 64)}
    straight = None
    with bench.part("shards, the same bytes in two runs") as note:
        straight = _shards(extract(many, "straight", **large).bank)
        again = _shards(extract(many, "again", **large).bank)
        note(len(straight), ok=straight == again and len(straight) > 2)
    with bench.part("pushed by the second of two runs, the first cut short; the same bytes") as note:

        def stop(count: int, _total: int) -> None:
            if count >= n_many * 2 // 3:
                raise InterruptedError

        with contextlib.suppress(InterruptedError):
            extract(many, "resumed", progress=stop, **large)
        done = extract(many, "resumed", **large)
        note(done.pushed, ok=_shards(done.bank) == straight and 0 < done.pushed < n_many)
    with bench.part("pushed by a second whole run") as note:
        pushed = extract(many, "straight", **large).pushed
        note(pushed, ok=pushed == 0)


def _shards(bank: Path) -> dict[str, str]:
    """Return the hash of every shard's file."""
    return {
        str(path.relative_to(bank)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bank.glob("*/*.h5"))
    }


def _features(bank: Path) -> dict[str, Any]:
    """Return all rows of each cut as float64, read by h5py."""
    import h5py

    parts: dict[str, list[Any]] = {}
    for path in sorted(bank.glob("*/*.h5")):
        with h5py.File(path, "r") as file:
            parts.setdefault(path.parent.name, []).append(np.asarray(file["features"][:], np.float64))
    return {cut: np.concatenate(some) for cut, some in parts.items()}


def _distance(found: Any, exact: Any) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def decoding(bench: Bench) -> None:
    """Reading, checking, decoding, resizing by featbank's processes, nothing else running."""
    from featbank.benchmark._stages import decode_rate

    files = sorted((bench.work / "small").rglob("*.jpg"))[: bench.size(600, 16)]
    with bench.part("small, files opened and read by one thread") as note:
        note(len(files) / bench.seconds(lambda: [path.read_bytes() for path in files]), "files/s")
    with bench.part("small, decoded and resized by Pillow in one thread, from memory") as note:
        contents = [path.read_bytes() for path in files]

        def decode(data: bytes) -> None:
            Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)

        note(len(files) / bench.seconds(lambda: list(map(decode, contents))), "images/s")
    for name, said in (("small", "8-14k"), ("large", "4-6k")):
        for workers in (8, 12, 16) if not bench.toy else (1,):
            with bench.part(f"{name}, {workers} processes", said) as note:
                backbone = "minivgg" if bench.toy else "resnet50"
                note(decode_rate(bench.work / name, backbone=backbone, workers=workers), "images/s")


def writing(bench: Bench) -> None:
    """featbank's shards, written again from a bank: into memory and onto the disk, on several threads."""
    import featbank
    from featbank.benchmark._stages import write_rate

    done = featbank.extract(
        bench.work / "small",
        backbone="minivgg" if bench.toy else "vgg16",
        cuts=["block3_pool"],
        weights="random",
        limit=bench.size(1_536, 16),
        compile="off",
        device=str(bench.device),
        cache_dir=bench.work / "caches" / "writing",
    )
    for kind, place in (("disk", bench.work), ("memory", Path("/dev/shm"))):
        for threads in (1, 4, 8):
            with bench.part(f"{kind}, {threads} threads", "870 before") as note:
                if not place.is_dir():
                    raise MissingError(f"no {place}")
                with tempfile.TemporaryDirectory(prefix="featbank-gpu-", dir=place) as folder:
                    rate, row_bytes = write_rate(done.bank, Path(folder), threads=threads)
                note(rate, f"images/s, {rate * row_bytes / 1e9:.2f} GB/s")


#: Backbone, cut (None: the last one before the logits), images (0: all), who decodes, what the review said.
_EXTRACTIONS = (
    ("vgg16", "block3_pool", 4_096, "cpu", "0.8-1k before"),
    ("vgg16", "fc7", 0, "cpu", "6-7k before"),
    ("resnet50", "avgpool", 0, "cpu", "6-7k before"),
    ("mobilenet_v2", "avgpool", 0, "cpu", "8-12k before"),
    ("vit_b_16", None, 0, "cpu", "5.5-6k before"),
    ("mobilenet_v2", "avgpool", 0, "cuda", "3k before"),
)
_TOY = (("minivgg", "block3_pool", 64, "cpu", None), ("minivgg", None, 0, "cpu", None))


def end_to_end(bench: Bench) -> None:
    """Whole extractions: from JPEG files to a bank on the disk."""
    import featbank
    from featbank.backbones import get_spec

    for name, cut, limit, decode, said in _TOY if bench.toy else _EXTRACTIONS:
        cuts = [one.name for one in get_spec(name).cuts if one.derived_from is None and one.name != "logits"]
        wanted = cut or cuts[-1]
        with bench.part(
            f"{name} {wanted}{', decoded on the card' if decode == 'cuda' else ''}", said
        ) as note:
            planned: list[float] = []
            cache = bench.work / "caches" / f"{name}-{wanted}-{decode}"
            started = time.perf_counter()
            done = featbank.extract(
                bench.work / "small",
                backbone=name,
                cuts=[wanted],
                weights="random",
                limit=limit or None,
                decode=decode,
                device=str(bench.device),
                cache_dir=cache,
                on_plan=lambda _, planned=planned: planned.append(time.perf_counter()),
            )
            ended = time.perf_counter()
            key = featbank.Bank.open(done.bank).key
            shutil.rmtree(cache)
            # from the plan on: loading weights, hashing, proving the precision are not in it
            rate, total = done.pushed / (ended - planned[0]), ended - started
            unit = f"images/s, {key.precision}, batches of {key.batch_size}; {total:.1f} s in all"
            note(rate, unit, ok=done.pushed == done.rows and rate > 0)
