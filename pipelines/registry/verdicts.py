"""What a version, and the run that trained it, say of themselves once a decision about them stands."""

import re

from pipelines.registry import audit, card, evaluations
from pipelines.registry.audit import Entry
from pipelines.registry.versions import Registry
from pipelines.tracking import Run

REASON = 600  # characters in a description, above the card: it bounds what the card may take


def tell(registry: Registry, entry: Entry) -> None:
    """However often: tags for programs, a line above the version's card and a note of the run for people."""
    version = entry.before if entry.what == "rolled back" else entry.version
    if entry.what == "found" or version is None or not registry.exists(version):
        return
    registry.tag(version, _tags(entry))
    held = registry.version(version)
    line = f"> **{_said(entry)}** on {entry.when[:16].replace('T', ' ')} UTC by {card.safe(entry.who)}: "
    line += card.safe(card.cut(entry.reason, REASON - 200))
    kept = re.sub(r"\A> .*\n\n", "", held.description or "")
    registry.describe(f"{line}\n\n{kept}", version)
    measured = [v for k, v in sorted(held.tags.items()) if k.startswith(f"{evaluations.SENTENCES}.")]
    note = [f"Version {version} of {card.safe(registry.name)}.", line, *(f"- {card.safe(text)}" for text in measured)]
    note.append(f"Its reports and each image's scores: `{evaluations.FOLDER}/` among the artifacts.")
    Run(registry.server, held.run_id).set_tags({"mlflow.note.content": "\n\n".join(note)})


def _said(entry: Entry) -> str:
    if entry.what == "rolled back":
        return f"Rolled back, to {audit.said(entry.after)}"
    return f"{entry.what.capitalize()} ({entry.rule})"


def _tags(entry: Entry) -> dict[str, str]:
    told = {"maskline.reason": entry.reason, "maskline.decided_at": entry.when, "maskline.decided_by": entry.who}
    if entry.what == "rolled back":
        return {"maskline.decision": f"rolled back: to {audit.said(entry.after)}", **told}
    against = "no champion" if entry.before is None else f"version {entry.before}"
    return {"maskline.decision": f"{entry.what}: {entry.rule}", "maskline.against": against, **told}
