"""Where shards lie: in a folder here, or in a bucket, from which they are fetched to this machine before they are read.

In a bucket a shard's name is its hash: what is there under that name is never written again.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipelines import files
from pipelines.data import buckets, cache
from pipelines.data.rows import SCHEMA
from pipelines.data.schema import ShardInfo
from pipelines.errors import DataError, MasklineError, RunError

REDO = "dvc repro --force ingest"
PIECE = 16 << 20  # bytes that are asked for at a time
MARK = "README.txt"
SAYS = b"Arrow shards of image segmentation datasets, each named by its sha256; each dataset.json names its own.\n"


def check(store: str) -> None:
    """Whether the bucket may be written to, tried before there is work that could be lost."""
    system, root = buckets.filesystem(store)
    try:
        with system.open_output_stream(f"{root}/{MARK}") as sink:
            sink.write(SAYS)
    except OSError as error:
        raise buckets.refusal(f"ingest.store: {store} cannot be written to", error) from None


def put(path: Path, store: str, info: ShardInfo) -> ShardInfo:
    """Move a finished shard to the store."""
    info = replace(info, path=f"{info.sha256}.arrow")
    system, root = buckets.filesystem(store)
    try:
        if not _is_there(store, info):
            with pa.memory_map(str(path)) as source, system.open_output_stream(f"{root}/{info.path}") as sink:
                # In one call, which a signal cannot interrupt: an upload that is left in the middle would be closed,
                # and so completed, with what it has.
                sink.write(source.read_buffer())
    except OSError as error:
        reason, do = buckets.why(error)
        raise RunError(f"{store}: {info.path} could not be written: {reason}\ndo: {do}, and run it again") from None
    cache.adopt(path, info)
    return info


def source(folder: Path, store: str, info: ShardInfo, *, verify: bool = True) -> pa.NativeFile:
    """The shard, mapped and checked: its size, and its hash if `verify`."""
    if store:
        return pa.BufferReader(cache.shard(info, partial(_pieces, store, info), verify=verify))
    path = folder / info.path
    try:
        if path.stat().st_size != info.bytes or (verify and files.sha256(path) != info.sha256):
            raise DataError(f"sha256 mismatch: shard {path} is not what ingest wrote", do=REDO)
        return pa.memory_map(str(path))
    except OSError as error:
        raise DataError(f"shard {path} cannot be read: {error}", do=REDO) from None


def rows(folder: Path, store: str, info: ShardInfo) -> list[pa.RecordBatch] | None:
    """Each row as a batch of its own; None where the shard is not there, or not what it was."""
    try:
        if store and not _is_there(store, info):  # here it may be all the same
            return None
        reader = pa.ipc.open_file(source(folder, store, info))
        if not reader.schema.equals(SCHEMA, check_metadata=True):
            return None
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid, MasklineError):
        return None
    return [batch.slice(i, 1) for batch in batches for i in range(batch.num_rows)]


def names_safely(store: str, info: ShardInfo) -> bool:
    """Whether a manifest's entry stays where shards lie."""
    if store:
        return len(info.sha256) == 64 and info.sha256.isalnum() and info.path == f"{info.sha256}.arrow"
    return PurePosixPath(info.path).parent == PurePosixPath("shards")


def _is_there(store: str, info: ShardInfo) -> bool:
    system, root = buckets.filesystem(store)
    found = system.get_file_info(f"{root}/{info.path}")
    return bool(found.is_file and found.size == info.bytes)


def _pieces(store: str, info: ShardInfo) -> Iterator[bytes]:
    system, root = buckets.filesystem(store)
    try:
        with system.open_input_stream(f"{root}/{info.path}") as stream:
            while piece := stream.read(PIECE):
                yield piece
    except FileNotFoundError:
        raise DataError(f"shard {info.path} is not in {store}, or that is gone", do=REDO) from None
    except OSError as error:
        raise buckets.refusal(f"shard {info.path} cannot be fetched from {store}", error) from None
