"""Every number of COCOeval, exactly: on random scenes with crowds, ties, absent classes, empties and crowded images."""

import contextlib
import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipelines.data import rle
from pipelines.data.prediction import Instances
from pipelines.data.schema import Segment
from pipelines.metrics.instance import InstanceMetrics

NAMES = ("sky", "cell", "car", "cat", "never")
THINGS = (1, 2, 3, 4)
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


def evaluate(scenes: list[Scene]) -> InstanceMetrics:
    metrics = InstanceMetrics(NAMES, things=THINGS)
    for s in scenes:
        metrics.update(s.truth, s.size, s.predicted)
    return metrics


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
            shape = shape if kind == "segm" else {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            results.append({"image_id": i, "category_id": int(label), "score": float(score)} | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, "images": images, "annotations": annotations}
        truth.dataset["categories"] = [{"id": c, "name": NAMES[c]} for c in THINGS]
        truth.createIndex()
        found = COCO()
        found.dataset = dict(truth.dataset, annotations=[])
        found.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else found, kind)
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
    metrics = evaluate(scenes)
    result = metrics.compute()
    for kind, family in (("segm", result), ("bbox", result["box"])):
        oracle = coco(scenes, kind)
        for key, theirs in zip(KEYS, oracle.stats, strict=True):
            assert_equal(family[key], theirs, f"{kind} {key}")
        precision = oracle.eval["precision"][..., 0, -1]  # [threshold, recall, class]
        for k, c in enumerate(THINGS):
            seen = precision[..., k][precision[..., k] > -1]
            assert_equal(family["ap_per_class"][NAMES[c]], seen.mean() if seen.size else -1, f"{kind} {NAMES[c]}")
            if kind == "segm":
                curve = metrics.precision_recall(0.75)[NAMES[c]]
                for ours, theirs in zip(curve or [None] * 101, precision[5, :, k], strict=True):
                    assert_equal(ours, theirs, f"curve of {NAMES[c]}")


@pytest.mark.parametrize("seed", range(20))
def test_equals_cocoeval(seed: int) -> None:
    assert_as_coco([scene(1000 * seed + i) for i in range(6)])
