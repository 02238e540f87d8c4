"""One shard's worth of ingest, wherever it runs: read the items that are new, carry over the rows that are not."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.data import stores
from pipelines.data.faults import Fault, FaultError, Faults, FaultsError
from pipelines.data.formats.source import Item
from pipelines.data.ingest import parallel
from pipelines.data.ingest.plan import Carried, Job, Sidecar, shards_at
from pipelines.data.rows import SCHEMA, RowViews, Storage, encode
from pipelines.data.schema import Record, ShardInfo
from pipelines.data.statistics import Statistics
from pipelines.data.writer import ShardWriter

OPEN = 4  # shards that rows are taken from, held at a time


@dataclass(kw_only=True, slots=True)
class Done:
    """What became of a job."""

    info: ShardInfo | None = None  # None where no image could be used
    statistics: Statistics = field(default_factory=Statistics)
    faults: Faults = field(default_factory=Faults)
    read: int = 0  # rows that were made, and not carried over


class ShardTask:
    """Called with one job after the other; holds the process that reads, and the shards that rows are taken from."""

    def __init__(
        self,
        *,
        read: Callable[[Any], Record],
        state: Path,
        earlier: Path,
        storage: Storage,
        isolated: bool,
        store: str = "",
    ):
        self.state, self.earlier, self.store, self.isolated = state, earlier, store, isolated
        self.function = partial(_row, read=read, storage=storage)
        self._pool: parallel.Pool | None = None
        self._open: dict[str, list[pa.RecordBatch] | None] = {}
        self._earlier: dict[str, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_open": {}, "_earlier": None}

    def close(self) -> None:
        if self._pool:
            self._pool.__exit__()

    def __call__(self, job: Job) -> Done:
        done, sidecar = Done(), self.state / f"{job.key}.json"
        if job.whole and (rows := self._rows_of(job.key)) is not None:
            for batch in rows:
                _count(batch, done)
            kept = Sidecar.read(sidecar)
            done.info = kept.info if kept else None
            return done
        path, keys = self.state / f"{job.key}.arrow", []
        with ShardWriter(path) as shard:
            for key, batch in self._rows(job, done):
                shard.add(batch)
                keys.append(key)
        if not keys:
            path.unlink()
            return done
        done.info = shard.info(path.name, job.split)
        if self.store:
            done.info = stores.put(path, self.store, done.info)
        # The sidecar last: a shard without one is not believed.
        Sidecar(info=done.info, store=self.store, rows=tuple(keys)).write(sidecar)
        return done

    def _rows(self, job: Job, done: Done) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The key and the row, as a batch, of every item that can be used."""
        carried = [c and self._carried(c, job.split) for c in job.carried]
        fresh = [item for item, row in zip(job.items, carried, strict=True) if row is None]
        with closing(self._read(fresh)) as results:
            for item, key, row in zip(job.items, job.keys, carried, strict=True):
                if row is None:
                    _, result = next(results)
                    if isinstance(result, Exception):
                        done.faults += faults_of(item, result)
                        continue
                    row = result
                    done.read += 1
                _count(row, done)
                yield key, row

    def _read(self, items: list[Item]) -> Any:
        if not self.isolated:
            return parallel.here(self.function, items)
        if self._pool is None:
            self._pool = parallel.Pool(self.function, workers=1)
        return self._pool.ordered(items)

    def _carried(self, carried: Carried, split: str) -> pa.RecordBatch | None:
        rows = self._rows_of(carried.shard)
        if rows is None or carried.row >= len(rows):
            return None
        row, at = rows[carried.row], SCHEMA.get_field_index("split")
        return row.set_column(at, SCHEMA.field(at), pa.array([split]))

    def _rows_of(self, shard: str) -> list[pa.RecordBatch] | None:
        """The rows of a shard that an earlier ingest left, here or in a store; None where they cannot be believed."""
        if shard not in self._open:
            while len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[shard] = self._found(Sidecar.read(self.state / f"{shard}.json"))
        return self._open[shard]

    def _found(self, sidecar: Sidecar | None) -> list[pa.RecordBatch] | None:
        if sidecar is None:
            return None
        rows = stores.rows(self.state, sidecar.store, sidecar.info)
        if rows is None and not self.store:
            if self._earlier is None:
                self._earlier = shards_at(self.earlier)
            if path := self._earlier.get(sidecar.info.sha256):
                rows = stores.rows(self.earlier, "", replace(sidecar.info, path=path))
        return rows


def _row(item: Item, *, read: Callable[[Any], Record], storage: Storage) -> pa.RecordBatch:
    return encode(read(item), storage)


def _count(batch: pa.RecordBatch, done: Done) -> None:
    views = RowViews(batch)
    done.statistics.update(views.measures(0))
    done.faults += views.record(0).mended


def faults_of(item: Item, error: Exception) -> list[Fault]:
    """What the user can mend, in words; anything else is a bug, and raised."""
    if isinstance(error, FaultsError):
        return [Fault(f.kind, f.file or item.name, f.reason, item.id) for f in error.found]
    if isinstance(error, FaultError):
        return [Fault(error.kind, item.name, error.reason, item.id)]
    if isinstance(error, parallel.LostError):
        return [Fault("crashed", item.name, str(error), item.id)]
    if isinstance(error, MemoryError):
        most = parallel.MEMORY >> 30
        return [Fault("crashed", item.name, f"needs more than the {most} GiB that a reading process may have", item.id)]
    raise error
