"""The decoder of a device is the best there is, is named, and has shown that it works."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from featbank.datasets.decode_pool import decoder_name
from featbank.errors import InvalidInputError
from featbank.extraction import choosing, jpeg_decoder
from featbank.extraction.choosing import choose_jpeg_decoder
from featbank.extraction.jpeg_decoder import JpegDecoder, decode_of, open_jpeg_decoder

CPU = torch.device("cpu")


def by_pillow(files: list[Tensor]) -> list[Tensor]:
    images = [Image.open(io.BytesIO(bytes(one.numpy()))).convert("RGB") for one in files]
    return [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in images]


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module in the place of TorchCodec; without a decoder, one that cannot be loaded."""

    def put(decode: Callable[[list[Tensor]], list[Tensor]] | None) -> None:
        module = ModuleType("torchcodec.decoders")

        def decode_jpeg(files: list[Tensor], *, mode: str, device: torch.device) -> list[Tensor]:
            assert (mode, device) == ("RGB", CPU)
            assert decode is not None
            return decode(files)

        if decode is not None:
            module.decode_jpeg = decode_jpeg  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
        monkeypatch.setattr("importlib.metadata.version", lambda name: {"torchcodec": "0.99"}[name])

    return put


def test_torchcodec_goes_first(torchcodec) -> None:
    torchcodec(by_pillow)
    decoder = open_jpeg_decoder(CPU)
    assert decoder.name == f"libjpeg-torchcodec-0.99+{decoder_name()}"


def test_a_torchcodec_without_images_leaves_it_to_torchvision(torchcodec) -> None:
    torchcodec(None)  # before 0.16
    assert open_jpeg_decoder(CPU).name == f"libjpeg-torchvision-{torchvision.__version__}+{decoder_name()}"


def swapped(files: list[Tensor]) -> list[Tensor]:
    images = by_pillow(files)
    return [images[0], images[2], images[1], images[3]]


def black(files: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(one) for one in by_pillow(files)]


def flat(files: list[Tensor]) -> list[Tensor]:
    return [one[:1] for one in by_pillow(files)]


def grey_left_flat(files: list[Tensor]) -> list[Tensor]:
    images = by_pillow(files)
    return [*images[:3], images[3][:1]]


def few(files: list[Tensor]) -> list[Tensor]:
    return by_pillow(files)[:-1]


def refusing(files: list[Tensor]) -> list[Tensor]:
    raise RuntimeError("torchcodec was not compiled\nwith nvJPEG support")


@pytest.mark.parametrize("decode", [swapped, black, flat, grey_left_flat, few, refusing])
def test_a_decoder_that_gives_other_pictures_is_not_taken(torchcodec, decode) -> None:
    torchcodec(decode)
    assert "torchvision" in open_jpeg_decoder(CPU).name
    assert JpegDecoder(CPU, "other", decode).fault()
    assert JpegDecoder(CPU, "other", by_pillow).fault() is None


def test_decoders_may_differ_by_a_few_steps(torchcodec) -> None:
    torchcodec(lambda files: [one.clamp(0, 252) + 3 for one in by_pillow(files)])
    assert "torchcodec" in open_jpeg_decoder(CPU).name


def test_nothing_that_decodes_is_one_line_with_the_way_out(torchcodec, monkeypatch) -> None:
    torchcodec(refusing)

    def absent(device: torch.device) -> Any:
        raise ImportError("no nvJPEG in this build")

    monkeypatch.setattr(jpeg_decoder, "_from_torchvision", absent)
    with pytest.raises(InvalidInputError) as caught:
        open_jpeg_decoder(CPU)
    assert str(caught.value) == (
        "JPEGs cannot be decoded on 'cpu' here (torchcodec: torchcodec was not compiled with nvJPEG support; "
        "torchvision: no nvJPEG in this build); install torchcodec 0.16 or newer built for CUDA, or decode "
        "on the CPU"
    )


def test_the_option_is_checked_before_anything_is_opened(monkeypatch) -> None:
    assert choose_jpeg_decoder("cpu", CPU) is None
    with pytest.raises(InvalidInputError, match="decode='cuda' needs a CUDA device, and the device is 'cpu'"):
        choose_jpeg_decoder("cuda", CPU)
    monkeypatch.setattr(choosing, "open_jpeg_decoder", lambda device: ("opened", device))
    assert choose_jpeg_decoder("cuda", torch.device("cuda:1")) == ("opened", torch.device("cuda:1"))


def test_the_name_says_how_it_was_decoded() -> None:
    assert decode_of(decoder_name()) == "cpu"
    assert decode_of(JpegDecoder(CPU, "torchcodec-0.99", by_pillow).name) == "cpu"
    assert decode_of(f"nvjpeg-torchcodec-0.99+{decoder_name()}") == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_cuda_device_it_says_so() -> None:
    with pytest.raises(InvalidInputError, match="JPEGs cannot be decoded on 'cuda' here"):
        open_jpeg_decoder(torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_it_decodes_what_pillow_does() -> None:
    decoder = open_jpeg_decoder(torch.device("cuda"))
    assert decoder.name.startswith("nvjpeg-")
    assert decoder.fault() is None
