"""The kinds of failures against TIDE's definitions, one prediction and one pixel at a time; and against AP and PQ."""

from collections import Counter

import numpy as np
import pytest

from pipelines.data import rle
from pipelines.data.prediction import Instances, Panoptic
from pipelines.data.schema import Segment
from pipelines.metrics import matching, segment_failures, sizes
from pipelines.metrics.instance import InstanceMetrics
from pipelines.metrics.panoptic import PanopticMetrics
from pipelines.metrics.segment_failures import BOTH, FAILURE, KINDS, SegmentFailures

NAMES = ("sky", "tree", "house", "car")
SIDE = 24


def masks_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes, many of them alike."""
    masks = np.zeros((count, SIDE, SIDE), bool)
    for mask in masks:
        y, x, h, w = rng.integers(0, 12, 2).tolist() + rng.integers(4, 12, 2).tolist()
        mask[y : y + h, x : x + w] = True
    return masks


def scene(seed: int) -> tuple[list[Segment], Instances]:
    """Truths, of which predictions are moved, renamed, doubled or invented; some truths are crowds."""
    rng = np.random.default_rng(seed)
    masks = masks_of(rng, int(rng.integers(0, 6)))
    truth = [
        Segment(
            category=int(rng.integers(1, 4)),
            bbox=rle.bbox(m),
            area=int(m.sum()),
            iscrowd=bool(rng.random() < 0.15),
            counts=rle.encode(m),
        )
        for m in masks
    ]
    found, labels = [*masks_of(rng, int(rng.integers(0, 3)))], []
    labels += rng.integers(1, 4, len(found)).tolist()
    for segment, mask in zip(truth, masks, strict=True):
        for _ in range(int(rng.integers(0, 4))):
            found.append(np.roll(mask, rng.integers(-4, 5, 2).tolist(), axis=(0, 1)))
            labels.append(segment.category if rng.random() < 0.7 else int(rng.integers(1, 4)))
    stack = np.array(found, bool).reshape(-1, SIDE, SIDE)
    boxes = np.array([rle.bbox(m) for m in stack], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = rng.permutation(np.linspace(0.05, 0.95, len(labels), dtype=np.float32))
    return truth, Instances(masks=stack, labels=np.array(labels, np.int64), scores=scores, boxes=boxes)


def by_definition(truth: list[Segment], found: Instances, confident: float) -> list[tuple[str, int, int]]:
    """(kind, truth, prediction), as section 2.2 of the paper has them."""
    sets = [{*np.flatnonzero(rle.decode(s.counts, SIDE, SIDE))} for s in truth]
    mine = [{*np.flatnonzero(m)} for m in found.masks]
    order = [i for i in np.argsort(-found.scores, kind="stable").tolist() if found.scores[i] >= confident]

    def iou(i: int, k: int) -> float:
        return len(mine[i] & sets[k]) / len(mine[i] | sets[k])

    counted = [k for k, s in enumerate(truth) if not s.iscrowd]
    taken: dict[int, int] = {}
    for i in order:
        free = [k for k in counted if k not in taken and truth[k].category == found.labels[i] and iou(i, k) >= 0.5]
        if free:
            taken[max(free, key=lambda k, i=i: (iou(i, k), k))] = i
    result, fixed = [], set(taken)
    for i in order:
        label = found.labels[i]
        crowds = [k for k, s in enumerate(truth) if s.iscrowd and s.category == label]
        if i in taken.values() or any(len(mine[i] & sets[k]) / len(mine[i]) >= 0.5 for k in crowds):
            continue
        own = max((k for k in counted if truth[k].category == label), key=lambda k, i=i: iou(i, k), default=None)
        other = max((k for k in counted if truth[k].category != label), key=lambda k, i=i: iou(i, k), default=None)
        used = max((k for k in taken if truth[k].category == label), key=lambda k, i=i: iou(i, k), default=None)
        best = max(counted, key=lambda k, i=i: iou(i, k), default=None)
        if own is not None and 0.1 <= iou(i, own) <= 0.5:
            result.append(("badly_localised", own, i))
            fixed.add(own)
        elif other is not None and iou(i, other) >= 0.5:
            result.append(("wrong_class", other, i))
            fixed.add(other)
        elif used is not None and iou(i, used) >= 0.5:
            result.append(("duplicate", used, i))
        elif best is None or iou(i, best) <= 0.1:
            result.append(("false_positive", -1, i))
        else:
            result.append(("both", best, i))
    return result + [("missed", k, -1) for k in counted if k not in fixed]


@pytest.mark.parametrize("confident", [0.0, 0.3])
def test_every_failure_is_the_paper_s(confident):
    kinds = Counter[str]()
    for seed in range(150):
        truth, found = scene(seed)
        overlaps = segment_failures.of_instances(truth, found, confident=confident)
        rows = segment_failures.failures(overlaps, segment_failures.matches(overlaps))
        named = [(KINDS[row["kind"]], int(row["truth"]), int(row["predicted"])) for row in rows]
        assert Counter(named) == Counter(by_definition(truth, found, confident)), seed
        kinds.update(kind for kind, _, _ in named)
        for row in rows:
            there = row["truth"] >= 0
            assert row["area"] == (truth[row["truth"]].area if there else found.masks[row["predicted"]].sum())
            assert row["truth_label"] == (truth[row["truth"]].category if there else -1)
            assert row["label"] == (found.labels[row["predicted"]] if row["predicted"] >= 0 else -1)
    assert set(kinds) == set(KINDS), "the scenes show every kind"


def test_the_matches_are_those_of_average_precision():
    failures, ap = SegmentFailures(NAMES), InstanceMetrics(NAMES, things=(1, 2, 3))
    for seed in range(60):
        truth, found = scene(seed)
        failures.update(segment_failures.of_instances(truth, found, confident=0.0))
        ap.update(truth, (SIDE, SIDE), found)
    for label, each in enumerate(ap.by_class()):
        right, wrong = (matching.unpack(each.detections["settings"][:, 0, k])[:, 0, 0].sum() for k in range(2))
        truths, hit, judged, hits = failures.by_size[label].sum(axis=0)
        assert (truths, hit, judged, hits) == (each.truths.sum(), right, right + wrong, right)


def panoptic_scene(seed: int) -> tuple[Panoptic, Panoptic]:
    """Two maps of boxes over each other; some truths are crowds, and some pixels void in either."""
    rng = np.random.default_rng(seed)

    def paint(masks: np.ndarray, labels: np.ndarray, crowds: np.ndarray) -> Panoptic:
        ids = np.zeros((SIDE, SIDE), np.int32)
        for number, mask in enumerate(masks, start=1):
            ids[mask] = number
        return Panoptic(ids=ids, labels=labels, iscrowd=crowds)

    masks, labels = masks_of(rng, 6), rng.integers(0, 4, 6)
    moved = np.array([np.roll(m, rng.integers(-3, 4, 2).tolist(), axis=(0, 1)) for m in masks])
    renamed = np.where(rng.random(6) < 0.25, rng.integers(0, 4, 6), labels)
    return paint(masks, labels, rng.random(6) < 0.2), paint(moved, renamed, np.zeros(6, bool))


def test_panoptic_failures_are_those_of_panoptic_quality():
    failures, quality = SegmentFailures(NAMES), PanopticMetrics(NAMES, things=(1, 2, 3))
    for seed in range(150):
        truth, predicted = panoptic_scene(seed)
        failures.update(segment_failures.of_panoptic(truth, predicted))
        quality.update(truth, predicted)
    hits, wrong, missed, _ = quality.totals.T
    truths, found, judged, right = failures.by_size.sum(axis=1).T
    assert (found.tolist(), (judged - right).tolist()) == (hits.tolist(), wrong.tolist())
    assert (truths - found).tolist() == missed.tolist()
    counts = failures.compute()
    assert sum(counts.values()) - counts["missed"] == wrong.sum()
    rows, images = failures.rows()
    assert images.max() < 150
    assert not (rows["kind"] == KINDS.index("duplicate")).any(), "segments that do not overlap cannot share a truth"


def test_an_iou_of_one_half_is_no_match_for_panoptic_quality():
    ids = np.repeat(np.array([1, 1, 0, 0], np.int32), 4).reshape(4, 4)
    half = np.where(np.arange(4)[:, None] == 0, 1, 0).astype(np.int32) * np.ones((4, 4), np.int32)
    truth = Panoptic(ids=ids + 2 * (ids == 0), labels=np.array([1, 0]), iscrowd=np.zeros(2, bool))
    predicted = Panoptic(ids=half, labels=np.array([1]), iscrowd=np.zeros(1, bool))
    metrics = SegmentFailures(NAMES)
    metrics.update(segment_failures.of_panoptic(truth, predicted))
    assert metrics.compute() == dict.fromkeys(KINDS, 0) | {"badly_localised": 1, "missed": 1}


def test_shares_make_up_the_whole():
    whole, first, second = (SegmentFailures(NAMES) for _ in range(3))
    for seed in range(20):
        overlaps = segment_failures.of_instances(*scene(seed), confident=0.5)
        whole.update(overlaps)
        (first if seed < 8 else second).update(overlaps)
    first.merge(second)
    assert first.compute() == whole.compute()
    assert np.array_equal(first.by_size, whole.by_size)
    for mine, theirs in zip(first.rows(), whole.rows(), strict=True):
        assert np.array_equal(mine, theirs)
    with pytest.raises(ValueError, match="cannot merge failures of"):
        first.merge(SegmentFailures(("sky",)))


def test_nothing_is_no_failure():
    metrics = SegmentFailures(NAMES)
    empty = Instances(
        masks=np.zeros((0, 4, 4), bool), labels=np.zeros(0, np.int64), scores=np.zeros(0), boxes=np.zeros((0, 4))
    )
    metrics.update(segment_failures.of_instances([], empty, confident=0.5))
    assert metrics.compute() == dict.fromkeys(KINDS, 0)
    assert metrics.rows()[0].dtype == FAILURE
    assert KINDS[BOTH] == "both"


def test_sizes_are_coco_s_cut_in_two():
    areas = np.array([0, 255, 256, 1023, 1024, 4095, 4096, 9215, 9216, 36863, 36864])
    assert sizes.of(areas).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert [sizes.BOUNDS[first] ** 2 for first, _ in sizes.COCO.values()] == [
        low for name, (low, _) in matching.RANGES.items() if name != "all"
    ]
