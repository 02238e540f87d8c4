"""The log and the alias, when others are at them too."""

from pathlib import Path

import pytest

from pipelines import environment
from pipelines.registry import audit, promoting
from pipelines.registry.audit import Audit, Entry
from pipelines.registry.versions import Registry
from tests.registry.line import Line, begun, verdict

environment.prepare()


@pytest.fixture
def line(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return begun(tmp_path, request.node.name)


def test_an_alias_that_a_person_moved_is_respected_and_written_down(line: Line) -> None:
    line.add(1, 0.5)
    line.add(2, 0.6)
    line.server.set_registered_model_alias(line.model, "champion", "1")
    assert verdict(line.add(3, 0.55)) == (3, True, "gain", {"champion": 3})  # more than the 0.5 of version 1
    assert [(e.what, e.before, e.after) for e in line.decisions()[2:]] == [("found", 2, 1), ("promoted", 1, 3)]
    assert "was moved from version 2 to version 1 by something else" in line.page()


def test_of_two_promotions_one_wins_and_the_other_decides_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one claims its place when this one has decided already, and is about to."""
    line.add(1, 0.5)
    line.add(2, 0.7, min_gain=0.9)
    claim, registry = Audit.claim, line.registry

    def other(state: promoting.State) -> Entry:
        about = {"rule": "gain", "reason": "faster", "who": "other", "when": audit.now()}
        return Entry(what="promoted", version=2, before=state.champion, after=2, **about)

    def overtaken(self: Audit, entry: Entry, number: int) -> bool:
        monkeypatch.setattr(Audit, "claim", claim)
        promoting.commit(registry, other)
        return claim(self, entry, number)

    monkeypatch.setattr(Audit, "claim", overtaken)
    assert verdict(line.add(3, 0.6)) == (3, False, "gain", {"champion": 2, "challenger": 3})
    assert [(e.number, e.what, e.version, e.before, e.done) for e in line.decisions()[2:]] == [
        (3, "promoted", 2, 1, True), (4, "refused", 3, 2, True),
    ]  # fmt: skip
    assert "semantic.miou 0.6 against the champion's 0.7" in line.decisions()[-1].reason


def test_a_promotion_that_wakes_too_late_does_not_undo_another(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still between its claim and its step, while the other one claims, moves the alias, and is done."""
    line.add(1, 0.5)
    line.add(2, 0.7, min_gain=0.9)
    place, registry = Registry.place, line.registry

    def other(state: promoting.State) -> Entry:
        about = {"rule": "gain", "reason": "faster", "who": "other", "when": audit.now()}
        return Entry(what="promoted", version=2, before=state.champion, after=2, **about)

    def overtaken(self: Registry, alias: str, version: int | None) -> None:
        if alias == "champion":
            monkeypatch.setattr(Registry, "place", place)
            promoting.commit(registry, other)
            assert registry.aliases()["champion"] == 2
        place(self, alias, version)

    monkeypatch.setattr(Registry, "place", overtaken)
    line.add(3, 0.6)
    assert line.aliases() == {"champion": 2, "challenger": 3}
    assert [(e.what, e.version, e.before, e.done) for e in line.decisions()[2:]] == [
        ("promoted", 3, 1, True), ("promoted", 2, 3, True),
    ]  # fmt: skip
