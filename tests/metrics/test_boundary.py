"""Boundary F1 against all pairs of pixels, against MONAI's surface Dice where it means the same, and by hand."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics.surface_dice import compute_surface_dice

from pipelines.data.schema import IGNORE
from pipelines.metrics.boundary import BoundaryMetrics, match

NAMES = ("road", "sky", "car")
PROPERTY = settings(deadline=None, max_examples=60)
Images = list[tuple[np.ndarray, np.ndarray]]


def maps() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Blocks of 2 x 2 pixels, so that there are insides as well as boundaries."""
    labels = st.sampled_from([*range(len(NAMES)), IGNORE])
    return (
        st.tuples(st.integers(1, 5), st.integers(1, 5))
        .flatmap(lambda shape: st.tuples(*(arrays(np.uint8, shape, elements=labels) for _ in range(2))))
        .map(lambda pair: tuple(np.kron(m, np.ones((2, 2), np.uint8)) for m in pair))
    )


def evaluate(images: Images, tolerance: float = 0.2) -> BoundaryMetrics:
    metrics = BoundaryMetrics(NAMES, tolerance=tolerance)
    for truth, predicted in images:
        metrics.update(truth, predicted)
    return metrics


def boundary(labels: np.ndarray, ignored: np.ndarray, c: int) -> list[tuple[int, int]]:
    """The definition, pixel by pixel."""
    found, (height, width) = [], labels.shape
    for y, x in product(range(height), range(width)):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        known = [p for p in beside if 0 <= p[0] < height and 0 <= p[1] < width and not ignored[p]]
        if labels[y, x] == c and not ignored[y, x] and any(labels[p] != c for p in known):
            found.append((y, x))
    return found


def by_pairs(images: Images, tolerance: float = 0.2) -> dict[str, float | None]:
    """The definition, over all pairs of boundary pixels."""
    scores: dict[str, list[float]] = {name: [] for name in NAMES}
    for truth, predicted in images:
        near = tolerance * math.hypot(*truth.shape) + 1e-9
        for c, name in enumerate(NAMES):
            ours, theirs = (boundary(m, truth == IGNORE, c) for m in (predicted, truth))
            if not (truth == c).any() or not (ours or theirs):
                continue
            right = [any(math.dist(p, q) <= near for q in theirs) for p in ours]
            met = [any(math.dist(p, q) <= near for q in ours) for p in theirs]
            precision, recall = sum(right) / max(len(right), 1), sum(met) / max(len(met), 1)
            scores[name].append(2 * precision * recall / (precision + recall) if precision and recall else 0.0)
    means = {name: sum(values) / len(values) if values else None for name, values in scores.items()}
    defined = [v for v in means.values() if v is not None]
    return {"": sum(defined) / len(defined) if defined else None, **means}


def flat(metrics: BoundaryMetrics) -> dict[str, float | None]:
    result = metrics.compute()
    json.dumps(result, allow_nan=False)
    return {"": result["boundary_f1"], **result["boundary_f1_per_class"]}


@PROPERTY
@given(st.lists(maps(), max_size=4), st.sampled_from([0.0, 0.1, 0.2, 0.35]))
def test_equals_the_definition(images: Images, tolerance: float) -> None:
    found, expected = flat(evaluate(images, tolerance)), by_pairs(images, tolerance)
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=0, abs=1e-11)), name


def blobs(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Discs of the classes 1 and 2 on class 0, none at the edge of the image."""
    rng, (y, x) = np.random.default_rng(seed), np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for _ in range(5):
        radius = rng.integers(3, 12)
        at = [rng.integers(radius + 2, side - radius - 2) for side in shape]
        labels[(y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2] = rng.integers(1, 3)
    return labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("distance", [1.0, 2.5, 5.0])
def test_matches_what_monai_matches(seed: int, distance: float) -> None:
    """Its surface Dice pools what F1 weighs against each other: (found + met) / (predictions + truths). It takes the
    edge of the image for a boundary, so the classes here keep away from it."""
    truth, predicted = blobs(seed), np.roll(blobs(seed), 3, axis=1)
    found, predictions, met, truths = match(truth, predicted, classes=3, distance=distance)
    one_hot = [torch.nn.functional.one_hot(torch.tensor(m).long(), 3).movedim(-1, 0)[None] for m in (predicted, truth)]
    theirs = compute_surface_dice(*one_hot, class_thresholds=[distance] * 2, include_background=False)[0]
    ours = (found + met) / (predictions + truths)
    assert ours[1:] == pytest.approx(theirs.numpy(), nan_ok=True, abs=1e-6)


@PROPERTY
@given(st.lists(maps(), max_size=4), st.data())
def test_any_partition_and_order_is_the_same_to_the_last_bit(images: Images, data: st.DataObject) -> None:
    cut, shuffled = data.draw(st.integers(0, len(images))), data.draw(st.permutations(images))
    merged = evaluate(shuffled[:cut])
    merged.merge(evaluate(shuffled[cut:]))
    assert merged.compute() == evaluate(images).compute()


@PROPERTY
@given(maps(), st.data())
def test_predictions_on_ignored_pixels_change_nothing(
    image: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    truth, predicted = image
    other = data.draw(arrays(np.uint8, truth.shape, elements=st.sampled_from([0, 1, 2, IGNORE])))
    assert flat(evaluate([(truth, np.where(truth == IGNORE, other, predicted))])) == flat(evaluate([image]))


def test_ignored_pixels_and_the_edge_make_no_boundary() -> None:
    truth = np.array([[0, 0, IGNORE, 1, 1]] * 4, np.uint8)
    assert not match(truth, np.where(truth == IGNORE, 2, truth), classes=3, distance=1.0).any()
    assert flat(evaluate([(truth, np.zeros_like(truth))]))["road"] is None


def test_by_hand() -> None:
    """A boundary two pixels off: within a tolerance of 2, beyond one of 1.9; a distance of exactly 2 is within."""
    truth, predicted = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    truth[:, 4:], predicted[:, 6:] = 1, 1  # a diagonal of 10
    for tolerance, f1 in ((0.2, 1.0), (0.19, 0.0)):
        assert flat(evaluate([(truth, predicted)], tolerance)) == {"": f1, "road": f1, "sky": f1, "car": None}
    half = predicted.copy()
    half[3:] = 0  # three of six rows have no sky, so that the predicted boundary has a corner
    right, predictions, met, truths = match(truth, half, classes=2, distance=2.0)
    assert (right[1], predictions[1], met[1], truths[1]) == (3, 4, 3, 6)


def test_a_stray_pixel_scores_no_class_that_is_not_there() -> None:
    truth, stray = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    truth[:, 5:] = 1
    predicted = truth.copy()
    predicted[1, 1] = stray[4, 4] = 2
    found = flat(evaluate([(truth, predicted), (np.zeros_like(stray), stray)], 0.1))
    assert found["car"] is None
    assert found["sky"] == 1.0
    assert found["road"] < 0.5  # its boundary around the pixel is invented; the second image has no other


def test_a_class_that_is_missed_scores_zero() -> None:
    truth = np.zeros((6, 6), np.uint8)
    truth[2:4, 2:4] = 1
    assert flat(evaluate([(truth, np.zeros_like(truth))])) == {"": 0.0, "road": 0.0, "sky": 0.0, "car": None}


@pytest.mark.parametrize("images", [[], [(np.full((2, 3), IGNORE, np.uint8), np.zeros((2, 3), np.uint8))]])
def test_nothing_seen_is_undefined(images: Images) -> None:
    assert set(flat(evaluate(images)).values()) == {None}


def test_refuses_to_merge_another_tolerance() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        BoundaryMetrics(NAMES, tolerance=0.1).merge(BoundaryMetrics(NAMES, tolerance=0.2))
