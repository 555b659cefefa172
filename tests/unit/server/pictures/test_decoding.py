"""Whatever is sent becomes the one PNG that every plane decodes, or is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from server.pictures.decoding import canonical
from tests.unit.server.pictures.drawn import bomb, encoded, gradient, opened, png
from wire.errors import InvalidRequest, TooLarge
from wire.pictures import PictureLimits

LIMITS = PictureLimits()


def pixels(data: bytes, **options: int) -> np.ndarray:
    found = canonical(data, LIMITS, **options)
    image = opened(found.png)
    assert image.mode == "RGB"
    assert image.format == "PNG"
    assert image.info == {}
    assert (found.width, found.height) == image.size
    assert canonical(found.png, LIMITS).png == found.png, "what is canonical stays as it is"
    return np.asarray(image)


def test_a_plain_png_stays_as_it_is():
    data = encoded(gradient(), compress_level=1)
    assert canonical(data, LIMITS).png is data


@pytest.mark.parametrize(
    "data",
    [
        encoded(gradient(), dpi=(72, 72)),
        encoded(gradient()) + b"<script>alert(1)</script>",
        encoded(gradient(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    ],
    ids=["resolution", "trailing", "profile"],
)
def test_what_a_png_holds_beside_its_pixels_goes(data: bytes):
    assert canonical(data, LIMITS).png != data
    assert (pixels(data) == np.asarray(gradient())).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_keep_their_pixels(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (pixels(encoded(gradient(), kind, **options)) == np.asarray(gradient())).all()


def test_a_jpeg_is_as_its_decoder_has_it():
    data = encoded(gradient(), "JPEG", quality=90)
    assert (pixels(data) == np.asarray(opened(data))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_upright(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = pixels(encoded(gradient(), kind, exif=exif, **options)).astype(int)
    # By the standard: what the first row and the first column of the stored picture are.
    as_it_is = np.asarray(gradient()).astype(int)
    expected = {
        1: as_it_is,
        2: as_it_is[:, ::-1],
        3: as_it_is[::-1, ::-1],
        4: as_it_is[::-1],
        5: as_it_is.swapaxes(0, 1),
        6: as_it_is[::-1].swapaxes(0, 1),
        7: as_it_is[::-1, ::-1].swapaxes(0, 1),
        8: as_it_is[:, ::-1].swapaxes(0, 1),
    }[orientation]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (pixels(encoded(gradient(), exif=exif)) == np.asarray(gradient())).all()


def test_broken_exif_is_passed_over():
    data = png(40, 24, (b"eXIf", b"MM\x00*\xff\xff\xff\xff"), (b"IDAT", zlib.compress(bytes(121 * 24))))
    assert not pixels(data).any()


def test_transparency_is_laid_on_white():
    clear = gradient().convert("RGBA")
    clear.putalpha(0)
    assert (pixels(encoded(clear)) == 255).all()
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    assert pixels(encoded(half)).tolist() == [[[255, 127, 127]] * 2]
    assert pixels(encoded(Image.new("LA", (1, 1), (0, 51)))).tolist() == [[[204, 204, 204]]]


def test_a_palette_with_transparent_colours():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    data = encoded(image, transparency=bytes([255, 0, 128]))
    assert pixels(data).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 255]]]
    data = encoded(image, "GIF", transparency=1)
    assert pixels(data).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize(("depth", "value"), [(1, 1), (2, 2), (4, 9), (8, 77)])
def test_grey_with_a_transparent_grey(depth: int, value: int):
    """One row of each grey that the depth has."""
    count = {1: 2, 2: 4, 4: 16, 8: 128}[depth]
    packed = np.packbits(
        (np.arange(count)[:, None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8).ravel()
    ).tobytes()
    data = png(
        count,
        1,
        (b"tRNS", value.to_bytes(2, "big")),
        (b"IDAT", zlib.compress(b"\0" + packed)),
        depth=depth,
        colour=0,
    )
    expected = np.arange(count) * 255 // (2**depth - 1)
    expected[value] = 255
    assert pixels(data)[0, :, 0].tolist() == expected.tolist()


def test_16_bits_become_their_upper_8():
    values = np.array([[0, 255, 256, 0x1234, 65535]], np.uint16)
    grey = encoded(Image.fromarray(values))
    assert pixels(grey)[0, :, 0].tolist() == [0, 0, 1, 0x12, 255]
    colours = np.array([[[0x1234, 0x5678, 0x9ABC]]], ">u2")
    data = png(1, 1, (b"IDAT", zlib.compress(b"\0" + colours.tobytes())), depth=16)
    assert pixels(data).tolist() == [[[0x12, 0x56, 0x9A]]]


def test_a_transparent_grey_of_16_bits():
    rows = b"\0" + np.array([0x1234, 0x1235], ">u2").tobytes()
    data = png(2, 1, (b"tRNS", b"\x12\x34"), (b"IDAT", zlib.compress(rows)), depth=16, colour=0)
    assert pixels(data)[0, :, 0].tolist() == [255, 0x12]


def test_a_transparent_colour_of_16_bits_is_refused():
    rows = b"\0" + bytes(6)
    data = png(1, 1, (b"tRNS", bytes(6)), (b"IDAT", zlib.compress(rows)), depth=16)
    with pytest.raises(InvalidRequest, match="16 bits"):
        canonical(data, LIMITS)


def test_cmyk_of_a_jpeg_is_not_inverted():
    red = Image.new("RGB", (16, 16), (230, 20, 20)).convert("CMYK")
    found = pixels(encoded(red, "JPEG", quality=95))
    assert np.abs(found.astype(int) - [230, 20, 20]).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_other_modes(mode: str):
    image = gradient().convert(mode)
    assert (pixels(encoded(image)) == np.asarray(image.convert("RGB"))).all()


def test_the_smallest_picture():
    assert pixels(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def test_low_detail_is_another_picture():
    data = encoded(gradient(1280, 800))
    assert pixels(data, longest_side=512).shape == (320, 512, 3)
    assert canonical(data, LIMITS, longest_side=1280).png is data
    assert pixels(encoded(gradient(2, 300)), longest_side=10).shape == (10, 1, 3), "no side is none"


ANIMATED = [gradient(), gradient().rotate(180)]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_what_moves_is_refused(kind: str):
    data = encoded(ANIMATED[0], kind, save_all=True, append_images=ANIMATED[1:])
    with pytest.raises(InvalidRequest, match="moves"):
        canonical(data, LIMITS)


def test_the_first_picture_of_a_phone_is_taken():
    data = encoded(ANIMATED[0], "MPO", save_all=True, append_images=ANIMATED[1:], quality=95)
    assert np.abs(pixels(data).astype(int) - np.asarray(gradient()).astype(int)).mean() < 4


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


NO_PICTURES = [b"", b"\0", b"GIF89a", SVG, b"<!doctype html><p>", b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n"]


@pytest.mark.parametrize(
    "data", [*NO_PICTURES, *(encoded(gradient(), kind) for kind in ("TIFF", "ICO", "PPM", "JPEG2000"))]
)
def test_what_is_no_picture_is_refused(data: bytes):
    with pytest.raises(InvalidRequest):
        canonical(data, LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_that_is_cut_off_is_refused_or_right(kind: str):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8))
    data = encoded(noise, kind)
    refused = 0
    for end in range(0, len(data) - 1, max(1, len(data) // 60)):
        try:
            assert pixels(data[:end]).shape == (48, 48, 3)
        except InvalidRequest:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_bytes_that_were_changed_crash_nothing(kind: str):
    data, random = encoded(gradient(), kind), np.random.default_rng(1)
    for _ in range(150):
        changed = bytearray(data)
        for at in random.integers(0, len(data), 4):
            changed[at] = random.integers(0, 256)
        try:
            pixels(bytes(changed))
        except (InvalidRequest, TooLarge):
            continue


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<QIIIIHH24x", 0, 54, 40, width, height, 1, 24)


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a" + struct.pack("<HHBBB6xcHHHHB", width, height, 0x80, 0, 0, b",", 0, 0, width, height, 0) + b"\2\1\0;"
    )


@pytest.mark.parametrize(
    "data",
    [
        bomb(10_000),
        png(10_000, 10_000, (b"IDAT", b"")),
        png(2**31 - 1, 2**31 - 1, (b"IDAT", b"")),
        png(20_000, 100, (b"IDAT", b"")),
        bmp(60_000, 60_000),
        gif(65_535, 65_535),
    ],
    ids=["bomb", "100 MP", "overflow", "long", "bmp", "gif"],
)
def test_pictures_over_the_limits_are_refused_before_they_are_decoded(data: bytes, monkeypatch: pytest.MonkeyPatch):
    def load(*_):
        raise AssertionError("decoded")

    for opener in ("PngImageFile", "BmpImageFile", "GifImageFile"):
        monkeypatch.setattr(f"PIL.{opener[:3].title()}ImagePlugin.{opener}.load", load)
    with pytest.raises(TooLarge):
        canonical(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        png(1, 1, (b"IDAT", zlib.compress(bytes(4))))[:-12],
        png(1, 1, (b"IDAT", zlib.compress(bytes(4))))[:-16] + bytes(16),
        png(1, 1, (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(14)))),
    ],
    ids=["no end", "wrong checksum", "two headers"],
)
def test_a_png_that_others_would_read_otherwise_is_refused(data: bytes):
    with pytest.raises(InvalidRequest, match="broken"):
        canonical(data, LIMITS)


def test_what_hides_behind_the_end_of_a_png_goes():
    data = encoded(gradient()) + b"<script>" + encoded(gradient())[-12:]
    assert canonical(data, LIMITS).png != data
    assert (pixels(data) == np.asarray(gradient())).all()


def test_a_text_that_unpacks_to_gigabytes_is_refused():
    packed = zlib.compress(bytes(64 * 1024**2), 9)
    data = png(1, 1, (b"zTXt", b"name\0\0" + packed), (b"IDAT", zlib.compress(bytes(4))))
    with pytest.raises(InvalidRequest, match="too large"):
        canonical(data, LIMITS)


@pytest.mark.parametrize("size", [(1, 10_000), (201, 1)])
def test_a_thread_is_no_picture(size: tuple[int, int]):
    with pytest.raises(InvalidRequest, match="times the other"):
        canonical(encoded(Image.new("RGB", size)), LIMITS)


def test_a_png_that_grows_too_large_is_refused():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))
    with pytest.raises(TooLarge, match="as a PNG"):
        canonical(encoded(noise, "JPEG"), PictureLimits(bytes_each=100_000))
