"""``featbank export``, ``banks export``, ``runs export``: what is printed, and what stands there then."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest


def test_a_bank(call, place):
    done = call("banks", "export", "photos", "--to", "npy", "--cut", "block5_pool", "-o", "out")
    assert (done.code, done.out.split()[0]) == (0, str(place / "out"))
    assert np.load(place / "out/block5_pool.npy").shape[0] == 36
    found = call("banks", "export", "photos", "--to", "safetensors", "--json").json
    assert found["path"].startswith(f"{place}/photos-minivgg-")
    assert found["size_bytes"] > 10_000
    done = call("banks", "export", "photos", "--to", "csv")
    assert (done.code, done.message[:22]) == (2, "to='csv' is unknown; k")


def test_a_run(call, place):
    found = call("runs", "export", "depth", "-o", "given", "--json").json
    assert found["path"] == str(place / "given")
    assert json.loads((place / "given/run.json").read_text())["source"]["weights_path"] is None
    assert call("runs", "info", "given").code == 0
    done = call("runs", "export", "depth", "-o", "given")
    assert (done.code, "exists; give another --output" in done.message) == (2, True)


@pytest.mark.slow
def test_a_head(call, place):
    done = call("export", "depth", "--format", "exported-program", "-o", "x.pt2")
    assert (done.code, done.out.splitlines()[0].split()[0]) == (0, str(place / "x.pt2"))
    assert "checked" in done.out
    assert json.loads((place / "x.pt2.json").read_text())["classes"] == ["blue", "green", "red"]
    done = call("export", "depth", "--format", "tflite")
    assert (done.code, done.message) == (
        2,
        "format='tflite' is unknown; known: 'onnx', 'exported-program'",
    )


def test_an_archive_is_planned_as_its_folder_is(call, place):
    with zipfile.ZipFile(place / "photos.zip", "w") as archive:
        for one in sorted((place / "photos").rglob("*.png")):
            archive.write(one, one.relative_to(place / "photos"))
    words = ("--weights", "random", "--cut", "block5_pool", "--precision", "float32", "--dry-run", "--json")
    wanted, found = (call("extract", data, *words).json for data in ("photos", "photos.zip"))
    for fact in ("rows", "classes", "splits", "to_push", "bank"):
        assert found[fact] == wanted[fact]
