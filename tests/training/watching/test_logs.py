"""What workers log: lines that say rank and step, bounded, and warnings once."""

import json
import logging
import warnings

from pipelines.training.watching import logs
from pipelines.training.watching.events import EventLog, tail


def test_lines_have_rank_step_and_traceback_and_warnings_are_events_once(tmp_path):
    logging.captureWarnings(False)  # what another test has imported may have left it on, and pytest's own is in between
    step, events = 3, EventLog(tmp_path / "events.jsonl")
    ours, theirs = logging.getLogger("pipelines.training.loop"), logging.getLogger("torch.somewhere")
    with logs.to_files(tmp_path, 2, lambda: step, events):
        ours.info("epoch %d begins", 1)
        theirs.info("not ours, and not a warning")
        step = 4
        theirs.warning("slow disk")
        step = 5
        theirs.warning("slow disk")
        try:
            raise ValueError("broken")
        except ValueError:
            ours.exception("a step failed")
        warnings.warn("deprecated", stacklevel=1)
    ours.warning("after the end")
    lines = [json.loads(line) for line in (tmp_path / "logs" / "rank-2.jsonl").read_text().splitlines()]
    assert {line["rank"] for line in lines} == {2}
    said = [(line["step"], line["level"], line["message"]) for line in lines]
    assert said[:4] == [
        (3, "INFO", "epoch 1 begins"),
        (4, "WARNING", "slow disk"),
        (5, "WARNING", "slow disk"),
        (5, "ERROR", "a step failed"),
    ]
    assert "ValueError: broken" in lines[3]["traceback"]
    assert "deprecated" in said[4][2]
    told = [event["text"] for event in tail(events.path) if event["kind"] == "warning"]
    assert told[:2] == ["slow disk", "a step failed"]
    assert len(told) == 3


def test_the_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LIMIT", 10_000)
    log = logging.getLogger("pipelines.training.loop")
    with logs.to_files(tmp_path, 0, lambda: 0, EventLog(tmp_path / "events.jsonl")):
        for i in range(1000):
            log.info("line %d", i)
    files = sorted((tmp_path / "logs").iterdir())
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 20_000
    newest = (tmp_path / "logs" / "rank-0.jsonl").read_text().splitlines()[-1]
    assert json.loads(newest)["message"] == "line 999"
