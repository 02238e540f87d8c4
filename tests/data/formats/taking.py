"""What the tests of formats share: a source read to its end, without the processes."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.data.faults import Fault, FaultsError
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import Scan, Source
from pipelines.data.schema import Record
from pipelines.data.tree import Tree


def scan(root: Path, format: str) -> Scan:
    return FORMATS[format].scan(Source(tree=Tree(str(root))))


def take(root: Path, format: str) -> tuple[list[Record], list[Fault]]:
    """Every record that can be read, and all that is wrong with the rest, the tree's own faults included."""
    tree = Tree(str(root))
    found = FORMATS[format].scan(Source(tree=tree))
    records, faults = [], [*tree.faults, *found.faults]
    for item in found.items:
        try:
            records.append(found.read(item))
        except FaultsError as error:
            faults += error.found
    return records, faults


def accounted(records: list[Record], faults: list[Fault]) -> set[str]:
    """The ids of images that are a record, or in a fault."""
    return {r.id for r in records} | {f.item for f in faults}


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photo(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
