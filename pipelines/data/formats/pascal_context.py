"""PASCAL-Context, 59 or 33 classes over the images of VOC 2010. Mottaghi et al. 2014,
https://cs.stanford.edu/~roozbeh/pascal-context/

    <root>/[VOCdevkit/VOC2010/]JPEGImages/<id>.jpg
    .../ImageSets/SegmentationContext/{train,val}.txt   or VOC's own, ImageSets/Main/{train,val}.txt: the same 4998 and
                                                        5105 images. Without either `dataset.splits` gives fractions
    one of these folders, anywhere below the root; where there are several, the first of
    59_context_labels/<id>.png          0..59 in the order of 59_labels.txt
    SegmentationClassContext/<id>.png   0..59 in the order of the names, as mmsegmentation and GluonCV write them with
                                        the Detail API: 1 aeroplane, 2 bag, 3 bed, ...
    trainval/<id>.mat                   LabelMap, 1..459: of these the 59 are kept
    33_context_labels/<id>.png          0..33: 33 of the 59, in the order of 33_labels.txt

The classes are those of 59_labels.txt (33_labels.txt) in its order, whichever folder is read. 0, and in the .mat files
the other 400 classes, are ignored: the evaluation over 59 classes; 459 are more than there is room for. No instances
are annotated, so all classes are stuff. Images without labels are there for VOC's other tasks: `unlabelled`, left out,
unless a list of SegmentationContext names them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import yaml

from pipelines.data import classes
from pipelines.data.classes import ClassTable, Entry
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import matlab, pairs
from pipelines.data.formats.pairs import Pair
from pipelines.data.formats.source import Scan, Source, clashing, images_under, present
from pipelines.data.schema import Record, Split
from pipelines.data.tree import Files, Tree

LISTS = ("ImageSets/SegmentationContext", "ImageSets/Main")
# After the 20 of VOC, in this order.
OF_33 = (
    "sky", "grass", "ground", "road", "building", "tree", "water", "mountain", "wall", "floor", "track", "keyboard",
    "ceiling",
)  # fmt: skip
NAMED: tuple[Split, ...] = ("train", "val")
MAX_MAT_BYTES = 1 << 27


@dataclass(frozen=True, slots=True)
class Labels:
    """One way in which the labels are published."""

    folder: str
    suffix: str
    table: Callable[[], ClassTable]


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table, items = classes.published("pascal_context_59"), list[Pair]()
    with faults.of(""):
        base = pairs.beginning(tree, "JPEGImages")
        folder, found = _found(tree)
        table = found.table()
        items = list(_items(tree, base, images_under(tree, folder, faults, (found.suffix,)), faults))
    return Scan(
        classes=pairs.as_stuff(table.classes),
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def _by_name() -> ClassTable:
    places = {of_59: place for place, (_, of_59) in enumerate(sorted(_of_459().items()), start=1)}
    return _table(dict(sorted(places.items())), others=[0])


def _of_mat() -> ClassTable:
    ids = dict(sorted((of_59, of_459) for of_459, of_59 in _of_459().items()))
    return _table(ids, others=sorted(set(range(460)) - set(ids.values())))


def _of_33() -> ClassTable:
    names = [e.name for e in classes.published("voc").entries[1:]] + list(OF_33)
    ids = {e.name: e.id for e in classes.published("pascal_context_59").entries if e.id is not None}
    return _table({ids[name]: place for place, name in enumerate(names, start=1)}, others=[0])


def _of_459() -> dict[int, int]:
    """Those of the 459 ids that are among the 59 -> their ids there."""
    text = (classes.PUBLISHED / "pascal_context_459.yaml").read_text(encoding="utf-8")
    return {row["id"]: row["context59"] for row in yaml.safe_load(text) if "context59" in row}


def _table(values: Mapping[int, int], others: Iterable[int]) -> ClassTable:
    """The classes of these ids among the 59, in this order, with what masks hold for them; `others` are ignored."""
    entries = {entry.id: entry for entry in classes.published("pascal_context_59").entries}
    kept = [entries[of_59].model_copy(update={"id": value}) for of_59, value in values.items()]
    return ClassTable((*kept, *(Entry(name=f"other {value}", id=value, ignore=True) for value in others)))


LABELS = (
    Labels("59_context_labels", ".png", partial(classes.published, "pascal_context_59")),
    Labels("SegmentationClassContext", ".png", _by_name),
    Labels("trainval", ".mat", _of_mat),
    Labels("33_context_labels", ".png", _of_33),
)


def _found(tree: Tree) -> tuple[str, Labels]:
    for one in LABELS:
        folders = sorted({name.rpartition("/")[0] for name in tree.under("", (one.suffix,))})
        folders = [f for f in folders if f.rpartition("/")[2] == one.folder]
        if len(folders) > 1:
            raise FaultError(
                "layout", f"there are {len(folders)} folders {one.folder}: {', '.join(folders)}; leave one"
            )
        if folders:
            return folders[0], one
    raise FaultError("layout", f"there are labels in none of the folders {', '.join(one.folder for one in LABELS)}")


def _items(tree: Tree, base: str, masks: Mapping[str, str], faults: Faults) -> Iterator[Pair]:
    lists = _lists(tree, base, LISTS[0]) or _lists(tree, base, LISTS[1])
    expected = set[str]().union(*_lists(tree, base, LISTS[0]).values())
    images = images_under(tree, f"{base}JPEGImages", faults)
    for key in sorted((images.keys() | masks.keys() | expected) - clashing(faults)):
        if key not in images and key not in masks:
            faults.add("missing-file", f"{base}JPEGImages/{key}.jpg", "missing, and in the lists", key)
        elif key not in images:
            faults.add("no-image", masks[key], f"has no image JPEGImages/{key}.jpg", key)
        elif key not in masks and key in expected:
            faults.add("no-mask", images[key], "is in the lists, and has no labels", key)
        elif key not in masks:
            faults.add("unlabelled", images[key], "is published without labels, and left out", key)
        elif (split := pairs.placed(key, images[key], lists, faults) if lists else None) or not lists:
            yield Pair(id=key, split=split, files=(images[key], masks[key]), mask=masks[key])


def _lists(tree: Tree, base: str, folder: str) -> dict[Split, set[str]]:
    lists: dict[Split, set[str]] = {split: set(pairs.lines(tree, f"{base}{folder}/{split}.txt")) for split in NAMED}
    return lists if all(lists.values()) else {}


def labels(item: Pair, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(_semantic(item.mask, files, table))


def read(item: Pair, *, files: Files, table: ClassTable) -> Record:
    return pairs.read(item, files=files, semantic=partial(_semantic, files=files, table=table))


def _semantic(name: str, files: Files, table: ClassTable) -> np.ndarray:
    if name.endswith(".png"):
        return table.semantic(files.mask(name))
    return table.semantic(matlab.matrix(files.read(name, limit=MAX_MAT_BYTES), "LabelMap"))
