"""The same pixels and numbers as torchvision's own preset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from featbank.backbones import Preprocessing
from featbank.backbones.preprocessing import TRANSFORMS
from featbank.errors import ImageDecodeError, InvalidInputError, UnknownNameError

SHARED = Path(__file__).parents[2].parent / "shared"
SIZES = [
    (300, 200),
    (200, 300),
    (257, 255),
    (31, 997),
    (1000, 13),
    (224, 224),
    (256, 256),
    (5, 7),
    (1, 1),
    (225, 500),
]


def _noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _reference(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    preset = ImageClassification(
        crop_size=preprocessing.image_size,
        resize_size=preprocessing.resize_size,
        interpolation=InterpolationMode(preprocessing.interpolation),
    )
    result: torch.Tensor = preset(image)
    return result


def _check(preprocessing: Preprocessing, image: Image.Image) -> None:
    wanted = _reference(preprocessing, image)
    pixels = preprocessing.apply_geometry(image)
    assert pixels.shape == (preprocessing.image_size, preprocessing.image_size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (preprocessing.mean, preprocessing.std))
    wanted_pixels = ((wanted * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, wanted_pixels)
    for layout in (torch.from_numpy(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        assert torch.equal(preprocessing.normalise(layout[None])[0], wanted)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(224, 256), Preprocessing(299, 342), Preprocessing(32, 32)]
)
def test_same_pixels_and_numbers_as_torchvision(preprocessing: Preprocessing, size: tuple[int, int]) -> None:
    _check(preprocessing, _noise(*size))


@pytest.mark.parametrize("size", SIZES)
def test_a_crop_larger_than_the_image_is_padded_as_torchvision_does(size: tuple[int, int]) -> None:
    _check(Preprocessing(97, 20), _noise(*size))
    _check(Preprocessing(60, 51), _noise(*size))


def test_bicubic() -> None:
    _check(Preprocessing(224, 232, "bicubic"), _noise(301, 403))


@pytest.mark.shared
@pytest.mark.skipif(
    not (SHARED / "data" / "caltech101-32").is_dir(), reason="no shared photographs beside the checkout"
)
def test_same_pixels_on_photographs() -> None:
    files = sorted((SHARED / "data" / "caltech101-32").glob("*/image_0001.jpg"))
    assert len(files) == 32
    for file in files:
        with Image.open(file) as image:
            _check(Preprocessing(224, 256), image.convert("RGB"))


def test_squash_scales_both_sides() -> None:
    image = _noise(300, 200)
    squashed = Preprocessing(128, 146).with_transform("squash").apply_geometry(image)
    assert np.array_equal(squashed, np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR)))
    untouched = Preprocessing(64, 73, mode="squash").apply_geometry(_noise(64, 64))
    assert np.array_equal(untouched, np.asarray(_noise(64, 64)))
    untouched[0, 0] = 0  # a copy the caller may write to


def test_contrast_gives_each_image_mean_0_and_deviation_1() -> None:
    contrast = Preprocessing(64, 73).with_transform("contrast")
    images = [contrast.apply_geometry(_noise(80, 70)) // 3 + 60, contrast.apply_geometry(_noise(70, 80))]
    batch = torch.from_numpy(np.stack([*images, np.full((64, 64, 3), 7, np.uint8)]))
    numbers = contrast.normalise(batch)
    for index, image in enumerate(images):
        scaled = image.astype(np.float64) / 255
        wanted = (scaled - scaled.mean()) / scaled.std()
        assert np.allclose(numbers[index].permute(1, 2, 0).numpy(), wanted, atol=1e-5)
    assert torch.equal(numbers[2], torch.zeros(3, 64, 64))


def test_normalise_keeps_channels_last_memory() -> None:
    batch = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert Preprocessing(32, 32).normalise(batch).is_contiguous(memory_format=torch.channels_last)
    assert int(batch.max()) == 0


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 3, 32, 32),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
    ],
)
def test_normalise_refuses_what_is_no_batch_of_bytes(batch: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="pass uint8 images of shape"):
        Preprocessing(32, 32).normalise(batch)


def test_geometry_refuses_other_modes() -> None:
    with pytest.raises(InvalidInputError, match="image of mode 'L'; convert it to 'RGB' first"):
        Preprocessing(32, 32).apply_geometry(Image.new("L", (40, 40)))


def test_image_size_scales_the_resize_in_proportion() -> None:
    assert Preprocessing(224, 256).with_image_size(128).resize_size == 146
    assert Preprocessing(224, 232).with_image_size(224) == Preprocessing(224, 232)


def test_unknown_transform() -> None:
    assert TRANSFORMS == ("weights", "squash", "contrast")
    assert Preprocessing(8, 8).with_transform(None) == Preprocessing(8, 8).with_transform("weights")
    with pytest.raises(UnknownNameError) as caught:
        Preprocessing(8, 8).with_transform("constrast")
    assert str(caught.value) == "unknown transform 'constrast'; known: 'contrast', 'squash', 'weights'"


def test_to_dict_is_json_and_comes_back() -> None:
    for one in (
        Preprocessing(224, 256),
        Preprocessing(9, 8, "bicubic", (0, 0, 0), (1, 1, 1), "squash", True),
    ):
        assert Preprocessing(**json.loads(json.dumps(one.to_dict()))) == one


def test_every_setting_is_in_the_dict() -> None:
    plain = Preprocessing(224, 256)
    changed = [
        Preprocessing(225, 256),
        Preprocessing(224, 255),
        Preprocessing(224, 256, "bicubic"),
        Preprocessing(224, 256, mean=(0.5, 0.5, 0.5)),
        Preprocessing(224, 256, std=(0.5, 0.5, 0.5)),
        Preprocessing(224, 256, mode="squash"),
        Preprocessing(224, 256, contrast=True),
    ]
    assert all(one.to_dict() != plain.to_dict() for one in changed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size=0 is not a number of pixels; pass an int of at least 1"),
        ({"resize_size": 2.5}, "resize_size=2.5 is not a number of pixels; pass an int of at least 1"),
        ({"interpolation": "nearest"}, "interpolation='nearest'; use 'bilinear' or 'bicubic'"),
        ({"mode": "pad"}, "mode='pad'; use 'crop' or 'squash'"),
        ({"mean": 0.5}, "mean=0.5, std=(0.229, 0.224, 0.225): pass three numbers each"),
        ({"mean": [True] * 3}, "pass three numbers each"),
        ({"mean": ["0.5"] * 3}, "pass three numbers each"),
        ({"mean": (0.5, 0.5, 0.5, None)}, "pass three numbers each"),
        ({"std": (1.0, 0.0, 1.0)}, "pass three numbers each, and no std of 0 or less"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Preprocessing(**{"image_size": 224, "resize_size": 256, **settings})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_numbers_of_an_array_are_those_of_a_tuple() -> None:
    given = Preprocessing(224, 256, mean=np.float32([0.5, 0.25, 1]), std=np.array([1, 1, 1]))  # type: ignore[arg-type]
    assert given == Preprocessing(224, 256, mean=(0.5, 0.25, 1.0), std=(1.0, 1.0, 1.0))
    assert {type(one) for one in (*given.mean, *given.std)} == {float}


def test_a_line_that_would_grow_into_gigabytes_is_refused() -> None:
    with pytest.raises(ImageDecodeError) as caught:
        Preprocessing(224, 256).apply_geometry(Image.new("RGB", (1, 60_000)))
    assert caught.value.reason == "too-many-pixels"
    assert caught.value.detail == "1 x 60000 would be 256 x 15360000 pixels after the resize"
    assert not Preprocessing(224, 256, mode="squash").apply_geometry(Image.new("RGB", (1, 60_000))).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(224, 256),
        Preprocessing(97, 20),
        Preprocessing(60, 51),
        Preprocessing(224, 232, "bicubic"),
        Preprocessing(64, 73, mode="squash"),
    ],
)
def test_a_tensor_is_resized_and_cropped_by_the_same_rules(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    wanted = preprocessing.apply_geometry(_noise(*size))
    tensor = torch.from_numpy(np.array(_noise(*size))).permute(2, 0, 1)
    pixels = preprocessing.apply_tensor_geometry(tensor).permute(1, 2, 0).numpy()
    assert pixels.shape == wanted.shape
    off = np.abs(pixels.astype(int) - wanted)
    assert off.max() <= 2
    assert off.mean() < 0.25  # noise, shrunk; of photographs one value in a thousand is off


def test_tensor_geometry_refuses_what_is_no_image_of_bytes() -> None:
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(InvalidInputError, match="pass uint8 of shape"):
            Preprocessing(8, 8).apply_tensor_geometry(wrong)


def test_tensor_geometry_refuses_what_would_be_too_large() -> None:
    line = torch.zeros(3, 60_000, 1, dtype=torch.uint8)
    with pytest.raises(ImageDecodeError, match="1 x 60000 would be 256 x 15360000 pixels after the resize"):
        Preprocessing(224, 256).apply_tensor_geometry(line)
    assert not Preprocessing(224, 256, mode="squash").apply_tensor_geometry(line).any()


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (
            [123.675, 116.28, 103.53],
            [58.395, 57.12, 57.375],
            r"pass 0\.485,0\.456,0\.406 and 0\.229,0\.224,0\.225",
        ),
        ([0.5, 0.5, 0.5], [128, 128, 128], "are not of pixels in 0..1"),
        ([-0.1, 0.5, 0.5], [1, 1, 1], "are not of pixels in 0..1"),
    ],
)
def test_numbers_of_another_range_of_pixels_are_refused(
    mean: list[float], std: list[float], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Preprocessing(224, 256).with_numbers(mean=mean, std=std)
