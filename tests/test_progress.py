"""The line that says how far."""

import io
import re

import pytest

from pipelines.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.7, "1:00:00"), (3661, "1:01:01")]
)
def test_clock(seconds, said):
    assert clock(seconds) == said


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end():
    log = io.StringIO()
    with Progress("train", 100, "steps", stream=log, every=3600) as progress:
        for step in range(1, 101):
            progress.update(step, f"loss {step}")
    assert re.fullmatch(r"train  100/100 steps  0:00  loss 100\n", log.getvalue())


def test_a_terminal_has_one_line_that_renews_itself():
    terminal = Terminal()
    with Progress("ingest", 3, stream=terminal) as progress:
        progress.every = 0
        for done in range(1, 4):
            progress.update(done)
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\r\x1b[Kingest  3/3  0:00\n")
    assert terminal.getvalue().count("\r\x1b[K") == 4


def test_what_is_left_follows_from_the_rate_since_the_first_result():
    log = io.StringIO()
    progress = Progress("train", 0, "steps", stream=log, every=0)
    progress.update(10, total=50)
    progress.start -= 70  # a minute of start-up, then ten steps in ten seconds
    progress.first = (progress.start + 60, 10)
    progress.update(20)
    assert log.getvalue().splitlines()[-1] == "train  20/50 steps  1:10, 0:30 left"


def test_the_last_state_is_shown_when_the_work_fails():
    log = io.StringIO()

    def work() -> None:
        with Progress("train", 10, stream=log, every=3600) as progress:
            progress.update(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert log.getvalue().startswith("train  4/10")


def test_a_sentence_stands_above_the_line_that_renews_itself():
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        with Progress("train", 3, stream=stream) as progress:
            progress.update(1)
            progress.say("rank 1 is stopped")
    assert "\r\x1b[Krank 1 is stopped\n\r\x1b[Ktrain  1/3" in terminal.getvalue()
    assert log.getvalue().startswith("rank 1 is stopped\ntrain  1/3")
