"""Where shards lie: in a folder here, or in a bucket, from which they are fetched to this machine before they are read.

In a bucket a shard's name is its hash: what is there under that name is never written again.
"""

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipelines import files
from pipelines.data.rows import SCHEMA
from pipelines.data.schema import ShardInfo
from pipelines.data.tree import filesystem
from pipelines.errors import DataError, RunError


def cache() -> Path:
    """Where fetched shards are kept on this machine; MASKLINE_CACHE names another folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskline"
    return Path(os.environ.get("MASKLINE_CACHE") or default) / "shards"


def put(path: Path, store: str, info: ShardInfo) -> ShardInfo:
    """Move a finished shard to the store; there it is whole or absent, since the rename comes last."""
    system, root = filesystem(store)
    name = f"{info.sha256}.arrow"
    try:
        found = system.get_file_info(f"{root}/{name}")
        if not found.is_file or found.size != info.bytes:
            system.create_dir(root, recursive=True)
            with path.open("rb") as source, system.open_output_stream(f"{root}/{name}") as sink:
                while piece := source.read(8 << 20):
                    sink.write(piece)
    except OSError as error:
        raise RunError(f"{store}: {name} could not be written: {error}") from error
    path.unlink()
    return replace(info, path=name)


def local(folder: Path, store: str, info: ShardInfo) -> Path:
    """The shard as a file of this machine."""
    if not store:
        return folder / info.path
    path = cache() / f"{info.sha256}.arrow"
    if path.is_file() and path.stat().st_size == info.bytes:
        return path
    system, root = filesystem(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with system.open_input_stream(f"{root}/{info.path}") as source, beside.open("wb") as sink:
            while piece := source.read(8 << 20):
                sink.write(piece)
        beside.replace(path)
    except OSError as error:
        raise DataError(
            f"shard {store}/{info.path} cannot be fetched: {error}", do="see that the bucket answers"
        ) from None
    finally:
        beside.unlink(missing_ok=True)
    return path


def rows(folder: Path, store: str, info: ShardInfo) -> list[pa.RecordBatch] | None:
    """Each row as a batch of its own, mapped; None where the shard is not there, or not what it was."""
    try:
        path = local(folder, store, info)
        if path.stat().st_size != info.bytes or files.sha256(path) != info.sha256:
            return None
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not reader.schema.equals(SCHEMA, check_metadata=True):
            return None
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid, DataError):
        return None
    return [batch.slice(i, 1) for batch in batches for i in range(batch.num_rows)]
