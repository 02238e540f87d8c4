"""The one decoder for files from outside: few formats, bounded size, every byte decoded, no guess about labels.

Runs inside the processes of `pipelines.data.parallel`, which bound its memory and time and survive its crash. What it
accepts is stored in shards as bytes with a hash, so later readers may use whatever decodes fastest.

Images are kept as published where every decoder gives the same RGB pixels: 8-bit RGB JPEG and PNG that no EXIF tag
turns. All others become an RGB PNG by these rules: 16-bit values keep their high byte, alpha is dropped, grey is
repeated, palettes and CMYK are converted as Pillow does. Where EXIF turns the image, the mask's size says whether the
annotator saw it turned. Masks are never converted: colours are not class ids.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.errors import DataError

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 1 << 26  # 67 million: 8192 x 8192
CONVERTIBLE = {"RGB", "RGBA", "RGBX", "L", "LA", "1", "P", "PA", "CMYK", "YCbCr"}
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L"}
MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
# EXIF's orientations that exchange height and width, and what sets them upright.
QUARTER_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded image that has not met its mask yet."""

    published: bytes
    pixels: Image.Image
    orientation: int  # EXIF's 1..8; 1, upright, where there is none

    def fitting(self, height: int, width: int) -> tuple[bytes, str]:
        """Encoded bytes and their format, "png" or "jpeg", in the orientation that fits a mask of this size."""
        size = self.pixels.size
        stored = size == (width, height)
        upright = (size[::-1] if self.orientation in QUARTER_TURNS else size) == (width, height)
        if not stored and not upright:
            raise DataError(f"mask {width}x{height}, image {size[0]}x{size[1]}")
        if self.orientation > 1 and stored and upright:
            raise DataError(
                f"orientation ambiguous: EXIF orientation {self.orientation}, and the mask fits the image turned or "
                "not; turn the pixels and remove the tag"
            )
        if self._usable:
            return self.published, "png" if self.pixels.format == "PNG" else "jpeg"
        pixels = to_rgb(self.pixels)
        return _png(pixels if stored else pixels.transpose(QUARTER_TURNS[self.orientation])), "png"

    @property
    def _usable(self) -> bool:
        """Every decoder gives the same three channels of 8 bits."""
        eight = self.pixels.format in ("JPEG", "MPO") or (self.pixels.format == "PNG" and _depth(self.published) == 8)
        alike = self.orientation == 1 and ("exif" not in self.pixels.info or not _turned_by_others(self.published))
        return self.pixels.mode == "RGB" and eight and alike


def image(data: bytes) -> Picture:
    """Any allowed image, decoded to its last byte."""
    pixels = _load(data, IMAGE_FORMATS)
    if pixels.mode not in CONVERTIBLE | SIXTEEN_BIT:
        raise DataError(f"mode {pixels.mode} has no declared range: convert it to 8 or 16 bits per channel")
    return Picture(published=data, pixels=pixels, orientation=_orientation(pixels))


def mask(data: bytes) -> np.ndarray:
    """A PNG of indices (palette, grey of 1 to 16 bits) -> uint8 or uint16 [h, w], exactly the numbers in the file."""
    pixels = _load(data, ("PNG",))
    if pixels.mode not in {"P", "L", "1", "I;16"}:
        raise DataError(f"colour mask needs colour map: mode {pixels.mode}, allowed: one channel of class ids")
    spread = {2: 85, 4: 17}.get(_depth(data), 1) if pixels.mode == "L" else 1  # of 2 and 4 bits over 0..255
    indices: np.ndarray = np.array(pixels, np.uint16 if pixels.mode == "I;16" else np.uint8)
    return indices // spread


def rgb_ids(data: bytes) -> np.ndarray:
    """COCO's panoptic PNG -> uint32[h, w]: R + 256 G + 256^2 B."""
    pixels = _load(data, ("PNG",))
    if pixels.mode != "RGB" or _depth(data) != 8:
        raise DataError(f"a panoptic PNG must be 8-bit RGB, got mode {pixels.mode}, {_depth(data)} bits")
    rgb: np.ndarray = np.asarray(pixels, np.uint32)
    ids: np.ndarray = rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16
    return ids


def _load(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    kind = next((name for magic, name in MAGIC.items() if data.startswith(magic)), "image")
    if kind not in ("image", *formats) or not data:
        raise DataError(_not_allowed(f"format {kind}" if data else "0 bytes", formats))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused or converted here
            return _opened(data, formats)
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise DataError(f"pixels (more than {2 * (Image.MAX_IMAGE_PIXELS or 0)}) over limit {MAX_PIXELS}") from None
    except UnidentifiedImageError:
        if kind in formats:
            raise DataError(f"corrupt {kind}: its header cannot be read") from None
        raise DataError(_not_allowed("unknown format", formats)) from None
    except Exception as error:  # hostile bytes raise what they please: struct.error, SyntaxError, KeyError, ...
        how = "truncated" if "truncat" in str(error).lower() else "corrupt"
        raise DataError(f"{how} {kind}: {error}") from None


def _opened(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    opened: Any = Image.open(io.BytesIO(data), formats=formats)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise DataError(f"pixels {width}x{height} = {width * height} over limit {MAX_PIXELS}")
    if opened.format == "PNG":
        opened.verify()  # the chunks' checksums, which decoding skips; closes the file
        opened = Image.open(io.BytesIO(data), formats=formats)
    # A camera's MPO is a JPEG with previews behind the picture; every JPEG decoder reads the picture alone.
    frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
    if frames != 1:
        raise DataError(f"{frames} frames, expected 1")
    opened.load()
    return opened  # type: ignore[no-any-return]


def _orientation(pixels: Image.Image) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow cannot read says nothing
        value = pixels.getexif().get(ExifTags.Base.Orientation, 1)
    return int(value) if value in range(1, 9) else 1


def _turned_by_others(data: bytes) -> bool:
    """A damaged EXIF block may say nothing to Pillow and something to OpenCV."""
    buffer = np.frombuffer(data, np.uint8)
    seen = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    stored = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return seen is None or stored is None or not np.array_equal(seen, stored)


def _not_allowed(found: str, formats: tuple[str, ...]) -> str:
    return f"not an allowed image: {found} (allowed: {', '.join(formats)})"


def _depth(data: bytes) -> int:
    """Bits per channel: the header is always the first chunk, and its depth the ninth byte in it."""
    return data[24]


def to_rgb(pixels: Image.Image) -> Image.Image:
    if pixels.mode in SIXTEEN_BIT:
        pixels = Image.fromarray((np.asarray(pixels) >> 8).astype(np.uint8))
    if pixels.mode == "P":
        pixels = pixels.convert("RGBA")  # quietly, whatever transparency the palette has
    return pixels.convert("RGB")


def _png(pixels: Image.Image) -> bytes:
    """No metadata: neither EXIF nor colour profiles may turn or tint it again."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG")
    return file.getvalue()
