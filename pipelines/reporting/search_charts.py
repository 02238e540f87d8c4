"""Charts of a search as SVG text: parallel coordinates, and the learning curves of all trials."""

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any

from markupsafe import Markup, escape

from pipelines.reporting.charts.lines import Points
from pipelines.reporting.charts.svg import number, svg, text

LEFT, TOP, FOOT = 60, 34, 26
Place = Callable[[Any], float]  # a value's height on its axis, 0 at the bottom, 1 at the top


def parallel(
    trials: Sequence[tuple[str, Mapping[str, Any], float, bool]],
    names: Sequence[str],
    logarithmic: Sequence[str],
    *,
    metric: str,
) -> Markup:
    """(name, values, score, whether it won): a line each, through its values to its score. The better, the darker."""
    width, height = 1080, 320
    axes = [name for name in names if any(name in values for _, values, _, _ in trials)]
    columns = [(name, [values.get(name) for _, values, _, _ in trials]) for name in axes]
    columns.append((metric, [score for _, _, score, _ in trials]))
    gap = (width - 2 * LEFT) / max(len(columns) - 1, 1)
    parts, lines = [], [list[tuple[float, float]]() for _ in trials]
    for i, (name, values) in enumerate(columns):
        place, ticks = _axis(values, logarithmic=name in logarithmic)
        x = LEFT + i * gap
        parts += _axis_parts(x, height, name.removeprefix("loss.").removeprefix("train."), name, i, ticks)
        for line, value in zip(lines, values, strict=True):
            if value is not None:  # what did not matter to this trial is left out
                line.append((x, height - FOOT - place(value) * (height - TOP - FOOT)))
    scores = sorted(score for _, _, score, _ in trials)
    for line, (name, _, score, won) in sorted(zip(lines, trials, strict=True), key=lambda pair: pair[1][2]):
        share = scores.index(score) / max(len(scores) - 1, 1)
        kind = "trial won" if won else "trial"
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(
            f'<polyline class="{kind}" points="{points}" opacity="{1 if won else 0.15 + 0.55 * share:.2f}">'
            f"<title>{escape(name)}: {metric} {number(score)}</title></polyline>"
        )
    return svg(width, height, f"Parameters and {metric} of each trial", parts)


def curves(trials: Sequence[tuple[str, Points, str, bool]], *, metric: str) -> Markup:
    """(name, (epochs, score) points, status, whether it won): who was stopped when ends with a bar, who failed with a
    cross."""
    width, height, right = 1080, 300, 110
    last = max(points[-1][0] for _, points, _, _ in trials)
    top = max(y for _, points, _, _ in trials for _, y in points) * 1.05 or 1.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - 1) / max(last - 1, 1)
        return LEFT + across * (width - LEFT - right), height - FOOT - point[1] / top * (height - FOOT - 14)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place((1, share * top))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 8, y + 4, number(share * top), "end"))
    for epoch in _some(int(last)):
        parts.append(text(place((epoch, 0))[0], height - 8, str(epoch), "middle"))
    parts.append(text(width - right + 10, height - 8, "epochs", "start"))
    for name, points, status, won in sorted(trials, key=lambda t: t[3]):
        spots = [place(p) for p in points]
        (x, y), told = spots[-1], f"{name}: {metric} {number(points[-1][1])} after {points[-1][0]:g} epochs, {status}"
        kind = "trial won" if won else "trial"
        line = " ".join(f"{u:.1f},{v:.1f}" for u, v in spots)
        parts.append(f'<g class="{status}"><title>{escape(told)}</title><polyline class="{kind}" points="{line}"/>')
        parts.append(_end(x, y, status) + "</g>")
        if won:
            parts.append(text(x + 10, y + 4, name, "start", "name"))
    return svg(width, height, f"{metric} of each trial over its epochs", parts)


def _end(x: float, y: float, status: str) -> str:
    if status == "done":
        return f'<circle class="end" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    if status == "failed":
        return f'<path class="end" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8"/>'
    return f'<path class="end" d="M{x:.1f} {y - 6:.1f}v12"/>'


def _axis(values: Sequence[Any], *, logarithmic: bool) -> tuple[Place, list[tuple[float, str]]]:
    """Numbers by their size, all else by its place among what there is."""
    there = [v for v in values if v is not None]
    if all(type(v) in (int, float) for v in there):
        low, high = min(there), max(there)
        scaled: Place = log if logarithmic and low > 0 else float
        span = scaled(high) - scaled(low)

        def place(value: Any) -> float:
            return (scaled(value) - scaled(low)) / span if span else 0.5

        ends = [low] if low == high else [low, high]
        return place, [(place(v), f"{v:.4g}") for v in ends]
    kinds = sorted({str(v) for v in there})
    spread = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
    return lambda value: spread[str(value)], [(at, kind) for kind, at in spread.items()]


def _axis_parts(
    x: float, height: float, shown: str, name: str, i: int, ticks: Sequence[tuple[float, str]]
) -> list[str]:
    parts = [f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - FOOT}"/>']
    # Names in turns on two lines, so that long ones do not meet.
    title = f"<title>{escape(name)}</title>"
    parts.append(
        f'<text class="name" x="{x:.1f}" y="{11 if i % 2 else 24}" text-anchor="middle">{escape(shown)}{title}</text>'
    )
    for at, told in ticks:
        parts.append(text(x - 6, height - FOOT - at * (height - TOP - FOOT) + 4, told, "end"))
    return parts


def _some(last: int) -> list[int]:
    every = max(1, last // 10)
    return list(range(1, last + 1, every))
