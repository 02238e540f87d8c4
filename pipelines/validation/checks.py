"""What validation judges: the dataset's shards as five tables, measured in one pass that keeps no pixels.

Great Expectations looks at one or two columns of one table, so whatever needs pixels, masks or another row is
measured here and becomes a column. Threads inspect the images, a bounded number at a time, since OpenCV and the hashes
work without Python's lock; the tables are filled in the readers' order, whatever the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Manifest, Record
from pipelines.data.shards import ShardReader
from pipelines.validation import drift, leakage
from pipelines.validation.balance import Tally
from pipelines.validation.inspection import Identity, Inspection, Row, inspect
from pipelines.validation.intake import Intake

IMAGES = {
    "id": "object",
    "split": "object",
    "format": "object",
    "content_format": "object",  # by the first bytes
    "height": "int64",
    "width": "int64",
    "decodes": "bool",
    "size": "object",  # "width x height" of the semantic map
    "decoded_size": "object",  # and of the picture
    "labelled": "float64",  # fractions of the image's pixels, here and below
    "classes": "int64",  # how many declared ones are seen
    "undeclared": "object",  # class ids, or None
    "instances": "int64",
    "overlap": "float64",  # in more than one segment
    "uncovered": "float64",  # of a thing class and in no segment
    "copy_of": "object",  # the same picture in an earlier split, or None
    "repeats": "object",  # the same picture, earlier in this split
    "reencoding_of": "object",  # a lookalike in an earlier split with the same labels
    "resembles": "object",  # any other lookalike there
}
SEGMENTS = {
    "id": "object",  # of its image
    "split": "object",
    "segment": "int64",  # its position there
    "category": "int64",
    "iscrowd": "bool",
    "declared": "bool",
    "isthing": "bool",
    "fills": "bool",  # the runs add up to the image
    "area": "int64",
    "measured_area": "int64",
    "box": "object",  # "x y width height"
    "measured_box": "object",
    "agreement": "float64",  # of its labelled pixels, how many have its class in the semantic map
}
CHUNK = 4096  # rows that are held as Python objects
AHEAD = 4  # images per thread that wait for their turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The dataset, measured."""

    manifest: Manifest
    images: pd.DataFrame  # a row per image, in the readers' order: train, val, test
    segments: pd.DataFrame  # a row per segment
    coverage: pd.DataFrame  # a row per split and class
    splits: pd.DataFrame  # a row per split
    dataset: pd.DataFrame  # one row
    pixels: dict[str, np.ndarray]  # split -> int64[256]: of every value in the semantic maps, declared or not
    tally: Tally  # of the training split
    intake: Intake


def tabulate(
    folder: Path, intake: Intake, *, workers: int = 1, advance: Callable[[int], None] = lambda done: None
) -> Tables:
    """Measure what ingest wrote to `folder` and said in its `intake`; `advance` is told how many images are done."""
    readers = {split: ShardReader(folder, split) for split in SPLITS}
    manifest = readers["train"].manifest
    image_rows, segment_rows = _Frame(IMAGES), _Frame(SEGMENTS)
    pixels = {split: np.zeros(256, np.int64) for split in SPLITS}
    tally = Tally(len(manifest.classes))
    identities: list[Identity] = []
    records = (record for reader in readers.values() for record in reader)
    for found in _inspected(records, manifest.classes, workers):
        image_rows.add([found.image])
        segment_rows.add(found.segments)
        pixels[found.image["split"]] += found.counts
        if found.image["split"] == "train":
            tally.add(found.counts)
        identities.append(found.identity)
        advance(len(identities))
    images, segments = image_rows.whole(), segment_rows.whole()
    images = images.assign(**_leaks(images, identities))
    coverage = _coverage(images, segments, pixels, manifest)
    return Tables(
        manifest=manifest,
        images=images,
        segments=segments,
        coverage=coverage,
        splits=_splits(images, segments, pixels, manifest),
        dataset=_dataset(coverage, pixels, manifest, intake),
        pixels=pixels,
        tally=tally,
        intake=intake,
    )


def _inspected(records: Iterable[Record], classes: tuple[ClassInfo, ...], workers: int) -> Iterator[Inspection]:
    """In the records' order. Records are read here, one shard after the other, and inspected in threads."""
    waiting: deque[Future[Inspection]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for record in records:
                waiting.append(pool.submit(inspect, record, classes))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Frame:
    """Rows on their way into a data frame of known columns and types."""

    def __init__(self, columns: dict[str, str]):
        self.columns = columns
        self._rows: list[Row] = []
        self._parts = [self._part()]

    def add(self, rows: list[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= CHUNK:
            self._parts.append(self._part())

    def whole(self) -> pd.DataFrame:
        return pd.concat([*self._parts, self._part()], ignore_index=True)

    def _part(self) -> pd.DataFrame:
        rows, self._rows = self._rows, []
        return pd.DataFrame({c: pd.Series([row.get(c) for row in rows], dtype=t) for c, t in self.columns.items()})


def _leaks(images: pd.DataFrame, identities: list[Identity]) -> dict[str, pd.Series]:
    """The columns that name another image. An exact copy is not said to be a lookalike too."""
    splits, ids = images["split"].tolist(), images["id"].tolist()
    across, within = leakage.copies([i.pixels for i in identities], splits)
    prints = np.stack([i.fingerprint for i in identities]) if identities else np.empty((0, leakage.NOTHING.size))
    alike = [
        like if copy is None else None for copy, like in zip(across, leakage.lookalikes(prints, splits), strict=True)
    ]
    labels = [i.labels for i in identities]
    same = [k is not None and labels[i] is not None and labels[i] == labels[k] for i, k in enumerate(alike)]

    def names(rows: Sequence[int | None]) -> pd.Series:
        return pd.Series([None if k is None else ids[k] for k in rows], dtype="object")

    return {
        "copy_of": names(across),
        "repeats": names(within),
        "reencoding_of": names([k if s else None for k, s in zip(alike, same, strict=True)]),
        "resembles": names([None if s else k for k, s in zip(alike, same, strict=True)]),
    }


def _coverage(
    images: pd.DataFrame, segments: pd.DataFrame, pixels: dict[str, np.ndarray], manifest: Manifest
) -> pd.DataFrame:
    sizes = images["split"].value_counts()
    instances = segments[~segments["iscrowd"]].groupby(["split", "category"]).size()
    rows = [
        {
            "split": split,
            "class": info.name,
            "kind": "thing" if info.isthing else "stuff",
            "images": int(sizes.get(split, 0)),  # of the split, whether they show the class or not
            "pixels": int(pixels[split][k]),
            "instances": int(instances.get((split, k), 0)),
        }
        for split in SPLITS
        for k, info in enumerate(manifest.classes)
    ]
    return pd.DataFrame(rows, columns=["split", "class", "kind", "images", "pixels", "instances"])


def _splits(
    images: pd.DataFrame, segments: pd.DataFrame, pixels: dict[str, np.ndarray], manifest: Manifest
) -> pd.DataFrame:
    sizes = {
        "image_size": drift.of_splits(drift.image_bins(images), images["split"]),
        "object_size": drift.of_splits(drift.object_bins(images, segments), images["split"]),
    }

    def row(split: str) -> Row:
        mine = images[images["split"] == split]
        train, here = (pixels[s][: len(manifest.classes)] for s in ("train", split))
        return {
            "split": split,
            "images": len(mine),
            "declared_images": manifest.images[split],
            "instances": int(mine["instances"].sum()),
            "declared_instances": manifest.instances[split],
            "ignored": float(pixels[split][IGNORE] / max(pixels[split].sum(), 1)),
            "drift": drift.total_variation(train, here) if len(mine) else 0.0,
            **{f"{name}_distance": found[split].distance for name, found in sizes.items()},
            **{f"{name}_chance": found[split].chance for name, found in sizes.items()},
            **{f"{name}_drift": found[split].proven for name, found in sizes.items()},
        }

    return pd.DataFrame([row(split) for split in SPLITS])


def _dataset(coverage: pd.DataFrame, pixels: dict[str, np.ndarray], manifest: Manifest, intake: Intake) -> pd.DataFrame:
    seen = np.flatnonzero(np.sum(list(pixels.values()), axis=0)).tolist()
    trained = coverage[(coverage["split"] == "train") & (coverage["kind"] == "thing")]
    row = {
        "name": manifest.name,
        "classes": len(manifest.classes),
        "things": len(manifest.things),
        "train_instances": int(trained["instances"].sum()),
        "binary": seen == [0, IGNORE] and len(manifest.classes) > 1,
        "quarantined": intake.quarantined,
        "statistics_agree": tuple(pixels["train"][: len(manifest.classes)].tolist()) == manifest.pixels_per_class,
    }
    return pd.DataFrame([row])
