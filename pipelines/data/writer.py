"""One shard, written once: whole or not at all. Its bytes follow from its rows and their order alone, whether a row was
made just now or is carried over from an earlier shard."""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipelines import files
from pipelines.data.rows import SCHEMA
from pipelines.data.schema import ShardInfo, Split

BATCH_BYTES = 16 << 20  # of images and maps: a writer holds about this much


def row_bytes(batch: pa.RecordBatch) -> int:
    """What decides where a batch ends: of one row, the same however it came about."""
    return sum(len(batch.column(name)[0].as_buffer()) for name in ("image", "semantic"))


class ShardWriter:
    """A context manager; an error drops the file."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = 0
        self._stack = ExitStack()
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def __enter__(self) -> "ShardWriter":
        self._file = _Hashing(self._stack.enter_context(files.replacing(self.path, "wb")))
        self._sink = self._stack.enter_context(pa.ipc.new_file(pa.PythonFile(self._file, "w"), SCHEMA))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self._flush()
        self._stack.__exit__(kind, error, trace)

    def add(self, row: pa.RecordBatch) -> None:
        """A batch of one row."""
        self._pending.append(row)
        self._pending_bytes += row_bytes(row)
        self.rows += 1
        if self._pending_bytes >= BATCH_BYTES:
            self._flush()

    def info(self, path: str, split: Split) -> ShardInfo:
        """After the end: what the manifest says of it, under its name there."""
        return ShardInfo(
            path=path, split=split, rows=self.rows, bytes=self._file.size, sha256=self._file.digest.hexdigest()
        )

    def _flush(self) -> None:
        if self._pending:
            # Always through the same step, so that carried and fresh rows have the same buffers.
            self._sink.write_batch(pa.concat_batches(self._pending))
        self._pending, self._pending_bytes = [], 0


class _Hashing:
    """A file that knows the hash of what was written to it; Arrow writes from front to back."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        """`files.replacing` closes the file, after a sync."""

    @property
    def closed(self) -> bool:
        return False
