"""The audit page: whole, self-contained and escaped, whatever an entry holds."""

import re
from dataclasses import asdict
from typing import Any

import pytest

from pipelines.promotion import Rule, decide
from pipelines.registry.audit import Entry
from pipelines.reporting import audit

NASTY = '<script>alert(1)</script>"&'
FACTS = {
    "version": 2, "since": "2026-01-02T03:04:05+00:00", "by": NASTY, "why": NASTY, "model": NASTY, "trained on": NASTY,
    "how good": [NASTY, "miou 0.5"], "code": NASTY, "weights": "f" * 64, "champions before it": ["version 1"],
}  # fmt: skip


def entry(what: str, number: int, **more: Any) -> dict[str, Any]:
    about = {"rule": "gain", "reason": NASTY, "who": NASTY, "when": "2026-01-02T03:04:05.678+00:00", "done": True}
    held = {"version": 2, "before": 1, "after": 2, **about, **more}
    return asdict(Entry(what=what, number=number, **held))


def decided(new: float | None, old: float | None) -> dict[str, Any]:
    metrics = [None if v is None else {"panoptic": {"pq": v, "pq_per_class": {NASTY: v}}} for v in (new, old)]
    rule = Rule(max_class_drop=0.1, floors={"panoptic.pq": 0.1}, limits={"cost.size_mb": 3.0})
    decision = decide(challenger=metrics[0] or {}, champion=metrics[1], metric="panoptic.pq", rule=rule)
    return {"numbers": asdict(decision), "settings": asdict(rule)}


def test_it_is_one_page_without_markup_of_others() -> None:
    decisions = [
        entry("found", 4, before=2, after=None, version=None, done=False),
        entry("rolled back", 3),
        entry("refused", 2, dataset={"hash": "d" * 64, "split": "test", "images": 7}, commit="c" * 40, run="r" * 32,
              **decided(0.2, 0.5)),
        entry("promoted", 1, before=None, **decided(0.5, None)),
    ]  # fmt: skip
    page = audit.render(NASTY, champion=FACTS, decisions=decisions)
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#)|url\(|@import', page), "it loads nothing"
    assert re.findall(r'class="badge">([a-z ]+)<', page) == ["found", "rolled back", "refused", "promoted"]
    for said in (
        "4 decisions: 1 promoted, 1 refused, 1 rolled back, 1 found", "version 2", "champion is none",
        "from version 1 to version 2", "The alias has not followed yet", "7 images of the test split", "falls from 0.5",
        "cost.size_mb has a limit of 3", "version 1, version 2", "2026-01-02 03:04 UTC", "c" * 40,
    ):  # fmt: skip
        assert said in page, said


@pytest.mark.parametrize("decisions", [[], [entry("refused", 1, before=None, after=None)]])
def test_nobody_may_be_in_production(decisions: list[dict[str, Any]]) -> None:
    page = audit.render("model", champion={}, decisions=decisions)
    assert "<b>none</b>" in page
    assert f"{len(decisions)} decision" in page
