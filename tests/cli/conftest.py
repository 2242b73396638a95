"""The command line in-process: what it prints, what it ends with, and a small cache to run it on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank.banks import open_bank
from featbank.cli import main
from featbank.extraction import extract
from featbank.fitting import fit_heads


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON object and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert self.out.count("\n") == 1
        return value

    @property
    def message(self) -> str:
        """The one line of an error; lines before it may only be warnings of featbank's own."""
        lines = self.err.splitlines()
        assert self.out == ""
        assert all(line.startswith("featbank: ") for line in lines), self.err
        return lines[-1].removeprefix("featbank: ")


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command: ``call("banks", "ls", "--cache-dir", cache)``."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert end.value.code is None or isinstance(end.value.code, int)
        return Done(end.value.code or 0, out, err)

    return run


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of three classes, extracted, and two runs."""
    folder = tmp_path_factory.mktemp("prepared")
    for number, label in enumerate(("blue", "green", "red")):
        (folder / "photos" / label).mkdir(parents=True)
        for index in range(12):
            random = np.random.default_rng(100 * number + index)
            pixels = random.integers(0, 120, size=(40, 36, 3), dtype=np.uint8)
            pixels[..., number] += 120
            Image.fromarray(pixels).save(folder / "photos" / label / f"{index:02d}.png")
    made = extract(
        folder / "photos",
        backbone="minivgg",
        weights="random",
        cuts=("block4_pool", "block5_pool", "logits"),
        split="6,3,3",
        # so coarse that ten random logits are the same for all images, on whatever processor
        precision="bfloat16",
        cache_dir=folder / "cache",
    )
    epochs = {"softmax": {"max_epochs": 8}}
    fit_heads(
        made.bank,
        cuts=("block4_pool", "block5_pool"),
        heads=("softmax", "ncm"),
        samples_per_class="1..4:1",
        repeats=2,
        head_params=epochs,
        name="depth",
        cache_dir=folder / "cache",
    )
    with pytest.warns(UserWarning, match="training loss has not moved"):  # ten random logits say nothing
        fit_heads(
            made.bank,
            cuts=("block5_pool", "softmax"),
            temperatures=(1.0, 2.0),
            samples_per_class="2,4",
            repeats=2,
            head_params=epochs,
            name="warmth",
            cache_dir=folder / "cache",
        )
    return folder


@pytest.fixture
def place(_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with ``photos/`` and ``cache/`` in it, which is also the working directory."""
    for name in ("photos", "cache"):
        shutil.copytree(_prepared / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)
    open_bank(cache_dir="cache")  # a copied bank is hashed, and marked as such, when it is first opened
    return tmp_path


@pytest.fixture
def bank(place: Path) -> Path:
    """The prepared bank."""
    (found,) = (place / "cache" / "banks" / "photos").iterdir()
    return found
