"""One record as one Arrow row, both ways. Images stay encoded, semantic maps are lz4, run lengths are integers.

`storage="decoded"` keeps raw pixels instead: some ten times the size, and a crop then reads only the rows of pixels
that it needs.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

from pipelines.data.faults import Fault
from pipelines.data.schema import Record, Segment, Split
from pipelines.data.segments import Segments
from pipelines.data.statistics import Measures, decode, measure

VERSION = 2
CODEC = "lz4"
# Its slow form: half the bytes and half the time to read of the fast one, and read in the same way.
WRITER = pa.Codec(CODEC, compression_level=3)
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
PIXELS = pa.struct({"value": pa.int32(), "count": pa.int64()})
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
        "pixels": pa.list_(PIXELS),  # of each value in the semantic map
        "sums": pa.list_(pa.int64(), 6),  # of R, G, B and of their squares
    },
    metadata={"maskline": str(VERSION), "semantic": CODEC},
)


def encode(record: Record, storage: Storage = "encoded") -> pa.RecordBatch:
    """The row of a record: a batch of one, made of the arrays that are there and not of Python objects."""
    measures = measure(record)
    image, image_format = record.image, record.format
    semantic: Any = np.ascontiguousarray(record.semantic)
    if storage == "decoded":
        image, image_format = np.ascontiguousarray(decode(record)).data.cast("B"), "raw"
    semantic = semantic.data.cast("B") if image_format == "raw" else WRITER.compress(semantic)
    seen = np.flatnonzero(measures.pixels)
    values: dict[str, Any] = {
        "id": [record.id],
        "split": [record.split],
        "image": _blob(image),
        "image_format": [image_format],
        "height": [record.height],
        "width": [record.width],
        "image_sha256": [hashlib.sha256(image).hexdigest()],
        "semantic": _blob(semantic),
        "segments": _one_list(_segments(record.segments)),
        "mended": [[{"kind": f.kind, "file": f.file, "reason": f.reason} for f in record.mended]],
        "pixels": _one_list(_struct(PIXELS, seen, measures.pixels[seen])),
        "sums": pa.FixedSizeListArray.from_arrays(pa.array(measures.sums.ravel(), pa.int64()), 6),
    }
    columns = [v if isinstance(v, pa.Array) else pa.array(v, SCHEMA.field(name).type) for name, v in values.items()]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _blob(data: Any) -> pa.Array:
    """One large_binary value, without a copy."""
    buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
    ends = pa.py_buffer(np.array([0, buffer.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, buffer])


def _one_list(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def _struct(type: pa.StructType, *columns: Any) -> pa.Array:
    fields = [type.field(k) for k in range(type.num_fields)]
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _segments(segments: Sequence[Segment]) -> pa.Array:
    runs = [s.counts for s in segments]
    ends = np.cumsum([0, *(r.size for r in runs)], dtype=np.int32)
    counts = np.concatenate(runs) if runs else np.zeros(0, np.uint32)
    boxes = np.array([s.bbox for s in segments], np.int32).reshape(-1)
    return _struct(
        SEGMENT,
        np.array([s.category for s in segments], np.int32),
        pa.FixedSizeListArray.from_arrays(pa.array(boxes, pa.int32()), 4),
        np.array([s.area for s in segments], np.int64),
        np.array([s.iscrowd for s in segments], bool),
        pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(counts, pa.uint32())),
    )


class RowViews:
    """A batch as numpy views: a row costs slices, and no Python object for a value that nobody asked for."""

    def __init__(self, batch: pa.RecordBatch):
        self.columns = {name: batch.column(name) for name in SCHEMA.names}
        self.height, self.width = (self.columns[name].to_numpy() for name in ("height", "width"))
        self.id, self.split, self.format = (_Values(self.columns[name]) for name in ("id", "split", "image_format"))
        self.image, self.semantic = (_Values(self.columns[name]) for name in ("image", "semantic"))
        segments = self.columns["segments"]
        struct = segments.values
        self.first, self.mended = segments.offsets.to_numpy(), self.columns["mended"].offsets.to_numpy()
        self.category, self.area = struct.field("category").to_numpy(), struct.field("area").to_numpy()
        self.iscrowd = struct.field("iscrowd").to_numpy(zero_copy_only=False)
        self.bbox = struct.field("bbox").values.to_numpy().reshape(-1, 4)
        counts = struct.field("counts")
        self.counts, self.run = counts.values.to_numpy(), counts.offsets.to_numpy()

    def record(self, i: int) -> Record:
        height, width, image_format = int(self.height[i]), int(self.width[i]), self.format.text(i)
        semantic = self.semantic[i]
        if image_format != "raw":
            semantic = pa.decompress(pa.py_buffer(semantic), height * width, CODEC)
        identity = self.id.text(i)
        mended: Any = self.columns["mended"][i].as_py() if self.mended[i] < self.mended[i + 1] else ()
        return Record(
            id=identity,
            split=cast("Split", self.split.text(i)),
            image=self.image[i],
            format=image_format,
            height=height,
            width=width,
            semantic=np.frombuffer(semantic, np.uint8).reshape(height, width),
            # A sequence that makes them when they are asked for: those who need arrays take its arrays.
            segments=cast("tuple[Segment, ...]", self._segments(i)),
            mended=tuple(Fault(**fault, item=identity) for fault in mended),
        )

    def measures(self, i: int) -> Measures:
        """As `statistics.measure` gave them when the row was made."""
        pixels, sums = np.zeros(256, np.int64), np.array(self.columns["sums"][i].as_py(), np.int64).reshape(2, 3)
        for entry in self.columns["pixels"][i].as_py():
            pixels[entry["value"]] = entry["count"]
        mine = slice(self.first[i], self.first[i + 1])
        whole = self.category[mine][~self.iscrowd[mine]]
        return Measures(
            split=cast("Split", self.split.text(i)),
            size=(int(self.height[i]), int(self.width[i])),
            pixels=pixels,
            instances=np.bincount(whole, minlength=256).astype(np.int64),
            sums=sums,
        )

    def _segments(self, i: int) -> Segments | tuple[()]:
        low, high = int(self.first[i]), int(self.first[i + 1])
        if low == high:
            return ()
        start, stop = int(self.run[low]), int(self.run[high])
        return Segments(
            category=self.category[low:high],
            bbox=self.bbox[low:high],
            area=self.area[low:high],
            iscrowd=self.iscrowd[low:high],
            counts=self.counts[start:stop],
            offsets=self.run[low : high + 1] - start,
        )


class _Values:
    """The values of a column of strings or of bytes, as views."""

    def __init__(self, column: pa.Array):
        _, offsets, data = column.buffers()
        wide = pa.types.is_large_binary(column.type)
        self.offsets = np.frombuffer(offsets, np.int64 if wide else np.int32)[column.offset :]
        self.data = memoryview(data if data is not None else b"").cast("B")

    def __getitem__(self, i: int) -> memoryview:
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def text(self, i: int) -> str:
        return str(self[i], "utf-8")
