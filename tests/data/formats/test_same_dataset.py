"""The same drawn scenes, written by hand as the definitions of several formats say, come out of each reader the same,
pixel for pixel: semantic maps, instances with their classes and crowd flags, panoptic maps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.data import panoptic, rle
from pipelines.data.formats import shapes
from pipelines.data.schema import IGNORE, ClassInfo, Record
from tests.data.formats.taking import scan, take

CLASSES = shapes.classes()
THINGS = [i for i, c in enumerate(CLASSES) if c.isthing]
# Each class of the scenes -> a label of Cityscapes of the same sort; from its published table.
LABELS = {"sand": 7, "water": 8, "grass": 23}
LABELS |= dict(zip([CLASSES[i].name for i in THINGS], (24, 25, 26, 27, 28, 32, 33), strict=True))
CITY = {7: "road", 8: "sidewalk", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus"}
CITY |= {32: "motorcycle", 33: "bicycle"}
LABEL = np.array([LABELS[c.name] for c in CLASSES])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_image(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record.image)


def masks(record: Record) -> list[tuple[int, bool, np.ndarray]]:
    return [(s.category, s.iscrowd, rle.decode(s.counts, record.height, record.width)) for s in record.segments]


def label_map(record: Record) -> np.ndarray:
    """Label ids; 4 (static) is ignored."""
    labels = np.full(record.semantic.shape, 4, np.uint8)
    known = record.semantic != IGNORE
    labels[known] = LABEL[record.semantic[known]]
    return labels


def write_folder(root: Path, records: list[Record]) -> dict[str, str]:
    entries = [{"name": c.name, "color": list(c.color), "isthing": c.isthing} for c in CLASSES]
    (root / "classes.yaml").write_text(yaml.safe_dump(entries))
    for k, record in enumerate(records):
        ids = np.zeros(record.semantic.shape, np.uint16)
        for number, (_, _, mask) in enumerate(masks(record)):
            ids[mask] = 60_000 - 7 * number
        save_image(root / f"images/train/{k:02}.png", record)
        save(root / f"masks/train/{k:02}.png", record.semantic)
        save(root / f"instances/train/{k:02}.png", ids)
    return {c.name: c.name for c in CLASSES}


def write_colours(root: Path, records: list[Record]) -> dict[str, str]:
    """The folder again, with masks in the classes' colours; ignored pixels have one of their own."""
    names = write_folder(root, records)
    entries = [
        *yaml.safe_load((root / "classes.yaml").read_text()),
        {"name": "void", "color": [1, 2, 3], "ignore": True},
    ]
    (root / "classes.yaml").write_text(yaml.safe_dump(entries))
    colours = np.full((256, 3), (1, 2, 3), np.uint8)
    colours[: len(CLASSES)] = [c.color for c in CLASSES]
    for k, record in enumerate(records):
        save(root / f"masks/train/{k:02}.png", colours[record.semantic])
    return names


def write_coco(root: Path, records: list[Record]) -> dict[str, str]:
    """Ids of categories in steps of 9, from the last class to the first."""
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [
        {"id": 9 * i + 1, "name": c.name, "isthing": int(c.isthing), "color": c.color} for i, c in enumerate(CLASSES)
    ][::-1]
    for k, record in enumerate(records):
        stuff = [(c, False, record.semantic == c) for c in np.unique(record.semantic) if c not in (*THINGS, IGNORE)]
        ids = np.zeros(record.semantic.shape, np.uint32)
        infos = []
        for number, (category, iscrowd, mask) in enumerate([*stuff, *masks(record)]):
            identity = 70_001 * (number + 1)
            ids[mask] = identity
            infos.append({"id": identity, "category_id": 9 * int(category) + 1, "iscrowd": int(iscrowd)})
        name = f"{k:012}.png"
        content["images"].append({"id": k, "file_name": name})
        content["annotations"].append({"image_id": k, "file_name": name, "segments_info": infos})
        save_image(root / "train2017" / name, record)
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        save(root / "annotations/panoptic_train2017" / name, rgb)
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
    return {c.name: c.name for c in CLASSES}


def numbered(record: Record, *, factor: int, first: int, group: int) -> np.ndarray:
    """A label, and a number that counts each label's objects from `first`; `group` is the factor of what has none."""
    values = label_map(record).astype(np.uint16) * np.uint16(group)
    seen: dict[int, int] = {}
    for category, iscrowd, mask in masks(record):
        label = int(LABEL[category])
        values[mask] = label * group
        if not iscrowd:
            values[mask] = label * factor + seen.setdefault(label, first)
            seen[label] += 1
    return values


def write_cityscapes(root: Path, records: list[Record]) -> dict[str, str]:
    for k, record in enumerate(records):
        key = f"train/ulm/ulm_{k:06}_000019"
        save_image(root / f"leftImg8bit/{key}_leftImg8bit.png", record)
        save(root / f"gtFine/{key}_gtFine_labelIds.png", label_map(record))
        values = numbered(record, factor=1000, first=0, group=1)
        save(root / f"gtFine/{key}_gtFine_instanceIds.png", values)
    return {name: CITY[label] for name, label in LABELS.items()}


def write_kitti(root: Path, records: list[Record]) -> dict[str, str]:
    for k, record in enumerate(records):
        save_image(root / f"training/image_2/{k:06}_10.png", record)
        save(root / f"training/semantic/{k:06}_10.png", label_map(record))
        save(root / f"training/instance/{k:06}_10.png", numbered(record, factor=256, first=1, group=256))
    return {name: CITY[label] for name, label in LABELS.items()}


def write_mapillary(root: Path, records: list[Record]) -> dict[str, str]:
    entries = {LABELS[c.name]: c for c in CLASSES}
    labels = []
    for i in range(34):
        c = entries.get(i, ClassInfo(name=f"void {i}", color=(i, 0, 0), isthing=False))
        about = {"instances": c.isthing, "evaluate": i in entries, "color": c.color}
        labels.append({"name": f"some--{c.name}", "readable": c.name.title(), **about})
    (root / "config_v2.0.json").write_text(json.dumps({"labels": labels}))
    for k, record in enumerate(records):
        save_image(root / f"training/images/{k:02}.png", record)
        save(root / f"training/v2.0/labels/{k:02}.png", label_map(record))
        values = numbered(record, factor=256, first=0, group=256)
        save(root / f"training/v2.0/instances/{k:02}.png", values)
    return {c.name: c.name.title() for c in CLASSES}


Write = Callable[[Path, list[Record]], dict[str, str]]
FORMATS: dict[str, tuple[str, Write, bool]] = {  # format, writer, whether it can mark crowds
    "folder": ("folder", write_folder, False),
    "folder in colours": ("folder", write_colours, False),
    "coco-panoptic": ("coco-panoptic", write_coco, True),
    "cityscapes": ("cityscapes", write_cityscapes, True),
    "kitti": ("kitti", write_kitti, True),
    "mapillary-vistas": ("mapillary-vistas", write_mapillary, False),
}


@pytest.fixture(scope="module")
def scenes() -> list[Record]:
    """With groups, holes, things in several parts, ignored borders; no two groups of a class in one image, which
    Cityscapes and KITTI cannot tell apart."""
    drawn = [shapes.draw("train", i, seed=5, height=60, width=72, difficulty=0.7) for i in range(24)]
    chosen = []
    for record in drawn:
        crowds = [s.category for s in record.segments if s.iscrowd]
        if len(crowds) == len(set(crowds)):
            chosen.append(record)
    return chosen


def test_the_scenes_have_what_is_hard_to_write(scenes):
    assert sum(any(s.iscrowd for s in r.segments) for r in scenes) >= 2
    assert sum(not any(s.iscrowd for s in r.segments) for r in scenes) >= 8
    assert sum(IGNORE in r.semantic for r in scenes) >= 4
    assert {s.category for r in scenes for s in r.segments} == set(THINGS)


Parts = set[tuple[str, bool, bytes]]  # class, crowd, mask


def instances(record: Record, names: list[str]) -> Parts:
    return {(names[category], iscrowd, mask.tobytes()) for category, iscrowd, mask in masks(record)}


def panoptic_parts(record: Record, names: list[str], things: list[int]) -> Parts:
    truth = panoptic.truth(record, tuple(things))
    rows = enumerate(zip(truth.labels.tolist(), truth.iscrowd.tolist(), strict=True), start=1)
    found = {(names[label], iscrowd, (truth.ids == k).tobytes()) for k, (label, iscrowd) in rows}
    return found | {("void", False, (truth.ids == 0).tobytes())}


@pytest.mark.parametrize(("format", "write", "crowds"), FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same(scenes, tmp_path, format, write, crowds):
    drawn = [r for r in scenes if crowds or not any(s.iscrowd for s in r.segments)]
    back = {theirs: ours for ours, theirs in write(tmp_path, drawn).items()}
    records, faults = take(tmp_path, format)
    assert faults == []
    assert len(records) == len(drawn)
    classes = scan(tmp_path, format).classes
    names = [back.get(c.name, c.name) for c in classes]
    ours = [c.name for c in CLASSES]
    as_drawn = np.full(256, IGNORE)
    as_drawn[: len(names)] = [ours.index(name) if name in ours else 254 for name in names]
    things = [i for i, c in enumerate(classes) if c.isthing]
    for record, truth in zip(sorted(records, key=lambda r: r.id), drawn, strict=True):
        assert record.image == truth.image
        np.testing.assert_array_equal(as_drawn[record.semantic], truth.semantic)
        assert instances(record, names) == instances(truth, ours)
        assert panoptic_parts(record, names, things) == panoptic_parts(truth, ours, THINGS)
        assert len(record.segments) == len(truth.segments)
