"""comparison.html: two models on the same images, for people: one page that loads nothing.

The first is what there was (the champion), the second what came (the challenger); differences are second minus first,
and their intervals are those of a paired bootstrap over images (`pipelines.metrics.paired`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import templates
from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError
from pipelines.evaluation.evaluator import VIEWS, Records
from pipelines.metrics import paired
from pipelines.reporting import charts, contrasts, pictures
from pipelines.reporting.charts.differences import Difference
from pipelines.reporting.content import CARDS, COSTS, PER_CLASS
from pipelines.reporting.contrasts import Scored, change
from pipelines.reporting.sides import Side

LEVEL = 0.95
POINTS = 1500  # images in the chart
Interval = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One score of both."""

    name: str
    first: float | None
    second: float | None
    interval: Interval  # of the difference
    first_interval: Interval = None
    second_interval: Interval = None
    info: ClassInfo | None = None

    @property
    def change(self) -> float | None:
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def sure(self) -> bool:
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def render(
    first: Side,
    second: Side,
    reader: Records | None,
    *,
    task: str,
    classes: Sequence[ClassInfo],
    dataset: Mapping[str, str],
    resamples: int,
    seed: int,
    verdict: str = "",
    cases: int = 3,
) -> str:
    """The page; `reader` gives the images that both were measured on, in their order, for pictures of some. It holds no
    time and no path."""
    if first.images.ids != second.images.ids:
        raise DataError(
            f"{first.name} was measured on {len(first.images.ids)} images, {second.name} on "
            f"{len(second.images.ids)}, and they are not the same ones",
            do="evaluate both on one split of one dataset",
        )
    headline, by_class = _rows(first, second, task, classes, resamples=resamples, seed=seed)
    scored = list(zip(first.images.ids, first.images.scores(), second.images.scores(), strict=True))
    environment = templates.beside(__file__)
    environment.filters["number"] = charts.number
    environment.filters["signed"] = signed
    return environment.get_template("comparison.html.jinja").render(
        first=first,
        second=second,
        short=CARDS[task][0],
        headline=headline,
        verdict=verdict,
        dataset=dataset,
        classes=classes,
        by_class=by_class,
        column=PER_CLASS[task][0][0],
        others=_others(first, second, task),
        images=_images(scored),
        charts=_charts(first, second, task, by_class, scored),
        pictures=contrasts.collect(first, second, reader, classes, scored, cases),
        costs=_costs(first.cost, second.cost),
        identities=[
            (k, first.identity.get(k, ""), second.identity.get(k, "")) for k in {**first.identity, **second.identity}
        ],
        verdicts=pictures.VERDICTS,
    )


def signed(value: float | None) -> str:
    """With three digits behind the point; an en dash where nothing is defined."""
    return "–" if value is None else f"{value:+.3f}"


def _rows(
    first: Side, second: Side, task: str, classes: Sequence[ClassInfo], *, resamples: int, seed: int
) -> tuple[Row, list[Row]]:
    """The task's own metric, of all and by class: those that have changed most first."""
    name, key = HEADLINE[task], PER_CLASS[task][0][1]
    replicates = (
        [side.images.replicates(resamples=resamples, seed=seed) for side in (first, second)] if resamples else []
    )
    count = len(first.images.ids)

    def row(
        title: str, path: Callable[[Mapping[str, Any]], Any], drawn: Sequence[np.ndarray], info: ClassInfo | None
    ) -> Row:
        found = paired.difference(*drawn, images=count, level=LEVEL) if drawn else None
        sides = [side.metrics[task] for side in (first, second)]
        ends = [path(metrics.get("intervals", {})) for metrics in sides]
        return Row(
            name=title,
            first=path(sides[0]),
            second=path(sides[1]),
            interval=(found.low, found.high) if found else None,
            first_interval=ends[0] and tuple(ends[0]),
            second_interval=ends[1] and tuple(ends[1]),
            info=info,
        )

    rows = [
        row(c.name, lambda m, c=c: m.get(key, {}).get(c.name), [r[key][:, i] for r in replicates], c)  # type: ignore[misc]
        for i, c in enumerate(classes)
    ]
    known = sorted((r for r in rows if r.change is not None), key=lambda r: -(r.change or 0.0))
    whole = row(CARDS[task][0], lambda m: m.get(name), [r[name] for r in replicates], None)
    return whole, known + [r for r in rows if r.change is None]


def _others(first: Side, second: Side, task: str) -> list[tuple[str, list[Row]]]:
    """Whatever else both were measured by, as the cards of the evaluation's page have it."""
    groups = []
    for view in VIEWS[task]:
        _, title, _, family = CARDS[view]
        names = {HEADLINE[view]: CARDS[view][0], **family}
        rows = [
            Row(name=said, first=a.get(key), second=b.get(key), interval=None)
            for a, b in [(first.metrics.get(view, {}), second.metrics.get(view, {}))]
            for key, said in names.items()
        ]
        groups.append((title, [row for row in rows if row.change is not None]))
    return [(title, rows) for title, rows in groups if rows]


def _images(scored: Sequence[Scored]) -> dict[str, int]:
    defined = [by for scores in scored if (by := change(scores)) is not None]
    return {
        "better": sum(by > 0 for by in defined),
        "worse": sum(by < 0 for by in defined),
        "same": sum(by == 0 for by in defined),
        "undefined": len(scored) - len(defined),
    }


def _charts(
    first: Side,
    second: Side,
    task: str,
    by_class: Sequence[Row],
    scored: Sequence[Scored],
) -> dict[str, Any]:
    bars = [Difference(name=r.name, value=r.change, interval=r.interval) for r in by_class if r.change is not None]
    points = [(name, a, b) for name, a, b in scored if a is not None and b is not None]
    shown = points[:: -(-len(points) // POINTS)] if points else []
    short = CARDS[task][0]
    return {
        "classes": charts.differences(bars, title=f"{short} of each class: {second.name} minus {first.name}")
        if bars
        else None,
        "images": charts.against(
            shown, title=f"{short} of each image", x=f"{short} of {first.name}", y=f"{short} of {second.name}"
        )
        if shown
        else None,
        "shown": len(shown),
    }


def _costs(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that both know."""
    return [
        {
            "title": title,
            "unit": unit,
            "first": first[key],
            "second": second[key],
            "ratio": second[key] / first[key] if first[key] else None,
        }
        for title, key, unit in COSTS
        if key in first and key in second
    ]
