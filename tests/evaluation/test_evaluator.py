"""The evaluator against the metrics themselves, and what must not change a score."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from pipelines.data import panoptic
from pipelines.data.prediction import Prediction
from pipelines.evaluation.evaluator import VIEWS, Detail, Evaluator, evaluate, score
from pipelines.loading.batch import decode
from pipelines.metrics.boundary import BoundaryMetrics
from pipelines.metrics.calibration import CalibrationMetrics
from pipelines.metrics.instance import InstanceMetrics
from pipelines.metrics.panoptic import PanopticMetrics
from pipelines.metrics.semantic import SemanticMetrics

TASKS = ("semantic", "instance", "panoptic")
DETAIL = Detail(boundary=0.02, edge=0.02, resamples=200, seed=0)


def directly(records, classes, model):
    names, things = [c.name for c in classes], tuple(i for i, c in enumerate(classes) if c.isthing)
    confident = 0.0 if model.task == "panoptic" else 0.5  # a panoptic map has decided
    semantic, instance = SemanticMetrics(names), InstanceMetrics(names, things=things, confident=confident)
    whole = PanopticMetrics(names, things=things)
    for record in records:
        (found,) = model.predict([decode(record)])
        if found.semantic is not None:
            semantic.update(record.semantic, found.semantic)
        if found.instances is not None:
            instance.update(record.segments, (record.height, record.width), found.instances)
        if found.panoptic is not None:
            whole.update(panoptic.truth(record, things), found.panoptic)
    all_three = {"semantic": semantic, "instance": instance, "panoptic": whole}
    return {view: all_three[view].compute() for view in VIEWS[model.task]}


@pytest.mark.parametrize("task", TASKS)
def test_gives_what_the_metrics_give(task, records, classes, learned):
    model = learned(task)
    found = evaluate(model, records, batch_size=2)
    assert found == directly(records, classes, model)
    assert set(found) == ({"semantic", "instance", "panoptic"} if task == "panoptic" else {task})


@pytest.mark.parametrize("task", TASKS)
def test_batches_and_shares_change_nothing(task, records, learned):
    model = learned(task)
    whole = evaluate(model, records, batch_size=1)
    assert evaluate(model, records, batch_size=64) == whole
    shares = [score(model, records, batch_size=3, indices=part) for part in (range(4), range(4, 7))]
    first, second = pickle.loads(pickle.dumps(shares))  # noqa: S301 - as it travels between workers
    first.merge(second)
    assert first.compute() == whole


@pytest.mark.parametrize("task", TASKS)
def test_detail_adds_and_changes_nothing_else(task, records, learned):
    plain = evaluate(learned(task), records, batch_size=4)
    found = score(learned(task), records, batch_size=4, detail=DETAIL).compute()
    assert {v: {k: found[v][k] for k in values} for v, values in plain.items()} == plain
    more = {view: set(found[view]) - set(plain[view]) for view in found}
    semantic = {"boundary_f1", "boundary_f1_per_class", "ece", "mce", "intervals"}
    expected = {
        "semantic": semantic,
        "instance": {"boundary", "ece", "mce", "intervals"},
        "panoptic": {"intervals"},
    }
    if task != "semantic":
        expected[task].add("errors")
    assert more == {view: expected[view] for view in found}


def test_detail_is_what_the_metrics_give(records, classes, learned):
    model = learned("semantic")
    boundary, calibration = BoundaryMetrics([c.name for c in classes], tolerance=0.02), CalibrationMetrics()
    for record in records:
        (found,) = model.predict([decode(record)])
        boundary.update(record.semantic, found.semantic)
        calibration.update(record.semantic, found.semantic, found.confidence)
    found = score(model, records, batch_size=2, detail=DETAIL).compute()["semantic"]
    expected = {**boundary.compute(), **calibration.compute()}
    assert {key: found[key] for key in expected} == expected
    assert None not in (found["boundary_f1"], found["ece"])


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_detail_of_shares_is_that_of_the_whole(task, records, learned):
    whole = score(learned(task), records, batch_size=4, detail=DETAIL)
    first, second = (
        score(learned(task), records, batch_size=4, indices=p, detail=DETAIL) for p in ([0, 1], range(2, 7))
    )
    first.merge(second)
    assert first.compute() == whole.compute()
    assert whole.images.keys() == {"semantic", "boundary"} | ({"panoptic"} if task == "panoptic" else set())
    for name, images in whole.images.items():
        assert np.array_equal(np.stack(images), np.stack(first.images[name]))


@pytest.mark.parametrize("task", TASKS)
def test_intervals_stand_around_the_scores(task, records, classes, learned):
    found = score(learned(task), records, batch_size=4, detail=DETAIL).compute()
    semantic = ("miou", "pixel_accuracy", "dice", "boundary_f1")
    for view, keys in {"semantic": semantic, "panoptic": ("pq",), "instance": ("ap", "ap50", "ap75")}.items():
        for key in keys if view in found else ():
            low, high = found[view]["intervals"][key]
            assert 0 <= low < found[view][key] < high <= 1, key
    for kind in ("box", "boundary") if "instance" in found else ():
        low, high = found["instance"]["intervals"][kind]["ap"]
        assert 0 <= low < found["instance"][kind]["ap"] < high <= 1, kind
    view, key = {"semantic": ("semantic", "iou")}.get(task, ("instance", "ap_per_class"))
    by_class, values = found[view]["intervals"][key], found[view][key]
    assert list(by_class) == [c.name for c in classes]
    assert {name for name, ends in by_class.items() if ends is None} == {
        c.name for c in classes if values.get(c.name) is None
    }
    assert "intervals" not in score(learned(task), records[:1], batch_size=1, detail=DETAIL).compute()[task]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("workers", [1, 3])
def test_who_counts_changes_nothing(task, workers, records, learned):
    told = {0: [], workers: []}
    done = {
        n: score(
            learned(task), records, batch_size=2, detail=DETAIL, workers=n,
            on_image=lambda index, record, value, n=n: told[n].append((index, record.id, value)),
        )
        for n in told
    }  # fmt: skip
    assert told[workers] == told[0]
    assert done[workers].compute() == done[0].compute()
    for name, images in done[0].images.items():
        assert np.array_equal(np.stack(images), np.stack(done[workers].images[name]))


def test_a_model_without_probabilities_has_no_calibration(records, learned):
    found = score(learned("panoptic"), records, batch_size=4, detail=DETAIL).compute()["semantic"]
    assert (found["ece"], found["mce"]) == (None, None)


def test_a_batch_holds_one_size(records, learned):
    model = learned("semantic")
    score(model, records, batch_size=2)
    assert [len(b) for b in model.batches] == [2, 2, 1, 1, 1]
    assert all(len(set(batch)) == 1 for batch in model.batches)


@pytest.mark.parametrize("task", TASKS)
def test_tells_each_image_s_own_score(task, records, classes, learned):
    model, told = learned(task), {}
    score(model, records, batch_size=3, on_image=lambda index, record, value: told.update({index: (record.id, value)}))
    assert [told[i][0] for i in range(len(records))] == [r.id for r in records]
    key = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}[task]
    for i, record in enumerate(records):
        assert told[i][1] == directly([record], classes, model)[task][key]
    assert told[0][1] > told[len(records) - 1][1]  # the predictions get worse


def test_without_a_thing_there_is_no_ap(records, classes, learned):
    bare = replace(records[0], segments=())
    model, told = learned("instance"), []
    found = score(model, [bare], batch_size=1, on_image=lambda *image: told.append(image[2]))
    assert told == [None]
    assert found.headline() is None


@pytest.mark.parametrize("task", TASKS)
def test_undefined_values_are_strict_json(task, records, classes):
    nothing = Evaluator(task=task, classes=classes, detail=DETAIL).compute()
    assert "NaN" not in json.dumps(nothing, allow_nan=False)
    assert nothing[task][{"semantic": "miou", "instance": "ap", "panoptic": "pq"}[task]] is None


def test_a_missing_view_is_an_error(records, classes):
    with pytest.raises(ValueError, match="no semantic view"):
        Evaluator(task="semantic", classes=classes).update(records[0], Prediction())


def test_a_prediction_of_another_size_is_an_error(records, classes):
    wrong = Prediction(semantic=np.zeros((32, 32), np.uint8))
    with pytest.raises(ValueError, match="32"):
        Evaluator(task="semantic", classes=classes).update(records[0], wrong)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_model_s_error_is_not_hidden(workers, records, classes, learned):
    model = learned("semantic")
    model.answers.clear()
    with pytest.raises(KeyError):
        score(model, records, batch_size=2, workers=workers)
