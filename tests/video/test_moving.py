"""Moving shapes are a pure function of their arguments, and hold what trackers fail at."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipelines.data.formats.shapes.render import place
from pipelines.video.sources.moving import Movie, movie

SCENE = {"height": 64, "width": 80, "difficulty": 0.5}


def test_the_same_again() -> None:
    one, other = (list(movie(1, seed=3, frames=3, **SCENE)) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.ids, b.ids)
    assert not np.array_equal(one[0].image, one[1].image)
    longer = list(movie(1, seed=3, frames=4, **SCENE))
    assert np.array_equal(longer[2].image, one[2].image)


def test_things_of_many_kinds_leave_and_come_back() -> None:
    came_back, kinds = 0, set()
    for index in range(6):
        made = movie(index, seed=0, frames=90, **SCENE)
        there = np.array([[(ids == k).any() for k in made.categories] for ids in groups(made)])
        kinds |= {made.categories[k + 1] for k in np.flatnonzero(there.any(axis=0))}
        changes = np.diff(there.astype(int), axis=0)
        came_back += sum((changes[:, k] < 0).any() and (changes[:, k] > 0).any() for k in range(there.shape[1]))
    assert came_back >= 3
    assert len(kinds) >= 5


def groups(made: Movie) -> Iterator[np.ndarray]:
    """What each pixel shows in every sixth frame, without its picture."""
    for k in range(0, made.frames, 6):
        yield place(replace(made.layout, items=tuple(made.items(k))))[1]
