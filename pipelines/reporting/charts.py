"""Charts as SVG text: pure functions of numbers. Colours and type are the page's (CSS classes and variables).

One axis, few grid lines, names beside the lines instead of a legend, every value in a hover title.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import floor, log10

from markupsafe import Markup, escape

from pipelines.metrics.calibration import Bin

Points = Sequence[tuple[float, float]]
LABEL = 13  # pixels between the names of two lines


def number(value: float | None) -> str:
    """Three digits that count; an en dash where nothing is defined."""
    if value is None:
        return "–"
    if value == 0 or 0.001 <= abs(value) <= 1:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


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
    y_low, y_high = y_range or _padded([p[1] for p in points])
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)

    def place(p: tuple[float, float]) -> tuple[float, float]:
        u = (p[0] - x_low) / ((x_high - x_low) or 1)
        v = (p[1] - y_low) / ((y_high - y_low) or 1)
        return left + u * (width - left - right), height - bottom - v * (height - top - bottom)

    parts = [*_grid(place, (x_low, x_high), (y_low, y_high)), _text(width - right, height - 2, x, "end")]
    ends = _apart([place(line[-1])[1] for line in lines.values()], top, height - bottom)
    for i, (name, line) in enumerate(lines.items()):
        parts += _line(i, name, line, place, x)
        if named:
            value = number(line[-1][1])
            parts.append(_text(width - right + 8, ends[i] + 4, f"{name} {value}", "start", f"s{i % 8} name"))
    return _svg(width, height, title, parts)


def histogram(values: Sequence[float], *, title: str, x: str, marks: Mapping[str, float], bins: int = 20) -> Markup:
    """How many values of 0..1 lie in each bin; `marks` are named below the axis."""
    width, height, left, base = 420, 150, 8, 108
    span = width - 2 * left
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    parts = [f'<line class="axis" x1="{left}" x2="{width - left}" y1="{base}" y2="{base}"/>']
    for i, count in enumerate(counts):
        tall = count / max(counts) * (base - 20)
        at, wide = left + i * span / bins, span / bins - 2
        bar = f'<rect class="bar" x="{at + 1:.1f}" y="{base - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}">'
        parts.append(f"{bar}<title>{escape(x)} {i / bins:.2f} to {(i + 1) / bins:.2f}: {count} images</title></rect>")
        if count:
            parts.append(_text(at + 1 + wide / 2, base - tall - 4, str(count), "middle"))
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(left + value * span, base + 18, f"{value:g}", _anchor(value)))
    for i, (name, value) in enumerate(marks.items()):  # the names side by side, wherever the marks are
        parts.append(f'<path class="mark" d="M{left + value * span:.1f} {base + 1}l-4 7h8z"/>')
        share = i / max(len(marks) - 1, 1)
        parts.append(_text(left + share * span, base + 38, f"{name} {number(value)}", _anchor(share), "name"))
    return _svg(width, height, title, parts)


def reliability(bins: Sequence[Bin]) -> Markup:
    """What a model's own probabilities are worth: in each bin the share of pixels that is right, beside the diagonal on
    which it would equal what the model said; below, the bins' shares of all pixels."""
    side, left, top, strip = 260, 40, 22, 44
    base, foot = top + side, top + side + 44 + strip
    width, height = left + side + 12, foot + 20

    def place(p: tuple[float, float]) -> tuple[float, float]:
        return left + p[0] * side, base - p[1] * side

    parts = [*_grid(place, (0, 1), (0, 1)), _text(left, 11, "share that is right", "start")]
    most = max(b.share for b in bins)
    for b in bins:
        at, wide = left + b.low * side + 0.5, (b.high - b.low) * side - 1
        (low, high), tall = sorted((b.accuracy, b.confidence)), max(b.share / most * strip, 1)
        told = f"said {b.confidence:.1%}, right {b.accuracy:.1%}: {b.share:.2%} of the pixels"
        parts.append(f"<g><title>{told}</title>")
        parts.append(_bar("bar", at, base - low * side, wide, low * side))
        parts.append(_bar("gap", at, base - high * side, wide, (high - low) * side))
        parts.append(_bar("share", at, foot - tall, wide, tall) + "</g>")
    parts.append(f'<line class="equal" x1="{left}" y1="{base}" x2="{left + side}" y2="{top}"/>')
    parts.append(f'<line class="axis" x1="{left}" x2="{left + side}" y1="{foot}" y2="{foot}"/>')
    parts.append(_text(left, foot - strip - 8, f"share of all pixels, up to {most:.0%}", "start"))
    parts.append(_text(left + side, foot + 15, "probability of the predicted class", "end"))
    return _svg(width, height, "Reliability: the share that is right, by the model's own probability", parts)


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def scatter(points: Sequence[tuple[str, float, float]], *, x: str, y: str) -> Markup:
    """(name, cost on a scale of powers of ten, quality): a spot and its name each, and the line of those that no other
    beats in both."""
    width, height, left, right, top, bottom = 1080, 380, 44, 130, 14, 34
    low, high = (f(p[1] for p in points) for f in (min, max))
    low, high = (log10(low) - 0.05, log10(high) + 0.05) if high > low else (log10(low) - 0.5, log10(low) + 0.5)
    bottom_y, top_y = _padded([p[2] for p in points])

    def place(p: tuple[float, float]) -> tuple[float, float]:
        u, v = (p[0] - low) / (high - low), (p[1] - bottom_y) / ((top_y - bottom_y) or 1)
        return left + u * (width - left - right), height - bottom - v * (height - top - bottom)

    parts = [_text(width - right, height - 4, x, "end"), _text(left + 4, top, y, "start")]
    for value in _ticks(bottom_y, top_y, 5):
        at = place((low, value))[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(left - 6, at + 4, f"{value:g}", "end", "tick"))
    for value in (k * 10**power for power in range(floor(low), floor(high) + 1) for k in (1, 2, 5)):
        if low <= log10(value) <= high:
            at = place((log10(value), bottom_y))[0]
            parts.append(_text(at, height - bottom + 16, f"{value:g}", "middle", "tick"))
    unbeaten = sorted(p[1:] for p in points if not any(q[1] < p[1] and q[2] > p[2] for q in points))
    line = " ".join("{:.1f},{:.1f}".format(*place((log10(cost), quality))) for cost, quality in unbeaten)
    parts.append(f'<polyline class="front" points="{line}"/>')
    taken: list[tuple[float, float]] = []
    for name, cost, quality in sorted(points, key=lambda p: -p[2]):
        u, v = place((log10(cost), quality))
        told = f"{name}: {y} {number(quality)}, {number(cost)} {x}"
        parts.append(f'<circle class="spot" cx="{u:.1f}" cy="{v:.1f}" r="4.5"><title>{escape(told)}</title></circle>')
        at = v + 4
        while any(abs(at - b) < LABEL - 1 and abs(u - a) < 7 * len(name) + 12 for a, b in taken):
            at += 3
        taken.append((u, at))
        parts.append(_text(u + 8, at, name, "start", "name"))
    return _svg(width, height, f"{y} over {x}", parts)


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> Markup:
    """A confusion matrix, each row in shares of its sum: what is right on the diagonal, what is wrong beside it.

    Shares below 0.1 % (of many classes: 0.5 %) could not be told from nothing, and are not drawn.
    """
    n = len(names)
    cell, least = (34, 0.001) if n <= 12 else (22, 0.001) if n <= 40 else (12, 0.005)
    size = 11 if n <= 40 else 9
    side = round(min(max(len(name) for name in names), 22) * size * 0.6) + 10
    width, height = side + n * cell + 4, side + n * cell + 20
    parts = [_text(side + n * cell / 2, 11, "predicted", "middle", "tick")]
    for i, name in enumerate(names):
        at, shown = side + (i + 0.5) * cell, name if len(name) <= 22 else f"{name[:21]}…"
        parts.append(_label(side - 6, at + 20 + size / 3, shown, name, size, turned=False))
        parts.append(_label(at + size / 3, side + 14, shown, name, size, turned=True))
    for i, row in enumerate(counts):
        total = sum(row)
        parts.append(f'<g transform="translate({side},{side + 20 + i * cell})">')
        parts.append(f'<rect class="row" width="{n * cell}" height="{cell - 1}"/>')
        for j, count in enumerate(row):
            if total and count / total >= least:
                told = f"{names[i]} → {names[j]}: {count:,} pixels, {count / total:.1%} of {names[i]}"
                parts += _cell(j * cell, cell, count / total, told, right=i == j)
        parts.append("</g>")
    return _svg(width, height, title, parts, "heat small" if n <= 12 else "heat")


def _cell(at: float, size: int, share: float, told: str, *, right: bool) -> Iterator[str]:
    # Small errors matter more than their share of the ink: the square root makes 1 % visible.
    ink = 0.08 + 0.92 * (share if right else share**0.5)
    kind = "right" if right else "wrong"
    yield f'<rect class="{kind}" x="{at}" width="{size - 1}" height="{size - 1}" opacity="{ink:.2f}">'
    yield f"<title>{escape(told)}</title></rect>"
    if size >= 34 and share >= 0.005:
        where = "cell bright" if ink > 0.6 else "cell"
        yield _text(at + size / 2 - 0.5, size / 2 + 3.5, f"{share * 100:.0f}", "middle", where)


def _label(x: float, y: float, shown: str, name: str, size: int, *, turned: bool) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    anchor = "start" if turned else "end"
    return (
        f'<text class="tick" style="font-size:{size}px" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>'
        f"{escape(shown)}<title>{escape(name)}</title></text>"
    )


def _grid(
    place: Callable[[tuple[float, float]], tuple[float, float]], x: tuple[float, float], y: tuple[float, float]
) -> Iterator[str]:
    (left, _), (right, bottom) = place((x[0], y[0])), place((x[1], y[0]))
    for value in _ticks(*y, 4):
        at = place((x[0], value))[1]
        yield f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield _text(left - 6, at + 4, f"{value:g}", "end", "tick")
    for value in _ticks(*x, 5):
        yield _text(place((value, y[0]))[0], bottom + 14, f"{value:g}", "middle", "tick")


def _line(
    i: int, name: str, line: Points, place: Callable[[tuple[float, float]], tuple[float, float]], x: str
) -> Iterator[str]:
    spots = [place(p) for p in line]
    yield f'<polyline class="s{i % 8}" points="{" ".join(f"{u:.1f},{v:.1f}" for u, v in spots)}"/>'
    every = max(1, len(line) // 20)  # a point that answers the mouse
    for (u, v), (at, value) in list(zip(spots, line, strict=True))[::every]:
        told = escape(f"{name} {number(value)} ({x} {at:g})")
        yield f'<circle class="s{i % 8}" cx="{u:.1f}" cy="{v:.1f}" r="5"><title>{told}</title></circle>'


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between low and high, about `count`."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** floor(log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = -floor(-low / step + 1e-9)
    return [round(k * step, 12) for k in range(first, floor(high / step + 1e-9) + 1)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """From 0 where the values are positive, with some air above."""
    low, high = min(0.0, min(values)), max(values)
    return low, high + 0.05 * (high - low) or 1.0


def _anchor(share: float) -> str:
    """Text at the ends of an axis stays within the picture."""
    return "start" if share < 0.15 else "end" if share > 0.85 else "middle"


def _apart(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """The heights of labels, moved so that none covers another, the block kept between top and bottom."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    at = top - LABEL
    for i in order:
        at = placed[i] = max(placed[i], at + LABEL)
    at = bottom + LABEL
    for i in reversed(order):
        at = placed[i] = min(placed[i], at - LABEL)
    return placed


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str], kind: str = "chart") -> Markup:
    head = f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
    return Markup(f'{head} aria-label="{escape(title)}">{"".join(parts)}</svg>')  # noqa: S704 - each name is escaped
