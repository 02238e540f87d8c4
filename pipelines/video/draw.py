"""`python -m pipelines.video draw`: moving shapes in the layouts in which videos are published, both at once.

<out>/JPEGImages/480p/<video>/<frame>.jpg      DAVIS 2017
<out>/Annotations/480p/<video>/<frame>.png     the objects of the first frame
<out>/ImageSets/2017/val.txt
<out>/instances.json                           YouTube-VIS: all objects, whenever they come
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import files
from pipelines.data import rle
from pipelines.data.formats import shapes
from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.video import outputs
from pipelines.video.sources.moving import Movie, movie

QUALITY = 95
IMAGES, MASKS, LIST, INSTANCES = "JPEGImages/480p", "Annotations/480p", "ImageSets/2017/val.txt", "instances.json"


def run(out: Path, *, videos: int, seed: int, scene: Mapping[str, Any]) -> dict[str, Any]:
    """`scene`: frames, height, width, difficulty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty", do="name a new folder")
    names = [f"shapes-{index:03}" for index in range(videos)]
    described: dict[str, list[Any]] = {"videos": [], "annotations": []}
    with outputs.whole(out) as folder, Progress("draw", videos, "videos") as progress:
        for index, name in enumerate(names):
            drawn = movie(index, seed=seed, **scene)
            seen = _write(folder, name, drawn)
            _describe(described, name, drawn, seen)
            progress.update(index + 1)
        categories = [{"id": k, "name": c.name} for k, c in enumerate(shapes.classes()) if c.isthing]
        files.write_json(folder / INSTANCES, {**described, "categories": categories})
        files.write_text(folder / LIST, "".join(f"{name}\n" for name in names))
    return {"videos": videos, "objects": len(described["annotations"])}


def _write(out: Path, name: str, drawn: Movie) -> list[dict[int, np.ndarray]]:
    """Frames and masks; of each frame the objects' run lengths."""
    (out / IMAGES / name).mkdir(parents=True)
    (out / MASKS / name).mkdir(parents=True)
    first, seen = np.zeros(0, np.uint8), list[dict[int, np.ndarray]]()
    for k, frame in enumerate(drawn):
        there = np.unique(frame.ids[frame.ids > 0])
        first = there if k == 0 else first
        (out / IMAGES / name / f"{k:05}.jpg").write_bytes(outputs.jpeg(frame.image, QUALITY))
        # DAVIS counts the objects of the first frame, from 1 to their number.
        numbered = np.zeros(256, np.uint8)
        numbered[first] = np.arange(1, first.size + 1)
        outputs.write_ids(out / MASKS / name / f"{k:05}.png", numbered[frame.ids])
        seen.append({int(i): rle.encode(frame.ids == i) for i in there})
    return seen


def _describe(described: dict[str, list[Any]], name: str, drawn: Movie, seen: list[dict[int, np.ndarray]]) -> None:
    height, width, frames = drawn.layout.height, drawn.layout.width, range(len(seen))
    video = len(described["videos"]) + 1
    file_names = [f"{name}/{k:05}.jpg" for k in frames]
    described["videos"].append({"id": video, "height": height, "width": width, "file_names": file_names})
    for identity, category in drawn.categories.items():
        masks = [seen[k].get(identity) for k in frames]
        if any(mask is not None for mask in masks):
            described["annotations"].append(
                {
                    "id": len(described["annotations"]) + 1,
                    "video_id": video,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentations": [
                        None if m is None else {"size": [height, width], "counts": rle.to_string(m)} for m in masks
                    ],
                    "areas": [None if m is None else rle.area(m) for m in masks],
                    "bboxes": [None if m is None else rle.box(m, height) for m in masks],
                }
            )
