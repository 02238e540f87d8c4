"""What an ingest has to do, decided before anything is read: which images make which shard, and what of it is there.

A shard ends where the hash of an id says so, not after a count, so that an image that is added or taken away changes
the shard it falls into and no other (content-defined chunking). An item's key says what its row would be made of; a row
with the same key, left by an earlier ingest or by one that was killed, is carried over instead of being read again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from pipelines import files
from pipelines.data.formats.source import Item
from pipelines.data.schema import SPLITS, ShardInfo, Split
from pipelines.data.shards import read_manifest
from pipelines.data.tree import Stamp, Tree
from pipelines.errors import DataError

# Of this package, what no row follows from: an edit there must not read a terabyte again.
APART = {"exports", "buckets.py", "cache.py", "panoptic.py", "prediction.py", "stores.py", "engine.py", "report.py"}


@dataclass(frozen=True, slots=True)
class Carried:
    """A row of a shard that is there."""

    shard: str  # the key that it was written under
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One shard to write."""

    key: str  # of its contents; its file in the state folder is named by it
    split: Split
    items: tuple[Item, ...]
    keys: tuple[str, ...]  # of each item
    carried: tuple[Carried | None, ...]  # of each item

    @property
    def whole(self) -> bool:
        """Whether the shard itself is there, row for row."""
        return all(c == Carried(self.key, row) for row, c in enumerate(self.carried))


def jobs(
    items: Iterable[Item], *, keys: Mapping[str, str], rows_per_shard: int, there: Mapping[str, Carried]
) -> list[Job]:
    """The shards of each split, in order. `keys`: item id -> key; `there`: key -> row."""
    by_split: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        by_split[str(item.split)].append(item)
    made = []
    for chosen in by_split.values():
        for chunk in chunks(sorted(chosen, key=lambda item: item.id), rows_per_shard):
            mine = tuple(keys[item.id] for item in chunk)
            made.append(
                Job(
                    key=files.digest(chunk[0].split, mine)[:32],
                    split=chunk[0].split or "train",
                    items=tuple(chunk),
                    keys=mine,
                    carried=tuple(there.get(key) for key in mine),
                )
            )
    return made


def chunks(items: Sequence[Item], most: int) -> list[list[Item]]:
    """Runs of at most `most` and, but for the last, at least a quarter of that; half of it on average."""
    least = max(most // 4, 1)
    found: list[list[Item]] = []
    current: list[Item] = []
    for item in items:
        current.append(item)
        ends = len(current) >= least and _hash(item.id) % least == 0
        if ends or len(current) == most:
            found.append(current)
            current = []
    return [*found, current] if current else found


def item_keys(items: Iterable[Item], stamps: Mapping[str, Stamp], context: str) -> dict[str, str]:
    """id -> a digest of what the item's row follows from, but for its split: how it is read, its values, its files."""
    return {item.id: _key(item, [stamps.get(name, ()) for name in item.files], context) for item in items}


def _key(item: Item, stamps: Sequence[Stamp], context: str) -> str:
    values = [described(getattr(item, f.name)) for f in fields(item) if f.name != "split"]
    return hashlib.sha256("\n".join([context, *values, repr(stamps)]).encode()).hexdigest()[:32]


def context(*parts: Any) -> str:
    """How items are read: the code of this package, the decoders, and the settings that are given."""
    here = Path(__file__).parents[1]
    code = [
        files.sha256(path)
        for path in sorted(here.rglob("*"))
        if path.suffix in (".py", ".yaml") and not set(path.relative_to(here).parts) & APART
    ]
    return files.digest(code, versions(), *[described(part) for part in parts])


def described(value: Any) -> str:
    """As `repr`, but the same in every process: no addresses, and sets in order."""
    if isinstance(value, partial):
        named = ", ".join(f"{name}={described(part)}" for name, part in sorted(value.keywords.items()))
        return f"{described(value.func)}({', '.join(map(described, value.args))}; {named})"
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(described, value)))}}}"
    return repr(value)


def versions() -> list[str]:
    import cv2
    import numpy as np
    import PIL
    import pyarrow as pa
    import scipy

    return [library.__version__ for library in (cv2, np, PIL, pa, scipy)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What is known of a shard in the state folder, written after it."""

    info: ShardInfo
    store: str  # the bucket that the shard is in; "" for the state folder
    rows: tuple[str, ...]  # the keys of its items

    @classmethod
    def read(cls, path: Path) -> "Sidecar | None":
        """None for one that is damaged: its rows are read again."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(info=ShardInfo(**raw["info"]), store=raw["store"], rows=tuple(raw["rows"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, path: Path) -> None:
        files.write_json(path, asdict(self))


def rows_there(state: Path, store: str) -> dict[str, Carried]:
    """Item key -> row, of every shard that an ingest into this store has left."""
    found: dict[str, Carried] = {}
    for path in sorted(state.glob("*.json")):
        sidecar = Sidecar.read(path)
        if sidecar and sidecar.store == store:
            found.update({key: Carried(path.stem, row) for row, key in enumerate(sidecar.rows)})
    return found


def shards_at(earlier: Path) -> dict[str, str]:
    """sha256 -> path within it, of the shards of a dataset that is in place; none, where there is no dataset."""
    try:
        return {info.sha256: info.path for info in read_manifest(earlier).shards}
    except DataError:
        return {}


def stamped(tree: Tree) -> dict[str, Stamp]:
    """The stamp of each file, with the hash that the source gives it."""
    hashes = tree.files.hashes
    return {name: (*stamp, hashes.get(name, "")) for name, stamp in tree.stamps.items()}


def _hash(identity: str) -> int:
    return int.from_bytes(hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=8).digest())
