"""Every shipped study, run: on data of its shape in CI, at its own size and on real images by make studies.

What is not covered: the pixels and sizes of the published images, pretrained weights of VGG16, ResNet and
Inception v3, and their input sizes (the smallest they take is used instead). All else is what a user starts.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from featbank.backbones.own_networks import network_plan
from featbank.banks import Bank
from featbank.errors import FitWarning, LeakWarning
from featbank.pipeline import load_study, run_study, study_names
from featbank.report._content import read_study

FULL = os.environ.get("FEATBANK_STUDIES") == "full"
#: Smallest side, in pixels, at which each backbone leaves something behind every pool.
SIDES = {"vgg16": 32, "inception_v3": 75, "resnet50": 32, "resnet18": 32, "mobilenet_v2": 32, "minivgg": 32}
#: What takes seconds to draw or to run is run in CI by these studies; others have one of the same cuts.
WITH = {"vgg16": ("caltech256_fc7",), "inception_v3": ("backbones_tiny_imagenet",)}
STANDS_IN = {"vgg16": "minivgg", "inception_v3": "resnet18"}

#: Rows of each split at the small and at the published size, of the bank as the study leaves it.
SPLITS = {
    "caltech256_fc7": ({"train": 112, "val": 16, "test": 32}, {"train": 7168, "val": 1024, "test": 2048}),
    "caltech256_depth": ({"train": 112, "val": 16, "test": 32}, {"train": 7168, "val": 1024, "test": 2048}),
    "caltech256_samples": ({"train": 64, "val": 16}, {"train": 4096, "val": 1024}),
    "caltech256_pools": ({"train": 64, "val": 16}, {"train": 512, "val": 128}),
    "caltech256_temperature": ({"train": 64, "val": 16}, {"train": 4096, "val": 1024}),
}


def shrunk(name, study):
    """The study with the least input sizes, random weights, one repeat and a few epochs."""
    experiments = []
    for one in study.experiments:
        backbone = one.backbone.name
        if not FULL and name not in WITH.get(backbone, (name,)):
            backbone = STANDS_IN[backbone]
        choice = replace(
            one.backbone,
            name=backbone,
            weights="random",
            image_size=SIDES[backbone],
            precision="float32",
            dtype="float32",  # random ResNets and Inceptions leave float16 behind
        )
        known = {"softmax": {"max_epochs": 2}, "mlp": {"max_epochs": 2, "hidden_units": 8}}
        known["tail"] = {"max_epochs": 2}
        params = {head: {**one.sweep.head_params.get(head, {}), **known[head]} for head in one.sweep.heads}
        warm = one.sweep.temperatures and (0.5, 1.0, 1.81)
        sweep = replace(one.sweep, repeats=1, head_params=params, temperatures=warm)
        if name == "urban_tribes":
            sweep = replace(sweep, samples_per_class="2..16,all")
        experiments.append(replace(one, backbone=choice, sweep=sweep))
    trainings = tuple(one if FULL and one.network else shrunk_training(one) for one in study.trainings)
    return replace(study, experiments=tuple(experiments), trainings=trainings)


def shrunk_training(one):
    """The training with a few channels, one epoch and one seed; of a backbone, minivgg's."""
    recipe = {**one.recipe, "epochs": 1, "batch_size": 16, "precision": "float32"}
    if one.backbone is not None:
        return replace(one, backbone="minivgg", weights="random", recipe=recipe)
    plan = network_plan(one.network, one.params)
    if hasattr(plan, "blocks"):
        small = {"blocks": [[2] * 6 for _ in plan.blocks]}
    else:
        small = {"widths": [2] * len(plan.widths), "hidden": [4] * len(plan.hidden)}
    return replace(
        one, params={**one.params, **small}, recipe=recipe, repeats=2 if one.name == "5-5-3-3-3" else 1
    )


def rows_of(bank):
    counts = Bank.open(bank).manifest.counts()
    return {split: n for split, n in counts.items() if n}


#: Half a minute each; what they do, others do with fewer experiments: `make studies` runs them.
LONG = ("food101_custom", "partial_unfreezing")
#: In CI from the class folders of the archive: torchvision, which takes seconds in each process that decodes,
#: opens the same images for `caltech256_fc7`.
AS_FOLDERS = ("caltech256_depth", "caltech256_samples", "caltech256_pools", "caltech256_temperature")
REPORTS = [name for name in study_names() if not name.startswith("mini_") and (FULL or name not in LONG)]


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
def test_a_study_of_a_report_on_data_of_its_shape(name, laid_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = laid_out(name, FULL)
    monkeypatch.setenv("FEATBANK_DATA", str(root))
    data = root / "caltech256" / "256_ObjectCategories" if not FULL and name in AS_FOLDERS else None
    study = shrunk(name, load_study(name))
    with warnings.catch_warnings():
        # Two epochs on random features: that a head has not learnt is no news.
        warnings.simplefilter("ignore", FitWarning)
        warnings.simplefilter("ignore", LeakWarning)
        first = run_study(study, data=data, cache_dir=tmp_path / "cache")
    assert [one.written.name for one in first.experiments] == [one.name for one in study.experiments]
    assert (first.pushed > 0) == bool(study.experiments)
    assert [one.written.name for one in first.trainings] == [one.name for one in study.trainings]
    assert [len(one.results) for one in first.trainings] == [one.repeats for one in study.trainings]
    assert not [fit for one in first.experiments for fit in one.result.failed]
    assert [found["label"] for found in first.measured if found["value"] is None] == []
    assert [verdict.text for verdict in first.verdicts if verdict.holds is None] == []
    if study.experiments:
        assert any("RANDOM" in one for one in first.differs)
    for one in first.experiments:
        said = read_study(one.run.path)
        assert said is not None
        assert len(said.comparisons) == len(study.figures)
        assert first.reports[one.written.name].is_file()
    for one in first.trainings[:1]:
        text = first.reports[one.written.name].read_text()
        assert all(f">{each.name}" in text for each in study.trainings)
    if name in SPLITS:
        assert rows_of(first.experiments[0].run.source["bank"]) == SPLITS[name][FULL]

    if name.startswith("backbones_") and not FULL:
        return  # their networks take seconds to be traced again
    again = run_study(study, data=data, cache_dir=tmp_path / "cache")
    assert again.pushed == 0
    assert all(one.reused for one in again.experiments)
    assert all(done.reused for one in again.trainings for done in one.results)
    assert again.measured == first.measured


@pytest.mark.skipif(not FULL, reason="minutes of real images: make studies")
@pytest.mark.shared
@pytest.mark.parametrize("name", [name for name in study_names() if name.startswith("mini_")])
def test_a_mini_study_on_real_images(name, shared, tmp_path, monkeypatch):
    root = unpacked(shared, tmp_path)
    monkeypatch.setenv("FEATBANK_DATA", str(root))
    study = load_study(name)
    backbones = {one.backbone.name for one in study.experiments}
    file = shared / "weights" / "mobilenet_v2-imagenet1k.safetensors"
    weights = [f"mobilenet_v2={file}"] if "mobilenet_v2" in backbones else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = run_study(study, weights=weights, cache_dir=tmp_path / "cache")
    assert [found["label"] for found in result.measured if found["value"] is None] == []
    assert all(page.is_file() for page in result.reports.values())


def unpacked(shared: Path, folder: Path) -> Path:
    """The data as the studies' files tell a user to lay it out."""
    import tarfile

    root = folder / "data"
    (root / "cifar10").mkdir(parents=True)
    (root / "caltech101-32").symlink_to(shared / "data" / "caltech101-32")
    for archive, where in (
        ("cifar10-jpeg", root / "cifar10"),
        ("food101-20-64px", root),
        ("tiny-imagenet-100x50", root),
    ):
        with tarfile.open(shared / "data" / f"{archive}.tar.gz") as packed:
            packed.extractall(where, filter="data")
    return root
