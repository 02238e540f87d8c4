"""What a search found, for people and for programs: report.html, one file that needs no network, and trials.csv."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import files, templates
from pipelines.reporting import charts, search_charts

COLUMNS = ("score", "epochs", "error", "status", "latency", "front", "notes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One candidate, and how it did."""

    number: int
    values: Mapping[str, Any]
    score: float | None  # None: it failed
    curve: Sequence[tuple[float, float]]  # epochs, score
    status: str  # done, stopped, failed
    error: str = ""
    notes: str = ""
    latency: float | None = None  # milliseconds
    on_front: bool = False

    @property
    def epochs(self) -> int:
        return len(self.curve)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """All of it."""

    metric: str
    about: str  # how it was searched, or why it was not
    names: Sequence[str] = ()  # of the parameters
    logarithmic: Sequence[str] = ()  # those of them whose axis is
    trials: Sequence[Trial] = ()
    winner: int | None = None
    importance: Mapping[str, float] = field(default_factory=dict)


def write(out: Path, search: Search) -> None:
    with files.replacing(out / "trials.csv") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["trial", *search.names, *COLUMNS])
        rows.writerows(_row(trial, search.names) for trial in search.trials)
    files.write_text(out / "report.html", render(search))


def render(search: Search) -> str:
    environment = templates.beside(__file__)
    environment.filters["number"] = charts.number
    return environment.get_template("search.html.jinja").render(
        s=search,
        ranked=ranked(search),
        counts={status: sum(t.status == status for t in search.trials) for status in ("done", "stopped", "failed")},
        latencies=any(t.latency is not None for t in search.trials),
        charts=_charts(search),
    )


def ranked(search: Search) -> list[Trial]:
    """The winner, then those that ran longest by their score, and last those that failed."""
    return sorted(
        search.trials,
        key=lambda t: (t.number != search.winner, t.score is None, -t.epochs, -(t.score or 0.0), t.number),
    )


def _row(trial: Trial, names: Sequence[str]) -> list[Any]:
    values = [trial.values.get(name, "") for name in names]
    front = "" if trial.latency is None else str(trial.on_front).lower()
    latency = "" if trial.latency is None else f"{trial.latency:.3g}"
    return [trial.number, *values, trial.score, trial.epochs, trial.error, trial.status, latency, front, trial.notes]


def _charts(search: Search) -> dict[str, Any]:
    scored = [t for t in search.trials if t.score is not None]
    drawn: dict[str, Any] = {"parallel": None, "front": None, "curves": None}
    if not scored:
        return drawn
    drawn |= {
        "parallel": search_charts.parallel(
            [(f"trial {t.number}", t.values, t.score or 0.0, t.number == search.winner) for t in scored],
            search.names,
            search.logarithmic,
            metric=search.metric,
        ),
        "curves": search_charts.curves(
            [(f"trial {t.number}", t.curve, t.status, t.number == search.winner) for t in search.trials if t.curve],
            metric=search.metric,
        ),
    }
    timed = [(f"trial {t.number}", t.latency, t.score or 0.0) for t in scored if t.latency is not None]
    if timed:
        drawn["front"] = charts.scatter(timed, x="milliseconds per image", y=search.metric)
    return drawn
