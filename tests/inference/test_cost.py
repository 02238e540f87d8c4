"""What a prediction costs: of models that sleep and take memory as they are told."""

import time

import numpy as np
import pytest

from pipelines.inference import cost

MEGABYTE = 1_000_000


def images(count: int, side: int = 8) -> list[np.ndarray]:
    return [np.zeros((side, side, 3), np.uint8)] * count


def test_the_median_of_single_images_and_the_batches():
    """What is timed, and what only warms up, by the sizes of the calls."""
    calls: list[int] = []

    def predict(batch: list[np.ndarray]) -> None:
        calls.append(len(batch))

    found = cost.measure(predict, iter(images(10)), batch_size=4, parameters=7, size=1500)
    assert calls == [1] * cost.WARM_UP + [1] * 10 + [4] * (1 + cost.BATCHES)
    assert (found.parameters, found.size_mb, found.device) == (7, 0.0015, "cpu")
    assert 0 < found.latency_ms <= found.latency_p95_ms
    assert found.images_per_second > 0


def test_time_is_that_of_the_call():
    assert cost.seconds(lambda: time.sleep(0.02)) >= 0.02
    ticks = iter([3.0, 5.5])
    assert cost.seconds(lambda: None, clock=lambda: next(ticks)) == 2.5


def test_a_batch_has_images_of_one_size():
    shapes: list[set[tuple[int, ...]]] = []
    mixed = [*images(1, 8), *images(2, 16), *images(2, 8)]
    cost.measure(lambda batch: shapes.append({i.shape for i in batch}), mixed, batch_size=8, parameters=0, size=1500)
    assert all(len(batch) == 1 for batch in shapes)


def test_a_slow_model_is_asked_less(monkeypatch):
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    calls: list[int] = []
    cost.measure(lambda batch: calls.append(len(batch)), images(10), batch_size=4, parameters=0, size=1500)
    assert calls == [1] * cost.WARM_UP + [1] + [1, 1]


def test_the_peak_is_that_of_the_prediction_and_not_of_what_was_before():
    """What it takes is let go again, and still counts; what was taken and let go before does not."""
    before = np.ones(200 * MEGABYTE, np.uint8)
    del before

    def predict(batch: list[np.ndarray]) -> None:
        np.ones(100 * MEGABYTE, np.uint8).sum()

    cost.forget_peak()
    resting = cost.peak() / MEGABYTE
    found = cost.measure(predict, images(2), batch_size=1, parameters=0, size=1500)
    assert 90 < found.memory_mb - resting < 150


@pytest.mark.parametrize(("count", "most", "taken"), [(3, 5, [0, 1, 2]), (10, 5, [0, 2, 4, 6, 8]), (0, 5, [])])
def test_images_are_taken_from_everywhere(count, most, taken):
    assert cost.some(count, most) == taken
