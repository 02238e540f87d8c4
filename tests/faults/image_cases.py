"""The ways to spoil an image or a mask of format `folder`."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tests.faults import matter
from tests.faults.line import Case
from tests.faults.matter import HEIGHT, WIDTH, encoded, photo

CLASSES, THING = 21, 15
SMOOTH = np.linspace(0, 255, HEIGHT * WIDTH * 3).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
JPEG = encoded(SMOOTH, "JPEG", quality=95)
WIDE = np.random.default_rng(1).integers(0, 1 << 16, (HEIGHT, WIDTH), np.uint16)
DEEP = np.random.default_rng(2).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), np.uint16)
GREY = photo(3)[..., 0]
INDEXED = Image.fromarray(photo(4)).quantize(16)
CMYK = Image.new("CMYK", (WIDTH, HEIGHT), (0, 0, 0, 255))
SEMANTIC = np.random.default_rng(5).integers(0, 3, (HEIGHT, WIDTH), np.uint8)
SEMANTIC[2:5, 3:8] = THING
IDS = np.where(SEMANTIC == THING, 1, 0).astype(np.uint16)
CORNERS = SEMANTIC.copy()
CORNERS[0, :4] = [0, 1, THING, 255]


def image(data: bytes, suffix: str = ".png") -> Callable[[Path, str], None]:
    def spoil(root: Path, key: str) -> None:
        (root / f"images/{key}.png").unlink()
        (root / f"images/{key}{suffix}").write_bytes(data)

    return spoil


def mask(data: bytes) -> Callable[[Path, str], None]:
    return lambda root, key: put(root / f"masks/{key}.png", data)


def labels(semantic: np.ndarray, ids: np.ndarray | None = None) -> Callable[[Path, str], None]:
    """Of any size or values; the instances as they were, where they are not given."""

    def spoil(root: Path, key: str) -> None:
        put(root / f"masks/{key}.png", encoded(semantic.astype(np.uint8)))
        if ids is not None:
            put(root / f"instances/{key}.png", encoded(ids))

    return spoil


def each(*spoils: Callable[[Path, str], None]) -> Callable[[Path, str], None]:
    return lambda root, key: [spoil(root, key) for spoil in spoils] and None


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def palette(semantic: np.ndarray) -> Image.Image:
    indexed = Image.fromarray(semantic)
    indexed.putpalette([v * 7 % 256 for v in range(768)])
    return indexed


def turned(k: int, labels_too: bool, kind: str = "PNG") -> Callable[[Path, str], None]:
    """An image that EXIF turns; its labels as a viewer shows it, or as it is stored."""
    stored = image(encoded(SMOOTH, kind, exif=matter.tagged(k)), {"PNG": ".png", "TIFF": ".tif"}[kind])
    around = each(stored, labels(np.zeros((WIDTH, HEIGHT)), np.zeros((WIDTH, HEIGHT), np.uint16)))
    return around if labels_too else stored


def upright(k: int) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(SMOOTH, exif=matter.tagged(k))))))


def always(pixels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda before: pixels


def repeated(grey: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return always(np.repeat(grey[..., None], 3, 2))


def square(k: int) -> Callable[[Path, str], None]:
    pixels, even = photo(6, WIDTH, WIDTH), np.zeros((WIDTH, WIDTH))
    return each(image(encoded(pixels, exif=matter.tagged(k))), labels(even, even.astype(np.uint16)))


def loop(root: Path, key: str) -> None:
    path = root / f"images/{key}.png"
    path.unlink()
    path.symlink_to(path.name)


def dangling(root: Path, key: str) -> None:
    path = root / f"images/{key}.png"
    path.unlink()
    path.symlink_to("nothing.png")


def other_case(root: Path, key: str) -> None:
    """The image is there a second time, with its labels, in upper case."""
    for kind in ("images", "masks", "instances"):
        shutil.copy(root / f"{kind}/{key}.png", root / f"{kind}/{key.upper()}.png")


def renamed(*kinds: str, to: bytes) -> Callable[[Path, str], None]:
    def spoil(root: Path, key: str) -> None:
        for kind in kinds:
            (root / kind / f"{key}.png").rename(os.fsdecode(os.fsencode(root / kind) + b"/" + to + b".png"))

    return spoil


def without(kind: str) -> Callable[[Path, str], None]:
    return lambda root, key: (root / f"{kind}/{key}.png").unlink()


NOT_ALLOWED = r"not an allowed image: .* \(allowed: PNG, JPEG, BMP, TIFF, WEBP\)"
CUTS = (1, 2, 3, 5, 10, 20, 40, 80, 120, 200)
CASES = [
    *(Case(f"d01-cut-{n}", "truncated", "truncated JPEG", image(JPEG[:-n], ".jpg")) for n in CUTS),
    Case("d01-png-cut", "truncated", "truncated PNG", image(encoded(photo(7))[:-30])),
    Case("d01-header-cut", "corrupt", "corrupt JPEG: its header cannot be read", image(JPEG[:4], ".jpg")),
    *(
        Case(f"d02-bit-{k}", "corrupt", "corrupt PNG", image(matter.flipped_pixels(encoded(photo(8)), k)))
        for k in range(50)
    ),
    Case("d02-end", "corrupt", "its last chunk is damaged", image(encoded(photo(8))[:-9] + b"\1IEND\xaeB`\x82")),
    Case("d02-mask", "corrupt", "corrupt PNG", mask(matter.flipped_pixels(encoded(SEMANTIC), 9))),
    Case("d04-empty", "empty-file", "0 bytes", image(b"")),
    Case("d04-empty-mask", "empty-file", r"0 bytes \(allowed: PNG\)", mask(b"")),
    Case("d04-html", "not-an-image", NOT_ALLOWED, image(matter.HTML, ".jpg")),
    Case("d04-png-as-jpg", "suffix", r"format PNG, extension \.jpg", image(encoded(SMOOTH), ".jpg"), always(SMOOTH)),
    Case("d04-suffix", "suffix-unknown", "suffix not allowed", image(encoded(SMOOTH), ".heic"), at="images/{}.heic"),
    Case("d05-header", "too-large", "pixels .* over limit 67108864", image(matter.header_alone(60_000, 60_000))),
    Case(
        "d05-100", "too-large", "pixels 10000x10000 = 100000000 over limit 67108864", image(matter.bomb(10_000, 10_000))
    ),
    Case("d05-200", "too-large", "pixels .* over limit 67108864", image(matter.bomb(20_000, 10_000))),
    Case("d05-mask", "too-large", "pixels .* over limit 67108864", mask(matter.bomb(20_000, 10_000))),
    Case("d05-text", "corrupt", "corrupt PNG", image(matter.text_bomb(100))),
    Case("d06-eps", "not-an-image", NOT_ALLOWED, image(matter.EPS, ".jpg")),
    Case("d06-psd", "not-an-image", NOT_ALLOWED, image(matter.PSD, ".jpg")),
    Case("d06-fits", "not-an-image", NOT_ALLOWED, image(matter.FITS, ".jpg")),
    Case("d07-palette", "", "", mask(encoded(palette(CORNERS)))),
    Case("d07-palette-with-alpha", "", "", mask(encoded(palette(CORNERS), transparency=3))),
    Case("d07-rgb", "colour-mask", "colour mask needs colour map", mask(encoded(palette(CORNERS).convert("RGB")))),
    Case(
        "d08-one-more",
        "label-value",
        r"ids \{21\} outside 0\.\.20, ignore 255 \(108 pixels of 21\)",
        labels(0 * SEMANTIC + 21),
    ),
    Case(
        "d08-from-1",
        "label-value",
        r"ids \{21\} outside .*; do the ids count from 1\?",
        labels(np.where(CORNERS == 0, 21, CORNERS)),
    ),
    Case("d08-instance", "instance-label", "instance 1 lies on 'c0', which is not a thing class", labels(0 * SEMANTIC)),
    Case(
        "d08-instance-ignored", "instance-label", "instance 1 lies on ignored pixels alone", labels(0 * SEMANTIC + 255)
    ),
    Case("d11-larger", "size-mismatch", "mask 12x9, image 13x9", image(encoded(photo(9, HEIGHT, WIDTH + 1)))),
    Case("d11-transposed", "size-mismatch", "mask 12x9, image 9x12", image(encoded(photo(9, WIDTH, HEIGHT)))),
    Case("d11-half", "size-mismatch", "mask 12x9, image 6x4", image(encoded(photo(9, HEIGHT // 2, WIDTH // 2)))),
    Case("d11-instances", "size-mismatch", "instances 12x9, mask 6x9", labels(SEMANTIC[:, :6])),
    *(
        Case(f"d12-ambiguous-{k}", "orientation-ambiguous", "orientation ambiguous", turned(k, False))
        for k in (2, 3, 4)
    ),
    *(
        Case(f"d12-stored-{k}", "exif-rotation", "kept as stored", turned(k, False), always(SMOOTH))
        for k in (5, 6, 7, 8)
    ),
    *(
        Case(f"d12-upright-{k}", "exif-rotation", "turned upright", turned(k, True), always(upright(k)))
        for k in (5, 6, 7, 8)
    ),
    *(
        Case(f"d12-tiff-ambiguous-{k}", "orientation-ambiguous", "orientation ambiguous", turned(k, False, "TIFF"))
        for k in (2, 3, 4)
    ),
    Case("d12-square", "orientation-ambiguous", "orientation ambiguous: EXIF orientation 6", square(6)),
    Case(
        "d13-16-bit",
        "16-bit",
        "kept the high 8 bits of 16",
        image(encoded(WIDE)),
        repeated((WIDE >> 8).astype(np.uint8)),
    ),
    Case(
        "d13-16-bit-rgb",
        "16-bit",
        "kept the high 8 bits of 16",
        image(matter.deep_png(DEEP)),
        always((DEEP >> 8).astype(np.uint8)),
    ),
    Case("d13-float", "depth", "mode F has no declared range", image(encoded(GREY.astype(np.float32), "TIFF"), ".tif")),
    Case("d13-cmyk", "cmyk", "CMYK turned into RGB", image(encoded(CMYK, "JPEG"), ".jpg"), lambda before: 0 * before),
    Case("d13-rgba", "alpha", "alpha dropped", image(encoded(np.dstack([SMOOTH, GREY]))), always(SMOOTH)),
    Case(
        "d13-la",
        "alpha",
        "grey repeated",
        image(encoded(Image.merge("LA", [Image.fromarray(GREY)] * 2))),
        repeated(GREY),
    ),
    Case(
        "d13-1-bit",
        "greyscale",
        "black and white",
        image(encoded(Image.fromarray(GREY > 99))),
        repeated(np.uint8(255) * (GREY > 99)),
    ),
    Case("d13-grey", "greyscale", "grey repeated", image(encoded(GREY)), repeated(GREY)),
    Case(
        "d13-palette",
        "palette",
        "palette turned into RGB",
        image(encoded(INDEXED)),
        always(np.asarray(INDEXED.convert("RGB"))),
    ),
    Case("d13-bmp", "container", "BMP stored as PNG", image(encoded(SMOOTH, "BMP"), ".bmp"), always(SMOOTH)),
    Case("d13-tiff", "container", "TIFF stored as PNG", image(encoded(SMOOTH, "TIFF"), ".tif"), always(SMOOTH)),
    Case(
        "d13-webp",
        "container",
        "WEBP stored as PNG",
        image(encoded(SMOOTH, "WEBP", lossless=True), ".webp"),
        always(SMOOTH),
    ),
    Case("d14-gif", "not-an-image", NOT_ALLOWED, image(matter.frames("GIF"))),
    Case("d14-tiff", "frames", "3 frames, expected 1", image(matter.frames("TIFF"), ".tif")),
    Case("d14-png", "frames", "3 frames, expected 1", image(matter.frames("PNG"))),
    Case("d15-no-mask", "no-mask", r"has no masks/d15-no-mask\.png", without("masks")),
    Case("d15-no-instances", "no-mask", r"has no instances/d15-no-instances\.png", without("instances")),
    Case("d15-no-image", "no-image", r"has no image images/d15-no-image\.\*", without("images")),
    Case("d15-case", "name-clash", "differs from images/D15-CASE.png in case only", other_case),
    Case(
        "d15-twice",
        "name-clash",
        "has the same name as images/d15-twice.jpg",
        lambda root, key: put(root / f"images/{key}.jpg", JPEG),
        at="images/d15-twice.png",
    ),
    Case(
        "d24-not-utf-8",
        "name",
        "the name must be UTF-8 without control characters",
        renamed("images", to=b"caf\xe9"),
        at=repr("images/caf\udce9.png"),
    ),
    Case(
        "d24-newline",
        "name",
        "the name must be UTF-8 without control characters",
        renamed("images", to=b"a\nb"),
        at=repr("images/a\nb.png"),
    ),
    Case("d24-nfd", "no-mask", "has no masks/", renamed("images", to="d24-é".encode()), at="d24-é"),
    Case("s10-loop", "unreadable", "cannot be resolved", loop, at="images/s10-loop.png"),
    Case("s10-dangling", "missing-file", "a link to nothing", dangling, at="images/s10-dangling.png"),
]
