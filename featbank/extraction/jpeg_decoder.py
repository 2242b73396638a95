"""Plain JPEGs, and what decodes batches of them on a device: nvJPEG, through TorchCodec or torchvision."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

import numpy as np

from featbank.datasets.decode_pool import decoder_name
from featbank.errors import DecoderProcessError, ImageDecodeError, InvalidInputError, one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import Preprocessing

    DecodeList = Callable[[list[Tensor]], list[Tensor]]

__all__ = ["JpegDecoder", "decode_of", "open_jpeg_decoder", "plain_jpeg_size"]

logger = logging.getLogger(__name__)

_NVJPEG = "nvjpeg-"

#: Most the mean pixel of a test picture may be off Pillow's, in steps of 8 bits. Decoders differ in how they
#: round and how they enlarge the colours, by about one step; another picture is off by dozens.
_MAX_STEPS = 4.0
#: The same for real images, whose sharp edges of colour are enlarged differently.
_MAX_PHOTO_STEPS = 16.0

#: What torchvision says at every call since 0.29; TorchCodec goes first here wherever it is installed.
_DEPRECATED = "The image decoding and encoding capabilities of TorchVision are deprecated"

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN, _EXIF_OR_XMP, _MPF, _ADOBE = 0xDA, 0xE1, 0xE2, 0xEE
#: Baseline and progressive; extended, lossless, hierarchical and arithmetic coding are not for every decoder.
_FRAMES = frozenset({0xC0, 0xC2})
#: Tables, restart interval, comment, application data: nothing that changes what the picture looks like.
_HARMLESS = frozenset({0xDB, 0xC4, 0xDD, 0xFE, *range(0xE0, 0xF0)})
#: Of the first of three components; the other two are (1, 1).
_SAMPLINGS = frozenset({(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)})
_ORIENTATION, _SHORT = 0x0112, 3


class JpegDecoder:
    """A decoder of JPEG batches on one device; `open_jpeg_decoder` makes one that works.

    Parameters
    ----------
    device : torch.device
        Where the pixels are wanted.
    library : str
        What decodes, with its version; becomes part of `name`.
    decode : callable
        From uint8 tensors (each a whole file, on the CPU) to RGB tensors of shape (3, h, w) on `device`;
        raises `RuntimeError` or `ValueError` if one of them cannot be decoded.

    Attributes
    ----------
    name : str
        For a bank's key: this decoder, and the one that decodes what this one does not take.
    """

    def __init__(self, device: torch.device, library: str, decode: DecodeList) -> None:
        import torch

        self.device = device
        self.name = f"{_NVJPEG if device.type == 'cuda' else 'libjpeg-'}{library}+{decoder_name()}"
        self._decode = decode
        # A stream of its own: decoding need not wait for the forward passes that are queued.
        on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_cuda else None  # type: ignore[no-untyped-call] # torch's

    def stream(self) -> AbstractContextManager[object]:
        """Return the context in which this decoder, and what is done with its pixels, runs."""
        import torch

        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """Wait until everything done in `stream` is done."""
        if self._stream is not None:
            self._stream.synchronize()

    def release(self, pixels: Tensor) -> None:
        """Hand pixels over to whoever computes on the device, in its default stream."""
        import torch

        self.wait()
        if self._stream is not None:  # its memory is used again for decoding only when they are done with it
            pixels.record_stream(torch.cuda.default_stream(self.device))

    def squares(self, files: Sequence[bytes], preprocessing: Preprocessing) -> list[Tensor | None]:
        """Decode, resize and crop; to be called inside `stream`.

        Parameters
        ----------
        files : sequence of bytes
            Plain JPEGs.
        preprocessing : Preprocessing
            Resize and crop.

        Returns
        -------
        list of (Tensor of shape (3, image_size, image_size), uint8) or None
            On the device. None for a file that was refused, which says nothing about the file yet.

        Raises
        ------
        DecoderProcessError
            If files are refused and the decoder has stopped working altogether.
        torch.OutOfMemoryError
            If the device has too little memory: what decodes an image must not depend on that.
        """
        import torch

        squares: list[Tensor | None] = []
        for image in self._images(files):
            try:
                squares.append(None if image is None else preprocessing.apply_tensor_geometry(image))
            except (ImageDecodeError, RuntimeError) as error:
                # a GPU cannot shrink without limit; too large a result is refused by whoever is next
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                squares.append(None)
        if any(one is None for one in squares):
            reason = self.fault()
            if reason is not None:
                raise DecoderProcessError(
                    f"{self.name} worked and does not any more ({reason}); look at the device's memory, "
                    "or decode on the CPU"
                )
        return squares

    def _images(self, files: Sequence[bytes]) -> list[Tensor | None]:
        import torch

        # nvJPEG may write before the stream's turn comes; nothing may still be reading what was freed
        self.wait()
        tensors = _tensors(files)
        try:
            return list(self._decode(tensors))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            if self._stream is not None:  # what was begun must not write later
                torch.cuda.synchronize(self.device)
            if len(files) == 1:
                logger.debug("%s refuses a file: %s", self.name, error)
                return [None]
        half = len(files) // 2  # the error does not say which one
        return [*self._images(files[:half]), *self._images(files[half:])]

    def steps_off(
        self, files: Sequence[bytes], squares: Sequence[Tensor], preprocessing: Preprocessing
    ) -> float | None:
        """Compare squares with what Pillow makes of the same files.

        Returns
        -------
        float or None
            Mean difference of the pixels in steps of 8 bits, of the middle one of the images; None where
            Pillow could decode fewer than three of them, since one that is damaged would prove nothing.

        Raises
        ------
        DecoderProcessError
            If these are not the same pictures.
        """
        from featbank.datasets import decode_image

        found = []
        for data, square in zip(files, squares, strict=True):
            with suppress(ImageDecodeError):
                wanted = preprocessing.apply_geometry(decode_image(data)).astype(np.int64)
                found.append(float(np.abs(square.permute(1, 2, 0).cpu().numpy() - wanted).mean()))
        if len(found) < 3:
            return None
        steps = float(np.median(found))
        if steps > _MAX_PHOTO_STEPS:
            raise DecoderProcessError(
                f"{self.name} decodes these images to others than Pillow does, {steps:.0f} steps of 255 off; "
                "decode on the CPU"
            )
        return steps

    def fault(self) -> str | None:
        """Decode a few pictures made for it in one call, and say what is wrong with what comes out."""
        from featbank.backbones import Preprocessing
        from featbank.datasets import decode_image

        pictures = _test_pictures()
        with self.stream():
            try:
                images = self._decode(_tensors(pictures))
                self.wait()
                shrunk = Preprocessing(16, 20).apply_tensor_geometry(images[0])
                self.wait()
            except (RuntimeError, ValueError) as error:
                return one_line(error)
            if len(images) != len(pictures):
                return f"{len(pictures)} test pictures came out as {len(images)}"
            for number, (data, image) in enumerate(zip(pictures, images, strict=True)):
                wanted = np.asarray(decode_image(data)).astype(np.int64)
                pixels = image.permute(1, 2, 0).cpu().numpy()
                if pixels.shape != wanted.shape:
                    return f"test picture {number} came out as {pixels.shape}"
                if (steps := float(np.abs(pixels - wanted).mean())) > _MAX_STEPS:
                    return f"test picture {number} came out {steps:.1f} steps off"
        return None if shrunk.shape == (3, 16, 16) else f"a square came out as {tuple(shrunk.shape)}"


def decode_of(decoder: str) -> str:
    """Return the `decode` that gave a bank the decoder in its key.

    Examples
    --------
    >>> decode_of("nvjpeg-torchcodec-0.17.0+pillow-13.0.0"), decode_of("pillow-13.0.0")
    ('cuda', 'cpu')
    """
    return "cuda" if decoder.startswith(_NVJPEG) else "cpu"


def open_jpeg_decoder(device: torch.device) -> JpegDecoder:
    """Return the decoder this installation has for a device: TorchCodec's, else torchvision's.

    Parameters
    ----------
    device : torch.device
        A CUDA device; or the CPU, which decodes the same way for tests.

    Returns
    -------
    JpegDecoder
        It has decoded test pictures to what Pillow makes of them.

    Raises
    ------
    InvalidInputError
        If nothing installed can do it; the message says why.

    Examples
    --------
    >>> import torch
    >>> open_jpeg_decoder(torch.device("cpu")).name
    'libjpeg-...+pillow-...'
    """
    said = []
    for library, find in (("torchcodec", _from_torchcodec), ("torchvision", _from_torchvision)):
        try:
            version, decode = find(device)
            decoder = JpegDecoder(device, f"{library}-{version}", decode)
            fault = decoder.fault()
        # its shared libraries are looked for on import, and a search that fails is no ImportError
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            fault = one_line(error)
        if fault is None:
            return decoder
        said.append(f"{library}: {fault}")
    raise InvalidInputError(
        f"JPEGs cannot be decoded on {str(device)!r} here ({'; '.join(said)}); "
        "install torchcodec 0.16 or newer built for CUDA, or decode on the CPU"
    )


def _from_torchcodec(device: torch.device) -> tuple[str, DecodeList]:
    import importlib
    from importlib.metadata import version

    # absent in most installations, so not imported by name
    decoders = importlib.import_module("torchcodec.decoders")
    decode_jpeg = decoders.decode_jpeg  # since 0.16
    return version("torchcodec"), lambda files: decode_jpeg(files, mode="RGB", device=device)


def _from_torchvision(device: torch.device) -> tuple[str, DecodeList]:
    import torchvision
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(files: list[Tensor]) -> list[Tensor]:
        # Each time: whoever leaves a catch_warnings block takes the entry away again. No block of our own,
        # because all threads share the list that it would swap.
        warnings.filterwarnings("ignore", message=_DEPRECATED, category=DeprecationWarning)
        images: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
        return images

    return torchvision.__version__, decode


def _tensors(files: Sequence[bytes]) -> list[Tensor]:
    import torch

    return [
        torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files
    ]  # a copy: bytes are read-only


def _test_pictures() -> list[bytes]:
    """Make JPEGs that no two decoders should see differently: smooth, and each another picture."""
    from PIL import Image

    across, down = np.meshgrid(np.linspace(0, 1, 240), np.linspace(0, 1, 160))
    layers = [across, down, 1 - across, (across + down) / 2]
    pictures: list[bytes] = []
    kinds: list[dict[str, int]] = [{}, {"subsampling": 0}, {"progressive": True}, {}]
    for number, options in enumerate(kinds):
        planes = np.stack([layers[(number + one) % 4] for one in range(3)], axis=-1)  # (h, w, 3)
        image = Image.fromarray(np.rint(255 * planes).astype(np.uint8))
        file = io.BytesIO()
        (image.convert("L") if number == 3 else image).save(file, "JPEG", quality=92, **options)
        pictures.append(file.getvalue())
    return pictures


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    r"""Return the size of a plain JPEG; None for every other file.

    Plain is: baseline or progressive, 8 bits, grey or YCbCr, upright, one picture, with its end mark as its
    last bytes. Whatever is unusual or in doubt is not plain: to have it decoded by Pillow only costs time.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    tuple of int or None
        (width, height) in pixels, both at least 1.

    Examples
    --------
    >>> plain_jpeg_size(b"\xff\xd8\xff\xd9") is None
    True
    """
    if not data.startswith(_START) or not data.endswith(_END):
        return None
    size: tuple[int, int] | None = None
    n_exif, at = 0, 2
    while True:
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF:
            return None
        marker, length = head[1], int.from_bytes(head[2:], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            return None
        at += 2 + length
        if marker == _SCAN:
            break
        if marker in _FRAMES:
            if size is not None or (size := _frame_size(body)) is None:
                return None
        elif marker not in _HARMLESS:
            return None
        elif marker == _EXIF_OR_XMP:
            n_exif += body.startswith(b"Exif\0\0")
            if n_exif > 1 or not _is_upright(body):
                return None
        elif (marker == _MPF and body.startswith(b"MPF\0")) or (marker == _ADOBE and not _is_ycbcr(body)):
            return None
    # The end mark comes once: no second picture follows, and none was put in the place of a lost rest.
    return size if data.find(_END, at) == len(data) - 2 else None


def _frame_size(body: bytes) -> tuple[int, int] | None:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        return None
    bits, height, width, n_components = struct.unpack_from(">BHHB", body)
    if bits != 8 or not width or not height or n_components not in (1, 3):
        return None
    numbers = body[6::3]
    samplings = [(one >> 4, one & 15) for one in body[7::3]]
    if n_components == 1:
        return (width, height) if samplings == [(1, 1)] else None
    # other numbers can mean RGB
    plain = numbers == b"\1\2\3" and samplings[0] in _SAMPLINGS and samplings[1:] == [(1, 1), (1, 1)]
    return (width, height) if plain else None


def _is_ycbcr(body: bytes) -> bool:
    """Whether an APP14 segment, where it is Adobe's, says YCbCr."""
    return not body.startswith(b"Adobe") or (len(body) >= 12 and body[11] == 1)


def _is_upright(body: bytes) -> bool:
    """Whether an APP1 segment leaves the picture as it is; False in doubt."""
    if not body.startswith(b"Exif\0\0"):
        return b"tiff:Orientation" not in body  # Pillow turns by XMP too
    tiff = body[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return False
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (n_entries,) = struct.unpack_from(order + "H", tiff, first)
        for number in range(n_entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * number)
            if tag == _ORIENTATION and (kind, count, value) != (_SHORT, 1, 1):
                return False
    except struct.error:
        return False
    return True
