"""The clock against time that is burnt on purpose, and its sums against themselves."""

import json
import time

import pytest
import torch

from pipelines.training.watching import timing
from pipelines.training.watching.timing import PHASES, Timer


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def spent(seconds: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in seconds.items() if value}


def test_each_second_is_counted_once(clock):
    timer = Timer()
    for _ in range(3):
        clock.passes(1)
        timer.lap("data")
        clock.passes(4)
        timer.lap("forward")
    clock.passes(0.5)
    timer.lap("other")
    clock.passes(24)
    timer.lap("validation")
    clock.passes(2)
    timer.lap("communication")
    clock.passes(0.25)
    found = timer.end_epoch()["epoch"]
    assert spent(found) == {"data": 3, "forward": 12, "validation": 24, "communication": 2, "other": 0.75}
    assert sum(found.values()) == clock.now - 100


def test_epochs_add_up_and_a_resumed_run_goes_on(clock):
    timer = Timer()
    for seconds in (1, 2):
        clock.passes(seconds)
        timer.lap("forward")
        assert spent(timer.end_epoch()["epoch"]) == {"forward": seconds}
    clock.passes(4)
    timer.lap("backward")
    state = timer.state_dict()
    clock.passes(1000)  # it was killed, and nobody waited
    resumed = Timer()
    resumed.load_state_dict(state)
    clock.passes(8)
    resumed.lap("backward")
    assert spent(resumed.end_epoch()["epoch"]) == {"backward": 12}
    assert spent(resumed.total) == {"forward": 3, "backward": 12}
    later = Timer()
    later.load_state_dict(state, over=True)
    assert (spent(later.epoch), spent(later.total)) == ({}, {"forward": 3, "backward": 4})


def test_a_lap_costs_nothing():
    timer = Timer()
    started = time.process_time()
    for _ in range(100_000):
        timer.lap("forward")
    assert (time.process_time() - started) / 100_000 < 8e-6, "four times what it should take, on a busy machine"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the device's own clock needs a GPU")
def test_on_a_gpu_the_device_is_timed_without_being_waited_for(monkeypatch):
    monkeypatch.setattr(timing, "PENDING", 40)  # events are read while later ones are still to come
    timer = Timer(cuda=True)
    started = time.perf_counter()
    for _ in range(100):
        torch.cuda._sleep(2_000_000)
        timer.lap("forward")
        torch.cuda._sleep(4_000_000)
        timer.lap("backward")
    told = time.perf_counter() - started
    found = timer.end_epoch()["epoch"]
    assert told < 0.2 * sum(found.values()), "laps must not wait for the device"
    assert sum(found.values()) == pytest.approx(time.perf_counter() - started, rel=0.1)
    assert found["backward"] == pytest.approx(2 * found["forward"], rel=0.1)


def test_all_ranks_together():
    nothing = dict.fromkeys(PHASES, 0.0)
    ranks = [
        {**nothing, "data": 1.0, "forward": 30.0, "communication": 9.0, "validation": 10.0},
        {**nothing, "data": 3.0, "forward": 36.0, "communication": 1.0, "validation": 10.0},
    ]
    assert spent(timing.merge(ranks)) == {"data": 4, "forward": 66, "communication": 10, "validation": 20}
    assert timing.slowest(ranks) == 1
    shares = timing.shares(timing.merge(ranks))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["forward"] == 0.66
    found = timing.metrics(ranks, images=800)
    assert found["time/forward"] == 33
    assert found["data_wait_share"] == 2 / 40  # of the seconds without validation
    assert found["images_per_second"] == 800 / 40
    assert timing.table(ranks).splitlines() == [
        "where the time went (2 workers, 0:50 each; rank 1 was the slowest)",
        "  data              0:02    4.0%  #",
        "  forward           0:33   66.0%  ####################",
        "  backward          0:00    0.0%",
        "  communication     0:05   10.0%  ###",
        "  update            0:00    0.0%",
        "  checkpoint        0:00    0.0%",
        "  validation        0:10   20.0%  ######",
        "  other             0:00    0.0%",
    ]


def test_an_epoch_s_event_has_all_ranks(clock):
    parts = []
    for rank in range(2):
        timer = Timer()
        clock.passes(1 + rank)
        timer.lap("data")
        parts.append(timer.end_epoch())
    parts[1]["memory"]["memory/rss_peak_gib"] = 1e6
    event = json.loads(json.dumps(timing.report(parts, images=30)))
    assert event["metrics"]["time/data"] == 1.5
    assert event["metrics"]["images_per_second"] == 20
    assert event["metrics"]["memory/rss_peak_gib"] == 1e6
    assert [spent(rank) for rank in event["ranks"]] == [{"data": 1}, {"data": 2}]


def test_a_run_without_a_second_is_no_error():
    nothing = dict.fromkeys(PHASES, 0.0)
    assert timing.metrics([nothing], images=0)["images_per_second"] == 0
    assert timing.table([nothing]).startswith("where the time went (0:00)")


def test_memory_is_what_the_process_has_held():
    before = timing.memory()["memory/rss_peak_gib"]
    held = bytearray(b"x" * (300 << 20))
    after = timing.memory()["memory/rss_peak_gib"]
    assert len(held) == 300 << 20
    assert before < after
    assert after > 0.3
