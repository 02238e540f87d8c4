"""A plain folder of images and index masks, for all three tasks.

    <root>/classes.yaml          - {name: road, color: [128, 64, 128], isthing: false}    (.yml or .json as well)
    <root>/images/[<split>/]**   photographs: .png .jpg .jpeg .bmp .tif .tiff .webp
    <root>/masks/[<split>/]**    the same path and name with .png: class ids (palette or grey), 255 is ignored
    <root>/instances/[<split>/]**  optional, likewise: instance ids (up to 16 bits), 0 is none

A class's id is its place in classes.yaml; `color` and `isthing` may be left out (a palette's, and false). An
instance's class is the one that most of its pixels have in the mask. Where images/ has sub-folders named train, val
or test, these are the splits; otherwise `dataset.splits` gives fractions, and an image's place follows from its name.
Names that begin with a dot are not looked at.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, cast

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipelines.data import decode
from pipelines.data.formats.source import (
    Faults,
    Scan,
    Source,
    check_count,
    check_inside,
    color,
    contents,
    duplicates,
    folder,
    labelled,
    parsing,
    segment,
    split_of,
)
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record, Segment, Split
from pipelines.errors import DataError, bounded

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
CLASS_FILES = ("classes.yaml", "classes.yml", "classes.json")
Byte = Annotated[int, Field(ge=0, le=255)]


class _Entry(BaseModel):
    """One class as its file says it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    color: Annotated[list[Byte], Field(min_length=3, max_length=3)] | None = None
    isthing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Paths within the root."""

    id: str
    split: Split
    image: str
    mask: str
    instances: str | None


def scan(source: Source) -> Scan:
    root, faults = folder(source.root), Faults()
    classes = read_classes(root)
    images = _files(root, "images", IMAGE_SUFFIXES, faults)
    others = {kind: _files(root, kind, (".png",), faults) for kind in ("masks", "instances") if (root / kind).is_dir()}
    others.setdefault("masks", {})
    _check_pairs(images, others, faults)
    return Scan(
        classes=classes,
        items=list(_items(root, images, others, source.splits, faults)),
        read=partial(read, root=root, classes=classes),
        name=lambda item: item.image,
        faults=faults,
    )


def _items(
    root: Path, images: dict[str, str], others: dict[str, dict[str, str]], splits: Mapping[str, float], faults: Faults
) -> Iterator[Item]:
    """Complete sets of files that may be opened; what is wrong with a set goes to `faults`."""
    published = any((root / "images" / split).is_dir() for split in SPLITS)
    for key, image in images.items():
        before = len(faults)
        paths = {kind: found[key] for kind, found in others.items() if key in found}
        for path in (image, *paths.values()):
            with faults.of(path):
                check_inside(root, path)
        first = key.partition("/")[0]
        if published and first not in SPLITS:
            faults.append(f"{image}: in none of the splits' folders, {', '.join(f'images/{s}' for s in SPLITS)}")
        if len(faults) == before and len(paths) == len(others):
            split = cast(Split, first) if published else split_of(key, splits)
            yield Item(id=key, split=split, image=image, mask=paths["masks"], instances=paths.get("instances"))


def read_classes(root: Path) -> tuple[ClassInfo, ...]:
    path = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if path is None:
        do = "list the classes in the order of their ids: - {name: road, color: [128, 64, 128], isthing: false}"
        raise DataError(f"{root / CLASS_FILES[0]} is missing", do=do)
    try:
        check_inside(root, path.name)
        text = contents(path, limit=1 << 20).decode()
        raw = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    with parsing(str(path)):
        entries = TypeAdapter(list[_Entry]).validate_python(raw)
    if twice := duplicates(entry.name for entry in entries):
        raise DataError(f"{path} has classes of the same name", twice)
    check_count(str(path), len(entries))
    return tuple(
        ClassInfo(name=entry.name, color=_rgb(entry.color) if entry.color else color(i), isthing=entry.isthing)
        for i, entry in enumerate(entries)
    )


def _rgb(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def _files(root: Path, kind: str, suffixes: tuple[str, ...], faults: Faults) -> dict[str, str]:
    """id -> path within the root of every file under root/kind, sorted."""
    found: dict[str, str] = {}
    folded: dict[str, str] = {}
    for path in _walk(root, kind, faults):
        if PurePosixPath(path).suffix.lower() not in suffixes:
            faults.append(f"{path}: suffix not allowed (allowed: {', '.join(suffixes)})")
            continue
        key = str(PurePosixPath(path).relative_to(kind).with_suffix(""))
        if key in found:
            faults.append(f"{path}: has the same name as {found[key]}")
        elif key.casefold() in folded:
            faults.append(f"{path}: differs from {folded[key.casefold()]} in case only, which some disks cannot hold")
        found.setdefault(key, path)
        folded.setdefault(key.casefold(), path)
    return found


def _walk(root: Path, kind: str, faults: Faults) -> list[str]:
    paths = []
    for at, folders, names in os.walk(root / kind):
        within = Path(at).relative_to(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [name for name in folders if (Path(at) / name).is_symlink()]
        faults += [f"{within / name}: a link to a folder is not followed" for name in linked]
        paths += [str(within / name) for name in names if not name.startswith(".")]
    odd = [path for path in paths if not path.isprintable()]
    faults += [f"{path!r}: the name must be printable UTF-8" for path in odd]
    return sorted(path for path in paths if path.isprintable())


def _check_pairs(images: dict[str, str], others: dict[str, dict[str, str]], faults: Faults) -> None:
    for kind, found in others.items():
        faults += [f"{path}: has no {kind}/{key}.png" for key, path in images.items() if key not in found]
        faults += [f"{path}: has no image images/{key}.*" for key, path in found.items() if key not in images]


def read(item: Item, *, root: Path, classes: tuple[ClassInfo, ...]) -> Record:
    """Every file of the item is decoded before the first fault is raised."""
    faults = Faults()
    picture = mask = ids = None
    with faults.of(item.mask):
        mask = decode.mask(contents(root / item.mask))
        _check_ids(mask, len(classes))
    with faults.of(item.image):
        picture = decode.image(contents(root / item.image))
    if item.instances is not None:
        with faults.of(item.instances):
            ids = decode.mask(contents(root / item.instances))
    faults.check(item.id)
    assert mask is not None  # noqa: S101 - or there were faults
    assert picture is not None  # noqa: S101
    segments: tuple[Segment, ...] = ()
    semantic = mask.astype(np.uint8)
    with faults.of(item.image):
        image, image_format = picture.fitting(*mask.shape)
    if ids is not None:
        with faults.of(cast(str, item.instances)):
            segments = tuple(_segments(ids, semantic, classes))
    faults.check(item.id)
    height, width = mask.shape
    return Record(
        id=item.id,
        split=item.split,
        image=image,
        format=image_format,
        height=height,
        width=width,
        semantic=semantic,
        segments=segments,
    )


def _check_ids(mask: np.ndarray, classes: int) -> None:
    values, pixels = np.unique(mask, return_counts=True)
    outside = {v: n for v, n in zip(values.tolist(), pixels.tolist(), strict=True) if v >= classes and v != IGNORE}
    if outside:
        ids = bounded([str(v) for v in outside], limit=10)
        counts = bounded([f"{n} pixels of {v}" for v, n in outside.items()], limit=10)
        hint = "; do the ids count from 1?" if list(outside) == [classes] and 0 not in values else ""
        raise DataError(
            f"ids {{{', '.join(ids)}}} outside 0..{classes - 1}, ignore {IGNORE} ({', '.join(counts)}){hint}"
        )


def _segments(ids: np.ndarray, semantic: np.ndarray, classes: tuple[ClassInfo, ...]) -> list[Segment]:
    if ids.shape != semantic.shape:
        raise DataError(f"instances {ids.shape[1]}x{ids.shape[0]}, mask {semantic.shape[1]}x{semantic.shape[0]}")
    found, faults = [], Faults()
    for identity, box in labelled(ids):
        votes = np.bincount(semantic[box][ids[box] == identity], minlength=256)[:IGNORE]
        category = int(votes.argmax())
        if not votes.any():
            faults.append(f"instance {identity} lies on ignored pixels alone")
        elif not classes[category].isthing:
            faults.append(f"instance {identity} lies on '{classes[category].name}', which is not a thing class")
        else:
            found.append(segment(ids, identity, box, category=category))
    faults.check("instances")
    return found
