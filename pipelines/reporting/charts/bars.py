"""Counts, a bar each."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from pipelines.reporting.charts.svg import bar, svg, text

ROW, VALUE = 24, 74  # pixels of a row, and of the number behind its bar


def bars(rows: Sequence[tuple[str, int]], *, title: str, unit: str) -> Markup:
    """(name, count), from the top down; the number behind each bar, its share in the hover title."""
    left = 12 + max(len(name) for name, _ in rows) * 6.8
    width, height = 460, len(rows) * ROW + 6
    span, most, total = width - left - VALUE, max(count for _, count in rows), sum(count for _, count in rows)
    parts = []
    for i, (name, count) in enumerate(rows):
        top, long = i * ROW + 4, count / max(most, 1) * span
        told = f"{name}: {count:,} of {total:,} {unit}, {count / max(total, 1):.1%}"
        parts.append(f"<g><title>{escape(told)}</title>")
        parts.append(text(left - 8, top + 12, name, "end", "label"))
        parts.append(bar("bar", left, top, max(long, 1 if count else 0), ROW - 8))
        parts.append(text(left + long + 6, top + 12, f"{count:,}", "start") + "</g>")
    return svg(width, height, title, parts)
