"""Arrow shards and their manifest: written once, whole or not at all; read by row through a memory map.

A shard is an uncompressed Arrow IPC file (zero copy; a compressed one decompresses a whole batch per row, and a
Parquet row group costs milliseconds). No Arrow file notices a flipped bit, so the manifest holds a sha256 of each
shard, checked when a shard is opened, and one of itself. What the labels mean is not judged here: formats and
`validate` do that.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa

from pipelines import files
from pipelines.data.rows import SCHEMA, VERSION, Row, RowViews, encode
from pipelines.data.schema import SPLITS, ClassInfo, Manifest, Record, ShardInfo, Split
from pipelines.data.statistics import Statistics
from pipelines.errors import DataError

REDO = "dvc repro --force ingest"
BATCH_BYTES = 16 << 20  # a writer holds at most about this much per split


def write(
    records: Iterable[Record],
    *,
    classes: Sequence[ClassInfo],
    name: str,
    format: str,
    out: Path,
    rows_per_shard: int,
) -> Manifest:
    """All records to out/shards/*.arrow, then the manifest to out/dataset.json."""
    return write_rows(
        map(encode, records), classes=classes, name=name, format=format, out=out, rows_per_shard=rows_per_shard
    )


def write_rows(
    rows: Iterable[Row], *, classes: Sequence[ClassInfo], name: str, format: str, out: Path, rows_per_shard: int
) -> Manifest:
    """`write` for rows that workers have encoded. The bytes follow from the rows and their order alone."""
    for old in ("dataset.json", "shards"):
        files.remove(out / old)
    statistics, seen = Statistics(), set[str]()
    with ExitStack() as stack:
        splits = cast("tuple[Split, ...]", SPLITS)
        writers = {s: stack.enter_context(_SplitWriter(out, s, rows_per_shard)) for s in splits}
        for row in rows:
            if row.values["id"] in seen:
                raise DataError(f"two records have the id '{row.values['id']}'", do="give each image its own name")
            seen.add(row.values["id"])
            statistics.update(row.measures)
            writers[row.measures.split].add(row)
    shards = tuple(info for writer in writers.values() for info in writer.done)
    mean, std = statistics.mean_std()
    manifest = Manifest(
        name=name,
        format=format,
        hash=files.digest([asdict(c) for c in classes], [s.sha256 for s in shards]),
        classes=tuple(classes),
        images=statistics.images,
        instances=statistics.instances,
        pixels_per_class=statistics.pixels_per_class(len(classes)),
        instances_per_class=statistics.instances_per_class(len(classes)),
        ignored_pixels=statistics.ignored_pixels,
        mean=mean,
        std=std,
        max_size=(statistics.height, statistics.width),
        shards=shards,
        version=VERSION,
    )
    raw = manifest.to_json()
    files.write_json(out / "dataset.json", {**raw, "checksum": files.digest(raw)})
    return manifest


class _SplitWriter:
    """One split's shards, one after the other. As a context manager: an error drops the one that is open."""

    def __init__(self, out: Path, split: Split, rows_per_shard: int):
        self.out, self.split, self.rows_per_shard = out, split, rows_per_shard
        self.done: list[ShardInfo] = []
        self._file: ExitStack | None = None
        self._sink: Any = None
        self._pending: list[Row] = []
        self._pending_bytes = self._rows = 0

    def __enter__(self) -> "_SplitWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._file is None:
            return
        if error is None:
            self._finish()
        else:
            self._file.__exit__(kind, error, trace)

    @property
    def _path(self) -> str:
        return f"shards/{self.split}-{len(self.done):05}.arrow"

    def add(self, row: Row) -> None:
        if self._file is None:
            self._file = ExitStack()
            file = self._file.enter_context(files.replacing(self.out / self._path, "wb"))
            self._sink = self._file.enter_context(pa.ipc.new_file(file, SCHEMA))
        self._pending.append(row)
        self._pending_bytes += row.nbytes
        self._rows += 1
        if self._rows == self.rows_per_shard:
            self._finish()
        elif self._pending_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._sink.write_batch(pa.RecordBatch.from_pylist([row.values for row in self._pending], schema=SCHEMA))
        self._pending, self._pending_bytes = [], 0

    def _finish(self) -> None:
        assert self._file is not None  # noqa: S101 - only an open shard is finished
        with self._file:
            self._flush()
        path = self.out / self._path
        size, sha256 = path.stat().st_size, files.sha256(path)
        self.done.append(ShardInfo(path=self._path, split=self.split, rows=self._rows, bytes=size, sha256=sha256))
        self._file, self._rows = None, 0


def read_manifest(folder: Path) -> Manifest:
    """folder/dataset.json, or a DataError that says what to do."""
    path = folder / "dataset.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version, checksum = raw.get("version"), raw.pop("checksum", None)
    except FileNotFoundError:
        raise DataError(f"{path} is missing", do="dvc repro ingest") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", do=REDO) from None
    if version != VERSION:
        raise DataError(f"{path} has version {version}, this build reads {VERSION}", do=REDO)
    if files.digest(raw) != checksum:
        raise DataError(f"{path} is damaged: sha256 mismatch, it is not what ingest wrote", do=REDO)
    try:
        manifest = Manifest.from_json(raw)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a manifest: {error}", do=REDO) from None
    outside = [s.path for s in manifest.shards if PurePosixPath(s.path).parent != PurePosixPath("shards")]
    if outside:
        raise DataError(f"{path} names shards outside its folder", outside, do=REDO)
    return manifest


class ShardReader:
    """The records of one split, by index. Shards are mapped on first use in each process, so that a reader can be
    sent to others; the arrays of a record are read-only views or fresh."""

    def __init__(self, folder: Path, split: str, *, verify: bool = True):
        self.folder, self.split, self.verify = folder, split, verify
        self.manifest = read_manifest(folder)
        self._infos = [s for s in self.manifest.shards if s.split == split]
        self._ends = list(accumulate(s.rows for s in self._infos))
        self._open: dict[int, _Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> Record:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        k, row = _locate(self._ends, i % len(self))
        return self._shard(k)[row]

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def table(self, *columns: str) -> pa.Table:
        """Some columns of all rows, without a copy: ids and sizes of a million images are no million records."""
        batches = [batch for k in range(len(self._infos)) for batch in self._shard(k).batches]
        return pa.Table.from_batches(batches, SCHEMA).select(list(columns))

    def _shard(self, k: int) -> "_Shard":
        if k not in self._open:
            self._open[k] = _Shard(self.folder, self._infos[k], verify=self.verify)
        return self._open[k]


def _locate(ends: list[int], i: int) -> tuple[int, int]:
    """Which part holds row i, and where in it."""
    k = bisect_right(ends, i)
    return k, i - (ends[k - 1] if k else 0)


class _Shard:
    """One mapped file."""

    def __init__(self, folder: Path, info: ShardInfo, *, verify: bool):
        path = folder / info.path
        try:
            if path.stat().st_size != info.bytes or (verify and files.sha256(path) != info.sha256):
                raise DataError(f"sha256 mismatch: shard {path} is not what ingest wrote", do=REDO)
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in self.batches:
                batch.validate(full=True)  # offsets that point outside would be read by the views below
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"shard {path} cannot be read: {error}", do=REDO) from None
        rows = sum(b.num_rows for b in self.batches)
        if not reader.schema.equals(SCHEMA, check_metadata=True) or rows != info.rows:
            raise DataError(f"shard {path} has another schema or other rows than the manifest says", do=REDO)
        self._ends = list(accumulate(b.num_rows for b in self.batches))
        self._views = [RowViews(batch) for batch in self.batches]

    def __getitem__(self, i: int) -> Record:
        k, row = _locate(self._ends, i)
        return self._views[k].record(row)
