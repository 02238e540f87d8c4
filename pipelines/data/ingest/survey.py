"""Which classes each image shows, before there are splits: what stratification needs."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.data.faults import FaultError, FaultsError
from pipelines.data.formats.source import Item
from pipelines.data.ingest import parallel
from pipelines.progress import Progress

Shown = frozenset[int]  # the classes of an image
WRITTEN = 4096  # images after which what was found so far is kept


class Labels:
    """What earlier surveys have found, by the items' keys; kept in a file."""

    def __init__(self, path: Path, keys: Mapping[str, str]):
        self.path, self.keys = path, keys
        self.found: dict[str, list[int]] = {}
        with suppress(OSError, ValueError, AttributeError, RecursionError):  # a damaged one is no survey
            found = json.loads(path.read_text(encoding="utf-8"))
            self.found = {key: shown for key in keys.values() if isinstance(shown := found.get(key), list)}

    def __getitem__(self, item: Item) -> Shown:
        return frozenset(self.found.get(self.keys[item.id], ()))

    def missing(self, items: Sequence[Item]) -> list[Item]:
        return [item for item in items if self.keys[item.id] not in self.found]

    def add(self, items: Sequence[Item], shown: Iterable[Shown | None]) -> None:
        for done, (item, classes) in enumerate(zip(items, shown, strict=True), start=1):
            if classes is not None:
                self.found[self.keys[item.id]] = sorted(classes)
            if done % WRITTEN == 0 or done == len(items):
                files.write_json(self.path, self.found)


class SurveyTask:
    """Called with some items at a time, gives the classes of each. What cannot be read shows none: the reading proper
    says why."""

    def __init__(self, *, labels: Callable[[Any], Shown], isolated: bool):
        self.labels, self.isolated = labels, isolated
        self._pool: parallel.Pool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def close(self) -> None:
        if self._pool:
            self._pool.__exit__()

    def __call__(self, items: Sequence[Item]) -> list[Shown | None]:
        if self.isolated and self._pool is None:
            self._pool = parallel.Pool(self.labels, workers=1)
        results = self._pool.ordered(items) if self._pool else parallel.here(self.labels, items)
        return [_shown(item, found) for item, found in results]


def _shown(item: Item, found: Shown | Exception) -> Shown | None:
    """None where nobody knows: what takes its reader with it is asked again the next time."""
    if not isinstance(found, Exception):
        return found
    if isinstance(found, parallel.LostError | MemoryError):
        return None
    if isinstance(found, FaultError | FaultsError):
        return frozenset()
    raise found  # a bucket that does not answer, a bug: splits made without it would be others


def surveyed(results: Iterable[list[Shown | None]], progress: Progress) -> Iterator[Shown | None]:
    done = 0
    for labels in results:
        done += len(labels)
        progress.update(done)
        yield from labels
