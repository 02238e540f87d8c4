"""Which failures are shown, and that each crop shows its own."""

import numpy as np
import pytest

from pipelines.data import panoptic, rle
from pipelines.evaluation.evaluator import VIEWS, Detail, score
from pipelines.metrics import sizes
from pipelines.reporting import failures, pictures

DETAIL = Detail(boundary=0.02, edge=0.0, resamples=0, seed=0)


@pytest.mark.parametrize("task", VIEWS)
def test_each_is_what_the_evaluation_counted(task, records, classes, learned):
    model = learned(task)
    counted = score(model, records, batch_size=4, detail=DETAIL).failures
    rows, image = counted.rows()
    shown = failures.collect(counted, model, records, classes)
    assert len(shown) == min(len(rows), failures.MOST)
    by_id = {record.id: index for index, record in enumerate(records)}
    for failure in shown:
        here = rows[image == by_id[failure.image]]
        truth = -1 if failure.truth is None else failure.truth
        label = -1 if failure.predicted is None else failure.predicted
        same = (here["truth_label"] == truth) & (here["label"] == label)
        assert failure.area in here["pixels" if task == "semantic" else "area"][same]
        assert max(failure.crop.shape[:2]) == failures.SIDE
        if task != "semantic":
            assert failure.size == sizes.of(np.array(failure.area))


def test_the_outlines_are_those_of_the_truth_and_the_prediction(records, classes, learned):
    """The colours are around the masks that were meant, and nowhere else."""
    model = learned("panoptic")
    counted = score(model, records, batch_size=4, detail=DETAIL).failures
    shown = failures.collect(counted, model, records, classes)
    for failure in shown:
        for color, there in (
            (pictures.TRUTH, failure.truth is not None),
            (pictures.PREDICTION, failure.predicted is not None),
        ):
            assert (failure.crop == color).all(axis=-1).any() == there, failure.kind


def test_what_is_rare_is_shown_beside_what_is_frequent():
    often, rare = 7, 3
    cells, order = np.array([often] * 8 + [rare]), np.arange(9)
    assert failures.choose(cells, order, np.zeros(9, int), most=3, images=1) == [0, 8, 1]
    assert failures.choose(cells, order[::-1], np.zeros(9, int), most=3, images=1) == [8, 7, 6]
    assert failures.choose(cells[:0], order[:0], order[:0], most=3, images=1) == []


def test_no_more_images_than_allowed():
    image = np.array([0, 1, 2, 0, 1, 2])
    assert failures.choose(np.zeros(6, int), np.arange(6), image, most=6, images=2) == [0, 1, 3, 4]


def test_a_crop_shows_the_mask_and_what_is_around_it():
    image = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[40:60, 180:200] = True
    picture = pictures.outlined(image, [(mask, pictures.TRUTH)], side=64)
    assert picture.shape == (64, 64, 3)  # the square of 32 pixels that ends at the right border, enlarged
    rows, cols = np.nonzero((picture == pictures.TRUTH).all(axis=-1))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == pytest.approx((12, 52, 24, 63), abs=2)


def test_a_mask_as_large_as_a_flat_image_is_shown_whole():
    mask = np.ones((10, 400), bool)
    assert pictures.outlined(np.zeros((10, 400, 3), np.uint8), [(mask, pictures.TRUTH)], side=100).shape == (2, 100, 3)


def test_truths_are_the_rows_of_the_view(records, classes, learned):
    """A failure names the segment of the panoptic truth, or the instance of the record, that has its class and area."""
    things = tuple(i for i, c in enumerate(classes) if c.isthing)
    for task in ("panoptic", "instance"):
        rows, image = score(learned(task), records, batch_size=4, detail=DETAIL).failures.rows()
        for row, index in zip(rows, image, strict=True):
            if row["truth"] < 0:
                continue
            if task == "panoptic":
                truth = panoptic.truth(records[index], things)
                label, area = truth.labels[row["truth"]], (truth.ids == row["truth"] + 1).sum()
            else:
                segment = records[index].segments[row["truth"]]
                label, area = segment.category, rle.area(segment.counts)
            assert (label, area) == (row["truth_label"], row["area"])
