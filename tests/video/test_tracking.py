"""Identities: kept where things move, meet, hide each other, leave and come back; and given up in the end."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pipelines.video.detections import Detections
from pipelines.video.overlap import overlaps
from pipelines.video.tracking import Options, Tracker

OPTIONS = Options(birth=0.5, flow=False, min_overlap=0.1, look=0.5, label=0.2, memory=10, again=0.8, confirm=2)
LOOKS = np.eye(3, dtype=np.float32)
LEFT, RIGHT = (24.0, 14.0), (24.0, 58.0)


def detected(ids: np.ndarray, *, drop: tuple[int, ...] = (), labels: dict[int, int] | None = None, score=0.9):
    """Perfect masks, in another order each time, with a look and a class of their own."""
    there = [i for i in np.unique(ids)[::-1].tolist() if i and i not in drop]
    return Detections(
        masks=np.array([ids == i for i in there], bool).reshape(-1, *ids.shape),
        labels=np.array([(labels or {}).get(i, i + 2) for i in there], np.int64),
        scores=np.full(len(there), score, np.float32),
        looks=LOOKS[np.array(there, int) - 1].reshape(-1, 3),
    )


def followed(tracker: Tracker, film, **options) -> list[dict[int, int]]:
    """Of each frame: object -> track."""
    found = []
    for image, ids in film:
        there = [i for i in np.unique(ids)[::-1].tolist() if i]
        found.append(dict(zip(there, tracker.step(image, detected(ids, **options)).tolist(), strict=True)))
    return found


def crossing(steps: int = 12) -> list[list[tuple[float, float]]]:
    """Two discs that pass through each other's place; the second is in front."""
    xs = np.linspace(12, 60, steps)
    return [[(24.0, x) for x in xs], [(24.0, x) for x in xs[::-1]]]


def test_two_that_cross_keep_their_identities(film: Callable) -> None:
    found = followed(Tracker(OPTIONS), film(crossing()))
    assert all(len({frame[i] for frame in found if i in frame}) == 1 for i in (1, 2))
    assert found[0][1] != found[0][2]


def test_one_that_was_hidden_is_found_again(film: Callable) -> None:
    """The red one stands still while the larger blue one, in front, goes over it."""
    steps = 14
    xs = np.linspace(4, 68, steps)
    made = film([[(24.0, 36.0)] * steps, [(24.0, x) for x in xs]], radius=8)
    hidden = [1 not in np.unique(ids) or (ids == 1).sum() < 40 for ids in made.ids]
    assert any(hidden)
    tracker = Tracker(OPTIONS)
    names = []
    for (image, ids), gone in zip(made, hidden, strict=True):
        found = detected(ids, drop=(1,) if gone else ())
        identities = tracker.step(image, found)
        names += [int(i) for i, label in zip(identities, found.labels, strict=True) if label == 3]
    assert len(set(names)) == 1
    without = Tracker(replace(OPTIONS, memory=0))
    for (image, ids), gone in zip(made, hidden, strict=True):
        without.step(image, detected(ids, drop=(1,) if gone else ()))
    assert len(without.finish()) == 3


@pytest.mark.parametrize(("away", "tracks"), [(4, 1), (OPTIONS.memory + 2, 2)])
def test_one_that_left_comes_back_as_itself_while_it_is_remembered(film: Callable, away: int, tracks: int) -> None:
    path = [(24.0, 66.0), (24.0, 70.0), *[(24.0, 200.0)] * away, (24.0, 70.0), (24.0, 66.0)]
    tracker = Tracker(OPTIONS)
    followed(tracker, film([path]))
    assert len(tracker.finish()) == tracks


def test_another_look_is_another_thing(film: Callable) -> None:
    steps = [(24.0, 36.0)] * 3 + [(24.0, 200.0)] * 3
    tracker = Tracker(OPTIONS)
    followed(tracker, film([steps, steps[::-1]]))  # green comes where red was
    assert len(tracker.finish()) == 2


def test_with_flow_a_fast_one_is_met_where_it_has_gone(film: Callable) -> None:
    """It moves by more than half of itself, so that its last mask hardly overlaps it."""
    made = film([[(24.0, 10.0 + 8 * k) for k in range(7)]])
    options = replace(OPTIONS, memory=0, min_overlap=0.35)
    counts = {}
    for flow in (False, True):
        tracker = Tracker(replace(options, flow=flow))
        followed(tracker, made)
        counts[flow] = len(tracker.finish())
    assert counts[True] < counts[False]


def test_the_class_is_voted_by_score(film: Callable) -> None:
    made = film([[LEFT] * 5])
    tracker = Tracker(OPTIONS)
    for k, (image, ids) in enumerate(made):
        wrong = k in (0, 3)
        tracker.step(image, detected(ids, labels={1: 9 if wrong else 4}, score=0.55 if wrong else 0.9))
    (ended,) = tracker.finish()
    assert (ended.label, ended.score) == (4, pytest.approx((2 * 0.55 + 3 * 0.9) / 5))


def test_what_flashes_up_once_is_not_believed(film: Callable) -> None:
    tracker = Tracker(replace(OPTIONS, confirm=3))
    followed(tracker, film([[LEFT] * 1]))
    assert tracker.finish()[0].score == pytest.approx(0.9 / 3)


def test_an_instance_found_twice_begins_one_track(film: Callable) -> None:
    image, ids = next(iter(film([[LEFT]])))
    one = detected(ids)
    twice = Detections(
        masks=np.concatenate([one.masks, one.masks]),
        labels=np.array([3, 8]),
        scores=np.array([0.9, 0.8], np.float32),
        looks=np.concatenate([one.looks, one.looks]),
    )
    assert Tracker(OPTIONS).step(image, twice).tolist() == [0, -1]


def test_frames_without_anything(film: Callable) -> None:
    tracker = Tracker(replace(OPTIONS, flow=True))
    followed(tracker, film([[(200.0, 200.0)] * 4]))
    assert tracker.finish() == []


def test_memory_does_not_grow_with_the_video(film: Callable) -> None:
    """Things that come and go for long: only those of the last frames are held."""
    here, gone = (24.0, 36.0), (24.0, 200.0)
    made = film([[here, gone]])
    tracker = Tracker(replace(OPTIONS, memory=3))
    most = 0
    for k in range(60):
        image, ids = made.images[k % 6 > 0], made.ids[k % 6 > 0]
        tracker.step(image, detected(ids))
        most = max(most, len(tracker.alive))
    assert most == 1
    assert len(tracker.finish()) == 10


def test_overlaps_are_those_of_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 9, 7)) > 0.5, rng.random((3, 9, 7)) > 0.5
    expected = [[(x & y).sum() / (x | y).sum() for y in b] for x in a]
    assert overlaps(a, b) == pytest.approx(np.array(expected))
    assert overlaps(a[:0], b).shape == (0, 3)
    assert len(linear_sum_assignment(overlaps(a, b[:0]), maximize=True)[0]) == 0
