"""What waits for MLflow: in order, each point once, whatever is killed, torn or full."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.watching import spool
from pipelines.training.watching.spool import Message, Spool


def metrics(step: int, run: str = "", **values: float) -> Message:
    return {"run": run, "what": "metrics", "values": values, "step": step, "time": 1000 + step}


def params(run: str) -> Message:
    return {"run": run, "what": "params", "params": {"seed": "0"}}


def waiting(found: Spool) -> list[Message]:
    return [message for message, _ in found.peek(10**6)]


def send(found: Spool, count: int) -> list[Message]:
    sent = found.peek(count)
    found.drop(sent[-1][1])
    return [message for message, _ in sent]


def test_what_is_added_is_sent_once_and_in_order(tmp_path):
    one = Spool(tmp_path)
    told = [params(""), *(metrics(i, loss=i / 2) for i in range(10))]
    assert all(one.add(message) for message in told)
    assert send(one, 4) == told[:4]
    assert one.waiting() == 7
    two = Spool(tmp_path)  # its driver was killed
    assert two.key == one.key
    assert waiting(two) == told[4:]
    two.add(metrics(10, loss=5.0))
    assert send(two, 100) == [*told[4:], metrics(10, loss=5.0)]
    assert two.waiting() == 0
    assert waiting(Spool(tmp_path)) == []


def test_steps_that_a_resumed_training_says_again_are_told_once(tmp_path):
    one = Spool(tmp_path)
    for step in range(20):
        one.add(metrics(step, loss=1.0))
        one.add(metrics(step, "trial-1", loss=2.0))
    send(one, 15)
    two = Spool(tmp_path)
    for step in range(10, 30):  # from its last checkpoint
        assert two.add(metrics(step, loss=1.0)) == (step >= 20)
    two.add(metrics(25, loss=1.0, val_pq=0.5))  # another metric of a step that is known
    steps = [m["step"] for m in waiting(two) if not m["run"] and "loss" in m["values"]]
    assert steps == list(range(8, 30))
    assert waiting(two)[-1]["values"] == {"val_pq": 0.5}
    assert [m["step"] for m in waiting(two) if m["run"]] == list(range(7, 20))


def test_a_child_is_told_of_once_and_not_after_its_end(tmp_path):
    one = Spool(tmp_path)
    assert [one.add(params("trial-0")) for _ in range(2)] == [True, False]
    one.add(metrics(0, "trial-0", loss=1.0))
    one.add({"run": "trial-0", "what": "end", "status": "FINISHED"})
    send(one, 100)
    two = Spool(tmp_path)
    assert not two.add(params("trial-0"))
    assert not two.add(metrics(0, "trial-0", loss=1.0))
    assert two.ended == {"trial-0"}


@pytest.mark.parametrize("torn", [b'{"run": "", "wh', b"\x00" * 30, b"[1, 2]\n"])
def test_a_torn_line_is_left_out(tmp_path, torn):
    one = Spool(tmp_path)
    one.add(metrics(0, loss=1.0))
    with one.lines.open("ab") as file:
        file.write(torn)
    two = Spool(tmp_path)
    two.add(metrics(1, loss=1.0))
    assert [m["step"] for m in waiting(two)] == [0, 1]


def test_damaged_marks_send_all_again(tmp_path):
    """MLflow keeps a point that it is told twice once; what is not told is lost."""
    one = Spool(tmp_path)
    one.add(metrics(0, loss=1.0))
    send(one, 1)
    one.marks.write_text('{"key": "a')
    assert len(waiting(Spool(tmp_path))) == 1


def test_what_has_arrived_leaves_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "SWEEP", 1000)
    one = Spool(tmp_path)
    for step in range(100):
        one.add(metrics(step, loss=1.0))
        send(one, 10)
        assert one.lines.stat().st_size <= 1200
    again = Spool(tmp_path)
    assert not again.add(metrics(99, loss=1.0))
    assert again.add(metrics(100, loss=1.0))


def test_a_kill_between_sweep_and_mark_sends_what_came_after(tmp_path):
    one = Spool(tmp_path)
    for step in range(5):
        one.add(metrics(step, loss=1.0))
    send(one, 5)
    one.lines.write_bytes(b"")  # swept; the old position is beyond its end
    two = Spool(tmp_path)
    two.add(metrics(5, loss=1.0))
    assert [m["step"] for m in waiting(two)] == [5]


def test_it_is_bounded_and_counts_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "LIMIT", 1000)
    one = Spool(tmp_path)
    added = [one.add(metrics(step, loss=1.0, val_pq=2.0)) for step in range(100)]
    assert one.lines.stat().st_size <= 1000
    assert 5 < sum(added) < 20
    assert one.waiting() == 200
    send(one, 100)
    assert one.add(metrics(100, loss=1.0))
    assert one.waiting() == 1 + 2 * (100 - sum(added))


def test_marks_are_plain(tmp_path: Path) -> None:
    one = Spool(tmp_path)
    one.add(metrics(3, loss=1.0))
    send(one, 1)
    marks: dict[str, Any] = json.loads(one.marks.read_text())
    assert (marks["runs"], marks["steps"]) == ([""], {"": {"loss": 3}})
