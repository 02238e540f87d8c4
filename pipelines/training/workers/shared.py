"""What every node of a cluster must see, to train on a dataset: its shards, or the bucket that has them, and the folder
in which training keeps its state."""

from functools import partial
from pathlib import Path

from pipelines.cluster.sharing import Shared
from pipelines.data import buckets
from pipelines.data.schema import ShardInfo
from pipelines.data.shards import read_manifest
from pipelines.errors import DataError


def of(data: Path, state: Path) -> Shared:
    manifest = read_manifest(data)
    if manifest.store:
        reach = partial(_reach, manifest.store, manifest.shards[0])
        return Shared(state=state, same=(data / "dataset.json",), reach=reach)
    return Shared(
        state=state,
        same=(data / "dataset.json",),
        sizes=tuple(data / shard.path for shard in manifest.shards),
    )


def _reach(store: str, shard: ShardInfo) -> None:
    system, root = buckets.filesystem(store)
    try:
        found = system.get_file_info(f"{root}/{shard.path}")
    except OSError as error:
        raise buckets.refusal(f"{store} cannot be reached", error) from None
    if not found.is_file:
        raise DataError(f"shard {shard.path} is not in {store}")
