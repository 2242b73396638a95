"""Each field of the key, changed alone, changes the digest."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from featbank.banks import BankKey
from featbank.banks.documents import check_name
from featbank.errors import InvalidInputError

CHANGES = {
    "backbone": "vgg16",
    "weights_sha256": "cd" * 32,
    "transform": {"resize": [32, 33], "mean": {"r": 0.5}},
    "image_size": 33,
    "precision": "bfloat16",
    "dtype": "float32",
    "batch_size": 8,
    "decoder": "pillow-13.0.0",
    "format_version": 3,
}


def test_every_field_is_tried():
    assert set(CHANGES) == {field.name for field in fields(BankKey)}


@pytest.mark.parametrize("field", CHANGES)
def test_one_field_changed_changes_the_digest(kit, field):
    changed = kit.new_key(**{field: CHANGES[field]})
    assert changed.digest() != kit.KEY.digest()
    assert changed.digest8 != kit.KEY.digest8
    assert changed != kit.KEY
    assert kit.KEY.differences(changed) == {field: (kit.KEY.to_dict()[field], CHANGES[field])}


@pytest.mark.parametrize(
    "transform",
    [
        {"resize": [32, 32], "mean": {"r": 0.25}},
        {"resize": [32, 32], "mean": {"g": 0.5}},
        {"resize": [32, 32], "mean": {"r": 0.5}, "crop": None},
        {"resize": [32, 32.0], "mean": {"r": 0.5}},
        {"resize": [32, "32"], "mean": {"r": 0.5}},
        {"resize": [32, 32], "mean": {"r": 0.5, "é": True}},
        {},
    ],
)
def test_nested_transform_values_count(kit, transform):
    assert kit.new_key(transform=transform).digest() != kit.KEY.digest()


def test_digest_is_the_same_everywhere_and_whatever_the_order(kit):
    # a changed digest makes every bank on earth unreadable: it needs a new format version
    assert kit.KEY.digest() == "fa4f2b3c802f80a10f4509ab30be321d586fe46bb4021b13a54a58edeb76d222"
    other = kit.new_key(transform={"mean": {"r": 0.5}, "resize": (32, 32)})
    assert other == kit.KEY
    assert hash(other) == hash(kit.KEY)
    assert kit.KEY.differences(other) == {}
    assert len({other, kit.KEY}) == 1


def test_key_comes_back_from_json(kit):
    assert BankKey.from_dict(kit.KEY.to_dict()) == kit.KEY
    with pytest.raises(InvalidInputError, match=r"^not a bank key: fields missing or unknown: decoder$"):
        BankKey.from_dict({name: value for name, value in kit.KEY.to_dict().items() if name != "decoder"})


def test_nobody_changes_the_transform_from_outside(kit):
    mine = {"mean": [0.5]}
    key = kit.new_key(transform=mine)
    before = key.digest()
    mine["mean"].append(0.1)
    assert key.transform == {"mean": [0.5]}
    assert BankKey.from_dict(key.to_dict()).digest() == before


def test_faults_are_named_at_once(kit):
    with pytest.raises(InvalidInputError) as caught:
        kit.new_key(image_size=0, dtype="float64", weights_sha256="xyz", batch_size=True)
    assert str(caught.value) == (
        "not a bank key: image_size=0 is not an integer of at least 1; "
        "batch_size=True is not an integer of at least 1; weights_sha256='xyz' is not 64 hexadecimal digits; "
        "dtype='float64' is not one of float16, float32, float16-clip"
    )


@pytest.mark.parametrize("transform", [{"x": float("nan")}, {1: 2}, {"a": [{2: 3}]}, {"x": {1, 2}}, [1]])
def test_transform_must_be_json(kit, transform):
    with pytest.raises(InvalidInputError, match="is not made of JSON values"):
        kit.new_key(transform=transform)


def test_the_characters_that_are_allowed_are_all_named():
    for kind, marks in (("cut", "_ . @ : + -"), ("backbone", "_ . @ + -")):
        check_name(kind, "a" + marks.replace(" ", ""))
        with pytest.raises(InvalidInputError, match=re.escape(f"A-Z a-z 0-9 {marks}, starting")):
            check_name(kind, "a/b")


@pytest.mark.parametrize("backbone", ["../vgg", "a/b", ".hidden", "", "é", "x" * 101, "a\n"])
def test_backbone_must_be_a_safe_folder_name(kit, backbone):
    with pytest.raises(InvalidInputError):
        kit.new_key(backbone=backbone)
