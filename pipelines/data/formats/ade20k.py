"""ADE20K's scene parsing benchmark, 150 classes. Zhou et al. 2017, http://sceneparsing.csail.mit.edu/
(ADEChallengeData2016.zip).

    <root>/[ADEChallengeData2016/]images/{training,validation}/<name>.jpg
    .../annotations/{training,validation}/<name>.png    0 is "other objects", ignored; 1..150 are the classes

0 becomes ignored once, here: masks are to be as published. One that holds 255, which no published mask does, has been
through that already (`reduce_zero_label`) and would be read one class too low: it is refused. An image is called by its
path below images/. Images of another folder without any mask (images/testing) are left out as `unlabelled`. No
instances are read, so all classes are stuff; `ade20k-full` has them.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from pipelines.data import classes
from pipelines.data.classes import ClassTable
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import pairs
from pipelines.data.formats.pairs import Pair
from pipelines.data.formats.source import Scan, Source, clashing, images_under, present, split_named
from pipelines.data.schema import IGNORE, Record
from pipelines.data.tree import Files, Tree

MASKS = ("annotations/training", "annotations/validation")


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table, items = classes.published("ade20k_150"), list[Pair]()
    with faults.of(""):
        base = pairs.beginning(tree, *MASKS).removesuffix("annotations/")
        items = list(_items(tree, base, faults))
    return Scan(
        classes=pairs.as_stuff(table.classes),
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def _items(tree: Tree, base: str, faults: Faults) -> Iterator[Pair]:
    images = images_under(tree, f"{base}images", faults)
    masks = images_under(tree, f"{base}annotations", faults, (".png",))
    annotated = {"training", "validation", *(key.partition("/")[0] for key in masks)}
    for key in sorted((images.keys() | masks.keys()) - clashing(faults)):
        folder = key.partition("/")[0]
        if key not in images:
            faults.add("no-image", masks[key], f"has no image images/{key}.jpg", key)
        elif key in masks:
            yield Pair(id=key, split=split_named(folder), files=(images[key], masks[key]), mask=masks[key])
        elif folder in annotated:
            faults.add("no-mask", images[key], f"has no mask annotations/{key}.png", key)
        else:
            faults.add("unlabelled", images[key], "is published without a mask, and left out", key)


def labels(item: Pair, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(_semantic(item.mask, files, table))


def read(item: Pair, *, files: Files, table: ClassTable) -> Record:
    return pairs.read(item, files=files, semantic=partial(_semantic, files=files, table=table))


def _semantic(name: str, files: Files, table: ClassTable) -> np.ndarray:
    mask = files.mask(name)
    if times := int(np.count_nonzero(mask == IGNORE)):
        said = f"{times} pixels of 255, which published masks do not hold: 0 has been turned into 255 already, and all "
        raise FaultError(
            "label-value", f"{said}classes are one too low (reduce_zero_label); take the masks as published"
        )
    return table.semantic(mask)
