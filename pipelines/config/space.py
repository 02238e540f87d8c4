"""What a search draws from: `tune.space`, a range for each dotted name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import product
from typing import Any, Literal, get_args

from pipelines.config.fields import short
from pipelines.errors import did_you_mean

Key = Literal["choice", "uniform", "loguniform", "integer", "loginteger", "step", "when"]
KINDS = tuple(key for key in get_args(Key) if key not in ("step", "when"))
LOGARITHMIC, WHOLE = ("loguniform", "loginteger"), ("integer", "loginteger")
Space = Mapping[str, "Range"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What one parameter may be, and when it matters."""

    kind: str
    values: tuple[Any, ...]  # of a choice; else low and high, both included
    step: float | None = None  # between values, counted from low
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # others of the space, and what they must be

    def points(self) -> list[Any] | None:
        """All values, where they can be counted."""
        if self.kind == "choice":
            return list(self.values)
        if self.kind == "loginteger" or (self.kind != "integer" and self.step is None):
            return None
        (low, high), step = self.values, self.step or 1
        count = int((high - low) / step + 1e-9) + 1
        return [low + i * step if self.kind in WHOLE else float(f"{low + i * step:.12g}") for i in range(count)]


def read(raw: Mapping[str, Mapping[Any, Any]]) -> dict[str, Range]:
    """The ranges, each after those that its `when` names. What is wrong was refused before."""
    ranges = {}
    for name, said in raw.items():
        kind = next(key for key in KINDS if key in said)
        when = {other: tuple(v) if isinstance(v, list) else (v,) for other, v in said.get("when", {}).items()}
        ranges[name] = Range(kind=kind, values=tuple(said[kind]), step=said.get("step"), when=when)
    return {name: ranges[name] for name in TopologicalSorter({n: r.when for n, r in ranges.items()}).static_order()}


def active(range_: Range, values: Mapping[str, Any]) -> bool:
    """Whether it is drawn, beside what was drawn before."""
    return all(name in values and values[name] in allowed for name, allowed in range_.when.items())


def grid(space: Space) -> list[dict[str, Any]]:
    """Every combination, without those that differ only in what does not matter."""
    found: dict[str, dict[str, Any]] = {}
    for values in product(*(r.points() or () for r in space.values())):
        drawn: dict[str, Any] = {}
        for (name, range_), value in zip(space.items(), values, strict=True):
            if active(range_, drawn):
                drawn[name] = value
        found.setdefault(repr(drawn), drawn)
    return list(found.values())


def faults(raw: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """All that is wrong with it by itself; `config.parse` holds it against the other sections."""
    whole = True
    for name, said in raw.items():
        found = [*_range_faults(name, said), *_condition_faults(name, said, raw)]
        whole &= not found
        yield from found
    if whole:
        try:
            read(raw)
        except CycleError as error:
            yield f"{' needs '.join(reversed(error.args[1]))}: their `when` go in a circle"


def _range_faults(name: str, said: Mapping[str, Any]) -> Iterator[str]:
    kinds = [key for key in said if key in KINDS]
    if len(kinds) != 1:
        yield f"{name} must have exactly one of {', '.join(KINDS)}, got {sorted(said)}"
        return
    kind, values, step = kinds[0], said[kinds[0]], said.get("step")
    if not isinstance(values, list):
        yield f"{name}.{kind} must be a list, got {short.repr(values)}"
    elif kind == "choice":
        if not values:
            yield f"{name}.choice must not be empty"
    else:
        types = (int,) if kind in WHOLE else (int, float)
        numbers = len(values) == 2 and all(type(v) in types for v in values)
        if not numbers or not values[0] < values[1] or (kind in LOGARITHMIC and values[0] <= 0):
            positive, of = " above 0" * (kind in LOGARITHMIC), " of whole numbers" * (kind in WHOLE)
            yield f"{name}.{kind} must be [low, high]{of} with low < high{positive}, got {short.repr(values)}"
    if step is None:
        return
    if kind not in ("uniform", "integer"):
        yield f"{name}.step is for uniform and integer, not for {kind}: leave it out"
    elif type(step) not in ((int,) if kind == "integer" else (int, float)) or not step > 0:
        yield f"{name}.step must be a number above 0{', and whole' * (kind == 'integer')}, got {short.repr(step)}"


def _condition_faults(name: str, said: Mapping[str, Any], raw: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    when = said.get("when", {})
    if not isinstance(when, dict):
        yield f"{name}.when must be {{name: value}} or {{name: [values]}}, got {short.repr(when)}"
        return
    for other, wanted in when.items():
        choices = raw.get(other, {}).get("choice")
        if not isinstance(choices, list):
            able = [n for n, s in raw.items() if "choice" in s and n != name]
            yield (
                f"{name}.when.{other}: names no `choice` of tune.space{did_you_mean(other, able)} "
                f"(allowed: {', '.join(able) or 'none is there'})"
            )
            continue
        strange = [v for v in (wanted if isinstance(wanted, list) else [wanted]) if v not in choices]
        if strange:
            yield f"{name}.when.{other}: got {short.repr(strange[0])}, allowed: {', '.join(map(str, choices))}"
