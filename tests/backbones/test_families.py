"""Families of backbones: featbank's and torchvision's own, and that of another package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from featbank import ExtractionSettings, extract
from featbank.backbones import FAMILIES, cut_table, get_spec, load_backbone, names, truncate
from featbank.errors import MissingPackageError, UnknownNameError

PLUG_IN = (Path(__file__).parents[1] / "plug_ins" / "toy_plug_in.py").read_text()
ENTRY_POINTS = """
[featbank.backbones]
toys = toy_plug_in:TOYS
torchvision = toy_plug_in:TOYS
broken = toy_plug_in:Nothing
"""


@pytest.fixture(name="plug_in")
def fixture_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as pip installs it, on the path."""
    site = tmp_path / "site"
    facts = site / "toys-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "toy_plug_in.py").write_text(PLUG_IN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(FAMILIES, "_values", dict(FAMILIES._values))  # what it loads is forgotten afterwards
    yield
    sys.modules.pop("toy_plug_in", None)


@pytest.mark.usefixtures("plug_in")
def test_another_package_adds_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PLUG_IN.strip().splitlines()) <= 40
    assert names("toys") == ["toys:lenet"]
    assert "vgg16" in names()  # a registered family is never replaced
    assert get_spec("toys+lenet") == get_spec("toys:lenet")  # as banks write it
    assert [row.name for row in cut_table("toys:lenet")] == ["pool", "logits", "softmax"]
    assert cut_table("toys:lenet")[1].macs == 4 * 27 * 256 + 256 * 3
    backbone = load_backbone("toys:lenet", weights="random")
    # a file of the user's own, digests and wrappers are featbank's work, not the family's
    path = tmp_path / "mine.safetensors"
    save_file({f"model.{name}": one for name, one in backbone.module.state_dict().items()}, path)
    again = load_backbone("toys:lenet", weights=path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(truncate(again, ["pool"])(images)["pool"], backbone.module[:3](images))
    settings = ExtractionSettings(
        backbone="toys:lenet", cuts=["pool"], weights=path, limit=10, cache_dir=tmp_path
    )
    result = extract("digits", settings)
    assert (result.pushed, result.bank.name[:11]) == (10, "toys+lenet-")
    with monkeypatch.context() as patch:  # the bank answers, nothing is loaded
        patch.setattr("featbank.backbones.loading.load_backbone", None)
        twice = extract("digits", settings)
    assert (twice.pushed, twice.bank) == (0, result.bank)


@pytest.mark.usefixtures("plug_in")
def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_spec("toys:lenets")
    assert str(caught.value) == "unknown backbone 'lenets' of family 'toys'; known: 'lenet'"
    with pytest.raises(UnknownNameError) as caught:
        get_spec("toy:lenet")
    assert str(caught.value).startswith("unknown family of backbones 'toy'; known: 'toys', 'torchvision', ")
    with pytest.raises(MissingPackageError, match=r"'broken' of the package 'toys' cannot be loaded"):
        names("broken")
    with pytest.raises(UnknownNameError, match=r"unknown weights 'DEFAULT' of backbone 'lenet'; known: "):
        load_backbone("toys:lenet")


def test_the_own_families_may_be_said() -> None:
    assert get_spec("torchvision:vgg16") is get_spec("vgg16")
    assert get_spec("featbank:minivgg") is get_spec("minivgg")
    assert names("featbank") == ["minivgg"]
