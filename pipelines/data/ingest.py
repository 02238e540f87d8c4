"""Any source to shards: scan it, read every item in processes that may die, write what they read in order."""

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.data import parallel, shards
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import Scan, Source
from pipelines.data.rows import Row, encode
from pipelines.data.schema import Manifest, Record
from pipelines.errors import DataError, bounded
from pipelines.progress import Progress


def ingest(*, format: str, source: Source, out: Path, workers: int, rows_per_shard: int) -> Manifest:
    """Writes out/shards and out/dataset.json, or raises one DataError that lists everything that cannot be used."""
    spec = FORMATS[format]
    where = str(source.root or format)
    scan = spec.scan(source)
    if not scan.items and not scan.faults:
        raise DataError(f"{where}: there are no images", do=f"dataset.root must hold {spec.holds}")
    with closing(_rows(scan, where=where, workers=workers, isolated=spec.isolated)) as rows:
        return shards.write_rows(
            rows,
            classes=scan.classes,
            name=source.root.resolve().name if source.root else format,
            format=format,
            out=out,
            rows_per_shard=rows_per_shard,
        )


def _rows(scan: Scan, *, where: str, workers: int, isolated: bool) -> Generator[Row, None, None]:
    """Rows until the first fault; after it the rest is read for its faults alone."""
    faults = list(scan.faults)
    results = parallel.ordered(partial(_row, read=scan.read), scan.items, workers=workers, isolated=isolated)
    with closing(results), Progress("ingest", len(scan.items), "images") as progress:
        for done, (item, result) in enumerate(results, start=1):
            if isinstance(result, Exception):
                faults += _faults(scan.name(item), result)
            elif not faults:
                yield result
            progress.update(done, note=f"{len(faults)} faults" if faults else "")
    if faults:
        raise DataError(
            f"{where}: {len(faults)} fault{'s' * (len(faults) > 1)}, nothing was written",
            bounded(faults),
            do="mend or remove these files, and run the stage again",
        )


def _row(item: Any, *, read: Callable[[Any], Record]) -> Row:
    return encode(read(item))


def _faults(name: str, error: Exception) -> list[str]:
    """What the user can mend, in words; anything else is a bug, and raised."""
    if isinstance(error, DataError):
        return list(error.faults) or [str(error)]
    if isinstance(error, parallel.LostError):
        return [f"{name}: {error}"]
    if isinstance(error, MemoryError):
        return [f"{name}: needs more than the {parallel.MEMORY >> 30} GiB that a reading process may have"]
    raise error
