"""The embedded dataset: a beach seen from above, drawn from a seed.

Three kinds of ground (sand, water, grass) are told apart by colour, texture and where they lie; seven kinds of things
by their form, since their colours vary. One truth serves all tasks: a semantic map, visible instance masks (COCO's
convention: what an object in front hides is not in the mask), crowds (many small things under one mask), and ignored
pixels. These are, in a part of the images, a border around every thing, as in PASCAL VOC (it lies on the side of what
is behind, and belongs to no segment), and a patch that is overexposed.

Difficulty 0 is clean; towards 1 there are more, smaller and more hidden things, crowds, clutter, noise, blur and less
contrast. Lengths are fractions of the shorter side, so a scene keeps its look at any size.
"""

from typing import cast

import cv2
import numpy as np

from pipelines.data import rle
from pipelines.data.formats.shapes.forms import THINGS
from pipelines.data.formats.shapes.layout import arrange
from pipelines.data.formats.shapes.render import paint, place
from pipelines.data.formats.shapes.textures import STUFF, ground, terrain
from pipelines.data.formats.shapes.truth import annotate
from pipelines.data.schema import SPLITS, ClassInfo, Record, Segment, Split

# Sensor noise leaves nothing to match: Huffman coding alone gives smaller files in two thirds of the time.
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)


def classes() -> tuple[ClassInfo, ...]:
    """Stuff first, then things."""
    stuff = tuple(ClassInfo(name=s.name, color=s.color, isthing=False) for s in STUFF)
    return stuff + tuple(ClassInfo(name=t.name, color=t.color, isthing=True) for t in THINGS)


def plan(*, splits: dict[str, int]) -> list[tuple[str, int]]:
    """(split, index) of every image, in the dataset's order."""
    return [(split, index) for split, images in splits.items() for index in range(images)]


def draw(split: str, index: int, *, seed: int, height: int, width: int, difficulty: float) -> Record:
    """One image and its truth: a pure function of the arguments, so images can be drawn in any order, by anyone.

    The bytes are the same for the same releases of numpy and OpenCV on the same kind of processor.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index)))
    layout = arrange(rng, height=height, width=width, difficulty=difficulty)
    patches, groups = place(layout)
    inland, levels = terrain(rng, height, width)
    image, stuff = ground(rng, inland, levels, difficulty)
    image = paint(rng, image, patches, layout)
    semantic, masks = annotate(stuff, groups, layout)
    _, encoded = cv2.imencode(".png", image[..., ::-1], PNG)
    return Record(
        id=f"{split}/{index:06d}",
        split=cast(Split, split),
        image=encoded.tobytes(),
        format="png",
        height=height,
        width=width,
        semantic=semantic,
        pixels=image,
        segments=tuple(
            Segment(
                category=category,
                bbox=rle.bbox(mask),
                area=int(mask.sum()),
                iscrowd=iscrowd,
                counts=rle.encode(mask),
            )
            for category, iscrowd, mask in masks
        ),
    )
