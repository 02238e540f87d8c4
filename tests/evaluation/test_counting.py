"""The order of what threads return, what they hold back, and how they end."""

import signal
import threading
from contextlib import closing

import pytest

from pipelines.evaluation import counting

DEADLINE = 20  # seconds, of what takes none


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_come_in_the_items_order(workers: int) -> None:
    second = threading.Event()

    def count(item: int) -> int:
        """The first is done after the second, where there is someone to do that."""
        if item == 0 and workers > 1:
            assert second.wait(DEADLINE)
        if item == 1:
            second.set()
        return item * item

    found = list(counting.ordered(count, iter(range(20)), workers=workers, ahead=4))
    assert found == [(i, i * i) for i in range(20)]


@pytest.mark.parametrize("ahead", [1, 5])
def test_no_more_are_made_than_may_wait(ahead: int) -> None:
    made, release = [], threading.Event()

    def items():
        for i in range(30):
            made.append(i)
            if i == ahead:  # the caller waits for the first after this one
                release.set()
            yield i

    def count(item: int) -> int:
        assert release.wait(DEADLINE)
        return len(made) - item

    found = counting.ordered(count, items(), workers=1, ahead=ahead)
    assert max(waiting for _, waiting in found) <= ahead + 1


def test_items_are_made_while_others_are_counted() -> None:
    """Each waits for the other: the first count for the third item, the third item for the first count's begin."""
    begun, third = threading.Event(), threading.Event()

    def items():
        yield 0
        yield 1
        assert begun.wait(DEADLINE)
        third.set()
        yield 2

    def count(item: int) -> bool:
        begun.set()
        return third.wait(DEADLINE)

    assert all(answer for _, answer in counting.ordered(count, items(), workers=1, ahead=2))


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("count")]


def test_an_error_comes_in_its_turn_and_leaves_nobody_behind() -> None:
    counted = []

    def count(item: int) -> int:
        counted.append(item)
        return 1 // (3 - item)

    found = []
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117 - closing is what is tested
        with closing(counting.ordered(count, iter(range(1000)), workers=2, ahead=2)) as answers:
            found += answers
    assert not threads()
    assert max(counted) < 3 + 2 + 3  # those that waited were given up


def test_an_interrupt_ends_it() -> None:
    begun = threading.Event()

    def count(item: int) -> int:
        begun.set()
        return item

    def items():
        yield 0
        assert begun.wait(DEADLINE)
        signal.raise_signal(signal.SIGINT)
        yield from range(1000)

    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with closing(counting.ordered(count, items(), workers=2, ahead=8)) as answers:
            list(answers)
    assert not threads()
