"""comparison.html: two models on the same images, for people: one page that loads nothing.

The first is what there was (the champion), the second what came (the challenger); differences are second minus first,
and their intervals are those of a paired bootstrap over images (`pipelines.metrics.paired`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines import templates
from pipelines.config import HEADLINE
from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError
from pipelines.evaluation.evaluator import VIEWS, Records
from pipelines.evaluation.per_image import PerImage
from pipelines.loading.batch import decode
from pipelines.metrics import paired
from pipelines.reporting import charts, pictures
from pipelines.reporting.cases import Case, View, views
from pipelines.reporting.charts.differences import Difference
from pipelines.reporting.content import CARDS, COSTS, PER_CLASS

LEVEL = 0.95
POINTS = 1500  # images in the chart
PICTURE_BYTES = 1_500_000  # of all pictures together
SIDES = (384, 256, 192, 128, 64)
Interval = tuple[float, float] | None
Scored = tuple[str, float | None, float | None]  # an image, and what each of the two scores on it


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two models."""

    name: str  # "version 3"
    metrics: Mapping[str, Mapping[str, Any]]  # by view, as metrics.json has them
    images: PerImage
    predict: Callable[[list[np.ndarray]], list[Prediction]] | None = None  # without it there are no pictures
    cost: Mapping[str, Any] = field(default_factory=dict)  # as cost.json has it; empty where it is not known
    identity: Mapping[str, str] = field(default_factory=dict)


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
        pictures=_pictures(first, second, reader, classes, scored, cases),
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
    defined = [change for scores in scored if (change := _change(scores)) is not None]
    return {
        "better": sum(change > 0 for change in defined),
        "worse": sum(change < 0 for change in defined),
        "same": sum(change == 0 for change in defined),
        "undefined": len(scored) - len(defined),
    }


def _change(scores: Scored) -> float | None:
    _, first, second = scores
    return None if first is None or second is None else second - first


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


def _pictures(
    first: Side,
    second: Side,
    reader: Records | None,
    classes: Sequence[ClassInfo],
    scored: Sequence[Scored],
    cases: int,
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The images where they differ most, in both directions; as large as PICTURE_BYTES allows."""
    if reader is None or first.predict is None or second.predict is None:
        return []
    changes = [_change(scores) for scores in scored]
    order = sorted((i for i, change in enumerate(changes) if change), key=lambda i: changes[i] or 0.0)
    better = [i for i in reversed(order[-cases:]) if (changes[i] or 0.0) > 0] if cases else []
    worse = [i for i in order[:cases] if (changes[i] or 0.0) < 0]
    found = {
        i: [_case(side, reader, i, score) for side, score in zip((first, second), scored[i][1:], strict=True)]
        for i in better + worse
    }
    for largest in SIDES:
        encoded = {i: _encoded(one, other, classes, largest) for i, (one, other) in found.items()}
        if sum(case["bytes"] for case in encoded.values()) <= PICTURE_BYTES:
            break
    groups = [(f"{second.name} is better", better), (f"{first.name} is better", worse)]
    return [(title, [encoded[i] for i in those]) for title, those in groups if those]


def _case(side: Side, reader: Records, index: int, score: float | None) -> Case:
    record, wanted = reader[index], side.images.ids[index]
    if record.id != wanted or side.predict is None:
        raise DataError(f"image {index} is {record.id}, and was {wanted} when {side.name} was measured")
    image = decode(record)
    return Case(kind="", record=record, image=image, prediction=side.predict([image])[0], score=score or 0.0)


def _encoded(one: Case, other: Case, classes: Sequence[ClassInfo], largest: int) -> dict[str, Any]:
    record = one.record
    size = pictures.display_size(record.height, record.width, largest=largest)
    shown = dict(_figures(one.image, _own(one, classes, largest), _own(other, classes, largest), size))
    return {
        "id": record.id,
        "first": one.score,
        "second": other.score,
        "change": other.score - one.score,
        "size": size,
        "enlarged": size[0] > record.height,
        "figures": shown,
        "bytes": sum(len(uri) for uri, _ in shown.values()),
    }


def _own(case: Case, classes: Sequence[ClassInfo], largest: int) -> View:
    """The task's own view."""
    return next(iter(views(case, classes, largest=largest).values()))


def _figures(image: np.ndarray, one: View, other: View, size: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    yield "image", (pictures.data_uri(pictures.fit(image, size)), ())
    yield "first", (pictures.data_uri(one.prediction), one.prediction_labels)
    yield "second", (pictures.data_uri(other.prediction), other.prediction_labels)
    yield "truth", (pictures.data_uri(one.truth), one.truth_labels)
    yield "first errors", (pictures.data_uri(one.errors), ())
    yield "second errors", (pictures.data_uri(other.errors), ())


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
