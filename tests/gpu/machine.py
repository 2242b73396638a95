"""Steps about the machine: what is there, what it can do at most, decoding on the card, the heads."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import photographs
from bench import Bench, MissingError

_PACKAGES = (
    *("h5py", "timm", "PIL", "cloudpickle", "pydantic", "typer", "sklearn", "joblib", "safetensors", "scipy"),
    *("torchcodec", "triton"),
)


def machine(bench: Bench) -> None:
    """Versions, what is installed, and the images that later steps push."""
    import torch
    import torchvision
    from PIL import __version__ as pillow

    with bench.part("card") as note:
        note(torch.cuda.get_device_name() if bench.on_card else "no card: ran on the CPU at toy size")
    with bench.part("versions") as note:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "Pillow": pillow}
        versions |= {"torchvision": torchvision.__version__, "numpy": np.__version__}
        versions |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
        note([f"{name} {version}" for name, version in versions.items()])
    with bench.part("cores") as note:
        note(len(os.sched_getaffinity(0)))
    with bench.part("free in the work folder") as note:
        note(shutil.disk_usage(bench.work).free / 1e9, "GB")
    with bench.part("free in /dev/shm") as note:
        note(shutil.disk_usage("/dev/shm").free / 1e9, "GB")
    with bench.part("not installed") as note:
        note([one for one in _PACKAGES if importlib.util.find_spec(one) is None])
    for name, size, n in (
        ("small", photographs.SMALL, bench.size(12_288, 96)),
        ("large", photographs.LARGE, bench.size(4_096, 16)),
    ):
        with bench.part(f"images, {name}") as note:
            pictures = photographs.originals(bench.images, size, bench.size(64, 4))
            size_bytes = photographs.fill(bench.work / name, pictures, n)
            note(n, f"files of {size_bytes / n / 1000:.0f} kB")


def ceilings(bench: Bench) -> None:
    """What the machine can do at most: copies, a matrix product, hashing, the disk."""
    import torch

    n_bytes = bench.size(512, 4) * 2**20
    pageable = torch.empty(n_bytes, dtype=torch.uint8).random_(0, 256)
    for kind in ("pinned", "pageable"):
        for way in ("to the card", "from the card"):
            with bench.part(f"copy {way}, {kind}") as note:
                bench.need_card()
                there = torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
                here = pageable.pin_memory() if kind == "pinned" else pageable
                into, source = (there, here) if way == "to the card" else (here, there)
                note(bench.rate(partial(into.copy_, source, non_blocking=True), n_bytes / 1e9), "GB/s")
    side = bench.size(8192, 256)
    with bench.part(f"bfloat16 matrix product, {side}", goal=800) as note:
        one = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)
        note(bench.rate(lambda: one @ one, 2 * side**3 / 1e12), "TFLOP/s")
    block = pageable[: bench.size(64, 1) * 2**20].numpy()
    for threads in (1, 4, 8):
        with bench.part(f"SHA-256, {threads} threads") as note:
            rate = _in_threads(lambda _: hashlib.sha256(block).digest(), threads, 4 * threads)
            note(rate * len(block) / 1e9, "GB/s")
    for threads in (1, 8):
        with (
            bench.part(f"write and fsync, {threads} threads") as note,
            tempfile.TemporaryDirectory(dir=bench.work) as folder,
        ):
            rate = _in_threads(partial(_write_synced, Path(folder), block), threads, 16)
            note(rate * len(block) / 1e9, "GB/s")


def _in_threads(call: Callable[[int], Any], threads: int, n: int) -> float:
    """Return the calls per second of `n` calls on so many threads."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(n)))
    return n / (time.perf_counter() - started)


def _write_synced(folder: Path, data: Any, number: int) -> None:
    with (folder / str(number)).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def nvjpeg(bench: Bench) -> None:
    """Decoding by torchvision on the device: how far off Pillow's pixels, how fast in calls of so many."""
    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(files: Any) -> Any:
        return decode_jpeg(files, mode=ImageReadMode.RGB, device=str(bench.device))

    for name in ("small", "large"):
        files = sorted((bench.work / name).rglob("*.jpg"))[: bench.size(1024, 8)]
        held = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in files]
        with bench.part(f"steps off Pillow: mean, most; {name}") as note:
            off = []
            for path, data in zip(files[:64], held[:64], strict=True):
                exact = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), np.int16)
                off.append(np.abs(decode(data).permute(1, 2, 0).cpu().numpy().astype(np.int16) - exact))
            mean, most = float(np.mean([one.mean() for one in off])), int(max(one.max() for one in off))
            note([round(mean, 3), most], ok=mean < 2)
        for batch in (64, 256, 1024):
            with bench.part(f"calls of {batch}, {name}") as note:
                some = held[:batch]
                note(bench.rate(partial(decode, some), len(some), 0.5), "images/s")
    with bench.part("torchcodec") as note:
        bench.need("torchcodec")
        note("is installed")


def heads(bench: Bench) -> None:
    """Heads on the CPU against the card: forty softmax heads in one program, an MLP, a Gram matrix."""
    import torch

    random = np.random.default_rng(0)
    n, columns, classes = bench.size(2048, 96), bench.size(1280, 16), bench.size(32, 3)
    y = np.arange(n) % classes
    X = random.standard_normal((n, columns)) + 0.1 * random.standard_normal((classes, columns))[y]
    X = X.astype(np.float32)
    for device in ("cpu", "cuda"):
        with bench.part(f"40 softmax heads, 20 epochs, {device}") as note:
            _need_heads(bench, device)
            from featbank.heads import FeatureSpace, SoftmaxClassifier, fit_stack

            space = FeatureSpace()
            Z = space.fit_transform(X)
            made = [
                SoftmaxClassifier(device=device, random_state=seed, max_epochs=bench.size(20, 2))
                for seed in range(bench.size(40, 2))
            ]
            subsets = [random.permutation(n)[: n // 2] for _ in made]
            note(bench.seconds(partial(fit_stack, made, Z, y, subsets, space=space)), "s")
        with bench.part(f"MLP, 20 epochs, {device}") as note:
            _need_heads(bench, device)
            from featbank.heads import MLPClassifier

            head = MLPClassifier(device=device, random_state=0, max_epochs=bench.size(20, 2))
            note(bench.seconds(partial(head.fit, X, y)), "s")
    rows, block, blocks = bench.size(8192, 64), bench.size(25_088, 32), 8
    half = random.standard_normal((rows, block), dtype=np.float32).astype(np.float16)
    with bench.part(f"Gram {rows} x {rows} of {block * blocks} columns, CPU", goal="30-60 before") as note:
        some = half[:, : block // 8].astype(np.float32)
        note(bench.seconds(lambda: some @ some.T) * 8 * blocks, "s, one block of 64 timed")
    with bench.part("the same on the card, float32, copies from plain memory too", goal=0.6) as note:
        bench.need_card()
        held, gram = torch.from_numpy(half), torch.zeros(rows, rows, device="cuda")

        def add() -> None:
            there = held.to("cuda").float()
            gram.addmm_(there, there.T)

        add()
        note(bench.seconds(add, blocks), "s")


def _need_heads(bench: Bench, device: str) -> None:
    if device == "cuda":
        bench.need_card()
    try:
        import sklearn.base  # noqa: F401 - heads are scikit-learn estimators
    except ImportError as error:
        raise MissingError(f"scikit-learn: {error}") from error
