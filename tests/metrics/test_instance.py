"""Every number of COCOeval, exactly: on random scenes with crowds, ties, absent classes, empties and crowded images."""

import contextlib
import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipelines.data import rle
from pipelines.data.prediction import Instances
from pipelines.data.schema import Segment
from pipelines.metrics import matching
from pipelines.metrics.instance import InstanceMetrics

NAMES = ("sky", "cell", "car", "cat", "never")
THINGS = (1, 2, 3, 4)
EDGE = 0.02  # of the diagonal
KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
KEYS += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


@dataclass(frozen=True)
class Scene:
    size: tuple[int, int]
    truth: tuple[Segment, ...]
    predicted: Instances


def ellipse(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    (cy, cx), (ry, rx) = rng.uniform(0, size), rng.uniform(0.3, scale, 2)
    y, x = np.ogrid[: size[0], : size[1]]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def segment(mask: np.ndarray, category: int, *, crowd: bool = False, area: int | None = None) -> Segment:
    return Segment(
        category=category,
        bbox=rle.bbox(mask),
        area=int(mask.sum()) if area is None else area,
        iscrowd=crowd,
        counts=rle.encode(mask),
    )


def instances(masks: list[np.ndarray], labels: list[int], scores: list[float], size: tuple[int, int]) -> Instances:
    boxes = [(x, y, x + w, y + h) for x, y, w, h in map(rle.bbox, masks)]
    return Instances(
        masks=np.array(masks, bool).reshape(-1, *size),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
    )


def scene(seed: int, *, size: tuple[int, int] = (70, 90), truths: int = 7, detections: int = 12) -> Scene:
    """Detections are shifted, doubled, mislabelled or invented; scores are coarse, so that many tie."""
    rng = np.random.default_rng(seed)
    truth, masks, labels = [], [], []
    for _ in range(rng.integers(0, truths + 1)):
        mask = ellipse(rng, size, rng.choice([3, 12, 60]))
        truth.append(segment(mask, int(rng.integers(1, 4)), crowd=rng.random() < 0.2))
    for _ in range(rng.integers(0, detections + 1)):
        if truth and rng.random() < 0.8:
            model = truth[rng.integers(len(truth))]
            shift = rng.integers(-1, 2, 2) * rng.integers(0, 3)
            masks.append(np.roll(rle.decode(model.counts, *size), shift, (0, 1)))
            labels.append(model.category if rng.random() < 0.9 else int(rng.integers(1, 5)))
        else:
            masks.append(ellipse(rng, size, rng.choice([3, 12, 60])))
            labels.append(int(rng.integers(1, 5)))
    predicted = instances(masks, labels, rng.integers(0, 11, len(masks)) / 10, size)
    jitter = rng.normal(0, rng.choice([0.0, 0.7]), predicted.boxes.shape).astype(np.float32)
    return Scene(size, tuple(truth), replace(predicted, boxes=predicted.boxes + jitter))


def evaluate(scenes: list[Scene], **options: float) -> InstanceMetrics:
    metrics = InstanceMetrics(NAMES, things=THINGS, **options)
    for s in scenes:
        metrics.update(s.truth, s.size, s.predicted)
    return metrics


def edge(coded: dict[str, Any]) -> dict[str, Any]:
    """As the authors' tool makes it: the mask without what 3x3 erosions leave, with nothing beyond the image."""
    mask = coco_mask.decode(coded)
    distance = max(1, round(EDGE * float(np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))))
    inner = cv2.erode(np.pad(mask, 1), np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return coco_mask.encode(np.asfortranarray(mask - inner))


class BoundaryEval(COCOeval):
    """Boundary AP by the authors' rule (arXiv 2103.16562): the lesser IoU, but of a crowd the masks' alone."""

    def computeIoU(self, image: int, category: int) -> Any:
        masks = super().computeIoU(image, category)
        truth, found = self._gts[image, category], self._dts[image, category]
        if not len(masks):
            return masks
        found = [found[i] for i in np.argsort([-d["score"] for d in found], kind="mergesort")][: len(masks)]
        coded = [[edge(one["segmentation"]) for one in ones] for ones in (found, truth)]
        crowd = [int(one["iscrowd"]) for one in truth]
        return np.where(np.array(crowd, bool), masks, np.minimum(masks, coco_mask.iou(*coded, crowd)))


def coco(scenes: list[Scene], kind: str) -> COCOeval:
    """The same scenes as COCO's files hold them."""
    images, annotations, results = [], [], []
    for i, s in enumerate(scenes, start=1):
        images.append({"id": i, "height": s.size[0], "width": s.size[1]})
        for t in s.truth:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": t.category, "bbox": list(t.bbox)}
                | {"area": t.area, "iscrowd": int(t.iscrowd)}
                | {"segmentation": {"size": list(s.size), "counts": t.counts.tolist()}}
            )
        p = s.predicted
        for mask, label, score, box in zip(p.masks, p.labels, p.scores, p.boxes.astype(np.float64), strict=True):
            x1, y1, x2, y2 = box.tolist()
            shape = {"segmentation": coco_mask.encode(np.asfortranarray(mask, np.uint8))}
            shape = shape if kind != "bbox" else {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            results.append({"image_id": i, "category_id": int(label), "score": float(score)} | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, "images": images, "annotations": annotations}
        truth.dataset["categories"] = [{"id": c, "name": NAMES[c]} for c in THINGS]
        truth.createIndex()
        found = COCO()
        found.dataset = dict(truth.dataset, annotations=[])
        found.createIndex()
        kinds = {"segm": COCOeval, "bbox": COCOeval, "boundary": BoundaryEval}
        shapes = "bbox" if kind == "bbox" else "segm"
        evaluation = kinds[kind](truth, truth.loadRes(results) if results else found, shapes)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(ours: float | None, theirs: float, what: str) -> None:
    """COCO's -1 stands for undefined."""
    if theirs == -1:
        assert ours is None, what
    else:
        assert ours == pytest.approx(theirs, rel=0, abs=1e-12), what


def assert_as_coco(scenes: list[Scene]) -> None:
    metrics = evaluate(scenes, boundary=EDGE)
    result = metrics.compute()
    for kind, family in (("segm", result), ("bbox", result["box"]), ("boundary", result["boundary"])):
        oracle = coco(scenes, kind)
        for key, theirs in zip(KEYS, oracle.stats, strict=True):
            assert_equal(family[key], theirs, f"{kind} {key}")
        precision = oracle.eval["precision"][..., 0, -1]  # [threshold, recall, class]
        for k, c in enumerate(THINGS):
            seen = precision[..., k][precision[..., k] > -1]
            assert_equal(family["ap_per_class"][NAMES[c]], seen.mean() if seen.size else -1, f"{kind} {NAMES[c]}")
            if kind == "segm":
                curve = metrics.precision_recall(0.75)[NAMES[c]]
                theirs = precision[5, :, k].tolist()
                assert (curve or [-1] * 101) == theirs, f"curve of {NAMES[c]}"  # to the last bit


@pytest.mark.parametrize("seed", range(20))
def test_equals_cocoeval(seed: int) -> None:
    assert_as_coco([scene(1000 * seed + i) for i in range(6)])


@st.composite
def small_scenes(draw: st.DrawFn) -> Scene:
    """A handful of pixels, a handful of scores: everything overlaps, everything ties."""
    size = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    shapes = draw(st.lists(arrays(bool, size), min_size=1, max_size=3))
    label, truth, masks = st.integers(1, 3), [], []
    for mask in draw(st.lists(st.sampled_from(shapes), max_size=5)):
        area = draw(st.sampled_from([int(mask.sum()), 32**2, 96**2, 96**2 + 1]))
        truth.append(segment(mask, draw(label), crowd=draw(st.booleans()), area=area))
    for mask in draw(st.lists(st.sampled_from(shapes), max_size=6)):
        masks.append(mask ^ draw(st.sampled_from([np.False_, draw(arrays(bool, size))])))
    labels, scores = [draw(label) for _ in masks], [draw(st.sampled_from([0.0, 0.5, 1.0])) for _ in masks]
    return Scene(size, tuple(truth), instances(masks, labels, scores, size))


@settings(deadline=None, max_examples=100)
@given(st.lists(small_scenes(), min_size=1, max_size=3))
def test_equals_cocoeval_on_ties_and_overlaps(scenes: list[Scene]) -> None:
    assert_as_coco(scenes)


@pytest.mark.parametrize("first", [0, 1])
def test_of_equal_overlaps_the_last_truth_is_taken(first: int) -> None:
    """The first detection covers both truths alike, and the second finds its own truth taken, or free."""
    halves = np.zeros((2, 4, 6), bool)
    halves[0, :, :3] = halves[1, :, 3:] = True
    truth = tuple(segment(mask, 1) for mask in halves)
    scenes = [Scene((4, 6), truth, instances([halves.any(axis=0), halves[first]], [1, 1], [0.9, 0.8], (4, 6)))]
    assert_as_coco(scenes)
    assert evaluate(scenes).precision_recall(0.5)["cell"] == (
        [1.0] * 101 if first == 0 else [1 / (1 + 2**-52)] * 51 + [0.0] * 50
    )


def test_more_than_a_hundred_detections_of_a_class() -> None:
    """The best hundred count, per class; with tied scores the first of them."""
    crowded = [scene(seed, size=(40, 50), truths=30, detections=400) for seed in (3, 4, 5)]
    assert max(np.bincount(s.predicted.labels).max() for s in crowded) > 100
    assert_as_coco(crowded)


def squares(sides: list[int]) -> Iterator[np.ndarray]:
    for side in sides:
        mask = np.zeros((200, 200), bool)
        mask[:side, :side] = True
        yield mask


@pytest.mark.parametrize("sides", [[32], [96], [31, 32, 33], [95, 96, 97], [1, 200]])
def test_area_bounds_belong_to_both_ranges(sides: list[int]) -> None:
    masks = list(squares(sides))
    truth = tuple(segment(m, 1) for m in masks)
    # Detections one row short: their own areas differ from the truths'.
    found = [np.roll(m, -1, axis=0) & m for m in masks]
    for predicted in (masks, found):
        assert_as_coco(
            [Scene((200, 200), truth, instances(predicted, [1] * len(masks), [0.5] * len(masks), (200, 200)))]
        )


def test_perfect_prediction_scores_one() -> None:
    for seed in range(5):
        s = scene(seed, truths=12)
        truth = tuple(t for t in s.truth if t.area and not t.iscrowd)
        masks = [rle.decode(t.counts, *s.size) for t in truth]
        labels = [t.category for t in truth]
        # Every truth once, and identical ones (if any) as often as they are there.
        perfect = instances(masks, labels, [0.9] * len(masks), s.size)
        result = evaluate([Scene(s.size, truth, perfect)]).compute()
        for family in (result, result["box"]):
            for key in ("ap", "ap50", "ap75", "ar100"):
                # COCO divides by one machine epsilon more than it has found.
                assert family[key] == pytest.approx(1.0, rel=0, abs=1e-15)
            assert {k: v for k, v in family["ap_per_class"].items() if v is not None} == pytest.approx(
                {NAMES[c]: 1.0 for c in set(labels)}, rel=0, abs=1e-15
            )


def test_by_hand() -> None:
    """Two truths; the best detection is wrong, the second right, the other truth is missed: half the recall at half
    the precision, up to recall 0.5 (51 of 101 points), at the IoU thresholds up to 0.75 (6 of 10)."""
    masks = list(squares([40, 20]))
    truth = (segment(masks[0], 1), segment(np.roll(masks[1], 100, axis=1), 1))
    wrong = np.roll(masks[1], 60, axis=0)
    right = masks[0].copy()
    right[30:] = False
    predicted = instances([wrong, right], [1, 1], [0.9, 0.8], (200, 200))
    metrics = evaluate([Scene((200, 200), truth, predicted)])
    result = metrics.compute()
    half = 0.5 * 51 / 101
    assert result["ap50"] == result["ap75"] == pytest.approx(half)
    assert result["ap"] == result["ap_per_class"]["cell"] == pytest.approx(0.6 * half)
    assert (result["ar1"], result["ar10"], result["ar_large"]) == (0.0, pytest.approx(0.3), None)
    assert result["ap_medium"] == pytest.approx(0.6)  # one truth; the wrong one is small, and does not count
    assert result["ap_per_class"]["never"] is None
    curve = metrics.precision_recall()["cell"]
    assert curve == pytest.approx([0.5] * 51 + [0.0] * 50)
    assert metrics.precision_recall(0.8)["cell"] == [0.0] * 101


def numbers(result: dict[str, Any]) -> Iterator[float | None]:
    for value in result.values():
        if isinstance(value, dict):
            yield from numbers(value)
        else:
            yield value


def test_no_truth_is_undefined_and_no_detection_is_zero() -> None:
    filled = next(s for s in map(scene, range(50)) if len(s.predicted) and any(not t.iscrowd for t in s.truth))
    nothing = instances([], [], [], filled.size)
    crowds = tuple(replace(t, iscrowd=True) for t in filled.truth)
    for scenes in (
        [],
        [replace(filled, truth=())],
        [replace(filled, truth=crowds)],
        [Scene((4, 5), (), instances([], [], [], (4, 5)))],
    ):
        metrics = evaluate([*scenes, replace(filled, truth=(), predicted=nothing)])
        assert set(numbers(metrics.compute())) == {None}
        assert set(metrics.precision_recall().values()) == {None}
    result = evaluate([replace(filled, predicted=nothing)]).compute()
    assert result["ap"] == result["ar100"] == 0.0
    assert result["ap_per_class"]["never"] is None


@settings(deadline=None, max_examples=50)
@given(st.lists(small_scenes(), max_size=5), st.data())
def test_any_partition_is_the_same(scenes: list[Scene], data: st.DataObject) -> None:
    """Ties and all, as long as the parts are merged in the order of their images."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scenes)), max_size=3)))
    merged = InstanceMetrics(NAMES, things=THINGS)
    for first, last in zip([0, *cuts], [*cuts, len(scenes)], strict=True):
        part = evaluate(scenes[first:last])
        merged.merge(pickle.loads(pickle.dumps(part)))  # noqa: S301  (as a worker hands it over)
    whole = evaluate(scenes)
    assert merged.compute() == whole.compute()
    assert merged.precision_recall(0.5) == whole.precision_recall(0.5)


@settings(deadline=None, max_examples=50)
@given(st.lists(small_scenes(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_of_images_matters_for_ties_alone(scenes: list[Scene], random: Any) -> None:
    # 0, 0.5 and 1 become three scores of the image's own: only ties within an image are left.
    distinct = []
    for i, s in enumerate(scenes):
        scores = (s.predicted.scores * 2 + 3 * i) / (3 * len(scenes))
        distinct.append(replace(s, predicted=replace(s.predicted, scores=scores)))
    shuffled = distinct.copy()
    random.shuffle(shuffled)
    assert evaluate(shuffled).compute() == evaluate(distinct).compute()


@settings(deadline=None, max_examples=50)
@given(st.lists(small_scenes(), min_size=1, max_size=3))
def test_results_are_strict_json_in_range(scenes: list[Scene]) -> None:
    result = evaluate(scenes).compute()
    json.dumps(result, allow_nan=False)
    assert all(v is None or (type(v) is float and 0 <= v <= 1) for v in numbers(result))


def test_computing_changes_nothing() -> None:
    metrics = evaluate([scene(i) for i in range(4)])
    first = metrics.compute()
    metrics.update((), (5, 5), instances([], [], [], (5, 5)))
    assert metrics.compute() == metrics.compute() == first


def test_keeps_nothing_dense() -> None:
    scenes = [scene(i, size=(300, 400), detections=40) for i in range(4)]
    metrics = evaluate(scenes)
    assert len(pickle.dumps(metrics)) < 2000 + sum(200 + 50 * len(s.predicted) for s in scenes)


def test_crowds_are_never_missed_nor_doubled() -> None:
    crowd, single = np.zeros((2, 20, 20), bool)
    crowd[:, :10] = single[:8, 12:] = True
    inside = [np.roll(single, -12 + k, axis=1) for k in range(3)]  # three detections in the crowd
    truth = (segment(crowd, 1, crowd=True), segment(single, 1))
    predicted = instances([*inside, single], [1] * 4, [0.9, 0.8, 0.7, 0.6], (20, 20))
    result = evaluate([Scene((20, 20), truth, predicted)]).compute()
    assert (result["ap"], result["ar100"]) == (pytest.approx(1.0), 1.0)
    uncrowded = (replace(truth[0], iscrowd=False), truth[1])
    assert evaluate([Scene((20, 20), uncrowded, predicted)]).compute()["ap"] < 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 9])}, r"classes \[0, 9\] are not among the things"),
        ({"scores": np.array([0.5, np.nan], np.float32)}, "must be finite"),
        ({"boxes": np.full((2, 4), np.inf, np.float32)}, "must be finite"),
        ({"masks": np.zeros((2, 5, 7), bool)}, r"masks of \(5, 7\) for an image of \(5, 6\)"),
    ],
)
def test_refuses(change: dict[str, np.ndarray], message: str) -> None:
    good = instances([np.ones((5, 6), bool)] * 2, [1, 2], [0.5, 0.6], (5, 6))
    metrics = InstanceMetrics(NAMES, things=THINGS)
    with pytest.raises(ValueError, match=message):
        metrics.update((segment(np.ones((5, 6), bool), 1),), (5, 6), replace(good, **change))
    assert set(numbers(metrics.compute())) == {None}


def test_refuses_truths_of_another_class_or_size() -> None:
    metrics, nothing = InstanceMetrics(NAMES, things=THINGS), instances([], [], [], (5, 6))
    with pytest.raises(ValueError, match="not among the things"):
        metrics.update((segment(np.ones((5, 6), bool), 0),), (5, 6), nothing)
    with pytest.raises(ValueError, match="do not add up to 30 pixels"):
        metrics.update((segment(np.ones((6, 6), bool), 1),), (5, 6), nothing)
    assert set(numbers(metrics.compute())) == {None}
    with pytest.raises(ValueError, match="cannot merge"):
        metrics.merge(InstanceMetrics(NAMES, things=(1,)))
    with pytest.raises(ValueError, match=r"IoU 0\.42 is not one of \[0\.5, 0\.55"):
        metrics.precision_recall(0.42)


def disjoint(rng: np.random.Generator, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Masks that do not overlap, as those of cells."""
    labels = np.zeros(size, int)
    for i in range(1, count + 1):
        labels[ellipse(rng, size, 9) & (labels == 0)] = i
    return [labels == i for i in range(1, count + 1) if (labels == i).any()]


@pytest.mark.parametrize("seed", range(8))
def test_accuracy_is_a_count_of_matches(seed: int) -> None:
    """Of disjoint masks no two overlap one other by half: who matches whom needs no rule, and is counted here."""
    rng = np.random.default_rng(seed)
    scenes, hits, truths, detections = [], np.zeros(10, int), 0, 0
    for _ in range(3):
        truth = disjoint(rng, (60, 80), 25)
        found = [np.roll(m, int(rng.integers(0, 3)), axis=1) for m in truth if rng.random() < 0.9]
        scores = np.where(rng.random(len(found)) < 0.2, 0.3, 0.8)
        scenes.append(
            Scene((60, 80), tuple(segment(m, 1) for m in truth), instances(found, [1] * len(found), scores, (60, 80)))
        )
        sure = [m for m, score in zip(found, scores, strict=True) if score >= 0.5]
        overlaps = np.array([[(t & f).sum() / (t | f).sum() for t in truth] for f in sure])
        hits += [(overlaps.max(axis=1) >= threshold).sum() for threshold in matching.THRESHOLDS]
        truths, detections = truths + len(truth), detections + len(sure)
    wanted = hits / (truths + detections - hits)
    result = evaluate(scenes).compute()
    assert [result[f"accuracy{percent}"] for percent in range(50, 100, 5)] == pytest.approx(wanted)
    assert result["accuracy"] == pytest.approx(wanted.mean())


def test_accuracy_counts_more_than_a_hundred() -> None:
    masks = [np.zeros((40, 40), bool) for _ in range(400)]
    for i, mask in enumerate(masks):
        mask[2 * (i // 20), 2 * (i % 20)] = True
    truth, found = tuple(segment(m, 1) for m in masks), instances(masks, [1] * 400, [0.9] * 400, (40, 40))
    result = evaluate([Scene((40, 40), truth, found)]).compute()
    assert (result["accuracy"], result["ar100"]) == (1.0, 0.25)


def test_accuracy_of_nothing_found_is_zero_and_of_nothing_there_undefined() -> None:
    mask = np.ones((4, 4), bool)
    nothing, one = instances([], [], [], (4, 4)), instances([mask], [1], [0.9], (4, 4))
    assert evaluate([Scene((4, 4), (segment(mask, 1),), nothing)]).compute()["accuracy"] == 0.0
    assert evaluate([Scene((4, 4), (), one)]).compute()["accuracy"] is None
    least = evaluate([Scene((4, 4), (segment(mask, 1),), one)], confident=0.95)
    assert least.compute()["accuracy"] == 0.0
