"""Arrow shards and their manifest: written once, whole or not at all; read by row through a memory map.

A shard is an uncompressed Arrow IPC file (zero copy; a compressed one decompresses a whole batch per row, and a
Parquet row group costs milliseconds). No Arrow file notices a flipped bit, so the manifest holds a sha256 of each
shard, checked when a reader first opens it, and one of itself. What the labels mean is not judged here: formats and
`validate` do that.
"""

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import files
from pipelines.data import stores
from pipelines.data.rows import SCHEMA, VERSION, RowViews, Storage, encode
from pipelines.data.schema import SPLITS, ClassInfo, Manifest, Record, ShardInfo, Split
from pipelines.data.statistics import Statistics
from pipelines.data.stores import REDO
from pipelines.data.writer import ShardWriter
from pipelines.errors import DataError

# Shards that a reader holds: each is a memory map, of which Linux gives a process 65530, and from a bucket an open file
# too, of which it often has 1024; there may be a reader for each split.
MAPPED = 256


def write(
    records: Iterable[Record],
    *,
    classes: Sequence[ClassInfo],
    name: str,
    format: str,
    out: Path,
    rows_per_shard: int,
    storage: Storage = "encoded",
) -> Manifest:
    """All records, in this process, to out/shards/*.arrow, then the manifest to out/dataset.json."""
    for old in ("dataset.json", "shards"):
        files.remove(out / old)
    statistics, seen = Statistics(), set[str]()
    infos: dict[str, list[ShardInfo]] = {split: [] for split in SPLITS}
    with ExitStack() as stack:
        writers: dict[Split, ShardWriter] = {}
        for record in records:
            if record.id in seen:
                raise DataError(f"two records have the id '{record.id}'", do="give each image its own name")
            seen.add(record.id)
            row = encode(record, storage)
            statistics.update(RowViews(row).measures(0))
            path = f"shards/{record.split}-{len(infos[record.split]):05}.arrow"
            if record.split not in writers:
                writers[record.split] = stack.enter_context(ShardWriter(out / path))
            writers[record.split].add(row)
            if writers[record.split].rows == rows_per_shard:
                infos[record.split].append(_finished(writers.pop(record.split), path, record.split))
        for split, writer in writers.items():
            path = f"shards/{split}-{len(infos[split]):05}.arrow"
            infos[split].append(_finished(writer, path, split))
    found = [info for split in SPLITS for info in infos[split]]
    return write_manifest(out, found, statistics, classes=classes, name=name, format=format)


def _finished(writer: ShardWriter, path: str, split: Split) -> ShardInfo:
    writer.__exit__(None, None, None)
    return writer.info(path, split)


def write_manifest(
    out: Path,
    shards: Sequence[ShardInfo],
    statistics: Statistics,
    *,
    classes: Sequence[ClassInfo],
    name: str,
    format: str,
    store: str = "",
) -> Manifest:
    """out/dataset.json, which makes a dataset of the shards."""
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
        shards=tuple(shards),
        store=store,
        version=VERSION,
    )
    raw = manifest.to_json()
    files.write_json(out / "dataset.json", {**raw, "checksum": files.digest(raw)})
    return manifest


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
    outside = [s.path for s in manifest.shards if not stores.names_safely(manifest.store, s)]
    if outside:
        where = manifest.store or "its folder"
        raise DataError(f"{path} names shards outside {where}", outside, do=REDO)
    return manifest


class ShardReader:
    """The records of one split, by index. Shards are mapped on first use in each process, so that a reader can be
    sent to others, and let go when `MAPPED` others were used since; the arrays of a record are read-only views, which
    keep what they show mapped, or fresh."""

    def __init__(self, folder: Path, split: str, *, verify: bool = True):
        self.folder, self.split, self.verify = folder, split, verify
        self.manifest = read_manifest(folder)
        self._infos = [s for s in self.manifest.shards if s.split == split]
        self._ends = list(accumulate(s.rows for s in self._infos))
        self._open: OrderedDict[int, _Shard] = OrderedDict()  # the one used last is the last
        self._checked: dict[int, tuple[int, int]] = {}  # shard -> the file that was found sound

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_checked": {}}

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
        """Some columns of all rows: ids and sizes of a million images are no million records."""
        schema, sink = SCHEMA.empty_table().select(list(columns)).schema, pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as stream:  # a copy, since views would keep every shard mapped
            for k in range(len(self._infos)):
                for batch in self._shard(k).batches:
                    stream.write_batch(batch.select(list(columns)))
        return pa.ipc.open_stream(sink.getvalue()).read_all()

    def _shard(self, k: int) -> "_Shard":
        shard = self._open.pop(k, None) or self._opened(k)
        self._open[k] = shard
        while len(self._open) > MAPPED:
            self._open.popitem(last=False)
        return shard

    def _opened(self, k: int) -> "_Shard":
        """Checks read all of it: made once, unless another file has come to its place."""
        info, store = self._infos[k], self.manifest.store
        file = (0, 0) if store else _identity(self.folder / info.path)
        known = self._checked.get(k) == file
        shard = _Shard(self.folder, store, info, verify=self.verify and not known, validate=not known)
        self._checked[k] = file
        return shard


def _identity(path: Path) -> tuple[int, int]:
    """Another one for whatever was written since."""
    try:
        stat = path.stat()
    except OSError:  # which opening it tells
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def _locate(ends: list[int], i: int) -> tuple[int, int]:
    """Which part holds row i, and where in it."""
    k = bisect_right(ends, i)
    return k, i - (ends[k - 1] if k else 0)


class _Shard:
    """One mapped file."""

    def __init__(self, folder: Path, store: str, info: ShardInfo, *, verify: bool, validate: bool):
        path = f"{store}: {info.path}" if store else folder / info.path
        self._path, self._bytes = None if store else folder / info.path, info.bytes
        try:
            reader = pa.ipc.open_file(stores.source(folder, store, info, verify=verify))
            self._inode = self._path.stat().st_ino if self._path else 0
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in self.batches if validate else ():
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
        self._check_whole()
        return self._views[k].record(row)

    def _check_whole(self) -> None:
        """A mapped file that is cut ends its reader by SIGBUS, without a word: look before. One that was replaced or
        removed is another file, and the mapped one is whole."""
        try:
            now = self._path.stat() if self._path else None
        except OSError:
            return
        if now and now.st_ino == self._inode and now.st_size < self._bytes:
            raise DataError(f"shard {self._path} was cut while it was read", do=REDO)
