"""Two models on the same images, a spot each."""

from collections.abc import Sequence
from math import floor

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import grid, number, svg, text


def against(points: Sequence[tuple[str, float, float]], *, title: str, x: str, y: str) -> Markup:
    """(image, score of one, score of the other), both 0..1: above the diagonal the other is better. The axes reach from
    tenth to tenth around all of them."""
    side, left, top = 320, 40, 22
    base = top + side
    values = [value for _, *scores in points for value in scores]
    low, high = floor(min(values) * 10) / 10, min(floor(max(values) * 10) / 10 + 0.1, 1.0)
    low = min(low, high - 0.1)

    def place(p: tuple[float, float]) -> tuple[float, float]:
        u, v = ((value - low) / (high - low) for value in p)
        return left + u * side, base - v * side

    parts = [*grid(place, (low, high), (low, high)), text(left, 12, y, "start"), text(left + side, base + 30, x, "end")]
    parts.append(f'<line class="equal" x1="{left}" y1="{base}" x2="{left + side}" y2="{top}"/>')
    for name, one, other in points:
        u, v = place((one, other))
        kind = "gain" if other > one else "loss" if other < one else "same"
        told = escape(f"{name}: {number(one)} → {number(other)}")
        parts.append(f'<circle class="point {kind}" cx="{u:.1f}" cy="{v:.1f}" r="3.5"><title>{told}</title></circle>')
    return svg(left + side + 12, base + 36, title, parts)
