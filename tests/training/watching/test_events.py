"""Events: one side writes lines, the other is told of each, once."""

import json
import threading
import time
from pathlib import Path

from pipelines.training.watching.events import Event, EventLog, Follower, tail


def wait_for(told: list[Event], count: int) -> None:
    end = time.monotonic() + 10
    while len(told) < count:
        assert time.monotonic() < end, told
        time.sleep(0.01)


def test_every_event_is_told_once_and_in_order(tmp_path):
    path, told = tmp_path / "deep" / "events.jsonl", []
    with Follower(path, told.append):
        log = EventLog(path)
        for i in range(5):
            log.write("epoch", epoch=i, name="ä\n")
        wait_for(told, 5)
        log.write("epoch", epoch=5)  # read when the follower is closed
    assert [e["epoch"] for e in told] == list(range(6))
    assert told[0]["name"] == "ä\n"
    assert {e["kind"] for e in told} == {"epoch"}


def test_steps_are_thinned_and_the_first_is_told(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    start = time.monotonic()
    for step in range(20_000):
        log.step(step=step, loss=0.5)
    steps = [json.loads(line)["step"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert steps[0] == 0
    assert len(steps) <= 1 + (time.monotonic() - start)


def test_what_was_told_before_is_not_told_again_and_what_nobody_was_told_is(tmp_path):
    path, told = tmp_path / "events.jsonl", []
    EventLog(path).write("epoch", epoch=0)
    with Follower(path, told.append):
        wait_for(told, 1)
    EventLog(path).write("epoch", epoch=1)  # its driver was killed
    with Follower(path, told.append):
        EventLog(path).write("epoch", epoch=2)  # a second run appends
    assert [e["epoch"] for e in told] == [0, 1, 2]


def test_events_that_begin_anew_are_told_from_their_start(tmp_path):
    path, told = tmp_path / "events.jsonl", []
    EventLog(path).write("epoch", epoch=0, filler="x" * 100)
    with Follower(path, told.append):
        wait_for(told, 1)
    path.unlink()
    EventLog(path).write("epoch", epoch=7)
    with Follower(path, told.append):
        wait_for(told, 2)
    assert [e["epoch"] for e in told] == [0, 7]


def test_the_tail_has_the_newest_events_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    assert tail(path) == []
    for i in range(100):
        EventLog(path).write("mark", i=i)
    newest = [event["i"] for event in tail(path, size=500)]
    assert newest == list(range(newest[0], 100))
    assert 0 < newest[0] < 99


def test_half_a_line_waits_for_its_other_half(tmp_path):
    path, told = tmp_path / "events.jsonl", []
    with Follower(path, told.append):
        with path.open("w") as file:
            file.write('{"kind": "epoch", ')
            file.flush()
            time.sleep(0.7)
            assert told == []
            file.write('"epoch": 3}\n')
        wait_for(told, 1)
    assert told[0]["epoch"] == 3


def test_a_line_that_its_killed_writer_left_torn_is_passed_over(tmp_path):
    path, told = tmp_path / "events.jsonl", []
    with Follower(path, told.append):
        path.write_text('{"kind": "epo')
        log = EventLog(path)
        log.write("epoch", epoch=1)  # ends the torn line, and is lost with it
        log.write("epoch", epoch=2)
    assert [e["epoch"] for e in told] == [2]


def test_several_processes_may_write(tmp_path):
    path, told = tmp_path / "events.jsonl", []

    def write(rank: int) -> None:
        log = EventLog(path)
        for i in range(50):
            log.write("mark", rank=rank, i=i, filler="x" * 300)

    with Follower(path, told.append):
        threads = [threading.Thread(target=write, args=(rank,)) for rank in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted((e["rank"], e["i"]) for e in told) == [(r, i) for r in range(4) for i in range(50)]


def test_nothing_said_is_nothing_told(tmp_path: Path):
    told: list[Event] = []
    with Follower(tmp_path / "events.jsonl", told.append):
        pass
    assert told == []
