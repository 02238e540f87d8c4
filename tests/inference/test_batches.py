"""Which images are predicted together."""

import numpy as np

from pipelines.inference.batches import batches


def test_batches_hold_neighbours_of_one_size() -> None:
    images = [np.zeros((height, 64, 3), np.uint8) for height in (64, 64, 64, 32, 64)]
    assert [[i.shape[0] for i in batch] for batch in batches(images, 2, shape=np.shape)] == [[64, 64], [64], [32], [64]]


def test_a_batch_is_given_before_the_next_image_is_asked_for() -> None:
    asked = []
    stream = (asked.append(i) or i for i in range(6))  # type: ignore[func-returns-value]
    found = batches(stream, 2, shape=lambda _: (1,))
    assert (next(found), asked) == ([0, 1], [0, 1])
