"""The leaderboard: rows as CSV, Markdown and a page with a picture of quality against cost."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines import templates
from pipelines.leaderboard.measure import Cost
from pipelines.reporting import charts

# task -> the scores of its table, the headline first: title, view, key
SCORES = {
    "semantic": (("mIoU", "semantic", "miou"),),
    "instance": (
        ("AP", "instance", "ap"),
        ("AP50", "instance", "ap50"),
        ("accuracy 0.5", "instance", "accuracy50"),
        ("accuracy 0.7", "instance", "accuracy70"),
    ),
    "panoptic": (("PQ", "panoptic", "pq"), ("mIoU", "semantic", "miou"), ("AP", "instance", "ap")),
}
COSTS = ("M parameters", "GFLOPs", "ms", "MiB", "train min")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model, measured."""

    name: str
    encoder: str
    scores: tuple[float | None, ...]  # as SCORES has them
    interval: tuple[float, float] | None
    cost: Cost
    training: float  # seconds

    @property
    def quality(self) -> float:
        return self.scores[0] or 0.0

    def cells(self) -> list[str]:
        interval = f"{self.interval[0]:.3f}-{self.interval[1]:.3f}" if self.interval else ""
        headline, *others = ("" if score is None else f"{score:.3f}" for score in self.scores)
        cost = self.cost
        return [
            self.name,
            self.encoder,
            headline,
            interval,
            *others,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.operations / 1e9:.1f}",
            f"{cost.seconds * 1e3:.1f}",
            f"{cost.memory / 2**20:.0f}",
            f"{self.training / 60:.1f}",
        ]


def columns(task: str) -> tuple[str, ...]:
    headline, *others = (title for title, _, _ in SCORES[task])
    return ("model", "encoder", headline, "95 %", *others, *COSTS)


def ranked(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.quality, row.name))


def as_csv(rows: Sequence[Row], task: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(task))
    writer.writerows(row.cells() for row in ranked(rows))
    return text.getvalue()


def as_markdown(rows: Sequence[Row], task: str) -> str:
    named = columns(task)
    lines = [f"| {' | '.join(named)} |", f"|{'---|' * len(named)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in ranked(rows))]) + "\n"


def as_html(rows: Sequence[Row], *, task: str, title: str, about: str, failed: Sequence[str]) -> str:
    """One file that loads nothing."""
    best = ranked(rows)
    learned = [row for row in best if row.cost.parameters]  # of models without weights there is no such cost
    against = {
        "milliseconds per image": [(row, row.cost.seconds * 1e3) for row in best],
        "million parameters": [(row, row.cost.parameters / 1e6) for row in learned],
        "MiB of memory": [(row, max(row.cost.memory, 1) / 2**20) for row in best],
    }
    drawn = [
        charts.scatter([(row.name, x, row.quality) for row, x in spots], x=what, y=SCORES[task][0][0])
        for what, spots in against.items()
        if spots
    ]
    return (
        templates.beside(__file__)
        .get_template("leaderboard.html.jinja")
        .render(
            title=title,
            about=about,
            failed=failed,
            columns=columns(task),
            rows=[row.cells() for row in best],
            charts=drawn,
        )
    )
