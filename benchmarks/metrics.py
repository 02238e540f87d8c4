"""AP and PQ beside the tools that everyone uses: the same inputs, the same numbers, and the time of each.

    python benchmarks/metrics.py --data NUCLEI [--images 10] [--rounds 5]      # AP: pycocotools, faster-coco-eval
    python benchmarks/metrics.py --panopticapi CHECKOUT [--rounds 5]           # PQ: panopticapi, torchmetrics
    python benchmarks/metrics.py --memory                                      # of 5000 images with 100 instances each

faster-coco-eval stands in benchmarks/peers.txt; panopticapi is a checkout of github.com/cocodataset/panopticapi. CPU
time, medians of rounds in which all have their turn. A model gives masks: ours begins with them, COCO's tools encode
them first, which stands beside their time for what is encoded already.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines.data import panoptic, rle
from pipelines.data.prediction import Instances, Panoptic, PanopticRuns
from pipelines.data.schema import Segment
from pipelines.metrics.instance import InstanceMetrics
from pipelines.metrics.panoptic import PanopticMetrics

SIZE = (640, 960)
CLASSES = 8  # the first half of them things
KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
KEYS += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
Scene = tuple[list[Segment], Instances]


def race(contenders: Mapping[str, Callable[[], Any]], rounds: int, *, reference: str) -> dict[str, Any]:
    """Each one's answer; prints CPU seconds and how many times faster than the reference."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                answers[name] = run()
            times[name].append(time.process_time() - started)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    for name, each in seconds.items():
        ratios = [a / b for a, b in zip(times[reference], times[name], strict=True)]
        print(f"{name:40} {each * 1e3:9.1f} ms {statistics.median(ratios):8.1f} x")
    return answers


# AP


def nuclei(folder: Path, count: int) -> list[Scene]:
    """Published truths; detections are truths moved, doubled, lost and invented."""
    rng, scenes = np.random.default_rng(0), []
    for place in sorted(p for p in folder.iterdir() if (p / "masks").is_dir())[:count]:
        masks = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) > 0 for p in sorted((place / "masks").iterdir())]
        found = [np.roll(m, rng.integers(-2, 3, 2), (0, 1)) for m in masks if rng.random() < 0.95]
        found += [np.roll(m, rng.integers(-9, 10, 2), (0, 1)) for m in masks if rng.random() < 0.1]
        scenes.append(([segment(m) for m in masks], instances(np.array(found), rng.random(len(found)))))
    return scenes


def segment(mask: np.ndarray) -> Segment:
    return Segment(category=0, bbox=rle.bbox(mask), area=int(mask.sum()), iscrowd=False, counts=rle.encode(mask))


def instances(masks: np.ndarray, scores: np.ndarray) -> Instances:
    boxes = np.array([rle.bbox(m) for m in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(masks=masks, labels=np.zeros(len(masks), np.int64), scores=scores.astype(np.float32), boxes=boxes)


def ours_ap(scenes: Sequence[Scene]) -> list[float]:
    metrics = InstanceMetrics(["nucleus"], things=[0])
    for truth, found in scenes:
        metrics.update(truth, found.masks.shape[1:], found)
    result = metrics.compute()
    return [result[key] if result[key] is not None else -1.0 for key in KEYS]


def coco_files(scenes: Sequence[Scene]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from pycocotools import mask as coco

    images, truths = [], []
    for i, (truth, found) in enumerate(scenes, start=1):
        height, width = found.masks.shape[1:]
        images.append({"id": i, "height": height, "width": width})
        for t in truth:
            shape = coco.encode(np.asfortranarray(rle.decode(t.counts, height, width), np.uint8))
            about = {"id": len(truths) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            truths.append({**about, "bbox": list(t.bbox), "area": t.area, "segmentation": shape})
    about = {"info": {}, "images": images, "annotations": truths, "categories": [{"id": 1, "name": "nucleus"}]}
    return about, encoded(scenes)


def encoded(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    from pycocotools import mask as coco

    return [
        {"image_id": i, "category_id": 1, "score": score, "segmentation": coco.encode(np.asfortranarray(m, np.uint8))}
        for i, (_, found) in enumerate(scenes, start=1)
        for m, score in zip(found.masks, found.scores.tolist(), strict=True)
    ]


def coco_ap(
    scenes: Sequence[Scene], files: Any, coco: Any, evaluation: Any, *, encode: bool
) -> Callable[[], list[float]]:
    """Of both kinds that ours gives at once, by mask and by box; the masks' numbers are compared."""

    def run() -> list[float]:
        stats, results = [], encoded(scenes) if encode else files[1]
        for kind in ("segm", "bbox"):
            truth = coco()
            truth.dataset = json.loads(json.dumps(files[0], default=lambda b: b.decode()))
            truth.createIndex()
            one = evaluation(truth, truth.loadRes([dict(r) for r in results]), kind)
            one.evaluate()
            one.accumulate()
            one.summarize()
            stats.append(list(one.stats[:12]))
        return [float(v) for v in stats[0]]

    return run


def compare_ap(folder: Path, count: int, rounds: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scenes = nuclei(folder, count)
    files = coco_files(scenes)
    tools = {"pycocotools": (COCO, COCOeval)}
    try:
        import faster_coco_eval
    except ImportError:
        print("faster-coco-eval is not here: see benchmarks/peers.txt")
    else:
        tools["faster-coco-eval"] = (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
    contenders: dict[str, Callable[[], list[float]]] = {"ours": lambda: ours_ap(scenes)}
    for name, parts in tools.items():
        contenders[name] = coco_ap(scenes, files, *parts, encode=True)
        contenders[f"{name}, encoded before"] = coco_ap(scenes, files, *parts, encode=False)
    print(
        f"AP by mask and box: {len(scenes)} images, {len(files[0]['annotations'])} truths, {len(files[1])} detections"
    )
    answers = race(contenders, rounds, reference="pycocotools")
    for key, value in zip(KEYS, answers["ours"], strict=True):
        print(f"{key:10} {value:.12f}")
    apart = max(abs(a - b) for answer in answers.values() for a, b in zip(answer, answers["ours"], strict=True))
    print(f"largest difference between any two: {apart:.1e}")


# PQ


def panoptic_map(rng: np.random.Generator, segments: int = 40) -> np.ndarray:
    """int32[h, w]: ellipses over bands, 0 is void."""
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    ids = np.broadcast_to(y * 5 // SIZE[0], SIZE).astype(np.int32)
    for i in range(5, segments):
        (cy, cx), (ry, rx) = rng.uniform((0, 0), SIZE), rng.uniform(8, 70, 2)
        ids[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = i
    return ids


def panoptics(count: int, *, hard: bool) -> list[tuple[Panoptic, Panoptic]]:
    """`hard`: with crowds, and with predictions of void, of which torchmetrics has another idea than panopticapi."""
    rng, pairs = np.random.default_rng(1), []
    for _ in range(count):
        truth = panoptic_map(rng)
        found = np.roll(truth, rng.integers(-6, 7, 2), (0, 1))
        found[found == 0] = 0 if hard else 1
        labels = np.concatenate([np.arange(4, CLASSES), rng.integers(0, 4, 36)])
        flags = (rng.random(labels.size) < 0.1) & (np.arange(labels.size) >= 4) & hard
        wrong = np.where((rng.random(labels.size) < 0.1) & (np.arange(labels.size) >= 4), (labels + 1) % 4, labels)
        pairs.append((compact(truth, labels, flags), compact(found, wrong, np.zeros(labels.size, bool))))
    return pairs


def compact(ids: np.ndarray, labels: np.ndarray, crowds: np.ndarray) -> Panoptic:
    left = np.unique(ids[ids > 0])
    rows = np.zeros(labels.size + 1, np.int32)
    rows[left] = np.arange(1, left.size + 1)
    return Panoptic(ids=rows[ids], labels=labels[left - 1], iscrowd=crowds[left - 1])


def ours_pq(pairs: Sequence[tuple[Panoptic, Panoptic] | tuple[PanopticRuns, PanopticRuns]]) -> list[float]:
    metrics = PanopticMetrics([str(c) for c in range(CLASSES)], things=range(4))
    for truth, found in pairs:
        metrics.update(truth, found)
    result = metrics.compute()
    return [result["pq"], result["sq"], result["rq"]]


def write_png(folder: Path, name: str, one: Panoptic) -> dict[str, Any]:
    """As COCO publishes it: colours without an order, compressed by Pillow."""
    colors = (1 + np.arange(len(one.labels)) * 7_654_321) % (1 << 24)
    painted = np.append(0, colors)[one.ids]
    folder.mkdir(exist_ok=True)
    rgb = np.stack([painted & 255, painted >> 8 & 255, painted >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(folder / name)
    about = zip(colors.tolist(), one.labels.tolist(), one.iscrowd.tolist(), strict=True)
    areas = np.bincount(one.ids.ravel(), minlength=len(colors) + 1)[1:].tolist()
    segments = [
        {"id": c, "category_id": label, "iscrowd": int(crowd), "area": area}
        for (c, label, crowd), area in zip(about, areas, strict=True)
    ]
    return {"image_id": name, "file_name": name, "segments_info": segments}


def read_png(folder: Path, about: Mapping[str, Any]) -> PanopticRuns:
    segments = [(s["id"], s["category_id"], bool(s["iscrowd"])) for s in about["segments_info"]]
    return panoptic.painted(cv2.imread(str(folder / about["file_name"]), cv2.IMREAD_COLOR_RGB), segments)


def compare_pq_files(checkout: Path, rounds: int, count: int = 20) -> None:
    sys.path.insert(0, str(checkout))
    from panopticapi.evaluation import pq_compute_single_core

    pairs = panoptics(count, hard=True)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / side for side in ("truth", "found")]
        files = [
            tuple(write_png(folder, f"{i}.png", one) for folder, one in zip(folders, pair, strict=True))
            for i, pair in enumerate(pairs)
        ]
        categories = {c: {"id": c, "isthing": int(c < 4)} for c in range(CLASSES)}

        def theirs() -> list[float]:
            fresh = json.loads(json.dumps(files))
            stat = pq_compute_single_core(0, fresh, *map(str, folders), categories)
            found = stat.pq_average(categories, isthing=None)[0]
            return [found["pq"], found["sq"], found["rq"]]

        def ours() -> list[float]:
            return ours_pq([tuple(map(read_png, folders, pair)) for pair in files])

        print(f"PQ from PNG files: {count} images of {SIZE[0]}x{SIZE[1]}, with void and crowds")
        answers = race({"panopticapi": theirs, "ours": ours}, rounds, reference="panopticapi")
    show(answers)


def compare_pq_maps(rounds: int, count: int = 3) -> None:
    import torch
    from torchmetrics.detection import PanopticQuality

    pairs = panoptics(count, hard=False)

    def theirs() -> list[float]:
        metric = PanopticQuality(
            set(range(4)), set(range(4, CLASSES)), allow_unknown_preds_category=True, return_sq_and_rq=True
        )
        for truth, found in pairs:
            # Void is a class that is in neither set.
            maps = [np.stack([np.append(99, one.labels)[one.ids], one.ids], axis=-1)[None] for one in (found, truth)]
            metric.update(*map(torch.from_numpy, maps))
        return [float(v) for v in metric.compute()]

    print(f"PQ from maps in memory: {count} images of {SIZE[0]}x{SIZE[1]}")
    show(race({"torchmetrics": theirs, "ours": lambda: ours_pq(pairs)}, rounds, reference="torchmetrics"))


def show(answers: Mapping[str, list[float]]) -> None:
    for name, values in answers.items():
        print(f"{name:14}", *(f"{key} {value:.12f}" for key, value in zip(("PQ", "SQ", "RQ"), values, strict=True)))


# Memory


def measure_memory(images: int = 5000, count: int = 100) -> None:
    """The peak of a process that evaluates detections image by image, as the evaluate stage does."""
    import resource

    rng = np.random.default_rng(0)
    y, x = np.ogrid[:512, :512]
    centers, radii = rng.uniform(0, 512, (count, 2)), rng.uniform(6, 25, count)
    masks = np.array([(y - cy) ** 2 + (x - cx) ** 2 <= r * r for (cy, cx), r in zip(centers, radii, strict=True)])
    truth, found = [segment(m) for m in masks], instances(np.roll(masks, 1, axis=2), rng.random(count))
    metrics = InstanceMetrics(["nucleus"], things=[0])
    started = time.monotonic()
    for _ in range(images):
        metrics.update(truth, (512, 512), found)
    metrics.compute()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{images} images of 512x512, {count} instances each: peak {peak:.2f} GiB, {time.monotonic() - started:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="nuclei: folders with images/ and masks/")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--panopticapi", type=Path, help="a checkout")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory()
    if arguments.data:
        compare_ap(arguments.data, arguments.images, arguments.rounds)
    if arguments.panopticapi:
        compare_pq_files(arguments.panopticapi, arguments.rounds)
        compare_pq_maps(max(2, arguments.rounds // 2))


if __name__ == "__main__":
    main()
