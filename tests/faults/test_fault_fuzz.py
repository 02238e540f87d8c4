"""Mutants of images and annotations by the hundred, through the processes that read: the parent never dies, and every
image ends as one that is kept, or in a fault in words. A count of 10,000 is the slow one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.faults import KINDS
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import Source
from pipelines.data.tree import Tree
from tests.faults.annotation_cases import COCO_JSON, PANOPTIC_JSON, SQUARE
from tests.faults.line import records, run
from tests.faults.matter import HEIGHT, WIDTH, encoded, photo
from tests.faults.sources import PUBLISH, folder

MANY = [pytest.param(300, id="300"), pytest.param(10_000, id="10000", marks=pytest.mark.slow)]
AREA = HEIGHT * WIDTH


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, a piece left out, a piece twice, the end cut off."""
    made = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at, to = sorted(rng.integers(0, len(made) + 1, 2).tolist())
        to = min(to, at + 40)
        match rng.integers(5):
            case 0:
                made[at:to] = b""
            case 1:
                made[at:at] = made[at:to]
            case 2 if rng.random() < 0.2:
                del made[max(at, 1) :]
            case _:
                if made:
                    made[min(at, len(made) - 1)] = rng.integers(256)
    return bytes(made)


def accounted(done: Any, out: Path, names: set[str]) -> None:
    kept = set(records(out)) if done.manifest else set()
    assert kept | {f.item for f in done.report.faults if f.outcome != "mended"} == names
    assert done.report.found == len(names)
    assert all(
        fault.kind in KINDS and fault.reason.isprintable() and len(fault.reason) < 500 for fault in done.report.faults
    )


@pytest.mark.parametrize("many", MANY)
def test_s08_mutants_of_images(many, tmp_path):
    rng = np.random.default_rng(many)
    keys = [f"{k:05}" for k in range(many)]
    folder(tmp_path / "source", "folder", keys)
    smooth = np.linspace(0, 255, AREA * 3).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    kinds = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".webp": "WEBP", ".bmp": "BMP"}
    for k, key in enumerate(keys[1:]):
        suffix = list(kinds)[[0, 1, 0, 1, 0, 1, 2, 3, 4][k % 9]]
        data = encoded(smooth if k % 2 else photo(k), kinds[suffix])
        (tmp_path / f"source/images/{key}.png").unlink()
        (tmp_path / f"source/images/{key}{suffix}").write_bytes(mutant(data, rng))
        if k % 4 == 0:
            path = tmp_path / f"source/masks/{key}.png"
            path.write_bytes(mutant(path.read_bytes(), rng))
    done = run(tmp_path / "source", tmp_path / "out", max_rejected=1.0, stratify=False)
    accounted(done, tmp_path / "out", set(keys))
    assert {"corrupt", "truncated"} < {f.kind for f in done.report.faults}


ODD = [
    0,
    1,
    -1,
    2,
    5.5,
    1e300,
    -1e9,
    1 << 31,
    1 << 63,
    -(1 << 64),
    float("nan"),
    float("inf"),
    None,
    True,
    "7",
    "",
    [],
    {},
    [[]],
]


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """The same plain value with something changed somewhere in it."""
    if isinstance(value, list) and value and rng.random() < 0.85:
        made, at = list(value), int(rng.integers(len(value)))
        match rng.integers(6):
            case 0:
                del made[at]
            case 1:
                made.insert(at, made[at])
            case _:
                made[at] = mutated(made[at], rng)
        return made
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, str) and value and rng.random() < 0.7:
        return mutant(value.encode(), rng).decode(errors="replace")
    if isinstance(value, int | float) and rng.random() < 0.5:
        return value + int(rng.integers(-9, 9))
    return ODD[int(rng.integers(len(ODD)))]


SHAPES = [
    [SQUARE],
    [SQUARE, [0, 0, 3, 0, 3, 3, 0, 3], [8, 5, 30, 5, 20, 20]],
    {"size": [HEIGHT, WIDTH], "counts": [9, 18, 20, 5, AREA - 52]},
    {"size": [HEIGHT, WIDTH], "counts": "91P3d0O1O1000O0100000d2"},
]


@pytest.mark.parametrize("many", MANY)
def test_s12_mutants_of_polygons_and_runs(many, tmp_path):
    rng = np.random.default_rng(many)
    keys = [f"{k:05}" for k in range(many)]
    root = tmp_path / "source"
    PUBLISH["coco"](root, "coco", keys)
    raw = json.loads((root / COCO_JSON).read_text())
    for k, annotation in enumerate(raw["annotations"][1:]):
        annotation["segmentation"] = SHAPES[k % len(SHAPES)]
        for _ in range(rng.integers(1, 4)):
            annotation["segmentation"] = mutated(annotation["segmentation"], rng)
    (root / COCO_JSON).write_text(json.dumps(raw))
    done = run(root, tmp_path / "out", format="coco", max_rejected=1.0, stratify=False)
    accounted(done, tmp_path / "out", {f"train/{key}" for key in keys})
    assert {"bad-rle", "bad-polygon", "bad-annotation"} <= {f.kind for f in done.report.faults}


@pytest.mark.parametrize(
    ("format", "name"), [("coco", COCO_JSON), ("coco-panoptic", PANOPTIC_JSON), ("folder", "classes.yaml")]
)
@pytest.mark.parametrize("many", MANY)
def test_s11_mutants_of_annotation_files(format, name, many, tmp_path):
    """In this process, since that is where they are read: nothing is raised, and no image vanishes unless the line
    stops."""
    rng = np.random.default_rng(many)
    root = tmp_path / "source"
    PUBLISH[format](root, format, ["a", "b", "c"])
    text, prefix = (root / name).read_bytes(), "" if format == "folder" else "train/"
    stopped = 0
    for k in range(many):
        if k % 2 and format != "folder":
            made = json.dumps(mutated(mutated(json.loads(text), rng), rng)).encode()
        else:
            made = mutant(text, rng)
        (root / name).write_bytes(made)
        tree = Tree(str(root))
        scan = FORMATS[format].scan(Source(tree=tree))
        faults = [*tree.faults, *scan.faults]
        stops = any(fault.outcome == "stop" for fault in faults)
        stopped += stops
        named = {item.id for item in scan.items} | {fault.item for fault in faults}
        assert stops or named >= {f"{prefix}{key}" for key in "abc"}, made
    assert 0 < stopped < many
