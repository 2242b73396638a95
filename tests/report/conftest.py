"""Runs to write pages of, the parts of a page, and a headless browser where there is one."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank.banks import Bank, BankKey, BankStore
from featbank.datasets import build_manifest, open_dataset
from featbank.fitting import fit_heads
from featbank.report import write_report
from featbank.runs import Run

#: Names a file system allows and a page must survive. No "/" can be in one, so no closing tag either.
HOSTILE = (
    "<img src=x onerror=boom()>",
    "\"quoted' & co",
    "new\nline",
    os.fsdecode(b"caf\xe9"),
    "\x1b[31mred",
)


class Page(HTMLParser):
    """What a page consists of: its elements with their attributes, its text, and what is still open."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of the elements of a tag that have the given ones (``class_`` for class)."""
        return [
            attrs
            for name, attrs in self.elements
            if name == tag
            and all(value in (attrs.get(key.rstrip("_")) or "").split() for key, value in wanted.items())
        ]


def _photos(folder: Path, classes: tuple[str, ...], n: int) -> Path:
    for number, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for index in range(n):
            rng = np.random.default_rng(1000 * number + index)
            pixels = rng.integers(0, 140, size=(70, 66, 3), dtype=np.uint8)
            pixels[..., number % 3] += 60
            Image.fromarray(pixels).save(folder / label / f"{label} {index}.png")
    return folder


KEY = BankKey(
    backbone="minivgg",
    weights_sha256="ab" * 32,
    transform={"mode": "squash", "mean": [0.5, 0.5, 0.5]},
    image_size=32,
    precision="float32",
    dtype="float16",
    batch_size=64,
    decoder="pillow-13",
)


def _bank(folder: Path, classes: tuple[str, ...], n: int, split: str, cuts: tuple[str, ...]) -> Bank:
    """A real bank of real files; its features are drawn, so that classes are confused in pairs."""
    dataset = open_dataset(_photos(folder / "photos", classes, n))
    manifest = build_manifest(dataset, split=split)
    provenance = {"weights": "random", "weights_path": None, "random_state": 0, "location": dataset.location}
    made = BankStore(folder / "cache" / "banks").create_or_open(dataset.name, KEY, provenance)
    made.set_manifest(manifest)
    rng = np.random.default_rng(0)
    for cut in cuts:
        centres = np.repeat(rng.normal(size=(len(classes), 8)), 2, axis=0)[: len(classes)]
        features = centres[manifest.labels] + 0.5 * rng.normal(size=(len(manifest), 8))
        writer = made.cut_writer(cut, (8,), "float32" if cut == "logits" else "float16")
        for plan in writer.missing():
            block = np.zeros((plan.n_rows, 8), np.float32 if cut == "logits" else np.float16)
            used = min(plan.stop, len(manifest)) - plan.start
            block[:used] = features[plan.start : plan.start + used]
            writer.write(plan, block, np.zeros(plan.n_rows, np.uint8))
        writer.finish({"duration_s": 1.5, "precision_error": 0.0})
    return made


def _fit(folder: Path, classes: tuple[str, ...], n: int, split: str, **options: Any) -> Run:
    made = _bank(folder, classes, n, split, ("block4_pool", "block5_pool", "logits"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few epochs: little is learnt, and that is said
        quick = {"head_params": {"softmax": {"max_epochs": 6}}, "repeats": 2, "cache_dir": folder / "cache"}
        return fit_heads(made, **{**quick, **options}).run


@pytest.fixture(scope="session")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featbank.plots.display.draw_all", lambda run, **options: {})  # the page draws its own
        _fit_all(folder)
    return folder


def _fit_all(folder: Path) -> None:
    _fit(
        folder / "hostile",
        HOSTILE,
        8,
        "4,2,2",
        cuts=("block4_pool", "block5_pool"),
        heads=("softmax", "ncm"),
        samples_per_class="1..4",
        name="depth",
    )
    _fit(
        folder / "warm",
        ("blue", "green", "red"),
        8,
        "4,2,2",
        cuts=("softmax",),
        temperatures=(1.0, 2.0),
        samples_per_class="2,4",
        name="warmth",
    )
    many = tuple(f"class {at:02d}" for at in range(45))
    both = {"cuts": ("block5_pool",), "heads": ("softmax", "ncm"), "samples_per_class": "2", "repeats": 1}
    _fit(folder / "many", many, 4, "2,1,1", **both)


def _copied(source: Path, target: Path) -> Run:
    shutil.copytree(source, target)
    (path,) = (one for one in (target / "cache" / "runs").iterdir() if one.is_dir())
    # a copy has its bank and its images in the copied folder
    facts = (path / "run.json").read_text("utf-8", "surrogateescape")
    (path / "run.json").write_text(facts.replace(str(source), str(target)), "utf-8", "surrogateescape")
    for file in (target / "cache" / "banks").rglob("bank.json"):
        assert str(source) in file.read_text()  # sealed by its digest: images are found through `data`
    return Run.open(path, target / "cache")


@pytest.fixture
def hostile(_runs: Path, tmp_path: Path) -> Run:
    """A run with two cuts, two heads and five classes whose names are attacks; its files are one's own."""
    return _copied(_runs / "hostile", tmp_path / "hostile")


@pytest.fixture
def warm(_runs: Path, tmp_path: Path) -> Run:
    """A run with two temperatures."""
    return _copied(_runs / "warm", tmp_path / "warm")


@pytest.fixture
def many(_runs: Path, tmp_path: Path) -> Run:
    """A run with 45 classes and one size."""
    return _copied(_runs / "many", tmp_path / "many")


STUDY: dict[str, Any] = {
    "title": "</title></script><script>boom()</script>",
    "question": "Does it <b>grow</b>?",
    "published": [
        {
            "label": "16 samples",
            "metric": "top1",
            "unit": "share",
            "value": 0.65,
            "source": "A report & more",
        },
        {
            "label": "best T",
            "metric": "temperature of the highest best_val_top1",
            "unit": "temperature",
            "value": 1.81,
        },
        {
            "label": "never measured",
            "metric": "val_top1",
            "unit": "share",
            "value": "about 0.3",
            "source": "",
        },
    ],
    "measured": [
        {
            "label": "16 samples",
            "metric": "top1",
            "unit": "share",
            "value": 0.7321,
            "low": 0.72,
            "high": 0.75,
        },
        {
            "label": "best T",
            "metric": "temperature of the highest best_val_top1",
            "unit": "temperature",
            "value": 2.0,
        },
        {"label": "extra", "metric": "top5", "unit": "share", "value": 0.9},
    ],
    "claims": [
        {"text": "gains shrink", "holds": True, "said": "8 > 3 points"},
        {"text": "deeper is better", "holds": False, "said": ""},
        {"text": "the moon", "holds": None, "said": "nothing was measured"},
    ],
    "differs": ["32 classes instead of <256>"],
    "experiment": "plain",
    "experiments": {"plain": "this", "normalised": "20260101-000000-other"},
}


@pytest.fixture
def write_study() -> Callable[..., None]:
    """Write ``study.json`` into a run folder: (run, **changes)."""

    def write(run: Run, **changes: Any) -> None:
        (run.path / "study.json").write_text(json.dumps(STUDY | changes))

    return write


def write_trained(folder: Path, lr: float = 0.01, seed: int = 0, **changes: Any) -> Path:
    """Write what ``featbank train`` leaves of six classes and four epochs, but for the weights."""
    classes = [*HOSTILE, "plain"]
    rng = np.random.default_rng(seed)
    history = []
    for epoch in range(1, 5):
        entry = {"epoch": float(epoch), "lr": lr, "duration_s": 1.5 + 0.1 * epoch}
        for split, gain in (("train", 0.2), ("val", 0.15), ("test", 0.15)):
            entry |= {f"{split}_loss": 2.0 / epoch, f"{split}_top1": gain * epoch, f"{split}_top5": 0.9}
        history.append(entry)
    said: dict[str, Any] = {
        "facts": {
            "recipe": {"epochs": 4, "lr": lr, "random_state": seed},
            "network": {"name": "own_net", "params": {"kernels": [3, 3, 3]}},
            "classes": classes,
            "data": "cd" * 32,
        },
        "sha256": "ab" * 32,
        "scores": {"test_top1": 0.6 + 0.01 * seed, "test_top5": 0.99, "val_top1": 0.55, "test_loss": 0.5},
        "best_epoch": 3,
        "stopped_early": False,
        "n_per_class": [8] * 6,
        "history": history,
        "confusion": (rng.integers(0, 3, (6, 6)) + 20 * np.eye(6, dtype=int)).tolist(),
        "dataset": "photos <i>",
        "n_images": {"train": 48, "val": 6, "test": 144},
        "versions": {"torch": "2.11"},
    }
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps(said | changes))
    return folder


def write_trainings(networks: Path) -> Path:
    """Write the trainings of a study: one network with one seed and another with two; return the first."""
    trainings = {"3-3-3": ["own-1"], "SGD": ["own-2", "own-3"]}
    for at, name in enumerate(("own-1", "own-2", "own-3")):
        folder = write_trained(networks / name, seed=at)
        experiment = {"experiment": "3-3-3" if at == 0 else "SGD", "experiments": {}, "trainings": trainings}
        (folder / "study.json").write_text(json.dumps(STUDY | experiment))
    return networks / "own-1"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a training of a study with three, in a cache: names of classes are attacks."""
    return write_trainings(tmp_path / "cache" / "networks")


@pytest.fixture(scope="session")
def pages(_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages that are only looked at, written once: "plain", "studied" of hostile, "many", "trained"."""
    folder = tmp_path_factory.mktemp("written")
    written = {}
    for name, kind in (("plain", "hostile"), ("many", "many"), ("studied", "hostile")):
        run = _copied(_runs / kind, folder / name)
        if name == "studied":
            (run.path / "study.json").write_text(json.dumps(STUDY))
        photos = folder / name / "photos"
        written[name] = write_report(run, folder / f"{name}.html", data=photos).path
    written["trained"] = write_report(write_trainings(folder / "networks")).path
    return written


@pytest.fixture
def page() -> type[Page]:
    """Take a page apart: ``page(text)``."""
    return Page


@dataclass(frozen=True)
class Opened:
    """A page in the browser, and what its console said."""

    page: Any
    said: list[str]


@pytest.fixture(scope="session")
def _browser() -> Iterator[Any]:
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("FEATBANK_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(
            f"no browser: none of {', '.join(names)} is on the PATH (apt-get install chromium, or set "
            "FEATBANK_CHROMIUM)"
        )
    with api.sync_playwright() as playwright:
        # The pages are our own; root, which CI runs as, has no sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(_browser: Any) -> Iterator[Callable[..., Opened]]:
    """Open a file in headless Chromium without network: (path, width, scheme)."""
    contexts = []

    def open_page(path: Path, *, width: int = 1200, scheme: str = "light", script: bool = True) -> Opened:
        context = _browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            offline=True,
            java_script_enabled=script,
        )
        contexts.append(context)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"request: {request.url}"))
        page.goto(path.absolute().as_uri())
        return Opened(page, said)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def with_facts() -> Callable[..., Run]:
    """Return a run with other facts: (run, **changes)."""

    def change(run: Run, **changes: Any) -> Run:
        return Run(run.path, {**run.facts, **changes}, run.cache_dir)

    return change
