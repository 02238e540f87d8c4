"""What is done already: parts of some results each, committed whole, beside a note of what they are the results of.

    <out>/.parts/run.json          the model and the options, sealed
    <out>/.parts/<job>-<n>.jsonl   n rows: a line for each image or frame, with its result or what is wrong with it

A part is written beside and renamed when every file that its rows speak of is there. To what was done under another
model or other options nothing is added.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.errors import ConfigError, DataError, bounded

PARTS, RUN, END = ".parts", "run.json", "end"
MINE = "[!.]*.jsonl"
Row = Mapping[str, Any]
Key = tuple[str, int]  # the id of an image or a video; the frame, -1 where there is none


@dataclass(frozen=True, slots=True)
class Place:
    """Of one row."""

    part: str
    offset: int
    bytes: int


def key(row: Row) -> Key:
    return str(row["image"]), int(row.get("frame", -1))


class Ledger:
    """The parts of one folder of results."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out / PARTS

    def open(self, run: Row) -> None:
        """Begin, or go on with the same run; refuse to mix with another's."""
        path = self.folder / RUN
        try:
            before = files.read_sealed(path)
        except FileNotFoundError:
            if self.folder.exists() or not self.out.exists() or not any(self.out.iterdir()):
                files.write_sealed(path, run)
                return
            raise DataError(f"{self.out} holds something else", do="name a new folder: --out") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}", do="begin again with --replace") from None
        differ = [f"{name}: {before.get(name)} then, {run[name]} now" for name in run if before.get(name) != run[name]]
        if differ:
            raise ConfigError(
                f"{self.out} holds the results of another run, and the two must not mix",
                bounded(differ),
                do="name another folder with --out, or begin again with --replace",
            )

    def commit(self, job: str, rows: Sequence[Row]) -> None:
        with files.replacing(self.folder / f"{job}-{len(rows)}.jsonl") as file:
            file.writelines(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)

    def count(self) -> int:
        """Rows that are committed, by the names of the parts alone."""
        return sum(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(MINE))

    def has_ended(self, job: str) -> bool:
        """Whether a video was read to its end."""
        return (self.folder / f"{job}-{END}-0.jsonl").exists()

    def rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """All of them; a part that cannot be read is dropped, and what it held is done again."""
        for path in sorted(self.folder.glob(MINE)):
            try:
                lines = path.read_bytes().splitlines(keepends=True)
                rows = [json.loads(line) for line in lines]
            except (OSError, ValueError):
                path.unlink()
                continue
            offset = 0
            for line, row in zip(lines, rows, strict=True):
                yield Place(path.name, offset, len(line)), row
                offset += len(line)

    def is_whole(self, row: Row) -> bool:
        """Whether the files that a row speaks of are there: a power cut may have kept them from the disk."""
        return all(_size(self.out / name) == size for name, size in row.get("files", {}).items())

    def read(self, place: Place) -> dict[str, Any]:
        with (self.folder / place.part).open("rb") as file:
            file.seek(place.offset)
            found: dict[str, Any] = json.loads(file.read(place.bytes))
        return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
