"""One record as one Arrow row, both ways. Images stay encoded, semantic maps are lz4, run lengths are integers."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.data.schema import Record, Segment
from pipelines.data.statistics import Measures, measure

VERSION = 1
CODEC = "lz4"

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
        "semantic": pa.binary(),
        "segments": pa.list_(SEGMENT),
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


def encode(record: Record) -> Row:
    return Row(
        values={
            "id": record.id,
            "split": record.split,
            "image": record.image,
            "image_format": record.format,
            "height": record.height,
            "width": record.width,
            "image_sha256": hashlib.sha256(record.image).hexdigest(),
            "semantic": pa.compress(np.ascontiguousarray(record.semantic), codec=CODEC, asbytes=True),
            "segments": [{name: getattr(s, name) for name in SEGMENT.names} for s in record.segments],
        },
        measures=measure(record),
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

        height, width = value("height"), value("width")
        semantic = pa.decompress(self.columns["semantic"][i].as_buffer(), height * width, CODEC)
        return Record(
            id=value("id"),
            split=value("split"),
            image=value("image"),
            format=value("image_format"),
            height=height,
            width=width,
            semantic=np.frombuffer(semantic, np.uint8).reshape(height, width),
            segments=tuple(self._segment(k) for k in range(self.first[i], self.first[i + 1])),
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
