"""What every panoptic prediction must be to hold together."""

import numpy as np

from pipelines.data.prediction import Prediction
from pipelines.models.contract import Classes


def assert_they_agree(prediction: Prediction, classes: Classes, size: tuple[int, int]) -> None:
    """The three views of one image: each segment of a thing is an instance, and each pixel's class its segment's."""
    semantic, instances, whole = prediction.semantic, prediction.instances, prediction.panoptic
    assert semantic.shape == whole.ids.shape == instances.masks.shape[1:] == size
    assert (semantic.dtype, whole.ids.dtype, whole.labels.dtype) == (np.uint8, np.int32, np.int64)
    assert set(np.unique(whole.ids)) - {0} == set(range(1, len(whole.labels) + 1))
    things = [k for k, label in enumerate(whole.labels.tolist(), start=1) if label in classes.things]
    assert instances.labels.tolist() == [whole.labels[k - 1] for k in things]
    assert (instances.labels.dtype, instances.scores.dtype, instances.boxes.dtype) == (np.int64, np.float32, np.float32)
    for k, mask, box in zip(things, instances.masks, instances.boxes, strict=True):
        np.testing.assert_array_equal(mask, whole.ids == k)
        y, x = np.nonzero(mask)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    inside = whole.ids > 0
    np.testing.assert_array_equal(semantic[inside], whole.labels[whole.ids[inside] - 1])
    stuff = [label for label in whole.labels.tolist() if label in classes.stuff]
    assert len(stuff) == len(set(stuff)) == len(whole.labels) - len(things)


def segments(prediction: Prediction) -> list[tuple[int, bytes]]:
    """Class and pixels of each, in whatever order."""
    whole = prediction.panoptic
    return sorted((label, (whole.ids == k).tobytes()) for k, label in enumerate(whole.labels.tolist(), start=1))
