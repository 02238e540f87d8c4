"""Panoptic quality against the paper's definition over sets of pixels, against torchmetrics where it means the same,
and by hand."""

import json
import pickle
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.detection import PanopticQuality

from pipelines.data.prediction import Panoptic, PanopticRuns
from pipelines.metrics import panoptic as quality
from pipelines.metrics.panoptic import PanopticMetrics

NAMES = ("road", "car", "sky", "cat", "never")
THINGS = (1, 3, 4)
KEYS = [f"{key}{group}" for group in ("", "_things", "_stuff") for key in ("pq", "sq", "rq")]
PROPERTY = settings(deadline=None, max_examples=60)
Image = tuple[Panoptic, Panoptic]


def panoptic(ids: Any, labels: list[int], crowds: tuple[int, ...] = ()) -> Panoptic:
    """`crowds` are segment ids."""
    return Panoptic(
        ids=np.array(ids, np.int32),
        labels=np.array(labels, np.int64),
        iscrowd=np.isin(np.arange(1, len(labels) + 1), crowds),
    )


@st.composite
def panoptics(draw: st.DrawFn, ids: st.SearchStrategy[np.ndarray], *, crowds: bool) -> Panoptic:
    """Segments of any class but the last. Some have no pixels."""
    drawn = draw(ids)
    labels = draw(st.lists(st.integers(0, 3), min_size=int(drawn.max()), max_size=5))
    flags = draw(arrays(bool, len(labels))) if crowds else np.zeros(len(labels), bool)
    return panoptic(drawn, labels, tuple(np.flatnonzero(flags) + 1))


@st.composite
def images(draw: st.DrawFn, *, crowds: bool = True) -> Image:
    """The prediction repeats much of the truth, so that matches, near misses and excuses are all common."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    segment_ids = st.integers(0, 5)
    truth = draw(panoptics(arrays(np.int32, shape, elements=segment_ids), crowds=crowds))
    pixels = arrays(np.int32, shape, elements=st.one_of(st.just(-1), segment_ids))
    copied = pixels.map(lambda drawn: np.where(drawn < 0, truth.ids, drawn))
    predicted = draw(panoptics(copied, crowds=False))
    if draw(st.booleans()):
        labels = predicted.labels.copy()
        known = min(labels.size, truth.labels.size)
        labels[:known] = truth.labels[:known]
        predicted = replace(predicted, labels=labels)
    return truth, predicted


def evaluate(scenes: list[Image]) -> PanopticMetrics:
    metrics = PanopticMetrics(NAMES, things=THINGS)
    for truth, predicted in scenes:
        metrics.update(truth, predicted)
    return metrics


def sets(view: Panoptic) -> list[tuple[set[int], int, bool]]:
    """(pixels, class, crowd) of the segments that have pixels."""
    rows = zip(view.labels.tolist(), view.iscrowd.tolist(), strict=True)
    flat = view.ids.ravel()
    segments = [(set(np.flatnonzero(flat == k).tolist()), label, crowd) for k, (label, crowd) in enumerate(rows, 1)]
    return [s for s in segments if s[0]]


def counts(truth: Panoptic, predicted: Panoptic) -> list[tuple[list[Fraction], int, int]]:
    """Of one image, by class: the IoUs of the matches, false positives, false negatives. Section 4 of the paper, for
    void and groups as its evaluation code has them."""
    void = set(np.flatnonzero(truth.ids.ravel() == 0).tolist())
    result = []
    for c in range(len(NAMES)):
        truths = [pixels for pixels, label, crowd in sets(truth) if label == c and not crowd]
        crowds = [pixels for pixels, label, crowd in sets(truth) if label == c and crowd]
        unmatched = [pixels for pixels, label, _ in sets(predicted) if label == c]
        ious, missed = [], 0
        for t in truths:
            overlaps = [(p, Fraction(len(t & p), len(t | (p - void)))) for p in unmatched]
            matches = [(p, iou) for p, iou in overlaps if iou > Fraction(1, 2)]
            assert len(matches) <= 1  # the paper's theorem
            missed += not matches
            for p, iou in matches:
                ious.append(iou)
                unmatched.remove(p)
        excuse = void | (crowds[-1] if crowds else set())
        wrong = sum(2 * len(p & excuse) <= len(p) for p in unmatched)
        result.append((ious, wrong, missed))
    return result


def by_sets(scenes: list[Image]) -> dict[str, Any]:
    per_class: dict[str, dict[str, float | None]] = {"pq": {}, "sq": {}, "rq": {}}
    rows = [counts(*scene) for scene in scenes]
    for c, name in enumerate(NAMES):
        ious = [iou for row in rows for iou in row[c][0]]
        weight = len(ious) + Fraction(sum(row[c][1] + row[c][2] for row in rows), 2)
        per_class["pq"][name] = float(sum(ious) / weight) if weight else None
        per_class["sq"][name] = (float(sum(ious) / len(ious)) if ious else 0.0) if weight else None
        per_class["rq"][name] = float(len(ious) / weight) if weight else None

    def mean(key: str, classes: list[int]) -> float | None:
        values = [v for c in classes if (v := per_class[key][NAMES[c]]) is not None]
        return sum(values) / len(values) if values else None

    groups = {"": [0, 1, 2, 3, 4], "_things": list(THINGS), "_stuff": [0, 2]}
    means = {f"{key}{group}": mean(key, classes) for group, classes in groups.items() for key in per_class}
    return {**means, **{f"{key}_per_class": values for key, values in per_class.items()}}


def flat(result: dict[str, Any]) -> dict[str, float | None]:
    groups = {k: v if isinstance(v, dict) else {"": v} for k, v in result.items()}
    return {f"{k} {name}".strip(): v for k, group in groups.items() for name, v in group.items()}


def assert_equal(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    a, b = flat(ours), flat(expected)
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert a[key] == (None if value is None else pytest.approx(value, rel=0, abs=1e-15)), key


@settings(deadline=None, max_examples=200)
@given(st.lists(images(), max_size=3))
def test_equals_the_definition(scenes: list[Image]) -> None:
    result = evaluate(scenes).compute()
    assert_equal(result, by_sets(scenes))
    assert set(result) == {*KEYS, "pq_per_class", "sq_per_class", "rq_per_class"}
    json.dumps(result, allow_nan=False)
    assert all(v is None or (type(v) is float and 0 <= v <= 1) for v in flat(result).values())


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_on_larger_scenes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(3):
        ids = rng.integers(0, 41, (6, 8)).repeat(9, axis=0).repeat(9, axis=1)
        truth = panoptic(ids, rng.integers(0, 4, 40).tolist(), tuple(rng.integers(1, 41, 8)))
        labels = np.where(rng.random(40) < 0.8, truth.labels, rng.integers(0, 4, 40))
        scenes.append((truth, panoptic(np.roll(ids, rng.integers(0, 3, 2), (0, 1)), labels.tolist())))
    assert_equal(evaluate(scenes).compute(), by_sets(scenes))
    assert evaluate(scenes).compute()["pq"] > 0.1


@PROPERTY
@given(st.lists(images(crowds=False), min_size=1, max_size=3))
def test_equals_torchmetrics(scenes: list[Image]) -> None:
    """Where the conventions agree: it has no crowds, merges the segments of a stuff class, and drops a missed truth
    that lies mostly on what the prediction leaves void. Its void is a class that is neither thing nor stuff."""
    theirs = PanopticQuality(
        things=set(THINGS), stuffs={0, 2}, allow_unknown_preds_category=True, return_sq_and_rq=True
    )
    agreed = []
    for truth, predicted in scenes:
        covering = panoptic(np.maximum(predicted.ids, 1), predicted.labels.tolist() or [0])
        views = one_segment_per_stuff(truth), one_segment_per_stuff(covering)
        pairs = [np.stack([np.append(99, v.labels)[v.ids], v.ids], axis=-1) for v in views]
        theirs.update(torch.from_numpy(pairs[1][None]), torch.from_numpy(pairs[0][None]))
        agreed.append(views)
    result = evaluate(agreed).compute()
    expected = theirs.compute().tolist()
    for key, value in zip(("pq", "sq", "rq"), expected, strict=True):
        assert result[key] == (None if np.isnan(value) else pytest.approx(value, abs=1e-6)), key  # theirs is float32


def one_segment_per_stuff(view: Panoptic) -> Panoptic:
    ids = view.ids.copy()
    for c in (0, 2):
        same = np.flatnonzero(view.labels == c) + 1
        ids[np.isin(ids, same)] = same[:1] if same.size else 0
    return replace(view, ids=ids)


@PROPERTY
@given(st.lists(images(), max_size=5), st.data())
def test_any_partition_and_order_is_the_same_to_the_last_bit(scenes: list[Image], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(scenes)))
    shuffled = data.draw(st.permutations(scenes))
    merged = evaluate(shuffled[:cut])
    merged.merge(pickle.loads(pickle.dumps(evaluate(shuffled[cut:]))))  # noqa: S301  (as a worker hands it over)
    assert merged.compute() == evaluate(scenes).compute()


def test_sums_of_ious_are_exact() -> None:
    """No order of additions can show: the sum is rounded once."""
    scenes = [(panoptic([[1] * n + [2]], [0, 2]), panoptic([[1] * (n + 1)], [0])) for n in range(2, 60)]
    metrics = evaluate(scenes)
    exact = float(sum(Fraction(n / (n + 1)) for n in range(2, 60)))
    assert metrics.compute()["sq_per_class"]["road"] == exact / len(scenes)
    assert evaluate(scenes[::-1]).compute() == metrics.compute()


@PROPERTY
@given(images(), st.data())
def test_segment_ids_are_arbitrary(scene: Image, data: st.DataObject) -> None:
    """Numbered otherwise, with unused ids between; a class's crowds keep their order, as the last one counts."""
    expected = evaluate([scene]).compute()
    renumbered = []
    for view in scene:
        n = view.labels.size
        chosen = data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n, unique=True))
        new = np.array([0, *(sorted(chosen) if view.iscrowd.sum() > 1 else chosen)])
        labels, crowd = np.zeros(9, np.int64), np.zeros(9, bool)
        labels[new[1:] - 1], crowd[new[1:] - 1] = view.labels, view.iscrowd
        renumbered.append(Panoptic(ids=new[view.ids].astype(np.int32), labels=labels, iscrowd=crowd))
    assert evaluate([(renumbered[0], renumbered[1])]).compute() == expected


@PROPERTY
@given(images(), st.data())
def test_predictions_on_void_change_nothing(scene: Image, data: st.DataObject) -> None:
    """As long as no segment gets most of its pixels there: a segment's right to be wrong is measured in pixels."""
    truth, predicted = scene
    outside = truth.ids != 0
    shrunk = replace(predicted, ids=np.where(outside, predicted.ids, 0).astype(np.int32))
    noise = data.draw(arrays(np.int32, truth.ids.shape, elements=st.integers(0, predicted.labels.size)))
    changed = replace(predicted, ids=np.where(outside, predicted.ids, noise).astype(np.int32))
    inside = np.bincount(changed.ids[~outside], minlength=predicted.labels.size + 1)
    if (2 * inside <= np.bincount(changed.ids.ravel(), minlength=inside.size))[1:].all():
        crowdless = replace(truth, iscrowd=np.zeros_like(truth.iscrowd))
        assert evaluate([(crowdless, changed)]).compute() == evaluate([(crowdless, shrunk)]).compute()


@PROPERTY
@given(images())
def test_the_truth_itself_scores_one(scene: Image) -> None:
    truth = scene[0]
    # One crowd of a class: of several only the last would excuse its copy.
    first = np.flatnonzero(truth.iscrowd)[np.unique(truth.labels[truth.iscrowd], return_index=True)[1]]
    truth = replace(truth, iscrowd=np.isin(np.arange(truth.labels.size), first))
    copy = replace(truth, iscrowd=np.zeros_like(truth.iscrowd))
    result = flat(evaluate([(truth, copy)]).compute())
    assert set(result.values()) <= {1.0, None}
    counted = [not truth.iscrowd[k - 1] for k in np.unique(truth.ids) if k]
    assert (result["pq"] is None) == (not any(counted))


def test_by_hand() -> None:
    truth = panoptic([[1, 1, 1, 1, 2, 2, 2, 0]], [0, 1])
    predicted = panoptic([[1, 1, 1, 2, 2, 2, 3, 2]], [0, 1, 3])
    result = evaluate([(truth, predicted)]).compute()
    # The car's predicted pixel on void is outside the union: 2 of 4.
    assert result["pq_per_class"] == {"road": 3 / 4, "car": 0.0, "sky": None, "cat": 0.0, "never": None}
    assert result["sq_per_class"] == {"road": 3 / 4, "car": 0.0, "sky": None, "cat": 0.0, "never": None}
    assert result["rq_per_class"] == {"road": 1.0, "car": 0.0, "sky": None, "cat": 0.0, "never": None}
    assert (result["pq"], result["pq_things"], result["pq_stuff"]) == (0.25, 0.0, 0.75)
    assert (result["sq"], result["rq"]) == (0.25, pytest.approx(1 / 3))


@pytest.mark.parametrize(("void", "wrong"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_prediction_mostly_on_void_is_no_error(void: int, wrong: bool) -> None:
    """Half is not most."""
    truth = panoptic([[0] * void + [1] * (4 - void) + [1] * 20], [0])
    predicted = panoptic([[2] * 4 + [1] * 20], [0, 1])
    result = evaluate([(truth, predicted)]).compute()
    assert result["pq_per_class"]["car"] == (0.0 if wrong else None)


@pytest.mark.parametrize("label", [1, 3])
def test_a_crowd_excuses_its_own_class(label: int) -> None:
    truth = panoptic([[1, 1, 1, 1, 2, 2]], [1, 0], (1,))
    predicted = panoptic([[1, 1, 2, 2, 3, 3]], [label, label, 0])
    result = evaluate([(truth, predicted)]).compute()
    assert result["pq_per_class"][NAMES[label]] == (None if label == 1 else 0.0)
    assert result["pq_per_class"]["car"] is None  # the crowd itself is not missed


def test_of_several_crowds_of_a_class_the_last_counts() -> None:
    truth = panoptic([[1, 1, 2, 2]], [1, 1], (1, 2))
    for ids, wrong in ([[1, 1, 0, 0]], True), ([[0, 0, 1, 1]], False):
        result = evaluate([(truth, panoptic(ids, [1]))]).compute()
        assert result["pq"] == (0.0 if wrong else None)


def test_nothing_to_score_is_undefined() -> None:
    void, full = panoptic([[0, 0, 0]], []), panoptic([[1, 1, 1]], [0])
    for scenes in ([], [(void, void)], [(void, full)], [(panoptic(np.zeros((0, 3)), [1]),) * 2]):
        assert set(flat(evaluate(scenes).compute()).values()) == {None}


def test_empty_prediction_misses_everything() -> None:
    result = evaluate([(panoptic([[1, 2, 0]], [0, 1]), panoptic([[0, 0, 0]], []))]).compute()
    assert (result["pq"], result["pq_things"], result["pq_stuff"]) == (0.0, 0.0, 0.0)
    assert result["pq_per_class"]["sky"] is None


def test_state_does_not_grow_with_images() -> None:
    ids = np.arange(1, 13).reshape(3, 4)
    scene = panoptic(ids, [1] * 12), panoptic(ids, [1] * 12)
    assert len(pickle.dumps(evaluate([scene] * 60))) < len(pickle.dumps(evaluate([scene]))) + 50


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (panoptic([[1, 1, 1]], [0]), r"truth of \(1, 2\) with a prediction of \(1, 3\)"),
        (panoptic([[1, 2]], [5, -1]), r"class ids \[-1, 5\] with 5 classes"),
    ],
)
def test_refuses(predicted: Panoptic, message: str) -> None:
    metrics = PanopticMetrics(NAMES, things=THINGS)
    with pytest.raises(ValueError, match=message):
        metrics.update(panoptic([[1, 1]], [0]), predicted)
    assert metrics.compute()["pq"] is None
    with pytest.raises(ValueError, match="cannot merge"):
        metrics.merge(PanopticMetrics(NAMES, things=(1,)))


@PROPERTY
@given(st.lists(images(), max_size=3), st.data())
def test_runs_count_as_their_map_does(scenes: list[Image], data: st.DataObject) -> None:
    """A run may also be cut where nothing changes."""

    def cut(view: Panoptic) -> PanopticRuns:
        start = np.union1d(view.runs().start, data.draw(st.lists(st.integers(0, view.ids.size - 1)))).astype(np.int64)
        return replace(view.runs(), start=start, ids=view.ids.reshape(-1)[start])

    by_runs = PanopticMetrics(NAMES, things=THINGS)
    for truth, predicted in scenes:
        by_runs.update(cut(truth), predicted if data.draw(st.booleans()) else cut(predicted))
    assert by_runs.compute() == evaluate(scenes).compute()


@PROPERTY
@given(st.lists(images(), min_size=1, max_size=3))
def test_too_many_pairs_for_a_table_are_counted_all_the_same(scenes: list[Image]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "TABLE", 0)
        found = evaluate(scenes).compute()
    assert found == evaluate(scenes).compute()


def test_runs_refuse_ids_that_no_segment_has() -> None:
    runs = panoptic([[0, 1, 2]], [0, 1]).runs()
    with pytest.raises(ValueError, match=r"segment ids 0\.\.2 with 1 segments"):
        replace(runs, labels=runs.labels[:1], iscrowd=runs.iscrowd[:1])
