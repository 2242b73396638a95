"""Where a study's images are looked for, and what is said where they are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from featbank.datasets import open_dataset
from featbank.datasets.sources import absolute_source, find_images
from featbank.errors import InvalidInputError, MissingDataError
from featbank.pipeline import load_study
from featbank.pipeline.planning import open_each, open_images


def experiment(study, name=None):
    return next(one for one in load_study(study).experiments if name in (None, one.name))


@pytest.mark.slow
def test_torchvisions_root_or_class_folders(laid_out, tmp_path, monkeypatch):
    root = laid_out("caltech256_fc7")
    one = experiment("caltech256_fc7")
    found = open_images(one, data=root)
    name = "caltech256-40-per-class.28-4-8.40-each.without-257.clutter"
    assert found.dataset.name == name
    assert (found.n_classes, found.data_root) == (4, str(root))
    assert len(found.dataset.ids) == 160  # without the clutter, and 40 of the 41
    folder = root / "caltech256" / "256_ObjectCategories"
    same = open_images(one, data=folder)
    assert (len(same.dataset.ids), same.data_root) == (160, None)
    assert "257.clutter" not in same.dataset.classes
    assert not (folder / "caltech256").exists()  # which torchvision makes when it looks for it
    monkeypatch.setenv("FEATBANK_DATA", str(root))
    assert open_images(one).data_root.rstrip("/") == str(root)


def test_missing_torchvision_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATBANK_DATA", raising=False)
    with pytest.raises(MissingDataError) as caught:
        open_images(experiment("caltech256_fc7"))
    assert str(caught.value) == (
        "torchvision:Caltech256 is not in 'data': let torchvision fetch it with --download (1.2 GB); or say "
        "where it is with --data PATH"
    )


def test_missing_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATBANK_DATA", "pictures")
    with pytest.raises(MissingDataError) as caught:
        open_images(experiment("urban_tribes"), beside=tmp_path / "studies" / "tribes.toml")
    places = [tmp_path / one / "urban_tribes" for one in ("", "studies", "pictures")]
    assert str(caught.value).startswith(
        f"no images at 'urban_tribes' (looked for {' and '.join(f'{str(one)!r}' for one in places)}): get "
    )
    with pytest.raises(MissingDataError, match=r"no images at 'nowhere'"):
        open_images(experiment("urban_tribes"), data="nowhere")
    with pytest.raises(InvalidInputError, match="--download is for torchvision datasets, and this is 'urban"):
        open_images(experiment("urban_tribes"), download=True)


@pytest.mark.parametrize("place", ["", "studies", "elsewhere"])
def test_images_here_beside_the_study_or_below_the_data_root(edited, tmp_path, monkeypatch, place):
    (tmp_path / "studies").mkdir()
    (tmp_path / "elsewhere").mkdir()
    file = edited().rename(tmp_path / "studies" / "edited.toml")
    one = load_study(file).experiments[0]
    (tmp_path / "data" / "photos").rename(tmp_path / place / "photos")
    monkeypatch.setenv("FEATBANK_DATA", "elsewhere")
    assert len(open_images(one, beside=file).dataset.ids) == 24
    # and extract finds what a study does, but for what lies beside a study
    if place == "studies":
        with pytest.raises(MissingDataError, match="no images at 'photos'"):
            open_dataset("photos")
    else:
        assert open_dataset("photos").ids == open_images(one, beside=file).dataset.ids
        assert absolute_source("photos") == str(tmp_path / place / "photos")


def test_images_that_are_meant_are_not_replaced_by_others_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "red").mkdir(parents=True)
    (tmp_path / "data" / "gone" / "red").mkdir(parents=True)
    with pytest.raises(MissingDataError, match=r"no images at '\.\./photos' \(looked for '[^']+'\)"):
        open_dataset("../photos")  # data/../photos is there
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    with pytest.raises(MissingDataError, match=r"looked for '[^']+/gone', a link to nothing\)"):
        open_dataset("gone")  # as is data/gone
    assert "data" not in find_images("s3://bucket/photos")[1]


def test_photographs_of_ones_own(laid_out, tmp_path, monkeypatch):
    root = laid_out("cifar10_mobilenet")
    monkeypatch.setenv("FEATBANK_DATA", str(root))
    plain, own, blurred = (open_images(one) for one in load_study("cifar10_mobilenet").experiments)
    assert set(plain.dataset.splits) == {"train", "val"}
    assert own.dataset.splits.count("test") == 20
    assert own.dataset.ids[: len(plain.dataset.ids)] == plain.dataset.ids
    assert own.dataset.labels[-1] == "truck"  # the user's folder is called Truck
    assert blurred.dataset.ids == own.dataset.ids
    assert blurred.dataset.read(0) == own.dataset.read(0)
    assert blurred.dataset.read(len(own.dataset.ids) - 1) != own.dataset.read(len(own.dataset.ids) - 1)
    (root / "photographs").rename(tmp_path / "mine")
    one = experiment("cifar10_mobilenet", "photographs")
    with pytest.raises(MissingDataError) as caught:
        open_images(one)
    assert str(caught.value).endswith(
        "put photographs of your own into folders named as CIFAR-10's classes (airplane, automobile, bird, "
        "cat, deer, dog, frog, horse, ship, truck); or say where they are with --test-data PATH"
    )
    assert open_images(one, test_data=tmp_path / "mine").dataset.splits.count("test") == 20


def test_a_limit_takes_classes_where_a_split_counts_images():
    one = experiment("mini_digits")
    assert (open_images(one, limit=100).limit, open_images(one, limit=100).n_classes) == (100, 10)


def test_tiny_imagenet_by_its_layout(laid_out, monkeypatch):
    monkeypatch.setenv("FEATBANK_DATA", str(laid_out("backbones_tiny_imagenet")))
    found = open_images(experiment("backbones_tiny_imagenet"))
    assert set(found.dataset.splits) == {"train", "test"}  # its own val is the test
    assert found.n_classes == 5
    # named from the data root, it is the same
    place = find_images(experiment("backbones_tiny_imagenet").data.source)[0]
    monkeypatch.setenv("FEATBANK_DATA", str(place.parent))
    named = open_images(experiment("backbones_tiny_imagenet"), data=place.name)
    assert named.dataset.ids == found.dataset.ids


def test_groups_of_a_study_reach_its_bank(edited, tmp_path):
    lines = [f"{code}/{n:03d}.png,{code},{n // 2}" for code in ("blue", "green") for n in range(8)]
    (tmp_path / "data" / "photos" / "list.csv").write_text("\n".join(["path,label,who", *lines]))
    options = ("repeats = 2", 'repeats = 2\ndraw = "groups"')
    plain = open_images(load_study(edited()).experiments[0])
    by_ids = ('name = "colours"', 'name = "colours"\ngroup_by = "[a-z]+/00[0-3]|.*"')
    found = open_images(load_study(edited(options, by_ids)).experiments[0])
    assert found.group_by == "[a-z]+/00[0-3]|.*"
    column = ('source = "photos"', 'source = "photos/list.csv"\ngroup = "who"')
    listed = open_images(load_study(edited(options, column)).experiments[0])
    assert listed.dataset.groups == tuple(str(n // 2) for _ in range(2) for n in range(8))
    assert len({one.dataset.name for one in (plain, found, listed)}) == 3  # their banks have other rows


def test_images_that_several_take_are_opened_once(small):
    deep, shallow = load_study(small).experiments
    other = replace(shallow, data=replace(shallow.data, split="3,2,2"))
    first, same, own = open_each([deep, shallow, other])
    assert first is same
    assert (own.split, own.dataset.name) == ("3,2,2", "colours.3-2-2")
