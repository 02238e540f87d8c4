"""KITTI's semantic and instance segmentation, 2015, as published (Abu Alhaija et al. 2018;
https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015, data_semantics.zip).

    <root>/training/image_2/000000_10.png
    <root>/training/semantic/000000_10.png       label ids of Cityscapes, 0..33
    <root>/training/instance/000000_10.png       16 bits: label * 256 + number
    <root>/training/semantic_rgb/, testing/      not read: the same in colours; images without labels

The 19 classes of Cityscapes are kept, the other labels are ignored. Number 0 of a thing class in the instance map means
that its objects were not told apart, and becomes a crowd. Without instance/ all classes are stuff. No split of the 200
images is published: `dataset.splits` gives fractions. Nor are the drives published that they were taken on, so there
are no groups: neighbouring numbers may show the same street. Where the stereo benchmark's frames lie in the same
folder, the second of each pair (_11) has no labels: it is left out.
"""

from functools import partial

import numpy as np

from pipelines.data import classes
from pipelines.data.faults import Faults
from pipelines.data.formats import numbered, pairs
from pipelines.data.formats.source import IMAGE_SUFFIXES, Scan, Source
from pipelines.data.tree import Tree

IMAGES, MASKS, INSTANCES = "training/image_2", "training/semantic", "training/instance"


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table = classes.published("cityscapes")
    if missing := [folder for folder in (IMAGES, MASKS) if not tree.has_folder(folder)]:
        faults.add("layout", "", f"there must be {' and '.join(missing)} in dataset.root, {tree.root}")
    masks = _under(tree, MASKS, faults, (".png",))
    instances = _under(tree, INSTANCES, faults, (".png",)) if tree.has_folder(INSTANCES) else None
    images = {}
    for key, name in {**_under(tree, IMAGES, faults), **_under(tree, "testing/image_2", faults)}.items():
        if key.startswith("testing/") or (key.endswith("_11") and key not in masks):
            faults.add("unlabelled", name, "is published without labels: left out", key)
        else:
            images[key] = name
    return Scan(
        classes=pairs.as_stuff(table.classes) if instances is None else table.classes,
        items=list(numbered.items(images, masks, instances, split=lambda key: None, faults=faults)),
        read=partial(numbered.read, files=tree.files, table=table, meaning=meaning),
        labels=partial(numbered.labels, files=tree.files, table=table),
        faults=faults,
    )


def meaning(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """26 * 256 + 2 is the second car (26), 26 * 256 cars that were not told apart."""
    return values >> 8, values % 256 == 0


def _under(tree: Tree, folder: str, faults: Faults, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, str]:
    """Id, as training/000000_10 -> name."""
    start = folder.partition("/")[0]
    return numbered.under(tree, folder, faults, key=lambda name: f"{start}/{name}", suffixes=suffixes)
