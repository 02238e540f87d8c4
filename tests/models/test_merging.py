"""Merging by rule, against the rule one instance after the other, in COCO's own run lengths as panopticapi has it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipelines.data.prediction import Instances
from pipelines.models.contract import Classes
from pipelines.models.panoptic.merging import MIN_STUFF, merge
from tests.models.views import assert_they_agree, segments

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
CLASSES = Classes(things=(1, 4), stuff=(0, 2, 3))


def instances_of(masks: np.ndarray, labels: list[int], scores: list[float]) -> Instances:
    """Boxes of another model need not be those of its masks."""
    n = len(labels)
    return Instances(
        masks=masks,
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        boxes=np.tile(np.float32([0, 0, 1, 1]), (n, 1)),
    )


def blobs(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Ellipses; they overlap, and some have no pixel."""
    y, x = np.mgrid[:height, :width]
    middles, radii = rng.uniform(0, 1, (count, 2)) * [height, width], rng.uniform(0.1, 0.4, (count, 2)) * height
    masks = [((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 for (cy, cx), (ry, rx) in zip(middles, radii, strict=True)]
    return np.array(masks, bool).reshape(count, height, width)


def by_the_paper(
    instances: Instances, semantic: np.ndarray, min_score: float, max_overlap: float, min_stuff: float
) -> list[tuple[int, bytes]]:
    used, found = coco.encode(np.asfortranarray(np.zeros(semantic.shape, np.uint8))), []
    rows = [k for k in range(len(instances)) if instances.scores[k] >= min_score]
    for k in sorted(rows, key=lambda k: -instances.scores[k]):
        own = coco.encode(np.asfortranarray(instances.masks[k].astype(np.uint8)))
        area = coco.area(own)
        common = coco.area(coco.merge([used, own], intersect=True))
        if area == 0 or common / area > max_overlap:
            continue
        mask = coco.decode(own).astype(bool) & ~coco.decode(used).astype(bool)
        used = coco.merge([used, own])
        if mask.any():
            found.append((int(instances.labels[k]), mask.tobytes()))
    for label in CLASSES.stuff:
        mask = (semantic == label) & ~coco.decode(used).astype(bool)
        if mask.any() and mask.sum() / mask.size >= min_stuff:
            found.append((label, mask.tobytes()))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 12),
    max_overlap=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    min_score=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_it_is_the_paper_s_rule(seed, count, max_overlap, min_score):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 40, 2).tolist()
    # Of few scores, so that many tie, and some lie on the threshold.
    scores = rng.choice([0.25, 0.5, 0.75, 1.0], count).tolist()
    instances = instances_of(blobs(rng, count, height, width), rng.choice(CLASSES.things, count).tolist(), scores)
    semantic = rng.integers(0, 5, (5, 5)).astype(np.uint8)[np.ix_(np.arange(height) % 5, np.arange(width) * 5 // width)]
    rules = {"min_score": min_score, "max_overlap": max_overlap, "min_stuff": 0.1}
    found = merge(instances, semantic, stuff=CLASSES.stuff, **rules)
    wanted = by_the_paper(instances, semantic, min_score, max_overlap, 0.1)
    assert segments(found) == wanted
    assert_they_agree(found, CLASSES, (height, width))
    void = found.panoptic.ids == 0
    np.testing.assert_array_equal(found.semantic[void], semantic[void])
    assert (np.diff(found.instances.scores) <= 0).all()
    for label, mask, score in zip(found.instances.labels, found.instances.masks, found.instances.scores, strict=True):
        whole = (instances.labels == label) & (instances.scores == score)
        assert (instances.masks[whole] >= mask).all(axis=(1, 2)).any(), "a part of one that was given with this score"


def test_half_taken_is_not_too_much():
    """Of four pixels, two may be taken and three may not."""
    masks = np.zeros((3, 1, 8), bool)
    masks[0, 0, :4] = masks[1, 0, 2:6] = masks[2, 0, 3:7] = True
    found = merge(instances_of(masks, [1, 4, 1], [0.9, 0.8, 0.7]), np.zeros((1, 8), np.uint8), stuff=(0,))
    assert found.panoptic.ids.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3]]
    assert found.panoptic.labels.tolist() == [1, 4, 0]
    assert found.instances.scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(("pixels", "kept"), [(4096, True), (4095, False)])
def test_a_speck_in_an_image_of_coco_s_has_less_than_4096_pixels(pixels, kept):
    semantic = np.zeros((480, 640), np.uint8)
    semantic.reshape(-1)[:pixels] = 2
    found = merge(instances_of(np.zeros((0, 480, 640), bool), [], []), semantic, stuff=CLASSES.stuff)
    assert pytest.approx(1 / 75) == MIN_STUFF
    assert (2 in found.panoptic.labels) == kept
    assert (found.panoptic.ids.reshape(-1)[:pixels] > 0).all() == kept
    np.testing.assert_array_equal(found.semantic, semantic)


def test_a_thing_by_its_class_alone_is_void():
    found = merge(instances_of(np.zeros((0, 4, 4), bool), [], []), np.full((4, 4), 4, np.uint8), stuff=CLASSES.stuff)
    assert not found.panoptic.ids.any()
    assert len(found.panoptic.labels) == len(found.instances) == 0
    assert (found.semantic == 4).all()


def test_more_instances_than_a_byte_can_number():
    masks = np.eye(400, dtype=bool).reshape(400, 20, 20)
    found = merge(instances_of(masks, [1] * 400, [0.9] * 400), np.zeros((20, 20), np.uint8), stuff=(0,))
    np.testing.assert_array_equal(found.panoptic.ids, np.arange(1, 401).reshape(20, 20))
    assert_they_agree(found, CLASSES, (20, 20))
