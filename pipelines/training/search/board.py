"""Where a search stands: which trial goes on next, and what a result means for it.

The journal is written before anything follows from what it says, so the search can be killed at any moment.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipelines import files
from pipelines.errors import RunError
from pipelines.training.search.record import Journal, Record, Status
from pipelines.training.search.rules import Copy, Rule
from pipelines.training.search.samplers import Sampler

OnResult = Callable[[Record, Mapping[str, float]], None]
OnEnd = Callable[[Record], None]
STINTS_WITHOUT_NEWS = 3


class Board:
    """The records of a search, from the journal where there is one."""

    def __init__(
        self, state: Path, rule: Rule, sampler: Sampler, *, concurrent: int, on_result: OnResult, on_end: OnEnd
    ):
        self.state, self.rule, self.sampler = state, rule, sampler
        self.concurrent, self.on_result, self.on_end = concurrent, on_result, on_end
        self.journal = Journal(state / "journal")
        self.records = self.journal.read()
        self.running: dict[int, tuple[int, ...]] = {}  # trial -> how far it was when it was started
        self.idle_stints: dict[int, int] = {}
        self.given_up = False
        self._remind_the_sampler()
        self._settle()

    @property
    def over(self) -> bool:
        if self.given_up:
            return True
        return len(self.records) == self.sampler.total and not any(r.live for r in self.records.values())

    def next(self) -> Record | None:
        """The trial that is to run now, if there is one and room for it."""
        if self.given_up or len(self.running) >= self.concurrent:
            return None
        verdicts = self.rule.judge(self.records, self.sampler.total)
        ready = [n for n in sorted(verdicts) if verdicts[n] == "run" and n not in self.running]
        fresh = next((n for n in range(self.sampler.total) if n not in self.records), None)
        if not ready and fresh is None:
            return None
        record = self.records[ready[0]] if ready else self._new(fresh or 0)
        self.running[record.number] = _news(record)
        return record

    def give_up(self) -> None:
        """Nothing more is started."""
        self.given_up = True

    def told(self, number: int, row: Mapping[str, float]) -> bool:
        """After an epoch; False: the trial's stint is over, for ever or until the others are there."""
        record, epoch = self.records[number], int(row["epoch"])
        values = record.values
        if epoch < record.epochs:  # trained again, after a kill that came between the result and its checkpoint
            return True
        record.rows.append(dict(row))
        record.lost = 0  # it got somewhere: two losses by chance are far apart
        self.journal.write(record)
        self.on_result(record, row)
        if self.rule.judge(self.records, self.sampler.total).get(number) == "run":
            record.passed = record.epochs
            self.journal.write(record)
        self._settle()
        as_before = record.values is values  # another trial's copy has to be started as such
        return as_before and record.live and self.rule.judge(self.records, self.sampler.total).get(number) == "run"

    def finished(self, number: int, latency: float | None) -> None:
        self.records[number].latency = latency
        self._end(self.records[number], "done")

    def failed(self, number: int, error: str) -> None:
        self.records[number].error = error
        self._end(self.records[number], "failed")

    def out_of_memory(self, number: int, why: str, *, images: int) -> None:
        """Its micro-batches, of so many images, are halved: the global batch stays what it was."""
        record = self.records[number]
        if images % 2:
            self.failed(number, f"{why}; micro-batches of {images} cannot be halved")
            return
        record.smaller += 1
        record.notes.append(f"micro-batches of {images // 2} instead of {images} after {record.epochs} epochs: {why}")
        self.journal.write(record)

    def lost(self, number: int, why: str, *, images: int) -> None:
        """Its process went away. Once can be chance; the kernel ends what takes too much memory without a word."""
        record = self.records[number]
        record.lost += 1
        if record.lost > 1:
            self.out_of_memory(number, why, images=images)
            return
        record.notes.append(f"its worker was lost after {record.epochs} epochs, and it went on: {why}")
        self.journal.write(record)

    def closed(self, number: int) -> None:
        """A stint has ended, however it did."""
        started_with = self.running.pop(number, None)
        record = self.records[number]
        if started_with is None or not record.live:
            return
        self.idle_stints[number] = self.idle_stints.get(number, 0) + 1 if _news(record) == started_with else 0
        if self.idle_stints[number] == STINTS_WITHOUT_NEWS:
            self.failed(number, "its worker ended without a result")

    def _new(self, number: int) -> Record:
        values = self.sampler.ask(number)
        record = self.records[number] = Record(number=number, drawn=values, values=values, asked=self._clock() + 1)
        self.journal.write(record)
        return record

    def _end(self, record: Record, status: Status) -> None:
        record.status, record.told = status, self._clock() + 1
        self.journal.write(record)
        self.sampler.tell(record.number, objectives(record))
        self.on_end(record)
        self._settle()

    def _settle(self) -> None:
        """What follows from the records as they stand."""
        while (opening := self.rule.opening(self.records, self.sampler.total)) is not None:
            for number, copy in sorted(opening.copies.items()):
                self._copy(self.records[number], copy, opening.epoch)
            for record in self.records.values():
                if record.live:
                    record.passed = opening.epoch
                    self.journal.write(record)
        verdicts = self.rule.judge(self.records, self.sampler.total)
        if (stopped := next((n for n in sorted(verdicts) if verdicts[n] == "stop"), None)) is not None:
            self._end(self.records[stopped], "stopped")

    def _copy(self, record: Record, copy: Copy, epoch: int) -> None:
        """The donor's state first, whole at once, then the journal: a kill between them only copies again."""
        donor, mine = (self.folder(n) / "checkpoints" for n in (copy.donor, record.number))
        beside = mine.with_name(".checkpoints")
        files.remove(beside)
        shutil.copytree(donor, beside)
        files.remove(mine)
        beside.rename(mine)
        record.values, record.passed = copy.values, epoch
        record.notes.append(f"went on from trial {copy.donor} after {epoch} epochs")
        self.journal.write(record)

    def folder(self, number: int) -> Path:
        return self.state / f"trial-{number}"

    def _clock(self) -> int:
        return max((max(r.asked, r.told) for r in self.records.values()), default=0)

    def _remind_the_sampler(self) -> None:
        """Ask and tell it in the order in which that happened."""
        for record, asked in self._history():
            if not asked:
                self.sampler.tell(record.number, objectives(record))
            elif self.sampler.ask(record.number) != record.drawn:
                raise RunError(
                    f"trial {record.number} of {self.state} was drawn by another version of the sampler\n"
                    f"do: remove {self.state}, and the search begins again"
                )

    def _history(self) -> Iterator[tuple[Record, bool]]:
        moments = [(r.asked, r, True) for r in self.records.values()]
        moments += [(r.told, r, False) for r in self.records.values() if r.told]
        for _, record, asked in sorted(moments, key=lambda m: m[0]):
            yield record, asked


def _news(record: Record) -> tuple[int, ...]:
    return record.epochs, record.lost, record.smaller


def objectives(record: Record) -> list[float] | None:
    """The score, and the latency where it was measured."""
    if record.score is None:
        return None
    return [record.score] if record.latency is None else [record.score, record.latency]
