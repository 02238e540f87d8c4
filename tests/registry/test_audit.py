"""The log's entries, and who is champion by them: without a registry."""

import json

import pytest

from pipelines.registry import succession
from pipelines.registry.audit import Entry
from pipelines.tracking import PARAM_LENGTH


def entry(what: str, before: int | None, after: int | None, version: int | None = None, **more: object) -> Entry:
    about = {"rule": "gain", "reason": "why", "who": "a@b", "when": "2026-01-02T03:04:05.678+00:00", **more}
    return Entry(what=what, version=after if version is None else version, before=before, after=after, **about)


def log(*moves: tuple[str, int | None, int | None]) -> list[Entry]:
    return [entry(*move, number=n) for n, move in enumerate(moves, start=1)]


@pytest.mark.parametrize(
    ("moves", "line"),
    [
        ([], []),
        ([("refused", None, None)], []),
        ([("promoted", None, 1)], [1]),
        ([("promoted", None, 1), ("refused", 1, 1), ("promoted", 1, 3)], [1, 3]),
        ([("promoted", None, 1), ("promoted", 1, 3), ("rolled back", 3, 1)], [1]),
        ([("promoted", None, 1), ("promoted", 1, 2), ("promoted", 2, 3), ("rolled back", 3, 2)], [1, 2]),
        ([("promoted", None, 1), ("promoted", 1, 2), ("rolled back", 2, 1), ("promoted", 1, 4)], [1, 4]),
        ([("promoted", None, 1), ("promoted", 1, 2), ("rolled back", 2, 1), ("rolled back", 1, 2)], [1, 2]),
        ([("promoted", None, 1), ("found", 1, None)], []),
        ([("promoted", None, 1), ("promoted", 1, 2), ("found", 2, 1)], [1]),
    ],
)
def test_the_line_of_champions(moves: list[tuple[str, int | None, int | None]], line: list[int]) -> None:
    assert succession.line(log(*moves)) == line


def test_what_was_withdrawn_stays_so_until_it_is_brought_back() -> None:
    entries = log(("promoted", None, 1), ("promoted", 1, 2), ("rolled back", 2, 1), ("refused", 1, 1))
    assert succession.withdrawn(entries, 2) is entries[2]
    assert succession.withdrawn(entries, 1) is None
    assert succession.withdrawn([*entries, entry("rolled back", 1, 2)], 2) is None
    assert succession.withdrawn([*entries, entry("found", 1, 2)], 2) is None  # by hand
    assert succession.once(entries) == [1, 2]


def test_since_when_and_why() -> None:
    entries = log(("promoted", None, 1), ("promoted", 1, 2), ("refused", 2, 2))
    assert succession.since(entries) is entries[1]
    assert succession.since([*entries, entry("found", 2, None)]) is None
    assert succession.since([]) is None


def test_a_decision_taken_again_is_told_from_another() -> None:
    first = entry("refused", 1, 1, version=2)
    assert first.repeats(entry("refused", 1, 1, version=2, who="c@d", when="later", number=7, done=True))
    assert not first.repeats(entry("refused", 1, 1, version=2, reason="another"))
    assert not first.repeats(entry("refused", 3, 3, version=2))


@pytest.mark.parametrize("classes", [3, 60, 2000])
def test_an_entry_fits_whatever_it_holds(classes: int) -> None:
    """MLflow cuts a longer value in silence, and half a JSON is none."""
    checks = [
        {"rule": "class drop", "holds": i % 2 == 0, "said": f"class {i} falls " + "x" * 300} for i in range(classes)
    ]
    made = entry(
        "refused", 1, 1, version=2, reason="; ".join(c["said"] for c in checks),
        numbers={"metric": "semantic.miou", "challenger": 0.5, "checks": checks},
        settings={"min_gain": 0.0, "floors": {f"semantic.iou.{i}": 0.5 for i in range(classes)}, "limits": {}},
    )  # fmt: skip
    text = made.to_text()
    assert len(text) <= PARAM_LENGTH
    read = json.loads(text)
    assert (read["what"], read["version"], read["numbers"]["challenger"]) == ("refused", 2, 0.5)
    assert read["reason"].startswith("class 0 falls")
    assert Entry(**read).to_text() == text
