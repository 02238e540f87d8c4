"""The one decoder for files from outside: few formats, bounded size, every byte decoded, no guess about labels.

Runs inside the processes of `pipelines.data.ingest.parallel`, which bound its memory and time and survive its crash.
What it accepts is stored in shards as bytes with a hash, so later readers may use whatever decodes fastest.

Images are kept as published where every decoder gives the same RGB pixels: 8-bit RGB JPEG and PNG that no EXIF tag
turns. All others become an RGB PNG by these rules: 16-bit values keep the high 8 of their significant bits, of which
none may have more; alpha is dropped, grey is repeated, palettes and CMYK are converted as Pillow does. Where a tag
turns the image, the mask's size says whether the annotator saw it turned. Masks are never converted: colours are not
class ids.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.data.faults import FaultError

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT)
IEND = b"\0\0\0\0IEND\xaeB`\x82"  # a PNG's last chunk: length, name, checksum
MAX_PIXELS = 1 << 26  # 67 million: 8192 x 8192
CONVERTIBLE = {"RGB", "RGBA", "RGBX", "L", "LA", "1", "P", "PA", "CMYK", "YCbCr"}
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L"}
# What becomes of modes other than RGB.
CHANGED = {
    "RGBA": ("alpha", "alpha dropped"),
    "RGBX": ("alpha", "fourth channel dropped"),
    "LA": ("alpha", "alpha dropped, grey repeated over three channels"),
    "PA": ("palette", "palette turned into RGB, alpha dropped"),
    "P": ("palette", "palette turned into RGB"),
    "L": ("greyscale", "grey repeated over three channels"),
    "1": ("greyscale", "black and white repeated over three channels"),
    "CMYK": ("cmyk", "CMYK turned into RGB"),
    "YCbCr": ("container", "YCbCr turned into RGB"),
}
SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
TIFF_BITS = 258  # the tag of its bits per channel
# EXIF's orientations, and what sets each upright; from 5 on they exchange height and width.
QUARTER_TURNS = (5, 6, 7, 8)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACK = TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others undo themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """An image as its record holds it."""

    data: bytes
    format: str  # "png" or "jpeg"
    pixels: np.ndarray  # uint8[h, w, 3] RGB
    changes: tuple[tuple[str, str], ...]  # kind of fault, what was done


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded image that has not met its mask yet."""

    published: bytes
    pixels: Image.Image
    orientation: int  # EXIF's 1..8; 1, upright, where there is none
    depth: int = 16  # significant bits, where it has 16
    deep: bool = False  # 16 bits in each of several channels, of which Pillow hands out the high bytes
    suffix: str = ""  # of its file

    def shown(self) -> np.ndarray:
        """uint8[h, w, 3] in RGB, as a viewer shows it."""
        rgb = to_rgb(self.pixels, depth=self.depth)
        return np.asarray(rgb.transpose(TURNS[self.orientation]) if self.orientation > 1 else rgb)

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width as a viewer shows it."""
        width, height = self.pixels.size
        return (width, height) if self.orientation in QUARTER_TURNS else (height, width)

    def fitting(self, height: int, width: int, *, turned: bool | None = None) -> Fitted:
        """The image in the orientation that fits labels of this size. `turned` says what the annotator saw, where the
        format says it: the image as EXIF turns it, or as it is stored."""
        size = self.pixels.size
        stored = size == (width, height) and turned is not True
        upright = self.upright == (height, width) and turned is not False
        if not stored and not upright:
            raise FaultError("size-mismatch", f"mask {width}x{height}, image {size[0]}x{size[1]}")
        if self.orientation > 1 and stored and upright:
            raise FaultError(
                "orientation-ambiguous",
                f"orientation ambiguous: EXIF orientation {self.orientation}, and the mask fits the image turned or "
                "not; turn the pixels and remove the tag",
            )
        changes = list(self._changes(turn=not stored))
        if self._usable:
            data, name = self.published, "png" if self.pixels.format == "PNG" else "jpeg"
            return Fitted(data=data, format=name, pixels=np.asarray(self.pixels), changes=tuple(changes))
        pixels = to_rgb(self.pixels, depth=self.depth)
        if not stored and self.orientation > 1:
            pixels = pixels.transpose(TURNS[self.orientation])
        return Fitted(data=_png(pixels), format="png", pixels=np.asarray(pixels), changes=tuple(changes))

    def fitted(self, *, turned: bool = True) -> Fitted:
        """The image where nothing but the image says its size: upright, as every viewer shows it, or as stored."""
        height, width = self.upright if turned else self.pixels.size[::-1]
        return self.fitting(height, width, turned=turned)

    def _changes(self, *, turn: bool) -> Iterator[tuple[str, str]]:
        kind = str(self.pixels.format)
        if self.orientation > 1:
            how = "turned upright" if turn else "kept as stored, as its labels are"
            yield "exif-rotation", f"EXIF orientation {self.orientation}: {how}"
        mode = self.pixels.mode
        if mode in SIXTEEN_BIT or self.deep:
            yield "16-bit", self._scaling()
        if mode in CHANGED:
            yield CHANGED[mode]
        if kind not in ("PNG", "JPEG", "MPO"):
            yield "container", f"{kind} stored as PNG"
        elif mode == "RGB" and self.orientation == 1 and not self._usable and not self.deep:
            yield "container", f"{kind} that decoders turn differently, stored as PNG"
        if self.suffix and self.suffix.lower() not in SUFFIXES.get(kind, ()):
            yield "suffix", f"format {kind}, extension {self.suffix}"

    def _scaling(self) -> str:
        if self.deep:
            return "kept the high 8 bits of 16"
        largest = int(np.asarray(self.pixels).max())
        said = f"kept the high 8 bits of {self.depth}"
        if largest < 1 << (self.depth - 2):
            said += f"; its largest value is {largest}: dataset.depth {max(largest.bit_length(), 8)} would keep more"
        return said

    @property
    def _usable(self) -> bool:
        """Every decoder gives the same three channels of 8 bits."""
        eight = self.pixels.format in ("JPEG", "MPO") or (self.pixels.format == "PNG" and _depth(self.published) == 8)
        alike = self.orientation == 1 and ("exif" not in self.pixels.info or not _turned_by_others(self.published))
        return self.pixels.mode == "RGB" and eight and alike


def image(data: bytes, *, depth: int = 16, suffix: str = "", max_pixels: int = MAX_PIXELS) -> Picture:
    """Any allowed image, decoded to its last byte; one with more pixels is not decoded at all."""
    pixels = _load(data, IMAGE_FORMATS, max_pixels)
    if pixels.mode not in CONVERTIBLE | SIXTEEN_BIT:
        raise FaultError("depth", f"mode {pixels.mode} has no declared range: convert it to 8 or 16 bits per channel")
    deep = pixels.mode not in SIXTEEN_BIT and _depth_of_image(data, pixels) == 16
    _check_depth(pixels, depth, deep=deep)
    return Picture(
        published=data, pixels=pixels, orientation=_orientation(pixels), depth=depth, deep=deep, suffix=suffix
    )


def mask(data: bytes) -> np.ndarray:
    """A PNG of indices (palette, grey of 1 to 16 bits) -> uint8 or uint16 [h, w], exactly the numbers in the file."""
    pixels = _load(data, ("PNG",))
    if pixels.mode not in {"P", "L", "1", "I;16"}:
        raise FaultError(
            "colour-mask", f"colour mask needs colour map: mode {pixels.mode}, allowed: one channel of class ids"
        )
    spread = {2: 85, 4: 17}.get(_depth(data), 1) if pixels.mode == "L" else 1  # of 2 and 4 bits over 0..255
    indices: np.ndarray = np.array(pixels, np.uint16 if pixels.mode == "I;16" else np.uint8)
    return indices // spread if spread > 1 else indices


def channels(data: bytes) -> int:
    """1 for a PNG of grey values or palette indices (and whatever is no PNG), 3 for one of colours."""
    return 3 if data.startswith(b"\x89PNG") and len(data) > 25 and data[25] in (2, 6) else 1


def colors(data: bytes) -> np.ndarray:
    """A PNG of colours (RGB, RGBA or palette) -> uint8[h, w, 3]: exactly the colours in the file, alpha left out."""
    pixels = _load(data, ("PNG",))
    if pixels.mode not in {"RGB", "RGBA", "P", "L", "1"} or _depth(data) > 8:
        raise FaultError("colour-mask", f"a colour mask must be 8-bit RGB, got mode {pixels.mode}, {_depth(data)} bits")
    if pixels.mode == "P":
        pixels = pixels.convert("RGBA")
    return np.array(pixels.convert("RGB"), np.uint8)


def check_hash(data: bytes, sha256: str) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FaultError("source-hash", "sha256 mismatch: not the file that SHA256SUMS lists")


def rgb_ids(data: bytes) -> np.ndarray:
    """COCO's panoptic PNG -> uint32[h, w]: R + 256 G + 256^2 B."""
    pixels = _load(data, ("PNG",))
    if pixels.mode != "RGB" or _depth(data) != 8:
        raise FaultError(
            "colour-mask", f"a panoptic PNG must be 8-bit RGB, got mode {pixels.mode}, {_depth(data)} bits"
        )
    # Four bytes of a pixel are one little-endian number, of which the last byte is no colour.
    ids: np.ndarray = np.asarray(pixels.convert("RGBA")).view("<u4")[..., 0] & 0xFFFFFF
    return ids


def _load(data: bytes, formats: tuple[str, ...], max_pixels: int = MAX_PIXELS) -> Image.Image:
    kind = next((name for magic, name in MAGIC.items() if data.startswith(magic)), "image")
    if kind not in ("image", *formats) or not data:
        raise FaultError(
            "not-an-image" if data else "empty-file", _not_allowed(f"format {kind}" if data else "0 bytes", formats)
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused or converted here
            return _opened(data, formats, max_pixels)
    except (FaultError, MemoryError):
        raise
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise FaultError("too-large", f"pixels (more than {most}) over limit {max_pixels}") from None
    except UnidentifiedImageError:
        if kind in formats:
            raise FaultError("corrupt", f"corrupt {kind}: its header cannot be read") from None
        raise FaultError("not-an-image", _not_allowed("unknown format", formats)) from None
    except Exception as error:  # hostile bytes raise what they please: struct.error, SyntaxError, KeyError, ...
        how = "truncated" if "truncat" in str(error).lower() else "corrupt"
        raise FaultError(how, f"{how} {kind}: {error}") from None


def _opened(data: bytes, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    opened: Any = Image.open(io.BytesIO(data), formats=formats)
    width, height = opened.size
    if width * height > max_pixels:
        raise FaultError("too-large", f"pixels {width}x{height} = {width * height} over limit {max_pixels}")
    if opened.format == "PNG":
        opened.verify()  # the chunks' checksums, which decoding skips; closes the file
        if data.rfind(IEND) < 0:  # what Pillow does not look at, and OpenCV refuses
            raise FaultError("corrupt", "corrupt PNG: its last chunk is damaged")
        opened = Image.open(io.BytesIO(data), formats=formats)
    # A camera's MPO is a JPEG with previews behind the picture; every JPEG decoder reads the picture alone.
    frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
    if frames != 1:
        raise FaultError("frames", f"{frames} frames, expected 1")
    orientation = _orientation(opened)
    opened.load()
    return _as_stored(opened, orientation)


def _as_stored(opened: Image.Image, orientation: int) -> Image.Image:
    """Pillow turns a TIFF while it loads it, and forgets the tag: both back, so that the mask decides as for others."""
    if _orientation(opened) == orientation:
        return opened
    stored = opened.transpose(BACK[orientation])
    stored.format = opened.format
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    return stored


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


def _depth_of_image(data: bytes, pixels: Image.Image) -> int:
    """Bits per channel as the file says it: Pillow's modes of several channels have 8."""
    if pixels.format == "PNG":
        return _depth(data)
    if pixels.format != "TIFF":
        return 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header: Any = Image.open(io.BytesIO(data), formats=("TIFF",))
    return int(max(header.tag_v2.get(TIFF_BITS, (1,))))


def _check_depth(pixels: Image.Image, depth: int, *, deep: bool) -> None:
    """Values above the declared range would all become white."""
    if deep and depth < 16:
        raise FaultError(
            "depth",
            f"mode {pixels.mode} of 16 bits per channel, of which the high 8 can be read, and dataset.depth is "
            f"{depth}: set it to 16, or convert the image to 8 bits per channel",
        )
    if pixels.mode in SIXTEEN_BIT and (largest := int(np.asarray(pixels).max())) >= 1 << depth:
        bits = largest.bit_length()
        raise FaultError("depth", f"its largest value is {largest}, and dataset.depth is {depth}: set it to {bits}")


def to_rgb(pixels: Image.Image, *, depth: int = 16) -> Image.Image:
    if pixels.mode in SIXTEEN_BIT:
        pixels = Image.fromarray((np.asarray(pixels) >> (depth - 8)).astype(np.uint8))
    if pixels.mode == "P":
        pixels = pixels.convert("RGBA")  # quietly, whatever transparency the palette has
    return pixels.convert("RGB")


def _png(pixels: Image.Image) -> bytes:
    """No metadata: neither EXIF nor colour profiles may turn or tint it again. At this level as small as at Pillow's
    default, in a third of the time."""
    done, data = cv2.imencode(".png", cv2.cvtColor(np.asarray(pixels), cv2.COLOR_RGB2BGR), PNG)
    if not done:
        raise FaultError("corrupt", "the image cannot be encoded again")
    return data.tobytes()
