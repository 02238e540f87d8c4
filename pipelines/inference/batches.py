"""What may be predicted together."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int, *, shape: Callable[[Item], tuple[int, ...]]) -> Iterator[list[Item]]:
    """Neighbours of one shape, at most `size` of them, as they come: padding to a batch's largest image would make a
    prediction depend on its neighbours."""
    for _, group in groupby(items, key=shape):
        while batch := list(islice(group, size)):
            yield batch
