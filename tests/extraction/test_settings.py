"""Settings are written once: what they refuse, how options become them, and what a bank says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.banks import Bank
from featbank.errors import InvalidInputError
from featbank.extraction import ExtractionSettings, estimate, extract, plan, push

Folder = Callable[..., Path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone": "minivgg", "cuts": ["fc7"], "batchsize": 3},
            "extract() got an unexpected option 'batchsize'; known: 'batch_size', ",
        ),
        ({"cuts": ["fc7"]}, "extract() misses 'backbone'"),
        ({}, "extract() misses 'backbone' and 'cuts'"),
    ],
)
def test_options_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        extract("digits", **options)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
def test_options_replace_those_of_the_settings(tmp_path: Path) -> None:
    settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=20, cache_dir=tmp_path)
    assert extract("digits", settings, limit=10, weights="random").rows == 10
    with pytest.raises(InvalidInputError, match="dtype='int8' is not one of float16, float32"):
        extract("digits", settings, dtype="int8")
    assert settings.limit == 20


def test_one_text_is_no_list_of_cuts() -> None:
    with pytest.raises(InvalidInputError) as caught:
        ExtractionSettings(backbone="minivgg", cuts="fc7")
    assert str(caught.value) == "cuts='fc7' is one text; give a list, such as ['fc7']"


def test_numbers_of_the_transform_are_tuples_or_refused_at_once() -> None:
    settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"], mean=np.float32([0.5] * 3), std=[1, 1, 1])
    assert (settings.mean, settings.std) == ((0.5,) * 3, (1.0, 1.0, 1.0))
    with pytest.raises(InvalidInputError, match=r"^mean=0.5, std=.*: pass three numbers each"):
        ExtractionSettings(backbone="minivgg", cuts=["fc7"], mean=0.5)


_SECOND = """
import json, sys
from featbank.extraction import extract
found = extract(sys.argv[1], **json.loads(sys.argv[2]))
torch = sorted({"torch", "torchvision"} & set(sys.modules))
print(json.dumps([found.rows, found.pushed, found.copied, torch]))
"""


def again(data: Path, **options: Any) -> list[Any]:
    """Extract in a process of its own, and say what was done and which of torch was imported."""
    command = [sys.executable, "-c", _SECOND, str(data), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_second_extraction_needs_no_torch(photo_folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from featbank.backbones import load_backbone

    data, weights = photo_folder(), tmp_path / "w.safetensors"

    def save(seed: int) -> None:
        module = load_backbone("minivgg", weights="random", random_state=seed).module
        save_file({name: one.contiguous() for name, one in module.state_dict().items()}, weights)

    save(1)
    options: dict[str, Any] = {"backbone": "minivgg", "cuts": ["fc7"], "cache_dir": str(tmp_path / "cache")}
    extract(data, **options)
    extract(data, **options, weights=weights)
    both = ["torch", "torchvision"]
    assert again(data, **options) == [18, 0, 0, []]
    assert again(data, **options, weights=str(weights), split="2,2,2") == [18, 0, 0, []]
    assert again(data, **options, limit=6) == [6, 0, 0, []]
    assert again(data, **options, name="other") == [18, 0, 18, []]  # from a bank of another name, too
    # in doubt, torch says what it is
    assert again(data, **options, image_size=48)[1:] == [18, 0, both]
    save(2)
    assert again(data, **options, weights=str(weights))[1:] == [18, 0, both]


@pytest.mark.slow
def test_another_version_of_torch_is_a_doubt(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExtractionSettings(backbone="minivgg", cuts=["fc7"], cache_dir=tmp_path / "cache")
    data = photo_folder()
    push(plan(data, settings))
    assert plan(data, settings).need_work().computing is None
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    with plan(data, settings) as doubtful:
        assert doubtful.need_work().computing is not None
        assert doubtful.to_push == 0


@pytest.mark.slow
def test_an_estimate_needs_neither_data_nor_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    settings = ExtractionSettings(backbone="squeezenet1_1", cuts=["features.5"], cache_dir=tmp_path / "cache")
    found = estimate(1000, settings)
    rows = ExtractionSettings(backbone="squeezenet1_1", cuts=["features.5"], dtype="float32")
    assert estimate(1000, rows).size_bytes == 2 * found.size_bytes
    assert (found.to_push, found.duration_s is not None and found.duration_s > 0) == (1000, True)
    assert any("500x375" in one for one in found.assumed)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InvalidInputError, match="an estimate without images"):
        push(found)
    with pytest.raises(InvalidInputError, match="images=0 must be at least 1"):
        estimate(0, settings)


def test_a_bank_of_a_backbone_whose_name_begins_alike_answers_nothing(
    photo_folder: Folder, tmp_path: Path
) -> None:
    from featbank.backbones import Backbone, load_backbone

    module = load_backbone("minivgg", weights="random", random_state=3).module
    mine = Backbone.from_module(module, name="minivgg-own", preprocessing={"image_size": 32})
    data, cache = photo_folder(), tmp_path / "cache"
    extract(data, backbone=mine, cuts=["logits"], cache_dir=cache)
    result = extract(data, backbone="minivgg", cuts=["logits"], cache_dir=cache)
    assert result.pushed == 18
    assert Bank.open(result.bank).key.backbone == "minivgg"
