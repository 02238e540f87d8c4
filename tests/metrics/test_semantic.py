"""The semantic metrics against sets of pixels, against torchmetrics where it means the same, and by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from pipelines.data.schema import IGNORE
from pipelines.metrics.semantic import SemanticMetrics

NAMES = ("road", "sky", "car", "cat")
PROPERTY = settings(deadline=None, max_examples=100)


def maps(*, unassigned: bool = True) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of one image; not every class is in each."""
    truth = st.sampled_from([*range(len(NAMES)), IGNORE])
    predicted = truth if unassigned else st.integers(0, len(NAMES) - 1)
    return st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
        lambda shape: st.tuples(arrays(np.uint8, shape, elements=truth), arrays(np.uint8, shape, elements=predicted))
    )


IMAGES = st.lists(maps(), max_size=5)


def evaluate(images: list[tuple[np.ndarray, np.ndarray]]) -> SemanticMetrics:
    metrics = SemanticMetrics(NAMES)
    for truth, predicted in images:
        metrics.update(truth, predicted)
    return metrics


def by_sets(images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The definitions, word for word, over sets of pixels."""
    truth, predicted = (np.concatenate([np.zeros(0, int), *(x[k].ravel() for x in images)]) for k in range(2))
    pixels = set(np.flatnonzero(truth != IGNORE).tolist())
    sets = [tuple({i for i in pixels if x[i] == c} for x in (truth, predicted)) for c in range(len(NAMES))]

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    def mean(values: list[float | None]) -> float | None:
        valid = [v for v in values if v is not None]
        return share(sum(valid), len(valid))

    iou = [share(len(t & p), len(t | p)) for t, p in sets]
    accuracy = [share(len(t & p), len(t)) for t, p in sets]
    return {
        "miou": mean(iou),
        "pixel_accuracy": share(sum(len(t & p) for t, p in sets), len(pixels)),
        "mean_accuracy": mean(accuracy),
        "frequency_weighted_iou": share(
            sum(len(t) * (i or 0) for (t, _), i in zip(sets, iou, strict=True)), len(pixels)
        ),
        "dice": mean([share(2 * len(t & p), len(t) + len(p)) for t, p in sets]),
        "iou": dict(zip(NAMES, iou, strict=True)),
        "accuracy": dict(zip(NAMES, accuracy, strict=True)),
    }


def flat(result: dict[str, Any]) -> dict[str, float | None]:
    groups = {k: v if isinstance(v, dict) else {"": v} for k, v in result.items()}
    return {f"{k} {name}": v for k, group in groups.items() for name, v in group.items()}


def assert_equal(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    a, b = flat(ours), flat(expected)
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert a[key] == (None if value is None else pytest.approx(value, rel=0, abs=1e-12)), key


@PROPERTY
@given(IMAGES)
def test_equals_the_definitions(images: list[tuple[np.ndarray, np.ndarray]]) -> None:
    result = evaluate(images).compute()
    assert_equal(result, by_sets(images))
    json.dumps(result, allow_nan=False)
    assert all(v is None or (type(v) is float and 0 <= v <= 1) for v in flat(result).values())


@PROPERTY
@given(st.lists(maps(unassigned=False), min_size=1, max_size=4))
def test_equals_torchmetrics(images: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Where the conventions agree. torchmetrics knows no unassigned pixels, gives 0 for an undefined class, and counts
    a class that is predicted but never true into the mean accuracy, as 0."""
    ours = evaluate(images)
    result = ours.compute()
    common = {"num_classes": len(NAMES), "ignore_index": IGNORE}
    theirs = {
        "confusion": MulticlassConfusionMatrix(**common),
        "miou": MulticlassJaccardIndex(average="macro", **common),
        "iou": MulticlassJaccardIndex(average="none", **common),
        "frequency_weighted_iou": MulticlassJaccardIndex(average="weighted", **common),
        "pixel_accuracy": MulticlassAccuracy(average="micro", **common),
        "accuracy": MulticlassAccuracy(average="none", **common),
    }
    for truth, predicted in images:
        for metric in theirs.values():
            metric.update(torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    expected = {name: metric.compute().numpy() for name, metric in theirs.items()}
    assert np.array_equal(ours.confusion, expected["confusion"])
    for name in ("iou", "accuracy"):
        values = [v or 0.0 for v in result[name].values()]
        assert values == pytest.approx(expected[name].tolist(), abs=1e-6)  # theirs is float32
    if result["pixel_accuracy"] is not None:
        for name in ("miou", "frequency_weighted_iou", "pixel_accuracy"):
            assert result[name] == pytest.approx(float(expected[name]), abs=1e-6), name


@PROPERTY
@given(IMAGES, st.data())
def test_any_partition_and_order_is_the_same(images: list[tuple[np.ndarray, np.ndarray]], data: st.DataObject) -> None:
    whole = evaluate(images)
    cut = data.draw(st.integers(0, len(images)))
    shuffled = data.draw(st.permutations(images))
    merged = evaluate(shuffled[:cut])
    merged.merge(evaluate(shuffled[cut:]))
    assert merged.compute() == whole.compute()
    assert np.array_equal(merged.confusion, whole.confusion)
    assert np.array_equal(merged.unassigned, whole.unassigned)


@PROPERTY
@given(maps(), st.data())
def test_predictions_on_ignored_pixels_change_nothing(
    image: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    truth, predicted = image
    other = data.draw(arrays(np.uint8, truth.shape, elements=st.sampled_from([0, 1, 2, 3, IGNORE])))
    changed = np.where(truth == IGNORE, other, predicted)
    assert evaluate([(truth, changed)]).compute() == evaluate([image]).compute()


@PROPERTY
@given(maps())
def test_the_truth_itself_scores_one(image: tuple[np.ndarray, np.ndarray]) -> None:
    truth = image[0]
    result = flat(evaluate([(truth, truth)]).compute())
    assert set(result.values()) <= {1.0, None}
    assert (result["miou "] is None) == bool((truth == IGNORE).all())


def test_by_hand() -> None:
    metrics = SemanticMetrics(NAMES)
    metrics.update(
        np.array([[0, 0, 0, 0], [1, 1, IGNORE, IGNORE]], np.uint8),
        np.array([[0, 0, 1, IGNORE], [1, 2, 0, 3]], np.uint8),
    )
    assert metrics.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert metrics.unassigned.tolist() == [1, 0, 0, 0]
    assert metrics.compute() == {
        # "cat" was predicted on an ignored pixel alone: nothing is known of it, which is not 0.
        "iou": {"road": 2 / 4, "sky": 1 / 3, "car": 0.0, "cat": None},
        "accuracy": {"road": 2 / 4, "sky": 1 / 2, "car": None, "cat": None},
        "miou": pytest.approx((1 / 2 + 1 / 3 + 0) / 3),
        "pixel_accuracy": 3 / 6,
        "mean_accuracy": 0.5,
        "frequency_weighted_iou": pytest.approx((4 / 2 + 2 / 3) / 6),
        "dice": pytest.approx((4 / 6 + 2 / 4 + 0) / 3),
    }


@pytest.mark.parametrize("images", [[], [(np.full((2, 3), IGNORE, np.uint8), np.zeros((2, 3), np.uint8))]])
def test_nothing_seen_is_undefined(images: list[tuple[np.ndarray, np.ndarray]]) -> None:
    assert set(flat(evaluate(images).compute()).values()) == {None}


def test_empty_prediction_misses_everything() -> None:
    truth = np.array([[0, 1]], np.uint8)
    result = evaluate([(truth, np.full_like(truth, IGNORE))]).compute()
    assert (result["miou"], result["pixel_accuracy"], result["iou"]["car"]) == (0.0, 0.0, None)


def test_counts_stay_exact_beyond_float32() -> None:
    pixels = np.zeros((1, 2**24 + 3), np.uint8)  # the nearest float32 is one more
    metrics = SemanticMetrics(("a",))
    metrics.update(pixels, pixels)
    metrics.update(pixels, pixels)
    assert metrics.confusion.tolist() == [[2 * (2**24 + 3)]]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, bool])
def test_takes_any_integers_in_any_layout(dtype: type) -> None:
    truth, predicted = np.random.default_rng(0).integers(0, 2, (2, 8, 9)).astype(np.uint8)
    expected = evaluate([(truth, predicted)]).confusion
    flipped = evaluate([(truth[::-1, ::2], predicted[::-1, ::2])])
    flipped.merge(evaluate([(truth[:, 1::2], predicted[:, 1::2])]))
    assert np.array_equal(flipped.confusion, expected)
    predicted.flags.writeable = False
    assert np.array_equal(evaluate([(truth.astype(dtype), predicted)]).confusion, expected)
    assert np.array_equal(evaluate([(np.asfortranarray(truth), predicted.astype(dtype))]).confusion, expected)


def test_ignore_can_be_any_value_above_the_classes() -> None:
    metrics = SemanticMetrics(("a", "b"), ignore=2)
    metrics.update(np.array([0, 1, 2], np.uint8), np.array([0, 2, 1], np.uint8))
    assert metrics.confusion.tolist() == [[1, 0], [0, 0]]
    assert metrics.unassigned.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"must be in 2\.\.255"):
        SemanticMetrics(("a", "b"), ignore=1)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [0], r"truth of \(2,\) with a prediction of \(1,\)"),
        ([0, 1], [0, 4], r"prediction has class ids \[4\] with 4 classes"),
        ([0, IGNORE], [0, 9], r"prediction has class ids \[9\]"),  # an ignored pixel excuses no impossible id
        ([0, 254], [0, 0], r"truth has class ids \[254\]"),
        ([0, 1], [0, -1], r"prediction has class ids -1\.\.0"),
        ([0, 300], [0, 0], r"truth has class ids 0\.\.300"),
        ([0, 1], [0.0, 1.0], "must hold integers, got float64"),
    ],
)
def test_refuses(truth: list, predicted: list, message: str) -> None:
    metrics = SemanticMetrics(NAMES)
    with pytest.raises(ValueError, match=message):
        metrics.update(np.array(truth), np.array(predicted))
    assert not metrics.confusion.any()


def test_refuses_to_merge_other_classes() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        SemanticMetrics(NAMES).merge(SemanticMetrics(NAMES[::-1]))


def test_results_are_copies() -> None:
    metrics = evaluate([(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))])
    metrics.confusion[:] = 0
    assert math.isclose(metrics.compute()["miou"], 1.0)
