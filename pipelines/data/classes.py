"""Class tables, which are data: what the values or colours of a published mask mean.

    - {id: 7, name: road, color: [128, 64, 128], isthing: false}
    - {id: 0, name: unlabeled, ignore: true}

`id` is the value that masks hold (its place in the list, where no entry has one); entries marked `ignore` become
ignored pixels. The others are the dataset's classes, in this order. Further keys are for whoever knows them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipelines.data.faults import FaultError
from pipelines.data.schema import IGNORE, ClassInfo
from pipelines.data.statistics import histogram
from pipelines.errors import bounded

PUBLISHED = Path(__file__).parent / "formats" / "classes"
UNKNOWN = -1
Byte = Annotated[int, Field(ge=0, le=255)]


class Entry(BaseModel):
    """One line of a class table."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: Annotated[str, Field(min_length=1)]
    id: Annotated[int, Field(ge=-1, le=65535)] | None = None
    color: Annotated[list[Byte], Field(min_length=3, max_length=3)] | None = None
    isthing: bool = False
    ignore: bool = False


class OwnEntry(Entry):
    """One line of a user's own table, where an unknown key is a slip."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True)
class ClassTable:
    """Entries with ids, and what becomes of each value of a mask."""

    entries: tuple[Entry, ...]

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(
            ClassInfo(name=e.name, color=_rgb(e.color) if e.color else color(i), isthing=e.isthing)
            for i, e in enumerate(e for e in self.entries if not e.ignore)
        )

    @property
    def things(self) -> frozenset[int]:
        return frozenset(i for i, c in enumerate(self.classes) if c.isthing)

    @cached_property
    def values(self) -> dict[int, int]:
        """What masks hold -> class id, or IGNORE."""
        kept = iter(range(len(self.entries)))
        return {_id(e): IGNORE if e.ignore else next(kept) for e in self.entries}

    def semantic(self, mask: np.ndarray) -> np.ndarray:
        """uint8 or uint16 [h, w] as published -> uint8[h, w] of class ids. 255 is ignored unless the table has it."""
        small = mask.dtype == np.uint8
        seen = np.flatnonzero(histogram(mask)) if small else mask
        if (self.by_value[seen] == UNKNOWN).any():
            raise FaultError("label-value", self._said(mask))
        found: np.ndarray = cv2.LUT(mask, self._by_byte) if small else self.by_value[mask].astype(np.uint8)
        return found

    def semantic_of_colors(self, rgb: np.ndarray) -> np.ndarray:
        """uint8[h, w, 3] of the table's colours -> uint8[h, w] of class ids."""
        packed = rgb[..., 0].astype(np.uint32) << 16 | rgb[..., 1].astype(np.uint32) << 8 | rgb[..., 2]
        colors, places = np.unique(packed, return_inverse=True)
        known = self._by_color
        unknown = [c for c in colors.tolist() if c not in known]
        if unknown:
            said = bounded([f"[{c >> 16}, {c >> 8 & 255}, {c & 255}]" for c in unknown], limit=10)
            raise FaultError("label-value", f"colours {', '.join(said)} are not in the class table")
        if shared := [c for c in colors.tolist() if c in self._shared]:
            said = bounded([f"[{c >> 16}, {c >> 8 & 255}, {c & 255}] of {self._shared[c]}" for c in shared], limit=10)
            raise FaultError("label-value", f"colours that several classes have: {', '.join(said)}; give each its own")
        return np.array([known[c] for c in colors.tolist()], np.uint8)[places].reshape(rgb.shape[:2])

    @cached_property
    def by_value(self) -> np.ndarray:
        """int16[65536]: value -> class id, IGNORE or UNKNOWN."""
        table = np.full(65536, UNKNOWN, np.int16)
        table[IGNORE] = IGNORE
        for value, label in self.values.items():
            if value >= 0:
                table[value] = label
        return table

    @cached_property
    def _by_byte(self) -> np.ndarray:
        return self.by_value[:256].astype(np.uint8)

    @cached_property
    def _by_color(self) -> dict[int, int]:
        found: dict[int, int] = {}
        # Where an ignored entry shares its colour with a class, the colour means the class.
        for e in sorted((e for e in self.entries if e.color is not None), key=lambda e: e.ignore):
            assert e.color is not None  # noqa: S101
            found.setdefault(e.color[0] << 16 | e.color[1] << 8 | e.color[2], self.values[_id(e)])
        return found

    @cached_property
    def _shared(self) -> dict[int, str]:
        """Colours that do not say which class is meant."""
        names: dict[int, list[str]] = {}
        for e in self.entries:
            if e.color is not None and not e.ignore:
                names.setdefault(e.color[0] << 16 | e.color[1] << 8 | e.color[2], []).append(f"'{e.name}'")
        return {c: " and ".join(found) for c, found in names.items() if len(found) > 1}

    def _said(self, mask: np.ndarray) -> str:
        values, pixels = np.unique(mask, return_counts=True)
        outside = {v: n for v, n in zip(values.tolist(), pixels.tolist(), strict=True) if self.by_value[v] == UNKNOWN}
        ids = bounded([str(v) for v in outside], limit=10)
        counts = bounded([f"{n} pixels of {v}" for v, n in outside.items()], limit=10)
        return (
            f"ids {{{', '.join(ids)}}} outside {_ranges(self._masked)}, ignore {IGNORE} ({', '.join(counts)})"
            f"{self._hint(values.tolist(), list(outside))}"
        )

    @property
    def _masked(self) -> list[int]:
        """The values that a mask can hold: a table may have -1 for what was never painted."""
        return sorted(value for value in self.values if value >= 0)

    def _hint(self, values: Sequence[int], outside: Sequence[int]) -> str:
        known, other = self._masked, published("cityscapes")
        if known and outside == [known[-1] + 1] and known[0] not in values:
            return "; do the ids count from 1?"
        if {c.name for c in self.classes} == {c.name for c in other.classes} and {*values} <= {*other.values, IGNORE}:
            return "; looks like labelIds of Cityscapes: give the classes these ids, or set dataset.format: cityscapes"
        return ""


@cache
def published(name: str) -> ClassTable:
    """A table that comes with the project."""
    return parse((PUBLISHED / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml", Entry)


def parse(text: str, name: str, entry: type[Entry] = OwnEntry) -> ClassTable:
    """A table in YAML or JSON, or a FaultError that lists what is wrong with it."""
    try:
        raw = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
        entries = TypeAdapter(tuple[entry, ...], config=None).validate_python(  # type: ignore[valid-type]
            tuple(raw) if isinstance(raw, list) else raw
        )
    except ValidationError as error:
        raise FaultError("class-table", f"not as expected: {'; '.join(bounded(said(error), 10))}") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise FaultError("class-table", f"cannot be read: {error}") from None
    return table(entries)


def table(entries: Iterable[Entry]) -> ClassTable:
    listed = tuple(entries)
    numbered = [e for e in listed if e.id is not None]
    if numbered and len(numbered) < len(listed):
        raise FaultError("class-table", "some classes have an id and some have none: give one to all or to none")
    if not numbered:
        listed = tuple(e.model_copy(update={"id": i}) for i, e in enumerate(listed))
    named: dict[str, list[Any]] = {"name": [e.name for e in listed], "id": [e.id for e in listed]}
    for what, values in named.items():
        if twice := duplicates(values):
            raise FaultError("class-table", f"classes of the same {what}: {', '.join(map(str, twice))}")
    check_count(sum(not e.ignore for e in listed))
    return ClassTable(listed)


def said(error: ValidationError) -> list[str]:
    """pydantic's faults, a line each."""
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()]


def check_count(classes: int) -> None:
    if not 1 <= classes <= IGNORE:
        raise FaultError("class-table", f"{classes} classes, allowed are 1 to {IGNORE} ({IGNORE} marks ignored pixels)")


def duplicates(values: Iterable[Any]) -> list[Any]:
    """Those that are there more than once, in order."""
    seen: dict[Any, int] = {}
    for value in values:
        seen[value] = seen.get(value, 0) + 1
    return [value for value, times in seen.items() if times > 1]


def color(index: int) -> tuple[int, int, int]:
    """PASCAL VOC's palette, from its second entry on: the bits of the index, spread over three channels."""
    index, channels = index + 1, [0, 0, 0]
    for shift in range(8):
        for k in range(3):
            channels[k] |= (index >> (3 * shift + k) & 1) << (7 - shift)
    red, green, blue = channels
    return red, green, blue


def _id(entry: Entry) -> int:
    assert entry.id is not None  # noqa: S101 - `table` gives every entry one
    return entry.id


def _rgb(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def _ranges(values: Iterable[int]) -> str:
    """[0, 1, 2, 7] -> "0..2, 7"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{a}..{b}" if b > a else str(a) for a, b in runs)
