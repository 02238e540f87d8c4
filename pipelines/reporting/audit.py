"""Every decision about a registered model, for people: one page that loads nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import templates
from pipelines.reporting import charts


def render(model: str, *, champion: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> str:
    """`champion` are the facts of who is in production, empty where nobody is; `decisions` the log, the last first."""
    environment = templates.beside(__file__)
    environment.filters["number"] = charts.number
    environment.filters["minute"] = lambda when: f"{when[:16].replace('T', ' ')} UTC"
    environment.filters["version"] = lambda version: "none" if version is None else f"version {version}"
    counts = {what: sum(each["what"] == what for each in decisions) for what in WHAT}
    return environment.get_template("audit.html.jinja").render(
        model=model, champion=champion, decisions=decisions, counts=counts
    )


WHAT = ("promoted", "refused", "rolled back", "found")
