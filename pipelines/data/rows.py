"""One record as one Arrow row, both ways. Images stay encoded, semantic maps are lz4, run lengths are integers.

`storage="decoded"` keeps raw pixels instead: some ten times the size, and a crop then reads only the rows of pixels
that it needs.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipelines.data.faults import Fault
from pipelines.data.schema import Record, Segment
from pipelines.data.statistics import Measures, decode, measure

VERSION = 2
CODEC = "lz4"
Storage = Literal["encoded", "decoded"]

SEGMENT = pa.struct(
    {
        "category": pa.int32(),
        "bbox": pa.list_(pa.int32(), 4),
        "area": pa.int64(),
        "iscrowd": pa.bool_(),
        "counts": pa.list_(pa.uint32()),
    }
)
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "split": pa.string(),
        "image": pa.large_binary(),
        "image_format": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "image_sha256": pa.string(),
        "semantic": pa.large_binary(),  # lz4, or as it is beside a raw image
        "segments": pa.list_(SEGMENT),
        "mended": pa.list_(pa.struct({"kind": pa.string(), "file": pa.string(), "reason": pa.string()})),
        "pixels": pa.list_(pa.struct({"value": pa.int32(), "count": pa.int64()})),  # of each value in the semantic map
        "sums": pa.list_(pa.int64(), 6),  # of R, G, B and of their squares
    },
    metadata={"maskline": str(VERSION), "semantic": CODEC},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A record as its shard holds it, with its share of the statistics: what a worker hands to the writer."""

    values: dict[str, Any]
    measures: Measures

    @property
    def nbytes(self) -> int:
        counts = sum(int(segment["counts"].nbytes) for segment in self.values["segments"])
        return len(self.values["image"]) + len(self.values["semantic"]) + counts


def encode(record: Record, storage: Storage = "encoded") -> Row:
    measures = measure(record)
    image, image_format = record.image, record.format
    semantic: Any = np.ascontiguousarray(record.semantic)
    if storage == "decoded":
        image, image_format = np.ascontiguousarray(decode(record)).tobytes(), "raw"
    semantic = semantic.tobytes() if image_format == "raw" else pa.compress(semantic, codec=CODEC, asbytes=True)
    seen = np.flatnonzero(measures.pixels)
    return Row(
        values={
            "id": record.id,
            "split": record.split,
            "image": image,
            "image_format": image_format,
            "height": record.height,
            "width": record.width,
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "semantic": semantic,
            "segments": [{name: getattr(s, name) for name in SEGMENT.names} for s in record.segments],
            "mended": [{"kind": f.kind, "file": f.file, "reason": f.reason} for f in record.mended],
            "pixels": [{"value": k, "count": n} for k, n in zip(seen.tolist(), measures.pixels[seen].tolist(), strict=True)],
            "sums": measures.sums.ravel().tolist(),
        },
        measures=measures,
    )


class RowViews:
    """A batch as numpy views, so that a row costs slices and not a Python object per run length."""

    def __init__(self, batch: pa.RecordBatch):
        self.columns = {name: batch.column(name) for name in SCHEMA.names}
        segments = self.columns["segments"]
        struct = segments.values
        self.first = segments.offsets.to_numpy()
        self.category, self.area = struct.field("category").to_numpy(), struct.field("area").to_numpy()
        self.iscrowd = struct.field("iscrowd").to_numpy(zero_copy_only=False)
        self.bbox = struct.field("bbox").values.to_numpy().reshape(-1, 4)
        counts = struct.field("counts")
        self.counts, self.run = counts.values.to_numpy(), counts.offsets.to_numpy()

    def record(self, i: int) -> Record:
        def value(name: str) -> Any:
            return self.columns[name][i].as_py()

        height, width, image_format = value("height"), value("width"), value("image_format")
        semantic = self.columns["semantic"][i].as_buffer()
        if image_format != "raw":
            semantic = pa.decompress(semantic, height * width, CODEC)
        identity = value("id")
        return Record(
            id=identity,
            split=value("split"),
            image=memoryview(self.columns["image"][i].as_buffer()).cast("B"),
            format=image_format,
            height=height,
            width=width,
            semantic=np.frombuffer(semantic, np.uint8).reshape(height, width),
            segments=tuple(self._segment(k) for k in range(self.first[i], self.first[i + 1])),
            mended=tuple(Fault(**fault, item=identity) for fault in value("mended")),
        )

    def measures(self, i: int) -> Measures:
        """As `statistics.measure` gave them when the row was made."""
        pixels, sums = np.zeros(256, np.int64), np.array(self.columns["sums"][i].as_py(), np.int64).reshape(2, 3)
        for entry in self.columns["pixels"][i].as_py():
            pixels[entry["value"]] = entry["count"]
        mine = slice(self.first[i], self.first[i + 1])
        whole = self.category[mine][~self.iscrowd[mine]]
        return Measures(
            split=self.columns["split"][i].as_py(),
            size=(self.columns["height"][i].as_py(), self.columns["width"][i].as_py()),
            pixels=pixels,
            instances=np.bincount(whole, minlength=256).astype(np.int64),
            sums=sums,
        )

    def _segment(self, k: int) -> Segment:
        x, y, width, height = self.bbox[k].tolist()
        return Segment(
            category=int(self.category[k]),
            bbox=(x, y, width, height),
            area=int(self.area[k]),
            iscrowd=bool(self.iscrowd[k]),
            counts=self.counts[self.run[k] : self.run[k + 1]],
        )
