"""Bytes of images and masks: sound ones, and those that are not."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

HEIGHT, WIDTH = 9, 12
PNG = b"\x89PNG\r\n\x1a\n"


def photo(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def frames(kind: str) -> bytes:
    first, *others = (Image.fromarray(photo(k)) for k in range(3))
    return encoded(first, kind, save_all=True, append_images=others)


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, depth: int, color: int, data: bytes, extra: bytes = b"") -> bytes:
    """What no library writes; `data` has a zero byte before each row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return PNG + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A whole, valid, black PNG of one bit per pixel: a thousandth of what it takes decoded."""
    return raw_png(width, height, 1, 0, bytes((1 + (width + 7) // 8) * height))


def text_bomb(megabytes: int) -> bytes:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(megabytes << 20), 9))
    return raw_png(WIDTH, HEIGHT, 8, 2, bytes((1 + 3 * WIDTH) * HEIGHT), extra=text)


def header_alone(width: int, height: int) -> bytes:
    return raw_png(width, height, 8, 2, b"")


def deep_png(pixels: np.ndarray) -> bytes:
    """uint16[h, w, 3], which Pillow does not write."""
    height, width, _ = pixels.shape
    return raw_png(width, height, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def flipped_pixels(data: bytes, k: int) -> bytes:
    """The k-th of 50 bits that are spread over a PNG's compressed pixels."""
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    return flipped(data, start * 8 + (end - start) * 8 * k // 50 + k % 8)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 9\n%%EndComments\nshowpage\n%%EOF\n"
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, HEIGHT, WIDTH, 8, 3) + bytes(600)
FITS = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80) + b"END".ljust(2720)
HTML = b"<!doctype html><html><title>404</title></html>"
