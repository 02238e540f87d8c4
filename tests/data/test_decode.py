"""Whatever comes from outside is decoded exactly, or refused in words."""

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from pipelines.data import decode
from pipelines.data.faults import FaultError

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 256, (6, 9, 3), np.uint8), (90, 60))  # smooth enough for a JPEG


def encoded(pixels, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(size, depth: int, color: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    """Depths that Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def stored(data: bytes, size: tuple[int, int] | None = None) -> tuple[np.ndarray, str, bytes]:
    """What a shard would hold of it, decoded with another library."""
    fitted = fitting(data, size)
    pixels = cv2.imdecode(np.frombuffer(fitted.data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    if fitted.format == "png":  # decoders of JPEG differ by rounding
        np.testing.assert_array_equal(fitted.pixels, pixels)
    return pixels, fitted.format, fitted.data


def fitting(data: bytes, size: tuple[int, int] | None = None, **how) -> decode.Fitted:
    picture = decode.image(data, **how)
    return picture.fitting(*(size or picture.pixels.size[::-1]))


@contextmanager
def refused(kind: str, said: str) -> Iterator[None]:
    """A fault of this kind, in these words."""
    with pytest.raises(FaultError, match=said) as caught:
        yield
    assert re.fullmatch(kind, caught.value.kind)


MPO = encoded(PIXELS, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS)])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(PIXELS), "png"),
        (encoded(PIXELS, "JPEG"), "jpeg"),
        (MPO, "jpeg"),
        (encoded(PIXELS, exif=tagged(1)), "png"),
    ],
    ids=["png", "jpeg", "a camera's jpeg", "upright"],
)
def test_usable_images_stay_as_published(data, kind):
    _, found, result = stored(data)
    assert (found, result) == (kind, data)
    assert fitting(data).changes == ()


GREY = PIXELS[..., 0]
WIDE = RNG.integers(0, 65536, (5, 7), np.uint16)
REPEATED = np.repeat(GREY[..., None], 3, 2)
PALETTE = Image.fromarray(PIXELS).quantize(16)


OTHERS = {
    "grey": (encoded(GREY), REPEATED, ["greyscale"]),
    "grey and alpha": (encoded(Image.merge("LA", [Image.fromarray(GREY)] * 2)), REPEATED, ["alpha"]),
    "alpha": (encoded(np.dstack([PIXELS, GREY])), PIXELS, ["alpha"]),
    "palette": (encoded(PALETTE), np.asarray(PALETTE.convert("RGB")), ["palette"]),
    "palette with alpha": (
        encoded(PALETTE, transparency=bytes(range(16))),
        np.asarray(PALETTE.convert("RGB")),
        ["palette"],
    ),
    "one bit": (
        encoded(Image.fromarray(GREY > 99)),
        np.repeat(np.uint8(255) * (GREY > 99)[..., None], 3, 2),
        ["greyscale"],
    ),
    "16 bits": (encoded(WIDE), np.repeat((WIDE >> 8).astype(np.uint8)[..., None], 3, 2), ["16-bit"]),
    "16 bits RGB": (raw_png((2, 1), 16, 2, [bytes(range(12))]), np.array([[[0, 2, 4], [6, 8, 10]]]), ["16-bit"]),
    "bmp": (encoded(PIXELS, "BMP"), PIXELS, ["container"]),
    "tiff": (encoded(PIXELS, "TIFF"), PIXELS, ["container"]),
    "tiff of 16 bits": (
        encoded(WIDE, "TIFF"),
        np.repeat((WIDE >> 8).astype(np.uint8)[..., None], 3, 2),
        ["16-bit", "container"],
    ),
    "webp": (encoded(PIXELS, "WEBP", lossless=True), PIXELS, ["container"]),
    "cmyk": (encoded(Image.new("CMYK", (4, 2), (0, 0, 0, 255)), "JPEG"), np.zeros((2, 4, 3)), ["cmyk"]),
}


@pytest.mark.parametrize(("data", "expected", "kinds"), OTHERS.values(), ids=OTHERS)
def test_other_images_become_an_rgb_png_and_the_change_is_listed(data, expected, kinds):
    pixels, kind, result = stored(data)
    assert kind == "png"
    np.testing.assert_array_equal(pixels, expected)
    assert Image.open(io.BytesIO(result)).mode == "RGB"
    assert [kind for kind, _ in fitting(data).changes] == kinds


@pytest.mark.parametrize(("depth", "shift"), [(16, 8), (12, 4), (10, 2), (8, 0)])
def test_of_16_bits_the_significant_ones_are_kept(depth, shift):
    values = RNG.integers(0, 1 << depth, (5, 7), np.uint16)
    values[0, 0] = (1 << depth) - 1
    fitted = fitting(encoded(values), depth=depth)
    np.testing.assert_array_equal(fitted.pixels, np.repeat((values >> shift).astype(np.uint8)[..., None], 3, 2))
    assert fitted.changes == (("16-bit", f"kept the high 8 bits of {depth}"),)


@pytest.mark.parametrize(
    ("largest", "depth", "set_to"), [(4096, 12, 13), (16380, 12, 14), (256, 8, 9), (65535, 15, 16)]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_values_above_the_declared_depth_are_refused(largest, depth, set_to, kind):
    data = encoded(np.array([[0, (1 << depth) - 1, largest]], np.uint16), kind)
    with refused("depth", f"its largest value is {largest}, and dataset.depth is {depth}: set it to {set_to}"):
        decode.image(data, depth=depth)
    assert fitting(data, depth=set_to).pixels[0, 2, 0] == largest >> (set_to - 8)


DEEP = RNG.integers(0, 65536, (60, 90, 3), np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_depth_of_deep_colour_cannot_be_chosen(suffix):
    data = cv2.imencode(suffix, DEEP[..., ::-1])[1].tobytes()
    fitted = fitting(data)
    np.testing.assert_array_equal(fitted.pixels, (DEEP >> 8).astype(np.uint8))
    assert ("16-bit", "kept the high 8 bits of 16") in fitted.changes
    with refused("depth", "mode RGB of 16 bits per channel, .* dataset.depth is 12: set it to 16, or convert"):
        decode.image(data, depth=12)


@pytest.mark.parametrize(("largest", "depth"), [(4095, 12), (1023, 10), (100, 8)])
def test_a_depth_that_would_keep_more_is_named(largest, depth):
    fitted = fitting(encoded(np.array([[0, largest]], np.uint16)))
    assert f"its largest value is {largest}: dataset.depth {depth} would keep more" in dict(fitted.changes)["16-bit"]


@pytest.mark.parametrize(
    ("data", "suffix", "said"),
    [
        (encoded(PIXELS), ".jpg", "format PNG, extension .jpg"),
        (encoded(PIXELS, "JPEG"), ".PNG", "format JPEG, extension .PNG"),
        (encoded(PIXELS), ".PNG", None),
        (encoded(PIXELS, "JPEG"), ".JPEG", None),
        (MPO, ".jpg", None),
    ],
)
def test_a_wrong_extension_is_listed_and_changes_nothing(data, suffix, said):
    fitted = fitting(data, suffix=suffix)
    assert dict(fitted.changes) == ({"suffix": said} if said else {})
    assert fitted.data == data


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_mask_says_whether_the_image_is_turned(orientation, kind):
    data = encoded(PIXELS, kind, exif=tagged(orientation))
    image = Image.open(io.BytesIO(data))
    upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(stored(data, (90, 60))[0], upright)
    raw, _, result = stored(data, (60, 90))
    np.testing.assert_array_equal(raw, np.asarray(image))
    assert not Image.open(io.BytesIO(result)).getexif()  # nor will anybody turn it later
    said = f"EXIF orientation {orientation}: "
    assert fitting(data, (90, 60)).changes == (("exif-rotation", f"{said}turned upright"),)
    assert fitting(data, (60, 90)).changes == (("exif-rotation", f"{said}kept as stored, as its labels are"),)


# What encoders write without loss, and how decoders see it.
LOSSLESS = {
    "PNG": (PIXELS, {}),
    "WEBP": (PIXELS, {"lossless": True}),
    "TIFF": (PIXELS, {}),
    "compressed TIFF": (PIXELS, {"compression": "tiff_lzw"}),  # read by another library
    "TIFF of 16 bits": (np.arange(60 * 90, dtype=np.uint16).reshape(60, 90) * 12, {}),
    "compressed TIFF of 16 bits": (np.arange(60 * 90, dtype=np.uint16).reshape(60, 90) * 12, {"compression": "zip"}),
    "TIFF of grey": (GREY, {}),
}


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF defines it, by the sides at which the first row and the first column of what is stored are seen."""
    return {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels[::-1].swapaxes(0, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels[:, ::-1].swapaxes(0, 1),
    }[orientation]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", LOSSLESS)
def test_no_container_is_turned_before_the_mask_has_decided(name, orientation):
    pixels, options = LOSSLESS[name]
    kind = name.removeprefix("compressed ").split()[0]
    data = encoded(pixels, kind, exif=tagged(orientation), **options)
    wanted = pixels >> 8 if pixels.dtype == np.uint16 else pixels
    wanted = (wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, 2)).astype(np.uint8)
    picture = decode.image(data)
    assert (picture.orientation, picture.pixels.size) == (orientation, (90, 60))
    np.testing.assert_array_equal(picture.fitted(turned=False).pixels, wanted)
    np.testing.assert_array_equal(picture.fitted().pixels, turned(wanted, orientation))
    if orientation > 4:
        np.testing.assert_array_equal(stored(data, (60, 90))[0], wanted)
        np.testing.assert_array_equal(stored(data, (90, 60))[0], turned(wanted, orientation))
    else:
        with refused("orientation-ambiguous", f"EXIF orientation {orientation}"):
            stored(data)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_camera_s_mpo_is_turned_as_a_jpeg(orientation):
    mpo = encoded(PIXELS, "MPO", exif=tagged(orientation), save_all=True, append_images=[Image.fromarray(PIXELS)])
    picture = decode.image(mpo)
    assert (picture.pixels.format, picture.orientation) == ("MPO", orientation)
    seen = np.asarray(Image.open(io.BytesIO(mpo)))
    np.testing.assert_array_equal(picture.fitted(turned=False).pixels, seen)
    np.testing.assert_array_equal(picture.fitted().pixels, turned(seen, orientation))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_format_may_say_what_its_annotators_saw(orientation):
    picture = decode.image(encoded(PIXELS, exif=tagged(orientation)))
    upright = np.asarray(ImageOps.exif_transpose(picture.pixels))
    for fitted in (picture.fitting(*upright.shape[:2], turned=True), picture.fitted()):
        np.testing.assert_array_equal(fitted.pixels, upright)
    for fitted in (picture.fitting(60, 90, turned=False), picture.fitted(turned=False)):
        np.testing.assert_array_equal(fitted.pixels, PIXELS)
    if orientation > 4:
        with refused("size-mismatch", "mask 90x60, image 90x60"):
            picture.fitting(60, 90, turned=True)


@pytest.mark.parametrize(("orientation", "width"), [(2, 90), (3, 90), (4, 90), (6, 60)])
def test_an_orientation_that_the_mask_cannot_settle_is_refused(orientation, width):
    data = encoded(PIXELS[:, :width], "JPEG", exif=tagged(orientation))
    with refused("orientation-ambiguous", f"orientation ambiguous: EXIF orientation {orientation}"):
        stored(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_other_decoder_turns_what_is_stored():
    """Damaged EXIF blocks, of which decoders make different things: the pixels are those that met the mask."""
    exif = tagged(6).tobytes()
    for _ in range(300):
        damaged = bytearray(exif)
        damaged[RNG.integers(6, len(exif))] = RNG.integers(0, 256)
        data = encoded(PIXELS, "JPEG", exif=bytes(damaged))
        fitted = decode.image(data).fitting(60, 90)
        read_later = cv2.imdecode(np.frombuffer(fitted.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(read_later, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("size", [(61, 90), (90, 60), (30, 45)])
def test_nothing_is_resized(size):
    with refused("size-mismatch", f"mask {size[1]}x{size[0]}, image 90x60"):
        decode.image(encoded(PIXELS)).fitting(*size)


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 100, 300, 600, 900, 1100])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpegs_are_refused(cut, progressive):
    data = encoded(PIXELS, "JPEG", progressive=progressive)
    with refused("truncated", "truncated JPEG"):
        decode.image(data[:-cut])


def test_every_flipped_bit_in_a_png_s_pixels_is_found():
    data = encoded(PIXELS)
    start, end = data.index(b"IDAT"), data.index(b"IEND")
    for bit in RNG.integers(start * 8, (end - 4) * 8, 100):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with refused("corrupt|truncated", r"(corrupt|truncated) PNG"):
            decode.image(bytes(damaged))


@pytest.mark.parametrize("keep", [8, 20, 40, 200, -13, -12])
def test_truncated_pngs_are_refused(keep):
    with refused("corrupt|truncated", r"(truncated|corrupt) PNG"):
        decode.image(encoded(PIXELS)[:keep])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><html></html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        encoded(PALETTE, "GIF"),
        b"8BPS\0\1" + bytes(99),
    ],
    ids=["empty", "html", "eps", "gif", "psd"],
)
def test_only_some_formats_are_looked_at(data):
    said = r"not an allowed image: .* \(allowed: PNG, JPEG, BMP, TIFF, WEBP\)"
    with refused("not-an-image" if data else "empty-file", said):
        decode.image(data)


@pytest.mark.parametrize("data", [encoded(GREY, "BMP"), encoded(GREY, "JPEG"), encoded(GREY, "TIFF"), b""])
def test_masks_are_png(data):
    with refused("not-an-image" if data else "empty-file", r"not an allowed image: .* \(allowed: PNG\)"):
        decode.mask(data)


@pytest.mark.parametrize("side", [8193, 10_000, 14_000, 60_000])
def test_pixels_have_a_limit_that_is_checked_before_decoding(side):
    with refused("too-large", r"pixels .* over limit 67108864"):
        decode.image(raw_png((side, side), 1, 0, [b""]))


def test_a_bomb_in_a_text_chunk_is_refused():
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20), 9))
    with refused("corrupt", "corrupt PNG"):
        decode.image(raw_png((1, 1), 8, 0, [b"\0"], extra=bomb))


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_one_frame_is_expected(kind, options):
    frames = [Image.fromarray(PIXELS + np.uint8(k)) for k in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with refused("frames", "3 frames, expected 1"):
        decode.image(data)


def test_values_without_a_range_are_refused():
    with refused("depth", "mode F has no declared range"):
        decode.image(encoded(GREY.astype(np.float32), "TIFF"))


IDS = np.array([[0, 1, 15, 255], [20, 0, 2, 3]], np.uint8)


def palette_mask() -> Image.Image:
    mask = Image.fromarray(IDS)
    mask.putpalette([v % 256 for v in range(0, 3 * 7 * 256, 7)][:768])
    return mask


@pytest.mark.parametrize(
    ("data", "expected"),
    {
        "grey": (encoded(IDS), IDS),
        "palette": (encoded(palette_mask()), IDS),
        "palette with alpha": (encoded(palette_mask(), transparency=3), IDS),
        "palette of 4 colours": (encoded(Image.fromarray(IDS % 4).convert("P"), bits=2), IDS % 4),
        "one bit": (encoded(Image.fromarray(IDS == 0)), (IDS == 0).astype(np.uint8)),
        "two bits": (raw_png((4, 1), 2, 0, [b"\x1b"]), np.array([[0, 1, 2, 3]])),
        "four bits": (raw_png((4, 1), 4, 0, [b"\x01\x9f"]), np.array([[0, 1, 9, 15]])),
        "16 bits": (encoded(WIDE), WIDE),
    }.values(),
    ids=lambda value: None,
)
def test_masks_are_the_numbers_in_the_file(data, expected):
    mask = decode.mask(data)
    assert mask.dtype in (np.uint8, np.uint16)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_not_class_ids(mode):
    with refused("colour-mask", f"colour mask needs colour map: mode {mode}"):
        decode.mask(encoded(palette_mask().convert(mode)))


def test_colours_of_a_mask_are_exactly_those_in_the_file():
    colours = np.asarray(palette_mask().convert("RGB"))
    files = {
        "RGB": encoded(colours),
        "RGBA": encoded(np.dstack([colours, IDS])),  # alpha says nothing of the class
        "palette": encoded(palette_mask()),
        "palette with alpha": encoded(palette_mask(), transparency=3),
    }
    for name, data in files.items():
        np.testing.assert_array_equal(decode.colors(data), colours, err_msg=name)
    assert [decode.channels(data) for data in files.values()] == [3, 3, 1, 1]
    assert [decode.channels(data) for data in (encoded(IDS), encoded(WIDE), b"", b"<html>")] == [1, 1, 1, 1]


@pytest.mark.parametrize("data", [encoded(WIDE), raw_png((2, 1), 16, 2, [bytes(range(12))])])
def test_colours_have_8_bits(data):
    with refused("colour-mask", "a colour mask must be 8-bit RGB"):
        decode.colors(data)


def test_a_file_is_held_against_its_published_hash():
    data = encoded(PIXELS, "JPEG")
    decode.check_hash(data, hashlib.sha256(data).hexdigest())
    for bit in range(0, len(data) * 8, 97):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with refused("source-hash", "sha256 mismatch"):
            decode.check_hash(bytes(damaged), hashlib.sha256(data).hexdigest())


def test_panoptic_ids_are_read_from_three_channels():
    ids = RNG.integers(0, 1 << 24, (5, 6))
    data = encoded(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8))
    np.testing.assert_array_equal(decode.rgb_ids(data), ids)


@pytest.mark.parametrize("data", [encoded(IDS), raw_png((2, 1), 16, 2, [bytes(range(12))])])
def test_panoptic_ids_need_8_bit_rgb(data):
    with refused("colour-mask", "a panoptic PNG must be 8-bit RGB"):
        decode.rgb_ids(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_damage_of_any_kind_is_an_image_or_an_error_in_words(kind):
    data = encoded(PIXELS, kind)
    for _ in range(200):
        damaged = bytearray(data)
        for at in RNG.integers(0, len(data), 3):
            damaged[at] = RNG.integers(0, 256)
        for read in (decode.image, decode.mask, decode.colors, decode.rgb_ids):
            try:
                read(bytes(damaged))
            except FaultError as error:
                assert error.reason  # noqa: PT017 - most are refused; the others have other colours, as no hash was taken
