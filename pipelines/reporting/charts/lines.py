"""Lines over one pair of axes."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import apart, grid, number, padded, svg, text

Points = Sequence[tuple[float, float]]


def line_chart(
    lines: Mapping[str, Points],
    *,
    title: str,
    x: str,
    y_range: tuple[float, float] | None = None,
    height: int = 200,
    width: int = 380,
    named: bool = True,
) -> Markup:
    """Lines by name over one pair of axes; `named` writes each line's name and last value at its end."""
    points = [p for line in lines.values() for p in line]
    right = 10 + (max(len(n) for n in lines) + 6) * 7.2 if named else 14
    left, top, bottom = 44, 12, 30
    y_low, y_high = y_range or padded([p[1] for p in points])
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)

    def place(p: tuple[float, float]) -> tuple[float, float]:
        u = (p[0] - x_low) / ((x_high - x_low) or 1)
        v = (p[1] - y_low) / ((y_high - y_low) or 1)
        return left + u * (width - left - right), height - bottom - v * (height - top - bottom)

    parts = [*grid(place, (x_low, x_high), (y_low, y_high)), text(width - right, height - 2, x, "end")]
    ends = apart([place(line[-1])[1] for line in lines.values()], top, height - bottom)
    for i, (name, line) in enumerate(lines.items()):
        parts += _line(i, name, line, place, x)
        if named:
            value = number(line[-1][1])
            parts.append(text(width - right + 8, ends[i] + 4, f"{name} {value}", "start", f"s{i % 8} name"))
    return svg(width, height, title, parts)


def _line(
    i: int, name: str, line: Points, place: Callable[[tuple[float, float]], tuple[float, float]], x: str
) -> Iterator[str]:
    spots = [place(p) for p in line]
    yield f'<polyline class="s{i % 8}" points="{" ".join(f"{u:.1f},{v:.1f}" for u, v in spots)}"/>'
    every = max(1, len(line) // 20)  # a point that answers the mouse
    for (u, v), (at, value) in list(zip(spots, line, strict=True))[::every]:
        told = escape(f"{name} {number(value)} ({x} {at:g})")
        yield f'<circle class="s{i % 8}" cx="{u:.1f}" cy="{v:.1f}" r="5"><title>{told}</title></circle>'
