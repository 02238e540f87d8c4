"""Quality over cost."""

from collections.abc import Sequence
from math import floor, log10

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import LABEL, number, padded, svg, text, ticks


def scatter(points: Sequence[tuple[str, float, float]], *, x: str, y: str) -> Markup:
    """(name, cost on a scale of powers of ten, quality): a spot and its name each, and the line of those that no other
    beats in both."""
    width, height, left, right, top, bottom = 1080, 380, 44, 130, 14, 34
    low, high = (f(p[1] for p in points) for f in (min, max))
    low, high = (log10(low) - 0.05, log10(high) + 0.05) if high > low else (log10(low) - 0.5, log10(low) + 0.5)
    bottom_y, top_y = padded([p[2] for p in points])

    def place(p: tuple[float, float]) -> tuple[float, float]:
        u, v = (p[0] - low) / (high - low), (p[1] - bottom_y) / ((top_y - bottom_y) or 1)
        return left + u * (width - left - right), height - bottom - v * (height - top - bottom)

    parts = [text(width - right, height - 4, x, "end"), text(left + 4, top, y, "start")]
    for value in ticks(bottom_y, top_y, 5):
        at = place((low, value))[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(left - 6, at + 4, f"{value:g}", "end", "tick"))
    for value in (k * 10**power for power in range(floor(low), floor(high) + 1) for k in (1, 2, 5)):
        if low <= log10(value) <= high:
            at = place((log10(value), bottom_y))[0]
            parts.append(text(at, height - bottom + 16, f"{value:g}", "middle", "tick"))
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
        parts.append(text(u + 8, at, name, "start", "name"))
    return svg(width, height, f"{y} over {x}", parts)
