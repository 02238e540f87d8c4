"""Mapillary Vistas 1.x and 2.0, as published (Neuhold et al. 2017; https://www.mapillary.com/dataset/vistas).

    <root>/config_v2.0.json                     labels: name, readable, color, instances, evaluate; an id is a place
    <root>/training/images/<id>.jpg
    <root>/training/v2.0/labels/<id>.png        label ids, with a palette
    <root>/training/v2.0/instances/<id>.png     16 bits: label * 256 + number
    <root>/validation/, testing/                likewise; testing has images alone, which are left out

Version 2.0 is read where it is there, else v1.2 (in folders of that name), else the older layout: config.json and
training/labels. Labels that are not evaluated are ignored (v2.0's groups of people, cars and poles are among them), the
others are the classes, things where they have instances. Every value of a thing class is an object, number 0 as well;
no groups are marked. Without any instances/ all classes are stuff. The panoptic PNGs, which say the same, are not read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.data import classes
from pipelines.data.classes import ClassTable, Entry, duplicates, said
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import numbered, pairs
from pipelines.data.formats.source import IMAGE_SUFFIXES, Scan, Source
from pipelines.data.schema import IGNORE, Split
from pipelines.data.tree import Tree
from pipelines.errors import bounded

SPLITS: dict[str, Split] = {"training": "train", "validation": "val"}
# Folder of the version -> its configuration, under the names it has had.
VERSIONS = {
    "v2.0/": ("config_v2.0.json",),
    "v1.2/": ("config_v1.2.json", "config.json"),
    "": ("config.json", "config_v1.2.json"),
}


@dataclass(frozen=True, slots=True)
class Label:
    name: Annotated[str, Field(min_length=1)]
    readable: Annotated[str, Field(min_length=1)]
    color: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
    instances: Annotated[bool, Field(strict=True)]
    evaluate: Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, slots=True)
class Config:
    """Of its fields, the one that says what the numbers mean."""

    labels: list[Label]


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    version = next((v for v in VERSIONS if any(tree.has_folder(f"{s}/{v}labels") for s in SPLITS)), None)
    if version is None:
        layout = "training/images/ and training/v2.0/labels/ (or v1.2)"
        faults.add("layout", "", f"there must be {layout} in dataset.root, {tree.root}")
    version = version or ""
    table = _table(tree, VERSIONS[version], faults)
    images = _under(tree, "images", faults)
    for key, name in _under(tree, "images", faults, splits=("testing",)).items():
        faults.add("unlabelled", name, "testing is published without labels: left out", key)
    instances = _under(tree, f"{version}instances", faults, (".png",)) or None
    items = numbered.items(
        images,
        _under(tree, f"{version}labels", faults, (".png",)),
        instances,
        split=lambda key: SPLITS[key.split("/")[0]],
        faults=faults,
    )
    return Scan(
        classes=pairs.as_stuff(table.classes) if instances is None else table.classes,
        items=list(items),
        read=partial(numbered.read, files=tree.files, table=table, meaning=meaning),
        labels=partial(numbered.labels, files=tree.files, table=table),
        faults=faults,
    )


def meaning(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """55 * 256 + 2 is an object of label 55."""
    return values >> 8, np.zeros(values.shape, bool)


def _under(
    tree: Tree, folder: str, faults: Faults, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, splits: Iterable[str] = SPLITS
) -> dict[str, str]:
    """Id, as training/<id> -> name."""
    found: dict[str, str] = {}
    for split in splits:
        found |= numbered.under(tree, f"{split}/{folder}", faults, key=f"{split}/{{}}".format, suffixes=suffixes)
    return found


def _table(tree: Tree, names: tuple[str, ...], faults: Faults) -> ClassTable:
    """An unusable table is told with the other faults; a stand-in lets them be found."""
    name = next((name for name in names if name in tree), None)
    if name is None:
        faults.add("class-table", names[0], "is missing: it comes with the dataset, and says what the labels mean")
    else:
        with faults.of(name):
            return parse(tree.files.read(name, limit=1 << 20))
    return classes.table([Entry(name=str(i)) for i in range(IGNORE)])


def parse(data: bytes) -> ClassTable:
    """The readable names where they differ from each other, else the whole ones."""
    try:
        labels = TypeAdapter(Config).validate_json(data).labels
    except ValidationError as error:
        raise FaultError("class-table", f"not as expected: {'; '.join(bounded(said(error), 10))}") from None
    readable = not duplicates(label.readable for label in labels)
    return classes.table(
        Entry(
            name=label.readable if readable else label.name,
            id=i,
            color=label.color,
            isthing=label.instances,
            ignore=not label.evaluate,
        )
        for i, label in enumerate(labels)
    )
