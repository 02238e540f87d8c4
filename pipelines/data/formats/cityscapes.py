"""Cityscapes, as published (Cordts et al. 2016; https://www.cityscapes-dataset.com, ids as in its cityscapesScripts).

    <root>/leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    <root>/gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png      label ids, 0..33
    <root>/gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_instanceIds.png   16 bits: label * 1000 + number
    <root>/gtCoarse/...                                                             likewise, _gtCoarse_

A split without a folder in gtFine has its labels from gtCoarse; train_extra is part of train. The 19 classes of the
benchmark are kept, the other labels are ignored. A value below 1000 of a thing class in the instance map is a group,
and becomes a crowd. Without any instanceIds all classes are stuff. The labels published for test are dummies: its
images, and those of demoVideo, are left out. labelTrainIds, colours and polygons are not read: labelTrainIds hold other
numbers for the same classes, and where they are all there is, or stand in place of labelIds, the image is refused.
Frames of one sequence are a group.
"""

import re
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from pipelines.data import classes
from pipelines.data.faults import Faults
from pipelines.data.formats import numbered, pairs
from pipelines.data.formats.source import Scan, Source
from pipelines.data.schema import Split
from pipelines.data.tree import Tree

SPLITS: dict[str, Split] = {"train": "train", "train_extra": "train", "val": "val"}
UNLABELLED = ("test", "demoVideo")
IMAGES, SUFFIX = "leftImg8bit", "_leftImg8bit"
PATTERN = re.compile(rf"/[^/]+_[0-9]+_[0-9]+{SUFFIX}\.\w+$")


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table = classes.published("cityscapes")
    if not (tree.has_folder(IMAGES) and (tree.has_folder("gtFine") or tree.has_folder("gtCoarse"))):
        faults.add("layout", "", f"there must be {IMAGES}/ and gtFine/ or gtCoarse/ in dataset.root, {tree.root}")
    kinds = {split: "gtFine" if tree.has_folder(f"gtFine/{split}") else "gtCoarse" for split in SPLITS}
    images = _images(tree, faults)
    masks = _labels(tree, kinds, "labelIds")
    instances = _labels(tree, kinds, "instanceIds") or None
    converted = _labels(tree, kinds, "labelTrainIds").keys() - masks.keys()
    for key in sorted(converted & images.keys()):
        said = "has labelTrainIds and no labelIds: put back the labelIds, as published"
        faults.add("no-mask", images.pop(key), said, key)
        if instances is not None:
            instances.pop(key, None)
    return Scan(
        classes=pairs.as_stuff(table.classes) if instances is None else table.classes,
        items=list(
            numbered.items(
                images, masks, instances, split=lambda key: SPLITS[key.split("/")[0]], group=_sequence, faults=faults
            )
        ),
        read=partial(numbered.read, files=tree.files, table=table, meaning=meaning),
        labels=partial(numbered.labels, files=tree.files, table=table),
        faults=faults,
    )


def meaning(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """26002 is the third car (26), 26 a group of cars."""
    return np.where(values < 1000, values, values // 1000), values < 1000


def _images(tree: Tree, faults: Faults) -> dict[str, str]:
    """Key, as train/aachen/aachen_000000_000019 -> name, of the images that have labels."""
    found = {}
    for key, name in numbered.under(tree, IMAGES, faults, key=lambda name: name.removesuffix(SUFFIX)).items():
        split = key.partition("/")[0]
        if split in UNLABELLED:
            faults.add("unlabelled", name, f"{split} is published without labels: left out", key)
        elif split not in SPLITS:
            faults.add("no-split", name, f"in none of the splits' folders, {', '.join(SPLITS)}", key)
        elif not PATTERN.search(name):
            faults.add("name", name, f"is not called <city>_<sequence>_<frame>{SUFFIX}", key)
        else:
            found[key] = name
    return found


def _labels(tree: Tree, kinds: dict[str, str], what: str) -> dict[str, str]:
    """Key -> name, of one sort of label file. Coarse labels of a split whose images are not there are not missed."""
    found = {}
    for split, kind in kinds.items():
        if kind == "gtFine" or tree.has_folder(f"{IMAGES}/{split}"):
            ends = f"_{kind}_{what}.png"
            for name in tree.under(f"{kind}/{split}", (ends,)):
                found[name.removeprefix(f"{kind}/")[: -len(ends)]] = name
    return found


def _sequence(key: str) -> str:
    """aachen_000000 of aachen_000000_000019."""
    return PurePosixPath(key).name.rpartition("_")[0]
