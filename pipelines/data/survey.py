"""Which classes each image shows, before there are splits: what stratification needs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipelines.data import parallel
from pipelines.data.formats.source import Item
from pipelines.errors import RunError
from pipelines.progress import Progress

Labels = frozenset[int]


class SurveyTask:
    """Called with some items at a time, gives the classes of each. What cannot be read shows none: the reading proper
    says why."""

    def __init__(self, *, labels: Callable[[Any], Labels], isolated: bool):
        self.labels, self.isolated = labels, isolated
        self._pool: parallel.Pool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def close(self) -> None:
        if self._pool:
            self._pool.__exit__()

    def __call__(self, items: Sequence[Item]) -> list[Labels]:
        if self.isolated and self._pool is None:
            self._pool = parallel.Pool(self.labels, workers=1)
        results = self._pool.ordered(items) if self._pool else parallel.here(self.labels, items)
        return [_shown(found) for _, found in results]


def _shown(found: Labels | Exception) -> Labels:
    if isinstance(found, RunError):  # the bucket does not answer: splits made without it would be others
        raise found
    return frozenset() if isinstance(found, Exception) else found


def surveyed(results: Iterable[list[Labels]], progress: Progress) -> Iterator[Labels]:
    done = 0
    for labels in results:
        done += len(labels)
        progress.update(done)
        yield from labels
