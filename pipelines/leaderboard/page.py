"""The leaderboard: rows as CSV, Markdown and a page with a picture of quality against cost."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines import templates
from pipelines.leaderboard.measure import Cost
from pipelines.reporting import charts

COLUMNS = ("model", "encoder", "mIoU", "95 %", "M parameters", "GFLOPs", "ms", "MiB", "train min")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model, measured."""

    name: str
    encoder: str
    quality: float
    interval: tuple[float, float] | None
    cost: Cost
    training: float  # seconds

    def cells(self) -> list[str]:
        interval = f"{self.interval[0]:.3f}-{self.interval[1]:.3f}" if self.interval else ""
        cost = self.cost
        return [
            self.name,
            self.encoder,
            f"{self.quality:.3f}",
            interval,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.operations / 1e9:.1f}",
            f"{cost.seconds * 1e3:.1f}",
            f"{cost.memory / 2**20:.0f}",
            f"{self.training / 60:.1f}",
        ]


def ranked(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.quality, row.name))


def as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.cells() for row in ranked(rows))
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in ranked(rows))]) + "\n"


def as_html(rows: Sequence[Row], *, title: str, about: str, failed: Sequence[str]) -> str:
    """One file that loads nothing."""
    best = ranked(rows)
    against = {
        "milliseconds per image": [row.cost.seconds * 1e3 for row in best],
        "million parameters": [max(row.cost.parameters, 1) / 1e6 for row in best],
        "MiB of memory": [max(row.cost.memory, 1) / 2**20 for row in best],
    }
    named = [(row.name, row.quality) for row in best]
    drawn = [
        charts.scatter([(n, x, q) for (n, q), x in zip(named, values, strict=True)], x=what, y="mIoU")
        for what, values in against.items()
    ]
    return (
        templates.beside(__file__)
        .get_template("leaderboard.html.jinja")
        .render(
            title=title, about=about, failed=failed, columns=COLUMNS, rows=[row.cells() for row in best], charts=drawn
        )
    )
