"""How values of 0..1 spread."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import anchor, number, svg, text


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
            parts.append(text(at + 1 + wide / 2, base - tall - 4, str(count), "middle"))
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(text(left + value * span, base + 18, f"{value:g}", anchor(value)))
    for i, (name, value) in enumerate(marks.items()):  # the names side by side, wherever the marks are
        parts.append(f'<path class="mark" d="M{left + value * span:.1f} {base + 1}l-4 7h8z"/>')
        share = i / max(len(marks) - 1, 1)
        parts.append(text(left + share * span, base + 38, f"{name} {number(value)}", anchor(share), "name"))
    return svg(width, height, title, parts)
