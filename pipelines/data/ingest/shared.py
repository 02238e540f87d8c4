"""What every node of a cluster must see, to ingest a dataset: its files, or the bucket that has them, and the folder
that the shards are made in."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipelines.cluster.sharing import Shared
from pipelines.data.formats.source import Item
from pipelines.data.tree import Files, Tree, is_uri

SAMPLE = 8  # files, of those that there are


def of(tree: Tree | None, items: Sequence[Item], state: Path) -> Shared:
    if tree is None or not items:  # drawn, or nothing to read
        return Shared(state=state)
    names = [item.files[0] for item in items[:: -(-len(items) // SAMPLE)]]
    if is_uri(tree.root):
        return Shared(state=state, reach=partial(_reach, tree.files, names[0]))
    return Shared(state=state, sizes=tuple(Path(tree.files.root) / name for name in names))


def _reach(files: Files, name: str) -> None:
    files.read(name)
