"""Golden pixels for each kind of image, a reason for each kind of damage."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from featbank.datasets import DECODE_REASONS, decode_image
from featbank.datasets._files import FORMATS
from featbank.datasets.decode_pool import decoder_name
from featbank.errors import ImageDecodeError, InvalidInputError


def encoded(image, fmt, **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, *extra):
    """A PNG by hand, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def pixels(data, **options):
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(array):
    return np.repeat(np.asarray(array, dtype=np.uint8)[..., None], 3, axis=2)


def reason(data, **options):
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(data, **options)
    assert caught.value.reason in DECODE_REASONS
    return caught.value.reason


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


#: Every value under every alpha: 256 x 256.
VALUE, ALPHA = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
ON_WHITE = np.floor((VALUE.astype(int) * ALPHA + 255 * (255 - ALPHA.astype(int))) / 255 + 0.5)
GREY16 = (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 16 + 15).astype(np.uint16)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_rgb_comes_back_as_it_was(noise, fmt):
    options = {"lossless": True} if fmt == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(noise), fmt, **options)), noise)


def test_jpeg_is_what_pillow_decodes(noise):
    data = encoded(Image.fromarray(noise), "JPEG")
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM", "GIF"])
def test_grey_is_repeated(noise, fmt):
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(noise[..., 0]), fmt)), grey(noise[..., 0]))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_bilevel_becomes_black_and_white(noise, fmt):
    bits = noise[..., 0] > 127
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(bits), fmt)), grey(bits * 255))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composited_on_white(fmt):
    image = Image.merge("LA", [Image.fromarray(VALUE), Image.fromarray(ALPHA)])
    np.testing.assert_array_equal(pixels(encoded(image, fmt)), grey(ON_WHITE))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_colour_with_alpha_is_composited_on_white(fmt):
    flipped = np.ascontiguousarray(VALUE[:, ::-1])
    image = Image.merge("RGBA", [Image.fromarray(one) for one in (VALUE, flipped, VALUE, ALPHA)])
    want = ON_WHITE.copy()
    got = pixels(encoded(image, fmt))
    np.testing.assert_array_equal(got[..., 0], want)
    np.testing.assert_array_equal(got[..., 2], want)
    np.testing.assert_array_equal(got[..., 1], want[:, ::-1])


def test_palette_without_transparency(noise):
    image = Image.fromarray(noise[..., 0])
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    palette = np.frombuffer(bytes(range(255, -1, -1)) * 3, dtype=np.uint8).reshape(256, 3)
    np.testing.assert_array_equal(pixels(encoded(image, "PNG")), palette[noise[..., 0]])


def test_palette_with_an_alpha_for_each_entry_is_composited_on_white():
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    got = pixels(encoded(image, "PNG", transparency=bytes([0, 51, 255])))
    np.testing.assert_array_equal(got[0], [[255, 255, 255], [204, 244, 204], [0, 0, 200]])


def test_transparent_gif_colour_becomes_white():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([200, 0, 0, 0, 200, 0])
    np.testing.assert_array_equal(
        pixels(encoded(image, "GIF", transparency=0))[0], [[255, 255, 255], [0, 200, 0]]
    )


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (png(2, 1, 8, 0, b"\0\x12\x34", chunk(b"tRNS", b"\0\x12")), [255, 0x34]),
        (png(2, 1, 16, 0, b"\0\x12\x34\x43\x21", chunk(b"tRNS", b"\x12\x34")), [255, 0x43]),
        (png(2, 1, 8, 2, b"\0" + b"\x12" * 3 + b"\x34" * 3, chunk(b"tRNS", b"\0\x12" * 3)), [255, 0x34]),
        (
            png(2, 1, 16, 2, b"\0" + b"\x12\x34" * 3 + b"\x43\x21" * 3, chunk(b"tRNS", b"\x12\x34" * 3)),
            [255, 0x43],
        ),
    ],
    ids=["grey8", "grey16", "rgb8", "rgb16"],
)
def test_the_transparent_colour_of_a_png_becomes_white(data, want):
    np.testing.assert_array_equal(pixels(data), grey([want]))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_its_upper_eight(fmt):
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(GREY16), fmt)), grey(GREY16 >> 8))


def test_big_endian_tiff_of_16_bits():
    data = encoded(Image.fromarray(GREY16.astype(">u2")), "TIFF")
    assert data.startswith(b"MM")
    np.testing.assert_array_equal(pixels(data), grey(GREY16 >> 8))


def test_tiff_that_counts_from_white():
    data = encoded(Image.fromarray(GREY16), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(pixels(data), grey(255 - (GREY16 >> 8)))


def test_pgm_of_10_bits_is_scaled_to_its_maximum():
    np.testing.assert_array_equal(pixels(b"P5 2 1 1023\n\x00\x00\x03\xff"), grey([[0, 255]]))


def test_colour_of_16_bits_keeps_its_upper_eight():
    data = png(1, 1, 16, 2, b"\0\x12\x34\x56\x78\x9a\xbc")
    np.testing.assert_array_equal(pixels(data), [[[0x12, 0x56, 0x9A]]])


def test_floats_within_0_and_1_are_scaled():
    levels = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(levels), "TIFF")), grey(np.arange(256).reshape(16, 16))
    )


@pytest.mark.parametrize("value", [1.5, -0.5, np.nan, np.inf])
def test_other_floats_are_refused(value):
    levels = np.array([[0.5, value]], dtype=np.float32)
    assert reason(encoded(Image.fromarray(levels), "TIFF")) == "unsupported-mode"


def test_integers_of_32_bits_and_lab_are_refused():
    assert reason(encoded(Image.fromarray(np.ones((2, 2), dtype=np.int32)), "TIFF")) == "unsupported-mode"
    assert reason(encoded(Image.new("LAB", (2, 2)), "TIFF")) == "unsupported-mode"


def test_cmyk_tiff_is_converted_as_pillow_does(noise):
    ink = np.dstack([noise, noise[..., 1]])
    paper = 255 - ink[..., 3:].astype(int)
    want = paper - np.floor(ink[..., :3] * paper / 255 + 0.5)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(ink, "CMYK"), "TIFF")), want)


def test_cmyk_jpeg_with_inverted_ink_is_not_a_negative():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(ink, "JPEG", quality=100)
    assert b"Adobe" in data
    np.testing.assert_allclose(pixels(data).mean(axis=(0, 1)), [255, 0, 0], atol=3)


def turned(array, orientation):
    """What EXIF 2.3 (table 6) says is stored, undone."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation](array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(noise, fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {}
    plain = pixels(encoded(Image.fromarray(noise), fmt, **options))
    data = encoded(Image.fromarray(noise), fmt, exif=exif, **options)
    np.testing.assert_array_equal(pixels(data), turned(plain, orientation))


def test_orientation_and_16_bits_together():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(GREY16[:5]), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(data), grey(np.rot90(GREY16[:5] >> 8, -1)))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01", b"Exif\0\0"])
def test_an_unreadable_exif_block_counts_as_upright(noise, exif):
    data = encoded(Image.fromarray(noise), "JPEG", exif=exif)
    assert decode_image(data).size == (17, 13)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(fmt):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(first, fmt, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(pixels(data), np.asarray(first))


def test_two_lens_jpeg(noise):
    data = encoded(Image.fromarray(noise), "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert decode_image(data).size == (17, 13)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_a_file_is_truncated(noise, fmt, share):
    big = np.tile(noise, (9, 9, 1))
    data = encoded(Image.fromarray(big), fmt)
    assert reason(data[: int(len(data) * share)]) == "truncated"


@pytest.mark.parametrize(
    "data",
    [
        b"<html>404</html>",
        b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xff",
        png(0, 3, 8, 2, b""),
        encoded(Image.new("RGB", (9, 9)), "EPS"),
        encoded(Image.new("RGB", (9, 9)), "PDF"),
        b"8BPS\0\1" + b"\0" * 50,
    ],
    ids=["html", "zeros", "svg", "one-byte", "no-pixels", "eps", "pdf", "psd"],
)
def test_other_things_are_not_images(data):
    assert reason(data) == "not-an-image"


def test_an_eps_starts_nothing(monkeypatch):
    def started(*_args, **_kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    assert reason(encoded(Image.new("RGB", (9, 9)), "EPS")) == "not-an-image"


def test_an_empty_file():
    with pytest.raises(ImageDecodeError, match=r"^empty: the file has no bytes$"):
        decode_image(b"")


def test_the_pixel_cap_is_checked_before_pixels_are_read(monkeypatch):
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were read before they were counted")
    )
    data = png(101, 100, 8, 0, b"")
    with pytest.raises(
        ImageDecodeError, match=r"^too-many-pixels: 101 x 100 is over the limit of 10000 pixels$"
    ):
        decode_image(data, max_pixels=10_000)


def test_the_pixel_cap_itself_is_allowed():
    assert decode_image(encoded(Image.new("L", (100, 100)), "PNG"), max_pixels=10_000).size == (100, 100)


@pytest.mark.parametrize("pillow_limit", [None, 1_000_000, 89_478_485])
def test_the_cap_does_not_hang_on_pillows_own(monkeypatch, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    assert reason(png(12_000, 10_000, 8, 2, b"")) == "too-many-pixels"
    assert reason(png(60_000, 60_000, 8, 2, b"")) == "too-many-pixels"


def test_a_cap_below_1_is_refused():
    with pytest.raises(InvalidInputError, match=r"^max_pixels=0 must be at least 1$"):
        decode_image(b"x", max_pixels=0)


def test_a_text_bomb_is_a_decoder_error():
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 80_000_000))
    assert reason(png(2, 1, 8, 0, b"\0\x12\x34", bomb)) == "decoder-error"


def test_out_of_memory_has_its_own_reason(monkeypatch):
    def no_memory(self):
        raise MemoryError

    data = encoded(Image.new("L", (4, 4)), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)
    assert reason(data) == "out-of-memory"


def test_truncated_images_are_never_let_through(monkeypatch, noise):
    data = encoded(Image.fromarray(np.tile(noise, (9, 9, 1))), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for one in (data, data[: len(data) // 2]):
        with pytest.raises(
            InvalidInputError,
            match=r"^PIL\.ImageFile\.LOAD_TRUNCATED_IMAGES is set, so damaged images would load with grey "
            r"areas; set it to False$",
        ):
            decode_image(one)


def odd_but_readable():
    """A PNG that makes Pillow warn ("Invalid APNG") although its pixels are fine."""
    return png(2, 1, 8, 0, b"\0\x12\x34", chunk(b"acTL", b"\0" * 8))


def test_pillow_does_warn_of_the_odd_png():
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(odd_but_readable()))


def test_decoding_warns_of_nothing_and_leaves_other_warnings_alone():
    with warnings.catch_warnings():
        for _ in range(3):
            decode_image(odd_but_readable())
            warnings.simplefilter("ignore")  # whoever changes the filters later stands in front
            warnings.simplefilter("error")
            np.testing.assert_array_equal(pixels(odd_but_readable()), grey([[0x12, 0x34]]))
            with pytest.raises(UserWarning, match="mine"):
                warnings.warn("mine", UserWarning, stacklevel=1)
            with pytest.raises(UserWarning, match="Invalid APNG"):
                Image.open(io.BytesIO(odd_but_readable()))


def test_decoding_leaves_the_filters_of_warnings_as_they_are():
    before, entries = warnings.filters, list(warnings.filters)
    assert decode_image(odd_but_readable()).size == (2, 1)
    assert warnings.filters is before
    assert list(warnings.filters) == entries
    pickle.dumps(warnings.filters)  # as scikit-learn and joblib do for their workers


def test_others_hear_of_odd_files_where_they_are(recwarn):
    decode_image(odd_but_readable())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        Image.open(io.BytesIO(odd_but_readable()))
    (heard,) = recwarn
    assert heard.filename.endswith("PngImagePlugin.py")


#: Formats that Pillow reads and does not write, each by hand: two pixels, black and white or red and blue.
CARDS = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 1", "END"]
CURSOR = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, 8, 0, 0, 0, 0) + bytes([0, 0, 255, 255]) + bytes(8)
BY_HAND = {
    "GBR": struct.pack(">6I", 28, 2, 2, 1, 1, 0x47494D50) + struct.pack(">I", 10) + bytes([0, 255]),
    "SUN": struct.pack(">8I", 0x59A66A95, 2, 1, 24, 6, 1, 0, 0) + bytes([0, 0, 255, 255, 0, 0]),
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n2 1 255\n" + bytes([0, 255]),
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"2 1 2 1",\n"a c #000000",\n"b c #ffffff",\n"ab"};\n',
    "CUR": b"\0\0\2\0\1\0\2\1\0\0\0\0\0\0" + struct.pack("<II", len(CURSOR), 22) + CURSOR,
    "FITS": "".join(card.ljust(80) for card in CARDS).ljust(2880).encode()
    + bytes([0, 255]).ljust(2880, b"\0"),
}


@pytest.mark.filterwarnings("ignore:IM image format is deprecated:DeprecationWarning")
@pytest.mark.parametrize("fmt", sorted(FORMATS))
def test_every_format_that_pillow_reads_is_decoded(fmt):
    """Where Pillow can write one, or it is short enough to be written by hand, the pixels are compared."""
    if fmt in BY_HAND:
        data = BY_HAND[fmt]
    elif fmt in Image.SAVE:
        modes = {"MSP": "1", "XBM": "1", "BLP": "P", "SPIDER": "F"}
        data = encoded(Image.linear_gradient("L").resize((24, 24)).convert(modes.get(fmt, "RGB")), fmt)
    else:
        pytest.skip("nothing here writes it")
    with Image.open(io.BytesIO(data)) as plain:
        want = np.asarray(plain.convert("RGB"))
    if fmt == "SPIDER":  # numbers, whose white is not known
        assert reason(data) == "unsupported-mode"
    else:
        np.testing.assert_array_equal(pixels(data), want)


def test_formats_and_suffixes_are_those_of_pillow():
    code = "\n".join(
        [
            "from PIL import Image",
            "from featbank.datasets import _files",
            "Image.init()",
            "known = {**_files.FORMATS, **_files.REFUSED_FORMATS}",
            "assert set(Image.OPEN) <= set(known), set(Image.OPEN) - set(known)",
            "assert set(_files.FORMATS) <= set(Image.OPEN)",
            "assert not set(_files.FORMATS) & set(_files.REFUSED_FORMATS)",
            "decoded = {*_files.FORMATS, 'MPO'}",
            "theirs = {e.encode() for e, f in Image.registered_extensions().items() if f in decoded}",
            "assert theirs == _files.IMAGE_SUFFIXES, theirs ^ _files.IMAGE_SUFFIXES",
            "assert not _files.IMAGE_SUFFIXES & _files.UNDECODED_SUFFIXES",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fits_of_compressed_tiles_are_not_unpacked():
    cards = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 1"]
    cards += [
        "ZIMAGE  = T",
        "ZCMPTYPE= 'GZIP_1  '",
        "ZBITPIX = 8",
        "ZNAXIS  = 2",
        "ZNAXIS1 = 2",
        "ZNAXIS2 = 1",
    ]
    heads = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "END"], [*cards, "END"]
    head = "".join("".join(card.ljust(80) for card in one).ljust(2880) for one in heads).encode()
    with pytest.raises(ImageDecodeError, match="a FITS file of compressed tiles is not decoded"):
        decode_image(head + bytes(8) + gzip.compress(bytes(1 << 20)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "PostScript is not decoded: it is a program, w",
        ),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "EPS is not decoded: it is a program, which Pillow would have Gho"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not decoded: Pillow has no reader for it; con"),
        (
            b"\xff\x0a\xfa\x1f",
            "JPEG XL is not decoded: Pillow has no reader for it; convert it to JPEG or PN",
        ),
        (b"%PDF-1.7\n", "PDF is not decoded: it is a document; export its pages as images"),
        (b"\x1c\x02\x00\x00\x02\x00\x04", "no decoder among JPEG, PNG, "),
    ],
)
def test_what_is_not_decoded_is_told_why(data, told):
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(data)
    assert caught.value.reason == "not-an-image"
    assert caught.value.detail.startswith(told)


def test_threads_decode_alike_and_quietly_while_another_warns(noise):
    files = [encoded(Image.fromarray(noise), fmt) for fmt in ("PNG", "JPEG", "TIFF", "GIF")]
    files.append(odd_but_readable())
    want = [pixels(data) for data in files]
    stop = threading.Event()
    heard = []

    def keep_warning():
        while not stop.is_set():
            try:
                Image.open(io.BytesIO(odd_but_readable()))
            except UserWarning:
                heard.append(True)
            else:
                heard.append(False)

    other = threading.Thread(target=keep_warning)
    other.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(pixels, files * 100))
    finally:
        stop.set()
        other.join()
    for index, one in enumerate(got):
        np.testing.assert_array_equal(one, want[index % len(files)])
    assert heard
    assert all(heard)


@settings(max_examples=150, deadline=None)
@given(
    fmt=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_files_give_pixels_or_a_known_reason(fmt, places):
    data = bytearray(encoded(Image.linear_gradient("L").resize((24, 24)).convert("RGB"), fmt))
    for where, value in places:
        data[int(where * len(data))] = value
    outcome: Image.Image | ImageDecodeError
    try:
        outcome = decode_image(bytes(data), max_pixels=1_000_000)
    except ImageDecodeError as error:
        outcome = error
    if isinstance(outcome, ImageDecodeError):
        assert outcome.reason in DECODE_REASONS
        assert "\n" not in str(outcome)
    else:
        assert outcome.mode == "RGB"


def test_decoder_name_carries_the_version():
    assert decoder_name() == f"pillow-{PIL.__version__}"


def test_decoding_imports_neither_torch_nor_every_plugin():
    code = (
        "import sys, featbank.datasets as d; assert 'PIL' not in sys.modules; "
        "d.decode_image(b'P5 1 1 255 x');"
        "print(sorted({'torch', 'torchvision', 'PIL.EpsImagePlugin'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
