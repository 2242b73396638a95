"""Trains the networks of the reports on real images, on a card.

``PYTHONPATH=. python3 tests/gpu/training.py --data FOLDER_OF_TARS --out OUT --limit-s 380``: the archives
cifar10-jpeg.tar.gz and food101-20-64px.tar.gz are decoded once into memory that all processes share; these
then train one network after the other, the most wanted first, and share the card. Each training that
ends, or is cut off by the limit, is a line of ``OUT/results.jsonl`` at once; what fails is a line too.
``--toy`` does the same with drawn images and two epochs, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import queue
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

#: Side of the blur's kernel as a part of the image: 3 of 32 pixels.
_BLUR = 10.0
#: What all decoded images take, and some.
_SHARED_BYTES = 1 << 30
#: Processes that decode an archive.
_PARTS = {"cifar": 6, "food": 1}
#: Networks whose weights are kept: first seed of each.
_KEPT = ("own_net", "alexnet_small", "googlenet_part", "imp1", "imp2")


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    network: str
    data: str
    seed: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


def jobs() -> list[Job]:
    """List all trainings, the most wanted first."""
    from dataclasses import replace

    plain_sgd = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.01}
    own = [
        Job("own_net", "own_net", "cifar"),
        Job("own_net, kernels 5-5-3", "own_net", "cifar", params={"kernels": [5, 5, 3]}),
        Job("own_net, SGD", "own_net", "cifar", recipe=plain_sgd),
        Job("own_net, leaky ReLU", "own_net", "cifar", params={"activation": "leaky_relu"}),
        Job("own_net, pools of 3", "own_net", "cifar", params={"pools": [3, 3, 3]}),
        Job("own_net, kernels 11-5-3", "own_net", "cifar", params={"kernels": [11, 5, 3]}),
    ]
    alexnet = Job("alexnet_small", "alexnet_small", "cifar")
    eleven = replace(alexnet, name="alexnet_small, kernel 11", params={"kernels": [11, 5, 3, 3, 3]})
    googlenet = Job("googlenet_part", "googlenet_part", "cifar")
    imp1, imp2 = (Job(name, name, "cifar-val") for name in ("imp1", "imp2"))
    base = Job("base", "base", "cifar-val")
    baseline = Job("food_baseline", "food_baseline", "food")
    custom = Job("food_custom, all changes", "food_custom", "food")
    food = [
        baseline,
        custom,
        replace(custom, name="food, new architecture", recipe={"lr": 1e-3, "flip": False}),
        replace(baseline, name="food, flip", recipe={"flip": True}),
        replace(baseline, name="food, normal initialisation", params={"initialisation": "normal"}),
        replace(baseline, name="food, dropout .4", params={"dropout": 0.4}),
        replace(baseline, name="food, dropout .6", params={"dropout": 0.6}),
        replace(baseline, name="food, lr 1.1e-3", recipe={"lr": 1.1e-3}),
        replace(baseline, name="food, lr .95e-3", recipe={"lr": 0.95e-3}),
    ]
    tried = [  # should IMP1 fall short of what was published
        replace(imp1, name="imp1, AdamW", recipe={"optimizer": "adamw", "weight_decay": 0.05}),
        replace(imp1, name="imp1, five times the L2", recipe={"weight_decay": 1e-3}),
    ]
    # imp2 takes longest, so it begins with the first
    wanted = [imp2, own[0], alexnet, googlenet, imp1, base, *own[1:], eleven, *food, *tried]
    again = [replace(one, seed=seed) for seed in (1, 2) for one in food]
    more = [replace(one, seed=seed) for seed in (1, 2) for one in [*own, alexnet, googlenet]]
    return [*wanted, *again, *more]


class _InMemory:
    """A dataset whose files are already read."""

    def __init__(
        self, name: str, files: list[tuple[str, bytes]], labels: list[str], splits: list[str]
    ) -> None:
        self.name, self.location = name, "memory"
        order = sorted(range(len(files)), key=lambda at: files[at][0].encode())
        self._files = [files[at][1] for at in order]
        self.ids = tuple(files[at][0].encode() for at in order)
        self.labels = tuple(labels[at] for at in order)
        self.splits = tuple(splits[at] for at in order)
        self.classes = tuple(sorted(set(labels)))

    def read(self, index: int) -> bytes:
        return self._files[index]


def read_tar(path: Path) -> tuple[list[tuple[str, bytes]], list[str], list[str]]:
    """Read all images of an archive, with class and split by their folders (train/CLASS/ or CLASS/)."""
    files, labels, splits, seen = [], [], [], {}
    with tarfile.open(path) as archive:
        for member in archive:
            parts = member.name.strip("./").split("/")
            content = archive.extractfile(member) if member.isfile() else None
            if content is None or not parts[-1].lower().endswith((".jpg", ".jpeg", ".png")):
                continue
            files.append((member.name, content.read()))
            labels.append(parts[-2])
            split = next((one for one in ("train", "val", "test") if one in parts[:-2]), None)
            if split is None:  # the source says nothing: 7 to train, 1 to stop by, 2 to test
                place = seen[parts[-2]] = seen.get(parts[-2], -1) + 1
                split = (
                    "train",
                    "train",
                    "train",
                    "val",
                    "train",
                    "test",
                    "train",
                    "train",
                    "test",
                    "train",
                )[place % 10]
            splits.append(split)
    return files, labels, splits


def decode(which: str, part: int, archive: Path | None, work: Path, size: int) -> None:
    """Decode a part of an archive, or drawn images, into .npy files that every process maps."""
    try:
        said: Any = _decode(which, part, archive, work, size)
    except BaseException as error:
        said = {"failed": repr(error)}
        raise
    finally:
        (work / f"{which}.part{part}").write_text(json.dumps(said))
        (work / f"{which}.part{part}").rename(work / f"{which}.{part}.json")


def _decode(which: str, part: int, archive: Path | None, work: Path, size: int) -> list[str]:
    from featbank.backbones import Preprocessing
    from featbank.datasets import BlurredDataset, build_manifest
    from featbank.training.train import load_images

    files, labels, splits = drawn(4, 40, size) if archive is None else read_tar(archive)
    mine = slice(part, None, _PARTS[which])
    squash = Preprocessing(size, size, mode="squash")
    dataset = _InMemory(which, files[mine], labels[mine], splits[mine])
    manifest = build_manifest(dataset)
    found = {one: load_images(dataset, manifest, one, squash) for one in dict.fromkeys(splits)}
    if which == "cifar":
        found["blurred"] = load_images(BlurredDataset(dataset, _BLUR), manifest, "test", squash)
    for one, images in found.items():
        np.save(work / f"{which}-{one}-{part}-images.npy", images.images)
        np.save(work / f"{which}-{one}-{part}-labels.npy", images.labels)
    return list(dataset.classes)


def drawn(n_classes: int, n_each: int, size: int) -> tuple[list[tuple[str, bytes]], list[str], list[str]]:
    """Draw images whose colour tells their class."""
    import io

    from PIL import Image

    random = np.random.default_rng(0)
    files, labels, splits = [], [], []
    for code in range(n_classes):
        for number in range(n_each):
            pixels = np.clip(random.integers(0, 80, (size, size, 3)) + 40 * code, 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            files.append((f"{code}/{number}.png", buffer.getvalue()))
            labels.append(f"class{code}")
            splits.append("test" if number // 6 % 4 == 3 else "train")
    return files, labels, splits


def images_of(data: str, work: Path) -> dict[str, Any]:
    """Return the images of a job by split, mapped; "cifar-val" takes each 20th training image to val."""
    from featbank.training.loop import TrainingImages

    which = data.removesuffix("-val")
    parts: dict[str, list[Any]] = {}
    for path in sorted(work.glob(f"{which}-*-images.npy")):
        labels = np.load(path.with_name(path.name.replace("-images", "-labels")))
        parts.setdefault(path.name.split("-")[1], []).append((np.load(path), labels))
    found = {
        split: TrainingImages(*map(np.concatenate, zip(*listed, strict=True)))
        for split, listed in parts.items()
    }
    if data.endswith("-val"):
        whole = found["train"]
        held = np.zeros(len(whole.labels), bool)
        for code in np.unique(whole.labels):
            held[np.flatnonzero(whole.labels == code)[::20]] = True
        found["val"] = TrainingImages(whole.images[held], whole.labels[held])
        found["train"] = TrainingImages(whole.images[~held], whole.labels[~held])
    return found


def _toy_params(network: str) -> dict[str, Any]:
    from featbank.backbones.own_networks import network_plan

    plan = network_plan(network)
    if hasattr(plan, "blocks"):
        return {"blocks": [[4] * 6 for _ in plan.blocks]}
    return {"widths": [4] * len(plan.widths), "hidden": [8] * len(plan.hidden)}


class LateError(Exception):
    """The time is up."""


def train_one(job: Job, work: Path, out: Path, device: str, until: float, toy: bool) -> dict[str, Any]:
    """Train one network; returns its line."""
    from featbank.backbones import Preprocessing
    from featbank.backbones.minivgg import build_network
    from featbank.backbones.own_networks import network_plan, plan_to_dict
    from featbank.backbones.trained import write_network
    from featbank.training import recipe_for
    from featbank.training.loop import train_network

    which = job.data.removesuffix("-val")
    ready = [work / f"{which}.{part}.json" for part in range(_PARTS[which])]
    while not all(one.exists() for one in ready):
        if time.time() > until:
            raise LateError
        time.sleep(0.2)
    said = [json.loads(one.read_text()) for one in ready]
    failed = [one["failed"] for one in said if isinstance(one, dict)]
    if failed:
        raise RuntimeError(f"{which} could not be decoded: {failed[0]}")
    classes = said[0]
    found = images_of(job.data, work)
    changes = {"random_state": job.seed, **job.recipe}
    if toy:
        changes |= {"epochs": 2, "batch_size": 16, "precision": "float32"}
    recipe = recipe_for(job.network, changes)
    plan = network_plan(job.network, {**job.params, **(_toy_params(job.network) if toy else {})})
    mean, std = found["train"].mean_and_std()
    history: list[dict[str, float]] = []
    started = time.time()

    def on_epoch(entry: dict[str, float]) -> None:
        history.append(entry)
        if time.time() > until and len(history) < recipe.epochs:
            raise LateError

    line: dict[str, Any] = {
        "job": job.name,
        "seed": job.seed,
        "network": job.network,
        "params": job.params,
        "recipe": job.recipe,
        "epochs": recipe.epochs,
        "n_train": len(found["train"].labels),
    }
    try:
        trained = train_network(
            lambda: build_network(plan, len(classes)),
            found["train"],
            val=found.get("val"),
            test=found["test"],
            also={"blurred": found["blurred"]} if "blurred" in found and job.data.endswith("-val") else {},
            mean=mean,
            std=std,
            recipe=recipe,
            device=device,
            on_epoch=on_epoch,
        )
        line |= {"state": "done", "scores": trained.scores, "confusion": trained.confusion.tolist()}
        if job.name in _KEPT and job.seed == 0:
            line["sha256"] = write_network(
                out / f"{job.name}.safetensors",
                trained.state,
                classes=classes,
                facts={"name": job.network, "params": plan_to_dict(plan)},
                preprocessing=Preprocessing(
                    plan.image_size, plan.image_size, mode="squash", mean=mean, std=std
                ),
            )
    except LateError:
        line["state"] = "cut off"
    line |= {
        "epochs_done": len(history),
        "duration_s": time.time() - started,
        "history": [{key: round(value, 5) for key, value in one.items()} for one in history],
    }
    return line


def worker(waiting: Any, lock: Any, work: Path, out: Path, device: str, until: float, toy: bool) -> None:
    """Train what is waiting, one after the other."""
    import torch

    torch.set_num_threads(1)
    while time.time() < until:
        try:
            job = waiting.get(timeout=1)
        except queue.Empty:
            return
        try:
            line = train_one(job, work, out, device, until, toy)
        except Exception as error:  # noqa: BLE001 - one line, and on
            place = traceback.format_exc().strip().splitlines()[-3:]
            line = {"job": job.name, "seed": job.seed, "state": "failed", "error": repr(error), "at": place}
        append(out, lock, line)


def append(out: Path, lock: Any, line: dict[str, Any]) -> None:
    with lock, (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    last = line.get("scores") or (line.get("history") or [{}])[-1]
    shown = ", ".join(f"{key} {value:.4f}" for key, value in last.items() if key.endswith(("top1", "top5")))
    said = f"{line['job']} (seed {line['seed']}): {line['state']}, {line.get('epochs_done', 0)} epochs"
    tell(f"{said}, {line.get('duration_s', 0):.0f} s; {shown}{line.get('error', '')}")


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the script."""
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the two archives")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--limit-s", type=float, default=380, help="seconds for everything")
    parser.add_argument("--workers", type=int, default=6, help="processes that share the card")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="drawn images, two epochs, on the CPU")
    parser.add_argument("--only", help="only jobs whose name has this in it")
    given = parser.parse_args()
    if given.data is None and not given.toy:
        parser.error("--data FOLDER_OF_TARS, or --toy")
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = [one for one in jobs() if not given.only or given.only in one.name]
    if given.toy:
        firsts = {}
        for one in chosen:
            firsts.setdefault(one.network, one)
        chosen, given.device, given.workers = list(firsts.values()), "cpu", 1
    until = started + given.limit_s - 8  # what is cut off writes its line
    context = mp.get_context("spawn")
    memory = Path("/dev/shm")
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _SHARED_BYTES
    shared_memory = memory if fits else None
    with tempfile.TemporaryDirectory(dir=shared_memory) as folder:
        work = Path(folder)
        waiting, lock = context.Queue(), context.Lock()
        for job in chosen:
            waiting.put(job)
        archives = {"cifar": ("cifar10-jpeg.tar.gz", 32), "food": ("food101-20-64px.tar.gz", 64)}
        started_processes = [
            context.Process(
                target=decode,
                args=(which, part, None if given.toy else given.data / file, work, size),
            )
            for which, (file, size) in archives.items()
            for part in range(_PARTS[which])
        ]
        for _ in range(given.workers):
            arguments = (waiting, lock, work, given.out, given.device, until, given.toy)
            started_processes.append(context.Process(target=worker, args=arguments))
        for process in started_processes:
            process.start()
        for process in started_processes:
            process.join(max(0.1, started + given.limit_s - time.time()))
        for process in started_processes:
            if process.is_alive():
                process.kill()
                process.join()
        waiting.cancel_join_thread()
    tell(f"{time.time() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
