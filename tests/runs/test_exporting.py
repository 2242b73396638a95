"""A run given away: opened elsewhere without its cache, and made again to the same results."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.cli import main
from featbank.errors import CacheWriteError, InvalidInputError
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.runs import Run, export_run_folder, open_run


def test_a_folder_opens_without_its_cache_and_says_no_paths(cache, tmp_path):
    run = open_run("a-good", cache_dir=cache)
    run.facts["command"] = f"{tmp_path}/bin/featbank fit-head --cache-dir {cache} --cut fc7"
    out = export_run_folder(run, tmp_path / "out/for-the-paper")
    again = Run.open(out, tmp_path / "no cache")
    assert again.result().fits == run.result().fits
    assert again.classes == run.classes
    assert again.manifest.ids == run.manifest.ids
    name = run.best_head()["name"]
    X = np.random.default_rng(0).normal(size=(5, 40))
    assert (again.load_head(name).predict(X) == run.load_head(name).predict(X)).all()
    assert (again.predictions(name).y_pred == run.predictions(name).y_pred).all()
    for one in out.rglob("*.*"):
        if one.suffix in (".json", ".md", ".csv", ".txt"):
            assert str(tmp_path) not in one.read_text(), one
    assert json.loads((out / "run.json").read_text())["command"] == "featbank fit-head --cut fc7"
    rows = list(csv.DictReader((out / "rows.csv").read_text().splitlines()))
    assert len(rows) == len(run.manifest)
    assert rows[0]["sha256"] == run.manifest.digests[0].tobytes().hex()
    assert "numpy==" in (out / "requirements.txt").read_text()
    assert [one.name for one in out.parent.iterdir()] == ["for-the-paper"]


def test_what_cannot_be_exported_leaves_nothing(cache, tmp_path, monkeypatch):
    run = open_run("a-good", cache_dir=cache)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInputError, match="exists; give another --output"):
        export_run_folder(run, tmp_path / "out")
    run.facts["status"] = "running"
    with pytest.raises(InvalidInputError, match="is not finished; repeat its command"):
        export_run_folder(run, tmp_path / "out/x")
    run.facts["status"] = "finished"

    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featbank.runs.exporting.shutil.copyfile", refuse)
    with pytest.raises(CacheWriteError, match="No space left on device"):
        export_run_folder(run, tmp_path / "out/x")
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.slow
def test_what_the_readme_says_gives_the_same_results(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    for number, label in enumerate(("a", "b, c")):
        (photos / label).mkdir(parents=True)
        for index in range(8):
            random = np.random.default_rng(100 * number + index)
            pixels = random.integers(0, 150, (40, 52, 3), np.uint8)
            pixels[..., number] += 60
            Image.fromarray(pixels).save(photos / label / f"{index}.png")
    bank = extract(
        photos,
        backbone="minivgg",
        weights="random",
        random_state=3,
        image_size=32,
        transform="squash",
        mean=np.full(3, 0.4, np.float32),
        std=[0.3] * 3,
        interpolation="bicubic",
        views=["hflip"],
        precision="float32",
        cuts=("block3_pool",),
        split="4,2,2",
        cache_dir=tmp_path / "cache",
    ).bank
    options = {"heads": ("ncm",), "samples_per_class": "1,2", "repeats": 2, "views": ["hflip"]}
    run = fit_heads(bank, cuts=("block3_pool",), cache_dir=tmp_path / "cache", **options).run
    out = export_run_folder(run, tmp_path / "out")
    readme = (out / "README.md").read_text().splitlines()
    (command,) = (line for line in readme if line.startswith("featbank extract "))
    (photos / "rows.csv").write_bytes((out / "rows.csv").read_bytes())
    monkeypatch.chdir(photos)
    with pytest.raises(SystemExit) as end:
        main([*shlex.split(command)[1:], "--cache-dir", str(tmp_path / "other")])
    assert end.value.code in (0, None)
    (again,) = (tmp_path / "other/banks/photos").iterdir()
    assert Path(again).name == Path(bank).name
    other = fit_heads(again, cuts=("block3_pool",), cache_dir=tmp_path / "other", **options).run
    assert [one.top1 for one in other.result().fits] == [one.top1 for one in run.result().fits]
    assert again.name.endswith(run.source["key_digest"][:8])
