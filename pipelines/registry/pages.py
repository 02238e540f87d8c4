"""What MLflow's own pages say, so that browsing them answers: what is in production, since when, trained on what, how
good, and why. All of it follows from the log and the versions' tags, and may be written again at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.registry import audit, card, evaluations, succession
from pipelines.registry.audit import Entry
from pipelines.registry.promoting import State
from pipelines.registry.versions import Registry
from pipelines.tracking import Run

LAST = 8  # decisions in the model's description, which MLflow's database bounds
PAGE = "audit.html"
Render = Callable[..., str]  # pipelines.reporting.audit.render


def champion(registry: Registry, state: State) -> dict[str, Any]:
    """The facts of who is in production; empty where nobody is."""
    entry = succession.since(state.entries)
    if entry is None or state.champion is None or not registry.exists(state.champion):
        return {}
    tags = registry.version(state.champion).tags
    commit = tags.get("maskline.git.commit", "unknown")
    measured = {k: v for k, v in sorted(tags.items()) if k.startswith(f"{evaluations.SENTENCES}.")}
    return {
        "version": state.champion,
        "since": entry.when,
        "by": entry.who,
        "why": f"{entry.what}: {entry.reason}",
        "model": tags.get("maskline.model", "unknown"),
        "trained on": f"{tags.get('maskline.dataset.name', 'unknown')} {tags.get('maskline.dataset', '')[:16]}".strip(),
        "how good": list(measured.values()),
        "code": commit[:12] + (", with uncommitted changes" if tags.get("maskline.git.dirty") == "true" else ""),
        "weights": tags.get("maskline.weights", "unknown"),
        "champions before it": [f"version {v}" for v in reversed(succession.line(state.entries)[:-1])],
    }


def publish(registry: Registry, state: State, *, task: str, render: Render, folder: Path) -> None:
    """Write all of it: audit.html into the folder and to MLflow, the model's description and tags, the audit's note."""
    facts = champion(registry, state)
    decisions = [asdict(entry) for entry in reversed(state.entries)]
    files.write_text(folder / PAGE, render(registry.name, champion=facts, decisions=decisions))
    run = Run(registry.server, registry.audit.run)
    run.artifacts(folder / PAGE)
    run.set_tags({"mlflow.note.content": _note(registry.name, facts, state)})
    about = f"Segmentation models for the {task} task."
    registry.describe(_description(about, facts, state, registry.audit.run))
    registry.label({"maskline.champion": audit.said(state.champion), "maskline.decisions": str(len(state.entries))})


def _description(about: str, facts: Mapping[str, Any], state: State, run: str) -> str:
    """As many of the last decisions as MLflow's database has room for."""
    head = f"{about}\n\n{_standing(facts)}"
    tail = f"\nAll decisions: `{PAGE}` among the artifacts of run `{run}`.\n"
    for count in range(LAST, -1, -1):
        table = _decisions(state.entries[-count:] if count else [], 240)
        text = head + (f"\n## Last decisions\n\n{table}" if table else "") + tail
        if len(text) <= card.DESCRIPTION_LENGTH:
            return text
    return f"{about}\n{tail}"


def _note(name: str, facts: Mapping[str, Any], state: State) -> str:
    text = (
        f"Every decision about {card.safe(name)}, in the parameters of this run, which nothing overwrites; readable in "
        f"`{PAGE}` among its artifacts.\n\n{_standing(facts)}\n## Decisions\n\n"
    )
    entries = list(state.entries)
    while entries and len(text) + len(_decisions(entries, 400)) > 7500:  # MLflow bounds a tag
        entries = entries[1:]
    return text + _decisions(entries, 400)


def _standing(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "**No version is in production.**\n"
    lines = [f"**Version {facts['version']} is in production** since {_minute(facts['since'])}.\n"]
    for name in ("why", "model", "trained on", "how good", "code", "champions before it"):
        for value in facts[name] if isinstance(facts[name], list) else [facts[name]]:
            lines.append(f"- {name}: {card.safe(value)}")
    return "\n".join(lines) + "\n"


def _decisions(entries: Sequence[Entry], length: int) -> str:
    if not entries:
        return ""
    rows = [
        (
            str(e.number),
            _minute(e.when),
            e.who,
            e.what,
            "none" if e.version is None else str(e.version),
            card.cut(e.reason, length),
            _change(e),
        )
        for e in reversed(entries)
    ]
    return card.spaced("\n".join(card.table(("", "when", "who", "what", "version", "why", "champion"), rows)))


def _change(entry: Entry) -> str:
    after = "none" if entry.after is None else str(entry.after)
    return after if entry.before == entry.after else f"{'none' if entry.before is None else entry.before} → {after}"


def _minute(when: str) -> str:
    return f"{when[:16].replace('T', ' ')} UTC"
