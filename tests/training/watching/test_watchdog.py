"""A group that waits for a rank says for which, and ends: with real processes that are stopped, or desert."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.watching.heartbeat import Heartbeat, Pulse, read
from pipelines.training.watching.watchdog import HUNG, blamed, explain
from tests.training.watched import start


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


def events(state: Path, kind: str) -> list[dict[str, Any]]:
    path = state / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def pulse(step: int, phase: str, **more: Any) -> Pulse:
    about = {"time": time.time(), "process": os.getpid(), "host": "elsewhere", "ids": "", **more}
    return Pulse(step=step, phase=phase, **about)


def here(process: int) -> Pulse:
    return pulse(3, "communication", process=process, host=socket.gethostname())


@pytest.mark.parametrize(
    ("pulses", "expected"),
    [
        ({0: pulse(3, "communication"), 1: pulse(3, "forward")}, [1]),
        ({0: pulse(3, "communication"), 1: pulse(2, "communication"), 2: pulse(3, "communication")}, [1]),
        ({0: pulse(3, "communication"), 1: None}, [1]),
        ({0: pulse(3, "communication"), 1: pulse(3, "communication")}, []),
        ({0: pulse(2, "communication"), 1: pulse(9, "other"), 2: pulse(2, "communication")}, [1]),
    ],
)
def test_who_is_waited_for(pulses, expected):
    assert blamed(pulses) == expected


def test_a_process_that_waits_no_longer_is_waited_for():
    """A rank spends most of its time in collectives: there it is when it is stopped."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        pulses = {0: pulse(3, "communication"), 1: here(process.pid)}
        assert blamed(pulses) == []
        process.send_signal(signal.SIGSTOP)
        until(lambda: blamed(pulses) == [1])
        assert f"rank 1 stands in communication of step 3 since 0 s (process {process.pid} is stopped)" in explain(
            pulses, [1]
        )
    finally:
        process.kill()
        process.wait()
    assert blamed(pulses) == [1]
    assert f"(process {process.pid} is gone)" in explain(pulses, [1])


def test_the_sentence_names_ranks_phases_steps_and_images():
    pulses = {
        0: pulse(12, "communication"),
        1: pulse(12, "forward", time=time.time() - 75, ids="a.jpg, b.jpg"),
        2: pulse(12, "communication"),
    }
    assert explain(pulses, [1]) == (
        "rank 1 stands in forward of step 12 since 75 s on elsewhere, images a.jpg, b.jpg; "
        "ranks 0, 2 wait for it in communication of step 12"
    )
    assert explain({0: pulses[0], 2: pulses[2]}, []).startswith("all ranks wait for each other in communication of")


def test_a_record_says_where_its_rank_stands(tmp_path):
    assert read(tmp_path, 4) is None
    heart = Heartbeat(tmp_path, 4)
    assert read(tmp_path, 4) is None, "it has not begun"
    heart.beat(7, "forward", [f"image-{i:05}" for i in range(100)])
    heart.beat(7, "communication")
    found = read(tmp_path, 4)
    assert found is not None
    assert (found.step, found.phase, found.process) == (7, "communication", os.getpid())
    assert found.ids.startswith("image-00000, image-00001")
    assert abs(found.time - time.time()) < 5


def test_a_beat_costs_nothing(tmp_path):
    heart, ids = Heartbeat(tmp_path, 0), [f"image-{i}" for i in range(8)]
    started = time.process_time()
    for step in range(20_000):
        heart.beat(step, "data", ids)
    assert (time.process_time() - started) / 20_000 < 20e-6, "four times what it should take, on a busy machine"


def test_a_slow_step_is_waited_for_and_validation_is_none(tmp_path):
    heart = Heartbeat(tmp_path, 0)

    def took(step: int, seconds: float, phase: str = "forward") -> None:
        heart.beat(step, phase)
        heart.began -= seconds

    took(0, 100)  # the first one compiles
    took(1, 3)
    took(2, 50, "validation")
    took(3, 2)
    took(4, 0)
    assert heart.slowest == pytest.approx(3, abs=0.5)


def test_a_group_that_works_is_left_alone(tmp_path):
    ranks = [start(rank, 2, tmp_path, 40, None, 0.5) for rank in range(2)]
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert len(events(tmp_path, "done")) == 2
    assert events(tmp_path, "hang") == []


@pytest.mark.slow
def test_a_stopped_rank_is_named(tmp_path):
    ranks = [start(rank, 2, tmp_path, 10**6, None, 1.0) for rank in range(2)]
    until(lambda: (found := read(tmp_path / "ranks", 1)) and found.step > 5)
    process = ranks[1].pid
    os.kill(process, signal.SIGSTOP)
    try:
        ranks[0].join(60)
        assert ranks[0].exitcode == HUNG
        (hang,) = events(tmp_path, "hang")
        # Stopped within its own collective, it stands at the same step: the system knows that it is stopped.
        assert f"process {process} is stopped" in hang["text"]
        assert "rank 1 stands in" in hang["text"]
        assert hang["blamed"] == [1]
    finally:
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_rank_that_leaves_out_a_collective_is_named_once(tmp_path):
    ranks = [start(rank, 3, tmp_path, 100, 20, 1.0) for rank in range(3)]
    for rank in (0, 2):
        ranks[rank].join(60)
    assert [ranks[rank].exitcode for rank in (0, 2)] == [HUNG, HUNG]
    ranks[1].kill()
    (hang,) = events(tmp_path, "hang")
    assert hang["text"].startswith("rank 1 stands in other of step 20 since")
    assert hang["text"].endswith("images image-20-1; ranks 0, 2 wait for it in communication of step 20")
